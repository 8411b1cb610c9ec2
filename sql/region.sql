--
-- Identity and region map
--

\set SHOW_CONTEXT never

-- Who this is, once.
\c fleet_spare
SELECT * FROM test.raised($$SELECT fleet.request_ride('R', 'C', 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('R', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff_vehicle('V', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.report_fix('V', 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('spare', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'))$$);
SELECT fleet.region_of(0.5, 0.5) IS NULL AS nowhere;
SELECT name, r FROM (VALUES (''), ('A'), ('1a'), ('_a'), ('a-b'), ('a b'), ('é'), (repeat('a', 49)), (E'a\n')) AS n(name),
	test.raised(format('SELECT fleet.init_node(%L)', name)) AS r;
SELECT fleet.init_node(NULL) IS NULL AS null_does_nothing, fleet.node_name() IS NULL AS no_identity;
\c fleet_w
SELECT * FROM test.raised($$SELECT fleet.init_node('other')$$);
SELECT * FROM test.raised($$SELECT fleet.init_node('node_w')$$);
SELECT * FROM test.raised($$INSERT INTO fleet.node VALUES ('other', '1')$$);
SELECT fleet.node_name(), (SELECT incarnation = fleet.incarnation() FROM fleet.node) AS incarnation_kept,
	fleet.incarnation() ~ '^[0-9a-f]+\.[0-9a-f]{8}$' AS incarnation_shape;
SELECT fleet.check_setup();
ALTER SYSTEM SET fleet.allow_async = off;
SELECT pg_reload_conf(), pg_sleep(1) IS NOT NULL AS waited;
\c fleet_w
SELECT * FROM test.raised('SELECT fleet.check_setup()');
SELECT * FROM test.raised($$SELECT fleet.set_capacity('west', 1)$$) AS r WHERE r LIKE 'RF%';
\c fleet_spare
SELECT * FROM test.raised($$SELECT fleet.init_node('node_spare')$$) AS r WHERE r LIKE 'RF%';
ALTER SYSTEM RESET fleet.allow_async;
SELECT pg_reload_conf(), pg_sleep(1) IS NOT NULL AS waited;
\c fleet_w
SELECT fleet.check_setup();

-- What is no geofence.
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', NULL, test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_GeomFromText('MULTIPOLYGON EMPTY', 4326), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_SetSRID(test.box(5, 5, 6, 6), 0), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_SetSRID(test.box(5, 5, 6, 6), 3857), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_MakeEnvelope(5, 5, 6, 6, 4326), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_GeomFromText('POINT(5 5)', 4326), test.conninfo('fleet_spare'))$$);
SET client_min_messages = warning;		-- PostGIS says it, too
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_GeomFromText('MULTIPOLYGON(((5 5,6 6,6 5,5 6,5 5)))', 4326), test.conninfo('fleet_spare'))$$);
RESET client_min_messages;
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(179, 5, 181, 6), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, -91, 6, 6), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', ST_Multi(ST_Force3D(ST_MakeEnvelope(5, 5, 6, 6, 4326))), test.conninfo('fleet_spare'))$$);

-- Overlaps: inside, across, around, equal; a border in common is none.
SELECT box, r FROM (VALUES ('0.4, 0.4, 0.6, 0.6'), ('0.5, -1, 0.6, 0.5'), ('-1, -1, 3, 3'), ('1, 0, 2, 1')) AS b(box),
	test.raised(format($$SELECT fleet.add_region('bad', test.box(%s), test.conninfo('fleet_spare'))$$, box)) AS r
	WHERE r NOT LIKE 'They share%';

-- Names, capacity, connection.
SELECT name, r FROM (VALUES (''), ('West'), ('1a'), ('a-b'), (repeat('a', 49)), (NULL)) AS n(name),
	test.raised(format('SELECT fleet.add_region(%L, test.box(5, 5, 6, 6), test.conninfo(''fleet_spare''))', name)) AS r;
SELECT * FROM test.raised($$SELECT fleet.add_region('west', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'), -1)$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), NULL)$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), 'no such=thing')$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), 'host')$$);
SELECT test.state_of($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), test.conninfo('fleet_nowhere'))$$) AS no_such_database,
	test.state_of($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), 'host=/nowhere dbname=fleet_e')$$) AS no_such_server,
	test.state_of($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), test.conninfo('postgres'))$$) AS no_extension;
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'))$$);
SELECT * FROM test.raised($$SELECT fleet.add_region('bad', test.box(5, 5, 6, 6), test.conninfo('fleet_e'))$$);

-- None of it has left a trace.
SELECT m.version, (SELECT array_agg(name ORDER BY name) FROM fleet.map_regions) AS regions,
	(SELECT array_agg(srvname ORDER BY srvname) FROM pg_foreign_server) AS servers,
	(SELECT count(*) FROM fleet.decisions) AS decisions FROM fleet.map AS m;
SELECT version, change FROM fleet.map_log ORDER BY version;

-- A node with an identity that is part of no map cannot speak for others ...
\c fleet_spare
SELECT fleet.init_node('node_spare');
SELECT * FROM test.raised($$SELECT fleet.add_region('west', test.box(0, 0, 1, 1), test.conninfo('fleet_w'))$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('R', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.report_fix('V', 0.5, 0.5)$$);
-- ... and one that has a map of its own is not taken into another.
SELECT fleet.add_region('spare', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'));
SELECT * FROM fleet.regions;
\c fleet_w
SELECT * FROM test.raised($$SELECT fleet.add_region('spare', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'))$$);
\c fleet_spare
SELECT fleet.remove_region('spare');
SELECT count(*) AS regions FROM fleet.regions;
SELECT count(*) AS maps FROM fleet.map;
SELECT to_regclass('fleet.local_rides') IS NULL AS no_rides, to_regclass('fleet.local_vehicles') IS NULL AS no_vehicles,
	NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname LIKE 'fleet%') AS no_servers;

-- Added and taken back by the caller's own transaction.
\c fleet_e
BEGIN;
SELECT fleet.add_region('spare', test.box(5, 5, 6, 6), test.conninfo('fleet_spare'));
SELECT count(*) AS regions FROM fleet.map_regions;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT fleet.set_capacity('east', 7);
ROLLBACK TO s;
SELECT fleet.set_capacity('west', 8);
COMMIT;
SELECT name, capacity, map_version FROM fleet.regions ORDER BY name;
\c fleet_w
SELECT name, capacity, map_version FROM fleet.regions ORDER BY name;
\c fleet_spare
SELECT count(*) AS regions FROM fleet.map_regions;

-- Added for good, on a node that does not own the first region.  Its geofence
-- touches two others, and crosses one by less than a square metre.
\c fleet_n
SELECT fleet.add_region('spare', test.box(2, 0, 3, 1), test.conninfo('fleet_spare'), 0);
SELECT fleet.set_geofence('spare', test.box(1.99999999999, 0, 3, 1));
SELECT * FROM test.raised($$SELECT fleet.set_geofence('spare', test.box(1.999, 0, 3, 1))$$) AS r WHERE r NOT LIKE 'They share%';
SELECT * FROM test.raised($$SELECT fleet.set_geofence('spare', NULL)$$);
SELECT * FROM test.raised($$SELECT fleet.set_geofence('spare', ST_MakeEnvelope(2, 0, 3, 1, 4326))$$);
SELECT * FROM test.raised($$SELECT fleet.set_geofence('nowhere', test.box(8, 8, 9, 9))$$);
SELECT * FROM test.raised($$SELECT fleet.set_capacity('nowhere', 1)$$);
SELECT * FROM test.raised($$SELECT fleet.set_capacity('spare', -1)$$);
SELECT * FROM test.raised($$SELECT fleet.remove_region('nowhere')$$);
SELECT fleet.set_capacity('spare', 5);
SELECT fleet.set_capacity('spare', NULL);
SELECT name, node, state, capacity, rides, map_version FROM fleet.regions ORDER BY name;
\c fleet_w
SELECT name, node, state, capacity, rides, map_version FROM fleet.regions ORDER BY name;
SELECT fleet.region_of(2.5, 0.5);
\c fleet_spare
SELECT name, node, state, capacity, rides, map_version FROM fleet.regions ORDER BY name;
SELECT ST_AsText(geofence) FROM fleet.map_regions WHERE name = 'spare';

-- Where a place is.  On the border the place belongs to one of the neighbours,
-- the same one on each node.
SELECT lon, lat, fleet.region_of(lon, lat) FROM (VALUES
	(0.5, 0.5), (1.5, 0.5), (0.5, 1.5), (2.5, 0.5),		-- inside
	(0, 0), (2.5, 1),									-- corner and border of one
	(-0.008, 0.5), (2.5, -0.008), (3.005, 1.005),		-- near, within 1000 m
	(-0.01, 0.5), (2.5, -0.01), (-60, -30)				-- nowhere
	) AS p(lon, lat);
SELECT fleet.region_of(1, 0.5) IN ('west', 'east') AS between_two, fleet.region_of(1, 1) IN ('west', 'east', 'north') AS between_three,
	fleet.region_of(1, 0.5) AS border \gset
\c fleet_w
SELECT fleet.region_of(1, 0.5) = :'border' AS same_here;
SELECT fleet.region_of(NULL, 0.5) IS NULL AS null_lon, fleet.region_of(0.5, NULL) IS NULL AS null_lat;
SELECT p, r FROM (VALUES ('180.0001, 0'), ('-180.0001, 0'), ('0, 90.0001'), ('0, -90.0001'), ('''NaN'', 0'), ('0, ''NaN'''),
	('''Infinity'', 0'), ('0, ''-Infinity''')) AS p(p), test.raised(format('SELECT fleet.region_of(%s)', p)) AS r
	WHERE r LIKE '2%';
SELECT * FROM test.raised('SELECT fleet.region_of(181, 0)');
SELECT fleet.region_of(180, 90) IS NULL AS pole, fleet.region_of(-180, -90) IS NULL AS other_pole;
SET fleet.border_tolerance = 0;
SELECT fleet.region_of(-0.000001, 0.5) IS NULL AS off, fleet.region_of(0.5, 0.5) AS inside;
SET fleet.border_tolerance = 2000;
SELECT fleet.region_of(-0.01, 0.5) AS wider;
RESET fleet.border_tolerance;

-- Each place of a grid belongs to the region that PostGIS says.
SET fleet.border_tolerance = 0;
SELECT count(*) AS places, count(*) FILTER (WHERE fleet.region_of(lon, lat) IS DISTINCT FROM (SELECT m.name
		FROM fleet.map_regions AS m WHERE ST_Covers(m.geofence, ST_SetSRID(ST_MakePoint(lon, lat), 4326)))) AS differ
	FROM (SELECT x * 0.0497 - 0.503 AS lon, y * 0.0497 - 0.503 AS lat
		FROM generate_series(0, 80) AS x, generate_series(0, 60) AS y) AS p;
RESET fleet.border_tolerance;

-- A region that owns something stays.
\c fleet_n
SELECT test.settle();
\c fleet_spare
SELECT fleet.request_ride('R-1', 'C-1', 2.5, 0.5);
SELECT fleet.register_vehicle('V-1', 2.5, 0.5);
SELECT name, rides FROM fleet.regions ORDER BY name;
SELECT * FROM test.raised($$SELECT fleet.remove_region('spare')$$);
\c fleet_e
SELECT * FROM test.raised($$SELECT fleet.remove_region('spare')$$);
SELECT name, rides FROM fleet.regions ORDER BY name;
\c fleet_spare
SELECT fleet.handoff('R-1', 'east');
SELECT test.settle();
\c fleet_e
SELECT * FROM test.raised($$SELECT fleet.remove_region('spare')$$);
\c fleet_spare
DELETE FROM fleet.vehicles;
\c fleet_e
SELECT test.settle();
SELECT fleet.remove_region('spare');
DELETE FROM fleet.rides;
SELECT test.settle();
SELECT name, map_version FROM fleet.regions ORDER BY name;
\c fleet_w
SELECT name, map_version FROM fleet.regions ORDER BY name;
SELECT fleet.region_of(2.5, 0.5) IS NULL AS nowhere;
SELECT to_regclass('fleet.rides_spare') IS NULL AS no_rides, to_regclass('fleet.vehicles_spare') IS NULL AS no_vehicles,
	NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname LIKE 'fleet_spare') AS no_server;
\c fleet_spare
SELECT count(*) AS regions FROM fleet.map_regions;
SELECT fleet.own_region() IS NULL AS no_region, fleet.region_of(0.5, 0.5) IS NULL AS no_map;
SELECT * FROM test.raised($$SELECT fleet.handoff('R-1', 'east')$$);
SELECT * FROM test.raised($$INSERT INTO fleet.rides (ride_id, customer_id, region, start_location)
	VALUES ('R-1', 'C-1', 'spare', 'POINT(2.5 0.5)')$$);

-- It can come back, and can take itself off the map.
\c fleet_n
SELECT fleet.add_region('spare', test.box(2, 0, 3, 1), test.conninfo('fleet_spare'));
SELECT test.settle();
\c fleet_spare
SELECT name, map_version FROM fleet.regions ORDER BY name;
SELECT fleet.remove_region('spare');
SELECT count(*) AS regions FROM fleet.map_regions;
SELECT count(*) AS maps FROM fleet.map;
\c fleet_n
SELECT name, map_version FROM fleet.regions ORDER BY name;
SELECT fleet.set_capacity('north', NULL);
SELECT fleet.add_region('spare', test.box(2, 0, 3, 1), test.conninfo('fleet_spare'));
SELECT test.settle();
SELECT fleet.remove_region('spare');
SELECT fleet.set_capacity('west', NULL);

-- All changes, on a node that was there from the start.
\c fleet_w
SELECT version, change, dtxid IS NOT NULL AS by_another_node FROM fleet.map_log ORDER BY version;
SELECT count(*) = count(DISTINCT dtxid) AS each_once FROM fleet.map_log WHERE dtxid IS NOT NULL;
