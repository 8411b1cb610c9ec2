--
-- Limits: fleet.rate_limit, and the interval between a vehicle's fixes.  Long
-- intervals, so that nothing comes back while the test runs
--
\set SHOW_CONTEXT never
\c fleet_w
-- The time that is left differs.
CREATE FUNCTION test.limited(statement text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(r, 'after \d+ ms', 'after N ms') FROM test.raised(statement) AS r
$$;
CREATE TEMPORARY TABLE before AS SELECT * FROM fleet.limits;

-- Three in a day.
SELECT fleet.rate_limit('sms', 'alice', 3, '1 day') FROM generate_series(1, 5);
-- Another key, another bucket, the same letters divided otherwise, another case.
SELECT fleet.rate_limit('sms', 'bob', 1, '1 day') AS key, fleet.rate_limit('mail', 'alice', 1, '1 day') AS bucket,
	fleet.rate_limit('smsa', 'lice', 1, '1 day') AS divided, fleet.rate_limit('sms', 'Alice', 1, '1 day') AS letters;
SELECT fleet.rate_limit('', '', 1, '1 day') AS empty, fleet.rate_limit('', '', 1, '1 day') AS again;
-- Another rule for it: as empty as it was.
SELECT fleet.rate_limit('sms', 'alice', 300, '1 day') AS more, fleet.rate_limit('sms', 'bob', 2, '1 day') AS all_of_one_is_all_of_two;

-- What was taken stays so.
BEGIN;
SELECT fleet.rate_limit('undo', 'x', 1, '1 day');
ROLLBACK;
SELECT fleet.rate_limit('undo', 'x', 1, '1 day');

-- The same with an error that says when.
SELECT fleet.require_rate('pay', 'alice', 2, '1 day') FROM generate_series(1, 2);
SELECT * FROM test.limited($$SELECT fleet.require_rate('pay', 'alice', 2, '1 day')$$);
SELECT * FROM test.limited($$SELECT fleet.require_rate('pay', 'alice', 2, '1 month')$$);
SELECT fleet.rate_limit('pay', 'alice', 2, '1 day') AS the_same_bucket;
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM fleet.require_rate('pay', 'alice', 2, '1 day');
EXCEPTION WHEN SQLSTATE 'RF029' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE 'about half a day: %', substring(detail FROM 'retry after (\d+) ms')::bigint BETWEEN 43100000 AND 43200000;
END
$$;

-- What is no limit.
SELECT args, r FROM (VALUES ('NULL, ''k'', 1, ''1 s'''), ('''b'', NULL, 1, ''1 s'''), ('''b'', ''k'', NULL, ''1 s'''), ('''b'', ''k'', 1, NULL'),
	('''b'', ''k'', 0, ''1 s'''), ('''b'', ''k'', -5, ''1 s'''), ('''b'', ''k'', 1, ''0 s'''), ('''b'', ''k'', 1, ''-1 s'''), ('''b'', ''k'', 1, ''999 us'''),
	('''b'', ''k'', 1, ''367 days'''), ('''b'', ''k'', 1, ''178000000 years'''), ('''b'', ''k'', 1, ''-178000000 years'''),
	('''b'', ''k'', 1, ''2000000000 days 2000000000 hours'''), ('repeat(''b'', 1025), ''k'', 1, ''1 s'''), ('''b'', repeat(''k'', 1025), 1, ''1 s''')) AS a(args),
	LATERAL test.raised(format('SELECT fleet.rate_limit(%s)', args)) AS r;
-- The largest.
SELECT fleet.rate_limit(repeat('b', 1024), repeat('k', 1024), 2147483647, '366 days'), fleet.rate_limit('b', 'k', 2147483647, '1 ms');

-- Counted: of this database and all others.
SELECT l.limiter, l.entries = b.entries AND l.entries BETWEEN 65536 AND 65549 AS entries, l.allowed - b.allowed AS allowed,
	l.refused - b.refused AS refused, l.evicted - b.evicted AS evicted FROM fleet.limits AS l JOIN before AS b USING (limiter) ORDER BY limiter;

-- Another database has buckets of its own.
\c fleet_e
SELECT fleet.rate_limit('sms', 'alice', 1, '1 day') AS first, fleet.rate_limit('sms', 'alice', 1, '1 day') AS second;
\c fleet_w

-- Nobody may, who was not allowed to.
CREATE ROLE fleet_limited;
GRANT USAGE ON SCHEMA test TO fleet_limited;
SET ROLE fleet_limited;
SELECT test.state_of(s), s FROM unnest(ARRAY['SELECT fleet.rate_limit(''a'', ''b'', 1, ''1 s'')', 'SELECT fleet.require_rate(''a'', ''b'', 1, ''1 s'')',
	'TABLE fleet.limits', 'SELECT fleet.limit_counters()', 'SET fleet.fix_min_interval = 0', 'SET fleet.limit_entries = 100']) AS s;
RESET ROLE;
GRANT EXECUTE ON FUNCTION fleet.rate_limit(text, text, integer, interval) TO fleet_limited;
SET ROLE fleet_limited;
SELECT fleet.rate_limit('a', 'b', 1, '1 day');
RESET ROLE;

-- Fixes of a vehicle.
SELECT fleet.register_vehicle('L-1', 0.5, 0.5), fleet.register_vehicle('L-2', 0.5, 0.5);
SELECT outcome FROM fleet.report_fix('L-1', 0.5, 0.5, '2026-01-01 10:00+00');
SET fleet.fix_min_interval = '1 h';
SELECT outcome FROM fleet.report_fix('L-1', 0.5, 0.5, '2026-01-01 10:01+00');
SELECT * FROM test.limited($$SELECT fleet.report_fix('L-1', 0.5, 0.5, '2026-01-01 10:02+00')$$);
SELECT fix_at AT TIME ZONE 'UTC' AS unchanged FROM fleet.vehicles WHERE region = 'west' AND vehicle_id = 'L-1';
-- The same fix again is one, too.
SELECT * FROM test.limited($$SELECT fleet.report_fix('L-1', 0.5, 0.5, '2026-01-01 10:01+00')$$);
-- What is no fix is none, nor is one of a vehicle that does not exist.
SELECT test.state_of(format('SELECT fleet.report_fix(%s)', args)), args FROM (VALUES ('''L-1'', 0.5, 95'), ('''L-2'', 0.5, 95'), ('''L-0'', 0.5, 0.5'), ('''L-0'', 0.5, 0.5')) AS a(args);
SELECT outcome FROM fleet.report_fix('L-2', 0.5, 0.5, '2026-01-01 10:00+00');
SELECT * FROM test.limited($$SELECT fleet.report_fix('L-2', 0.5, 0.5, '2026-01-01 10:01+00')$$);
-- A stale one, an implausible one, and one that is undone use it up.
RESET fleet.fix_min_interval;
SELECT fleet.register_vehicle('L-' || n, 0.5, 0.5), (fleet.report_fix('L-' || n, 0.5, 0.5, '2026-01-01 10:00+00')).outcome FROM generate_series(3, 5) AS n;
SET fleet.fix_min_interval = '1 h';
SELECT outcome FROM fleet.report_fix('L-3', 0.5, 0.5, '2026-01-01 10:00+00');
SELECT outcome FROM fleet.report_fix('L-4', 0.9, 0.5, '2026-01-01 10:00:01+00');
BEGIN;
SELECT outcome FROM fleet.report_fix('L-5', 0.5, 0.5, '2026-01-01 10:01+00');
ROLLBACK;
SELECT vehicle_id, test.state_of(format('SELECT fleet.report_fix(%L, 0.5, 0.5, ''2026-01-01 10:01+00'')', vehicle_id)) FROM unnest('{L-3,L-4,L-5}'::text[]) AS vehicle_id;
-- A shorter interval holds at once, also for who has been refused by a longer one.
SET fleet.fix_min_interval = '1 ms';
SELECT test.state_of($$SELECT fleet.report_fix('L-3', 0.5, 0.5, '2026-01-01 10:01+00')$$);
DO $$BEGIN PERFORM pg_sleep(0.01); END$$;
SELECT outcome FROM fleet.report_fix('L-3', 0.5, 0.5, '2026-01-01 10:02+00');
SET fleet.fix_min_interval = '1 h';

SELECT fleet.register_vehicle('L-6', 0.5, 0.5);
-- Who may not change a vehicle does not learn when it has reported, nor use up its token.
SET ROLE fleet_limited;
SELECT vehicle_id, test.state_of(format('SELECT fleet.report_fix(%L, 0.5, 0.5, ''2026-01-01 10:01+00'')', vehicle_id)) FROM unnest('{L-1,L-6}'::text[]) AS vehicle_id;
RESET ROLE;
GRANT SELECT, UPDATE ON fleet.vehicles TO fleet_limited;
ALTER TABLE fleet.vehicles ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON fleet.vehicles USING (vehicle_id IN ('L-2', 'L-6'));
ALTER TABLE fleet.local_vehicles ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON fleet.local_vehicles USING (vehicle_id IN ('L-2', 'L-6'));
SET ROLE fleet_limited;
SELECT vehicle_id, test.state_of(format('SELECT fleet.report_fix(%L, 0.5, 0.5, ''2026-01-01 10:01+00'')', vehicle_id)) FROM unnest('{L-1,L-2}'::text[]) AS vehicle_id;
RESET ROLE;
DROP POLICY mine ON fleet.vehicles;
DROP POLICY mine ON fleet.local_vehicles;
ALTER TABLE fleet.vehicles DISABLE ROW LEVEL SECURITY;
ALTER TABLE fleet.local_vehicles DISABLE ROW LEVEL SECURITY;
SELECT outcome FROM fleet.report_fix('L-6', 0.5, 0.5, '2026-01-01 10:00+00');

-- A call that is made again because its PREPARE was lost was let through before.
BEGIN;
SELECT fleet.call_again(jsonb_build_object('call', 'report_fix', 'kind', 'vehicle', 'key', 'L-6', 'hlc', fleet.hlc_now()::bigint,
	'arguments', '{"vehicle_id": "L-6", "lon": 0.5, "lat": 0.5, "at": "2026-01-01 10:05+00"}'::jsonb), '{}') IS NULL AS made_again;
COMMIT;
SHOW fleet.fix_min_interval;
SELECT fix_at AT TIME ZONE 'UTC' AS fix_at FROM fleet.vehicles WHERE region = 'west' AND vehicle_id = 'L-6';
SELECT * FROM test.limited($$SELECT fleet.report_fix('L-6', 0.5, 0.5, '2026-01-01 10:06+00')$$);
RESET fleet.fix_min_interval;
SELECT outcome FROM fleet.report_fix('L-6', 0.5, 0.5, '2026-01-01 10:06+00');

DROP OWNED BY fleet_limited;
DROP ROLE fleet_limited;
DROP FUNCTION test.limited(text);
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT * FROM fleet.verify();
