--
-- Snapshots of a region: taken, verified, thinned, restored by version
--
\set SHOW_CONTEXT never
\c fleet_w
SELECT fleet.register_vehicle('SV-' || n, 0.5, 0.5) FROM generate_series(1, 3) AS n;
SELECT fleet.request_ride('S-' || n, 'C-1', 0.5, 0.5, CASE WHEN n < 3 THEN 'SV-' || n END) FROM generate_series(1, 5) AS n;
SELECT fleet.cancel_ride('S-5');
SELECT fleet.take_snapshot() AS id \gset
SELECT region, format, map_version = (SELECT version FROM fleet.map) AS map_version, vehicles = (SELECT count(*) FROM test.my_vehicles) AS vehicles,
		rides = (SELECT count(*) FROM test.my_rides WHERE status < 'COMPLETED') AS rides, length(sha256) AS digest, stored_bytes > 0 AS stored, raw_bytes > 0 AS raw,
		took_ms > 0 AS timed, hlc OPERATOR(fleet.<) fleet.hlc_now() AS stamped
	FROM fleet.snapshots WHERE id = :id;
SELECT * FROM fleet.verify_snapshot(:id);

-- Nothing is lost: nothing to restore.
SELECT * FROM fleet.restore_snapshot(:id, 'missing rides') WHERE key LIKE 'S%';
SELECT * FROM fleet.restore_snapshot(:id, 'positions') WHERE key LIKE 'S%';

-- A ride is lost, one is handed off, one deleted; one vehicle is lost, with another's position.
SELECT fleet.handoff('S-2', 'east');
DELETE FROM fleet.rides WHERE ride_id = 'S-4' AND region = 'west';
SELECT test.settle();
CREATE TEMPORARY TABLE before AS SELECT fleet.row_image(r) FROM fleet.local_rides AS r WHERE ride_id = 'S-1'
	UNION ALL SELECT fleet.row_image(v) FROM fleet.local_vehicles AS v WHERE vehicle_id IN ('SV-1', 'SV-3');
SET session_replication_role = replica;
DELETE FROM fleet.local_rides WHERE ride_id = 'S-1';
DELETE FROM fleet.local_vehicles WHERE vehicle_id = 'SV-1';
UPDATE fleet.local_vehicles SET location = NULL, hlc = '2020-01-01T00:00:00.000Z/00000' WHERE vehicle_id = 'SV-3';
RESET session_replication_role;
SELECT * FROM fleet.restore_snapshot(:id, 'missing rides') WHERE key LIKE 'S%' ORDER BY key;
SELECT * FROM fleet.restore_snapshot(:id, 'positions') WHERE key LIKE 'S%' ORDER BY key;
SELECT * FROM fleet.restore_snapshot(:id, 'positions', dry_run => false) WHERE key LIKE 'S%' ORDER BY key;
SELECT * FROM fleet.restore_snapshot(:id, 'missing rides', dry_run => false) WHERE key LIKE 'S%' ORDER BY key;
SELECT * FROM fleet.restore_snapshot(:id, 'missing rides', dry_run => false) WHERE key LIKE 'S%' ORDER BY key;
(SELECT fleet.row_image(r) FROM fleet.local_rides AS r WHERE ride_id = 'S-1'
	UNION ALL SELECT fleet.row_image(v) FROM fleet.local_vehicles AS v WHERE vehicle_id IN ('SV-1', 'SV-3'))
	EXCEPT TABLE before;
SELECT kind, key, before_image->>'hlc' AS was, after_image ? 'hlc' AS is FROM fleet.restored_rows WHERE key LIKE 'S%' ORDER BY kind, key;
SELECT what, by_role = session_user AS by_me FROM fleet.restores ORDER BY id;
SELECT * FROM fleet.verify() WHERE problems > 0;

-- A vehicle that is elsewhere keeps its ride from coming back here.
SELECT fleet.request_ride('S-6', 'C-1', 0.5, 0.5, 'SV-3');
SELECT fleet.take_snapshot() AS id2 \gset
SELECT fleet.handoff('S-6', 'east');
SELECT test.settle();
SET session_replication_role = replica;
DELETE FROM fleet.departures WHERE key = 'S-6';
RESET session_replication_role;
\c fleet_e
SET session_replication_role = replica;
DELETE FROM fleet.local_rides WHERE ride_id = 'S-6';
RESET session_replication_role;
\c fleet_w
SELECT * FROM fleet.restore_snapshot(:id2, 'missing rides', dry_run => false) WHERE key = 'S-6';

-- One row at a time: by its version, past the triggers that would give it another one.
SELECT fleet.put_row('ride', image) FROM (SELECT fleet.row_image(r) AS image FROM fleet.local_rides AS r WHERE ride_id = 'S-1') AS i;
SELECT fleet.put_row('ride', image || '{"fare": "7.50", "epoch": "3"}') FROM (SELECT fleet.row_image(r) AS image FROM fleet.local_rides AS r WHERE ride_id = 'S-1') AS i;
SELECT fare, epoch FROM fleet.local_rides WHERE ride_id = 'S-1';
SELECT * FROM test.raised($$SELECT fleet.put_row('ride', image || '{"ride_id": "S-4"}') FROM (SELECT fleet.row_image(r) AS image FROM fleet.local_rides AS r WHERE ride_id = 'S-3') AS i$$);
SELECT * FROM test.raised($$SELECT fleet.put_row('ride', '{"ride_id": null}')$$);
SELECT * FROM test.raised($$SELECT fleet.put_row('vehicle', '[]')$$);
SELECT * FROM test.raised($$SELECT fleet.put_row('vehicle', '{"vehicle_id": "x"}')$$);

-- What was changed is found.
BEGIN;
UPDATE fleet.snapshot_positions SET lons[1] = lons[1] + 1e-12 WHERE snapshot = :id;
SELECT * FROM fleet.verify_snapshot(:id);
SELECT state FROM test.state_of(format('SELECT fleet.restore_snapshot(%s, ''positions'')', :id)) AS state;
ROLLBACK;
BEGIN;
UPDATE fleet.snapshot_rides SET images[1] = images[1] || '{"fare": "1"}' WHERE snapshot = :id;
SELECT * FROM fleet.verify_snapshot(:id);
ROLLBACK;
BEGIN;
DELETE FROM fleet.snapshot_rides WHERE snapshot = :id;
SELECT ok, problem LIKE 'it has % vehicles and 0 rides, and had %' AS counts FROM fleet.verify_snapshot(:id);
ROLLBACK;
BEGIN;
UPDATE fleet.snapshots SET hlc = fleet.hlc_now() WHERE id = :id;
SELECT * FROM fleet.verify_snapshot(:id);
ROLLBACK;
SELECT ok FROM fleet.verify_snapshot(:id);

-- Errors.
SELECT * FROM test.raised('SELECT fleet.verify_snapshot(0)');
SELECT * FROM test.raised('SELECT fleet.restore_snapshot(0, ''positions'')');
SELECT * FROM test.raised(format('SELECT fleet.restore_snapshot(%s, ''rides'')', :id));
BEGIN;
INSERT INTO fleet.departures_pruned (upto) SELECT fleet.hlc_now();
SELECT detail FROM test.raised(format('SELECT fleet.restore_snapshot(%s, ''positions'')', :id)) WITH ORDINALITY AS r(detail, n) WHERE n > 1;
ROLLBACK;
\c fleet_spare
SELECT * FROM test.raised('SELECT fleet.take_snapshot()');
\c fleet_w

-- Thinning, by made-up times: all of a day, then hourly for a week, daily for thirty days.
BEGIN;
DELETE FROM fleet.snapshots;
INSERT INTO fleet.snapshots (at, region, map_version, hlc, vehicles, rides, raw_bytes, sha256)
	SELECT t, 'west', 1, fleet.hlc_make(t, 0), 0, 0, 0, '' FROM generate_series(timestamptz '2026-01-01 00:00Z', '2026-03-01 00:00Z', interval '10 minutes') AS t;
SELECT fleet.thin_snapshots('2026-03-01 00:05Z');
SELECT CASE WHEN at >= '2026-02-28 00:05Z' THEN 'all' WHEN at >= '2026-02-22 00:05Z' THEN 'hourly' ELSE 'daily' END AS kept, count(*), min(at AT TIME ZONE 'UTC'), max(at AT TIME ZONE 'UTC')
	FROM fleet.snapshots GROUP BY 1 ORDER BY 1;
SELECT fleet.thin_snapshots('2026-03-01 00:05Z') AS again;
SET LOCAL fleet.snapshot_keep_all = '1h';
SET LOCAL fleet.snapshot_keep_hourly = '2h';
SET LOCAL fleet.snapshot_keep_daily = '2d';
SELECT fleet.thin_snapshots('2026-03-01 00:05Z');
SELECT at AT TIME ZONE 'UTC' AS at FROM fleet.snapshots ORDER BY at;
-- The newest stays, however old.
SELECT fleet.thin_snapshots('2027-01-01');
SELECT at AT TIME ZONE 'UTC' AS at FROM fleet.snapshots;
ROLLBACK;

-- Leave no rides to the tests that follow.
\c fleet_e
DELETE FROM fleet.local_rides WHERE ride_id LIKE 'S-%';
