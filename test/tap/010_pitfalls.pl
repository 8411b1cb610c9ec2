# fleet: what is known to go wrong with commit over several servers.
# Copyright (c) 2026, the fleet authors
#
# Each pitfall has a test that falls into it on purpose.  Those without a file
# name are here, under the same words.
#
#	pitfall												test
#	resolver against a transaction that still runs		007_resolver, "a coordinator that takes its time"
#	lost reply to COMMIT PREPARED						here; 006_lost_prepare, "the ride moves on"
#	participant promoted without the PREPARE			006_lost_prepare, promote => 1; 014_standby
#	no synchronous standby								sql/region (RF021); 014_standby
#	coordinator promoted without the decision			006_lost_prepare, "without its decision"; 011_mutations
#	transaction number reused							here
#	no room for prepared transactions					here; 002_refusals
#	black-holed peer									here
#	stopped peer										005_connection_cut, "a silent node"
#	cancel and terminate at each wait					here; 003_backend_killed at each step
#	NOTIFY, temporary table, exported snapshot			here
#	PREPARE TRANSACTION by the caller					002_refusals (RF009)
#	deferred constraint that fails in PREPARE			here
#	deadlock across servers								here
#	region removed with open branches					here
#	servers of a region that has left					here
#	one stuck gid starves others						007_resolver, "one that is stuck"
#	age alarm, and refusal past it						013_in_doubt_age
#	region map changed meanwhile						002_refusals (RF007); isolation/map_snapshot
#	target over capacity when it prepares				002_refusals (RF005)
#	a role without rights								002_refusals, "rights"; sql/privileges
#	a BEGIN that fails									here
#	nothing to depart									here
#	a parallel query that asks for a region				here
#	a resolver that is asked for and does not come		here
#	a resolver that anybody can stop					here

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(
	nodes => 4,
	links => 1,
	settings => "fleet.commit_timeout = 300\nfleet.connect_timeout = 300\nwal_writer_delay = 10s");
my $prepared = 'SELECT count(*) FROM pg_prepared_xacts';
my $count = 0;

sub new_ride { return ($c->add_rides($_[0] // 'a', 'p' . ++$count))[0] }
sub handoff { return sprintf "SELECT fleet.handoff('%s', '%s')", $_[0], $_[1] // 'b' }

# The resolvers of nodes rest, or work as ever.
sub rest
{
	my ($interval, @names) = @_;
	$c->set_system($_, 'fleet.resolve_interval', $interval) for @names;
	sleep 0.4;
}

sub wait_for_state
{
	my ($session, $condition, $what) = @_;
	$c->wait_until(sub { $c->sql($session->{node},
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = '$session->{app}' AND $condition") eq '1' }, $what);
}

# ---- region removed with open branches

# b owns nothing but what is on its way to it.
{
	my $ride = new_ride();
	my $session = $c->start_waiting('a', handoff($ride), 'after-prepare');
	my $result = $c->try_sql('c', "SELECT fleet.remove_region('b')");
	is($result->{state}, '55P03', 'a region with a prepared branch is not removed') or diag($result->{err});
	$c->go('a', 'after-prepare');
	ok($session->finish->{ok}, 'its handoff goes on');
	$c->heal;
	$c->sql('b', handoff($ride, 'a'));
	$c->heal;

	$session = $c->start_waiting('a', handoff($ride), 'after-local-commit');
	for my $on ('c', 'b')
	{
		$result = $c->try_sql($on, "SELECT fleet.remove_region('b')");
		is($result->{state}, 'RF024', "on $on: a region with a decided branch is not removed") or diag($result->{err});
		like($result->{err}, qr/HINT:.*fleet\.in_doubt/, 'and the hint says where to look');
	}
	is($c->sql('b', 'SELECT count(*) FROM fleet.map_regions'), 4, 'it is still on the map');
	$c->go('a', 'after-local-commit');
	ok($session->finish->{ok}, 'its handoff goes on');
	is($c->try_sql('c', "SELECT fleet.remove_region('b')")->{state}, 'RF015', 'then it owns a ride');
}
$c->check_all('region removed with open branches');

# ---- servers of a region that has left

sub servers_of_d { return join '', map { $c->sql($_, "SELECT count(*) FROM pg_foreign_server WHERE srvname = 'fleet_d'") } 'a', 'b', 'c' }

{
	is(servers_of_d(), '111', 'all know how to reach d');
	$c->leave_map('d');
	my $session = $c->start_waiting('b', "SELECT fleet.remove_region('d')", 'after-local-commit');
	$c->kill9('d');
	$c->go('b', 'after-local-commit');
	$session->finish;
	sleep 1;
	is($c->sql('b', "SELECT count(*) FROM pg_foreign_server WHERE srvname = 'fleet_d'"), 1,
		'until d has confirmed that it left, its server stays');
	$c->start('d');
	ok(defined $c->heal, 'd confirms it');
	is($c->sql('d', 'SELECT count(*) FROM fleet.map'), 0, 'and is on no map');
	$c->wait_until(sub { servers_of_d() eq '000' }, 'nobody keeps a server of d');
	pass('nobody keeps a server of d');
	$c->sql('a', $c->add_region_sql('d'));
	$c->join_map('d');
	is(servers_of_d(), '111', 'd can be added again');

	# As if the resolver had not been so quick: a server that was left is replaced.
	$c->leave_map('d');
	$c->sql('a', "SELECT fleet.remove_region('d')");
	$c->heal;
	rest('60s', 'a', 'b', 'c');
	$c->sql($_, "CREATE SERVER fleet_d FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere');"
		. "CREATE USER MAPPING FOR PUBLIC SERVER fleet_d OPTIONS (user 'fleet_node', password_required 'false');"
		. "COMMENT ON SERVER fleet_d IS 'node of a region of fleet'") for 'a', 'b', 'c';
	my $add = $c->try_sql('a', $c->add_region_sql('d'));
	ok($add->{ok}, 'd can be added where a server of it was left') or diag($add->{err});
	$c->join_map('d');
	is($c->sql($_, "SELECT 'host=nowhere' = ANY (srvoptions) FROM pg_foreign_server WHERE srvname = 'fleet_d'"), 'f',
		"$_ does not take it for the new one") for 'a', 'b', 'c';
	rest(undef, 'a', 'b', 'c');
	is($c->sql('d', handoff(new_ride('b'), 'd')), 2, 'and takes part');
}
$c->check_all('servers of a region that has left');

# ---- transaction number reused

sub burn_to
{
	my ($number) = @_;
	my $next = 0;
	$next = $c->sql('c', 'SELECT txid_current()') while $next < $number - 1;
	return $next == $number - 1;
}

sub numbers_at_b
{
	return join ',', map { $_->[0] } $c->rows('b', "SELECT split_part(gid, ':', 4) FROM pg_prepared_xacts");
}

# c dies undecided, with a number that it hands out again: to a handoff that
# still runs, or that is decided, when the old one is asked about.  A promoted
# c reuses it too.
for my $case ([ 'after-prepare', 0 ], [ 'after-local-commit', 0 ], [ 'after-local-commit', 1 ])
{
	my ($point, $promote) = @$case;
	my $label = "number reused after a " . ($promote ? 'promotion' : 'crash') . ", $point";
	my ($old, $new, $gid, $session);

	rest('60s', 'a', 'b');
	for my $try (1 .. 5)
	{
		($old, $new) = (new_ride(), new_ride());
		if ($promote)
		{
			$c->save('c');
			$c->sql('c', 'SELECT txid_current()') for 1 .. 20;    # its first steps after the promotion need some
		}
		$session = $c->start_waiting('c', handoff($old), 'after-prepare');
		$gid = $c->sql('b', 'SELECT gid FROM pg_prepared_xacts');
		my $number = (split /:/, $gid)[3];
		$promote ? $c->go_back('c', promote => 1) : ($c->kill9('c'), $c->start('c'));
		$session->finish;
		if (burn_to($number))
		{
			$session = $c->start_waiting('c', handoff($new), $point);
			last if numbers_at_b() eq "$number,$number";
			$c->go('c', $point);
			$session->finish;
		}
		diag("$label: number $number was not handed out again");
		rest(undef, 'a', 'b');
		$c->heal;
		rest('60s', 'a', 'b');
	}
	like(numbers_at_b(), qr/^(\d+),\1$/, "$label: two branches have the same number");
	rest(undef, 'a', 'b');
	$c->wait_until(sub { $c->sql($_, "$prepared WHERE gid LIKE '" . substr($gid, 0, -1) . "%'") eq '0' },
		'the old one is finished') for 'a', 'b';
	sleep 0.5;
	is($c->sql('b', $prepared), 1, "$label: the old one was finished while the new one waits") unless $promote;
	$c->go('c', $point);
	my $result = $session->finish;
	ok($result->{ok}, "$label: the new one commits") or diag($result->{err});
	$c->check_all($label, log => !$promote);
	is(join(' ', $c->places([ $old, $new ])), 'a1 b2', "$label: the whole name has decided");
}

# ---- lost reply to COMMIT PREPARED

# b has committed, waits for a standby with its reply, and is killed.
{
	my $ride = new_ride();
	my $offset = $c->log_size('c');
	my $session = $c->start_waiting('c', handoff($ride), 'after-local-commit');
	$c->sql('b', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()");
	sleep 0.5;
	$c->go('c', 'after-local-commit');
	my $result = $session->finish;
	ok($result->{ok} && $result->{err} =~ /1 of its nodes did not confirm/, 'lost reply: the caller is told that it is committed');
	is($c->sql('b', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fleet:node_c' AND wait_event = 'SyncRep'"),
		1, 'lost reply: it was done and not said');
	$c->kill9('b');
	append_settings('b', 'synchronous_standby_names');
	$c->start('b');
	is($c->sql('b', "SELECT epoch FROM fleet.local_rides WHERE ride_id = '$ride'"), 2, 'lost reply: it is done');
	$c->check_all('lost reply');
	unlike($c->log_text('c', $offset), qr/is lost/, 'lost reply: "does not exist" is checked, and nothing is made again');
}

# Undo ALTER SYSTEM of a server that is down.
sub append_settings
{
	my ($name, $setting) = @_;
	my $file = "$c->{nodes}{$name}{data}/postgresql.auto.conf";
	my $text = PostgreSQL::Test::Utils::slurp_file($file) =~ s/^$setting.*\n//mr;
	open(my $fh, '>', $file) or die "$file: $!";
	print $fh $text;
	close $fh;
}

# ---- black-holed peer

# In a transaction block, where statement_timeout would be off at COMMIT.
for my $case ([ 'a', 'b' ], [ 'c', 'a' ], [ 'c', 'b' ])
{
	my ($on, $gone) = @$case;
	my $label = "coordinator $on, $gone in a black hole";
	my %set = ('fleet.prepare_timeout' => 400, 'fleet.lock_timeout' => 200, 'fleet.commit_timeout' => 400);

	for my $point ('before-prepare', 'after-prepare')
	{
		my $ride = new_ride();
		my $session = $c->start_waiting($on, 'BEGIN; ' . handoff($ride) . '; COMMIT;', $point, set => \%set);

		$c->network('hole', $on, $gone);
		my $start = time;
		$c->go($on, $point);
		my $result = $session->finish;
		my $took = time - $start;
		if ($point eq 'before-prepare')
		{
			is($result->{state}, 'RF016', "$label during PREPARE: the caller is told") or diag($result->{err});
		}
		else
		{
			ok($result->{ok} && $result->{err} =~ /1 of its nodes did not confirm/,
				"$label during COMMIT PREPARED: the caller is told") or diag($result->{err});
		}
		cmp_ok($took, '<', 3, sprintf '%s at %s: the wait ended (%.1f s)', $label, $point, $took);
		$c->network('pass', $on, $gone);
		ok(defined $c->heal, "$label at $point: healed");
		is($c->where($ride), $point eq 'before-prepare' ? 'a1' : 'b2', "$label at $point: the ride is where it should be");
	}
}
$c->check_all('black-holed peer');

# ---- cancel and terminate at each wait

# What a session of c waits for, with timeouts that would last: how it is brought
# about, and how it is undone.
my %long = ('fleet.lock_timeout' => 30000, 'fleet.prepare_timeout' => 30000, 'fleet.connect_timeout' => 30000, 'fleet.commit_timeout' => 3000);

sub start_with_hole
{
	my ($ride, $point) = @_;
	my $session = $c->start_waiting('c', handoff($ride), $point, set => \%long);
	$c->network('hole', 'c', 'b');
	$c->go('c', $point);
	return $session;
}

my $holder;
my %wait = (
	'a lock at the source' => sub {
		my ($ride) = @_;
		$holder = $c->start_sql('a', "BEGIN; SELECT 1 FROM fleet.local_rides WHERE ride_id = '$ride' FOR UPDATE; SELECT pg_sleep(60)");
		wait_for_state($holder, "wait_event = 'PgSleep'", 'the ride is locked');
		return $c->start_sql('c', handoff($ride), set => \%long);
	},
	'a lock here' => sub {
		my ($ride) = @_;
		$c->sql('a', handoff($ride, 'c'));
		$holder = $c->start_sql('c', "BEGIN; SELECT 1 FROM fleet.local_rides WHERE ride_id = '$ride' FOR UPDATE; SELECT pg_sleep(60)");
		wait_for_state($holder, "wait_event = 'PgSleep'", 'the ride is locked');
		return $c->start_sql('c', handoff($ride), set => \%long);
	},
	'a connection' => sub {
		my ($ride) = @_;
		$c->network('hole', 'c', 'b');
		return $c->start_sql('c', handoff($ride), set => \%long);
	},
	'where the ride is' => sub {
		my ($ride) = @_;
		my $other = new_ride('c');
		my $session = $c->start_sql('c', handoff($other, 'a') . ";\nSELECT pg_sleep(1);\n" . handoff($ride), set => \%long);
		wait_for_state($session, "wait_event = 'PgSleep'", 'it has a connection');
		$c->network('hole', 'c', 'a');
		sleep 1;
		return $session;
	},
	'PREPARE' => sub { return start_with_hole($_[0], 'before-prepare') },
	'COMMIT PREPARED' => sub { return start_with_hole($_[0], 'after-local-commit') },
);

for my $what (sort keys %wait)
{
	for my $signal ('cancel', 'terminate')
	{
		my $label = "$signal while waiting for $what";
		my $ride = new_ride();
		my $session = $wait{$what}->($ride);

		# After its decision it waits without a latch, which pg_stat_activity does not show.
		sleep 0.5;
		wait_for_state($session, $what eq 'COMMIT PREPARED' ? "state = 'active'" : "wait_event_type IN ('Lock', 'Extension')", 'it waits');
		my $start = time;
		$c->sql('c', "SELECT pg_${signal}_backend(" . $session->backend . ')');
		my $result = $session->finish;
		my $took = time - $start;
		if ($what eq 'COMMIT PREPARED')
		{
			# Nothing can take it back; a session that is ended may not say so any more.
			ok($signal eq 'terminate' || $result->{ok} && $result->{err} =~ /1 of its nodes did not confirm/,
				"$label: it is committed") or diag($result->{err});
		}
		else
		{
			is($result->{state}, $signal eq 'cancel' ? '57014' : '57P01', "$label: the caller is told") or diag($result->{err});
		}
		cmp_ok($took, '<', 4, sprintf '%s: the wait ended (%.1f s)', $label, $took);
		$c->network('pass', 'c', 'a', 'b');
		if ($holder)
		{
			$c->sql($holder->{node}, 'SELECT pg_cancel_backend(' . $holder->backend . ')');
			$holder->finish;
			undef $holder;
		}
		ok(defined $c->heal, "$label: healed");
		is($c->where($ride), $what eq 'COMMIT PREPARED' ? 'b2' : $what eq 'a lock here' ? 'c2' : 'a1',
			"$label: the ride is where it should be");
	}
}
$c->check_all('cancel and terminate at each wait');

# ---- NOTIFY, temporary table, exported snapshot

my %forbidden = (
	'NOTIFY' => "PERFORM pg_notify('arrivals', 'x')",
	'a temporary table' => 'CREATE TEMP TABLE t (x int) ON COMMIT DROP',
	'an exported snapshot' => 'PERFORM pg_export_snapshot()');

for my $what (sort keys %forbidden)
{
	# In the caller's own transaction, which is not prepared, all of it works.
	for my $on ('a', 'b', 'c')
	{
		my $ride = new_ride();
		my $result = $c->try_sql($on, "BEGIN; DO \$\$ BEGIN $forbidden{$what}; END \$\$; " . handoff($ride) . '; COMMIT;');
		ok($result->{ok}, "on $on: $what in the transaction that hands off") or diag($result->{err});
		is($c->where($ride), 'b2', "on $on: $what: the ride has moved");
	}

	# In a trigger of somebody's, on a node that has to prepare, it fails.
	$c->sql('b', <<"SQL");
CREATE FUNCTION forbidden() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $forbidden{$what}; RETURN NULL; END \$\$;
CREATE TRIGGER forbidden AFTER INSERT ON fleet.local_rides FOR EACH ROW EXECUTE FUNCTION forbidden();
SQL
	for my $on ('a', 'c')
	{
		my $ride = new_ride();
		my $result = $c->try_sql($on, handoff($ride));
		is($result->{state}, '0A000', "on $on: $what in a trigger of the target") or diag($result->{err});
		like($result->{err}, qr/cannot PREPARE a transaction that has.*region "b"/s, 'the error says what and where');
		is($c->where($ride), 'a1', 'the ride stays');
	}
	my $ride = new_ride();
	is($c->sql('b', handoff($ride)), 2, "on b: $what in a trigger of the target, which is not prepared, works");
	$c->sql('b', 'DROP FUNCTION forbidden CASCADE');
}
$c->check_all('NOTIFY, temporary table, exported snapshot');

# ---- deferred constraint that fails in PREPARE

$c->sql('b', <<'SQL');
CREATE FUNCTION too_dear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF (SELECT fare FROM fleet.local_rides WHERE ride_id = NEW.ride_id) > 1000 THEN
		RAISE EXCEPTION 'ride % is too dear', NEW.ride_id USING ERRCODE = 'check_violation', HINT = 'Lower the fare.';
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER too_dear AFTER INSERT ON fleet.local_rides DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION too_dear();
SQL
for my $on ('a', 'b', 'c')
{
	my ($dear, $cheap) = (new_ride(), new_ride());
	$c->sql('a', "UPDATE fleet.rides SET fare = fare + 5000 WHERE ride_id = '$dear' AND region = 'a'");
	$c->{rides}{$dear} += 5000;
	my $result = $c->try_sql($on, 'BEGIN; ' . handoff($cheap) . '; ' . handoff($dear) . '; COMMIT;');
	is($result->{state}, '23514', "on $on: a deferred constraint of the target fails at COMMIT") or diag($result->{err});
	like($result->{err}, qr/ride $dear is too dear.*HINT:  Lower the fare/s, 'and says what it has to say');
	is(join(' ', $c->places([ $dear, $cheap ])), 'a1 a1', 'nothing has moved');
	is($c->sql($on, handoff($cheap)), 2, 'what it lets pass goes');
	is(join('', map { $c->sql($_, $prepared) } $c->names), '0000', 'and nothing stays prepared');
}
$c->sql('b', 'DROP FUNCTION too_dear CASCADE');
$c->check_all('deferred constraint');

# ---- deadlock across servers

# Each of two transactions holds a ride on its own server and wants the other's.
for my $case ([ 600, 5000 ], [ 5000, 600 ], [ 800, 800 ])
{
	my ($r1, $r2) = (new_ride('a'), new_ride('b'));
	my @lasts = @$case;
	my $label = "deadlock, $lasts[0] and $lasts[1] ms";
	my $wait = '; SELECT pg_sleep(0.7); ';
	my $start = time;
	my @sessions = (
		$c->start_sql('a', 'BEGIN; ' . handoff($r1, 'b') . $wait . handoff($r2, 'a') . '; COMMIT;', set => { 'fleet.lock_timeout' => $lasts[0] }),
		$c->start_sql('b', 'BEGIN; ' . handoff($r2, 'a') . $wait . handoff($r1, 'b') . '; COMMIT;', set => { 'fleet.lock_timeout' => $lasts[1] }));
	my @results = map { $_->finish } @sessions;
	my $took = time - $start;
	my @states = map { $_->{state} } @results;

	cmp_ok($took, '<', 5, sprintf '%s: it is over after the shorter time (%.1f s)', $label, $took);
	if ($lasts[0] == $lasts[1])
	{
		ok((grep { $_ eq 'RF002' } @states) >= 1, "$label: one or both are told (@states)");
	}
	else
	{
		is_deeply(\@states, $lasts[0] < $lasts[1] ? [ 'RF002', '' ] : [ '', 'RF002' ], "$label: one is told, the other goes through")
		  or diag(map { $_->{err} } @results);
		is(join(' ', $c->places([ $r1, $r2 ])), 'b2 a2', "$label: and does what it wanted");
	}
	$c->check_all($label);
}

# ---- a BEGIN that fails

# What was sent with it must not run by itself then.
for my $case ([ 'a', 'b' ], [ 'b', 'a' ], [ 'c', 'a' ], [ 'c', 'b' ])
{
	my ($on, $participant) = @$case;
	my $ride = new_ride();
	my $offset = $c->log_size($participant);

	$c->set_system($participant, 'fleet.fault', 'begin=error');
	my $result = $c->try_sql($on, handoff($ride));
	like($result->{err}, qr/fleet fault point "begin"/, "on $on: the BEGIN at $participant fails");
	$c->set_system($participant, 'fleet.fault', undef);
	is($c->where($ride), 'a1', "on $on: BEGIN fails at $participant: the ride stays");
	unlike($c->log_text($participant, $offset), qr/can only be used in transaction blocks|already exists/,
		'and nothing was tried without it');
	is($c->sql($on, handoff($ride)), 2, 'a second try succeeds');
}

# Even if it were sent: what is half a handoff is refused outside of a transaction.
{
	my $ride = new_ride();
	my $version = $c->sql('a', 'SELECT version FROM fleet.map');
	my $depart = "SELECT fleet.depart('x', false, '{%s}', 'b', 0, $version, 0, 100)";
	my $arrive = "SELECT fleet.arrive('x', '[]', $version, false)";

	is($c->try_sql('a', sprintf($depart, $ride), user => 'fleet_node')->{state}, '25P01', 'no departure outside of a transaction');
	is($c->try_sql('b', $arrive, user => 'fleet_node')->{state}, '25P01', 'no arrival outside of a transaction');
	is($c->where($ride), 'a1', 'the ride stays');

	# ---- nothing to depart
	my $result = $c->try_sql('a', 'BEGIN; ' . sprintf($depart, '') . '; COMMIT;', user => 'fleet_node');
	is($result->{state}, '22023', 'a departure of nothing is refused');
	like($result->{err}, qr/no ride or vehicle was named/, 'in so many words');
	is($c->sql($_, "SELECT fleet.handoff('{}'::text[], 'b')"), 0, "on $_: a batch of none is none") for 'a', 'c';
}
$c->check_all('a BEGIN that fails');

# ---- a parallel query that asks for a region

# In a session that has not read the map yet: in a parallel query it may take no
# snapshot of its own.
{
	my $setup = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;';
	my $query = "SELECT count(*) FROM many WHERE x >= 0 GROUP BY fleet.region_of(0.5 + x % 3, 0.5) ORDER BY 1";

	$c->sql('a', 'CREATE TABLE many AS SELECT generate_series(0, 29999) AS x; ANALYZE many');
	for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
	{
		my $result = $c->try_sql('a', "$setup BEGIN ISOLATION LEVEL $level; $query; EXPLAIN (ANALYZE) $query; COMMIT;");
		like($result->{out}, qr/^10000\n10000\n10000\n/, "$level: a parallel query finds three regions") or diag($result->{err});
		like($result->{out}, qr/Workers Launched: [12]/, "$level: it was parallel");
	}
	$c->sql('a', 'DROP TABLE many');
}

# ---- a resolver that is asked for and does not come

sub resolver { return $c->sql($_[0], "SELECT pid FROM pg_stat_activity WHERE backend_type = 'fleet resolver' AND datname = current_database()") }

# Its start is lost once, as if the server could not fork.
{
	my $pid = resolver('d');

	$c->set_system('d', 'fleet.fault', 'worker-lost=on');
	sleep 0.3;    # the launcher reads it, too
	$c->sql('d', "SELECT pg_terminate_backend($pid, 5000)");
	sleep 3;
	is(resolver('d'), '', 'the resolver does not come');
	$c->set_system('d', 'fleet.fault', undef);
	$c->wait_until(sub { resolver('d') =~ /\d/ }, 'the launcher tries again', 20);
	isnt(resolver('d'), $pid, 'the launcher tries again');
}

# ---- a resolver that anybody can stop

# CREATE DATABASE from a node, and DROP DATABASE, make its resolver give way; but
# only to those who may do that.
{
	my $pid = resolver('d');

	$c->sql('d', 'CREATE ROLE maker LOGIN CREATEDB');
	for my $sql ('CREATE DATABASE copy TEMPLATE postgres', 'ALTER DATABASE postgres RENAME TO mine', 'DROP DATABASE postgres')
	{
		my $result = $c->try_sql('d', $sql, user => 'maker');
		ok(!$result->{ok}, "somebody else's $sql is refused") or diag($result->{err});
		is(resolver('d'), $pid, 'and the resolver goes on');
	}
}

# ---- no room for prepared transactions

{
	$c->stop('b');
	PostgreSQL::Test::Utils::append_to_file("$c->{nodes}{b}{data}/postgresql.conf", "max_prepared_transactions = 1\n");
	$c->start('b');
	$c->sql('b', "BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'fills it'");
	for my $on ('a', 'c')
	{
		my $ride = new_ride();
		my $result = $c->try_sql($on, handoff($ride));
		is($result->{state}, '53200', "on $on: the target has no room to prepare") or diag($result->{err});
		like($result->{err}, qr/HINT:  Increase max_prepared_transactions \(currently 1\)/, 'the hint names the setting');
		like($result->{err}, qr/on region "b"/, 'and the context the region');
		is($c->where($ride), 'a1', 'the ride stays');
		$c->wait_until(sub { join('', map { $c->sql($_, $prepared) } 'a', 'c', 'd') eq '000' }, 'nothing stays prepared elsewhere', 3);
	}
	$c->sql('b', "ROLLBACK PREPARED 'fills it'");
	is($c->sql('a', handoff(new_ride())), 2, 'it goes as soon as there is room');
}

$c->check_all('in the end', log => 0);
done_testing();
