#!/usr/bin/perl
# fleet: follow a change stream into a file, second half: each event once.
# Copyright (c) 2026, the fleet authors
#
#   once.pl SPOOL OUT [SECONDS]
#
# Appends to OUT each event of SPOOL that it does not have, until it is stopped or,
# where SECONDS is given, nothing came for so long.  May be killed at any time: OUT
# itself is what it remembers.  A consumer that writes to a database would do the
# same with a unique index on the id, in the transaction of its own writes.

use strict;
use warnings;

use IO::Handle;
use JSON::PP qw(decode_json);

my ($spool, $out, $patience) = @ARGV;
die "usage: once.pl SPOOL OUT [SECONDS]\n" unless defined $out;

# The id of a line; undef where a kill has cut it short.
sub id_of
{
	my $event = eval { decode_json($_[0]) };
	return ref $event eq 'HASH' ? $event->{id} : undef;
}

# What OUT has, without a last line that is not whole.
my %seen;
my $whole = 0;
open(my $to, '+>>:raw', $out) or die "$out: $!\n";
seek $to, 0, 0;
while (my $line = <$to>)
{
	last unless $line =~ /\n\z/;
	$seen{ id_of($line) } = 1;
	$whole += length $line;
}
truncate $to, $whole or die "$out: $!\n";
seek $to, 0, 2;

# Reads on where the file ended, whole lines only.
my ($from, $rest, $idle) = (undef, '', 0);
while (1)
{
	open($from, '<:raw', $spool) unless defined $from && defined fileno $from;
	my $fresh = '';

	if (defined $from && defined fileno $from)
	{
		while (sysread $from, $rest, 65536, length $rest)
		{
			while ($rest =~ s/\A([^\n]*\n)//)
			{
				my $id = id_of($1);
				$fresh .= $1 if defined $id && !$seen{$id}++;
			}
		}
	}
	if ($fresh ne '')
	{
		print {$to} $fresh or die "$out: $!\n";
		$to->flush && $to->sync or die "$out: $!\n";
		$idle = 0;
		next;
	}
	exit 0 if defined $patience && $idle > $patience;
	select undef, undef, undef, 0.1;
	$idle += 0.1;
}
