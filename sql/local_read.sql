--
-- Local reads that are planned as a part of their statement (src/query/inline.c):
-- when they are, that they answer as the call does, and when their plans end.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
\c fleet_n
SET client_min_messages = warning;
SELECT fleet.add_region('spare', test.box(2, 0, 3, 1), test.conninfo('fleet_spare')) > 0 AS added;
SELECT test.settle();
\c fleet_spare
\set VERBOSITY terse
-- Several at each time, whose ids are in another order as words than as bytes.
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, status, fare, start_location, current_location, requested_at)
	SELECT (ARRAY['LR-a', 'LR-B', 'LR-c', 'LR-D', 'LR_e', 'LR-é'])[1 + n % 6] || n, CASE n % 8 WHEN 0 THEN 'LR-V' || n END,
		(ARRAY['anna', 'bob', 'carl'])[1 + n % 3], 'spare', (ARRAY['PENDING', 'COMPLETED', 'PENDING', 'CANCELLED'])[1 + n % 4]::fleet.ride_status, n % 7 * 5,
		'POINT(2.5 0.5)', CASE WHEN n % 2 = 0 THEN fleet.make_point(2.5, 0.5 + n / 1000.0) END, '2024-01-01 00:00Z'::timestamptz + n / 5 * interval '1 hour'
	FROM generate_series(1, 40) AS n;
-- Null where what the call is replaced by is called.
CREATE FUNCTION test.is_inlined(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
	found boolean := false;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF, VERBOSE) ' || statement LOOP
		IF line ~ 'search_local_rides\(' THEN
			RETURN NULL;
		ELSIF line ~ 'fleet.search_rides\(' THEN
			RETURN false;
		END IF;
		found := found OR line ~ 'Index Scan.* on fleet.local_rides|Seq Scan on fleet.local_rides';
	END LOOP;
	RETURN found;
END
$$;
-- All that is told of a read: its rows in their order, or its error.
CREATE FUNCTION test.answer(arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	hint text;
BEGIN
	EXECUTE format('SELECT string_agg(r::text, '' '') FROM fleet.search_rides(%s) AS r', arguments) INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS answer = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' ', sqlstate, answer, hint);
END
$$;
-- The same as a call: what is volatile is no constant.
CREATE FUNCTION test.scope() RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN ''local''; END';

-- What is inlined, and what stays a call.
SET enable_seqscan = off;
SET enable_sort = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM fleet.search_rides('local', max_rows => 3);
EXPLAIN (COSTS OFF) SELECT * FROM fleet.search_rides('local', status => 'PENDING', max_rows => 3);
RESET ALL;
SELECT s, test.is_inlined(s) FROM unnest(ARRAY[
	$$SELECT * FROM fleet.search_rides('local')$$, $$SELECT ride_id FROM fleet.search_rides('local', max_rows => NULL) WHERE fare > 5$$,
	$$SELECT count(*) FROM fleet.search_rides('local', region => 'spare') AS r JOIN fleet.search_rides('local', status => 'PENDING') AS o USING (ride_id)$$,
	$$SELECT (SELECT max(fare) FROM fleet.search_rides('local')) FROM pg_class$$, $$SELECT * FROM fleet.search_rides(lower('LOCAL'), since => NULL)$$,
	$$WITH r AS MATERIALIZED (SELECT * FROM fleet.search_rides('local')) SELECT FROM r$$, $$SELECT * FROM fleet.search_rides('local', order_by => 'requested_at desc')$$,
	$$SELECT * FROM fleet.search_rides('local', customer_id => 'anna' COLLATE "C")$$, $$SELECT * FROM fleet.search_rides('local', on_unavailable => 'partial') FOR UPDATE$$,
	$$SELECT * FROM fleet.search_rides()$$, $$SELECT * FROM fleet.search_rides('global-fast')$$, $$SELECT * FROM fleet.search_rides(NULL)$$,
	$$SELECT * FROM fleet.search_rides(test.scope())$$, $$SELECT * FROM fleet.search_rides((SELECT 'local'))$$, $$SELECT * FROM fleet.search_rides('local', since => now())$$,
	$$SELECT * FROM pg_class, fleet.search_rides('local', customer_id => relname)$$, $$SELECT * FROM fleet.search_rides('local') WITH ORDINALITY$$,
	$$SELECT * FROM ROWS FROM (fleet.search_rides('local'), generate_series(1, 2))$$, $$SELECT fleet.search_rides('local')$$,
	$$SELECT generate_series(1, 2) FROM fleet.search_rides('local')$$, $$SELECT * FROM fleet.search_rides('local', order_by => 'fare')$$,
	$$SELECT * FROM fleet.search_rides('local', order_by => NULL)$$, $$SELECT * FROM fleet.search_rides('local', near => 'POINT(2.5 0.5)', within_m => 10)$$,
	$$SELECT * FROM fleet.search_rides('local', within_m => 10)$$, $$SELECT * FROM fleet.search_rides('local', region => 'east')$$,
	$$SELECT * FROM fleet.search_rides('local', region => 'nowhere')$$, $$SELECT * FROM fleet.search_rides('local', max_rows => -1)$$,
	$$SELECT * FROM fleet.search_rides('local', max_rows => 0)$$, $$SELECT * FROM fleet.search_rides('local', on_unavailable => 'x')$$,
	$$SELECT * FROM fleet.search_rides('local', on_unavailable => NULL)$$]) WITH ORDINALITY AS u(s, n) ORDER BY n;
SET fleet.inline_local_reads = off;
SELECT test.is_inlined($$SELECT * FROM fleet.search_rides('local')$$);
RESET fleet.inline_local_reads;

-- The same answer either way.
CREATE TEMPORARY TABLE asked AS
	SELECT concat(', ' || r, ', ' || s, ', ' || f, ', ' || m) AS arguments FROM unnest(ARRAY['region => NULL', 'region => ''spare''', 'region => ''east''', 'region => ''nowhere''']) AS r,
		unnest(ARRAY[NULL, 'status => ''PENDING''', 'status => ''CANCELLED''', 'status => ''ARRIVED''']) AS s,
		unnest(ARRAY[NULL, 'vehicle_id => ''LR-V8''', 'customer_id => ''anna''', 'customer_id => ''O''''Neil''', 'min_fare => 20', 'max_fare => 10.00', 'min_fare => 5, max_fare => 15',
			'min_fare => ''NaN''', 'max_fare => ''NaN''', 'since => ''2024-01-01 05:00Z''', 'since => ''-infinity''', 'since => ''infinity'', min_fare => NULL']) AS f,
		unnest(ARRAY[NULL, 'max_rows => 1', 'max_rows => 7', 'max_rows => 2147483647', 'max_rows => NULL', 'max_rows => 0', 'max_rows => -1']) AS m
	UNION ALL SELECT concat(', ' || o, ', ' || p, ', ' || m, ', ' || u) FROM unnest(ARRAY[NULL, 'order_by => ''requested_at desc''', 'order_by => ''Requested_At  DESC''', 'order_by => ''requested_at''', 'order_by => ''fare desc''',
			'order_by => ''distance''', 'order_by => ''x''', 'order_by => ''requested_at desc nulls last''', 'order_by => NULL, max_rows => 0']) AS o,
		unnest(ARRAY[NULL, 'near => ''POINT(2.5 0.5)'', within_m => 900', 'near => ''POINT(2.5 0.5)''', 'within_m => 1']) AS p,
		unnest(ARRAY[NULL, 'max_rows => 5']) AS m, unnest(ARRAY[NULL, 'on_unavailable => ''partial''', 'on_unavailable => ''x''', 'on_unavailable => NULL']) AS u
		WHERE o NOT LIKE '%max_rows%' OR o IS NULL OR m IS NULL;
CREATE TEMPORARY TABLE answers AS SELECT arguments, test.answer('''local''' || arguments) AS inlined, test.answer('test.scope()' || arguments) AS called,
	test.is_inlined(format('SELECT r::text FROM fleet.search_rides(''local''%s) AS r', arguments)) AS is_inlined FROM asked;
SELECT arguments, inlined, called FROM answers WHERE inlined IS DISTINCT FROM called;
SELECT is_inlined, count(*) AS calls, count(DISTINCT inlined) AS answers, count(*) FILTER (WHERE inlined ~ '^[0-9A-Z]{5} ') AS errors FROM answers GROUP BY is_inlined ORDER BY 1;
SELECT ride_id FROM fleet.search_rides('local', max_rows => 7);

-- Whoever asks what was read last is told; EXPLAIN reads nothing.
SELECT count(*) FROM fleet.search_rides(max_rows => 1, region => 'spare');
SELECT test.is_inlined('SELECT * FROM fleet.search_rides(''local'', max_rows => 1)');
SELECT scope, asked, latency_ms IS NULL AS untimed FROM fleet.last_read();
SELECT count(*) FROM fleet.search_rides('local', max_rows => 1);
SELECT scope, asked, failed, reasked, latency_ms IS NULL AS untimed, q OPERATOR(fleet.<=) fleet.hlc_now() AS stamped, summed FROM fleet.last_read();

-- As any subquery: in the statement's snapshot, in joins, cursors, with locks.
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT ride_id FROM fleet.search_rides('local', max_rows => 3);
FETCH ALL FROM c;
FETCH BACKWARD 2 FROM c;
UPDATE fleet.rides AS r SET fare = r.fare + 1 FROM fleet.search_rides('local', max_rows => 2) AS s WHERE r.region = 'spare' AND r.ride_id = s.ride_id;
WITH u AS (UPDATE fleet.rides SET fare = fare + 1 WHERE region = 'spare' AND fare > 25 RETURNING ride_id)
	SELECT max(fare) AS before FROM fleet.search_rides('local', max_rows => NULL);
SELECT max(fare) AS after FROM fleet.search_rides('local', max_rows => NULL);
ROLLBACK;

-- Prepared.  A plan for known values is used once, so there the call stays; the general one is kept.
PREPARE newest AS SELECT ride_id, fare FROM fleet.search_rides('local', max_rows => 2);
PREPARE of_status(fleet.ride_status) AS SELECT ride_id FROM fleet.search_rides('local', status => $1, max_rows => 2);
PREPARE dear(numeric) AS SELECT ride_id FROM fleet.search_rides('local', status => 'PENDING', max_rows => 20) WHERE fare > $1;
EXECUTE newest;
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, requested_at) VALUES ('LR-new', 'anna', 'spare', 'POINT(2.5 0.5)', '2024-01-02');
EXECUTE newest;
DELETE FROM fleet.rides WHERE region = 'spare' AND ride_id = 'LR-new';
SET plan_cache_mode = force_generic_plan;
SELECT test.is_inlined('EXECUTE newest') AS newest, test.is_inlined('EXECUTE of_status(''PENDING'')') AS of_status, test.is_inlined('EXECUTE dear(25)') AS dear;
EXECUTE of_status('PENDING');
EXECUTE of_status(NULL);
EXECUTE dear(25);
SET plan_cache_mode = force_custom_plan;
SELECT test.is_inlined('EXECUTE newest') AS newest, test.is_inlined('EXECUTE of_status(''PENDING'')') AS of_status, test.is_inlined('EXECUTE dear(25)') AS dear;
EXECUTE of_status('PENDING');
EXECUTE of_status(NULL);
EXECUTE dear(25);
RESET plan_cache_mode;

-- The caller's rights and policies, also of a plan that another role has made.
CREATE ROLE fleet_local_reader;
CREATE ROLE fleet_local_blind;
GRANT USAGE ON SCHEMA test TO fleet_local_reader, fleet_local_blind;
GRANT SELECT ON fleet.rides TO fleet_local_reader;
GRANT SELECT (ride_id, region) ON fleet.rides TO fleet_local_blind;
CREATE VIEW test.newest AS SELECT ride_id FROM fleet.search_rides('local', max_rows => 2);
GRANT SELECT ON test.newest TO fleet_local_reader, fleet_local_blind;
ALTER TABLE fleet.rides ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fleet.rides TO fleet_local_reader USING (customer_id = current_setting('test.customer'));
SET test.customer = 'carl';
EXECUTE newest;
SET ROLE fleet_local_reader;
EXECUTE newest;
SELECT test.is_inlined('EXECUTE newest'), count(*) = count(*) FILTER (WHERE customer_id = 'carl') AS only_carls FROM fleet.search_rides('local', max_rows => NULL);
SELECT test.answer('''local'', max_rows => 3') = test.answer('test.scope(), max_rows => 3') AS same;
SET row_security = off;
SELECT test.answer('''local''') = test.answer('test.scope()') AS same;
RESET row_security;
SET test.customer = 'anna';
EXECUTE newest;
SELECT * FROM test.newest;
SET ROLE fleet_local_blind;
EXECUTE newest;
SELECT * FROM test.newest;
SELECT test.answer('''local''') = test.answer('test.scope()') AS same;
SELECT ride_id FROM fleet.search_rides('local');
RESET ROLE;
EXECUTE newest;
DROP POLICY own ON fleet.rides;
ALTER TABLE fleet.rides DISABLE ROW LEVEL SECURITY;
CREATE FUNCTION test.two() RETURNS SETOF fleet.rides STABLE LANGUAGE sql AS 'SELECT * FROM fleet.search_rides(''local'', max_rows => 2)';
PREPARE two AS SELECT ride_id FROM test.two();
SET ROLE fleet_local_reader;
EXECUTE newest;
EXECUTE two;
SELECT test.is_inlined('EXECUTE two');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fleet.search_rides FROM PUBLIC;
SET ROLE fleet_local_reader;
EXECUTE newest;
EXECUTE two;
SELECT test.is_inlined($$SELECT * FROM fleet.search_rides('local')$$);
RESET ROLE;
DROP FUNCTION test.two;
GRANT EXECUTE ON FUNCTION fleet.search_rides TO PUBLIC;
REVOKE SELECT ON fleet.rides FROM fleet_local_reader, fleet_local_blind;
REVOKE SELECT (ride_id, region) ON fleet.rides FROM fleet_local_blind;
DROP VIEW test.newest;
REVOKE USAGE ON SCHEMA test FROM fleet_local_reader, fleet_local_blind;
DROP ROLE fleet_local_reader, fleet_local_blind;

-- Names in the search path change nothing.
CREATE FUNCTION test.less(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR test.= (FUNCTION = test.less, LEFTARG = text, RIGHTARG = text);
SET search_path = test, pg_catalog;
SELECT count(*) FROM fleet.search_rides('local', customer_id => 'anna', max_rows => NULL);
SET search_path = '';
SELECT count(*) FROM fleet.search_rides('local', customer_id => 'anna', max_rows => NULL);
RESET search_path;
DROP OPERATOR test.= (text, text);
DROP FUNCTION test.less;

-- Columns come and go.
BEGIN;
ALTER TABLE fleet.rides ADD COLUMN note text DEFAULT 'x';
EXECUTE newest;
SELECT test.is_inlined('EXECUTE newest'), test.answer('''local'', max_rows => 3') = test.answer('test.scope(), max_rows => 3') AS same;
SELECT ride_id, note FROM fleet.search_rides('local', max_rows => 1);
ALTER TABLE fleet.rides DROP COLUMN note;
SELECT test.is_inlined('EXECUTE newest'), test.answer('''local'', max_rows => 3') = test.answer('test.scope(), max_rows => 3') AS same;
ROLLBACK;

-- The region goes, and another one comes.
EXECUTE newest;
DELETE FROM fleet.rides WHERE region = 'spare';
EXECUTE newest;
SELECT fleet.remove_region('spare') > 0 AS removed;
EXECUTE newest;
SELECT test.is_inlined('EXECUTE newest');
SELECT fleet.add_region('other', test.box(2, 0, 3, 1), test.conninfo('fleet_spare')) > 0 AS added;
SELECT fleet.request_ride('LR-O1', 'anna', 2.5, 0.5);
SELECT ride_id FROM fleet.search_rides('local', region => 'other');
EXECUTE newest;
SELECT asked FROM fleet.last_read();
DELETE FROM fleet.rides WHERE region = 'other';
SELECT fleet.remove_region('other') > 0 AS removed;
EXECUTE newest;
DEALLOCATE ALL;
DROP FUNCTION test.is_inlined, test.answer, test.scope;
