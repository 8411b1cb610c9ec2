--
-- Position reports: what is refused, what is ignored, when a border is crossed
--
\set SHOW_CONTEXT never
-- Each crossing at once, however often.  How they are queued and damped is in crossing.sql.
\c fleet_w
SELECT test.hand_off_at_once(true);
\c fleet_w
SET timezone = 'UTC';
SELECT fleet.register_vehicle('F-1', 0.5, 0.5);
SELECT * FROM fleet.report_fix('F-1', 0.5, 0.5, '2026-01-01 10:00', 36, 90, 5, 80, 12.5, 'BUSY');
SELECT status, ST_AsText(location) AS place, fix_at, speed_kmh, heading, accuracy_m, battery_pct, altitude_m FROM fleet.vehicles WHERE region = 'west';
-- What is not said is not known, but for the battery and the status.
SELECT * FROM fleet.report_fix('F-1', 0.501, 0.5, '2026-01-01 10:01');
SELECT status, ST_AsText(location) AS place, fix_at, speed_kmh, heading, accuracy_m, battery_pct, altitude_m FROM fleet.vehicles WHERE region = 'west';

-- Refused.
SELECT args, r FROM (VALUES ('NULL, 0.5, 0.5'), ('''F-1'', NULL, 0.5'), ('''F-1'', 0.5, NULL'), ('''F-1'', 0.5, 0.5, NULL')) AS a(args),
	test.raised(format('SELECT fleet.report_fix(%s)', args)) AS r;
SELECT args, r FROM (VALUES ('180.1, 0.5'), ('-180.1, 0.5'), ('0.5, 90.1'), ('0.5, -90.1'), ('''NaN'', 0.5'), ('0.5, ''NaN'''), ('''Infinity'', 0.5')) AS a(args),
	test.raised(format('SELECT fleet.report_fix(''F-1'', %s)', args)) AS r;
SELECT args, r FROM (VALUES ('speed_kmh => -1'), ('speed_kmh => 10001'), ('speed_kmh => ''NaN'''), ('heading => -1'), ('heading => 361'),
	('accuracy_m => -1'), ('accuracy_m => 100001'), ('battery_pct => -1'), ('battery_pct => 101'), ('altitude_m => -1001'), ('altitude_m => ''Infinity''')) AS a(args),
	test.raised(format('SELECT fleet.report_fix(''F-1'', 0.5, 0.5, %s)', args)) AS r;
SELECT at, test.state_of(format('SELECT fleet.report_fix(''F-1'', 0.5, 0.5, %s)', at)) FROM (VALUES ('now() + interval ''1 hour'''),
	('''infinity'''), ('''-infinity''')) AS a(at);
SELECT * FROM test.raised($$SELECT fleet.report_fix('F-0', 0.5, 0.5)$$);
SELECT ST_AsText(location) AS unchanged, fix_at FROM fleet.vehicles WHERE region = 'west';

-- Newest wins; a repeated report does no harm.
SELECT * FROM fleet.report_fix('F-1', 0.7, 0.7, '2026-01-01 10:01');
SELECT * FROM fleet.report_fix('F-1', 0.7, 0.7, '2026-01-01 09:59');
SELECT ST_AsText(location) AS unchanged, fix_at FROM fleet.vehicles WHERE region = 'west';

-- Nothing drives at more than 60 m/s: 0.01 degrees are 1112 m, in 10 s.
SELECT * FROM fleet.report_fix('F-1', 0.511, 0.5, '2026-01-01 10:01:10');
SELECT ST_AsText(location) AS unchanged, fix_at FROM fleet.vehicles WHERE region = 'west';
SELECT * FROM fleet.report_fix('F-1', 0.511, 0.5, '2026-01-01 10:01:20');	-- possible by now
SET fleet.max_speed = 20;
SELECT * FROM fleet.report_fix('F-1', 0.521, 0.5, '2026-01-01 10:01:40');
SET fleet.max_speed = 0;
SELECT * FROM fleet.report_fix('F-1', 0.531, 0.5, '2026-01-01 10:01:21');	-- off
RESET fleet.max_speed;

-- The open ride is where its vehicle is, and gets its path from it; a closed one stays.
SELECT fleet.request_ride('FR-0', 'C-1', 0.5, 0.5, 'F-1', at => '2026-01-01 10:00');
SELECT fleet.set_ride_status('FR-0', 'CANCELLED');
SELECT fleet.request_ride('FR-1', 'C-1', 0.531, 0.5, 'F-1', at => '2026-01-01 10:00');
SELECT * FROM fleet.report_fix('F-1', 0.532, 0.5, '2026-01-01 10:03');
SELECT fleet.set_ride_status('FR-1', s) FROM unnest(ARRAY['EN_ROUTE', 'ARRIVED', 'IN_PROGRESS']::fleet.ride_status[]) AS s;
SELECT * FROM fleet.report_fix('F-1', 0.533, 0.5, '2026-01-01 10:04');
SELECT * FROM fleet.report_fix('F-1', 0.534, 0.5, '2026-01-01 10:05');
SELECT ride_id, ST_AsText(current_location) AS place, round(path_m::numeric) AS path_m FROM fleet.rides WHERE region = 'west' ORDER BY ride_id;

-- Over the border, less than 100 m: outside, but not crossed.  0.0005 degrees are 56 m.
SELECT * FROM fleet.report_fix('F-1', 0.9995, 0.5, '2026-01-01 11:00');
SELECT * FROM fleet.report_fix('F-1', 1.0005, 0.5, '2026-01-01 11:00:10');
SELECT outside_region, outside_since FROM fleet.vehicles WHERE region = 'west';
SELECT * FROM fleet.report_fix('F-1', 1.0006, 0.5, '2026-01-01 11:00:30');
SELECT outside_region, outside_since FROM fleet.vehicles WHERE region = 'west';
-- Back inside: the dwell begins anew.
SELECT * FROM fleet.report_fix('F-1', 0.9999, 0.5, '2026-01-01 11:00:40');
SELECT outside_region, outside_since FROM fleet.vehicles WHERE region = 'west';
SELECT * FROM fleet.report_fix('F-1', 1.0005, 0.5, '2026-01-01 11:00:50');
SELECT * FROM fleet.report_fix('F-1', 1.0005, 0.5, '2026-01-01 11:01:49');
-- An ignored fix neither crosses nor counts.
SELECT * FROM fleet.report_fix('F-1', 1.5, 0.5, '2026-01-01 11:01:49.5');
-- 60 s outside: it has crossed, and its open ride goes with it.
SELECT * FROM fleet.report_fix('F-1', 1.0005, 0.5, '2026-01-01 11:01:50');
SELECT * FROM test.my_vehicles;
SELECT * FROM test.my_rides;
SET fleet.routing = 'redirect';
SELECT * FROM test.raised($$SELECT fleet.report_fix('F-1', 1.0005, 0.5, '2026-01-01 11:02:50')$$);
RESET fleet.routing;
SELECT kind, key, epoch, target, image->>'region' AS region, image->>'outside_region' AS outside FROM fleet.departures
	WHERE target IS NOT NULL AND image->>'vehicle_id' = 'F-1' ORDER BY kind;

-- On its new node it goes on where it was.  From there back by distance.
\c fleet_e
SET timezone = 'UTC';
SELECT vehicle_id, status, ST_AsText(location) AS place, fix_at, battery_pct, outside_region, outside_since, epoch FROM fleet.vehicles WHERE region = 'east';
SELECT ride_id, vehicle_id, status, ST_AsText(current_location) AS place, epoch FROM fleet.rides WHERE region = 'east';
SELECT * FROM fleet.report_fix('F-1', 0.99915, 0.5, '2026-01-01 11:03');	-- 94.5 m
SELECT * FROM fleet.report_fix('F-1', 0.99905, 0.5, '2026-01-01 11:03:01');	-- 105.6 m
SELECT * FROM test.my_vehicles;

-- The settings of the rule.
\c fleet_w
SET timezone = 'UTC';
SELECT * FROM test.my_vehicles;
SELECT * FROM test.my_rides;
SET fleet.crossing_distance = 0;
SELECT * FROM fleet.report_fix('F-1', 1.00001, 0.5, '2026-01-01 12:00');		-- at once
\c fleet_e
SET fleet.crossing_dwell = 0;
SELECT * FROM fleet.report_fix('F-1', 0.99999, 0.5, '2026-01-01 13:00+00');	-- at once
\c fleet_w
SET fleet.crossing_distance = -1;
SET fleet.crossing_dwell = 3600;
SELECT * FROM fleet.report_fix('F-1', 1.05, 0.5, '2026-01-01 14:00+00');		-- far, but distance does not count
SELECT * FROM fleet.report_fix('F-1', 1.05, 0.5, '2026-01-01 14:59:59+00');
SELECT * FROM fleet.report_fix('F-1', 1.05, 0.5, '2026-01-01 15:00+00');
\c fleet_e
SET fleet.crossing_dwell = -1;
SELECT * FROM fleet.report_fix('F-1', 0.9995, 0.5, '2026-01-01 16:00+00');
SELECT * FROM fleet.report_fix('F-1', 0.9995, 0.5, '2026-01-01 20:00+00');		-- long, but time does not count
SET fleet.crossing_distance = -1;
SELECT * FROM fleet.report_fix('F-1', 0.9995, 0.5, '2026-01-01 20:01+00');		-- neither: being there is enough
\c fleet_w
-- In no region: it stays where it is.
SELECT * FROM fleet.report_fix('F-1', -0.5, 0.5, '2026-01-02 10:00+00');
SELECT outside_region, outside_since, epoch FROM fleet.vehicles WHERE region = 'west';
-- Rolled back, it has not moved.
BEGIN;
SELECT * FROM fleet.report_fix('F-1', 1.5, 0.5, '2026-01-03 10:00+00');
SELECT count(*) AS here FROM fleet.vehicles WHERE region = 'west';
ROLLBACK;
SELECT * FROM test.my_vehicles;
SELECT * FROM test.my_rides;
-- Two crossings in one transaction: the second is seen where the first has led to.
BEGIN;
SELECT * FROM fleet.report_fix('F-1', 1.5, 0.5, '2026-01-03 10:00+00');
SAVEPOINT s;
SELECT * FROM fleet.report_fix('F-1', 0.5, 1.5, '2026-01-03 15:00+00');
SELECT region, epoch FROM fleet.get_ride('FR-1');
ROLLBACK TO s;
COMMIT;
SELECT region, vehicle_id, epoch FROM fleet.vehicles;
SELECT region, ride_id, status, epoch FROM fleet.rides ORDER BY ride_id;

-- A vehicle that is known by a fix but not by a place.
INSERT INTO fleet.vehicles (vehicle_id, region, fix_at) VALUES ('F-2', 'west', '2026-01-01 10:00+00');
SELECT * FROM fleet.report_fix('F-2', 0.5, 0.5, '2026-01-01 10:00:01+00');

DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT test.settle();
SELECT * FROM fleet.verify();
SELECT test.hand_off_at_once(false);
