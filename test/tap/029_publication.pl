# fleet: somebody alters what a region publishes for its replicas.
# Copyright (c) 2026, the fleet authors
#
# PostgreSQL says nothing of it: what is left out is never sent, and the subscription goes
# on.  It is noticed within 5 s, the publication is what it was, and the replica has what it
# missed, also where who altered it has put it back before anybody looked.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1);
my $g = $c->{replica};
my @load = ('rides=200', 'hot=30');
my $made = "SELECT string_agg(format('%s %s %s %s %s', p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate), ', ' ORDER BY p.pubname)"
  . " || (SELECT string_agg(format('%s %s %s %s', t.pubname, t.tablename, t.attnames, t.rowfilter), ', ' ORDER BY t.pubname, t.tablename)"
  . ' FROM pg_publication_tables AS t) FROM pg_publication AS p';
my $number = 0;

is(FleetReplica::run_client($c, 'load', @load)->{ok}, 1, 'rides are there');
$c->sql('a', add_replica($c));
is_equal($c, 'made');
my $as_made = $c->sql('a', $made);

# Some of everything, which the altered publication may leave out.
sub change
{
	my $n = ++$number;
	return "SELECT fleet.request_ride('new-$n-' || i, 'c', 0.5, 0.5, NULL, $n) FROM generate_series(1, 20) AS i;"
	  . "UPDATE fleet.local_rides SET fare = fare + 1; DELETE FROM fleet.local_rides WHERE ride_id LIKE 'new-$n-1%';"
	  . "SELECT fleet.handoff('new-$n-2', 'b')";
}

my %alter = (
	'table dropped from it' => 'ALTER PUBLICATION fleet_rides DROP TABLE fleet.local_rides',
	'departures dropped from it' => 'ALTER PUBLICATION fleet_departures SET TABLE fleet.local_vehicles',
	'heartbeat dropped from it' => 'ALTER PUBLICATION fleet_rides DROP TABLE fleet.heartbeat',
	'operations' => q{ALTER PUBLICATION fleet_rides SET (publish = 'insert, delete')},
	'columns' => 'ALTER PUBLICATION fleet_rides SET TABLE fleet.local_rides (ride_id, region, epoch, hlc, customer_id, start_location, updated_at, path_m, fare, status), fleet.local_vehicles, fleet.heartbeat (region, hlc, beat)',
	'condition' => q{ALTER PUBLICATION fleet_departures SET TABLE fleet.departures (kind, key, epoch, target, hlc, image) WHERE (kind = 'vehicle')},
	'whole schema' => 'CREATE SCHEMA s; ALTER PUBLICATION fleet_departures SET TABLES IN SCHEMA s',
	'renamed' => 'ALTER PUBLICATION fleet_departures RENAME TO mine',
	'put back' => 'ALTER PUBLICATION fleet_rides DROP TABLE fleet.local_rides; ' . change() . ';' .
	  'ALTER PUBLICATION fleet_rides ADD TABLE fleet.local_rides (' . $c->sql('a', "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'fleet.rides'::regclass AND attnum > 0 AND NOT attisdropped") . ')',
);

for my $name (sort keys %alter)
{
	my $since = { repairs => $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'a'") };
	$c->sql('a', "$_;") for split /; */, $alter{$name};
	$since->{at} = time;
	$c->sql('a', $_) for split /; */, change();
	my $took = eval { noticed($c, 'a', $since) } // 99;
	cmp_ok($took, '<', 5, sprintf('%s: noticed (%.1f s)', $name, $took));
	ok(eval { $c->wait_until(sub { is_ready($c) && $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'a'") > $since->{repairs} }, 'ready', 30) },
		"$name: mended");
	like($c->sql($g, "SELECT last_error FROM fleet.replica_status WHERE region = 'a'"), qr/publications were altered/, "$name: it says why");
	$c->sql('a', 'DROP PUBLICATION IF EXISTS mine');
	is($c->sql('a', $made), $as_made, "$name: the publication is what it was");
	is_equal($c, $name);
}

# ---- the subscription is altered

{
	my $since = { repairs => $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'b'"), at => time };
	$c->sql($g, 'ALTER SUBSCRIPTION fleet_b DROP PUBLICATION fleet_departures WITH (refresh = false)');
	$c->sql('b', "SELECT fleet.request_ride('moves', 'c', 1.5, 0.5)");
	$c->sql('b', "DELETE FROM fleet.local_rides WHERE ride_id = 'moves'");
	my $took = eval { noticed($c, 'b', $since) } // 99;
	cmp_ok($took, '<', 5, sprintf('subscription altered: noticed (%.1f s)', $took));
	$c->wait_until(sub { is_ready($c) }, 'it is ready again', 30);
	is_equal($c, 'subscription altered');
}

# ---- while all moves

my $storm = start_storm($c, 8, @load, 'handoffs=60', 'writes=100');
sleep 1;
my $since = { repairs => $c->sql($g, "SELECT repairs FROM fleet.replica_status WHERE region = 'c'"), at => time };
$c->sql('c', $alter{'table dropped from it'});
my $took = eval { noticed($c, 'c', $since) } // 99;
cmp_ok($took, '<', 5, sprintf('in the storm: noticed (%.1f s)', $took));
ok(eval { $c->wait_until(sub { is_ready($c) }, 'ready', 30) }, 'in the storm: mended');
ok(end_storm($storm, 'in the storm') > 100, 'the replica was read all the time');
is_equal($c, 'in the storm');

# A column of somebody's own is not fleet's to send, and breaks nothing.
{
	my $before = $c->sql($g, 'SELECT sum(repairs) FROM fleet.replica_status');
	$c->sql('a', 'ALTER TABLE fleet.rides ADD COLUMN own text');
	$c->sql('a', "INSERT INTO fleet.rides (ride_id, customer_id, region, start_location, own) VALUES ('has-own', 'c', 'a', 'POINT(0.5 0.5)', 'x')");
	$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE ride_id = 'has-own'") eq '1' }, 'a row with a column of its own');
	sleep 2.5;
	is($c->sql($g, 'SELECT sum(repairs) FROM fleet.replica_status'), $before, 'a column of its own: nothing is copied');
	is($c->sql('a', $made), $as_made, 'a column of its own: nor published');
	$c->sql('a', 'ALTER TABLE fleet.rides DROP COLUMN own');
	is_equal($c, 'a column of its own');
}

# A region that nobody altered is not copied again and again.
my $repairs = $c->sql($g, 'SELECT sum(repairs) FROM fleet.replica_status');
sleep 3;
is($c->sql($g, 'SELECT sum(repairs) FROM fleet.replica_status'), $repairs, 'and then it is left alone');
done_testing();
