# fleet: a ride whose arrival its region has lost stays visible on the replica.
# Copyright (c) 2026, the fleet authors
#
# The target of a handoff is restored from an older copy when the handoff is decided,
# so its branch is lost, and made again by the resolver a while later.  Meanwhile the
# replica copies the region again, which knows nothing of the ride.  The ride exists
# all the time, so the replica has to show it.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my @ids = $c->add_rides('a', map { "a-$_" } 1 .. 5);
$c->add_rides('b', map { "b-$_" } 1 .. 5);
$c->sql('a', add_replica($c));
is_equal($c, 'made');

sub shown { return $c->sql($g, "SELECT region, epoch FROM fleet.rides WHERE ride_id = '$_[0]'") }

for my $case ([ 'restored' ], [ 'promoted', promote => 1 ])
{
	my ($name, @how) = @$case;
	my $ride = shift @ids;

	$c->save('b');
	$c->wait_until(sub { is_ready($c) }, 'b is back');
	my $repairs = $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'b'");
	sleep 2.5;    # b hears how far the replica is, which the copy does not know
	my $session = $c->start_waiting('a', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->wait_until(sub { shown($ride) eq 'b|2' }, 'its departure is seen');
	$c->go_back('b', @how);
	is($c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts'), 0, "$name: b has lost the branch");

	my $hidden = 0;
	my $copied = eval
	{
		$c->wait_until(sub {
			$hidden++ if shown($ride) eq '';
			$c->sql($g, "SELECT repairs > $repairs AND state = 'streaming' FROM fleet.replica_status WHERE region = 'b'") eq 't';
		}, 'b is copied again', 20);
	};
	ok($copied, "$name: b is copied again") or diag($c->sql($g, 'SELECT * FROM fleet.replica_sources'));
	for (1 .. 20)
	{
		$hidden++ if shown($ride) eq '';
		sleep 0.05;
	}
	is($hidden, 0, "$name: the ride stays visible");
	$c->go('a', 'after-local-commit');
	$session->finish;
	$c->check_all($name, log => 0);
	$c->wait_until(sub { is_ready($c) }, 'it is ready', 40);
	is_equal($c, $name);
}
done_testing();
