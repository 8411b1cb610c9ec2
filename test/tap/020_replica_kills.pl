# fleet: the replica under kills: its server, regions, its apply workers.
# Copyright (c) 2026, the fleet authors
#
# SEED (else 1) says who is killed when, KILL_SECONDS for how long that goes on (else
# seven are killed).  With DOWN_SECONDS a region is down for so long after it, and with
# FULL=1 there are 5,000 rides a region and 500 writes a second.  After a crash the replica may be behind
# what it showed just before, for its workers do not wait for the disk; the
# client forgives that once for each connection that it lost.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SEED} || 1;
srand($seed);
note("seed $seed");

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my @load = $ENV{FULL} ? ('rides=5000', 'hot=200', 'handoffs=100', 'writes=500') : ('rides=300', 'hot=40', 'handoffs=60', 'writes=150');
is(FleetReplica::run_client($c, 'load', $load[0])->{ok}, 1, 'rides are there');
$c->sql('a', add_replica($c));

my @victims = ($g, 'worker', 'a', $g, 'worker', 'b', 'c');
my $seconds = $ENV{KILL_SECONDS} || 4 * @victims;
my $kills = 0;
my $storm = start_storm($c, $seconds, @load, "seed=$seed");
my $end = time + $seconds - 4;
while ($kills < @victims || $ENV{KILL_SECONDS})
{
	my $victim = $victims[ $kills % @victims ];
	sleep 0.5 + rand 1.5;
	last if time > $end;
	$kills++;
	if ($victim eq 'worker')
	{
		my $pid = $c->sql($g, 'SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL ORDER BY random() LIMIT 1');
		note("apply worker $pid");
		my $offset = $c->log_size($g);
		kill 'KILL', $pid if $pid =~ /^\d+$/;
		$c->wait_restarted($g, $offset) if $pid =~ /^\d+$/;
	}
	else
	{
		note("server $victim");
		$c->kill9($victim);
		sleep rand 1;
		$c->start($victim);
	}
}
note("$kills kills");
end_storm($storm, 'kills');
$c->wait_until(sub { is_ready($c) }, 'the replica is ready again', 40);
is_equal($c, 'kills');
is($c->sql($g, 'SELECT count(*) FROM fleet.dead_letters'), 0, 'nothing was given up');

# ---- a region is down for long, while the others work

if ($ENV{DOWN_SECONDS})
{
	my $down = $ENV{DOWN_SECONDS};

	$storm = start_storm($c, $down + 15, @load, 'seed=' . ($seed + 1));
	sleep 3;
	$c->kill9('b');
	my $rides = $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE region = 'b'");
	sleep $down - 1;
	cmp_ok($c->sql($g, "SELECT count(*) FROM fleet.rides WHERE region = 'b'"), '>=', $rides, "down for $down s: its $rides rides are visible");
	is($c->sql($g, "SELECT state FROM fleet.replica_status WHERE region = 'b'"), 'unreachable', "down for $down s: and it says so");
	sleep 1;
	my $at = time;
	$c->start('b');
	$c->wait_until(sub { is_ready($c) }, 'the replica is ready again', 60);
	note(sprintf('ready %.1f s after its start', time - $at));
	ok(end_storm($storm, "down for $down s") > 100, "down for $down s: the replica was read all the time");
	is($c->sql($g, "SELECT count(*) FROM fleet.replica_status WHERE last_error LIKE '%altered%'"), 0, "down for $down s: for no other reason");
	is_equal($c, "down for $down s");
	is($c->sql($g, 'SELECT count(*) FROM fleet.dead_letters'), 0, "down for $down s: nothing was given up");
}
done_testing();
