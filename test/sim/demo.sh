#!/bin/bash
# fleet: the demonstration: three servers, live traffic, real handoffs.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make demo" calls this.  It starts a cluster (test/cluster.sh) with a global
# replica, replays traces as a live feed while a reader watches the replica, tells
# what happened, checks the outcome, draws a map, and stops everything.  The last
# lines are
#
#   demo.replica snapshots=.. missing=.. doubled=.. back=.. lag_ms=..
#   demo.fixes=.. demo.handoffs=.. demo.failed=.. demo.exactly_once=yes|no
#
# and the exit status is 0 for yes, else 1.  From the environment:
#
#   TRACES=DIR    folder with fixes.csv.gz (cab,t,lat,lon,occ, Unix time) and
#                 regions.geojson; without it traffic and regions are generated
#     ONLY=a,b    regions of the cluster     (san_francisco,san_mateo,alameda)
#     CABS=       how many cabs, or their names with commas       (100)
#     FROM=       begin of the replay, UTC   (2008-05-19 18:00, a Monday, 11 am)
#     HOURS=      hours of traffic           (10)
#   SEED= VEHICLES= MINUTES=   of generated traffic               (1, 100, 90)
#   SPEEDUP=      simulated seconds a second; 0 is as fast as it can   (0)
#   WORKERS=      threads of the replay client                    (8)
#   MAP=          file for the map             (build/demo.svg)
#   KEEP=1        leave the cluster running, and say how to use it
#
# What "exactly once" means here is told at check_outcome.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SIM=$FLEET_ROOT/test/sim
CLUSTER_SH=$FLEET_ROOT/test/cluster.sh
SETTLE_TIMEOUT=60               # seconds for handoffs in doubt to be decided
REPLICA=world                   # the node that follows all regions

WORK=''                         # scratch: clients, traces, results
CLUSTER=''                      # the cluster's folder, once there is one
REPLAY_PID=''
WATCH_PID=''
NAMES=()                        # of the nodes
PROBLEMS=0                      # found by check_outcome

clean_up()
{
    trap '' INT TERM
    if [ -n "$REPLAY_PID" ]; then
        kill "$REPLAY_PID" 2>/dev/null || true
        wait "$REPLAY_PID" 2>/dev/null || true
    fi
    if [ -f "$CLUSTER/settings" ]; then
        "$CLUSTER_SH" stop "$CLUSTER" || true
    fi
    [ -z "$WATCH_PID" ] || wait "$WATCH_PID" 2>/dev/null || true
    [ -z "$CLUSTER" ] || rm -rf "$CLUSTER"
    [ -z "$WORK" ] || rm -rf "$WORK"
}

heading()
{
    printf '\n== %s\n' "$1"
}

# node_sql NODE [psql's arguments]: SQL from stdin or arguments, plain output
node_sql()
{
    local node=$1
    shift
    "$CLUSTER_SH" psql "$CLUSTER" "$node" -XAtq -v ON_ERROR_STOP=1 "$@"
}

# replayed KEY: what the replay client printed for it, else 0
replayed()
{
    awk -F= -v key="replay.$1" '$1 == key { v = $2 } END { print v + 0 }' "$WORK/replay.out"
}

# ---- before the replay

build_clients()
{
    local include lib
    include=$("$PG_CONFIG" --includedir)
    lib=$("$PG_CONFIG" --libdir)
    "${CC:-cc}" -O2 -ffp-contract=off -o "$WORK/generate" "$SIM/generate.c" -lm
    "${CC:-cc}" -O2 -I"$include" -o "$WORK/replay" "$SIM"/{replay,queue,vehicle,link,stats}.c \
        -L"$lib" -Wl,-rpath,"$lib" -lpq -lpthread
}

# real_traces: the cabs and hours that were asked for, sorted by time
real_traces()
{
    local first
    first=$(date -u -d "${FROM:-2008-05-19 18:00} UTC" +%s) || die "FROM is not a time"
    zcat "$TRACES/fixes.csv.gz" |
        awk -F, -v OFS=, -v first="$first" -v hours="${HOURS:-10}" -v cabs="${CABS:-100}" '
            BEGIN {
                listed = cabs !~ /^[0-9]+$/
                if (listed)
                    for (i = split(cabs, names, ","); i > 0; i--) wanted[names[i]] = 1
            }
            NR > 1 && $2 >= first && $2 < first + hours * 3600 {
                if ($1 != last) { last = $1; n++ }
                if (listed ? $1 in wanted : n <= cabs) print
            }' |
        sort -t, -k2,2n -k1,1 >"$WORK/traces"
    [ -s "$WORK/traces" ] || die "no fix of such cabs (CABS=${CABS:-100}) at that time (FROM, HOURS)"
}

make_traces()
{
    if [ -n "${TRACES:-}" ]; then
        if [ ! -f "$TRACES/fixes.csv.gz" ] || [ ! -f "$TRACES/regions.geojson" ]; then
            die "TRACES=$TRACES has no fixes.csv.gz and regions.geojson"
        fi
        REGIONS=$TRACES/regions.geojson
        ONLY=${ONLY:-san_francisco,san_mateo,alameda}
        SOURCE='real cabs'
        real_traces
    else
        REGIONS=$WORK/regions.geojson
        SOURCE='generated vehicles'
        "$WORK/generate" regions >"$REGIONS"
        "$WORK/generate" traces "${SEED:-1}" "${VEHICLES:-100}" "${MINUTES:-90}" >"$WORK/traces"
    fi
}

start_cluster()
{
    CLUSTER=$(make_scratch cluster)
    "$CLUSTER_SH" start "$CLUSTER" --regions "$REGIONS" --replica "$REPLICA" ${ONLY:+--only "$ONLY"}
    grep -v "^$REPLICA " "$CLUSTER/nodes" >"$WORK/nodes"
    mapfile -t NAMES < <(awk '{ print $1 }' "$WORK/nodes")
}

# ---- the replica

# start_replica: have it follow the regions, and a reader watch it: snapshot after
# snapshot, is every ride there that was, once, and at no earlier epoch?
start_replica()
{
    local conninfo
    conninfo=$(awk -v name="$REPLICA" '$1 == name { printf "host=%s port=%s dbname=%s", $2, $3, $4 }' "$CLUSTER/nodes")
    node_sql "${NAMES[0]}" -c "CALL fleet.add_replica('$REPLICA', '$conninfo')" 2>&1 | sed 's/^NOTICE: *//'
    node_sql "$REPLICA" <<'SQL'
CREATE TABLE seen (ride_id text PRIMARY KEY, epoch bigint NOT NULL);
CREATE TABLE watched (snapshots bigint, rides bigint, missing bigint, doubled bigint, back bigint);
CREATE TABLE lags (lag_ms float8);
INSERT INTO watched VALUES (0, 0, 0, 0, 0);
CREATE PROCEDURE watch() LANGUAGE plpgsql AS $$
BEGIN
    WHILE to_regclass('stop') IS NULL LOOP
        WITH shown AS MATERIALIZED (
            SELECT ride_id, min(epoch) AS epoch, count(*) AS n FROM fleet.rides GROUP BY ride_id
        ), judged AS (
            SELECT count(s.ride_id) AS rides, count(*) FILTER (WHERE s.ride_id IS NULL) AS missing,
                count(*) FILTER (WHERE s.n > 1) AS doubled, count(*) FILTER (WHERE s.epoch < b.epoch) AS back
            FROM shown AS s FULL JOIN seen AS b USING (ride_id)
        ), kept AS (
            INSERT INTO seen AS b SELECT ride_id, epoch FROM shown
            ON CONFLICT (ride_id) DO UPDATE SET epoch = excluded.epoch WHERE b.epoch < excluded.epoch
        )
        UPDATE watched AS w SET snapshots = w.snapshots + 1, rides = j.rides, missing = w.missing + j.missing,
            doubled = w.doubled + j.doubled, back = w.back + j.back FROM judged AS j;
        INSERT INTO lags SELECT lag_ms FROM fleet.heartbeat;
        COMMIT;
        PERFORM pg_sleep(0.005);
    END LOOP;
END
$$;
SQL
    node_sql "$REPLICA" -c 'CALL watch()' &
    WATCH_PID=$!
}

# stop_replica: end the watch; wait until the replica has all that was committed
stop_replica()
{
    local until deadline=$((SECONDS + SETTLE_TIMEOUT))
    node_sql "$REPLICA" -c 'CREATE TABLE stop ()'
    wait "$WATCH_PID" || problem "the reader of the replica failed"
    WATCH_PID=''
    until=$(node_sql "${NAMES[0]}" -c 'SELECT fleet.hlc_now()::bigint')
    until [ "$(node_sql "$REPLICA" -c "SELECT fleet.global_watermark()::bigint > $until")" = t ]; do
        [ "$SECONDS" -lt "$deadline" ] || { problem "the replica does not catch up"; return; }
        sleep 0.2
    done
}

# digest NODE TABLE CONDITION: of rows, in the order of their keys
digest()
{
    node_sql "$1" -c "SELECT count(*), md5(string_agg(r::text, ';' ORDER BY r.${2%s}_id)) FROM fleet.$2 AS r WHERE $3"
}

check_replica()
{
    local node table snapshots rides missing doubled back lag
    IFS='|' read -r snapshots rides missing doubled back < <(node_sql "$REPLICA" -c 'TABLE watched')
    lag=$(node_sql "$REPLICA" -c "SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY lag_ms)::numeric, 1) FROM lags")
    heading "The global replica"
    echo "$snapshots snapshots of it were read meanwhile, the last one with $rides rides: $missing missing," \
        "$doubled twice, $back gone back; its lag was $lag ms in the median"
    node_sql "$REPLICA" -F '|' -c "SELECT region, state, round(lag_ms::numeric, 1), applied, stale, moved, repairs FROM fleet.replica_status ORDER BY region" |
        column_table < <(echo "region|state|lag ms|rows applied|stale|moved|repairs"; cat)
    REPLICA_LINE="demo.replica snapshots=$snapshots missing=$missing doubled=$doubled back=$back lag_ms=$lag"
    [ "$((missing + doubled + back))" -eq 0 ] || problem "the replica blinked"
    [ "$snapshots" -gt 0 ] || problem "the replica was not watched"
    for node in "${NAMES[@]}"; do
        for table in rides vehicles; do
            expect "$table of $node on the replica" "$(digest "$REPLICA" "$table" "region = '$node'")" \
                "$(digest "$node" "$table" "region = '$node'")"
        done
    done
}
REPLICA_LINE=''

# ---- the replay

# The client follows each vehicle by what it is told, so crossings are done at once;
# and it plays hours in seconds, which would look like vehicles going back and forth.
run_replay()
{
    PGOPTIONS="-c fleet.handoff_mode=immediate -c fleet.flap_window=0 ${PGOPTIONS:-}" \
        "$WORK/replay" --speedup="${SPEEDUP:-0}" --workers="${WORKERS:-8}" \
        --events="$WORK/events" --tracks="$WORK/tracks" --rides="$WORK/rides" \
        "$WORK/nodes" <"$WORK/traces" >"$WORK/replay.out" &
    REPLAY_PID=$!
    wait "$REPLAY_PID" || die "the replay failed"
    REPLAY_PID=''
}

# settle: wait until every node answers and has nothing in doubt
settle()
{
    local node count open deadline=$((SECONDS + SETTLE_TIMEOUT))
    while :; do
        open=0
        for node in "${NAMES[@]}"; do
            count=$(node_sql "$node" -c 'SELECT count(*) FROM fleet.in_doubt' 2>/dev/null) || count=1
            open=$((open + count))
        done
        if [ "$open" -eq 0 ] || [ "$SECONDS" -ge "$deadline" ]; then
            break
        fi
        sleep 0.5
    done
    [ "$open" -eq 0 ] || problem "a node is down, or transactions are still in doubt"
}

# ---- what came of it

# local_rows NODE: the query on stdin, as CSV; :'node' stands for the node's name
local_rows()
{
    node_sql "$1" -F, -v node="$1"
}

# collect: what each node has, asked of its own tables alone.  A handoff of a
# vehicle logs a row for the vehicle, without a ride, and one for its open ride.
collect()
{
    local node
    for node in "${NAMES[@]}"; do
        local_rows "$node" <<<"SELECT ride_id, status, :'node' FROM fleet.local_rides;"
    done >"$WORK/live_rides"
    for node in "${NAMES[@]}"; do
        local_rows "$node" <<<"SELECT vehicle_id, epoch, :'node' FROM fleet.local_vehicles;"
    done >"$WORK/live_vehicles"
    for node in "${NAMES[@]}"; do
        local_rows "$node" <<<"SELECT source, target FROM fleet.handoff_log
                                WHERE status = 'arrived' AND ride_id IS NULL;"
    done >"$WORK/arrivals"
    for node in "${NAMES[@]}"; do
        local_rows "$node" <<<"SELECT ride_id FROM fleet.handoff_log
                                WHERE status = 'arrived' AND ride_id IS NOT NULL;"
    done >"$WORK/ride_arrivals"
    node_sql "${NAMES[0]}" -F '|' \
        <<<"SELECT check_name, problems, array_to_string(ids[1:3], ' ') FROM fleet.verify();" >"$WORK/verify"
}

# carried: crossings with a ride, as the client saw them
carried()
{
    awk -F, '$2 != ""' "$WORK/events" | wc -l
}

print_summary()
{
    local hours outside=''
    [ "$(replayed rides_outside)" -eq 0 ] ||
        outside="; $(replayed rides_outside) more began in no region"
    hours=$(awk -v s="$(replayed simulated_seconds)" 'BEGIN { printf "%.1f", s / 3600 }')
    heading "What happened"
    printf '%-22s %s\n' \
        "vehicles" "$(replayed vehicles) $SOURCE, $hours hours of traffic" \
        "fixes" "$(replayed fixes) in $(replayed seconds) s, $(replayed fixes_per_s) a second; $(replayed implausible) ignored as impossible" \
        "rides" "$(replayed rides_started) begun, $(replayed rides_completed) completed$outside" \
        "border crossings" "$(replayed handoffs), $(carried) of them with a passenger on board" \
        "handed off" "$(wc -l <"$WORK/arrivals") vehicles, and with them $(wc -l <"$WORK/ride_arrivals") rides" \
        "calls" "$(replayed failed) given up, $(replayed errors) tries repeated"
    if [ "$(replayed handoffs)" -gt 0 ]; then
        printf '%-22s' "latency of a handoff"
        awk -F'[.=]' '/latency_ms/ && !/samples/ { printf " %s %s.%s", $3, $4, $5 } END { print " ms" }' \
            "$WORK/replay.out"
    fi
}

print_regions()
{
    local node
    heading "Regions"
    printf '%-18s %9s %9s %9s %12s %12s\n' region vehicles rides active "handed in" "handed out"
    for node in "${NAMES[@]}"; do
        awk -F, -v node="$node" '
            FILENAME ~ /live_vehicles$/ && $3 == node { vehicles++ }
            FILENAME ~ /live_rides$/ && $3 == node { rides++; if ($2 != "COMPLETED" && $2 != "CANCELLED") active++ }
            FILENAME ~ /arrivals$/ && $2 == node { arrived++ }
            FILENAME ~ /arrivals$/ && $1 == node { left++ }
            END { printf "%-18s %9d %9d %9d %12d %12d\n", node, vehicles, rides, active, arrived, left }' \
            "$WORK/live_vehicles" "$WORK/live_rides" "$WORK/arrivals"
    done
}

# print_example: one ride that crossed borders, and what the nodes keep of it
print_example()
{
    local ride node
    ride=$(awk -F, '$2 != "" { n[$2]++ } END { for (r in n) print n[r], r }' "$WORK/events" |
        sort -k1,1nr -k2,2 | awk 'NR == 1 { print $2 }')
    [ -n "$ride" ] || return 0
    heading "One ride, $ride: it lives in one region, and each handoff left a trace"
    node=$(awk -F, -v ride="$ride" '$1 == ride { print $3 }' "$WORK/live_rides" | head -n 1)
    echo "on $node: SELECT .. FROM fleet.rides"
    "$CLUSTER_SH" psql "$CLUSTER" "$node" -q -v ride="$ride" <<'SQL'
\pset footer off
SELECT region, vehicle_id, status, epoch, started_at, completed_at, round(path_m) AS path_m
  FROM fleet.rides WHERE ride_id = :'ride';
SQL
    echo "on each region: SELECT .. FROM fleet.handoff_log, fleet.departures"
    {
        echo "node|epoch|source|target|status|started at|ms|departure keeps"
        for node in "${NAMES[@]}"; do
            node_sql "$node" -v ride="$ride" -v node="$node" <<'SQL'
SELECT :'node', l.epoch, l.source, l.target, l.status,
       to_char(l.started_at, 'HH24:MI:SS.MS'), round(l.latency_ms::numeric, 1),
       CASE WHEN d.key IS NOT NULL THEN 'gone to ' || d.target || ' at epoch ' || d.epoch END
  FROM fleet.handoff_log AS l
  LEFT JOIN fleet.departures AS d
    ON d.kind = 'ride' AND d.key = l.ride_id AND d.epoch = l.epoch AND l.status <> 'arrived'
 WHERE l.ride_id = :'ride' ORDER BY l.epoch, l.status;
SQL
        done | sort -t'|' -k2,2n -k5,5r
    } | column_table
}

# column_table: fields between bars, as columns
column_table()
{
    awk -F'|' '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) }
          if (NF > columns) columns = NF }
        END { for (r = 1; r <= NR; r++) {
                  line = ""
                  for (i = 1; i <= columns; i++) line = line sprintf(" %-" width[i] "s ", cell[r, i])
                  sub(/ +$/, "", line); print line } }'
}

# ---- exactly once

problem()
{
    echo "  PROBLEM: $*"
    PROBLEMS=$((PROBLEMS + 1))
}

# expect NAME GOT WANTED
expect()
{
    [ "$2" = "$3" ] || problem "$1: $2, and not $3"
}

# check_outcome: exactly once means all of this.
#   fleet.verify() finds nothing;
#   every ride that the client was promised is in one region's own table, once,
#   with the last status that was confirmed, and there is no other ride;
#   every vehicle is there once;
#   the client, the vehicles' epochs and the nodes' logs agree on how many
#   handoffs there were, of vehicles and of rides.
# A ride whose last call was given up has an unknown status (UNKNOWN): it must
# not be there twice, and that is all.
check_outcome()
{
    local bad
    heading "Exactly once?"
    column_table < <(echo "fleet.verify()|problems|ids"; cat "$WORK/verify")
    bad=$(awk -F'|' '$2 != 0 { printf "%s ", $1 }' "$WORK/verify")
    [ -z "$bad" ] || problem "fleet.verify() complains: $bad"
    [ -s "$WORK/verify" ] || problem "fleet.verify() checked nothing"

    awk -F, '
        FILENAME ~ /live_rides$/ { live[$1]++; status[$1] = $2; next }
        { known[$1] = $2 }
        END {
            for (r in live) {
                if (live[r] > 1) print "ride " r " is live in " live[r] " regions"
                if (!(r in known)) print "ride " r " is of nobody"
                else if (known[r] != "UNKNOWN" && known[r] != status[r])
                    print "ride " r " is " status[r] ", and was confirmed as " known[r]
            }
            for (r in known)
                if (!(r in live) && known[r] != "UNKNOWN") print "ride " r " is in no region"
        }' "$WORK/live_rides" "$WORK/rides" | sort >"$WORK/bad_rides"
    while read -r bad; do
        problem "$bad"
    done < <(head -n 5 "$WORK/bad_rides")
    echo "rides known to the client: $(cut -d, -f1 "$WORK/rides" | sort -u | wc -l)," \
        "live in the regions: $(wc -l <"$WORK/live_rides"), wrong: $(wc -l <"$WORK/bad_rides")"

    expect "vehicles in the regions" "$(wc -l <"$WORK/live_vehicles")" "$(replayed vehicles)"
    expect "different vehicles" "$(cut -d, -f1 "$WORK/live_vehicles" | sort -u | wc -l)" "$(replayed vehicles)"
    expect "handoffs by the vehicles' epochs" \
        "$(awk -F, '{ n += $2 - 1 } END { print n + 0 }' "$WORK/live_vehicles")" "$(replayed handoffs)"
    expect "handoffs of vehicles in the nodes' logs" "$(wc -l <"$WORK/arrivals")" "$(replayed handoffs)"
    if [ "$(replayed failed)" -eq 0 ]; then
        expect "handoffs of rides in the nodes' logs" "$(wc -l <"$WORK/ride_arrivals")" "$(carried)"
    fi
}

# ---- the map

draw_map()
{
    local map=${MAP:-$FLEET_ROOT/build/demo.svg} title="fleet demo: $SOURCE, ${#NAMES[@]} regions"
    mkdir -p "$(dirname "$map")"
    {
        echo "CREATE TEMP TABLE track (vehicle text, t bigint, lon float8, lat float8);"
        echo "CREATE TEMP TABLE event (vehicle text, ride text, t bigint, lon float8, lat float8,"
        echo "source text, target text);"
        echo "COPY track FROM STDIN (FORMAT csv);"
        cat "$WORK/tracks"
        echo '\.'
        echo "COPY event FROM STDIN (FORMAT csv);"
        cat "$WORK/events"
        echo '\.'
        cat "$SIM/map.sql"
    } | node_sql "${NAMES[0]}" -v title="$title" >"$WORK/map.svg"
    cp "$WORK/map.svg" "$map"
    heading "Map"
    echo "$(realpath "$map") (open it in a browser)"
}

# keep_cluster: leave it to the user
keep_cluster()
{
    local node
    heading "The cluster is still running"
    for node in "${NAMES[@]}" "$REPLICA"; do
        echo "  test/cluster.sh psql $CLUSTER $node"
    done
    echo "  test/cluster.sh status $CLUSTER"
    echo "  test/cluster.sh stop $CLUSTER       (stops and removes it)"
    CLUSTER=''
}

tell()
{
    cat <<'TEXT'
fleet: one database of rides over several PostgreSQL servers, one per region.

In this demonstration vehicles drive and report where they are. Each report is
one call of fleet.report_fix() on the server where the vehicle lives. When it
has crossed a border, that same call hands the vehicle and the ride it serves
off to the next server, in one two-phase commit: the ride is never in two
regions and never in none. A replica follows all servers, and a reader looks at it
all the time. At the end every ride is counted.
TEXT
}

main()
{
    local once=yes
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    tell
    require_setup
    WORK=$(make_scratch demo)
    heading "Building, and preparing the traces"
    build_clients
    make_traces
    echo "$(wc -l <"$WORK/traces") fixes of $(cut -d, -f1 "$WORK/traces" | sort -u | wc -l) $SOURCE"
    heading "Starting the servers"
    start_cluster
    echo "${NAMES[*]}, and the replica $REPLICA"
    start_replica
    heading "Replaying the traffic"
    run_replay
    settle
    stop_replica
    collect
    print_summary
    print_regions
    print_example
    check_replica
    check_outcome
    draw_map
    [ -z "${KEEP:-}" ] || keep_cluster
    [ "$PROBLEMS" -eq 0 ] || once=no
    echo
    echo "$REPLICA_LINE"
    echo "demo.fixes=$(replayed fixes) demo.handoffs=$(replayed handoffs)" \
        "demo.failed=$(replayed failed) demo.exactly_once=$once"
    [ "$once" = yes ]
}

main
