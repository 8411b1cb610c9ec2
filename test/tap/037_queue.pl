# fleet: crossings in the queue of handoffs.
# Copyright (c) 2026, the fleet authors
#
# Proves: a queued crossing is committed a few milliseconds after its fix; one that
# is refused, or locked, does not hold up the others; a target that is down is
# left alone, and what waits for it drains by itself; the queue is bounded; the worker,
# the source and the target are killed at moments that hurt, and each vehicle is in
# one region, once; a vehicle that goes back and forth is no storm.  Real cabs that
# are reported to one node, without any rule against flapping, make the
# crossings that plain PostGIS found (where the traces are, see test/data).

use strict;
use warnings;

use FleetCluster;
use JSON::PP;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 3, settings => "fleet.handoff_mode = queued\nfleet.max_speed = 0\nfleet.flap_window = 0\nfleet.breaker_failures = 3");
my %place = map { $_ => $c->place($_) } 'a' .. 'c';

# Vehicles of region a, all of whom then cross to another in one transaction.
sub register
{
	my (@cars) = @_;
	$c->sql('a', "SELECT fleet.register_vehicle(id, $place{a}) FROM unnest('{" . join(',', @cars) . "}'::text[]) AS id");
	return @cars;
}

sub cross_sql
{
	my ($target, @cars) = @_;
	return "SELECT DISTINCT (fleet.report_fix(id, $place{$target}, clock_timestamp())).outcome FROM unnest('{" . join(',', @cars) . "}'::text[]) AS id";
}

sub queue { return $c->sql('a', 'SELECT ' . ($_[0] // 'count(*)') . ' FROM fleet.handoff_queue' . ($_[1] ? " WHERE $_[1]" : '')) }
sub drained { $c->wait_until(sub { queue() eq '0' }, 'the queue of a is empty', $_[0] // 20) }

# The queue is empty when the source has committed; its target follows.
sub all_at
{
	my ($place, $name, @cars) = @_;
	my $end = time + 10;

	sleep 0.01 while time < $end && grep { $_ ne $place } $c->places(\@cars, 'vehicle');
	is(join(' ', $c->places(\@cars, 'vehicle')), join(' ', ($place) x @cars), $name);
}

sub worker { return $c->sql('a', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'fleet handoffs'") }

# ---- how long it takes

my @cars = register(map { "quick-$_" } 1 .. 60);
is(worker(), '', 'no worker before there is work');
is($c->sql('a', cross_sql('b', 'quick-1')), 'queued', 'a crossing is queued');
drained();
like(worker(), qr/^\d+$/, 'the worker was called');
my @ms = split /\n/, $c->sql('a', <<SQL);
CREATE TEMPORARY TABLE took (ms float8);
DO \$\$
DECLARE
	since timestamptz;
BEGIN
	FOR n IN 2 .. 60 LOOP
		PERFORM fleet.report_fix('quick-' || n, $place{b}, clock_timestamp());
		COMMIT;
		since := clock_timestamp();
		WHILE EXISTS (SELECT FROM fleet.local_vehicles WHERE vehicle_id = 'quick-' || n) LOOP
			PERFORM pg_sleep(0.0002);
			COMMIT;
		END LOOP;
		INSERT INTO took VALUES (extract(epoch FROM clock_timestamp() - since) * 1000);
		COMMIT;
	END LOOP;
END
\$\$;
SELECT round(ms::numeric, 1) FROM took ORDER BY ms;
SQL
note(sprintf 'from the commit of the fix to that of the handoff: p50 %.1f ms, p95 %.1f ms, max %.1f ms', @ms[ 29, 55, 58 ]);
cmp_ok($ms[29], '<', 20, 'half of them take less than 20 ms');
all_at('b2', 'each is there once', @cars);
is($c->sql('b', "SELECT count(DISTINCT dtxid) FROM fleet.handoff_log WHERE vehicle_id LIKE 'quick-%'"), 60, 'each in a transaction of its own');

# Batches: what waits goes in one transaction.
@cars = register(map { "batch-$_" } 1 .. 300);
is($c->sql('a', cross_sql('b', @cars)), 'queued', '300 cross at once');
drained();
all_at('b2', 'they are there', @cars);
is($c->sql('b', "SELECT count(DISTINCT dtxid) FROM fleet.handoff_log WHERE vehicle_id LIKE 'batch-%'"), 1, 'with one two-phase commit');

# Reported on another node: it is queued where the vehicle is.
my ($far) = register('far-1');
is($c->sql('c', cross_sql('b', $far)), 'queued', 'a fix that c has passed on is queued');
is($c->sql('c', 'SELECT count(*) FROM fleet.handoff_queue'), 0, 'not there');
$c->wait_until(sub { ($c->places([$far], 'vehicle'))[0] eq 'b2' }, 'it is handed off');
# The same in a transaction that is prepared.
my ($farther) = register('far-2');
is($c->sql('c', "BEGIN; SELECT fleet.register_vehicle('near', $place{c}); " . cross_sql('b', $farther) . '; COMMIT;'), "c\nqueued", 'in a transaction of two nodes, too');
$c->wait_until(sub { ($c->places([$farther], 'vehicle'))[0] eq 'b2' }, 'and is handed off');

# ---- who is refused, who is locked

@cars = register(map { "mixed-$_" } 1 .. 20);
$c->sql('b', <<'SQL');
CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON fleet.local_vehicles FOR EACH ROW WHEN (NEW.vehicle_id = 'mixed-7') EXECUTE FUNCTION poison();
SQL
my $holder = $c->start_sql('a', "BEGIN; SELECT 1 FROM fleet.local_vehicles WHERE vehicle_id = 'mixed-8' FOR UPDATE; SELECT pg_sleep(3); COMMIT;");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'one is locked');
$c->sql('a', "INSERT INTO fleet.handoff_queue (vehicle_id, target, epoch) VALUES ('mixed-8', 'b', 1)");
$c->sql('a', cross_sql('b', grep { $_ ne 'mixed-8' } @cars));
$c->wait_until(sub { queue() eq '2' }, 'all others are done', 3);
is(queue("string_agg(vehicle_id, ' ' ORDER BY vehicle_id)"), 'mixed-7 mixed-8', 'the poisoned and the locked one remain');
all_at('b2', 'the others are there', grep { !/-[78]$/ } @cars);
$c->wait_until(sub { queue('attempts', "vehicle_id = 'mixed-7'") >= 2 }, 'it is tried again');
like(queue("last_error || ' ' || (next_try > queued_at)", "vehicle_id = 'mixed-7'"), qr/^not this one true$/, 'and says why it fails');
$holder->finish;
$c->wait_until(sub { queue() eq '1' }, 'the locked one, which never crossed, is dropped');
$c->sql('b', 'DROP TRIGGER poison ON fleet.local_vehicles');
drained(40);
all_at('b2', 'the poisoned one is there, too', 'mixed-7');

# ---- a target that is down

my @down = register(map { "down-$_" } 1 .. 20);
my @up = register(map { "up-$_" } 1 .. 20);
$c->stop('b', 'immediate');
$c->sql('a', cross_sql('b', @down));
$c->sql('a', cross_sql('c', @up));
$c->wait_until(sub { queue('count(*)', "target = 'c'") eq '0' }, 'what goes elsewhere does', 5);
$c->wait_until(sub { $c->sql('c', "SELECT count(*) FROM fleet.local_vehicles WHERE vehicle_id LIKE 'up-%'") eq '20' }, 'it is there');
my $failed = sub { return $c->sql('a', "SELECT failed FROM fleet.peers WHERE region = 'b'") };
sleep 1;
my $before = $failed->();
sleep 3;
cmp_ok($failed->() - $before, '<=', 6, 'the one that is down is not asked all the time');
is(queue(), 20, 'its vehicles wait');
like(queue('max(last_error)'), qr/connect|not asked|"b"/, 'and say for what');
is($c->sql('a', "SELECT outcome FROM fleet.report_fix('down-1', $place{a}, clock_timestamp())"), 'accepted', 'one of them comes back');
# The bound.
$c->set_system('a', 'fleet.handoff_queue_limit', 20);
$c->wait_until(sub { $c->sql('a', 'SHOW fleet.handoff_queue_limit') eq '20' }, 'the limit holds');
my ($more) = register('more');
is($c->sql('a', cross_sql('c', $more)), 'moved', 'beyond the limit it is done at once');
register('none');
ok(!$c->try_sql('a', cross_sql('b', 'none'))->{ok}, 'or refused, where its target is down');
is(queue(), 20, 'the queue does not grow');
$c->set_system('a', 'fleet.handoff_queue_limit', undef);
my $since = time;
$c->start('b');
drained();
note(sprintf 'the queue drained %.1f s after its target was started', time - $since);
all_at('b2', 'they are there', grep { $_ ne 'down-1' } @down);
all_at('a1', 'the one that came back is not', 'down-1');

# ---- kills

# At some moment of 100 handoffs, and when the worker has done its part of them and
# not yet committed.
sub kill_one
{
	my ($victim) = @_;
	my $offset = $c->log_size('a');

	return $c->kill9($victim), $c->start($victim) if $victim ne 'worker';
	kill 'KILL', worker() || die 'there is no worker';
	$c->wait_restarted('a', $offset);
}

my $n = 0;
for my $victim ('worker', 'a', 'b')
{
	for my $moment ('at some moment', 'before COMMIT')
	{
		my @fleet = register(map { "kill-$n-$_" } 1 .. 100);
		my $offset = $c->log_size('a');

		$n++;
		$c->ungo('a', 'queue-handed-off');
		$c->set_system('a', 'fleet.fault', 'queue-handed-off=wait') if $moment eq 'before COMMIT';
		$c->sql('a', cross_sql('b', @fleet));
		if ($moment eq 'before COMMIT')
		{
			$c->wait_until(sub { $c->log_has('a', qr/fault point "queue-handed-off" reached/, $offset) }, 'the worker waits');
			$c->set_system('a', 'fleet.fault', undef);
		}
		else
		{
			sleep 0.01;
		}
		kill_one($victim);
		$c->go('a', 'queue-handed-off');
		$c->wait_until(sub { $c->is_up('a') && queue() eq '0' }, 'the queue drains by itself', 30);
		all_at('b2', "kill of $victim $moment: each is there, once", @fleet);
	}
}

# ---- back and forth

$c->set_system($_, 'fleet.flap_window', '10min') for 'a', 'b';
$c->wait_until(sub { !grep { $c->sql($_, 'SHOW fleet.flap_window') ne '10min' } 'a', 'b' }, 'damping is on');
register('zigzag', 'twins');
for my $turn (1 .. 30)
{
	my $to = $turn % 2 ? 'b' : 'a';

	# As of fixes a minute apart.
	$c->sql('a', "SELECT fleet.report_fix('$_', $place{$to}, now() - interval '40 minutes' + interval '$turn minutes') FROM pg_sleep(0.03)") for 'zigzag', 'twins';
}
$c->wait_until(sub { queue() eq '0' && $c->sql('b', 'SELECT count(*) FROM fleet.handoff_queue') eq '0' }, 'both queues are empty');
for my $car ('zigzag', 'twins')
{
	my $handoffs = $c->sql('a', "SELECT count(*) FROM fleet.handoff_log WHERE vehicle_id = '$car'");

	cmp_ok($handoffs, '<=', 4, "$car was handed off $handoffs times in 30 crossings");
}
cmp_ok($c->sql('a', "SELECT count(*) FROM fleet.flapping WHERE vehicle_id = 'zigzag'") + $c->sql('b', "SELECT count(*) FROM fleet.flapping WHERE vehicle_id = 'zigzag'"), '>=', 1, 'it is shown');
$c->check_all('at the end');

# ---- real cabs

# What a command prints about these cabs in the first day.
sub traces
{
	my ($file, $time, %cabs) = @_;
	open(my $fh, '-|', 'zcat', "$ENV{TRACES}/$file") or die "zcat: $!";
	my @lines = grep { my @f = split /,/; $cabs{ $f[0] } && $f[$time] < 1211094000 + 86400 } <$fh>;
	close $fh;
	return map { chomp; [ split /,/ ] } @lines;
}

SKIP:
{
	skip 'no traces', 3 unless $ENV{TRACES};
	# Four that stay in three counties on that day.
	my %cabs = map { $_ => 1 } 'ochtin', 'agvexpia', 'ellimtbu', 'effneomi';
	my %county = (a => '06075', b => '06081', c => '06001');
	open(my $fh, '<', "$ENV{TRACES}/regions.geojson") or die $!;
	my $map = decode_json(join '', <$fh>);

	for my $node (sort keys %county)
	{
		my ($feature) = grep { $_->{properties}{fips} eq $county{$node} } @{ $map->{features} };

		$c->sql('a', "SELECT fleet.set_geofence('$node', ST_SetSRID(ST_Multi(ST_GeomFromGeoJSON('" . encode_json($feature->{geometry}) . "')), 4326))");
		$c->set_system($node, $_, 0) for map { "fleet.$_" } 'crossing_distance', 'crossing_dwell', 'border_tolerance', 'flap_window';
		$c->wait_until(sub { $c->sql($node, 'SHOW fleet.flap_window') eq '0' }, 'there is no rule');
	}
	my @fixes = sort { $a->[1] <=> $b->[1] || $a->[0] cmp $b->[0] } traces('fixes.csv.gz', 1, %cabs);
	my $outcomes = $c->sql('a', "CREATE TABLE fixes (n int, cab text, t bigint, lat float8, lon float8);\nINSERT INTO fixes VALUES "
		. join(', ', map { "($_, '$fixes[$_][0]', $fixes[$_][1], $fixes[$_][2], $fixes[$_][3])" } 0 .. $#fixes) . ";\n" . <<'SQL');
SET client_min_messages = warning;
SELECT count(fleet.register_vehicle(cab, lon, lat)) FROM (SELECT DISTINCT ON (cab) * FROM fixes ORDER BY cab, t) AS f;
CREATE TEMPORARY TABLE outcomes (outcome text);
DO $$
DECLARE
	f record;
	r fleet.fix_result;
BEGIN
	FOR f IN SELECT * FROM fixes ORDER BY n LOOP
		r := fleet.report_fix(f.cab, f.lon, f.lat, to_timestamp(f.t));
		INSERT INTO outcomes VALUES (r.outcome);
		COMMIT;
		-- The next fix finds it where it is.
		WHILE r.outcome = 'queued' AND NOT EXISTS (SELECT FROM fleet.vehicles WHERE vehicle_id = f.cab AND epoch > r.epoch) LOOP
			PERFORM pg_sleep(0.002);
			COMMIT;
		END LOOP;
	END LOOP;
END
$$;
SELECT outcome, count(*) FROM outcomes GROUP BY outcome ORDER BY outcome;
SQL
	my %node = map { $county{$_} => $_ } keys %county;
	my @truth = sort map { "$_->[0] $node{$_->[3]} $node{$_->[4]}" } traces('truth/crossings.csv.gz', 2, %cabs);
	my @made = map { $_->[0] } map { $c->rows($_, "SELECT vehicle_id || ' ' || source || ' ' || target FROM fleet.handoff_log WHERE status = 'arrived' AND vehicle_id IN ('" . join("','", keys %cabs) . "')") } sort keys %county;

	like($outcomes, qr/^queued\|@{[ scalar @truth ]}$/m, scalar(@fixes) . ' fixes: as many crossings are queued as there are');
	is(join(', ', sort @made), join(', ', @truth), 'and handed off, from where to where');
	$c->check_all('the cabs');
}

done_testing();
