#!/bin/bash
# fleet: how fast a handoff is, beside the same done by hand.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-handoff [SECONDS=15] [CLIENTS=8]" calls this.  It starts three
# servers (test/cluster.sh), makes the tables of the floor beside fleet's own,
# with the same columns, indexes and CHECK constraints, and runs the client
# (handoff.c tells what it prints, handoff_way.c what the floor is).
#
# From the environment:
#
#   BENCH_SECONDS=  how long each way runs in each case       (15)
#   BENCH_CLIENTS=  clients where the case says nothing else  (8)
#   BENCH_CASES=    numbers of the cases to run, from 0       (all)
#   KEEP=1          leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/regions.sh"

# make_tables NODE: what the floor needs
make_tables()
{
    node_sql "$1" <<'SQL'
CREATE SCHEMA bench;
CREATE TABLE bench.rides (LIKE fleet.local_rides INCLUDING ALL) WITH (fillfactor = 85);
CREATE TABLE bench.departures (LIKE fleet.departures INCLUDING ALL);
CREATE TABLE bench.handoff_log (LIKE fleet.handoff_log INCLUDING ALL) WITH (fillfactor = 80);
CREATE TABLE bench.decisions (LIKE fleet.decisions INCLUDING ALL);

CREATE FUNCTION bench.fare(n bigint) RETURNS numeric
LANGUAGE sql IMMUTABLE AS 'SELECT (n % 9973) / 100.0';

-- New rides, under way, in the region of this node.
CREATE FUNCTION bench.load_as(rides regclass, prefix text, digits integer, first bigint, last bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %s (ride_id, vehicle_id, customer_id, region, status, fare,'
        || ' start_location, current_location, end_location,'
        || ' requested_at, en_route_at, arrived_at, started_at, path_m)'
        || ' SELECT $1 || lpad(n::text, $2, ''0''), ''V-'' || $1 || n, ''C-'' || n, fleet.own_region(),'
        || ' ''IN_PROGRESS'', bench.fare(n), p, p, p,'
        || ' t - interval ''20 min'', t - interval ''15 min'', t - interval ''5 min'', t, n %% 20000'
        || ' FROM (SELECT n, now() - n * interval ''1 ms'' AS t, ST_SetSRID(ST_MakePoint('
        || '   0.1 + n %% 7919 / 10000.0, 0.1 + n %% 7907 / 10000.0), 4326)::geography AS p'
        || '   FROM generate_series($3, $4) AS n) AS r', rides)
        USING prefix, digits, first, last;
END
$$;
CREATE FUNCTION bench.load(rides regclass, first bigint, last bigint) RETURNS void
LANGUAGE sql AS $$ SELECT bench.load_as(rides, 'R', 9, first, last) $$;
CREATE FUNCTION bench.load_for_writers() RETURNS void
LANGUAGE sql AS $$ SELECT bench.load_as('fleet.rides', 'W', 4, 0, 799) $$;

-- The best that can be done by hand in SQL: the connection is kept, and all
-- that goes to the target before the commit goes there at once.
CREATE EXTENSION dblink;
CREATE PROCEDURE bench.handoff(ride text, target text, source text, gid text)
LANGUAGE plpgsql AS $$
DECLARE
    departure record;
BEGIN
    WITH gone AS (DELETE FROM bench.rides WHERE ride_id = ride RETURNING *),
        kept AS (INSERT INTO bench.departures (kind, key, epoch, target, hlc, image, dtxid)
            SELECT 'ride', ride_id, epoch + 1, handoff.target, hlc,
                to_jsonb(gone) || jsonb_build_object('region', handoff.target, 'epoch', epoch + 1), gid FROM gone
            RETURNING departures.image, departures.epoch, departures.hlc),
        logged AS (INSERT INTO bench.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)
            SELECT ride_id, vehicle_id, handoff.source, handoff.target, epoch + 1, hlc, gid, 'departed' FROM gone)
        SELECT * INTO STRICT departure FROM kept;
    PERFORM dblink_exec('peer', format('BEGIN;'
        || ' INSERT INTO bench.rides SELECT * FROM jsonb_populate_record(NULL::bench.rides, %1$L);'
        || ' INSERT INTO bench.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)'
        || ' VALUES (%2$L, %3$L, %4$L, %5$L, %6$L, %7$L, %8$L, ''arrived'');'
        || ' PREPARE TRANSACTION %8$L', departure.image, ride, departure.image->>'vehicle_id',
        source, target, departure.epoch, departure.hlc, gid));
    COMMIT;
    PERFORM dblink_exec('peer', format('COMMIT PREPARED %L', gid));
END
$$;
SQL
}

main()
{
    local node args=()
    begin_bench
    build_client handoff "$BENCH"/handoff{,_slice,_way,_pool}.c
    # as many sessions as the largest case has
    start_regions 'max_connections = 500' 'max_prepared_transactions = 500'
    # source, target, third
    for node in "${REGIONS[@]}"; do
        make_tables "$node"
        args+=("$node" "$(conninfo "$node")")
    done
    "$WORK/handoff" "${BENCH_SECONDS:-15}" "${BENCH_CLIENTS:-8}" "${args[@]}" &
    CLIENT_PID=$!
    wait "$CLIENT_PID"
    CLIENT_PID=''
    end_bench
}

main
