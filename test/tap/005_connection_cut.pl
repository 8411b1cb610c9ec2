# fleet: connections between nodes are cut, or a node falls silent.
# Copyright (c) 2026, the fleet authors
#
# Proves: whichever connection of a handoff is cut at whichever step, the ride
# ends where the decision says; a node that is frozen (it accepts bytes and never
# answers) is waited for no longer than fleet.prepare_timeout and
# fleet.commit_timeout say, and the caller is told how it ended; a connection
# that was cut while idle is replaced without an error.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my %timeouts = ('fleet.prepare_timeout' => 400, 'fleet.lock_timeout' => 200,
	'fleet.commit_timeout' => 400, 'fleet.connect_timeout' => 300);

# End the sessions of other nodes at a node; those of resolvers, too.
sub cut_off
{
	my ($name) = @_;
	my @pids = map { $_->[0] } $c->rows($name, "SELECT pid FROM pg_stat_activity WHERE usename = 'fleet_node'");
	my $list = join ',', 0, @pids;
	$c->sql($name, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ($list)");
	$c->wait_until(sub { $c->sql($name, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($list)") eq '0' },
		"the sessions at $name have ended");
	return scalar @pids;
}

# ---- cut at each step

for my $case ([ 'a', 'b' ], [ 'b', 'a' ], [ 'c', 'a' ], [ 'c', 'b' ])
{
	my ($on, $participant) = @$case;
	for my $point ('before-prepare', 'prepare-wait', 'after-prepare', 'after-local-commit', 'before-commit-prepared')
	{
		my $label = "connection from $on to $participant cut at $point";
		my ($ride) = $c->add_rides('a', "cut-$on-$participant-$point");
		my $session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", $point);

		# PREPARE is on its way: cut after it was done.
		$c->wait_until(sub { $c->sql($participant, 'SELECT count(*) FROM pg_prepared_xacts') eq '1' }, 'it is prepared')
		  if $point ne 'before-prepare';
		cmp_ok(cut_off($participant), '>', 0, $label);
		$c->go($on, $point);
		my $result = $session->finish;
		if ($point eq 'before-prepare')
		{
			ok(!$result->{ok}, "$label: the handoff fails");
			is($c->where($ride), 'a1', "$label: the ride stays");
			next;
		}
		# The reply to a PREPARE that was done may have come through before.
		ok($result->{ok}, "$label: the handoff succeeds") or diag($result->{err});
		like($result->{err}, qr/1 of its nodes did not confirm it yet/, "$label: with a warning") if $point ne 'prepare-wait';
		$c->heal;
		is($c->where($ride), 'b2', "$label: the ride is at its target");
	}
}
$c->check_all('cut connections');

# ---- cut while idle

# A session keeps its connections; those that are gone are opened again.
{
	my @rides = $c->add_rides('a', 'idle-1', 'idle-2', 'idle-3');
	is($c->sql('a', "SELECT fleet.handoff('idle-1', 'b')"), 2, 'a session hands off');
	cut_off('b');
	is($c->sql('a', "SELECT fleet.handoff('idle-2', 'b')"), 2, 'again after its connection was terminated');
	$c->kill9('b');
	$c->start('b');
	is($c->sql('a', "SELECT fleet.handoff('idle-3', 'b')"), 2, 'and after the other server was killed and started');
}

# ---- a silent node

# At before-prepare its branch has been begun: PREPARE gets no answer.
for my $case ([ 'a', 'b' ], [ 'b', 'a' ], [ 'c', 'a' ], [ 'c', 'b' ])
{
	my ($on, $silent) = @$case;
	my $label = "coordinator $on, $silent silent";
	my ($ride) = $c->add_rides('a', "silent-prepare-$on-$silent");
	my $session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", 'before-prepare', set => \%timeouts);

	$c->freeze($silent);
	my $start = time;
	$c->go($on, 'before-prepare');
	my $result = $session->finish;
	my $took = time - $start;
	is($result->{state}, 'RF016', "$label during PREPARE: the caller is told") or diag($result->{err});
	cmp_ok($took, '<', 4, sprintf '%s during PREPARE: the wait ended (%.1f s)', $label, $took);
	$c->thaw($silent);
	ok(defined $c->heal, "$label during PREPARE: healed");
	is($c->where($ride), 'a1', "$label during PREPARE: the ride stays");

	($ride) = $c->add_rides('a', "silent-commit-$on-$silent");
	$session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", 'after-prepare', set => \%timeouts);
	$c->freeze($silent);
	$start = time;
	$c->go($on, 'after-prepare');
	$result = $session->finish;
	$took = time - $start;
	ok($result->{ok}, "$label during COMMIT PREPARED: the caller is told that it is committed") or diag($result->{err});
	like($result->{err}, qr/1 of its nodes did not confirm it yet/, "$label during COMMIT PREPARED: with a warning");
	cmp_ok($took, '<', 4, sprintf '%s during COMMIT PREPARED: the wait ended (%.1f s)', $label, $took);
	$c->thaw($silent);
	ok(defined $c->heal, "$label during COMMIT PREPARED: healed");
	is($c->where($ride), 'b2', "$label during COMMIT PREPARED: the ride is at its target");
}

# A node that is silent from the beginning, and one that falls silent while it
# looks for the ride.
{
	my ($ride) = $c->add_rides('a', 'silent-connect');
	$c->freeze('b');
	my $start = time;
	my $result = $c->try_sql('a', "SELECT fleet.handoff('$ride', 'b')", set => \%timeouts);
	cmp_ok(time - $start, '<', 4, 'no connection to a silent node: the wait ended');
	is($result->{state}, '08001', 'the caller is told') or diag($result->{err});
	$c->thaw('b');
	is($c->where($ride), 'a1', 'the ride stays');
	is($c->sql('a', "SELECT fleet.handoff('$ride', 'b')"), 2, 'and goes when the node speaks again');
}

$c->check_all('in the end');
done_testing();
