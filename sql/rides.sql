--
-- Rides: columns, life cycle, versions, graves, where they may be written
--
\set SHOW_CONTEXT never
\c fleet_w

-- What a ride is at first.
SELECT fleet.request_ride('R-1', 'C-1', 0.25, 0.75, NULL, 12.345, 0.5, 0.5, '2026-01-02 03:04:05+00');
SELECT ride_id, vehicle_id, customer_id, region, status, fare, ST_AsText(start_location) AS start, ST_AsText(current_location) AS here,
	ST_AsText(end_location) AS "end", requested_at = '2026-01-02 03:04:05+00' AS requested, en_route_at, arrived_at, started_at, completed_at,
	cancelled_at, path_m, duration, epoch FROM fleet.rides;
SELECT fleet.request_ride('R-2', 'C-1', 0.5, 0.5);
SELECT vehicle_id, fare, end_location, requested_at <= now() AS requested FROM fleet.rides WHERE ride_id = 'R-2';
BEGIN;
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('R-3', 'C-2', 'west', 'POINT(0.1 0.2)')
	RETURNING status, fare, path_m, duration, ST_AsText(current_location), requested_at >= now() AS requested_now, epoch;
SELECT updated_at BETWEEN now() AND clock_timestamp() AS updated_now, hlc::bigint <= fleet.hlc_now()::bigint AS stamped FROM fleet.rides WHERE ride_id = 'R-3';
COMMIT;

-- Where it may begin.
SET fleet.routing = 'redirect';
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 1.5, 0.5)$$);
RESET fleet.routing;
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 50, 50)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 0.5, 95)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', NULL, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 0.5, NULL)$$);
SELECT fleet.request_ride('R-near', 'C-1', -0.005, 0.5) AS near_the_border;

-- What no ride has.
SELECT set, r FROM (VALUES ('ride_id = '''''), ('customer_id = NULL'), ('customer_id = '''''), ('vehicle_id = '''''),
	('ride_id = NULL'), ('fare = -0.01'), ('fare = ''NaN'''), ('fare = NULL'), ('fare = 1e10'), ('start_location = NULL'),
	('path_m = -1'), ('path_m = ''NaN'''), ('path_m = ''Infinity'''), ('path_m = NULL'), ('duration = ''-1 s'''),
	('completed_at = now(), cancelled_at = now()'), ('status = NULL'), ('updated_at = NULL'),
	('customer_id = repeat(''x'', 201)'), ('vehicle_id = repeat(''x'', 201)'), ('start_location = ''POINT(0 0 1)'''),
	('start_location = ''LINESTRING(0 0, 1 1)''')) AS s(set),
	test.raised(format($$UPDATE fleet.rides SET %s WHERE ride_id = 'R-1' AND region = 'west'$$, set)) AS r
	WHERE r ~ '^[0-9A-Z]{5} ' OR r = 'nothing';
SELECT id IS NULL AS null_id, length(id) AS length, r FROM (VALUES (''), (NULL), (repeat('x', 201)), (repeat('é', 200))) AS i(id),
	test.raised(format($$INSERT INTO fleet.rides (ride_id, customer_id, region, start_location)
		VALUES (%L, 'C-1', 'west', 'POINT(0.5 0.5)')$$, id)) AS r;
DELETE FROM fleet.rides WHERE ride_id = repeat('é', 200);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', NULL, 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride(NULL, 'C-1', 0.5, 0.5)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 0.5, 0.5, NULL, -1)$$);
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-4', 'C-1', 0.5, 0.5, NULL, NULL)$$);

-- An id is taken once.
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-1', 'C-9', 0.5, 0.5)$$);
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('R-1', 'C-9', 'west', 'POINT(0.5 0.5)')
	ON CONFLICT DO NOTHING;
SELECT customer_id FROM fleet.rides WHERE ride_id = 'R-1' AND region = 'west';

-- Every way from each state to each.  x = refused.
CREATE TEMPORARY TABLE step AS SELECT f AS a, t AS b, NULL::text AS outcome
	FROM unnest(enum_range(NULL::fleet.ride_status)) AS f, unnest(enum_range(NULL::fleet.ride_status)) AS t;
DO $$
DECLARE
	s record;
BEGIN
	FOR s IN SELECT * FROM step LOOP
		INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, status) VALUES ('S', 'C', 'west', 'POINT(0.5 0.5)', s.a);
		BEGIN
			UPDATE fleet.rides SET status = s.b WHERE ride_id = 'S' AND region = 'west';
			UPDATE step SET outcome = 'ok' WHERE a = s.a AND b = s.b;
		EXCEPTION WHEN SQLSTATE 'RF012' THEN
			UPDATE step SET outcome = 'x' WHERE a = s.a AND b = s.b;
		END;
		DELETE FROM fleet.rides WHERE ride_id = 'S' AND region = 'west';
	END LOOP;
END
$$;
SELECT a AS "from \ to", max(outcome) FILTER (WHERE b = 'PENDING') AS "PENDING", max(outcome) FILTER (WHERE b = 'EN_ROUTE') AS "EN_ROUTE",
	max(outcome) FILTER (WHERE b = 'ARRIVED') AS "ARRIVED", max(outcome) FILTER (WHERE b = 'IN_PROGRESS') AS "IN_PROGRESS",
	max(outcome) FILTER (WHERE b = 'COMPLETED') AS "COMPLETED", max(outcome) FILTER (WHERE b = 'CANCELLED') AS "CANCELLED"
	FROM step GROUP BY a ORDER BY a;
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-1', 'COMPLETED')$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-1', 'IN_PROGRESS')$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-0', 'CANCELLED')$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status(NULL, 'CANCELLED')$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-1', NULL)$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-1', 'LOST')$$);

-- A ride from beginning to end: times, path, duration.
SELECT fleet.register_vehicle('V-1', 0.25, 0.75);
SELECT fleet.set_ride_status('R-1', 'EN_ROUTE', 'V-1', '2026-01-02 03:05:00+00');
SELECT fleet.set_ride_status('R-1', 'EN_ROUTE', NULL, '2026-01-02 03:59:00+00');	-- again: keeps the first time, and the vehicle
UPDATE fleet.rides SET current_location = 'POINT(0.26 0.75)' WHERE ride_id = 'R-1' AND region = 'west';
SELECT path_m AS not_under_way FROM fleet.rides WHERE ride_id = 'R-1' AND region = 'west';
SELECT fleet.set_ride_status('R-1', 'ARRIVED', NULL, '2026-01-02 03:10:00+00');
SELECT fleet.set_ride_status('R-1', 'IN_PROGRESS', NULL, '2026-01-02 03:12:00+00');
UPDATE fleet.rides SET current_location = 'POINT(0.26 0.76)' WHERE ride_id = 'R-1' AND region = 'west';
UPDATE fleet.rides SET current_location = 'POINT(0.27 0.76)' WHERE ride_id = 'R-1' AND region = 'west';
UPDATE fleet.rides SET fare = 20 WHERE ride_id = 'R-1' AND region = 'west';
SELECT round(path_m::numeric) AS path_m, round((ST_Distance('POINT(0.26 0.75)'::geography, 'POINT(0.26 0.76)', false)
		+ ST_Distance('POINT(0.26 0.76)'::geography, 'POINT(0.27 0.76)', false))::numeric) AS expected, duration
	FROM fleet.rides WHERE ride_id = 'R-1' AND region = 'west';
SELECT fleet.set_ride_status('R-1', 'COMPLETED', NULL, '2026-01-02 03:32:10+00');
SELECT vehicle_id, status, fare, ST_AsText(end_location) AS "end", en_route_at = '2026-01-02 03:05:00+00' AS en_route,
	arrived_at = '2026-01-02 03:10:00+00' AS arrived, started_at = '2026-01-02 03:12:00+00' AS started,
	completed_at = '2026-01-02 03:32:10+00' AS completed, cancelled_at, duration = interval '20 min 10 s' AS duration
	FROM fleet.rides WHERE ride_id = 'R-1' AND region = 'west';
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-1', 'CANCELLED')$$);
SELECT fleet.set_ride_status('R-2', 'CANCELLED');
SELECT status, cancelled_at IS NOT NULL AS cancelled, completed_at, duration FROM fleet.rides WHERE ride_id = 'R-2' AND region = 'west';
-- One that ends before it began is refused.
SELECT fleet.set_ride_status('R-3', s) FROM unnest(ARRAY['EN_ROUTE', 'ARRIVED', 'IN_PROGRESS']::fleet.ride_status[]) AS s;
SELECT r FROM test.raised($$SELECT fleet.set_ride_status('R-3', 'COMPLETED', NULL, '2020-01-01')$$) AS r;
-- Inserted in the middle of its life: what is not said is now.
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, status, requested_at)
	VALUES ('R-5', 'C', 'west', 'POINT(0.5 0.5)', 'IN_PROGRESS', '2026-01-01'),
		('R-6', 'C', 'west', 'POINT(0.5 0.5)', 'COMPLETED', NULL);
SELECT ride_id, status, requested_at < '2026-01-02' AS given, started_at IS NOT NULL AS started, completed_at IS NOT NULL AS completed,
	ST_AsText(end_location) AS "end", duration FROM fleet.rides WHERE ride_id IN ('R-5', 'R-6') AND region = 'west' ORDER BY 1;

-- The version is fleet's to give.
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, epoch, hlc, updated_at)
	VALUES ('R-7', 'C', 'west', 'POINT(0.5 0.5)', 99, '1970-01-01T00:00:00.001Z/00000', '2020-01-01');
SELECT epoch, hlc::timestamptz > '2026-01-01' AS stamped, updated_at > '2026-01-01' AS updated FROM fleet.rides WHERE ride_id = 'R-7';
SELECT test.hlc_of('R-7')::bigint AS hlc \gset
UPDATE fleet.rides SET epoch = 50, hlc = '1970-01-01T00:00:00.001Z/00000' WHERE ride_id = 'R-7' AND region = 'west';
SELECT epoch, hlc::bigint > :hlc AS newer FROM fleet.rides WHERE ride_id = 'R-7';
SELECT * FROM test.raised($$UPDATE fleet.rides SET ride_id = 'R-8' WHERE ride_id = 'R-7' AND region = 'west'$$);
SELECT * FROM test.raised($$UPDATE fleet.rides SET region = 'east' WHERE ride_id = 'R-7' AND region = 'west'$$);
SELECT * FROM test.raised($$UPDATE fleet.rides SET region = 'nowhere' WHERE ride_id = 'R-7' AND region = 'west'$$);
UPDATE fleet.rides SET ride_id = 'R-7', region = 'west' WHERE ride_id = 'R-7' AND region = 'west';

-- A deleted ride leaves a grave; its id can be used again, one epoch later.
DELETE FROM fleet.rides WHERE ride_id = 'R-7' AND region = 'west';
SELECT kind, key, epoch, target, image, dtxid, settled_hlc::bigint = hlc::bigint AS settled FROM fleet.departures WHERE key = 'R-7';
BEGIN;
SELECT fleet.request_ride('R-7', 'C', 0.5, 0.5);
SELECT epoch FROM fleet.rides WHERE ride_id = 'R-7' AND region = 'west';
SELECT count(*) AS graves FROM fleet.departures WHERE key = 'R-7';
ROLLBACK;
SELECT count(*) AS graves FROM fleet.departures WHERE key = 'R-7';
SELECT fleet.request_ride('R-7', 'C', 0.5, 0.5);
SELECT epoch FROM fleet.rides WHERE ride_id = 'R-7' AND region = 'west';
DELETE FROM fleet.rides WHERE ride_id = 'R-7' AND region = 'west';
SELECT fleet.request_ride('R-7', 'C', 0.5, 0.5);
SELECT epoch FROM fleet.rides WHERE ride_id = 'R-7' AND region = 'west';
SELECT * FROM test.raised('TRUNCATE fleet.local_rides');
SELECT * FROM test.raised('TRUNCATE fleet.local_vehicles');
SELECT * FROM test.raised('TRUNCATE fleet.rides') AS r WHERE r LIKE '0A000%';

-- Rows of other regions are read here and written there, by plain SQL; calls are passed on.
\c fleet_e
SELECT fleet.request_ride('E-1', 'C-1', 1.5, 0.5);
\c fleet_w
SELECT ride_id, region, status, ST_AsText(start_location) FROM fleet.rides WHERE region = 'east';
SELECT * FROM test.raised($$INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('E-2', 'C', 'east', 'POINT(1.5 0.5)')$$);
SELECT * FROM test.raised($$UPDATE fleet.rides SET fare = 1 WHERE region = 'east' AND ride_id = 'E-1'$$);
SELECT * FROM test.raised($$UPDATE fleet.rides SET fare = 1 WHERE ride_id = 'E-1'$$);
SELECT * FROM test.raised($$DELETE FROM fleet.rides WHERE region = 'east' AND ride_id = 'E-1'$$);
SELECT * FROM test.raised($$DELETE FROM fleet.rides_east$$);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('E-1', 'CANCELLED')$$);
SELECT test.state_of('TRUNCATE fleet.rides_east') AS truncate;
SELECT test.state_of($$INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('E-2', 'C', 'nowhere', 'POINT(1.5 0.5)')$$) AS no_such_region;
UPDATE fleet.rides SET fare = 2 WHERE ride_id = 'R-7';		-- over all partitions: only ours matches
DELETE FROM fleet.rides WHERE ride_id = 'no such ride';
SELECT ride_id, fare FROM fleet.rides WHERE ride_id IN ('E-1', 'R-7') ORDER BY 1;

-- One open ride for a vehicle.
SELECT fleet.request_ride('R-8', 'C-1', 0.5, 0.5, 'V-1');
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-9', 'C-2', 0.5, 0.5, 'V-1')$$);
SELECT fleet.request_ride('R-9', 'C-2', 0.5, 0.5);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-9', 'EN_ROUTE', 'V-1')$$);
SELECT fleet.set_ride_status('R-8', 'CANCELLED');
SELECT fleet.set_ride_status('R-9', 'EN_ROUTE', 'V-1');
SELECT * FROM test.raised($$DELETE FROM fleet.vehicles WHERE vehicle_id = 'V-1'$$);

-- A vehicle that never was registered is let be; one that left is elsewhere.
SELECT fleet.request_ride('R-10', 'C-3', 0.5, 0.5, 'V-unknown');
SELECT fleet.register_vehicle('V-2', 0.5, 0.5);
SELECT fleet.handoff_vehicle('V-2', 'east');
SELECT * FROM test.raised($$SELECT fleet.request_ride('R-11', 'C-3', 0.5, 0.5, 'V-2')$$);
SELECT fleet.request_ride('R-11', 'C-3', 0.5, 0.5);
SELECT * FROM test.raised($$SELECT fleet.set_ride_status('R-11', 'EN_ROUTE', 'V-2')$$);

-- Upsert, COPY, and many at once.
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('R-11', 'C-3', 'west', 'POINT(0.5 0.5)')
	ON CONFLICT DO NOTHING RETURNING ride_id;
INSERT INTO fleet.local_rides (ride_id, customer_id, region, start_location) VALUES ('R-11', 'C-4', 'west', 'POINT(0.5 0.5)')
	ON CONFLICT (ride_id) DO UPDATE SET customer_id = excluded.customer_id RETURNING ride_id, customer_id, epoch;
COPY fleet.rides (ride_id, customer_id, region, start_location) FROM stdin;
R-12	C-5	west	POINT(0.5 0.5)
R-13	C-5	west	POINT(0.6 0.6)
\.
COPY fleet.rides (ride_id, customer_id, region, start_location) FROM stdin;
E-14	C-5	east	POINT(1.5 0.5)
\.
SELECT * FROM test.my_rides;
SELECT count(*) AS rides, count(DISTINCT hlc) AS stamps FROM fleet.rides WHERE region = 'west';

-- A grave is later than the row, also where the row is ahead of the clock.
SET session_replication_role = replica;
UPDATE fleet.local_rides SET hlc = (hlc::bigint + (2000 << 16))::fleet.hlc WHERE ride_id = 'R-13';
RESET session_replication_role;
SELECT hlc AS ahead FROM fleet.local_rides WHERE ride_id = 'R-13' \gset
DELETE FROM fleet.rides WHERE region = 'west' AND ride_id = 'R-13';
SELECT hlc OPERATOR(fleet.>) :'ahead' AS later FROM fleet.departures WHERE key = 'R-13';

-- Leave nothing behind but graves.
DELETE FROM fleet.rides WHERE region = 'west';
DELETE FROM fleet.vehicles WHERE region = 'west';
SELECT count(*) FILTER (WHERE target IS NULL) AS graves, count(*) FILTER (WHERE target IS NOT NULL) AS departed FROM fleet.departures;
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east';
DELETE FROM fleet.vehicles WHERE region = 'east';
SELECT check_name, problems, ids FROM fleet.verify();
