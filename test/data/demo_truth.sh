#!/bin/bash
# fleet: the crossings that a cluster makes of real traces are the true ones.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# Real cabs are replayed against a cluster with one server per county, without
# any rule against flapping (no distance, no dwell, no speed limit, no tolerance
# outside of all regions): then a vehicle is handed off at the first fix that
# lies in another region.  The sequence of (cab, time, from, to) must be the one
# that plain PostGIS found, which comes with the data (truth/crossings.csv.gz).
#
# The cluster has all nine counties, and that is what makes the truth usable as
# it is: with fewer, a fix in a missing county would have to be told from one in
# none.  One difference is left.  The truth counts "in no region" as a region of
# its own, and fleet keeps the last region there; so crossings into none are
# skipped, and one out of none counts only if the region is another than before.
# A cab that begins in no region begins where it is first seen in one.
#
# Prints TAP.  From the environment: TRACES (../shared/data), CABS (how many, or
# names with commas; 20), DAYS (of 14; 10, which takes two minutes).  Without the
# data it skips.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TRACES=${TRACES:-$FLEET_ROOT/../shared/data}
CABS=${CABS:-20}
DAYS=${DAYS:-10}
BEGIN=1211094000                # 2008-05-18 07:00:00 UTC, where the data begin
RULES="-c fleet.handoff_mode=immediate -c fleet.flap_window=0
    -c fleet.crossing_distance=0 -c fleet.crossing_dwell=0 -c fleet.max_speed=0 -c fleet.border_tolerance=0"

SIM=$FLEET_ROOT/test/sim
CLUSTER_SH=$FLEET_ROOT/test/cluster.sh
WORK=''
CLUSTER=''
TESTS=0
FAILED=0

clean_up()
{
    trap '' INT TERM
    if [ -f "$CLUSTER/settings" ]; then
        "$CLUSTER_SH" stop "$CLUSTER" || true
    fi
    [ -z "$CLUSTER" ] || rm -rf "$CLUSTER"
    [ -z "$WORK" ] || rm -rf "$WORK"
}

# check NAME CMD...: a TAP line; the command's output says why if it fails
check()
{
    local name=$1 why
    shift
    TESTS=$((TESTS + 1))
    if why=$("$@" 2>&1); then
        echo "ok $TESTS - $name"
    else
        echo "not ok $TESTS - $name"
        head -n 20 <<<"$why" | sed 's/^/# /'
        FAILED=$((FAILED + 1))
    fi
}

build_client()
{
    local lib
    lib=$("$PG_CONFIG" --libdir)
    "${CC:-cc}" -O2 -I"$("$PG_CONFIG" --includedir)" -o "$WORK/replay" \
        "$SIM"/{replay,queue,vehicle,link,stats}.c -L"$lib" -Wl,-rpath,"$lib" -lpq -lpthread
}

# traces: fixes of the cabs, sorted by time
traces()
{
    zcat "$TRACES/fixes.csv.gz" |
        awk -F, -v cabs="$CABS" -v last_t=$((BEGIN + DAYS * 86400)) '
            BEGIN {
                listed = cabs !~ /^[0-9]+$/
                if (listed)
                    for (i = split(cabs, names, ","); i > 0; i--) wanted[names[i]] = 1
            }
            NR == 1 || $2 >= last_t { next }
            $1 != last { last = $1; n++ }
            listed ? $1 in wanted : n <= cabs' |
        sort -t, -k2,2n -k1,1
}

# region_names: "fips name" of each region, the name as the cluster has it
region_names()
{
    grep -o '"fips" : "[0-9]*", "name" : "[^"]*"' "$TRACES/regions.geojson" |
        awk -F'"' '{ name = tolower($8); gsub(/[^a-z0-9]+/, "_", name); print $4, name }'
}

# expected: "cab,t,from,to" of these cabs by the truth
expected()
{
    zcat "$TRACES/truth/crossings.csv.gz" |
        awk -F, -v OFS=, -v last_t=$((BEGIN + DAYS * 86400)) '
            FILENAME ~ /names$/ { split($0, word, " "); name[word[1]] = word[2]; next }
            FILENAME ~ /cabs$/ { ours[$1] = 1; next }
            { gsub(/"/, "") }           # "" is no region
            $1 == "cab" || !($1 in ours) || $3 >= last_t { next }
            !($1 in at) { at[$1] = $4 }
            $5 == "" || $5 == at[$1] { next }
            at[$1] != "" { print $1, $3, name[at[$1]], name[$5] }
            { at[$1] = $5 }' "$WORK/names" "$WORK/cabs" - |
        sort -t, -k1,1 -k2,2n
}

start_cluster()
{
    CLUSTER=$(make_scratch cluster)
    "$CLUSTER_SH" start "$CLUSTER" --regions "$TRACES/regions.geojson"
}

run_replay()
{
    PGOPTIONS=$RULES "$WORK/replay" --no-rides --workers=4 --events="$WORK/events" \
        "$CLUSTER/nodes" <"$WORK/traces" >"$WORK/replay.out"
}

# made: the client's view, "cab,t,from,to"
made()
{
    awk -F, -v OFS=, '{ print $1, $3, $6, $7 }' "$WORK/events" | sort -t, -k1,1 -k2,2n
}

# logged: the servers' view, "cab,from,to" in the order of epochs; a row of the
# log that names no ride is of the vehicle itself
logged()
{
    local node rest
    while read -r node rest; do
        "$CLUSTER_SH" psql "$CLUSTER" "$node" -XAtqF, -v ON_ERROR_STOP=1 -c \
            "SELECT vehicle_id, epoch, source, target FROM fleet.handoff_log
              WHERE status = 'arrived' AND ride_id IS NULL" </dev/null
    done <"$CLUSTER/nodes" | sort -t, -k1,1 -k2,2n | cut -d, -f1,3,4
}

verify_problems()
{
    local node
    node=$(awk 'NR == 1 { print $1 }' "$CLUSTER/nodes")
    "$CLUSTER_SH" psql "$CLUSTER" "$node" -XAtq -v ON_ERROR_STOP=1 \
        -c "SELECT check_name, problems, ids[1:3] FROM fleet.verify() WHERE problems <> 0"
}

main()
{
    if [ ! -f "$TRACES/truth/crossings.csv.gz" ]; then
        echo "1..0 # SKIP no traces in $TRACES"
        exit 0
    fi
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    require_setup
    WORK=$(make_scratch truth)
    build_client
    traces >"$WORK/traces"
    cut -d, -f1 "$WORK/traces" | sort -u >"$WORK/cabs"
    region_names >"$WORK/names"
    expected >"$WORK/expected"
    cut -d, -f1,3,4 "$WORK/expected" >"$WORK/expected_moves"
    start_cluster
    run_replay
    made >"$WORK/made"
    logged >"$WORK/logged"
    verify_problems >"$WORK/verify"

    echo "# $(wc -l <"$WORK/traces") fixes of $(wc -l <"$WORK/cabs") cabs in $DAYS days," \
        "$(wc -l <"$WORK/expected") true crossings, replayed in" \
        "$(awk -F= '$1 == "replay.seconds" { print $2 }' "$WORK/replay.out") s"
    check "the truth has crossings of these cabs" test -s "$WORK/expected"
    check "every fix was taken" grep -qx 'replay.failed=0' "$WORK/replay.out"
    check "the client saw the true crossings, at the true fixes" diff "$WORK/expected" "$WORK/made"
    check "the servers logged the true crossings, in the true order" diff "$WORK/expected_moves" "$WORK/logged"
    check "every vehicle is in exactly one region" diff /dev/null "$WORK/verify"
    echo "1..$TESTS"
    [ "$FAILED" -eq 0 ]
}

main
