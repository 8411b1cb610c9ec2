# fleet: fences on several nodes.
# Copyright (c) 2026, the fleet authors
#
# Proves: a fence is on all nodes or on none, also where a node is killed as the
# change commits, and where its PREPARE is lost; a region that joins gets the
# fences, one that leaves forgets them.  A vehicle that drives to and fro over a border,
# with a crash of its server in between, enters and leaves each fence once, whichever
# region it is in; the change stream has the same events.  They are told by NOTIFY
# once, but not where the fix came by another node, which commits all the same.  Of two
# vehicles that report at the same time one sees that they have met.

use strict;
use warnings;

use FleetCluster;
use JSON::PP qw(decode_json);
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, no_map => 1, settings => "fleet.max_speed = 0\nfleet.crossing_distance = 0");
$c->add_region($_) for 'a', 'b', 'c';
my $clock = 0;

# A fix, each a minute after the last one: node, vehicle, place; returns the outcome.
sub fix
{
	my ($node, $vehicle, $place, $at) = @_;
	$at //= ++$clock;
	return $c->sql($node, "SELECT outcome FROM fleet.report_fix('$vehicle', $place, timestamptz '2026-01-01 00:00+00' + $at * interval '1 min')");
}

# The events of all nodes that are up, in the order of the vehicle's fixes.
sub noted
{
	my ($where, @nodes) = @_;
	my @all;
	for my $node (@nodes ? @nodes : ('a', 'b', 'c'))
	{
		push @all, map { [ split /\|/ ] } split /\n/,
		  $c->sql($node, "SELECT extract(epoch FROM at)::bigint, kind, fence, region FROM fleet.fence_events WHERE $where");
	}
	return join(' ', map { "$_->[1]:$_->[2]:$_->[3]" } sort { $a->[0] <=> $b->[0] || $a->[2] cmp $b->[2] || $a->[1] cmp $b->[1] } @all);
}

sub fences
{
	my ($node) = @_;
	return $c->sql($node, "SELECT COALESCE(string_agg(name, ' ' ORDER BY name), '') FROM fleet.fences");
}

# ---- on all nodes, or on none

$c->sql('a', "SELECT fleet.add_fence('gate', ST_MakeEnvelope(0.9, 0.4, 1.1, 0.6, 4326))");
$c->sql('b', "SELECT fleet.add_fence('depot', 'POINT(0.5 0.5)'::geography, 5000, '{near,exit}')");
is(fences($_), 'depot gate', "fences on $_") for 'a', 'b', 'c';
is($c->sql('a', 'SELECT md5(fleet.all_fences()::text)'), $c->sql('c', 'SELECT md5(fleet.all_fences()::text)'), 'and they are the same');
$c->stop('c');
my $refused = $c->try_sql('a', "SELECT fleet.add_fence('partial', ST_MakeEnvelope(0, 0, 1, 1, 4326))");
ok(!$refused->{ok}, 'not without one of the nodes') or diag($refused->{out});
$c->start('c');
is(fences($_), 'depot gate', "none of it on $_") for 'a', 'b', 'c';

# Of what is decided nothing is lost: c is killed, and then goes back to before its PREPARE.
for my $how ('killed', 'back')
{
	$c->save('c') if $how eq 'back';
	my $session = $c->start_waiting('a', "SELECT fleet.add_fence('$how', ST_MakeEnvelope(0, 0, 1, 1, 4326))", 'after-local-commit');
	$how eq 'back' ? $c->go_back('c') : $c->kill9('c');
	$c->go('a', 'after-local-commit');
	ok($session->finish->{ok}, "$how: it is committed");
	$c->start('c') if $how eq 'killed';
	$c->wait_until(sub { fences('c') eq fences('a') }, "$how: c gets it", 30);
	is(fences('c'), "$how depot gate" =~ s/^(killed) (.*)/$2 $1/r, "$how: it is on c");
	$c->heal;
	$c->sql('c', "SELECT fleet.remove_fence('$how')");
	is(fences($_), 'depot gate', "$how: and is removed on $_") for 'a', 'b', 'c';
}

# ---- who joins, who leaves

$c->sql('a', "SELECT fleet.add_fence('lasts', ST_MakeEnvelope(0, 0, 1, 1, 4326))");
$c->add_region('d');
is(fences('d'), 'depot gate lasts', 'a region that joins gets the fences');
$c->sql('d', "SELECT fleet.remove_fence('lasts')");
is(fences($_), 'depot gate', "$_ hears of it as of the others") for 'a', 'b', 'c', 'd';
$c->wait_until(sub { $c->try_sql('a', "SELECT fleet.remove_region('d')")->{ok} }, 'd leaves');
$c->leave_map('d');
is(fences('d'), '', 'a region that leaves forgets them');
is($c->try_sql('d', "SELECT fleet.add_fence('x', ST_MakeEnvelope(0, 0, 1, 1, 4326))")->{state}, 'RF004', 'and makes none');

# ---- to and fro over a border, and a crash

$c->sql('a', "SELECT fleet.add_fence('slow', ST_MakeEnvelope(0.9, 0.4, 1.1, 0.6, 4326), '{dwell}', '150 s')");
$c->sql($_, "SELECT fleet.create_change_stream('fences')") for 'a', 'b';
$c->sql('a', "SELECT fleet.register_vehicle('car', 0.2, 0.2)");
is(fix('a', 'car', '0.5, 0.5'), 'accepted', 'to the depot');
is(fix('a', 'car', '0.95, 0.5'), 'accepted', 'to the gate');
is(fix('a', 'car', '1.05, 0.5'), 'moved', 'over the border, in the gate');
$c->kill9('b');
$c->start('b');
is(fix('b', 'car', '1.05, 0.51'), 'accepted', 'still there after a crash');
is(fix('b', 'car', '1.06, 0.51'), 'accepted', 'for long enough');
is(fix('b', 'car', '0.96, 0.51'), 'moved', 'back, in the gate');
is(fix('a', 'car', '0.96, 0.50'), 'accepted', 'and told of once');
is(fix('a', 'car', '0.96, 0.50', $clock), 'stale', 'nothing of a fix that is repeated');
is(fix('a', 'car', '1.5, 0.5'), 'moved', 'away over the border');
my $expected = 'near:depot:a exit:depot:a enter:gate:a dwell:slow:b exit:gate:a';
is(noted("vehicle_id = 'car'"), $expected, 'each once, where the vehicle was');
my @events = map { $_->{operation} eq 'event' ? [ $_->{new}{at}, "$_->{new}{kind}:$_->{new}{fence}:" . $_->{id} =~ s/:.*//r ] : () } map { decode_json($_) }
  map { split /\n/, $c->sql($_, "SELECT data FROM pg_logical_slot_get_changes('fences', NULL, NULL, 'events', 'on')") } 'a', 'b';
is(join(' ', map { $_->[1] } sort { $a->[0] cmp $b->[0] || ($a->[1] =~ /depot/ ? -1 : 1) } @events), $expected, 'and so in the change streams');

# ---- told

sub heard
{
	my ($node, $channel, $what) = @_;
	my $listening = $c->start_sql($node, "LISTEN \"$channel\";\nSELECT 'listening';\nSELECT pg_sleep(2.5);\nSELECT 'done'");
	$c->wait_until(sub { $c->sql($node, "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$listening->{app}' AND query LIKE '%pg_sleep%'") eq '1' }, 'it listens');
	$what->();
	return map { decode_json($_) } $listening->finish->{out} =~ /^Asynchronous notification "[^"]+" with payload "(.*)" received/mg;
}

my $channel = $c->sql('b', "SELECT fleet.channel('fence', 'gate')");
my @told = heard('b', $channel, sub {
	fix('b', 'car', '1.05, 0.5');
	$c->sql('b', "BEGIN; SELECT fleet.report_fix('car', 1.5, 0.5, timestamptz '2026-01-01 00:00+00' + @{[$clock + 1]} * interval '1 min'); ROLLBACK");
	fix('b', 'car', '1.5, 0.5');
});
is(join(' ', map { "$_->{event}:$_->{key}:$_->{region}:$_->{fence}" } @told), 'enter:car:b:gate exit:car:b:gate', 'told once each, and nothing of what was rolled back');
is_deeply($told[0]{location}, [ 1.05, 0.5 ], 'with the place');
is($told[0]{id}, $c->sql('b', "SELECT id FROM fleet.fence_events WHERE kind = 'enter' ORDER BY id DESC LIMIT 1"), 'and the row of the event');
@told = heard('b', $channel, sub {
	is(fix('c', 'car', '1.05, 0.5'), 'accepted', 'a fix by another node');
	is(fix('c', 'car', '0.95, 0.5'), 'moved', 'also where it crosses a border');
});
is(scalar @told, 0, 'is not told');
is(noted("vehicle_id = 'car' AND at > '2026-01-01 00:10+00'"), 'enter:gate:b', 'but noted');
is($c->sql('a', "SELECT string_agg(f, ' ') FROM fleet.located_in, unnest(fences) AS f WHERE key = 'car'"), 'gate slow', 'where it is now, asked over all regions');

# ---- two vehicles, at the same time

$c->sql('a', "SELECT fleet.register_vehicle('x-$_', 0.1, 0.1), fleet.register_vehicle('y-$_', 0.1, 0.3), fleet.add_pair('meet-$_', 'x-$_', 'y-$_', 1000, false)") for 1 .. 5;
for my $i (1 .. 5)
{
	my $at = ++$clock;
	my @both = map { $c->start_sql('a', "BEGIN; SELECT fleet.report_fix('$_-$i', 0.1, 0.2, timestamptz '2026-01-01 00:00+00' + $at * interval '1 min'); SELECT pg_sleep(0.2); COMMIT") } 'x', 'y';
	ok($_->finish->{ok}, "a fix of pair $i") for @both;
}
is(noted("kind = 'near' AND fence LIKE 'meet%'"), join(' ', map { "near:meet-$_:a" } 1 .. 5), 'one of two sees that they have met');

$c->check_all;
done_testing();
