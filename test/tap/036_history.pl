# fleet: the history of fixes.
# Copyright (c) 2026, the fleet authors
#
# Proves: the path of a ride that crosses three regions is what was reported, asked
# on any node; a region that cannot answer is an error that names it; a crash loses
# no fix of the history that its vehicle has, and keeps none that it has not; while fixes
# come, sessions that make the same partition at once make it once, the fixes of the default
# partition move into it, and what is old is dropped, and each accepted fix is there
# once; who holds a lock makes that wait no longer than it says, and loses no fix; a fix never
# waits for the table.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(settings => "fleet.max_speed = 0\nfleet.connect_timeout = 500");

# A moment of the day that is so many days from today, as SQL.
sub moment { my ($days, $seconds) = @_; return sprintf "(date_trunc('day', now(), 'UTC') + %d * interval '1 day' + %s * interval '1 s')", $days, $seconds }

sub count_fixes { my ($node, $vehicle) = @_; return $c->sql($node, "SELECT count(*), count(DISTINCT at) FROM fleet.fix_history WHERE vehicle_id = '$vehicle'") }

# Calls of report_fix for one vehicle by one session after the other, $n of them, at $first + n seconds
# of a day, each a transaction.
sub fixes_sql
{
	my ($vehicle, $node, $days, $n) = @_;
	my $place = $c->place($node);
	return join '', map { "SELECT outcome FROM fleet.report_fix('$vehicle', $place, " . moment($days, $_) . ");\n" } 1 .. $n;
}

# ---- a ride through three regions

my $place = $c->place('a');
$c->sql('a', "SELECT fleet.register_vehicle('car', $place); SELECT fleet.request_ride('ride', 'cust', $place, 'car')");
$c->{rides}{ride} = 0;
my @reported;
for my $n (0 .. 59)
{
	my ($lon, $lat) = (sprintf('%.7f', 0.4 + $n * 0.0400123), sprintf('%.7f', 0.5 + sin($n) / 10));
	my $on = ('a', 'b', 'c')[ $n % 3 ];    # whichever node is called
	my $outcome = $c->sql($on, "SELECT outcome FROM fleet.report_fix('car', $lon, $lat, " . moment(-1, $n) . ' + 0.25 * interval \'1 s\')');
	push @reported, [ $lon + 0, $lat + 0 ] if $outcome =~ /accepted|moved/;
}
is(scalar(@reported), 60, 'sixty fixes through three regions, reported on any node');
is($c->sql('a', 'SELECT fleet.locate(\'ride\')'), 'c', 'the ride went to the third');
is(join(' ', map { $c->sql($_, "SELECT count(*) > 10 FROM fleet.fix_history WHERE ride_id = 'ride'") } 'a', 'b', 'c'), 't t t', 'each region has a part of its path');
my $path = join ',', map { "$_->[0] $_->[1]" } @reported;
for my $node ($c->names)
{
	is($c->sql($node, "SELECT replace(replace(ST_AsText(ST_Force2D(fleet.ride_path('ride')), 7), 'LINESTRING(', ''), ')', '')"), $path, "asked on $node it is whole, in order");
}
is($c->sql('b', "SELECT count(*), bool_and(ST_M(geom) = extract(epoch FROM " . moment(-1, 0) . ") + path[1] - 1 + 0.25) FROM ST_DumpPoints(fleet.ride_path('ride'))"), '60|t', 'with the times');
is($c->sql('b', "SELECT fleet.vehicle_path('car', now() - interval '3 days', now() + interval '1 day') = fleet.ride_path('ride')"), 't', 'the same as that of its vehicle');
is($c->sql('b', "BEGIN; SELECT count(*) FROM fleet.report_fix('car', 2.5, 0.5, " . moment(-1, 60) . ") AS r; SELECT ST_NPoints(fleet.ride_path('ride')); ROLLBACK"),
	"1\n61", 'a transaction sees its own fix, though another node has it');
is($c->sql('a', "SELECT ST_NPoints(fleet.ride_path('ride'))"), 60, 'which is undone with it');

# ---- a region that cannot answer

$c->stop('b');
my $result = $c->try_sql('a', "SELECT fleet.ride_path('ride')");
is($result->{state}, '08006', 'with a region down there is no path');
like($result->{err}, qr/could not read what region "b" has of the path of ride "ride"/, 'and the error names it');
$c->start('b');
$c->wait_until(sub { $c->ask('a', "SELECT fleet.ride_path('ride')")->{ok} }, 'it is asked again', 20);

# ---- a crash: the history and the vehicle's row agree

$c->sql('a', "SELECT fleet.register_vehicle('crash-$_', $place)") for 1 .. 2;
my @writers = map { $c->start_sql('a', fixes_sql("crash-$_", 'a', -1, 3000)) } 1 .. 2;
$c->wait_until(sub { $c->sql('a', "SELECT count(*) > 300 FROM fleet.fix_history WHERE vehicle_id LIKE 'crash-%'") eq 't' }, 'fixes come');
$c->kill9('a');
$_->finish for @writers;
$c->start('a');
is($c->sql('a', "SELECT count(*) FROM fleet.local_vehicles AS v WHERE vehicle_id LIKE 'crash-%' AND v.fix_at = (SELECT max(at) FROM fleet.fix_history AS h WHERE h.vehicle_id = v.vehicle_id)"
	. " AND (SELECT count(*) FROM fleet.fix_history AS h WHERE h.vehicle_id = v.vehicle_id) = extract(epoch FROM v.fix_at - " . moment(-1, 0) . ')'),
	2, 'after a crash each vehicle has all of its fixes and no other');
is($c->sql('a', "SELECT ST_NPoints(fleet.vehicle_path('crash-1', now() - interval '3 days', now() + interval '1 day')) = (SELECT count(*) FROM fleet.fix_history WHERE vehicle_id = 'crash-1')"), 't', 'and the indexes know them');

# ---- partitions are made and dropped while fixes come

$c->sql('a', "SELECT fleet.register_vehicle('busy-$_', $place)") for 1 .. 3;
my $day = $c->sql('a', 'SELECT ' . moment(-4, 0) . '::date');
my $part = 'fix_history_' . $day =~ s/-//gr;
my $old = $c->sql('a', "SELECT fleet.make_history_partition((now() AT TIME ZONE 'UTC')::date - 30)");
is($old, 0, 'an old day has a partition');
@writers = map { $c->start_sql('a', fixes_sql("busy-$_", 'a', -4, 1500)) } 1 .. 3;
$c->wait_until(sub { $c->sql('a', "SELECT count(*) > 300 FROM fleet.fix_history_default WHERE vehicle_id LIKE 'busy-%'") eq 't' }, 'fixes of a day without a partition come');
my ($made, $failed) = (0, 0);
$c->wait_until(sub
{
	# On a slow machine all four may be told that the table is busy: then they come again.
	my @makers = map { $c->start_sql('a', "SELECT outcome FROM fleet.make_history_partitions() WHERE part = '$part'") } 1 .. 4;
	for my $maker (map { $_->finish } @makers)
	{
		$failed++ if !$maker->{ok};
		$made++ if $maker->{out} =~ /made/;
	}
	return $c->sql('a', "SELECT to_regclass('fleet.$part') IS NOT NULL") eq 't';
}, 'four sessions make its partition at once', 60);
is($failed, 0, 'none of them fails');
is($made, 1, 'one of them does it');
like($c->sql('a', 'SELECT string_agg(part || outcome, \' \') FROM fleet.drop_old_history()'), qr/^fix_history_\d{8}dropped$/, 'the old one is dropped meanwhile');
my @outcomes = map { my $r = $_->finish; $r->{ok} ? scalar(() = $r->{out} =~ /accepted/g) : $r->{err} } @writers;
is("@outcomes", '1500 1500 1500', 'all fixes are accepted meanwhile');
is(count_fixes('a', "busy-$_"), '1500|1500', "each fix of vehicle $_ is there once") for 1 .. 3;
is($c->sql('a', "SELECT count(*) FROM fleet.fix_history_default WHERE vehicle_id LIKE 'busy-%'"), 0, 'none is left in the default partition');
is($c->sql('a', "SELECT ST_NPoints(fleet.vehicle_path('busy-1', '$day', now()))"), 1500, 'and the path is whole');

# ---- locks

$c->sql('a', "SELECT fleet.register_vehicle('held-$_', $place)") for 1 .. 2;
my $fix = "SELECT outcome FROM fleet.report_fix('held-1', $place, " . moment(-6, 1) . ')';
my $holder = $c->start_sql('a', "BEGIN; $fix; SELECT pg_sleep(4); COMMIT");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'a transaction has written to the default partition', 10);
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('held-2', $place, " . moment(-6, 1) . ')'), 'accepted', 'so has another one, which has committed');
my $start = time;
is($c->sql('a', 'SELECT outcome FROM fleet.make_history_partitions()'), 'busy', 'who makes the partition then is told to come again');
cmp_ok(time - $start, '<', 3, 'soon');
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('held-2', $place, " . moment(-6, 2) . ')'), 'accepted', 'and other fixes of that day come on');
ok($holder->finish->{ok}, 'the transaction commits');
is($c->sql('a', 'SELECT outcome FROM fleet.make_history_partitions()'), 'made', 'then it is made');
is(count_fixes('a', 'held-1') . ' ' . count_fixes('a', 'held-2'), '1|1 2|2', 'with all fixes');

my $table = $c->start_sql('a', 'BEGIN; LOCK TABLE fleet.fix_history IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT');
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'somebody holds the table', 10);
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('held-1', $place, " . moment(-1, 1) . ')'), 'accepted', 'a fix does not wait for it');
is($c->sql('a', 'SELECT outcome FROM fleet.make_history_partitions(8)'), 'busy', 'a new partition does, for a moment');
$table->finish;
my $reader = $c->start_sql('a', "BEGIN; SELECT count(*) FROM fleet.$part; SELECT pg_sleep(3); COMMIT");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'somebody reads a partition', 10);
$c->set_system('a', 'fleet.history_retention', '1d');
$c->wait_until(sub { $c->sql('a', 'SHOW fleet.history_retention') eq '1d' }, 'the retention is a day');
is($c->sql('a', "SELECT outcome FROM fleet.drop_old_history() WHERE part = '$part'"), 'busy', 'what is read is not dropped');
$reader->finish;
is($c->sql('a', "SELECT outcome FROM fleet.drop_old_history() WHERE part = '$part'"), 'dropped', 'but the next time');
is($c->sql('a', "SELECT fleet.vehicle_path('busy-1', '-infinity', 'infinity') IS NULL"), 't', 'its fixes are gone');
$c->check_all;

done_testing();
