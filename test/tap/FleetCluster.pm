# fleet: real servers for the TAP tests.
# Copyright (c) 2026, the fleet authors
#
# A FleetCluster is a few PostgreSQL servers on Unix sockets, each the node of
# one region.  Regions (and their servers) are called a, b, c ...: squares of
# one degree side by side, so region number i holds longitude i + 0.5, latitude
# 0.5.
#
# A test says which rides exist (add_rides), does its worst, and then calls
# check_all(), which waits until the nodes have healed and looks at each node's
# own tables: it does not trust fleet.verify() alone.
#
# Servers are started, stopped and killed here and not by
# PostgreSQL::Test::Cluster, which supplies ports, folders and initdb: after
# SIGKILL it neither waits until all processes are gone nor removes what they
# leave behind, and a start would fail now and then.
#
# With tcp => 1 the nodes listen on addresses of the loopback network, and talk to
# each other over them.  With links => 1 the nodes talk to each other through a relay (FleetRelay), one
# link for each node's connections to each other one; network() and delay() say
# what it is like between two nodes.  With replica => 1 the last node is to be a
# replica: it is on no map (FleetReplica.pm).

package FleetCluster;

use strict;
use warnings;

use Digest::MD5;
use FleetChecks;
use FleetRelay;
use File::Path qw(make_path remove_tree);
use File::Spec;
use IO::Handle;
use IPC::Open2;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @ISA = ('FleetChecks');

my @clusters;      # all of this test, to be stopped at its end
my $sessions = 0;  # ever started, for their names
my $marks = 0;     # ever written, see exchange()

# ---- start and end of a cluster

# new(nodes => 3, settings => "lines of postgresql.conf", links => 1, tcp => 1):
# servers that run and share one region map.
sub new
{
	my ($class, %opt) = @_;
	my $self = bless { rides => {}, nodes => {}, order => [] }, $class;
	my $template = template();

	push @clusters, $self;
	for my $name (('a' .. 'z')[ 0 .. ($opt{nodes} // 3) - 1 ])
	{
		my $server = PostgreSQL::Test::Cluster->new("node_$name");

		$self->{nodes}{$name} = {
			server => $server,
			data => File::Spec->rel2abs($server->data_dir),    # relative from PostgreSQL 16 on
			log => File::Spec->rel2abs($server->logfile),
			number => scalar @{ $self->{order} },
		};
		push @{ $self->{order} }, $name;
		$self->{nodes}{$name}{address} = '127.0.0.' . (10 + @{ $self->{order} }) if $opt{tcp};
		copy_folder($template, $server->data_dir);
		$self->configure($name, $opt{settings} // '');
		$self->start($name);
		$self->sql($name, "SELECT fleet.init_node('node_$name')");
	}
	my @regions = $self->names;
	$self->{replica} = pop @regions if $opt{replica};
	$self->add_region($_) for $opt{no_map} ? () : @regions;
	$self->add_links if $opt{links};
	return $self;
}

# A data folder with the extension in it, made once for a build of fleet.
sub template
{
	my $stamp = Digest::MD5->new;
	my $bin = (grep { -x "$_/initdb" } split /:/, $ENV{PATH})[0];
	my ($lib, $share) = map { chomp(my $x = `pg_config $_`); $x } '--pkglibdir', '--sharedir';
	my $root = $bin =~ s/\Q${\(`pg_config --bindir` =~ s,\n,,r)}\E$//r;

	for my $file ("$root$lib/fleet.so", "$root$share/extension/fleet--1.0.sql")
	{
		open(my $fh, '<:raw', $file) or die "$file: $!";
		$stamp->addfile($fh);
	}
	my $folder = ($ENV{TMPDIR} // '/tmp') . '/fleet-template-' . $stamp->hexdigest;
	return $folder if -d $folder;

	my $server = PostgreSQL::Test::Cluster->new('template');
	$server->init(extra => [ '--locale=C', '--encoding=UTF8', '--wal-segsize=4' ]);
	$server->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'fleet'
fleet.allow_async = on
fleet.resolve_interval = 200ms
wal_level = logical
max_prepared_transactions = 50
max_worker_processes = 16
max_wal_senders = 8
max_logical_replication_workers = 8
wal_retrieve_retry_interval = 500ms
max_connections = 50
shared_buffers = 16MB
min_wal_size = 16MB
max_wal_size = 128MB
fsync = on
restart_after_crash = on
fleet.handoff_mode = immediate
fleet.flap_window = 0
autovacuum_naptime = 10s
log_statement = none
log_replication_commands = off
jit = off
CONF
	$server->append_conf('postgresql.conf', "output_plugin_libraries = 'pgoutput, test_decoding, fleet'\n")
	  if `postgres --describe-config` =~ /^output_plugin_libraries\t/m;
	$server->start;
	$server->safe_psql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION fleet CASCADE');
	$server->stop;
	rename_or_remove($server->data_dir, $folder);
	return $folder;
}

# Two tests may have made it at the same time: the first one's stays.
sub rename_or_remove
{
	my ($from, $to) = @_;
	copy_folder($from, "$to.$$");
	rename("$to.$$", $to) or remove_tree("$to.$$");
}

sub copy_folder
{
	my ($from, $to) = @_;
	remove_tree($to);
	system('cp', '-a', '--reflink=auto', $from, $to) == 0 or die "cp $from $to failed";
	unlink "$to/postmaster.pid", "$to/postmaster.opts";
}

sub configure
{
	my ($self, $name, $settings) = @_;
	my $node = $self->{nodes}{$name};
	append_to_file("$node->{data}/postgresql.conf",
		sprintf("port = %d\nunix_socket_directories = '%s'\nlisten_addresses = '%s'\n%s\n",
			$node->{server}->port, $node->{server}->host, $node->{address} // '', $settings));
	append_to_file("$node->{data}/pg_hba.conf", "host all all 127.0.0.0/8 trust\n") if $node->{address};
}

sub names { return @{ $_[0]{order} } }

# Those that own a region; join_map and leave_map say so.
sub members { return grep { $_[0]{nodes}{$_}{member} } $_[0]->names }
sub join_map { $_[0]{nodes}{ $_[1] }{member} = 1 }
sub leave_map { $_[0]{nodes}{ $_[1] }{member} = 0 }

# The names of all nodes but these.
sub others
{
	my ($self, @not) = @_;
	return grep { my $n = $_; !grep { $_ eq $n } @not } $self->names;
}

sub conninfo
{
	my ($self, $name) = @_;
	my $server = $self->{nodes}{$name}{server};
	return sprintf 'host=%s port=%d dbname=postgres', $server->host, $server->port;
}

# How other nodes reach it.
sub peer_conninfo
{
	my ($self, $name) = @_;
	my $address = $self->{nodes}{$name}{address};
	return $self->conninfo($name) =~ s/host=\S+/host=$address/r if $address;
	return $self->conninfo($name);
}

# A place in a region, as "lon, lat".
sub place { return sprintf '%.1f, 0.5', $_[0]{nodes}{ $_[1] }{number} + 0.5 }

sub geofence
{
	my ($self, $name) = @_;
	my $x = $self->{nodes}{$name}{number};
	return sprintf 'ST_Multi(ST_MakeEnvelope(%d, 0, %d, 1, 4326))', $x, $x + 1;
}

# The statement that adds the region of a node.
sub add_region_sql
{
	my ($self, $name) = @_;
	return sprintf "SELECT fleet.add_region('%s', %s, '%s')", $name, $self->geofence($name), $self->peer_conninfo($name);
}

# Have the first node do so.
sub add_region
{
	my ($self, $name) = @_;
	$self->sql($self->{order}[0], $self->add_region_sql($name));
	$self->join_map($name);
}

# ---- servers

# Pids of the processes that work in the node's data folder; a zombie has none.
sub pids
{
	my ($self, $name) = @_;
	my $data = $self->{nodes}{$name}{data};
	return map { m,/proc/(\d+)/, } grep { (readlink($_) // '') eq $data } glob('/proc/[0-9]*/cwd');
}

sub postmaster
{
	my ($self, $name) = @_;
	open(my $fh, '<', "$self->{nodes}{$name}{data}/postmaster.pid") or return undef;
	my $pid = <$fh>;
	return undef unless defined $pid;
	chomp $pid;
	return (grep { $_ == $pid } $self->pids($name)) ? $pid : undef;
}

sub start
{
	my ($self, $name) = @_;
	my $node = $self->{nodes}{$name};

	# Of a postmaster that has just crashed there may still be children.
	$self->kill9($name) if !$self->postmaster($name);
	my $ok = system("pg_ctl -D '$node->{data}' -l '$node->{log}' -w -t 60 start >/dev/null 2>&1 </dev/null") == 0;
	if (!$ok)
	{
		diag(substr(slurp_file($node->{log}), -3000));
		BAIL_OUT("server $name does not start");
	}
}

# stop(name, mode): cleanly, unless mode is 'immediate'.
sub stop
{
	my ($self, $name, $mode) = @_;
	my $node = $self->{nodes}{$name};
	return unless $self->postmaster($name);
	system("pg_ctl -D '$node->{data}' -w -t 30 -m @{[$mode // 'fast']} stop >/dev/null 2>&1 </dev/null") == 0
	  or $self->kill9($name);
}

# SIGKILL every process of a server, as a power failure would: none of them
# works on while another is already dead.  Returns when all are gone.
sub kill9
{
	my ($self, $name) = @_;
	my $deadline = time + 20;

	# Frozen first, so that it cannot fork while its children are listed.
	my $postmaster = $self->postmaster($name);
	kill 'STOP', $postmaster if $postmaster;
	while (my @pids = $self->pids($name))
	{
		kill 'KILL', @pids;
		BAIL_OUT("processes of server $name survive SIGKILL") if time > $deadline;
		sleep 0.01;
	}
	$self->clear_dead($name);
}

# Remove the lock files of a dead postmaster: while its pid stays as a zombie,
# which may be long, the next one would take it for a living one.
sub clear_dead
{
	my ($self, $name) = @_;
	my $node = $self->{nodes}{$name};
	my $file = "$node->{data}/postmaster.pid";

	return if !-f $file || $self->pids($name);
	my @lines = split /\n/, slurp_file($file);
	my $socket = $node->{server}->host . '/.s.PGSQL.' . $node->{server}->port;
	system("ipcrm -m $1 2>/dev/null") if ($lines[6] // '') =~ /^\s*\d+\s+(\d+)/;
	unlink $socket, "$socket.lock", $file;
}

# Wait until a server that was told to crash is gone.
sub wait_dead
{
	my ($self, $name) = @_;
	$self->wait_until(sub { !$self->postmaster($name) }, "server $name is gone");
	$self->kill9($name);
}

# Freeze and unfreeze a whole server: it still takes connections and bytes, and
# never answers.
sub freeze
{
	my ($self, $name) = @_;
	kill 'STOP', $self->postmaster($name);    # first, so that it forks no more
	kill 'STOP', $self->pids($name);
}

sub thaw
{
	my ($self, $name) = @_;
	kill 'CONT', $self->pids($name);
}

sub is_up
{
	my ($self, $name) = @_;
	return $self->ask($name, 'SELECT 1')->{ok};
}

# Wait until a server has started anew after the death of a backend; offset is
# the size of its log before that.
sub wait_restarted
{
	my ($self, $name, $offset) = @_;
	$self->wait_until(sub { $self->log_has($name, qr/all server processes terminated.*ready to accept connections/s, $offset) },
		"server $name has started anew");
}

# When a server that was started last became ready for writing, as its log says
# (pg_ctl looks only now and then).
sub ready_at
{
	my ($self, $name) = @_;
	my $stamp = (slurp_file($self->{nodes}{$name}{log}) =~ /^(\S+ \S+ \S+) .* database system is ready to accept connections$/mg)[-1];

	return $self->sql($name, "SELECT extract(epoch FROM timestamptz '$stamp')");
}

# Copies of a node's data folder, for going back in time.  The server is
# stopped for it and started again.
sub save
{
	my ($self, $name) = @_;
	my $node = $self->{nodes}{$name};
	$self->stop($name);
	copy_folder($node->{data}, "$node->{data}.saved");
	$self->start($name);
}

# Kill a node and start the saved copy in its place: what it did since is lost.
# With promote => 1 it is promoted first, as a standby that lagged would be.
sub go_back
{
	my ($self, $name, %opt) = @_;
	my $data = $self->{nodes}{$name}{data};
	$self->kill9($name);
	copy_folder("$data.saved", $data);
	append_to_file("$data/standby.signal", '') if $opt{promote};
	$self->start($name);
	return unless $opt{promote};
	system("pg_ctl -D '$data' -w -t 30 promote >/dev/null 2>&1") == 0 or BAIL_OUT("server $name is not promoted");
}

END
{
	my $rc = $?;
	for my $cluster (@clusters)
	{
		$cluster->{relay}->stop if $cluster->{relay};
		for my $name ($cluster->names)
		{
			kill 'CONT', $cluster->pids($name);
			$cluster->stop($name) if $ENV{COVERAGE};    # who is killed counts no lines
			$cluster->kill9($name);
		}
	}
	$? = $rc;
}

# ---- the network between nodes

# Have each node reach each other one over a link of its own.
sub add_links
{
	my ($self) = @_;
	my $folder = $self->{link_folder} = PostgreSQL::Test::Utils::tempdir_short();

	$self->{relay} = FleetRelay->new;
	for my $from ($self->names)
	{
		for my $to ($self->others($from))
		{
			my $server = $self->{nodes}{$to}{server};
			my $file = '.s.PGSQL.' . $server->port;

			mkdir "$folder/$from$to";
			$self->{relay}->link("$from$to", "$folder/$from$to/$file", $server->host . "/$file");
			$self->sql($from, "ALTER SERVER fleet_$to OPTIONS (SET host '$folder/$from$to')");
		}
	}
}

# network(how, node, nodes...): pass, cut or hole between a node and others, for
# what either of them opened.
sub network
{
	my ($self, $how, $from, @others) = @_;
	for my $to (@others)
	{
		$self->{relay}->$how("$from$to");
		$self->{relay}->$how("$to$from");
	}
}

# Milliseconds each way between two nodes.
sub delay
{
	my ($self, $ms, $one, $other) = @_;
	$self->{relay}->delay($_, $ms) for "$one$other", "$other$one";
}

# ---- SQL

# start_sql(node, sql, fault => 'point=action', set => {name => value},
# user => role, conninfo => another way to the node): a psql session that runs on its
# own; see FleetCluster::Session.  Statements are separate transactions unless sql
# says otherwise.
sub start_sql
{
	my ($self, $name, $sql, %opt) = @_;
	my %set = %{ $opt{set} // {} };
	my $session = bless {
		cluster => $self, node => $name,
		app => 't' . ++$sessions,
		file => "$PostgreSQL::Test::Utils::tmp_check/t$sessions.sql",
		out => '', err => ''
	}, 'FleetCluster::Session';

	# From a file: IPC::Run would feed it only while somebody waits for it.
	append_to_file($session->{file}, "$sql\n");
	$set{'fleet.fault'} = $opt{fault} if defined $opt{fault};
	local $ENV{PGAPPNAME} = $session->{app};
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=" . $set{$_} =~ s/([\\ ])/\\$1/gr } sort keys %set;
	my @command = ('psql', '-XAtq', '-v', 'ON_ERROR_STOP=' . ($opt{go_on} ? 0 : 1), '-v', 'VERBOSITY=verbose',
		'-d', ($opt{conninfo} // $self->conninfo($name)) . ($opt{user} ? " user=$opt{user}" : ''), '-f', $session->{file});
	$session->{harness} = IPC::Run::start(\@command, '<', \undef, '>', \$session->{out},
		'2>', \$session->{err}, IPC::Run::timeout($opt{timeout} // 90));
	return $session;
}

# Run it and wait: {ok, out, err, state}.
sub try_sql
{
	my ($self, @args) = @_;
	return $self->start_sql(@args)->finish;
}

# The same, where an error ends the test.  Returns the output.
sub sql
{
	my ($self, $name, $sql, %opt) = @_;
	my $result = %opt ? $self->try_sql($name, $sql, %opt) : $self->ask($name, $sql);
	die "on node $name: $sql\n$result->{err}" unless $result->{ok};
	return $result->{out};
}

# Run it in the session that is kept for such requests: hundreds of them would
# else cost a process each.  A session that was lost is opened once more.
sub ask
{
	my ($self, $name, $sql) = @_;
	my $node = $self->{nodes}{$name};

	for my $try (1, 2)
	{
		$self->open_asking($name) unless $node->{asking};
		my $text = exchange($node->{asking}, $sql);
		undef $text if defined $text && $text =~ /^server closed the connection unexpectedly$/m;
		return { ok => 1, out => $text } if defined $text && $text !~ /^(?:psql:\S+ )?ERROR:\s+[0-9A-Z]{5}:/m;
		return { ok => 0, out => '', err => $text } if defined $text;
		my $asking = delete $node->{asking};
		close $asking->{in};
		kill 'KILL', $asking->{pid};
		waitpid $asking->{pid}, 0;
		return { ok => 0, out => '', err => $asking->{buffer} } if $try == 2;
	}
}

sub open_asking
{
	my ($self, $name) = @_;
	local $ENV{PGAPPNAME} = 'asking';
	my @command = ('sh', '-c', 'exec psql -XAtq -v VERBOSITY=verbose -d "$0" 2>&1', $self->conninfo($name));
	my $pid = open2(my $out, my $in, @command);

	$in->autoflush(1);
	$self->{nodes}{$name}{asking} = { pid => $pid, in => $in, out => $out, buffer => '' };
}

# What psql prints up to the mark that follows the statements; undef where it
# ended before.
sub exchange
{
	my ($asking, $sql) = @_;
	my $deadline = time + 60;
	my $mark = '=== ' . ++$marks . " ===\n";
	my $end;

	local $SIG{PIPE} = 'IGNORE';
	print { $asking->{in} } "$sql\n;\n\\echo '" . substr($mark, 0, -1) . "'\n";
	while (($end = index $asking->{buffer}, $mark) < 0)
	{
		vec(my $ready = '', fileno($asking->{out}), 1) = 1;
		die "no answer to: $sql" if !select($ready, undef, undef, $deadline - time);
		return undef unless sysread($asking->{out}, $asking->{buffer}, 65536, length $asking->{buffer});
	}
	my $text = substr($asking->{buffer}, 0, $end);
	$asking->{buffer} = '';
	chomp $text;
	return $text;
}

# The rows of a query, as array references.
sub rows
{
	my ($self, $name, $sql) = @_;
	return map { [ split /\|/, $_, -1 ] } split /\n/, $self->sql($name, $sql);
}

# Set something on a running server, for all its processes; undef resets it.
sub set_system
{
	my ($self, $name, $setting, $value) = @_;
	$self->sql($name, (defined $value ? "ALTER SYSTEM SET $setting = '$value'" : "ALTER SYSTEM RESET $setting")
		. ';SELECT pg_reload_conf()');
	$self->wait_until(sub { $self->sql($name, "SHOW $setting") eq ($value // '') }, "$setting on $name")
	  if $setting eq 'fleet.fault';
}

# ---- waiting

# Poll until the code returns true; dies after the deadline.
sub wait_until
{
	my ($self, $code, $what, $deadline) = @_;
	my $end = time + ($deadline // 20);
	until ($code->())
	{
		die "gave up to wait until $what" if time > $end;
		sleep 0.02;
	}
	return 1;
}

sub log_size { return -s $_[0]{nodes}{ $_[1] }{log} // 0 }

# What a node has written to its log since then.
sub log_text
{
	my ($self, $name, $offset) = @_;
	return substr(slurp_file($self->{nodes}{$name}{log}), $offset // 0);
}

sub log_has
{
	my ($self, $name, $pattern, $offset) = @_;
	return $self->log_text($name, $offset) =~ $pattern;
}

# Let go of the sessions that wait at a fault point of a node.
sub go
{
	my ($self, $name, $point) = @_;
	append_to_file("$self->{nodes}{$name}{data}/fleet_go_$point", '');
}

sub ungo
{
	my ($self, $name, $point) = @_;
	unlink "$self->{nodes}{$name}{data}/fleet_go_$point";
}

# Start a session that is to wait at a fault point, and return once it does.
sub start_waiting
{
	my ($self, $name, $sql, $point, %opt) = @_;
	$self->ungo($name, $point);
	my $offset = $self->log_size($name);
	my $session = $self->start_sql($name, $sql, fault => "$point=wait", %opt);
	$self->wait_until(sub { $self->log_has($name, qr/fault point "\Q$point\E" reached/, $offset) },
		"$name waits at $point");
	return $session;
}

# ---- rides

# add_rides(region, ids...): on its node, each with a fare of its own.  From now
# on check_all() wants to see them.
sub add_rides
{
	my ($self, $region, @ids) = @_;
	my $sql = '';

	for my $id (@ids)
	{
		my $fare = 10 + keys %{ $self->{rides} };
		$self->{rides}{$id} = $fare;
		$sql .= sprintf "SELECT fleet.request_ride('%s', 'c', %s, NULL, %d);\n", $id, $self->place($region), $fare;
	}
	$self->sql($region, "BEGIN;\n${sql}COMMIT;");
	return @ids;
}

# Where the nodes' own tables have a ride: "b2" is region b, epoch 2; "a1+b2"
# where it is doubled, '' where it is missing.
sub where { return ($_[0]->places([ $_[1] ]))[0] }

# The same for some rides (or vehicles).
sub places
{
	my ($self, $ids, $kind) = @_;
	my $list = join ',', map { "'$_'" } @$ids;
	my %place;

	$kind //= 'ride';
	for my $name ($self->members)
	{
		push @{ $place{ $_->[0] } }, $name . $_->[1]
		  for $self->rows($name, "SELECT ${kind}_id, epoch FROM fleet.local_${kind}s WHERE ${kind}_id IN ($list)");
	}
	return map { join '+', @{ $place{$_} // [] } } @$ids;
}

# ---- a psql session that runs on its own

package FleetCluster::Session;

use strict;
use warnings;

# Wait for its end: {ok, out, err, state (of the first error)}.
sub finish
{
	my ($self) = @_;

	eval { $self->{harness}->finish; 1 } or do
	{
		my $error = $@;
		$self->{harness}->kill_kill;
		die "session on $self->{node} did not end: $error$self->{out}$self->{err}";
	};
	unlink $self->{file};
	chomp $self->{out};
	return {
		ok => $self->{harness}->result(0) == 0 && $self->{err} !~ /^psql:.*(ERROR|FATAL):/m,
		out => $self->{out},
		err => $self->{err},
		state => $self->{err} =~ /(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):/ ? $1 : ''
	};
}

# The pid of its backend.
sub backend
{
	my ($self) = @_;
	return $self->{cluster}->sql($self->{node},
		"SELECT pid FROM pg_stat_activity WHERE application_name = '$self->{app}'");
}

1;
