# fleet: a network that swallows everything.
# Copyright (c) 2026, the fleet authors
#
# Nodes on TCP, in a network of this test's own where packets can be made to
# vanish: no answer, no acknowledgement, no refusal, and what was in flight is
# sent again and again by TCP when the network is back.  Proves that with any
# coordinator a handoff ends by fleet's own deadlines, that the ride is where its
# caller was told, and that all is finished within two seconds after the network
# is back; and that a coordinator whose machine vanishes, so that its connections
# never end, does not keep rides locked that it had not prepared.
#
# Needs no privilege, but user namespaces; skipped where there are none.

use strict;
use warnings;

use Test::More;

# In a network namespace of our own.  A policy of IPsec that wants packets to be
# protected which are not drops them silently; the loopback network, where
# policies are off, is told to respect them.
BEGIN
{
	my $setup = 'ip link set lo up && echo 0 >/proc/sys/net/ipv4/conf/lo/disable_policy'
	  . ' && ip xfrm policy add dir in dst 127.0.0.99 action block && ip xfrm policy flush';

	if (!$ENV{FLEET_OWN_NETWORK})
	{
		$ENV{FLEET_OWN_NETWORK} = 1;
		plan(skip_all => 'no network namespace of our own can be had here')
		  if system("unshare -cn --keep-caps sh -c '$setup' >/dev/null 2>&1") != 0;
		exec 'unshare', '-cn', '--keep-caps', $^X, $0 or die "unshare: $!";
	}
	system($setup) == 0 or die 'the network namespace';
}

use FleetCluster;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new(tcp => 1, settings => 'fleet.resolve_interval = 1s');
my %node = (source => 'a', target => 'b', third => 'c');

# Nothing reaches or leaves these addresses any more.
sub swallow
{
	for my $name (@_)
	{
		system("ip xfrm policy add dir in $_ $c->{nodes}{$name}{address} action block") == 0 or die 'ip' for 'src', 'dst';
	}
}

sub spare { system('ip xfrm policy flush') == 0 or die 'ip' }

# The network between all nodes, for three seconds and longer.
for my $role ('source', 'target', 'third')
{
	my @steps = ('before-prepare', 'prepare-wait', 'after-prepare', 'after-local-commit');
	my %ride = map { $_ => ($c->add_rides('a', "$role-$_"))[0] } @steps;
	my %session = map { $_ => $c->start_waiting($node{$role}, "SELECT fleet.handoff('$ride{$_}', 'b')", $_) } @steps;
	my %want;

	sleep 0.1;
	swallow($c->names);
	my $start = time;
	$c->go($node{$role}, $_) for @steps;
	for my $step (@steps)
	{
		my $result = $session{$step}->finish;
		$want{$step} = $result->{ok} ? 'b2' : 'a1';
		ok($result->{ok} || $result->{state} =~ /^(RF016|08006)$/, "coordinator $role at $step: its caller is told $want{$step}")
		  or diag($result->{err});
	}
	cmp_ok(time - $start, '<', 8, sprintf 'coordinator %s: nobody waits for longer than 6 s (%.1f s)', $role, time - $start);
	is($want{'before-prepare'} . $want{'after-local-commit'}, 'a1b2', "coordinator $role: undecided and decided");
	spare();
	$start = time;
	my $took = $c->heal;
	ok(defined $took && $took < 2, sprintf 'coordinator %s: finished after %.2f s', $role, $took // -1);
	is($c->where($ride{$_}), $want{$_}, "coordinator $role at $_: the ride is at $want{$_}") for @steps;

	# What stayed can go now, nothing of before holds it.
	my ($stayed) = grep { $want{$_} eq 'a1' } @steps;
	my $result = $c->try_sql('a', "SELECT fleet.handoff('$ride{$stayed}', 'b')");
	while (!$result->{ok} && time - $start < 60)
	{
		note(sprintf('%.1f s: %s', time - $start, $result->{err}));
		$result = $c->try_sql('a', "SELECT fleet.handoff('$ride{$stayed}', 'b')");
	}
	cmp_ok(time - $start, '<', 4, sprintf 'coordinator %s: what stayed can be handed off (%.1f s)', $role, time - $start);
}
$c->check_all('after a network that swallowed everything');

# The coordinator's machine vanishes before it has prepared: the kernel of its
# sessions' peers hears nothing, not even that a connection ended.
system('echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries');
for my $role ('target', 'third')
{
	my ($ride) = $c->add_rides('a', "vanished-$role");
	my $session = $c->start_waiting($node{$role}, "SELECT fleet.handoff('$ride', 'b')", 'before-prepare');

	sleep 0.2;    # every byte so far is acknowledged: nobody has a reason to ask
	swallow($c->names);
	$c->kill9($node{$role});
	$session->finish;
	sleep 3;    # its kernel gives up to send the end of the connections
	spare();
	$c->start($node{$role});
	my $start = time;
	my $result;
	do
	{
		$result = $c->try_sql('a', "SELECT fleet.handoff('$ride', 'b')");
	} until ($result->{ok} || time - $start > 30);
	cmp_ok(time - $start, '<', 8, sprintf 'coordinator %s vanished: its ride can be handed off after %.1f s', $role, time - $start)
	  or diag($result->{err});
}

$c->check_all('in the end');
done_testing();
