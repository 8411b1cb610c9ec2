--
-- Many position reports at once: fleet.report_fixes and COPY into fleet.fix_feed
--
\set SHOW_CONTEXT never
-- Crossings are not queued here.
\c fleet_w
SELECT test.hand_off_at_once(true);
\c fleet_w
SET timezone = 'UTC';
SELECT fleet.register_vehicle('MF-' || n, 0.1 * n, 0.5) FROM generate_series(1, 5) AS n;
SELECT fleet.request_ride('MR-1', 'C-1', 0.1, 0.5, 'MF-1', at => '2026-01-01 10:00');
SELECT fleet.set_ride_status('MR-1', s) FROM unnest(ARRAY['EN_ROUTE', 'ARRIVED', 'IN_PROGRESS']::fleet.ride_status[]) AS s;
CREATE VIEW test.places AS SELECT vehicle_id, status, ST_AsText(location) AS place, fix_at, speed_kmh, heading, accuracy_m, battery_pct, altitude_m, epoch
	FROM fleet.vehicles WHERE region = 'west' ORDER BY vehicle_id COLLATE "C";

-- Each gets an answer, in the order in which they were given; a bad one loses only itself.
SELECT * FROM fleet.report_fixes('{MF-3,MF-1,MF-2,MF-2,NULL,MF-4,MF-5,MF-5}', '{0.3001,0.1001,200,0.2001,0.5,0.4001,0.5,NULL}', '{0.5,0.5,0.5,0.5,0.5,0.5,-91,0.5}',
	array_fill('2026-01-01 10:01'::timestamptz, ARRAY[8]), speeds_kmh => '{30,NULL,30,31,32,-1,33,34}', statuses => '{BUSY,NULL,NULL,NULL,NULL,NULL,NULL,NULL}',
	batteries_pct => '{50,51,NULL,NULL,NULL,NULL,NULL,NULL}');
SELECT * FROM test.places;
SELECT ride_id, ST_AsText(current_location) AS place, round(path_m::numeric, 1) AS path_m FROM fleet.rides WHERE region = 'west';

-- The same again changes nothing; of several of one vehicle none is lost to another's place in the array.
CREATE TEMPORARY TABLE before AS SELECT vehicle_id, hlc::bigint AS stamp FROM fleet.vehicles WHERE region = 'west';
SELECT number, outcome FROM fleet.report_fixes('{MF-3,MF-1}', '{0.3001,0.1001}', '{0.5,0.5}', '{2026-01-01 10:01,2026-01-01 10:01}');
SELECT count(*) AS unchanged FROM fleet.vehicles AS v JOIN before AS b USING (vehicle_id) WHERE v.region = 'west' AND v.hlc::bigint = b.stamp;
SELECT number, vehicle_id, outcome FROM fleet.report_fixes('{MF-1,MF-1,MF-1,MF-1}', '{0.1004,0.1002,0.1003,0.9}', '{0.5,0.5,0.5,0.5}',
	'{2026-01-01 10:04,2026-01-01 10:02,2026-01-01 10:03,2026-01-01 10:02:30}');
SELECT place, fix_at FROM test.places WHERE vehicle_id = 'MF-1';
SELECT round(path_m::numeric, 1) AS all_the_way FROM fleet.rides WHERE region = 'west';

-- Something in the way of one: a constraint, a trigger, a vehicle that nobody has.
ALTER TABLE fleet.vehicles ADD CONSTRAINT no_m_2 CHECK (vehicle_id <> 'MF-2' OR speed_kmh < 50);
CREATE FUNCTION test.no_m_4() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.vehicle_id = 'MF-4' THEN
		RAISE EXCEPTION 'not MF-4' USING ERRCODE = 'P1234', DETAIL = 'It is in the garage.';
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER no_m_4 BEFORE UPDATE ON fleet.local_vehicles FOR EACH ROW EXECUTE FUNCTION test.no_m_4();
SELECT number, vehicle_id, outcome, reason_sqlstate, reason_message, CASE WHEN number <> 2 THEN reason_detail END AS detail
	FROM fleet.report_fixes('{MF-1,MF-2,MF-3,MF-4,MF-5,MF-6}', '{0.1005,0.2005,0.3005,0.4005,0.5005,0.6}', '{0.5,0.5,0.5,0.5,0.5,0.5}',
	array_fill('2026-01-01 10:10'::timestamptz, ARRAY[6]), speeds_kmh => array_fill(60::float8, ARRAY[6]));
SELECT vehicle_id, place, fix_at FROM test.places;
DROP TRIGGER no_m_4 ON fleet.local_vehicles;
ALTER TABLE fleet.vehicles DROP CONSTRAINT no_m_2;

-- The whole call is undone with its transaction, and by a savepoint.
BEGIN;
SAVEPOINT s;
SELECT outcome FROM fleet.report_fixes('{MF-2}', '{0.2009}', '{0.5}', '{2026-01-01 10:20}');
ROLLBACK TO s;
SELECT outcome FROM fleet.report_fixes('{MF-3}', '{0.3009}', '{0.5}', '{2026-01-01 10:20}');
COMMIT;
SELECT vehicle_id, place FROM test.places WHERE vehicle_id IN ('MF-2', 'MF-3');

-- Across borders: to two regions, each in one go; the newest fix of a vehicle decides.
SET fleet.max_speed = 0;
SELECT * FROM fleet.report_fixes('{MF-1,MF-2,MF-3,MF-4,MF-4}', '{1.5,0.5,1.6,1.5,0.45}', '{0.5,1.5,0.5,0.5,0.5}',
	'{2026-01-01 11:00,2026-01-01 11:00,2026-01-01 11:00,2026-01-01 11:00,2026-01-01 11:01}');
SELECT vehicle_id, place FROM test.places;
SELECT vehicle_id, region, epoch FROM fleet.vehicles WHERE vehicle_id LIKE 'MF-%' ORDER BY vehicle_id COLLATE "C";
SELECT ride_id, region, vehicle_id FROM fleet.get_ride('MR-1');
-- From there they are reported there, here, or not at all.
SELECT * FROM fleet.report_fixes('{MF-1,MF-5,MF-2}', '{1.5001,0.5001,0.5}', '{0.5,0.5,1.5001}', array_fill('2026-01-01 11:10'::timestamptz, ARRAY[3]));
SET fleet.routing = 'redirect';
SELECT number, vehicle_id, outcome, region, reason_sqlstate, reason_message, reason_detail LIKE 'region=east server=%' AS detail
	FROM fleet.report_fixes('{MF-1,MF-5}', '{1.5002,0.5002}', '{0.5,0.5}', array_fill('2026-01-01 11:20'::timestamptz, ARRAY[2]));
RESET fleet.routing;
RESET fleet.max_speed;

-- Too soon after another.
SET fleet.fix_min_interval = '1h';
SELECT number, vehicle_id, outcome, reason_sqlstate, regexp_replace(reason_detail, 'after \d+ ms', 'after N ms') AS detail
	FROM fleet.report_fixes('{MF-5,MF-4,MF-5}', '{0.5003,0.4503,0.5004}', '{0.5,0.5,0.5}', '{2026-01-01 11:30,2026-01-01 11:30,2026-01-01 11:31}');
-- A token that was taken is not asked for again where the rest has to be tried anew.
RESET fleet.fix_min_interval;
SELECT fleet.register_vehicle('MT-' || n, 0.1 * n, 0.6) FROM generate_series(1, 4) AS n;
ALTER TABLE fleet.vehicles ADD CONSTRAINT no_t_3 CHECK (vehicle_id NOT IN ('MT-3', 'MU-3') OR fix_at IS NULL);
SET fleet.fix_min_interval = '1h';
SELECT number, vehicle_id, outcome, reason_sqlstate FROM fleet.report_fixes('{MT-1,MT-2,MT-3,MT-4}', '{0.1,0.2,0.3,0.4}', '{0.6,0.6,0.6,0.6}');
-- Those that came too soon keep their reason while the others are tried.
SELECT fleet.register_vehicle('MU-' || n, 0.1 * n, 0.7) FROM generate_series(1, 4) AS n;
SELECT number, vehicle_id, outcome, reason_sqlstate, reason_message FROM fleet.report_fixes('{MU-1,MU-1,MU-2,MU-2,MU-3,MU-4}', '{0.1,0.1,0.2,0.2,0.3,0.4}', '{0.7,0.7,0.7,0.7,0.7,0.7}');
RESET fleet.fix_min_interval;
ALTER TABLE fleet.vehicles DROP CONSTRAINT no_t_3;

-- What is no call.
SELECT args, r FROM (VALUES ('NULL, ''{1}'', ''{1}'''), ('''{a}'', NULL, ''{1}'''), ('''{a}'', ''{1,2}'', ''{1}'''), ('''{a}'', ''{1}'', ''{1}'', ''{}'''),
	('''{a}'', ''{1}'', ''{1}'', statuses => ''{}'''), ('''{{a},{b}}'', ''{1,2}'', ''{1,2}''')) AS a(args),
	LATERAL test.raised(format('SELECT fleet.report_fixes(%s)', args)) AS r;
SELECT count(*) AS none FROM fleet.report_fixes('{}', '{}', '{}');

-- The feed: what is refused is kept.
COPY fleet.fix_feed (vehicle_id, lon, lat, at, speed_kmh, status) FROM stdin;
MF-5	0.5001	0.5	2026-01-01 12:00	30	ON_TRIP
MF-4	0.4501	0.5	2026-01-01 12:00	31	\N
MF-5	0.5002	0.5	2026-01-01 12:01	32	\N
MF-0	0.5002	0.5	2026-01-01 12:01	33	\N
MF-5	0.5003	95	2026-01-01 12:02	34	\N
MF-5	0.5002	0.5	2026-01-01 12:01	32	\N
\.
SELECT vehicle_id, status, place, fix_at, speed_kmh FROM test.places WHERE vehicle_id IN ('MF-4', 'MF-5');
SELECT origin, region, reason_sqlstate, reason_message, change FROM fleet.dead_letters ORDER BY id;
DELETE FROM fleet.dead_letters;
INSERT INTO fleet.fix_feed (vehicle_id, lon, lat) SELECT 'MF-5', 0.5002, 0.5 FROM generate_series(1, 2500);
SELECT fix_at > now() - interval '1 minute' AS reported FROM test.places WHERE vehicle_id = 'MF-5';
SELECT vehicle_id, lon, lat, at, speed_kmh, status FROM fleet.fix_feed WHERE vehicle_id = 'MF-4';
-- An error in between leaves nothing, neither there nor for the next one.
INSERT INTO fleet.fix_feed (vehicle_id, lon, lat, at) SELECT 'MF-4', 0.4501, 0.5, '2026-01-01 13:00'::timestamptz + n * interval '1 s' + CASE n WHEN 1500 THEN NULL WHEN 1501 THEN '1 s'::interval / 0 ELSE '0' END
	FROM generate_series(1, 1600) AS n;
DO $$
BEGIN
	BEGIN
		INSERT INTO fleet.fix_feed (vehicle_id, lon, lat, at) SELECT 'MF-4', 0.4501, 0.5, '2026-01-01 13:00'::timestamptz + n * interval '1 s' / (3 - n) FROM generate_series(1, 5) AS n;
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE 'undone';
	END;
	INSERT INTO fleet.fix_feed (vehicle_id, lon, lat, at) VALUES ('MF-4', 0.4502, 0.5, '2026-01-01 12:30');
END $$;
SELECT place, fix_at FROM test.places WHERE vehicle_id = 'MF-4';
SELECT count(*) AS letters FROM fleet.dead_letters;
SELECT statement, test.raised(statement) FROM (VALUES ('UPDATE fleet.fix_feed SET lon = 0'), ('DELETE FROM fleet.fix_feed')) AS s(statement);

-- Whose rights: the caller's.  Where policies apply to him, he reports what he may change.
CREATE ROLE regress_feeder;
GRANT USAGE ON SCHEMA test TO regress_feeder;
SET fleet.max_speed = 0;
GRANT SELECT, UPDATE ON fleet.vehicles, fleet.rides TO regress_feeder;
SET ROLE regress_feeder;
SELECT number, outcome FROM fleet.report_fixes('{MF-4,MF-5}', '{0.4503,0.5003}', '{0.5,0.5}');
SELECT * FROM test.raised($$INSERT INTO fleet.fix_feed (vehicle_id, lon, lat) VALUES ('MF-4', 0.45, 0.5)$$);
RESET ROLE;
GRANT SELECT, INSERT ON fleet.fix_feed TO regress_feeder;
ALTER TABLE fleet.vehicles ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fleet.vehicles TO regress_feeder USING (vehicle_id = 'MF-4');
SET ROLE regress_feeder;
SELECT number, outcome, reason_sqlstate FROM fleet.report_fixes('{MF-4,MF-5}', '{0.4504,0.5004}', '{0.5,0.5}', array_fill(clock_timestamp(), ARRAY[2]));
INSERT INTO fleet.fix_feed (vehicle_id, lon, lat, at) SELECT vehicle_id, lon, 0.5, clock_timestamp() FROM (VALUES ('MF-4', 0.4505), ('MF-5', 0.5005)) AS v(vehicle_id, lon);
SELECT vehicle_id FROM fleet.fix_feed;
SELECT * FROM test.raised($$SELECT FROM fleet.dead_letters$$);
RESET ROLE;
SELECT vehicle_id, place FROM test.places WHERE vehicle_id IN ('MF-4', 'MF-5');
SELECT reason_sqlstate, change->>'vehicle_id' AS vehicle FROM fleet.dead_letters;
DELETE FROM fleet.dead_letters;
DROP POLICY own ON fleet.vehicles;
ALTER TABLE fleet.vehicles DISABLE ROW LEVEL SECURITY;
REVOKE UPDATE ON fleet.vehicles FROM regress_feeder;
SET ROLE regress_feeder;
SELECT number, outcome, reason_sqlstate, reason_message FROM fleet.report_fixes('{MF-4}', '{0.4506}', '{0.5}', ARRAY[clock_timestamp()]);
SELECT * FROM test.raised($$SELECT fleet.report_fix('MF-4', 0.4506, 0.5)$$);
RESET ROLE;

-- A transaction with one snapshot does not see that the row has changed since, and may not change it.
CREATE EXTENSION dblink;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM fleet.vehicles WHERE region = 'west';
SELECT outcome FROM dblink(test.conninfo('fleet_w') || ' options=''-c fleet.max_speed=0''', $$SELECT outcome FROM fleet.report_fix('MF-4', 0.4507, 0.5, clock_timestamp())$$) AS r(outcome text);
SELECT number, outcome, reason_sqlstate FROM fleet.report_fixes('{MF-4,MF-5}', '{0.4508,0.5008}', '{0.5,0.5}', array_fill(clock_timestamp(), ARRAY[2]));
SELECT * FROM test.raised($$SELECT fleet.report_fix('MF-4', 0.4508, 0.5, clock_timestamp())$$);
COMMIT;
SELECT vehicle_id, place FROM test.places WHERE vehicle_id IN ('MF-4', 'MF-5');

-- Durable or not: until the end of the transaction, and not where something else is written.
CREATE FUNCTION test.commits() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('synchronous_commit') $$;
SELECT outcome, test.commits() FROM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
SET fleet.fix_durability = 'async';
SELECT outcome, test.commits() FROM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
SELECT test.commits() AS after_it;
SELECT outcome, test.commits() FROM fleet.report_fixes('{MF-5}', '{0.5}', '{0.5}', ARRAY[clock_timestamp()]);
BEGIN;
SELECT outcome, test.commits() AS in_a_block FROM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
COMMIT;
SELECT fleet.request_ride('MR-2', 'C-1', 0.5, 0.5, 'MF-5');
SELECT outcome, test.commits() AS with_its_ride FROM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
CREATE FUNCTION test.fix_and_ride(ride_first boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF ride_first THEN
		PERFORM fleet.set_ride_status('MR-2', 'EN_ROUTE');
		PERFORM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
	ELSE
		PERFORM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
		BEGIN
			PERFORM fleet.set_ride_status('MR-2', 'ARRIVED');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM fleet.set_ride_status('MR-2', 'ARRIVED');
		END;
	END IF;
	RETURN test.commits();
END $$;
SELECT test.fix_and_ride(true) AS ride_first;
SELECT test.fix_and_ride(false) AS fix_first;
SET synchronous_commit = 'local';
SELECT outcome, test.commits() FROM fleet.report_fix('MF-5', 0.5, 0.5, clock_timestamp());
SELECT test.commits() AS as_it_was;
RESET synchronous_commit;
RESET fleet.fix_durability;
SELECT * FROM test.raised($$SET fleet.fix_durability = 'sometimes'$$);

DROP EXTENSION dblink;
RESET fleet.max_speed;
REVOKE ALL ON SCHEMA test FROM regress_feeder;
REVOKE ALL ON fleet.vehicles, fleet.rides, fleet.fix_feed FROM regress_feeder;
DROP ROLE regress_feeder;
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east' AND ride_id = 'MR-1';
DELETE FROM fleet.vehicles WHERE region = 'east' AND vehicle_id LIKE 'MF-%';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.vehicles WHERE region = 'north' AND vehicle_id LIKE 'MF-%';
SELECT test.settle();
SELECT * FROM fleet.verify();
SELECT test.hand_off_at_once(false);
