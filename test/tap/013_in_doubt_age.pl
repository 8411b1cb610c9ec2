# fleet: what stays in doubt for too long raises an alarm, and stops more of it.
# Copyright (c) 2026, the fleet authors
#
# Proves: past fleet.max_in_doubt_age a branch in doubt is reported in the log
# and by NOTIFY, once; this node then refuses handoffs from and to the region of
# that peer, at once and with the gid, and no others; a branch that was confirmed
# is not held against its region while another one of the same transaction is
# open; all is as before when the doubt is resolved, and without the setting.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(
	settings => "fleet.max_in_doubt_age = 2s\nfleet.commit_timeout = 300\nfleet.connect_timeout = 300");

# Sessions that keep what they are notified of.
sub listen_on
{
	my ($name) = @_;
	return $c->start_sql($name, "LISTEN fleet_alert;\n" . "SELECT pg_sleep(0.5);\n" x 9);
}

sub wait_refused
{
	my ($on, $region) = @_;
	$c->wait_until(sub { alarms($on, $region) > 0 }, "$on has raised the alarm about $region");
	sleep 0.1;
}

my %offset = map { $_ => 0 } $c->names;

sub alarms
{
	my ($on, $region) = @_;
	return scalar(() = $c->log_text($on, $offset{$on}) =~ /WARNING:  fleet: a transaction with region "$region" has been in doubt/g);
}

sub forget_log { $offset{$_} = $c->log_size($_) for $c->names }

# A handoff that must be refused, at once, though the peer does not answer.
sub refused
{
	my ($on, $ride, $target, $region, $gid) = @_;
	my $start = time;
	my $result = $c->try_sql($on, "SELECT fleet.handoff('$ride', '$target')");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($result->{state}, 'RF025', "on $on: handoff of $ride to $target is refused") or diag($result->{err});
	like($result->{err}, qr/transaction with region "$region" has been in doubt for too long/, 'the error says with whom');
	like($result->{err}, qr/DETAIL:  Branch "\Q$gid\E" is \d+ s old; fleet.max_in_doubt_age is 2000 ms\./, 'which branch, and how old');
	like($result->{err}, qr/HINT:.*fleet\.in_doubt.*fleet\.resolve/, 'and what to do');
	return time - $start;
}

# The resolver lifts it at the end of a round.
sub goes_on
{
	my ($on, $ride, $target, $epoch, $label) = @_;
	my $result;

	$c->wait_until(sub { ($result = $c->try_sql($on, "SELECT fleet.handoff('$ride', '$target')"))->{state} ne 'RF025' }, $label);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($result->{out}, $epoch, $label) or diag($result->{err});
}

# ---- the coordinator of what is prepared here is away

{
	my ($stuck, $mine, $yours) = $c->add_rides('a', 'stuck', 'mine', 'yours');
	my @listening = map { listen_on($_) } 'a', 'b';
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$stuck', 'b')", 'after-local-commit');

	$c->kill9('c');
	$session->finish;
	is($c->try_sql('a', "SELECT fleet.handoff('$mine', 'c')")->{state}, '08001', 'before that age a handoff is tried');
	wait_refused($_, 'c') for 'a', 'b';
	my $gid = $c->sql('a', 'SELECT gid FROM fleet.in_doubt');
	my $took = refused('a', $mine, 'c', 'c', $gid);
	cmp_ok($took, '<', 0.5, sprintf 'without waiting for it (%.2f s)', $took);
	is($c->sql('a', "SELECT fleet.handoff('$yours', 'b')"), 2, 'a and b hand off to each other as ever');
	is($c->sql('b', "SELECT fleet.handoff('$yours', 'a')"), 3, 'in both directions');
	my $map = $c->try_sql('a', "SELECT fleet.set_capacity('a', 100)");
	is($map->{state}, 'RF025', 'a change of the map needs that node, too') or diag($map->{err});

	for my $name ('a', 'b')
	{
		my $got = shift(@listening)->finish->{out};
		my @payloads = $got =~ /notification "fleet_alert" with payload "(.*)" received/g;
		is(scalar @payloads, 1, "$name has notified once") or diag($got);
		like($payloads[0] // '', qr/^\{"kind" : "in_doubt", "region" : "c", "gid" : "fleet:node_c:.*:\d", "age_s" : [2-9]\}$/,
			"$name says what, with whom and since when");
		is(alarms($name, 'c'), 1, "$name has written it to the log once");
		is(alarms($name, $name eq 'a' ? 'b' : 'a'), 0, "$name says nothing of others");
	}

	$c->set_system('a', 'fleet.max_in_doubt_age', '0');
	$c->wait_until(sub { $c->try_sql('a', "SELECT fleet.handoff('$mine', 'c')")->{state} eq '08001' },
		'with 0 the refusal is off');
	pass('with 0 the refusal is off');
	$c->set_system('a', 'fleet.max_in_doubt_age', undef);
	$c->start('c');
	$c->check_all('the coordinator is back');
	$c->wait_until(sub { $c->log_has('b', qr/LOG:  fleet: nothing is in doubt for too long with region "c" any more/) },
		'b says that it is over');
	goes_on('a', $mine, 'c', 2, 'handoffs to it go on');
	goes_on('b', $stuck, 'c', 3, 'from b as well');
}

# ---- what was decided here is not confirmed

# Coordinated by c from a to b, where b is away: a has confirmed, b has not.
{
	my ($ride, $other, $more) = $c->add_rides('a', 'unconfirmed', 'other', 'more');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');

	forget_log();
	$c->kill9('b');
	$c->go('c', 'after-local-commit');
	like($session->finish->{err}, qr/1 of its nodes did not confirm/, 'one node has confirmed, one has not');
	wait_refused('c', 'b');
	is($c->sql('c', "SELECT fleet.handoff('$other', 'c')"), 2, 'with the one that has, handoffs go on');
	refused('c', 'other', 'b', 'b', $c->sql('c', "SELECT gid FROM fleet.in_doubt WHERE peer = 'b'"));
	is(alarms('c', 'a'), 0, 'no alarm about it');
	is($c->try_sql('a', "SELECT fleet.handoff('$more', 'b')")->{state}, '08001', 'a, which is not in doubt, tries');
	$c->start('b');
	$c->check_all('the participant is back');
	goes_on('c', $other, 'b', 3, 'handoffs to it go on');
}

# ---- a peer that answers, and cannot say how it ended

# Its incarnation is unknown, and while c is away not every node can be asked.
{
	my ($ride) = $c->add_rides('b', 'at-b');
	my ($own) = $c->add_rides('a', 'at-a');
	my $gid = 'fleet:node_b:9.00000001:5:0123456789abcdef:0';
	my $ghost = 'fleet:node_ghost:9.00000001:5:0123456789abcdef:0';

	forget_log();
	$c->kill9('c');
	$c->sql('a', "BEGIN; SELECT txid_current(); PREPARE TRANSACTION '$_'") for $gid, $ghost;
	wait_refused('a', 'b');
	refused('a', $ride, 'a', 'b', $gid);
	refused('a', $own, 'b', 'b', $gid);
	is($c->sql('b', "SELECT fleet.handoff('$ride', 'a')"), 2, 'b knows of no doubt');
	like($c->log_text('a', $offset{a}), qr/WARNING:  fleet: a transaction of a node that is not on the region map has been in doubt/,
		'a coordinator that is on no map raises the alarm');

	# A restart forgets nothing that matters.
	$c->stop('a');
	$c->start('a');
	$c->wait_until(sub { $c->try_sql('a', "SELECT fleet.handoff('$own', 'b')")->{state} eq 'RF025' }, 'refused again after a restart');
	pass('refused again after a restart');
	$c->sql('a', "SELECT fleet.resolve('$_', 'abort')") for $gid, $ghost;
	$c->wait_until(sub { $c->try_sql('a', "SELECT fleet.handoff('$own', 'b')")->{ok} }, 'fleet.resolve ends it');
	pass('fleet.resolve ends it');
	$c->start('c');
}

$c->check_all('in the end');
done_testing();
