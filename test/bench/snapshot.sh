#!/bin/bash
# fleet: how long a snapshot of a region takes, and how large it is.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-snapshot [ROWS=156000]" calls this.  It starts three regions, fills one
# with vehicles, and takes, verifies and restores snapshots.  Medians over the
# repetitions are printed, on one line each:
#
#   bench.snapshot case=.. vehicles=.. rides=.. take_ms=.. raw_bytes=.. stored_bytes=.. verify_ms=.. nothing_to_restore_ms=..
#
# cases: vehicles   each column filled, with coordinates to the last bit and fixes
#                   to the millisecond: the hardest there is to compress
#        rides      the same, and an open ride for each tenth vehicle
#
#   BENCH_ROWS=         vehicles                    (156000)
#   BENCH_REPETITIONS=  of each                     (5)
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/regions.sh"

ROWS=${BENCH_ROWS:-156000}
REPETITIONS=${BENCH_REPETITIONS:-5}

# fill: past the triggers, so that the stamps are spread over a minute
fill()
{
    node_sql west -v rows="$ROWS" <<'SQL'
SET session_replication_role = replica;
INSERT INTO fleet.vehicles (vehicle_id, region, status, location, fix_at, speed_kmh, heading, altitude_m, accuracy_m,
        battery_pct, updated_at, hlc)
    SELECT 'cab-' || lpad(n::text, 7, '0'), 'west', (enum_range(NULL::fleet.vehicle_status))[1 + floor(random() * 4)],
        fleet.make_point(random(), random()), date_trunc('milliseconds', at - random() * interval '1 s'),
        round((random() * 80)::numeric, 1), floor(random() * 360), floor(random() * 50),
        round((3 + random() * 10)::numeric, 1), floor(random() * 100), at, fleet.hlc_make(at, floor(random() * 3)::integer)
    FROM (SELECT n, now() - random() * interval '60 s' AS at FROM generate_series(1, :rows) AS n) AS v;
SQL
    node_sql west -c 'VACUUM ANALYZE fleet.local_vehicles' -c CHECKPOINT
}

fill_rides()
{
    node_sql west -v rows="$ROWS" <<'SQL'
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, start_location)
    SELECT 'ride-' || n, 'cab-' || lpad((n * 10)::text, 7, '0'), 'C-' || n, 'west', fleet.make_point(random(), random())
    FROM generate_series(1, :rows / 10) AS n;
SQL
    node_sql west -c 'VACUUM ANALYZE fleet.local_rides' -c CHECKPOINT
}

# median: of the numbers on stdin
median()
{
    sort -n | awk '{ v[NR] = $1 } END { printf "%.0f\n", v[int((NR + 1) / 2)] }'
}

# timed SQL: milliseconds that it takes, read from the server's clock
timed()
{
    node_sql west <<SQL | tail -n 1
SELECT clock_timestamp() AS began \gset
$1;
SELECT extract(epoch FROM clock_timestamp() - :'began'::timestamptz) * 1000;
SQL
}

run_case()
{
    local i take='' verify='' restore='' id
    for ((i = 0; i < REPETITIONS; i++)); do
        id=$(node_sql west -c 'SELECT fleet.take_snapshot()')
        [ "$(node_sql west -c "SELECT ok FROM fleet.verify_snapshot($id)")" = t ] || die "snapshot $id is not good"
        take+=$(node_sql west -c "SELECT took_ms FROM fleet.snapshots WHERE id = $id")$'\n'
        verify+=$(timed "SELECT ok FROM fleet.verify_snapshot($id)")$'\n'
        restore+=$(timed "SELECT count(*) FROM fleet.restore_snapshot($id, 'positions')")$'\n'
    done
    echo "bench.snapshot case=$1" "$(node_sql west -c "SELECT format('vehicles=%s rides=%s take_ms=$(median <<<"${take%$'\n'}")'
        || ' raw_bytes=%s stored_bytes=%s', vehicles, rides, raw_bytes, stored_bytes) FROM fleet.snapshots WHERE id = $id")" \
        "verify_ms=$(median <<<"${verify%$'\n'}") nothing_to_restore_ms=$(median <<<"${restore%$'\n'}")"
}

begin_bench
start_regions
fill
run_case vehicles
fill_rides
run_case rides
end_bench
