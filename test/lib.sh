# fleet: what the shell scripts of the project share; sourced, never run.
# Copyright (c) 2026, the fleet authors
# shellcheck shell=bash
#
# The system is never touched: servers run from a private install tree, a
# relocated copy of the PostgreSQL installation with fleet in it.  PostgreSQL
# finds its share and library folders relative to the path of its own binary,
# so the tree repeats the absolute paths of pg_config under one root, which is
# also what "make install DESTDIR=" fills.
#
# PostgreSQL refuses to run as root.  Invoked by root, servers run as the user
# "postgres" (or "nobody"), who may not be able to read the clone.  So trees,
# data and copies of test files live in scratch folders that belong to him.

set -euo pipefail

FLEET_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Nothing of the caller's environment may lead to another server.
unset PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGSERVICE \
    PGOPTIONS PGDATA PGSYSCONFDIR CDPATH
export LC_ALL=C.UTF-8

die()
{
    echo "${0##*/}: $*" >&2
    exit 1
}

if [ "$EUID" -eq 0 ]; then
    SERVER_USER=postgres
    id postgres >/dev/null 2>&1 || SERVER_USER=nobody
    id "$SERVER_USER" >/dev/null 2>&1 || die "neither user postgres nor user nobody exists"
else
    SERVER_USER=$(id -un)
fi

# as_server CMD...: run it as the user who owns the servers, in a folder that
# he can read; so paths have to be absolute.
as_server()
{
    if [ "$EUID" -eq 0 ]; then
        env -C / setpriv --reuid "$SERVER_USER" --regid "$(id -g "$SERVER_USER")" \
            --init-groups -- "$@"
    else
        "$@"
    fi
}

# give_to_server PATH...: hand files over to the server's user.
give_to_server()
{
    [ "$EUID" -ne 0 ] || chown -R -h "$SERVER_USER:$(id -g "$SERVER_USER")" "$@"
}

# make_scratch NAME: a new folder of the server's user, its path on stdout.
make_scratch()
{
    local dir
    dir=$(mktemp -d "${TMPDIR:-/tmp}/fleet-$1.XXXXXX")
    give_to_server "$dir"
    if ! as_server test -w "$dir"; then
        rmdir "$dir"
        die "user $SERVER_USER cannot work in ${TMPDIR:-/tmp}; set TMPDIR to a folder that he can enter"
    fi
    echo "$dir"
}

# require_setup: install what is missing, then settle on one PG_CONFIG.
require_setup()
{
    "$FLEET_ROOT/test/setup.sh"
    PG_CONFIG=$("$FLEET_ROOT/test/setup.sh" --pg-config)
    export PG_CONFIG
}

# run_make ARGS...: make in the project folder, silent unless it fails.
run_make()
{
    local log
    log=$(mktemp "${TMPDIR:-/tmp}/fleet-make.XXXXXX")
    if ! "${MAKE:-make}" --no-print-directory -C "$FLEET_ROOT" "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "make $* failed"
    fi
    rm -f "$log"
}

# with_build_lock CMD...: two runs in one clone must not build at once.
with_build_lock()
{
    mkdir -p "$FLEET_ROOT/build"
    (
        flock -w 600 9 || die "another build has held build/.lock for 10 minutes"
        "$@" 9>&-
    ) 9>"$FLEET_ROOT/build/.lock"
}

# make_tree DIR [FAULTS]: fill DIR with a private install tree; FAULTS=1 takes
# the test build.  Binaries are copied, because postgres resolves a symbolic
# link to itself and would find the system's folders; all else is linked.
make_tree()
{
    local tree=$1 faults=${2:-} bin lib share
    bin=$("$PG_CONFIG" --bindir)
    lib=$("$PG_CONFIG" --pkglibdir)
    share=$("$PG_CONFIG" --sharedir)
    mkdir -p "$tree$bin" "$tree$lib" "$tree$share/extension"
    cp -aL --reflink=auto "$bin/." "$tree$bin/"
    ln -s "$lib"/* "$tree$lib/"
    find "$share" -mindepth 1 -maxdepth 1 ! -name extension \
        -exec ln -s -t "$tree$share" {} +
    find "$share/extension" -mindepth 1 -maxdepth 1 \
        -exec ln -s -t "$tree$share/extension" {} +
    # A fleet that is installed in the system must not shine through.
    rm -f "$tree$lib"/fleet.so "$tree$share"/extension/fleet{.control,--*}
    with_build_lock run_make install ${faults:+FAULTS=1} DESTDIR="$tree"
    give_to_server "$tree"
}

# tree_bin TREE: where the tree has its binaries.
tree_bin()
{
    echo "$1$("$PG_CONFIG" --bindir)"
}

# init_data TREE DATA: initdb.  Nothing of it depends on the machine's locale;
# small WAL segments make the folder quick to copy.
init_data()
{
    local log
    if ! log=$(as_server "$(tree_bin "$1")/initdb" -D "$2" -U postgres \
            --auth=trust --encoding=UTF8 --locale=C --wal-segsize=4 --no-sync 2>&1); then
        echo "$log" >&2
        die "initdb failed"
    fi
}

# base_settings: the settings that a node of fleet needs, kept small.
base_settings()
{
    cat <<'CONF'
listen_addresses = ''
unix_socket_permissions = 0700
shared_buffers = 32MB
max_connections = 100
fsync = on
wal_level = logical
max_prepared_transactions = 150
max_worker_processes = 20
max_wal_senders = 20
max_replication_slots = 20
min_wal_size = 32MB
max_wal_size = 256MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%d %a '
CONF
    # A security setting of the newest minor versions; older servers do not know it.
    if "$("$PG_CONFIG" --bindir)/postgres" --describe-config | grep '^output_plugin_libraries' >/dev/null; then
        echo "output_plugin_libraries = 'pgoutput, test_decoding, fleet'"
    fi
}

# node_settings: for servers that stand alone, without standbys.
node_settings()
{
    base_settings
    echo "shared_preload_libraries = 'fleet'"
    echo "fleet.allow_async = on"
}

# start_lone DIR NAME [SETTING...]: one server, in DIR as is all of it, its socket
# too; a node of that name without a map.  FAULTS=1 takes the build with fault points.
start_lone()
{
    local dir=$1 name=$2
    shift 2
    make_tree "$dir/tree" "${FAULTS:-}"
    init_data "$dir/tree" "$dir/data"
    {
        node_settings
        echo "unix_socket_directories = '$dir'"
        printf '%s\n' "$@"
    } >>"$dir/data/postgresql.conf"
    server_start "$dir/tree" "$dir/data" "$dir/log"
    lone_sql "$dir" '' -o /dev/null -c 'CREATE EXTENSION fleet CASCADE' -c "SELECT fleet.init_node('$name')"
}

# lone_sql DIR OPTIONS [psql's arguments]: SQL from stdin or arguments on that server,
# with these settings (-c ...); plain output
lone_sql()
{
    local dir=$1 options=$2
    shift 2
    PGOPTIONS="-c client_min_messages=warning $options" as_server "$(tree_bin "$dir/tree")/psql" \
        -h "$dir" -U postgres -d postgres -XAtq -v ON_ERROR_STOP=1 "$@"
}

# stop_lone DIR: that server, if there is one, and everything in DIR.
stop_lone()
{
    [ -n "$1" ] || return 0
    [ ! -d "$1/data" ] || server_stop "$1/tree" "$1/data" immediate
    rm -rf "$1"
}

# tap_check NAME GOT WANT: a line of TAP; counted in TESTS, and FAILED.
tap_check()
{
    TESTS=$((${TESTS:-0} + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $TESTS - $1"
    else
        echo "not ok $TESTS - $1"
        echo "# got $2, not $3"
        FAILED=$((${FAILED:-0} + 1))
    fi
}

# load_regions FILE: SQL that makes the features of a GeoJSON file the region map of
# a node, in the caller's transaction.  They go straight into its table, since
# fleet.add_region() wants a server for each.
load_regions()
{
    echo 'CREATE TEMP TABLE doc (j jsonb);'
    printf '%s\n' "\\copy doc FROM stdin CSV QUOTE E'\\x01' DELIMITER E'\\x02'"
    tr -d '\n' <"$1"
    echo
    echo '\.'
    cat <<'SQL'
DELETE FROM fleet.map_regions;
INSERT INTO fleet.map_regions (name, node, geofence)
SELECT 'r' || (f->>'id'), 'n' || (f->>'id'), shape
  FROM doc, jsonb_array_elements(j->'features') AS f,
       ST_Multi(ST_SetSRID(ST_GeomFromGeoJSON(f->'geometry'), 4326)) AS shape
 WHERE NOT ST_IsEmpty(shape);
DROP TABLE doc;
DELETE FROM fleet.map;
INSERT INTO fleet.map (id, version) VALUES (gen_random_uuid(), 1);
SELECT fleet.map_changed();
SQL
}

# server_pid DATA: pid of the live postmaster of DATA, else nothing.  A pid in
# postmaster.pid may be stale and given out again, so its folder is compared;
# a zombie has no folder and is dead.
server_pid()
{
    local pid
    pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 0
    case $pid in ''|*[!0-9]*) return 0 ;; esac
    if [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$1" ]; then
        echo "$pid"
    fi
}

# data_users DATA: pids of all live processes that work in DATA, also those
# that outlived their postmaster.  (A bare machine has no pgrep; a zombie has
# no folder any more.)
data_users()
{
    { find /proc/[0-9]*/cwd -maxdepth 0 -printf '%h %l\n' 2>/dev/null || true; } |
        awk -v data="$1" '{ pid = $1; sub(/^[^ ]* /, "") }
                          $0 == data { sub(/.*\//, "", pid); print pid }'
}

# clear_dead DATA: remove the lock files of a postmaster that is dead for sure,
# and the System V segment that SIGKILL leaves behind.  While its pid stays as a
# zombie, which may be long, PostgreSQL would take it for a living one.
clear_dead()
{
    local file=$1/postmaster.pid pid port sockets segment
    [ -f "$file" ] && [ -z "$(data_users "$1")" ] || return 0
    # lines: pid, folder, start time, port, socket folder, address, "key id"
    { read -r pid; read -r _; read -r _; read -r port; read -r sockets; read -r _
      read -r _ segment; } <"$file" || true
    if [ "$(head -n 1 "$sockets/.s.PGSQL.$port.lock" 2>/dev/null)" = "$pid" ]; then
        rm -f "$sockets/.s.PGSQL.$port" "$sockets/.s.PGSQL.$port.lock"
    fi
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null || true
    rm -f "$file"
}

# server_start TREE DATA LOG: start and wait until it accepts connections.
server_start()
{
    clear_dead "$2"
    if ! as_server "$(tree_bin "$1")/pg_ctl" -D "$2" -l "$3" -w -t 60 start \
            >/dev/null 2>&1 </dev/null; then
        echo "--- $3" >&2
        tail -n 20 "$3" >&2 || true
        return 1
    fi
}

# server_stop TREE DATA [MODE]: stop it cleanly, or by force when that hangs.  A
# process that is to count its lines has to end by itself.
server_stop()
{
    local mode=${3:-fast}
    [ -n "$(server_pid "$2")" ] || return 0
    [ -z "${COVERAGE:-}" ] || mode=fast
    as_server "$(tree_bin "$1")/pg_ctl" -D "$2" -w -t 20 -m "$mode" stop \
        >/dev/null 2>&1 || server_kill "$2"
}

# server_kill DATA: SIGKILL the postmaster and all its children.  It is frozen
# first, so that it cannot fork while its children are listed.
server_kill()
{
    local pid pids deadline=$((SECONDS + 20))
    pid=$(server_pid "$1")
    [ -z "$pid" ] || kill -STOP "$pid" 2>/dev/null || true
    while pids=$(data_users "$1") && [ -n "$pids" ]; do
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        [ "$SECONDS" -lt "$deadline" ] || die "these processes survive SIGKILL: ${pids//$'\n'/ }"
        sleep 0.02
    done
    clear_dead "$1"
}
