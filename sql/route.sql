--
-- Calls on any node: forwarded, redirected, repeated
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE fleet_caller;
RESET client_min_messages;
-- Each crossing at once, however often.
\c fleet_w
SELECT test.hand_off_at_once(true);
\c fleet_e
-- What the west's node has changed here: how many transactions in two phases.
CREATE FUNCTION test.calls() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM fleet.call_log';
SELECT test.calls() AS calls \gset
\c fleet_w
CREATE FUNCTION test.ride(id text) RETURNS TABLE (region text, epoch bigint, status fleet.ride_status, vehicle_id text, fare numeric, keys text) LANGUAGE sql AS $$
	SELECT region, epoch, status, vehicle_id, fare, (SELECT string_agg(format('%s: %s %s', k.key, k.value->>'call', k.value->>'result'), ', ' ORDER BY k.key)
		FROM jsonb_each(idempotency_keys) AS k) FROM fleet.get_ride(id)
$$;

-- By its place.
SELECT fleet.register_vehicle('RO-V1', 1.5, 0.5), fleet.request_ride('RO-1', 'anna', 1.5, 0.5, 'RO-V1', 10);
SELECT * FROM test.ride('RO-1');
SELECT * FROM test.raised($$SELECT fleet.request_ride('RO-1', 'anna', 1.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.register_vehicle('RO-V1', 1.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('RO-2', NULL, 1.5, 0.5)$$);

-- Its life.
SELECT fleet.set_ride_status('RO-1', 'EN_ROUTE', at => '2026-01-01 10:00Z');
SELECT fleet.update_ride('RO-1', '{"fare": 12.50, "end_location": "POINT(1.75 0.25)"}');
SELECT outcome, region, epoch FROM fleet.report_fix('RO-V1', 1.51, 0.5, '2026-01-01 10:01Z');
SELECT en_route_at, ST_AsText(end_location) AS to, ST_AsText(current_location) AS at FROM fleet.get_ride('RO-1');
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('RO-1', 'COMPLETED')$$);
SELECT * FROM test.raised($$SELECT fleet.update_ride('RO-1', '{"fare": -1}')$$);
SELECT outcome, region, epoch FROM fleet.report_fix('RO-V1', 1.51, 0.5, '2026-01-01 10:01Z') AS the_same_fix;
-- Over a border, seen from where it comes from, from where it goes to, and from a third node.
SELECT outcome, region, epoch FROM fleet.report_fix('RO-V1', 0.9, 0.5, '2026-01-01 11:00Z');
\c fleet_e
SELECT outcome, region, epoch FROM fleet.report_fix('RO-V1', 0.9, 1.5, '2026-01-01 12:00Z');
\c fleet_w
SELECT outcome, region, epoch FROM fleet.report_fix('RO-V1', 1.5, 0.5, '2026-01-01 13:00Z');
SELECT * FROM test.ride('RO-1');
SELECT region, epoch, ST_AsText(location) AS at FROM fleet.vehicles WHERE vehicle_id = 'RO-V1';
SELECT fleet.cancel_ride('RO-1');
SELECT * FROM test.raised($$SELECT fleet.cancel_ride('RO-1')$$);
SELECT * FROM test.ride('RO-1');

-- In one transaction: savepoints, calls on several nodes, what was done is seen.
SELECT fleet.request_ride('RO-3', 'bob', 1.5, 0.5), fleet.request_ride('RO-4', 'bob', 0.5, 1.5), fleet.request_ride('RO-5', 'bob', 0.5, 0.5);
BEGIN;
SELECT fleet.update_ride('RO-3', '{"fare": 3}'), fleet.update_ride('RO-4', '{"fare": 4}'), fleet.update_ride('RO-5', '{"fare": 5}');
SAVEPOINT a;
SELECT fleet.update_ride('RO-3', '{"fare": 33}');
SELECT fleet.handoff('RO-4', 'east');
SELECT fleet.update_ride('RO-4', '{"fare": 44}');
SELECT region, fare FROM test.ride('RO-3');
SELECT region, fare FROM test.ride('RO-4');
ROLLBACK TO a;
SELECT region, fare FROM test.ride('RO-3');
SELECT region, fare FROM test.ride('RO-4');
SAVEPOINT b;
SELECT fleet.update_ride('RO-3', '{"fare": "x"}');
ROLLBACK TO b;
SELECT fleet.handoff('RO-5', 'north');
SELECT fleet.set_ride_status('RO-5', 'EN_ROUTE');
COMMIT;
SELECT ride_id, region, status, fare FROM fleet.search_rides(customer_id => 'bob', order_by => 'ride_id');
BEGIN;
SELECT fleet.update_ride('RO-3', '{"fare": 333}');
ROLLBACK;
SELECT fare FROM test.ride('RO-3');
BEGIN READ ONLY;
SELECT fleet.update_ride('RO-3', '{"fare": 333}');
ROLLBACK;
-- One node only: nothing is written here, so there is nothing to decide.
BEGIN;
SELECT fleet.update_ride('RO-3', '{"fare": 34}');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_number;
COMMIT;
BEGIN;
SELECT fleet.update_ride('RO-3', '{"fare": 35}');
CREATE TEMPORARY TABLE mine ();
PREPARE TRANSACTION 'mine';
\c fleet_e
SELECT test.calls() - :calls AS in_two_phases;
\c fleet_w
SELECT test.settle();
SELECT fare FROM test.ride('RO-3');

-- Keys: a repeat has no effect, wherever the ride is meanwhile.
SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6, idempotency_key => 'new');
SELECT fleet.set_ride_status('RO-6', 'EN_ROUTE', 'RO-V6', '2026-01-01 10:00Z', 'go');
SELECT fleet.update_ride('RO-6', '{"fare": 7}', 'fare');
SELECT * FROM test.ride('RO-6');
SELECT fleet.handoff('RO-6', 'north');
SELECT fleet.set_ride_status('RO-6', 'ARRIVED');
SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6, idempotency_key => 'new');
SELECT fleet.set_ride_status('RO-6', 'EN_ROUTE', 'RO-V6', '2026-01-01 10:00Z', 'go');
SELECT fleet.update_ride('RO-6', '{"fare": 7}', 'fare');
\c fleet_e
SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6, idempotency_key => 'new');
SELECT fleet.set_ride_status('RO-6', 'EN_ROUTE', 'RO-V6', '2026-01-01 10:00Z', 'go');
\c fleet_n
SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6, idempotency_key => 'new');
SELECT fleet.set_ride_status('RO-6', 'EN_ROUTE', 'RO-V6', '2026-01-01 10:00Z', 'go');
\c fleet_w
SELECT * FROM test.ride('RO-6');
SELECT * FROM test.raised($$SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6, idempotency_key => 'other')$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('RO-6', 'carl', 1.5, 0.5, fare => 6)$$);
SELECT * FROM test.raised($$SELECT fleet.update_ride('RO-6', '{"fare": 7}', 'go')$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('RO-6', 'IN_PROGRESS', idempotency_key => 'go')$$);
SELECT * FROM test.raised(format('SELECT fleet.cancel_ride(''RO-6'', idempotency_key => %L)', repeat('x', 201)));
-- What failed was not done, and its key is free.
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('RO-6', 'COMPLETED', idempotency_key => 'end')$$);
SELECT fleet.set_ride_status('RO-6', 'IN_PROGRESS', idempotency_key => 'end');
-- After 24 hours a key is forgotten.
\c fleet_n
UPDATE fleet.rides SET idempotency_keys = jsonb_set(idempotency_keys, '{go,at}', to_jsonb(now() - interval '25 hours')) WHERE region = 'north' AND ride_id = 'RO-6';
\c fleet_w
SELECT fleet.update_ride('RO-6', '{"fare": 8}', 'go');
SELECT * FROM test.ride('RO-6');

-- Redirected.
SET fleet.routing = 'redirect';
SELECT s, r FROM (VALUES ('SELECT fleet.set_ride_status(''RO-6'', ''COMPLETED'')'), ('SELECT fleet.update_ride(''RO-6'', ''{"fare": 1}'')'), ('SELECT fleet.cancel_ride(''RO-6'')'),
	('SELECT fleet.report_fix(''RO-V1'', 1.5, 0.5)'), ('SELECT fleet.handoff(''RO-6'', ''west'')'), ('SELECT fleet.handoff(ARRAY[''RO-6''], ''east'')'),
	('SELECT fleet.handoff_vehicle(''RO-V1'', ''north'')'), ('SELECT fleet.request_ride(''RO-7'', ''c'', 1.5, 0.5)'), ('SELECT fleet.register_vehicle(''RO-V7'', 1.5, 0.5)')) AS v(s), test.raised(s) AS r
	WHERE r LIKE 'RF%' OR r LIKE 'region%' OR r = 'nothing';
SELECT * FROM test.raised($$SELECT fleet.update_ride('RO-0', '{"fare": 1}')$$);
SELECT fleet.request_ride('RO-8', 'c', 0.5, 0.5), fleet.handoff('RO-8', 'east');
SELECT * FROM test.raised($$SELECT fleet.handoff('RO-8', 'west')$$);
SET fleet.routing = 'else';
RESET fleet.routing;
SELECT fleet.handoff('RO-8', 'west');

-- Rights: what they are on this node, for all nodes.
GRANT SELECT ON fleet.rides TO fleet_caller;
GRANT USAGE ON SCHEMA test TO fleet_caller;
SET ROLE fleet_caller;
SELECT n, r FROM (VALUES (1, 'SELECT fleet.update_ride(''RO-6'', ''{"fare": 1}'')'), (2, 'SELECT fleet.route(''update_ride'', ''RO-6'', NULL, ''{"ride_id": "RO-6", "changes": {"fare": 1}}'')'),
	(3, 'SELECT fleet.request_ride(''RO-9'', ''c'', 1.5, 0.5)'), (4, 'SELECT fleet.register_vehicle(''RO-9'', 1.5, 0.5)'), (5, 'SELECT fleet.report_fix(''RO-V1'', 1.5, 0.5)'),
	(6, 'SELECT fleet.perform(''update_ride'', ''RO-8'', ''{"ride_id": "RO-8", "changes": {"fare": 1}}'', 1, 100)')) AS v(n, s), test.raised(s) AS r;
RESET ROLE;
GRANT UPDATE ON fleet.rides TO fleet_caller;
SET ROLE fleet_caller;
SELECT fleet.update_ride('RO-6', '{"fare": 9}');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fleet.update_ride FROM PUBLIC;
SET ROLE fleet_caller;
SELECT * FROM test.raised($$SELECT fleet.route('update_ride', 'RO-6', NULL, '{"ride_id": "RO-6", "changes": {"fare": 1}}')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION fleet.update_ride TO PUBLIC;
-- Policies here say nothing about what is elsewhere.
ALTER TABLE fleet.rides ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON fleet.rides TO fleet_caller USING (customer_id = 'c');
SET ROLE fleet_caller;
SELECT fleet.update_ride('RO-8', '{"fare": 9}');
SELECT * FROM test.raised($$SELECT fleet.update_ride('RO-6', '{"fare": 1}')$$);
SELECT * FROM test.raised($$SELECT fleet.update_ride('RO-5', '{"fare": 1}')$$);
RESET ROLE;
DROP POLICY mine ON fleet.rides;
ALTER TABLE fleet.rides DISABLE ROW LEVEL SECURITY;
REVOKE ALL ON fleet.rides FROM fleet_caller;
REVOKE ALL ON SCHEMA test FROM fleet_caller;
SELECT ride_id, fare FROM fleet.search_rides(order_by => 'ride_id') WHERE ride_id IN ('RO-6', 'RO-8');

-- A call whose PREPARE was lost is made again where nothing newer is; what it could not do is said.
SELECT fleet.request_ride('RO-A', 'dora', 0.5, 0.5), fleet.request_ride('RO-B', 'dora', 0.5, 0.5);
SET client_min_messages = error;
SELECT fleet.redo('fleet:node_e:1:1:00000000000000aa', jsonb_build_array(
	jsonb_build_object('kind', 'call', 'payload', jsonb_build_object('call', 'update_ride', 'kind', 'ride', 'key', 'RO-A', 'hlc', fleet.hlc_now()::bigint,
		'arguments', '{"ride_id": "RO-A", "changes": {"fare": 5}}'::jsonb)),
	jsonb_build_object('kind', 'call', 'payload', jsonb_build_object('call', 'set_ride_status', 'kind', 'ride', 'key', 'RO-A', 'hlc', fleet.hlc_now()::bigint,
		'arguments', '{"ride_id": "RO-A", "status": "EN_ROUTE"}'::jsonb)),
	jsonb_build_object('kind', 'call', 'payload', jsonb_build_object('call', 'update_ride', 'kind', 'ride', 'key', 'RO-B', 'hlc', 5,
		'arguments', '{"ride_id": "RO-B", "changes": {"fare": 5}}'::jsonb)),
	jsonb_build_object('kind', 'call', 'payload', jsonb_build_object('call', 'update_ride', 'kind', 'ride', 'key', 'RO-6', 'hlc', fleet.hlc_now()::bigint,
		'arguments', '{"ride_id": "RO-6", "changes": {"fare": 5}}'::jsonb)),
	jsonb_build_object('kind', 'call', 'payload', jsonb_build_object('call', 'set_ride_status', 'kind', 'ride', 'key', 'RO-A', 'hlc', fleet.hlc_now()::bigint,
		'arguments', '{"ride_id": "RO-A", "status": "COMPLETED"}'::jsonb))));
RESET client_min_messages;
SELECT fleet.branch_applied('fleet:node_e:1:1:00000000000000aa');
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM fleet.call_log WHERE dtxid = 'fleet:node_e:1:1:00000000000000aa';
SELECT ride_id, fare, status FROM fleet.rides WHERE region = 'west' AND customer_id = 'dora' ORDER BY ride_id;

-- The files before and after this one have only their own.
SELECT test.settle();
DELETE FROM fleet.rides WHERE region = 'west' AND ride_id LIKE 'RO-%';
\c fleet_n
SELECT test.settle();
DELETE FROM fleet.rides WHERE region = 'north' AND ride_id LIKE 'RO-%';
DELETE FROM fleet.vehicles WHERE region = 'north' AND vehicle_id LIKE 'RO-%';
\c fleet_e
SELECT test.settle();
DELETE FROM fleet.rides WHERE region = 'east' AND ride_id LIKE 'RO-%';
DELETE FROM fleet.vehicles WHERE region = 'east' AND vehicle_id LIKE 'RO-%';
SELECT check_name, problems FROM fleet.verify() WHERE problems > 0;
DROP ROLE fleet_caller;
SELECT test.hand_off_at_once(false);
