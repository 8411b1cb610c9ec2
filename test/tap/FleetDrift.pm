# fleet: damage for the tests of drift checks and healing.
# Copyright (c) 2026, the fleet authors
#
# Functions on a FleetCluster that was made with replica => 1.

package FleetDrift;

use strict;
use warnings;

use Exporter 'import';
use FleetReplica;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(fill_regions behind_back on_replica start_job end_job);

# Vehicles and rides in each region, of which some have come from another one.
sub fill_regions
{
	my ($c, $n) = @_;
	for my $region ($c->members)
	{
		my $place = $c->place($region);
		$c->sql($region, "SELECT fleet.register_vehicle('car-$region-' || i, $place), fleet.request_ride('ride-$region-' || i, 'c', $place, 'car-$region-' || i, i)"
			. " FROM generate_series(1, $n) AS i");
	}
	my @regions = $c->members;
	for my $i (0 .. $#regions)
	{
		my $next = $regions[ ($i + 1) % @regions ];
		$c->sql($regions[$i], "SELECT fleet.handoff(array_agg('ride-$regions[$i]-' || i), '$next') FROM generate_series(1, 5) AS i");
	}
}

# On a region's node, without its triggers.
sub behind_back
{
	my ($c, $node, $sql) = @_;
	return $c->sql($node, "BEGIN; SET LOCAL session_replication_role = replica; $sql; COMMIT");
}

# On the replica, without the merge rule and the refusal.
sub on_replica
{
	my ($c, $sql) = @_;
	my (@off, @on);
	for my $table ('local_rides', 'local_vehicles')
	{
		push @off, "ALTER TABLE fleet.$table DISABLE TRIGGER USER";
		push @on, "ALTER TABLE fleet.$table ENABLE TRIGGER USER", "ALTER TABLE fleet.$table ENABLE REPLICA TRIGGER fleet_merge";
	}
	return $c->sql($c->{replica}, join '; ', 'BEGIN', @off, $sql, @on, 'COMMIT');
}

# The drift job on a node, again and again, as cron would.
sub start_job
{
	my ($c, $node) = @_;
	$c->sql($node, 'CREATE TABLE IF NOT EXISTS public.go_on AS SELECT true AS it; UPDATE public.go_on SET it = true');
	# One statement after the other: within one a session does not see that settings change.
	return $c->start_sql($node, "SELECT fleet.drift_job() FROM public.go_on WHERE it; SELECT pg_sleep(0.7) FROM public.go_on WHERE it;\n" x 200, go_on => 1, timeout => 200);
}

sub end_job
{
	my ($c, $node, $job) = @_;
	$c->sql($node, 'UPDATE public.go_on SET it = false');
	my $result = $job->finish;
	ok($result->{ok}, "the drift job of $node went well") or diag($result->{err});
}

1;
