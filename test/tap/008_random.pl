# fleet: everything at once, at random.
# Copyright (c) 2026, the fleet authors
#
# For RUN_SECONDS (20) three clients hand rides off, singly, in batches, in
# transactions with savepoints, and change them, each on any node, while servers
# are killed, frozen and started and backends are ended at random.  Proves that
# afterwards each ride lives exactly once, no transaction is left over, all
# handoffs are logged on both sides, and no change of a fare was lost or applied
# twice: clients only move money from ride to ride, so the sum must stay.
#
# SEED=n runs the same decisions again (not the same timing).

use strict;
use warnings;

use FleetCluster;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SEED} || int(rand(1_000_000));
my $seconds = $ENV{RUN_SECONDS} || 20;
my $clients = 3;

diag("seed $seed");
srand($seed);

my $c = FleetCluster->new(
	settings => "fleet.commit_timeout = 500\nfleet.prepare_timeout = 1000\nfleet.lock_timeout = 300\nfleet.connect_timeout = 500");
my @nodes = $c->names;
my @rides;

for my $node (@nodes)
{
	push @rides, $c->add_rides($node, map { "$node-$_" } 1 .. 15);
	for my $n (1 .. 5)
	{
		my $place = $c->place($node);
		$c->sql($node, "SELECT fleet.register_vehicle('car-$node-$n', $place);"
			. "SELECT fleet.request_ride('ride-$node-$n', 'c', $place, 'car-$node-$n', 50)");
		$c->{rides}{"ride-$node-$n"} = 50;
		push @rides, "ride-$node-$n";
	}
}

# ---- the clients

sub pick { return $_[ int(rand(@_)) ] }

sub move { return sprintf "SELECT 'moved', fleet.handoff('%s', '%s');\n", pick(@rides), pick(@nodes) }

# Move one from a ride to another, if both are here.
sub pay
{
	my ($from, $to) = (pick(@rides), pick(@rides));
	return '' if $from eq $to;
	return <<"SQL";
DO \$\$
DECLARE n integer;
BEGIN
	UPDATE fleet.rides SET fare = fare + CASE ride_id WHEN '$to' THEN 1 ELSE -1 END
		WHERE region = fleet.own_region() AND ride_id IN ('$from', '$to');
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n = 1 THEN RAISE EXCEPTION 'one of them is elsewhere'; END IF;
END
\$\$;
SQL
}

sub batch
{
	my $list = join ',', map { "'" . pick(@rides) . "'" } 1 .. 4;
	return "SELECT 'moved', fleet.handoff(ARRAY[$list], '" . pick(@nodes) . "');\n";
}

sub some_work
{
	my $kind = rand;
	return move() if $kind < 0.45;
	return pay() if $kind < 0.65;
	return batch() if $kind < 0.75;
	return "BEGIN;\n" . move() . "SAVEPOINT x;\n" . move() . pay() . 'ROLLBACK TO x;' . move() . "COMMIT;\n" if $kind < 0.85;
	return "BEGIN;\n" . pay() . move() . move() . pick("COMMIT;\n", "COMMIT;\n", "ROLLBACK;\n");
}

# One client, in a process of its own: sessions of some statements each.
sub run_client
{
	my ($number, $end) = @_;
	my %count;

	srand($seed * 100 + $number);
	while (time < $end)
	{
		my $sql = join '', map { some_work() } 1 .. 12;
		my $result = eval { $c->try_sql(pick(@nodes), $sql, go_on => 1, timeout => 40) } or last;
		$count{moved} += () = $result->{out} =~ /^moved/mg;
		$count{$1}++ while $result->{err} =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5}):/g;
		$count{unconfirmed} += () = $result->{err} =~ /did not confirm it yet/g;
		if ($result->{err} =~ /server closed the connection|could not connect|connection to server/)
		{
			$count{lost}++;
			sleep 0.05;
		}
	}
	my $file = "$PostgreSQL::Test::Utils::tmp_check/client$number";
	PostgreSQL::Test::Utils::append_to_file($file, join(' ', map { "$_=$count{$_}" } sort keys %count));
	POSIX::_exit(0);
}

my $end = time + $seconds;
my @pids;

for my $number (1 .. $clients)
{
	my $pid = fork // die "fork: $!";
	run_client($number, $end) if $pid == 0;
	push @pids, $pid;
}

# ---- the trouble

my %trouble = (
	'kill a server' => sub { my $node = shift; $c->kill9($node); sleep rand(0.3); $c->start($node) },
	'kill two servers' => sub {
		my $node = shift;
		my $other = pick($c->others($node));
		$c->kill9($_) for $node, $other;
		$c->start($_) for $node, $other;
	},
	'kill a backend' => sub {
		my $node = shift;
		my $offset = $c->log_size($node);
		my $pid = $c->sql($node, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'fleet resolver') ORDER BY random() LIMIT 1");
		return if $pid eq '' || !kill('KILL', $pid);
		$c->wait_restarted($node, $offset);
	},
	'end sessions of other nodes' => sub {
		$c->sql($_[0], "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'fleet_node'");
	},
	'end sessions of clients' => sub {
		$c->sql($_[0], "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 't%'");
	},
	'cancel everything' => sub {
		$c->sql($_[0], "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'");
	},
	'freeze a server' => sub { my $node = shift; $c->freeze($node); sleep 0.2 + rand(1.2); $c->thaw($node) },
	'restart a server' => sub { my $node = shift; $c->stop($node, pick('fast', 'immediate')); $c->start($node) },
);
my %done;

while (time < $end)
{
	my $what = pick(sort keys %trouble);
	my $node = pick(@nodes);

	# What asks a server that is just starting fails: no harm.
	$done{$what}++ if eval { $trouble{$what}->($node); 1 };
	sleep 0.1 + rand(0.4);
}
waitpid $_, 0 for @pids;

# ---- what is left of it

note("$_: $done{$_}") for sort keys %done;
my $moved = 0;
for my $number (1 .. $clients)
{
	my $text = PostgreSQL::Test::Utils::slurp_file("$PostgreSQL::Test::Utils::tmp_check/client$number");
	note("client $number: $text");
	$moved += $1 if $text =~ /moved=(\d+)/;
}
cmp_ok($moved, '>', 50, "$moved statements have handed off meanwhile");
$c->check_all("seed $seed");
done_testing();
