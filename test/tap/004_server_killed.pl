# fleet: whole servers die in the middle of a handoff.
# Copyright (c) 2026, the fleet authors
#
# Proves "exactly one" and "no orphan": SIGKILL of the coordinator's server, or
# of a participant's, at each step of the commit; and of all servers at once.
# What was not decided stays at the source, what was decided reaches its target,
# and all is finished within 5 seconds after the servers are up again.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my %coordinator = (source => 'a', target => 'b', third => 'c');
my @undecided = ('before-prepare', 'prepare-wait', 'after-prepare');
my @decided = ('after-local-commit', 'before-commit-prepared', 'after-commit-prepared');
my $longest = 0;

# All servers are up: measure until all is finished, then look.
sub healed
{
	my ($label, $ride, $want) = @_;
	my $took = $c->heal;
	$longest = $took if defined $took && $took > $longest;
	ok(defined $took && $took < 5, "$label: resolved within 5 s") or diag($took // 'never');
	note(sprintf '%s: resolved after %.2f s', $label, $took) if defined $took;
	is($c->where($ride), $want, "$label: the ride is where it should be");
}

# The coordinator's server crashes by itself at a point.
for my $role (sort keys %coordinator)
{
	for my $point ('after-prepare', 'after-local-commit', 'after-commit-prepared')
	{
		my $on = $coordinator{$role};
		my ($ride) = $c->add_rides('a', "crash-$role-$point");
		my $result = $c->try_sql($on, "SELECT fleet.handoff('$ride', 'b')", fault => "$point=crash");

		ok(!$result->{ok}, "crash of the $role at $point: the caller loses its connection");
		$c->wait_dead($on);
		$c->start($on);
		healed("crash of the $role at $point", $ride, (grep { $_ eq $point } @decided) ? 'b2' : 'a1');
	}
}

# A server is killed from outside while the coordinator waits at a point.  The
# victim is the coordinator's own, or a participant's.
sub kill_at
{
	my ($on, $victim, $point, $want) = @_;
	my $label = "kill -9 of $victim, coordinator $on at $point";
	my ($ride) = $c->add_rides('a', "kill-$on-$victim-$point");
	my $session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", $point);

	$c->kill9($victim);
	$c->go($on, $point);
	my $result = $session->finish;
	if ($victim eq $on)
	{
		ok(!$result->{ok}, "$label: the caller loses its connection");
	}
	elsif (grep { $_ eq $point } @undecided, 'never')
	{
		# PREPARE was done or not; if it was, losing the node is no reason to abort.
		my $committed = $point eq 'after-prepare' ? 1 : 0;
		is($result->{ok} ? 1 : 0, $committed, "$label: the caller is told") or diag($result->{err});
		like($result->{err}, qr/committed, but 1 of its nodes did not confirm it yet/, "$label: with a warning")
		  if $committed;
	}
	else
	{
		ok($result->{ok}, "$label: the caller is told that it is committed") or diag($result->{err});
		like($result->{err}, qr/committed, but 1 of its nodes did not confirm it yet/, "$label: with a warning");
	}
	$c->start($victim);
	healed($label, $ride, $want);
}

kill_at('c', 'c', 'before-prepare', 'a1');
kill_at('a', 'a', 'prepare-wait', 'a1');
kill_at('b', 'b', 'before-commit-prepared', 'b2');
kill_at('c', 'c', 'before-commit-prepared', 'b2');

# Participants: before PREPARE the handoff fails, after it it goes through.
for my $pair ([ 'a', 'b' ], [ 'b', 'a' ], [ 'c', 'a' ], [ 'c', 'b' ])
{
	kill_at(@$pair, 'before-prepare', 'a1');
	kill_at(@$pair, 'after-prepare', 'b2');
	kill_at(@$pair, 'after-local-commit', 'b2');
}
kill_at('c', 'a', 'before-commit-prepared', 'b2');
$c->check_all('one server at a time');

# Two handoffs wait, one before and one after its decision; then all die.
for my $role (sort keys %coordinator)
{
	my $on = $coordinator{$role};
	my ($stays, $goes) = $c->add_rides('a', "all-$role-stays", "all-$role-goes");
	my @sessions = (
		$c->start_waiting($on, "SELECT fleet.handoff('$stays', 'b')", 'after-prepare'),
		$c->start_waiting($on, "SELECT fleet.handoff('$goes', 'b')", 'after-local-commit'));

	$c->kill9($_) for $c->names;
	$_->finish for @sessions;
	$c->start($_) for $c->names;
	healed("all die, coordinator is the $role: undecided", $stays, 'a1');
	is($c->where($goes), 'b2', "all die, coordinator is the $role: decided");
}

# The coordinator stays away for a while: what it prepared waits for it, and
# keeps waiting over a restart of the participant.
{
	my ($ride) = $c->add_rides('a', 'away');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->kill9('c');
	$session->finish;
	$c->stop('b');
	$c->start('b');
	sleep 1;
	is($c->sql('a', 'SELECT count(*) FROM pg_prepared_xacts') . $c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts'),
		'11', 'without their coordinator the participants wait');
	is($c->sql('b', "SELECT role, peer, state, last_error IS NOT NULL FROM fleet.in_doubt"),
		'participant|node_c|prepared|t', 'fleet.in_doubt says for whom');
	is($c->try_sql('a', "SELECT fleet.handoff('$ride', 'b')")->{state}, 'RF002', 'the ride is locked until then');
	$c->start('c');
	healed('the coordinator comes back', $ride, 'b2');
}

$c->check_all('in the end');
note(sprintf 'longest time from "all up" to "all finished": %.2f s', $longest);
done_testing();
