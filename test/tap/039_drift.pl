# fleet: damage of all kinds is found within 10 s and healed within 8 s more.
# Copyright (c) 2026, the fleet authors
#
# The drift job runs on the replica once a second.  Each kind of damage is done
# behind the extension's back, and timed by the reports.

use strict;
use warnings;

use FleetCluster;
use FleetDrift;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1, settings => "fleet.heartbeat_interval = 200ms\n");
my $g = $c->{replica};

fill_regions($c, 40);
$c->sql('a', add_replica($c));
$c->wait_until(sub { is_ready($c) }, 'the replica is ready');

# ---- a check by hand: nothing is wrong

my $report = $c->sql($g, 'SELECT checked, missing + extra + stale + differing + distant + doubled + lost + astray, undecided, percentage, failed FROM fleet.check_drift()');
is($report, '240|0|0|0|{}', 'all is checked, nothing is wrong');
is($c->sql('b', 'SELECT checked > 0, doubled + lost, percentage FROM fleet.check_drift()'), 't|0|0', 'nor is it seen from a region');
is($c->sql($g, 'SET client_min_messages = warning; SELECT checked >= 240, percentage, undecided FROM fleet.compare_all()'), 't|0|0', 'nor in whole tables');

# ---- the job

my $job = start_job($c, $g);

# healed(name, damage, problem (a column of reports), is_right => statement on the replica or region that is to give t)
sub healed
{
	my ($name, $damage, $problem, $node, $is_right) = @_;
	my $since = $c->sql($g, 'SELECT coalesce(max(id), 0) FROM fleet.drift_reports');
	my $at = time;
	$damage->();
	my $done = time;
	my $found = eval {
		$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.drift_reports WHERE id > $since AND what <> 'heal' AND $problem > 0") ne '0' }, $name, 12);
		time - $done;
	};
	ok(defined $found && $found < 10, sprintf '%s: found after %.1f s', $name, $found // -1)
	  or diag($c->sql($g, "SELECT * FROM fleet.drift_reports WHERE id > $since"));
	my $start = time;
	my $took = eval { $c->wait_until(sub { my $r = $c->ask($node, $is_right); $r->{ok} && $r->{out} eq 't' }, $name, 12); time - $start };
	ok(defined $took && $took < 8, sprintf '%s: healed after %.1f s more', $name, $took // -1)
	  or diag($c->sql($g, "SELECT id, what, checked, percentage, undecided, left(ids::text, 300) FROM fleet.drift_reports WHERE id > $since")
		. "\n" . $c->sql($g, 'SELECT * FROM fleet.heal_log ORDER BY id DESC LIMIT 5') . "\n" . $c->log_text($g, 0) =~ s/^(?!.*(drift|ERROR|WARN)).*\n//mgr);
}

# The job heals from 5 % on; these are single rows.
$c->set_system($g, 'fleet.drift_threshold', '0');
$c->wait_until(sub { $c->sql($g, 'SHOW fleet.drift_threshold') eq '0' }, 'the threshold is 0');

healed('rows deleted on the replica', sub { on_replica($c, "DELETE FROM fleet.local_rides WHERE ride_id IN ('ride-a-9', 'ride-b-2'); DELETE FROM fleet.local_vehicles WHERE vehicle_id = 'car-c-9'") },
	'missing', $g, "SELECT (SELECT count(*) = 2 FROM fleet.rides WHERE ride_id IN ('ride-a-9', 'ride-b-2')) AND EXISTS (SELECT FROM fleet.vehicles WHERE vehicle_id = 'car-c-9')");

healed('a fare changed on the replica', sub { on_replica($c, "UPDATE fleet.local_rides SET fare = 77 WHERE ride_id = 'ride-a-10'") },
	'differing', $g, "SELECT fare = 10 FROM fleet.rides WHERE ride_id = 'ride-a-10'");

healed('a version changed on the replica', sub { on_replica($c, "UPDATE fleet.local_rides SET status = 'CANCELLED', hlc = (hlc::bigint + (1::bigint << 40))::fleet.hlc WHERE ride_id = 'ride-a-11'") },
	'differing', $g, "SELECT status = 'PENDING' FROM fleet.rides WHERE ride_id = 'ride-a-11'");

healed('an older version on the replica', sub { on_replica($c, "UPDATE fleet.local_rides SET fare = 1, hlc = (hlc::bigint - 1)::fleet.hlc WHERE ride_id = 'ride-a-12'") },
	'stale', $g, "SELECT fare = 12 FROM fleet.rides WHERE ride_id = 'ride-a-12'");

healed('a ride added on the replica', sub { on_replica($c, "INSERT INTO fleet.local_rides SELECT (jsonb_populate_record(r, '{\"ride_id\": \"ghost\"}')).* FROM fleet.local_rides AS r WHERE ride_id = 'ride-a-13'") },
	'extra', $g, "SELECT NOT EXISTS (SELECT FROM fleet.rides WHERE ride_id = 'ghost')");

my $copy = $c->sql('a', "SELECT jsonb_set(fleet.row_image(r), '{region}', '\"c\"') FROM fleet.local_rides AS r WHERE ride_id = 'ride-a-14'");
healed('a copy of the same version planted in a second region', sub { behind_back($c, 'c', "INSERT INTO fleet.local_rides SELECT (jsonb_populate_record(NULL::fleet.local_rides, '$copy')).*") },
	'doubled', 'c', "SELECT NOT EXISTS (SELECT FROM fleet.local_rides WHERE ride_id = 'ride-a-14')");
is($c->where('ride-a-14'), 'a1', 'the copy that was there before stays');
is($c->sql('c', "SELECT key, image->>'region', kept_in FROM fleet.conflicts"), 'ride-a-14|c|a', 'the other one is kept in fleet.conflicts');
is($c->sql($g, "SELECT region FROM fleet.rides WHERE ride_id = 'ride-a-14'"), 'a', 'the replica shows the right one');
is($c->sql('b', "SELECT region FROM fleet.get_ride('ride-a-14')"), 'a', 'and exact reads do');
is($c->sql('a', "SELECT fleet.handoff('ride-a-14', 'c')"), '2', 'it can be handed off there');

my $arrived = $c->sql('b', "SELECT md5(fleet.row_image(r)::text) FROM fleet.local_rides AS r WHERE ride_id = 'ride-a-3'");
healed('an arrival deleted', sub { behind_back($c, 'b', "DELETE FROM fleet.local_rides WHERE ride_id = 'ride-a-3'") },
	'lost', 'b', "SELECT EXISTS (SELECT FROM fleet.local_rides WHERE ride_id = 'ride-a-3')");
is($c->sql('b', "SELECT md5(fleet.row_image(r)::text) FROM fleet.local_rides AS r WHERE ride_id = 'ride-a-3'"), $arrived, 'it is as it was');

$c->sql('b', "UPDATE fleet.local_rides SET fare = 44 WHERE ride_id = 'ride-a-4'");
$c->wait_until(sub { $c->sql($g, "SELECT fare FROM fleet.rides WHERE ride_id = 'ride-a-4'") eq '44.00' }, 'a change is there');
healed('an arrival deleted that was changed since', sub { behind_back($c, 'b', "DELETE FROM fleet.local_rides WHERE ride_id = 'ride-a-4'") },
	'lost', 'b', "SELECT fare = 44 FROM fleet.local_rides WHERE ride_id = 'ride-a-4'");

# ---- the default threshold

$c->set_system($g, 'fleet.drift_threshold', undef);
$c->wait_until(sub { $c->sql($g, 'SHOW fleet.drift_threshold') eq '5' }, 'the threshold is 5 %');
on_replica($c, "UPDATE fleet.local_rides SET fare = 88 WHERE ride_id = 'ride-b-20'");
sleep 3;
is($c->sql($g, "SELECT fare FROM fleet.rides WHERE ride_id = 'ride-b-20'"), '88.00', 'below the threshold nothing is healed');
my $listener = $c->start_sql($g, "LISTEN fleet_alert; SELECT pg_sleep(20)", timeout => 60);
healed('positions of 6 % of the vehicles corrupted', sub { on_replica($c, "UPDATE fleet.local_vehicles SET location = ST_SetSRID(ST_MakePoint(50, 50), 4326)::geography"
			. " WHERE vehicle_id IN (SELECT vehicle_id FROM fleet.local_vehicles ORDER BY md5(vehicle_id) LIMIT 14)") },
	'distant', $g, "SELECT NOT EXISTS (SELECT FROM fleet.vehicles WHERE ST_X(location::geometry) = 50)");
is($c->sql($g, "SELECT bool_and(average_m > 0 AND maximum_m > 1e6 AND percentage > 5) FROM fleet.drift_reports WHERE distant > 0"), 't', 'with average, maximum and percentage');
is($c->sql($g, "SELECT fare FROM fleet.rides WHERE ride_id = 'ride-b-20'"), '20.00', 'and the others with it');

# ---- a region goes back in time

$c->save('b');
$c->wait_until(sub { is_ready($c) }, 'b is back');
$c->sql('b', "SELECT fleet.handoff('ride-b-30', 'c')");
$c->sql('c', "SELECT fleet.handoff('ride-c-30', 'b')");
$c->wait_until(sub { $c->sql($g, "SELECT count(*) FROM fleet.rides WHERE (ride_id, region) IN (('ride-b-30', 'c'), ('ride-c-30', 'b'))") eq '2' }, 'both have moved');
$c->heal;
healed('a region restored from an older backup', sub { $c->go_back('b') }, 'lost + doubled', 'b',
	"SELECT EXISTS (SELECT FROM fleet.local_rides WHERE ride_id = 'ride-c-30') AND NOT EXISTS (SELECT FROM fleet.local_rides WHERE ride_id = 'ride-b-30')");
is(join(' ', $c->places([ 'ride-b-30', 'ride-c-30' ])), 'c2 b2', 'both rides live once, where they went');

# ---- what is written down

is($c->sql($g, "SELECT count(*) FROM fleet.heal_log WHERE action LIKE 'failed%'"), '0', 'nothing has failed')
  or diag($c->sql($g, "SELECT * FROM fleet.heal_log WHERE action LIKE 'failed%'"));
is($c->sql($g, "SELECT before->>'fare', after->>'fare', action FROM fleet.heal_log WHERE key = 'ride-a-10'"), '77.00|10.00|replaced', 'what was healed is written down, before and after');
is($c->sql('b', "SELECT action, before IS NULL, after->>'fare' FROM fleet.heal_log WHERE key = 'ride-a-4'"), 'restored|t|44.00', 'on the node where it was done');
end_job($c, $g, $job);
my $heard = $listener->finish->{out};
like($heard, qr/notification "fleet_alert".*"kind" : "drift"/, 'who listens is told');
like($c->log_text($g, 0), qr/LOG:  fleet: drift of \d/, 'and the log tells');
$c->wait_until(sub { is_ready($c) }, 'the replica is ready');
is_equal($c, 'in the end');
is($c->sql('a', 'SELECT string_agg(check_name, \' \') FROM fleet.verify() WHERE problems > 0'), '', 'fleet.verify finds nothing');
done_testing();
