# fleet: snapshots of a region, taken and restored.
# Copyright (c) 2026, the fleet authors
#
# Proves: what was lost comes back as it was, and what has moved on, was deleted, changed
# since or is elsewhere does not, neither here nor from what another region knows; a
# region that went back in time gets back what it had since; while rides are handed
# off at full speed, restoring an old snapshot again and again doubles and loses none; a
# flipped byte on the disk is found; a region that does not answer, or has forgotten, stops a restore.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 3, settings => 'fleet.max_speed = 0');
my @ids = map { "r-$_" } 1 .. 8;

# What a restore says: "key action reason" a line.
sub restore
{
	my ($node, $id, $what, $dry_run) = @_;
	return $c->sql($node, "SELECT key, action, reason FROM fleet.restore_snapshot($id, '$what', "
		  . ($dry_run ? 'true' : 'false') . ') ORDER BY key');
}

# Its number.
sub take { return $c->sql($_[0], 'SELECT fleet.take_snapshot()') }

# Delete behind the extension's back, as a lost disk or a careless hand would.
sub lose
{
	my ($node, $sql) = @_;
	$c->sql($node, "SET session_replication_role = replica; $sql; RESET session_replication_role");
}

# ---- by version

$c->add_rides('a', @ids);
my $place = $c->place('a');
$c->sql('a', "SELECT fleet.register_vehicle('v-$_', $place)") for 1 .. 5;
my $image = "SELECT fleet.row_image(r) FROM fleet.local_rides AS r WHERE ride_id = 'r-1'";
my $before = $c->sql('a', $image);
my $vehicle = "SELECT fleet.row_image(v) FROM fleet.local_vehicles AS v WHERE vehicle_id = 'v-1'";
my $vehicle_before = $c->sql('a', $vehicle);
my $old = take('a');
is($c->sql('a', "SELECT vehicles, rides, region, map_version FROM fleet.snapshots WHERE id = $old"), '5|8|a|3', 'a snapshot has what is there');
is(restore('a', $old, $_, 1), '', "$_: nothing is restored where nothing is lost") for 'missing rides', 'positions';

$c->sql('a', "SELECT fleet.handoff('r-2', 'b')");
$c->sql('a', "SELECT fleet.handoff('r-3', 'b')");
$c->sql('b', "SELECT fleet.handoff('r-3', 'c')");
$c->sql('c', "SELECT fleet.cancel_ride('r-3'); DELETE FROM fleet.local_rides WHERE ride_id = 'r-3'");
$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'r-4'");
$c->sql('a', "SELECT fleet.update_ride('r-5', '{\"customer_id\": \"other\"}')");
$c->sql('a', "SELECT fleet.handoff('r-6', 'b')");
$c->sql('a', "SELECT fleet.handoff_vehicle('v-3', 'b')");
delete $c->{rides}{$_} for 'r-3', 'r-4';
$c->heal;
# Lost: r-1, the traces that r-6 left here, and the positions of two vehicles, one of which has moved since.
lose('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'r-1'; DELETE FROM fleet.departures WHERE key IN ('r-6', 'v-3');"
	  . "DELETE FROM fleet.local_vehicles WHERE vehicle_id = 'v-1'; UPDATE fleet.local_vehicles SET location = NULL, hlc = '2020-01-01T00:00:00.000Z/00000' WHERE vehicle_id = 'v-2'");
$c->sql('a', "SELECT fleet.report_fix('v-4', 0.25, 0.25)");
my $fate = "r-1|%s|\nr-2|left alone|it left for region \"b\"\nr-3|left alone|it left for region \"b\"\nr-4|left alone|it was deleted\nr-6|left alone|it is in region \"b\"";
is(restore('a', $old, 'missing rides', 1), sprintf($fate, 'would be restored'), 'what would be restored, and what not and why');
is($c->sql('a', 'SELECT count(*) FROM fleet.restores'), '0', 'a dry run leaves nothing');
is($c->sql('a', $image), '', 'and restores nothing');
is(restore('a', $old, 'missing rides'), sprintf($fate, 'restored'), 'the same, done');
is($c->sql('a', $image), $before, 'the ride is as it was, its version too');
is(restore('a', $old, 'positions'), "v-1|restored|\nv-2|restored|\nv-3|left alone|it is in region \"b\"", 'positions: missing and older ones');
is($c->sql('a', $vehicle), $vehicle_before, 'the vehicle is as it was');
is($c->sql('a', "SELECT fleet.lon(location) FROM fleet.local_vehicles WHERE vehicle_id = 'v-4'"), '0.25', 'one that has reported since stays where it is');
is($c->sql('a', "SELECT restored, left_alone, what FROM fleet.restores ORDER BY id"), "1|4|missing rides\n2|1|positions", 'it is recorded');
is($c->sql('a', "SELECT key, before_image IS NULL FROM fleet.restored_rows ORDER BY key"), "r-1|t\nv-1|t\nv-2|f", 'each row with what was there before');
$c->check_all('after restoring by version', log => 0);

# ---- a region that goes back in time

$c->save('b');
$c->add_rides('b', 's-1', 's-2', 's-3');
my $place_b = $c->place('b');
my $newer = take('b');
my $kept = $c->sql('b', "COPY (SELECT * FROM fleet.snapshots WHERE id = $newer) TO '/tmp/fleet-042-$$.s'; COPY (SELECT * FROM fleet.snapshot_rides WHERE snapshot = $newer) TO '/tmp/fleet-042-$$.r';"
	  . "COPY (SELECT * FROM fleet.snapshot_positions WHERE snapshot = $newer) TO '/tmp/fleet-042-$$.p'");
$c->sql('b', "SELECT fleet.handoff('s-2', 'c')");
$c->sql('c', "SELECT fleet.cancel_ride('s-2'); DELETE FROM fleet.local_rides WHERE ride_id = 's-2'");
delete $c->{rides}{'s-2'};
$c->heal;
$c->go_back('b', promote => 1);
is($c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id LIKE 's-%'"), '0', 'rides are lost with the backup that was restored');
$c->sql('b', "COPY fleet.snapshots FROM '/tmp/fleet-042-$$.s'; COPY fleet.snapshot_rides FROM '/tmp/fleet-042-$$.r'; COPY fleet.snapshot_positions FROM '/tmp/fleet-042-$$.p'");
unlink "/tmp/fleet-042-$$.$_" for 's', 'r', 'p';
is(restore('b', $newer, 'missing rides'), "s-1|restored|\ns-2|left alone|region \"c\" knows of a later epoch or change\ns-3|restored|",
	'a snapshot that was kept elsewhere brings them back, and not what was deleted in another region');
$c->check_all('after going back in time', log => 0);

# ---- while rides move

my $storm = take('a');
my $stop = time + 8;
my @movers = map {
	my ($from, $to) = @$_;
	$c->start_sql($from, "DO \$\$ DECLARE id text; BEGIN FOR i IN 1 .. 100000 LOOP"
		  . " EXIT WHEN extract(epoch FROM clock_timestamp()) > $stop;"
		  . " FOR id IN SELECT ride_id FROM fleet.local_rides WHERE ride_id LIKE 'r-%' ORDER BY random() LIMIT 2 LOOP"
		  . " BEGIN PERFORM fleet.handoff(id, '$to'); EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; COMMIT; END LOOP; END \$\$", go_on => 1)
} [ 'a', 'b' ], [ 'b', 'a' ], [ 'b', 'c' ], [ 'c', 'a' ];
my ($restores, $brought) = (0, 0);
while (time < $stop)
{
	my $said = restore('a', $storm, 'missing rides');
	$restores++;
	$brought += () = $said =~ /\|restored\|/g;
}
$_->finish for @movers;
cmp_ok($restores, '>', 10, "restored $restores times while rides moved");
cmp_ok($c->sql('a', "SELECT count(*) FROM fleet.handoff_log WHERE status <> 'reinserted'"), '>', 100, 'and they moved');
is($brought, 0, 'nothing was lost, so nothing was brought back');
$c->check_all('after restoring while rides moved', log => 0);

# ---- who does not answer, and who has forgotten

$c->sql('a', "SELECT fleet.request_ride('z', 'c', $place)");
my $last = take('a');
lose('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'z'");
$c->stop('c');
like($c->try_sql('a', "SELECT * FROM fleet.restore_snapshot($last, 'missing rides', false)")->{state} // '', qr/^08/, 'without the word of all regions nothing is restored');
$c->start('c');
$c->sql('b', "INSERT INTO fleet.departures_pruned (upto) SELECT fleet.hlc_now()");
my $refused = $c->try_sql('a', "SELECT * FROM fleet.restore_snapshot($last, 'missing rides', false)");
like($refused->{err}, qr/55000.*is too old.*Region "b" has forgotten/s, 'nor where one has forgotten what it knew');
$c->sql('b', 'DELETE FROM fleet.departures_pruned');
is(restore('a', $last, 'missing rides') =~ /^z\|restored\|$/m, 1, 'else it is');

# ---- a flipped byte

is($c->sql('a', "SELECT ok FROM fleet.verify_snapshot($last)"), 't', 'a snapshot is as it was taken');
$c->sql('a', "INSERT INTO fleet.vehicles (vehicle_id, region, location) SELECT 'w-' || n, 'a', fleet.make_point(random() / 2, random() / 2) FROM generate_series(1, 3000) AS n");
my $flipped = take('a');
my $file = $c->sql('a', "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'fleet.snapshot_positions'::regclass");
$c->sql('a', 'CHECKPOINT');
$c->stop('a');
my $path = "$c->{nodes}{a}{data}/$file";
open(my $fh, '+<:raw', $path) or die "$path: $!";
seek($fh, 8192 * 3 + 5000, 0);
read($fh, my $byte, 1);
seek($fh, 8192 * 3 + 5000, 0);
print $fh chr(ord($byte) ^ 1);
close $fh;
$c->start('a');
is($c->sql('a', "SELECT ok FROM fleet.verify_snapshot($flipped)"), 'f', 'one byte that flipped on the disk is found');
like($c->try_sql('a', "SELECT * FROM fleet.restore_snapshot($flipped, 'positions', false)")->{err}, qr/XX001.*is damaged/, 'and it is not restored');
is($c->sql('a', "SELECT ok FROM fleet.verify_snapshot($last)"), 't', 'others are as good as before');

done_testing();
