--
-- The global replica: the merge rule by hand, refusals, a replica of this
-- server's nodes from its making to its end.  What happens while servers are
-- killed is tested in test/tap.
--
CREATE DATABASE fleet_r;
\c fleet_r
SET client_min_messages = warning;
CREATE EXTENSION fleet CASCADE;
RESET client_min_messages;
SELECT fleet.init_node('replica');
\c fleet_w
SET client_min_messages = warning;

-- Refusals.
\set VERBOSITY terse
CALL fleet.remove_replica('nobody');
BEGIN;
CALL fleet.add_replica('replica', test.conninfo('fleet_r'));
ROLLBACK;
CALL fleet.add_replica(NULL, test.conninfo('fleet_r'));
CALL fleet.add_replica('Replica', test.conninfo('fleet_r'));
CALL fleet.add_replica('replica', NULL);
CALL fleet.add_replica('other', test.conninfo('fleet_r'));
CALL fleet.add_replica('west', test.conninfo('fleet_r'));
CALL fleet.add_replica('node_e', test.conninfo('fleet_e'));
CALL fleet.add_replica('replica', 'nonsense');
\set VERBOSITY default
SELECT count(*) AS replicas, (SELECT count(*) FROM pg_publication) AS publications,
	(SELECT count(*) FROM pg_foreign_server WHERE srvname NOT IN ('fleet_west', 'fleet_east', 'fleet_north')) AS servers FROM fleet.map_replicas;
\c fleet_r
CALL fleet.add_replica('replica', 'host=x');
SELECT fleet.is_replica(), fleet.replica_ready(), fleet.global_watermark() IS NULL AS no_watermark;
\c fleet_w
SET client_min_messages = warning;

-- What is there before is copied, graves too.
SELECT fleet.register_vehicle('GV-1', 0.5, 0.5);
SELECT fleet.request_ride('G-' || i, 'alice', 0.5, 0.5, CASE i WHEN 1 THEN 'GV-1' END, i) FROM generate_series(1, 4) AS i;
DELETE FROM fleet.rides WHERE region = 'west' AND ride_id = 'G-4';
CALL fleet.add_replica('replica', test.conninfo('fleet_r'));
\set VERBOSITY terse
CALL fleet.add_replica('replica', test.conninfo('fleet_r'));
\set VERBOSITY default
SELECT name FROM fleet.map_replicas;
SELECT slot_name, plugin, slot_type FROM pg_replication_slots ORDER BY 1;
SELECT pubname, tablename, attnames = ARRAY['region', 'hlc', 'beat', 'publications']::name[] AS some FROM pg_publication_tables ORDER BY 1, 2;

\c fleet_r
SELECT fleet.is_replica(), fleet.replica_ready(), fleet.global_watermark() OPERATOR(fleet.>) fleet.hlc_make(now() - interval '10 s', 0) AS watermark;
SELECT region, state, stale_since, wal_status, repairs FROM fleet.replica_status ORDER BY region;
SELECT ride_id, region, vehicle_id, fare, epoch FROM fleet.rides WHERE ride_id LIKE 'G-%' ORDER BY 1;
SELECT vehicle_id, region, epoch FROM fleet.vehicles WHERE vehicle_id = 'GV-1';
-- Graves are collected after a while; this one is too late for that.
SELECT EXISTS (SELECT FROM fleet.departures WHERE kind = 'ride' AND key = 'G-4' AND epoch = 1 AND target IS NULL)
	OR (SELECT graves > 0 FROM fleet.graves_collected) AS buried,
	fleet.merge_rows('west', '[{"kind": "ride", "key": "GRAVE", "epoch": 1, "hlc": 9223372036854775807}]') AS late,
	fleet.collect_graves(0) AS none_wanted;

-- Waits until this replica has what the regions have committed by now.
CREATE SCHEMA test;
CREATE PROCEDURE test.catch_up() LANGUAGE plpgsql AS $$
DECLARE
	now_there fleet.hlc := fleet.hlc_now();
BEGIN
	FOR i IN 1 .. 400 LOOP
		COMMIT;
		EXIT WHEN fleet.global_watermark() OPERATOR(fleet.>) now_there;
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;

-- Changes, a handoff with its vehicle, and back; a delete, and the id again.
\c fleet_w
SELECT fleet.set_ride_status('G-2', 'EN_ROUTE');
SELECT fleet.handoff('G-1', 'east');
DELETE FROM fleet.rides WHERE region = 'west' AND ride_id = 'G-3';
SELECT fleet.request_ride('G-4', 'bob', 0.5, 0.5, NULL, 44);
\c fleet_r
CALL test.catch_up();
SELECT ride_id, region, vehicle_id, status, fare, epoch FROM fleet.rides WHERE ride_id LIKE 'G-%' ORDER BY 1;
SELECT vehicle_id, region, epoch FROM fleet.vehicles WHERE vehicle_id = 'GV-1';
SELECT key, epoch FROM fleet.departures WHERE key = 'GRAVE' OR key = 'G-4' ORDER BY key;
\c fleet_e
SELECT fleet.set_ride_status('G-1', 'CANCELLED');
SELECT fleet.handoff_vehicle('GV-1', 'west');
\c fleet_r
CALL test.catch_up();
SELECT ride_id, region, vehicle_id, status, epoch FROM fleet.rides WHERE ride_id = 'G-1';
SELECT vehicle_id, region, epoch FROM fleet.vehicles WHERE vehicle_id = 'GV-1';

-- Read here, and from a region.
SELECT ride_id, region, status, fare, epoch FROM fleet.search_rides('global-fast', order_by => 'ride_id');
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT fleet.count_rides('global-fast', 'west') AS west, fleet.count_rides('global-live') AS live, fleet.locate('G-1');
SELECT region, epoch FROM fleet.get_ride('G-1', 'global-fast');
SELECT ride_id FROM fleet.search_rides('global-fast', near => 'POINT(1.5 0.5)', within_m => 1e6, order_by => 'distance', max_rows => 2);
SELECT * FROM fleet.search_rides('local');
\c fleet_w
SELECT ride_id, region, status, fare, epoch FROM fleet.search_rides('global-fast', order_by => 'fare desc', max_rows => 2);
SELECT scope, asked, failed, reasked FROM fleet.last_read();
SELECT ride_region, ride_status, rides, fares FROM fleet.ride_totals('global-fast');
SELECT ride_id, region FROM fleet.live_rides('fare > 1 AND region = fleet.own_region()', 'global-fast', 'ride_id');
SELECT region, epoch FROM fleet.get_ride('G-1', 'global-fast');
SELECT ride_id FROM fleet.search_rides('global-fast', near => 'POINT(1.5 0.5)', within_m => 1e6, order_by => 'distance', max_rows => 2);
SELECT count(*) AS deleted FROM fleet.get_ride('G-3', 'global-fast');
SELECT count(*) AS none FROM fleet.search_rides('global-fast', region => 'north');
\c fleet_r

-- Nobody writes here by hand, nor coordinates.
UPDATE fleet.rides SET fare = 0 WHERE ride_id = 'G-1';
DELETE FROM fleet.rides WHERE ride_id = 'G-1';
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) VALUES ('G-9', 'c', 'west', fleet.make_point(0, 0));
DELETE FROM fleet.departures;
TRUNCATE fleet.local_rides;
TRUNCATE fleet.departures;
\set VERBOSITY terse
SELECT fleet.request_ride('G-9', 'c', 0.5, 0.5);
\set VERBOSITY default
SELECT fleet.handoff('G-2', 'east');
SELECT region, rides > 0 AS has_rides FROM (SELECT name AS region, rides FROM fleet.regions) AS r WHERE region = 'west';

-- The merge rule, as a copy would use it.
CREATE FUNCTION test.merge(region text, epoch bigint, hlc bigint, fare numeric, target text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	changed integer := fleet.merge_rows(region, jsonb_build_array(jsonb_build_object('kind', 'ride', 'key', 'MERGE-1', 'epoch', epoch, 'hlc', hlc,
		'target', target, 'image', jsonb_build_object('ride_id', 'MERGE-1', 'customer_id', 'c', 'region', target, 'status', 'PENDING',
			'fare', fare::text, 'start_location', fleet.make_point(0.5, 0.5)::text, 'updated_at', '2026-01-01', 'path_m', '0',
			'epoch', epoch::text, 'hlc', hlc::fleet.hlc::text))));
BEGIN
	RETURN changed || ': ' || COALESCE((SELECT format('%s, epoch %s, %s', r.region, r.epoch, r.fare) FROM fleet.rides AS r WHERE ride_id = 'MERGE-1'), 'none');
END
$$;
BEGIN;
SELECT test.merge('west', 1, 100, 1, 'west') AS new;
SELECT test.merge('north', 1, 100, 2, 'west') AS same_version;
SELECT test.merge('west', 1, 100, 1.5, 'west') AS written_here;
SELECT test.merge('west', 2, 50, 3, 'east') AS departure;
SELECT test.merge('west', 1, 900, 4, 'west') AS late_update;
SELECT test.merge('east', 2, 50, 3, 'east') AS its_arrival;
SELECT test.merge('east', 2, 60, 5, 'east') AS update_there;
SELECT test.merge('north', 2, 55, 6, 'east') AS older_from_elsewhere;
SELECT test.merge('east', 2, 55, 6, 'east') AS lost_there;
SELECT test.merge('north', 2, 54, 0, NULL) AS grave_before_it;
SAVEPOINT s;
SELECT test.merge('east', 2, 54, 0, NULL) AS its_own_grave;
ROLLBACK TO s;
SELECT test.merge('east', 2, 70, 0, NULL) AS grave;
SELECT test.merge('north', 2, 80, 7, 'east') AS after_its_grave;
SELECT test.merge('east', 2, 60, 7, 'east') AS deletion_lost_there;
SELECT test.merge('east', 3, 90, 8, 'east') AS id_again;
SELECT count(*) AS graves FROM fleet.departures WHERE key = 'MERGE-1';
SELECT fleet.forget_rows('west', '[{"kind": "ride", "key": "MERGE-1", "epoch": 3, "hlc": 90}]') AS not_its_own,
	fleet.forget_rows('east', '[{"kind": "ride", "key": "MERGE-1", "epoch": 3, "hlc": 89}]') AS changed_since,
	fleet.forget_rows('east', '[{"kind": "ride", "key": "MERGE-1", "epoch": 3, "hlc": 90}]') AS forgotten;
ROLLBACK;

-- Malformed copies are refused, and nothing of a batch is left.
SELECT fleet.merge_rows('west', '{}');
SELECT fleet.merge_rows('west', '[1]');
SELECT fleet.merge_rows('west', '[{"kind": "boat", "key": "x", "epoch": 1, "hlc": 1}]');
SELECT fleet.merge_rows('west', '[{"kind": "ride", "epoch": 1, "hlc": 1}]');
SELECT fleet.merge_rows('west', '[{"kind": "ride", "key": "MERGE-2", "epoch": 1, "hlc": 1, "target": "west", "image": 7}]');
SELECT fleet.forget_rows('west', '[{"kind": "ride", "key": "MERGE-2"}]');

-- One that cannot be written becomes a dead letter, and is tried again.
BEGIN;
ALTER TABLE fleet.local_rides ADD CONSTRAINT cheap CHECK (fare < 1000) NOT VALID;
SELECT fleet.merge_copied('west', (SELECT jsonb_agg(jsonb_build_object('kind', 'ride', 'key', r.ride_id, 'epoch', r.epoch, 'hlc', r.hlc::bigint + 1,
		'target', 'west', 'image', fleet.row_image(r) || jsonb_build_object('hlc', (r.hlc::bigint + 1)::fleet.hlc::text,
			'fare', CASE r.ride_id WHEN 'G-2' THEN '2000' ELSE '20' END)))
	FROM fleet.local_rides AS r WHERE ride_id IN ('G-2', 'G-4')));
SELECT ride_id, fare FROM fleet.rides WHERE ride_id IN ('G-2', 'G-4') ORDER BY 1;
SELECT origin, region, reason_sqlstate, reason_message, change->>'key' AS key, attempts FROM fleet.dead_letters WHERE resolved_at IS NULL;
SELECT * FROM fleet.retry_merge();
ALTER TABLE fleet.local_rides DROP CONSTRAINT cheap;
SELECT * FROM fleet.retry_merge();
SELECT fare FROM fleet.rides WHERE ride_id = 'G-2';
ROLLBACK;

-- The end of it, asked for on the replica itself.
SET client_min_messages = warning;
CALL fleet.remove_replica('replica');
CREATE PROCEDURE test.wait_left() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		COMMIT;
		EXIT WHEN to_regclass('fleet.local_rides') IS NULL;
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
CALL test.wait_left();
SELECT fleet.is_replica(), to_regclass('fleet.local_rides') IS NULL AS no_rides, (SELECT count(*) FROM fleet.map) AS maps, (SELECT count(*) FROM pg_subscription) AS subscriptions,
	(SELECT count(*) FROM fleet.departures) AS graves, (SELECT count(*) FROM fleet.heartbeat) AS heartbeats;
\c fleet_w
SELECT pg_sleep(1.5);
SELECT count(*) AS replicas, (SELECT count(*) FROM pg_publication) AS publications, (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'fleet%') AS slots,
	(SELECT rolreplication FROM pg_roles WHERE rolname = 'fleet_node') AS replication,
	(SELECT count(*) FROM pg_foreign_server WHERE srvname NOT IN ('fleet_west', 'fleet_east', 'fleet_north')) AS servers FROM fleet.map_replicas;
DELETE FROM fleet.rides WHERE region = 'west' AND ride_id LIKE 'G-%';
DELETE FROM fleet.vehicles WHERE region = 'west' AND vehicle_id LIKE 'GV-%';
\c fleet_e
DELETE FROM fleet.rides WHERE region = 'east' AND ride_id LIKE 'G-%';
\c postgres
DROP DATABASE fleet_r;
