# fleet: replicas and regions come and go, and leave nothing behind.
# Copyright (c) 2026, the fleet authors

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
$c->add_rides('a', map { "a-$_" } 1 .. 20);
$c->add_rides('b', map { "b-$_" } 1 .. 20);

# A branch that stays prepared: no slot can be made meanwhile.
my $doubt = $c->start_waiting('a', "SELECT fleet.handoff('a-1', 'b')", 'after-prepare');

# ---- a deadline, a cancel, a session that is gone

my $result = $c->try_sql('a', add_replica($c, '3 s'));
is($result->{state}, 'RF016', 'not ready within the deadline');
like($result->{err}, qr/DETAIL:  It got as far as: a joining/, 'and it says how far it got');
is_nothing_left($c, 'deadline');

my $session = $c->start_sql('a', add_replica($c));
$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.replica_sources") eq '3' }, 'it is being made');
$c->sql('a', "SELECT pg_cancel_backend(@{[ $session->backend ]})");
is($session->finish->{state}, '57014', 'cancelled');
is_nothing_left($c, 'cancel');

$session = $c->start_sql('a', add_replica($c));
$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.replica_sources") eq '3' }, 'it is being made again');
$c->sql('a', "SELECT pg_terminate_backend(@{[ $session->backend ]})");
ok(!$session->finish->{ok}, 'terminated');
is($c->sql('a', 'SELECT count(*) FROM fleet.replica_joins'), 1, 'it has a lease');
$c->sql('a', "UPDATE fleet.replica_joins SET lease = now() - interval '1 s'");
is_nothing_left($c, 'terminate');

$c->go('a', 'after-prepare');
ok($doubt->finish->{ok}, 'the branch is decided');

# ---- it is unreachable, it is something else

is($c->try_sql('a', "CALL fleet.add_replica('node_$g', 'host=/nowhere dbname=postgres')")->{state}, '08001', 'a node that cannot be reached');
is($c->try_sql('a', "CALL fleet.add_replica('node_b', '@{[ $c->peer_conninfo('b') ]}')")->{state}, '55000', 'a node that owns a region');
is_nothing_left($c, 'refused');

# ---- it joins; the replica is killed while it does

$c->sql('a', add_replica($c));
is_equal($c, 'joined');
is($c->try_sql('b', add_replica($c))->{state}, '42710', 'it is there already');
is($c->try_sql($g, "CALL fleet.add_replica('other', 'host=x')")->{state}, 'RF004', 'a replica has no replicas');

# ---- a region comes and goes

$c->sql('a', "SELECT fleet.remove_region('c')");
$c->leave_map('c');
$c->wait_until(sub { $c->sql($g, 'SELECT count(*) FROM fleet.replica_sources') eq '2' }, 'the region has left');
is($c->sql('c', 'SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)'), 0, 'with its slot');
$c->add_region('c');
$c->add_rides('c', 'c-1', 'c-2');
$c->wait_until(sub { is_ready($c) && $c->sql($g, 'SELECT count(*) FROM fleet.replica_sources') eq '3' }, 'a region joins by itself', 15);
is_equal($c, 'region added');
# Its last changes do not reach the replica before it has left.
my $sender = $c->sql('c', "SELECT active_pid FROM pg_replication_slots WHERE slot_name LIKE 'fleet%'");
kill 'STOP', $sender;
$c->sql('c', "SELECT fleet.handoff('c-1', 'a'); DELETE FROM fleet.local_rides");
delete $c->{rides}{'c-2'};
$c->wait_until(sub { $c->sql('c', 'SELECT count(*) FROM fleet.departures WHERE settled_hlc IS NULL') eq '0' }, 'it is empty');
$c->sql('b', "SELECT fleet.remove_region('c')");
$c->leave_map('c');
$c->wait_until(sub { $c->sql($g, 'SELECT count(*) FROM fleet.replica_sources') eq '2' }, 'the region has left again', 40);
kill 'CONT', $sender;
is_equal($c, 'region removed');
is($c->sql($g, "SELECT region, epoch FROM fleet.rides WHERE ride_id = 'c-1'"), 'a|2', 'what it handed off is where it went');

# ---- the replica goes while it is down, and hears of it when it is back

$c->kill9($g);
ok($c->try_sql('a', remove_replica($c))->{ok}, 'a replica that is down is removed');
is($c->sql('a', 'SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM fleet.map_replicas)'), 0, 'its slots are gone');
$c->start($g);
is_nothing_left($c, 'removed while down');
$c->sql('b', add_replica($c));
is_equal($c, 'it can come again');
ok($c->try_sql($g, remove_replica($c))->{ok}, 'it may be removed from itself, too');
is_nothing_left($c, 'removed');
$c->check_all('in the end');
done_testing();
