# fleet: no false alarm in 200 checks, while rides are written and handed off.
# Copyright (c) 2026, the fleet authors
#
# 120 checks on the replica, which now and then is late, and 80 on a region, at the same time, and comparisons
# of whole tables.
# Then the second look is taken out, and there are false alarms: the load is one that
# causes them.

use strict;
use warnings;

use FleetCluster;
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(nodes => 4, replica => 1, settings => "fleet.heartbeat_interval = 50ms\n");
my $g = $c->{replica};
my @load = ('rides=400', 'hot=60', 'handoffs=60', 'writes=250');

is(FleetReplica::run_client($c, 'load', 'rides=400')->{ok}, 1, 'rides are there');
$c->sql('a', add_replica($c));
$c->wait_until(sub { is_ready($c) }, 'the replica is ready');

my $storm = start_storm($c, 60, @load);
# Now and then the replica is late.
my $brake = $c->start_sql($g, "BEGIN; LOCK TABLE fleet.local_rides IN SHARE MODE; SELECT pg_sleep(0.3); COMMIT; SELECT pg_sleep(1);\n" x 35, timeout => 100);
sleep 1;

# checks(node, how many): one transaction each
sub start_checks
{
	my ($node, $n) = @_;
	return $c->start_sql($node, "SELECT 'check', missing + extra + stale + differing + distant + doubled + lost + astray, undecided, checked, ids FROM fleet.check_drift();\n" x $n,
		timeout => 100);
}

my $start = time;
my %session = ($g => start_checks($g, 120), b => start_checks('b', 80));
my $compare = $c->start_sql($g, "SET client_min_messages = warning;\n"
	. "SELECT missing + extra + stale + differing + distant + doubled + lost, undecided, checked, ids FROM fleet.compare_all();\n" x 5, timeout => 100);
my $checks = 0;
for my $node (sort keys %session)
{
	my $result = $session{$node}->finish;
	ok($result->{ok}, "the checks on $node went well") or diag($result->{err});
	my @rows = map { [ split /\|/ ] } grep { /^check/ } split /\n/, $result->{out};
	$checks += @rows;
	my @alarms = grep { $_->[1] != 0 } @rows;
	is(scalar @alarms, 0, "no false alarm on $node") or diag(map { "@$_\n" } @alarms[ 0 .. ($#alarms > 4 ? 4 : $#alarms) ]);
	my ($undecided, $checked) = (0, 0);
	($undecided, $checked) = ($undecided + $_->[2], $checked + $_->[3]) for @rows;
	cmp_ok($undecided, '<', $checked / 1000, "on $node $undecided of $checked rows were undecided");
}
is($checks, 200, sprintf '200 checks in %.0f s', time - $start);
my $compared = $compare->finish;
is(join(' ', map { (split /\|/)[0] } split /\n/, $compared->{out}), '0 0 0 0 0', 'and none in whole tables') or diag($compared->{out}, $compared->{err});

# ---- without the second look

$c->sql($g, <<'SQL');
CREATE OR REPLACE FUNCTION fleet.drift_confirm(candidates jsonb, before jsonb) RETURNS jsonb LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(candidates) AS c WHERE c->>'problem' <> 'moving';
END
SQL
my $hasty = start_checks($g, 20)->finish;
my $alarms = grep { /^check\|[1-9]/ } split /\n/, $hasty->{out};
cmp_ok($alarms, '>', 0, "without the second look $alarms of 20 checks have false alarms");
$brake->finish;
end_storm($storm, 'the load');
done_testing();
