#!/bin/bash
# fleet: fleet.region_of agrees with ST_Covers on every fix of the real traces.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# Two maps of the same counties are tried: the legal borders, which leave next
# to no fix outside, and the land alone, which leaves many.  To the fixes come
# points that are hard on purpose: every vertex of the map, the middle of every
# edge, and points a little beside these.
#
# It starts a server of its own.
# To try a database that runs already, with the map it has: set PGHOST, PGPORT,
# PGDATABASE and PGUSER (who may read fleet.map_regions and make tables).
#
# PostGIS is asked region by region, because it keeps what it has prepared for
# one polygon only as long as the polygon stays the same.
#
# Prints TAP.  From the environment: TRACES (../shared/data).  Without the data
# it skips.

GIVEN=()
if [ -n "${PGDATABASE:-}" ]; then
    GIVEN=(PGHOST="${PGHOST:-}" PGPORT="${PGPORT:-5432}" PGDATABASE="$PGDATABASE" PGUSER="${PGUSER:-$(id -un)}")
fi

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TRACES=${TRACES:-$FLEET_ROOT/../shared/data}
WORK=''
TESTS=0
FAILED=0

clean_up()
{
    trap '' INT TERM
    stop_lone "$WORK"
}

# sql [psql's arguments]: in the database under test, as its user.
sql()
{
    PGOPTIONS='-c fleet.border_tolerance=0 -c client_min_messages=warning' \
        as_server env "${GIVEN[@]}" "$PSQL" -XAtq -v ON_ERROR_STOP=1 "$@"
}

start_server()
{
    require_setup
    start_lone "$WORK" agreement
    PSQL=$(tree_bin "$WORK/tree")/psql
    GIVEN=(PGHOST="$WORK" PGPORT=5432 PGDATABASE=postgres PGUSER=postgres)
}

# load_map FILE: the map of the database is this file's from now on.
load_map()
{
    { echo 'BEGIN;'; load_regions "$1"; echo 'COMMIT;'; } >"$WORK/map.sql"
    sql -o /dev/null <"$WORK/map.sql"
}

load_fixes()
{
    sql -c 'DROP TABLE IF EXISTS agreement_points, agreement_truth' \
        -c 'CREATE UNLOGGED TABLE agreement_points (n bigserial, lon float8, lat float8, kind text)'
    zcat "$TRACES/fixes.csv.gz" |
        awk -F, -v OFS=, 'NR > 1 { print $4, $3, "fix" }' |
        sql -c 'COPY agreement_points (lon, lat, kind) FROM STDIN CSV'
}

# add_hard_points: of the present map; those of the map before go.
add_hard_points()
{
    sql <<'SQL'
DELETE FROM agreement_points WHERE kind <> 'fix';
CREATE TEMP TABLE vertex AS
SELECT d.path AS path, m.name, ST_X(d.geom) AS x, ST_Y(d.geom) AS y,
       lead(ST_X(d.geom)) OVER ring AS x2, lead(ST_Y(d.geom)) OVER ring AS y2
  FROM fleet.map_regions AS m, ST_DumpPoints(m.geofence) AS d
WINDOW ring AS (PARTITION BY m.name, d.path[1:2] ORDER BY d.path[3]);
INSERT INTO agreement_points (lon, lat, kind) SELECT x, y, 'vertex' FROM vertex;
INSERT INTO agreement_points (lon, lat, kind)
SELECT (x + x2) / 2, (y + y2) / 2, 'middle' FROM vertex WHERE x2 IS NOT NULL;
INSERT INTO agreement_points (lon, lat, kind)
SELECT (x + x2) / 2 + dx, (y + y2) / 2 + dy, 'beside'
  FROM vertex, (VALUES (1e-7, 0.0), (-1e-7, 0.0), (0.0, 1e-7), (0.0, -1e-7), (1e-10, 1e-10)) AS d(dx, dy)
 WHERE x2 IS NOT NULL;
SQL
}

# ask_postgis: which region covers each point, the first by name on a tie.
ask_postgis()
{
    sql <<'SQL'
DROP TABLE IF EXISTS agreement_truth;
CREATE UNLOGGED TABLE agreement_truth (n bigint, region text);
SELECT format('INSERT INTO agreement_truth SELECT p.n, m.name FROM agreement_points AS p, fleet.map_regions AS m'
              ' WHERE m.name = %L AND ST_Covers(m.geofence, ST_SetSRID(ST_MakePoint(p.lon, p.lat), 4326))', name)
  FROM fleet.map_regions ORDER BY name \gexec
SQL
}

# disagreements KINDS: how many of these points fleet puts elsewhere.
disagreements()
{
    sql -v kinds="{$1}" <<'SQL'
WITH truth AS (SELECT n, min(region COLLATE "C") AS region FROM agreement_truth GROUP BY n)
SELECT count(*) FROM agreement_points AS p LEFT JOIN truth AS t USING (n)
 WHERE p.kind = ANY (:'kinds') AND fleet.region_of(p.lon, p.lat) IS DISTINCT FROM t.region;
SQL
}

compare()
{
    add_hard_points
    ask_postgis
    echo "# $(sql -c "SELECT count(*) FILTER (WHERE kind = 'fix') || ' fixes, ' || count(*) FILTER (WHERE kind <> 'fix')
        || ' hard points, ' || (SELECT count(*) || ' regions' FROM fleet.map_regions) FROM agreement_points")"
    tap_check "$1: every fix is in the region that covers it" "$(disagreements fix)" 0
    tap_check "$1: every vertex is in the first region that covers it" "$(disagreements vertex)" 0
    tap_check "$1: so are points on edges, and right beside them" "$(disagreements middle,beside)" 0
}

main()
{
    local name
    if [ ! -f "$TRACES/fixes.csv.gz" ]; then
        echo "1..0 # SKIP no traces in $TRACES"
        exit 0
    fi
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    WORK=$(make_scratch agreement)
    if [ ${#GIVEN[@]} -gt 0 ]; then
        PSQL=psql
        load_fixes
        compare 'the map of this database'
        sql -c 'DROP TABLE agreement_points, agreement_truth'
    else
        start_server
        load_fixes
        for name in regions regions_land; do
            load_map "$TRACES/$name.geojson"
            compare "$name"
        done
    fi
    echo "1..$TESTS"
    [ "$FAILED" -eq 0 ]
}

main
