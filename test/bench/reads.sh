#!/bin/bash
# fleet: how fast reads of rides are, beside plain SQL, and calls from another node.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# "make bench-reads [SECONDS=5] [ROWS=100000] [CLIENTS=8]" calls this.  It starts
# three regions, fills them with rides and runs each query by pgbench, fleet's and
# the floor in turns.  Medians over the repetitions are printed:
#
#   bench.reads case=.. scope=.. clients=.. per_s=.. p50_ms=.. p95_ms=..
#       floor_per_s=.. ratio=..         (on one line)
#
# The floor of scope local is the same query of the region's own partition; that
# of global-live the same query of fleet.rides, which postgres_fdw plans
# (async_capable, as fleet makes the servers, over kept connections).  While rides move its answers are wrong.
#
# cases: top10   the newest ten rides
#        open    the newest ten that are IN_PROGRESS (a tenth), of one region
#        get     one ride by its id
#        count   how many rides one customer has (a hundred, over all regions)
#        all     how many rides there are
#        rows    the same, counted from rows and not by sums that the regions make
#        moving  top10 while 100 rides a second are handed off
#        forwarded  no read: fleet.update_ride of a ride of another region, made there in two
#                phases (scope forward), or refused with that region's name (scope redirect);
#                the floor is the same call of a ride of the own region
#
#   BENCH_SECONDS=      how long each run takes              (5)
#   BENCH_ROWS=         rides of each region                 (100000)
#   BENCH_CLIENTS=      clients                              (8)
#   BENCH_REPETITIONS=  of each case                         (3)
#   BENCH_CASES=        only these                           (all of them)
#   KEEP=1              leave the cluster running, and say where

. "$(dirname "${BASH_SOURCE[0]}")/pgbench.sh"

TIME=${BENCH_SECONDS:-5}
ROWS=${BENCH_ROWS:-100000}
CLIENTS=${BENCH_CLIENTS:-8}
REPETITIONS=${BENCH_REPETITIONS:-3}
CASES=${BENCH_CASES:-}

# fill NODE NUMBER
fill()
{
    node_sql "$1" -v rows="$ROWS" -v number="$2" <<'SQL'
INSERT INTO fleet.rides (ride_id, customer_id, region, status, fare, start_location, current_location,
        requested_at, en_route_at, arrived_at, started_at)
    SELECT :'number' || '-' || n, 'C-' || n % (:rows * 3 / 100), fleet.own_region(),
        (CASE n % 10 WHEN 0 THEN 'IN_PROGRESS' ELSE 'PENDING' END)::fleet.ride_status, n % 9973 / 100.0, p, p,
        t, s, s, s
    FROM (SELECT n, now() - n * interval '1 s' - :number * interval '1 ms' AS t,
            CASE WHEN n % 10 = 0 THEN now() - n * interval '1 s' END AS s,
            fleet.make_point(:number + 0.1 + n % 7919 / 10000.0, 0.1 + n % 7907 / 10000.0) AS p
        FROM generate_series(1, :rows) AS n) AS r;
CREATE SCHEMA bench;
-- One handoff of one of 200 rides; what loses a race is not counted here.
CREATE FUNCTION bench.move() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM fleet.handoff('0-' || 1 + floor(random() * 200)::integer,
        (SELECT name FROM fleet.map_regions ORDER BY random() LIMIT 1));
EXCEPTION WHEN OTHERS THEN
    NULL;
END $$;
-- A call that is to be made elsewhere, as a client that is redirected sees it.
CREATE FUNCTION bench.redirected(ride text) RETURNS void LANGUAGE plpgsql SET fleet.routing = redirect AS $$
BEGIN
    PERFORM fleet.update_ride(ride, '{"fare": 5}');
    RAISE EXCEPTION 'ride % was not elsewhere', ride;
EXCEPTION WHEN SQLSTATE 'RF027' THEN
    NULL;
END $$;
SQL
    node_sql "$1" -c 'VACUUM ANALYZE fleet.local_rides' -c 'CHECKPOINT'
}

# compare CASE SCOPE OURS FLOOR: two scripts of pgbench
compare()
{
    local per_s floor_per_s
    is_wanted "$1" || return 0
    echo "$3" >"$WORK/ours.sql"
    echo "$4" >"$WORK/floor.sql"
    run_in_turns ours floor
    per_s=$(column 1 <<<"$RESULT_OURS")
    floor_per_s=$(column 1 <<<"$RESULT_FLOOR")
    echo "bench.reads case=$1 scope=$2 clients=$CLIENTS per_s=$per_s p50_ms=$(column 2 <<<"$RESULT_OURS")" \
        "p95_ms=$(column 3 <<<"$RESULT_OURS") floor_per_s=$floor_per_s" \
        "ratio=$(ratio "$per_s" "$floor_per_s")"
}

# Of rides at random: few calls wait for each other.
forwarded_cases()
{
    local any="\\set n random(1, $ROWS)"$'\n'
    local own="$any SELECT fleet.update_ride('0-' || :n, '{\"fare\": 5}')"
    compare forwarded forward "$any SELECT fleet.update_ride('1-' || :n, '{\"fare\": 5}')" "$own"
    compare forwarded redirect "$any SELECT bench.redirected('1-' || :n)" "$own"
}

all_cases()
{
    local newest='ORDER BY requested_at DESC LIMIT 10'
    compare top10 local "SELECT * FROM fleet.search_rides('local', max_rows => 10)" \
        "SELECT * FROM fleet.local_rides $newest"
    compare open local "SELECT * FROM fleet.search_rides('local', status => 'IN_PROGRESS', max_rows => 10)" \
        "SELECT * FROM fleet.local_rides WHERE status = 'IN_PROGRESS' $newest"
    compare top10 global-live "SELECT * FROM fleet.search_rides(max_rows => 10)" \
        "SELECT * FROM fleet.rides $newest"
    compare open global-live "SELECT * FROM fleet.search_rides(region => 'middle', status => 'IN_PROGRESS', max_rows => 10)" \
        "SELECT * FROM fleet.rides WHERE region = 'middle' AND status = 'IN_PROGRESS' $newest"
    compare get global-live "SELECT * FROM fleet.get_ride('1-777')" \
        "SELECT * FROM fleet.rides WHERE ride_id = '1-777'"
    compare count global-live "SELECT fleet.count_rides(customer_id => 'C-7')" \
        "SELECT count(*) FROM fleet.rides WHERE customer_id = 'C-7'"
    compare all local "SELECT fleet.count_rides('local')" 'SELECT count(*) FROM fleet.local_rides'
    compare all global-live 'SELECT fleet.count_rides()' 'SELECT count(*) FROM fleet.rides'
    compare rows global-live "SET fleet.sum_threshold = 1000000; SET fleet.read_timeout = 60000; SELECT fleet.count_rides();" \
        'SELECT count(*) FROM fleet.rides'
    forwarded_cases
    is_wanted moving || return 0
    echo 'SELECT bench.move()' >"$WORK/move.sql"
    bench move -T 1000000 -c 2 -R 100 >/dev/null 2>&1 &
    CLIENT_PID=$!
    compare moving global-live "SELECT * FROM fleet.search_rides(max_rows => 10)" \
        "SELECT * FROM fleet.rides $newest"
    kill "$CLIENT_PID"
    wait "$CLIENT_PID" 2>/dev/null || true
    CLIENT_PID=''
}

main()
{
    local i
    [ "$ROWS" -ge 1000 ] || die 'BENCH_ROWS must be 1000 or more'
    begin_bench
    start_regions
    PORT=$(port_of "${REGIONS[0]}")
    for i in 0 1 2; do
        fill "${REGIONS[i]}" "$i"
    done
    all_cases
    end_bench
}

main
