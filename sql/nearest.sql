--
-- The nearest vehicles: from the live index, from the table, from neighbours
--
\set SHOW_CONTEXT never
\c fleet_w
SET timezone = 'UTC';
-- What a search of this region means, with no index of any kind.
CREATE FUNCTION test.by_definition(lon float8, lat float8, k integer, radius_m float8, status fleet.vehicle_status DEFAULT NULL)
	RETURNS SETOF fleet.nearby_vehicle LANGUAGE sql AS $$
	SELECT v.vehicle_id, v.region, s.s, fleet.lon(v.location), fleet.lat(v.location), d.d, v.heading, v.fix_at
		FROM fleet.vehicles AS v,
			LATERAL (SELECT CASE WHEN v.fix_at < now() - current_setting('fleet.vehicle_ttl')::interval
				AND current_setting('fleet.vehicle_ttl') <> '0' THEN 'OFFLINE' ELSE v.status END AS s OFFSET 0) AS s,
			LATERAL (SELECT fleet.haversine(lon, lat, fleet.lon(v.location), fleet.lat(v.location)) AS d OFFSET 0) AS d
		WHERE v.region = fleet.own_region() AND d.d <= radius_m
			AND CASE WHEN by_definition.status IS NULL THEN s.s <> 'OFFLINE' ELSE s.s = by_definition.status END
		ORDER BY d.d, v.vehicle_id COLLATE "C" LIMIT k
$$;
-- Whether some searches agree, of this region, and who has answered them.
CREATE FUNCTION test.agree(OUT searches bigint, OUT vehicles bigint, OUT different bigint, OUT by_index bigint, OUT by_table bigint) LANGUAGE plpgsql AS $$
DECLARE
	before fleet.live_index := (SELECT i FROM fleet.live_index AS i);
	after fleet.live_index;
BEGIN
	SELECT count(*), sum(cardinality(a)), count(*) FILTER (WHERE a IS DISTINCT FROM b) INTO searches, vehicles, different
		FROM (VALUES (0.5, 0.5), (0.9, 0.1), (0.001, 0.999), (0.5001, 0.4999)) AS p(lon, lat),
			(VALUES (1, 5000.0), (10, 5000), (3, 100), (50, 200000), (5, 0)) AS q(k, radius),
			(VALUES (NULL), ('ONLINE'), ('BUSY'), ('OFFLINE')) AS s(status),
			LATERAL (SELECT array_agg(t) AS a FROM fleet.nearest_vehicles(p.lon, p.lat, k, radius, s.status::fleet.vehicle_status, 'local') AS t) AS x,
			LATERAL (SELECT array_agg(t) AS b FROM test.by_definition(p.lon, p.lat, k, radius, s.status::fleet.vehicle_status) AS t) AS y;
	after := (SELECT i FROM fleet.live_index AS i);
	by_index := after.index_searches - before.index_searches;
	by_table := after.table_searches - before.table_searches;
END
$$;
SELECT fleet.register_vehicle('N-' || n, 0.5 + n * 0.001, 0.5, (ARRAY['ONLINE', 'BUSY', 'OFFLINE']::fleet.vehicle_status[])[1 + n % 3]) FROM generate_series(0, 9) AS n;
SELECT vehicle_id, region, status, lon, lat, round(distance_m::numeric, 3) AS distance_m, heading, fix_at FROM fleet.nearest_vehicles(0.5, 0.5);
SELECT vehicle_id, round(distance_m::numeric, 3) AS distance_m FROM fleet.nearest_vehicles(0.5, 0.5, 2);
SELECT vehicle_id FROM fleet.nearest_vehicles(0.5, 0.5, status => 'ONLINE');
SELECT vehicle_id FROM fleet.nearest_vehicles(0.5, 0.5, status => 'OFFLINE');
SELECT vehicle_id FROM fleet.nearest_vehicles(0.5, 0.5, radius_m => 200);
SELECT vehicle_id FROM fleet.nearest_vehicles(0.5, 0.5, radius_m => 0);
SELECT vehicle_id FROM fleet.nearest_vehicles(0.5, 0.5, 0);
SELECT * FROM test.agree();

-- Two at one place: by their ids.
SELECT fleet.register_vehicle(id, 0.3, 0.3) FROM unnest(ARRAY['M-b', 'M-a', 'M-', 'm']) AS id;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.3, 0.3, 3);

-- A fix moves it and says where it heads; one that is silent is offline.
SELECT * FROM fleet.report_fix('N-0', 0.51, 0.5, now() - interval '5 min', heading => 90);
SELECT vehicle_id, status, lon, heading, fix_at IS NOT NULL AS has_fix FROM fleet.nearest_vehicles(0.51, 0.5, 1);
SET fleet.vehicle_ttl = '4min';
SELECT vehicle_id FROM fleet.nearest_vehicles(0.51, 0.5, 1);
SELECT vehicle_id, status FROM fleet.nearest_vehicles(0.51, 0.5, 1, status => 'OFFLINE');
SELECT vehicle_id, status FROM fleet.vehicles_within(ST_MakeEnvelope(0.509, 0.4, 0.511, 0.6, 4326), 'OFFLINE');
SELECT * FROM test.agree();
SET fleet.vehicle_ttl = 0;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.51, 0.5, 1);
SELECT * FROM test.agree();
RESET fleet.vehicle_ttl;

-- What the transaction itself has done is seen by it, and by others when it has committed.
BEGIN;
UPDATE fleet.vehicles SET location = fleet.make_point(0.7, 0.7) WHERE region = 'west' AND vehicle_id = 'N-1';
SELECT vehicle_id FROM fleet.nearest_vehicles(0.7, 0.7);
SAVEPOINT s;
UPDATE fleet.vehicles SET location = fleet.make_point(0.7, 0.7) WHERE region = 'west' AND vehicle_id = 'N-3';
DELETE FROM fleet.vehicles WHERE region = 'west' AND vehicle_id = 'N-4';
ROLLBACK TO s;
SAVEPOINT t;
UPDATE fleet.vehicles SET location = NULL WHERE region = 'west' AND vehicle_id = 'N-6';
RELEASE t;
SELECT * FROM test.agree();
COMMIT;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.7, 0.7);
SELECT * FROM test.agree();
BEGIN;
UPDATE fleet.vehicles SET location = fleet.make_point(0.7, 0.7) WHERE region = 'west' AND vehicle_id = 'N-3';
ROLLBACK;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.7, 0.7);
-- Deleted, and the id used again.
DELETE FROM fleet.vehicles WHERE region = 'west' AND vehicle_id = 'N-1';
SELECT vehicle_id FROM fleet.nearest_vehicles(0.7, 0.7);
SELECT fleet.register_vehicle('N-1', 0.71, 0.7);
SELECT vehicle_id, lon FROM fleet.nearest_vehicles(0.7, 0.7);
SELECT * FROM test.agree();
-- Also a session that is a replica's tells what it changes.
SET session_replication_role = replica;
UPDATE fleet.vehicles SET location = fleet.make_point(0.72, 0.7), hlc = fleet.hlc_now() WHERE region = 'west' AND vehicle_id = 'N-1';
RESET session_replication_role;
SELECT vehicle_id, lon FROM fleet.nearest_vehicles(0.7, 0.7);

-- Prepared: as before until it is committed, by whomever.
BEGIN;
UPDATE fleet.vehicles SET location = fleet.make_point(0.8, 0.8) WHERE region = 'west' AND vehicle_id IN ('N-1', 'N-3');
PREPARE TRANSACTION 'nearest 1';
SELECT vehicle_id, lon FROM fleet.nearest_vehicles(0.7, 0.7);
SELECT * FROM test.agree();
COMMIT PREPARED 'nearest 1';
SELECT vehicle_id, lon FROM fleet.nearest_vehicles(0.8, 0.8);
SELECT * FROM test.agree();
BEGIN;
UPDATE fleet.vehicles SET location = fleet.make_point(0.9, 0.9) WHERE region = 'west' AND vehicle_id = 'N-1';
PREPARE TRANSACTION 'nearest 2';
ROLLBACK PREPARED 'nearest 2';
SELECT vehicle_id, lon FROM fleet.nearest_vehicles(0.8, 0.8);
SELECT * FROM test.agree();

-- In one snapshot what it shows, and not what came later.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.8, 0.8);
SELECT * FROM test.agree();
COMMIT;

-- A point that is empty is no position.
UPDATE fleet.vehicles SET location = 'POINT EMPTY' WHERE region = 'west' AND vehicle_id = 'N-9';
SELECT * FROM test.agree();

-- Near the border the neighbours are asked: x = 1 with east, y = 1 with north.
\c fleet_e
SELECT fleet.register_vehicle('NE-' || n, 1.01 + n * 0.001, 0.5) FROM generate_series(0, 2) AS n;
\c fleet_n
SELECT fleet.register_vehicle('NN', 0.995, 1.001);
\c fleet_w
SELECT fleet.register_vehicle('NW', 0.99, 0.5);
SELECT vehicle_id, region, round(distance_m::numeric, 3) AS distance_m FROM fleet.nearest_vehicles(0.999, 0.5);
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.999, 0.5, 2);
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.999, 0.5, scope => 'local');
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.999, 0.999, 1);
SELECT vehicle_id, region FROM fleet.nearest_vehicles(1.5, 0.5, 1, 200000);		-- asked from elsewhere
SELECT vehicle_id, region FROM fleet.vehicles_within(ST_MakeEnvelope(0.98, 0.49, 1.0115, 0.51, 4326));
SELECT vehicle_id, region FROM fleet.vehicles_within(ST_MakeEnvelope(0.98, 0.49, 1.0115, 0.51, 4326)::geography, scope => 'local');
SELECT vehicle_id, region FROM fleet.vehicles_within(ST_MakeEnvelope(0.98, 0.49, 1.0115, 0.51, 4326), 'BUSY');
SELECT round(fleet.distance('NW', 'NE-0')::numeric, 3) AS distance, round(fleet.distance('NN', 'NE-0')::numeric, 3) AS both_elsewhere,
	fleet.distance('NW', 'NW') AS itself;
-- One that is handed off is found once, where it is; also one that comes back.
SELECT fleet.handoff_vehicle('NW', 'east');
SELECT test.settle();
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.99, 0.5, 1);
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.99, 0.5, scope => 'local');
SELECT fleet.handoff_vehicle('NE-0', 'west');
SELECT fleet.handoff_vehicle('NW', 'west');
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.99, 0.5, 3);
SELECT vehicle_id, region FROM fleet.nearest_vehicles(0.99, 0.5, scope => 'local');
SELECT * FROM test.agree();

-- Who may see what.
CREATE ROLE nearest_none;
CREATE ROLE nearest_all;
CREATE ROLE nearest_some;
GRANT SELECT ON fleet.vehicles TO nearest_all, nearest_some;
GRANT USAGE ON SCHEMA test TO nearest_none, nearest_all, nearest_some;
ALTER TABLE fleet.vehicles ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON fleet.vehicles TO nearest_none USING (true);
CREATE POLICY all_but_one ON fleet.vehicles TO nearest_some USING (vehicle_id <> 'N-1');
ALTER ROLE nearest_all BYPASSRLS;
SET ROLE nearest_none;
SELECT * FROM test.raised('SELECT fleet.nearest_vehicles(0.8, 0.8)');
SELECT * FROM test.raised('SELECT fleet.vehicles_within(ST_MakeEnvelope(0, 0, 1, 1, 4326))');
SELECT * FROM test.raised($$SELECT fleet.distance('N-1', 'N-3')$$);
SELECT test.state_of('SELECT fleet.nearest_here(0.8, 0.8, 1, 1, NULL, 1)'), test.state_of($$SELECT fleet.within_peer('POINT(0 0)', NULL, 1)$$);
SET ROLE nearest_all;
SELECT vehicle_id FROM fleet.nearest_vehicles(0.8, 0.8);
SET ROLE nearest_some;
SELECT * FROM test.raised('SELECT fleet.nearest_vehicles(0.8, 0.8)');
SELECT vehicle_id FROM fleet.nearest_vehicles(0.8, 0.8, scope => 'local');
SELECT vehicle_id FROM fleet.vehicles_within(ST_MakeEnvelope(0.79, 0.79, 0.81, 0.81, 4326), scope => 'local');
RESET ROLE;
ALTER TABLE fleet.vehicles DISABLE ROW LEVEL SECURITY;
DROP POLICY everything ON fleet.vehicles;
DROP POLICY all_but_one ON fleet.vehicles;
DROP OWNED BY nearest_none, nearest_all, nearest_some;
DROP ROLE nearest_none, nearest_all, nearest_some;

-- What is no search.
SELECT args, r FROM (VALUES ('NULL, 0'), ('0, NULL'), ('0, 0, NULL'), ('0, 0, 1, NULL'), ('181, 0'), ('0, -90.1'), ('''NaN'', 0'), ('0, ''Infinity'''),
	('0, 0, -1'), ('0, 0, 10001'), ('0, 0, 1, -1'), ('0, 0, 1, ''NaN'''), ('0, 0, 1, 20100001'), ('0, 0, scope => NULL'), ('0, 0, scope => ''near'''),
	('0, 0, on_unavailable => NULL'), ('0, 0, on_unavailable => ''x''')) AS a(args),
	LATERAL test.raised(format('SELECT fleet.nearest_vehicles(%s)', args)) AS r;
SELECT args, r FROM (VALUES ('''NW'', ''nobody'''), ('''N-6'', ''NW''')) AS a(args), LATERAL test.raised(format('SELECT fleet.distance(%s)', args)) AS r;
SELECT count(*) FROM fleet.vehicles_within(NULL);
SELECT count(*) FROM fleet.vehicles_within('POLYGON EMPTY');
SELECT test.state_of($$SELECT fleet.vehicles_within('nonsense')$$);
SELECT round(fleet.haversine(0, 0, 0, 1)::numeric, 3) AS degree, fleet.haversine(7, 7, 7, 7) AS same, fleet.haversine(NULL, 0, 0, 0) AS null;
SELECT * FROM test.raised('SELECT fleet.haversine(0, 91, 0, 0)');
-- The ends of the world: none is near there, and nothing goes wrong.
SELECT p.lon, p.lat, count(v.vehicle_id) FROM (VALUES (180, 0), (-180, 0), (0, 90), (0, -90), (180, 90)) AS p(lon, lat)
	LEFT JOIN LATERAL fleet.nearest_vehicles(p.lon, p.lat, 10, 100000) AS v ON true GROUP BY p.lon, p.lat ORDER BY p.lon, p.lat;
SELECT count(*) = (SELECT count(*) FROM fleet.vehicles WHERE region = 'west' AND fleet.lon(location) IS NOT NULL AND status <> 'OFFLINE') AS all_of_them
	FROM fleet.nearest_vehicles(180, 90, 10000, 20100000, scope => 'local');
CREATE TABLE test.other (a integer);
CREATE TRIGGER other BEFORE INSERT ON test.other FOR EACH ROW EXECUTE FUNCTION fleet.live_note();
SELECT * FROM test.raised('INSERT INTO test.other VALUES (1)');
DROP TABLE test.other;
SELECT * FROM test.raised('SELECT fleet.live_note()');

-- An id that is too long for the index is found all the same.
SELECT fleet.register_vehicle(repeat('long', 50), 0.2, 0.2) AS long;
SELECT length(vehicle_id) FROM fleet.nearest_vehicles(0.2, 0.2);
SELECT * FROM test.agree();
DELETE FROM fleet.vehicles WHERE region = 'west' AND length(vehicle_id) = 200;
SELECT state FROM fleet.live_index;

-- Left as it was found.
DELETE FROM fleet.vehicles WHERE region = 'west' AND vehicle_id ~ '^([NM]-|m$|N[EW])';
\c fleet_e
DELETE FROM fleet.vehicles WHERE region = 'east' AND vehicle_id LIKE 'N%';
\c fleet_n
DELETE FROM fleet.vehicles WHERE region = 'north' AND vehicle_id = 'NN';
DELETE FROM fleet.departures WHERE key = 'NN';
