# fleet: what the benchmarks over three regions share; sourced, never run.
# Copyright (c) 2026, the fleet authors
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

BENCH=$FLEET_ROOT/test/bench
CLUSTER_SH=$FLEET_ROOT/test/cluster.sh
REGIONS=(west middle east)

WORK=''                         # scratch: clients and the regions
CLUSTER=''                      # the cluster's folder, once there is one
CLIENT_PID=''

clean_up()
{
    trap '' INT TERM
    if [ -n "$CLIENT_PID" ]; then
        kill "$CLIENT_PID" 2>/dev/null || true
        wait "$CLIENT_PID" 2>/dev/null || true
    fi
    if [ -f "$CLUSTER/settings" ]; then
        "$CLUSTER_SH" stop "$CLUSTER" || true
    fi
    [ -z "$CLUSTER" ] || rm -rf "$CLUSTER"
    [ -z "$WORK" ] || rm -rf "$WORK"
}

# begin_bench: the scratch folder, which is removed at the end with all that runs
begin_bench()
{
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    require_setup
    WORK=$(make_scratch bench)
    chmod 755 "$WORK"
}

# end_bench: leave the cluster running if KEEP says so
end_bench()
{
    [ -n "${KEEP:-}" ] || return 0
    echo "The cluster is still running; to stop it: test/cluster.sh stop $CLUSTER"
    CLUSTER=''
}

# build_client NAME SOURCE...: a client of libpq, $WORK/NAME
build_client()
{
    local name=$1 include lib
    shift
    include=$("$PG_CONFIG" --includedir)
    lib=$("$PG_CONFIG" --libdir)
    "${CC:-cc}" -O2 -Wall -Wextra -Wno-missing-field-initializers "-I$include" -o "$WORK/$name" "$@" \
        -L"$lib" -Wl,-rpath,"$lib" -lpq -lpthread
}

# node_sql NODE [psql's arguments]: SQL from stdin or arguments, plain output
node_sql()
{
    local node=$1
    shift
    PGOPTIONS='-c client_min_messages=warning' \
        "$CLUSTER_SH" psql "$CLUSTER" "$node" -XAtq -v ON_ERROR_STOP=1 "$@"
}

# make_regions: three squares of one degree, side by side
make_regions()
{
    local i comma=''
    echo '{"type":"FeatureCollection","features":['
    for i in 0 1 2; do
        echo "$comma{\"type\":\"Feature\",\"properties\":{\"name\":\"${REGIONS[i]}\"}," \
            "\"geometry\":{\"type\":\"Polygon\",\"coordinates\":" \
            "[[[$i,0],[$((i + 1)),0],[$((i + 1)),1],[$i,1],[$i,0]]]}}"
        comma=,
    done
    echo ']}'
}

# start_regions SETTING... [-- CLUSTER.SH'S ARGUMENT...]: the cluster.  The test
# cluster's servers are kept small; here they get room for the rides, and
# checkpoints are rare.
start_regions()
{
    local setting node settings=("shared_buffers = '256MB'" "max_wal_size = '4GB'" "checkpoint_timeout = '30min'")
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        settings+=("$1")
        shift
    done
    [ $# -eq 0 ] || shift
    make_regions >"$WORK/regions.geojson"
    CLUSTER=$(make_scratch cluster)
    "$CLUSTER_SH" start "$CLUSTER" --regions "$WORK/regions.geojson" "$@"
    while read -r node _; do
        for setting in "${settings[@]}"; do
            node_sql "$node" -c "ALTER SYSTEM SET $setting" </dev/null
        done
        "$CLUSTER_SH" restart "$CLUSTER" "$node" </dev/null
    done <"$CLUSTER/nodes"
}

# conninfo NODE [DATABASE USER]
conninfo()
{
    awk -v node="$1" -v db="${2:-}" -v user="${3:-}" '$1 == node {
        print "host=" $2, "port=" $3, "dbname=" (db == "" ? $4 : db), "user=" (user == "" ? $5 : user) }' "$CLUSTER/nodes"
}
