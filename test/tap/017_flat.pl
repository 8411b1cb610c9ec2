# fleet: what a session keeps does not grow with its handoffs.
# Copyright (c) 2026, the fleet authors
#
# One session hands the same rides off and back, HANDOFFS (3000) times.  Proves:
# after a first part of them, neither the session nor its participant's backend
# takes more memory or file descriptors, as the memory contexts and the kernel
# count them, and no server keeps a prepared transaction or a decision.

use strict;
use warnings;

use FleetCluster;
use Test::More;

my $handoffs = $ENV{HANDOFFS} || 3000;
my $part = int($handoffs / 6);
my $c = FleetCluster->new;
my @rides = $c->add_rides('a', 'flat-1', 'flat-2');

# Bytes in memory contexts, anonymous memory in kB, open files.
my $use = <<'SQL' =~ s/\s+/ /gr;
SELECT (SELECT sum(total_bytes) FROM pg_backend_memory_contexts) || ' '
	|| (regexp_match(pg_read_file('/proc/self/status'), 'RssAnon:\s+(\d+)'))[1] || ' '
	|| (SELECT count(*) FROM pg_ls_dir('/proc/self/fd'))
SQL

# fleet_node may not look at these: what it calls looks for it.
$c->sql('b', "CREATE FUNCTION public.use() RETURNS text SECURITY DEFINER LANGUAGE sql AS \$x\$$use\$x\$");

my $sql = '';
for my $n (1 .. $handoffs / 2)
{
	my $ride = $rides[ $n % @rides ];

	$sql .= "SELECT fleet.handoff('$ride', 'b');\nSELECT fleet.handoff('$ride', 'a');\n";
	$sql .= "SELECT 'use', $n * 2, ($use), fleet.ask('b', 'SELECT public.use()');\n" if $n % $part == 0;
}
my $result = $c->try_sql('a', $sql, timeout => 600);
ok($result->{ok}, "$handoffs handoffs of one session") or diag($result->{err});
is(scalar(() = $result->{out} =~ /^\d+$/mg), $handoffs, 'each returned its epoch');

my @use = map { [ split /[| ]/ ] } $result->{out} =~ /^use\|(.*)$/mg;
cmp_ok(scalar @use, '>=', 3, 'what the sessions use was looked at ' . @use . ' times');
note("after $_->[0]: session @$_[1, 2, 3], participant @$_[4, 5, 6] (bytes in contexts, kB anonymous, files)") for @use;

# The first look is after a third of the handoffs: by then all is warm.
for my $who ([ 'the session', 1 ], [ 'its participant', 4 ])
{
	my ($name, $at) = @$who;
	my ($first, $last) = @use[ 0, -1 ];

	cmp_ok($last->[$at] - $first->[$at], '<=', 65536, "$name: memory contexts are flat");
	cmp_ok($last->[ $at + 1 ] - $first->[ $at + 1 ], '<=', 1024, "$name: anonymous memory is flat");
	# Files of tables and indexes come and go; a leak would be of hundreds.
	cmp_ok($last->[ $at + 2 ] - $first->[ $at + 2 ], '<=', 16, "$name: no more open files");
}
$c->check_all('in the end');
done_testing();
