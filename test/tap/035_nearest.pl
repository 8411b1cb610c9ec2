# fleet: the live index says what the table says.
# Copyright (c) 2026, the fleet authors
#
# Proves: while vehicles move, are deleted and come back, are handed off both ways, and
# transactions are rolled back in part, as a whole, or prepared, each search finds every
# vehicle exactly once; when all is quiet the index and the table are equal.  Entries of vehicles
# that are gone make room for others, but not while an older change may still come; an
# index that is full gives way to the table.  After a crash the index is built anew, though not
# before a prepared transaction of before has ended.  A neighbour that is down is
# named, or left out where the caller says so.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 2, settings => "fleet.live_index_size = 1000\nfleet.vehicle_ttl = 0\nmax_prepared_transactions = 50");
my $all = "string_agg(v::text, ' ') FROM fleet.nearest_vehicles(1, 0.5, 10000, 300000, s::fleet.vehicle_status, 'local') AS v";
my $everything = "SELECT md5(string_agg(r, '/' ORDER BY s)), sum(length(r)) FROM (SELECT s, (SELECT $all) AS r"
	. " FROM unnest(ARRAY['ONLINE', 'BUSY', 'ON_TRIP', 'OFFLINE']) AS s) AS x";

sub index_is { return $c->sql($_[0], "SELECT $_[1] FROM fleet.live_index") }

# Is what the index says what the table says; and has it said it?
sub compare
{
	my ($node, $name) = @_;
	my $before = index_is($node, 'index_searches');
	my $by_index = $c->sql($node, $everything);
	is(index_is($node, 'index_searches') - $before, 4, "$name: the index of $node answers");
	is($by_index, $c->sql($node, "BEGIN ISOLATION LEVEL REPEATABLE READ; $everything; COMMIT"), 'as its table does');
}

# ---- a storm

my $count = 200;
$c->sql('a', "SELECT fleet.register_vehicle('m-' || n, 0.5, 0.5, 'BUSY') FROM generate_series(1, $count) AS n");
$c->sql('a', "SELECT fleet.register_vehicle('d-' || n, 0.5, 0.5) FROM generate_series(1, 50) AS n");
$c->sql('a', "SELECT fleet.register_vehicle('p-' || n, 0.5, 0.5) FROM generate_series(1, 20) AS n");
$c->sql('a', "SELECT fleet.register_vehicle('h-' || n, 0.5, 0.5, 'ON_TRIP') FROM generate_series(1, 20) AS n");
compare('a', 'at first');

my $seconds = 8;
my $random_place = 'fleet.make_point(0.3 + random() * 0.4, 0.3 + random() * 0.4)';
my $writer = <<"SQL";
DO \$\$
BEGIN
	WHILE clock_timestamp() < now_at_start() + interval '$seconds s' LOOP
		FOR i IN 1 .. 1 + random() * 3 LOOP
			BEGIN
				UPDATE fleet.vehicles SET location = $random_place WHERE region = 'a' AND vehicle_id = 'm-' || 1 + (random() * ($count - 1))::integer;
				IF random() < 0.3 THEN
					DELETE FROM fleet.vehicles WHERE region = 'a' AND vehicle_id = 'd-' || 1 + (random() * 49)::integer;
				ELSIF random() < 0.5 THEN
					INSERT INTO fleet.vehicles (vehicle_id, region, status, location) VALUES ('d-' || 1 + (random() * 49)::integer, 'a', 'ONLINE', $random_place);
				END IF;
				IF random() < 0.2 THEN
					RAISE EXCEPTION 'this part only';
				END IF;
			EXCEPTION WHEN unique_violation OR raise_exception OR serialization_failure OR deadlock_detected THEN
				NULL;
			END;
		END LOOP;
		IF random() < 0.2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END \$\$
SQL
# Each search sees every vehicle that only moves once; returns how often it did not.
my $reader = <<"SQL";
CREATE TABLE IF NOT EXISTS readings (wrong integer, all_of_them integer);
DO \$\$
DECLARE
	wrong integer := 0;
	n integer := 0;
BEGIN
	WHILE clock_timestamp() < now_at_start() + interval '$seconds s' LOOP
		n := n + 1;
		IF (SELECT count(*) <> $count OR count(DISTINCT vehicle_id) <> $count FROM fleet.nearest_vehicles(0.5, 0.5, 10000, 100000, 'BUSY', 'local')) THEN
			wrong := wrong + 1;
		END IF;
		COMMIT;
	END LOOP;
	INSERT INTO readings VALUES (wrong, n);
END \$\$
SQL
s/now_at_start\(\)/(SELECT at FROM started)/ for $writer, $reader;
$c->sql('a', 'CREATE TABLE started AS SELECT clock_timestamp() AS at; CREATE TABLE readings (wrong integer, all_of_them integer)');
my @sessions = map { $c->start_sql('a', $_) } ($writer) x 3, $reader;
# Handoffs there and back, and prepared transactions, meanwhile.
my $end = time + $seconds;
my ($handed, $prepared) = (0, 0);
for (my $i = 0; time < $end; $i++)
{
	my $id = 'h-' . (1 + $i % 20);
	my $target = int($i / 20) % 2 ? 'a' : 'b';
	$handed += $c->try_sql('a', "SELECT fleet.handoff_vehicle('$id', '$target')")->{ok};
	my $end_it = rand() < 0.7 ? 'COMMIT' : 'ROLLBACK';
	my $move = sprintf "UPDATE fleet.vehicles SET location = $random_place WHERE region = 'a' AND vehicle_id = 'p-%d'", 1 + $i % 20;
	my $delete = sprintf "DELETE FROM fleet.vehicles WHERE region = 'a' AND vehicle_id = 'p-%d'", 1 + $i % 20;
	my $insert = sprintf "INSERT INTO fleet.vehicles (vehicle_id, region, location) VALUES ('p-%d', 'a', $random_place) ON CONFLICT DO NOTHING", 1 + ($i + 7) % 20;
	my $what = (("$move; $move", $delete, $insert))[rand 3];
	$prepared += $c->try_sql('a', "BEGIN; $what; SAVEPOINT s; $move; ROLLBACK TO s; PREPARE TRANSACTION 'p$i'; $end_it PREPARED 'p$i'")->{ok};
}
ok($_->{ok}, 'a session of the storm ends well') || diag $_->{err} for map { $_->finish } @sessions;
cmp_ok($handed, '>', 20, 'vehicles were handed off');
cmp_ok($prepared, '>', 20, 'transactions were prepared');
my ($wrong, $readings) = split /\|/, $c->sql('a', 'SELECT * FROM readings');
cmp_ok($readings, '>', 100, 'there were searches meanwhile');
is($wrong, 0, 'each found every vehicle once');
$c->wait_until(sub { $c->sql($_[0] // 'a', 'SELECT count(*) FROM pg_prepared_xacts') == 0 }, 'nothing is prepared any more');
compare($_, 'after the storm') for 'a', 'b';

# ---- room

my $churn = "DO \$\$ BEGIN FOR i IN 1 .. 3000 LOOP INSERT INTO fleet.vehicles (vehicle_id, region, status, location)"
	. " VALUES ('c-' || i || '-' || pg_backend_pid(), 'a', 'ONLINE', fleet.make_point(0.5, 0.5)); COMMIT;"
	. " DELETE FROM fleet.vehicles WHERE region = 'a' AND vehicle_id = 'c-' || i || '-' || pg_backend_pid(); COMMIT; END LOOP; END \$\$";
$c->sql('a', $churn);
is(index_is('a', 'state, size, vehicles'), 'ready|1000|1000', '3000 vehicles that came and went are forgotten when there is need');
compare('a', 'after it');
my $holder = $c->start_sql('a', "BEGIN; UPDATE fleet.vehicles SET location = location WHERE region = 'a' AND vehicle_id = 'm-1'; SELECT pg_sleep(30); COMMIT");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'a transaction has changed a vehicle');
$c->sql('a', $churn);
is(index_is('a', 'state'), 'full', 'while it is open they stay, and the index is full');
is($c->sql('a', "SELECT count(*) FROM fleet.nearest_vehicles(0.5, 0.5, 10000, 100000, 'BUSY', 'local')"), $count, 'the table answers');
is($c->sql('a', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 't', 'it is ended');
$holder->finish;

# ---- a crash

$c->sql('a', "BEGIN; UPDATE fleet.vehicles SET location = fleet.make_point(0.9, 0.9) WHERE region = 'a' AND vehicle_id IN ('m-1', 'm-2'); PREPARE TRANSACTION 'left'");
$c->kill9('a');
$c->start('a');
my $there = "SELECT count(*) FROM fleet.nearest_vehicles(0.9, 0.9, 10, 1000, 'BUSY', 'local')";
is($c->sql('a', $there), 0, 'a prepared transaction of before the crash is open');
is(index_is('a', 'state, index_searches, table_searches'), 'empty|0|1', 'so the table answers');
$c->sql('a', "COMMIT PREPARED 'left'");
is($c->sql('a', $there), 2, 'what it did is seen at once');
$c->wait_until(sub { $c->sql('a', $there) == 2 && index_is('a', 'state') eq 'ready' }, 'the index is built when it has ended');
compare('a', 'after the crash');

# One that is prepared with more changes than are kept.
$c->sql('a', "BEGIN; DO \$\$ BEGIN FOR i IN 1 .. 4100 LOOP UPDATE fleet.vehicles SET location = fleet.make_point(0.8, 0.8) WHERE region = 'a' AND vehicle_id = 'm-2'; END LOOP; END \$\$;"
	. " PREPARE TRANSACTION 'large'");
is(index_is('a', 'state'), 'empty', 'a prepared transaction that is too large has the index given up');
sleep 1.1;
is($c->sql('a', $there), 2, 'until it has ended');
is(index_is('a', 'state'), 'empty', 'the table answers');
$c->sql('a', "COMMIT PREPARED 'large'");
is($c->sql('a', $there), 1, 'also after that');
$c->wait_until(sub { $c->sql('a', $there) == 1 && index_is('a', 'state') eq 'ready' }, 'and then the index again');
compare('a', 'after it');

# ---- neighbours

my $near_border = "SELECT count(*), count(*) FILTER (WHERE region = 'b') FROM fleet.nearest_vehicles(0.99, 0.5, 10000, 60000, on_unavailable => 'x')";
my ($failing, $partial) = map { $near_border =~ s/'x'/'$_'/r } 'fail', 'partial';
$c->sql('b', "SELECT fleet.register_vehicle('near', 1.01, 0.5)");
like($c->sql('a', $failing), qr/^\d+\|[1-9]/, 'near the border those of the neighbour are found');
is($c->sql('b', "SELECT vehicle_id, region FROM fleet.nearest_vehicles(1.01, 0.5, 1, 60000)"), 'near|b', 'by the neighbour as well');
$c->freeze('b');
my $start = time;
my $refused = $c->try_sql('a', $failing, set => { 'fleet.read_timeout' => 500 });
cmp_ok(time - $start, '<', 5, 'one that does not answer is not waited for longer than fleet.read_timeout');
is($refused->{state}, '08006', 'it is an error');
like($refused->{err}, qr/could not read region "b"/, 'that names it');
$c->thaw('b');
$c->stop('b', 'immediate');
my $part = $c->try_sql('a', $partial);
ok($part->{ok}, 'what the others have is answered') || diag $part->{err};
like($part->{err}, qr/region "b" is missing in the answer/, 'with a notice');
like($part->{out}, qr/^[1-9]\d*\|0/, 'and without its vehicles');
is($c->sql('a', "SELECT vehicle_id FROM fleet.nearest_vehicles(0.9, 0.9, 1, 1000)"), 'm-1', 'what is far from the border does not need it');
$c->start('b');
$c->check_all;

done_testing();
