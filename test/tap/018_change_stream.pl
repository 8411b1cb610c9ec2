# fleet: the change stream, followed while everything around it is killed.
# Copyright (c) 2026, the fleet authors
#
# A trigger on each node writes down every change of a row in the transaction that
# makes it.  That is what the streams are compared with.  Proves: docs/examples
# follows a region through SIGKILL of both of its halves and of the server, while
# rides are handed off both ways, and has each event once, none missing, all of them
# valid JSON; what it has, played back, is what the tables hold; a handoff has the
# same gid on both sides.  A large transaction that is streamed while it runs gives
# the same events as one that is not, also where savepoints are rolled back; of an
# aborted one nothing remains.

use strict;
use warnings;

use FleetCluster;
use IPC::Run;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 2, settings => "fleet.connect_timeout = 500\nwal_sender_timeout = 5s");
my $examples = "$ENV{FLEET_PROJECT}/docs/examples";
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

for my $name ('a', 'b')
{
	$c->sql($name, <<'SQL');
CREATE TABLE audit (kind text, what text, key text, epoch bigint, hlc bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF tg_op = 'DELETE' THEN
		INSERT INTO public.audit VALUES (tg_argv[0], 'gone', to_jsonb(old)->>(tg_argv[0] || '_id'), old.epoch, NULL);
	ELSE
		INSERT INTO public.audit VALUES (tg_argv[0], 'here', to_jsonb(new)->>(tg_argv[0] || '_id'), new.epoch, new.hlc::bigint);
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON fleet.local_rides FOR EACH ROW EXECUTE FUNCTION audit('ride');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON fleet.local_vehicles FOR EACH ROW EXECUTE FUNCTION audit('vehicle');
SQL
	$c->sql($name, "SELECT fleet.create_change_stream('follow')");
}

# ---- the example, in the background

my %half;

sub start_half
{
	my ($name, $half) = @_;
	my @command = $half eq 'follow' ?
	  ("$examples/follow.sh", $c->conninfo($name), 'follow', "$tmp/$name.spool") :
	  ($^X, "$examples/once.pl", "$tmp/$name.spool", "$tmp/$name.out");
	my $pid = fork() // die "fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$tmp/$half.log";
		open STDERR, '>&', \*STDOUT;
		exec @command;
		die "exec: $!";
	}
	$half{"$name $half"} = $pid;
}

sub kill_half
{
	my ($name, $half) = @_;
	my $pid = delete $half{"$name $half"} // return;
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

END
{
	my $rc = $?;
	kill_half(split / /) for keys %half;
	$? = $rc;
}

sub lines_of
{
	my ($name) = @_;
	open(my $fh, '<:raw', "$tmp/$name.out") or return ();
	my @lines = <$fh>;
	return @lines;
}

# ---- traffic

# Statements, each a transaction of its own; the server may die under them.
sub traffic
{
	my ($name, $other, $seed) = @_;
	my $sql = '';

	for my $i (1 .. 250)
	{
		my $id = "$name-$seed-$i";
		my $place = $c->place($name);
		$sql .= "SELECT fleet.register_vehicle('V$id', $place);\n" if $i % 3 == 0;
		$sql .= "SELECT fleet.request_ride('$id', 'c \"\\ ' || chr(10), $place, " . ($i % 3 ? 'NULL' : "'V$id'") . ", $i);\n";
		$sql .= "UPDATE fleet.local_rides SET fare = fare + 1 WHERE ride_id = '$id';\n";
		$sql .= "BEGIN; UPDATE fleet.local_rides SET fare = 0 WHERE ride_id = '$id'; ROLLBACK;\n" if $i % 5 == 0;
		$sql .= "SELECT fleet.handoff('$id', '$other');\n" if $i % 2;
		$sql .= "DELETE FROM fleet.local_rides WHERE ride_id = '$id';\n" if $i % 7 == 0;
		$sql .= "SELECT pg_sleep(0.005);\n";
	}
	return $c->start_sql($name, $sql, go_on => 1);
}

# Each row that came to be here, and each that went, as text.
sub audit_of
{
	my ($name) = @_;
	return map { join ' ', @$_ } $c->rows($name, "SELECT kind, what, key, epoch, COALESCE(hlc::text, '') FROM audit");
}

sub changes_in
{
	my ($name, @events) = @_;
	return map {
		my $gone = $_->{operation} eq 'delete' || ($_->{operation} eq 'moved' && $_->{from} eq $name);
		my $epoch = $_->{epoch} - ($gone && $_->{operation} eq 'moved');
		join ' ', $_->{kind}, $gone ? 'gone' : 'here', $_->{key}, $epoch, $gone ? '' : $_->{hlc}
	} @events;
}

# What the rides of a node are, by its events alone.
sub played_back
{
	my ($name, @events) = @_;
	my %ride;

	for my $e (grep { $_->{kind} eq 'ride' } @events)
	{
		if ($e->{operation} eq 'delete' || ($e->{operation} eq 'moved' && $e->{from} eq $name)) { delete $ride{ $e->{key} } }
		else { $ride{ $e->{key} } = "$e->{key} $e->{epoch} $e->{hlc} " . sprintf('%.2f', $e->{new}{fare}) }
	}
	return join "\n", sort values %ride;
}

# ---- a region that is followed while all is killed

{
	start_half('a', $_) for 'follow', 'once';
	start_half('b', $_) for 'follow', 'once';
	my @sessions = (traffic('a', 'b', 1), traffic('b', 'a', 1));
	for my $round (1 .. 4)
	{
		$c->wait_until(sub { lines_of('a') > 40 * $round }, 'events come');
		kill_half('a', $round % 2 ? 'follow' : 'once');
		sleep 0.2;
		start_half('a', $round % 2 ? 'follow' : 'once');
	}
	$c->kill9('a');
	kill_half('a', $_) for 'follow', 'once';
	$_->finish for @sessions;
	$c->start('a');
	start_half('a', $_) for 'follow', 'once';
	@sessions = (traffic('a', 'b', 2), traffic('b', 'a', 2));
	sleep 0.5;
	kill_half('a', 'follow');
	start_half('a', 'follow');
	$_->finish for @sessions;
	ok(defined $c->heal, 'all handoffs are finished');
	$c->sql($_, "SELECT fleet.register_vehicle('last-$_', " . $c->place($_) . ')') for 'a', 'b';
	for my $name ('a', 'b')
	{
		$c->wait_until(sub { ((lines_of($name))[-1] // '') =~ /"last-$name"/ }, "$name is followed to the end", 60);
		kill_half($name, $_) for 'follow', 'once';
	}
}

my %events;
for my $name ('a', 'b')
{
	my @lines = lines_of($name);
	my @events = grep { defined } map { eval { decode_json($_) } } @lines;
	my %ids = map { $_->{id} => 1 } @events;

	$events{$name} = \@events;
	cmp_ok(scalar @lines, '>', 800, "$name: " . @lines . ' events');
	is(scalar @events, scalar @lines, "$name: each line is JSON");
	is(scalar keys %ids, scalar @events, "$name: no event twice");
	is(join("\n", sort(changes_in($name, @events))), join("\n", sort(audit_of($name))), "$name: each change has its event, and no other");
	is(played_back($name, @events),
		join("\n", sort(split /\n/, $c->sql($name, "SELECT concat_ws(' ', ride_id, epoch, hlc::bigint, fare) FROM fleet.local_rides"))),
		"$name: played back, the events make the table");
	my $spool = slurp_file("$tmp/$name.spool");
	my $sent = () = $spool =~ /\n/g;
	note("$name was sent $sent lines for " . @lines . ' events');
}
my @moves = map {
	[ sort map { join ' ', @$_{qw(gid kind key epoch hlc from to)} } grep { $_->{operation} eq 'moved' } @{ $events{$_} } ]
} 'a', 'b';
cmp_ok(scalar @{ $moves[0] }, '>', 200, scalar(@{ $moves[0] }) . ' handoffs');
is_deeply($moves[0], $moves[1], 'each handoff has one event on each side, with the same gid');
is($c->sql('a', "SELECT count(*) FROM fleet.handoff_log WHERE status <> 'reinserted'"), scalar @{ $moves[0] }, 'as many as the log has');

# ---- large transactions, streamed while they run

sub peek
{
	my ($options) = @_;
	my @lines = split /\n/, $c->sql('b', "SET logical_decoding_work_mem = '64kB'; SELECT data FROM pg_logical_slot_peek_changes('large', NULL, NULL$options)");
	return map { decode_json($_) } @lines;
}

# What a client makes of a stream: the events of transactions that were committed,
# without those of subtransactions that were rolled back.
sub committed
{
	my (%open, @done);
	for my $e (@_)
	{
		if ($e->{operation} eq 'stream_commit') { push @done, @{ delete $open{ $e->{xid} } // [] } }
		elsif ($e->{operation} eq 'stream_abort' && !exists $e->{subxid}) { delete $open{ $e->{xid} } }
		elsif ($e->{operation} eq 'stream_abort') { @{ $open{ $e->{xid} } } = grep { ($_->{subxid} // 0) != $e->{subxid} } @{ $open{ $e->{xid} } // [] } }
		elsif (exists $e->{xid}) { push @{ $open{ $e->{xid} } }, $e }
		else { push @done, $e }
	}
	return (\@done, \%open);
}

# Without what is not known while the transaction runs.
sub bare
{
	my $json = JSON::PP->new->canonical;
	return join "\n", sort map { my %e = %$_; delete @e{qw(commit_time xid subxid)}; $json->encode(\%e) } @_;
}

sub many { return "SELECT count(fleet.request_ride('$_[0]' || i, 'c', " . $c->place('b') . ")) FROM generate_series(1, $_[1]) AS i;" }
sub move { return "SELECT fleet.handoff(ARRAY(SELECT '$_[0]' || i FROM generate_series($_[1], $_[2]) AS i), 'a');" }

{
	$c->sql('b', "SELECT fleet.create_change_stream('large')");
	my $large = $c->start_sql('b', join("\n", 'BEGIN;', many('x', 600), 'SAVEPOINT one;', many('y', 600), move('x', 1, 300), 'ROLLBACK TO one;',
		'SAVEPOINT two;', many('z', 600), move('x', 1, 400), 'RELEASE two;', "UPDATE fleet.local_rides SET fare = 5 WHERE ride_id LIKE 'z%';",
		"DELETE FROM fleet.local_rides WHERE ride_id LIKE 'x59_';", many('x59', 1), 'SELECT pg_sleep(3); COMMIT;'));

	my @early;
	$c->wait_until(sub { (@early = peek(", 'streaming', 'on'")) > 500 }, 'the transaction is large');
	pass('a large transaction is sent while it runs');
	is(scalar(grep { $_->{operation} eq 'stream_commit' } @early), 0, 'with no end yet');
	is(scalar peek(''), 0, 'but only to who asked for it');
	$large->finish;
	my @whole = peek('');
	my @streamed = peek(", 'streaming', 'on'");
	my ($done, $open) = committed(@streamed);
	cmp_ok(scalar(grep { $_->{operation} eq 'stream_abort' } @streamed), '>', 0, 'savepoints that were rolled back are said');
	is(join(' ', keys %$open), '', 'no transaction is left open');
	is(scalar @whole, 600 + 600 + 400 + 600 + 10 + 1, 'all events of it, none that was rolled back');
	is(scalar(grep { $_->{operation} eq 'moved' } @whole), 400, 'of them the handoffs');
	is(bare(@$done), bare(@whole), 'streamed or not, the same events');
	is(scalar(grep { defined $_->{commit_time} } grep { exists $_->{xid} && $_->{operation} !~ /^stream/ } @streamed), 0, 'no commit time before the commit');
	my ($end) = grep { $_->{operation} eq 'stream_commit' } @streamed;
	is($end->{commit_time}, $whole[0]{commit_time}, 'it comes with the commit');
}

{
	$c->sql('b', "SELECT count(*) FROM pg_logical_slot_get_changes('large', NULL, NULL)");
	my $file = "$tmp/streamed";
	my $receiver = IPC::Run::start([ 'pg_recvlogical', '-d', $c->conninfo('b') . " options='-c logical_decoding_work_mem=64kB'",
		'-S', 'large', '-f', $file, '-s', '60', '-F', '60', '--start', '-o', 'streaming=on' ], '<', \undef);
	my $text = sub { return -f $file ? slurp_file($file) : '' };
	my $session = $c->start_sql('b', 'BEGIN; ' . many('w', 1500) . "\nSELECT pg_sleep(2);\nROLLBACK;");

	$c->wait_until(sub { $text->() =~ /"key":"w100"/ }, 'the transaction is sent while it runs');
	$session->finish;
	$c->sql('b', "SELECT fleet.request_ride('after', 'c', " . $c->place('b') . ')');
	$c->wait_until(sub { $text->() =~ /"key":"after".*\n/ }, 'what follows is sent');
	$receiver->kill_kill;
	$c->wait_until(sub { $c->sql('b', "SELECT active FROM pg_replication_slots WHERE slot_name = 'large'") eq 'f' }, 'the slot is free');
	my @streamed = map { decode_json($_) } split /\n/, $text->();
	my ($done, $open) = committed(@streamed);
	cmp_ok(scalar @streamed, '>', 100, 'who streams an aborted transaction sees it come: ' . @streamed . ' messages');
	is($streamed[-2]{operation}, 'stream_abort', 'is told to drop it');
	is(join(' ', map { $_->{key} } @$done), 'after', 'and what is left is right');
	is(join(' ', keys %$open), '', 'with nothing left open');
	is(join(' ', map { $_->{key} } peek('')), 'after', 'who does not stream never hears of it');
}

# A row is deleted, and a departure of it is rolled back with its savepoint: the two are
# no handoff.  fleet itself writes both in one subtransaction, so triggers are off.
{
	my $file = "$tmp/undone";
	my $text = sub { return -f $file ? slurp_file($file) : '' };
	my $fill = sub { "INSERT INTO fleet.local_vehicles (vehicle_id, region, epoch, hlc, updated_at) SELECT '$_[0]' || i, 'b', 1, fleet.hlc_now(), now() FROM generate_series(1, 3000) AS i;\n" };

	$c->sql('b', "SELECT count(*) FROM pg_logical_slot_get_changes('large', NULL, NULL)");
	my $receiver = IPC::Run::start([ 'pg_recvlogical', '-d', $c->conninfo('b') . " options='-c logical_decoding_work_mem=64kB'",
		'-S', 'large', '-f', $file, '-s', '60', '-F', '60', '--start', '-o', 'streaming=on' ], '<', \undef);
	my $session = $c->start_sql('b', "BEGIN; SET LOCAL session_replication_role = replica;\n"
		. "DELETE FROM fleet.local_rides WHERE ride_id = 'after'; SAVEPOINT one;\n"
		. "INSERT INTO fleet.departures (kind, key, epoch, target, hlc) VALUES ('ride', 'after', 2, 'a', fleet.hlc_now());\n"
		. $fill->('s') . 'SELECT pg_sleep(2); ROLLBACK TO one; COMMIT;');

	$c->wait_until(sub { $text->() =~ /"moved","kind":"ride","key":"after"/ }, 'the departure is sent while it stands');
	$session->finish;
	$c->wait_until(sub { $text->() =~ /"stream_commit".*\n/ }, 'the end is sent');
	$receiver->kill_kill;
	my ($done) = committed(map { decode_json($_) } split /\n/, $text->());
	is(join(' ', map { "$_->{operation} $_->{key}" } @$done), 'delete after', 'a departure that is rolled back leaves the delete');
}

ok(defined $c->heal, 'nothing is in doubt');
done_testing();
