# fleet: handoff over real servers, where nothing fails.
# Copyright (c) 2026, the fleet authors
#
# Proves: a handoff works from the source, the target and a third node; it is
# part of the caller's transaction (ROLLBACK, savepoints, exceptions take it
# back, on the other nodes too); a ride may move more than once in one
# transaction; its vehicle travels with it; each handoff is logged and settled;
# an id that has left is still taken.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my %coordinator = (source => 'a', target => 'b', third => 'c');

# ---- one handoff

for my $role (sort keys %coordinator)
{
	my $on = $coordinator{$role};
	my ($ride) = $c->add_rides('a', "one-$role");

	is($c->sql($on, "SELECT fleet.handoff('$ride', 'b')"), 2, "$role hands off: new epoch is 2");
	is($c->where($ride), 'b2', "$role hands off: the ride is at b");
	is($c->sql($on, "SELECT fleet.handoff('$ride', 'c', 2)"), 3, "$role hands off again, with the expected epoch");
	is($c->where($ride), 'c3', "$role hands off again: the ride is at c");
}

# What is kept of it, and when it is settled.
{
	my ($ride) = $c->add_rides('a', 'kept');
	$c->sql('c', "SELECT fleet.handoff('kept', 'b')");
	my $start = time;
	$c->wait_until(sub { $c->sql('a', "SELECT settled_hlc IS NOT NULL FROM fleet.departures WHERE key = 'kept'") eq 't' },
		'the departure is settled');
	my $took = time - $start;
	cmp_ok($took, '<', 3, sprintf 'a departure is settled within 3 s (%.1f s)', $took);
	$c->heal;    # the decision record goes last
	is($c->sql('a', "SELECT kind, epoch, target, image->>'region', image->>'fare' FROM fleet.departures WHERE key = 'kept'"),
		"ride|2|b|b|$c->{rides}{kept}.00", 'the departure has the target, the new epoch and the image');
	is($c->sql('a', "SELECT source, target, epoch, status, latency_ms > 0 FROM fleet.handoff_log WHERE ride_id = 'kept'"),
		'a|b|2|settled|t', 'the log of the source');
	is($c->sql('b', "SELECT source, target, epoch, status FROM fleet.handoff_log WHERE ride_id = 'kept'"),
		'a|b|2|arrived', 'the log of the target');
	is($c->sql('c', "SELECT (SELECT count(*) FROM fleet.handoff_log WHERE ride_id = 'kept'), (SELECT count(*) FROM fleet.decisions)"),
		'0|0', 'the coordinator that is neither keeps nothing');
	is($c->try_sql('a', "SELECT fleet.request_ride('kept', 'c', @{[$c->place('a')]})")->{state},
		'23505', 'the id is still taken where it left');
	is($c->try_sql('b', "SELECT fleet.request_ride('kept', 'c', @{[$c->place('b')]})")->{state},
		'23505', 'and where it is');
}

# ---- batches

{
	my @rides = map { "batch-$_" } 1 .. 50;
	$c->add_rides('a', @rides[ 0 .. 29 ]);
	$c->add_rides('c', @rides[ 30 .. 49 ]);
	my $list = join ',', map { "'$_'" } @rides;

	is($c->sql('c', "SELECT fleet.handoff(ARRAY[$list], 'b')"), 50, 'one call moves 50 rides of two regions');
	is($c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = ANY (ARRAY[$list])"),
		50, 'all are there');
	is($c->sql('b', "SELECT count(DISTINCT dtxid) FROM fleet.handoff_log WHERE ride_id = ANY (ARRAY[$list])"),
		1, 'in one two-phase commit');
	$c->sql('b', "SELECT fleet.handoff('batch-7', 'a')");
	my $result = $c->try_sql('b', "SELECT fleet.handoff(ARRAY[$list, 'no-such-ride'], 'c')");
	is($result->{state}, 'RF001', 'a batch with a ride that does not exist is refused');
	is(join(' ', $c->places([ 'batch-1', 'batch-7' ])), 'b2 a3', 'and moves none');
}

# ---- rollback and savepoints, on each coordinator

# Run statements on rides s1 .. s4 at a; the places afterwards are in $want.
sub savepoint_case
{
	my ($label, $sql, $want) = @_;
	for my $role (sort keys %coordinator)
	{
		my $prefix = $label =~ s/\W+/-/gr . "-$role";
		my @rides = $c->add_rides('a', map { "$prefix-$_" } 1 .. 4);
		my $text = $sql =~ s/\bs([1-4])\b/$rides[$1 - 1]/gr =~ s/move\(/SELECT fleet.handoff(/gr;
		my $result = $c->try_sql($coordinator{$role}, $text, go_on => 1);
		my $got = join ' ', $c->places(\@rides);
		is($got, $want, "$label, coordinator is the $role") or diag($result->{err});
	}
}

savepoint_case('ROLLBACK', "BEGIN; move('s1', 'b'); move('s2', 'c'); ROLLBACK;", 'a1 a1 a1 a1');
savepoint_case('a branch begun in a savepoint that is rolled back',
	"BEGIN; SAVEPOINT x; move('s1', 'b'); ROLLBACK TO x; COMMIT;", 'a1 a1 a1 a1');
savepoint_case('the same and another handoff',
	"BEGIN; SAVEPOINT x; move('s1', 'b'); ROLLBACK TO x; move('s2', 'b'); COMMIT;", 'a1 b2 a1 a1');
savepoint_case('a savepoint within a branch',
	"BEGIN; move('s1', 'b'); SAVEPOINT x; move('s2', 'b'); move('s3', 'c'); ROLLBACK TO x; move('s4', 'c'); COMMIT;",
	'b2 a1 a1 c2');
savepoint_case('a released savepoint within one that is rolled back',
	"BEGIN; SAVEPOINT x; move('s1', 'b'); SAVEPOINT y; move('s2', 'b'); RELEASE y; ROLLBACK TO x; move('s3', 'b'); COMMIT;",
	'a1 a1 b2 a1');
savepoint_case('released savepoints',
	"BEGIN; SAVEPOINT x; move('s1', 'b'); SAVEPOINT y; move('s2', 'c'); RELEASE y; RELEASE x; move('s3', 'b'); COMMIT;",
	'b2 c2 b2 a1');
savepoint_case('a branch begun in a savepoint that is released and a later one',
	"BEGIN; SAVEPOINT x; move('s1', 'b'); RELEASE x; SAVEPOINT y; move('s2', 'b'); ROLLBACK TO y; ROLLBACK TO y; RELEASE y; COMMIT;",
	'b2 a1 a1 a1');
savepoint_case('a second hop that is rolled back',
	"BEGIN; move('s1', 'b'); SAVEPOINT x; move('s1', 'c'); ROLLBACK TO x; COMMIT;", 'b2 a1 a1 a1');
savepoint_case('an error in a savepoint',
	"BEGIN; move('s1', 'b'); SAVEPOINT x; move('s2', 'c', 9); ROLLBACK TO x; move('s3', 'no_region'); ROLLBACK TO x; move('s4', 'b'); COMMIT;",
	'b2 a1 a1 b2');
savepoint_case('an error in a savepoint where the branch begins',
	"BEGIN; SAVEPOINT x; move('s1', 'b', 9); ROLLBACK TO x; move('s1', 'b', 1); COMMIT;", 'b2 a1 a1 a1');
savepoint_case('an error without a savepoint',
	"BEGIN; move('s1', 'b'); move('s2', 'c', 9); move('s3', 'c'); COMMIT;", 'a1 a1 a1 a1');
savepoint_case('an exception in a block',
	"DO \$\$ BEGIN PERFORM fleet.handoff('s1', 'b');"
	. " BEGIN PERFORM fleet.handoff('s2', 'b'); PERFORM fleet.handoff('s3', 'c', 9); EXCEPTION WHEN OTHERS THEN NULL; END;"
	. " BEGIN PERFORM fleet.handoff('s4', 'c'); EXCEPTION WHEN OTHERS THEN RAISE; END; END \$\$;", 'b2 a1 a1 c2');
savepoint_case('several hops in one transaction',
	"BEGIN; move('s1', 'b'); move('s1', 'c'); move('s1', 'a'); move('s2', 'c'); move('s2', 'a'); move('s2', 'b'); COMMIT;",
	'a4 b4 a1 a1');
savepoint_case('hops and a change of the ride',
	"BEGIN; move('s1', 'b'); move('s1', 'a'); UPDATE fleet.rides SET status = 'EN_ROUTE' WHERE ride_id = 's1' AND region = fleet.own_region(); COMMIT;",
	'a3 a1 a1 a1');
savepoint_case('two statements in one query', "move('s1', 'b')\\; move('s2', 'c');", 'b2 c2 a1 a1');
savepoint_case('two handoffs in one statement', "SELECT fleet.handoff('s1', 'b'), fleet.handoff('s2', 'c');", 'b2 c2 a1 a1');

# ---- chains

{
	my ($ride) = $c->add_rides('a', 'chain');
	for my $round (1 .. 5)
	{
		$c->sql($_->[0], "SELECT fleet.handoff('chain', '$_->[1]')") for [ 'a', 'b' ], [ 'a', 'c' ], [ 'b', 'a' ];
	}
	is($c->where('chain'), 'a16', 'a ride goes round five times, also followed from where it was');
	$c->sql('a', "SELECT fleet.handoff('chain', 'b')");
	is($c->sql('a', "SELECT fleet.handoff('chain', 'c')"), 18, 'a node follows the departure of a ride that left it');
	is($c->where('chain'), 'c18', 'to where it is');
}

# ---- vehicles

sub car_places { return join ' ', $c->places(['car'], 'vehicle'), $c->places(['car-ride']) }

{
	$c->sql('a', "SELECT fleet.register_vehicle('car', @{[$c->place('a')]})");
	$c->sql('a', "SELECT fleet.request_ride('car-ride', 'c', @{[$c->place('a')]}, 'car', 5)");
	$c->{rides}{'car-ride'} = 5;

	is($c->sql('c', "SELECT fleet.handoff('car-ride', 'b')"), 2, 'a ride is handed off');
	is(car_places(), 'b2 b2', 'its vehicle travels with it');
	$c->sql('a', "SELECT fleet.handoff_vehicle('car', 'c')");
	is(car_places(), 'c3 c3', 'a vehicle takes its ride along');

	# From c, whose western border is longitude 2, into b.
	my $fix = $c->sql('c', "SELECT fleet.report_fix('car', 1.9, 0.5)", set => { 'fleet.max_speed' => 0 });
	is($fix, '(moved,b,4)', 'a fix behind the border moves the vehicle');
	is(car_places(), 'b4 b4', 'and its ride');
	is($c->sql('b', "SELECT fleet.lon(v.location), fleet.lon(r.current_location) FROM fleet.local_vehicles AS v JOIN fleet.local_rides AS r USING (vehicle_id)"),
		'1.9|1.9', 'both know the place');
	is($c->try_sql('c', "SELECT fleet.report_fix('car', 1.8, 0.5)", set => { 'fleet.routing' => 'redirect' })->{state}, 'RF027', 'the node it left says where it is');
	is($c->try_sql('a', "SELECT fleet.register_vehicle('car', @{[$c->place('a')]})")->{state},
		'23505', 'the id of a vehicle is still taken where it left');
}

$c->check_all('in the end');
done_testing();
