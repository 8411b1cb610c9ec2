# fleet: what must be true of a cluster in the end.
# Copyright (c) 2026, the fleet authors
#
# The half of a FleetCluster that waits until the nodes have healed and looks at
# each node's own tables.

package FleetChecks;

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

# Seconds that healing may take before a test calls it a failure.
our $HEAL_DEADLINE = 15;

# What is not finished on the nodes, as text; '' where all is.  settled => 0 does
# not ask whether departures are settled.
sub unfinished
{
	my ($self, %opt) = @_;
	my $unsettled = ($opt{settled} // 1) ? 'true' : 'false';
	my $open = '';

	for my $name ($self->members)
	{
		my $result = $self->ask($name, <<"SQL");
SELECT 'prepared ' || gid FROM pg_prepared_xacts
UNION ALL SELECT 'in doubt ' || gid || ' ' || state || ' ' || coalesce(last_error, '') FROM fleet.in_doubt
UNION ALL SELECT 'decision ' || dtxid || ' ' || kind || ' ' || region FROM fleet.decisions
UNION ALL SELECT 'unsettled ' || kind || ' ' || key FROM fleet.departures WHERE settled_hlc IS NULL AND $unsettled
UNION ALL SELECT 'log ' || status || ' ' || coalesce(ride_id, vehicle_id) || ' ' || epoch FROM fleet.handoff_log WHERE status = 'departed' AND $unsettled
SQL
		my $text = $result->{ok} ? $result->{out} : $result->{err};
		$open .= "$name: $text\n" if $text ne '';
	}
	return $open;
}

# Seconds until nothing is unfinished; undef if the deadline passed before.
sub heal
{
	my ($self, %opt) = @_;
	my $start = time;
	my $open;

	while (($open = $self->unfinished(%opt)) ne '')
	{
		if (time > $start + $HEAL_DEADLINE)
		{
			diag("not finished after $HEAL_DEADLINE s:\n$open");
			return undef;
		}
		sleep 0.05;
	}
	return time - $start;
}

# check_all(label, log => 0, settled => 0): three test points.  log => 0 where a
# test has taken a node back in time, and with it parts of its log.
sub check_all
{
	my ($self, $label, %opt) = @_;
	my $on = ($self->members)[ int(rand($self->members)) ];
	my $took = $self->heal(%opt);
	my $problems = $self->sql($on, 'SELECT check_name, problems, ids FROM fleet.verify() WHERE problems > 0');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $took && $problems eq '',
		"$label: nothing in doubt" . (defined $took ? sprintf(' after %.1f s', $took) : '') . ", verify on $on finds nothing")
	  or diag($problems);
	my $wrong = $self->wrong_rides;
	is($wrong, '', "$label: all " . keys(%{ $self->{rides} }) . ' rides live exactly once, no fare is lost');
	return if defined $opt{log} && !$opt{log};
	is($self->wrong_log, '', "$label: every handoff is logged on both sides");
}

# Which rides the tables of the nodes have other than once, as text.
sub wrong_rides
{
	my ($self) = @_;
	my %places;
	my $wrong = '';
	my ($sum, $want) = (0, 0);

	for my $name ($self->members)
	{
		for my $row ($self->rows($name, "SELECT ride_id, fare, region FROM fleet.local_rides"))
		{
			push @{ $places{ $row->[0] } }, $name;
			$sum += $row->[1];
			$wrong .= "$row->[0] at $name has region $row->[2]\n" if $row->[2] ne $name;
		}
	}
	for my $id (sort keys %{ $self->{rides} })
	{
		my @at = @{ delete $places{$id} // [] };
		$want += $self->{rides}{$id};
		$wrong .= "$id is at (@at)\n" if @at != 1;
	}
	$wrong .= "$_ should not exist\n" for sort keys %places;
	$wrong .= "fares sum up to $sum, not $want\n" if $sum != $want;
	return $wrong;
}

# For each ride and epoch there must be one row of the source and one of the
# target, and they form a path that ends where the ride is.
sub wrong_log
{
	my ($self) = @_;
	my (%log, %live);
	my $wrong = '';

	for my $name (grep { $self->postmaster($_) } $self->names)
	{
		for my $row ($self->rows($name,
				"SELECT ride_id, epoch, status, source, target FROM fleet.handoff_log WHERE ride_id IS NOT NULL"))
		{
			my ($id, $epoch, $status, $source, $target) = @$row;
			push @{ $log{$id}{$epoch}{$status} }, "$source>$target";
			$wrong .= "$name logged $id $epoch $status $source>$target\n"
			  if $name ne ($status eq 'arrived' ? $target : $source);
		}
	}
	for my $name ($self->members)
	{
		$live{ $_->[0] } = [ $name, $_->[1] ] for $self->rows($name, "SELECT ride_id, epoch FROM fleet.local_rides");
	}
	for my $id (sort keys %live)
	{
		my ($place, $last) = @{ $live{$id} };
		for (my $epoch = $last; $epoch > 1; $epoch--)
		{
			my $entry = delete $log{$id}{$epoch} // {};
			my @left = @{ $entry->{settled} // [] };
			my @came = @{ $entry->{arrived} // [] };

			if (@left != 1 || @came != 1 || $left[0] ne $came[0] || $left[0] !~ /^(\w+)>\Q$place\E$/)
			{
				$wrong .= "$id epoch $epoch at $place: settled (@left) arrived (@came)\n";
				last;
			}
			$place = $1;
		}
		$wrong .= "$id: log of epoch $_ but it is at $last\n" for sort keys %{ $log{$id} // {} };
	}
	return $wrong;
}

1;
