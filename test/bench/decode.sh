#!/bin/bash
# fleet: how fast the change stream is, beside test_decoding on the same changes.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-decode [ROWS=500000]" calls this.  It starts a server with one region,
# makes changes of rides in transactions of a thousand, and reads them from two
# slots by pg_logical_slot_peek_changes, in turns.  Printed are the medians:
#
#   bench.decode case=... rows_s=.. bytes_row=.. test_decoding_rows_s=..
#       test_decoding_bytes_row=.. ratio=..         (on one line)
#   bench.decode_wal identity=default|full bytes_update=..
#
# cases: mixed    a fifth inserts, the rest updates of status and fare, whole new rows
#        changed  the same updates with whole old rows in the WAL, changed columns only
#        moves    only moves, of which there are none: what it costs to look
#
# Full-page images are off, so that the WAL has what the changes alone write.
#
#   BENCH_ROWS=   changes of each case            (500000)
#   BENCH_TURNS=  how often each slot is read     (3)

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

ROWS=${BENCH_ROWS:-500000}
TURNS=${BENCH_TURNS:-3}
RIDES=$((ROWS / 5))
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
    LONE=$(make_scratch decode)
    start_lone "$LONE" bench "shared_buffers = '256MB'" "max_wal_size = '8GB'" \
        "checkpoint_timeout = '1h'" 'full_page_writes = off' \
        'autovacuum = off'
    sql <<SQL
SELECT fleet.add_region('west', ST_Multi(ST_MakeEnvelope(0, 0, 1, 1, 4326)), 'host=$LONE dbname=postgres') \\g /dev/null
CREATE PROCEDURE update_all(what text) LANGUAGE plpgsql AS \$\$
BEGIN
    FOR i IN 0 .. $RIDES / 1000 - 1 LOOP
        EXECUTE format('UPDATE fleet.local_rides SET %s WHERE ride_id = ANY (ARRAY('
            || 'SELECT ''R-'' || lpad(n::text, 8, ''0'') FROM generate_series(%s, %s) AS n))',
            what, i * 1000 + 1, i * 1000 + 1000);
        COMMIT;
    END LOOP;
END \$\$;
CREATE PROCEDURE insert_all() LANGUAGE plpgsql AS \$\$
BEGIN
    FOR i IN 0 .. $RIDES / 1000 - 1 LOOP
        INSERT INTO fleet.local_rides (ride_id, vehicle_id, customer_id, region, fare, start_location, requested_at)
            SELECT 'R-' || lpad(n::text, 8, '0'), 'V-' || n, 'C-' || n, 'west', (n % 9973) / 100.0,
                fleet.make_point(round((0.1 + n % 7919 / 10000.0)::numeric, 6)::float8, round((0.1 + n % 7907 / 10000.0)::numeric, 6)::float8), now()
            FROM generate_series(i * 1000 + 1, i * 1000 + 1000) AS n;
        COMMIT;
    END LOOP;
END \$\$;
SQL
}

new_slots()
{
    sql -o /dev/null <<'SQL'
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;
SELECT fleet.create_change_stream('ours'), pg_create_logical_replication_slot('theirs', 'test_decoding');
CHECKPOINT;
SQL
}

# updates: status and fare in turns, four for each ride; prints WAL bytes of an update
updates()
{
    sql <<SQL
SELECT pg_current_wal_insert_lsn() AS start \\gset
CALL update_all('status = ''$1''');
CALL update_all('fare = fare + 1');
CALL update_all('status = ''$2''');
CALL update_all('fare = fare + 0.25');
SELECT round((pg_current_wal_insert_lsn() - :'start') / (4.0 * $RIDES));
SQL
}

# peek SLOT OPTIONS: "milliseconds rows bytes"
peek()
{
    sql <<SQL
SELECT clock_timestamp() AS start \\gset
SELECT count(*) AS rows, COALESCE(sum(octet_length(data)), 0) AS bytes
    FROM pg_logical_slot_peek_changes('$1', NULL, NULL$2) \\gset
SELECT round(extract(epoch FROM clock_timestamp() - :'start') * 1000), :rows, :bytes;
SQL
}

median()
{
    sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# compare CASE CHANGES OPTIONS
compare()
{
    local turn ours='' theirs='' one other line
    for turn in $(seq "$TURNS"); do
        line=$(peek ours "$3" | tr '|' ' ')
        ours+="$line"$'\n'
        line=$(peek theirs ", 'skip-empty-xacts', 'on'" | tr '|' ' ')
        theirs+="$line"$'\n'
    done
    one=$(printf %s "$ours" | median)
    other=$(printf %s "$theirs" | median)
    awk -v name="$1" -v changes="$2" -v one="$one" -v other="$other" \
        -v bytes="$(printf %s "$ours" | awk 'NR == 1 { print $3 }')" \
        -v bytes2="$(printf %s "$theirs" | awk 'NR == 1 { print $3 }')" 'BEGIN {
        printf "bench.decode case=%s rows_s=%.0f bytes_row=%.0f test_decoding_rows_s=%.0f test_decoding_bytes_row=%.0f ratio=%.2f\n",
            name, changes * 1000 / one, bytes / changes, changes * 1000 / other, bytes2 / changes, other / one }'
}

main()
{
    local default full
    [ "$RIDES" -ge 1000 ] || die 'BENCH_ROWS must be 5000 or more'
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    require_setup
    start_server
    new_slots
    sql -c 'CALL insert_all()'
    default=$(updates EN_ROUTE ARRIVED)
    compare mixed $((RIDES * 5)) ''
    compare moves $((RIDES * 5)) ", 'only_moves', 'on'"
    new_slots
    sql -o /dev/null -c 'SELECT fleet.set_old_images(true)'
    full=$(updates IN_PROGRESS COMPLETED)
    compare changed $((RIDES * 4)) ", 'changed_only', 'on'"
    echo "bench.decode_wal identity=default bytes_update=$default"
    echo "bench.decode_wal identity=full bytes_update=$full"
}

main
