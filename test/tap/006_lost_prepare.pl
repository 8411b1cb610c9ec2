# fleet: a node loses what it had prepared, or decided.
# Copyright (c) 2026, the fleet authors
#
# Without a synchronous standby a failover can take a node back in time.  Here a
# node is killed and a copy of its data folder, taken before the PREPARE, is
# started in its place; some of these copies are promoted, which begins a new
# incarnation.
#
# Proves: a decided handoff whose PREPARE is lost on the target, on the source or
# on both is made again from the decision record, once; a branch that was applied
# is never made again, also where the ride has moved on; a coordinator that lost
# its decision does not decide on hearsay: its participants act by evidence.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(settings => 'fleet.commit_timeout = 300');

# A handoff from a to b that is decided on one node while others go back.
sub lose
{
	my ($on, $victims, %opt) = @_;
	my $label = "coordinator $on, PREPARE lost on @$victims" . ($opt{promote} ? ', promoted' : '');
	my ($ride) = $c->add_rides('a', $label =~ s/\W+/-/gr);

	$c->save($_) for @$victims;
	my $offset = $c->log_size($on);
	my $session = $c->start_waiting($on, "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->go_back($_, %opt) for @$victims;
	is(join(' ', map { $c->sql($_, 'SELECT count(*) FROM pg_prepared_xacts') } @$victims),
		join(' ', map { 0 } @$victims), "$label: it is lost");
	$c->go($on, 'after-local-commit');
	my $result = $session->finish;
	ok($result->{ok} && $result->{err} =~ /did not confirm it yet/, "$label: the caller is told that it is committed")
	  or diag($result->{err});
	$c->check_all($label, log => 0);
	is($c->where($ride), 'b2', "$label: the ride is at its target");
	is(scalar(() = $c->log_text($on, $offset) =~ /the PREPARE of ".*?" is lost/g), scalar @$victims,
		"$label: each branch was made again once");
	is($c->sql('a', "SELECT target, epoch, settled_hlc IS NOT NULL FROM fleet.departures WHERE key = '$ride'"),
		'b|2|t', "$label: the source has its departure, settled");
	return $ride;
}

lose('a', ['b']);
lose('c', ['b']);
lose('b', ['a']);
lose('c', ['a']);
lose('c', [ 'a', 'b' ]);
lose('a', ['b'], promote => 1);
like($c->sql('b', 'SELECT incarnation FROM fleet.node'), qr/^2\./, 'a promoted node has a new incarnation');
my $ride = lose('c', ['a'], promote => 1);
is($c->sql('a', "SELECT fleet.handoff('$ride', 'a')"), 3, 'what was made again can be handed off again');
$c->heal;

# A target that has lost even more: that the ride once left it.  What it still
# has of the ride is older and gives way.
{
	my ($ride) = $c->add_rides('b', 'older-copy');
	$c->save('b');
	$c->sql('a', "SELECT fleet.handoff('$ride', 'a')");
	$c->heal;
	my $session = $c->start_waiting('a', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->go_back('b');
	$c->go('a', 'after-local-commit');
	$session->finish;
	$c->check_all('the target still has an older copy', log => 0);
	is($c->where($ride), 'b3', 'the target still has an older copy: the newer one wins');
}

# A ride that comes twice to the same region in one transaction: what the target
# lost is made again with its last arrival.
{
	my ($ride) = $c->add_rides('a', 'twice');
	$c->save('b');
	my $session = $c->start_waiting('a', "BEGIN; SELECT fleet.handoff('$ride', 'b'); SELECT fleet.handoff('$ride', 'c');"
		. "SELECT fleet.handoff('$ride', 'b'); COMMIT", 'after-local-commit');
	$c->go_back('b');
	$c->go('a', 'after-local-commit');
	$session->finish;
	$c->check_all('it came twice', log => 0);
	is($c->where($ride), 'b4', 'it came twice: it is there, once');
}

# At an older snapshot, an arrival removes the departure that is there now.
{
	my ($ride) = $c->add_rides('a', 'old-snapshot');
	$c->sql('a', "SELECT fleet.handoff('$ride', 'b')");
	$c->heal;
	my $old = $c->start_sql('a', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM fleet.departures;"
		. "DO \$\$ BEGIN FOR i IN 1 .. 500 LOOP EXIT WHEN pg_stat_file('fleet_go_on', true) IS NOT NULL; PERFORM pg_sleep(0.02); END LOOP; END \$\$;"
		. "SELECT fleet.handoff('$ride', 'a'); COMMIT");
	sleep 0.5;
	$c->sql('a', "SELECT fleet.handoff('$ride', 'a')");
	$c->sql('a', "SELECT fleet.handoff('$ride', 'b')");
	PostgreSQL::Test::Utils::append_to_file("$c->{nodes}{a}{data}/fleet_go_on", '');
	my $result = $old->finish;
	ok($result->{ok}, 'a handoff at an old snapshot') or diag($result->{err});
	is($c->where($ride), 'a5', 'at an old snapshot: it is here');
	is($c->sql('a', "SELECT count(*) FROM fleet.departures WHERE key = '$ride'"), 0, 'at an old snapshot: no departure is left beside it');
	$c->check_all('at an old snapshot', log => 0);
}

# The ride moves on before the coordinator has written down that all have
# confirmed; then the coordinator dies.  It finds its record, and no prepared
# transaction: the log of each participant proves that nothing is to be done.
for my $next ('a', 'c')
{
	my ($ride) = $c->add_rides('a', "moved-on-to-$next");
	my $offset = $c->log_size('c');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-commit-prepared');

	$c->wait_until(sub { $c->where($ride) eq 'b2' }, 'the ride is at b');
	$c->sql('b', "SELECT fleet.handoff('$ride', 'a')");
	$c->sql('b', "SELECT fleet.handoff('$ride', 'c')") if $next eq 'c';

	# Even if the requests were made again, their epochs would hold them back.
	for my $region ('a', 'b')
	{
		my $requests = $c->sql('c', "SELECT r FROM (SELECT DISTINCT dtxid, branch FROM fleet.decisions WHERE region = '$region') AS d,"
			. " fleet.branch_request(dtxid, branch) AS r WHERE r->0->'payload' @> '[{\"key\": \"$ride\"}]'");
		my $rows = "SELECT count(*), max(epoch) FROM fleet.local_rides WHERE ride_id = '$ride'";
		my $before = $c->sql($region, $rows);
		like($requests, qr/image/, "the record of what $region was asked to do");
		is($c->sql($region, "BEGIN; DO \$x\$ BEGIN PERFORM fleet.redo('again', \$r\$$requests\$r\$); END \$x\$; $rows; ROLLBACK"),
			$before, "$region: to make it again changes nothing where the ride has moved on");
	}
	$c->kill9('c');
	$session->finish;
	$c->start('c');
	$c->check_all("the ride has moved on to $next", log => 0);
	is($c->where($ride), $next eq 'a' ? 'a3' : 'c4', "the ride has moved on to $next: it stays there");
	unlike($c->log_text('c', $offset), qr/is lost/, "the ride has moved on to $next: nothing was made again");
}

# The coordinator is promoted without its decision; nobody has committed.  The
# participants see that and roll back.
{
	my ($ride) = $c->add_rides('a', 'decision-lost');
	$c->save('c');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->go_back('c', promote => 1);
	$session->finish;
	$c->check_all('the decision is lost', log => 0);
	is($c->where($ride), 'a1', 'the decision is lost and nobody has committed: the ride stays');
}

# The same, but one participant had committed; the other follows it.  It has to
# wait until all can be asked.
{
	my ($ride) = $c->add_rides('a', 'decision-lost-late');
	$c->save('c');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->freeze('a');
	$c->go('c', 'after-local-commit');
	$session->finish;
	$c->wait_until(sub { $c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'") eq '1' }, 'b has committed');
	$c->kill9('a');    # not thawed: it would still read the COMMIT PREPARED
	$c->kill9('b');
	$c->go_back('c', promote => 1);
	$c->start('a');
	sleep 1.5;
	is($c->sql('a', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'while one node does not answer, nothing is decided');
	like($c->sql('a', 'SELECT last_error FROM fleet.in_doubt'), qr/not every node answers/, 'and fleet.in_doubt says so');
	$c->start('b');
	# Nobody is left who would settle the departure.
	$c->check_all('the decision is lost, one node had committed', log => 0, settled => 0);
	is($c->where($ride), 'b2', 'the decision is lost, one node had committed: the other commits too');
}

# Proof that this test can fail: a coordinator that takes "does not exist" for
# "was committed" loses the ride.
{
	my ($ride) = $c->add_rides('a', 'mutation');
	$c->save('b');
	$c->set_system('c', 'fleet.fault', 'push-trusts-missing=on');
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$ride', 'b')", 'after-local-commit');
	$c->go_back('b');
	$c->go('c', 'after-local-commit');
	$session->finish;
	$c->heal(settled => 0);
	is($c->where($ride), '', 'with the rule switched off the ride is lost');
	is($c->sql('a', "SELECT check_name, problems, ids FROM fleet.verify() WHERE problems > 0"),
		"missing|1|{\"ride $ride\"}", 'and fleet.verify says so');
	like($c->wrong_rides, qr/^mutation is at \(\)/m, 'and so does this test');
}

done_testing();
