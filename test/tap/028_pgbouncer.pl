# fleet: clients come through pgbouncer, in transaction mode.
# Copyright (c) 2026, the fleet authors
#
# Many clients share few sessions of a region's node, each for one transaction at
# a time.  Proves: handoffs, transactions with savepoints, exact reads and their
# notices, SET LOCAL, and statements prepared by the protocol for one use work as
# ever; under load every read is right and every ride lives exactly once; a
# client or the pooler that dies in the middle of a transaction leaves nothing
# behind.  What belongs to a session is not the client's: fleet.last_read() is
# read in the transaction of the read, settings are SET LOCAL.
#
# Between nodes there must be no pooler.  One that refuses the options of a session
# cannot be used; one that drops them is noticed, and refused.
#
# Skipped where there is no pgbouncer (test/setup.sh --pooler).

use strict;
use warnings;

use FleetChaos;
use FleetCluster;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan(skip_all => 'no pgbouncer here') unless $ENV{PGBOUNCER};

my $POOL = 4;      # sessions of the server
my $RIDES = 60;    # that move

my $c = FleetCluster->new(settings => "fleet.connect_timeout = 1000\nfleet.lock_timeout = 500");
my $me = getpwuid($>);
my %poolers;

# ---- poolers

# One in front of a node, on a socket of its own.
sub start_pooler
{
	my ($name, $node, %more) = @_;
	my $p = $poolers{$name} //= { folder => PostgreSQL::Test::Utils::tempdir_short(), node => $node, more => \%more };
	my $folder = $p->{folder};
	my $target = $c->conninfo($p->{node});
	my %settings = (
		listen_addr => '', listen_port => 6432, unix_socket_dir => $folder, auth_type => 'trust', auth_file => "$folder/users",
		admin_users => $me, pool_mode => 'transaction', default_pool_size => $POOL, max_client_conn => 100,
		logfile => "$PostgreSQL::Test::Utils::tmp_check/log/pgbouncer_$name.log", %{ $p->{more} });

	unlink "$folder/users", "$folder/ini", "$folder/.s.PGSQL.6432";
	append_to_file("$folder/users", qq("$me" ""\n"fleet_node" ""\n));
	append_to_file("$folder/ini", "[databases]\npostgres = $target\nsingle = $target pool_size=1\n[pgbouncer]\n"
		. join '', map { "$_ = $settings{$_}\n" } sort keys %settings);
	$p->{pid} = fork // die "fork: $!";
	if ($p->{pid} == 0)
	{
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>', '/dev/null');
		exec $ENV{PGBOUNCER}, '-q', "$folder/ini" or POSIX::_exit(1);
	}
	$c->wait_until(sub { -S "$folder/.s.PGSQL.6432" }, "pgbouncer $name listens");
}

sub kill_pooler
{
	my ($name) = @_;
	my $pid = delete $poolers{$name}{pid} or return;
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

END
{
	my $rc = $?;
	kill_pooler($_) for keys %poolers;
	$? = $rc;
}

sub through { return "host=$poolers{$_[0]}{folder} port=6432 dbname=" . ($_[1] // 'postgres') }

# A client of the pooler for some statements; its database is shared by four sessions,
# 'single' by one.
sub start_client
{
	my ($sql, %opt) = @_;
	return $c->start_sql('a', $sql, conninfo => through('clients', delete $opt{database}), %opt);
}

sub client
{
	my $result = start_client(@_)->finish;
	return $result->{ok} ? $result->{out} : $result->{err};
}

# A client that stays: what FleetChaos::Session asks for.
sub FleetPooled::conninfo { return main::through('clients') }
sub stay { return FleetChaos::Session->new('FleetPooled', undef, $_[0]) }

start_pooler('clients', 'a', ignore_startup_parameters => 'extra_float_digits');
my ($version) = `$ENV{PGBOUNCER} --version` =~ /^PgBouncer (\S+)/mi;

# ---- one client

$c->add_rides('a', 'one', 'two', 'three', 'four');
is(client("SELECT fleet.handoff('one', 'b')"), 2, "pgbouncer $version: a handoff");
is(client(<<'SQL', go_on => 1) =~ s/^psql.*\n//mgr, "2\n2\n2", 'several in a transaction with savepoints');
BEGIN;
SELECT fleet.handoff('two', 'b');
SAVEPOINT x;
SELECT fleet.handoff('three', 'b');
ROLLBACK TO x;
SELECT fleet.handoff('three', 'c');
COMMIT;
SQL
is(join(' ', $c->places([ 'one', 'two', 'three' ])), 'b2 b2 c2', 'the rides are where they were sent');
my $result = start_client(<<'SQL', go_on => 1)->finish;
BEGIN;
SAVEPOINT x;
SELECT fleet.handoff('one', 'b');
ROLLBACK TO x;
SELECT fleet.handoff('one', 'c');
SELECT fleet.locate('one');
SELECT fleet.count_rides();
SELECT scope, asked FROM fleet.last_read();
COMMIT;
SQL
is($result->{state}, 'RF003', 'an error within a savepoint');
is($result->{out}, "3\nc\n4\nglobal-live|{a,b,c}", 'after which the transaction goes on, and reads its own handoff');
is(client("BEGIN; SELECT fleet.handoff('four', 'b'); ROLLBACK; SELECT fleet.locate('four')"), "2\na", 'ROLLBACK');
is(client("SELECT ride_id, region FROM fleet.search_rides(order_by => 'ride_id')"), "four|a\none|c\nthree|c\ntwo|b", 'an exact read');
is(client("SELECT outcome FROM fleet.report_fix('nobody', 0.5, 0.5)") =~ /RF010/ ? 1 : 0, 1, 'an error is told to who made it');

# ---- what belongs to a session

my %single = (database => 'single');
is(client("BEGIN; SET LOCAL fleet.read_timeout = 1234; SHOW fleet.read_timeout; COMMIT; SHOW fleet.read_timeout", %single), "1234ms\n5s",
	'SET LOCAL holds for its transaction');
my ($first, $second) = map { FleetChaos::Session->new('FleetSingle', undef, $_) } 'first', 'second';
sub FleetSingle::conninfo { return main::through('clients', 'single') }
$first->run("SELECT fleet.count_rides('local')", 10);
$second->run('SELECT fleet.count_rides()', 10);
is($first->run('SELECT scope FROM fleet.last_read()', 10)->{out}, "global-live\n", 'fleet.last_read() in a transaction of its own may tell of another client');
is($first->run("BEGIN; SELECT fleet.count_rides('local'); SELECT scope FROM fleet.last_read(); COMMIT", 10)->{out} =~ s/^(BEGIN|COMMIT)\n//mgr, "1\nlocal\n",
	'in the transaction of the read it tells of that one');
$first->run('SET fleet.read_timeout = 4321', 10);
is($second->run('SHOW fleet.read_timeout', 10)->{out}, "4321ms\n", 'and SET is for who comes next, as with any setting');
$first->run('RESET fleet.read_timeout', 10);
$_->close_psql for $first, $second;

# ---- a region is down

my @clients = (stay('partial'), stay('complete'));
$c->kill9('b');
my ($partial) = $clients[0]->run("SELECT fleet.count_rides(on_unavailable => 'partial')", 10)->{out};
my ($complete) = $clients[1]->run('SELECT 17', 10)->{out};
like($partial, qr/NOTICE:.*region "b" is missing in the answer.*^3$/ms, 'who takes a part has a notice that names the region');
is($complete, "17\n", 'and nobody else has');
is(join(' ', @{ $clients[1]->run('SELECT fleet.count_rides()', 10)->{errors} }), '08006', 'who does not has an error');
$c->start('b');
$c->wait_until(sub { !@{ $clients[1]->run('SELECT fleet.count_rides()', 10)->{errors} } }, 'b is back');
$_->close_psql for @clients;

# ---- a client that dies in the middle

my $dying = stay('dying');
is($dying->run("BEGIN; SELECT fleet.handoff('four', 'b')", 10)->{out}, "BEGIN\n2\n", 'a client has begun a handoff');
$dying->close_psql;    # by SIGKILL
$c->wait_until(sub { client("SELECT fleet.handoff('four', 'b')") eq '2' }, 'what a dead client has begun is undone', 5);
is($c->where('four'), 'b2', 'when it is dead the ride can be handed off');

# ---- many clients

my %allowed = map { $_ => 1 } 'RF002', 'RF003', 'RF022', '40001', '40P01',    # of those who race for a ride
  '25P02', '3B001';                                                          # and what follows in the same transaction

$c->add_rides('a', map { "r-$_" } 1 .. $RIDES);
my $count = keys %{ $c->{rides} };

sub random_transaction
{
	my ($x, $y) = map { 'r-' . (1 + int rand $RIDES) } 1 .. 2;
	my ($to, $other) = map { FleetChaos::pick('a', 'b', 'c') } 1 .. 2;
	return FleetChaos::pick(
		"SELECT fleet.handoff('$x', '$to');",
		"SELECT fleet.handoff('$x', '$to');",
		"SELECT fleet.handoff(ARRAY['$x', '$y'], '$to');",
		"BEGIN; SELECT fleet.handoff('$x', '$to'); SAVEPOINT s; SELECT fleet.handoff('$y', '$other'); ROLLBACK TO s; COMMIT;",
		"BEGIN; SAVEPOINT s; SELECT fleet.handoff('$x', '$to'); RELEASE s; SELECT fleet.handoff('$y', '$other'); COMMIT;",
		"BEGIN; SELECT fleet.handoff('$x', '$to'); ROLLBACK;",
		"BEGIN; SET LOCAL fleet.lock_timeout = 100; SELECT fleet.handoff('$x', '$to'); COMMIT;") . "\n";
}

# Movers and readers, all through the pooler.
sub start_storm
{
	my ($transactions) = @_;
	my @movers = map { start_client(join('', map { random_transaction() } 1 .. $transactions), go_on => 1) } 1 .. 8;
	my @readers = map {
		start_client("BEGIN; SELECT 'read', fleet.count_rides(); SELECT 'asked', scope, cardinality(asked), failed FROM fleet.last_read(); COMMIT;\n"
			. "SELECT 'read', count(*) FROM fleet.search_rides(max_rows => NULL);\n" x 2, go_on => 1) } 1 .. 12;
	return (\@movers, \@readers);
}

srand(28);
my ($movers, $readers) = start_storm(60);
my $servers = 0;
for (1 .. 10)
{
	my $n = () = `psql -XAtq -d '${\through('clients', 'pgbouncer')}' -c 'SHOW SERVERS'` =~ /^S\|[^|]*\|postgres\|/mg;
	$servers = $n if $n > $servers;
	sleep 0.1;
}
cmp_ok($servers, '<=', $POOL, "20 clients share $servers sessions");
cmp_ok($servers, '>', 1, 'and more than one');
my %errors;
my $moved = 0;
for my $answer (map { $_->finish } @$movers)
{
	$errors{$1}++ while $answer->{err} =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5}):/g;
	$moved += () = $answer->{out} =~ /^\d+$/mg;
}
is(join(' ', grep { !$allowed{$_} } sort keys %errors), '', 'movers hear only of those who race with them') or diag(explain(\%errors));
cmp_ok($moved, '>', 200, "rides have moved ($moved)");
my @answers = map { $_->finish } @$readers;
is(join(' ', map { $_->{err} } @answers), ' ' x 11, 'no read fails');
my %seen;
$seen{$_}++ for map { split /\n/, $_->{out} } @answers;
is_deeply(\%seen, { "read|$count" => 36, 'asked|global-live|3|{}' => 12 }, 'each sees all rides once, and is told of its own read');
$c->check_all('many clients');

# pgbench: statements that are parsed for one use, unnamed.
$c->sql('a', <<'SQL');
CREATE FUNCTION try_handoff(ride text, target text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN fleet.handoff(ride, target);
EXCEPTION WHEN SQLSTATE 'RF002' OR SQLSTATE 'RF003' OR SQLSTATE 'RF022' OR serialization_failure OR deadlock_detected THEN
	RETURN SQLSTATE;
END
$$
SQL
my $script = "$PostgreSQL::Test::Utils::tmp_check/handoff.sql";
append_to_file($script, "\\set n random(1, $RIDES)\n\\set t random(0, 2)\nSELECT try_handoff('r-' || :n::int, (ARRAY['a', 'b', 'c'])[1 + :t::int]);\n");

sub pgbench
{
	my ($mode) = @_;
	IPC::Run::run([ 'pgbench', '-n', '-M', $mode, '-c', 12, '-j', 2, '-T', 5, '-f', $script, through('clients') ],
		'>', \my $out, '2>', \my $err, IPC::Run::timeout(60));
	return ($out, $err);
}

my ($out, $err) = pgbench('extended');
my ($done) = $out =~ /number of transactions actually processed: (\d+)/;
my ($failed) = $out =~ /number of failed transactions: (\d+)/;
unlike($err, qr/aborted/, 'pgbench -M extended: no client gives up') or diag($err);
cmp_ok($done // 0, '>', 100, "pgbench -M extended: $done handoffs tried");
is($failed // 0, 0, 'pgbench -M extended: none failed');
diag(sprintf 'pgbench -M extended: %s transactions/s by 12 clients over %d sessions', $out =~ /tps = ([\d.]+)/, $POOL);

# Named ones outlive a transaction: up to 1.20 pgbouncer does not know of them.
($out, $err) = pgbench('prepared');
my ($major, $minor) = split /\./, $version;
like($err, qr/prepared statement "[^"]+" (?:already exists|does not exist)/, 'pgbench -M prepared: this pgbouncer cannot')
  if $major == 1 && $minor < 21;
$c->check_all('pgbench');

# ---- the pooler dies

($movers, $readers) = start_storm(40);
sleep 1;
kill_pooler('clients');
$_->finish for @$movers, @$readers;
$c->check_all('the pooler was killed');
start_pooler('clients');
is(client('SELECT fleet.count_rides()'), $count, 'a new one works');

# ---- between nodes

my $server = $c->{nodes}{b}{server};
my ($ride) = $c->add_rides('a', 'between');

sub between
{
	my ($name, @more) = @_;
	start_pooler($name, 'b', @more);
	$c->sql('a', "ALTER SERVER fleet_b OPTIONS (SET host '$poolers{$name}{folder}', SET port '6432')");
	return $c->try_sql('a', "SELECT fleet.handoff('between', 'b')");
}

$result = between('plain');
is($result->{state}, '08001', 'between nodes pgbouncer cannot be used');
like($result->{err}, qr/unsupported startup parameter/, 'because of the options') if $major == 1 && $minor < 20;
for my $mode ('transaction', 'session')
{
	$result = between("dropping_$mode", pool_mode => $mode, ignore_startup_parameters => 'options');
	is($result->{state}, '08001', "nor one that drops the options, in $mode mode");
	like($result->{err}, qr/there is a pooler between the nodes, and must not be/, "$mode mode: it is noticed");
}
is($c->where('between'), 'a1', 'nothing has moved');
$c->sql('a', sprintf "ALTER SERVER fleet_b OPTIONS (SET host '%s', SET port '%d')", $server->host, $server->port);
is($c->sql('a', "SELECT fleet.handoff('between', 'b')"), 2, 'directly it works');
$c->check_all('in the end');
done_testing();
