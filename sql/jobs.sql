--
-- Retention: what the jobs remove, and what they keep; jobs without pg_cron
--
\set SHOW_CONTEXT never
\c fleet_w
-- Departures: one ride is live elsewhere, one was deleted there, one is lost, one is not settled, one is new.
SELECT fleet.request_ride('J-' || n, 'C-1', 0.5, 0.5) FROM generate_series(1, 6) AS n;
SELECT fleet.register_vehicle('JV-' || n, 0.5, 0.5) FROM generate_series(1, 2) AS n;
SELECT fleet.handoff(ARRAY['J-1', 'J-2', 'J-3', 'J-4', 'J-5'], 'east');
SELECT fleet.handoff_vehicle('JV-1', 'east'), fleet.handoff_vehicle('JV-2', 'east');
DELETE FROM fleet.local_rides WHERE ride_id = 'J-6';
SELECT test.settle();
\c fleet_e
DELETE FROM fleet.local_rides WHERE ride_id = 'J-2';
DELETE FROM fleet.local_vehicles WHERE vehicle_id = 'JV-2';
SET session_replication_role = replica;
DELETE FROM fleet.local_rides WHERE ride_id = 'J-3';
UPDATE fleet.departures SET departed_at = now() - interval '40 days' WHERE key LIKE 'J%';
RESET session_replication_role;
-- Its departure is remembered in the west.
SELECT fleet.prune_departures();
SELECT kind, key FROM fleet.departures WHERE key IN ('J-2', 'JV-2');
\c fleet_w
SELECT fleet.prune_departures();
BEGIN;
UPDATE fleet.departures SET departed_at = now() - interval '40 days' WHERE key LIKE 'J%' AND key <> 'J-5';
UPDATE fleet.departures SET settled_hlc = NULL WHERE key = 'J-4';
-- A replica that has acknowledged nothing may need them.
INSERT INTO fleet.map_replicas VALUES ('far');
SELECT fleet.prune_departures();
INSERT INTO fleet.replica_slots (replica, slot_name, acknowledged) VALUES ('far', 'x', '2020-01-01T00:00:00.000Z/00000');
SELECT fleet.prune_departures();
UPDATE fleet.replica_slots SET acknowledged = fleet.hlc_now();
SELECT fleet.prune_departures() AS gone;
SELECT kind, key FROM fleet.departures WHERE key LIKE 'J%' ORDER BY kind, key;
SELECT departures, upto OPERATOR(fleet.>) fleet.hlc_make(now() - interval '1 hour', 0) AS upto, fleet.pruned_upto() = upto::bigint AS told FROM fleet.departures_pruned;
ROLLBACK;
-- A few at a time, round and round.
BEGIN;
UPDATE fleet.departures SET departed_at = now() - interval '40 days' WHERE key LIKE 'J%';
DELETE FROM fleet.departures_pruned;
CREATE TEMPORARY TABLE gone AS SELECT n, fleet.prune_departures(2) AS gone FROM generate_series(1, 40) AS n;
SELECT sum(gone) FROM gone;
SELECT kind, key FROM fleet.departures WHERE key LIKE 'J%' ORDER BY kind, key;
ROLLBACK;
UPDATE fleet.departures SET departed_at = now() - interval '40 days' WHERE key LIKE 'J%';
SELECT fleet.prune_departures() AS gone;
\c fleet_e
-- Now nothing leads to its grave.
SELECT fleet.prune_departures() AS wrapped;
SELECT fleet.prune_departures() IS NOT NULL AS again;
SELECT kind, key FROM fleet.departures WHERE key IN ('J-2', 'JV-2');
\c fleet_w
SELECT check_name, ids FROM fleet.verify() WHERE problems > 0;
DELETE FROM fleet.departures WHERE key = 'J-3';

-- The log: what is settled everywhere, old, and explains nothing any more.
SELECT fleet.request_ride('J-7', 'C-1', 0.5, 0.5);
SELECT fleet.handoff('J-7', 'east');
\c fleet_e
SELECT fleet.handoff('J-7', 'west');
SELECT test.settle();
\c fleet_w
SELECT test.settle();
SELECT fleet.prune_handoff_log();
BEGIN;
UPDATE fleet.handoff_log SET started_at = now() - interval '40 days';
-- While some node has something open that is as old, nobody's log may go.
INSERT INTO fleet.decisions (dtxid, branch, region, kind, decided_at) VALUES ('fleet:node_w:x:1:0123456789abcdef', 0, 'east', 'arrive', now() - interval '45 days');
SELECT fleet.prune_handoff_log(), fleet.settled_before() < now() - interval '45 days' AS bound;
ROLLBACK;
BEGIN;
UPDATE fleet.handoff_log SET started_at = now() - interval '40 days';
SELECT fleet.prune_handoff_log(1), fleet.prune_handoff_log() > 0 AS more, fleet.prune_handoff_log() AS rest;
SELECT epoch, status FROM fleet.handoff_log WHERE ride_id = 'J-7';
ROLLBACK;
UPDATE fleet.handoff_log SET started_at = now() - interval '40 days';
SELECT fleet.prune_handoff_log() > 0 AS some;
SELECT check_name, ids FROM fleet.verify() WHERE problems > 0;
BEGIN;
INSERT INTO fleet.call_log (dtxid, at) VALUES ('old', now() - interval '40 days'), ('new', now());
SELECT fleet.prune_call_log() > 0 AS some, fleet.prune_call_log();
SELECT dtxid FROM fleet.call_log WHERE dtxid IN ('old', 'new');
ROLLBACK;

-- Idempotency keys of closed rides, a day later.
SELECT fleet.request_ride('J-8', 'C-1', 0.5, 0.5, idempotency_key => 'k');
SELECT fleet.request_ride('J-9', 'C-1', 0.5, 0.5, idempotency_key => 'k');
SELECT fleet.cancel_ride('J-8');
SELECT fleet.prune_idempotency_keys();
SET session_replication_role = replica;
UPDATE fleet.local_rides SET updated_at = now() - interval '25 hours' WHERE ride_id IN ('J-8', 'J-9');
RESET session_replication_role;
SELECT fleet.prune_idempotency_keys();
SELECT ride_id, idempotency_keys IS NULL AS gone FROM fleet.local_rides WHERE ride_id IN ('J-8', 'J-9') ORDER BY 1;

-- Dead letters that were resolved.
BEGIN;
INSERT INTO fleet.dead_letters (origin, reason_sqlstate, reason_message, change, resolved_at)
	VALUES ('x', 'XX', 'x', '1', now() - interval '40 days'), ('x', 'XX', 'x', '2', now()), ('x', 'XX', 'x', '3', NULL);
SELECT fleet.prune_dead_letters();
SELECT change FROM fleet.dead_letters WHERE origin = 'x' ORDER BY id;
ROLLBACK;

-- By the hour.
SELECT fleet.roll_up_activity() > 0 AS hours;
SELECT sum(rides_requested) >= (SELECT count(*) FROM test.my_rides) AS requested FROM fleet.activity;
BEGIN;
DELETE FROM fleet.activity;
UPDATE fleet.handoff_log SET started_at = now() - interval '40 days';
INSERT INTO fleet.handoff_log (ride_id, source, target, epoch, hlc, status, latency_ms) SELECT 'J-8', 'west', 'east', 2, fleet.hlc_now(), 'settled', n FROM generate_series(1, 3) AS n;
INSERT INTO fleet.handoff_log (ride_id, source, target, epoch, hlc, status) SELECT 'J-8', 'east', 'west', 3, fleet.hlc_now(), 'arrived';
SELECT fleet.roll_up_activity() > 0 AS hours;
SELECT rides_out, rides_in, mean_ms, max_ms FROM fleet.activity WHERE rides_out > 0;
ROLLBACK;

-- Without pg_cron: what it lacks, and what can be done by hand.
SELECT fleet.schedule_jobs() AS scheduled, fleet.unschedule_jobs() AS unscheduled;
SELECT count(*) > 10 AS jobs, count(schedule) AS scheduled FROM fleet.jobs;
CALL fleet.run_job('call_log');
SELECT last_ok, last_error, obstacle FROM fleet.jobs WHERE job = 'call_log';
INSERT INTO fleet.job_settings (job, wanted) VALUES ('call_log', false);
CALL fleet.run_job('call_log');
SELECT count(*) FROM fleet.job_runs WHERE job = 'call_log';
DELETE FROM fleet.job_settings;
CALL fleet.run_job('no_such_job');
CALL fleet.run_job(NULL);
BEGIN;
CALL fleet.run_job('call_log');
ROLLBACK;
INSERT INTO fleet.job_settings (job, every) VALUES ('snapshot', '0');
UPDATE fleet.job_runs SET ended = now() - interval '8 days';
SELECT fleet.prune_job_runs() > 0 AS some;
SELECT count(*) FROM fleet.job_runs;
SELECT e, fleet.cron_schedule(e, 17, false), fleet.cron_schedule(e, 17, true)
	FROM unnest(ARRAY['10 s', '30 s', '60 s', '5 min', '1 h', '6 h', '1 day']::interval[]) AS e;
SELECT e, r FROM unnest(ARRAY['7 s', '90 s', '45 min', '5 h', '2 days', '1 s 500 ms']::interval[]) AS e, test.state_of(format('SELECT fleet.cron_schedule(%L, 0, true)', e)) AS r;
SELECT * FROM test.raised('SELECT fleet.cron_schedule(''7 s'', 0, true)');
\c fleet_spare
SELECT job FROM fleet.jobs WHERE runs_here ORDER BY job;
SELECT * FROM test.raised('SELECT fleet.prune_departures()');

-- Leave no rides to the tests that follow.
\c fleet_e
DELETE FROM fleet.local_rides WHERE ride_id LIKE 'J-%';
