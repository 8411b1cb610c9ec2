# fleet: the backend that coordinates a handoff fails, at each step.
# Copyright (c) 2026, the fleet authors
#
# Proves "decided once": whatever happens to the coordinator's backend before
# its local commit (an error, cancel, terminate, SIGKILL), the ride stays at its
# source; whatever happens after it, the ride goes to its target.  The backend is
# on the source, on the target, or on a third node.  A participant's backend that
# fails before it has prepared changes nothing.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my %coordinator = (source => 'a', target => 'b', third => 'c');
my @undecided = ('before-prepare', 'prepare-wait', 'after-prepare');
my @decided = ('after-local-commit', 'before-commit-prepared', 'after-commit-prepared');
my @points = (@undecided, @decided);

sub is_decided { my $point = shift; return scalar grep { $_ eq $point } @decided }

# A session that is to end after its commit may see that before it leaves itself.
sub told
{
	my ($result, $expected) = @_;
	return $expected eq '' && $result->{state} eq '57P01' && $result->{out} eq '2' ? '' : $result->{state};
}

# Where the rides of these points must be: what was decided, and nothing else.
sub check_places
{
	my ($label, %ride) = @_;
	my %place;
	@place{@points} = $c->places([ @ride{@points} ]);
	is($place{$_}, is_decided($_) ? 'b2' : 'a1', "$label at $_") for @points;
}

# A fault that acts by itself, at all points in sessions side by side.
sub act_at_all_points
{
	my ($role, $action, %expect) = @_;
	my $on = $coordinator{$role};
	my %ride = map { $_ => ($c->add_rides('a', "$role-$action-$_"))[0] } @points;
	my %session =
	  map { $_ => $c->start_sql($on, "SELECT fleet.handoff('$ride{$_}', 'b')", fault => "$_=$action") } @points;

	for my $point (@points)
	{
		my $result = $session{$point}->finish;
		is(told($result, $expect{ is_decided($point) ? 'decided' : 'undecided' }), $expect{ is_decided($point) ? 'decided' : 'undecided' },
			"$action of the $role at $point: what the caller is told")
		  or diag($result->{err});
	}
	$c->heal;
	check_places("$action of the $role", %ride);
}

# A session waits at each point; all get the signal, then they may go on.
sub signal_at_all_points
{
	my ($role, $function, %expect) = @_;
	my $on = $coordinator{$role};
	my %ride = map { $_ => ($c->add_rides('a', "$role-$function-$_"))[0] } @points;
	my %session =
	  map { $_ => $c->start_waiting($on, "SELECT fleet.handoff('$ride{$_}', 'b')", $_) } @points;

	$c->sql($on, "SELECT $function(" . $session{$_}->backend . ')') for @points;
	$c->go($on, $_) for @points;
	for my $point (@points)
	{
		my $result = $session{$point}->finish;
		is(told($result, $expect{ is_decided($point) ? 'decided' : 'undecided' }), $expect{ is_decided($point) ? 'decided' : 'undecided' },
			"$function on the $role at $point: what the caller is told")
		  or diag($result->{err});
	}
	$c->heal;
	check_places("$function on the $role", %ride);
}

for my $role (sort keys %coordinator)
{
	act_at_all_points($role, 'error', undecided => 'XX000', decided => '');
	act_at_all_points($role, 'exit', undecided => '57P01', decided => '');
	signal_at_all_points($role, 'pg_cancel_backend', undecided => '57014', decided => '');
	signal_at_all_points($role, 'pg_terminate_backend', undecided => '57P01', decided => '');
	$c->check_all("signals on the $role");
}

# SIGKILL of one backend: its whole server starts anew.
for my $role (sort keys %coordinator)
{
	my $on = $coordinator{$role};
	my %ride = map { $_ => ($c->add_rides('a', "$role-kill-$_"))[0] } @points;

	for my $point (@points)
	{
		my $offset = $c->log_size($on);
		my $result = $c->try_sql($on, "SELECT fleet.handoff('$ride{$point}', 'b')", fault => "$point=kill");
		ok(!$result->{ok} && $result->{err} =~ /server closed the connection/, "kill of the $role at $point");
		$c->wait_restarted($on, $offset);
	}
	$c->check_all("kill of the $role");
	check_places("kill of the $role", %ride);
}

# A participant fails before it has prepared.
for my $case ([ 'depart-locked', 'a' ], [ 'arrived', 'b' ])
{
	my ($point, $participant) = @$case;
	for my $action ('error', 'kill')
	{
		my ($ride) = $c->add_rides('a', "participant-$action-$point");
		$c->set_system($participant, 'fleet.fault', "$point=$action");
		my $offset = $c->log_size($participant);
		my $result = $c->try_sql('c', "SELECT fleet.handoff('$ride', 'b')");
		ok(!$result->{ok}, "$action of a participant at $point: the handoff fails");
		$c->wait_restarted($participant, $offset) if $action eq 'kill';
		$c->set_system($participant, 'fleet.fault', undef);
		is($c->where($ride), 'a1', "$action of a participant at $point: the ride stays");
		is($c->sql('c', "SELECT fleet.handoff('$ride', 'b')"), 2, 'and can be handed off afterwards');
	}
}
$c->check_all('participants');

done_testing();
