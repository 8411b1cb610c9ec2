--
-- Crossings: rules of regions, places in none, the queue of handoffs, and vehicles that
-- go back and forth
--
\set SHOW_CONTEXT never
\c fleet_w
SHOW fleet.handoff_mode;
SHOW fleet.flap_window;
SHOW fleet.handoff_queue_limit;
SHOW fleet.border_tolerance;

-- A rule for this region, and none of its values for others.
SELECT fleet.set_crossing_rule('west', distance_m => 1000, dwell_s => -1);
TABLE fleet.crossing_rules;
SET fleet.handoff_mode = 'immediate';
SET fleet.flap_window = 0;
SELECT fleet.register_vehicle('X-1', 0.5, 0.5);
SELECT outcome FROM fleet.report_fix('X-1', 0.999, 0.5, '2026-01-01 10:00');
SELECT outcome FROM fleet.report_fix('X-1', 1.005, 0.5, '2026-01-01 10:10');	-- 556 m
SELECT outcome FROM fleet.report_fix('X-1', 1.005, 0.5, '2026-01-01 20:00');	-- time does not count
-- It holds at once for sessions that have read the one before, and is taken back with its transaction.
BEGIN;
SELECT fleet.set_crossing_rule('west', distance_m => 500);
SELECT outcome FROM fleet.report_fix('X-1', 1.005, 0.5, '2026-01-01 20:01');
ROLLBACK;
SELECT outcome, region FROM fleet.report_fix('X-1', 1.005, 0.5, '2026-01-01 20:02');
UPDATE fleet.crossing_rules SET dwell_s = 60;
SELECT outcome, region FROM fleet.report_fix('X-1', 1.005, 0.5, '2026-01-01 20:03');
-- The other region has its own: the settings, still.
\c fleet_e
TABLE fleet.crossing_rules;
SET fleet.handoff_mode = 'immediate';
SET fleet.flap_window = 0;
SELECT outcome, region FROM fleet.report_fix('X-1', 0.998, 0.5, '2026-01-01 20:10');	-- 222 m
\c fleet_w
SET fleet.handoff_mode = 'immediate';
SET fleet.flap_window = 0;
-- Speed; a null is the setting.
SELECT fleet.set_crossing_rule('west', max_speed_mps => 10);
TABLE fleet.crossing_rules;
SELECT outcome FROM fleet.report_fix('X-1', 0.989, 0.5, '2026-01-01 20:11');	-- 1 km in a minute
SELECT fleet.set_crossing_rule('west', max_speed_mps => 0);
SELECT outcome FROM fleet.report_fix('X-1', 0.5, 0.5, '2026-01-01 20:11');
SELECT fleet.set_crossing_rule('west');
TABLE fleet.crossing_rules;
SELECT outcome FROM fleet.report_fix('X-1', 0.6, 0.5, '2026-01-01 20:11:10');
-- Refused.
SELECT args, r FROM (VALUES ('''east'', 5'), ('''nowhere'', 5'), ('NULL, 5'), ('''west'', -2'), ('''west'', ''NaN'''), ('''west'', 100001'),
	('''west'', dwell_s => -0.5'), ('''west'', dwell_s => 86401'), ('''west'', max_speed_mps => -1'), ('''west'', max_speed_mps => ''Infinity''')) AS a(args),
	test.raised(format('SELECT fleet.set_crossing_rule(%s)', args)) AS r;
SELECT test.state_of($$INSERT INTO fleet.crossing_rules (region, distance_m) VALUES ('west', 'NaN')$$);
TABLE fleet.crossing_rules;
SELECT test.state_of($$SELECT fleet.rules_changed()$$);

-- In no region: 500 m off the nearest, which is this one; 500 m off another; far from any.
SELECT outcome, region FROM fleet.report_fix('X-1', 0.99, -0.0045, '2026-01-02 10:00');
SELECT outcome, region FROM fleet.report_fix('X-1', 1.01, -0.0045, '2026-01-02 11:00');
SELECT fleet.handoff_vehicle('X-1', 'west');
SELECT outcome, region FROM fleet.report_fix('X-1', 1.01, -0.5, '2026-01-02 12:00');
SET fleet.border_tolerance = 0;
SELECT outcome, region FROM fleet.report_fix('X-1', 1.01, -0.0045, '2026-01-02 13:00');
SELECT outcome, region FROM fleet.report_fix('X-1', 1.01, -0.0045, '2026-01-02 14:00');
SELECT outside_region FROM fleet.vehicles WHERE region = 'west';
RESET fleet.border_tolerance;
-- Late and out of order: nothing comes of them, wherever they are.
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-02 13:30');
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-02 14:00');
SELECT * FROM test.my_vehicles;

-- The queue.
RESET fleet.handoff_mode;
SELECT outcome, region, epoch FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-03 10:00');
SELECT test.drain();
SELECT * FROM test.my_vehicles;
SELECT region, epoch FROM fleet.vehicles WHERE vehicle_id = 'X-1';
SELECT fleet.handoff_vehicle('X-1', 'west');
BEGIN;
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-03 11:00');
SELECT vehicle_id, target, epoch, attempts, last_error FROM fleet.handoff_queue;
SELECT outcome FROM fleet.report_fix('X-1', 1.6, 0.5, '2026-01-03 12:00');		-- queued, still
SELECT count(*) FROM fleet.handoff_queue;
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 1.5, '2026-01-03 15:00');		-- to another region now
SELECT vehicle_id, target, epoch FROM fleet.handoff_queue;
ROLLBACK;
SELECT count(*) FROM fleet.handoff_queue;
SELECT * FROM test.my_vehicles;
-- What is not true any more is dropped: it came back, it was handed off, it was deleted.
BEGIN;
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-04 11:00');
SELECT outcome FROM fleet.report_fix('X-1', 0.5, 0.5, '2026-01-04 15:00');
COMMIT;
SELECT test.drain();
SELECT * FROM test.my_vehicles;
BEGIN;
SELECT outcome FROM fleet.report_fix('X-1', 0.5, 1.5, '2026-01-05 11:00');
SELECT fleet.handoff_vehicle('X-1', 'east');
COMMIT;
SELECT test.drain();
SELECT region, epoch FROM fleet.vehicles WHERE vehicle_id = 'X-1';
SELECT fleet.handoff_vehicle('X-1', 'west');
BEGIN;
SELECT outcome FROM fleet.report_fix('X-1', 1.5, 0.5, '2026-01-06 11:00');
DELETE FROM fleet.vehicles WHERE region = 'west' AND vehicle_id = 'X-1';
COMMIT;
SELECT test.drain();
SELECT count(*) FROM fleet.vehicles;
INSERT INTO fleet.handoff_queue (vehicle_id, target, epoch) VALUES ('X-1', 'nowhere', 1), ('X-0', 'east', 1);
SELECT test.drain();
-- With its open ride.
SELECT fleet.register_vehicle('X-2', 0.5, 0.5);
SELECT fleet.request_ride('XR-2', 'C-1', 0.5, 0.5, 'X-2');
SELECT outcome FROM fleet.report_fix('X-2', 1.5, 0.5, '2026-01-07 10:00');
SELECT test.drain();
SELECT region, ride_id, epoch FROM fleet.rides;
-- From the node where it was: its new node queues it.
SELECT outcome, region FROM fleet.report_fix('X-2', 0.5, 0.5, '2026-01-07 20:00');
\c fleet_e
SELECT test.drain();
\c fleet_w
SELECT region, vehicle_id, epoch FROM fleet.vehicles;
-- No room in the queue: at once.
SET fleet.flap_window = 0;
SET fleet.handoff_queue_limit = 1;
BEGIN;
INSERT INTO fleet.handoff_queue (vehicle_id, target, epoch) VALUES ('X-0', 'east', 1);
SELECT outcome, region FROM fleet.report_fix('X-2', 1.5, 0.5, '2026-01-08 10:00');
COMMIT;
SET fleet.handoff_queue_limit = 0;
SELECT fleet.handoff_vehicle('X-2', 'west');
SELECT outcome, region FROM fleet.report_fix('X-2', 1.5, 0.5, '2026-01-09 10:00');
RESET fleet.handoff_queue_limit;
SELECT test.drain();

-- Back and forth over the border: each handoff doubles the dwell that the next one needs.
ALTER DATABASE fleet_w SET fleet.handoff_mode = 'immediate';
ALTER DATABASE fleet_e SET fleet.handoff_mode = 'immediate';
\c fleet_w
SELECT fleet.register_vehicle('X-3', 0.9, 0.5);
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 10:00');
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 10:01');
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 10:02');
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 10:03');	-- not so fast
SELECT vehicle_id, kind, count, damped_until FROM fleet.flapping;
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 10:04:59');
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 10:05');	-- 120 s
-- The next node knows: 60 s, three times doubled.
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 10:06');
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 10:09:59');
\c fleet_e
SELECT vehicle_id, kind, count, damped_until FROM fleet.flapping;
\c fleet_w
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 10:10');	-- 240 s
-- Coming back in between, it begins anew.
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 11:00');
SELECT outcome, region FROM fleet.report_fix('X-3', 0.99, 0.5, '2026-01-01 11:07');
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 11:08');
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 11:15:59');
-- No longer than the window; and not at all without one.
SET fleet.flap_window = 60;
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 11:16');
SELECT fleet.handoff_vehicle('X-3', 'west');
SET fleet.flap_window = 0;
SELECT outcome, region FROM fleet.report_fix('X-3', 1.01, 0.5, '2026-01-01 11:17');
RESET fleet.flap_window;

-- Two devices under one id: whose fixes imply a speed that is none.
SELECT fleet.register_vehicle('X-4', 0.2, 0.5);
SELECT outcome, count(*) FROM generate_series(0, 9) AS n,
	fleet.report_fix('X-4', 0.2 + n % 2 * 1.5, 0.5, '2026-01-01 10:00+00'::timestamptz + n * interval '1 minute') GROUP BY outcome ORDER BY outcome;
SELECT vehicle_id, kind, count, damped_until FROM fleet.flapping WHERE vehicle_id = 'X-4';
-- Once is nothing.
SELECT fleet.register_vehicle('X-5', 0.2, 0.5);
SELECT outcome FROM generate_series(0, 2) AS n,
	fleet.report_fix('X-5', 0.2 + n % 2 * 1.5, 0.5, '2026-01-01 10:00+00'::timestamptz + n * interval '1 minute');
SELECT count(*) FROM fleet.flapping WHERE vehicle_id = 'X-5';
-- Where speed does not count, they are damped as others.
SELECT fleet.set_crossing_rule('west', max_speed_mps => 0);
\c fleet_e
SELECT fleet.set_crossing_rule('east', max_speed_mps => 0);
\c fleet_w
DO $$
BEGIN
	FOR n IN 1 .. 60 LOOP
		PERFORM fleet.report_fix('X-4', 0.2 + n % 2 * 1.5, 0.5, '2026-01-02 10:00+00'::timestamptz + n * interval '1 minute');
	END LOOP;
END
$$;
SELECT region, epoch FROM fleet.vehicles WHERE vehicle_id = 'X-4';
SELECT vehicle_id, kind FROM fleet.flapping WHERE vehicle_id = 'X-4';
SELECT fleet.set_crossing_rule('west');
\c fleet_e
SELECT fleet.set_crossing_rule('east');

ALTER DATABASE fleet_w RESET ALL;
ALTER DATABASE fleet_e RESET ALL;
\c fleet_w
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
TRUNCATE fleet.flaps;
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
TRUNCATE fleet.flaps;
SELECT test.settle();
SELECT * FROM fleet.verify();
