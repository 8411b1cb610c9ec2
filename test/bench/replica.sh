#!/bin/bash
# fleet: how fast the global replica follows, beside native logical replication.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-replica [SECONDS=20]" calls this.  It starts three regions and a
# replica (test/cluster.sh).  On the replica's server there is one more database,
# "native", with the same tables, indexes and CHECK constraints and without the
# merge rule; it follows the same regions by plain subscriptions with the same
# options.  Then the client measures both (replica.c tells what it prints), and
# another one looks for what a replica must never show (anomaly.c).
#
# From the environment:
#
#   BENCH_SECONDS=      how long lag is measured of each side in each case, and
#                       how long each run of the anomaly test takes      (20)
#   BENCH_REPETITIONS=  of each case of apply                            (5)
#   BENCH_CASES=        of copy apply lag anomaly; in one word, "apply,lag"  (all)
#   BENCH_NATIVE=1      the native side alone
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/regions.sh"

REPLICA=global

# has_replica: is there a replica of fleet's own to measure?
has_replica()
{
    local found
    [ -z "${BENCH_NATIVE:-}" ] || return 1
    found=$(node_sql "$REPLICA" -c "SELECT count(*) FROM pg_proc WHERE proname = 'add_replica'")
    [ "$found" != 0 ]
}

# make_region NODE: what the clients call there
make_region()
{
    node_sql "$1" <<'SQL'
CREATE PUBLICATION native FOR TABLE fleet.local_rides, fleet.local_vehicles, fleet.departures
    WITH (publish = 'insert, update');
CREATE SCHEMA bench;
CREATE TABLE bench.loaded AS SELECT 0::bigint AS rides;

CREATE FUNCTION bench.make(prefix text, first bigint, last bigint) RETURNS void
LANGUAGE sql AS $$
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, status, fare,
        start_location, current_location, end_location, requested_at, en_route_at, arrived_at, started_at, path_m)
    SELECT prefix || lpad(n::text, 7, '0'), 'V-' || prefix || n, 'C-' || n, fleet.own_region(), 'IN_PROGRESS',
        n % 9973 / 100.0, p, p, p,
        t - interval '20 min', t - interval '15 min', t - interval '5 min', t, n % 20000
    FROM (SELECT n, now() - n * interval '1 ms' AS t,
            fleet.make_point(0.1 + n % 7919 / 10000.0, 0.1 + n % 7907 / 10000.0) AS p
        FROM generate_series(first, last) AS n) AS r
$$;

-- So many rides in this region, the number-th; in the first one the marker, too.
CREATE FUNCTION bench.load(number integer, wanted bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM bench.make(number || '-', l.rides, wanted - 1) FROM bench.loaded AS l;
    INSERT INTO fleet.rides (ride_id, customer_id, region, start_location)
        SELECT 'marker', 'C', fleet.own_region(), fleet.make_point(0.5, 0.5)
        WHERE number = 0 AND NOT EXISTS (SELECT FROM fleet.local_rides WHERE ride_id = 'marker');
    UPDATE bench.loaded SET rides = wanted;
    ANALYZE fleet.local_rides;
END
$$;

-- Change the next so many rides, of all in turn.
CREATE FUNCTION bench.next_rides(first bigint, rows integer) RETURNS void
LANGUAGE sql AS $$
UPDATE fleet.local_rides SET fare = fare + 0.01, path_m = path_m + 1
    WHERE ride_id BETWEEN '0-' || lpad((first % (SELECT rides FROM bench.loaded))::text, 7, '0')
        AND '0-' || lpad((first % (SELECT rides FROM bench.loaded) + rows - 1)::text, 7, '0')
$$;
CREATE FUNCTION bench.change(first bigint, rows integer, mark bigint) RETURNS void
LANGUAGE sql AS $$
SELECT bench.next_rides(first, rows);
UPDATE fleet.local_rides SET fare = mark WHERE ride_id = 'marker'
$$;
CREATE PROCEDURE bench.update_rides(first bigint, rows integer, transactions integer)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', false);
    FOR i IN 0 .. transactions - 1 LOOP
        PERFORM bench.next_rides(first + i * rows, rows);
        COMMIT;
    END LOOP;
    PERFORM set_config('synchronous_commit', 'on', false);
END
$$;
CREATE PROCEDURE bench.insert_rides(first bigint, rows integer, transactions integer)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', false);
    FOR i IN 0 .. transactions - 1 LOOP
        PERFORM bench.make('N', first + i * rows, first + (i + 1) * rows - 1);
        COMMIT;
    END LOOP;
    PERFORM set_config('synchronous_commit', 'on', false);
END
$$;
SQL
}

# make_native: the database beside the replica.  Its indexes are those of the
# replica's tables, or of a region's where there is no replica.
make_native()
{
    local from=$1 kind
    node_sql "$REPLICA" -c 'CREATE DATABASE native'
    for kind in ride vehicle; do
        echo "CREATE TABLE fleet.local_${kind}s PARTITION OF fleet.${kind}s DEFAULT WITH (fillfactor = 85);"
        node_sql "$from" -c "SELECT pg_get_indexdef(indexrelid) || ';' FROM pg_index
            WHERE indrelid = 'fleet.local_${kind}s'::regclass ORDER BY indexrelid"
        echo "ALTER TABLE fleet.local_${kind}s ADD PRIMARY KEY USING INDEX local_${kind}s_pkey;"
    done >"$WORK/native.sql"
    node_sql "$REPLICA" -d native -c 'CREATE EXTENSION fleet CASCADE' -f "$WORK/native.sql" \
        -c 'ALTER TABLE fleet.departures DISABLE TRIGGER USER'
}

# trial: make the replica once, to see its indexes and what its subscriptions are
# like; prints their options.
trial()
{
    node_sql "${REGIONS[0]}" -c "CALL fleet.add_replica('$REPLICA', '$FLEET_CONNINFO')"
    node_sql "$REPLICA" -c "SELECT format('binary = %s, streaming = %s, synchronous_commit = %s', subbinary::text,
        CASE substream::text WHEN 'p' THEN 'parallel' WHEN 't' THEN 'on' WHEN 'true' THEN 'on' ELSE 'off' END,
        subsynccommit) FROM pg_subscription WHERE subname = 'fleet_${REGIONS[0]}'"
}

# run_client PROGRAM ARGS...: in the background, so that a signal ends it
run_client()
{
    local rc=0
    "$@" &
    CLIENT_PID=$!
    wait "$CLIENT_PID" || rc=$?
    CLIENT_PID=''
    return "$rc"
}

# is_wanted CASE
is_wanted()
{
    [[ -z ${BENCH_CASES:-} || $BENCH_CASES == *"$1"* ]]
}

# anomalies ARGS...: 100, then 500 handoffs a second while others write
anomalies()
{
    local handoffs rc=0
    run_client "$WORK/anomaly" load "$@"
    run_client "$WORK/anomaly" equal wait=120 "$@"
    for handoffs in 100 500; do
        run_client "$WORK/anomaly" run handoffs=$handoffs seconds="${BENCH_SECONDS:-20}" "$@" || rc=1
        run_client "$WORK/anomaly" equal wait=60 "$@" || rc=1
    done
    return "$rc"
}

main()
{
    local node args=() fleet='' options='binary = false' rc=0
    begin_bench
    build_client replica "$BENCH"/replica{,_side,_lag,_copy}.c
    build_client anomaly "$BENCH"/anomaly{,_link,_actor,_reader,_equal}.c
    start_regions 'max_logical_replication_workers = 12' 'max_worker_processes = 30' \
        'max_sync_workers_per_subscription = 2' "wal_retrieve_retry_interval = '500ms'" \
        -- --replica "$REPLICA"
    FLEET_CONNINFO=$(conninfo "$REPLICA" fleet fleet_node)
    export FLEET_CONNINFO
    for node in "${REGIONS[@]}"; do
        make_region "$node"
        args+=("$node" "$(conninfo "$node" fleet postgres)")
    done
    if has_replica; then
        fleet=$(conninfo "$REPLICA" fleet postgres)
        options=$(trial)
        make_native "$REPLICA"
    else
        make_native "${REGIONS[0]}"
    fi
    if is_wanted copy || is_wanted apply || is_wanted lag; then
        run_client "$WORK/replica" "${BENCH_SECONDS:-20}" "${BENCH_REPETITIONS:-5}" "$options" \
            "$(conninfo "$REPLICA" native postgres)" "$fleet" "${args[@]}" || rc=$?
    fi
    if [ "$rc" -eq 0 ] && [ -n "$fleet" ] && is_wanted anomaly; then
        anomalies "$fleet" "${args[@]}" || rc=$?
    fi
    end_bench
    return "$rc"
}

main
