# fleet: everything at once, at random.
# Copyright (c) 2026, the fleet authors
#
# For RUN_SECONDS (60) three clients hand rides and vehicles off, singly, in
# batches, by position reports, in transactions with savepoints, and change, make
# and delete rides, each on any node, while servers are killed, frozen and
# started, backends are ended and fault points act, all at random.
#
# Meanwhile a reader and an auditor check what must hold at any time (see
# FleetChaos.pm).  Afterwards each ride lives exactly once, no transaction is
# left over, all handoffs are logged on both sides, everything that a client was
# told is so, and no change of a fare was lost or applied twice: clients only
# move money from ride to ride, so the sum must stay.
#
# SEED=n takes the same decisions again (not at the same times).  When something
# is wrong, the diary of all actors is in tmp_check/log/chaos.log, and
# test/run.sh keeps a copy in build/failed.

use strict;
use warnings;

use FleetCluster;
use FleetChaos;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SEED} || int(rand(1_000_000));
my $seconds = $ENV{RUN_SECONDS} || 60;
my $clients = 3;
my $patience = 20;    # seconds; what takes longer hangs

diag("seed $seed");

my $c = FleetCluster->new(settings => <<'CONF' . ($ENV{CHAOS_CONF} // ''));
fleet.commit_timeout = 500
fleet.prepare_timeout = 1000
fleet.lock_timeout = 300
fleet.connect_timeout = 500
fleet.max_speed = 0
include_if_exists = 'chaos.conf'
CONF
my @nodes = $c->names;
my $folder = $PostgreSQL::Test::Utils::tmp_check;
my @rides;
my @cars;

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
		push @cars, "car-$node-$n";
	}
}
my $sum = 0;
$sum += $_ for values %{ $c->{rides} };

# All fault points of this build, but those that switch a rule off.
my $source = join '', map { slurp_file($_) } glob "$ENV{FLEET_PROJECT}/src/*/*.c";
my %points = map { $_ => 1 } $source =~ /FLEET_FAULT(?:_NOTHROW)?\("([\w-]+)"/g;
my @points = sort keys %points;
cmp_ok(scalar @points, '>', 5, 'there are fault points: ' . join ' ', @points);

# ---- what clients do

*pick = \&FleetChaos::pick;

sub move
{
	my ($own, $label) = @_;
	my $ride = pick(@rides, @rides, @$own);
	return sprintf "SELECT '%s', '%s', fleet.handoff('%s', '%s');\n", $label // 'moved', $ride, $ride, pick(@nodes);
}

# Move one from a ride to another, if both are here.
sub pay
{
	my ($region) = @_;
	my ($from, $to) = (pick(@rides), pick(@rides));
	return '' if $from eq $to;
	return <<"SQL";
DO \$\$
DECLARE n integer;
BEGIN
	UPDATE fleet.rides SET fare = fare + CASE ride_id WHEN '$to' THEN 1 ELSE -1 END
		WHERE region = '$region' AND ride_id IN ('$from', '$to');
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n = 1 THEN RAISE EXCEPTION 'one of them is elsewhere'; END IF;
END
\$\$;
SQL
}

sub batch
{
	my $list = join ',', map { "'" . pick(@rides) . "'" } 1 .. 4;
	return "SELECT 'batch', fleet.handoff(ARRAY[$list], '" . pick(@nodes) . "');\n";
}

sub fix { return sprintf "SELECT 'fix', r.* FROM fleet.report_fix('%s', %s) AS r;\n", pick(@cars), $c->place(pick(@nodes)) }

# What a client does next: {node, sql, ...}.  A client's own rides, whose fate it
# alone decides, are made once each and named after the decision to make them;
# own is those made so far.
sub next_action
{
	my ($number, $n, $own) = @_;
	my $kind = rand;
	my %action = (node => pick(@nodes));

	if ($kind < 0.40) { $action{sql} = move($own) }
	elsif ($kind < 0.52) { $action{sql} = pay($action{node}) }
	elsif ($kind < 0.60) { $action{sql} = batch() }
	elsif ($kind < 0.65) { $action{sql} = fix() }
	elsif ($kind < 0.70) { $action{sql} = sprintf "SELECT 'car', fleet.handoff_vehicle('%s', '%s');\n", pick(@cars), pick(@nodes) }
	elsif ($kind < 0.74) { @action{qw(make sql)} = ("own-$number-$n", '') }
	elsif ($kind < 0.79) { @action{qw(bury sql)} = (pick(@$own), '') }
	elsif ($kind < 0.82) { @action{qw(again sql)} = (pick(@$own), '') }
	elsif ($kind < 0.91)
	{
		$action{sql} = "BEGIN;\n" . move($own) . "SAVEPOINT x;\n" . move($own, 'undone') . pay($action{node})
		  . "ROLLBACK TO x;\n" . move($own) . "COMMIT;\n";
	}
	else { $action{sql} = "BEGIN;\n" . pay($action{node}) . move($own) . move($own) . pick("COMMIT;\n", "COMMIT;\n", "ROLLBACK;\n") }
	$action{fault} = pick(@points) . '=' . pick('error', 'kill', 'crash', 'exit') if rand() < 0.02;
	return \%action;
}

# Rides of its own: fill in the statement as their fate allows it.
sub own_statement
{
	my ($action, $fate) = @_;
	my ($make, $bury, $again) = @$action{qw(make bury again)};

	if (defined $bury)
	{
		$action->{sql} = "DELETE FROM fleet.rides WHERE region = '$action->{node}' AND ride_id = '$bury';\n";
	}
	elsif (defined $again && ($fate->{$again} // '') =~ /^gone at (\w)$/)
	{
		# In the region where it was deleted: elsewhere nobody knows of it.
		$action->{node} = $1;
		$make = $again;
	}
	$action->{sql} = sprintf "SELECT 'made', '%s', fleet.request_ride('%s', 'c', %s);\n", $make, $make, $c->place($action->{node})
	  if defined $make;
}

# What the answer says for sure.
sub learn
{
	my ($action, $answer, $fate, $acked, $count) = @_;
	my $own = $action->{make} // $action->{bury} // $action->{again};
	my $is_certain = $answer->{state} eq 'done';
	# A COMMIT that fails has no tag, or the one of ROLLBACK.
	my $has_committed = $action->{sql} !~ /^BEGIN/ || $answer->{out} =~ /^COMMIT$/m;

	$count->{$_}++ for @{ $answer->{errors} };
	if (defined $own)
	{
		if (!$is_certain) { $fate->{$own} = 'unknown' if ($fate->{$own} // '') ne 'never' }
		elsif ($answer->{out} =~ /^made\|/m) { $fate->{$own} = 'live' }
		elsif (defined $action->{make}) { $fate->{$own} = 'never' }
		elsif ($answer->{out} =~ /^DELETE 1$/m) { $fate->{$own} = "gone at $action->{node}" }
		return;
	}
	return unless $is_certain && $has_committed;
	while ($answer->{out} =~ /^moved\|([\w-]+)\|(\d+)$/mg)
	{
		$count->{moved}++;
		$acked->{$1} = $2 if $2 > ($acked->{$1} // 0);
	}
	$count->{batches}++ if $answer->{out} =~ /^batch\|/m;
	$count->{fixes}++ if $answer->{out} =~ /^fix\|moved/m;
	$count->{cars}++ if $answer->{out} =~ /^car\|/m;
	$count->{unconfirmed}++ if $answer->{out} =~ /did not confirm it yet/;
}

sub run_client
{
	my ($number, $diary, $end) = @_;
	my %sessions = map { $_ => FleetChaos::Session->new($c, $_, "client $number") } @nodes;
	my (%fate, %acked, %count, @own);

	for (my $n = 1; time < $end; $n++)
	{
		FleetChaos::decide($seed, "client $number", $n);
		my $action = next_action($number, $n, \@own);
		push @own, $action->{make} if $action->{make};
		own_statement($action, \%fate);
		next if $action->{sql} eq '';
		my $sql = $action->{fault} ? "SET fleet.fault = '$action->{fault}';\n$action->{sql}RESET fleet.fault;\n" : $action->{sql};
		$diary->note("#$n at $action->{node}: $sql");
		my $answer = $sessions{ $action->{node} }->run($sql, $patience);
		$diary->note("#$n $answer->{state}: $answer->{out}");
		learn($action, $answer, \%fate, \%acked, \%count);
		$diary->problem("#$n hangs") if $answer->{state} eq 'late';
		$diary->problem("#$n internal error") if grep(/^XX/, @{ $answer->{errors} }) && $answer->{out} !~ /fleet fault point/;
		$count{lost}++ if $answer->{state} eq 'lost';
		sleep 0.02 if $answer->{state} eq 'lost';
	}
	append_to_file("$folder/client$number.result", join '', map({ "fate $_ $fate{$_}\n" } sort keys %fate),
		map({ "acked $_ $acked{$_}\n" } sort keys %acked), map({ "count $_ $count{$_}\n" } sort keys %count));
	$_->close_psql for values %sessions;
}

# ---- the checkers

sub run_reader
{
	my ($diary, $end) = @_;
	my $reader = FleetChaos::Reader->new($diary);
	my %sessions = map { $_ => FleetChaos::Session->new($c, $_, 'reader') } @nodes;

	while (time < $end)
	{
		for my $node (@nodes)
		{
			$reader->before_look($node);
			my $rows = $sessions{$node}->rows(FleetChaos::Reader::look_sql($node), 2);
			$reader->take_in($node, $rows) if $rows;
		}
		sleep 0.05;
	}
	append_to_file("$folder/reader.result", "count looks $reader->{looks}\n");
	$_->close_psql for values %sessions;
}

sub new_auditor
{
	my ($diary) = @_;
	return FleetChaos::Auditor->new($c, $diary, sum => $sum, may => qr/^ride own-/,
		must => [ map({ "ride $_" } @rides), map({ "vehicle $_" } @cars) ]);
}

sub run_auditor
{
	my ($diary, $end) = @_;
	my $auditor = new_auditor($diary);
	my $complete = 0;

	for (my $n = 1; time < $end; $n++)
	{
		FleetChaos::decide($seed, 'auditor', $n);
		my @order = sort { rand() <=> 0.5 } @nodes;
		$complete++ if $auditor->audit(@order);
		sleep 0.3 + rand(0.4);
	}
	append_to_file("$folder/auditor.result", "count audits $complete\n");
	$auditor->close_all;
}

# ---- the trouble

# Wait, and start the servers that a client's fault point has crashed.
sub nap
{
	my $end = time + $_[0];
	while (time < $end)
	{
		for my $node (grep { !$c->postmaster($_) } @nodes)
		{
			$c->kill9($node);
			$c->start($node);
		}
		sleep 0.05;
	}
}

# Something that acts in all processes of a node for a while.
sub configure_for
{
	my ($node, $text, $for) = @_;
	my $file = "$c->{nodes}{$node}{data}/chaos.conf";

	append_to_file($file, "$text\n");
	kill 'HUP', grep { $_ } $c->postmaster($node);
	nap($for);
	unlink $file;
	kill 'HUP', grep { $_ } $c->postmaster($node);
}

my %trouble = (
	'kill a server' => sub { my ($node, $x) = @_; $c->kill9($node); sleep 0.3 * $x; $c->start($node) },
	'kill two servers' => sub {
		my ($node, $x) = @_;
		my $other = ($c->others($node))[ 2 * $x ];
		$c->kill9($_) for $node, $other;
		$c->start($_) for $node, $other;
	},
	'kill a backend' => sub {
		my ($node, $x) = @_;
		my @pids = map { $_->[0] } $c->rows($node, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
			. " AND (application_name LIKE 'client%' OR usename = 'fleet_node' OR backend_type = 'fleet resolver') ORDER BY backend_start");
		kill 'KILL', $pids[ @pids * $x ] if @pids;
	},
	'end sessions of other nodes' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_terminate_backend', "usename = 'fleet_node'") },
	'end sessions of clients' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_terminate_backend', "application_name LIKE 'client%'") },
	'end workers' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_terminate_backend', "backend_type LIKE 'fleet%'") },
	'cancel everything' => sub { FleetChaos::end_sessions($c, $_[0], 'pg_cancel_backend', "application_name LIKE 'client%' OR usename = 'fleet_node'") },
	'freeze a server' => sub {
		my ($node, $x) = @_;
		return unless $c->postmaster($node);
		$c->freeze($node);
		sleep 0.2 + 1.2 * $x;
		$c->thaw($node);
	},
	'restart a server' => sub { my ($node, $x) = @_; $c->stop($node, $x < 0.5 ? 'fast' : 'immediate'); $c->start($node) },
	'a fault point' => sub {
		my ($node, $x) = @_;
		my $point = $points[ @points * $x ];
		configure_for($node, "fleet.fault = '$point=" . (100 * $x % 2 ? 'error' : 'kill') . "'", 0.3);
	},
	'hold at a fault point' => sub {
		my ($node, $x) = @_;
		my $point = $points[ @points * $x ];
		$c->ungo($node, $point);
		configure_for($node, "fleet.fault = '$point=wait'", 0.5 + $x);
		$c->go($node, $point);
	},
);

# ---- the run

my $start = time;
my $end = $start + $seconds;
my %pids;

# In a process of its own, without the parent's sessions.
sub launch
{
	my ($who, $code) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		delete $_->{asking} for values %{ $c->{nodes} };
		my $diary = FleetChaos::Diary->new($folder, $who, $start);
		eval { $code->($diary, $end); 1 } or $diary->problem("died: $@");
		POSIX::_exit(0);
	}
	$pids{$who} = $pid;
}

for my $number (1 .. $clients)
{
	launch("client$number", sub { run_client($number, @_) });
}
launch('reader', \&run_reader);
launch('auditor', \&run_auditor);

my $diary = FleetChaos::Diary->new($folder, 'trouble', $start);
my %done = FleetChaos::make_trouble($c, $seed, $diary, $end, \%trouble, sub { nap(0.1 + 0.5 * $_[0]) });
for my $who (sort keys %pids)
{
	my $ended = eval { $c->wait_until(sub { nap(0.05); waitpid($pids{$who}, POSIX::WNOHANG()) }, "$who ends", 2 * $patience) };
	next if $ended;
	kill 'KILL', $pids{$who};
	$diary->problem("$who did not end");
}

# ---- what is left of it

my (%fate, %acked, %count);
for my $file (glob "$folder/*.result")
{
	for (split /\n/, slurp_file($file))
	{
		my ($what, $name, $value) = split / /, $_, 3;
		$fate{$name} = $value if $what eq 'fate';
		$acked{$name} = $value if $what eq 'acked' && $value > ($acked{$name} // 0);
		$count{$name} += $value if $what eq 'count';
	}
}
note(join ', ', map { "$_ $done{$_}" } sort keys %done);
note(join ', ', map { "$_ $count{$_}" } sort keys %count);
cmp_ok($count{moved} // 0, '>', 2 * $seconds, 'rides have been handed off meanwhile');
cmp_ok($count{looks} // 0, '>', $seconds, 'the reader has looked');
cmp_ok($count{audits} // 0, '>', 0, 'the auditor has had all locks at once');

# A client's own rides: what it was told must be so.
my %live;
$c->heal;
for my $node (@nodes)
{
	push @{ $live{ $_->[0] } }, $_->[1] for $c->rows($node, "SELECT ride_id, epoch FROM fleet.local_rides");
}
for my $ride (sort keys %fate)
{
	my $lives = @{ $live{$ride} // [] };
	$c->{rides}{$ride} = 0 if $lives || $fate{$ride} eq 'live';
	$diary->problem("$ride lives $lives times, and its client was told: $fate{$ride}")
	  if $fate{$ride} eq 'live' ? $lives != 1 : $fate{$ride} eq 'unknown' ? $lives > 1 : $lives;
}
for my $ride (sort keys %acked)
{
	my ($epoch) = @{ $live{$ride} // [] };
	$diary->problem("$ride is at epoch $epoch, and a client was told $acked{$ride}") if defined $epoch && $epoch < $acked{$ride};
}
ok(new_auditor($diary)->audit(@nodes), 'nothing is locked in the end');
$c->check_all("seed $seed", log => 0);
# Of rides that were deleted and made again, the log is not one path.
is(join("\n", grep { !/\bown-/ } split /\n/, $c->wrong_log), '', 'every handoff is logged on both sides');

my @problems = grep { /PROBLEM/ } FleetChaos::Diary::read_all($folder);
is(join('', @problems), '', 'what must hold at any time did, and what clients were told is so');
my @crashes = map { my $node = $_; map { "$node: $_" } $c->log_text($node) =~ /^.*(?:PANIC:|TRAP:|terminated by signal (?:4|6|8|11)\b).*$/mg } @nodes;
is(join("\n", @crashes), '', 'no server has crashed by itself');
if (!Test::More->builder->is_passing)
{
	my @diary = FleetChaos::Diary::read_all($folder);
	append_to_file("$folder/log/chaos.log", join '', "seed $seed\n", @diary);
	diag("seed $seed; what was done is in chaos.log");
	my %named = map { $_ => 1 } "@problems" =~ /\b((?:own|ride|car|[abc])-[\w-]*\d)\b/g;
	for my $row ((sort keys %named)[ 0 .. 2 ])
	{
		diag(join '', "what was done to $row:\n", map { substr($_, 0, 400) =~ s/\n?$/\n/r } grep { defined $row && /'$row'|\b\Q$row\E\|/ } @diary) if defined $row;
	}
}
done_testing();
