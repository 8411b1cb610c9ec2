# fleet: the replica under kills: its server, regions, its apply workers.
# Copyright (c) 2026, the fleet authors
#
# SEED (else 1) says who is killed when.  After a crash the replica may be behind
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
is(FleetReplica::run_client($c, 'load', 'rides=300')->{ok}, 1, 'rides are there');
$c->sql('a', add_replica($c));

my @victims = ($g, 'worker', 'a', $g, 'worker', 'b', 'c');
my $storm = start_storm($c, 4 * @victims, 'rides=300', 'hot=40', 'handoffs=60', 'writes=150', "seed=$seed");
my $end = time + 4 * @victims - 4;
for my $victim (@victims)
{
	sleep 0.5 + rand 1.5;
	last if time > $end;
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
end_storm($storm, 'kills');
$c->wait_until(sub { is_ready($c) }, 'the replica is ready again', 40);
is_equal($c, 'kills');
is($c->sql($g, 'SELECT count(*) FROM fleet.dead_letters'), 0, 'nothing was given up');
done_testing();
