#!/bin/bash
# fleet: fleet.nearest_vehicles finds the cabs that plain PostGIS has found.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# At twelve instants all cabs seen lately are where they were (truth/latest.csv), and the ten
# nearest free ones within 5 km of 25 places are looked for; the truth is truth/knn.csv.
# From one instant to the next the cabs are moved by updates, so it is the live index as it
# is after these that answers.  Then the same by the table.
#
# The truth is in the order of the spheroid, and fleet's is that of the sphere.  So what is nearest
# on the sphere is computed by PostGIS from all positions, and must be equal; of the truth only those
# may be missing that are farther on the sphere than the last that was found.  PostGIS' sphere has another
# radius in the ninth digit, and the truth's distances are given in millimetres.
#
# Prints TAP.  From the environment: TRACES (../shared/data).  Without the data it skips.

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

sql()
{
    lone_sql "$WORK" '-c fleet.vehicle_ttl=0' "$@"
}

start_server()
{
    require_setup
    start_lone "$WORK" bay
    sql -o /dev/null <<SQL
SELECT fleet.add_region('bay', ST_Multi(ST_MakeEnvelope(-124, 36, -121, 39, 4326)), 'host=$WORK port=5432 dbname=postgres');
SQL
}

load_truth()
{
    sql -c 'CREATE TABLE latest (inst bigint, cab text, t bigint, lat float8, lon float8, occ integer)' \
        -c 'CREATE TABLE knn (inst bigint, q integer, lat float8, lon float8, rank integer, cab text, t bigint, spheroid float8, sphere float8)' \
        -c 'CREATE TABLE found (inst bigint, by text, q integer, rank bigint, cab text, distance float8)'
    sql -c 'COPY latest FROM STDIN CSV HEADER' <"$TRACES/truth/latest.csv"
    sql -c 'COPY knn FROM STDIN CSV HEADER' <"$TRACES/truth/knn.csv"
    sql -c "INSERT INTO fleet.vehicles (vehicle_id, region) SELECT DISTINCT cab, 'bay' FROM latest"
}

# find_on_sphere: what PostGIS says of all positions
find_on_sphere()
{
    sql <<'SQL'
CREATE TABLE sphere AS SELECT * FROM (SELECT p.inst, p.q, l.cab, d.sphere, d.spheroid, row_number() OVER (PARTITION BY p.inst, p.q ORDER BY d.sphere, l.cab COLLATE "C") AS rank
    FROM (SELECT DISTINCT inst, q, lon, lat FROM knn) AS p JOIN latest AS l ON l.inst = p.inst AND l.occ = 0,
        LATERAL (SELECT ST_Distance(fleet.make_point(p.lon, p.lat), fleet.make_point(l.lon, l.lat), false) AS sphere,
            ST_Distance(fleet.make_point(p.lon, p.lat), fleet.make_point(l.lon, l.lat)) AS spheroid) AS d
    WHERE d.sphere <= 5000) AS x WHERE rank <= 10;
SQL
}

# look_at INSTANT: move the cabs, look by the index and by the table
look_at()
{
    local find="INSERT INTO found SELECT $1, :'by', q, row_number() OVER (PARTITION BY q ORDER BY n.n), n.vehicle_id, n.distance_m
        FROM (SELECT DISTINCT q, lon, lat FROM knn WHERE inst = $1) AS p,
            fleet.nearest_vehicles(p.lon, p.lat, 10, 5000, 'ONLINE') WITH ORDINALITY AS n(vehicle_id, region, status, lon, lat, distance_m, heading, fix_at, n)"
    sql <<SQL
UPDATE fleet.vehicles SET status = 'OFFLINE' WHERE region = 'bay' AND vehicle_id NOT IN (SELECT cab FROM latest WHERE inst = $1);
UPDATE fleet.vehicles AS v SET location = fleet.make_point(l.lon, l.lat), fix_at = to_timestamp(l.t),
        status = (CASE l.occ WHEN 0 THEN 'ONLINE' ELSE 'ON_TRIP' END)::fleet.vehicle_status
    FROM latest AS l WHERE l.inst = $1 AND v.vehicle_id = l.cab AND v.region = 'bay';
\set by index
$find;
\set by table
BEGIN ISOLATION LEVEL REPEATABLE READ;
$find;
COMMIT;
SQL
}

# compare BY
compare()
{
    local n
    n=$(sql -c 'SELECT count(*) FROM sphere')
    tap_check "by the $1: as many as there are" "$(sql -c "SELECT count(*) FROM found WHERE by = '$1'")" "$n"
    tap_check "by the $1: those that are nearest on the sphere, in this order" "$(sql -c "SELECT count(*) FROM found AS f JOIN sphere AS s USING (inst, q, rank, cab)
        WHERE f.by = '$1' AND abs(f.distance - s.sphere) < 0.001")" "$n"
    tap_check "by the $1: as far away as in the truth" "$(sql -c "SELECT count(*) FROM found AS f JOIN knn AS k USING (inst, q, cab)
        WHERE f.by = '$1' AND abs(f.distance - k.sphere) >= 0.001")" 0
    tap_check "by the $1: what is missing of the truth is farther on the sphere" "$(sql -c "SELECT count(*) FROM knn AS k WHERE NOT EXISTS
            (SELECT FROM found AS f WHERE f.by = '$1' AND (f.inst, f.q, f.cab) = (k.inst, k.q, k.cab))
        AND k.sphere <= 5000 AND k.sphere < (SELECT max(f.distance) FROM found AS f WHERE f.by = '$1' AND (f.inst, f.q) = (k.inst, k.q))")" 0
    tap_check "by the $1: what is not of the truth is farther on the spheroid" "$(sql -c "SELECT count(*) FROM found AS f JOIN sphere AS s USING (inst, q, cab)
        WHERE f.by = '$1' AND NOT EXISTS (SELECT FROM knn AS k WHERE (f.inst, f.q, f.cab) = (k.inst, k.q, k.cab))
        AND s.spheroid <= 5000 AND s.spheroid < (SELECT max(k.spheroid) FROM knn AS k WHERE (f.inst, f.q) = (k.inst, k.q))")" 0
}

main()
{
    local instant
    if [ ! -f "$TRACES/truth/knn.csv" ]; then
        echo "1..0 # SKIP no truth in $TRACES"
        exit 0
    fi
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    WORK=$(make_scratch nearest)
    start_server
    load_truth
    find_on_sphere
    for instant in $(sql -c 'SELECT DISTINCT inst FROM knn ORDER BY inst'); do
        look_at "$instant"
    done
    compare index
    compare table
    tap_check 'the index has answered' "$(sql -c "SELECT index_searches = (SELECT count(*) FROM (SELECT DISTINCT inst, q FROM knn) AS x) FROM fleet.live_index")" t
    echo "# $(sql -c "SELECT count(*) FROM found WHERE by = 'index'") found, $(sql -c "SELECT count(*) FROM found AS f JOIN knn AS k USING (inst, q, cab) WHERE by = 'index'")" \
        "of them the truth's $(sql -c 'SELECT count(*) FROM knn')"
    echo "# sphere and spheroid differ by up to $(sql -c 'SELECT round((max(abs(sphere / spheroid - 1)) * 100)::numeric, 3) FROM knn WHERE spheroid > 0') %"
    echo "1..$TESTS"
    [ "$FAILED" -eq 0 ]
}

main
