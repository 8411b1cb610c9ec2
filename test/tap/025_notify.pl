# fleet: changes are told by NOTIFY, and never from a prepared branch.
# Copyright (c) 2026, the fleet authors

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use JSON::PP;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my $long = 'r' x 100;
$c->add_rides('a', 'told', 'quiet', $long);
$c->sql('a', add_replica($c));

is($c->sql($g, "SELECT fleet.channel('ride', 'told')"), 'fleet_ride_told', 'a channel');
my $hashed = $c->sql($g, "SELECT fleet.channel('ride', '$long')");
like($hashed, qr/^fleet_ride_[0-9a-f]{32}$/, 'of a long id');
like($c->try_sql($g, "SELECT fleet.set_notify(NULL)")->{out}, qr/^$/, 'null is nothing');

# Events by channel, as [event, ...], of what runs while somebody listens.
sub heard
{
	my ($node, $what, @channels) = @_;
	my $listening = $c->start_sql($node, join('', map { "LISTEN \"$_\";\n" } @channels) . "SELECT 'listening';\nSELECT pg_sleep(2.5);\nSELECT 'done'");
	$c->wait_until(sub { $c->sql($node, "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$listening->{app}' AND query LIKE '%pg_sleep%'") eq '1' }, 'it listens');
	$what->();
	my $out = $listening->finish->{out};
	my %heard;
	push @{ $heard{$1} }, decode_json($2) while $out =~ /^Asynchronous notification "([^"]+)" with payload "(.*)" received/mg;
	return \%heard;
}

my $silent = heard($g, sub { $c->sql('a', "SELECT fleet.set_ride_status('quiet', 'EN_ROUTE')") }, 'fleet_ride_quiet');
is_deeply($silent, {}, 'nothing is told at first');

# ---- the replica tells

$c->sql($g, 'SELECT fleet.set_notify(true)');
my $heard = heard($g, sub {
	$c->sql('a', "SELECT fleet.set_ride_status('told', 'EN_ROUTE')");
	$c->sql('c', "SELECT fleet.handoff('told', 'b')");
	$c->sql('a', "UPDATE fleet.local_rides SET fare = 77 WHERE ride_id = '$long'");
	$c->sql('a', "DELETE FROM fleet.local_rides WHERE ride_id = 'quiet'");
	$c->sql('b', "SELECT fleet.request_ride('born', 'c', 1.5, 0.5)");
}, 'fleet_ride_told', $hashed, 'fleet_region_a', 'fleet_region_b');
my @told = @{ $heard->{fleet_ride_told} // [] };
is(join(' ', map { "$_->{operation}:$_->{epoch}" } @told), 'update:1 moved:2', 'a change and a move, once each');
is("$told[1]{from} $told[1]{to} $told[1]{region}", 'a b b', 'from where to where');
is($told[0]{new}{status}, 'EN_ROUTE', 'with the row');
is_deeply($told[0]{new}{start_location}, [ 0.5, 0.5 ], 'and places as in the change stream');
is($heard->{$hashed}[0]{new}{fare}, 77, 'the channel of a long id');
is(join(' ', map { "$_->{operation}:" . length $_->{key} } @{ $heard->{fleet_region_a} }), 'update:4 moved:4 update:100 delete:5', 'the channel of a region');
is(join(' ', map { "$_->{operation}:$_->{key}" } @{ $heard->{fleet_region_b} }), 'moved:told insert:born', 'and of the other one');

# ---- a region tells, and handoffs go on

$c->sql($_, 'SELECT fleet.set_notify(true)') for 'a', 'b';
$heard = heard('b', sub {
	$c->sql('b', "SELECT fleet.set_ride_status('told', 'ARRIVED')");
	ok($c->try_sql('b', "SELECT fleet.handoff('told', 'a')")->{ok}, 'from the source');
	ok($c->try_sql('b', "SELECT fleet.handoff('told', 'b')")->{ok}, 'from the target');
	ok($c->try_sql('c', "SELECT fleet.handoff('told', 'a')")->{ok}, 'from a third node');
	ok($c->try_sql('a', "SELECT fleet.handoff('told', 'b')")->{ok}, 'from the source, the other one');
}, 'fleet_ride_told');
is(join(' ', map { "$_->{operation}:$_->{epoch}" } @{ $heard->{fleet_ride_told} }), 'update:2 delete:2 insert:4', 'what this node did itself');
# What does not fit into a notification is told without the row.
$c->sql('b', 'ALTER TABLE fleet.rides ADD COLUMN own text');
$heard = heard('b', sub {
	ok($c->try_sql('b', "UPDATE fleet.local_rides SET own = repeat('x', 9000) WHERE ride_id = 'told'")->{ok}, 'a long row is written');
}, 'fleet_ride_told');
is($heard->{fleet_ride_told}[0]{operation} . exists $heard->{fleet_ride_told}[0]{new}, 'update', 'and told without its columns');
$c->sql('b', 'ALTER TABLE fleet.rides DROP COLUMN own');
is($c->try_sql('c', 'SELECT fleet.set_notify(false)')->{ok}, 1, 'turned off where it was not on');
$c->sql($_, 'SELECT fleet.set_notify(false)') for 'a', 'b', $g;
is($c->sql($g, "SELECT count(*) FROM pg_trigger WHERE tgname = 'fleet_notify'"), 0, 'and where it was');
delete $c->{rides}{quiet};
is_equal($c, 'in the end');
done_testing();
