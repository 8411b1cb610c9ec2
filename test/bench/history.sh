#!/bin/bash
# fleet: how fast fixes go into the history, and how large it gets.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-history [ROWS=2000000]" calls this.  It starts a server of the test build, in which
# a function writes fixes into fleet.fix_history by the same three calls as
# fleet.report_fix: of 156,000 vehicles, half of them with a ride, in transactions
# of a thousand fixes or of one.  The floor is INSERT of the same rows from a SELECT, a
# thousand at a time, into tables with the same columns.  Printed is, on one line:
#
#   bench.history case=.. fixes_s=.. cpu_us=.. heap_bytes=.. index_bytes=..
#
# cpu_us is the processor time that the backend takes for a fix, which other load on
# the machine changes less than fixes_s; bytes are those of a fix.
#
# cases: arrays      a thousand fixes at a time
#        single      one fix, one transaction
#        bare        the floor, no index
#        indexed     the floor, with the indexes of the history
#        btree       the floor, with btrees on (vehicle, time) and on the ride instead
#        brin        the floor, with BRIN on the time alone
#
# Then, in milliseconds: the path of a vehicle of an hour and of a ride in fixes of the
# same hour, and the same vehicle's fixes of an hour by BRIN alone, and by btree:
#
#   bench.history path=vehicle|ride|brin|btree ms=..
#
# Commits are asynchronous: it is the writing that is measured, not the disk's flush.
#
#   BENCH_ROWS=   fixes of each case   (2000000; single: a hundredth)

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

ROWS=${BENCH_ROWS:-2000000}
LONE=''

clean_up()
{
    trap '' INT TERM
    stop_lone "$LONE"
}

# sql [psql's arguments]
sql()
{
    lone_sql "$LONE" '' "$@"
}

start_server()
{
    LONE=$(make_scratch history)
    FAULTS=1 start_lone "$LONE" bench "shared_buffers = '1GB'" "max_wal_size = '8GB'" \
        "checkpoint_timeout = '1h'" 'synchronous_commit = off' 'autovacuum = off'
    sql <<'SQL'
SELECT fleet.add_region('west', ST_Multi(ST_MakeEnvelope(0, 0, 1, 1, 4326)), 'host=' || :'HOST' || ' dbname=postgres') \g /dev/null
CREATE FUNCTION add(first bigint, n integer, vehicles integer, since timestamptz, step_us bigint) RETURNS void
    AS '$libdir/fleet', 'fleet_track_history_bench' LANGUAGE C STRICT;
-- Processor time of this backend in microseconds.
CREATE FUNCTION cpu_us() RETURNS float8 LANGUAGE sql AS $$
    SELECT (f[12]::float8 + f[13]::float8) * 10000
    FROM (SELECT string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ') AS f) AS s
$$;
CREATE TABLE bare (LIKE fleet.fix_history);
CREATE TABLE indexed (LIKE fleet.fix_history INCLUDING INDEXES);
CREATE TABLE btree (LIKE fleet.fix_history);
CREATE INDEX ON btree (vehicle_id, at);
CREATE INDEX ON btree (ride_id) WHERE ride_id IS NOT NULL;
CREATE TABLE brin (LIKE fleet.fix_history);
CREATE INDEX ON brin USING brin (at);
CREATE FUNCTION first() RETURNS timestamptz LANGUAGE sql STABLE AS $$SELECT date_trunc('day', now(), 'UTC')$$;
-- The median of a few runs of a query, after one that does not count.
CREATE PROCEDURE path(name text, query text) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz;
    ms float8[];
BEGIN
    FOR i IN 0 .. 9 LOOP
        start := clock_timestamp();
        EXECUTE query;
        IF i > 0 THEN
            ms := ms || extract(epoch FROM clock_timestamp() - start)::float8 * 1000;
        END IF;
    END LOOP;
    RAISE WARNING 'bench.history path=% ms=%', name, (SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY m)::numeric, 2) FROM unnest(ms) AS m);
END $$;
-- Runs a statement of $1 = first number and $2 = fixes a time; the day is today.
CREATE PROCEDURE run(name text, part regclass, total integer, each integer, statement text) LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz;
    cpu float8;
BEGIN
    COMMIT;
    since := clock_timestamp();
    cpu := cpu_us();
    FOR i IN 0 .. total / each - 1 LOOP
        EXECUTE statement USING i::bigint * each, each;
        COMMIT;
    END LOOP;
    RAISE WARNING 'bench.history case=% fixes_s=% cpu_us=% heap_bytes=% index_bytes=%', name,
        round((total / extract(epoch FROM clock_timestamp() - since))::numeric), round(((cpu_us() - cpu) / total)::numeric, 2),
        round(pg_relation_size(part) / total::numeric, 1), round(pg_indexes_size(part) / total::numeric, 1);
END $$;
SQL
}

all_cases()
{
    local part rows
    part=fleet.fix_history_$(date -u +%Y%m%d)
    # The number of microseconds between fixes: the whole in an hour.
    rows="SELECT date_trunc('day', now(), 'UTC') + n * interval '500 us', 1, -1180000000 + n % 1000000, 340000000 + n % 1000000,
        v % 90, v % 90, v % 90, NULL, hashint8(v), 'cab-' || lpad(v::text, 6, '0'), CASE WHEN v % 2 = 0 THEN 'ride-' || lpad(v::text, 8, '0') END
        FROM (SELECT n, n * 7919 % 156000 AS v FROM generate_series(\$1, \$1 + \$2 - 1) AS n) AS x"
    sql -v part="$part" -v rows="$ROWS" -v select="$rows" <<'SQL' 2>&1 | sed 's/.*WARNING:  //'
CALL run('bare', 'bare', :rows, 1000, 'INSERT INTO bare ' || :'select');
CALL run('indexed', 'indexed', :rows, 1000, 'INSERT INTO indexed ' || :'select');
CALL run('btree', 'btree', :rows, 1000, 'INSERT INTO btree ' || :'select');
CALL run('brin', 'brin', :rows, 1000, 'INSERT INTO brin ' || :'select');
CALL run('arrays', :'part', :rows, 1000, $$SELECT add($1, $2, 156000, first(), 500)$$);
VACUUM ANALYZE;
CALL path('vehicle', $$SELECT fleet.vehicle_path('cab-007919', first(), first() + interval '1 hour')$$);
CALL path('ride', $$SELECT fleet.ride_path('ride-00007922')$$);
CALL path('brin', $$SELECT at, lon_e7, lat_e7 FROM brin WHERE vehicle_id = 'cab-007919' AND at >= first() AND at < first() + interval '1 hour'$$);
CALL path('btree', $$SELECT at, lon_e7, lat_e7 FROM btree WHERE vehicle_id = 'cab-007919' AND at >= first() AND at < first() + interval '1 hour'$$);
TRUNCATE fleet.fix_history;
CALL run('single', :'part', :rows / 100, 1, $$SELECT add($1, $2, 156000, first(), 500)$$);
SQL
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
require_setup
start_server
all_cases
