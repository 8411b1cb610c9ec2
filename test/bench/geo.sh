#!/bin/bash
# fleet: how long it takes to find the region of a point, beside PostGIS.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# Two cases: the fixes of real cabs in 9 counties, and random points in a box
# around the United States with its 3,231 counties.  For each, in one run:
#
#   ns             the core in a C program, for each point
#   sql_ns         fleet.region_of() for each row of a query (tolerance 0)
#   postgis_prepared_ns
#                  ST_Covers for each row, the faster of two ways in which
#                  PostGIS can use prepared polygons: for each point, the polygons
#                  by their GiST index; for each polygon, the points by theirs
#                  (making the indexes is not counted)
#   ratio          postgis_prepared_ns / ns;   sql_ratio: / sql_ns
#   *_spread       fastest and slowest of 5 repetitions; the figures are medians
#   found          points in a region, the same by all three or it fails
#
# From the environment: TRACES (../shared/data), POINTS (200000), REPETITIONS (5).

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TRACES=${TRACES:-$FLEET_ROOT/../shared/data}
POINTS=${POINTS:-200000}
REPETITIONS=${REPETITIONS:-5}
WORK=''

clean_up()
{
    trap '' INT TERM
    stop_lone "$WORK"
}

sql()
{
    lone_sql "$WORK" '-c fleet.border_tolerance=0 -c jit=off -c max_parallel_workers_per_gather=0' "$@"
}

# load FILE POINTS: the regions, as fleet's map and as a plain table, and points.
load()
{
    {
        load_regions "$1"
        cat <<'SQL'
DROP TABLE IF EXISTS region, point;
CREATE TABLE region AS SELECT name, geofence FROM fleet.map_regions;
CREATE INDEX region_geofence ON region USING gist (geofence);
CREATE TABLE point (lon float8, lat float8, place geometry(Point, 4326)
    GENERATED ALWAYS AS (ST_SetSRID(ST_MakePoint(lon, lat), 4326)) STORED);
SQL
    } >"$WORK/load.sql"
    sql -o /dev/null <"$WORK/load.sql"
    sql -c 'COPY point (lon, lat) FROM STDIN CSV' <"$2"
    sql -c 'CREATE INDEX point_place ON point USING gist (place)' -c 'VACUUM ANALYZE point' -c 'VACUUM ANALYZE region'
}

# timed QUERY: "NS RESULT" of each repetition, after one that is not counted.
timed()
{
    local query=$1 i args=(-c "$1" -c '\timing on')
    for ((i = 0; i < REPETITIONS; i++)); do args+=(-c "$query"); done
    sql "${args[@]}" | awk -v n="$(wc -l <"$WORK/points")" '
        /^Time:/ { printf "%.2f %s\n", $2 * 1e6 / n, result; next } { result = $1 }'
}

# median FILE: "MEDIAN FASTEST-SLOWEST RESULT"
median()
{
    sort -n "$1" | awk '{ ns[NR] = $1; result = $2 }
        END { if (NR == 0) exit 1
              printf "%.1f %.1f-%.1f %s\n", ns[int((NR + 1) / 2)], ns[1], ns[NR], result }'
}

# bench NAME FILE: the points are in $WORK/points.
bench()
{
    local core core_spread core_found sql sql_spread sql_found gis gis_spread gis_found other
    load "$2" "$WORK/points"
    "$WORK/geo_bench" "$2" "$REPETITIONS" <"$WORK/points" >"$WORK/core"
    timed 'SELECT count(fleet.region_of(lon, lat)) FROM point' >"$WORK/sql"
    timed 'SELECT count(r.name) FROM point AS p CROSS JOIN LATERAL
           (SELECT name FROM region WHERE ST_Covers(geofence, p.place) LIMIT 1) AS r' >"$WORK/by_point"
    timed 'SELECT count(*) FROM region AS r CROSS JOIN LATERAL
           (SELECT FROM point WHERE ST_Covers(r.geofence, place) OFFSET 0) AS p' >"$WORK/by_region"
    read -r core core_spread core_found < <(median "$WORK/core")
    read -r sql sql_spread sql_found < <(median "$WORK/sql")
    read -r gis gis_spread gis_found < <(median "$WORK/by_point")
    read -r other _ < <(median "$WORK/by_region")
    echo "# PostGIS $gis ns by point, $other ns by polygon"
    if awk "BEGIN { exit !($other < $gis) }"; then
        read -r gis gis_spread gis_found < <(median "$WORK/by_region")
    fi
    awk -v core="$core" -v sql="$sql" -v gis="$gis" 'BEGIN {
        printf "ns=%s sql_ns=%s postgis_prepared_ns=%s ratio=%.0f sql_ratio=%.1f", core, sql, gis, gis / core, gis / sql }' |
        sed "s/^/bench.geo case=$1 points=$(wc -l <"$WORK/points") found=$core_found /"
    echo " ns_spread=$core_spread sql_spread=$sql_spread postgis_spread=$gis_spread"
    if [ "$core_found $core_found" != "$sql_found $gis_found" ]; then
        die "$1: found $core_found by the core, $sql_found by SQL, $gis_found by PostGIS"
    fi
}

main()
{
    if [ ! -f "$TRACES/fixes.csv.gz" ]; then
        echo "bench.geo skipped: no traces in $TRACES"
        exit 0
    fi
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    require_setup
    WORK=$(make_scratch geo)
    (cd "$FLEET_ROOT" &&
        "${CC:-cc}" -std=gnu11 -O2 -Wall -Isrc -Itest/data -o "$WORK/geo_bench" test/bench/geo_bench.c src/geo/{geofence*,haversine,orient,wkb}.c -lm)
    start_lone "$WORK" bench 'shared_buffers = 256MB'

    # Spread over all cabs and days, in the order of the file.
    zcat "$TRACES/fixes.csv.gz" |
        awk -F, -v OFS=, -v want="$POINTS" 'NR > 1 && (NR * want) % 2211057 < want { print $4, $3 }' >"$WORK/points"
    bench 9_counties "$TRACES/regions.geojson"

    awk -v n="$POINTS" 'BEGIN { srand(1)
        while (n-- > 0) printf "%.6f,%.6f\n", -125 + 58 * rand(), 25 + 24 * rand() }' >"$WORK/points"
    zcat "$TRACES/us_counties_10m.geojson.gz" >"$WORK/us.geojson"
    bench 3231_counties "$WORK/us.geojson"
}

main
