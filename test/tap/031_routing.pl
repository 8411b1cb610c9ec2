# fleet: calls on a node that does not have the ride.
# Copyright (c) 2026, the fleet authors
#
# Proves: what one transaction changes on several nodes is changed on all or none,
# whichever process dies at whichever step, also where a node loses its PREPARE;
# where one node was changed nothing is prepared, and a caller who cannot know the
# outcome is told so, and may repeat the call with its key; a call follows a ride
# that moves while it waits; a ride that is in doubt is resolved by the next call
# about it, on either node, and no other ride waits for that; a node that does not
# answer costs the time that the settings say; no change is lost while rides move.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(links => 1,
	settings => "fleet.commit_timeout = 300\nfleet.connect_timeout = 300\nfleet.lock_timeout = 500\nfleet.prepare_timeout = 1000");
my @nodes = $c->names;

# The fare of a ride as the tables of all nodes have it.
sub fare
{
	my ($id) = @_;
	return join '+', map { $c->sql($_, "SELECT fare::int FROM fleet.local_rides WHERE ride_id = '$id'") || () } $c->members;
}

sub change_sql
{
	my ($id, $fare, $key) = @_;
	return sprintf "SELECT fleet.update_ride('%s', '{\"fare\": %d}'%s);", $id, $fare, $key ? ", '$key'" : '';
}

# Give a ride a fare, which check_all() wants to see from now on.
sub change { my ($on, $id, $fare) = @_; $c->sql($on, change_sql($id, $fare)); $c->{rides}{$id} = $fare }

$c->add_rides('a', 'ra');
$c->add_rides('b', 'rb');
$c->add_rides('c', 'rc');
my $fare = 100;

# ---- one transaction, two nodes: all or nothing

# c changes a ride of a and one of b.  Something happens at a point of c, or (with
# "at") of a.  Both rides then have the new fare, or both the old one.
sub both
{
	my ($label, $fault, %opt) = @_;
	my ($old, $new) = ($fare, ++$fare);

	change('c', $_, $old) for 'ra', 'rb';
	$c->heal;
	$c->set_system('a', 'fleet.fault', $fault) if $opt{at};
	my $offset = $c->log_size($opt{at} ? 'a' : 'c');
	my $result = $c->try_sql('c', 'BEGIN;' . change_sql('ra', $new) . change_sql('rb', $new) . 'COMMIT;', $opt{at} ? () : (fault => $fault));
	if ($fault =~ /=kill/)
	{
		$c->wait_restarted($opt{at} ? 'a' : 'c', $offset);
	}
	elsif ($fault =~ /=crash/)
	{
		$c->wait_dead($opt{at} ? 'a' : 'c');
		$c->start($opt{at} ? 'a' : 'c');
	}
	$c->set_system('a', 'fleet.fault', undef) if $opt{at};
	$c->heal;
	my $is = fare('ra') . ' ' . fare('rb');
	my $wanted = $opt{new} ? "$new $new" : "$old $old";
	is($is, $wanted, "$label: " . ($opt{new} ? 'both are changed' : 'none is changed'));
	is($result->{ok} ? 'ok' : 'error', $opt{told} // ($opt{new} ? 'ok' : 'error'), "$label: what the caller is told") or diag($result->{err});
	$c->{rides}{$_} = fare($_) for 'ra', 'rb';
}

both('an error before PREPARE', 'before-prepare=error');
both('an error after PREPARE', 'after-prepare=error');
both('its backend is killed after PREPARE', 'after-prepare=kill');
both('its server dies after PREPARE', 'after-prepare=crash');
both('its backend is killed after the decision', 'after-local-commit=kill', new => 1, told => 'error');
both('its server dies after the decision', 'after-local-commit=crash', new => 1, told => 'error');
both('its server dies after one of two is told', 'next-commit-prepared=crash', new => 1, told => 'error');
both('the other backend is killed after the call', 'performed=kill', at => 1);
both('the other backend is killed in PREPARE', 'preparing=kill', at => 1);
both('the other server dies in PREPARE', 'preparing=crash', at => 1);
both('the other backend is killed once prepared', 'prepared=kill', at => 1);
both('the other backend is killed once committed', 'committed=kill', at => 1, new => 1);
is(join('', map { $c->log_text($_) =~ /the PREPARE of "\S+" is lost/g } @nodes), '', 'no call was made again that had been applied');
$c->check_all('calls on two nodes');

# What is written on this node counts as well.
$c->heal;
$fare++;
ok($c->try_sql('c', 'BEGIN;' . change_sql('rc', $fare) . change_sql('ra', $fare) . 'COMMIT;', fault => 'before-only-commit=error')->{ok}, 'one other node and this one: in two phases');
ok(!$c->try_sql('c', 'BEGIN;' . change_sql('rc', 1) . change_sql('ra', 1) . 'COMMIT;', fault => 'after-prepare=error')->{ok}, 'the same, with an error after PREPARE');
ok(!$c->try_sql('c', 'BEGIN ISOLATION LEVEL SERIALIZABLE;' . change_sql('ra', 1) . 'COMMIT;', fault => 'after-prepare=error')->{ok},
	'a serializable transaction can fail late: in two phases');
is(fare('ra') . ' ' . fare('rc'), "$fare $fare", 'all or nothing');
$c->{rides}{$_} = $fare for 'ra', 'rc';

# ---- the PREPARE is lost

for my $since (0, 1)
{
	my $label = 'the PREPARE of a call is lost' . ($since ? ', and the ride was changed since' : '');
	my $new = ++$fare;

	$c->heal;
	$c->save('a');
	my $session = $c->start_waiting('c',
		'BEGIN;' . change_sql('ra', $new - 1) . 'SAVEPOINT s; SELECT fleet.update_ride(\'ra\', \'{"customer_id": "nobody"}\'); ROLLBACK TO s;' . change_sql('ra', $new) . "SELECT fleet.set_ride_status('ra', '" . ($since ? 'ARRIVED' : 'EN_ROUTE') . "');" . change_sql('rb', $new) . 'COMMIT;',
		'after-local-commit');
	$c->go_back('a');
	if ($since) { sleep 0.01; $c->sql('a', change_sql('ra', 7)) }
	$c->go('c', 'after-local-commit');
	like($session->finish->{err}, qr/did not confirm it yet/, "$label: the caller is told that it is committed");
	$c->heal;
	is(fare('ra') . ' ' . fare('rb'), ($since ? 7 : $new) . " $new", "$label: " . ($since ? 'the newer change stays' : 'it is made again'));
	is($c->sql('a', "SELECT status, customer_id FROM fleet.local_rides WHERE ride_id = 'ra'"), 'EN_ROUTE|c', "$label: and so is the state, and not what was rolled back");
	is($c->sql('a', 'SELECT count(problem) FROM fleet.call_log'), $since, "$label: what could not be made again is written down");
	$c->{rides}{$_} = fare($_) for 'ra', 'rb';
}
$c->check_all('lost calls', log => 0);

# ---- one node only

for my $case ([ 'before-only-commit=error', 0 ], [ 'before-only-commit=kill', 0 ], [ 'after-only-commit=kill', 1 ])
{
	my ($fault, $done) = @$case;
	my $old = fare('ra');
	my $offset = $c->log_size('c');
	my $result = $c->try_sql('c', change_sql('ra', ++$fare), fault => $fault);
	ok(!$result->{ok}, "$fault: the caller has no answer");
	$c->wait_restarted('c', $offset) if $fault =~ /=kill/;
	is(fare('ra'), $done ? $fare : $old, "$fault: it is " . ($done ? 'done' : 'not done'));
}
is(join(' ', map { $c->sql($_, 'SELECT count(*) FROM fleet.decisions') } @nodes), '0 0 0', 'nothing was to be decided');

# The answer to COMMIT does not come.
{
	$c->sql('c', "SELECT fleet.request_ride('rk', 'c', " . $c->place('a') . ', NULL, 5)');
	my $session = $c->start_waiting('c', "SELECT fleet.set_ride_status('rk', 'EN_ROUTE', idempotency_key => 'go');", 'before-only-commit');
	$c->freeze('a');
	my $start = time;
	$c->go('c', 'before-only-commit');
	my $result = $session->finish;
	my $took = time - $start;
	$c->thaw('a');
	is($result->{state}, '08007', 'a node that does not answer COMMIT: the outcome is unknown') or diag($result->{err});
	like($result->{err}, qr/it is not known whether region "a" has committed.*HINT: .*idempotency key/s, 'and the caller is told what to do');
	cmp_ok($took, '<', 2.5, sprintf 'after %.1f s', $took);
	is($c->sql('c', "SELECT fleet.set_ride_status('rk', 'EN_ROUTE', idempotency_key => 'go'); SELECT fleet.set_ride_status('rk', 'ARRIVED')"), "\n", 'it is made again');
	is($c->sql('c', "SELECT fleet.handoff('rk', 'b'); SELECT fleet.set_ride_status('rk', 'EN_ROUTE', idempotency_key => 'go')"), "2\n", 'and again where it went');
	is($c->sql('b', "SELECT status, fare::int FROM fleet.local_rides WHERE ride_id = 'rk'"), 'ARRIVED|5', 'it was done once');
	$c->{rides}{rk} = 5;
}

# Two who repeat the same request at once.
{
	my @sessions = map { $c->start_sql($nodes[ $_ % 3 ], "SELECT fleet.request_ride('twice', 'c', " . $c->place('b') . ", NULL, 3, idempotency_key => 'k')") } 1 .. 12;
	is(join(' ', map { $_->finish->{out} } @sessions), join(' ', ('b') x 12), 'a request that is made twelve times at once, on all nodes, is made once');
	is(fare('twice'), 3, 'and the ride is there');
	$c->{rides}{twice} = 3;
}

# ---- a node that does not answer

{
	$c->freeze('a');
	my $start = time;
	my $result = $c->try_sql('c', change_sql('ra', 1));
	my $took = time - $start;
	$c->thaw('a');
	ok($result->{state} =~ /^(?:RF016|08001)$/, "a node that does not answer: $result->{state}") or diag($result->{err});
	cmp_ok($took, '<', 2.5, sprintf 'after %.1f s', $took);
	$c->heal;
}

# ---- following

{
	my $session = $c->start_sql('a', "BEGIN; SELECT fleet.handoff('ra', 'b'); SELECT pg_advisory_lock(31); SELECT pg_sleep(0.2); COMMIT");
	$c->wait_until(sub { $c->sql('a', 'SELECT count(*) FROM pg_locks WHERE locktype = \'advisory\' AND objid = 31') }, 'the ride is locked');
	change('c', 'ra', ++$fare);
	ok($session->finish->{ok}, 'a ride is handed off while a call waits for it');
	is($c->where('ra') . ' ' . fare('ra'), "b2 $fare", 'and the call is made where it went');

	my $holder = $c->start_sql('b', "BEGIN; UPDATE fleet.local_rides SET customer_id = 'd' WHERE ride_id = 'ra'; SELECT pg_sleep(1.5); COMMIT");
	$c->wait_until(sub { $c->sql('b', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") }, 'the ride is locked');
	my $start = time;
	my $result = $c->try_sql('c', change_sql('ra', 1));
	is($result->{state}, 'RF002', 'a ride that stays locked') or diag($result->{err});
	cmp_ok(time - $start, '<', 1.4, 'after fleet.lock_timeout');
	$holder->finish;
	$c->sql('c', "SELECT fleet.handoff('ra', 'a')");
}
$c->check_all('following');

# ---- NOTIFY where the call is made

$c->sql('a', 'SELECT fleet.set_notify(true)');
$c->sql('c', 'BEGIN;' . change_sql('ra', ++$fare) . change_sql('rb', $fare) . 'COMMIT;');
is(fare('ra') . ' ' . fare('rb'), "$fare $fare", 'a node that tells its changes takes part in a transaction of two nodes');
$c->sql('a', 'SELECT fleet.set_notify(false)');
$c->{rides}{$_} = $fare for 'ra', 'rb';

# ---- a ride in doubt is resolved by who wants it

# Decided on c, and nobody was told.  No resolver looks by itself for a minute.
$c->set_system($_, 'fleet.resolve_interval', '60s') for @nodes;
sleep 1.2;    # those that sleep for the old interval
for my $case (map { my $how = $_; map { [ $_, $how ] } 'a', 'b', 'c' } 'call', 'read')
{
	my ($first, $how) = @$case;
	my ($id, $other) = $c->add_rides('a', "doubt-$first-$how", "other-$first-$how");
	my $session = $c->start_waiting('c', "SELECT fleet.handoff('$id', 'b')", 'after-local-commit');
	$c->network('cut', 'c', 'a', 'b');
	$c->go('c', 'after-local-commit');
	like($session->finish->{err}, qr/2 of its nodes did not confirm it yet/, "in doubt, asked on $first: committed, and nobody is told");

	# While nobody can say what became of it, who wants it waits, and nobody else.
	my $start = time;
	my $result = $c->try_sql('a', change_sql($id, 1));
	my $took = time - $start;
	is($result->{state}, 'RF022', 'nobody can say what became of it') or diag($result->{err});
	cmp_ok($took, '<', 1.5, sprintf 'after %.1f s', $took);
	$start = time;
	change('a', $other, ++$fare);
	cmp_ok(time - $start, '<', 0.4, 'another ride does not wait');

	$c->network('pass', 'c', 'a', 'b');
	sleep 0.5;
	$start = time;
	if ($how eq 'call') { change($first, $id, ++$fare) }
	else { is($c->sql($first, "SELECT region || epoch FROM fleet.get_ride('$id')"), 'b2', "read on $first: resolved, and read where it went") }
	$took = time - $start;
	change($first, $id, ++$fare) if $how eq 'read';
	is(join(' ', map { $c->sql($_, "SELECT region || epoch, fare::int FROM fleet.get_ride('$id')") } @nodes), join(' ', ("b2|$fare") x 3),
		"asked on $first: resolved, and changed where it went, as all see");
	cmp_ok($took, '<', 1.5, sprintf 'within %.2f s', $took);
}
$c->set_system($_, 'fleet.resolve_interval', undef) for @nodes;
sleep 1;
$c->check_all('in doubt');

# ---- while rides move, no change is lost

# Each writer owns two rides and gives them one fare after the other; movers move
# them.  Who was told of a change finds it in the end.
{
	my %by = map { my $n = $_; map { +"w-$n-$_" => $n } 1, 2 } 1 .. 6;
	$c->add_rides($nodes[ $by{$_} % 3 ], $_) for sort keys %by;
	my $calls = 150;
	my @writers = map {
		my $n = $_;
		$c->start_sql($nodes[ ($n + 1) % 3 ], join("\n", map { my $i = $_; map { "SELECT '$_ ' || $i FROM fleet.update_ride('$_', '{\"fare\": $i}');" } "w-$n-1", "w-$n-2" } 1 .. $calls),
			go_on => 1)
	} 1 .. 6;
	my @movers = map {
		my $n = $_;
		$c->start_sql($nodes[ $n % 3 ], join("\n", map { sprintf "SELECT fleet.handoff('w-%d-%d', '%s');", $n, 1 + $_ % 2, $nodes[ int(rand(3)) ] } 1 .. $calls), go_on => 1)
	} 1 .. 6;
	my (%last, %state, $made);
	for my $result (map { $_->finish } @writers)
	{
		for (split /\n/, $result->{out}) { /^(\S+) (\d+)$/ and $last{$1} = $2, $made++ }
		$state{$1}++ while $result->{err} =~ /ERROR:\s+(\w{5})/g;
	}
	my $moved = 0;
	for my $result (map { $_->finish } @movers)
	{
		$moved += () = $result->{out} =~ /^\d+$/mg;
		$state{"mover $1"}++ while $result->{err} =~ /ERROR:\s+(\w{5})/g;
	}
	diag("$made changes while $moved handoffs; refused: " . join(', ', map { "$_ $state{$_}" } sort keys %state));
	cmp_ok($made, '>', 6 * 2 * $calls * 0.9, 'nearly all changes are made');
	cmp_ok($moved, '>', 100, 'while rides move');
	is(join(' ', grep { !/^(?:RF002|RF022|mover RF003|mover RF002|mover RF022|40001|40P01|mover 40001|mover 40P01)$/ } keys %state), '', 'errors are those that say to try again');
	$c->heal;
	is(join(' ', grep { fare($_) ne $last{$_} } sort keys %by), '', 'every change that was told of is there');
	$c->{rides}{$_} = fare($_) for keys %by;
	$c->check_all('calls while rides move');
}
done_testing();
