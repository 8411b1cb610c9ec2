# fleet: a node with a synchronous standby, and a failover to it.
# Copyright (c) 2026, the fleet authors
#
# Node a has a streaming standby, whose stream is stopped at will.  Proves: what
# decides a handoff is on the standby before any other node commits, whatever
# synchronous_commit the caller has chosen; a PREPARE that is not yet on the
# standby does not count; so a failover at the worst moment leaves each ride
# where it belongs.  A node without a standby is refused unless
# fleet.allow_async says otherwise.

use strict;
use warnings;

use FleetCluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(settings => "fleet.prepare_timeout = 600\nfleet.lock_timeout = 300\nfleet.connect_timeout = 300");
my $data = $c->{nodes}{a}{data};
my $standby = "$data.standby";
my $count = 0;

sub new_ride { return ($c->add_rides('a', 'sync-' . ++$count))[0] }
sub handoff { return "SELECT fleet.handoff('$_[0]', 'b')" }

# ---- the standby

sub run
{
	system("@_ >>$PostgreSQL::Test::Utils::tmp_check/standby.log 2>&1 </dev/null") == 0 or die "failed: @_";
}

sub start_standby
{
	my $server = $c->{nodes}{a}{server};
	my $port = PostgreSQL::Test::Cluster::get_free_port();

	run('pg_basebackup', '-D', $standby, '-d', "'" . $c->conninfo('a') . "'", '-R', '-X', 'stream', '-c', 'fast', '--no-sync');
	append_to_file("$standby/postgresql.conf", "port = $port\n");
	run('pg_ctl', '-D', $standby, '-l', "$standby.log", '-w', 'start');
	$c->set_system('a', 'synchronous_standby_names', '*');
	$c->wait_until(sub { $c->sql('a', 'SELECT sync_state FROM pg_stat_replication') eq 'sync' }, 'the standby is synchronous');
}

# Stop the stream, so that a writes and its standby hears nothing; or go on.
my $sender;

sub stop_stream
{
	$sender = $c->sql('a', 'SELECT pid FROM pg_stat_replication');
	kill 'STOP', $sender;
}

sub resume_stream { kill 'CONT', $sender }

# a dies; its standby takes its place.
sub fail_over
{
	kill 'KILL', $c->postmaster('a');
	sleep 0.5;
	$c->kill9('a');
	run('pg_ctl', '-D', $standby, '-w', '-m', 'fast', 'stop');
	append_to_file("$standby/postgresql.conf", sprintf "port = %d\n", $c->{nodes}{a}{server}->port);
	FleetCluster::copy_folder($standby, "$data.saved");
	$c->go_back('a', promote => 1);
}

END
{
	my $rc = $?;
	kill 'CONT', $sender if $sender;
	system("pg_ctl -D '$standby' -m immediate stop >/dev/null 2>&1") if -f "$standby/postmaster.pid";
	$? = $rc;
}

sub waits_for_standby
{
	my ($session) = @_;
	$c->wait_until(sub { $c->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
		. ($session ? " AND application_name = '$session->{app}'" : '')) eq '1' }, 'it waits for the standby', 5);
}

# ---- allowed with a standby, or where somebody said so

{
	my $check = 'SELECT fleet.check_setup()';

	start_standby();
	for my $name ('a', 'b')
	{
		$c->set_system($name, 'fleet.allow_async', 'off');
		$c->wait_until(sub { $c->sql($name, 'SHOW fleet.allow_async') eq 'off' }, 'it is off');
	}
	ok($c->try_sql('a', $check)->{ok}, 'a node with a synchronous standby is allowed');
	my $result = $c->try_sql('b', $check);
	is($result->{state}, 'RF021', 'a node without one is refused');
	like($result->{err}, qr/HINT:.*fleet\.allow_async/, 'and told how to accept it');
	is($c->try_sql('a', "SELECT fleet.set_capacity('a', 100)")->{state}, 'RF021', 'no map is changed with such a node');
	$c->set_system('b', 'fleet.allow_async', undef);
}

# ---- the decision is on the standby first

for my $level ('off', 'local', 'remote_write', 'on')
{
	my $ride = new_ride();
	stop_stream();
	my $session = $c->start_sql('a', handoff($ride), set => { synchronous_commit => $level });

	ok(eval { waits_for_standby($session) }, "synchronous_commit = $level: the decision waits for the standby") or diag($@);
	sleep 0.5;
	is($c->sql('b', "SELECT (SELECT count(*) FROM pg_prepared_xacts), (SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride')"),
		'1|0', "synchronous_commit = $level: until then nobody else commits");
	resume_stream();
	ok($session->finish->{ok}, "synchronous_commit = $level: then it goes on");
	is($c->where($ride), 'b2', "synchronous_commit = $level: the ride is at its target");
}

# What the caller has chosen is his again afterwards.
is($c->sql('a', handoff(new_ride()) . "; SHOW synchronous_commit", set => { synchronous_commit => 'off' }), "2\noff",
	'the choice of the session stays as it was');
$c->check_all('with a standby');

# ---- a PREPARE that is not on the standby

{
	my $ride = new_ride();
	stop_stream();
	my $result = $c->try_sql('c', handoff($ride), set => { synchronous_commit => 'off' });
	is($result->{state}, 'RF016', 'a participant whose standby does not hear of the PREPARE has not prepared') or diag($result->{err});
	is($c->sql('b', "SELECT count(*) FROM fleet.local_rides WHERE ride_id = '$ride'"), 0, 'nobody commits');
	resume_stream();
	$c->check_all('a PREPARE that is not on the standby');
	is($c->where($ride), 'a1', 'the ride stays');
}

# ---- failover at that moment

# The standby does not have the decision, and nobody was told that it was made.
{
	my ($ride, $before) = (new_ride(), new_ride());

	is($c->sql('a', handoff($before), set => { synchronous_commit => 'off' }), 2, 'a handoff that was confirmed');
	stop_stream();
	my $session = $c->start_sql('a', handoff($ride), set => { synchronous_commit => 'off' });
	eval { waits_for_standby($session) };
	fail_over();
	my $result = $session->finish;
	ok(!$result->{ok}, 'the coordinator fails over before the standby has its decision: the caller is not told that it is done');
	$c->check_all('failover', log => 0);
	is(join(' ', $c->places([ $ride, $before ])), 'a1 b2', 'failover: the undecided ride stays, the confirmed one is where it went');
	is($c->sql('a', handoff($ride)), 2, 'failover: the new primary hands off');
	$c->check_all('in the end', log => 0);
}

done_testing();
