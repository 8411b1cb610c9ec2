#!/bin/bash
# fleet: how long it takes to compare whole tables, and what goes over the wire.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-drift [ROWS=1000000]" calls this.  It starts three regions and a
# replica, gives each region ROWS rides and the replica all of them, and compares:
#
#   bench.drift case=digest  rows=.. us_per_row=..       one table, one process
#   bench.drift case=compare rows=.. s=.. bytes=.. percentage=..
#
# s is the median of three calls of fleet.compare_all(), with all servers on this machine; bytes are the
# answers of all regions.  The rides are written on each server by itself: what is
# measured is how they are compared, not how they get to the replica.  So the replica's streams rest, and
# the tables have no indexes but their primary keys.
#
#   BENCH_ROWS=         rides of each region                 (1000000)
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/regions.sh"

ROWS=${BENCH_ROWS:-1000000}
REPLICA=world

# rest: the replica's streams are not followed any more
rest()
{
    node_sql "$REPLICA" <<'SQL'
UPDATE fleet.replica_sources SET next_try = 'infinity';
SELECT fleet.drop_subscription(region) FROM fleet.replica_sources;
UPDATE fleet.replica_sources SET state = 'joining';
SQL
}

drop_indexes()
{
    node_sql "$1" <<'SQL'
SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index
    WHERE indrelid = 'fleet.local_rides'::regclass AND NOT indisprimary \gexec
SQL
}

# fill NODE NUMBER: the rides of a region, the same wherever they are written
fill()
{
    node_sql "$1" -v rows="$ROWS" -v number="$2" -v region="${REGIONS[$2]}" <<'SQL'
ALTER TABLE fleet.local_rides DISABLE TRIGGER USER;
INSERT INTO fleet.local_rides (ride_id, customer_id, vehicle_id, region, status, fare, start_location, current_location,
        requested_at, en_route_at, arrived_at, started_at, updated_at, path_m, hlc)
    SELECT :'number' || '-' || n, 'C-' || n, 'V-' || n, :'region', 'IN_PROGRESS', n % 9973 / 100.0, p, p,
        t, t, t, t, t, n / 7.0, (n + 1)::bigint::fleet.hlc
    FROM (SELECT n, timestamptz '2026-01-01 00:00:00+00' + n * interval '1 ms' AS t,
            fleet.make_point(:number + 0.1 + n % 7919 / 10000.0, 0.1 + n % 7907 / 10000.0) AS p
        FROM generate_series(1, :rows) AS n) AS r;
SQL
}

analyze()
{
    node_sql "$1" -c 'VACUUM ANALYZE fleet.local_rides' -c 'CHECKPOINT'
}

# digest: microseconds per row, what a bare scan costs taken off
digest()
{
    node_sql "${REGIONS[0]}" <<'SQL'
SET max_parallel_workers_per_gather = 0;
DO $$
DECLARE
    columns text := fleet.digested('ride');
    began timestamptz;
    scan interval;
    digested interval;
    rows bigint;
BEGIN
    SELECT count(*) INTO rows FROM fleet.local_rides;
    FOR i IN 1 .. 3 LOOP
        began := clock_timestamp();
        EXECUTE 'SELECT count(r.idempotency_keys) FROM fleet.local_rides AS r';
        scan := least(scan, clock_timestamp() - began);
        began := clock_timestamp();
        EXECUTE format('SELECT fleet.digest(%s) FROM fleet.local_rides AS r', columns);
        digested := least(digested, clock_timestamp() - began);
    END LOOP;
    CREATE TEMP TABLE measured AS SELECT rows, extract(epoch FROM digested - scan) * 1e6 / rows AS us;
END $$;
SELECT format('bench.drift case=digest rows=%s us_per_row=%s', rows, round(us, 2)) FROM measured;
SQL
}

compare()
{
    local i seconds='' bytes=0 region
    for i in 1 2 3; do
        seconds+=$(node_sql "$REPLICA" -c "SELECT duration_ms / 1000 FROM fleet.compare_all()")$'\n'
    done
    for region in "${REGIONS[@]}"; do
        bytes=$((bytes + $(node_sql "$region" -c "SELECT length(fleet.digest_buckets('ride', 4096, NULL))")))
    done
    echo "bench.drift case=compare rows=$(node_sql "$REPLICA" -c 'SELECT max(checked) FROM fleet.drift_reports')" \
        "s=$(sort -n <<<"${seconds%$'\n'}" | sed -n 2p | cut -c1-5) bytes=$bytes" \
        "percentage=$(node_sql "$REPLICA" -c 'SELECT max(percentage) FROM fleet.drift_reports')"
}

main()
{
    local i
    [ "$ROWS" -ge 1000 ] || die 'BENCH_ROWS must be 1000 or more'
    begin_bench
    start_regions -- --replica "$REPLICA"
    [ "$(node_sql "$REPLICA" -c 'SELECT fleet.is_replica()')" = t ] ||
        node_sql "${REGIONS[0]}" -c "CALL fleet.add_replica('$REPLICA', '$(conninfo "$REPLICA" '' fleet_node)')"
    rest
    drop_indexes "$REPLICA"
    for i in 0 1 2; do
        drop_indexes "${REGIONS[i]}"
        fill "${REGIONS[i]}" "$i"
        fill "$REPLICA" "$i"
        analyze "${REGIONS[i]}"
    done
    analyze "$REPLICA"
    digest
    compare
    end_bench
}

main
