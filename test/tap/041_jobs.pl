# fleet: jobs, with the real pg_cron.
# Copyright (c) 2026, the fleet authors
#
# Proves: jobs that are scheduled run, also every few seconds where pg_cron knows no
# seconds, and are written down; one that fails is, too, and neither it nor one that
# takes too long keeps the others from running; none runs twice at a time; a deadline
# ends a step and not what it did before; a session that dies leaves no job stuck; nothing is left
# when they are unscheduled; a node without pg_cron says what it lacks, and can run
# them by hand.
#
# Functions of jobs are replaced by such that fail or sleep: what they do by
# themselves is tested elsewhere.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'pg_cron is not installed' unless -e `pg_config --pkglibdir` =~ s/\n//r . '/pg_cron.so';

my $c = FleetCluster->new(nodes => 2, settings => 'max_worker_processes = 24');
my $soon = time;

# ---- without pg_cron

my $result = $c->try_sql('b', 'SELECT fleet.schedule_jobs(), fleet.unschedule_jobs()');
is($result->{out}, '0|0', 'without pg_cron nothing is scheduled');
like($result->{err}, qr/NOTICE:  RF035: no jobs were scheduled.*HINT:  Add pg_cron to shared_preload_libraries/s, 'and it says what is lacking');
is($c->sql('b', "SELECT runs_here, schedule IS NULL FROM fleet.jobs WHERE job = 'snapshot'"), 't|t', 'as the view does');
$c->sql('b', "CALL fleet.run_job('snapshot')");
is($c->sql('b', "SELECT last_ok, last_error IS NULL FROM fleet.jobs WHERE job = 'snapshot'"), 't|t', 'a job runs by hand');
is($c->sql('b', 'SELECT count(*) FROM fleet.snapshots'), '1', 'and does its work');

# ---- with pg_cron: scheduled to begin with the next minute

$c->stop('a');
$c->configure('a', "shared_preload_libraries = 'fleet, pg_cron'\ncron.database_name = 'postgres'\ncron.use_background_workers = on");
$c->start('a');
like($c->try_sql('a', 'SELECT fleet.schedule_jobs()')->{err}, qr/HINT:  CREATE EXTENSION pg_cron/, 'the extension is missing');
$c->sql('a', 'CREATE EXTENSION pg_cron');
$c->sql('a', <<'SQL');
CREATE FUNCTION public.replace(function text, body text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE OR REPLACE FUNCTION fleet.%s(max_rows integer DEFAULT 1) RETURNS integer LANGUAGE plpgsql AS %L', function, body);
END $$;
CREATE TABLE public.steps (n integer);
-- What fails, what takes twice its interval, what never ends, and what finds something three times.
SELECT public.replace('prune_call_log', $$BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '22012'; END$$);
SELECT public.replace('prune_idempotency_keys', $$BEGIN PERFORM pg_sleep(8); RETURN 0; END$$);
SELECT public.replace('prune_dead_letters', $$BEGIN PERFORM pg_sleep(100); RETURN 0; END$$);
SELECT public.replace('prune_departures', $$BEGIN INSERT INTO public.steps VALUES (1); RETURN CASE WHEN (SELECT count(*) FROM public.steps) <= 3 THEN 5 ELSE 0 END; END$$);
INSERT INTO fleet.job_settings (job, every, deadline) VALUES ('snapshot', '5 s', NULL), ('call_log', '5 s', NULL),
	('idempotency_keys', '4 s', NULL), ('dead_letters', '10 s', '2 s'), ('departures', '1 min', NULL);
INSERT INTO fleet.job_settings (job, wanted) VALUES ('activity', false);
SQL
my $scheduled = $c->try_sql('a', 'SELECT fleet.schedule_jobs()');
my $jobs = $c->sql('a', "SELECT count(*) FROM cron.job WHERE jobname LIKE 'fleet\\_%'");
is($scheduled->{out}, $jobs, 'as many jobs are scheduled as it says');
like($scheduled->{err}, qr/job "activity" is not scheduled: fleet.job_settings/, 'and it says which are not');
is($c->sql('a', "SELECT count(*) FROM fleet.jobs WHERE schedule IS NOT NULL"), $jobs, 'the view shows them');

# ---- while that minute is awaited: by hand, on the other node

$c->sql('b', q{CREATE TABLE public.steps (n integer);
	CREATE OR REPLACE FUNCTION fleet.prune_departures(max_rows integer DEFAULT 1) RETURNS integer LANGUAGE plpgsql AS
		'BEGIN IF (SELECT count(*) FROM public.steps) = 2 THEN PERFORM pg_sleep(60); END IF; INSERT INTO public.steps VALUES (1); RETURN 7; END';
	INSERT INTO fleet.job_settings (job, deadline) VALUES ('departures', '3 s')});
my $first = $c->start_sql('b', "CALL fleet.run_job('departures')");
$c->wait_until(sub { $c->sql('b', "SELECT count(*) FROM fleet.job_runs WHERE job = 'departures' AND ended IS NULL") }, 'a job is at work');
my $start = time;
$c->sql('b', "CALL fleet.run_job('departures')");
cmp_ok(time - $start, '<', 2, 'a second run does not wait for the first');
is($c->sql('b', "SELECT ok IS NULL, ended IS NOT NULL, detail FROM fleet.job_runs WHERE job = 'departures' ORDER BY id DESC LIMIT 1"),
	't|t|left out: the last run is still at work', 'and is left out');
ok($first->finish->{ok}, 'the first one ends by its deadline, without an error for its caller');
is($c->sql('b', "SELECT ok, error, detail FROM fleet.job_runs WHERE job = 'departures' ORDER BY id LIMIT 1"),
	'f|57014 canceling statement due to statement timeout|14', 'which is written down, with what it had done by then');
is($c->sql('b', 'SELECT count(*) FROM public.steps'), '2', 'and that stays done');
is($c->sql('b', "CALL fleet.run_job('snapshot');\nSELECT pg_sleep(3.5);\nSELECT last_ok FROM fleet.jobs WHERE job = 'snapshot'", timeout => 30) =~ s/\s//gr, 't',
	'no deadline is left in the session');
my $killed = $c->start_sql('b', "TRUNCATE public.steps; INSERT INTO public.steps VALUES (1), (2); UPDATE fleet.job_settings SET deadline = '1 min'; CALL fleet.run_job('departures')");
$c->wait_until(sub { $c->sql('b', "SELECT count(*) FROM fleet.job_runs WHERE job = 'departures' AND ended IS NULL") }, 'a job is at work');
$c->sql('b', "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '$killed->{app}'");
$killed->finish;
$c->sql('b', "TRUNCATE public.steps; UPDATE fleet.job_settings SET deadline = '500 ms'; CALL fleet.run_job('departures')");
is($c->sql('b', "SELECT error FROM fleet.job_runs WHERE job = 'departures' AND NOT ok ORDER BY id DESC OFFSET 1 LIMIT 1"), 'its session ended',
	'a run whose session was killed is found by the next one');

# ---- what pg_cron did

$c->wait_until(sub { $c->sql('a', "SELECT count(*) >= 3 FROM fleet.job_runs WHERE job = 'snapshot' AND ok") eq 't' }, 'a job runs every few seconds', 75);
diag(sprintf 'after %.0f s', time - $soon);
is($c->sql('a', "SELECT count(*) = (SELECT count(*) FROM fleet.job_runs WHERE job = 'snapshot' AND ok) FROM fleet.snapshots"), 't', 'each of its runs has done its work');
is($c->sql('a', "SELECT bool_and(gap BETWEEN interval '3 s' AND interval '7 s') FROM (SELECT started - lag(started) OVER (ORDER BY id) AS gap FROM fleet.job_runs WHERE job = 'snapshot') AS g"),
	't', 'at its interval');
is($c->sql('a', "SELECT bool_and(NOT ok AND error = '22012 on purpose'), count(*) >= 2 FROM fleet.job_runs WHERE job = 'call_log'"), 't|t',
	'one that fails is written down each time, and tried again');
is($c->sql('a', "SELECT bool_and(NOT ok AND error LIKE '57014%' AND ended - started BETWEEN interval '2 s' AND interval '4 s') FROM fleet.job_runs WHERE job = 'dead_letters' AND ended IS NOT NULL"),
	't', 'one that takes too long is ended at its deadline');
is($c->sql('a', "SELECT count(*) FROM fleet.job_runs AS x JOIN fleet.job_runs AS y ON x.job = y.job AND x.id < y.id AND x.ok IS NOT NULL AND x.ended > y.started"), '0',
	'no job ran beside itself');
is($c->sql('a', "SELECT ok, detail FROM fleet.job_runs WHERE job = 'departures'"), 't|15', 'one that finds something goes on at once');
is($c->sql('a', "SELECT count(*) FROM fleet.job_runs WHERE job = 'activity'"), '0', 'one that is not wanted does not run');
is($c->sql('a', "SELECT count(*) FROM cron.job WHERE username <> 'postgres'"), '0', 'they run as who has scheduled them');

# ---- none is left

is($c->try_sql('a', 'SELECT fleet.schedule_jobs()')->{out}, $jobs, 'they are scheduled once, however often that is asked');
is($c->sql('a', "SELECT count(*) FROM cron.job"), $jobs, 'which replaces them');
is($c->sql('a', 'SELECT fleet.unschedule_jobs()'), $jobs, 'all are unscheduled');
is($c->sql('a', 'SELECT count(*) FROM cron.job'), '0', 'and pg_cron knows none');
is($c->sql('a', "SELECT count(*) FROM fleet.jobs WHERE schedule IS NOT NULL OR next_run IS NOT NULL"), '0', 'nor does the view');

done_testing();
