# fleet: what a replica hears of its regions breaks in the middle of a storm.
# Copyright (c) 2026, the fleet authors
#
# As 021_replica_repair, but while rides are written and handed off, and read on the
# replica as fast as it can be.  What was broken is noticed within 5 s and mended
# without a hand; all the time no ride is missing, doubled or gone back, nothing is
# lacking that the watermark covers, and in the end the replica has what the regions
# have.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my @load = ('rides=300', 'hot=40');

is(FleetReplica::run_client($c, 'load', @load)->{ok}, 1, 'rides are there');

# ---- a handoff is in doubt when the replica is asked for

{
	$c->sql('a', "SELECT fleet.request_ride('in-doubt', 'c', 0.5, 0.5)");
	my $doubt = $c->start_waiting('c', "SELECT fleet.handoff('in-doubt', 'b')", 'after-prepare');
	my $adding = $c->start_sql('a', add_replica($c));
	$c->wait_until(sub { ($c->ask($g, "SELECT count(*) FROM fleet.replica_sources WHERE last_error LIKE 'waiting: prepared%'")->{out} || 0) == 2 },
		'the replica waits for it');
	$c->go('c', 'after-prepare');
	ok($doubt->finish->{ok}, 'a handoff in doubt is decided');
	my $added = $adding->finish;
	ok($added->{ok}, 'and the replica that waited for it is made') or diag($added->{err});
	is_equal($c, 'made after a doubt');
}

# ---- breaking

sub repairs { return $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = '$_[0]'") }

sub drop_slot
{
	my ($region) = @_;
	my $slot = $c->sql($g, "SELECT fleet.slot_name('node_$g', '$region')");
	$c->wait_until(sub {
		$c->ask($region, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$slot'");
		$c->ask($region, "SELECT pg_drop_replication_slot('$slot')")->{ok};
	}, "the slot of $region is dropped");
}

# mended(name, region, break, mend): it is noticed, and all is well again.
sub mended
{
	my ($name, $region, $break, $mend) = @_;
	my $since = { repairs => repairs($region) };

	$break->();
	$since->{at} = time;
	my $took = eval { noticed($c, $region, $since) };
	cmp_ok($took // 99, '<', 5, sprintf('%s: noticed (%.1f s)', $name, $took // 99));
	$mend->() if $mend;
	my $ready = eval { $c->wait_until(sub { is_ready($c) }, "$name: it is ready again", 30) };
	ok($ready, sprintf('%s: mended (%.1f s)', $name, time - $since->{at}))
	  or diag($c->sql($g, 'SELECT region, state, stale_since, last_error, repairs FROM fleet.replica_status'));
}

my %breaks = (
	'slot dropped' => [ 'a', sub { drop_slot('a') } ],
	'subscription dropped' => [ 'b', sub {
		$c->sql($g, 'ALTER SUBSCRIPTION fleet_b DISABLE; ALTER SUBSCRIPTION fleet_b SET (slot_name = NONE); DROP SUBSCRIPTION fleet_b');
	} ],
	'publication dropped' => [ 'c', sub { $c->sql('c', 'DROP PUBLICATION fleet_departures') } ],
	# A region that takes connections and never answers must not hide what is wrong with another.
	'slot dropped while another region hangs' => [ 'b', sub { $c->freeze('a'); drop_slot('b') }, sub { $c->thaw('a') } ],
	'table locked' => [ 'a', sub { $c->start_sql($g, 'BEGIN; LOCK TABLE fleet.local_rides IN SHARE MODE; SELECT pg_sleep(6)') } ],
);

for my $name (sort keys %breaks)
{
	my ($region, $break, $mend) = @{ $breaks{$name} };
	my $storm = start_storm($c, 8, @load, 'handoffs=60', 'writes=100');

	sleep 1;
	mended($name, $region, $break, $mend);
	ok(end_storm($storm, $name) > 100, "$name: the replica was read all the time");
	is_equal($c, $name);
}
is($c->sql($g, 'SELECT count(*) FROM fleet.dead_letters'), 0, 'nothing was given up');
done_testing();
