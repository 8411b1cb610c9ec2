# fleet: a replica in the TAP tests, and the storm that is to break it.
# Copyright (c) 2026, the fleet authors
#
# Methods of a FleetCluster that was made with replica => 1.  The storm is a C
# client (test/bench/anomaly.c): it writes rides and hands them off in all ways,
# and reads snapshot after snapshot of the replica; it fails where a ride was
# missing, doubled or gone back.

package FleetReplica;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(add_replica remove_replica is_ready client start_storm end_storm is_equal noticed is_nothing_left);

my $client;

# The client, compiled once for a test.
sub client
{
	return $client if $client;
	my $bench = "$ENV{FLEET_PROJECT}/test/bench";
	my ($include, $lib) = map { chomp(my $x = `'@{[ $ENV{PG_CONFIG} // 'pg_config' ]}' $_`); $x } '--includedir', '--libdir';

	$client = "$PostgreSQL::Test::Utils::tmp_check/anomaly";
	system("cc -O2 -I'$include' -o '$client' '$bench'/anomaly*.c -L'$lib' -lpq -lpthread -lm") == 0
	  or BAIL_OUT('the storm does not compile');
	return $client;
}

# What the client is to know: the replica, then each region.
sub addresses
{
	my ($c) = @_;
	return ($c->conninfo($c->{replica}), map { ($_, $c->conninfo($_)) } $c->members);
}

sub add_replica
{
	my ($c, @more) = @_;
	my $arguments = join ', ', map { "'$_'" } "node_$c->{replica}", $c->peer_conninfo($c->{replica}), @more;
	return "CALL fleet.add_replica($arguments)";
}

sub remove_replica { return "CALL fleet.remove_replica('node_$_[0]{replica}')" }

sub is_ready
{
	my ($c) = @_;
	my $answer = $c->ask($c->{replica}, 'SELECT fleet.replica_ready()');
	return $answer->{ok} && $answer->{out} eq 't';
}

sub run_client
{
	my ($c, $what, @options) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ client(), $what, @options, addresses($c) ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(120));
	return { ok => $ok, out => $out, err => $err };
}

# start_storm(cluster, seconds, options...)
sub start_storm
{
	my ($c, $seconds, @options) = @_;
	my $storm = { out => '', err => '' };
	$storm->{harness} = IPC::Run::start([ client(), 'run', "seconds=$seconds", @options, addresses($c) ],
		'<', \undef, '>', \$storm->{out}, '2>', \$storm->{err}, IPC::Run::timeout($seconds + 120));
	return $storm;
}

# Waits for its end; one test: there was nothing that must not be.
sub end_storm
{
	my ($storm, $name) = @_;
	$storm->{harness}->finish;
	my $ok = $storm->{harness}->result(0) == 0;
	$storm->{out} =~ s/^(anomaly .*)$//m and note($1);
	like($1 // '', qr/ missing=0 doubled=0 back=0 /, "$name: no ride missing, doubled or gone back");
	ok($ok, "$name: the storm went well") or diag($storm->{err});
	my ($snapshots) = ($1 // '') =~ /snapshots=(\d+)/;
	return $snapshots // 0;
}

# One test: in the end the replica has what the regions have, row by row.
sub is_equal
{
	my ($c, $name) = @_;
	my $result = run_client($c, 'equal', 'wait=40');
	ok($result->{ok}, "$name: the replica has what the regions have") or diag($result->{out} . $result->{err});
	return $result->{ok};
}

# Seconds until the replica says that something is wrong with a region; dies after 20.
sub noticed
{
	my ($c, $region, $since) = @_;
	$c->wait_until(sub {
		my $answer = $c->ask($c->{replica}, "SELECT state, repairs, stale_since IS NOT NULL FROM fleet.replica_status WHERE region = '$region'");
		return $answer->{ok} && $answer->{out} !~ /^streaming\|$since->{repairs}\|f$/;
	}, "the replica notices that $region is not well");
	return time - $since->{at};
}

# Tests: no node has anything left of a replica.
sub is_nothing_left
{
	my ($c, $name) = @_;
	my $left = "SELECT (SELECT count(*) FROM fleet.map_replicas) + (SELECT count(*) FROM fleet.replica_joins) + (SELECT count(*) FROM fleet.replica_slots)"
	  . " + (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_subscription)"
	  . " + (SELECT count(*) FROM pg_foreign_server WHERE srvname = 'fleet_node_$c->{replica}')"
	  . " + (SELECT count(*) FROM pg_roles WHERE rolname = 'fleet_node' AND rolreplication)";
	for my $node ($c->names)
	{
		my $more = $node eq $c->{replica} ? " + (SELECT count(*) FROM fleet.map) + (to_regclass('fleet.local_rides') IS NOT NULL)::int" : '';
		eval { $c->wait_until(sub { $c->sql($node, $left . $more) eq '0' }, 'it is gone', 10) };
		is($c->sql($node, $left . $more), '0', "$name: nothing is left on $node");
	}
}

1;
