#!/bin/bash
# fleet: what fences cost a position report.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# With 0, 1, 1000 and 10000 fences, each a polygon of 12 corners, at random in
# one degree by one degree, on a lone server:
#
#   step_ns        the set of fences in a C program, for each step of 0.001 degrees,
#                  the random step itself included (the line fences=0)
#   fix_us         fleet.report_fix() of one vehicle that makes such steps, one
#                  transaction each, no flush
#   events         for each fix; each is a row, none is told
#   load_ms        the first fix of a session: it reads and indexes the fences
#
# From the environment: FIXES (5000), STEPS (1000000).

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

FIXES=${FIXES:-5000}
STEPS=${STEPS:-1000000}
WORK=''

clean_up()
{
    trap '' INT TERM
    stop_lone "$WORK"
}

sql()
{
    lone_sql "$WORK" '-c jit=off -c synchronous_commit=off -c fleet.max_speed=0' "$@"
}

make_node()
{
    sql -o /dev/null <<SQL
SELECT fleet.add_region('all', ST_Multi(ST_MakeEnvelope(-1, -1, 2, 2, 4326)), 'host=$WORK port=5432 dbname=postgres');
SELECT fleet.register_vehicle('v', 0.5, 0.5);
CREATE PROCEDURE drive(n integer) LANGUAGE plpgsql AS \$\$
DECLARE
    x float8 := 0.5;
    y float8 := 0.5;
    angle float8;
BEGIN
    FOR i IN 1 .. n LOOP
        angle := random() * 2 * pi();
        x := least(greatest(x + 0.001 * cos(angle), 0), 1);
        y := least(greatest(y + 0.001 * sin(angle), 0), 1);
        PERFORM fleet.report_fix('v', x, y, clock_timestamp());
        COMMIT;
    END LOOP;
END
\$\$;
SQL
}

# fences N: that many, and no others.  Straight into the table: it is one node.
fences()
{
    sql -o /dev/null <<SQL
DELETE FROM fleet.fences;
DELETE FROM fleet.fence_events;
INSERT INTO fleet.fences (name, id, area, events, notify, created_at)
    SELECT 'f' || n, gen_random_uuid(), ST_SetSRID(ST_Multi(ST_Buffer(ST_MakePoint(random(), random()), 0.003, 3)), 4326), '{enter,exit}', false, now()
    FROM generate_series(1, $1) AS n;
SQL
}

# timed N: "MS_OF_FIRST US_OF_THE_OTHERS EVENTS" of fixes in one session.
timed()
{
    sql -c '\timing on' -c 'CALL drive(1)' -c 'CALL drive(100)' -c "CALL drive($FIXES)" \
        -c 'SELECT count(*) FROM fleet.fence_events' |
        awk -v n="$FIXES" '/^Time:/ { ms[++i] = $2; next } { events = $1 }
            END { printf "%.1f %.1f %.3f\n", ms[1], ms[3] * 1000 / n, events / (n + 101) }'
}

main()
{
    local n step fix events load
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    require_setup
    WORK=$(make_scratch fence)
    (cd "$FLEET_ROOT" &&
        "${CC:-cc}" -std=gnu11 -O2 -Wall -Isrc -Itest/unit -o "$WORK/fence_bench" test/bench/fence_bench.c \
            src/geo/{boxtree,fences,geofence*,haversine,orient,wkb}.c -lm)
    start_lone "$WORK" bench
    make_node
    for n in 0 1 1000 10000; do
        fences "$n"
        read -r step _ < <("$WORK/fence_bench" "$n" "$STEPS")
        read -r load fix events < <(timed)
        echo "bench.fence fences=$n step_ns=$step fix_us=$fix events=$events load_ms=$load"
    done
}

main
