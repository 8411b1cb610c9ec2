--
-- fleet.verify() finds what is wrong, and only that
--
\set SHOW_CONTEXT never
\c fleet_e
SELECT fleet.request_ride('Q-4', 'C-1', 1.5, 0.5);
\c fleet_w
SELECT fleet.request_ride('Q-' || n, 'C-1', 0.5, 0.5) FROM generate_series(1, 3) AS n;
SELECT fleet.register_vehicle('QV-1', 0.5, 0.5);
SELECT fleet.handoff('Q-1', 'east');
SELECT fleet.handoff('Q-1', 'north');
SELECT fleet.handoff_vehicle('QV-1', 'north');
SELECT test.settle();
SELECT * FROM fleet.verify();

-- Doubled: a ride that is in two regions, made behind the triggers' back.
\c fleet_n
SET session_replication_role = replica;
INSERT INTO fleet.local_rides SELECT (jsonb_populate_record(r, '{"region": "north"}')).* FROM fleet.rides AS r
	WHERE region IN ('east', 'west') AND ride_id IN ('Q-2', 'Q-4');
RESET session_replication_role;
SELECT * FROM fleet.verify();
\c fleet_e
SELECT * FROM fleet.verify() WHERE problems > 0;
\c fleet_n
SET session_replication_role = replica;
DELETE FROM fleet.rides WHERE ride_id IN ('Q-2', 'Q-4') AND region = 'north';
RESET session_replication_role;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- Missing: one that departed and is nowhere.
CREATE TABLE test.lost AS SELECT * FROM fleet.local_rides WHERE ride_id = 'Q-1';
CREATE TABLE test.lost_vehicle AS SELECT * FROM fleet.local_vehicles WHERE vehicle_id = 'QV-1';
SET session_replication_role = replica;
DELETE FROM fleet.rides WHERE ride_id = 'Q-1' AND region = 'north';
DELETE FROM fleet.vehicles WHERE vehicle_id = 'QV-1' AND region = 'north';
RESET session_replication_role;
SELECT * FROM fleet.verify() WHERE problems > 0;
\c fleet_w
SELECT * FROM test.raised($$SELECT fleet.handoff('Q-1', 'east')$$) AS r WHERE r LIKE 'RF022%';
\c fleet_n
SET session_replication_role = replica;
INSERT INTO fleet.local_rides SELECT * FROM test.lost;
INSERT INTO fleet.local_vehicles SELECT * FROM test.lost_vehicle;
RESET session_replication_role;
DROP TABLE test.lost, test.lost_vehicle;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- Unlogged: the log on the target, then the one on a source.
BEGIN;
DELETE FROM fleet.handoff_log WHERE ride_id = 'Q-1';
COMMIT;
SELECT * FROM fleet.verify() WHERE problems > 0;
INSERT INTO fleet.handoff_log (ride_id, source, target, epoch, hlc, status)
	SELECT ride_id, 'east', 'north', epoch, hlc, 'arrived' FROM fleet.rides WHERE ride_id = 'Q-1' AND region = 'north';
SELECT * FROM fleet.verify() WHERE problems > 0;
\c fleet_w
DELETE FROM fleet.handoff_log WHERE vehicle_id = 'QV-1';
SELECT * FROM fleet.verify() WHERE problems > 0;
INSERT INTO fleet.handoff_log (vehicle_id, source, target, epoch, hlc, status)
	SELECT key, 'west', target, epoch, hlc, 'settled' FROM fleet.departures WHERE key = 'QV-1';
SELECT * FROM fleet.verify() WHERE problems > 0;

-- Orphaned locks: a prepared transaction that nobody comes back for.
BEGIN;
SELECT fleet.set_ride_status('Q-2', 'EN_ROUTE');
PREPARE TRANSACTION 'fleet:nobody:1.00000000:7:00000000000000aa:0';
BEGIN;
SELECT fleet.set_ride_status('Q-3', 'EN_ROUTE');
PREPARE TRANSACTION 'somebody else''s';
SELECT * FROM fleet.verify() WHERE problems > 0;
\c fleet_e
SELECT * FROM fleet.verify() WHERE problems > 0;
\c fleet_w
ROLLBACK PREPARED 'fleet:nobody:1.00000000:7:00000000000000aa:0';
ROLLBACK PREPARED 'somebody else''s';
SELECT * FROM fleet.verify() WHERE problems > 0;

-- Nothing is wrong with what was deleted, used again, or moved there and back.
DELETE FROM fleet.rides WHERE ride_id IN ('Q-2', 'Q-3') AND region = 'west';
SELECT fleet.request_ride('Q-3', 'C-1', 0.5, 0.5);
SELECT ride_id, source, target, epoch, status FROM fleet.handoff_log WHERE ride_id = 'Q-3';
SELECT * FROM fleet.verify() WHERE problems > 0;
SELECT fleet.handoff('Q-3', 'east');
SELECT * FROM fleet.verify() WHERE problems > 0;
SELECT fleet.handoff('Q-3', 'west');
SELECT * FROM fleet.verify() WHERE problems > 0;
DELETE FROM fleet.rides WHERE region = 'west';
SELECT fleet.request_ride('Q-3', 'C-1', 0.5, 0.5);
SELECT * FROM fleet.verify() WHERE problems > 0;
DELETE FROM fleet.rides WHERE region = 'west';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
DELETE FROM fleet.vehicles WHERE region = 'north';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
SELECT test.settle();
SELECT * FROM fleet.verify();
