# fleet: what a replica hears of a region breaks, and it mends that by itself.
# Copyright (c) 2026, the fleet authors
#
# Each time: the replica notices within 5 s, says so, goes on showing its rides
# meanwhile, and has what the regions have in the end.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my $rides = 0;

is(FleetReplica::run_client($c, 'load', 'rides=200')->{ok}, 1, 'rides are there');
$c->sql('a', add_replica($c));

# Some more of everything on a region: updates, new rides, a delete.
sub change
{
	my ($region) = @_;
	my $n = ++$rides;
	my $place = $c->place($region);
	$c->sql($region, "SELECT fleet.request_ride('new-$n-' || i, 'c', $place, NULL, $n) FROM generate_series(1, 20) AS i;"
		. "UPDATE fleet.local_rides SET fare = fare + 1; DELETE FROM fleet.local_rides WHERE ride_id = 'new-$n-7'");
}

sub visible { return $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE region = '$_[0]'") }

# broken(name, region, break, says => pattern, repairs => how many more copies, fewer => rides that may go)
sub broken
{
	my ($name, $region, $break, %opt) = @_;
	my $before = visible($region);
	my $since = { repairs => $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = '$region'"), at => time };
	my $low = $before;

	$break->();
	$since->{at} = time if $opt{late};
	my $took = noticed($c, $region, $since);
	cmp_ok($took, '<', 5, sprintf('%s: noticed after %.1f s', $name, $took));
	$c->wait_until(sub { my $n = visible($region); $low = $n if $n < $low; is_ready($c) }, "$name: it is ready again", 40);
	cmp_ok($low, '>=', $before - ($opt{fewer} // 1), "$name: its rides stayed visible");
	my $repairs = $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = '$region'");
	is($repairs - $since->{repairs}, $opt{repairs} // 1, "$name: copied again") if ($opt{repairs} // 1) >= 0;
	like($c->sql($g, "SELECT last_error FROM fleet.replica_sources WHERE region = '$region'"), $opt{says}, "$name: it says why");
	change($region);
	is_equal($c, $name);
}

# ---- the slot

my $slot = $c->sql($g, "SELECT fleet.slot_name('node_$g', 'a')");
broken('slot dropped', 'a', sub {
	# Its worker is quick to use it again.
	$c->wait_until(sub {
		$c->ask('a', "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$slot'");
		$c->ask('a', "SELECT pg_drop_replication_slot('$slot')")->{ok};
	}, 'the slot is dropped');
	change('a');
}, says => qr/slot is gone/);

$c->set_system('a', 'max_slot_wal_keep_size', '1MB');
$c->stop($g);
change('a') for 1 .. 3;
$c->sql('a', "SELECT pg_switch_wal(); CHECKPOINT") for 1 .. 4;
change('a');
$c->sql('a', 'SELECT pg_switch_wal(); CHECKPOINT');
is($c->sql('a', "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '$slot'"), 'lost', 'a slot is lost');
my $repairs = 0;
$c->start($g);
$c->wait_until(sub { my $a = $c->ask($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'a'"); $a->{ok} && ($repairs = $a->{out}) >= 2 }, 'a lost slot is seen', 6);
$c->set_system('a', 'max_slot_wal_keep_size', undef);
$c->wait_until(sub { is_ready($c) }, 'the slot is there again', 40);
is_equal($c, 'slot lost');

# ---- the subscription

my $at = time;
$c->sql($g, 'ALTER SUBSCRIPTION fleet_b DISABLE');
change('b');
$c->wait_until(sub { $c->sql($g, "SELECT subenabled FROM pg_subscription WHERE subname = 'fleet_b'") eq 't' }, 'it is enabled again', 6);
cmp_ok(time - $at, '<', 5, 'disabled: noticed within 5 s');
is_equal($c, 'disabled');

broken('subscription dropped', 'b', sub {
	$c->sql($g, "ALTER SUBSCRIPTION fleet_b DISABLE; ALTER SUBSCRIPTION fleet_b SET (slot_name = NONE); DROP SUBSCRIPTION fleet_b");
	change('b');
}, says => qr/subscription is gone/);

# ---- rows that cannot be written

$c->sql($g, 'ALTER TABLE fleet.local_rides ADD CONSTRAINT cheap CHECK (fare < 100000) NOT VALID');
$c->sql('c', "SELECT fleet.request_ride('dear', 'c', 2.5, 0.5, NULL, 200000)");
change('c');
$c->wait_until(sub { $c->sql($g, 'SELECT count(*) FROM fleet.dead_letters') ne '0' }, 'a row becomes a dead letter');
$c->wait_until(sub { is_ready($c) }, 'the stream goes on');
my $fresh = $c->sql('c', "SELECT fleet.hlc_now()::bigint");
$c->wait_until(sub { $c->sql($g, "SELECT hlc::bigint > $fresh FROM fleet.heartbeat WHERE region = 'c'") eq 't' }, 'and is up to date');
is($c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id = 'dear'"), 0, 'one row is missing');
is($c->sql($g, "SELECT DISTINCT reason_sqlstate, change->>'key' FROM fleet.dead_letters"), '23514|dear', 'and is kept, with the reason');
like($c->sql($g, "SELECT last_error FROM fleet.replica_status WHERE region = 'c'"), qr/^23514: .*cheap/, 'the status says why');
is($c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'c'"), 0, 'nothing was copied for it');
$c->sql($g, 'ALTER TABLE fleet.local_rides DROP CONSTRAINT cheap');
like($c->sql($g, 'SELECT * FROM fleet.retry_merge()'), qr/^[1-9]\d*\|0$/, 'it is tried again');
is_equal($c, 'dead letter');

# ---- a clock is behind

$c->set_system('b', 'fleet.test_clock_offset', '-4500');
$c->sql('b', 'SELECT fleet.hlc_now()');
$c->stop('b');
$c->start('b');
$c->wait_until(sub { is_ready($c) }, 'b is back, four and a half seconds behind');
sleep 6;
is($c->sql($g, 'SELECT count(*) FROM fleet.replica_status WHERE stale_since IS NOT NULL'), 0, 'a clock that is behind makes nothing stale');
ok(is_ready($c), 'nor the replica unready');
$c->set_system('b', 'fleet.test_clock_offset', undef);

# ---- somebody goes back in time

$c->sql('c', "SELECT fleet.request_ride('again', 'c', 2.5, 0.5)");
$c->sql('c', "DELETE FROM fleet.local_rides WHERE ride_id = 'again'");
$c->save('c');
$c->wait_until(sub { is_ready($c) }, 'c is back');
change('c');
$c->sql('c', "SELECT fleet.request_ride('again', 'c', 2.5, 0.5)");    # lost, and only its first grave is left
is_equal($c, 'before c goes back');
$c->sql('c', "DELETE FROM fleet.local_rides WHERE ride_id = 'dear'");
is_equal($c, 'a ride is deleted');
sleep 2.5;    # c hears how far the replica is, which the copy does not know
broken('region restored', 'c', sub { $c->go_back('c') }, fewer => 21, says => qr/went back in time/);
is($c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id = 'dear'"), 1, 'what it has lost the deletion of is back');

$c->save('c');
$c->wait_until(sub { is_ready($c) }, 'c is back');
change('c');
is_equal($c, 'before c is promoted');
broken('region promoted', 'c', sub { $c->go_back('c', promote => 1) }, fewer => 20, says => qr/was promoted or restored/);

$c->save($g);
$c->wait_until(sub { is_ready($c) }, 'the replica is back');
change($_) for 'a', 'b', 'c';
is_equal($c, 'before the replica goes back');
sleep 2.5;    # the regions hear of it
$at = time;
$c->go_back($g);
$c->wait_until(sub { my $a = $c->ask($g, "SELECT count(*) FROM fleet.replica_status WHERE last_error LIKE '%this replica went back%'"); $a->{ok} && $a->{out} eq '3' },
	'the replica notices that it went back', 8);
cmp_ok(time - $at, '<', 8, 'replica restored: noticed soon after its start');
$c->wait_until(sub { is_ready($c) }, 'it has copied all', 40);
is_equal($c, 'replica restored');
done_testing();
