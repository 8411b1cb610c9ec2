-- fleet: every SQLSTATE that one session can raise by SQL, by what raises it.  Locks
-- (RF002) are in test/isolation; RF005, RF009, RF011, RF021, RF024 in sql/; RF025 in test/tap.
-- Copyright (c) 2026, the fleet authors
\set QUIET on
BEGIN;
SELECT no_plan();

SELECT fleet.request_ride('open', 'c', 0.5, 0.5), fleet.request_ride('closed', 'c', 0.5, 0.5), fleet.register_vehicle('car', 0.5, 0.5) \gset
SELECT fleet.set_ride_status('closed', 'CANCELLED') \gset

SELECT throws_ok($$SELECT fleet.handoff('nobody', 'east')$$, 'RF001', NULL, 'RF001: no such ride');
SELECT throws_ok($$SELECT fleet.set_ride_status('nobody', 'EN_ROUTE')$$, 'RF001', NULL, 'RF001: no such ride to change');
SELECT throws_ok($$SELECT fleet.handoff('open', 'west')$$, 'RF003', NULL, 'RF003: already there');
SELECT throws_ok($$SELECT fleet.handoff('open', 'nowhere')$$, 'RF004', NULL, 'RF004: unknown region');
SELECT throws_ok($$SELECT fleet.handoff_vehicle('car', 'nowhere')$$, 'RF004', NULL, 'RF004: unknown region of a vehicle');
SELECT throws_ok($$SELECT fleet.set_capacity('nowhere', 1)$$, 'RF004', NULL, 'RF004: capacity of an unknown region');
SELECT throws_ok($$SELECT fleet.handoff('open', 'east', 9)$$, 'RF006', NULL, 'RF006: stale epoch');
SELECT throws_ok($$SELECT fleet.arrive('x', '[]', 0, false)$$, 'RF007', NULL, 'RF007: stale map');
SELECT throws_ok($$SELECT fleet.handoff('closed', 'east')$$, 'RF008', NULL, 'RF008: closed ride');
SELECT throws_ok($$SELECT fleet.handoff_vehicle('nobody', 'east')$$, 'RF010', NULL, 'RF010: no such vehicle');
SELECT throws_ok($$SELECT fleet.report_fix('nobody', 0.5, 0.5)$$, 'RF010', NULL, 'RF010: no vehicle of that name');
SELECT throws_ok($$SELECT fleet.set_ride_status('open', 'COMPLETED')$$, 'RF012', NULL, 'RF012: illegal status change');
SELECT throws_ok($$SELECT fleet.set_geofence('east', NULL)$$, 'RF013', NULL, 'RF013: invalid geofence');
SELECT throws_ok($$SELECT fleet.set_geofence('east', (SELECT geofence FROM fleet.map_regions WHERE name = 'west'))$$, 'RF014', NULL, 'RF014: overlap');
SELECT throws_ok($$SELECT fleet.set_crossing_rule('east', 5)$$, 'RF032', NULL, 'RF032: not this node''s region');
SELECT throws_ok($$SELECT fleet.remove_region('west')$$, 'RF015', NULL, 'RF015: region not empty');
SELECT throws_ok($$SELECT fleet.hlc_receive(fleet.hlc_make(now() + interval '1 day', 0))$$, 'RF017', NULL, 'RF017: clock skew');
SELECT throws_ok($$SELECT fleet.remove_fence('none')$$, 'RF033', NULL, 'RF033: no fence of that name');
SELECT throws_ok($$SELECT fleet.add_fence('bad', NULL::public.geometry)$$, 'RF013', NULL, 'RF013: invalid area of a fence');
SELECT throws_ok($$SELECT fleet.report_fix('car', 0.5, 95)$$, 'RF018', NULL, 'RF018: invalid fix');
SELECT lives_ok($$SELECT fleet.require_rate('b', 'k', 1, '1 hour')$$, 'a first call is let through');
SELECT throws_ok($$SELECT fleet.require_rate('b', 'k', 1, '1 hour')$$, 'RF029', NULL, 'RF029: a second one is not');
SET LOCAL fleet.fix_min_interval = '1 h';
SELECT lives_ok($$SELECT fleet.report_fix('car', 0.5, 0.5)$$, 'a first fix is let through');
SELECT throws_ok($$SELECT fleet.report_fix('car', 0.5, 0.5)$$, 'RF029', NULL, 'RF029: a second one is not');
SET LOCAL fleet.fix_min_interval = 0;
SELECT throws_ok($$SELECT fleet.request_ride('far', 'c', 50, 50)$$, 'RF019', NULL, 'RF019: no region there');
SET LOCAL fleet.routing = 'redirect';
SELECT throws_ok($$SELECT fleet.request_ride('far', 'c', 1.5, 0.5)$$, 'RF027', NULL, 'RF027: the place is elsewhere');
SELECT throws_ok($$SELECT fleet.register_vehicle('far', 1.5, 0.5)$$, 'RF027', NULL, 'RF027: the place of a vehicle is elsewhere');
SET LOCAL fleet.routing = 'forward';
SELECT lives_ok($$SELECT fleet.request_ride('key', 'c', 0.5, 0.5, idempotency_key => 'k')$$, 'a ride is requested with a key');
SELECT throws_ok($$SELECT fleet.set_ride_status('key', 'EN_ROUTE', idempotency_key => 'k')$$, 'RF028', NULL, 'RF028: the key is that of another call');
SELECT throws_ok($$SELECT fleet.request_ride('key', 'c', 0.5, 0.5, idempotency_key => 'l')$$, '23505', NULL, '23505: requested with another key');
SELECT throws_ok($$SELECT fleet.cancel_ride('key', idempotency_key => '')$$, '22023', NULL, '22023: no key');
SELECT throws_ok(format('SELECT fleet.update_ride(%s)', args), state, NULL, format('%s: update_ride(%s)', state, args))
	FROM (VALUES ('22004', 'NULL, ''{"fare": 1}'''), ('22004', '''key'', NULL'), ('22023', '''key'', ''{}'''), ('22023', '''key'', ''[]'''), ('22023', '''key'', ''{"region": "east"}'''),
		('22023', '''key'', ''{"no_such": 1}'''),
		('22023', '''key'', ''{"end_location": "POINT(999 0)"}'''), ('22023', '''key'', ''{"start_location": "POINT EMPTY"}'''), ('22P02', '''key'', ''{"fare": "x"}'''), ('23514', '''key'', ''{"fare": -1}'''), ('23502', '''key'', ''{"customer_id": null}'''),
		('RF001', '''nobody'', ''{"fare": 1}''')) AS v(state, args);
SELECT throws_ok($$SELECT fleet.route('no_such', 'key', NULL, '{}')$$, '42883', NULL, '42883: no such call');
SELECT throws_ok($$SELECT fleet.route('update_ride', NULL, NULL, '{}')$$, '22004', NULL, '22004: a call about nothing');
SELECT throws_ok($$INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('x', 'c', 'east', 'POINT(1.5 0.5)')$$,
	'RF023', NULL, 'RF023: not writable here');
SELECT throws_ok($$INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('x', 'east')$$, 'RF023', NULL, 'RF023: vehicles neither');

-- What is told of a row that has left, and of what is none.
SELECT lives_ok($$SELECT fleet.handoff('open', 'east')$$, 'a handoff in a transaction');
SET LOCAL fleet.routing = 'redirect';
SELECT throws_ok($$SELECT fleet.set_ride_status('open', 'EN_ROUTE')$$, 'RF027', NULL, 'RF027: the ride left');
SET LOCAL fleet.routing = 'forward';
SELECT throws_ok($$SELECT fleet.request_ride('open', 'c', 0.5, 0.5)$$, '23505', NULL, '23505: its id is taken');
SELECT throws_ok($$SELECT fleet.outcomes('{x}')$$, '22023', NULL, '22023: no gid');
SELECT throws_ok($$SELECT fleet.resolve('x', 'maybe')$$, '22023', NULL, '22023: no outcome');
SELECT throws_ok($$SELECT fleet.resolve('x', 'abort')$$, '42704', NULL, '42704: nothing in doubt by that name');
SELECT throws_ok($$SELECT fleet.init_node('other')$$, '42710', NULL, '42710: the identity is fixed');
SELECT throws_ok($$SELECT fleet.region_of(200, 0)$$, '22003', NULL, '22003: no place');
SELECT throws_ok($$TRUNCATE fleet.local_rides$$, '0A000', NULL, '0A000: TRUNCATE');
SELECT throws_ok($$SELECT fleet.guard()$$, '39P01', NULL, '39P01: a trigger function is not called');

-- Reads.
SELECT throws_ok(format('SELECT fleet.count_rides(%s)', args), state, NULL, format('%s: count_rides(%s)', state, args)) FROM (VALUES
	('22023', '''everywhere'''), ('22023', 'NULL'), ('22023', 'on_unavailable => ''maybe'''), ('22023', 'within_m => 5'), ('RF004', 'region => ''nowhere'''),
	('55000', '''global-fast''')) AS v(state, args);
SELECT throws_ok($$SELECT fleet.search_rides(order_by => 'fare; x')$$, '22023', NULL, '22023: no order');
SELECT throws_ok($$SELECT fleet.search_rides(max_rows => -1)$$, '2201W', NULL, '2201W: less than no rows');
SELECT throws_ok(format('SELECT fleet.live_rides(%L)', condition), state, NULL, format('%s: condition %s', state, condition)) FROM (VALUES
	('22004', NULL), ('42601', 'true, true'), ('42601', 'true FROM fleet.rides'), ('42804', 'fare'), ('42P02', 'fare > $1'), ('42803', 'count(*) > 0'),
	('0A000', 'fare > (SELECT 1)'), ('0A000', 'random() > 0'), ('0A000', 'requested_at::date = ''2024-01-01'''), ('0A000', 'xmin = 1'), ('0A000', 'tap.pg_version_num() > fare')) AS v(state, condition);

-- What the decision record says outlives what an operator wants.
SELECT throws_ok(format('SELECT fleet.resolve(%L, %L)', dtxid || ':' || branch, 'abort'), 'RF022', NULL, 'RF022: committed, not to be aborted')
	FROM fleet.decisions ORDER BY seq DESC LIMIT 1;

SELECT * FROM finish();
ROLLBACK;

