# fleet: the crash matrix.
# Copyright (c) 2026, the fleet authors
#
# At every step of a handoff's commit everything that can fail fails once: the
# backend that acts, the coordinator's server, a participant's, the network
# between them, or a participant is replaced by a standby that lacks the PREPARE;
# with the source, the target and a third node as the coordinator.  Proves that
# afterwards, without an operator, the ride lives in exactly one region, and in
# the right one (what the caller was told, else what was decided), that no fare
# is lost, nothing is in doubt or unsettled, each handoff is logged on both
# sides; and that all this is true less than two seconds after the nodes can talk
# again, with fleet's default settings.
#
# docs/crash-matrix.md shows the outcome of each cell, and the test fails where it
# sees another one.  FLEET_WRITE_MATRIX=file writes that document anew, into a
# file that exists (make crash-matrix).  MATRIX_ONLY=pattern runs only the columns
# whose "role fault victim" matches, and compares nothing.
#
# Cells that can share a fault do, if they are in the same column: a session
# waits at each step, then the fault strikes.

use strict;
use warnings;

use FleetCluster;
use FleetStandby;
use List::Util qw(any max);
use Test::More;
use Time::HiRes qw(sleep time);

use constant MAX_SECONDS => 2;    # from "can talk" to "all finished"

my $document = "$ENV{FLEET_PROJECT}/docs/crash-matrix.md";
my $c = FleetCluster->new(links => 1, settings => 'fleet.resolve_interval = 1s');
my %node = (source => 'a', target => 'b', third => 'c');
my @roles = ('source', 'target', 'third');

# ---- the matrix

# The steps: name, who acts, what happens.  A step is a fault point of the same
# name.  Who acts is whom the faults of a backend hit: the coordinator's backend,
# the participant's, the coordinator's resolver, or nobody any more; "waits" is
# the coordinator's backend while the participant's is held up.
my @steps = (
	[ 'before-prepare', 'backend', 'before the first PREPARE is sent' ],
	[ 'next-prepare', 'backend', 'between the PREPAREs to two participants' ],
	[ 'preparing', 'participant', 'PREPARE is being done and is not durable yet' ],
	[ 'preparing+', 'waits', 'the same moment, at the backend that waits for it' ],
	[ 'prepared', 'participant', 'PREPARE is durable and not replied to' ],
	[ 'prepare-wait', 'backend', 'PREPARE is replied to, the reply is not read' ],
	[ 'after-prepare', 'backend', 'after the last PREPARE, before the local commit' ],
	[ 'after-local-commit', 'backend', 'after the local commit, which is the decision' ],
	[ 'before-commit-prepared', 'backend', 'before the first COMMIT PREPARED is sent' ],
	[ 'next-commit-prepared', 'backend', 'between the COMMIT PREPAREDs to two participants' ],
	[ 'committed', 'participant', 'COMMIT PREPARED is durable and not replied to' ],
	[ 'committed+', 'waits', 'the same moment, at the backend that waits for it' ],
	[ 'after-commit-prepared', 'backend', 'after the first confirmation is read' ],
	[ 'before-settle-source', 'resolver', 'before the source is told to settle its departure' ],
	[ 'before-settle', 'resolver', 'before the coordinator settles' ],
	[ 'settled', 'nobody', 'after it has settled' ],
);
my %number = map { $steps[$_][0] => $_ } 0 .. $#steps;
my %actor = map { $_->[0] => $_->[1] } @steps;

# The faults, and what a column of them is called.  Those in the second list
# are about one of the participants.
my @own_faults = ([ 'error', 'backend error' ], [ 'kill', 'backend killed' ], [ 'cancel', 'cancel' ],
	[ 'terminate', 'terminate' ], [ 'coordinator', 'coordinator killed' ]);
my @participant_faults = ([ 'participant', '%s killed' ], [ 'cut', 'cut off from %s' ],
	[ 'hole', '%s in a black hole' ], [ 'standby', '%s promoted without the PREPARE' ]);

# Why a cell is none.
my @reasons = (
	'There is one participant only.',
	'The departure is on the coordinator itself.',
	'Nothing can raise an error there; after the decision nothing may.',
	'The same as in the row above.',
	'There is no PREPARE yet that a standby could lack.',
	'This participant has confirmed its commit. A standby that lacks it has lost what was confirmed, '
	  . 'for good; only synchronous replication prevents that, see [limits](limits.md).',
	'Nothing of the handoff runs any more.',
);

sub is_decided { return $number{ $_[0] } >= $number{'after-local-commit'} }

# The number of the reason, or 0 for a cell that is one.
sub reason
{
	my ($role, $step, $fault, $victim) = @_;
	my $actor = $actor{$step};

	return 1 if $step =~ /^next-/ && $role ne 'third';
	return 2 if $step eq 'before-settle-source' && $role eq 'source';
	return 7 if $actor eq 'nobody' && $fault =~ /^(error|kill|cancel|terminate)$/;
	return 4 if $actor eq 'waits' && $fault !~ /^(kill|cancel|terminate)$/;
	return 3 if $fault eq 'error' && ($step eq 'prepared' || is_decided($step) && $actor ne 'resolver');
	return 0 if $fault ne 'standby';
	return 5 if $number{$step} <= $number{preparing} && !($step eq 'next-prepare' && $victim eq 'target');
	return 6 if $number{$step} > $number{committed} || $step eq 'next-commit-prepared' && $victim eq 'target';
	return 0;
}

# The columns of a role: [fault, victim, title].
sub columns
{
	my ($role) = @_;
	my @participants = grep { $_ ne $role } 'source', 'target';
	my @columns = map { [ $_->[0], '', $_->[1] ] } @own_faults;

	for my $fault (@participant_faults)
	{
		push @columns, [ $fault->[0], $_, sprintf $fault->[1], $_ ] for @participants;
	}
	return @columns;
}

# ---- sessions that wait at their steps

my $rides = 0;
my @settled = $c->add_rides('a', map { "settled-$_" } 1 .. 40);

# A cell has: the step, its ride; on, the coordinator; at, the node where the
# fault point is; point, its name; soon session and pid, who acts there; then
# result, what the caller was told; place, where the ride is; took.
sub new_cell
{
	my ($role, $step, $victim) = @_;
	my %cell = (step => $step, on => $node{$role}, at => $node{$role}, point => $step =~ s/\+$//r);

	$cell{at} = $node{ $victim || ($role eq 'target' ? 'source' : 'target') } if $actor{$step} =~ /participant|waits/;
	$cell{ride} = $actor{$step} eq 'nobody' ? shift @settled : ($c->add_rides('a', 'ride-' . ++$rides))[0];
	return \%cell;
}

sub actors { my $pattern = shift; return grep { $actor{ $_->{step} } =~ $pattern } @_ }
sub handoff_of { return "SELECT fleet.handoff('$_[0]{ride}', 'b')" }

# The backend that has reached a cell's fault point.
sub wait_reached
{
	my ($cell, $offset) = @_;
	my $pattern = qr/\[(\d+)\][^\n]* fleet fault point "$cell->{point}" reached/;

	$c->wait_until(sub { ($cell->{pid}) = $c->log_text($cell->{at}, $offset) =~ $pattern },
		"somebody on $cell->{at} is at $cell->{point}");
}

# Start the handoff of each cell, such that action happens at its step.
sub start_cells
{
	my ($action, @cells) = @_;
	my $offset;

	# The resolver, one cell at the most.
	for my $cell (actors(qr/resolver/, @cells))
	{
		$offset = $c->log_size($cell->{at});
		$c->set_system($cell->{at}, 'fleet.fault', "$cell->{point}=$action");
		$c->sql($cell->{on}, handoff_of($cell));
		wait_reached($cell, $offset);
	}

	# The coordinators, all at once.
	$offset = $c->log_size($cells[0]{on});
	$_->{session} = $c->start_sql($_->{on}, handoff_of($_), fault => "$_->{point}=$action")
	  for actors(qr/backend/, @cells);
	wait_reached($_, $offset) for actors(qr/backend/, @cells);

	# The participants, one after the other: what acts there is a session of
	# fleet's, which hears of it by a setting of its role.
	for my $cell (actors(qr/participant|waits/, @cells))
	{
		$offset = $c->log_size($cell->{at});
		$c->sql($cell->{at}, "ALTER ROLE fleet_node SET fleet.fault = '$cell->{point}=$action'");
		$cell->{session} = $c->start_sql($cell->{on}, handoff_of($cell));
		wait_reached($cell, $offset);
		$cell->{pid} = $cell->{session}->backend if $actor{ $cell->{step} } eq 'waits';
		$c->sql($cell->{at}, 'ALTER ROLE fleet_node RESET fleet.fault');
	}
}

# What the coordinators' transactions are called, as far as can be known; and
# wait until what was sent to the participants is done.
sub note_transactions
{
	my ($role, @cells) = @_;
	my %xid = map { @$_ } $c->rows($node{$role},
		"SELECT application_name, backend_xid FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND application_name <> ''");

	for my $cell (grep { $_->{session} } @cells)
	{
		my $xid = $xid{ $cell->{session}{app} } // next;
		$cell->{transaction} = qr/^fleet:node_$cell->{on}:[^:]+:$xid:/;
		next if $cell->{step} !~ /^(prepare-wait|next-prepare)$/;
		for my $at ($cell->{step} eq 'next-prepare' ? 'b' : map { $_->[1] eq '' ? () : $node{ $_->[1] } } columns($role))
		{
			$c->wait_until(sub { $c->sql($at, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '%:$xid:%'") eq '1' },
				"$cell->{ride} is prepared at $at");
		}
	}
	sleep 0.05;    # the replies are on their way
}

# Let all go on, and hear what the callers are told.
sub end_sessions
{
	my ($cells) = @_;

	$c->go($_->{at}, $_->{point}) for @$cells;
	$_->{result} = $_->{session}->finish for grep { $_->{session} } @$cells;
}

# ---- the faults

# Each strikes all cells of a batch and returns since when the nodes can talk
# again (and nothing fails any more).  With them come the nodes of the
# coordinator, and of the victim, and its standby where one was made.
my %strike = (
	error => sub {
		my ($cells, $on) = @_;
		end_sessions($cells);
		$c->set_system($on, 'fleet.fault', undef);
		return time;
	},
	kill => sub {
		my ($cells) = @_;
		my $at = where_acting($cells->[0]);
		my $offset = $c->log_size($at);
		kill 'KILL', grep { defined } map { $_->{pid} } @$cells;
		end_sessions($cells);
		$c->wait_restarted($at, $offset);
		return $c->ready_at($at);
	},
	cancel => sub { return signal('pg_cancel_backend', @_) },
	terminate => sub { return signal('pg_terminate_backend', @_) },
	coordinator => sub { my ($cells, $on) = @_; return restart($on, $cells) },
	participant => sub { my ($cells, $on, $victim) = @_; return restart($victim, $cells) },
	cut => sub { return disconnect('cut', @_) },
	hole => sub { return disconnect('hole', @_) },
	standby => sub {
		my ($cells, $on, $victim, $standby) = @_;
		$standby->promote;
		end_sessions($cells);
		return $c->ready_at($victim);
	},
);

sub where_acting { my $cell = shift; return $actor{ $cell->{step} } eq 'waits' ? $cell->{on} : $cell->{at} }

sub signal
{
	my ($function, $cells) = @_;
	my $start = time;

	$c->sql(where_acting($_), "SELECT $function($_->{pid})") for @$cells;
	end_sessions($cells);
	return $start;
}

sub restart
{
	my ($name, $cells) = @_;

	$c->kill9($name);
	end_sessions($cells);
	$c->start($name);
	return $c->ready_at($name);
}

sub disconnect
{
	my ($how, $cells, $on, $victim) = @_;
	my $start = time;

	$c->network($how, $on, $victim);
	end_sessions($cells);
	sleep max(0, $start + 1.2 - time);    # so that a resolver notices, too
	$c->network('pass', $on, $victim);
	return time;
}

# ---- what becomes of it

# The transactions of which anything is open on a node, or undef while it cannot
# be asked.
sub open_transactions
{
	my ($name) = @_;
	my $result = $c->ask($name, <<'SQL');
SELECT regexp_replace(gid, ':[0-9]+$', '') FROM pg_prepared_xacts
UNION SELECT dtxid FROM fleet.decisions
UNION SELECT dtxid FROM fleet.departures WHERE settled_hlc IS NULL
UNION SELECT dtxid FROM fleet.handoff_log WHERE status = 'departed'
SQL
	return $result->{ok} ? [ split /\n/, $result->{out} ] : undef;
}

# Wait until nothing is open for a while: when each transaction was first seen to
# be finished, undef where it was not; and when that was first looked for.
sub watch
{
	my (%finished, $quiet, $first);
	my $deadline = time + $FleetChecks::HEAL_DEADLINE;

	while (time < $deadline)
	{
		my $now = time;
		my @open = map { open_transactions($_) } $c->names;

		if (!any { !defined } @open)
		{
			my %open = map { $_ => undef } map { @$_ } @open;
			$first //= $now;
			$finished{$_} //= $now for grep { !exists $open{$_} } keys %finished;
			$finished{$_} = undef for keys %open;
			$quiet = %open ? undef : $quiet // $now;
			last if $quiet && $now > $quiet + 0.3;
		}
		sleep 0.02;
	}
	return ($first // time, %finished);
}

# How long after since a cell was finished.  Its transaction is known from before,
# or by the log; else it may be any of them.
sub took
{
	my ($cell, $since, $logged, $first, %finished) = @_;
	my $known = $logged->{ $cell->{ride} };
	my @mine = grep { defined $known ? $_ eq $known : !$cell->{transaction} || $_ =~ $cell->{transaction} } keys %finished;

	return undef if any { !defined } @finished{@mine};
	return max($first, @finished{@mine}) - $since;
}

# What the caller was told: yes, no, or nothing.
sub told
{
	my ($result) = @_;
	return '' if !$result;
	return 'committed' if $result->{out} =~ /^2$/m;
	return $result->{state} eq '' || $result->{state} eq '57P02' ? '' : 'failed';
}

sub judge
{
	my ($label, $since, @cells) = @_;
	my ($first, %finished) = watch();
	my @places = $c->places([ map { $_->{ride} } @cells ]);
	my $list = join ',', map { "'$_->{ride}'" } @cells;
	my %logged = map { @$_ } $c->rows('a', "SELECT ride_id, dtxid FROM fleet.handoff_log WHERE ride_id IN ($list)");
	my $wrong = $c->wrong_rides . $c->wrong_log;

	is($wrong, '', "$label: every ride lives once, no fare is lost, the log is complete");
	for my $cell (@cells)
	{
		my $told = told($cell->{result});
		my $want = $told eq 'committed' || $told eq '' && is_decided($cell->{step}) ? 'b2' : 'a1';
		my $took = $cell->{took} = took($cell, $since, \%logged, $first, %finished);

		$cell->{place} = shift @places;
		ok($cell->{place} eq $want && defined $took, sprintf '%s at %s: at %s%s, after %.2f s', $label, $cell->{step}, $want,
			$told eq '' ? '' : ", its caller was told that it $told", $took // -1)
		  or diag("it is at '$cell->{place}'; ", $cell->{result} ? $cell->{result}{err} : '');
	}
}

# ---- all of it

my (%outcome, @times);
my %word = (a1 => 'stays', b2 => 'goes');

# The cells of a column that are struck together.
sub run_batch
{
	my ($role, $column, @steps) = @_;
	my ($fault, $victim, $title) = @$column;
	my @cells = map { new_cell($role, $_, $victim) } @steps or return;
	my $on = $node{$role};
	my $standby = $fault eq 'standby' ? FleetStandby->new($c, $node{$victim}) : undef;

	for my $cell (@cells)
	{
		$c->ungo($_, $cell->{point}) for $c->names;
	}
	start_cells($fault eq 'error' ? 'error' : 'wait', grep { $_->{step} ne 'settled' } @cells) if "@steps" ne 'settled';
	note_transactions($role, @cells) if $fault ne 'error';
	my $since = $strike{$fault}->(\@cells, $on, $victim ? $node{$victim} : undef, $standby);
	judge("coordinator $role, $title", $since, @cells);
	$c->set_system($on, 'fleet.fault', undef) if actors(qr/resolver/, @cells) && $fault ne 'error';
	for my $cell (@cells)
	{
		$outcome{"$role $fault $victim $cell->{step}"} = $word{ $cell->{place} } // 'WRONG';
		push @times, $cell->{took} // $FleetChecks::HEAL_DEADLINE;
		}
}

# The resolver can be at one step only, and a killed backend takes its server
# with it: these are batches of their own.
sub run_column
{
	my ($role, $column) = @_;
	my ($fault, $victim) = @$column;
	my @names = grep { !reason($role, $_, $fault, $victim) } map { $_->[0] } @steps;
	my @apart = grep { $_ eq 'before-settle-source' || $fault eq 'kill' && $actor{$_} eq 'participant' } @names;
	my %apart = map { $_ => 1 } @apart;

	run_batch($role, $column, grep { !$apart{$_} } @names);
	run_batch($role, $column, grep { $_ ne 'before-settle-source' } @apart);
	run_batch($role, $column, grep { $_ eq 'before-settle-source' } @apart);
}

$c->sql('a', "SELECT fleet.handoff(ARRAY['" . join("','", @settled) . "'], 'b')");
ok(defined $c->heal, 'rides whose handoff is over');
my $only = $ENV{MATRIX_ONLY} // '';
for my $role (@roles)
{
	for my $column (columns($role))
	{
		run_column($role, $column) if "$role $column->[0] $column->[1]" =~ /$only/;
	}
}
$c->check_all('in the end');

# ---- the document

# The table of a role.
sub table
{
	my ($role) = @_;
	my @columns = columns($role);
	my $text = '| step | ' . join(' | ', map { $_->[2] } @columns) . " |\n|" . ' --- |' x (@columns + 1) . "\n";

	for my $step (@steps)
	{
		my @cells = map {
			my $reason = reason($role, $step->[0], $_->[0], $_->[1]);
			$reason ? "n/a $reason" : $outcome{"$role $_->[0] $_->[1] $step->[0]"} // '?'
		} @columns;
		$text .= "| $step->[2] | " . join(' | ', @cells) . " |\n";
	}
	return $text;
}

sub outcomes
{
	my $text = join '', map { "### The coordinator is the " . ($_ eq 'third' ? 'third node' : "$_") . "\n\n" . table($_) . "\n" } @roles;
	my $n = 0;
	return $text . "Where it says n/a:\n\n" . join '', map { ++$n . ". $_\n" } @reasons;
}

my $text = -f $document ? PostgreSQL::Test::Utils::slurp_file($document) : '';
my ($published) = $text =~ /<!-- begin: outcomes -->\n\n(.*?)\n<!-- end: outcomes -->/s;

# What the document says of a cell.
sub published
{
	my ($role, $column, $step) = @_;
	my ($table) = ($published // '') =~ /^### The coordinator is the $role\b(.*?)\n\n(?:###|Where)/ms;
	my ($titles, undef, @rows) = ($table // '') =~ /^\| (.*) \|$/mg;
	my ($row) = grep { $steps[$_] == $step } 0 .. $#steps;    # titles of steps are not unique
	my @titles = split / \| /, $titles // '';
	my @words = split / \| /, $rows[$row] // '';
	my ($i) = grep { $titles[$_] eq $column->[2] } 0 .. $#titles;

	return defined $i ? $words[$i] // '' : '';
}

# A signal and a message may be on their way to one backend at the same time, and
# on a busy machine now and then the other one is first.  Either end is right, and
# was judged so; for the comparison the cell is tried again.
if ($only eq '' && !$ENV{FLEET_WRITE_MATRIX})
{
	for my $role (@roles)
	{
		for my $column (columns($role))
		{
			my ($fault, $victim) = @$column;
			for my $step (grep { !reason($role, $_->[0], $fault, $victim) } @steps)
			{
				for (1 .. 2)
				{
					last if $outcome{"$role $fault $victim $step->[0]"} eq published($role, $column, $step);
					diag("again: coordinator $role, $column->[2], $step->[2]");
					run_batch($role, $column, $step->[0]);
				}
			}
		}
	}
}

@times = sort { $a <=> $b } @times;
sub percentile { return $times[ int($#times * $_[0] / 100 + 0.5) ] }
my $figures = sprintf "%d cells: p50 %.2f s, p99 %.2f s, max %.2f s.\n", scalar @times, percentile(50), percentile(99), $times[-1];

note($_) for split /\n/, outcomes();
diag("time to resolve, $figures");
cmp_ok(percentile(99), '<', MAX_SECONDS, 'p99 of the time to resolve');
cmp_ok($times[-1], '<', MAX_SECONDS, 'the longest time to resolve');

sub block { my ($name, $new) = @_; return qr/(<!-- begin: \Q$name\E -->\n).*?(<!-- end: \Q$name\E -->)/s }

if (my $file = $ENV{FLEET_WRITE_MATRIX})
{
	$text =~ s/${\block('outcomes')}/$1\n${\outcomes()}\n$2/ or BAIL_OUT("$document has no place for the outcomes");
	$text =~ s/${\block('times')}/$1$figures$2/ or BAIL_OUT("$document has no place for the times");
	open(my $fh, '+<', $file) or BAIL_OUT("$file: $!");
	truncate $fh, 0;
	print {$fh} $text;
	close $fh;
}
elsif ($only eq '')
{
	is(outcomes(), $published // '', 'docs/crash-matrix.md shows what happens');
}

done_testing();
