# fleet: the replica shows every ride once, while they move as fast as they can.
# Copyright (c) 2026, the fleet authors

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};

is(FleetReplica::run_client($c, 'load', 'rides=500')->{ok}, 1, 'rides are there');

# ---- it is made while they move

my $storm = start_storm($c, 10, 'rides=500', 'hot=60', 'handoffs=100', 'writes=250');
sleep 1.5;
my $added = $c->try_sql('a', add_replica($c));
ok($added->{ok}, 'it is made in the storm') or diag($added->{err});
like($added->{err}, qr/NOTICE.*copied/, 'and says how far it is');
ok(end_storm($storm, 'made in the storm') > 100, 'it was looked at');
is_equal($c, 'made in the storm');
ok(is_ready($c), 'it is ready');

# ---- at full speed, with one region's clock behind

$c->set_system('b', 'fleet.test_clock_offset', '-4500');
$storm = start_storm($c, 8, 'rides=500', 'hot=60', 'handoffs=500', 'writes=250', 'seed=2');
end_storm($storm, 'with a clock behind');
is_equal($c, 'with a clock behind');
$c->set_system('b', 'fleet.test_clock_offset', undef);

# ---- one region is down

my $rides = $c->sql('b', 'SELECT count(*) FROM fleet.local_rides');
my $at = time;
$c->kill9('b');
$c->wait_until(sub { $c->sql($g, "SELECT state, stale_since IS NOT NULL FROM fleet.replica_status WHERE region = 'b'") eq 'unreachable|t' }, 'b is missed', 6);
cmp_ok(time - $at, '<', 5, 'a region that is down is seen within 5 s');
is($c->sql($g, "SELECT count(*) FROM fleet.rides WHERE region = 'b'"), $rides, 'its rides stay visible');
ok(!is_ready($c), 'and it says that they may be behind');
my $watermark;
$c->sql('a', "SELECT fleet.request_ride('while-b-is-down', 'c', 0.5, 0.5)");
$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id = 'while-b-is-down'") eq '1' }, 'the others go on');
sleep 1.2;
$watermark = $c->sql($g, "SELECT hlc::bigint FROM fleet.heartbeat WHERE region = 'b'");
is($c->sql($g, 'SELECT fleet.global_watermark()::bigint'), $watermark, 'the watermark waits for b');
$c->start('b');
$c->wait_until(sub { is_ready($c) }, 'b is back');
is($c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'b'"), 0, 'without being copied again');
cmp_ok($c->sql($g, 'SELECT fleet.global_watermark()::bigint'), '>', $watermark, 'the watermark goes on');

# ---- a handoff is in doubt for a while

$c->sql('a', "SELECT fleet.request_ride('in-doubt', 'c', 0.5, 0.5)");
my $session = $c->start_waiting('a', "SELECT fleet.handoff('in-doubt', 'b')", 'after-prepare');
is($c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'a branch is prepared');
$c->wait_until(sub { $c->sql($g, "SELECT region, epoch FROM fleet.rides WHERE ride_id = 'in-doubt'") eq 'a|1' }, 'the replica shows it');
sleep 2.2;
$watermark = $c->sql('b', 'SELECT hlc::bigint FROM fleet.heartbeat');
sleep 2.2;
is($c->sql('b', 'SELECT hlc::bigint FROM fleet.heartbeat'), $watermark, 'the watermark of b waits for the branch');
is($c->sql($g, "SELECT region, epoch FROM fleet.rides WHERE ride_id = 'in-doubt'"), 'a|1', 'a handoff in doubt has not happened');
$c->go('a', 'after-prepare');
ok($session->finish->{ok}, 'it is decided');
$c->wait_until(sub { $c->sql($g, "SELECT region, epoch FROM fleet.rides WHERE ride_id = 'in-doubt'") eq 'b|2' }, 'and seen');
is_equal($c, 'after a doubt');

# ---- the same test sees a replica that is wrong

$storm = start_storm($c, 4, 'rides=500', 'hot=60', 'handoffs=20', 'writes=100', 'seed=3');
sleep 2;
$c->sql($g, <<'SQL');
BEGIN;
ALTER TABLE fleet.local_rides DISABLE TRIGGER USER;
DELETE FROM fleet.local_rides WHERE ride_id IN (SELECT ride_id FROM fleet.local_rides WHERE epoch = 1 ORDER BY ride_id LIMIT 5);
ALTER TABLE fleet.local_rides ENABLE TRIGGER USER;
ALTER TABLE fleet.local_rides ENABLE REPLICA TRIGGER fleet_merge;
COMMIT;
SQL
$storm->{harness}->finish;
isnt($storm->{harness}->result(0), 0, 'rides that are missing make it fail');
like($storm->{out}, qr/ missing=[1-9]/, 'and it says so');
ok(!FleetReplica::run_client($c, 'equal', 'wait=2')->{ok}, 'as does the comparison');
done_testing();
