--
-- Handoff: from source, target and a third node; what goes along; refusals
--
\set SHOW_CONTEXT never
\c fleet_w
CREATE FUNCTION test.log(key text) RETURNS TABLE (ride_id text, vehicle_id text, source text, target text, epoch bigint, status text,
	has_dtxid boolean, latency boolean) LANGUAGE sql AS $$
	SELECT ride_id, vehicle_id, source, target, epoch, status, dtxid IS NOT NULL,
		CASE status WHEN 'arrived' THEN latency_ms IS NULL ELSE latency_ms > 0 IS NOT FALSE END FROM fleet.handoff_log
	WHERE ride_id = key OR ride_id IS NULL AND vehicle_id = key ORDER BY id
$$;
SELECT fleet.register_vehicle('HV-1', 0.5, 0.5);
SELECT fleet.request_ride('H-1', 'C-1', 0.5, 0.5, 'HV-1', 7.5);
SELECT fleet.request_ride('H-' || n, 'C-' || n, 0.5, 0.5) FROM generate_series(2, 9) AS n;

-- From the source, with its vehicle.
SELECT fleet.handoff('H-1', 'east');
SELECT count(*) AS here FROM fleet.local_rides WHERE ride_id = 'H-1';
SELECT ride_id, vehicle_id, region, fare, epoch FROM fleet.rides WHERE ride_id = 'H-1';
SELECT vehicle_id, region, epoch FROM fleet.vehicles WHERE vehicle_id = 'HV-1';
SELECT test.settle();
SELECT kind, key, epoch, target, image->>'region' AS region, image->>'epoch' AS image_epoch, image->>'hlc' = hlc::text AS same_hlc,
	dtxid ~ '^fleet:node_w:[0-9a-f.]+:[0-9]+:[0-9a-f]{16}$' AS named, settled_hlc::bigint > hlc::bigint AS settled
	FROM fleet.departures WHERE key IN ('H-1', 'HV-1') ORDER BY kind;
SELECT * FROM test.log('H-1');
SELECT * FROM test.log('HV-1');
SELECT count(*) AS one_commit FROM (SELECT DISTINCT dtxid FROM fleet.departures WHERE key IN ('H-1', 'HV-1')) AS d;
SELECT test.raised($$SELECT fleet.request_ride('H-1', 'C-9', 0.5, 0.5)$$);
SET fleet.routing = 'redirect';
SELECT test.raised($$SELECT fleet.set_ride_status('H-1', 'CANCELLED')$$);
RESET fleet.routing;
\c fleet_e
CREATE FUNCTION test.log(key text) RETURNS TABLE (ride_id text, vehicle_id text, source text, target text, epoch bigint, status text,
	has_dtxid boolean, latency boolean) LANGUAGE sql AS $$
	SELECT ride_id, vehicle_id, source, target, epoch, status, dtxid IS NOT NULL,
		CASE status WHEN 'arrived' THEN latency_ms IS NULL ELSE latency_ms > 0 IS NOT FALSE END FROM fleet.handoff_log
	WHERE ride_id = key OR ride_id IS NULL AND vehicle_id = key ORDER BY id
$$;
SELECT * FROM test.my_rides;
SELECT * FROM test.my_vehicles;
SELECT * FROM test.log('H-1');
SELECT * FROM test.log('HV-1');
SELECT hlc::bigint <= fleet.hlc_now()::bigint AS merged FROM fleet.rides WHERE ride_id = 'H-1';
-- It goes on living there.
SELECT fleet.set_ride_status('H-1', 'EN_ROUTE');
SELECT * FROM test.my_rides;

-- From the target: fetched back.
\c fleet_w
SELECT fleet.handoff('H-1', 'west');
SELECT * FROM test.my_rides WHERE ride_id = 'H-1';
SELECT count(*) AS replaced FROM fleet.departures WHERE key IN ('H-1', 'HV-1');
SELECT * FROM test.log('H-1');
\c fleet_e
SELECT test.settle();
SELECT kind, key, epoch, target FROM fleet.departures WHERE key IN ('H-1', 'HV-1') ORDER BY kind;
SELECT * FROM test.log('H-1');

-- From a third node; and back over two regions.
\c fleet_n
SELECT fleet.handoff('H-1', 'east');
SELECT test.settle();
SELECT count(*) AS nothing_here FROM fleet.departures;
\c fleet_w
SELECT test.settle();
SELECT * FROM test.log('H-1');
SELECT dtxid LIKE 'fleet:node\_n:%' AS coordinated_there FROM fleet.departures WHERE key = 'H-1';
SELECT fleet.handoff('H-1', 'north');
SELECT fleet.handoff('H-1', 'west', 5);
SELECT * FROM test.my_rides WHERE ride_id = 'H-1';
SELECT * FROM test.my_vehicles;

-- Refused, each for its own reason.
SELECT * FROM test.raised($$SELECT fleet.handoff('H-0', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'nowhere')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'east', 5)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'east', 7)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'east', 0)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'east', -1)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff(NULL::text, 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1'::text, NULL)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff_vehicle('HV-0', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff_vehicle('HV-1', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff_vehicle('HV-1', 'nowhere')$$);
SELECT fleet.handoff_vehicle(NULL, 'east') IS NULL AS null_does_nothing;
SELECT fleet.set_ride_status('H-2', 'CANCELLED');
SELECT * FROM test.raised($$SELECT fleet.handoff('H-2', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.depart('x', false, '{H-1}', 'east', 0::bigint, 1::bigint, 1::bigint, 1000)$$) AS r WHERE r NOT LIKE 'The caller has%';
SELECT * FROM test.raised($$SELECT fleet.arrive('x', '[]', 1, false)$$) AS r WHERE r NOT LIKE 'The caller has%';
BEGIN TRANSACTION READ ONLY;
SELECT fleet.handoff('H-1', 'east');
ROLLBACK;
-- Deleted where it went: it is gone, not on its way.
SELECT fleet.handoff('H-9', 'east');
\c fleet_e
DELETE FROM fleet.rides WHERE ride_id = 'H-9' AND region = 'east';
\c fleet_w
SELECT * FROM test.raised($$SELECT fleet.handoff('H-9', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-9', 'north')$$);
-- Refused from another node, in the same words.
\c fleet_n
SELECT * FROM test.raised($$SELECT fleet.handoff('H-0', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'west')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-1', 'east', 5)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('H-2', 'east')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff_vehicle('HV-1', 'west')$$);
-- None of it has changed anything.
SELECT * FROM fleet.verify() WHERE problems > 0;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id LIKE 'H-%' ORDER BY ride_id;

-- A region takes as many open rides as it has room for.  The error comes with
-- COMMIT where the statement is the whole transaction.
\c fleet_w
SELECT fleet.set_capacity('east', 1);
SELECT fleet.handoff('H-3', 'east');
SELECT fleet.handoff('H-4', 'east');
BEGIN;
SELECT fleet.handoff('H-4', 'east');
ROLLBACK;
SELECT * FROM test.raised($$SELECT fleet.handoff('{H-4,H-5}'::text[], 'east')$$);
SELECT fleet.handoff_vehicle('HV-1', 'east');		-- it has an open ride
SELECT fleet.register_vehicle('HV-2', 0.5, 0.5);
SELECT fleet.handoff_vehicle('HV-2', 'east');		-- it has none
SELECT * FROM test.my_rides;
SELECT fleet.set_capacity('east', NULL);

-- Many at once: all or none, in one commit.
SELECT fleet.handoff('{H-4,H-5,H-6,H-5,H-1}'::text[], 'north');
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id LIKE 'H-%' ORDER BY ride_id;
SELECT test.settle();
SELECT count(*) AS departed, count(DISTINCT dtxid) AS commits FROM fleet.departures WHERE target = 'north' AND key LIKE 'H%';
SELECT * FROM test.raised($$SELECT fleet.handoff('{H-7,H-0}'::text[], 'north')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('{H-7,H-2}'::text[], 'north')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('{H-7,NULL}'::text[], 'north')$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('{H-7,H-4}'::text[], 'north')$$);
SELECT fleet.handoff('{}'::text[], 'north') AS none, fleet.handoff(NULL::text[], 'north') AS null;
SELECT * FROM test.my_rides;
-- From where they are, whichever that is: three regions, one commit.
\c fleet_n
SELECT region, count(*) FROM fleet.rides WHERE ride_id IN ('H-3', 'H-4', 'H-7') GROUP BY region ORDER BY region;
SELECT fleet.handoff('{H-3,H-7}'::text[], 'north');
\c fleet_e
SELECT fleet.handoff('{H-3,H-4,H-8}'::text[], 'east');
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id LIKE 'H-%' ORDER BY ride_id;
SELECT region, vehicle_id, epoch FROM fleet.vehicles WHERE vehicle_id LIKE 'HV-%' ORDER BY vehicle_id;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- A vehicle with its open ride; its closed ones stay.
\c fleet_w
SELECT fleet.register_vehicle('HV-3', 0.5, 0.5, 'ON_TRIP');
SELECT fleet.request_ride('HC-1', 'C-1', 0.5, 0.5, 'HV-3');
SELECT fleet.set_ride_status('HC-1', 'CANCELLED');
SELECT fleet.request_ride('HC-2', 'C-1', 0.5, 0.5, 'HV-3');
SELECT fleet.handoff_vehicle('HV-3', 'east');
SELECT region, ride_id, vehicle_id, status, epoch FROM fleet.rides WHERE ride_id LIKE 'HC-%' ORDER BY ride_id;
SELECT region, vehicle_id, status, epoch FROM fleet.vehicles WHERE vehicle_id = 'HV-3';
SELECT fleet.handoff('HC-2', 'west');
SELECT region, vehicle_id, status, epoch FROM fleet.vehicles WHERE vehicle_id = 'HV-3';

-- Inside the caller's transaction.
BEGIN;
SELECT fleet.handoff('HC-2', 'east');
SELECT count(*) AS gone FROM fleet.local_rides WHERE ride_id = 'HC-2';
ROLLBACK;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id = 'HC-2';
BEGIN;
SELECT fleet.request_ride('HT-1', 'C', 0.5, 0.5);
SELECT fleet.handoff('HT-1', 'east');
SELECT fleet.handoff('HT-1', 'north');
SELECT fleet.handoff('HT-1', 'west');
SELECT fleet.handoff('HT-1', 'east');
COMMIT;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id = 'HT-1';
SELECT test.settle();
SELECT * FROM test.log('HT-1');
SELECT * FROM fleet.verify() WHERE problems > 0;
-- Nobody else commits it.
BEGIN;
SELECT fleet.handoff('HC-2', 'east');
PREPARE TRANSACTION 'not ours';
BEGIN;
SELECT fleet.set_ride_status('HC-2', 'EN_ROUTE');
PREPARE TRANSACTION 'without a handoff';
ROLLBACK PREPARED 'without a handoff';
SELECT region, ride_id, status, epoch FROM fleet.rides WHERE ride_id = 'HC-2';

-- Savepoints: what is rolled back stays where it was, the rest goes.
SELECT fleet.request_ride('HS-' || n, 'C', 0.5, 0.5) FROM generate_series(1, 8) AS n;
BEGIN;
SELECT fleet.handoff('HS-1', 'east');
SAVEPOINT a;
SELECT fleet.handoff('HS-2', 'east');
SELECT fleet.handoff('HS-3', 'north');
ROLLBACK TO a;
SELECT fleet.handoff('HS-4', 'east');
SAVEPOINT b;
SELECT fleet.handoff('HS-5', 'east');
RELEASE b;
SAVEPOINT c;
SAVEPOINT d;
SELECT fleet.handoff('HS-6', 'north');
RELEASE d;
ROLLBACK TO c;
SELECT fleet.handoff('HS-7', 'north');
RELEASE c;
DO $$
BEGIN
	PERFORM fleet.handoff('HS-8', 'east');
	RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN
	PERFORM fleet.handoff('HS-8', 'north');
END
$$;
COMMIT;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id LIKE 'HS-%' ORDER BY ride_id;
SELECT test.settle();
SELECT key, target FROM fleet.departures WHERE key LIKE 'HS-%' ORDER BY key;
SELECT * FROM fleet.verify() WHERE problems > 0;
-- A refusal on the other side, caught: the rest of the transaction is well.
BEGIN;
SELECT fleet.handoff('HS-2', 'east');
SELECT * FROM test.raised($$SELECT fleet.handoff('HS-1', 'north', 1)$$);
SELECT * FROM test.raised($$SELECT fleet.handoff('HS-1', 'east')$$);
SELECT fleet.handoff('HS-3', 'east');
COMMIT;
-- All rolled back, then nothing.
BEGIN;
SAVEPOINT a;
SELECT fleet.handoff('HS-6', 'east');
ROLLBACK TO a;
COMMIT;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id LIKE 'HS-%' ORDER BY ride_id;
SELECT count(*) AS branches FROM pg_prepared_xacts;

-- The other isolation levels.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fleet.handoff('HS-6', 'east');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT fleet.handoff('HS-6', 'west');
COMMIT;
SELECT region, ride_id, epoch FROM fleet.rides WHERE ride_id = 'HS-6';

-- A trigger of the user's that swallows the row, at the source and at the target.
\c fleet_w
CREATE FUNCTION test.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER swallow BEFORE DELETE ON fleet.local_rides FOR EACH ROW EXECUTE FUNCTION test.swallow();
SELECT * FROM test.raised($$SELECT fleet.handoff('HS-6', 'north')$$);
DROP TRIGGER swallow ON fleet.local_rides;
\c fleet_n
CREATE FUNCTION test.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER swallow BEFORE INSERT ON fleet.local_rides FOR EACH ROW EXECUTE FUNCTION test.swallow();
\c fleet_w
SELECT * FROM test.raised($$SELECT fleet.handoff('HS-6', 'north')$$);
\c fleet_n
DROP TRIGGER swallow ON fleet.local_rides;
DROP FUNCTION test.swallow();
-- What this session keeps of the table: a check that was added, and a function in
-- it that was replaced, count at once.
SELECT fleet.handoff('HS-6', 'north'), fleet.handoff('HS-6', 'west');
CREATE FUNCTION test.is_cheap(fare numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT fare < 0';
ALTER TABLE fleet.local_rides ADD CONSTRAINT cheap CHECK (test.is_cheap(fare)) NOT VALID;
SELECT * FROM test.raised($$SELECT fleet.handoff('HS-6', 'north')$$);
CREATE OR REPLACE FUNCTION test.is_cheap(fare numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT fare < 10';
SELECT fleet.handoff('HS-6', 'north');
ALTER TABLE fleet.local_rides DROP CONSTRAINT cheap;
DROP FUNCTION test.is_cheap(numeric);
\c fleet_w
DROP FUNCTION test.swallow();

-- Leave nothing behind but departures and graves.
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
DELETE FROM fleet.vehicles WHERE region = 'north';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT test.settle();
SELECT * FROM fleet.verify();
