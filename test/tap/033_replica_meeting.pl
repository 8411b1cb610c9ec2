# fleet: two apply workers bring a ride to a replica that has never seen it.
# Copyright (c) 2026, the fleet authors
#
# Both streams are held back while rides are made in one region and moved to another; then
# they are let go at the same time.  The source's worker has the insert and the
# departure, the target's the arrival: whoever comes first, the other one must not fail on
# it, for that would end the worker.  The ids are such that both write the rides of a
# transaction in the same order; else they may deadlock, which ends one of them for a moment.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;

my $c = FleetCluster->new(nodes => 3, replica => 1);
my $g = $c->{replica};

$c->sql('a', add_replica($c));
my @senders = map { $c->sql($_, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'fleet_node_${g}_$_'") } 'a', 'b';
my $offset = $c->log_size($g);
my $met = 0;
for my $round (1 .. 12)
{
	kill 'STOP', @senders;
	$c->sql('a', "SELECT count(fleet.request_ride('r-$round-' || i, 'c', 0.5, 0.5)) FROM generate_series(1001, 1400) AS i");
	$c->sql('a', join ';', map {
		"SELECT fleet.handoff(ARRAY(SELECT 'r-$round-' || i FROM generate_series($_ * 20 + 1001, $_ * 20 + 1020) AS i), 'b')"
	} 0 .. 19);
	kill 'CONT', $round % 2 ? @senders : reverse @senders;
	$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id LIKE 'r-$round-%' AND region = 'b'") eq '400' }, 'they have moved', 20);
}
is_equal($c, 'met');
ok(!$c->log_has($g, qr/duplicate key|ERROR:/, $offset), 'no worker has failed');
is($c->sql($g, 'SELECT sum(apply_error_count) FROM pg_stat_subscription_stats'), 0, 'nor was an error counted');
cmp_ok($c->sql($g, 'SELECT sum(stale) FROM fleet.replica_status'), '>=', 12 * 400, 'half of each handoff was stale');
done_testing();
