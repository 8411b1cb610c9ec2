# fleet: the resolver's rules, switched off one at a time.
# Copyright (c) 2026, the fleet authors
#
# A rule that no test needs is not known to work.  Each scenario below needs one
# rule of the resolver.  It is run twice: as it is, where the ride must end where
# it was decided; and with that rule switched off on one node, where it must not,
# and the tests' own look at the tables and fleet.verify() must both say so.
#
#	rule										scenario
#	running is looked for before the record		record_first
#	an unknown incarnation decides nothing		lost_decision
#	evidence needs every node's answer			missing_answer
#	evidence ends the coordinator's sessions	commit_waits
#	"abort" is not for who went back in time	older_branch
#	a lost PREPARE is made again				lost_prepare
#	what is made again is held back by epochs	moved_on
#	all confirm before a decision is settled	away
#	a branch that backs off keeps its decision	backed_off
#	departures are settled before it goes		source_away
#	and by their source where it has gone		lost_decision, again
#
# Two more are in 006_lost_prepare.pl (a participant that does not know a branch
# has not confirmed it) and in 007_resolver.pl (a running transaction is not an
# aborted one).

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(settings => "fleet.commit_timeout = 300\nfleet.connect_timeout = 300");
my $rides = 0;

# ---- running a scenario

# Forget a ride, so that what was broken on purpose breaks nothing else.  A branch
# of it that is about to be committed would leave its departure behind later.
sub forget
{
	my ($ride) = @_;
	my $deadline = time + 20;

	sleep 0.05 while time < $deadline && grep { $c->sql($_, 'SELECT count(*) FROM pg_prepared_xacts') } $c->names;
	delete $c->{rides}{$ride};
	for my $name ($c->names)
	{
		$c->sql($name, "SET session_replication_role = replica; DELETE FROM fleet.local_rides WHERE ride_id = '$ride';"
			. "DELETE FROM fleet.departures WHERE key = '$ride'; DELETE FROM fleet.handoff_log WHERE ride_id = '$ride';"
			. 'DELETE FROM fleet.decisions; RESET session_replication_role');
	}
}

sub verify_says
{
	return $c->sql('a', "SELECT string_agg(check_name || ' ' || ids::text, ',') FROM fleet.verify() WHERE problems > 0");
}

# Does it end like that, and stay so?
sub ends_at
{
	my ($ride, $place) = @_;

	eval { $c->wait_until(sub { $c->where($ride) eq $place }, "$ride is at '$place'", 5) } or return $c->where($ride);
	sleep 0.7;
	return $c->where($ride);
}

# rule(name, code, node => where the rule is switched off, right => place,
# broken => place or, for what is no matter of places, a pattern of what
# unfinished() says).  The code gets a ride at a, to be handed off to b by c, and
# the fault that switches the rule off, or ''.
sub rule
{
	my ($switch, $code, %opt) = @_;

	for my $off (0, 1)
	{
		my $label = $switch . ($off ? ' switched off' : '');
		my ($ride) = $c->add_rides('a', $switch . '-' . ++$rides);

		$c->set_system($opt{node}, 'fleet.fault', "$switch=on") if $off && !$opt{by_code};
		$code->($ride, $off);
		if (!$off)
		{
			$c->check_all($label, log => 0, settled => $opt{settled} // 1);
			is($c->where($ride), $opt{right}, "$label: the ride is where it should be");
		}
		elsif (ref $opt{broken})
		{
			sleep 4;
			like($c->unfinished, $opt{broken}, "$label: the test sees what is not finished");
		}
		else
		{
			is(ends_at($ride, $opt{broken}), $opt{broken}, "$label: the ride is not where it should be");
			like($c->wrong_rides, qr/^\Q$ride\E is at/m, "$label: the test sees it");
			like(verify_says(), qr/(?:missing|doubled) \{"ride \Q$ride\E"\}/, "$label: fleet.verify sees it");
		}
		$c->set_system($_, 'fleet.fault', undef) for $c->names;
		forget($ride);
	}
}

sub handoff { return "SELECT fleet.handoff('$_[0]', 'b')" }

# End c's sessions at b, and let it open no new ones; or let it again.
sub part
{
	$c->sql('c', "ALTER SERVER fleet_b OPTIONS (SET port '1')");
	$c->sql('b', "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fleet:node_c'");
}

sub join_again { $c->sql('c', "ALTER SERVER fleet_b OPTIONS (SET port '" . $c->{nodes}{b}{server}->port . "')") }

# The resolver of a node rests, or works as ever.
sub rest
{
	my ($name, $interval) = @_;
	$c->set_system($name, 'fleet.resolve_interval', $interval);
	sleep 0.4;
}

# ---- what the coordinator says

# b asks while the transaction still runs; it commits before c has answered.  A
# coordinator that looks for the record first, finds none, then looks whether it
# runs, and calls it aborted.  The answer has one second, so it is tried again
# where the machine was slow.
sub record_first
{
	my ($ride, $off) = @_;

	for my $try (1 .. 5)
	{
		my $session = $c->start_waiting('c', handoff($ride), 'after-prepare');
		my $offset = $c->log_size('c');

		part();
		$c->ungo('c', 'outcome-look');
		# Without the redo that would mend it.
		$c->set_system('c', 'fleet.fault', 'outcome-look=wait,push-no-redo=on' . ($off ? ',outcome-record-first=on' : ''));
		$c->wait_until(sub { $c->log_has('c', qr/fleet:node_b LOG:  fleet fault point "outcome-look" reached/, $offset) }, 'b asks');
		$c->go('c', 'after-prepare');
		ok($session->finish->{ok}, 'it is committed while b waits for the answer');
		$c->go('c', 'outcome-look');
		$c->wait_until(sub { $c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts') eq '0' }, 'b has acted');
		join_again();
		last if !$off || $c->where($ride) eq '';
		$c->heal;
		$c->sql('a', "SELECT fleet.handoff('$ride', 'a')");
		$c->heal;
	}
}
rule('outcome-record-first', \&record_first, by_code => 1, right => 'b2', broken => '');

# c decides, b commits, a is frozen before it can; c is killed and promoted
# without the decision.
sub lose_decision
{
	my ($ride, @also) = @_;

	$c->save('c');
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');
	$c->freeze('a');
	$c->go('c', 'after-local-commit');
	$session->finish;
	$c->wait_until(sub { $c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'") eq '1' }, 'b has committed');
	$c->kill9($_) for 'a', @also;    # not thawed: it would still read the COMMIT PREPARED
	$c->go_back('c', promote => 1);
	$c->start('a');
}

sub lost_decision { lose_decision($_[0]) }
rule('outcome-unknown-aborts', \&lost_decision, node => 'c', right => 'b2', broken => 'a1+b2');

rule('orphans-stay', \&lost_decision, node => 'a', right => 'b2', broken => qr/unsettled ride orphans-stay/);

# ---- evidence

# The same, where the node that has committed is away for a while.
sub missing_answer
{
	my ($ride, $off) = @_;

	lose_decision($ride, 'b');
	sleep 1.5;
	is($c->sql('a', 'SELECT count(*) FROM pg_prepared_xacts'), $off ? 0 : 1, $off ? 'a has acted' : 'a waits for b');
	$c->start('b');
}
rule('evidence-missing-is-no', \&missing_answer, node => 'a', right => 'b2', broken => 'a1+b2');

# The same, where b is just committing: it waits for a synchronous standby, and
# nobody sees its half yet.
sub commit_waits
{
	my ($ride) = @_;

	$c->save('c');
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');
	$c->sql('b', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()");
	sleep 0.5;
	$c->freeze('a');
	$c->go('c', 'after-local-commit');
	$session->finish;
	is($c->sql('b', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fleet:node_c' AND wait_event = 'SyncRep'"),
		1, 'the old coordinator\'s COMMIT PREPARED waits at b');
	$c->kill9($_) for 'a', 'c';
	is($c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'"), 0, 'and is not seen');
	$c->go_back('c', promote => 1);
	$c->start('a');
	$c->wait_until(sub { $c->sql('a', 'SELECT count(*) FROM pg_prepared_xacts') eq '0' }, 'a has acted');
	$c->sql('b', 'ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()');
}
rule('evidence-no-fence', \&commit_waits, node => 'a', right => 'b2', broken => 'a1+b2');

# ---- a participant that went back in time

# To when its branch was prepared; everybody else has confirmed and forgotten it.
sub older_branch
{
	my ($ride) = @_;
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');

	$c->save('b');
	$c->go('c', 'after-local-commit');
	$session->finish;
	ok(defined $c->heal, 'it is committed, settled and forgotten');
	$c->go_back('b', promote => 1);
	is($c->sql('b', 'SELECT incarnation = fleet.incarnation() FROM fleet.node'), 't', 'b has a new incarnation')
	  if $c->wait_until(sub { $c->sql('b', 'SELECT incarnation = fleet.incarnation() FROM fleet.node') eq 't' }, 'b knows');
	$c->wait_until(sub { $c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts') eq '0' }, 'b has acted');
}
rule('pull-ignores-older', \&older_branch, node => 'b', right => 'b2', broken => '');

# ---- redo

sub lost_prepare
{
	my ($ride) = @_;

	$c->save('b');
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');
	$c->go_back('b');
	$c->go('c', 'after-local-commit');
	$session->finish;
}
rule('push-no-redo', \&lost_prepare, node => 'c', right => 'b2', broken => '');

# The ride has come back to a before c has written down that all is confirmed.
# c dies, and asks a again.  a's log, which would tell it that there is nothing to
# do, was cleared too early: only the epochs are left to hold the redo back.
sub moved_on
{
	my ($ride, $off) = @_;
	my $source = $c->sql('a', "SELECT pg_get_functiondef('fleet.depart_again(text, jsonb)'::regprocedure)");
	my $session = $c->start_waiting('c', handoff($ride), 'after-commit-prepared');

	$c->wait_until(sub { $c->where($ride) eq 'b2' }, 'the ride is at b');
	$c->sql('b', "SELECT fleet.handoff('$ride', 'a')");
	$c->sql('a', "DELETE FROM fleet.handoff_log WHERE ride_id = '$ride' AND epoch = 2");
	if ($off)
	{
		my $changed = $source;
		is($changed =~ s/d\.epoch >= a\.epoch/false/ + $changed =~ s/AND epoch < \$2/AND epoch <> \$2/, 2, 'the epochs are not asked');
		$c->sql('a', $changed);
	}
	my $offset = $c->log_size('c');
	$c->kill9('c');
	$session->finish;
	$c->start('c');
	$c->wait_until(sub { $c->log_has('c', qr/its request is made again/, $offset) }, 'c makes the request again');
	ok(defined $c->heal, 'it is settled');
	$c->sql('a', $source) if $off;
}
rule('redo-ignores-epochs', \&moved_on, by_code => 1, right => 'a3', broken => '');

# ---- settling

sub away
{
	my ($ride) = @_;
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');

	$c->kill9('b');
	$c->go('c', 'after-local-commit');
	$session->finish;
	sleep 1.5;
	$c->start('b');
}
rule('settle-unconfirmed', \&away, node => 'c', right => 'b2', broken => '');

# b refuses COMMIT PREPARED for a reason of its own, so c leaves that branch alone
# for longer each time; a has confirmed.  b's own resolver rests.
sub backed_off
{
	my ($ride) = @_;
	my $mapping = 'ALTER USER MAPPING FOR PUBLIC SERVER fleet_b OPTIONS (SET "user" %s)';

	$c->sql('b', "DO 'BEGIN IF to_regrole(''stranger'') IS NULL THEN CREATE ROLE stranger LOGIN; END IF; END'");
	rest('b', '60s');
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');
	$c->sql('c', sprintf $mapping, "'stranger'");
	part();
	join_again();
	$c->go('c', 'after-local-commit');
	$session->finish;
	# The fifth comes more than three seconds after the fourth.
	eval { $c->wait_until(sub { $c->sql('c', 'SELECT count(*) FROM fleet.resolution WHERE attempts >= 4') eq '1' }, 'b has refused', 6) };
	sleep 1;
	$c->sql('c', sprintf $mapping, "'fleet_node'");
	rest('b', undef);
}
rule('push-forgets-waiting', \&backed_off, node => 'c', right => 'b2', broken => '');

# All have confirmed; a is away when c wants to settle the departure there.
sub source_away
{
	my ($ride) = @_;

	rest('c', '60s');
	$c->set_system('a', 'fleet.fault', 'orphans-stay=on');    # which would mend it
	$c->sql('c', handoff($ride));
	$c->kill9('a');
	rest('c', undef);
	sleep 1;
	$c->start('a');
}
rule('settle-forgets-untold', \&source_away, node => 'c', right => 'b2', broken => qr/unsettled ride settle-forgets-untold/);

done_testing();
