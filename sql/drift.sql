--
-- Drift: digests, checks among the regions, healing.  Replicas, and damage while
-- jobs run, are tested in test/tap.
--
\set SHOW_CONTEXT never
\c fleet_w

-- A digest does not know the order of rows, or how they were divided.
SELECT fleet.digest(n, n::text) AS digest FROM generate_series(1, 1000) AS n \gset
SELECT fleet.digest(n, n::text) = :'digest' AS ordered FROM (SELECT n FROM generate_series(1, 1000) AS n ORDER BY n::text DESC) AS r;
SELECT fleet.digest_total(d) = :'digest' AS in_parts FROM (SELECT n % 7, fleet.digest(n, n::text) AS d FROM generate_series(1, 1000) AS n GROUP BY 1) AS p;
SELECT fleet.digest(n, n::text) = :'digest' AS one_is_missing FROM generate_series(2, 1000) AS n;
SELECT fleet.digest(n, n::text) = :'digest' AS one_is_other FROM generate_series(2, 1001) AS n;
SELECT fleet.digest(n) = fleet.digest(n) FILTER (WHERE n = 1) AS doubled_is_none FROM unnest(ARRAY[1, 2, 2]) AS n;
SELECT fleet.digest(n) AS no_rows, fleet.digest(n) = fleet.no_rows() AS same FROM generate_series(1, 0) AS n;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE TABLE test.numbers AS SELECT n FROM generate_series(1, 1000) AS n;
ANALYZE test.numbers;
EXPLAIN (COSTS OFF) SELECT fleet.digest(n, n::text) FROM test.numbers;
SELECT fleet.digest(n, n::text) = :'digest' AS in_parallel FROM test.numbers;
DROP TABLE test.numbers;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- Values of a row are told apart from each other, and null from all of them.
SELECT count(DISTINCT d) AS different, count(*) AS rows FROM (
	SELECT fleet.digest('ab'::text, 'c'::text) UNION ALL SELECT fleet.digest('a'::text, 'bc'::text)
	UNION ALL SELECT fleet.digest('abc'::text, ''::text) UNION ALL SELECT fleet.digest('abc'::text, NULL::text)
	UNION ALL SELECT fleet.digest(NULL::text, 'abc'::text) UNION ALL SELECT fleet.digest('abc'::text)) AS x(d);
-- Each type of rides and vehicles: the value alone counts, not how it is shown or kept, and it is the same on every server.
CREATE FUNCTION test.digest_of_all() RETURNS text LANGUAGE sql AS $$
	SELECT encode(fleet.digest('text'::text, 7::bigint, 1.25::numeric(12, 2), -0.1::float8, timestamptz '2026-11-24 12:00:00.000001+00', interval '1 mon 2 days 3.5 s',
		'EN_ROUTE'::fleet.ride_status, 'BUSY'::fleet.vehicle_status, fleet.make_point(-118.25, 34.05), '{"b": [1, 2.50], "a": "x"}'::jsonb, 5::bigint::fleet.hlc, NULL::text), 'hex')
$$;
SELECT test.digest_of_all();
SELECT test.digest_of_all() AS digest \gset
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SET extra_float_digits = -5;
SET intervalstyle = 'iso_8601';
SET client_encoding = 'LATIN1';
SELECT test.digest_of_all() = :'digest' AS same;
RESET timezone;
RESET datestyle;
RESET extra_float_digits;
RESET intervalstyle;
RESET client_encoding;
DROP FUNCTION test.digest_of_all();
CREATE TABLE test.long (plain text, packed text);
ALTER TABLE test.long ALTER plain SET STORAGE EXTERNAL;
INSERT INTO test.long SELECT repeat('fleet', 50000), repeat('fleet', 50000);
SELECT pg_column_size(plain) > pg_column_size(packed) AS kept_differently, fleet.digest(plain) = fleet.digest(packed) AS same FROM test.long GROUP BY plain, packed;
DROP TABLE test.long;

-- What is no digest.
SELECT * FROM test.raised($$SELECT fleet.digest_combine('\x00', fleet.no_rows())$$);
SELECT * FROM test.raised($$SELECT fleet.digest_combine(fleet.no_rows(), '')$$);
SELECT * FROM test.raised($$SELECT fleet.digest_add(NULL, 1)$$);
SELECT * FROM test.raised($$SELECT fleet.digest('unknown')$$);
SELECT * FROM test.raised($$SELECT fleet.digest(VARIADIC ARRAY[1, 2])$$);
SELECT fleet.digest_add(fleet.no_rows(), 1) = fleet.digest(1) AS by_hand;

-- Many nodes are asked at once; one that is none says so.
SELECT * FROM fleet.ask_all('{west,east,nowhere,north}', 'SELECT fleet.own_region()');
SELECT * FROM fleet.ask_all('{east}', 'SELECT 1/0');
SELECT peer, answer, error ~ 'timeout|in time' AS late FROM fleet.ask_all('{east}', 'SELECT pg_sleep(5)', 100);
SELECT * FROM fleet.ask_all('{}', 'SELECT 1');
SELECT * FROM test.raised($$SELECT fleet.ask_all('{east}', 'SELECT 1', 0)$$);
SELECT * FROM test.raised($$SELECT fleet.ask_all('{NULL}', 'SELECT 1')$$);

-- Refusals.
SELECT * FROM test.raised('SELECT fleet.check_drift(0)');
SELECT * FROM test.raised('SELECT fleet.check_drift(100001)');
SELECT * FROM test.raised('SELECT fleet.check_drift(1, -1)');
SELECT * FROM test.raised('SELECT fleet.compare_all()');
SELECT * FROM test.raised('SELECT fleet.heal(-1)');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM test.raised('SELECT fleet.check_drift()');
COMMIT;
SELECT * FROM test.raised($$SELECT fleet.drop_copy('cat', 'x', 1, 1, '{}', 'test')$$);
SELECT * FROM test.raised($$SELECT fleet.drop_copy('ride', 'x', 1, 1, '{"target": "west"}', 'test')$$);
SELECT fleet.drop_copy('ride', 'no such', 1, 1, '{"target": "east", "epoch": 2, "hlc": 5}', 'test');

-- Nothing is wrong.
SELECT fleet.request_ride('DRIFT-' || n, 'C-1', 0.5, 0.5, NULL, n) FROM generate_series(1, 5) AS n;
SELECT fleet.register_vehicle('DRIFTER-1', 0.5, 0.5);
SELECT fleet.handoff('DRIFT-1', 'east');
SELECT fleet.handoff('DRIFT-2', 'east');
SELECT fleet.handoff('DRIFT-2', 'north');
SELECT test.settle();
SELECT what, checked >= 6 AS some, missing, extra, stale, differing, distant, doubled, lost, astray, undecided, percentage, ids, asked, failed FROM fleet.check_drift();
SELECT fleet.drift_job() AS report \gset
SELECT what, percentage FROM fleet.drift_reports WHERE id = :report;

-- A handoff that is not finished is none of its business: prepared at the target, or at the source.
BEGIN;
SELECT fleet.depart('fleet:nobody:1.00000000:7:00000000000000ab', false, '{DRIFT-5}', 'east', 0, (SELECT version FROM fleet.map), fleet.hlc_now()::bigint, 1000) IS NOT NULL AS departing;
PREPARE TRANSACTION 'fleet:nobody:1.00000000:7:00000000000000ab:0';
\c fleet_e
SET session_replication_role = replica;
INSERT INTO fleet.local_rides SELECT (jsonb_populate_record(r, '{"region": "east", "epoch": 2}')).* FROM fleet.rides AS r WHERE region = 'west' AND ride_id = 'DRIFT-5';
RESET session_replication_role;
SET fleet.drift_timeout = 500;
SELECT doubled, lost, undecided FROM fleet.check_drift();
\c fleet_w
ROLLBACK PREPARED 'fleet:nobody:1.00000000:7:00000000000000ab:0';
-- Without it that is a ride that is doubled.
SELECT doubled, lost, undecided, ids->0->>'region' AS older, ids->0->>'winner' AS newer FROM fleet.check_drift();
-- Not more than the limit, unless forced; the newest stays.
SELECT max(id) AS report FROM fleet.drift_reports \gset
SET fleet.heal_limit = 0;
SELECT * FROM test.raised(format('SELECT fleet.heal(%s)', :report));
SELECT what, checked, doubled, percentage FROM fleet.heal(:report, force => true);
RESET fleet.heal_limit;
SELECT ride_id, region, epoch FROM fleet.rides WHERE ride_id = 'DRIFT-5';
SELECT kind, key, epoch, image->>'fare' AS fare, kept_in FROM fleet.conflicts;
SELECT kind, key, problem, action, before->>'region' AS before, after FROM fleet.heal_log;
SELECT key, target, epoch, settled_hlc IS NOT NULL AS settled FROM fleet.departures WHERE key = 'DRIFT-5';
-- Healed again it does nothing.
SELECT checked, doubled, percentage FROM fleet.heal(:report);
SELECT count(*) FROM fleet.heal_log;

-- What has departed and not arrived is lost; it comes back as it left, with its log.
\c fleet_e
SET session_replication_role = replica;
DELETE FROM fleet.local_rides WHERE ride_id = 'DRIFT-1';
RESET session_replication_role;
\c fleet_w
SELECT fleet.drift_job() AS report \gset
SELECT what, lost, doubled, percentage FROM fleet.drift_reports WHERE id = :report;
SELECT what, lost, doubled FROM fleet.drift_reports ORDER BY id DESC LIMIT 2;
SELECT ride_id, region, fare, epoch FROM fleet.rides WHERE ride_id = 'DRIFT-1';
\c fleet_e
SELECT key, problem, action, before, after->>'region' AS after FROM fleet.heal_log;
SELECT ride_id, epoch, status, dtxid LIKE 'heal:%' AS healed FROM fleet.handoff_log WHERE ride_id = 'DRIFT-1' ORDER BY id;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- A vehicle that was not handed off, and should have been long ago.
\c fleet_w
SET session_replication_role = replica;
UPDATE fleet.local_vehicles SET location = fleet.make_point(1.5, 0.5), updated_at = now() - interval '2 minutes' WHERE vehicle_id = 'DRIFTER-1';
RESET session_replication_role;
SELECT astray, percentage FROM fleet.check_drift();
SELECT ids->0->>'problem' AS problem, ids->0->>'key' AS key FROM fleet.drift_reports ORDER BY id DESC LIMIT 1;

-- In a transaction that has changed other nodes nothing is looked at.
BEGIN;
SELECT fleet.handoff('DRIFT-3', 'east');
SELECT * FROM test.raised('SELECT fleet.check_drift()');
ROLLBACK;

-- Who may not.
CREATE ROLE fleet_test_drift;
GRANT USAGE ON SCHEMA test TO fleet_test_drift;
SET ROLE fleet_test_drift;
SELECT test.state_of('SELECT fleet.check_drift()'), test.state_of('SELECT fleet.heal(1)'), test.state_of('SELECT fleet.drift_job()'), test.state_of('TABLE fleet.heal_log');
RESET ROLE;
-- Who may.
GRANT EXECUTE ON FUNCTION fleet.check_drift(integer, float8) TO fleet_test_drift;
SET ROLE fleet_test_drift;
SELECT doubled, lost, undecided FROM fleet.check_drift();
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fleet.check_drift(integer, float8) FROM fleet_test_drift;
REVOKE USAGE ON SCHEMA test FROM fleet_test_drift;
DROP ROLE fleet_test_drift;

DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
DELETE FROM fleet.conflicts;
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
SELECT test.settle();
