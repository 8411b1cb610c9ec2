--
-- fleet.hlc and the hybrid logical clock
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS fleet CASCADE;
RESET client_min_messages;
SET search_path = public, fleet;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

-- What a statement raised, without figures that change from run to run.
CREATE FUNCTION pg_temp.raised(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'nothing';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT sqlstate || ' ' || regexp_replace(message, '\d{4}-\S+/\d{5}', 'STAMP');
	RETURN NEXT regexp_replace(detail, 'is \d+ ms ahead', 'is N ms ahead');
	RETURN NEXT hint;
END
$$;

-- Does a plan speak of this?  Whole plans look different from version to version.
CREATE FUNCTION pg_temp.plan_has(query text, part text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF strpos(line, part) > 0 THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$$;

-- text
SELECT stamp::hlc FROM unnest(ARRAY[
	'1970-01-01T00:00:00.000Z/00000',
	'2000-02-29T23:59:59.999Z/65535',
	'2026-11-21T08:03:22.123Z/00005',
	'6429-10-17T02:45:55.327Z/65535']) AS stamp;
SELECT ''::hlc;
SELECT 'now'::hlc;
SELECT '2026-11-21 08:03:22.123+00/00005'::hlc;
SELECT ' 2026-11-21T08:03:22.123Z/00005'::hlc;
SELECT '2026-11-21T08:03:22.123Z/00005 '::hlc;
SELECT '2026-11-21T08:03:22.123Z/5'::hlc;
SELECT '2026-11-21T08:03:22.123456Z/00005'::hlc;
SELECT '02026-11-21T08:03:22.123Z/00005'::hlc;
SELECT '2026-13-21T08:03:22.123Z/00005'::hlc;
SELECT '2026-02-29T08:03:22.123Z/00005'::hlc;
SELECT '2026-11-21T24:00:00.000Z/00005'::hlc;
SELECT '2026-11-21T08:03:60.000Z/00005'::hlc;
SELECT '2026-11-21T08:03:22.123Z/65536'::hlc;
SELECT '1969-12-31T23:59:59.999Z/65535'::hlc;
SELECT '6429-10-17T02:45:55.328Z/00000'::hlc;
SELECT '9999-12-31T23:59:59.999Z/65535'::hlc;
SELECT '10889-08-02T05:31:50.655Z/65535'::hlc;
SELECT '10889-08-02T05:31:50.656Z/00000'::hlc;
SELECT NULL::hlc;

-- binary
SELECT hlc_send('1970-01-01T00:00:00.000Z/00000'), hlc_send('2026-11-21T08:03:22.123Z/00005'),
	hlc_send('6429-10-17T02:45:55.327Z/65535');

-- A binary COPY of bytea fields is one of hlc fields: so any bytes reach the
-- receive function.  The file is in the server's data directory.
CREATE FUNCTION pg_temp.received(field bytea) RETURNS SETOF hlc LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE sent AS SELECT field;
	CREATE TEMP TABLE got (stamp hlc);
	COPY sent TO PROGRAM 'cat > fleet_hlc.copy' (FORMAT binary);
	COPY got FROM PROGRAM 'cat fleet_hlc.copy && rm fleet_hlc.copy' (FORMAT binary);
	RETURN QUERY SELECT stamp FROM got;
	DROP TABLE sent, got;
END
$$;
SELECT received FROM pg_temp.received(hlc_send('2026-11-21T08:03:22.123Z/00005'));
SELECT received FROM pg_temp.received('\x0000000000000000');
SELECT received FROM pg_temp.received('\x7fffffffffffffff');
SELECT received FROM pg_temp.received(NULL);
\set VERBOSITY terse
SELECT received FROM pg_temp.received('\x');
SELECT received FROM pg_temp.received('\x00000000000000');
SELECT received FROM pg_temp.received('\x000000000000000000');
SELECT received FROM pg_temp.received('\x8000000000000000');
SELECT received FROM pg_temp.received('\xffffffffffffffff');
\set VERBOSITY default

-- parts
SELECT hlc_physical('2026-11-21T08:03:22.123Z/00005'), hlc_counter('2026-11-21T08:03:22.123Z/00005');
SELECT hlc_physical('1970-01-01T00:00:00.000Z/00000'), hlc_physical('6429-10-17T02:45:55.327Z/65535');
SELECT hlc_make('2026-11-21 08:03:22.123+00', 5), hlc_make('2026-11-21 08:03:22.123999+00', 65535);
SELECT hlc_make('1970-01-01 00:00:00+00', 0), hlc_make('6429-10-17 02:45:55.327999+00', 65535);
SELECT hlc_make('2026-11-21 09:03:22.123+01', 0) = '2026-11-21T08:03:22.123Z/00000' AS zone_is_heeded;
SELECT hlc_make('1969-12-31 23:59:59.999999+00', 0);
SELECT hlc_make('6429-10-17 02:45:55.328+00', 0);
SELECT hlc_make('infinity', 0);
SELECT hlc_make('-infinity', 0);
SELECT hlc_make('294276-12-31 23:59:59.999999+00', 0);
SELECT hlc_make('4714-11-24 00:00:00+00 BC', 0);
SELECT hlc_make('2026-11-21 08:03:22.123+00', -1);
SELECT hlc_make('2026-11-21 08:03:22.123+00', 65536);
SELECT hlc_make(NULL, 1) IS NULL AS a, hlc_make('2026-11-21 08:03:22.123+00', NULL) IS NULL AS b;

-- casts
SELECT '2026-11-21T08:03:22.123Z/00005'::hlc::bigint, 0::bigint::hlc, 65537::bigint::hlc,
	9223372036854775807::hlc;
SELECT (-1)::bigint::hlc;
SELECT (-9223372036854775808)::hlc;
SELECT '2026-11-21T08:03:22.123Z/00005'::hlc::timestamptz;
-- none of them happens by itself
SELECT '2026-11-21T08:03:22.123Z/00005'::hlc = 5::bigint;
SELECT '2026-11-21T08:03:22.123Z/00005'::hlc < now();
SELECT '2026-11-21T08:03:22.123Z/00005'::hlc + 1;
CREATE TEMP TABLE strict_types (stamp hlc, number bigint, at timestamptz);
INSERT INTO strict_types (stamp) VALUES (5::bigint);
INSERT INTO strict_types (number) VALUES (hlc '2026-11-21T08:03:22.123Z/00005');
INSERT INTO strict_types (at) VALUES (hlc '2026-11-21T08:03:22.123Z/00005');

-- operators
WITH pairs (a, b) AS (VALUES
	(hlc '2026-11-21T08:03:22.123Z/00005', hlc '2026-11-21T08:03:22.123Z/00006'),
	('2026-11-21T08:03:22.123Z/00005', '2026-11-21T08:03:22.123Z/00005'),
	('2026-11-21T08:03:22.124Z/00000', '2026-11-21T08:03:22.123Z/65535'),
	('1970-01-01T00:00:00.000Z/00000', '6429-10-17T02:45:55.327Z/65535'),
	('2026-11-21T08:03:22.123Z/00005', NULL))
SELECT a = b AS eq, a <> b AS ne, a < b AS lt, a <= b AS le, a > b AS gt, a >= b AS ge, hlc_cmp(a, b) AS cmp
FROM pairs;

-- order, aggregates, grouping
CREATE TEMP TABLE stamps AS
	SELECT i AS id, hlc_make('2026-11-21 00:00:00+00'::timestamptz + (i * 7919 % 1000) * interval '1 ms', i % 10) AS stamp
	FROM generate_series(1, 10000) AS i;
SELECT min(stamp), max(stamp), count(DISTINCT stamp) FROM stamps;
SELECT min(stamp), max(stamp) FROM stamps WHERE id < 0;
SELECT count(*) AS out_of_order FROM (
	SELECT stamp, lag(stamp) OVER (ORDER BY stamp) AS before FROM stamps) AS s
WHERE before > stamp;
SELECT count(*) AS text_differs FROM (
	SELECT rank() OVER (ORDER BY stamp) AS a, rank() OVER (ORDER BY stamp::text COLLATE "C") AS b FROM stamps) AS s
WHERE a <> b;
SELECT stamp FROM stamps WHERE id IN (1, 2, 3) ORDER BY stamp DESC NULLS LAST;

-- indexes
CREATE INDEX stamps_btree ON stamps USING btree (stamp);
ANALYZE stamps;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT pg_temp.plan_has(query, 'using stamps_btree') AS index, pg_temp.plan_has(query, 'Index Cond: (stamp >') AS cond,
	pg_temp.plan_has(query, 'Sort') AS sort
FROM (VALUES ($$SELECT id FROM stamps WHERE stamp > '2026-11-21T00:00:00.998Z/00005' ORDER BY stamp$$)) AS q (query);
SELECT count(*) FROM stamps WHERE stamp > '2026-11-21T00:00:00.998Z/00005';
SELECT pg_temp.plan_has('SELECT max(stamp) FROM stamps', 'Backward using stamps_btree') AS index;
SELECT max(stamp) FROM stamps;
DROP INDEX stamps_btree;
CREATE INDEX stamps_hash ON stamps USING hash (stamp);
SELECT pg_temp.plan_has($$SELECT id FROM stamps WHERE stamp = '2026-11-21T00:00:00.919Z/00001'$$, 'using stamps_hash') AS index;
SELECT count(*) FROM stamps WHERE stamp = '2026-11-21T00:00:00.919Z/00001';
RESET enable_seqscan;
RESET enable_bitmapscan;

-- joins: each way gives the same
SET enable_nestloop = off;
SET enable_mergejoin = off;
SELECT pg_temp.plan_has('SELECT count(*) FROM stamps a JOIN stamps b USING (stamp)', 'Hash Join') AS hashes;
SELECT count(*) FROM stamps a JOIN stamps b USING (stamp);
SET enable_mergejoin = on;
SET enable_hashjoin = off;
SELECT pg_temp.plan_has('SELECT count(*) FROM stamps a JOIN stamps b USING (stamp)', 'Merge Join') AS merges;
SELECT count(*) FROM stamps a JOIN stamps b USING (stamp);
RESET enable_nestloop;
RESET enable_mergejoin;
RESET enable_hashjoin;

-- hash partitions use the seeded hash
CREATE TEMP TABLE hashed (stamp hlc) PARTITION BY HASH (stamp);
CREATE TEMP TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TEMP TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO hashed SELECT DISTINCT stamp FROM stamps;
SELECT count(*), (SELECT count(*) FROM hashed_0) BETWEEN 300 AND 700 AS fair FROM hashed;

-- the catalog agrees that the operator classes are whole
SELECT opcname, amname, amvalidate(c.oid)
FROM pg_opclass c JOIN pg_am m ON m.oid = opcmethod
WHERE opcintype = 'fleet.hlc'::regtype ORDER BY amname;

-- the clock: every stamp is greater than the one before, and close to time
CREATE TEMP TABLE ticks AS SELECT i, hlc_now() AS stamp FROM generate_series(1, 20000) AS i;
SELECT count(*) AS not_greater FROM (
	SELECT stamp, lag(stamp) OVER (ORDER BY i) AS before FROM ticks) AS t
WHERE before >= stamp;
SELECT hlc_physical(hlc_now()) BETWEEN statement_timestamp() - interval '1 ms' AND clock_timestamp() + interval '10 s' AS close;

-- what is received is below all that follows
SELECT received > sent AS beyond_sent, hlc_now() > received AS now_beyond
FROM (SELECT sent, hlc_receive(sent) AS received
	FROM (SELECT hlc_make(clock_timestamp() + interval '3 s', 65535) AS sent) AS s OFFSET 0) AS r;
SELECT hlc_physical(hlc_now()) > clock_timestamp() + interval '2 s' AS pulled_ahead;
SELECT hlc_receive('1970-01-01T00:00:00.000Z/00000') > max(stamp) AS old_stamps_do_no_harm FROM ticks;
SELECT hlc_receive(NULL) IS NULL AS null_is_nothing;
-- a rollback does not turn it back
BEGIN;
SELECT hlc_now() AS inside \gset
ROLLBACK;
SELECT hlc_now() > :'inside' AS later;

-- too far ahead: refused, and the clock is where it was
SHOW fleet.max_clock_skew;
SELECT * FROM pg_temp.raised($$SELECT fleet.hlc_receive(fleet.hlc_make(clock_timestamp() + interval '1 hour', 7))$$);
SELECT * FROM pg_temp.raised($$SELECT fleet.hlc_receive('6429-10-17T02:45:55.327Z/65535')$$);
SELECT hlc_physical(hlc_now()) < clock_timestamp() + interval '10 s' AS not_pulled;
SET fleet.max_clock_skew = '1h';

-- This server's time is set back an hour (a setting of test builds): the clock
-- goes on counting, and takes what it gave out itself but nothing above.
SELECT hlc_now() AS before \gset
SET fleet.test_clock_offset = '-1h';
SELECT hlc_now() > :'before' AS goes_on, hlc_receive(:'before') > :'before' AS own_stamp_is_taken;
SELECT * FROM pg_temp.raised($$SELECT fleet.hlc_receive(fleet.hlc_make(clock_timestamp() + interval '1 min', 0))$$);
RESET fleet.test_clock_offset;
SELECT hlc_receive(hlc_make(clock_timestamp() + interval '4 s', 0)) > :'before' AS right_again;

-- only who is granted it may pull the clock
SELECT has_function_privilege('fleet_node', 'fleet.hlc_receive(fleet.hlc)', 'EXECUTE') AS node_may;
SELECT count(*) AS public_may
FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS acl
WHERE oid = 'fleet.hlc_receive(fleet.hlc)'::regprocedure AND grantee = 0;
