-- Before the specs: a second node, and how the database in which they run, which
-- pg_isolation_regress makes anew, becomes the first one.
--
-- A spec begins with the setup block that runs iso.setup step by step, each in
-- a transaction of its own: nodes see of each other what is committed.  It does
-- nothing where it was done before.
--
--	here (0..1, 0..1)   there (1..2, 0..1)
SET client_min_messages = warning;
CREATE DATABASE fleet_there;

SELECT set_config('iso.conninfo', format('host=%s port=%s', current_setting('unix_socket_directories'), current_setting('port')), false);

-- The conninfo of a database is the same one for all; the steps are parted by ";;".
DO $outer$
DECLARE
	add text := $add$DO $do$ BEGIN IF NOT EXISTS (SELECT FROM fleet.map_regions WHERE name = %1$L) THEN
		PERFORM fleet.add_region(%1$L, ST_Multi(ST_MakeEnvelope(%2$s, 0, %2$s + 1, 1, 4326)), %3$L || ' dbname=' || %4$s); END IF; END $do$ $add$;
	conninfo text := current_setting('iso.conninfo');
BEGIN
	EXECUTE format('ALTER ROLE postgres SET iso.setup = %L', array_to_string(ARRAY[
		'SET client_min_messages = warning',
		'CREATE EXTENSION IF NOT EXISTS fleet CASCADE',
		'DO $do$ BEGIN IF fleet.node_name() IS NULL THEN PERFORM fleet.init_node(''node_here''); END IF; END $do$',
		format(add, 'here', 0, conninfo, 'current_database()'),
		format(add, 'there', 1, conninfo, '''fleet_there''')], ';;'));

	-- After a permutation: what is there comes back, then all is deleted.
	EXECUTE format('ALTER ROLE postgres SET iso.clean = %L', array_to_string(ARRAY[
		'DO $do$ BEGIN PERFORM fleet.handoff_vehicle(vehicle_id, ''here'') FROM fleet.vehicles WHERE region = ''there''; END $do$',
		'DO $do$ BEGIN PERFORM fleet.handoff(ride_id, ''here'') FROM fleet.rides WHERE region = ''there''; END $do$',
		'DELETE FROM fleet.rides WHERE region = ''here''',
		'DELETE FROM fleet.vehicles WHERE region = ''here'''], ';;'));
END
$outer$;

\c fleet_there
SET client_min_messages = warning;
CREATE EXTENSION fleet CASCADE;
SELECT fleet.init_node('node_there');
-- Each crossing at once, however often.
ALTER DATABASE fleet_there SET fleet.handoff_mode = 'immediate';
ALTER DATABASE fleet_there SET fleet.flap_window = 0;
