# fleet: a peer that does not answer is not waited for by everybody.
# Copyright (c) 2026, the fleet authors
#
# Proves: after fleet.breaker_failures failures in a row calls to a peer fail at
# once (a peer that takes connections and never answers would else cost each its
# whole timeout); errors of SQL and cancels are no failures; past its back-off one
# caller is let through and no second one, also where that one is cancelled,
# terminated or stopped in the middle; the back-off grows; the first answer closes it,
# be it the resolver's, whom it does not hinder; what was begun on a connection
# that is open goes on and is committed; reads with 'partial' go on without the
# region; other options of the server close it; 0 turns it off.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(settings => "fleet.connect_timeout = 400\nfleet.read_timeout = 400");

# What comes of a statement, and how many milliseconds it takes.
my $attempt = <<'SQL';
CREATE FUNCTION attempt(statement text, OUT result text, OUT ms integer, OUT message text, OUT detail text) LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz := clock_timestamp();
BEGIN
	BEGIN
		EXECUTE statement;
		result := 'ok';
	EXCEPTION WHEN OTHERS OR query_canceled THEN
		GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
		result := SQLSTATE;
	END;
	ms := extract(epoch FROM clock_timestamp() - started) * 1000;
END
$$;
SQL
$c->sql('a', $attempt);

my $ask = "SELECT fleet.ask('b', 'SELECT 1', 1000)";

# {result, ms, message, detail} of a statement on a.
sub attempt
{
	my ($sql) = @_;
	my ($row) = $c->rows('a', 'SELECT result, ms, message, detail FROM attempt($a$' . ($sql // $ask) . '$a$)');
	my %answer;
	@answer{ 'result', 'ms', 'message', 'detail' } = @$row;
	return \%answer;
}

# Some columns of a's row of b.
sub peer { return $c->sql('a', "SELECT $_[0] FROM fleet.peers WHERE region = 'b'") }

# Fail until calls are refused.  Returns the results, in their order.
sub open_breaker
{
	my @results;
	push @results, attempt()->{result} until @results && $results[-1] eq 'RF026' || @results > 20;
	return "@results";
}

# Until the next try is further away than so many seconds.
sub open_for
{
	my ($seconds) = @_;
	$c->wait_until(sub { attempt(); peer("next_try > clock_timestamp() + interval '$seconds s'") eq 't' }, "b is refused for $seconds s", 40);
}

# Call until it is answered; seconds from now.
sub until_answered
{
	my ($what) = @_;
	my $start = time;
	$c->wait_until(sub { attempt()->{result} eq 'ok' }, $what);
	return time - $start;
}

# On a slow machine the first back-off may be over before the next call.
my $five = qr/^(?:08001 ){5,7}RF026$/;

# ---- all is well

is($c->sql('a', 'SELECT string_agg(region, $$ $$) FROM fleet.peers'), 'b c', 'each other region has a row');
my ($kept) = $c->add_rides('a', 'kept');
is($c->sql('a', "SELECT fleet.handoff('kept', 'b')"), 2, 'a ride goes to b');
is(peer('state, failures, opened_at IS NULL, next_try IS NULL, last_error IS NULL, last_ok > now() - interval $$5 s$$, connects > 0, answered > 0, failed, refused'),
	'closed|0|t|t|t|t|t|t|0|0', 'what there is to see of b then');
attempt("SELECT fleet.ask('b', 'SELECT 1/0')") for 1 .. 8;
is(attempt("SELECT fleet.ask('b', 'SELECT 1/0')")->{result}, '22012', 'an error of SQL there');
is(peer('state, failures, failed'), 'closed|0|0', 'is no failure of b');

# ---- b is killed

$c->kill9('b');
my $offset = $c->log_size('a');
like(open_breaker(), $five, 'b is killed: calls are refused');
like($c->log_text('a', $offset), qr/region "b" is not asked for a while, 5 attempts in a row have failed/, 'after five failures');
open_for(1);
my $refused = attempt();
is($refused->{message}, 'region "b" is not asked now', 'the message');
like($refused->{detail}, qr/^\d+ attempts in a row have failed, the last one with ".+"; the next one is let through in -?\d+ ms\.$/, 'the detail');
is(peer('state, failures >= 5, opened_at <= clock_timestamp(), next_try > opened_at, failed = failures, refused > 1'), 'open|t|t|t|t|t', 'fleet.peers');
like(peer('last_error'), qr/No such file|refused/, 'and the last error');
is(attempt("SELECT fleet.handoff('kept', 'c')")->{result}, 'RF026', 'a ride that b has cannot be handed off');
my ($other) = $c->add_rides('a', 'other');
is($c->sql('a', "SELECT fleet.handoff('other', 'c')"), 2, 'other peers are asked as ever');
is($c->sql('c', "SELECT state FROM fleet.peers WHERE region = 'b'"), 'closed', 'and other servers have found out nothing');

# Reads.
$c->sql('a', 'SET client_min_messages = notice');
$refused = $c->ask('a', "SELECT fleet.count_rides(on_unavailable => 'partial')");
like($refused->{out}, qr/NOTICE:.*region "b" is missing in the answer/, 'a partial read names b');
like($refused->{out}, qr/DETAIL:.*the region is not asked now: \d+ attempts/, 'and says why');
is($c->sql('a', 'SELECT failed FROM fleet.last_read()'), '{b}', 'so does fleet.last_read');
$c->sql('a', 'RESET client_min_messages');
$refused = attempt('SELECT fleet.count_rides()');
is("$refused->{result} $refused->{message}", '08006 could not read region "b"', 'another read fails and names b');

# ---- it comes back

$c->start('b');
my $took = until_answered('b answers');
cmp_ok($took, '<', 5, sprintf 'b is back: it is asked again after %.2f s', $took);
is(peer('state, failures, opened_at IS NULL, next_try IS NULL, last_error IS NULL'), 'closed|0|t|t|f', 'fleet.peers then: only the last error stays');

# ---- b is frozen: it takes connections, and is silent

my $frozen = 0;
$c->freeze('b');
is(join(' ', map { $c->try_sql('a', $ask, set => { statement_timeout => 150 })->{state} } 1 .. 6), '57014 57014 57014 57014 57014 57014', 'calls that are cancelled');
is(peer('state, failures'), 'closed|0', 'are no failures');
is(attempt('SELECT fleet.count_rides()')->{message}, 'could not read region "b"', 'a read of a frozen region');
is(peer('failures, last_error'), '1|no answer in time', 'is one');
like(open_breaker(), qr/^(?:08001 ){4,6}RF026$/, 'as is each connection that is not made in time');
is(peer('last_error'), 'no answer within 400 ms', 'which fleet.peers tells');
my @ms;
my $refusals = peer('refused');
my $probes = peer('failed');
for (my $end = time + 5; time < $end; sleep 0.01)
{
	my $answer = attempt();
	push @ms, $answer->{ms} if $answer->{result} eq 'RF026';
}
@ms = sort { $a <=> $b } @ms;
$refusals = peer('refused') - $refusals;
$probes = peer('failed') - $probes;
diag(sprintf 'frozen for 5 s: %d calls refused (median %d ms, worst %d ms), %d let through', $refusals, $ms[ @ms / 2 ], $ms[-1], $probes);
cmp_ok($ms[ @ms * 0.99 ], '<', 50, 'a call that is refused does not wait');
cmp_ok($probes, '<=', 6, 'the back-off grows');
cmp_ok($probes, '>=', 3, 'and somebody tries now and then');
open_for(1);
$took = attempt("SET LOCAL client_min_messages = warning; SELECT fleet.count_rides(on_unavailable => 'partial')");
is($took->{result}, 'ok', 'a partial read');
cmp_ok($took->{ms}, '<', 50, 'does not wait either');

# Many at the moment when the next try is due, each on a connection of its own.
sub many_at_once
{
	my ($n) = @_;
	$c->wait_until(sub { attempt(); peer("state = 'open' AND next_try > clock_timestamp() + interval '600 ms'") eq 't' }, 'a back-off begins', 40);
	my $at = peer("next_try + interval '50 ms'");
	my @sessions = map { $c->start_sql('a', "SELECT pg_sleep_until('$at'); SELECT result, ms FROM attempt(\$a\$$ask\$a\$)") } 1 .. $n;
	return sort map { $_->finish->{out} =~ s/^\s+|\|.*//gr . '|' . ($_->{out} =~ /\|(\d+)/)[0] } @sessions;
}

for my $round (1 .. 2)
{
	my @results = many_at_once(8);
	is(join(' ', map { s/\|.*//r } @results), '08001 ' . join(' ', ('RF026') x 7), "round $round: of eight at once one is let through")
	  or diag("@results");
}

# ---- probes that do not come to an end

# A session that has become the probe and waits, as long as it is let.
sub start_probe
{
	my ($ms) = @_;
	my $session;
	$c->wait_until(sub {
		peer("state = 'open' AND next_try < clock_timestamp()") eq 't' or return 0;
		$session = $c->start_sql('a', $ask, set => { 'fleet.connect_timeout' => $ms });
		$c->wait_until(sub { peer('state') eq 'half-open' }, 'a probe is under way');
		return 1;
	}, 'the next try is due', 40);
	return $session;
}

for my $case ([ 'cancelled', 'pg_cancel_backend', '57014' ], [ 'terminated', 'pg_terminate_backend', '57P01' ])
{
	my ($how, $function, $state) = @$case;
	my $session = start_probe(20000);
	is(attempt()->{result}, 'RF026', "while a probe is under way another call is refused");
	like(attempt()->{detail}, qr/another one is being made/, 'and hears of it');
	$c->sql('a', "SELECT $function(" . $session->backend . ')');
	is($session->finish->{state}, $state, "the probe is $how");
	is(peer('state, next_try <= clock_timestamp()'), 'open|t', "the probe is $how: the next one is due at once");
	is(attempt()->{result}, '08001', "the probe is $how: the next caller is one");
}

# One that is stopped has a lease of twice its timeout and a second.
my $session = start_probe(1000);
my $pid = $session->backend;
my $start = time;
kill 'STOP', $pid;
sleep 0.1;
is(attempt()->{result}, 'RF026', 'the probe is stopped: others are refused');
$c->wait_until(sub { attempt()->{result} eq '08001' }, 'the lease of a probe ends');
$took = time - $start;
cmp_ok($took, '<', 5, sprintf 'the probe is stopped: others are let through after %.1f s', $took);
my $before = peer('state, next_try, opened_at');
my $failed = peer('failed');
kill 'CONT', $pid;
is($session->finish->{state}, '08001', 'it goes on, and fails');
is(peer('failed'), $failed + 1, 'which counts');
is(peer('state, next_try, opened_at'), $before, 'but changes nothing: another one has been the probe since');

# ---- b is thawed

open_for(3);
$c->thaw('b');
is(attempt()->{result}, 'RF026', 'b is thawed: the back-off goes on');
is(attempt("SET LOCAL fleet.breaker_failures = 0; $ask")->{result}, 'ok', 'but not for who has turned it off');
is(peer('state, failures'), 'closed|0', 'his answer closes it for all');
is(attempt()->{result}, 'ok', 'so all ask');
$c->freeze('b');
open_for(3);
$c->thaw('b');
$took = until_answered('b answers');
diag(sprintf 'thawed at the longest back-off: asked again after %.2f s', $took);
cmp_ok($took, '<', 5.2, 'b is asked again within the longest back-off');


# ---- it connects, and does not answer

$c->sql('b', 'BEGIN; LOCK fleet.local_rides');
my $read = 'SELECT fleet.count_rides()';
attempt($read) until peer('state') eq 'open';
is(peer('failures, last_error'), '5|no answer in time', 'requests that are not answered in time open it');
$c->wait_until(sub { peer('next_try < clock_timestamp()') eq 't' }, 'the next try is due');
$took = attempt($read);
is("$took->{result} $took->{detail}", '08006 no answer in time', 'the probe connects, and then its own request is not answered');
is(peer('state, failures'), 'open|5', 'one such is enough to open it again');
is(peer("next_try > last_failed + interval '140 ms'"), 't', 'for longer than at first');
$c->sql('b', 'ROLLBACK');
until_answered('b answers');
is(peer('state, failures'), 'closed|0', 'until it answers');

# ---- what has begun goes on

# b takes no more connections; those that there are, are open.
$c->add_rides('a', 'begun-1', 'begun-2', 'waiting');
my $waiting = $c->start_waiting('a', "SELECT fleet.handoff('waiting', 'b')", 'after-prepare');
$c->sql('a', 'SELECT pg_advisory_lock(27)');
my $begun = $c->start_sql('a', "BEGIN; SELECT fleet.handoff('begun-1', 'b'); SELECT pg_advisory_lock_shared(27);"
	. " SELECT fleet.locate('begun-1'); SELECT fleet.handoff('begun-2', 'b'); COMMIT;");
my $idle = $c->start_sql('a', "$ask; SELECT pg_advisory_lock_shared(27); $ask", go_on => 1);
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'") eq '2' }, 'sessions have begun');
$c->sql('b', 'ALTER ROLE fleet_node CONNECTION LIMIT 0');
like(join(' ', map { $c->try_sql('a', $ask)->{state} } 1 .. 8), qr/^(?:08001 ){5}.*RF026/, 'too many connections is a failure');
like(peer('last_error'), qr/too many connections/, 'and told');
open_for(1);
$c->sql('a', 'SELECT pg_advisory_unlock(27)');
my $result = $begun->finish;
ok($result->{ok} && $result->{out} =~ /^2\n\nb\n2$/m && $result->{err} !~ /did not confirm/, 'a transaction that has begun on b goes on') or diag($result->{err});
$idle->finish;
$c->go('a', 'after-prepare');
$result = $waiting->finish;
ok($result->{ok} && $result->{err} !~ /did not confirm/, 'COMMIT PREPARED goes out, and is confirmed') or diag($result->{err});
is(peer('state, failures'), 'closed|0', 'and that b has answered closes it');
is(join(' ', $c->places([ 'begun-1', 'begun-2', 'waiting' ])), 'b2 b2 b2', 'all have arrived');
$c->sql('b', 'ALTER ROLE fleet_node CONNECTION LIMIT -1');

# A kept connection that may be as good as ever is not tried.
$c->sql('a', 'SELECT pg_advisory_lock(27)');
$idle = $c->start_sql('a', "$ask; SELECT pg_advisory_lock_shared(27); $ask");
$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'") eq '1' }, 'a session has begun');
$c->sql('b', 'ALTER ROLE fleet_node CONNECTION LIMIT 0');
$c->wait_until(sub { $c->try_sql('a', $ask); peer("next_try > clock_timestamp() + interval '1 s'") eq 't' }, 'b is refused for 1 s', 40);
$c->sql('a', 'SELECT pg_advisory_unlock(27)');
is($idle->finish->{state}, 'RF026', 'what is new is refused, on a connection that is open, too');
$c->sql('b', 'ALTER ROLE fleet_node CONNECTION LIMIT -1');
until_answered('b answers');

# ---- the resolver is not hindered

$c->add_rides('a', 'doubt');
$waiting = $c->start_waiting('a', "SELECT fleet.handoff('doubt', 'b')", 'after-prepare');
$c->kill9('b');
$c->go('a', 'after-prepare');
like($waiting->finish->{err}, qr/1 of its nodes did not confirm/, 'a branch is in doubt on b');
open_for(3);
my $due = peer('extract(epoch FROM next_try)');
$c->start('b');
$start = $c->ready_at('b');
$c->wait_until(sub { $c->sql('b', 'SELECT count(*) FROM pg_prepared_xacts') eq '0' && peer('state') eq 'closed' }, 'it is resolved', 10);
$took = time - $start;
diag(sprintf 'resolved and closed %.2f s after b was ready, %.2f s before the next try', $took, $due - time);
cmp_ok($took, '<', 2.5, sprintf 'it is resolved while a does not ask b (%.2f s)', $took);
is(attempt()->{result}, 'ok', 'and with that b is asked again');

# ---- turned off

$c->set_system('a', 'fleet.breaker_failures', '0');
$c->wait_until(sub { $c->sql('a', 'SHOW fleet.breaker_failures') eq '0' }, 'it is turned off');
$c->kill9('b');
is(join(' ', map { attempt()->{result} } 1 .. 10), join(' ', ('08001') x 10), 'with fleet.breaker_failures = 0 nobody is refused');
is(peer('state, failures, next_try IS NULL'), 'closed|10|t', 'and the failures are told all the same');
$c->set_system('a', 'fleet.breaker_failures', undef);
$c->wait_until(sub { $c->sql('a', 'SHOW fleet.breaker_failures') eq '5' }, 'it is turned on');
like(open_breaker(), qr/^(?:08001 ){1,3}RF026$/, 'turned on again it opens with the next one');

# ---- other options

my $port = $c->{nodes}{b}{server}->port;
open_for(1);
$c->sql('a', "ALTER SERVER fleet_b OPTIONS (SET port '1'); ALTER USER MAPPING FOR PUBLIC SERVER fleet_b OPTIONS (ADD password 'hunter2')");
is(peer('state, failures'), 'closed|0', 'other options of the server close it');
like(open_breaker(), $five, 'and are counted anew');
unlike(peer('last_error'), qr/hunter2/, 'no password is shown');
open_for(3);
$c->start('b');
$c->sql('a', "ALTER SERVER fleet_b OPTIONS (SET port '$port')");
is(attempt()->{result}, 'ok', 'the right ones are tried at once');

# ---- more peers than there is room for

is(peer('connects > 0, answered > 0'), 't|t', 'b has been asked');
$c->sql('a', <<'SQL');
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXECUTE format('CREATE SERVER fleet_x%s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host $h$/nowhere$h$)', i);
		EXECUTE format('CREATE USER MAPPING FOR PUBLIC SERVER fleet_x%s', i);
		BEGIN
			PERFORM fleet.ask('x' || i, 'SELECT 1');
		EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
			NULL;
		END;
	END LOOP;
END
$$;
ROLLBACK;
SQL
is(peer('state, connects, answered, failed, last_error IS NULL'), 'closed|0|0|0|t', 'those that were not used for longest are forgotten');
is(attempt()->{result}, 'ok', 'which takes nothing from a connection that is open');
is(peer('connects, answered, failed'), '0|1|0', 'they are counted anew when they are asked');
is(scalar(map { $_->[0] } $c->rows('a', 'SELECT region FROM fleet.peers')), 2, 'those that are on no map are not shown');

# ---- a region is removed, and added again

$c->sql('a', "ALTER SERVER fleet_c OPTIONS (SET port '1')");
attempt("SELECT fleet.ask('c', 'SELECT 1')") for 1 .. 6;
is($c->sql('a', "SELECT state FROM fleet.peers WHERE region = 'c'"), 'open', 'c is refused');
$c->sql('c', "SELECT fleet.handoff('other', 'a')");
$c->sql('a', "ALTER SERVER fleet_c OPTIONS (SET port '@{[ $c->{nodes}{c}{server}->port ]}')");
$c->heal;
$c->sql('a', "SELECT fleet.remove_region('c')");
is($c->sql('a', 'SELECT string_agg(region, $$ $$) FROM fleet.peers'), 'b', 'a region that is removed is not shown');
$c->wait_until(sub { $c->try_sql('a', $c->add_region_sql('c'))->{ok} }, 'c is added again');
is($c->sql('a', "SELECT state, failures FROM fleet.peers WHERE region = 'c'"), 'closed|0', 'it is shown when it is added again');
is($c->sql('a', "SELECT fleet.handoff('other', 'c')"), 2 + 2, 'and is asked');

# ---- who may look

$c->sql('a', 'CREATE ROLE watcher LOGIN; GRANT SELECT ON fleet.peers TO watcher');
is($c->try_sql('a', 'TABLE fleet.peers', user => 'watcher')->{state}, '42501', 'fleet.peers is not for everybody');
$c->sql('a', 'GRANT EXECUTE ON FUNCTION fleet.peer_states() TO watcher');
is($c->sql('a', 'SELECT count(*) FROM fleet.peers', user => 'watcher'), 2, 'but for whom it is granted to');
is($c->try_sql('a', 'SET fleet.breaker_failures = 1', user => 'watcher')->{state}, '42501', 'who is no superuser changes nothing');

$c->check_all('in the end');
done_testing();
