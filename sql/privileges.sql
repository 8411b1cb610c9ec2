--
-- Who may do what
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE fleet_stranger;
CREATE ROLE fleet_driver;
RESET client_min_messages;
\c fleet_e
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.rides, fleet.vehicles TO fleet_driver;
GRANT USAGE ON SCHEMA test TO PUBLIC;
\c fleet_w
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.rides, fleet.vehicles TO fleet_driver;
GRANT USAGE ON SCHEMA test TO PUBLIC;
SELECT fleet.request_ride('P-' || n, 'C-' || n, 0.5, 0.5) FROM generate_series(1, 4) AS n;
SELECT fleet.register_vehicle('PV-1', 0.5, 0.5);

-- A stranger: what is public, and nothing else.
SET ROLE fleet_stranger;
SELECT fleet.node_name(), fleet.own_region(), fleet.region_of(0.5, 0.5), fleet.hlc_now() IS NOT NULL AS hlc;
SELECT test.state_of(s) AS state, s FROM unnest(ARRAY['SELECT FROM fleet.rides', 'SELECT FROM fleet.local_rides', 'SELECT FROM fleet.rides_east',
	'SELECT FROM fleet.vehicles', 'SELECT FROM fleet.local_vehicles', 'SELECT FROM fleet.departures', 'SELECT FROM fleet.handoff_log',
	'SELECT FROM fleet.decisions', 'SELECT FROM fleet.resolution', 'SELECT FROM fleet.node', 'SELECT FROM fleet.map', 'SELECT FROM fleet.map_regions',
	'SELECT FROM fleet.map_log', 'SELECT FROM fleet.in_doubt', 'SELECT FROM fleet.peers', 'SELECT FROM fleet.regions',
	'SELECT fleet.init_node(''x'')', 'SELECT fleet.add_region(''x'', NULL, '''')', 'SELECT fleet.remove_region(''west'')',
	'SELECT fleet.set_geofence(''west'', NULL)', 'SELECT fleet.set_capacity(''west'', 0)',
	'SELECT fleet.handoff(''P-1'', ''east'')', 'SELECT fleet.handoff(ARRAY[''P-1''], ''east'')', 'SELECT fleet.handoff_vehicle(''PV-1'', ''east'')',
	'SELECT fleet.request_ride(''P-5'', ''C'', 0.5, 0.5)', 'SELECT fleet.set_ride_status(''P-1'', ''CANCELLED'')',
	'SELECT fleet.register_vehicle(''PV-2'', 0.5, 0.5)', 'SELECT fleet.report_fix(''PV-1'', 0.5, 0.5)',
	'SELECT fleet.verify()', 'SELECT fleet.verify_once()', 'SELECT fleet.inventory()', 'SELECT fleet.ask(''east'', ''SELECT 1'')',
	'SELECT fleet.resolve(''x'', ''abort'')', 'SELECT fleet.outcomes(''{}'')', 'SELECT fleet.branch_applied(''x'')', 'SELECT fleet.is_running(''x'')',
	'SELECT fleet.finish_prepared(''x'', true)', 'SELECT fleet.settle(''{}'', ''{}'', ''{}'')', 'SELECT fleet.redo(''x'', ''[]'')',
	'SELECT fleet.depart(''x'', false, ''{P-1}'', ''east'', 0::bigint, 3::bigint, 0::bigint, 1000)', 'SELECT fleet.depart_again(''x'', ''[]'')',
	'SELECT fleet.arrive(''x'', ''[]'', 3::bigint, true)', 'SELECT fleet.apply_map(NULL, ''{}'', true)', 'SELECT fleet.change_map(''x'', ''[]'')',
	'SELECT fleet.request_map(''east'', ''{}'')', 'SELECT fleet.map_payload(''west'')', 'SELECT fleet.begin_map_change()',
	'SELECT fleet.edit_region(''west'', '''', ''{}'')', 'SELECT fleet.create_server(''x'', ''{}'', ''{}'')', 'SELECT fleet.create_partitions(''x'', true)',
	'SELECT fleet.drop_region(''west'')', 'SELECT fleet.whereabouts(''ride'', ''P-1'')', 'SELECT fleet.map_changed()', 'SELECT fleet.worker_wanted()',
	'SELECT fleet.geofence_wkb(''west'')', 'SELECT fleet.hlc_receive(fleet.hlc_now())', 'CREATE TABLE fleet.x ()', 'CREATE FUNCTION fleet.x() RETURNS int LANGUAGE sql RETURN 1',
	'CREATE SERVER x FOREIGN DATA WRAPPER postgres_fdw', 'CREATE FOREIGN TABLE pg_temp.x () SERVER fleet_east', 'SET fleet.allow_async = on',
	'SET fleet.resolve_interval = 10', 'SET fleet.max_clock_skew = 1000000']) WITH ORDINALITY AS u(s, n) ORDER BY n;
RESET ROLE;

-- Granted the tables: rides and vehicles of this region, and to read the others.
SET ROLE fleet_driver;
SELECT fleet.request_ride('P-5', 'C-5', 0.5, 0.5, 'PV-1');
SELECT fleet.set_ride_status('P-5', 'EN_ROUTE');
SELECT fleet.register_vehicle('PV-2', 0.5, 0.5);
SELECT outcome, region FROM fleet.report_fix('PV-1', 0.6, 0.6);
DELETE FROM fleet.rides WHERE ride_id = 'P-4' AND region = 'west';
SELECT region, ride_id, status FROM fleet.rides WHERE ride_id LIKE 'P-%' ORDER BY ride_id;
SELECT count(*) FROM fleet.rides WHERE region = 'east';
SELECT * FROM test.raised($$SELECT fleet.handoff('P-1', 'east')$$);
SELECT * FROM test.raised($$SELECT count(*) FROM fleet.departures$$);
SELECT * FROM test.raised($$SELECT count(*) FROM fleet.regions$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION fleet.handoff(text, text, bigint), fleet.handoff(text[], text), fleet.handoff_vehicle(text, text) TO fleet_driver, fleet_stranger;
SET ROLE fleet_driver;
SELECT fleet.handoff('P-1', 'east');
SELECT fleet.handoff('P-1', 'west');
SELECT fleet.handoff_vehicle('PV-2', 'east');
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id = 'P-1';
-- Executing is not enough.
SET ROLE fleet_stranger;
SELECT * FROM test.raised($$SELECT fleet.handoff('P-1', 'east')$$);
RESET ROLE;
GRANT SELECT ON fleet.rides, fleet.vehicles TO fleet_stranger;
SET ROLE fleet_stranger;
SELECT * FROM test.raised($$SELECT fleet.handoff('P-1', 'east')$$);
RESET ROLE;
-- Changing the map takes a superuser, whoever grants the function.
GRANT EXECUTE ON FUNCTION fleet.set_capacity(text, integer), fleet.edit_region(text, text, jsonb), fleet.begin_map_change() TO fleet_stranger;
SET ROLE fleet_stranger;
SELECT * FROM test.raised($$SELECT fleet.set_capacity('west', 0)$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fleet.set_capacity(text, integer), fleet.edit_region(text, text, jsonb), fleet.begin_map_change() FROM fleet_stranger;

-- Row-level security: what a policy hides is neither seen nor handed off.
ALTER TABLE fleet.rides ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fleet.rides TO fleet_driver USING (customer_id = 'C-2');
SET ROLE fleet_driver;
SELECT ride_id FROM fleet.rides ORDER BY ride_id;
SELECT * FROM test.raised($$SELECT fleet.handoff('P-3', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('{P-2,P-3}'::text[], 'east')$$) AS r WHERE r LIKE '42501%';
SELECT * FROM test.raised($$SELECT fleet.handoff('P-nowhere', 'east')$$) AS r WHERE r LIKE '42501%';
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('P-3', 'CANCELLED')$$);
SELECT fleet.handoff('P-2', 'east');
RESET ROLE;
DROP POLICY own ON fleet.rides;
ALTER TABLE fleet.rides DISABLE ROW LEVEL SECURITY;
SELECT region, ride_id, status, epoch FROM fleet.rides WHERE ride_id LIKE 'P-%' ORDER BY ride_id;

-- The service role: its part of fleet's work, and no more.
SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'fleet_node';
SELECT count(*) AS memberships FROM pg_auth_members WHERE 'fleet_node'::regrole IN (roleid, member);
SET SESSION AUTHORIZATION fleet_node;
SELECT count(*) > 0 AS reads_rides FROM fleet.local_rides;
SELECT fleet.whereabouts('ride', 'P-2'), fleet.outcomes('{}'), fleet.branch_applied('x');
SELECT test.state_of(s) AS state, s FROM unnest(ARRAY['INSERT INTO fleet.local_rides SELECT * FROM fleet.local_rides', 'DELETE FROM fleet.local_rides',
	'UPDATE fleet.local_rides SET fare = 0', 'UPDATE fleet.local_rides SET region = ''east''', 'TRUNCATE fleet.local_rides', 'SELECT FROM fleet.rides',
	'SELECT FROM fleet.departures', 'SELECT FROM fleet.handoff_log', 'SELECT FROM fleet.decisions', 'DELETE FROM fleet.decisions',
	'SELECT FROM fleet.map_regions', 'UPDATE fleet.map SET version = 1', 'SELECT fleet.map_payload(''west'')', 'SELECT fleet.change_map(''x'', ''[]'')',
	'SELECT fleet.handoff(''P-3'', ''east'')', 'SELECT fleet.ask(''east'', ''SELECT 1'')', 'SELECT fleet.resolve(''x'', ''abort'')',
	'SELECT fleet.finish_prepared(''x'', true)', 'SELECT fleet.depart_again(''x'', ''[]'')', 'SELECT fleet.create_server(''x'', ''{}'', ''{}'')',
	'CREATE TABLE fleet.x ()', 'CREATE ROLE fleet_x', 'SELECT pg_read_file(''PG_VERSION'')']) WITH ORDINALITY AS u(s, n) ORDER BY n;
RESET SESSION AUTHORIZATION;

-- Its UPDATE of one column is for planning; a row so changed is a change like any other.
SELECT hlc::bigint AS hlc FROM fleet.local_rides WHERE ride_id = 'P-3' \gset
SET SESSION AUTHORIZATION fleet_node;
UPDATE fleet.local_rides SET updated_at = '2000-01-01' WHERE ride_id = 'P-3';
RESET SESSION AUTHORIZATION;
SELECT updated_at > '2020-01-01' AS time_is_ours, hlc::bigint > :hlc AS stamped FROM fleet.local_rides WHERE ride_id = 'P-3';

REVOKE ALL ON FUNCTION fleet.handoff(text, text, bigint), fleet.handoff(text[], text), fleet.handoff_vehicle(text, text) FROM fleet_driver, fleet_stranger;
REVOKE ALL ON fleet.rides, fleet.vehicles FROM fleet_driver, fleet_stranger;
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
\c fleet_e
REVOKE ALL ON fleet.rides, fleet.vehicles FROM fleet_driver;
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT test.settle();
SELECT * FROM fleet.verify();
DROP ROLE fleet_driver, fleet_stranger;
