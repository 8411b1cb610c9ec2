#!/bin/bash
# fleet: see that the machine has what building and testing need.
# Copyright (c) 2026, the fleet authors
#
#   test/setup.sh               install what is missing (root on Debian), or
#                               say what is missing and exit 1
#   test/setup.sh --pg-config   print the pg_config to use, or exit 1
#   test/setup.sh --fuzz        install what only fuzzing needs (root on Debian),
#                               or exit 1; others do without
#   test/setup.sh --pooler      print the path of pgbouncer, or exit 1.  Debian's
#                               package would start a service, so root on Debian has
#                               it unpacked in build/ instead
#
# PG_CONFIG in the environment wins; else PostgreSQL 15, else the newest one in
# /usr/lib/postgresql that has development files, else pg_config of the PATH.
# When nothing is to do it only looks at a few files, so callers call it always.

set -euo pipefail

PREFERRED=15
POLICY=                         # see install_packages

find_pg_config()
{
    local candidate
    if [ -n "${PG_CONFIG:-}" ]; then
        command -v "$PG_CONFIG" && return
        echo "setup.sh: PG_CONFIG=$PG_CONFIG does not exist" >&2
        return 1
    fi
    # shellcheck disable=SC2012
    for candidate in /usr/lib/postgresql/$PREFERRED/bin/pg_config \
            $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV) \
            "$(command -v pg_config || true)"; do
        [ -x "$candidate" ] || continue
        [ -e "$("$candidate" --pgxs)" ] || continue
        echo "$candidate"
        return
    done
    return 1
}

# missing_packages: Debian's names of what is not there, each found by the file
# that is needed and not by its package, so that other builds count too.
missing_packages()
{
    local config=$1 major=$PREFERRED bin='' share='' include=''
    if [ -n "$config" ]; then
        { read -r bin; read -r share; read -r include; read -r major; } < <(
            "$config" --bindir --sharedir --includedir --version)
        major=${major#PostgreSQL }
        major=${major%%[!0-9]*}
    fi
    need() { [ -e "$2" ] || echo "$1"; }
    tool() { command -v "$2" >/dev/null || echo "$1"; }
    tool gcc gcc
    tool make make
    tool perl perl
    tool util-linux setpriv
    tool util-linux flock
    need libc6-dev /usr/include/stdio.h
    need "postgresql-$major" "$bin/postgres"
    need "postgresql-$major" "$share/extension/postgres_fdw.control"
    # The build system alone may come with the server: ask for a header, too.
    need "postgresql-server-dev-$major" "${config:+$("${config:-:}" --pgxs)}"
    need "postgresql-server-dev-$major" "${config:+$("${config:-:}" --includedir-server)/postgres.h}"
    need libpq-dev "$include/libpq-fe.h"
    need "postgresql-$major-postgis-3" "$share/extension/postgis.control"
    need "postgresql-$major-cron" "$share/extension/pg_cron.control"
    need "postgresql-$major-pgtap" "$share/extension/pgtap.control"
    perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
}

# install_packages NAME...: Debian's server package creates and starts a
# cluster of its own.  We want none: the environment sends that cluster to a
# temporary folder and says not to start it, so that nothing is left in /etc
# or /var.  Clusters that exist already are not touched.
install_packages()
{
    local log rc=0
    POLICY=$(mktemp -d /tmp/fleet-setup.XXXXXX)
    trap 'rm -rf "$POLICY"' EXIT
    chmod 755 "$POLICY"
    mkdir -m 777 "$POLICY/conf" "$POLICY/data" "$POLICY/log"
    cat >"$POLICY/createcluster.conf" <<CONF
create_main_cluster = false
start_conf = 'disabled'
data_directory = '$POLICY/data/%c'
initdb_options = '--no-sync'
CONF
    log=$POLICY/apt.log
    export DEBIAN_FRONTEND=noninteractive
    export PGSYSCONFDIR=$POLICY PG_CLUSTER_CONF_ROOT=$POLICY/conf
    echo "setup: installing $*"
    if ! apt-get install -qq -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
        echo "setup: reading the package lists first"
        apt-get update -qq >"$log" 2>&1 </dev/null &&
            apt-get install -qq -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null || rc=$?
    fi
    if [ "$rc" -ne 0 ]; then
        tail -n 20 "$log" >&2
        echo "setup.sh: apt-get could not install: $*" >&2
        exit 1
    fi
}

# can_fuzz: is there a clang that links libFuzzer with the sanitizers?
can_fuzz()
{
    local work rc=0
    command -v clang >/dev/null || return 1
    work=$(mktemp -d)
    echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return 0; }' >"$work/t.c"
    clang -fsanitize=fuzzer,address,undefined -o "$work/t" "$work/t.c" >/dev/null 2>&1 || rc=1
    rm -rf "$work"
    return "$rc"
}

# unpack_pooler FOLDER: pgbouncer's package, and the libraries that it needs.
unpack_pooler()
{
    local work libraries
    [ "$EUID" -eq 0 ] && command -v apt-get >/dev/null || return 1
    work=$(mktemp -d)
    if ! (cd "$work" && { apt-get download -qq pgbouncer ||
            { apt-get update -qq && apt-get download -qq pgbouncer; }; }) >"$work/log" 2>&1 </dev/null; then
        echo "setup.sh: apt-get could not download pgbouncer" >&2
        rm -rf "$work"
        return 1
    fi
    mkdir -p "$1"
    dpkg-deb -x "$work"/pgbouncer_*.deb "$1"
    libraries=$(dpkg-deb -f "$work"/pgbouncer_*.deb Depends | tr ',' '\n' |
        sed -n 's/^ *\(lib[a-z0-9.+-]*\).*/\1/p' | tr '\n' ' ')
    rm -rf "$work"
    # shellcheck disable=SC2086
    "$1/usr/sbin/pgbouncer" --version >/dev/null 2>&1 || install_packages $libraries >&2
}

find_pooler()
{
    local unpacked
    unpacked=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)/build/pooler
    PATH=$PATH:/usr/sbin command -v pgbouncer && return
    [ -x "$unpacked/usr/sbin/pgbouncer" ] || unpack_pooler "$unpacked" || return 1
    echo "$unpacked/usr/sbin/pgbouncer"
}

main()
{
    local config missing
    if [ "${1:-}" = --pg-config ]; then
        find_pg_config
        return
    elif [ "${1:-}" = --fuzz ]; then
        can_fuzz && return
        [ "$EUID" -eq 0 ] && command -v apt-get >/dev/null || return 1
        install_packages clang-14 libclang-rt-14-dev clang
        can_fuzz
        return
    elif [ "${1:-}" = --pooler ]; then
        find_pooler
        return
    elif [ $# -gt 0 ]; then
        echo "usage: test/setup.sh [--pg-config | --fuzz | --pooler]" >&2
        exit 2
    fi
    if [ -n "${PG_CONFIG:-}" ]; then
        config=$(find_pg_config)
    else
        config=$(find_pg_config || true)
    fi
    missing=$(missing_packages "$config" | sort -u | tr '\n' ' ')
    missing=${missing% }
    [ -n "$missing" ] || return 0
    if [ "$EUID" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "setup.sh: missing (Debian's package names): $missing" >&2
        echo "setup.sh: install them, on Debian as root: apt-get install $missing" >&2
        exit 1
    fi
    # shellcheck disable=SC2086
    install_packages $missing
    config=$(find_pg_config) || { echo "setup.sh: still no pg_config" >&2; exit 1; }
    missing=$(missing_packages "$config" | sort -u | tr '\n' ' ')
    if [ -n "${missing% }" ]; then
        echo "setup.sh: still missing after the installation: $missing" >&2
        exit 1
    fi
}

main "$@"
