--
-- Reads of rides over all regions
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE fleet_reader;
CREATE ROLE fleet_blind;
RESET client_min_messages;

-- Two rides in the north, three in the east, five in the west.
\c fleet_n
INSERT INTO fleet.rides (ride_id, customer_id, region, status, fare, start_location, current_location, requested_at, path_m, duration) VALUES
	('QY-N1', 'anna', 'north', 'PENDING', 10, 'POINT(0.5 1.5)', 'POINT(0.5 1.5)', '2024-01-02 10:00Z', 0.1::float8 + 0.2::float8, '1 day 02:03:04.5'),
	('QY-N2', 'O''Neil "\%s$1', 'north', 'COMPLETED', 40, 'POINT(0.5 1.5)', NULL, '2024-06-01 10:00Z', 0, NULL);
\c fleet_e
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, status, fare, start_location, current_location, requested_at, path_m, duration) VALUES
	('QY-E1', NULL, 'anna', 'east', 'PENDING', 10, 'POINT(1.5 0.5)', 'POINT(1.5 0.5)', '2024-01-01 10:00Z', 0, NULL),
	('QY-E2', 'QY-V1', 'bob', 'east', 'EN_ROUTE', 20.50, 'POINT(1.5 0.5)', 'POINT(1.501 0.5)', '2024-01-02 10:00Z', 1.0::float8 / 3, '-1 day 30:00'),
	('QY-E3', NULL, 'O''Neil "\%s$1', 'east', 'CANCELLED', 0, 'POINT(1.5 0.5)', NULL, '2024-07-01 12:00Z', 0, NULL);
\c fleet_w
SELECT * FROM fleet.last_read();
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, status, fare, start_location, current_location, requested_at, path_m, duration) VALUES
	('QY-W1', 'QY-V1', 'anna', 'west', 'PENDING', 10, 'POINT(0.5 0.5)', 'POINT(0.5 0.5)', '2024-01-02 10:00Z', 1234.5678901234567, NULL),
	('QY-W2', NULL, 'bob', 'west', 'PENDING', 30, 'POINT(0.5 0.5)', 'POINT(0.9999 0.5)', '2024-01-03 10:00Z', 0, NULL),
	('QY-W3', NULL, 'carl', 'west', 'IN_PROGRESS', 20.50, 'POINT(0.5 0.5)', 'POINT(0.5 0.501)', '2024-01-06 10:00Z', 0, NULL),
	('QY-W4', NULL, 'bob', 'west', 'COMPLETED', 99999.99, 'POINT(0.5 0.5)', NULL, '2024-01-04 10:00Z', 0, NULL),
	('QY-W5', NULL, 'bob', 'west', 'PENDING', 5, 'POINT(0.5 0.5)', NULL, '2024-01-05 10:00Z', 0, NULL);
DELETE FROM fleet.rides WHERE ride_id = 'QY-W5' AND region = 'west';
-- Ids in the order in which they come.
CREATE FUNCTION test.ids(VARIADIC options text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	ids text;
BEGIN
	EXECUTE format('SELECT string_agg(substr(ride_id, 4), '' '' ORDER BY n) FROM fleet.search_rides(%s) WITH ORDINALITY AS r(ride_id, '
		|| 'c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, n)', array_to_string(options, ', ')) INTO ids;
	RETURN ids;
END
$$;
CREATE FUNCTION test.live(condition text, scope text DEFAULT 'global-live') RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(substr(ride_id, 4), ' ' ORDER BY ride_id COLLATE "C") FROM fleet.live_rides(condition, scope)
$$;

-- Everything, and what was asked for it.
SELECT ride_id, vehicle_id, customer_id, region, status, fare, ST_AsText(current_location) AS place, requested_at, path_m, duration, epoch FROM fleet.search_rides();
SELECT scope, asked, failed, reasked, latency_ms > 0 AS took_time, q OPERATOR(fleet.<=) fleet.hlc_now() AS stamped FROM fleet.last_read();
SELECT count(*) AS same FROM (SELECT * FROM fleet.search_rides() INTERSECT SELECT * FROM fleet.rides) AS r;

-- Each filter, several, and none that matches.
SELECT test.ids('region => ''west''');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT test.ids('region => ''east''');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT test.ids('status => ''PENDING''');
SELECT test.ids('vehicle_id => ''QY-V1''');
SELECT test.ids('customer_id => ''anna''');
SELECT test.ids('customer_id => ''O''''Neil "\%s$1''');
SELECT test.ids('min_fare => 20.50');
SELECT test.ids('max_fare => 20.50');
SELECT test.ids('min_fare => 20.50', 'max_fare => 30');
SELECT test.ids('min_fare => ''NaN''');
SELECT test.ids('max_fare => ''NaN''', 'min_fare => 40');
SELECT test.ids('since => ''2024-01-03 10:00Z''');
SELECT test.ids('since => ''-infinity''');
SELECT test.ids('since => ''infinity''');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 10');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 200');
SELECT test.ids('near => ''POINT(1 0.5)''', 'within_m => 60000');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 0');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => ''Infinity''');
SELECT test.ids('near => ''POINT EMPTY''', 'within_m => 1000');
SELECT test.ids('status => ''PENDING''', 'customer_id => ''anna''', 'min_fare => 10', 'max_fare => 10', 'since => ''2024-01-02 10:00Z''',
	'near => ''POINT(0.5 0.5)''', 'within_m => 1000', 'vehicle_id => ''QY-V1''', 'region => ''west''');
SELECT test.ids('customer_id => ''nobody''') IS NULL AS none;

-- Order: ties by the id; nulls last when ascending, first when descending.
SELECT test.ids('order_by => ''requested_at''');
SELECT test.ids('order_by => ''requested_at desc''');
SELECT test.ids('order_by => ''  Fare   ASC ''');
SELECT test.ids('order_by => ''fare DESC''');
SELECT test.ids('order_by => ''vehicle_id''');
SELECT test.ids('order_by => ''vehicle_id desc''');
SELECT test.ids('order_by => ''status''');
SELECT test.ids('order_by => ''ride_id desc''');
SELECT test.ids('order_by => ''duration desc''');
SELECT test.ids('order_by => ''path_m desc''');
SELECT array_agg(ride_id ORDER BY ride_id) = array_agg(ride_id ORDER BY n) AS same
	FROM (SELECT substr(ride_id, 1) AS ride_id, row_number() OVER () AS n FROM fleet.search_rides(order_by => 'ride_id')) AS r;
SELECT count(*) AS in_no_order FROM fleet.search_rides(order_by => NULL);
SELECT count(*) AS in_order FROM (SELECT hlc, lag(hlc) OVER () AS before FROM fleet.search_rides(order_by => 'hlc')) AS r WHERE before OPERATOR(fleet.<) hlc;

-- By distance; ties by the id.
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 1e6', 'order_by => ''distance''');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 1e6', 'order_by => ''Distance  DESC''');
SELECT test.ids('near => ''POINT(1.5 0.5)''', 'within_m => 1e6', 'order_by => ''distance asc''', 'max_rows => 3');
SELECT test.ids('near => ''POINT(1.5 0.5)''', 'within_m => 120000', 'order_by => ''distance desc''', 'status => ''PENDING''', 'max_rows => 2');
SELECT test.ids('near => ''POINT(0.5 0.5)''', 'within_m => 1e6', 'order_by => ''distance''', 'max_rows => 0') IS NULL AS none;
SELECT test.ids('near => ''POINT EMPTY''', 'within_m => 1e6', 'order_by => ''distance''') IS NULL AS none;
SELECT test.ids('''local''', 'near => ''POINT(0.5 0.501)''', 'within_m => 1e6', 'order_by => ''distance''');
SELECT test.ids('''local''', 'near => ''POINT(0.5 0.501)''', 'within_m => 1e6', 'order_by => ''distance desc''', 'max_rows => 2');
-- An index can be read in this order.
CREATE FUNCTION pg_temp.is_index_read_in_order() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXPLAIN SELECT ride_id FROM fleet.local_rides AS r WHERE fleet.is_within(r.current_location, (SELECT 'POINT(0.5 0.5)'::text), (SELECT 1e6::float8))
		ORDER BY fleet.distance_to(r.current_location, (SELECT 'POINT(0.5 0.5)'::text)) FETCH FIRST 16 ROWS WITH TIES
	LOOP
		IF line ~ 'Order By: .*<->' THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$$;
SET enable_seqscan = off;
SELECT pg_temp.is_index_read_in_order();
RESET enable_seqscan;

-- How many.
SELECT test.ids('max_rows => 0') IS NULL AS none;
SELECT test.ids('max_rows => 1');
SELECT test.ids('order_by => ''fare''', 'max_rows => 4');
SELECT test.ids('order_by => ''fare desc''', 'max_rows => 4');
SELECT test.ids('order_by => ''vehicle_id desc''', 'max_rows => 8');
SELECT test.ids('max_rows => 2147483647');
SELECT test.ids('max_rows => NULL');
SELECT count(*) FROM fleet.search_rides(order_by => NULL, max_rows => 5);
SELECT count(*) FROM fleet.search_rides(max_rows => 3, region => 'west');
-- More of one region than were asked for with a margin; the default is a hundred.
\c fleet_e
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, requested_at)
	SELECT 'QYM-' || lpad(n::text, 3, '0'), 'many', 'east', 'POINT(1.5 0.5)', '2024-02-01'::timestamptz + (n % 10) * interval '1 h' FROM generate_series(1, 120) AS n;
UPDATE fleet.rides SET current_location = fleet.make_point(1.5, 0.5 + substr(ride_id, 5)::integer / 20 / 1000.0) WHERE region = 'east' AND customer_id = 'many';
\c fleet_w
SELECT count(*) FROM fleet.search_rides(customer_id => 'many');
SELECT count(*) FROM fleet.search_rides(customer_id => 'many', max_rows => NULL);
SELECT ride_id, row_number() OVER () FROM fleet.search_rides(customer_id => 'many', max_rows => 3);
SELECT ride_id FROM fleet.search_rides(customer_id => 'many', max_rows => 20, order_by => 'requested_at') OFFSET 11;
SELECT fleet.count_rides(customer_id => 'many');
-- Nineteen, and then twenty each, are equally far.
SELECT string_agg(ride_id, ' ') FROM fleet.search_rides(customer_id => 'many', near => 'POINT(1.5 0.4)', within_m => 1e6, order_by => 'distance', max_rows => 21);
SELECT string_agg(ride_id, ' ') FROM fleet.search_rides(customer_id => 'many', near => 'POINT(1.5 0.4)', within_m => 1e6, order_by => 'distance desc', max_rows => 5);
\c fleet_e
SELECT string_agg(ride_id, ' ') FROM fleet.search_rides('local', customer_id => 'many', near => 'POINT(1.5 0.4)', within_m => 1e6, order_by => 'distance', max_rows => 21);
\c fleet_w
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east' AND customer_id = 'many';
\c fleet_w

-- Counts and sums.
SELECT fleet.count_rides(), fleet.count_rides('global-live', 'west') AS west, fleet.count_rides('local') AS local, fleet.count_rides(status => 'PENDING') AS pending,
	fleet.count_rides(min_fare => 20.50, max_fare => 40) AS fares, fleet.count_rides(near => 'POINT(0.5 0.5)', within_m => 200) AS near,
	fleet.count_rides(since => '2024-01-03 10:00Z') AS since, fleet.count_rides(vehicle_id => 'QY-V1', customer_id => 'bob') AS bob, fleet.count_rides(customer_id => 'nobody') AS none;
SELECT * FROM fleet.ride_totals();
SELECT * FROM fleet.ride_totals('local');
SELECT * FROM fleet.ride_totals(customer_id => 'bob');
SELECT * FROM fleet.ride_totals(customer_id => 'nobody');
SELECT sum(rides) AS rides, sum(fares) AS fares FROM fleet.ride_totals(on_unavailable => 'partial');
SELECT summed FROM fleet.last_read();
SELECT * FROM fleet.ride_sums(customer_id => 'carl');
-- The same by sums that the regions make: what moved, or was touched, is in them, taken out and counted by itself.
SET fleet.sum_threshold = 0;
SELECT fleet.count_rides(), fleet.count_rides('global-live', 'west') AS west, fleet.count_rides('local') AS local, fleet.count_rides(status => 'PENDING') AS pending,
	fleet.count_rides(min_fare => 20.50, max_fare => 40) AS fares, fleet.count_rides(near => 'POINT(0.5 0.5)', within_m => 200) AS near,
	fleet.count_rides(since => '2024-01-03 10:00Z') AS since, fleet.count_rides(vehicle_id => 'QY-V1', customer_id => 'bob') AS bob, fleet.count_rides(customer_id => 'nobody') AS none;
SELECT * FROM fleet.ride_totals();
SELECT scope, asked, failed, reasked, summed FROM fleet.last_read();
SELECT * FROM fleet.ride_totals(customer_id => 'bob');
SELECT * FROM fleet.ride_totals(customer_id => 'nobody');
SELECT sum(rides) AS rides, sum(fares) AS fares FROM fleet.ride_totals(on_unavailable => 'partial');
BEGIN;
SELECT ride_id FROM fleet.rides WHERE ride_id = 'QY-W2' AND region = 'west' FOR UPDATE;
SELECT * FROM fleet.ride_sums(customer_id => 'bob') ORDER BY 1, 2, 3 DESC;
UPDATE fleet.rides SET fare = 12 WHERE ride_id = 'QY-W2' AND region = 'west';
SELECT * FROM fleet.ride_totals(customer_id => 'bob');
DELETE FROM fleet.rides WHERE ride_id = 'QY-W2' AND region = 'west';
SELECT * FROM fleet.ride_totals(customer_id => 'bob');
ROLLBACK;
-- Undone, but touched.
SELECT * FROM fleet.ride_totals(customer_id => 'bob');
SELECT * FROM test.raised($$SELECT fleet.count_rides(min_fare => 'x')$$);
RESET fleet.sum_threshold;

-- Scopes.
SELECT test.ids('''local''');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT test.ids('''local''', 'region => ''east''') IS NULL AS none;
SELECT test.ids('''local''', 'order_by => ''fare desc''', 'max_rows => 2', 'status => ''PENDING''');
SELECT test.ids('''local''', 'max_rows => 0') IS NULL AS none;
SELECT test.ids('''local''', 'near => ''POINT(0.5 0.5)''', 'within_m => 200', 'order_by => ''ride_id''');
SELECT test.live('fare > 10', 'local');
SELECT ride_id, region, epoch FROM fleet.get_ride('QY-W1', 'local');
SELECT count(*) AS none FROM fleet.get_ride('QY-E1', 'local');
SELECT * FROM test.raised($$SELECT * FROM fleet.search_rides('global-fast')$$);
SELECT * FROM test.raised($$SELECT fleet.count_rides('global-fast')$$);
SELECT * FROM test.raised($$SELECT * FROM fleet.live_rides('true', 'global-fast')$$);
SELECT * FROM test.raised($$SELECT * FROM fleet.get_ride('QY-W1', 'global-fast')$$);
SELECT scope, asked, failed, reasked FROM fleet.last_read();

-- One ride, wherever it is.
SELECT ride_id, region, customer_id, status, fare, epoch FROM fleet.get_ride('QY-W1');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT ride_id, region, customer_id, status, fare, epoch FROM fleet.get_ride('QY-E2');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT count(*) AS deleted FROM fleet.get_ride('QY-W5');
SELECT count(*) AS none FROM fleet.get_ride('QY-0');
SELECT count(*) AS none FROM fleet.get_ride(NULL);
SELECT count(*) AS none FROM fleet.get_ride('');
SELECT fleet.locate('QY-W1'), fleet.locate('QY-E1'), fleet.locate('QY-N2'), fleet.locate('QY-W5') AS deleted, fleet.locate('QY-0') AS none, fleet.locate(NULL) AS "null";
\c fleet_e
SELECT fleet.locate('QY-W1'), fleet.locate('QY-E1'), fleet.locate('QY-W5') AS deleted;
SELECT count(*) FROM fleet.search_rides();
\c fleet_w

-- A ride that has moved, is moved by this transaction, and is not moved after all.
SELECT fleet.handoff('QY-W2', 'east');
SELECT region, epoch FROM fleet.get_ride('QY-W2');
SELECT region, count(*) FROM fleet.search_rides() GROUP BY region ORDER BY region;
BEGIN;
SELECT fleet.handoff('QY-W2', 'north');
SELECT fleet.handoff('QY-W3', 'east');
SELECT region, epoch FROM fleet.get_ride('QY-W2');
SELECT fleet.locate('QY-W3');
SELECT ride_id, region, epoch FROM fleet.search_rides(order_by => 'ride_id');
SELECT ride_region, sum(rides) AS rides, sum(fares) AS fares FROM fleet.ride_totals() GROUP BY ride_region ORDER BY ride_region;
SELECT region, epoch FROM fleet.live_rides('ride_id IN (''QY-W2'', ''QY-W3'')') ORDER BY region;
-- What is unknown of a ride that moves does not match.
SELECT fleet.count_rides(vehicle_id => 'QY-V0') AS none, (SELECT count(*) FROM fleet.live_rides('completed_at > requested_at')) AS ended, (SELECT count(*) FROM fleet.live_rides('NULL')) AS none;
-- Nobody sums up what this transaction alone sees.
SET LOCAL fleet.sum_threshold = 0;
SELECT fleet.count_rides(), (SELECT summed FROM fleet.last_read());
SAVEPOINT a;
SELECT fleet.handoff('QY-W3', 'west');
SELECT fleet.locate('QY-W3');
ROLLBACK TO a;
SELECT fleet.locate('QY-W3');
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('QY-T1', 'anna', 'west', 'POINT(0.5 0.5)');
SELECT fleet.locate('QY-T1'), fleet.count_rides(customer_id => 'anna');
UPDATE fleet.rides SET fare = 11 WHERE ride_id = 'QY-W1' AND region = 'west';
SELECT test.ids('min_fare => 11', 'max_fare => 11');
DELETE FROM fleet.rides WHERE ride_id = 'QY-W1' AND region = 'west';
SELECT fleet.locate('QY-W1') IS NULL AS deleted, fleet.count_rides(customer_id => 'anna');
ROLLBACK;
SELECT ride_id, region, epoch FROM fleet.search_rides(order_by => 'ride_id');
BEGIN;
SELECT fleet.handoff('QY-W3', 'east');
SELECT test.raised('SELECT * FROM fleet.search_rides(order_by => ''no_such'')');
SELECT fleet.locate('QY-W3');
COMMIT;
SELECT fleet.locate('QY-W3'), fleet.handoff('QY-W3', 'west'), fleet.handoff('QY-W2', 'west');
SELECT fleet.locate('QY-W2'), fleet.locate('QY-W3');
SELECT test.settle();
-- Deleted where it went.
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('QY-G1', 'gone', 'west', 'POINT(0.5 0.5)');
SELECT fleet.handoff('QY-G1', 'east');
\c fleet_e
DELETE FROM fleet.rides WHERE ride_id = 'QY-G1' AND region = 'east';
SELECT test.settle();
\c fleet_w
SELECT test.settle();
SELECT fleet.count_rides(customer_id => 'gone'), fleet.locate('QY-G1') IS NULL AS deleted;
-- The other isolation levels see what is committed by now.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT fleet.count_rides();
SET LOCAL fleet.sum_threshold = 0;
SELECT fleet.count_rides();
SELECT fleet.locate('QY-E1'), count(*) FROM fleet.live_rides('true');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT fleet.count_rides(), fleet.count_rides('local') AS local;
COMMIT;

-- Any condition.
SET search_path = public, fleet;
SELECT test.live('true');
SELECT test.live('false') IS NULL AS none;
SELECT test.live('NULL') IS NULL AS none;
SELECT test.live('NULL::boolean OR fare > 40');
SELECT test.live('status = ''PENDING'' AND fare > 10');
SELECT test.live('status IN (''EN_ROUTE'', ''COMPLETED'')');
SELECT test.live('status > ''EN_ROUTE''');
SELECT test.live('ST_DWithin(current_location, ''POINT(0.5 0.5)'', 200)');
SELECT test.live('ST_DWithin(current_location, fleet.make_point(1.5, 0.5), 1000) AND vehicle_id IS NOT NULL');
SELECT test.live('ST_Y(current_location::geometry) > 1');
SELECT test.live('customer_id = ''O''''Neil "\%s$1''');
SELECT test.live('customer_id = $x$O''Neil "\%s$1$x$ -- and a comment');
SELECT test.live('customer_id LIKE ''%\\\%s%'' /* %n%s */');
SELECT test.live('customer_id ~ ''^[ab]'' AND NOT customer_id ILIKE ''BO_''');
SELECT test.live('requested_at < now() AND requested_at > now() - interval ''1000 years''');
SELECT test.live('requested_at >= ''2024-01-03 10:00Z''');
SELECT test.live('requested_at IS NULL');
SELECT test.live('requested_at AT TIME ZONE ''UTC'' = ''2024-01-02 10:00''');
SELECT test.live('current_user = ''postgres'' AND fare = 10');
SELECT test.live('duration > ''26:00''::interval');
SELECT test.live('duration = ''-1 day 30:00''');
SELECT test.live('path_m = 0.1::float8 + 0.2::float8');
SELECT test.live('r.fare = 10 AND r.ride_id < ''QY-O'' COLLATE "C"');
SELECT test.live('(fare, customer_id) IN ((10, ''anna''), (30, ''bob''))');
SELECT test.live('customer_id = ANY (ARRAY[''carl'', upper(''x'')])');
SELECT test.live('CASE region WHEN ''west'' THEN fare > 20 WHEN ''north'' THEN fare > 39 END');
SELECT test.live('COALESCE(vehicle_id, customer_id) = ''QY-V1''');
SELECT test.live('hlc OPERATOR(fleet.>) fleet.hlc_make(''2020-01-01'', 0) AND epoch > 1');
SELECT test.live('fleet.lat(current_location) > 1');
SELECT test.live('region = fleet.own_region()');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT ride_id, fare FROM fleet.live_rides('fare BETWEEN 10 AND 40', order_by => 'fare desc', max_rows => 3);
SELECT count(*) AS none FROM fleet.live_rides('true', max_rows => 0);
RESET search_path;
SELECT test.live('public.ST_DWithin(current_location, ''POINT(0.5 0.5)''::public.geography, 200) AND status = ''PENDING''::fleet.ride_status');

-- Refused conditions.
CREATE FUNCTION test.mine(numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0';
CREATE FUNCTION test.mine(text, numeric) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $2 > 0';
CREATE OPERATOR test.=== (FUNCTION = test.mine, LEFTARG = text, RIGHTARG = numeric);
-- Types of the caller's, whose checks would run with the owner's rights.
CREATE DOMAIN test.checked AS text CHECK (test.mine(value, 1));
CREATE TYPE test.pair AS (a test.checked);
CREATE COLLATION test.own (provider = libc, locale = 'C');
SELECT c, r FROM unnest(ARRAY['fare > (SELECT 1)', 'EXISTS (SELECT FROM fleet.rides)', 'ride_id IN (SELECT ''x'')', 'ARRAY(SELECT 1) IS NULL',
	'random() < 0.5', 'fare > random()', 'clock_timestamp() > requested_at', 'pg_sleep(0) IS NULL', 'pg_advisory_lock(1) IS NULL',
	'count(*) > 0', 'max(fare) > 0', 'row_number() OVER () > 0', 'generate_series(1, 2) = 1', 'fare > $1', '$1',
	'xmin IS NOT NULL', 'tableoid = 1', 'ctid = ''(0,1)''', 'r.tableoid::regclass::text = ''x''',
	'test.mine(fare)', 'fare > 0 AND test.mine(1)', 'customer_id OPERATOR(test.===) fare', 'CASE WHEN true THEN true ELSE test.mine(2) END',
	'requested_at::text LIKE ''2024%''', 'requested_at > ''2024-01-01''::timestamp', 'date_trunc(''day'', requested_at) = now()', 'requested_at::date = ''2024-01-02''',
	'to_char(requested_at, ''YYYY'') = ''2024''', 'extract(hour FROM requested_at) = 10', 'concat(fare) = ''10.00''', 'r::text = ''x''', 'to_jsonb(r) IS NOT NULL',
	'fleet.row_image(r) IS NULL', 'customer_id = format(''%s'', ride_id)',
	'true, false', 'true FROM fleet.rides', 'true FROM fleet.rides WHERE true', 'true WHERE false', 'true AS x', 'true x', 'DISTINCT true', 'true ORDER BY 1', 'true LIMIT 1', 'true LIMIT ALL',
	'true FOR UPDATE', 'true GROUP BY 1', 'true HAVING true', 'true UNION SELECT true', 'true INTO x', 'r.*', '*', '(r).*', 'r IS NOT NULL', 'r = r', 'rides.fare > 0',
	'(ride_id::test.checked) IS NULL', 'ARRAY[ride_id]::test.checked[] IS NOT NULL', 'ROW(ride_id)::test.pair IS NULL', 'ROW(fare) = ANY (ARRAY[ROW(10.00)])',
	'ride_id COLLATE test.own > ''a''',
	'', ' ', '--', '/* ', 'true;', 'true; DROP TABLE fleet.rides', 'true) OR (true', '(true', 'SELECT true', 'fare', '1', '''x''', 'status', 'fare >', 'no_such = 1', 'r.no_such = 1', 'no_such(fare)',
	'status = ''FLYING''', 'fare > ''x''', 'fare = ride_id', 'fare > 1/0', 'DEFAULT', 'VALUES (true)', 'fare = ALL', 'CURRENT OF c', 'ride_id = ''a', E'ride_id = ''\u00e9'' AND (']) WITH ORDINALITY AS u(c, n),
	LATERAL test.raised(format('SELECT * FROM fleet.live_rides(%L)', c)) AS r ORDER BY n;
SELECT * FROM test.raised('SELECT * FROM fleet.live_rides(NULL)');
-- An error of one ride is told as itself, here and there.
SELECT * FROM test.raised($$SELECT * FROM fleet.live_rides('1 / (fare - 10) > 0', 'local')$$);
SELECT * FROM test.raised($$SELECT * FROM fleet.live_rides('region = ''west'' AND 1 / (fare - 10) > 0')$$);
SELECT * FROM test.raised($$SELECT * FROM fleet.live_rides('CASE region WHEN ''east'' THEN 1 / (fare - 10) > 0 END')$$);
-- Where in the condition it is.
SELECT count(*) FROM fleet.live_rides('fare > 0 AND no_such = 1');
SELECT count(*) FROM fleet.live_rides('fare > 0 AND AND true');
SELECT count(*) AS well_as_before FROM fleet.live_rides('fare > 0');

-- Rights.
SELECT fleet.count_rides() AS all, fleet.count_rides('local') AS local \gset
GRANT USAGE ON SCHEMA test TO fleet_reader, fleet_blind;
GRANT SELECT ON fleet.rides TO fleet_reader;
GRANT SELECT (ride_id, region) ON fleet.rides TO fleet_blind;
CREATE TEMPORARY TABLE reads (n serial, s text);
INSERT INTO reads (s) VALUES ('SELECT * FROM fleet.search_rides()'), ('SELECT * FROM fleet.search_rides(''local'')'), ('SELECT fleet.count_rides()'), ('SELECT fleet.count_rides(''local'')'),
	('SELECT * FROM fleet.ride_totals()'), ('SELECT * FROM fleet.ride_sums()'), ('SELECT * FROM fleet.live_rides(''true'')'), ('SELECT * FROM fleet.live_rides(''true'', ''local'')'),
	('SELECT * FROM fleet.get_ride(''QY-W1'')'), ('SELECT * FROM fleet.get_ride(''QY-W1'', ''local'')'), ('SELECT fleet.locate(''QY-E1'')'), ('SELECT * FROM fleet.search_rides(''global-fast'')');
GRANT SELECT ON reads TO fleet_reader, fleet_blind;
SET ROLE fleet_blind;
SELECT s, r FROM reads, LATERAL test.raised(s) AS r ORDER BY n;
SELECT scope IS NOT NULL AS everybody FROM fleet.last_read();
SET ROLE fleet_reader;
SELECT s, r FROM reads, LATERAL test.raised(s) AS r ORDER BY n;
SELECT fleet.count_rides() = :all AS all, fleet.count_rides('local') = :local AS local, fleet.locate('QY-E1');
SELECT test.state_of('SELECT count(*) FROM fleet.departures') AS departures;
SELECT test.state_of('SELECT count(*) FROM fleet.local_rides') AS local_rides;
SELECT current_user, test.live('fare = 10 AND current_user = ''fleet_reader''');
-- What may not be executed may not be in a condition either.
RESET ROLE;
REVOKE EXECUTE ON FUNCTION fleet.lat(public.geography) FROM PUBLIC;
SET ROLE fleet_reader;
SELECT * FROM test.raised($$SELECT * FROM fleet.live_rides('fleet.lat(current_location) > 1')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION fleet.lat(public.geography) TO PUBLIC;
-- Row-level security: this region, what the policy shows.
ALTER TABLE fleet.rides ENABLE ROW LEVEL SECURITY;
SELECT fleet.count_rides() = :all AS owner_sees_all;
SET ROLE fleet_reader;
SELECT s, r FROM reads, LATERAL test.raised(s) AS r ORDER BY n;
SELECT fleet.count_rides('local') AS no_policy;
RESET ROLE;
CREATE POLICY bobs ON fleet.rides TO fleet_reader USING (customer_id = 'bob');
SET ROLE fleet_reader;
SELECT test.ids('''local''', 'order_by => ''ride_id''');
SELECT test.live('fare < 100', 'local');
SELECT fleet.count_rides('local'), (SELECT count(*) FROM fleet.get_ride('QY-W1', 'local')) AS annas, (SELECT count(*) FROM fleet.get_ride('QY-W2', 'local')) AS bobs;
RESET ROLE;
DROP POLICY bobs ON fleet.rides;
ALTER TABLE fleet.rides DISABLE ROW LEVEL SECURITY;
SET ROLE fleet_reader;
SELECT fleet.count_rides() = :all AS all;
RESET ROLE;

-- The caller's settings change nothing.
CREATE TEMPORARY TABLE told AS SELECT r.* FROM fleet.rides AS r WHERE r.ride_id LIKE 'QY-%';
CREATE FUNCTION pg_temp.differ() RETURNS TABLE (of text, there bigint, differ bigint) LANGUAGE sql AS $$
	SELECT 'search', count(*), count(*) FILTER (WHERE t IS DISTINCT FROM r) FROM fleet.search_rides() AS r LEFT JOIN told AS t USING (ride_id) UNION ALL
	SELECT 'local', count(*), count(*) FILTER (WHERE t IS DISTINCT FROM r) FROM fleet.search_rides('local') AS r LEFT JOIN told AS t USING (ride_id) UNION ALL
	SELECT 'get', count(*), count(*) FILTER (WHERE t IS DISTINCT FROM r) FROM told AS t, LATERAL fleet.get_ride(t.ride_id) AS r UNION ALL
	SELECT 'live', count(*), count(*) FILTER (WHERE t IS DISTINCT FROM r) FROM fleet.live_rides('true') AS r LEFT JOIN told AS t USING (ride_id) UNION ALL
	SELECT 'live local', count(*), count(*) FILTER (WHERE t IS DISTINCT FROM r) FROM fleet.live_rides('true', 'local') AS r LEFT JOIN told AS t USING (ride_id) UNION ALL
	SELECT 'exact', count(*), 0 FROM fleet.live_rides('path_m IN (0.1::float8 + 0.2::float8, 1.0::float8 / 3, 1234.5678901234567) OR requested_at = ''2024-07-01 12:00Z''') UNION ALL
	SELECT 'since', count(*), 0 FROM fleet.search_rides(since => '2024-01-03 10:00Z')
$$;
SELECT * FROM pg_temp.differ();
SET DateStyle = 'German, DMY';
SET TimeZone = 'Asia/Kolkata';
SET extra_float_digits = 0;
SET IntervalStyle = 'sql_standard';
SELECT * FROM pg_temp.differ();
SET DateStyle = 'SQL, MDY';
SET TimeZone = 'America/New_York';
SET extra_float_digits = -15;
SET IntervalStyle = 'iso_8601';
SELECT * FROM pg_temp.differ();
SHOW DateStyle;
SHOW extra_float_digits;
SHOW IntervalStyle;
RESET ALL;
SET search_path = '';
SELECT count(*) FROM fleet.search_rides(status => 'PENDING', near => public.ST_GeogFromText('POINT(0.5 0.5)'), within_m => 1000);
SELECT fleet.count_rides();
RESET search_path;

-- Bad input.
SELECT s, r FROM unnest(ARRAY['scope => ''everywhere''', 'scope => ''LOCAL''', 'scope => ''''', 'scope => NULL', 'region => ''nowhere''', 'region => ''''', 'region => ''node_e''',
	'status => ''FLYING''', 'min_fare => ''x''', 'since => ''x''', 'near => ''POINT(0 0)''', 'within_m => 5', 'near => ''POINT(0 0)'', within_m => NULL',
	'near => ''POINT(0 0)'', within_m => ''x''',
	'max_rows => -1', 'max_rows => -2147483648', 'max_rows => 2147483648', 'max_rows => ''x''', 'on_unavailable => ''maybe''', 'on_unavailable => ''''', 'on_unavailable => NULL',
	'order_by => ''''', 'order_by => '' ''', 'order_by => ''no_such''', 'order_by => ''fare up''', 'order_by => ''fare desc nulls''', 'order_by => ''fare,ride_id''', 'order_by => ''1''',
	'order_by => ''"fare"''', 'order_by => ''distance''', 'order_by => ''distance up'', near => ''POINT(0 0)'', within_m => 1', 'order_by => ''distance'', near => ''x'', within_m => 1', 'order_by => ''r.fare''', 'order_by => ''xmin''', 'order_by => ''fare;''', 'order_by => ''random()''', 'scope => ''local'', max_rows => -1',
	'scope => ''local'', order_by => ''no_such''']) WITH ORDINALITY AS u(s, n),
	LATERAL test.raised(format('SELECT * FROM fleet.search_rides(%s)', s)) AS r ORDER BY n;
SELECT s, r FROM unnest(ARRAY['fleet.count_rides(''everywhere'')', 'fleet.count_rides(region => ''nowhere'')', 'fleet.count_rides(near => ''POINT(0 0)'')', 'fleet.count_rides(within_m => 1)',
	'fleet.count_rides(on_unavailable => ''x'')', 'fleet.ride_totals(NULL)', 'fleet.ride_totals(region => ''nowhere'')', 'fleet.get_ride(''QY-W1'', ''x'')', 'fleet.get_ride(''QY-W1'', NULL)',
	'fleet.get_ride(NULL, ''x'')', 'fleet.live_rides(''true'', ''x'')', 'fleet.live_rides(''true'', NULL)', 'fleet.live_rides(''true'', order_by => ''x'')', 'fleet.live_rides(''true'', order_by => ''distance'')', 'fleet.live_rides(''true'', max_rows => -1)',
	'fleet.live_rides(''true'', on_unavailable => ''x'')']) WITH ORDINALITY AS u(s, n),
	LATERAL test.raised(format('SELECT * FROM %s', s)) AS r ORDER BY n;
-- In a list of columns.
SELECT (fleet.search_rides(customer_id => 'carl')).ride_id;
-- A node without a region.
\c fleet_spare
SELECT * FROM test.raised('SELECT * FROM fleet.search_rides()');
SELECT * FROM test.raised('SELECT * FROM fleet.search_rides(''local'')');
SELECT * FROM test.raised('SELECT fleet.locate(''QY-W1'')');
\c fleet_w

-- An error in a branch is undone with the savepoint, here and there.
BEGIN;
SELECT fleet.handoff('QY-W2', 'east') > 1 AS moved;
DO $$
BEGIN
	PERFORM fleet.live_rides('CASE region WHEN ''east'' THEN 1 / (fare - fare) > 0 END');
EXCEPTION WHEN division_by_zero THEN
	RAISE NOTICE 'caught';
END $$;
SELECT fleet.locate('QY-W2');
ROLLBACK;
SELECT fleet.locate('QY-W2');
-- Literals are read alike by all nodes.
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT test.live($$customer_id = 'O''Neil "\\%s$1'$$);
RESET standard_conforming_strings;
RESET escape_string_warning;

-- A region that cannot be reached: an error, or a part.
ALTER SERVER fleet_north OPTIONS (SET dbname 'fleet_none');
\c fleet_w
\set VERBOSITY terse
SELECT test.state_of('SELECT * FROM fleet.search_rides()');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT test.state_of('SELECT fleet.locate(''QY-N1'')');
SELECT fleet.locate('QY-W3');
SELECT test.ids('region => ''east''');
SELECT test.ids('on_unavailable => ''partial''');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT fleet.count_rides(on_unavailable => 'partial');
SET fleet.sum_threshold = 0;
SELECT fleet.count_rides(on_unavailable => 'partial');
SELECT scope, asked, failed, reasked, summed FROM fleet.last_read();
SELECT test.state_of('SELECT fleet.count_rides()');
RESET fleet.sum_threshold;
SELECT count(*) FROM fleet.live_rides('true', on_unavailable => 'partial');
\set VERBOSITY default
ALTER SERVER fleet_north OPTIONS (SET dbname 'fleet_n');
\c fleet_w
SELECT fleet.count_rides();

-- Leave nothing behind but departures and graves.
DROP FUNCTION test.ids(text[]), test.live(text, text);
DROP OPERATOR test.=== (text, numeric);
DROP COLLATION test.own;
DROP TYPE test.pair;
DROP DOMAIN test.checked;
DROP FUNCTION test.mine(numeric), test.mine(text, numeric);
REVOKE ALL ON fleet.rides FROM fleet_reader;
REVOKE SELECT (ride_id, region) ON fleet.rides FROM fleet_blind;
REVOKE USAGE ON SCHEMA test FROM fleet_reader, fleet_blind;
DROP ROLE fleet_reader, fleet_blind;
DELETE FROM fleet.rides WHERE region = 'west';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
SELECT test.settle();
SELECT * FROM fleet.verify();
