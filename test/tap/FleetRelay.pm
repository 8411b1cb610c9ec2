# fleet: a network between the nodes of a test that can be bad.
# Copyright (c) 2026, the fleet authors
#
# A FleetRelay is one process that stands on any number of links.  A link is a
# Unix socket that it listens on and the socket of a server; each connection
# to the first is passed on to the second.  Links are told by name what to do:
#
#	pass	forward, after the delay that is set.
#	cut		close the connections there are, and each new one at once, as a
#			network does that answers for a host that is gone.
#	hole	neither forward nor close: nothing that is sent arrives, nothing
#			comes back, and who closes his end is not heard of.  New connections
#			are taken and stay silent.  After it, pass delivers what was held
#			back, late, as TCP does, and then the end of the connections that were
#			closed meanwhile; cut loses it.
#
# Where it differs from a real network: the kernel of the sender believes that
# its bytes were taken, because the relay's socket holds them; so no timeout of
# TCP is ever reached.
#
# It counts bytes and round trips of each connection, as its client sees them: a
# trip begins when the client sends after it has received something, or for the
# first time.  What is sent one after the other without waiting is one trip.

package FleetRelay;

use strict;
use warnings;

use IO::Handle;
use IO::Socket::UNIX;
use POSIX ();
use Socket;
use Time::HiRes qw(time);

# Nobody reads more of a connection that far ahead of what could be written.
use constant MAX_HELD => 1 << 20;

# ---- the test's side

sub new
{
	my ($class) = @_;

	socketpair(my $here, my $there, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		let_go_of_files(fileno $there);
		eval { serve($there); 1 } or print STDERR "relay: $@";
		POSIX::_exit(0);
	}
	close $there;
	$here->autoflush(1);
	return bless { pid => $pid, control => $here }, $class;
}

# Among the test's files are pipes whose readers wait for their end.  They are
# replaced and not closed: Perl would still count them as open, and then not
# close a socket that gets the same number.
sub let_go_of_files
{
	my ($but) = @_;
	my $null = POSIX::open('/dev/null', POSIX::O_RDWR) // die "/dev/null: $!";
	my @files = grep { $_ > 2 && $_ != $but && $_ != $null } map { m,(\d+)$, } glob '/proc/self/fd/*';

	POSIX::dup2($null, $_) for grep { -e "/proc/self/fd/$_" } @files;
}

# One command, its answer.
sub tell
{
	my ($self, @words) = @_;

	local $SIG{PIPE} = 'IGNORE';
	print { $self->{control} } join("\t", @words), "\n";
	my $answer = readline $self->{control} // die "the relay is gone";
	chomp $answer;
	die "relay: $answer" unless $answer =~ s/^ok ?//;
	return $answer;
}

# Begin to listen on a path for connections to another.
sub link { my ($self, $name, $path, $to) = @_; $self->tell('link', $name, $path, $to) }

sub pass { $_[0]->tell('mode', $_[1], 'pass') }
sub cut { $_[0]->tell('mode', $_[1], 'cut') }
sub hole { $_[0]->tell('mode', $_[1], 'hole') }

# Milliseconds each way.
sub delay { $_[0]->tell('delay', $_[1], $_[2]) }

# Count anew from now on.
sub mark { $_[0]->tell('mark', $_[1]) }

# What went over each connection since the mark that carried anything:
# {sent, received, trips}.  Connections that were closed meanwhile count, too.
sub counts
{
	my ($self, $name) = @_;
	return map { my %c; @c{ 'sent', 'received', 'trips' } = split /,/; \%c } split / /, $self->tell('counts', $name);
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	close $self->{control};
	waitpid delete $self->{pid}, 0;
}

# ---- the relay's side

my (%links, %connections);    # by name; by number
my $number = 0;

# A connection has two ends, 0 the client's and 1 the server's, and what is on
# its way to each: chunks as [due, bytes], where undef bytes are the end.
sub accept_one
{
	my ($link) = @_;
	my $client = $link->{listen}->accept or return;

	return if $link->{mode} eq 'cut';
	# Without blocking: the queue of a server that is stopped may be full.
	my $server = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $link->{to}, Blocking => 0) or return;
	$client->blocking(0);
	my $c = { number => ++$number, link => $link, ends => [ $client, $server ], queue => [ [], [] ],
		held => [ 0, 0 ], eof => [ 0, 0 ] };
	reset_count($c);
	$connections{$number} = $c;
}

sub reset_count
{
	my ($c) = @_;
	@$c{qw(sent received trips waiting)} = (0, 0, 0, 0);
}

sub close_one
{
	my ($c) = @_;
	push @{ $c->{link}{closed} }, $c if $c->{sent} + $c->{received} > 0;
	delete $connections{ $c->{number} };
	close $_ for @{ delete $c->{ends} };
}

# Read from one end, for the other.
sub take
{
	my ($c, $end) = @_;
	my $n = sysread $c->{ends}[$end], my $bytes, 65536;

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	$c->{eof}[$end] = 1 unless $n;
	if ($n && $end == 0)
	{
		$c->{sent} += $n;
		$c->{trips}++ unless $c->{waiting};
		$c->{waiting} = 1;
	}
	$c->{held}[ 1 - $end ] += $n // 0;
	push @{ $c->{queue}[ 1 - $end ] }, [ time + $c->{link}{delay} / 1000, $n ? $bytes : undef ];
}

# Write to one end what is due.
sub give
{
	my ($c, $end) = @_;
	my $queue = $c->{queue}[$end];

	while (@$queue && $queue->[0][0] <= time)
	{
		return close_one($c) unless defined $queue->[0][1];
		my $n = syswrite $c->{ends}[$end], $queue->[0][1];
		return if !defined $n && ($!{EAGAIN} || $!{EINTR});
		return close_one($c) if !defined $n;
		if ($end == 0)
		{
			$c->{received} += $n;
			$c->{waiting} = 0;
		}
		$c->{held}[$end] -= $n;
		substr($queue->[0][1], 0, $n, '');
		shift @$queue if $queue->[0][1] eq '';
	}
}

my %commands = (
	link => sub {
		my ($name, $path, $to) = @_;
		unlink $path;
		my $listen = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $path, Listen => 64) or die "$path: $!\n";
		$links{$name} = { listen => $listen, to => $to, mode => 'pass', delay => 0, closed => [] };
		return '';
	},
	mode => sub {
		my ($link, $mode) = @_;
		$link->{mode} = $mode;
		close_one($_) for $mode eq 'cut' ? connections_of($link) : ();
		return '';
	},
	delay => sub { $_[0]{delay} = $_[1]; return '' },
	mark => sub { $_[0]{closed} = []; reset_count($_) for connections_of($_[0]); return '' },
	counts => sub {
		return join ' ', map { "$_->{sent},$_->{received},$_->{trips}" }
		  grep { $_->{sent} + $_->{received} > 0 } @{ $_[0]{closed} }, connections_of($_[0]);
	},
);

sub connections_of
{
	my ($link) = @_;
	return grep { $_->{link} == $link } @connections{ sort { $a <=> $b } keys %connections };
}

sub obey
{
	my ($line) = @_;
	my ($verb, $name, @rest) = split /\t/, $line;
	my $what = $verb eq 'link' ? $name : $links{$name} // die "no link $name\n";
	return $commands{$verb}->($what, @rest);
}

# Which sockets are worth looking at, and for how long at the most.
sub interests
{
	my ($control) = @_;
	my ($read, $write, $wait) = ('', '', 10);
	my $now = time;

	vec($read, fileno $_, 1) = 1 for $control, map { $_->{listen} } grep { $_->{mode} ne 'hole' } values %links;
	for my $c (grep { $_->{link}{mode} eq 'pass' } values %connections)
	{
		for my $end (0, 1)
		{
			vec($read, fileno $c->{ends}[$end], 1) = 1 if !$c->{eof}[$end] && $c->{held}[ 1 - $end ] < MAX_HELD;
			my $next = $c->{queue}[$end][0] // next;
			if ($next->[0] <= $now) { vec($write, fileno $c->{ends}[$end], 1) = 1 }
			elsif ($next->[0] - $now < $wait) { $wait = $next->[0] - $now }
		}
	}
	return ($read, $write, $wait);
}

sub serve
{
	my ($control) = @_;
	my $buffer = '';

	$SIG{PIPE} = $SIG{INT} = $SIG{TERM} = 'IGNORE';
	while (1)
	{
		my ($read, $write, $wait) = interests($control);
		next if select($read, $write, undef, $wait) < 0;
		if (vec $read, fileno $control, 1)
		{
			sysread($control, $buffer, 4096, length $buffer) or return;    # the test has ended
			while ($buffer =~ s/^(.*)\n//)
			{
				my $answer = eval { 'ok ' . obey($1) } // $@;
				chomp $answer;
				syswrite $control, "$answer\n";
			}
			next;    # a socket that was looked at may be closed by now
		}
		for my $link (values %links)
		{
			accept_one($link) if vec $read, fileno $link->{listen}, 1;
		}
		for my $c (values %connections)
		{
			next if $c->{link}{mode} ne 'pass';
			for my $end (0, 1)
			{
				take($c, $end) if $c->{ends} && !$c->{eof}[$end] && vec $read, fileno $c->{ends}[$end], 1;
				give($c, 1 - $end) if $c->{ends};
			}
			for my $end (0, 1)
			{
				give($c, $end) if $c->{ends};
			}
		}
	}
}

1;
