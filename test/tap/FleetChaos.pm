# fleet: what the random run is made of: decisions, a diary, sessions, checkers.
# Copyright (c) 2026, the fleet authors
#
# decide(seed, who, n) sets the random generator, so that the n-th decision of an
# actor is a function of the seed, whatever has become of those before it.  So a
# seed names a run: the same actors do the same things in the same order.  Only
# their timing differs.
#
# Each actor is a process of its own and writes a diary, a line for each thing
# that it does and one for what came of it, with the time.
#
# The checkers claim only what must hold at any time, not just in the end:
#
# * The reader looks at one node after the other, each in a snapshot of its own,
#   and remembers.  What it has seen at different times can be compared where
#   it is a matter of history: an epoch belongs to one region for ever, a version
#   has one content for ever, what a node knows of a row never gets older and
#   is never forgotten, and what is settled at its source has arrived.
# * The auditor locks the tables of all nodes against writers.  A branch that is
#   prepared or not committed holds a lock on them, so once it has all locks at
#   the same time no handoff is under way anywhere, and each row has to be
#   live exactly once, with no money lost or made.

package FleetChaos;

use strict;
use warnings;

use Digest::MD5 qw(md5);
use Time::HiRes qw(time);

sub decide
{
	my ($seed, $who, $n) = @_;
	srand(unpack 'L', md5("$seed $who $n"));
}

sub pick { return $_[ int(rand(@_)) ] }

# ---- trouble

sub end_sessions
{
	my ($cluster, $node, $function, $which) = @_;
	$cluster->try_sql($node, "SELECT count($function(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $which", timeout => 10);
}

# Until its end, one trouble after the other: each takes a node and a number below
# 1, so that what is drawn does not depend on what has happened.  Then a pause, by
# a number below 1.  Returns how often each was made.
sub make_trouble
{
	my ($cluster, $seed, $diary, $end, $trouble, $pause) = @_;
	my %done;

	for (my $n = 1; time < $end; $n++)
	{
		decide($seed, 'trouble', $n);
		my ($what, $node, $x, $long) = (pick(sort keys %$trouble), pick($cluster->names), rand, rand);

		$diary->note("#$n $what at $node ($x)");
		# What asks a server that is just starting fails: no harm.
		my $is_done = eval { $trouble->{$what}->($node, $x); 1 };
		$done{$what}++ if $is_done;
		$diary->note("#$n " . ($is_done ? 'done' : "failed: $@"));
		$pause->($long);
	}
	return %done;
}

# ---- the diary of one actor

package FleetChaos::Diary;

use strict;
use warnings;

use IO::Handle;
use Time::HiRes qw(time);

sub new
{
	my ($class, $folder, $who, $start) = @_;
	open(my $fh, '>>', "$folder/$who.diary") or die "$folder/$who.diary: $!";
	$fh->autoflush(1);
	return bless { fh => $fh, who => $who, start => $start, problems => 0 }, $class;
}

# One line: seconds since the start, who, what.
sub note
{
	my ($self, $text) = @_;
	$text =~ s/\s*\n\s*/ | /g;
	printf { $self->{fh} } "%9.3f %-8s %s\n", time - $self->{start}, $self->{who}, $text;
}

# Something that must never be.  A broken rule breaks again and again: the first
# ones tell.
sub problem
{
	my ($self, $text) = @_;
	$self->note("PROBLEM $text") if ++$self->{problems} <= 20;
}

# The lines of all actors, in the order of their times.
sub read_all
{
	my ($folder) = @_;
	my @lines;
	for my $file (glob "$folder/*.diary")
	{
		open(my $fh, '<', $file) or die "$file: $!";
		push @lines, <$fh>;
	}
	# Perl's sort keeps the order of lines with the same time.
	return map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ /^\s*([\d.]+)/ ? $1 : 0, $_ ] } @lines;
}

# ---- a psql session that lives until its server dies

package FleetChaos::Session;

use strict;
use warnings;

use IO::Handle;
use IPC::Open2;
use Time::HiRes qw(time);

my $marks = 0;

sub new
{
	my ($class, $cluster, $node, $name) = @_;
	return bless { conninfo => $cluster->conninfo($node), name => $name }, $class;
}

sub open_psql
{
	my ($self) = @_;
	local $ENV{PGAPPNAME} = $self->{name};
	local $ENV{PGCONNECT_TIMEOUT} = 10;
	my @command = ('sh', '-c', 'exec psql -XAt -v VERBOSITY=verbose -d "$0" 2>&1', $self->{conninfo});
	$self->{pid} = open2(my $out, my $in, @command);
	$in->autoflush(1);
	@$self{qw(in out buffer)} = ($in, $out, '');
}

sub close_psql
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	close $self->{in};
	close $self->{out};
	waitpid delete $self->{pid}, 0;
}

# Run statements once, never twice.  Returns {state, out, errors}: state is 'done',
# 'lost' where the connection ended before the answer, 'late' where there was
# none in time; errors are the SQLSTATEs.
sub run
{
	my ($self, $sql, $seconds) = @_;
	my $deadline = time + $seconds;
	my $mark = '=== ' . ++$marks . " ===\n";
	my ($state, $end) = ('done', -1);

	local $SIG{PIPE} = 'IGNORE';
	$self->open_psql unless $self->{pid};
	print { $self->{in} } "$sql\n;\n\\echo '" . substr($mark, 0, -1) . "'\n";
	while (($end = index $self->{buffer}, $mark) < 0)
	{
		vec(my $ready = '', fileno($self->{out}), 1) = 1;
		my $left = $deadline - time;
		$state = 'late' if $left <= 0 || !select($ready, undef, undef, $left);
		last if $state eq 'late';
		next if sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer});
		$state = 'lost';
		last;
	}
	my $text = $end < 0 ? $self->{buffer} : substr($self->{buffer}, 0, $end);
	$self->{buffer} = '';
	# psql may go on to the mark without a connection.
	$state = 'lost' if $state eq 'done'
	  && $text =~ /server closed the connection|connection to server was lost|^(?:WARNING|FATAL):\s+57P0/m;
	$self->close_psql if $state ne 'done';
	my @errors = $text =~ /^(?:psql:\S+ )?(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):/mg;
	return { state => $state, out => $text, errors => \@errors };
}

# The rows of a query, or nothing where there was no proper answer.
sub rows
{
	my ($self, $sql, $seconds) = @_;
	my $answer = $self->run($sql, $seconds);
	return if $answer->{state} ne 'done' || @{ $answer->{errors} };
	return [ map { [ split /\|/, $_, -1 ] } split /\n/, $answer->{out} ];
}

# ---- the reader

package FleetChaos::Reader;

use strict;
use warnings;

# What a node knows of each row, in one snapshot.  Live rows, then departures:
# row, what, epoch, stamp, region (of a departure its target), fare, settled.
sub look_sql
{
	my ($node) = @_;
	return <<"SQL";
SELECT 'ride ' || ride_id, 'live', epoch, hlc::bigint, region, fare::text, false FROM fleet.local_rides
UNION ALL SELECT 'vehicle ' || vehicle_id, 'live', epoch, hlc::bigint, region, '', false FROM fleet.local_vehicles
UNION ALL SELECT kind || ' ' || key, CASE WHEN target IS NULL THEN 'grave' ELSE 'gone' END, epoch, hlc::bigint,
	coalesce(target, '$node'), coalesce(image->>'fare', ''), settled_hlc IS NOT NULL FROM fleet.departures
SQL
}

sub new
{
	my ($class, $diary) = @_;
	return bless { diary => $diary, known => {}, owner => {}, content => {}, settled => {}, looks => 0 }, $class;
}

# Take in what one node had to say; rows as of look_sql.
sub take_in
{
	my ($self, $node, $rows) = @_;
	my %now;

	for my $row (@$rows)
	{
		my ($key, $what, $epoch, $hlc, $region, $fare) = @$row;
		my $seen = "$key epoch $epoch is $what at $node";

		$self->check_row($node, $row, $seen);
		if (my $other = $now{$key})
		{
			$self->{diary}->problem("$seen, and at the same time $other->{what} at epoch $other->{epoch}");
			next if $other->{epoch} > $epoch;
		}
		$now{$key} = { what => $what, epoch => $epoch, hlc => $hlc };
	}
	$self->check_memory($node, \%now);
	$self->{known}{$node} = \%now;
	$self->{looks}++;
}

# What a row says of history must be what all others have said.
sub check_row
{
	my ($self, $node, $row, $seen) = @_;
	my ($key, $what, $epoch, $hlc, $region, $fare, $settled) = @$row;

	$self->is_for_ever('owner', "$key epoch $epoch", $region, $seen);
	# A departure is also the word of who had the epoch before.
	$self->is_for_ever('owner', "$key epoch " . ($epoch - 1), $node, $seen) if $what eq 'gone';
	$self->is_for_ever('content', "$key epoch $epoch stamp $hlc", $fare, $seen) if $what ne 'grave';
	$self->{settled}{$region}{$key} = $epoch
	  if $settled eq 't' && $what eq 'gone' && $epoch > ($self->{settled}{$region}{$key} // 0);
}

sub is_for_ever
{
	my ($self, $what, $of, $value, $seen) = @_;
	my $first = $self->{$what}{$of} //= "$value";
	$self->{diary}->problem("$seen: $what of $of is $value, but has been $first") if $first ne $value;
}

# A node forgets nothing and its versions only grow.  What was seen settled
# before this look has to be known to its target in it.
sub check_memory
{
	my ($self, $node, $now) = @_;
	my $before = $self->{known}{$node} // {};
	my $settled = delete $self->{settled_before}{$node} // {};

	for my $key (keys %$before)
	{
		my ($old, $new) = ($before->{$key}, $now->{$key});
		if (!$new)
		{
			$self->{diary}->problem("$node has forgotten $key, which was $old->{what} at epoch $old->{epoch}");
		}
		elsif ($new->{epoch} < $old->{epoch}
			|| $new->{epoch} == $old->{epoch} && $new->{what} eq $old->{what} && $new->{hlc} < $old->{hlc})
		{
			$self->{diary}->problem("$node has $key $new->{what} at ($new->{epoch}, $new->{hlc}), "
				. "before it was $old->{what} at ($old->{epoch}, $old->{hlc})");
		}
	}
	for my $key (keys %$settled)
	{
		my $epoch = $now->{$key} ? $now->{$key}{epoch} : 0;
		$self->{diary}->problem("$key is settled at its source with epoch $settled->{$key}, but $node has epoch $epoch")
		  if $epoch < $settled->{$key};
	}
}

# Call it before the query is sent.
sub before_look
{
	my ($self, $node) = @_;
	$self->{settled_before}{$node} = { %{ $self->{settled}{$node} // {} } };
}

# ---- the auditor

package FleetChaos::Auditor;

use strict;
use warnings;

use Time::HiRes qw(time);

# new(cluster, diary, must => [rows], may => qr/rows/, sum => money): the rows in
# must are to be live once, those that match may at most once.
sub new
{
	my ($class, $cluster, $diary, %opt) = @_;
	my %sessions = map { $_ => FleetChaos::Session->new($cluster, $_, 'auditor') } $cluster->names;
	return bless { %opt, diary => $diary, sessions => \%sessions, nodes => [ $cluster->names ] }, $class;
}

# Lock all nodes and count; true if it came to that.
sub audit
{
	my ($self, @order) = @_;
	my $complete = 1;
	my @rows;

	for my $node (@order)
	{
		my $answer = $self->{sessions}{$node}->run("BEGIN; SET LOCAL lock_timeout = 400;"
			. " LOCK TABLE fleet.local_rides, fleet.local_vehicles IN SHARE MODE", 1);
		$complete &&= $answer->{state} eq 'done' && !@{ $answer->{errors} };
		last unless $complete;
	}
	for my $node ($complete ? @order : ())
	{
		my $rows = $self->{sessions}{$node}->rows("SELECT 'ride ' || ride_id, fare FROM fleet.local_rides"
			. " UNION ALL SELECT 'vehicle ' || vehicle_id, 0 FROM fleet.local_vehicles", 1);
		$complete &&= $rows;
		push @rows, map { [ $node, @$_ ] } @{ $rows // [] };
	}
	# Its locks go with a session: those that are there now were there all along.
	for my $node (grep { $self->{sessions}{$_}{pid} } @order)
	{
		my $answer = $self->{sessions}{$node}->run('ROLLBACK', 1);
		$complete &&= $answer->{state} eq 'done' && $answer->{out} =~ /^ROLLBACK$/m && $answer->{out} !~ /WARNING/;
	}
	$self->count(\@rows) if $complete;
	return $complete;
}

sub count
{
	my ($self, $rows) = @_;
	my (%places, $sum);

	for my $row (@$rows)
	{
		my ($node, $key, $fare) = @$row;
		push @{ $places{$key} }, $node;
		$sum += $fare;
	}
	for my $key (@{ $self->{must} })
	{
		my @at = @{ delete $places{$key} // [] };
		$self->{diary}->problem("audit: $key is at (@at)") if @at != 1;
	}
	for my $key (keys %places)
	{
		my @at = @{ $places{$key} };
		$self->{diary}->problem("audit: $key is at (@at)") if @at != 1 || $key !~ $self->{may};
	}
	$self->{diary}->problem("audit: fares sum up to $sum, not $self->{sum}") if $sum != $self->{sum};
}

sub close_all { $_->close_psql for values %{ $_[0]{sessions} } }

1;
