# fleet: a read of all regions shows every ride exactly once, while they move.
# Copyright (c) 2026, the fleet authors
#
# Three clients hand hot rides off among three regions, from any node, as fast as
# they can and then at 100 a second.  Meanwhile each node runs one reader after
# the other of all kinds, in loops on the server; fares are fixed, so every answer
# is known.  What a session has seen of a ride must not get older either.  Beside
# them runs the plain union of the regions' tables, which must be wrong now and
# then: else the storm would prove nothing.
#
# Then one thing at a time: a handoff of one's own that is not committed, one in
# doubt, a transaction in REPEATABLE READ, a region that answers long after the
# others, a ride that was deleted, a region that is down or frozen.
#
# Counts and totals are read both ways, from rows and from sums that the regions
# make, all through.

use strict;
use warnings;

use FleetCluster;
use FleetChaos;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my %expected = map { $_ => 1 } 'RF002', 'RF003', 'RF022', '40001', '40P01';    # of those who race for a ride
my $c = FleetCluster->new(settings => <<'CONF');
fleet.lock_timeout = 300
fleet.connect_timeout = 500
fleet.breaker_failures = 0
CONF
my @nodes = $c->names;
my $folder = $PostgreSQL::Test::Utils::tmp_check;

# ---- rides, and what is to be read of them

# Six rides have the same fare, two of them in each region, and those with the
# greatest fares are hot: the first ten move all the time, and have ties.  The greater the
# fare, the farther south.
sub add_priced
{
	my ($region, $count) = @_;
	my $sql = '';

	for my $n (1 .. $count)
	{
		my ($id, $fare) = ("$region-$n", 10 + $n % 40);
		$c->{rides}{$id} = $fare;
		$sql .= sprintf "SELECT fleet.request_ride('%s', '%s', %s, NULL, %d);\n", $id, $id, $c->place($region), $fare;
	}
	$c->sql($region, "BEGIN;\n${sql}UPDATE fleet.rides SET current_location = fleet.make_point(1.5, 0.9 - fare / 100) WHERE region = '$region'; COMMIT;");
}

# All rides with their fares, as list_sql() has them.
sub wanted { return join ',', map { "$_ $c->{rides}{$_}.00" } sort keys %{ $c->{rides} } }

# A condition leaves some out.
sub list_sql
{
	my ($arguments) = @_;
	return "SELECT string_agg(r.ride_id || ' ' || r.fare, ',' ORDER BY r.ride_id COLLATE \"C\")"
	  . " FROM fleet.search_rides('global-live', max_rows => NULL$arguments) AS r";
}

# What there is to see of a ride whose customer is called like it: "b2 b2 b2 b 1"
# is region b, epoch 2, once in all rides, once in a selection, once by its id,
# and located and counted so; "- - - - 0" is nothing.
sub sight_sql
{
	my ($id) = @_;
	my $places = "coalesce(string_agg(r.region || r.epoch, '+'), '-')";
	return <<"SQL";
SELECT concat_ws(' ',
	(SELECT $places FROM fleet.search_rides('global-live', max_rows => NULL) AS r WHERE r.ride_id = '$id'),
	(SELECT $places FROM fleet.search_rides('global-live', customer_id => '$id') AS r),
	(SELECT $places FROM fleet.get_ride('$id') AS r),
	coalesce(fleet.locate('$id'), '-'),
	fleet.count_rides('global-live', customer_id => '$id'));
SQL
}

# Numbers and fares of all, by sums and from rows; they must be the same.
sub totals_sql
{
	return join ";\n", map { "SET fleet.sum_threshold = $_; SELECT sum(rides), sum(fares) FROM fleet.ride_totals()" } 0, 1000;
}

sub sight { return $c->sql($_[0], sight_sql($_[1])) }

# One test for each node.
sub all_see
{
	my ($id, $what, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sight($_, $id), $what, "$name: seen from $_") for @nodes;
}

sub all_complete
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sums = scalar(keys %{ $c->{rides} }) . '|' . eval(join '+', values %{ $c->{rides} }) . '.00';
	is($c->sql($_, list_sql('')), wanted(), "$name: all rides, read on $_") for @nodes;
	is($c->sql($_, totals_sql()), "$sums\n$sums", "$name: their number and fares, read on $_") for @nodes;
}

# ---- readers, on the servers

# What is in one list and not in the other; null where they are equal.
my $differ = <<'SQL';
CREATE FUNCTION differ(what text, seen text[], wanted text[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s: lacks (%s), has too many (%s)', what,
		(SELECT string_agg(w, ', ') FROM (SELECT unnest(wanted) EXCEPT ALL SELECT unnest(seen)) AS x (w)),
		(SELECT string_agg(s, ', ') FROM (SELECT unnest(seen) EXCEPT ALL SELECT unnest(wanted)) AS x (s)))
	WHERE seen IS DISTINCT FROM wanted
$$;
SQL

# Whether every ride was read once, and none at an older epoch than before.  Moved
# is the number of one that has moved since, or of any.
my $read_all = <<'SQL';
CREATE PROCEDURE read_all(wanted text[], INOUT epochs bigint[], INOUT moved integer, INOUT wrong text[]) LANGUAGE plpgsql AS $$
DECLARE
	seen text[];
	now bigint[];
BEGIN
	SELECT array_agg(r.ride_id || ' ' || r.fare ORDER BY r.ride_id COLLATE "C"), array_agg(r.epoch ORDER BY r.ride_id COLLATE "C")
		INTO seen, now FROM fleet.search_rides('global-live', max_rows => NULL) AS r;
	IF seen IS DISTINCT FROM wanted THEN
		wrong := wrong || differ('all', seen, wanted);
		RETURN;
	END IF;
	wrong := wrong || ARRAY(SELECT format('all: %s went back from %s to %s', t.ride, t.old, t.new)
		FROM unnest(wanted, epochs, now) AS t (ride, old, new) WHERE t.new < t.old);
	moved := coalesce((SELECT t.i FROM unnest(epochs, now) WITH ORDINALITY AS t (old, new, i) WHERE t.new > t.old ORDER BY random() LIMIT 1),
		1 + floor(random() * cardinality(wanted)));
	epochs := now;
END
$$;
SQL

# The same by id, of one ride.
my $read_one = <<'SQL';
CREATE PROCEDURE read_one(wanted text[], epochs bigint[], i integer, INOUT wrong text[]) LANGUAGE plpgsql AS $$
DECLARE
	rides bigint;
	epoch bigint;
BEGIN
	SELECT count(*), min(r.epoch) INTO rides, epoch FROM fleet.get_ride(split_part(wanted[i], ' ', 1)) AS r;
	IF rides <> 1 THEN
		wrong := wrong || format('one: %s is there %s times', wanted[i], rides);
	ELSIF epoch < epochs[i] THEN
		wrong := wrong || format('one: %s went back from %s to %s', wanted[i], epochs[i], epoch);
	END IF;
END
$$;
SQL

# Numbers and sums, and the ten rides with the greatest fares, which are the
# southernmost.
my $read_sums = <<'SQL';
CREATE PROCEDURE read_sums(wanted text[], total numeric, top text[], INOUT summed bigint, INOUT wrong text[]) LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	fares numeric;
	seen text[];
BEGIN
	PERFORM set_config('fleet.sum_threshold', CASE WHEN random() < 0.6 THEN '0' ELSE '1000' END, false);
	n := fleet.count_rides('global-live');
	summed := summed + (fleet.last_read()).summed::integer;
	IF n <> cardinality(wanted) THEN
		wrong := wrong || format('count: %s', n);
	END IF;
	SELECT sum(t.rides), sum(t.fares) INTO n, fares FROM fleet.ride_totals('global-live') AS t;
	IF (n, fares) IS DISTINCT FROM (cardinality(wanted)::bigint, total) THEN
		wrong := wrong || format('totals: %s, %s', n, fares);
	END IF;
	SELECT array_agg(r.ride_id || ' ' || r.fare) INTO seen FROM fleet.search_rides('global-live', order_by => 'fare desc', max_rows => 10) AS r;
	IF seen IS DISTINCT FROM top THEN
		wrong := wrong || coalesce(differ('top', seen, top), 'top');
	END IF;
	SELECT array_agg(r.ride_id || ' ' || r.fare) INTO seen FROM fleet.search_rides('global-live', near => 'POINT(1.5 0.1)', within_m => 1e6,
		order_by => 'distance', max_rows => 10) AS r;
	IF seen IS DISTINCT FROM top THEN
		wrong := wrong || coalesce(differ('near', seen, top), 'near');
	END IF;
END
$$;
SQL

# One round reads six times.  A transaction is 20 rounds.
my $read_on = <<'SQL';
CREATE PROCEDURE read_on(seconds float8, wanted text[], OUT reads bigint, OUT reasked bigint, OUT summed bigint, OUT wrong text[]) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	total numeric := (SELECT sum(split_part(w, ' ', 2)::numeric) FROM unnest(wanted) AS w);
	top text[] := ARRAY(SELECT w FROM unnest(wanted) AS w ORDER BY split_part(w, ' ', 2)::numeric DESC, split_part(w, ' ', 1) COLLATE "C" LIMIT 10);
	epochs bigint[];
	moved integer;
BEGIN
	reads := 0;
	reasked := 0;
	summed := 0;
	wrong := '{}';
	WHILE clock_timestamp() < until LOOP
		CALL read_all(wanted, epochs, moved, wrong);
		reasked := reasked + (fleet.last_read()).reasked;
		CALL read_one(wanted, epochs, moved, wrong);
		CALL read_sums(wanted, total, top, summed, wrong);
		reads := reads + 6;
		IF reads % 120 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
$$;
SQL

# The plain union.
my $read_union = <<'SQL';
CREATE PROCEDURE read_union(seconds float8, wanted text[], OUT reads bigint, OUT wrong bigint) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	ids text[] := ARRAY(SELECT split_part(w, ' ', 1) FROM unnest(wanted) AS w);
BEGIN
	reads := 0;
	wrong := 0;
	WHILE clock_timestamp() < until LOOP
		reads := reads + 1;
		IF ids IS DISTINCT FROM ARRAY(SELECT ride_id FROM fleet.rides ORDER BY ride_id COLLATE "C") THEN
			wrong := wrong + 1;
		END IF;
		COMMIT;
	END LOOP;
END
$$;
SQL

sub start_reader
{
	my ($node, $seconds, %set) = @_;
	return $c->start_sql($node, sprintf("CALL read_on(%s, string_to_array('%s', ','), NULL, NULL, NULL, NULL)", $seconds, wanted()), set => \%set);
}

# Returns {reads, reasked, summed}; one test.
sub end_reader
{
	my ($reader, $name) = @_;
	my $answer = $reader->finish;
	my ($reads, $reasked, $summed, $wrong) = split /\|/, $answer->{out};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($answer->{ok} ? $wrong : $answer->{err}, '{}', "$name: no wrong answer among " . ($reads // 0) . " on $reader->{node}");
	return { reads => $reads // 0, reasked => $reasked // 0, summed => $summed // 0 };
}

# ---- those who move rides

# Hand hot rides off, each from any node to any region, until the end, with so
# many seconds from one to the next; 0 is as fast as it goes.
sub move_rides
{
	my ($who, $end, $pause, @hot) = @_;
	my %sessions = map { $_ => FleetChaos::Session->new($c, $_, $who) } @nodes;
	my %count;

	FleetChaos::decide($$, $who, 1);
	for (my $next = time; $next < $end && time < $end; $next += $pause)
	{
		my $left = $next - time;
		sleep $left if $left > 0;
		my $answer = $sessions{ FleetChaos::pick(@nodes) }->run(join('', map {
			sprintf "SELECT 'moved', fleet.handoff('%s', '%s');\n", FleetChaos::pick(@hot), FleetChaos::pick(@nodes)
		} 1 .. ($pause ? 1 : 10)), 20);
		$count{moved} += () = $answer->{out} =~ /^moved\|/mg;
		$count{$_}++ for @{ $answer->{errors} }, $answer->{state} eq 'done' ? () : $answer->{state};
	}
	$_->close_psql for values %sessions;
	return %count;
}

# In a process of its own, without the parent's sessions.
sub start_mover
{
	my ($who, @arguments) = @_;
	my $pid = fork // die "fork: $!";

	return $pid if $pid;
	delete $_->{asking} for values %{ $c->{nodes} };
	my %count = eval { move_rides($who, @arguments) };
	$count{"died: $@"}++ if $@;
	append_to_file("$folder/$who.result", join '', map { "$_|$count{$_}\n" } sort keys %count);
	POSIX::_exit(0);
}

# storm(name, seconds, seconds between two handoffs, settings of the reader on b):
# movers, a reader on each node, and one of the union.  Returns how often each
# thing has happened.
sub storm
{
	my ($name, $seconds, $pause, %set) = @_;
	my @hot = grep { $c->{rides}{$_} >= 42 } sort keys %{ $c->{rides} };
	my @movers = map { start_mover("$name$_", time + $seconds + 0.5, 3 * $pause, @hot) } 1 .. 3;
	my %readers = map { $_ => start_reader($_, $seconds, $_ eq 'b' ? %set : ()) } @nodes;
	my $union = $c->start_sql('a', sprintf("CALL read_union(%s, string_to_array('%s', ','), NULL, NULL)", $seconds, wanted()));
	my %count;

	for my $done (map { end_reader($readers{$_}, $name) } @nodes)
	{
		$count{$_} += $done->{$_} for keys %$done;
	}
	@count{ 'union', 'union wrong' } = split /\|/, $union->finish->{out};
	waitpid $_, 0 for @movers;
	for my $line (map { split /\n/, slurp_file("$folder/$name$_.result") } 1 .. 3)
	{
		my ($what, $n) = split /\|/, $line;
		$count{$what} += $n;
	}
	note("$name: ", join ', ', map { "$_ $count{$_}" } sort keys %count);
	return %count;
}

# Some tests: what the movers were told is what those who race are told.
sub movers_well
{
	my ($name, $least, %count) = @_;
	my %known = (%expected, map { $_ => 1 } 'moved', 'reads', 'reasked', 'summed', 'union', 'union wrong');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join(' ', grep { !$known{$_} } sort keys %count), '', "$name: no other errors than those of a race");
	cmp_ok($count{moved}, '>', $least, "$name: rides have moved");
}

add_priced($_, 80) for @nodes;
$c->sql($_, $differ . $read_all . $read_one . $read_sums . $read_on . $read_union) for @nodes;
all_complete('before');

# ---- while they move

my %fast = storm('storm', 12, 0);
movers_well('storm', 500, %fast);
$c->set_system('b', 'fleet.test_clock_offset', '-4500');
my %slow = storm('flow', 14, 0.01, 'default_transaction_isolation' => 'repeatable read');
movers_well('flow', 300, %slow);
$c->set_system('b', 'fleet.test_clock_offset', undef);
my $reads = $fast{reads} + $slow{reads};
diag("$reads reads, $fast{reasked} and $slow{reasked} rides asked for again, "
	. "$fast{moved} and $slow{moved} handoffs; the plain union was wrong $fast{'union wrong'} and $slow{'union wrong'} times");
cmp_ok($reads, '>', 1000, 'many reads');
cmp_ok($fast{'union wrong'} + $slow{'union wrong'}, '>', 0, 'the plain union has been wrong meanwhile');
cmp_ok($fast{reasked} + $slow{reasked}, '>', 0, 'departures were followed');
cmp_ok($_->{summed}, '>', $_->{reads} / 20, 'regions have summed up') for \%fast, \%slow;
$c->check_all('after the storm');
all_complete('after the storm');

# ---- one's own handoff, not committed

# A ride whose customer is called like it.
sub add_ride
{
	my ($id, $region) = @_;
	$c->sql($region, sprintf "SELECT fleet.request_ride('%s', '%s', %s, NULL, 10)", $id, $id, $c->place($region));
	$c->{rides}{$id} = 10;
}

add_ride('own', 'a');
for my $on (@nodes)
{
	for my $level ('READ COMMITTED', 'REPEATABLE READ')
	{
		my $name = "own handoff on $on, $level";
		my $answer = $c->ask($on, "BEGIN ISOLATION LEVEL $level; SELECT fleet.handoff('own', 'b');\n" . sight_sql('own') . list_sql(''));
		is($answer->{out} || $answer->{err}, "2\nb2 b2 b2 b 1\n" . wanted(), "$name: seen before COMMIT");
		is(sight($_, 'own'), 'a1 a1 a1 a 1', "$name: not seen from $_ yet") for $c->others($on);
		$c->ask($on, 'ROLLBACK');
		is(sight($on, 'own'), 'a1 a1 a1 a 1', "$name: undone");
	}
}
is($c->sql('a', "BEGIN; SELECT fleet.request_ride('new', 'new', 0.5, 0.5);\n" . sight_sql('new') . 'ROLLBACK'), "a\na1 a1 a1 a 1", 'an own ride');
is($c->sql('a', "BEGIN; DELETE FROM fleet.rides WHERE region = 'a' AND ride_id = 'own';\n" . sight_sql('own') . 'ROLLBACK'), '- - - - 0', 'an own deletion');
all_see('own', 'a1 a1 a1 a 1', 'undone');

# ---- REPEATABLE READ: what was committed after the transaction's snapshot

for my $on (@nodes)
{
	my ($from, $to) = $c->others($on);
	$c->sql($on, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	is($c->sql($on, list_sql('')), wanted(), "REPEATABLE READ on $on: all rides");
	for my $id (map { "$_-1" } @nodes)
	{
		my $at = $c->where($id) =~ s/\d+//r;
		$c->sql($from, "SELECT fleet.handoff('$id', '" . ($at eq $on ? $to : $on) . "')");
	}
	is($c->sql($on, list_sql('')), wanted(), "REPEATABLE READ on $on: all rides, after some have moved");
	is($c->sql($on, 'SELECT fleet.count_rides()'), scalar keys %{ $c->{rides} }, "REPEATABLE READ on $on: the number");
	$c->sql($on, 'COMMIT');
}

# ---- in doubt: decided, and not yet told to the others

# What all see while a handoff waits, which nobody else does.  Returns how many rides
# they had to ask for again.
sub in_doubt
{
	my ($on, $from, $to, $point, $what) = @_;
	my ($id, $name) = ("$from-$to-$on-$point", "$from to $to, decided on $on, $point");

	add_ride($id, $from);
	my $session = $c->start_waiting($on, "SELECT fleet.handoff('$id', '$to')", $point);
	$c->wait_until(sub { prepared() == ($point eq 'next-commit-prepared' || $on ne 'c' ? 1 : 2) }, 'what was told has arrived');
	my $start = time;
	all_see($id, $what, $name);
	cmp_ok(time - $start, '<', 1, "$name: without a wait");
	all_complete($name);
	is($c->sql($_, "SELECT fleet.count_rides(vehicle_id => 'no such')"), 0, "$name: of an unknown vehicle, from $_") for @nodes;
	all_complete($name);
	my @reasked = map { $c->sql($_, 'SELECT reasked FROM fleet.last_read()') } @nodes;
	$c->go($on, $point);
	ok($session->finish->{ok}, "$name: and goes on");
	all_see($id, "${to}2 ${to}2 ${to}2 $to 1", "$name: all told");
	return "@reasked";
}

# Branches on all nodes.
sub prepared
{
	my $n = 0;
	$n += $c->sql($_, 'SELECT count(*) FROM pg_prepared_xacts') for @nodes;
	return $n;
}

is(in_doubt('a', 'a', 'b', 'after-local-commit', 'b2 b2 b2 b 1'), '1 1 1', 'a departure is followed, by all');
is(in_doubt('b', 'a', 'b', 'after-local-commit', 'b2 b2 b2 b 1'), '0 0 0', 'what the target has need not be asked for again');
# A third node decides: neither has committed, then one of them.
in_doubt('c', 'a', 'b', 'after-local-commit', 'a1 a1 a1 a 1');
in_doubt('c', 'a', 'b', 'next-commit-prepared', 'b2 b2 b2 b 1');
in_doubt('c', 'b', 'a', 'next-commit-prepared', 'a2 a2 a2 a 1');

# ---- a region that answers after the others, and after a ride has moved

# Start a read on c, do something once all but one have answered, and return what
# was read.
sub late
{
	my ($late, $sql, $then, %set) = @_;

	$c->sql('c', 'SELECT pg_advisory_lock(26)');
	my $reader = $c->start_sql('c', "SELECT fleet.count_rides() > 0; SELECT pg_advisory_lock_shared(26); $sql", set => \%set);
	$c->wait_until(sub { $c->sql('c', "SELECT wait_event FROM pg_stat_activity WHERE application_name = '$reader->{app}'") eq 'advisory' },
		'a reader is ready');
	my @pids = map { $_->[0] } $c->rows($late, "SELECT pid FROM pg_stat_activity WHERE application_name = 'fleet:node_c'");
	kill 'STOP', @pids;
	$c->sql('c', 'SELECT pg_advisory_unlock(26)');
	sleep 0.15;
	$then->();
	kill 'CONT', @pids;
	return $reader->finish->{out} =~ s/^t\n\n//r;
}

# The ride goes that way, and its first departure is settled.
sub go_settled
{
	my ($id, $from, @to) = @_;
	my $at = $from;

	for my $to (@to)
	{
		$c->sql($at, "SELECT fleet.handoff('$id', '$to')");
		$at = $to;
	}
	$c->wait_until(sub { $c->sql($from, "SELECT count(*) FROM fleet.departures WHERE key = '$id' AND settled_hlc IS NOT NULL") eq '1' },
		"$id is settled");
}

# What can be read of a ride while it goes from a to others, and a or b is late.
sub read_late
{
	my ($late, $what, @to) = @_;
	my $name = "$late is late, a ride goes to @to";
	my %reads = (
		'all rides' => "FROM fleet.search_rides('global-live', max_rows => NULL) AS r WHERE r.ride_id = '%s'",
		'a selection' => "FROM fleet.search_rides('global-live', customer_id => '%s') AS r",
		'by its id' => "FROM fleet.get_ride('%s') AS r");

	for my $read (sort keys %reads)
	{
		my $id = join '-', 'late', $late, @to, $read =~ tr/ /-/r;
		add_ride($id, 'a');
		is(late($late, "SELECT string_agg(r.region || r.epoch, '+') " . sprintf($reads{$read}, $id), sub { go_settled($id, 'a', @to) }),
			$what, "$name: $read");
	}
	for my $threshold (0, 1000)
	{
		my $id = join '-', 'late', $late, @to, $threshold;
		add_ride($id, 'a');
		is(late($late, 'SELECT fleet.count_rides(); SELECT summed FROM fleet.last_read()', sub { go_settled($id, 'a', @to) }, 'fleet.sum_threshold' => $threshold),
			join("\n", scalar keys %{ $c->{rides} }, $threshold ? 'f' : 't'), "$name: the number" . ($threshold ? '' : ', by sums'));
	}
}

# The reader's clock is ahead, so that stamps would not tell by themselves.
$c->set_system($_, 'fleet.test_clock_offset', '-4500') for 'a', 'b';
read_late('a', 'b2', 'b');         # the target answered before it arrived, the source after it settled
read_late('a', 'c3', 'b', 'c');    # so did the second target
read_late('b', 'b2', 'b');         # both have it
$c->set_system($_, 'fleet.test_clock_offset', undef) for 'a', 'b';

# The best rides of a's answer are not the best any more.
my @lost = map { sprintf 'top-%02d', $_ } 1 .. 24;
$c->sql('a', join ';', map { sprintf "SELECT fleet.request_ride('%s', 'top', 0.5, 0.5, NULL, %d)", $lost[$_], $_ < 12 ? 100 : $_ < 18 ? 90 : 80 } 0 .. 23);
$c->{rides}{ $lost[$_] } = $_ < 12 ? 70 : $_ < 18 ? 90 : 80 for 0 .. 23;
is(late('b', "SELECT string_agg(r.ride_id, ' ') FROM fleet.search_rides(customer_id => 'top', order_by => 'fare desc', max_rows => 10) AS r", sub {
	$c->sql('a', "SELECT fleet.handoff(ARRAY['" . join("', '", @lost[ 0 .. 11 ]) . "'], 'b')");
	$c->sql('b', "UPDATE fleet.rides SET fare = 70 WHERE region = 'b' AND customer_id = 'top'");
}), "@lost[12 .. 21]", 'those that a has not sent, in place of those that have moved');
all_complete('all have answered');

# ---- deleted rides

add_ride('gone', 'a');
$c->heal;
for my $node (@nodes)
{
	$c->ungo($node, 'before-settle');
	$c->set_system($node, 'fleet.fault', 'before-settle=wait');
}
$c->sql('a', "SELECT fleet.handoff('gone', 'b')", set => { 'fleet.fault' => '' });
all_see('gone', 'b2 b2 b2 b 1', 'before it is deleted');
$c->sql('b', "DELETE FROM fleet.rides WHERE region = 'b' AND ride_id = 'gone'");
delete $c->{rides}{gone};
is($c->sql('a', "SELECT count(*) FROM fleet.departures WHERE key = 'gone' AND settled_hlc IS NULL"), 1, 'its departure is not settled');
all_see('gone', '- - - - 0', 'deleted');
all_complete('one is deleted');
for my $node (@nodes)
{
	$c->set_system($node, 'fleet.fault', undef);
	$c->go($node, 'before-settle');
}
$c->heal;
all_see('gone', '- - - - 0', 'deleted and settled');
is($c->sql('c', 'SELECT count(*) FROM fleet.get_ride($$never was$$)'), 0, 'no ride by that id');

# ---- sums that nobody makes, or that have to be mended

# The id of a deleted ride, again in a region that knows nothing of it: at an older
# epoch than the grave's.  Touched, it is counted by itself.
add_ride('gone', 'c');
$c->sql('c', "BEGIN; SELECT FROM fleet.rides WHERE region = 'c' AND ride_id = 'gone' FOR UPDATE; ROLLBACK");
all_complete('its id is used again');
$c->sql('c', "DELETE FROM fleet.rides WHERE region = 'c' AND ride_id = 'gone'");
delete $c->{rides}{gone};

# A source that has gone back in time has the ride, and its target has it, too.
add_ride('lost', 'a');
$c->heal;
$c->save('a');
{
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('lost', 'b')", 'next-commit-prepared');
	$c->wait_until(sub { $c->where('lost') eq 'a1,b2' || prepared() == 1 }, 'the target has committed');
	$c->go_back('a');
	is($c->sql($_, "SELECT epoch FROM fleet.local_rides WHERE ride_id = 'lost' AND xmax = 0"), $_ eq 'a' ? 1 : 2, "a departure is lost: $_ has the ride") for 'a', 'b';
	all_complete('a departure is lost');
	is(sight($_, 'lost'), 'b2 b2 b2 b 1', "a departure is lost: seen from $_") for 'b', 'c';    # a answers for its own rides by itself
	$c->go('c', 'next-commit-prepared');
	$session->finish;
	$c->heal;
	all_complete('it was made again');
}

# More rides are touched than are counted one by one.
$c->sql('a', <<'SQL');
INSERT INTO fleet.rides (ride_id, customer_id, region, start_location) SELECT 'many-' || n, 'many', 'a', 'POINT(0.5 0.5)' FROM generate_series(1, 10001) AS n;
SET fleet.sum_threshold = 0;
SQL
is($c->sql('a', "SELECT fleet.count_rides(); SELECT summed FROM fleet.last_read()"), keys(%{ $c->{rides} }) + 10001 . "\nt", 'many rides');
$c->sql('a', "BEGIN; SELECT count(*) FROM (SELECT FROM fleet.rides WHERE region = 'a' AND customer_id = 'many' FOR UPDATE) AS r; ROLLBACK");
is($c->sql('a', "SELECT fleet.count_rides(); SELECT summed FROM fleet.last_read()"), keys(%{ $c->{rides} }) + 10001 . "\nf", 'many rides, all touched: rows are counted');
$c->sql('a', "RESET fleet.sum_threshold; DELETE FROM fleet.rides WHERE region = 'a' AND customer_id = 'many'");
all_complete('they are gone');

# ---- the same history in one big table

# Make, change, move, hand off and delete rides at random, in the regions and in one
# plain table on node a; then the same is to be read of both.
{
	my (%at, $made);

	my $both = sub {
		my ($region, $sql, $big) = @_;
		$c->sql($region, $sql);
		$c->sql('a', $big);
	};
	my $make = sub {
		my ($id, $region, $fare) = ('big-' . ++$made, FleetChaos::pick(@nodes), int rand 8);
		my ($customer, $days) = ('big ' . int(rand 3), int rand 6);
		my $values = sprintf "('%s', '%s', '%s', %d, 'POINT(%s)', 'POINT(%s)', '2024-01-01Z'::timestamptz + %d * interval '1 day')", $id, $customer, $region, $fare,
		  ($c->place($region) =~ tr/,//dr) x 2, $days;
		my $columns = '(ride_id, customer_id, region, fare, start_location, current_location, requested_at)';
		$both->($region, "INSERT INTO fleet.rides $columns VALUES $values", "INSERT INTO big $columns VALUES $values");
		$at{$id} = $region;
	};
	my $change = sub {
		my ($id, $set) = @_;
		$both->($at{$id}, "UPDATE fleet.rides SET $set WHERE region = '$at{$id}' AND ride_id = '$id'", "UPDATE big SET $set WHERE ride_id = '$id'");
	};
	my %do = (
		fare => sub { $change->($_[0], 'fare = ' . int rand 8) },
		place => sub { $change->($_[0], sprintf "current_location = fleet.make_point(%.2f, 0.5)", 3 * rand) },
		cancel => sub { $change->($_[0], "status = 'CANCELLED', cancelled_at = '2024-02-01Z'") },
		handoff => sub {
			my ($id, $to) = ($_[0], FleetChaos::pick($c->others($at{ $_[0] })));
			return if $c->sql('a', "SELECT status FROM big WHERE ride_id = '$id'") eq 'CANCELLED';
			$both->(FleetChaos::pick(@nodes), "SELECT fleet.handoff('$id', '$to')", "UPDATE big SET region = '$to', epoch = epoch + 1 WHERE ride_id = '$id'");
			$at{$id} = $to;
		},
		delete => sub {
			$both->($at{ $_[0] }, "DELETE FROM fleet.rides WHERE region = '$at{$_[0]}' AND ride_id = '$_[0]'", "DELETE FROM big WHERE ride_id = '$_[0]'");
			delete $at{ $_[0] };
		});
	my $compare = sub {
		my ($order, $direction, $rows) = (FleetChaos::pick(qw(fare requested_at status customer_id region epoch cancelled_at ride_id)), FleetChaos::pick('asc', 'desc'), 1 + int rand 30);
		my $condition = FleetChaos::pick('true', 'fare > 3', "status = 'PENDING'", "customer_id = 'big 1'", "region <> 'b'", 'cancelled_at IS NULL AND epoch > 1');
		my $shown = "string_agg(concat_ws(' ', r.ride_id, r.region, r.fare, r.epoch), ', ')";
		my ($on, $place) = (FleetChaos::pick(@nodes), sprintf 'POINT(%.2f 0.4)', 3 * rand);

		is($c->sql($on, "SELECT $shown FROM fleet.live_rides(\$\$ride_id LIKE 'big-%' AND $condition\$\$, order_by => '$order $direction', max_rows => $rows) AS r"),
			$c->sql('a', "SELECT $shown FROM (SELECT * FROM big WHERE $condition ORDER BY $order $direction, ride_id COLLATE \"C\" LIMIT $rows) AS r"),
			"one table: $condition, $order $direction, $rows, read on $on");
		is($c->sql($on, "SELECT $shown FROM fleet.search_rides(customer_id => 'big 1', near => '$place', within_m => 150000, order_by => 'distance $direction', max_rows => $rows) AS r"),
			$c->sql('a', "SELECT $shown FROM (SELECT * FROM big WHERE customer_id = 'big 1' AND ST_DWithin(current_location, '$place', 150000)"
				. " ORDER BY ST_Distance(current_location, '$place', false) $direction, ride_id COLLATE \"C\" LIMIT $rows) AS r"),
			"one table: from $place, $direction, $rows, read on $on");
	};

	FleetChaos::decide(26, 'big', 1);
	$c->sql('a', 'CREATE TABLE big (LIKE fleet.rides INCLUDING DEFAULTS)');
	$make->() for 1 .. 60;
	for my $round (1 .. 20)
	{
		for (1 .. 10)
		{
			my $what = FleetChaos::pick('fare', 'place', 'cancel', 'delete', 'make', ('handoff') x 4);
			$what eq 'make' ? $make->() : $do{$what}->(FleetChaos::pick(sort keys %at));
		}
		$compare->();
	}
	$c->sql($_, "DELETE FROM fleet.rides WHERE region = '$_' AND ride_id LIKE 'big-%'") for @nodes;
	all_complete('the table is gone');
}

# ---- a region that does not answer

# What those see who ask while b is away; others are the rides that they have.
sub b_is_missing
{
	my ($how, $others) = @_;

	for my $on ('a', 'c')
	{
		$c->sql($on, 'SET fleet.sum_threshold = 0') if $on eq 'c';
		for my $sql ("SELECT count(*) FROM fleet.search_rides('global-live')", 'SELECT fleet.count_rides()', 'SELECT * FROM fleet.ride_totals()',
			"SELECT fleet.locate('on-b')")
		{
			like($c->ask($on, $sql)->{err} // '', qr/^ERROR: .*"b"/m, "b is $how: $sql on $on fails and names it");
		}
		is($c->sql($on, 'SELECT failed FROM fleet.last_read()'), '{b}', "b is $how: so does fleet.last_read on $on");
		$c->sql($on, 'SET client_min_messages = warning');
		is($c->sql($on, list_sql(", on_unavailable => 'partial'")), $others, "b is $how: the rest, on $on");
		is($c->sql($on, 'SELECT asked, failed FROM fleet.last_read()'), '{a,b,c}|{b}', "b is $how: fleet.last_read on $on says that this is not all");
		is($c->sql($on, "SET fleet.sum_threshold = $_; SELECT fleet.count_rides(on_unavailable => 'partial')"), 1 + $others =~ tr/,//,
			"b is $how: the number of the rest, on $on") for 0, 1000;
		is($c->sql($on, "SELECT fleet.count_rides('local', region => '$on') = fleet.count_rides(region => '$on')"), 't', "b is $how: $on is there");
		$c->sql($on, 'RESET client_min_messages');
	}
}

# Rides of regions a and c, as list_sql() has them.
sub rides_but_of_b
{
	my @rides = map { [ $_->[0], "$_->[0] $_->[1]" ] } map { $c->rows($_, 'SELECT ride_id, fare FROM fleet.local_rides') } 'a', 'c';
	return join ',', map { $_->[1] } sort { $a->[0] cmp $b->[0] } @rides;
}

add_ride('on-b', 'b');
$c->heal;
my $others = rides_but_of_b();
$c->freeze('b');
$c->sql($_, 'SET fleet.read_timeout = 300') for 'a', 'c';
b_is_missing('frozen', $others);
$c->thaw('b');
$c->sql($_, 'RESET fleet.read_timeout') for 'a', 'c';
all_complete('b is thawed');

add_ride('left', 'a');
my $session = $c->start_waiting('a', "SELECT fleet.handoff('left', 'b')", 'after-local-commit');
$c->kill9('b');
b_is_missing('down', $others);
$c->start('b');
all_complete('b is back');
all_see('left', 'b2 b2 b2 b 1', 'a ride that left for it meanwhile');
$c->go('a', 'after-local-commit');
$session->finish;
$c->check_all('in the end', log => 0);
all_complete('in the end');
done_testing();
