--
-- Databases of this server as nodes, for all tests that follow
--
-- Three squares of one degree, and what lies north of two of them:
--
--	      north (0..2, 1..2)
--	west (0..1, 0..1)   east (1..2, 0..1)
--
-- Node, database and region have different names on purpose.  To run one test
-- alone: TESTS='setup handoff' test/run.sh regress
--
CREATE DATABASE fleet_w;
\c fleet_w
SET client_min_messages = warning;
CREATE EXTENSION fleet CASCADE;
RESET client_min_messages;

CREATE SCHEMA test;

-- How the tests reach a database of this server.
CREATE FUNCTION test.conninfo(database text) RETURNS text LANGUAGE sql AS $$
	SELECT format('host=%s port=%s dbname=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
		current_setting('port'), database)
$$;

-- A rectangle as a geofence.
CREATE FUNCTION test.box(xmin float8, ymin float8, xmax float8, ymax float8) RETURNS geometry LANGUAGE sql AS $$
	SELECT ST_Multi(ST_MakeEnvelope(xmin, ymin, xmax, ymax, 4326))
$$;

-- What a statement raises: SQLSTATE and message, detail, hint.  Whole rows are
-- left out, they have times in them.
CREATE FUNCTION test.raised(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'nothing';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT sqlstate || ' ' || message;
	RETURN QUERY SELECT t FROM unnest(ARRAY[detail, hint]) AS t WHERE t <> '' AND t NOT LIKE 'Failing row%';
END
$$;

-- The SQLSTATE alone, where the message has paths in it or differs between versions.
CREATE FUNCTION test.state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END
$$;

-- Whether new sessions hand off in the fix's transaction, and vehicles as often as they like.
CREATE FUNCTION test.hand_off_at_once(wanted boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	node name;
BEGIN
	FOREACH node IN ARRAY '{fleet_w,fleet_e,fleet_n}'::name[] LOOP
		EXECUTE format(CASE WHEN wanted THEN 'ALTER DATABASE %I SET fleet.handoff_mode = ''immediate''' ELSE 'ALTER DATABASE %I RESET fleet.handoff_mode' END, node);
		EXECUTE format(CASE WHEN wanted THEN 'ALTER DATABASE %I SET fleet.flap_window = 0' ELSE 'ALTER DATABASE %I RESET fleet.flap_window' END, node);
	END LOOP;
END
$$;

-- Waits until the source has written down that all of its handoffs are settled.
CREATE FUNCTION test.settle() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		IF NOT EXISTS (SELECT FROM fleet.departures WHERE settled_hlc IS NULL)
			AND NOT EXISTS (SELECT FROM fleet.handoff_log WHERE status = 'departed')
			AND NOT EXISTS (SELECT FROM fleet.decisions) THEN
			RETURN 'settled';
		END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN 'not settled within 20 s';
END
$$;

-- Waits until all crossings that were queued here are done.
CREATE FUNCTION test.drain() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		IF NOT EXISTS (SELECT FROM fleet.handoff_queue) THEN
			RETURN 'drained';
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN 'not drained within 10 s';
END
$$;

-- The rows of this node's own region, by what does not change from run to run.
CREATE VIEW test.my_rides AS SELECT ride_id, vehicle_id, status, epoch FROM fleet.rides
	WHERE region = fleet.own_region() ORDER BY ride_id COLLATE "C";
CREATE VIEW test.my_vehicles AS SELECT vehicle_id, status, epoch FROM fleet.vehicles
	WHERE region = fleet.own_region() ORDER BY vehicle_id COLLATE "C";

-- The stamp of one of this node's rides.
CREATE FUNCTION test.hlc_of(ride text) RETURNS fleet.hlc LANGUAGE sql AS $$
	SELECT hlc FROM fleet.rides WHERE region = fleet.own_region() AND ride_id = ride
$$;

-- No node is connected to now, so the others can be copies of this one.
\c postgres
CREATE DATABASE fleet_e TEMPLATE fleet_w;
CREATE DATABASE fleet_n TEMPLATE fleet_w;
CREATE DATABASE fleet_spare TEMPLATE fleet_w;
\c fleet_w
SELECT fleet.node_name() IS NULL AS no_identity, fleet.own_region() IS NULL AS no_region;
SELECT fleet.init_node('node_w');
\c fleet_e
SELECT fleet.init_node('node_e');
\c fleet_n
SELECT fleet.init_node('node_n');
\c fleet_w
SELECT fleet.add_region('west', test.box(0, 0, 1, 1), test.conninfo('fleet_w'));
SELECT fleet.add_region('east', test.box(1, 0, 2, 1), test.conninfo('fleet_e'));
SELECT fleet.add_region('north', test.box(0, 1, 2, 2), test.conninfo('fleet_n'), 100);
SELECT * FROM fleet.regions ORDER BY name;
\c fleet_e
SELECT fleet.node_name(), fleet.own_region();
SELECT * FROM fleet.regions ORDER BY name;
\c fleet_n
SELECT fleet.node_name(), fleet.own_region();
SELECT * FROM fleet.regions ORDER BY name;

-- What a node of the map has: tables of its own region, foreign tables of the others.
SELECT c.relname, c.relkind, t.tgname, t.tgenabled
	FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid
		JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
	WHERE i.inhparent IN ('fleet.rides'::regclass, 'fleet.vehicles'::regclass)
	ORDER BY c.relname, t.tgname;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'fleet' AND tablename IN ('local_rides', 'local_vehicles')
	ORDER BY indexdef COLLATE "C";
SELECT s.srvname, u.umuser = 0 AS for_all,
		ARRAY(SELECT o FROM unnest(u.umoptions) AS o ORDER BY o) AS mapping,
		ARRAY(SELECT o FROM unnest(s.srvoptions) AS o WHERE o !~ '^(host|port)=' ORDER BY o) AS server
	FROM pg_foreign_server AS s JOIN pg_user_mapping AS u ON u.umserver = s.oid
	WHERE s.srvname LIKE 'fleet\_%' ORDER BY s.srvname;
