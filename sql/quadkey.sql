--
-- fleet.quadkey: cells of the tile system
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS fleet CASCADE;
RESET client_min_messages;
SET search_path = public, fleet;
SET extra_float_digits = 0;
\set SHOW_CONTEXT never

-- Does a plan speak of this?  Whole plans look different from version to version.
CREATE FUNCTION pg_temp.plan_has(query text, part text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF strpos(line, part) > 0 THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$$;

-- text
SELECT quote_literal(name::quadkey::text) AS cell, quadkey_level(name::quadkey) AS level
FROM unnest(ARRAY['', '0', '213', '01230123012301230123012301230']) AS name;
SELECT '4'::quadkey;
SELECT ' 213'::quadkey;
SELECT '21x'::quadkey;
SELECT '012301230123012301230123012301'::quadkey;
SELECT NULL::quadkey;

-- binary
SELECT quadkey_send(''), quadkey_send('213'), quadkey_send('33333333333333333333333333333');
CREATE FUNCTION pg_temp.received(field bytea) RETURNS SETOF quadkey LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE sent AS SELECT field;
	CREATE TEMP TABLE got (cell quadkey);
	COPY sent TO PROGRAM 'cat > fleet_quadkey.copy' (FORMAT binary);
	COPY got FROM PROGRAM 'cat fleet_quadkey.copy && rm fleet_quadkey.copy' (FORMAT binary);
	RETURN QUERY SELECT cell FROM got;
	DROP TABLE sent, got;
END
$$;
SELECT received FROM pg_temp.received(quadkey_send('213'));
\set VERBOSITY terse
SELECT received FROM pg_temp.received('\x');
SELECT received FROM pg_temp.received('\x00000000000000');
SELECT received FROM pg_temp.received('\x000000000000000000');
SELECT received FROM pg_temp.received('\x8000000000000000');
SELECT received FROM pg_temp.received('\x000000000000001e');
SELECT received FROM pg_temp.received('\x2000000000000000');
\set VERBOSITY default

-- numbers
SELECT '213'::quadkey::bigint, 0::bigint::quadkey = '' AS world, '213'::quadkey::bigint::quadkey;
SELECT (-1)::bigint::quadkey;
SELECT 64::bigint::quadkey;
SELECT 30::bigint::quadkey;
-- none of it happens by itself
SELECT '213'::quadkey = 5::bigint;
CREATE TEMP TABLE strict_types (cell quadkey, number bigint);
INSERT INTO strict_types (cell) VALUES (0::bigint);
INSERT INTO strict_types (number) VALUES (quadkey '213');

-- The example of "Bing Maps Tile System": tile (3, 5) of level 3.
SELECT quadkey_of_tile(3, 5, 3), t.* FROM quadkey_tile('213') AS t;
SELECT quadkey_of_tile(536870911, 0, 29);
SELECT quadkey_of_tile(8, 0, 3);
SELECT quadkey_of_tile(-1, 0, 3);
SELECT quadkey_of_tile(0, 0, 30);

-- places
SELECT quadkey(-122.4194, 37.7749, 12) AS san_francisco, quadkey(0, 0, 3) AS origin, quadkey(180, 90, 3) AS north_east,
	quadkey(-180, -90, 3) AS south_west, quadkey(-122.4194, 37.7749, 29) AS deepest, quadkey(1, 1, 0) = '' AS world;
SELECT quadkey(0, 85.0512, 20) = quadkey(0, 90, 20) AS cut_off;
SELECT quadkey(180.1, 0, 3);
SELECT quadkey(0, -90.1, 3);
SELECT quadkey('NaN', 0, 3);
SELECT quadkey(0, 'infinity', 3);
SELECT quadkey(0, 0, 30);
SELECT quadkey(0, 0, -1);
SELECT quadkey(NULL, 0, 3) IS NULL AS a, quadkey(0, 0, NULL) IS NULL AS b;

-- family
SELECT quadkey_parent('213'), quadkey_parent('') IS NULL AS world_has_none, quadkey_parent('213', 3) AS own, quadkey_parent('213', 1), quadkey_parent('213', 0) = '' AS world;
SELECT quadkey_parent('213', 4);
SELECT quadkey_parent('213', -1);
SELECT string_agg(c::text, ' ') FROM quadkey_children('21') AS c;
SELECT count(*) FROM quadkey_children('01230123012301230123012301230');
SELECT string_agg(n::text, ' ') AS inner, (SELECT string_agg(n::text, ' ') FROM quadkey_neighbours('000') AS n) AS corner,
	(SELECT string_agg(n::text, ' ') FROM quadkey_neighbours('0') AS n) AS level_1,
	(SELECT count(*) FROM quadkey_neighbours('')) AS world
FROM quadkey_neighbours('213') AS n;
SELECT quadkey_children('2'), quadkey_neighbours('2');
SELECT * FROM quadkey_range('213');
SELECT west, south, east, north FROM quadkey_edges('213');
SELECT west, south, east, north FROM quadkey_edges('');
SELECT west, south, east, north FROM quadkey_reach('000');
SELECT ST_SRID(b), ST_AsText(b, 6) FROM quadkey_bounds('213') AS b;
SELECT count(*) AS outside FROM generate_series(0, 29) AS level, (VALUES (-122.4194, 37.7749), (180, 0), (0, -85)) AS p (lon, lat)
WHERE NOT ST_Intersects(quadkey_bounds(quadkey(lon, lat, level)), ST_SetSRID(ST_MakePoint(lon, lat), 4326));

-- operators
SELECT a, b, a = b AS eq, a <> b AS ne, a < b AS lt, a <= b AS le, a > b AS gt, a >= b AS ge, quadkey_cmp(a, b) AS cmp,
	a @> b AS contains, a <@ b AS contained
FROM (VALUES (quadkey '213', quadkey '213'), ('213', '2130'), ('2130', '213'), ('213', '22'), ('213', '212'), ('', '3'), ('213', NULL)) AS p (a, b);

-- order: that of the digits as text
CREATE TEMP TABLE cells AS
	SELECT i AS id, quadkey_parent(quadkey(i * 7919 % 360000 / 1000.0 - 180, i * 104729 % 170000 / 1000.0 - 85, 29), i % 30) AS cell
	FROM generate_series(1, 20000) AS i;
SELECT count(*) AS text_differs FROM (
	SELECT rank() OVER (ORDER BY cell) AS a, rank() OVER (ORDER BY cell::text COLLATE "C") AS b FROM cells) AS s
WHERE a <> b;
SELECT count(DISTINCT cell) > 15000 AS many FROM cells;

-- a btree index finds what lies in a cell
CREATE INDEX cells_btree ON cells (cell);
ANALYZE cells;
SELECT count(*) AS by_operator, count(*) FILTER (WHERE starts_with(cell::text, '0231')) AS by_text FROM cells WHERE cell <@ '0231';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT query, pg_temp.plan_has(query, 'using cells_btree') AS index,
	pg_temp.plan_has(query, 'Index Cond: ((cell >= ''0231''::quadkey) AND (cell <= ''02313333333333333333333333333''::quadkey))') AS range, pg_temp.plan_has(query, 'Filter') AS filter
FROM (VALUES ($$SELECT id FROM cells WHERE cell <@ '0231'$$), ($$SELECT id FROM cells WHERE '0231' @> cell$$),
	($$SELECT id FROM cells WHERE quadkey_contains('0231', cell)$$), ($$SELECT id FROM cells WHERE cell @> '0231'$$), ($$SELECT id FROM cells WHERE cell <@ NULL$$)) AS q (query);
SELECT count(*) FROM cells WHERE cell <@ '0231';
SELECT count(*) FROM cells WHERE '0231' @> cell;
SELECT count(*) FROM cells WHERE cell @> '0231' AND cell <> '';
-- cells of a cover as the outer side
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT pg_temp.plan_has($$SELECT id FROM quadkey_children('023') AS c JOIN cells ON cell <@ c$$, 'Index Cond: ((cell >= c.c) AND (cell <= quadkey_last(c.c)))') AS range;
SELECT (SELECT count(*) FROM quadkey_children('023') AS c JOIN cells ON cell <@ c) = (SELECT count(*) FROM cells WHERE cell <@ '023' AND cell <> '023') AS same;
RESET enable_hashjoin;
RESET enable_mergejoin;
PREPARE within (quadkey) AS SELECT count(*) FROM cells WHERE cell <@ $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE within ('0231');
EXECUTE within (NULL);
RESET plan_cache_mode;
DROP INDEX cells_btree;
CREATE INDEX cells_hash ON cells USING hash (cell);
SELECT pg_temp.plan_has($$SELECT id FROM cells WHERE cell = '0231'$$, 'using cells_hash') AS hash, pg_temp.plan_has($$SELECT id FROM cells WHERE cell <@ '0231'$$, 'using cells_hash') AS no_range;
SELECT count(*) FROM cells WHERE cell <@ '0231';
RESET enable_seqscan;
RESET enable_bitmapscan;

-- joins: each way gives the same
SET enable_nestloop = off;
SET enable_mergejoin = off;
SELECT pg_temp.plan_has('SELECT count(*) FROM cells a JOIN cells b USING (cell)', 'Hash Join') AS hashes;
SELECT count(*) FROM cells a JOIN cells b USING (cell) \gset hash_
SET enable_mergejoin = on;
SET enable_hashjoin = off;
SELECT pg_temp.plan_has('SELECT count(*) FROM cells a JOIN cells b USING (cell)', 'Merge Join') AS merges;
SELECT count(*) = :hash_count AS same FROM cells a JOIN cells b USING (cell);
RESET enable_nestloop;
RESET enable_mergejoin;
RESET enable_hashjoin;
CREATE TEMP TABLE hashed (cell quadkey) PARTITION BY HASH (cell);
CREATE TEMP TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TEMP TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO hashed SELECT cell FROM cells;
SELECT count(*), (SELECT count(*) FROM hashed_0) BETWEEN 8000 AND 12000 AS fair FROM hashed;
SELECT opcname, amname, amvalidate(c.oid)
FROM pg_opclass c JOIN pg_am m ON m.oid = opcmethod
WHERE opcintype = 'fleet.quadkey'::regtype ORDER BY amname;

-- covers of circles
SELECT string_agg(c::text, ' ') FROM quadkey_cover('POINT(-122.4194 37.7749)'::geography, 500, 14) AS c;
SELECT string_agg(c::text, ' ') FROM quadkey_cover('POINT(0 0)'::geography, 0, 3) AS c;
SELECT string_agg(c::text, ' ') FROM quadkey_cover('POINT(180 10)'::geography, 1000, 5) AS c;
SELECT count(*) FROM quadkey_cover('POINT(0 90)'::geography, 10, 4);
SELECT count(*) FROM quadkey_cover('POINT(0 0)'::geography, 'infinity', 5);
SELECT count(*) FROM quadkey_cover('POINT EMPTY'::geography, 10, 4);
SELECT count(*) FROM quadkey_cover('POINT(0 0)'::geography, NULL, 4);
SELECT quadkey_cover('POINT(0 0)'::geography, 20000000, 9);
SELECT quadkey_cover('POINT(0 0)'::geography, -1, 9);
SELECT quadkey_cover('POINT(0 0)'::geography, 'NaN', 9);
SELECT quadkey_cover('POINT(0 0)'::geography, 1, 30);
SELECT quadkey_cover('LINESTRING(0 0, 1 1)'::geography, 1, 3);
SELECT quadkey_cover('SRID=4269;POINT(0 0)'::geography, 1, 3);
-- Places at this distance on the spheroid, all around: their cells are there.
WITH circles AS MATERIALIZED (
	SELECT centre::geography, radius_m, level, ARRAY(SELECT quadkey_cover(centre::geography, radius_m, level)) AS cells
	FROM (VALUES ('POINT(0 0)'), ('POINT(-122.4194 37.7749)'), ('POINT(179.999 -45)'), ('POINT(20 84.9)'), ('POINT(20 -89.99)')) AS c (centre),
		(VALUES (50, 18), (5000, 12), (300000, 6), (5000000, 5)) AS r (radius_m, level))
SELECT count(*) AS places, count(*) FILTER (WHERE quadkey(ST_X(p), ST_Y(p), level) = ANY (cells)) AS covered
FROM circles, generate_series(0, 359, 5) AS direction, CAST(ST_Project(centre, radius_m, radians(direction))::geometry AS geometry) AS p;

-- covers of areas
SELECT string_agg(c::text, ' ') FROM quadkey_cover('SRID=4326;POLYGON((-10 -10, 10 -10, 10 10, -10 10, -10 -10))'::geometry, 3) AS c;
SELECT string_agg(c::text, ' ') FROM quadkey_cover('SRID=4326;LINESTRING(-170 70, 170 70)'::geometry, 2) AS c;
SELECT string_agg(c::text, ' ') FROM quadkey_cover('SRID=4326;MULTIPOINT(-122.4194 37.7749, 0 89)'::geometry, 12) AS c;
SELECT quadkey(-122.4194, 37.7749, 12), quadkey(0, 89, 12);
SELECT count(*) FROM quadkey_cover('SRID=4326;POLYGON((-180 -90, 180 -90, 180 90, -180 90, -180 -90))'::geometry, 4);
SELECT count(*) FROM quadkey_cover('SRID=4326;POLYGON EMPTY'::geometry, 4);
SELECT count(*) FROM quadkey_cover('SRID=4326;POLYGON EMPTY'::geometry, 0);
SELECT count(*) FROM quadkey_cover('SRID=4326;POINT(1 1)'::geometry, 0);
-- the same as by looking at all cells
WITH area (area) AS (VALUES (ST_Buffer('SRID=4326;POINT(10 50)'::geometry, 12)), ('SRID=4326;POLYGON((-60 -50, 60 -50, 0 70, -60 -50), (-20 -20, 20 -20, 0 20, -20 -20))'))
SELECT (SELECT array_agg(c) FROM quadkey_cover(area, 6) AS c) =
	(SELECT array_agg(c ORDER BY c) FROM generate_series(0, 63) AS x, generate_series(0, 63) AS y, quadkey_of_tile(x, y, 6) AS c WHERE ST_Intersects(area, quadkey_bounds(c))) AS same
FROM area;
SELECT quadkey_cover('SRID=4326;POLYGON((-180 -90, 180 -90, 180 90, -180 90, -180 -90))'::geometry, 9);
SELECT quadkey_cover('SRID=3857;POINT(1 1)'::geometry, 4);
SELECT quadkey_cover('SRID=4326;POINT(181 1)'::geometry, 4);
SELECT quadkey_cover('SRID=4326;POINT(1 1)'::geometry, 30);

-- the SQLSTATEs of what is refused
CREATE FUNCTION pg_temp.state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END
$$;
SELECT pg_temp.state_of('SELECT ' || call) AS state, call
FROM unnest(ARRAY[$$'4'::quadkey$$, $$repeat('0', 30)::quadkey$$, '1::bigint::quadkey', '64::bigint::quadkey', 'quadkey(0, 0, 30)', 'quadkey(181, 0, 3)',
	'quadkey_of_tile(8, 0, 3)', $$quadkey_parent('213', 4)$$, $$quadkey_cover('POINT(0 0)'::geography, -1, 3)$$, $$quadkey_cover('POINT(0 0)'::geography, 1e7, 20)$$,
	$$quadkey_cover('LINESTRING(0 0, 1 1)'::geography, 1, 3)$$, $$quadkey_cover('POINT(0 0)'::geometry, 3)$$,
	$$quadkey_cover('SRID=4326;POLYGON((0 0, 90 0, 90 80, 0 0))'::geometry, 20)$$]) AS call;
