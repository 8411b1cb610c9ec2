# fleet: a replica forgets deleted rows, and none of them comes back.
# Copyright (c) 2026, the fleet authors
#
# Graves go once the watermark is past them, and not before: while a stream is held
# back, while a region is copied, while a dead letter waits.  Then what is old is
# brought here again in each way there is: late by a stream, by a copy of a region that
# keeps the departure, by hand.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1, settings => 'fleet.max_clock_skew = 1s');
my $g = $c->{replica};
my $slot = "fleet_node_${g}_";

sub graves { return $c->sql($g, 'SELECT count(*) FROM fleet.departures') }
sub forgotten { return $c->sql($g, 'SELECT COALESCE(sum(graves), 0) FROM fleet.graves_collected') }
sub shown { return $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id LIKE '$_[0]'") }
sub buried { return $c->sql($g, "SELECT count(*) FROM fleet.departures WHERE key = '$_[0]'") }
sub is_kept
{
	my ($ride, $name) = @_;
	$c->wait_until(sub { buried($ride) eq '1' }, "$name: $ride is buried");
	sleep 4.5;
	is(buried($ride), '1', "$name: its grave is kept");
}
sub is_forgotten
{
	my ($ride, $name) = @_;
	ok(eval { $c->wait_until(sub { buried($ride) eq '0' }, 'it is forgotten', 15) }, "$name: then it is forgotten");
	is(shown($ride), '0', "$name: and does not come back");
}

# ---- graves go

$c->sql('a', "SELECT count(fleet.request_ride('a-' || i, 'c', 0.5, 0.5)) FROM generate_series(1, 3000) AS i");
$c->sql('a', add_replica($c));
$c->sql('a', "SELECT fleet.handoff(ARRAY(SELECT 'a-' || i FROM generate_series(1, 400) AS i), 'b')");
is_equal($c, 'moved');
$c->sql('b', "DELETE FROM fleet.local_rides WHERE ride_id NOT LIKE 'a-%1'");
$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id NOT LIKE 'a-%1'");
$c->wait_until(sub { forgotten() + graves() eq '2700' }, 'they are deleted');
ok(eval { $c->wait_until(sub { graves() eq '0' }, 'graves go', 15) }, 'graves go when the watermark has passed them');
is(forgotten(), 2700, 'all of them');
is_equal($c, 'forgotten');

# ---- departures of what was deleted since come again

{
	my $repairs = $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'a'");
	my $most = 0;

	is($c->sql('a', "SELECT target FROM fleet.departures WHERE key = 'a-2'"), 'b', 'a keeps a departure');
	$c->wait_until(sub {
		$c->ask('a', "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${slot}a'");
		$c->ask('a', "SELECT pg_drop_replication_slot('${slot}a')")->{ok};
	}, 'the slot is dropped');
	$c->wait_until(sub {
		my $n = shown('a-%2');
		$most = $n if $n > $most;
		$c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'a'") > $repairs && is_ready($c);
	}, 'a is copied again', 40);
	is($most, 0, 'a copy revives nothing');
	is_equal($c, 'copied again');

	my $old = $c->sql('a', "SELECT jsonb_build_array(fleet.copy_row('ride', 'a-2'))");
	$old =~ s/'/''/g;
	is($c->sql($g, "SELECT fleet.merge_rows('a', '$old')"), 0, 'an old departure is stale');
	$c->sql($g, "SELECT fleet.merge_copied('a', '$old')");
	is(shown('a-2'), 0, 'also in a copy');
	$old =~ s/("hlc": )\d+/$1 . $c->sql('a', 'SELECT fleet.hlc_now()::bigint')/e;
	is($c->sql($g, "BEGIN; SELECT fleet.merge_rows('a', '$old'); ROLLBACK"), 1, 'a new one is not');
	$c->sql($g, "SELECT fleet.merge_anew('ride', 'a-2', 'a')");
	is(shown('a-2'), 0, 'who looks for it finds its grave');
	$c->wait_until(sub { graves() eq '0' }, 'graves that were copied go', 15);
}

# ---- a stream is held back

{
	my $sender = $c->sql('b', "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '${slot}b'");
	kill 'STOP', $sender;
	$c->sql('b', "SELECT fleet.request_ride('late', 'c', 1.5, 0.5)");
	$c->sql('b', "UPDATE fleet.local_rides SET fare = 5 WHERE ride_id = 'late'");
	$c->sql('b', "SELECT fleet.handoff('late', 'c')");
	$c->wait_until(sub { shown('late') eq '1' }, 'it has arrived');
	$c->sql('c', "DELETE FROM fleet.local_rides WHERE ride_id = 'late'");
	is_kept('late', 'held back');
	my $stale = $c->sql($g, "SELECT stale FROM fleet.replica_status WHERE region = 'b'");
	kill 'CONT', $sender;
	is_forgotten('late', 'held back');
	cmp_ok($c->sql($g, "SELECT stale FROM fleet.replica_status WHERE region = 'b'"), '>=', $stale + 2, 'its insert and departure came late');
	is_equal($c, 'held back');
}

# ---- a region is being copied

{
	$c->sql('c', "SELECT fleet.request_ride('in-doubt', 'c', 2.5, 0.5)");
	is_equal($c, 'before a doubt');
	my $doubt = $c->start_waiting('b', "SELECT fleet.handoff('in-doubt', 'b')", 'after-prepare');
	$c->sql($g, 'ALTER SUBSCRIPTION fleet_c DISABLE; ALTER SUBSCRIPTION fleet_c SET (slot_name = NONE); DROP SUBSCRIPTION fleet_c');
	$c->wait_until(sub { $c->sql($g, 'SELECT fleet.global_watermark() IS NULL') eq 't' }, 'c is to be copied');
	$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'a-501'");
	is_kept('a-501', 'copied');
	is($c->sql($g, 'SELECT fleet.collect_graves(1000)'), 0, 'nor can anybody collect it');
	$c->go('b', 'after-prepare');
	ok($doubt->finish->{ok}, 'the doubt is over');
	is_forgotten('a-501', 'copied');
	is_equal($c, 'copied after a doubt');
}

# ---- a dead letter waits

{
	$c->sql($g, 'ALTER TABLE fleet.local_rides ADD CONSTRAINT cheap CHECK (fare < 100000) NOT VALID');
	$c->sql('a', "SELECT fleet.request_ride('dear', 'c', 0.5, 0.5, NULL, 200000)");
	$c->wait_until(sub { $c->sql($g, 'SELECT count(*) FROM fleet.dead_letters') ne '0' }, 'it is a dead letter');
	$c->sql($g, 'ALTER TABLE fleet.local_rides DROP CONSTRAINT cheap');
	$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'dear'");
	is_kept('dear', 'dead letter');
	like($c->sql($g, 'SELECT * FROM fleet.retry_merge()'), qr/^[1-9]\d*\|0$/, 'it is tried again');
	is_forgotten('dear', 'dead letter');
	is_equal($c, 'dead letter');
}

# ---- a region's clock is behind what its rows are stamped with

{
	$c->sql('a', "SELECT fleet.request_ride('ahead', 'c', 0.5, 0.5)");
	$c->set_system('a', 'fleet.test_clock_offset', '-900000');
	$c->stop('a');
	$c->start('a');
	$c->wait_until(sub { is_ready($c) }, 'a is back');
	is(shown('ahead'), 1, 'it is there');
	$c->sql('a', "UPDATE fleet.local_rides SET fare = 7 WHERE ride_id = 'ahead'");
	$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'ahead'");
	ok(eval { $c->wait_until(sub { shown('ahead') eq '0' }, 'it is gone', 10) }, 'it is deleted, whatever the time');
	$c->set_system('a', 'fleet.test_clock_offset', undef);
	is_equal($c, 'clock behind');
}

# ---- none is left where the replica leaves

$c->sql('a', remove_replica($c));
is_nothing_left($c, 'left');
is($c->sql($g, "SELECT (SELECT count(*) FROM fleet.graves_collected) + (to_regclass('fleet.departures_hlc') IS NOT NULL)::int"), 0, 'nothing is left of graves');
done_testing();
