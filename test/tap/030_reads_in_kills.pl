# fleet: reads of all regions while servers and sessions die.
# Copyright (c) 2026, the fleet authors
#
# For READ_SECONDS (25) two clients hand rides off, each from any node to any other,
# while servers are killed, frozen and restarted, and sessions are killed, ended and
# cancelled, all at random.  A reader on each node counts, sums up and lists all
# rides: by sums, from rows, and where a part is good enough, too.
#
# Each read either fails, and the error names a region, or is exact: so many
# rides, each once, with so much money.  What a part lacks is said.
#
# SEED=n takes the same decisions again (not at the same times).

use strict;
use warnings;

use FleetCluster;
use FleetChaos;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SEED} || int(rand(1_000_000));
my $seconds = $ENV{READ_SECONDS} || 25;
my $patience = 20;    # seconds; what takes longer hangs

diag("seed $seed");

my $c = FleetCluster->new(settings => <<'CONF');
fleet.commit_timeout = 500
fleet.prepare_timeout = 1000
fleet.lock_timeout = 300
fleet.connect_timeout = 500
fleet.read_timeout = 700
CONF
my @nodes = $c->names;
my $folder = $PostgreSQL::Test::Utils::tmp_check;
my @rides = map { my $node = $_; $c->add_rides($node, map { "$node-$_" } 1 .. 40) } @nodes;
my $number = @rides;
my $money = 0;
$money += $_ for values %{ $c->{rides} };

*pick = \&FleetChaos::pick;

# ---- what is read: a name, SQL, and what is right

my $sums = 'SELECT sum(rides), sum(fares) FROM fleet.ride_totals()';
my $list = 'SELECT count(*), count(DISTINCT ride_id), sum(fare) FROM fleet.search_rides(max_rows => NULL)';
my $total = sprintf '%d|%.2f', $number, $money;
my @reads = (
	[ 'count by sums', 'SET fleet.sum_threshold = 0; SELECT fleet.count_rides()', qr/^$number$/ ],
	[ 'count from rows', 'SET fleet.sum_threshold = 1000; SELECT fleet.count_rides()', qr/^$number$/ ],
	[ 'totals by sums', "SET fleet.sum_threshold = 0; $sums", qr/^\Q$total\E$/ ],
	[ 'totals from rows', "SET fleet.sum_threshold = 1000; $sums", qr/^\Q$total\E$/ ],
	[ 'list', $list, qr/^$number\|\Q$total\E$/ ],
	[ 'a part', "SET fleet.sum_threshold = 0; SELECT fleet.count_rides(on_unavailable => 'partial'); SELECT failed FROM fleet.last_read()",
		qr/^(?:$number\n\{\}|\d+\n\{[abc,]+\})$/ ],
	[ 'a part by rows', "SET fleet.sum_threshold = 1000; SELECT fleet.count_rides(on_unavailable => 'partial'); SELECT failed FROM fleet.last_read()",
		qr/^(?:$number\n\{\}|\d+\n\{[abc,]+\})$/ ],
);

# 57: of the reader's own session.
sub is_told
{
	my ($answer) = @_;
	return !grep { !/^57/ } @{ $answer->{errors} } if $answer->{out} !~ /^(?:ERROR|FATAL)/m;
	return $answer->{out} =~ /"[abc]"/ || !grep { !/^57/ } @{ $answer->{errors} };
}

sub run_reader
{
	my ($diary, $node, $end) = @_;
	my $session = FleetChaos::Session->new($c, $node, 'reader');
	my %count;

	for (my $n = 1; time < $end; $n++)
	{
		FleetChaos::decide($seed, "reader $node", $n);
		my ($name, $sql, $right) = @{ pick(@reads) };
		my $answer = $session->run("SET client_min_messages = warning; $sql", $patience);

		# A server that stops would not come to an end among ever new connections.
		sleep 0.05 if $answer->{state} ne 'done' || @{ $answer->{errors} } || $answer->{out} =~ /\{[abc]/;
		$diary->problem("$name on $node hangs") if $answer->{state} eq 'late';
		next if $answer->{state} ne 'done';
		if (@{ $answer->{errors} })
		{
			$count{failed}++;
			$count{$_}++ for @{ $answer->{errors} };
			$diary->problem("$name on $node does not name a region: $answer->{out}") if !is_told($answer);
			next;
		}
		my $seen = $answer->{out} =~ s/^SET\n//mgr =~ s/\s+$//r;
		$seen =~ $right ? $count{$name}++ : $diary->problem("$name on $node: $seen");
		$count{parts}++ if $seen =~ /\{[abc]/;
	}
	$session->close_psql;
	return %count;
}

sub run_mover
{
	my ($diary, $who, $end) = @_;
	my %sessions = map { $_ => FleetChaos::Session->new($c, $_, $who) } @nodes;
	my %count;

	for (my $n = 1; time < $end; $n++)
	{
		FleetChaos::decide($seed, $who, $n);
		my $sql = join '', map { sprintf "SELECT 'moved', fleet.handoff('%s', '%s');\n", pick(@rides), pick(@nodes) } 1 .. 5;
		my $answer = $sessions{ pick(@nodes) }->run($sql, $patience);
		$count{moved} += () = $answer->{out} =~ /^moved\|/mg;
		$diary->problem("$who hangs") if $answer->{state} eq 'late';
		sleep 0.05 if $answer->{state} ne 'done' || @{ $answer->{errors} };
	}
	$_->close_psql for values %sessions;
	return %count;
}

# ---- the trouble

my %trouble = (
	'kill a server' => sub { my ($node, $x) = @_; $c->kill9($node); sleep 0.4 * $x; $c->start($node) },
	'restart a server' => sub {
		my ($node, $x) = @_;
		$c->wait_until(sub { $c->is_up($node) }, "$node is up");    # or it might not end before the timeout
		$c->stop($node, $x < 0.5 ? 'fast' : 'immediate');
		$c->start($node);
	},
	'kill a backend' => sub {
		my ($node, $x) = @_;
		my @pids = map { $_->[0] } $c->rows($node, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'fleet_node' ORDER BY backend_start");
		kill 'KILL', $pids[ @pids * $x ] if @pids;
	},
	'end sessions of other nodes' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_terminate_backend', "usename = 'fleet_node'") },
	'cancel everything' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_cancel_backend', "usename = 'fleet_node' OR application_name = 'reader'") },
	'freeze a server' => sub { my ($node, $x) = @_; $c->freeze($node); sleep 0.2 + 0.8 * $x; $c->thaw($node) },
);

# ---- the run

my $start = time;
my %pids;

# In a process of its own, without the parent's sessions.
sub launch
{
	my ($who, $code, @arguments) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		delete $_->{asking} for values %{ $c->{nodes} };
		my $diary = FleetChaos::Diary->new($folder, $who, $start);
		my %count = eval { $code->($diary, @arguments, $start + $seconds) };
		$diary->problem("died: $@") if $@;
		append_to_file("$folder/$who.result", join '', map { "$_|$count{$_}\n" } sort keys %count);
		POSIX::_exit(0);
	}
	$pids{$who} = $pid;
}

launch("reader-$_", \&run_reader, $_) for @nodes;
launch("mover-$_", \&run_mover, "mover-$_") for 1, 2;
my $trouble_diary = FleetChaos::Diary->new($folder, 'trouble', $start);
my %done = FleetChaos::make_trouble($c, $seed, $trouble_diary, $start + $seconds, \%trouble, sub { sleep 0.2 + 0.8 * $_[0] });
for my $who (sort keys %pids)
{
	ok(eval { $c->wait_until(sub { waitpid($pids{$who}, POSIX::WNOHANG()) }, "$who ends", 2 * $patience) }, "$who ends");
	$trouble_diary->note("$who has ended");
}

my %count;
for my $line (map { split /\n/, slurp_file($_) } glob "$folder/*.result")
{
	my ($what, $n) = split /\|/, $line;
	$count{$what} += $n;
}
note(join ', ', map { "$_ $done{$_}" } sort keys %done);
diag(join ', ', map { "$_ $count{$_}" } sort keys %count);
cmp_ok($count{moved} // 0, '>', 4 * $seconds, 'rides have been handed off meanwhile');
cmp_ok($count{ $_->[0] } // 0, '>', $seconds, "exact: $_->[0]") for @reads;
cmp_ok($count{failed} // 0, '>', 0, 'some reads have failed');
is(join('', grep { /PROBLEM/ } FleetChaos::Diary::read_all($folder)), '', 'no read was wrong, and no error was without a region');

$c->check_all("seed $seed", log => 0);
$trouble_diary->note('all is checked');
is($c->sql($_, $list), "$number|$total", "in the end: all rides, read on $_") for @nodes;
is($c->sql($_, "SET fleet.sum_threshold = 0; $sums"), $total, "in the end: their number and fares, read on $_") for @nodes;
done_testing();
