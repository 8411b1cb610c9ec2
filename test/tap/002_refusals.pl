# fleet: what is refused, with which SQLSTATE, and that nothing has changed then.
# Copyright (c) 2026, the fleet authors
#
# Proves: each refusal of a handoff has its own SQLSTATE and is the same whether
# the ride is here or on another node; a node that is down, full of prepared
# transactions or without its library makes a handoff or a change of the map
# fail cleanly; the map is the same on all nodes, whatever interrupts its change.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, no_map => 1, settings => 'fleet.commit_timeout = 300');

$c->add_region($_) for 'a', 'b', 'c';

# refused(node, sql, state, label, options of start_sql): and nothing has changed.
sub refused
{
	my ($on, $sql, $state, $label, %opt) = @_;
	my $ids = [ sort keys %{ $c->{rides} } ];
	my $before = join ' ', $c->places($ids);
	my $result = $c->try_sql($on, $sql, %opt);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($result->{state}, $state, $label) or diag($result->{err});
	is(join(' ', $c->places($ids)), $before, "$label: no ride has moved");
	return $result;
}

sub restart
{
	my ($name, $settings) = @_;
	$c->stop($name);
	PostgreSQL::Test::Utils::append_to_file("$c->{nodes}{$name}{data}/postgresql.conf", "$settings\n");
	$c->start($name);
}

# ---- the ride, its epoch, its target

$c->add_rides('a', 'ride', 'second', 'closed', 'elsewhere');
$c->sql('a', "SELECT fleet.set_ride_status('closed', 'CANCELLED')");
$c->sql('a', "SELECT fleet.handoff('elsewhere', 'b')");
$c->heal;
for my $on ('a', 'b', 'c')
{
	refused($on, "SELECT fleet.handoff('nothing', 'b')", 'RF001', "on $on: no such ride");
	refused($on, "SELECT fleet.handoff('ride', 'a')", 'RF003', "on $on: it is there already");
	refused($on, "SELECT fleet.handoff('elsewhere', 'b')", 'RF003', "on $on: it has gone there already");
	refused($on, "SELECT fleet.handoff('ride', 'nowhere')", 'RF004', "on $on: no such region");
	refused($on, "SELECT fleet.handoff('ride', 'b', 7)", 'RF006', "on $on: another epoch");
	refused($on, "SELECT fleet.handoff('closed', 'b')", 'RF008', "on $on: a closed ride");
	refused($on, "SELECT fleet.handoff_vehicle('nothing', 'b')", 'RF010', "on $on: no such vehicle");
	refused($on, "SELECT fleet.handoff(ARRAY['ride', 'closed'], 'b')", 'RF008', "on $on: one of two is closed");
	refused($on, "BEGIN; SELECT fleet.handoff('ride', 'b'); PREPARE TRANSACTION 'mine';", 'RF009', "on $on: PREPARE by the caller");
}
delete $c->{rides}{closed};
$c->sql('a', "DELETE FROM fleet.rides WHERE region = 'a' AND ride_id = 'closed'");

# ---- locks: the wait is bounded, on the source and from elsewhere

{
	my $holder = $c->start_sql('a', "BEGIN; SELECT 1 FROM fleet.local_rides WHERE ride_id = 'ride' FOR UPDATE; SELECT pg_sleep(60)");
	$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND wait_event = 'PgSleep'") eq '1' },
		'the ride is locked');
	for my $on ('a', 'b', 'c')
	{
		my $start = time;
		refused($on, "SELECT fleet.handoff('ride', 'b')", 'RF002', "on $on: another session holds the ride",
			set => { 'fleet.lock_timeout' => 300 });
		my $took = time - $start;
		cmp_ok($took, '>', 0.25, "on $on: it was waited for");
		cmp_ok($took, '<', 2.5, sprintf 'on %s: not for long (%.1f s)', $on, $took);
	}
	$c->sql('a', 'SELECT pg_cancel_backend(' . $holder->backend . ')');
	$holder->finish;
}

# ---- capacity

$c->sql('a', "SELECT fleet.set_capacity('b', 1)");
refused($_, "SELECT fleet.handoff('ride', 'b')", 'RF005', "on $_: the target is full") for 'a', 'b', 'c';
$c->sql('b', "SELECT fleet.set_capacity('b', 2)");
refused('c', "SELECT fleet.handoff(ARRAY['ride', 'second'], 'b')", 'RF005', 'the target has room for one of two');
$c->sql('c', "SELECT fleet.set_capacity('b', NULL)");

# ---- the map

sub versions { return join ' ', map { $c->sql($_, 'SELECT version FROM fleet.map') } @_ }

is(versions('a', 'b', 'c', 'd'), '6 6 6 ', 'all nodes of the map have its version');

# A change that is committed on a and not yet on the others.
{
	my $session = $c->start_waiting('a', "SELECT fleet.set_capacity('c', 1000)", 'after-local-commit');
	is(versions('a', 'b', 'c'), '7 6 6', 'a change of the map is on its way');
	refused('a', "SELECT fleet.handoff('ride', 'b')", 'RF007', 'the source has a newer map');
	refused('b', "SELECT fleet.handoff('ride', 'b')", 'RF007', 'the target has an older map');
	$c->go('a', 'after-local-commit');
	ok($session->finish->{ok}, 'the change ends');
	is(versions('a', 'b', 'c'), '7 7 7', 'all have it');
}
refused('a', "SELECT fleet.remove_region('$_')", 'RF015', "region $_ still owns rides") for 'a', 'b';
is(versions('a', 'b', 'c'), '7 7 7', 'a refused change leaves the map as it is');

# ---- a node that is down

$c->kill9('b');
{
	my $error = $c->try_sql('a', "SELECT fleet.handoff('ride', 'b')");
	is($error->{state}, '08001', 'the target is down') or diag($error->{err});
	like($error->{err}, qr/could not connect to region "b"/, 'and the error says which');
	is($c->try_sql('c', "SELECT fleet.handoff('elsewhere', 'c')")->{state}, '08001', 'the source is down');
	is($c->sql('c', "SELECT fleet.handoff('second', 'c')"), 2, 'others hand off as ever');
	is($c->sql('c', "SELECT name, state FROM fleet.regions WHERE name <> 'a' ORDER BY name"),
		"b|unreachable\nc|active", 'fleet.regions says so');
	my $add = $c->try_sql('a', $c->add_region_sql('d'));
	is($add->{state}, '08001', 'a region cannot be added while a node is down');
	is(versions('a', 'c', 'd'), '7 7 ', 'no node has changed its map');
	is($c->sql($_, "SELECT count(*) FROM pg_foreign_server WHERE srvname = 'fleet_d'"), 0, "$_ has no server for it") for 'a', 'c';
}
$c->start('b');
is(versions('b'), 7, 'nor has the one that was down');

# The change of the map dies with the coordinator's server: before and after its
# decision.
ok(!$c->try_sql('a', $c->add_region_sql('d'), fault => 'after-prepare=crash')->{ok}, 'crash before the decision to add a region');
$c->wait_dead('a');
$c->start('a');
ok(defined $c->heal, 'healed');
is(versions('a', 'b', 'c', 'd'), '7 7 7 ', 'no node has the region');

# The new node does not know its coordinator yet, which is part of what it has
# prepared, so it takes an operator to roll that back.
{
	my $gid = $c->sql('d', 'SELECT gid FROM fleet.in_doubt');
	like($gid, qr/^fleet:node_a:/, 'the new node is in doubt');
	is($c->try_sql('a', $c->add_region_sql('d'))->{state}, '55P03', 'and cannot be asked again');
	$c->sql('d', "SELECT fleet.resolve('$gid', 'abort')");
	is($c->sql('d', 'SELECT count(*) FROM fleet.in_doubt'), 0, 'until fleet.resolve ends it');
}
ok(!$c->try_sql('a', $c->add_region_sql('d'), fault => 'after-local-commit=crash')->{ok}, 'crash after the decision to add a region');
$c->wait_dead('a');
$c->start('a');
ok(defined $c->heal, 'healed');
is(versions('a', 'b', 'c', 'd'), '8 8 8 8', 'all nodes have the region');
$c->join_map('d');
is($c->sql('d', "SELECT fleet.handoff('ride', 'd')"), 2, 'which takes part at once');
refused('b', "SELECT fleet.remove_region('d')", 'RF015', 'it owns a ride');
$c->sql('b', "SELECT fleet.handoff('ride', 'a')");
$c->heal;
$c->leave_map('d');
ok(!$c->try_sql('b', "SELECT fleet.remove_region('d')", fault => 'after-local-commit=crash')->{ok},
	'crash after the decision to remove an empty region');
$c->wait_dead('b');
$c->start('b');
# Each resolver gives its node's branch the decision, in no order among them.
$c->wait_until(sub { versions('a', 'b', 'c', 'd') eq '9 9 9 ' }, 'all nodes have removed it');
$c->wait_until(sub { $c->sql('d', 'SELECT count(*) FROM pg_prepared_xacts') eq '0' }, 'd has learnt that it left');

# The coordinator's own map no longer has the node that left; it can still reach
# it until that has confirmed.
ok(defined $c->heal, 'all nodes have confirmed it');
refused('a', "SELECT fleet.handoff('ride', 'd')", 'RF004', 'it is unknown from then on');

# ---- a ride between two regions

{
	my $session = $c->start_waiting('a', "SELECT fleet.handoff('ride', 'b')", 'after-local-commit');
	is($c->try_sql($_, "SELECT fleet.handoff('ride', 'c')")->{state}, 'RF022', "on $_: the ride is on its way") for 'a', 'b', 'c';
	is($c->try_sql('a', "SELECT fleet.request_ride('ride', 'c', @{[$c->place('a')]})")->{state}, '23505', 'its id is taken');
	$c->go('a', 'after-local-commit');
	$session->finish;
	$c->sql('b', "SELECT fleet.handoff('ride', 'a')");
}

# ---- rights

$c->sql('a', $_) for 'CREATE ROLE clerk LOGIN', 'CREATE ROLE guest LOGIN', 'CREATE ROLE agent LOGIN',
	'GRANT EXECUTE ON FUNCTION fleet.handoff(text, text, bigint) TO clerk, agent',
	'GRANT SELECT ON fleet.rides, fleet.vehicles TO clerk',
	'GRANT SELECT, UPDATE ON fleet.rides, fleet.vehicles TO agent';
refused('a', "SELECT fleet.handoff('ride', 'b')", '42501', 'a role without EXECUTE', user => 'guest');
refused('a', "SELECT fleet.handoff('ride', 'b')", '42501', 'a role without UPDATE on fleet.rides', user => 'clerk');
is('b' . $c->sql('a', "SELECT fleet.handoff('ride', 'b')", user => 'agent'), $c->where('ride'), 'a role with both may');

# ---- a participant that has no room to prepare, or not the library

restart('b', 'max_prepared_transactions = 1');
$c->sql('b', "BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'fills it'");
refused('c', "SELECT fleet.handoff('ride', 'a')", '53200', 'the source has no slot for another prepared transaction');
refused('a', "SELECT fleet.handoff('ride', 'a')", '53200', 'the same from the target');
$c->sql('b', "ROLLBACK PREPARED 'fills it'");
is($c->sql('c', "SELECT fleet.handoff('ride', 'a') > 1"), 't', 'it can as soon as there is one');

$c->heal;
restart('b', "shared_preload_libraries = ''");
my $bare = refused('b', "SELECT fleet.handoff('ride', 'c')", '55000', 'called on a server that has not loaded the library');
like($bare->{err}, qr/HINT:.*shared_preload_libraries/, 'with a hint');
refused('a', "SELECT fleet.handoff('ride', 'b')", '55000', 'the target has not loaded the library');
restart('b', "shared_preload_libraries = 'fleet'");
is($c->sql('a', "SELECT fleet.handoff('ride', 'b') > 1"), 't', 'it works again when it has');

$c->check_all('in the end');
done_testing();
