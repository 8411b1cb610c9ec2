# fleet: limits in shared memory.
# Copyright (c) 2026, the fleet authors
#
# Proves: sessions that race for one key get no more than its tokens and what came
# back meanwhile, and no less; a table that is full stays as large as it is, evicts
# what was not used for longest, and what is full by now before that; who is
# refused is not forgotten in a flood of other keys; a restart empties it.  A
# vehicle's fixes: of many at one moment one is let through; one that is refused waits for
# no lock; a call that was passed on is counted where the vehicle is, and there
# only.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

# Four sets of thirteen entries.
my $c = FleetCluster->new(nodes => 2, settings => "fleet.limit_entries = 52\nfleet.max_speed = 0");
my $sessions = 8;

# How many of so many calls by each of the sessions at once were let through, and
# the seconds that it took them all.
sub race
{
	my ($call, $calls) = @_;
	my $start = time;
	my @all = map { $c->start_sql('a', "SELECT count(*) FROM generate_series(1, $calls) WHERE $call") } 1 .. $sessions;
	my $sum = 0;

	for my $session (@all)
	{
		my $result = $session->finish;
		die $result->{err} unless $result->{ok};
		$sum += $result->{out};
	}
	return ($sum, time - $start);
}

# Some columns of a limiter on a node.
sub limits
{
	my ($node, $columns, $limiter) = @_;
	return $c->sql($node, "SELECT $columns FROM fleet.limits WHERE limiter = '" . ($limiter // 'rate_limit') . "'");
}

# ---- one key, many sessions

my ($sum) = race("fleet.rate_limit('race', 'slow', 1000, '10 days')", 5000);
is($sum, 1000, 'eight sessions race for 1000 tokens');
is(limits('a', 'allowed, refused'), '1000|39000', 'each call was counted');
my $seconds;
($sum, $seconds) = race("fleet.rate_limit('race', 'fast', 100, '100 ms')", 400000);
cmp_ok($sum, '<=', 100 + $seconds * 1000 + 1, 'no more than 100 and one each millisecond');
cmp_ok($sum, '>', 150, 'they come back while it is raced for');
my ($alone, $first, $last) = split /\|/, $c->sql('a', <<'SQL');
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS at FROM generate_series(1, 500000) WHERE fleet.rate_limit('alone', 'x', 100, '100 ms'))
SELECT count(*), extract(epoch FROM min(at)), extract(epoch FROM max(at)) FROM t;
SQL
my $due = 100 + ($last - $first) * 1000;
cmp_ok($alone, '<=', $due + 2, 'one session, all the time: no more than is due');
cmp_ok($alone, '>=', $due * 0.5, 'and not much less');

# ---- more keys than entries

is(limits('a', 'entries'), 52, 'a table of 52');
$c->sql('a', "SELECT fleet.rate_limit('patient', 'x', 1, '1 day')");
my $before = limits('a', 'evicted');
is($c->sql('a', "SELECT count(*) FROM generate_series(1, 10000) AS n WHERE fleet.rate_limit('flood', n::text, 1, '1 day')"), 10000, 'each of 10000 keys has a token');
is(limits('a', 'in_use'), 52, '52 of them are known then');
cmp_ok(limits('a', 'evicted') - $before, '>=', 10000 - 52, 'all others were evicted');
is($c->sql('a', "SELECT count(*) FROM generate_series(9989, 10000) AS n WHERE fleet.rate_limit('flood', n::text, 1, '1 day')"), 0, 'the last ones are known');
is($c->sql('a', "SELECT fleet.rate_limit('flood', '1', 1, '1 day')"), 't', 'the first one begins anew');
is($c->sql('a', "SELECT fleet.rate_limit('patient', 'x', 1, '1 day')"), 't', 'so does one that has not asked meanwhile');
# In this order, which that of conditions under WHERE is not.
is($c->sql('a', "SELECT count(*) FILTER (WHERE again), count(*) FILTER (WHERE patient) FROM generate_series(1, 10000) AS n,"
	. " LATERAL (SELECT fleet.rate_limit('again', n::text, 1, '1 day') AS again OFFSET 0) AS a,"
	. " LATERAL (SELECT CASE WHEN again AND n % 10 = 0 THEN fleet.rate_limit('patient', 'x', 1, '1 day') END AS patient OFFSET 0) AS p"),
	'10000|0', 'one that has asked all the time is refused all the time');

# What is full by now goes first: with that in the table nothing is lost.
$c->stop('a');
$c->start('a');
is(limits('a', 'in_use, allowed, refused, evicted'), '0|0|0|0', 'a restart empties the table');
is($c->sql('a', "SELECT fleet.rate_limit('race', 'slow', 1000, '10 days')"), 't', 'and who was refused begins anew');
$c->sql('a', "SELECT fleet.rate_limit('kept', n::text, 1, '1 day') FROM generate_series(1, 12) AS n");
for my $round (1 .. 20)
{
	$c->sql('a', "SELECT fleet.rate_limit('brief', '$round-' || n, 1, '1 ms') FROM generate_series(1, 2) AS n; SELECT pg_sleep(0.005)");
}
$c->sql('a', "SELECT fleet.rate_limit('brief', '$_', 1, '1 ms') FROM pg_sleep(0.002)") for 1 .. 200;
is(limits('a', 'evicted'), 0, 'what is full makes room');
is($c->sql('a', "SELECT count(*) FROM generate_series(1, 12) AS n WHERE fleet.rate_limit('kept', n::text, 1, '1 day')"), 0, 'for what is not');
is(limits('a', 'allowed', 'report_fix'), 0, 'fixes have a table of their own');

# ---- fixes

$c->set_system($_, 'fleet.fix_min_interval', '1h') for 'a', 'b';
$c->wait_until(sub { !grep { $c->sql($_, 'SHOW fleet.fix_min_interval') ne '1h' } 'a', 'b' }, 'the interval holds');
my %place = map { $_ => $c->place($_) } 'a', 'b';
$c->sql('a', "SELECT fleet.register_vehicle('car-$_', $place{a})") for 1 .. 4;
$c->sql('b', "SELECT fleet.register_vehicle('far-$_', $place{b})") for 1 .. 2;

# All wait for the row, having passed the first look.
my $holder = $c->start_sql('a', "BEGIN; SELECT 1 FROM fleet.local_vehicles WHERE vehicle_id = 'car-1' FOR UPDATE; SELECT pg_sleep(2); COMMIT;");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'the row is locked', 10);
my @racers = map { $c->start_sql('a', "SELECT outcome FROM fleet.report_fix('car-1', $place{a}, now() + interval '$_ ms')") } 1 .. $sessions;
my @results = map { $_->finish } @racers;
$holder->finish;
is(scalar(grep { $_->{ok} } @results), 1, 'of eight fixes at one moment one is let through');
is(scalar(grep { !$_->{ok} && $_->{state} eq 'RF029' } @results), $sessions - 1, 'the others come too soon');
is(limits('a', 'allowed, refused, in_use', 'report_fix'), '1|7|1', 'which is counted');

$holder = $c->start_sql('a', "BEGIN; SELECT 1 FROM fleet.local_vehicles WHERE vehicle_id = 'car-1' FOR UPDATE; SELECT pg_sleep(3); COMMIT;");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'the row is locked again', 10);
my $refused = $c->try_sql('a', "SELECT fleet.report_fix('car-1', $place{a})", set => { lock_timeout => 500 });
is($refused->{state}, 'RF029', 'one that comes too soon waits for no lock');
like($refused->{err}, qr/DETAIL:  One fix in 3600000 ms is let through; retry after 3[56]\d{5} ms\./, 'and says when to try again');
$holder->finish;

# By another node.
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('far-1', $place{b})"), 'accepted', "a's caller reports for a vehicle of b");
is(limits('b', 'allowed, refused', 'report_fix'), '1|0', 'it is counted on b');
is(limits('a', 'allowed', 'report_fix'), 1, 'and not on a');
$refused = $c->try_sql('a', "SELECT fleet.report_fix('far-1', $place{b})");
is($refused->{state}, 'RF029', 'the next one comes too soon');
like($refused->{err}, qr/vehicle "far-1" reports too often.*retry after \d+ ms/s, 'which is said as b says it');
is($c->try_sql('b', "SELECT fleet.report_fix('far-1', $place{b})")->{state}, 'RF029', 'on b, too');
is(limits('b', 'allowed, refused', 'report_fix'), '1|2', 'both are counted on b');

# One that crosses the border.
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('car-2', $place{b})"), 'moved', 'a vehicle crosses the border');
is($c->sql('b', "SELECT outcome FROM fleet.report_fix('car-2', $place{b}, clock_timestamp())"), 'accepted', 'and is new on the other side');
is($c->try_sql('b', "SELECT fleet.report_fix('car-2', $place{b})")->{state}, 'RF029', 'but once');

# Off.
$c->set_system($_, 'fleet.fix_min_interval', undef) for 'a', 'b';
$c->wait_until(sub { !grep { $c->sql($_, 'SHOW fleet.fix_min_interval') ne '0' } 'a', 'b' }, 'it is off');
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('car-1', $place{a}, clock_timestamp())"), 'accepted', 'without an interval no fix comes too soon') for 1 .. 2;
$c->check_all;

done_testing();
