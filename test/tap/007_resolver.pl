# fleet: the resolver, and the operator's last resort.
# Copyright (c) 2026, the fleet authors
#
# Proves: a transaction that still runs is never taken for an aborted one; one
# that is stuck holds up no other, whether its coordinator is dead or silent;
# fleet.resolve() finishes what no coordinator will, and refuses what would
# contradict one.  Switching the rule off shows that the first test can fail.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my $prepared = 'SELECT count(*) FROM pg_prepared_xacts';

# ---- a coordinator that takes its time

for my $case ([ 'a', 'b' ], [ 'b', 'a' ], [ 'c', 'a', 'b' ])
{
	my ($on, @participants) = @$case;
	my ($ride) = $c->add_rides('a', "slow-$on");
	my $session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", 'after-prepare');

	sleep 1.2;    # six rounds of each resolver
	is($c->sql($_, $prepared), 1, "coordinator $on is slow: $_ keeps its branch prepared") for @participants;
	is($c->sql($participants[0], "SELECT role, peer, state FROM fleet.in_doubt"),
		"participant|node_$on|prepared", 'fleet.in_doubt shows it');
	my $gid = $c->sql($participants[0], 'SELECT gid FROM fleet.in_doubt');
	is($c->try_sql($participants[0], "SELECT fleet.resolve('$gid', '$_')")->{state},
		'RF022', "fleet.resolve: $_ is refused while the coordinator says that it runs")
	  for 'abort', 'commit';
	$c->go($on, 'after-prepare');
	my $result = $session->finish;
	ok($result->{ok} && $result->{err} eq '', "coordinator $on is slow: its commit succeeds") or diag($result->{err});
	is($c->where($ride), 'b2', "coordinator $on is slow: the ride is at its target");
}
$c->check_all('slow coordinators');

# ---- one that is stuck holds up no other

# Coordinator c is away, with branches prepared at a and b; then one of a fails.
for my $way ('dead', 'silent')
{
	my @stuck = $c->add_rides('a', map { "stuck-$way-$_" } 1 .. 5);
	my ($stays, $goes) = $c->add_rides('a', "free-$way-1", "free-$way-2");
	my $session = $c->start_waiting('c', "SELECT fleet.handoff(ARRAY['" . join("','", @stuck) . "'], 'b')", 'after-local-commit');

	$way eq 'dead' ? $c->kill9('c') : $c->freeze('c');
	sleep 0.5;

	# Two transactions of a that only b's or a's resolver can finish.
	$c->try_sql('a', "SELECT fleet.handoff('$stays', 'b')", fault => 'after-prepare=crash');
	$c->wait_dead('a');
	$c->start('a');
	$c->try_sql('a', "SELECT fleet.handoff('$goes', 'b')", fault => 'after-local-commit=crash');
	$c->wait_dead('a');
	$c->start('a');
	my $start = time;
	my $own = "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'fleet:node_a:%'";
	$c->wait_until(sub { $c->sql('b', $own) eq '0' }, "what a coordinated is finished at b while c is $way");
	my $took = time - $start;
	cmp_ok($took, '<', 5, sprintf 'while c is %s, others are finished within 5 s (%.2f s)', $way, $took);
	is(join(' ', $c->sql('a', "SELECT count(*) FROM fleet.local_rides WHERE ride_id IN ('$stays', '$goes')"),
			$c->sql('b', "SELECT ride_id FROM fleet.local_rides WHERE ride_id IN ('$stays', '$goes')")),
		"1 $goes", "while c is $way, they end as decided");
	is($c->sql('b', $prepared), 1, "while c is $way, what it coordinated waits");

	$way eq 'dead' ? $c->start('c') : $c->thaw('c');
	$c->go('c', 'after-local-commit');
	$session->finish;
	$c->check_all("c was $way");
	is(join(' ', $c->places(\@stuck)), 'b2 b2 b2 b2 b2', "c was $way: what it had decided is done");
}

# ---- fleet.resolve

# The coordinator is gone; the operator knows how it ended.
for my $case ([ 'commit', 'after-local-commit', 'b2' ], [ 'abort', 'after-prepare', 'a1' ])
{
	my ($outcome, $point, $want) = @$case;
	my ($ride) = $c->add_rides('a', "operator-$outcome");
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", $point);
	$c->kill9('c');
	$session->finish;
	for my $node ('a', 'b')
	{
		my $gid = $c->sql($node, 'SELECT gid FROM fleet.in_doubt');
		$c->sql($node, "SELECT fleet.resolve('$gid', '$outcome')");
		is($c->sql($node, $prepared), 0, "fleet.resolve: $outcome at $node while the coordinator is gone");
	}
	is($c->sql('a', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'")
		  . $c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'"),
		$outcome eq 'commit' ? '01' : '10', "fleet.resolve: $outcome took effect");
	$c->start('c');
	$c->check_all("the coordinator is back after fleet.resolve $outcome");
	is($c->where($ride), $want, "the coordinator is back after fleet.resolve $outcome: nothing changes");
}

# The coordinator is there and its answer is known: the opposite is refused.
# So that there is time to try, b's resolver is slow and c cannot reach b.
{
	my ($ride) = $c->add_rides('a', 'refused');
	my $server = "ALTER SERVER fleet_b OPTIONS (SET port '%d')";
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->sql('c', sprintf $server, 1);
	$c->kill9('b');
	append_settings('b', 'fleet.resolve_interval = 60s');
	$c->start('b');
	$c->go('c', 'after-local-commit');
	ok($session->finish->{ok}, 'a decided handoff whose target cannot be reached');
	my $gid = $c->sql('b', 'SELECT gid FROM pg_prepared_xacts');

	is($c->try_sql('b', "SELECT fleet.resolve('$gid', 'abort')")->{state}, 'RF022',
		'fleet.resolve: abort is refused where the coordinator says commit');
	is($c->try_sql('c', "SELECT fleet.resolve('$gid', 'abort')")->{state}, 'RF022',
		'fleet.resolve: abort is refused on the coordinator');
	$c->wait_until(sub { $c->sql('c', "SELECT count(*) FROM fleet.in_doubt WHERE gid = '$gid' AND last_error <> ''") eq '1' },
		'c says what is in doubt and why');
	is($c->sql('c', "SELECT role, peer, state FROM fleet.in_doubt WHERE gid = '$gid'"),
		'coordinator|b|committed, not confirmed', 'fleet.in_doubt on the coordinator');
	is($c->try_sql('b', "SELECT fleet.resolve('$gid', 'perhaps')")->{state}, '22023', 'fleet.resolve: no such outcome');
	is($c->try_sql('b', "SELECT fleet.resolve('$gid' || '1', 'abort')")->{state}, '42704', 'fleet.resolve: no such gid');
	$c->sql('b', "SELECT fleet.resolve('$gid', 'commit')");
	$c->sql('c', sprintf $server, $c->{nodes}{b}{server}->port);
	append_settings('b', 'fleet.resolve_interval = 200ms');
	$c->sql('b', 'SELECT pg_reload_conf()');
	$c->check_all('after the refusals');
	is($c->where($ride), 'b2', 'after the refusals the ride is at its target');
}

sub append_settings
{
	my ($name, $text) = @_;
	PostgreSQL::Test::Utils::append_to_file("$c->{nodes}{$name}{data}/postgresql.conf", "$text\n");
}

# Somebody else's prepared transactions: not ours to finish, and no obstacle.
{
	my $foreign = 'fleet:not one of ours';
	my $ghost = 'fleet:node_ghost:1.00000001:5:0123456789abcdef:0';
	my ($ride) = $c->add_rides('a', 'beside');
	$c->sql('b', "BEGIN; SELECT txid_current(); PREPARE TRANSACTION '$_'") for $foreign, $ghost;
	$c->try_sql('a', "SELECT fleet.handoff('$ride', 'b')", fault => 'after-local-commit=crash');
	$c->wait_dead('a');
	$c->start('a');
	$c->wait_until(sub { $c->sql('b', "$prepared WHERE gid LIKE 'fleet:node_a:%'") eq '0' }, 'ours is finished');
	sleep 0.5;
	is($c->sql('b', $prepared), 2, 'prepared transactions of unknown origin are left alone');
	like($c->sql('b', "SELECT last_error FROM fleet.in_doubt WHERE gid = '$ghost'"), qr/not in the region map/,
		'fleet.in_doubt says what is wrong with one of an unknown node');
	$c->sql('b', "SELECT fleet.resolve('$ghost', 'abort')");
	$c->sql('b', "ROLLBACK PREPARED '$foreign'");
	$c->check_all('beside those of others');
}

# ---- proof that the first test can fail

# A coordinator that does not see that its transaction still runs: its branch is
# rolled back under it, somebody else takes the ride, and it exists twice.
{
	my ($ride) = $c->add_rides('a', 'mutation');
	$c->set_system('c', 'fleet.fault', 'outcome-ignores-running=on');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-prepare');
	$c->wait_until(sub { $c->sql('a', $prepared) eq '0' && $c->sql('b', $prepared) eq '0' }, 'the branches are rolled back');
	pass('with the rule switched off a running transaction loses its branches');
	$c->sql('a', "SELECT fleet.handoff('$ride', 'c')");
	$c->go('c', 'after-prepare');
	$session->finish;
	$c->heal(settled => 0);
	is($c->where($ride), 'b2+c2', 'and the ride lives twice');
	is($c->sql('a', "SELECT check_name, problems, ids FROM fleet.verify() WHERE problems > 0"),
		"doubled|1|{\"ride $ride\"}", 'fleet.verify says so');
	like($c->wrong_rides, qr/^mutation is at \(b c\)/m, 'and so does this test');
}

done_testing();
