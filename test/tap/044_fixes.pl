# fleet: many fixes at once.
# Copyright (c) 2026, the fleet authors
#
# Proves: sessions that report the same vehicles at once, in whatever order, do
# not lock each other out, and each vehicle is left at its newest fix; a
# vehicle in doubt, or one whose target is down, loses only its own fix;
# with fleet.fix_durability = async a crash loses fixes, but no change of a ride
# that was made with one, and not where it is durable.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(time);

my $c = FleetCluster->new(nodes => 2,
	settings => "fleet.max_speed = 0\nfleet.lock_timeout = 500\nfleet.connect_timeout = 500\nwal_writer_delay = 10s\nautovacuum = off");
my ($vehicles, $sessions, $calls) = (300, 6, 25);

$c->sql('a', <<"SQL");
SELECT count(fleet.register_vehicle('car-' || n, 0.5, 0.5)) FROM generate_series(1, $vehicles) AS n;
CREATE TABLE given (session int, call int, vehicle text, at timestamptz, outcome text);
-- 200 fixes of vehicles at random, some of them twice, in random order; what became of each.
CREATE FUNCTION report_some(session int, call int) RETURNS void LANGUAGE sql AS \$\$
	WITH f AS MATERIALIZED (SELECT array_agg(v ORDER BY random()) AS v, array_agg(at ORDER BY random()) AS at FROM (
			SELECT 'car-' || 1 + floor(random() * $vehicles)::int AS v, clock_timestamp() - random() * interval '1 s' AS at FROM generate_series(1, 200)) AS x)
	INSERT INTO given SELECT report_some.session, report_some.call, r.vehicle_id, f.at[r.number], r.outcome
		FROM f, fleet.report_fixes(f.v, array_fill(0.5::float8, ARRAY[200]), array_fill(0.5::float8, ARRAY[200]), f.at) AS r
\$\$;
SQL

# ---- at once

my @all = map { my $s = $_; $c->start_sql('a', join "\n", map { "SELECT report_some($s, $_);" } 1 .. $calls) } 1 .. $sessions;
my @results = map { $_->finish } @all;
is(scalar(grep { !$_->{ok} } @results), 0, "$sessions sessions report the same vehicles at once");
ok(!$c->log_has('a', 'deadlock detected'), 'and none waits for another that waits for it');
is($c->sql('a', 'SELECT count(*) FROM given'), $sessions * $calls * 200, 'each fix has an answer');
is($c->sql('a', "SELECT string_agg(DISTINCT outcome, ' ' ORDER BY outcome) FROM given"), 'accepted stale', 'which is that it was taken, or is stale');
is($c->sql('a', 'SELECT count(*) FROM fleet.local_vehicles AS v WHERE fix_at IS DISTINCT FROM (SELECT max(at) FROM given WHERE vehicle = v.vehicle_id)'),
	0, 'each vehicle is left at its newest fix');
is($c->sql('a', "SELECT count(*) FROM (SELECT vehicle FROM given GROUP BY vehicle HAVING bool_or(outcome = 'accepted') IS NOT true) AS x"), 0, 'which was taken');

# ---- in doubt

# fixes(node, lon of each, option): number, outcome and SQLSTATE of fixes of car-1 and the following.
sub fixes
{
	my ($node, @lons) = @_;
	my $n = @lons;
	return $c->sql($node, "SELECT string_agg(outcome || COALESCE(' ' || reason_sqlstate, ''), ', ' ORDER BY number) FROM fleet.report_fixes("
		. "ARRAY(SELECT 'car-' || n FROM generate_series(1, $n) AS n), '{" . join(',', @lons) . "}', array_fill(0.5::float8, ARRAY[$n]),"
		. " array_fill(clock_timestamp(), ARRAY[$n]))");
}

# Nobody can say what became of it while its node is down.
$c->stop('b', 'immediate');
my $gid = 'fleet:node_b:none:1:0123456789abcdef:0';
$c->sql('a', "BEGIN; UPDATE fleet.local_vehicles SET heading = 1 WHERE vehicle_id = 'car-2'; PREPARE TRANSACTION '$gid'");
my $start = time;
is(fixes('a', 0.51, 0.52, 0.53, 0.54), 'accepted, refused RF022, accepted, accepted', 'a vehicle in doubt loses its own fix');
cmp_ok(time - $start, '<', 8, 'after a while');
$c->sql('a', "ROLLBACK PREPARED '$gid'");
is(fixes('a', 0.51, 0.52, 0.53, 0.54), 'accepted, accepted, accepted, accepted', 'and none when the doubt is over');

# ---- a target that is down

$start = time;
like(fixes('a', 1.51, 0.52, 1.53, 0.54), qr/^refused (08\w+|RF026), accepted, refused (08\w+|RF026), accepted$/, 'where the target is down, those that cross lose theirs');
cmp_ok(time - $start, '<', 15, 'after a while, too');
is($c->sql('a', "SELECT count(*) FROM fleet.local_vehicles WHERE vehicle_id IN ('car-1', 'car-3')"), 2, 'they stay');
$c->start('b');
$c->wait_until(sub { fixes('a', 1.51, 0.52, 1.53, 0.54) eq 'moved, accepted, moved, accepted' }, 'they cross when it is up', 30);
is(join(' ', $c->places([ 'car-1', 'car-3' ], 'vehicle')), 'b2 b2', 'and are on the other side');

# ---- durable or not

$c->sql('a', "SELECT fleet.request_ride('ride-5', 'c', 0.5, 0.5, 'car-5')");
$c->sql('a', <<'SQL');
CREATE FUNCTION fix_and_go() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM fleet.report_fix('car-5', 0.55, 0.5, clock_timestamp());
	PERFORM fleet.set_ride_status('ride-5', 'EN_ROUTE');
END $$;
SQL

# after_crash(durability, statements): places of cars 5 and 6, status of the ride, when the server has died right after them.
sub after_crash
{
	my ($durability, @statements) = @_;
	$c->sql('a', "CHECKPOINT; SET fleet.fix_durability = '$durability'");
	$c->sql('a', $_) for @statements;
	$c->kill9('a');
	$c->start('a');
	return $c->sql('a', "SELECT string_agg(fleet.lon(location)::text, ' ' ORDER BY vehicle_id) FROM fleet.local_vehicles WHERE vehicle_id IN ('car-5', 'car-6')")
	  . ' ' . $c->sql('a', "SELECT status FROM fleet.local_rides WHERE ride_id = 'ride-5'");
}

is(after_crash('durable', "SELECT fleet.report_fix('car-6', 0.56, 0.5, clock_timestamp())"), '0.5 0.56 PENDING', 'a durable fix outlives a crash');
is(after_crash('async', "SELECT fleet.report_fix('car-6', 0.57, 0.5, clock_timestamp())"), '0.5 0.56 PENDING', 'one that is not does not');
is(after_crash('async', 'SELECT fix_and_go()', "SELECT fleet.report_fix('car-6', 0.58, 0.5, clock_timestamp())"), '0.55 0.56 EN_ROUTE',
	'a change of a ride does, and the fix that was made with it');
is(after_crash('async', "BEGIN; SELECT fleet.report_fix('car-6', 0.59, 0.5, clock_timestamp()); COMMIT"), '0.55 0.59 EN_ROUTE', 'so does a fix in a transaction block');
is($c->sql('a', 'SELECT sum(problems) FROM fleet.verify()'), 0, 'nothing else is lost');

done_testing();
