#!/bin/bash
# fleet: how fast the nearest vehicles are found, beside PostGIS.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-nearest [SECONDS=5] [CLIENTS=8]" calls this.  It starts three regions and
# gives one of them 156,000 vehicles: 113,364 in a square that lies within 5 km of its
# middle, the rest evenly all over the region.  Each case is run by pgbench -M prepared,
# fleet.nearest_vehicles and the same search by PostGIS in turns.  Medians over the repetitions are
# printed:
#
#   bench.nearest case=.. clients=.. per_s=.. p50_ms=.. p99_ms=..
#       postgis_per_s=.. postgis_p99_ms=.. ratio=..         (on one line)
#
# PostGIS searches a table with the same columns and rows, a geometry with a GiST index, by
# ORDER BY location <-> place LIMIT 10, within 5 km.  The bound is where it is faster: outside of the ten
# nearest where there are many, inside where there are few.
#
# cases: dense    the ten nearest that are not offline, of 113,364 within the radius
#        local    the same with scope 'local'
#        sparse   the nearest of a status that one in a hundred has, where vehicles are few:
#                 all of the circle has to be searched
#        moving   dense, while 5,200 fixes a second come, by the hundred: by fleet.report_fixes
#                 for us, by plain updates of its table for PostGIS
#        fixes    no search: how many plain fixes a second 8 clients bring in, with the live
#                 index and without it (peer)
#
#   BENCH_SECONDS=      how long each run takes              (5)
#   BENCH_CLIENTS=      clients; dense is run with 1 as well (8)
#   BENCH_REPETITIONS=  of each case                         (3)
#   BENCH_CASES=        only these                           (all of them)
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/pgbench.sh"

TIME=${BENCH_SECONDS:-5}
ALL_CLIENTS=${BENCH_CLIENTS:-8}
REPETITIONS=${BENCH_REPETITIONS:-3}
CASES=${BENCH_CASES:-}
NODE=${REGIONS[0]}
OPTIONS='-c fleet.max_speed=0 -c fleet.vehicle_ttl=0'
FIXES=5200
BATCH=100                       # of them in a call
VEHICLES=156000
DENSE=113364

# Where a vehicle is put: a place of the square, or of the region.
PLACES="SELECT n, 'V-' || n AS id, CASE WHEN n % 100 = 0 THEN 'BUSY' ELSE 'ONLINE' END AS status,
        CASE WHEN n <= $DENSE THEN 0.47 + random() * 0.06 ELSE 0.01 + random() * 0.98 END AS lon,
        CASE WHEN n <= $DENSE THEN 0.47 + random() * 0.06 ELSE 0.01 + random() * 0.98 END AS lat
    FROM generate_series(1, $VEHICLES) AS n"

# The same in a script of pgbench, for a fix.
NEXT_FIX="\\set n random(1, $VEHICLES)
\\set lon CASE WHEN :n <= $DENSE THEN 0.47 + random(0, 60000) / 1000000.0 ELSE 0.01 + random(0, 980000) / 1000000.0 END
\\set lat CASE WHEN :n <= $DENSE THEN 0.47 + random(0, 60000) / 1000000.0 ELSE 0.01 + random(0, 980000) / 1000000.0 END"

fill()
{
    node_sql "$NODE" <<SQL
SELECT setseed(0.5);
INSERT INTO fleet.vehicles (vehicle_id, region, status, location, fix_at)
    SELECT id, '$NODE', status::fleet.vehicle_status, fleet.make_point(lon, lat), now() FROM ($PLACES) AS p;
CREATE SCHEMA bench;
CREATE TABLE bench.vehicles (vehicle_id text PRIMARY KEY, region text, status fleet.vehicle_status, location geometry(Point, 4326),
    heading float8, fix_at timestamptz) WITH (fillfactor = 85);
INSERT INTO bench.vehicles SELECT vehicle_id, region, status, location::geometry, heading, fix_at FROM fleet.local_vehicles;
CREATE INDEX ON bench.vehicles USING gist (location);
SQL
    node_sql "$NODE" -c 'VACUUM ANALYZE bench.vehicles' -c 'VACUUM ANALYZE fleet.local_vehicles' -c 'CHECKPOINT'
}

# begin_fixes NAME, end_fixes: fixes in the background
begin_fixes()
{
    bench "$1" -M prepared -T 1000000 -c 4 -R $((FIXES / BATCH)) -P 1 >"$WORK/fixes.out" 2>&1 &
    CLIENT_PID=$!
    sleep 1
}

end_fixes()
{
    kill "$CLIENT_PID"
    wait "$CLIENT_PID" 2>/dev/null || true
    CLIENT_PID=''
    awk '/^progress/ { sum += $4; n++ } END { if (n) printf "# meanwhile %.0f fixes a second\n", sum / n * batch }' batch="$BATCH" "$WORK/fixes.out"
}

# report CASE OURS PEER: lines of run_once
report()
{
    local per_s peer_per_s
    per_s=$(column 1 <<<"$2")
    peer_per_s=$(column 1 <<<"$3")
    echo "bench.nearest case=$1 clients=$CLIENTS per_s=$per_s p50_ms=$(column 2 <<<"$2") p99_ms=$(column 4 <<<"$2")" \
        "postgis_per_s=$peer_per_s postgis_p99_ms=$(column 4 <<<"$3") ratio=$(ratio "$per_s" "$peer_per_s")"
}

# compare CASE CLIENTS OURS PEER [FIXES_OF_OURS FIXES_OF_PEER]: names of scripts
compare()
{
    local ours='' peer='' i
    is_wanted "$1" || return 0
    CLIENTS=$2
    for ((i = 0; i < REPETITIONS; i++)); do
        [ -z "${5:-}" ] || begin_fixes "$5"
        ours+=$(run_once "$3")$'\n'
        [ -z "${5:-}" ] || end_fixes
        [ -z "${6:-}" ] || begin_fixes "$6"
        peer+=$(run_once "$4")$'\n'
        [ -z "${6:-}" ] || end_fixes
    done
    report "$1" "${ours%$'\n'}" "${peer%$'\n'}"
}

# search_script NAME MIDDLE SQL: a search around a place near MIDDLE, degrees
search_script()
{
    cat >"$WORK/$1.sql" <<SQL
\\set lon $2 + random(-500, 500) / 1000000.0
\\set lat $2 + random(-500, 500) / 1000000.0
$3;
SQL
}

write_scripts()
{
    local place='ST_SetSRID(ST_MakePoint(:lon, :lat), 4326)'
    # 5 km are 0.04492 degrees at the equator
    local columns="vehicle_id, region, status, ST_X(location), ST_Y(location), ST_DistanceSphere(location, $place), heading, fix_at"
    local by_postgis="SELECT $columns FROM bench.vehicles WHERE ST_DWithin(location, $place, 0.04492) AND"
    search_script nearest 0.5 'SELECT * FROM fleet.nearest_vehicles(:lon, :lat, 10, 5000)'
    search_script nearest_local 0.5 "SELECT * FROM fleet.nearest_vehicles(:lon, :lat, 10, 5000, scope => 'local')"
    search_script nearest_busy 0.2 "SELECT * FROM fleet.nearest_vehicles(:lon, :lat, 10, 5000, 'BUSY')"
    # With the radius in the inner query, a plan for all parameters would sort all that is within it.
    search_script postgis 0.5 "SELECT $columns FROM (SELECT * FROM bench.vehicles WHERE status <> 'OFFLINE'
        ORDER BY location <-> $place LIMIT 10) AS v WHERE ST_DistanceSphere(location, $place) <= 5000"
    search_script postgis_busy 0.2 "$by_postgis status = 'BUSY' ORDER BY location <-> $place LIMIT 10"
    printf '%s\nSELECT * FROM fleet.report_fix(%s, :lon, :lat);\n' "$NEXT_FIX" "'V-' || :n" >"$WORK/fix.sql"
    local batch="SELECT 'V-' || 1 + floor(random() * $DENSE)::integer AS id, 0.47 + random() * 0.06 AS lon, 0.47 + random() * 0.06 AS lat
        FROM generate_series(1, $BATCH)"
    echo "SELECT count(*) FROM (SELECT array_agg(id) AS ids, array_agg(lon) AS lons, array_agg(lat) AS lats FROM ($batch) AS f) AS a,
        fleet.report_fixes(ids, lons, lats);" >"$WORK/fixes.sql"
    echo "UPDATE bench.vehicles AS v SET location = ST_SetSRID(ST_MakePoint(f.lon, f.lat), 4326), fix_at = now()
        FROM ($batch ORDER BY 1) AS f WHERE v.vehicle_id = f.id;" >"$WORK/postgis_fixes.sql"
}

fixes()
{
    local with without
    is_wanted fixes || return 0
    CLIENTS=$ALL_CLIENTS
    with=$(run_once fix)
    node_sql "$NODE" -c 'ALTER TABLE fleet.local_vehicles DISABLE TRIGGER fleet_live'
    without=$(run_once fix)
    report fixes "$with" "$without"
}

main()
{
    begin_bench
    start_regions 'fleet.live_index_size = 200000'
    PORT=$(port_of "$NODE")
    fill
    write_scripts
    node_sql "$NODE" -c 'SELECT count(*) FROM fleet.nearest_vehicles(0.5, 0.5)' >/dev/null
    compare dense 1 nearest postgis
    compare dense "$ALL_CLIENTS" nearest postgis
    compare local "$ALL_CLIENTS" nearest_local postgis
    compare sparse "$ALL_CLIENTS" nearest_busy postgis_busy
    compare moving "$ALL_CLIENTS" nearest postgis fixes postgis_fixes
    fixes
    end_bench
}

main
