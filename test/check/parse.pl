# fleet: read C and SQL well enough for the checks; no check has its own parser.
# Copyright (c) 2026, the fleet authors
#
#   parse.pl strip FILE...       C without comments: "file:line:text" per line
#   parse.pl functions FILE...   "file:line name lines" per C function
#   parse.pl reports FILE...     "file:line text" per ereport() or elog() call
#   parse.pl statements FILE     one SQL statement per line, without comments
#
# House style makes it simple: a C function's braces stand in the first column.

use strict;
use warnings;

sub slurp
{
    my ($file) = @_;
    open(my $in, '<', $file) or die "cannot read $file: $!\n";
    local $/;
    return scalar <$in>;
}

# Blank out comments, keep line numbers and strings.
sub strip_c
{
    my ($text) = @_;
    $text =~ s{("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(/\*.*?\*/|//[^\n]*)}
              {defined $1 ? $1 : $2 =~ s/[^\n]+/ /gr}gse;
    return $text;
}

sub cmd_strip
{
    foreach my $file (@_)
    {
        my $line = 0;
        print "$file:" . ++$line . ":$_\n" foreach split(/\n/, strip_c(slurp($file)));
    }
}

sub cmd_functions
{
    foreach my $file (@_)
    {
        my ($number, $start, $name, $head) = (0, 0, '', '');
        foreach my $line (split(/\n/, strip_c(slurp($file))))
        {
            $number++;
            if ($line =~ /^\{/)
            {
                $start = $number;
                ($name) = $head =~ /(\w+)\s*\(/;
            }
            elsif ($line =~ /^\}/)
            {
                # A type or an initialiser ends with more than the brace.
                print "$file:$start $name " . ($number - $start + 1) . "\n"
                  if $line =~ /^\}\s*$/ && defined $name;
            }
            if ($line =~ /^\w/)     { $head = $line }
            elsif ($line =~ /^\s+\S/) { $head .= $line }
            else                      { $head = '' }
        }
    }
}

sub cmd_reports
{
    foreach my $file (@_)
    {
        my $text = strip_c(slurp($file));
        while ($text =~ /\b(?:ereport|ereport_domain|elog)\s*(\((?:[^()"]++|"(?:\\.|[^"\\])*+"|(?1))*+\))/g)
        {
            my $call = $&;
            my $line = 1 + (substr($text, 0, $-[0]) =~ tr/\n//);
            $call =~ s/\s+/ /g;
            print "$file:$line $call\n";
        }
    }
}

# A function body in $$ or between BEGIN ATOMIC and END is part of its statement.
sub cmd_statements
{
    my ($file) = @_;
    my $text = slurp($file);
    my ($statement, $depth, $atomic) = ('', 0, 0);
    while ($text =~ /\G(--[^\n]*|\/\*.*?\*\/|^\\[^\n]*|'(?:[^']|'')*'|"[^"]*"|\$(\w*)\$.*?\$\g{-1}\$|\w+|\s+|.)/gsm)
    {
        my $token = $1;
        next if $token =~ m{^(--|/\*|\\)};
        $atomic = 1 if $token =~ /^atomic$/i && $statement =~ /\bbegin\s+$/i;
        $depth++ if $atomic && $token =~ /^(atomic|case)$/i;
        $depth-- if $atomic && $token =~ /^end$/i;
        if ($token eq ';' && $depth <= 0)
        {
            $statement =~ s/\s+/ /g;
            $statement =~ s/^ | $//g;
            print "$statement\n" if $statement ne '';
            ($statement, $depth, $atomic) = ('', 0, 0);
            next;
        }
        $statement .= $token;
    }
    die "$file ends within a statement: " . substr($statement, 0, 80) . "\n"
      if $statement =~ /\S/;
}

my %commands = (
    strip => \&cmd_strip, functions => \&cmd_functions,
    reports => \&cmd_reports, statements => \&cmd_statements);
my $command = $commands{ shift(@ARGV) // '' } or die "usage: parse.pl COMMAND FILE...\n";
$command->(@ARGV);
