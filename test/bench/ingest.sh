#!/bin/bash
# fleet: how many fixes a region's server takes, beside a plain upsert.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-ingest [SECONDS=5] [VEHICLES=156000] [CLIENTS=8]" calls this.  It
# starts three regions, registers the vehicles in one of them, a part of them with an open
# ride, and reports fixes by pgbench, fleet's and the floor's in turns.  Medians
# over the repetitions are printed:
#
#   bench.ingest case=.. clients=.. rows_s=.. p50_ms=.. p99_ms=.. floor_rows_s=..
#       floor_p50_ms=.. ratio=.. ratio_min=.. ratio_max=..      (on one line)
#
# The floor is INSERT .. ON CONFLICT .. DO UPDATE .. WHERE newer into a table of the
# same columns with a primary key only, fillfactor 70, its rows from the same arrays.
# The floor has no region, no version, no triggers and no rides; its vehicles do
# not cross borders, and nothing is kept of where they were.
#
# cases: array   1,000 fixes in a call, one client
#        arrays  the same, all clients
#        single  one fix in a call and a transaction
#        async   the same, with fleet.fix_durability = async; the floor with
#                synchronous_commit = off
#
#   BENCH_SECONDS=      how long each run takes              (5)
#   BENCH_VEHICLES=     vehicles of the region               (156000)
#   BENCH_RIDES=        of 100 vehicles, so many have a ride (20)
#   BENCH_CLIENTS=      clients                              (8)
#   BENCH_REPETITIONS=  of each case                         (3)
#   BENCH_CASES=        only these                           (all of them)
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/pgbench.sh"

TIME=${BENCH_SECONDS:-5}
VEHICLES=${BENCH_VEHICLES:-156000}
RIDES=${BENCH_RIDES:-20}
ALL_CLIENTS=${BENCH_CLIENTS:-8}
REPETITIONS=${BENCH_REPETITIONS:-3}
CASES=${BENCH_CASES:-}
NODE=middle

# Batches are made before, so that neither side pays for it.  A vehicle stays within a metre, so that none
# drives too fast, however often it is reported.
fill()
{
    node_sql "$NODE" -v vehicles="$VEHICLES" -v rides="$RIDES" <<'SQL'
CREATE SCHEMA bench;
CREATE TABLE bench.plain (
    vehicle_id text PRIMARY KEY, status text, lon float8, lat float8, fix_at timestamptz, speed_kmh float8, heading float8,
    altitude_m float8, accuracy_m float8, battery_pct float8) WITH (fillfactor = 70);
CREATE TABLE bench.homes AS
    SELECT n, 'V-' || n AS vehicle_id, 1.1 + n % 7919 / 10000.0 AS lon, 0.1 + n % 7907 / 10000.0 AS lat
    FROM generate_series(0, :vehicles - 1) AS n;
INSERT INTO fleet.vehicles (vehicle_id, region, status, location)
    SELECT vehicle_id, fleet.own_region(), 'ONLINE', fleet.make_point(lon, lat) FROM bench.homes;
INSERT INTO bench.plain SELECT vehicle_id, 'ONLINE', lon, lat FROM bench.homes;
INSERT INTO fleet.rides (ride_id, customer_id, vehicle_id, region, start_location, requested_at)
    SELECT 'R-' || n, 'C-' || n % 1000, vehicle_id, fleet.own_region(), fleet.make_point(lon, lat), now()
    FROM bench.homes WHERE n % 100 < :rides;
CREATE TABLE bench.batches AS
    SELECT row_number() OVER () - 1 AS batch, array_agg(vehicle_id) AS vehicle_ids, array_agg(lon + random() * 1e-6) AS lons,
        array_agg(lat + random() * 1e-6) AS lats, array_agg((30 + n % 7)::float8) AS speeds, array_agg((n % 360)::float8) AS headings
    FROM (SELECT *, ntile(:vehicles / 1000) OVER (ORDER BY md5(vehicle_id)) AS batch FROM bench.homes) AS h GROUP BY batch;
ALTER TABLE bench.batches ADD PRIMARY KEY (batch);
SQL
    node_sql "$NODE" -c 'VACUUM ANALYZE fleet.local_vehicles' -c 'VACUUM ANALYZE bench.plain' \
        -c 'VACUUM ANALYZE bench.batches' -c 'CHECKPOINT'
}

# compare CASE CLIENTS ROWS OURS FLOOR: two scripts of pgbench, with so many rows in a transaction
compare()
{
    local per_s floor_per_s ratios
    is_wanted "$1" || return 0
    CLIENTS=$2
    printf '%s\n' "$4" >"$WORK/ours.sql"
    printf '%s\n' "$5" >"$WORK/floor.sql"
    run_in_turns ours floor
    per_s=$(column 1 <<<"$RESULT_OURS")
    floor_per_s=$(column 1 <<<"$RESULT_FLOOR")
    ratios=$(paste -d' ' <(cut -d' ' -f1 <<<"$RESULT_OURS") <(cut -d' ' -f1 <<<"$RESULT_FLOOR") |
        awk '{ printf "%.2f\n", $1 / $2 }' | sort -n)
    echo "bench.ingest case=$1 clients=$CLIENTS rows_s=$((per_s * $3)) p50_ms=$(column 2 <<<"$RESULT_OURS")" \
        "p99_ms=$(column 4 <<<"$RESULT_OURS") floor_rows_s=$((floor_per_s * $3))" \
        "floor_p50_ms=$(column 2 <<<"$RESULT_FLOOR") ratio=$(column 1 <<<"$ratios")" \
        "ratio_min=$(head -1 <<<"$ratios") ratio_max=$(tail -1 <<<"$ratios")"
}

all_cases()
{
    local upsert batch array floor_array own single floor_single
    upsert='ON CONFLICT (vehicle_id) DO UPDATE SET lon = EXCLUDED.lon, lat = EXCLUDED.lat, fix_at = EXCLUDED.fix_at,
        speed_kmh = EXCLUDED.speed_kmh, heading = EXCLUDED.heading WHERE p.fix_at IS NULL OR EXCLUDED.fix_at > p.fix_at'
    batch="\\set i :i + 1
\\set b (:client_id * $((VEHICLES / 1000 / ALL_CLIENTS)) + :i) % $((VEHICLES / 1000))"
    array="$batch
SELECT 1 / (count(*) = count(*) FILTER (WHERE r.outcome = 'accepted'))::integer AS all_accepted FROM bench.batches,
    fleet.report_fixes(vehicle_ids, lons, lats, speeds_kmh => speeds, headings => headings) AS r WHERE batch = :b;"
    floor_array="$batch
INSERT INTO bench.plain AS p (vehicle_id, lon, lat, fix_at, speed_kmh, heading) SELECT v, lon, lat, now(), s, h FROM bench.batches AS b,
    unnest(vehicle_ids, lons, lats, speeds, headings) AS f (v, lon, lat, s, h) WHERE batch = :b ORDER BY v
    $upsert;"
    # No two clients report the same vehicle, and none reports one twice in a row.
    own="\\set i :i + 1
\\set n :client_id + $ALL_CLIENTS * (:i * 7919 % $((VEHICLES / ALL_CLIENTS)))"
    single="$own
SELECT 1 / (outcome = 'accepted')::integer AS accepted FROM fleet.report_fix('V-' || :n, 1.1 + :n % 7919 / 10000.0, 0.1 + :n % 7907 / 10000.0, speed_kmh => 30, heading => 90);"
    floor_single="$own
INSERT INTO bench.plain AS p (vehicle_id, lon, lat, fix_at, speed_kmh, heading)
    VALUES ('V-' || :n, 1.1 + :n % 7919 / 10000.0, 0.1 + :n % 7907 / 10000.0, now(), 30, 90) $upsert;"
    compare array 1 1000 "$array" "$floor_array"
    compare arrays "$ALL_CLIENTS" 1000 "$array" "$floor_array"
    compare single "$ALL_CLIENTS" 1 "$single" "$floor_single"
    node_sql "$NODE" -c "ALTER ROLE postgres IN DATABASE fleet SET fleet.fix_durability = 'async'"
    compare async "$ALL_CLIENTS" 1 "$single" "SET synchronous_commit = off;
$floor_single"
}

main()
{
    [ "$VEHICLES" -ge 1000 ] || die 'BENCH_VEHICLES must be 1000 or more'
    begin_bench
    # The limiter is at work, and lets through.  The live index has room for all.
    start_regions "fleet.fix_min_interval = '1ms'" "fleet.limit_entries = 1000000" "fleet.live_index_size = $((VEHICLES * 2))"
    PORT=$(port_of "$NODE")
    fill
    node_sql "$NODE" -o /dev/null -c 'SELECT count(*) FROM fleet.nearest_vehicles(1.5, 0.5)'
    all_cases
    end_bench
}

main
