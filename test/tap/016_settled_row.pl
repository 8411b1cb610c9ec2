# fleet: the resolver does not wait for a row that a prepared branch holds.
# Copyright (c) 2026, the fleet authors
#
# A ride leaves and comes back at once: its departure is not yet marked as
# settled when the branch of its return, which removes it, is prepared.  If the
# coordinator of the return dies before its decision, only this node's resolver
# can end that branch, and so it must not wait for the row to mark it.

use strict;
use warnings;

use FleetCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = FleetCluster->new;
my ($ride) = $c->add_rides('c', 'there-and-back');

# c has settled nothing yet: its resolver stands before it.
$c->ungo('c', 'before-settle');
$c->set_system('c', 'fleet.fault', 'before-settle=wait');
my $offset = $c->log_size('c');
$c->sql('c', "SELECT fleet.handoff('$ride', 'a')", set => { 'fleet.fault' => '' });
$c->wait_until(sub { $c->log_has('c', qr/fault point "before-settle" reached/, $offset) }, 'c is about to settle');
is($c->where($ride), 'a2', 'the ride has left');

# The return is prepared at c, then its coordinator dies.
$c->try_sql('a', "SELECT fleet.handoff('$ride', 'c')", fault => 'after-prepare=crash');
$c->wait_dead('a');
is($c->sql('c', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'its return is prepared');
$c->set_system('c', 'fleet.fault', undef);
$c->go('c', 'before-settle');
sleep 1;
$c->start('a');

my $took = $c->heal;
ok(defined $took, 'the branch is rolled back' . (defined $took ? sprintf(' after %.1f s', $took) : ''));
is($c->where($ride), 'a2', 'the ride is where it was');
$c->check_all('there and back');
done_testing();
