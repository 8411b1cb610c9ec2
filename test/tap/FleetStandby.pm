# fleet: a failover to a streaming standby that lags behind.
# Copyright (c) 2026, the fleet authors
#
# A FleetStandby is made of a node of a FleetCluster by pg_basebackup and
# follows it by streaming.  Once it has everything it is stopped: what the node
# does from then on it lacks, as an asynchronous standby may.  promote() kills the
# node and starts the standby in its place, under the same address, promoted.

package FleetStandby;

use strict;
use warnings;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub new
{
	my ($class, $cluster, $name) = @_;
	my $node = $cluster->{nodes}{$name};
	my $self = bless { cluster => $cluster, name => $name, data => "$node->{data}.standby" }, $class;

	remove_tree($self->{data});
	run('pg_basebackup', '-D', $self->{data}, '-d', $cluster->conninfo($name), '-R', '-c', 'fast', '-X', 'stream', '--no-sync');
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	run('pg_ctl', '-D', $self->{data}, '-l', "$node->{log}.standby", '-o', "-p $port", '-w', 'start');
	my $here = $cluster->sql($name, 'SELECT pg_current_wal_lsn()');
	$cluster->wait_until(
		sub { $cluster->sql($name, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '$here'") eq '1' },
		"the standby of $name has all");
	run('pg_ctl', '-D', $self->{data}, '-w', '-m', 'fast', 'stop');
	return $self;
}

sub promote
{
	my ($self) = @_;
	my ($cluster, $name) = @$self{ 'cluster', 'name' };
	my $data = $cluster->{nodes}{$name}{data};

	$cluster->kill9($name);
	remove_tree($data);
	rename $self->{data}, $data or die "rename $self->{data}: $!";
	append_to_file("$data/postgresql.auto.conf", "primary_conninfo = ''\n");
	$cluster->start($name);
	run('pg_ctl', '-D', $data, '-w', '-t', 30, 'promote');
}

sub run
{
	my @command = @_;
	my $line = join ' ', map { "'$_'" } @command;

	system("$line >/dev/null 2>&1 </dev/null") == 0 or BAIL_OUT("failed: $line");
}

1;
