--
-- Fences: what is noted of vehicles that pass them, compared with PostGIS; what is refused
--
\set SHOW_CONTEXT never
-- Crossings are not queued here.
\c fleet_w
SELECT test.hand_off_at_once(true);
\c fleet_w
SET timezone = 'UTC';

-- Refused.
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', NULL::geometry)$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', 'SRID=4326;POLYGON EMPTY'::geometry)$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', ST_MakeEnvelope(0, 0, 1, 1, 3857))$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', 'SRID=4326;LINESTRING(0 0, 1 1)'::geometry)$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', ST_MakeEnvelope(170, 0, 190, 1, 4326))$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', ST_Segmentize(ST_MakeEnvelope(0, 0, 1, 1, 4326), 0.0001))$$);
SELECT * FROM test.raised($$SELECT fleet.add_fence('bad', 'POINT EMPTY'::geography, 100)$$);
SELECT radius, r FROM unnest(ARRAY['NULL', '0', '-1', '''NaN''', '1000001', '''Infinity''']) AS radius,
	test.raised(format('SELECT fleet.add_fence(''bad'', ''POINT(0.5 0.5)''::geography, %s::float8)', radius)) AS r;
SELECT args, r FROM unnest(ARRAY['NULL', '''{}''', '''{leave}''', '''{enter,NULL}''', '''{near}''', '''{enter,dwell}''', '''{enter}'', ''1 min''', '''{dwell}'', ''0.5 s''',
	'''{dwell}'', ''31 days''', '''{dwell}'', ''infinity''', 'notify => NULL']) AS args,
	test.raised(format('SELECT fleet.add_fence(''bad'', test.box(0, 0, 1, 1), %s)', args)) AS r WHERE r NOT LIKE '22007%' AND r NOT LIKE '%input syntax%';
SELECT name, r FROM unnest(ARRAY['NULL', '''''', 'repeat(''x'', 101)']) AS name,
	test.raised(format('SELECT fleet.add_fence(%s, test.box(0, 0, 1, 1))', name)) AS r;
SELECT args, test.state_of(format('SELECT fleet.add_pair(''bad'', %s)', args)) FROM unnest(ARRAY['NULL, ''b'', 1', '''a'', NULL, 1', '''a'', ''a'', 1', '''a'', ''b'', 0',
	'''a'', ''b'', ''NaN''', '''a'', '''', 1']) AS args;
SELECT * FROM test.raised($$SELECT fleet.remove_fence('none')$$);
SELECT * FROM test.raised($$SELECT fleet.is_in_fence('none', 0, 0)$$);
SELECT count(*) AS fences FROM fleet.fences;

-- Many fences that overlap, made once for all nodes.  The channel is what is returned.
CREATE TABLE test.areas AS SELECT n, ST_Multi(ST_Buffer(ST_MakePoint(0.05 + 0.9 * ((n * 37) % 101) / 101.0, 0.05 + 0.9 * ((n * 61) % 103) / 103.0), 0.01 + 0.003 * (n % 40), (n % 5) + 1)) AS area
	FROM generate_series(1, 120) AS n;
UPDATE test.areas SET area = ST_SetSRID(area, 4326);
INSERT INTO test.areas SELECT 121, ST_SetSRID(ST_Multi(ST_Difference(ST_MakeEnvelope(0.2, 0.2, 0.8, 0.8), ST_MakeEnvelope(0.4, 0.4, 0.6, 0.6))), 4326);
SELECT count(fleet.add_fence('area-' || n, area, '{enter,exit,cross}', notify => false)) FROM test.areas;
SELECT count(fleet.add_fence('place-' || n, fleet.make_point(0.1 + 0.01 * n, 0.9 - 0.01 * n), 500 * n, '{near,exit}', notify => false)) FROM generate_series(1, 30) AS n;
SELECT fleet.add_fence('dépôt "7"', 'SRID=4326;POLYGON Z((0.5 0.5 1, 0.51 0.5 1, 0.51 0.51 1, 0.5 0.5 1))'::geometry) AS channel, fleet.add_fence(repeat('x', 60), test.box(0, 0, 0.1, 0.1)) AS hashed;
SELECT ST_AsText(area), events, notify FROM fleet.fences WHERE name = 'dépôt "7"';
SELECT fleet.remove_fence(n) FROM unnest(ARRAY['dépôt "7"', repeat('x', 60)]) AS n;
SELECT * FROM test.raised($$SELECT fleet.add_fence('area-1', test.box(0, 0, 1, 1))$$);
\c fleet_e
SELECT count(*) FROM fleet.fences;
SELECT * FROM test.raised($$SELECT fleet.add_fence('area-1', test.box(0, 0, 1, 1))$$);
\c fleet_n
SELECT count(*) FROM fleet.fences;
\c fleet_w
SET timezone = 'UTC';
-- Rolled back, it was none.
BEGIN;
SELECT fleet.add_fence('undone', test.box(0, 0, 1, 1));
SAVEPOINT s;
SELECT fleet.remove_fence('area-1');
ROLLBACK TO s;
ROLLBACK;
SELECT count(*) FROM fleet.fences WHERE name IN ('undone', 'area-1');

-- A change that is made again because its PREPARE was lost undoes none that came later; that it was made is proved.
SELECT fleet.apply_fence('fleet:lost', '{"remove": "area-2", "stamp": 1}', true);
SELECT fleet.apply_fence('fleet:lost', jsonb_build_object('add', fleet.row_image(f) || jsonb_build_object('name', repeat('x', 60)), 'stamp', 1), true) FROM fleet.fences AS f WHERE name = 'area-3';
SELECT count(*) AS area_2, fleet.branch_applied('fleet:lost') AS applied FROM fleet.fences WHERE name IN ('area-2', repeat('x', 60));
SELECT * FROM test.raised($$SELECT fleet.apply_fence('fleet:late', '{"remove": "area-2", "stamp": 1, "version": 1}', false)$$);

-- A walk, often to a corner of an area; what PostGIS says of each step.
CREATE TABLE test.walk AS SELECT g.n, ST_SetSRID(CASE WHEN g.n % 3 = 0 THEN ST_PointN(ST_ExteriorRing(ST_GeometryN(a.area, 1)), 1)
		WHEN g.n % 7 = 0 THEN ST_MakePoint(0.4, 0.5) ELSE ST_MakePoint(((g.n * 7919) % 997) / 997.0, ((g.n * 104729) % 991) / 991.0) END, 4326) AS p
	FROM generate_series(1, 400) AS g (n) JOIN test.areas AS a ON a.n = g.n % 121 + 1;
DELETE FROM test.walk WHERE NOT p && test.box(0, 0, 1, 1);
INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('FW-1', 'west');
SET fleet.max_speed = 0;
SELECT outcome, count(*) FROM (SELECT * FROM test.walk ORDER BY n) AS w, fleet.report_fix('FW-1', ST_X(w.p), ST_Y(w.p), '2026-01-01 00:00+00'::timestamptz + w.n * interval '1 s') GROUP BY 1;
CREATE VIEW test.steps AS SELECT '2026-01-01 00:00+00'::timestamptz + n * interval '1 s' AS at, lag(p) OVER (ORDER BY n) AS a, p AS b FROM test.walk;
CREATE VIEW test.expected AS
	SELECT CASE WHEN s.b_in THEN 'enter' ELSE 'exit' END AS kind, 'area-' || s.n AS fence, s.at
		FROM (SELECT f.n, s.at, COALESCE(ST_Covers(f.area, s.a), false) AS a_in, ST_Covers(f.area, s.b) AS b_in FROM test.steps AS s, test.areas AS f) AS s WHERE a_in <> b_in
	UNION ALL SELECT 'cross', 'area-' || f.n, s.at FROM test.steps AS s, test.areas AS f
		WHERE ST_Intersects(f.area, ST_MakeLine(s.a, s.b)) AND NOT ST_Covers(f.area, s.a) AND NOT ST_Covers(f.area, s.b)
	UNION ALL SELECT CASE WHEN s.b_in THEN 'near' ELSE 'exit' END, s.name, s.at
		FROM (SELECT f.name, s.at, COALESCE(ST_DWithin(f.place, s.a::geography, f.radius_m, false), false) AS a_in, ST_DWithin(f.place, s.b::geography, f.radius_m, false) AS b_in
			FROM test.steps AS s, fleet.fences AS f WHERE f.place IS NOT NULL) AS s WHERE a_in <> b_in;
SELECT kind, count(*) > 20 AS many FROM test.expected GROUP BY kind ORDER BY kind;
SELECT count(*) AS missing FROM (SELECT * FROM test.expected EXCEPT ALL SELECT kind, fence, at FROM fleet.fence_events) AS x;
SELECT count(*) AS too_many FROM (SELECT kind, fence, at FROM fleet.fence_events EXCEPT ALL SELECT * FROM test.expected) AS x;
SELECT count(*) AS wrong FROM fleet.fence_events AS e LEFT JOIN test.walk AS w ON e.at = '2026-01-01 00:00+00'::timestamptz + w.n * interval '1 s'
	WHERE w.p IS NULL OR NOT ST_Equals(e.location::geometry, w.p) OR e.vehicle_id <> 'FW-1' OR e.region <> 'west' OR e.epoch <> 1 OR e.other_id IS NOT NULL;
-- Where it is now, as PostGIS says.
SELECT count(*) AS wrong FROM test.walk AS w, LATERAL (SELECT array_agg(f ORDER BY f COLLATE "C") AS fences FROM fleet.fences_at(ST_X(p), ST_Y(p)) AS f WHERE f LIKE 'area%') AS x
	WHERE fences IS DISTINCT FROM (SELECT array_agg('area-' || n ORDER BY ('area-' || n) COLLATE "C") FROM test.areas AS a WHERE ST_Covers(a.area, w.p));
SELECT count(*) AS nowhere FROM fleet.fences_at('NaN', 0);

-- No event: of a fix that is stale, repeated, implausible, refused or undone.
RESET fleet.max_speed;
DELETE FROM fleet.fence_events;
SELECT outcome FROM fleet.report_fix('FW-1', 0.5, 0.3, '2026-01-01 00:00+00');
SELECT outcome FROM fleet.report_fix('FW-1', 0.01, 0.01, '2026-01-01 00:06:41+00');
SELECT test.state_of($$SELECT fleet.report_fix('FW-1', 0.5, 95, '2026-01-02 00:00+00')$$);
BEGIN;
SELECT outcome FROM fleet.report_fix('FW-1', 0.01, 0.01, '2026-01-02 00:00+00');
SELECT count(*) > 0 AS some FROM fleet.fence_events;
ROLLBACK;
SELECT count(*) AS none FROM fleet.fence_events;
SELECT count(fleet.remove_fence(name)) FROM fleet.fences WHERE name LIKE 'area-%' OR name LIKE 'place-%';

-- Status, dwelling, a fence that is made around a vehicle, a vehicle that is first seen in one.
SELECT fleet.add_fence('yard', test.box(0.2, 0.2, 0.3, 0.3), '{enter,exit,dwell}', '1 min'), fleet.add_fence('stand', test.box(0.2, 0.2, 0.3, 0.3), '{enter,exit}', status => 'BUSY');
CREATE FUNCTION test.fix(vehicle text, lon float8, lat float8, at text, status fleet.vehicle_status DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT outcome FROM fleet.report_fix(vehicle, lon, lat, ('2026-01-02 ' || at || '+00')::timestamptz, status => status)
$$;
CREATE VIEW test.noted AS SELECT kind, fence, vehicle_id, other_id, to_char(at, 'HH24:MI:SS') AS at, region, epoch FROM fleet.fence_events ORDER BY id;
INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('FW-2', 'west');
SELECT test.fix('FW-2', 0.25, 0.25, '10:00', 'ONLINE');
SELECT * FROM test.noted;
SELECT (SELECT count(*) FROM jsonb_each(stays)) AS stays FROM fleet.local_vehicles WHERE vehicle_id = 'FW-2';
SELECT test.fix('FW-2', 0.25, 0.25, t) FROM unnest(ARRAY['10:00:59', '10:01', '10:05']) AS t;
SELECT * FROM test.noted OFFSET 1;
SELECT test.fix('FW-2', 0.25, 0.35, '10:10'), test.fix('FW-2', 0.25, 0.25, '10:20', 'BUSY'), test.fix('FW-2', 0.25, 0.26, '10:20:30'), test.fix('FW-2', 0.25, 0.35, '10:30'),
	test.fix('FW-2', 0.25, 0.25, '10:40'), test.fix('FW-2', 0.25, 0.25, '10:42');
SELECT * FROM test.noted OFFSET 2;
-- A fence of the same name is another one: it has not told of this stay.
SELECT fleet.remove_fence('yard'), fleet.remove_fence('stand');
SELECT fleet.add_fence('yard', test.box(0.2, 0.2, 0.3, 0.3), '{enter,exit,dwell}', '1 min');
DELETE FROM fleet.fence_events;
SELECT test.fix('FW-2', 0.25, 0.25, '10:42:30'), test.fix('FW-2', 0.25, 0.25, '10:43'), test.fix('FW-2', 0.25, 0.25, '10:44');
SELECT * FROM test.noted;
SELECT (SELECT count(*) FROM jsonb_each(stays)) AS old_ones_are_forgotten FROM fleet.local_vehicles WHERE vehicle_id = 'FW-2';

-- Two vehicles.
SELECT fleet.add_pair('pair', 'FW-2', 'FW-3', 1000);
INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('FW-3', 'west');
DELETE FROM fleet.fence_events;
SELECT test.fix('FW-3', 0.4, 0.25, '10:50'), test.fix('FW-3', 0.255, 0.25, '11:50'), test.fix('FW-3', 0.256, 0.25, '11:51'), test.fix('FW-2', 0.255, 0.25, '11:52'),
	test.fix('FW-2', 0.3, 0.25, '12:30'), test.fix('FW-2', 0.26, 0.25, '13:00');
SELECT * FROM test.noted WHERE kind = 'near';
SELECT other_id, region, status, round(distance_m::numeric, 1) AS m FROM fleet.near('FW-2', 1000);
SELECT * FROM test.raised($$SELECT fleet.near('FW-0', 1000)$$);

-- Many at once: as one after the other.  Of two that meet one is told of.
SELECT fleet.add_pair('batch', 'FW-4', 'FW-5', 1000);
INSERT INTO fleet.vehicles (vehicle_id, region) VALUES ('FW-4', 'west'), ('FW-5', 'west');
DELETE FROM fleet.fence_events;
SELECT outcome, count(*) FROM fleet.report_fixes('{FW-4,FW-5,FW-4,FW-4,FW-4,FW-5,FW-5,FW-0}', '{0.25,0.1,0.25,0.35,0.25,0.25,0.25,0.25}', '{0.25,0.25,0.25,0.25,0.25,0.25,0.25,0.25}',
	ARRAY(SELECT ('2026-01-02 ' || t || '+00')::timestamptz FROM unnest(ARRAY['15:00', '15:00', '15:02', '15:10', '15:20', '15:20', '15:22', '15:00']) AS t)) GROUP BY 1 ORDER BY 1;
SELECT * FROM test.noted ORDER BY vehicle_id, at, kind;
SELECT vehicle_id, (SELECT string_agg(CASE WHEN value = '"told"' THEN 'told' ELSE 'since' END, ' ') FROM jsonb_each(stays)) AS stays FROM fleet.local_vehicles WHERE vehicle_id IN ('FW-4', 'FW-5') ORDER BY 1;

-- It crosses the border while it dwells: nothing is told twice, and nothing is lost.
SELECT fleet.add_fence('border', test.box(0.9, 0.4, 1.1, 0.6), '{enter,exit,dwell}', '10 min');
DELETE FROM fleet.fence_events;
SELECT test.fix('FW-2', 0.85, 0.5, '20:00'), test.fix('FW-2', 0.95, 0.5, '20:05'), test.fix('FW-2', 1.05, 0.5, '20:10');
SELECT * FROM test.noted;
\c fleet_e
SET timezone = 'UTC';
CREATE FUNCTION test.fix(vehicle text, lon float8, lat float8, at text) RETURNS text LANGUAGE sql AS $$
	SELECT outcome FROM fleet.report_fix(vehicle, lon, lat, ('2026-01-02 ' || at || '+00')::timestamptz)
$$;
CREATE VIEW test.noted AS SELECT kind, fence, vehicle_id, other_id, to_char(at, 'HH24:MI:SS') AS at, region, epoch FROM fleet.fence_events ORDER BY id;
SELECT test.fix('FW-2', 1.06, 0.5, '20:14'), test.fix('FW-2', 1.06, 0.5, '20:15'), test.fix('FW-2', 1.06, 0.5, '20:16'), test.fix('FW-2', 1.2, 0.5, '20:25');
SELECT * FROM test.noted;

-- From another node: noted where the vehicle is.
\c fleet_w
SELECT outcome, region FROM fleet.report_fix('FW-2', 1.05, 0.5, '2026-01-02 20:40+00');
SELECT count(*) FROM fleet.fence_events;
\c fleet_e
SELECT kind, fence FROM test.noted OFFSET 2;

-- The change stream, where it is asked for.
SELECT fleet.create_change_stream('fences') > '0/0' AS created;
SELECT test.fix('FW-2', 1.2, 0.5, '21:00');
SELECT data::jsonb - '{id,hlc,commit_time}'::text[] #- '{new,id}' #- '{new,noted_at}' AS event FROM pg_logical_slot_peek_changes('fences', NULL, NULL, 'events', 'true') WHERE data::jsonb->>'operation' = 'event';
SELECT options, (SELECT count(*) FILTER (WHERE data::jsonb->>'operation' = 'event') FROM pg_logical_slot_peek_changes('fences', NULL, NULL, VARIADIC options::text[]))
	FROM unnest(ARRAY['{}', '{events,off}', '{events,on}', '{events,on,tables,rides}', '{events,on,only_moves,on}', '{events,on,regions,west}', '{events,on,regions,east}']) AS options;
SELECT (data::jsonb->>'hlc')::bigint = v.hlc::bigint AS version_of_the_row FROM pg_logical_slot_peek_changes('fences', NULL, NULL, 'events', 'true') AS p
	JOIN fleet.local_vehicles AS v ON v.vehicle_id = p.data::jsonb->>'key' WHERE data::jsonb->>'operation' = 'event';
SELECT fleet.drop_change_stream('fences');

-- Relations.
SELECT fleet.request_ride('FE-1', 'C-1', 1.05, 0.5, 'FW-2', at => '2026-01-02 21:00+00');
SELECT * FROM fleet.located_in ORDER BY kind, key;
SELECT ride_id, customer_id, region, status FROM fleet.requested_by;
SELECT * FROM fleet.within('border') ORDER BY kind, key;
SELECT * FROM fleet.within('east') ORDER BY kind, key;
SELECT * FROM fleet.within('west') ORDER BY kind, key;
SELECT * FROM test.raised($$SELECT fleet.within('nowhere')$$);

-- Rights.
CREATE ROLE fleet_fencer;
GRANT USAGE ON SCHEMA test TO fleet_fencer;
SET ROLE fleet_fencer;
SELECT test.state_of(s), s FROM unnest(ARRAY['SELECT fleet.add_fence(''x'', test.box(0, 0, 1, 1))', 'SELECT fleet.add_fence(''x'', ''POINT(0 0)''::geography, 1)',
	'SELECT fleet.add_pair(''x'', ''a'', ''b'', 1)', 'SELECT fleet.remove_fence(''border'')', 'TABLE fleet.fences', 'TABLE fleet.fence_events', 'SELECT fleet.fences_at(0, 0)',
	'SELECT fleet.is_in_fence(''border'', 0, 0)', 'TABLE fleet.located_in', 'TABLE fleet.requested_by', 'SELECT fleet.near(''FW-2'', 1)', 'SELECT fleet.within(''border'')',
	'SELECT fleet.drop_fence_events()', 'SELECT fleet.apply_fence(NULL, ''{}'', true)', 'SET fleet.fence_event_retention = 1']) AS s;
RESET ROLE;
GRANT EXECUTE ON FUNCTION fleet.add_fence(text, geometry, text[], interval, fleet.vehicle_status, boolean), fleet.remove_fence(text) TO fleet_fencer;
GRANT SELECT, UPDATE ON fleet.vehicles TO fleet_fencer;
GRANT SELECT, UPDATE ON fleet.rides TO fleet_fencer;
SET ROLE fleet_fencer;
SELECT fleet.add_fence('mine', test.box(1.3, 0.3, 1.4, 0.4));
-- Who may not write events may report what makes them.
SELECT outcome FROM fleet.report_fix('FW-2', 1.35, 0.35, '2026-01-02 22:00+00');
SELECT fleet.remove_fence('mine');
RESET ROLE;
SELECT kind, fence FROM test.noted WHERE fence = 'mine';
DROP OWNED BY fleet_fencer;
DROP ROLE fleet_fencer;

-- Retention.
SELECT fleet.drop_fence_events() AS dropped;
UPDATE fleet.fence_events SET noted_at = now() - interval '8 days' WHERE fence = 'mine';
SET fleet.fence_event_retention = 0;
SELECT fleet.drop_fence_events() AS kept_for_ever;
RESET fleet.fence_event_retention;
SELECT fleet.drop_fence_events() AS dropped;
SELECT test.state_of('SELECT fleet.drop_fence_events(''-1 s'')');
SELECT fleet.drop_fence_events('0 s') > 0 AS dropped;
SELECT count(*) AS left FROM fleet.fence_events;

SELECT fleet.remove_fence(name) FROM fleet.fences;
DROP VIEW test.noted;
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT test.settle();
\c fleet_w
SELECT count(*) AS fences FROM fleet.fences;
DROP VIEW test.noted, test.expected, test.steps;
DROP TABLE test.walk, test.areas;
DELETE FROM fleet.fence_events;
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT test.settle();
SELECT * FROM fleet.verify();
SELECT test.hand_off_at_once(false);
