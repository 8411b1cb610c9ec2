--
-- The change stream
--
\set SHOW_CONTEXT never
\c fleet_e
SELECT fleet.create_change_stream('stream_e') > '0/0' AS created;
\c fleet_w
SELECT fleet.create_change_stream('stream_w') > '0/0' AS created;
SELECT plugin, slot_type, temporary FROM pg_replication_slots WHERE slot_name = 'stream_w';

-- The next events of a slot, without what differs from run to run.
CREATE FUNCTION test.events(slot name, VARIADIC options text[] DEFAULT '{}') RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace((data::jsonb - '{id,hlc,commit_time,gid}'::text[])::text,
		'\d{4}-\d\d-\d\dT[0-9:.]+Z', 'T', 'g'), '"hlc": "\d+"', '"hlc": "H"', 'g')
	FROM pg_logical_slot_get_changes(slot, NULL, NULL, VARIADIC options)
$$;

-- Each operation.
SELECT fleet.register_vehicle('DV-1', 0.5, 0.25);
SELECT fleet.request_ride('D-1', 'C-1', 0.1, 0.2, 'DV-1', 12.50, 0.3, 0.4);
SELECT fleet.set_ride_status('D-1', 'EN_ROUTE');
BEGIN;
UPDATE fleet.rides SET fare = 99 WHERE ride_id = 'D-1' AND region = 'west';
SAVEPOINT s;
UPDATE fleet.rides SET fare = 100 WHERE ride_id = 'D-1' AND region = 'west';
SELECT fleet.request_ride('D-2', 'C-1', 0.1, 0.2);
ROLLBACK TO s;
SELECT fleet.request_ride('D-3', 'C-1', 0.1, 0.2);
COMMIT;
BEGIN;
SELECT fleet.request_ride('D-4', 'C-1', 0.1, 0.2);
ROLLBACK;
DELETE FROM fleet.rides WHERE ride_id = 'D-3' AND region = 'west';
-- The same id again, in one transaction with its end.
BEGIN;
SELECT fleet.request_ride('D-3', 'C-2', 0.1, 0.2);
DELETE FROM fleet.rides WHERE ride_id = 'D-3' AND region = 'west';
SELECT fleet.request_ride('D-3', 'C-3', 0.1, 0.2);
COMMIT;
CREATE TABLE test.other (a int);
INSERT INTO test.other VALUES (1);
DROP TABLE test.other;

-- What comes first in all of them, and says the same as the row.
SELECT data ~ '^\{"id":"west:[0-9A-F]+/[0-9A-F]+:0","operation":"(insert|update|delete)","kind":"(ride|vehicle)","key":"[^"]+","epoch":\d+,"hlc":"\d+","commit_time":"[^"]+Z"'
	AS in_order, count(*) FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL) GROUP BY 1;
SELECT count(*), count(DISTINCT data::jsonb->>'id') AS ids FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL);
SELECT count(*) AS same FROM fleet.local_rides AS r JOIN pg_logical_slot_peek_changes('stream_w', NULL, NULL) AS p
	ON p.data::jsonb->>'key' = r.ride_id AND (p.data::jsonb->>'hlc')::bigint = r.hlc::bigint
		AND (p.data::jsonb->>'epoch')::bigint = r.epoch
		AND (p.data::jsonb#>>'{new,updated_at}')::timestamptz = r.updated_at
		AND (p.data::jsonb->>'commit_time')::timestamptz >= r.updated_at
		AND ((p.data::jsonb#>'{new,start_location}')->>0)::float8 = fleet.lon(r.start_location);
SELECT * FROM test.events('stream_w');

-- Any text is JSON, on one line.
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location)
	SELECT n || ' ' || t, t, 'west', 'POINT(0.5 0.5)' FROM unnest(ARRAY[E'"\\/{}[],:', E'\b\f\n\r\t\x01\x1f\x7f', 'é 字 😀', 'null',
		(SELECT string_agg(chr(i), '') FROM generate_series(1, 159) AS i), repeat('😀', 190), E'\u2028\u2029']) WITH ORDINALITY AS x(t, n);
SELECT count(*) AS events, count(*) FILTER (WHERE data ~ '[\n\r]') AS broken,
		count(*) FILTER (WHERE r.ride_id IS NOT NULL) AS same
	FROM pg_logical_slot_get_changes('stream_w', NULL, NULL) LEFT JOIN fleet.local_rides AS r
		ON data::jsonb->>'key' = r.ride_id AND data::jsonb#>>'{new,customer_id}' = r.customer_id;
DELETE FROM fleet.rides WHERE region = 'west' AND vehicle_id IS NULL;
SELECT count(*) FROM test.events('stream_w');

-- A handoff is one event on each side, the same by its gid; a vehicle's as well.
SELECT fleet.handoff('D-1', 'east');
SELECT data::jsonb->>'gid' AS gid FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL) LIMIT 1 \gset
SELECT data::jsonb->>'new' AS image FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL) WHERE data::jsonb->>'kind' = 'ride' \gset
SELECT :'gid' LIKE 'fleet:node_w:%' AS named, count(*), count(*) FILTER (WHERE data::jsonb->>'gid' = :'gid') AS same_gid
	FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL);
SELECT * FROM test.events('stream_w');
\c fleet_e
CREATE FUNCTION test.events(slot name, VARIADIC options text[] DEFAULT '{}') RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace((data::jsonb - '{id,hlc,commit_time,gid}'::text[])::text,
		'\d{4}-\d\d-\d\dT[0-9:.]+Z', 'T', 'g'), '"hlc": "\d+"', '"hlc": "H"', 'g')
	FROM pg_logical_slot_get_changes(slot, NULL, NULL, VARIADIC options)
$$;
SELECT count(*), count(*) FILTER (WHERE data::jsonb->>'gid' = :'gid') AS same_gid,
		count(*) FILTER (WHERE data::jsonb->>'new' = :'image') AS same_image
	FROM pg_logical_slot_peek_changes('stream_e', NULL, NULL);
SELECT * FROM test.events('stream_e');
-- And back, from here, with a change of the row in the same transaction.
BEGIN;
UPDATE fleet.rides SET fare = 20 WHERE ride_id = 'D-1' AND region = 'east';
SELECT fleet.handoff('D-1', 'west');
COMMIT;
SELECT * FROM test.events('stream_e');
\c fleet_w
SELECT * FROM test.events('stream_w');
-- There and back in one transaction; one that was undone.
BEGIN;
SELECT fleet.handoff('D-1', 'east');
SELECT fleet.handoff('D-1', 'west');
COMMIT;
BEGIN;
SAVEPOINT s;
SELECT fleet.handoff('D-1', 'east');
ROLLBACK TO s;
UPDATE fleet.rides SET fare = 21 WHERE ride_id = 'D-1' AND region = 'west';
COMMIT;
SELECT e::jsonb->>'operation' AS operation, e::jsonb->>'kind' AS kind, e::jsonb->>'epoch' AS epoch, e::jsonb->>'from' AS from_,
	e::jsonb->>'to' AS to_, e::jsonb#>>'{new,fare}' AS fare FROM test.events('stream_w') AS e;

-- Many at once.  What does not fit into the memory for it is sent as it is.
SELECT count(fleet.request_ride('M-' || i, 'C', 0.1, 0.2)) FROM generate_series(1, 3000) AS i;
SELECT count(*) FROM test.events('stream_w', 'tables', 'rides');
SELECT fleet.handoff(ARRAY(SELECT 'M-' || i FROM generate_series(1, 3000) AS i), 'east');
SELECT e::jsonb->>'operation' AS operation, count(*), count(DISTINCT e::jsonb->>'key') AS keys, count(e::jsonb->'new') AS images
	FROM test.events('stream_w') AS e GROUP BY 1;
\c fleet_e
SELECT (data::jsonb)->>'operation' AS operation, count(*), count(DISTINCT data::jsonb->>'key') AS keys, count(data::jsonb->'new') AS images,
	count(DISTINCT data::jsonb->>'id') AS ids
	FROM pg_logical_slot_peek_changes('stream_e', NULL, NULL, 'only_moves', 'true') WHERE data LIKE '%"M-%' GROUP BY 1;
SET fleet.fault = 'decode-overflow=on';
SELECT (data::jsonb)->>'operation' AS operation, count(*), count(DISTINCT data::jsonb->>'key') AS keys, count(data::jsonb->'new') > 2900 AS images,
	count(DISTINCT data::jsonb->>'id') AS ids
	FROM pg_logical_slot_peek_changes('stream_e', NULL, NULL) WHERE data LIKE '%"M-%' GROUP BY 1;
RESET fleet.fault;
SELECT count(*) > 3000 AS events FROM test.events('stream_e');
DELETE FROM fleet.rides WHERE region = 'east';
\c fleet_w

-- Old images, and what was changed only, need whole old rows in the WAL.
SELECT count(*) > 0 AS events FROM test.events('stream_w');
SELECT fleet.set_ride_status('D-1', 'ARRIVED');
UPDATE fleet.rides SET fare = 22 WHERE ride_id = 'D-1' AND region = 'west';
SELECT e::jsonb ? 'old' AS old, e::jsonb ? 'changed_only' AS changed_only FROM test.events('stream_w', 'include_old', 'true', 'changed_only', 'true') AS e;
SELECT fleet.set_old_images(true);
SELECT relname, relreplident FROM pg_class WHERE oid IN ('fleet.local_rides'::regclass, 'fleet.local_vehicles'::regclass) ORDER BY 1;
UPDATE fleet.rides SET fare = 23, vehicle_id = NULL WHERE ride_id = 'D-1' AND region = 'west';
SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'include_old', 'maybe');
SELECT e::jsonb->'old' ? 'fare' AS old, e::jsonb->'new' ? 'fare' AS new, e::jsonb ? 'changed_only' AS changed_only
	FROM (SELECT data AS e FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'include_old', '1')) AS p;
SELECT * FROM test.events('stream_w', 'include_old', 'on', 'changed_only', 'on');
SELECT fleet.handoff('D-1', 'east');
SELECT e::jsonb->>'operation' AS operation, e::jsonb#>>'{old,fare}' AS old, e::jsonb#>>'{new,fare}' AS new, e::jsonb#>>'{old,epoch}' AS epoch
	FROM test.events('stream_w', 'include_old', 'on', 'changed_only', 'on') AS e;
SELECT fleet.handoff('D-1', 'west');
DELETE FROM fleet.rides WHERE ride_id = 'D-1' AND region = 'west';
SELECT * FROM test.events('stream_w', 'include_old', 'on');
SELECT fleet.set_old_images(false);

-- A value that is stored apart, and that an update leaves alone, is named.
CREATE FUNCTION test.long(seed text, n integer) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(chr(131072 + ('x' || substr(md5(seed || i), 1, 4))::bit(16)::int % 40000), '') FROM generate_series(1, n) AS i
$$;
INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, start_location)
	VALUES (test.long('r', 180), test.long('v', 180), test.long('c', 200), 'west', 'POINT(0.5 0.5)');
SELECT pg_column_size(image) > 2000 AS large FROM (SELECT fleet.row_image(r) AS image FROM fleet.local_rides AS r) AS i;
SELECT e::jsonb->'unchanged' AS unchanged, e::jsonb#>>'{new,customer_id}' = test.long('c', 200) AS same FROM test.events('stream_w') AS e;
UPDATE fleet.rides SET fare = 1 WHERE region = 'west';
SELECT e::jsonb->'unchanged' AS unchanged, e::jsonb->'new' ? 'customer_id' AS there, e::jsonb->'key' = to_jsonb(test.long('r', 180)) AS key
	FROM test.events('stream_w') AS e;
SELECT fleet.set_old_images(true);
UPDATE fleet.rides SET fare = 2 WHERE region = 'west';
SELECT data::jsonb->'unchanged' AS unchanged, data::jsonb#>>'{new,customer_id}' = test.long('c', 200) AS same
	FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL);
SELECT * FROM jsonb_object_keys((SELECT e::jsonb->'new' FROM test.events('stream_w', 'changed_only', 'true') AS e));
SELECT fleet.set_old_images(false);
SELECT fleet.handoff(ride_id, 'east') FROM fleet.local_rides;
SELECT e::jsonb->>'operation' AS operation, e::jsonb#>>'{new,customer_id}' = test.long('c', 200) AS same FROM test.events('stream_w') AS e;
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
SELECT count(*) > 0 AS events FROM test.events('stream_e');
\c fleet_w

-- An image whose place is written in the other order of bytes, and one that an update does not write.
INSERT INTO fleet.departures (kind, key, epoch, target, hlc, image) VALUES
	('ride', 'swapped', 2, 'east', fleet.hlc_now(), '{"start_location": "0020000001000010E63FE00000000000003FD0000000000000"}'),
	('ride', 'apart', 2, 'east', fleet.hlc_now(), jsonb_build_object('customer_id', test.long('i', 2000)));
UPDATE fleet.departures SET dtxid = 'again' WHERE key = 'apart';
DELETE FROM fleet.departures WHERE key IN ('swapped', 'apart');
SELECT e::jsonb->>'operation' AS operation, e::jsonb->>'key' AS key, e::jsonb#>>'{new,start_location}' AS place, e::jsonb ? 'new' AS image
	FROM test.events('stream_w') AS e;

-- Filters.
SELECT fleet.request_ride('F-1', 'C', 0.1, 0.2, 'FV-1');
SELECT fleet.register_vehicle('FV-1', 0.1, 0.2);
SELECT fleet.handoff('F-1', 'east');
SELECT fleet.request_ride('F-2', 'C', 0.1, 0.2);
SELECT fleet.handoff('F-2', 'north');
CREATE FUNCTION test.seen(VARIADIC options text[]) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg((data::jsonb->>'operation') || ' ' || (data::jsonb->>'key'), ', ')
		FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, VARIADIC options)
$$;
SELECT test.seen('tables', 'rides, vehicles', 'format_version', '1');
SELECT test.seen('tables', 'rides');
SELECT test.seen('tables', 'fleet.vehicles,local_vehicles');
SELECT test.seen('only_moves', 'true');
SELECT test.seen('only_moves', 'off');
SELECT test.seen('regions', 'north');
SELECT test.seen('regions', 'west');
SELECT test.seen('regions', 'north, east', 'only_moves', 'true', 'tables', 'vehicles');
SELECT test.seen('regions', 'nowhere');
-- Options do not change an id.
SELECT count(*) AS moves, count(DISTINCT id) AS ids FROM (
	SELECT data::jsonb->>'id' AS id FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL) WHERE data LIKE '%"moved"%'
	UNION ALL SELECT data::jsonb->>'id' FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'only_moves', 'true')) AS i;
SELECT count(*) AS events, bool_and((data::jsonb->>'commit_lsn')::pg_lsn > split_part(data::jsonb->>'id', ':', 2)::pg_lsn) AS later
	FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'include_lsn', 'true');
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'table', 'rides')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'format_version', '2')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'tables', 'rides, trips')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'tables', '')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'regions', 'Los Angeles')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'only_moves', '2')$$);
SELECT test.raised($$SELECT * FROM pg_logical_slot_peek_changes('stream_w', NULL, NULL, 'streaming', 'on', 'include_lsn', 'on')$$);
SELECT count(*) FROM test.events('stream_w');

-- What came by replication is sent by where it was made.
SELECT pg_replication_origin_create('test_origin') > 0 AS created, pg_replication_origin_session_setup('test_origin') IS NULL AS set_up;
SELECT fleet.register_vehicle('copied', 0.1, 0.2);
SELECT pg_replication_origin_session_reset() IS NULL AS reset, pg_replication_origin_drop('test_origin') IS NULL AS dropped;
SELECT fleet.register_vehicle('own', 0.1, 0.2);
SELECT e::jsonb->>'key' AS key FROM test.events('stream_w') AS e;

-- Consumers and dead letters.
CREATE TABLE test.taken (change jsonb);
CREATE TABLE test.poison (key text);
CREATE FUNCTION test.take(change jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO test.taken VALUES (change);
	IF EXISTS (SELECT FROM test.poison WHERE key = change->>'key') THEN
		RAISE EXCEPTION 'cannot take %', change->>'key' USING ERRCODE = '22012';
	END IF;
	ASSERT change->>'key' <> 'DQ-4', 'not DQ-4';
END
$$;
CREATE VIEW test.letters AS SELECT origin, region, reason_sqlstate, reason_message, substring(change::text FROM '"key":"([^"]*)"') AS key, attempts, resolved_at IS NOT NULL AS resolved
	FROM fleet.dead_letters ORDER BY id;
INSERT INTO test.poison VALUES ('DQ-2');
SELECT count(fleet.request_ride('DQ-' || i, 'C', 0.1, 0.2)) FROM generate_series(1, 4) AS i;
BEGIN;
SELECT * FROM fleet.consume('stream_w', 'test.take');
SELECT test.raised($$SELECT fleet.consume('stream_w', 'test.take')$$);
ROLLBACK;
SELECT count(*) FROM test.taken;
SELECT * FROM fleet.consume('stream_w', 'test.take');
SELECT * FROM fleet.consume('stream_w', 'test.take');
SELECT change->>'key' AS key, change ? 'commit_lsn' AS lsn FROM test.taken;
SELECT * FROM test.letters;
SELECT * FROM fleet.retry_dead_letters('test.take');
DELETE FROM test.poison;
SELECT * FROM fleet.retry_dead_letters('test.take', max_letters => 1);
SELECT * FROM test.letters;
SELECT * FROM fleet.retry_dead_letters('test.take', ids => ARRAY[0]);
-- A batch ends where a transaction ends; each change comes once.
SELECT fleet.set_ride_status('DQ-' || i, 'EN_ROUTE') IS NULL AS set FROM generate_series(1, 3) AS i;
SELECT fleet.set_ride_status('DQ-1', 'ARRIVED') IS NULL AS set;
SELECT * FROM fleet.consume('stream_w', 'test.take', 2, ARRAY['tables', 'rides']);
SELECT * FROM fleet.consume('stream_w', 'test.take', 2);
SELECT * FROM fleet.consume('stream_w', 'test.take', 2);
SELECT count(*), count(DISTINCT change->>'id') AS ids FROM test.taken;
SELECT test.raised($$SELECT fleet.consume('stream_w', 'pg_catalog.lower')$$);
SELECT test.raised($$SELECT fleet.consume('stream_w', 'pg_catalog.pg_sleep')$$);
SELECT test.raised($$SELECT fleet.consume('no_such', 'test.take')$$);
SELECT test.raised($$SELECT fleet.consume('stream_w', 'test.take', -1)$$);
SELECT test.raised($$SELECT fleet.consume('stream_w', 'test.take', 10, ARRAY['table', 'rides'])$$);
SELECT test.raised($$SELECT fleet.retry_dead_letters('pg_catalog.pg_sleep')$$);

-- What may pass is no dead letter.  What was taken before it stays so, and the transaction with it comes again, whole.
CREATE TABLE test.trouble (key text, state text);
CREATE TABLE test.got (key text);
CREATE FUNCTION test.take_text(change json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	its_key text := substring(change::text FROM '"key":"([^"]*)"');
	t record;
BEGIN
	INSERT INTO test.got VALUES (its_key);
	FOR t IN SELECT * FROM test.trouble AS x WHERE x.key = its_key LOOP
		RAISE EXCEPTION 'trouble' USING ERRCODE = t.state;
	END LOOP;
END
$$;
SELECT state, fleet.is_transient(state) FROM unnest(ARRAY['08006', '40001', '40P01', '53100', '53300', '55P03', '57014', '57P01', 'RF016', 'RF022',
	'22012', '23505', '42883', 'P0001', 'RF001', 'XX000']) AS state;
SELECT * FROM fleet.consume('stream_w', 'test.take_text');
TRUNCATE test.got;
SELECT fleet.request_ride('DT-1', 'C', 0.1, 0.2);
SELECT count(fleet.request_ride('DT-' || i, 'C', 0.1, 0.2)) FROM generate_series(2, 4) AS i;
SELECT fleet.request_ride('DT-5', 'C', 0.1, 0.2);
INSERT INTO test.trouble VALUES ('DT-3', '40P01'), ('DT-2', '22012');
SELECT * FROM fleet.consume('stream_w', 'test.take_text');
SELECT string_agg(key, ' ') AS got, (SELECT count(*) FROM test.letters WHERE NOT resolved AND key LIKE 'DT%') AS letters FROM test.got;
SELECT regexp_replace(r, 'west:[^"]+', 'ID') AS raised FROM test.raised($$SELECT fleet.consume('stream_w', 'test.take_text')$$) AS r;
SELECT string_agg(key, ' ') AS got FROM test.got;
UPDATE test.trouble SET state = '08006' WHERE key = 'DT-3';
SELECT regexp_replace(r, 'west:[^"]+', 'ID') AS raised FROM test.raised($$SELECT fleet.consume('stream_w', 'test.take_text')$$) AS r;
DELETE FROM test.trouble WHERE key = 'DT-3';
SELECT * FROM fleet.consume('stream_w', 'test.take_text');
SELECT string_agg(key, ' ') AS got FROM test.got;
SELECT origin, reason_sqlstate, key FROM test.letters WHERE NOT resolved AND key LIKE 'DT%';

-- json can hold what jsonb cannot.  Who takes json gets it; who takes jsonb has a dead letter with the text.
ALTER TABLE fleet.rides ADD COLUMN extra json;
UPDATE fleet.rides SET extra = '{"a": "x\u0000y", "n": 1e999999}' WHERE region = 'west' AND ride_id = 'DT-4';
UPDATE fleet.rides SET extra = '{"a": 1}' WHERE region = 'west' AND ride_id = 'DT-5';
BEGIN;
SELECT * FROM fleet.consume('stream_w', 'test.take_text');
SELECT string_agg(key, ' ') AS got FROM test.got;
ROLLBACK;
SELECT * FROM fleet.consume('stream_w', 'test.take');
SELECT change->'new'->'extra' AS extra FROM test.taken WHERE change->>'key' = 'DT-5' AND change->'new' ? 'extra';
SELECT origin, region, reason_sqlstate, substring(change::text FROM '"extra":(\{[^}]*\})') AS extra FROM fleet.dead_letters WHERE resolved_at IS NULL AND change::text LIKE '%extra%';
SELECT * FROM fleet.retry_dead_letters('test.take');
UPDATE fleet.dead_letters SET origin = 'test.take_text' WHERE change::text LIKE '%extra%';
DELETE FROM test.trouble;
SELECT * FROM fleet.retry_dead_letters('test.take_text');
DELETE FROM fleet.dead_letters WHERE origin = 'test.take_text';
ALTER TABLE fleet.rides DROP COLUMN extra;
SELECT * FROM fleet.consume('stream_w', 'test.take');
DROP TABLE test.trouble, test.got;

-- A role that is no superuser.
CREATE ROLE stream_reader REPLICATION;
GRANT EXECUTE ON FUNCTION fleet.consume(name, regproc, integer, text[]), fleet.check_consumer(regproc), fleet.take_change(regproc, text), fleet.try_change(regproc, json), fleet.is_transient(text),
	fleet.retry_dead_letters(regproc, integer, bigint[]) TO stream_reader;
GRANT SELECT, INSERT, UPDATE ON fleet.consumers, fleet.dead_letters TO stream_reader;
GRANT USAGE ON SCHEMA test TO stream_reader;
GRANT SELECT, INSERT ON test.taken, test.poison TO stream_reader;
INSERT INTO test.poison VALUES ('DQ-1');
SELECT fleet.set_ride_status('DQ-1', 'IN_PROGRESS') IS NULL AS set;
SET ROLE stream_reader;
SELECT * FROM fleet.consume('stream_w', 'test.take');
SELECT * FROM fleet.retry_dead_letters('test.take');
SELECT test.state_of($$SELECT fleet.drop_change_stream('stream_w')$$);
RESET ROLE;
DROP OWNED BY stream_reader;
DROP ROLE stream_reader;

-- What a server lacks; older ones do not have the setting.
CREATE FUNCTION test.slot_refused() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('output_plugin_libraries', true) IS NULL THEN
		RETURN QUERY VALUES ('55000 this server does not allow "fleet" as an output plugin'),
			('Setting output_plugin_libraries is "pgoutput, test_decoding".'),
			('Add this line to postgresql.conf and reload: output_plugin_libraries = ''pgoutput, test_decoding, fleet''');
		RETURN;
	END IF;
	PERFORM set_config('output_plugin_libraries', 'pgoutput, test_decoding', true);
	RETURN QUERY SELECT test.raised($s$SELECT fleet.create_change_stream('refused')$s$);
END
$$;
SELECT * FROM test.slot_refused();
-- A new session: this one still holds the slot whose options it got wrong, and a caught error does not let go of it.
\c fleet_w
SELECT fleet.create_change_stream('short', temporary => true) > '0/0' AS created;
SELECT temporary FROM pg_replication_slots WHERE slot_name = 'short';
\c fleet_spare
SELECT test.raised('SELECT fleet.set_old_images(true)');
\c fleet_w
SELECT fleet.drop_change_stream('stream_w');
SELECT count(*) FROM fleet.consumers;
DELETE FROM fleet.dead_letters;
DROP TABLE test.taken, test.poison;
DROP VIEW test.letters;
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
\c fleet_e
SELECT fleet.drop_change_stream('stream_e');
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT test.settle();
\c fleet_n
DELETE FROM fleet.rides WHERE region = 'north';
