--
-- The history of fixes: what is kept, partitions of days, paths
--
\set SHOW_CONTEXT never
-- Crossings are not queued here.
\c fleet_w
SELECT test.hand_off_at_once(true);
\c fleet_w
SET timezone = 'UTC';

-- Days that were made with the node: yesterday, today and a week.
SELECT count(*) AS days, min(since) = date_trunc('day', now()) - interval '1 day' AS from_yesterday, bool_and(until - since = interval '1 day') AS whole FROM fleet.history_partitions();
SELECT * FROM fleet.make_history_partitions();
SELECT count(*) AS fixes FROM fleet.fix_history WHERE vehicle_id LIKE 'FH-%';

-- An accepted fix is kept as it came, with the ride that is open.
SELECT date_trunc('minute', now()) - interval '1 minute' AS t0 \gset
SELECT fleet.register_vehicle('FH-1', 0.5, 0.5);
SELECT outcome FROM fleet.report_fix('FH-1', -0.123456789, 0.5, :'t0'::timestamptz, 36.5, 90.25, 5, 80, 12.5, 'BUSY');
SELECT fleet.request_ride('FHR-1', 'C-1', 0.5, 0.5, 'FH-1');
SELECT outcome FROM fleet.report_fix('FH-1', -0.1234568, 0.50009, :'t0'::timestamptz + interval '5.25 s');
SELECT outcome FROM fleet.report_fix('FH-1', -0.1234569, 0.5002, :'t0'::timestamptz + interval '10 s');
-- What is not accepted is not kept: a repeated fix, a late one, an implausible one, an invalid one.
SELECT outcome FROM fleet.report_fix('FH-1', -0.1234569, 0.5002, :'t0'::timestamptz + interval '10 s');
SELECT outcome FROM fleet.report_fix('FH-1', -0.1234569, 0.5002, :'t0'::timestamptz + interval '7 s');
SELECT outcome FROM fleet.report_fix('FH-1', 0.9, 0.9, :'t0'::timestamptz + interval '11 s');
SELECT test.state_of(format('SELECT fleet.report_fix(''FH-1'', 181, 0.5, %L)', :'t0'::timestamptz + interval '12 s'));
-- Nor is what is rolled back.
BEGIN;
SELECT outcome FROM fleet.report_fix('FH-1', -0.123457, 0.5003, :'t0'::timestamptz + interval '15 s');
SELECT count(*) AS in_the_transaction FROM fleet.fix_history WHERE vehicle_id = 'FH-1';
ROLLBACK;
SELECT at - :'t0' AS at, epoch, lon_e7, lat_e7, speed_kmh, heading, accuracy_m, status, ride_id, tableoid::regclass::text = 'fleet.fix_history_' || to_char(at, 'YYYYMMDD') AS of_its_day
	FROM fleet.fix_history WHERE vehicle_id = 'FH-1' ORDER BY at;
SELECT lon, lat, at - :'t0' AS at FROM fleet.path_fixes('ride', 'FHR-1');

-- The path of a ride, of a vehicle, of one fix, of none.
SELECT GeometryType(p) AS type, ST_SRID(p) AS srid, ST_IsValidTrajectory(p) AS valid, ST_M(ST_EndPoint(p)) - extract(epoch FROM :'t0'::timestamptz) AS seconds
	FROM (SELECT fleet.ride_path('FHR-1') AS p) AS x \gset
SELECT :'type' AS type, :'srid' AS srid, :'valid' AS valid, :'seconds' AS seconds;
SELECT ST_AsText(ST_Force2D(fleet.vehicle_path('FH-1', :'t0', :'t0'::timestamptz + interval '10 s'))) AS half_open;
SELECT ST_AsText(ST_Force2D(p)) AS one_fix, GeometryType(p) AS type, ST_IsValid(p) AS valid FROM (SELECT fleet.vehicle_path('FH-1', :'t0', :'t0'::timestamptz + interval '1 us') AS p) AS x;
SELECT fleet.ride_path('FHR-0') IS NULL AS no_ride, fleet.vehicle_path('FH-0', '-infinity', 'infinity') IS NULL AS no_vehicle,
	fleet.vehicle_path('FH-1', 'infinity', '-infinity') IS NULL AS no_time, fleet.ride_path(NULL) IS NULL AS null_ride;
SELECT ST_NPoints(fleet.vehicle_path('FH-1', '-infinity', 'infinity')) AS always;
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'SQL, DMY';
SELECT ST_NPoints(fleet.vehicle_path('FH-1', :'t0', :'t0'::timestamptz + interval '10 s')) AS in_kathmandu;
RESET datestyle;
SET timezone = 'UTC';
SELECT * FROM test.raised($$SELECT fleet.path_fixes('car', 'FH-1')$$);
SELECT count(*) FROM fleet.path_fixes('ride', NULL);
SELECT count(*) FROM fleet.path_fixes(NULL, 'FH-1');

-- Over the border and on from there: each region has its part, and each answers the whole.
SELECT outcome, region, epoch FROM fleet.report_fix('FH-1', 1.5, 0.5002, :'t0'::timestamptz + interval '20 s') AS r;
SET fleet.max_speed = 0;
SELECT outcome, region, epoch FROM fleet.report_fix('FH-1', 1.5, 0.5002, :'t0'::timestamptz + interval '20 s') AS r;
RESET fleet.max_speed;
SELECT outcome, region, epoch FROM fleet.report_fix('FH-1', 1.5001, 0.5002, :'t0'::timestamptz + interval '25 s') AS r;
SELECT lon, lat, at - :'t0' AS at FROM fleet.path_fixes('ride', 'FHR-1');
\c fleet_e
SET timezone = 'UTC';
SELECT lon_e7, lat_e7, epoch, ride_id FROM fleet.fix_history WHERE vehicle_id = 'FH-1' ORDER BY at;
SELECT lon, lat, at - :'t0' AS at FROM fleet.path_fixes('vehicle', 'FH-1');
SELECT ST_NPoints(fleet.ride_path('FHR-1')) AS points;
\c fleet_w
SET timezone = 'UTC';

-- A day without a partition: its fixes are in the default one, until it is made.
SELECT current_date - 3 AS day \gset
SET fleet.max_speed = 0;
SELECT fleet.register_vehicle('FH-2', 0.5, 0.5);
SELECT outcome FROM generate_series(1, 3) AS n, fleet.report_fix('FH-2', 0.5 + n / 1000.0, 0.5, :'day'::timestamptz + n * interval '12 h' - interval '1 min');
RESET fleet.max_speed;
SELECT tableoid::regclass = 'fleet.fix_history_default'::regclass AS in_default, at - :'day' AS at FROM fleet.fix_history WHERE vehicle_id = 'FH-2' ORDER BY at;
SELECT lon FROM fleet.path_fixes('vehicle', 'FH-2');
SELECT to_date(right(part, 8), 'YYYYMMDD') - :'day' AS day, outcome, fixes FROM fleet.make_history_partitions();
SELECT count(*) AS left_in_default FROM fleet.fix_history_default WHERE vehicle_id = 'FH-2';
SELECT tableoid::regclass::text = 'fleet.fix_history_' || to_char(at, 'YYYYMMDD') AS of_its_day, at - :'day' AS at FROM fleet.fix_history WHERE vehicle_id = 'FH-2' ORDER BY at;
SELECT lon FROM fleet.path_fixes('vehicle', 'FH-2');
SELECT fleet.make_history_partition(:'day') IS NULL AS is_there;
SELECT days, r FROM (VALUES (-1), (367)) AS d(days), test.raised(format('SELECT fleet.make_history_partitions(%s)', days)) AS r;
SELECT * FROM fleet.make_history_partitions(0);

-- What is older than the retention goes, by partition; in the default one by row.
SELECT part, outcome, fixes > 0 AS of_other_tests FROM fleet.drop_old_history();
SET fleet.max_speed = 0;
SELECT fleet.register_vehicle('FH-3', 0.5, 0.5);
SELECT outcome FROM fleet.report_fix('FH-3', 0.5, 0.5, '2020-02-29 10:00');
SELECT part, outcome, fixes FROM fleet.make_history_partitions();
SELECT fleet.make_history_partition('2020-02-29') AS moved;
SELECT outcome FROM fleet.report_fix('FH-3', 0.5, 0.5, '2020-03-01 10:00');
RESET fleet.max_speed;
SELECT tableoid::regclass, at FROM fleet.fix_history WHERE vehicle_id = 'FH-3' ORDER BY at;
SELECT part, outcome, CASE WHEN outcome = 'trimmed' THEN fixes > 0 END AS some FROM fleet.drop_old_history();
SELECT count(*) AS gone FROM fleet.fix_history WHERE vehicle_id = 'FH-3';
SELECT part, outcome FROM fleet.drop_old_history();

-- Without retention nothing is kept.
ALTER SYSTEM SET fleet.history_retention = 0;
SELECT pg_reload_conf();
SELECT pg_sleep(0.2);
SELECT outcome FROM fleet.report_fix('FH-2', 0.6, 0.5, now() - interval '1 s');
SELECT count(*) AS as_before FROM fleet.fix_history WHERE vehicle_id = 'FH-2';
ALTER SYSTEM RESET fleet.history_retention;
SELECT pg_reload_conf();
SELECT pg_sleep(0.2);
SELECT test.state_of(format('SET fleet.history_retention = %s', v)) FROM (VALUES ('1')) AS x(v);

-- Without any partition that takes it a fix is refused.
BEGIN;
ALTER TABLE fleet.fix_history DETACH PARTITION fleet.fix_history_default;
SAVEPOINT s;
SELECT fleet.register_vehicle('FH-4', 0.5, 0.5);
SELECT * FROM test.raised($$SELECT fleet.report_fix('FH-4', 0.5, 0.5, '2020-02-29 10:00')$$);
SELECT outcome FROM fleet.report_fix('FH-4', 0.5, 0.5);
ALTER TABLE fleet.fix_history ATTACH PARTITION fleet.fix_history_default DEFAULT;
SELECT outcome FROM fleet.report_fix('FH-2', 0.6, 0.5);
ROLLBACK;

-- Rights: who may see the ride may see its path; nobody writes by hand.
CREATE ROLE fleet_driver;
CREATE ROLE fleet_stranger;
GRANT USAGE ON SCHEMA test TO fleet_driver, fleet_stranger;
SET ROLE fleet_stranger;
SELECT s, test.state_of(s) FROM unnest(ARRAY['SELECT FROM fleet.fix_history', 'INSERT INTO fleet.fix_history DEFAULT VALUES', 'SELECT fleet.ride_path(''FHR-1'')',
	'SELECT fleet.vehicle_path(''FH-1'', now(), now())', 'SELECT fleet.drop_old_history()', 'SELECT fleet.make_history_partitions()', 'SELECT fleet.make_history_partition(''2020-01-01'')']) AS s;
RESET ROLE;
GRANT SELECT ON fleet.rides TO fleet_driver;
GRANT SELECT, UPDATE ON fleet.vehicles TO fleet_driver;
SELECT fleet.request_ride('FHR-2', 'C-2', 0.5, 0.5, 'FH-2');
SET ROLE fleet_driver;
SELECT ST_NPoints(fleet.ride_path('FHR-1')) AS points;
SELECT s, test.state_of(s) FROM unnest(ARRAY['SELECT FROM fleet.fix_history', 'INSERT INTO fleet.fix_history DEFAULT VALUES', 'DELETE FROM fleet.fix_history_default']) AS s;
RESET ROLE;
-- Where policies apply, this region must show him the row.
ALTER TABLE fleet.rides ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fleet.rides TO fleet_driver USING (customer_id = 'C-2');
GRANT SELECT ON fleet.local_rides TO fleet_driver;
SET ROLE fleet_driver;
SELECT fleet.ride_path('FHR-2') IS NULL AS no_fix_yet;
SELECT * FROM test.raised($$SELECT fleet.ride_path('FHR-1')$$);
SELECT * FROM test.raised($$SELECT fleet.ride_path('FHR-0')$$);
SELECT ST_NPoints(fleet.vehicle_path('FH-1', '-infinity', 'infinity')) AS vehicles_have_none;
RESET ROLE;
DROP POLICY own ON fleet.rides;
ALTER TABLE fleet.rides DISABLE ROW LEVEL SECURITY;
REVOKE ALL ON fleet.rides, fleet.vehicles, fleet.local_rides FROM fleet_driver;
REVOKE USAGE ON SCHEMA test FROM fleet_driver, fleet_stranger;
DROP ROLE fleet_driver, fleet_stranger;

DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
DELETE FROM fleet.fix_history;
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
DELETE FROM fleet.fix_history;
SELECT test.settle();
SELECT test.hand_off_at_once(false);
