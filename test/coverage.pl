# fleet: sum up what gcov says, for test/coverage.sh.
# Copyright (c) 2026, the fleet authors
#
#   coverage.pl MIN_PERCENT LIST <gcov's JSON, one document a line
#
# A file may be compiled more than once, into the library and into unit tests: a
# line counts as executed where any of them did so.

use strict;
use warnings;

use JSON::PP ();

my ($min, $list) = @ARGV;
my $json = JSON::PP->new;
my %lines;    # file, line => how often

while (my $text = <STDIN>)
{
	for my $file (@{ $json->decode($text)->{files} })
	{
		my ($name) = $file->{file} =~ m{(?:^|/)(src/.*)} or next;
		$lines{$name}{ $_->{line_number} } += $_->{count} for @{ $file->{lines} };
	}
}

open(my $missed, '>', $list) or die "$list: $!";
my ($all, $done) = (0, 0);
for my $name (sort keys %lines)
{
	my $counts = $lines{$name};
	my @not = sort { $a <=> $b } grep { !$counts->{$_} } keys %$counts;
	my $n = keys %$counts;

	$all += $n;
	$done += $n - @not;
	printf "%6.1f %%  %4d of %4d  %s\n", 100 * ($n - @not) / $n, $n - @not, $n, $name;
	open(my $source, '<', $name) or die "$name: $!";
	my @text = <$source>;
	print $missed "$name:$_: $text[$_ - 1]" for @not;
}
die "no line was counted\n" if $all == 0;
my $percent = 100 * $done / $all;
printf "%6.2f %%  %4d of %4d  total, at least %s %% are wanted\n", $percent, $done, $all, $min;
exit($percent >= $min ? 0 : 1);
