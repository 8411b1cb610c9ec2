--
-- Row images: what travels is exactly what was there
--
\set SHOW_CONTEXT never
\c fleet_w
SET timezone = 'UTC';

-- Every column of rides and vehicles with odd values, read back from its image.
CREATE TEMPORARY TABLE ride (LIKE fleet.rides);
CREATE TEMPORARY TABLE vehicle (LIKE fleet.vehicles);
INSERT INTO ride VALUES
	('all', 'vehicle', 'customer', 'west', 'IN_PROGRESS', 1234567890.12, 'POINT(0.1 0.2)', 'POINT(0.30000000000000004 1e-300)',
		'POINT(-179.99999999999997 89.99999999999999)', '2026-01-02 03:04:05.678901', 'infinity', '-infinity', '4713-01-01 BC',
		'294276-12-31 23:59:59.999999', '1970-01-01', '2026-06-15 12:00:00.000001', 0.1::float8 + 0.2::float8,
		'1 year 2 mons 3 days 04:05:06.789012', 9223372036854775807, '2026-11-21T08:03:22.123Z/65535'),
	('nothing', NULL, '', '', 'CANCELLED', 0, 'POINT(0 0)', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'epoch', 0, NULL, 1,
		'1970-01-01T00:00:00.000Z/00000'),
	(E'quotes '' " \\ tab\t newline\n é 字 😀 {"a": null}', 'NULL', 'null', E'\\', 'PENDING', 0.01, 'POINT(-0 -0)', 'POINT EMPTY',
		NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'epoch', 5e-324, '-1 mons +1 day -00:00:00.000001', 2, '6429-10-17T02:45:55.327Z/65535'),
	('floats', NULL, '', '', 'ARRIVED', 99.99, 'POINT(1.7976931348623157e308 -2.2250738585072014e-308)', NULL, NULL, NULL, NULL,
		NULL, NULL, NULL, NULL, 'epoch', 'NaN', '0', 3, '1970-01-01T00:00:00.000Z/00001'),
	('infinite', NULL, '', '', 'ARRIVED', 99.99, 'POINT(0 0)', NULL, NULL, NULL, NULL,
		NULL, NULL, NULL, NULL, 'epoch', '-Infinity', '0', 3, '1970-01-01T00:00:00.000Z/00001');
INSERT INTO vehicle VALUES
	('all', 'west', 'ON_TRIP', 'POINT(0.1 0.2)', '2026-01-02 03:04:05.678901', 0.1, 359.99999999999994, -0.0, 1e300, 33.333333333333336,
		'east', 'infinity', '2026-01-01', 7, '2026-11-21T08:03:22.123Z/00001'),
	('nothing', 'west', 'OFFLINE', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01', 1, '2026-11-21T08:03:22.123Z/00001');
SELECT left(ride_id, 8) AS ride, r *= jsonb_populate_record(NULL::ride, fleet.row_image(r)) AS same FROM ride AS r;
SELECT vehicle_id, v *= jsonb_populate_record(NULL::vehicle, fleet.row_image(v)) AS same FROM vehicle AS v;
-- The same as text on its way: it was sent to another node.
SELECT count(*) AS same FROM ride AS r WHERE r *= jsonb_populate_record(NULL::ride, fleet.row_image(r)::text::jsonb);

-- Whatever the settings of the session that writes it, or of the one that reads it.
CREATE TEMPORARY TABLE image AS SELECT ride_id, fleet.row_image(r) AS image FROM ride AS r;
CREATE FUNCTION pg_temp.differ() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM ride AS r JOIN image AS i USING (ride_id) WHERE fleet.row_image(r) <> i.image
		OR NOT r *= jsonb_populate_record(NULL::ride, i.image)
$$;
SELECT pg_temp.differ();
SET datestyle = 'SQL, DMY';
SELECT pg_temp.differ();
SET datestyle = 'German';
SELECT pg_temp.differ();
SET datestyle = 'Postgres, MDY';
SELECT pg_temp.differ();
SHOW datestyle;
SET intervalstyle = 'sql_standard';
SELECT count(*) AS differ FROM ride AS r JOIN image AS i USING (ride_id) WHERE fleet.row_image(r) <> i.image;
SET intervalstyle = 'iso_8601';
SELECT pg_temp.differ();
RESET intervalstyle;
SET extra_float_digits = -15;
SELECT pg_temp.differ();
SHOW extra_float_digits;
RESET extra_float_digits;
RESET datestyle;

-- Its form: an object of texts, in it one member for each column.
SELECT jsonb_pretty(fleet.row_image(v)) FROM vehicle AS v WHERE vehicle_id = 'all';
SELECT fleet.row_image(r) FROM (SELECT 1 AS a, NULL::int AS b, ARRAY[1, NULL] AS c, true AS d, '{"x": 1}'::jsonb AS e, '\x00ff'::bytea AS f) AS r;
SELECT fleet.row_image(ROW()), fleet.row_image(NULL) IS NULL AS null_is_null;
ALTER TABLE vehicle DROP COLUMN region;
SELECT fleet.row_image(v) ? 'region' AS dropped, v *= jsonb_populate_record(NULL::vehicle, fleet.row_image(v)) AS same FROM vehicle AS v;

-- A handoff, and one back, in a session with odd settings change no value.
SELECT fleet.register_vehicle('WV-1', 0.1, 0.2);
SELECT fleet.request_ride('W-1', 'C-1', 0.1, 0.30000000000000004, 'WV-1', 12.34, 0.1, 0.2, '2026-02-01 03:04:05.678901+00');
SELECT fleet.set_ride_status('W-1', s) FROM unnest(ARRAY['EN_ROUTE', 'ARRIVED', 'IN_PROGRESS']::fleet.ride_status[]) AS s;
UPDATE fleet.rides SET current_location = 'POINT(0.7 0.123456789012345678)', duration = '1 year 2 mons 3 days 04:05:06.789012'
	WHERE ride_id = 'W-1' AND region = 'west';
CREATE TABLE test.ride_before AS SELECT * FROM fleet.local_rides WHERE ride_id = 'W-1';
CREATE TABLE test.vehicle_before AS SELECT * FROM fleet.local_vehicles WHERE vehicle_id = 'WV-1';
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = -5;
SET timezone = 'Asia/Kolkata';
SELECT fleet.handoff('W-1', 'east');
SELECT fleet.handoff('W-1', 'west');
RESET ALL;
SELECT b.epoch AS before, a.epoch AS after, fleet.row_image(a) - '{epoch,hlc}'::text[] = fleet.row_image(b) - '{epoch,hlc}'::text[] AS same
	FROM test.ride_before AS b JOIN fleet.local_rides AS a USING (ride_id);
SELECT b.epoch AS before, a.epoch AS after, fleet.row_image(a) - '{epoch,hlc}'::text[] = fleet.row_image(b) - '{epoch,hlc}'::text[] AS same
	FROM test.vehicle_before AS b JOIN fleet.local_vehicles AS a USING (vehicle_id);
DROP TABLE test.ride_before, test.vehicle_before;
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
