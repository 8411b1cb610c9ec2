# fleet: malformed input through SQL, at random.
# Copyright (c) 2026, the fleet authors
#
# Every function of schema fleet that takes arguments, the binary form of
# fleet.hlc and of rides, and geofences of any shape, are called with valid
# input of which one value or some have been replaced or damaged: numbers at and
# past their limits, NaN, texts with bytes that are no characters, JSON
# without a key or with another kind of value, arrays with nulls, and so on.
#
# An error with an SQLSTATE is a fine answer.  What is not: a server that crashes,
# an internal error (XX000, save those that PostGIS raises for what is no
# geometry), or no answer within some seconds.  Valid input must be accepted,
# else nothing would be tested; and in the end the nodes must work as before.
#
# RUN_SECONDS (30); SEED=n has the same inputs in the same order, and ONLY=n with
# it only the n-th one.

use strict;
use warnings;

use FleetChaos;
use FleetCluster;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{SEED} || int(rand(1_000_000));
my $seconds = $ENV{RUN_SECONDS} || 30;
my $patience = 15;    # seconds; what takes longer hangs

diag("seed $seed");
srand($seed);

my $c = FleetCluster->new(nodes => 3, no_map => 1,
	settings => "fleet.lock_timeout = 300\nfleet.connect_timeout = 500\nfleet.max_speed = 0\nlog_error_verbosity = verbose");
my $json = JSON::PP->new->canonical->allow_nonref;
my $file = "$PostgreSQL::Test::Utils::tmp_check/input";

*pick = \&FleetChaos::pick;

# ---- the nodes: a and b have regions, c may get one

$c->add_region($_) for 'a', 'b';
for my $node ('a', 'b')
{
	my $place = $c->place($node);
	$c->add_rides($node, map { "$node-$_" } 1 .. 5);
	$c->sql($node, "SELECT fleet.register_vehicle('car-$node-$_', $place)") for 1 .. 3;
	$c->sql($node, "SELECT fleet.request_ride('ride-$node', 'c', $place, 'car-$node-1')");
	$c->{rides}{"ride-$node"} = 0;
	$c->sql($node, "SELECT fleet.request_ride('gone-$node', 'c', $place); DELETE FROM fleet.local_rides WHERE ride_id = 'gone-$node'");
}
$c->sql('a', "SELECT fleet.add_fence('yard', ST_MakeEnvelope(0.4, 0.4, 0.6, 0.6, 4326), '{enter,exit,dwell,cross}', '1 s')");
$c->sql('a', "SELECT fleet.handoff('a-5', 'b')");
$c->sql('a', "CREATE TABLE stamps (h fleet.hlc); COPY (SELECT * FROM fleet.local_rides WHERE ride_id = 'a-4') TO '$file.ride' (FORMAT binary)");

# What a node is sent: rows that arrive at a, those that left it, and the map.
my $version = $c->sql('a', 'SELECT version FROM fleet.map');
my $gid = 'fleet:node_b:' . $c->sql('b', 'SELECT fleet.incarnation()') . ':123:0123456789abcdef';
my ($arriving) = grep { /^\[/ } split /\n/, $c->sql('b',
	"BEGIN;\nSELECT (fleet.depart('$gid', false, '{b-1,ride-b}', 'a', 0, $version, fleet.hlc_now()::bigint, 300))[1];\nROLLBACK;");
my ($departed) = map { "[$_]" } map { $json->encode($_) =~ s/"target":"a"/"target":"b"/r =~ s/"b-1"/"a-1"/gr } grep { $_->{key} eq 'b-1' } @{ $json->decode($arriving) };
my $map = $c->sql('a', "SELECT fleet.map_payload('a')");

# A snapshot, and rows as it has them.
my $snapshot = $c->sql('a', 'SELECT fleet.take_snapshot()');
my $ride_image = $c->sql('a', "SELECT fleet.row_image(r) || '{\"ride_id\": \"lost\", \"vehicle_id\": null}' FROM fleet.local_rides AS r WHERE ride_id = 'a-1'");
my $vehicle_image = $c->sql('a', "SELECT fleet.row_image(v) || '{\"vehicle_id\": \"lost\"}' FROM fleet.local_vehicles AS v WHERE vehicle_id = 'car-a-1'");

# ---- values of each type: valid ones are given, these are the others

my @texts = (undef, '', ' ', '0', 'a', 'A', 'null', "'", '"', '\\', '%s%n%1$s', '{}', '$1', "\x00" x 0, "\x7f", "\x80", "\xff\xfe",
	"\xc3", "\xed\xa0\x80", "\xf0\x9f\x9a\x95", "a\tb\nc", 'x' x 64, 'x' x 200, 'x' x 5000, 'no_such', 'fleet:', "fleet:a:b:1:0123456789abcdef:0",
	"fleet:node_a:x:1:0123456789abcdef", '../../etc', '-1', '1e400', 'gone-a', 'a-5', 'b-1', 'a', 'b', 'c');
my @ints = (undef, 0, 1, -1, 2, 100, 2147483647, -2147483648, 2147483648, '9223372036854775807', '-9223372036854775808', '9223372036854775808', 65535, 65536, 'x', '1.5');
my @floats = (undef, 'NaN', 'Infinity', '-Infinity', 0, '-0', 1e-308, -1e-308, 1e308, '-1e308', '1e400', 90, -90, '90.0000000001', 180, -180,
	'180.0000000001', -181, 360, 1e15, 0.5, 'x');
my @times = (undef, 'infinity', '-infinity', '4713-01-01 BC', '294276-12-31 23:59:59.999999', '1969-12-31', '1970-01-01 00:00:00Z', '6429-10-17 02:45:55.328Z',
	'10000-01-01', 'now', 'yesterday', 'x');
my @intervals = (undef, '0', '1 us', '1 ms', '-1 s', '366 days', '367 days', '12 months', '-12 months 370 days', '178000000 years', '-178000000 years',
	'106751991 days', '106751992 days -2562047788 hours', '2147483647 days 2147483647 months', '-2147483648 days', '9223372036854775807 us', '-9223372036854775808 us', 'infinity', 'x');
my @json = map { "\@RAW$_\@" } 'null', 'true', '0', '-1', '1.5', '1e400', '9223372036854775807', '9223372036854775808', '""', '"x"', '"\u0001"', '"ride"',
  '"vehicle"', '"NaN"', '"infinity"', '"a"', '"b"', '"2026-11-21T08:03:22.123Z/00005"', '[]', '{}', '[null]', '[[1]]', '{"a": 1}', '"' . 'x' x 3000 . '"';

# Damage some bytes of a text.
sub damage
{
	my ($text) = @_;
	for (1 .. 1 + int(rand(3)))
	{
		my $at = int(rand(length($text) + 1));
		my $kind = int(rand(5));
		if ($kind == 0) { substr($text, $at, 1 + int(rand(4))) = '' if $at < length $text }
		elsif ($kind == 1) { substr($text, $at, 0) = chr(1 + int(rand(255))) }
		elsif ($kind == 2) { substr($text, $at, 1) = pick('0', '9', 'z', ':', '-', '/', ' ', '"', '{', '}', ',', "\x80") if $at < length $text }
		elsif ($kind == 3) { substr($text, $at, 0) = substr($text, int(rand($at + 1)), 8) }
		else { $text = substr($text, 0, $at) }
	}
	return $text;
}

# Replace, remove or double a value somewhere in a JSON document.
sub damage_json
{
	my ($text) = @_;
	return pick(undef, 'null', '[]', '{}', '0', '"x"', '[null]', '[[]]', '[{}]', '[1, "x"]', '') if rand() < 0.15;
	return damage($text) if rand() < 0.15;
	my $doc = $json->decode($text);
	for (1 .. pick(1, 1, 2, 4))
	{
		my $at = \$doc;
		$at = ref $$at eq 'HASH' ? \$$at->{ pick(sort keys %$$at) } : \$$at->[ int(rand(@$$at)) ]
		  while (ref $$at eq 'HASH' && %$$at || ref $$at eq 'ARRAY' && @$$at) && rand() < 0.8;
		if (ref $$at eq 'HASH' && rand() < 0.5) { delete $$at->{ pick(sort keys %$$at) } if %$$at }
		elsif (ref $$at eq 'ARRAY' && @$$at && rand() < 0.5) { push @$$at, $$at->[0] }
		elsif (defined $$at && !ref $$at && rand() < 0.4) { $$at = damage("$$at") }
		else { $$at = pick(@json) }
	}
	return $json->encode($doc) =~ s/"\@RAW(.*?)\@"/$1 =~ s,\\(.),$1,gr/ger;
}

# EWKB of a multipolygon, mostly near region c: box(es) with something wrong.
sub wkb
{
	my ($damage) = @_;
	my $flags = $damage && rand() < 0.2 ? pick(0x80000000, 0x40000000, 0xC0000000) : 0;
	my $width = 2 + ($flags == 0xC0000000 ? 2 : $flags ? 1 : 0);
	my $number = sub { return $damage && rand() < 0.04 ? pick(grep { defined && /\d|NaN|nfin/ } @floats) + 0 : $_[0] };
	my $polygons = '';
	my $count = 1 + int(rand(3));

	for my $p (1 .. $count)
	{
		my ($x, $y) = (2 + 0.3 * $p, 0.1);
		my @ring = ([ $x, $y ], [ $x + 0.2, $y ], [ $x + 0.2, $y + 0.2 ], [ $x, $y + 0.2 ], [ $x, $y ]);
		@ring = @ring[ map { int(rand(@ring)) } 1 .. int(rand(8)) ] if $damage && rand() < 0.2;
		my $points = join '', map { pack 'd<*', map({ $number->($_) } @$_), (0) x ($width - 2) } @ring;
		my $n = $damage && rand() < 0.05 ? pick(0, 1, 3, 65536, 4294967295) : @ring;
		$polygons .= pack('CL<L<L<', 1, 3 | $flags, 1, $n) . $points;
	}
	my $type = $damage && rand() < 0.1 ? pick(0, 1, 2, 3, 4, 5, 7, 15, 1006) : 6;
	my $srid = $damage && rand() < 0.1 ? pick(0, 3857, 999999, 4294967295) : 4326;
	my $head = pack('CL<L<L<', 1, $type | $flags | 0x20000000, $srid, $damage && rand() < 0.05 ? pick(0, 9, 4294967295) : $count);
	my $hex = uc unpack 'H*', $head . $polygons;
	return $damage && rand() < 0.15 ? damage($hex) : $hex;
}

# An array, as text.
sub array_of
{
	my ($others, $valid) = @_;
	return pick(undef, '{}', '{NULL}', '{{}}', '{', '[0:1]={1,2}', "{{$valid},{$valid}}", "{$valid,$valid,NULL}") if rand() < 0.5;
	return '{' . join(',', map { defined $_ ? '"' . s/(["\\])/\\$1/gr . '"' : 'NULL' } map { pick(@$others, $valid) } 1 .. pick(1, 2, 3, 200)) . '}';
}

# Conditions over a ride, none of which may mean more than a condition.
my @conditions = ('true', 'false', 'NULL', 'fare > 5', "status = 'PENDING'", "ride_id LIKE '%s%n'", 'requested_at < now()', 'r IS NOT NULL', 'r = r', 'r.*', '*', '(r).fare > 1',
	"public.ST_DWithin(current_location, 'POINT(0.5 0.5)', 100)", "public.ST_DWithin(current_location, 'POINT EMPTY', 'NaN')", "hlc OPERATOR(fleet.>) fleet.hlc_make(now(), 1)",
	"customer_id = 'it''s' OR vehicle_id IN ('car-a-1', NULL)", 'fare::text ~ ride_id', 'ctid IS NULL', 'tableoid = 1', 'fare > (SELECT 1)', 'EXISTS (TABLE fleet.node)',
	'random() < 0.5', 'count(*) > 0', 'sum(fare) OVER () > 0', '$1', 'fare > $2', 'true, true', 'true FROM fleet.rides', 'true AS x', 'DISTINCT true', 'true UNION SELECT true',
	'fare', '1/0 > fare', '1/(epoch - 1) > 0', 'pg_sleep(0) IS NULL', 'generate_series(1, 3) = 1', 'now()::text = ride_id', 'requested_at::date = current_date', 'fare = ANY (ARRAY[1, NULL, 2])',
	'(fare, epoch) > (1, 2)', 'CASE WHEN fare > 1 THEN true ELSE NULL END', 'NULLIF(fare, 0) IS DISTINCT FROM path_m', 'duration = make_interval(secs => path_m)', 'public.ST_X(current_location::public.geometry) > 0',
	'public.ST_Buffer(current_location, path_m) IS NOT NULL', "fleet.is_within(current_location, customer_id, 1)", 'status::text::xml IS DOCUMENT', 'r.no_such = 1', 'CURRENT OF c', 'DEFAULT',
	"jsonb_path_exists('{\"a\": 1}', '\$.a')", "ride_id COLLATE \"C\" < customer_id", "U&'\\0061' = ride_id", "E'\\'' = ride_id", "'\\' = ride_id", 'x' x 100, '(' x 3000, 'NOT ' x 3000 . 'true');

my %damaged = (
	condition => sub { my $other = pick(@conditions);
		rand() < 0.5 ? $other : rand() < 0.4 ? damage($other) : rand() < 0.6 ? pick('NOT (%s)', '(%s) IS NULL', "$other OR %s", "(%s) AND ($other)", "COALESCE(%s, $other)") =~ s/%s/$_[0]/r : pick(@texts) },
	geography => sub { pick(undef, '', 'x', 'POINT EMPTY', 'POINT(0.5 0.5)', 'POINT(200 95)', 'POINT(1e308 -1e308)', 'POINT Z (0 0 1)', 'LINESTRING(0 0, 1 1)', 'POLYGON((0 0, 1 0, 1 1, 0 0))',
		'GEOMETRYCOLLECTION EMPTY', 'SRID=3857;POINT(0 0)', 'SRID=4269;POINT(0 0)', 'POINT(0 0', 'POINT(NaN NaN)') },
	text => sub { rand() < 0.5 ? pick(@texts) : damage($_[0] // 'x') },
	int4 => sub { pick(@ints) },
	int8 => sub { pick(@ints) },
	float8 => sub { pick(@floats) },
	numeric => sub { pick(@floats) },
	boolean => sub { pick(undef, 'true', 'false', 'x') },
	timestamptz => sub { pick(@times) },
	interval => sub { pick(@intervals) },
	jsonb => sub { damage_json($_[0]) },
	json => sub { damage_json($_[0]) },
	'text[]' => sub { array_of(\@texts, $_[0] =~ /(\w[\w:-]*)/ ? $1 : 'x') },
	bytea => sub { pick(undef, '', '\\x', '\\x00', '\\x' . 'ff' x 24, '\\x' . '00' x 25, damage($_[0])) },
	'int4[]' => sub { array_of(\@ints, 1) },
	'int8[]' => sub { array_of(\@ints, 1) },
	'float8[]' => sub { array_of(\@floats, 1) },
	'geometry' => sub { wkb(1) },
	'fleet.hlc' => sub { rand() < 0.5 ? pick(@texts) : damage($_[0]) },
	'fleet.quadkey' => sub { rand() < 0.3 ? pick(@texts) : rand() < 0.6 ? pick('', '0', '3', '111', '2' x 29, '3' x 29, '0' x 30) : damage($_[0]) },
	'float8[]' => sub { array_of(\@floats, '0.5') },
	'timestamptz[]' => sub { array_of(\@times, 'now') },
	'fleet.vehicle_status[]' => sub { array_of([ undef, '', 'ONLINE', 'x' ], 'BUSY') },
	'fleet.quadkey[]' => sub { array_of([ undef, '', '0', '213', '3' x 29, 'x' ], '213') },
	'fleet.ride_status' => sub { pick(undef, 'PENDING', 'EN_ROUTE', 'ARRIVED', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED', 'x') },
	'fleet.vehicle_status' => sub { pick(undef, 'OFFLINE', 'ONLINE', 'BUSY', 'ON_TRIP', 'x') },
);

# ---- what is called: [statement, with %s for the values; type => valid value, ...].
# Those of public work are also committed, now and then.

my $stamp = '2026-11-21T08:03:22.123Z/00005';
my @place = (float8 => 0.5, float8 => 0.5);
my @public = (
	[ 'SELECT %s', 'fleet.hlc' => $stamp ],
	[ 'SELECT fleet.hlc_make(%s, %s)', timestamptz => '2026-11-21', int4 => 5 ],
	[ 'SELECT %s::fleet.hlc', int8 => 5 ],
	[ 'SELECT fleet.hlc_physical(%s), fleet.hlc_counter(%1$s)', 'fleet.hlc' => $stamp ],
	[ 'SELECT %s', 'fleet.quadkey' => '0213' ],
	[ 'SELECT fleet.quadkey(%s, %s, %s)', @place, int4 => 12 ],
	[ 'SELECT %s::fleet.quadkey', int8 => 1 ],
	[ 'SELECT fleet.quadkey_of_tile(%s, %s, %s)', int4 => 3, int4 => 5, int4 => 3 ],
	[ 'SELECT fleet.quadkey_tile(%s), fleet.quadkey_level(%1$s), fleet.quadkey_parent(%1$s), fleet.quadkey_last(%1$s), fleet.quadkey_range(%1$s), fleet.quadkey_edges(%1$s),'
			. ' fleet.quadkey_reach(%1$s), fleet.quadkey_bounds(%1$s)', 'fleet.quadkey' => '0213' ],
	[ 'SELECT fleet.quadkey_children(%s), fleet.quadkey_neighbours(%1$s)', 'fleet.quadkey' => '0213' ],
	[ 'SELECT fleet.quadkey_parent(%s, %s)', 'fleet.quadkey' => '0213', int4 => 2 ],
	[ 'SELECT fleet.quadkey_contains(%s, %s), fleet.quadkey_contained(%1$s, %2$s)', 'fleet.quadkey' => '0213', 'fleet.quadkey' => '02131' ],
	[ 'SELECT count(*) FROM fleet.quadkey_cover(%s, %s, %s)', geography => 'POINT(0.5 0.5)', float8 => 500, int4 => 12 ],
	[ 'SELECT count(*) FROM fleet.quadkey_cover_circle(%s, %s, %s, %s)', @place, float8 => 500, int4 => 12 ],
	[ 'SELECT count(*) FROM fleet.quadkey_cover(%s, %s)', geometry => wkb(), int4 => 10 ],
	[ 'SELECT fleet.quadkey_area_problem(%s), fleet.quadkey_intersecting(%1$s, %s)', geometry => wkb(), 'fleet.quadkey[]' => '{0,1,2,3}' ],
	[ 'SELECT fleet.parse_conninfo(%s)', text => "host=h port=1 password='x y'" ],
	[ 'SELECT fleet.parse_conninfo(%s)', text => 'postgresql://u:p@h1,h2:5/db?sslmode=require' ],
	[ 'SELECT fleet.region_of(%s, %s)', @place ],
	[ 'SELECT fleet.require_region(%s, %s)', @place ],
	[ 'SELECT fleet.make_point(%s, %s), fleet.lon(fleet.make_point(%1$s, %2$s)), fleet.lat(fleet.make_point(%1$s, %2$s))', @place ],
	[ 'SELECT fleet.is_place(%s)', text => 'POINT(0 0)' ],
	[ 'SELECT fleet.register_vehicle(%s, %s, %s, %s)', text => 'car-new', @place, 'fleet.vehicle_status' => 'ONLINE' ],
	[ 'SELECT fleet.request_ride(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)', text => 'ride-new', text => 'c', @place, text => 'car-a-2',
		numeric => 12.5, float8 => 1.5, float8 => 0.5, timestamptz => 'now', text => 'key' ],
	[ 'SELECT fleet.request_ride(%s, %s, %s, %s, idempotency_key => %s)', text => 'ride-there', text => 'c', float8 => 1.5, float8 => 0.5, text => 'key' ],
	# Of a ride that is here, and of one that is not.
	map({ [ 'SELECT fleet.set_ride_status(%s, %s, %s, %s, %s)', text => $_, 'fleet.ride_status' => 'EN_ROUTE', text => undef, timestamptz => 'now', text => 'key' ],
		[ 'SELECT fleet.update_ride(%s, %s, %s)', text => $_, jsonb => '{"fare": 5, "end_location": "POINT(0.5 0.5)", "customer_id": "c"}', text => 'key' ],
		[ 'SELECT fleet.cancel_ride(%s, %s, %s)', text => $_, timestamptz => 'now', text => 'key' ] } 'a-1', 'b-1'),
	[ 'SELECT fleet.report_fix(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)', text => 'car-b-1', float8 => 1.5, float8 => 0.5, timestamptz => 'now',
		float8 => 30, float8 => 90, float8 => 5, float8 => 80, float8 => 12, 'fleet.vehicle_status' => 'ONLINE' ],
	[ 'SELECT fleet.report_fix(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)', text => 'car-a-1', @place, timestamptz => 'now',
		float8 => 30, float8 => 90, float8 => 5, float8 => 80, float8 => 12, 'fleet.vehicle_status' => 'ONLINE' ],
	[ 'SELECT fleet.report_fix(%s, %s, %s, %s)', text => 'car-a-1', float8 => 1.5, float8 => 0.5, timestamptz => 'now' ],
	[ 'SELECT count(*) FROM fleet.report_fixes(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)', 'text[]' => '{car-a-1,car-b-1,car-a-2}', 'float8[]' => '{0.5,1.5,0.5}',
		'float8[]' => '{0.5,0.5,0.5}', 'timestamptz[]' => '{now,now,now}', map({ ('float8[]' => '{1,NULL,3}') } 1 .. 5), 'fleet.vehicle_status[]' => '{BUSY,NULL,ONLINE}' ],
	[ 'INSERT INTO fleet.fix_feed VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)', text => 'car-a-1', @place, timestamptz => 'now',
		float8 => 30, float8 => 90, float8 => 5, float8 => 80, float8 => 12, 'fleet.vehicle_status' => 'ONLINE' ],
	[ 'SELECT * FROM fleet.fences_at(%s, %s)', @place ],
	[ 'SELECT fleet.is_in_fence(%s, %s, %s)', text => 'yard', @place ],
	[ 'SELECT * FROM fleet.near(%s, %s)', text => 'car-a-1', float8 => 1000 ],
	[ 'SELECT * FROM fleet.within(%s)', text => 'yard' ],
	[ 'SELECT fleet.as_fence_area(%s), fleet.fence_area_problem(%1$s)', geometry => wkb() ],
	[ 'SELECT fleet.fence_place_problem(%s, %s), fleet.flat_place(%1$s)', geography => 'POINT(0.5 0.5)', float8 => 1000 ],
	[ 'SELECT fleet.ride_path(%s)', text => 'a-1' ],
	[ 'SELECT fleet.vehicle_path(%s, %s, %s)', text => 'car-a-1', timestamptz => 'now', timestamptz => 'tomorrow' ],
	[ 'SELECT * FROM fleet.path_fixes(%s, %s, %s, %s)', text => 'vehicle', text => 'car-a-1', timestamptz => 'yesterday', timestamptz => 'tomorrow' ],
	[ 'SELECT fleet.set_crossing_rule(%s, %s, %s, %s)', text => 'a', float8 => 100, float8 => 60, float8 => 60 ],
	[ 'SELECT fleet.rate_limit(%s, %s, %s, %s)', text => 'bucket', text => 'key', int4 => 3, interval => '1 minute' ],
	[ 'SELECT fleet.require_rate(%s, %s, %s, %s)', text => 'many', text => 'key', int4 => 1000000, interval => '1 ms' ],
	[ 'SET fleet.fix_min_interval = 1; SELECT fleet.report_fix(%s, %s, %s, %s)', text => 'car-a-3', @place, timestamptz => 'now' ],
	[ 'SELECT fleet.handoff(%s, %s, %s)', text => 'a-1', text => 'b', int8 => undef ],
	[ 'SELECT fleet.handoff(%s::text[], %s)', 'text[]' => '{a-1,a-2}', text => 'b' ],
	[ 'SELECT fleet.handoff_vehicle(%s, %s)', text => 'car-a-1', text => 'b' ],
);
# Reads: of all regions, of this one, and of a replica, which there is none of.
my @filter = (text => 'a', 'fleet.ride_status' => 'PENDING', text => 'car-a-1', text => 'c', numeric => 0, numeric => 100, timestamptz => '2020-01-01', geography => 'POINT(0.5 0.5)', float8 => 1000);
for my $scope ('global-live', 'local')
{
	push @public,
		[ 'SELECT * FROM fleet.search_rides(' . join(', ', ('%s') x 13) . ')', text => $scope, @filter, text => 'fare desc', int4 => 5, text => 'fail' ],
		[ 'SELECT * FROM fleet.search_rides(%s, %s, %s, %s, %s, %s, %s, %s, max_rows => %s)', text => $scope, @filter[0 .. 13], int4 => 5 ],
		[ 'SELECT * FROM fleet.search_rides(%s, near => %s, within_m => %s, order_by => %s, max_rows => %s, on_unavailable => %s)', text => $scope,
			geography => 'POINT(0.5 0.5)', float8 => 1e6, text => 'requested_at', int4 => 3, text => 'partial' ],
		[ 'SELECT * FROM fleet.search_rides(%s, near => %s, within_m => %s, order_by => %s, max_rows => %s)', text => $scope,
			geography => 'POINT(0.5 0.5)', float8 => 1e6, text => 'distance', int4 => 3 ],
		[ 'SELECT fleet.count_rides(' . join(', ', ('%s') x 11) . ')', text => $scope, @filter, text => 'fail' ],
		[ 'SELECT * FROM fleet.ride_totals(' . join(', ', ('%s') x 11) . ')', text => $scope, @filter, text => 'partial' ],
		[ 'SELECT * FROM fleet.live_rides(%s)', condition => 'fare >= 0' ],
		[ 'SELECT * FROM fleet.live_rides(%s, %s, %s, %s, %s)', condition => "status = 'PENDING'", text => $scope, text => 'ride_id', int4 => 5, text => 'fail' ],
		[ 'SELECT * FROM fleet.get_ride(%s, %s)', text => 'b-1', text => $scope ],
		[ 'SELECT * FROM fleet.nearest_vehicles(%s, %s, %s, %s, %s, %s, %s)', @place, int4 => 5, float8 => 1e6, 'fleet.vehicle_status' => 'ONLINE', text => $scope, text => 'fail' ],
		[ 'SELECT * FROM fleet.nearest_vehicles(%s, %s)', @place ],
		[ 'SELECT * FROM fleet.vehicles_within(%s, %s, %s, %s)', geography => 'POLYGON((0 0,1 0,1 1,0 0))', 'fleet.vehicle_status' => 'ONLINE', text => $scope, text => 'partial' ];
}
push @public,
	[ 'SELECT fleet.locate(%s), fleet.last_read()', text => 'a-5' ],
	[ 'SELECT fleet.distance(%s, %s)', text => 'car-a-1', text => 'car-a-2' ],
	[ 'SELECT fleet.haversine(%s, %s, %s, %s)', (float8 => 0.5) x 4 ],
	[ 'SELECT fleet.handoff(%s, %s); SELECT ride_id, region FROM fleet.live_rides(%s)', text => 'a-3', text => 'b', condition => 'epoch > 0' ];
my $fence = $c->sql('a', "SELECT fleet.row_image(f) || '{\"name\": \"redone\"}' FROM fleet.fences AS f");
my @internal = (
	[ 'SELECT fleet.nearest_here(%s, %s, %s, %s, %s, %s)', @place, int4 => 5, float8 => 1e6, 'fleet.vehicle_status' => 'ONLINE', int4 => 600 ],
	[ 'SELECT fleet.within_peer(%s, %s, %s)', text => 'POLYGON((0 0,1 0,1 1,0 0))', 'fleet.vehicle_status' => 'ONLINE', int4 => 600 ],
	[ 'SELECT fleet.within_here(%s, %s, %s)', geography => 'POLYGON((0 0,1 0,1 1,0 0))', 'fleet.vehicle_status' => 'ONLINE', int4 => 600 ],
	[ 'SELECT fleet.search_within(%s, %s, %s, %s)', text => 'POLYGON((0 0,1 0,1 1,0 0))', text => 'ONLINE', text => 'local', text => 'fail' ],
	[ 'SELECT fleet.as_nearby(v, %s) FROM fleet.local_vehicles AS v', int4 => 600 ],
	[ 'SELECT fleet.to_place(%s)', text => 'POINT(0 0)' ],
	[ 'SELECT fleet.covers(%s, %s)', geography => 'POLYGON((0 0,1 0,1 1,0 0))', geography => 'POINT(0 0)' ],
	[ 'SELECT fleet.vehicle_place(%s)', text => 'car-a-1' ],
	[ 'SELECT fleet.live_index_state()' ],
	[ 'SELECT fleet.history_slots(%s, %s, %s)', text => 'car-a-1', timestamptz => 'yesterday', timestamptz => 'tomorrow' ],
	[ 'SELECT fleet.path_of(ARRAY[%s])', geometry => wkb() ],
	[ 'SELECT fleet.make_history_partition((%s)::timestamptz::date)', timestamptz => '2026-01-01' ],
	[ 'SELECT * FROM fleet.make_history_partitions(%s); SELECT * FROM fleet.drop_old_history(); SELECT * FROM fleet.history_partitions()', int4 => 3 ],
	[ 'SELECT fleet.ride_sums(' . join(', ', ('%s') x 12) . ')', text => 'global-live', @filter, text => 'fail', boolean => 'true' ],
	[ 'SELECT * FROM fleet.search_local_rides(' . join(', ', ('%s') x 8) . ')', @filter[0 .. 13], int4 => 5 ],
	[ 'SELECT fleet.note_local_read(%s, %s), fleet.last_read()', text => 'a', int4 => 5 ],
	[ 'SELECT fleet.is_within(%s, %s, %s)', geography => 'POINT(0 0)', text => 'POINT(1 1)', float8 => 5 ],
	[ 'SELECT fleet.distance_to(%s, %s)', geography => 'POINT(0 0)', text => 'POINT(1 1)' ],
	[ 'SELECT fleet.hlc_receive(%s)', 'fleet.hlc' => $stamp ],
	[ 'SELECT fleet.ask(%s, \'SELECT 1\')', text => 'b' ],
	[ 'SELECT fleet.geofence_wkb(%s)', text => 'a' ],
	[ 'SELECT fleet.geofence_problem(%s)', geometry => wkb() ],
	[ 'SELECT fleet.geofence_overlaps(%s, %s)', geometry => wkb(), text => 'a' ],
	[ 'SELECT fleet.check_geofence(%s, %s)', text => 'c', geometry => wkb() ],
	# As no user can, past all checks: what is read of the map is not trusted either.
	[ 'INSERT INTO fleet.map_regions VALUES (\'zz\', \'zz\', NULL, %s);'
			. ' SELECT fleet.map_changed(); SELECT fleet.region_of(%s, %s)', geometry => wkb(), float8 => 2.4, float8 => 0.2 ],
	[ 'SELECT fleet.set_geofence(%s, %s)', text => 'b', geometry => wkb() ],
	[ 'SELECT fleet.add_fence(%s, %s, %s, %s, %s, %s); SELECT fleet.report_fix(%s, %s, %s)', text => 'area', geometry => wkb(), 'text[]' => '{enter,exit,dwell,cross}',
		interval => '1 s', 'fleet.vehicle_status' => undef, boolean => 'true', text => 'car-a-1', @place ],
	[ 'SELECT fleet.add_fence(%s, %s, %s, %s, %s, %s, %s); SELECT fleet.report_fix(%s, %s, %s)', text => 'place', geography => 'POINT(0.5 0.5)', float8 => 1000,
		'text[]' => '{near,exit,cross}', interval => undef, 'fleet.vehicle_status' => 'ONLINE', boolean => 'true', text => 'car-a-1', @place ],
	[ 'SELECT fleet.add_pair(%s, %s, %s, %s, %s); SELECT fleet.report_fix(%2$s, %s, %s)', text => 'pair', text => 'car-a-1', text => 'car-a-2', float8 => 1000, boolean => 'true', @place ],
	[ 'SELECT fleet.remove_fence(%s)', text => 'yard' ],
	# As no user can, past all checks.
	[ 'INSERT INTO fleet.fences (name, id, area, events, notify, created_at) VALUES (%s, gen_random_uuid(), %s, %s, true, now());'
			. ' SELECT fleet.fences_at(%s, %s); SELECT fleet.report_fix(%s, %4$s, %5$s)', text => 'wrong', geometry => wkb(), 'text[]' => '{enter,dwell}', @place, text => 'car-a-1' ],
	[ 'UPDATE fleet.local_vehicles SET stays = %s WHERE vehicle_id = %s; SELECT fleet.report_fix(%2$s, %s, %s)', jsonb => '{"x": "told"}', text => 'car-a-1', @place ],
	[ 'SELECT fleet.apply_fence(%s, %s, %s)', text => $gid, jsonb => qq({"remove": "yard", "stamp": 5, "version": $version}), boolean => 'false' ],
	[ 'SELECT fleet.redo(%s, %s)', text => $gid, jsonb => qq([{"kind": "fence", "payload": {"add": $fence, "stamp": 5}}]) ],
	[ 'SELECT fleet.change_fence(%s)', jsonb => '{"remove": "yard"}' ],
	[ 'SELECT fleet.request_fence(%s, %s)', text => 'b', jsonb => qq({"remove": "yard", "stamp": 5, "version": $version}) ],
	[ 'SELECT fleet.make_fence(jsonb_populate_record(f, %s)), fleet.fence_wkb(f) FROM fleet.fences AS f WHERE name = %s', jsonb => '{"name": "made"}', text => 'yard' ],
	[ 'SELECT fleet.fence_event_json(e) FROM fleet.fence_events AS e WHERE vehicle_id = %s', text => 'car-a-1' ],
	[ 'SELECT fleet.all_fences(), fleet.drop_fence_events(%s)', interval => '1 day' ],
	[ 'SELECT fleet.set_capacity(%s, %s)', text => 'b', int4 => 5 ],
	[ 'SELECT fleet.region_rides(%s)', text => 'b' ],
	[ 'SELECT fleet.edit_region(%s, %s, %s)', text => 'b', text => 'change', jsonb => '{"capacity": 5}' ],
	[ 'SELECT fleet.whereabouts(%s, %s), fleet.has_departed(%1$s, %2$s), fleet.await_outcome(%1$s, %2$s, %3$s)', text => 'ride', text => 'a-5', int4 => 10 ],
	[ 'SELECT fleet.route(%s, %s, NULL, %s)', text => 'update_ride', text => 'b-1', jsonb => '{"ride_id": "b-1", "changes": {"fare": 3}}' ],
	[ 'SELECT fleet.route(%s, NULL, %s, %s)', text => 'register_vehicle', text => 'b', jsonb => '{"vehicle_id": "car-x", "lon": 1.5, "lat": 0.5, "status": "ONLINE"}' ],
	[ 'SELECT fleet.perform(%s, %s, %s, %s, %s)', text => 'set_ride_status', text => 'a-1', jsonb => '{"ride_id": "a-1", "status": "EN_ROUTE"}', int8 => 5, int4 => 300 ],
	[ 'SELECT fleet.call_again(%s, %s)', jsonb => '{"call": "update_ride", "kind": "ride", "key": "a-1", "hlc": 5, "arguments": {"ride_id": "a-1", "changes": {"fare": 3}}}', 'text[]' => '{a-1}' ],
	[ 'SELECT fleet.log_calls(%s)', text => $gid ],
	[ 'SELECT fleet.is_repeated(%s, %s, %s)', text => 'a-1', text => 'key', text => 'update_ride' ],
	[ 'SELECT fleet.known_result(%s, %s, %s), fleet.with_result(%1$s, %2$s, %3$s, \'1\')', jsonb => '{"key": {"at": "2026-11-21T00:00:00Z", "call": "c", "result": 1}}', text => 'key', text => 'c' ],
	[ 'SELECT fleet.row_image(r) FROM fleet.local_rides AS r WHERE ride_id = %s', text => 'a-1' ],
	[ 'SELECT fleet.depart(%s, %s, %s, %s, %s, %s, %s, %s)', text => $gid, boolean => 'false', 'text[]' => '{a-1,a-2}', text => 'b', int8 => 0,
		int8 => $version, int8 => $c->sql('a', 'SELECT fleet.hlc_now()::bigint'), int4 => 300 ],
	[ 'SELECT fleet.depart(%s, %s, %s, %s, %s, %s, %s, %s)', text => $gid, boolean => 'true', 'text[]' => '{car-a-1}', text => 'b', int8 => 0,
		int8 => $version, int8 => 1, int4 => 300 ],
	[ 'SELECT fleet.arrive(%s, %s, %s, %s)', text => $gid, jsonb => $arriving, int8 => $version, boolean => 'false' ],
	[ 'SELECT fleet.arrive(%s, %s, %s, %s)', text => $gid, jsonb => $arriving, int8 => $version, boolean => 'true' ],
	[ 'SELECT fleet.depart_again(%s, %s)', text => $gid, jsonb => $departed ],
	[ 'SELECT fleet.redo(%s, %s)', text => $gid, jsonb => qq([{"kind": "arrive", "payload": $arriving}, {"kind": "depart", "payload": $departed}]) ],
	[ 'SELECT fleet.redo(%s, %s)', text => $gid, jsonb => qq([{"kind": "map", "payload": $map}]) ],
	[ 'SELECT fleet.redo(%s, %s)', text => $gid, jsonb => '[{"kind": "call", "payload": {"call": "update_ride", "kind": "ride", "key": "a-1", "hlc": 5, "arguments": {"ride_id": "a-1", "changes": {"fare": 3}}}}]' ],
	[ 'SELECT fleet.apply_map(%s, %s, %s)', text => $gid, jsonb => $map, boolean => 'true' ],
	[ 'SELECT fleet.apply_map(%s, %s, %s)', text => $gid, jsonb => $map =~ s/"version": *$version/'"version": ' . ($version + 1)/er, boolean => 'false' ],
	[ 'SELECT fleet.request_map(%s, %s)', text => 'b', jsonb => $map =~ s/"version": *$version/'"version": ' . ($version + 1)/er ],
	[ 'SELECT fleet.change_map(%s, %s)', text => 'change', jsonb => $json->encode($json->decode($map)->{regions}) ],
	[ 'SELECT fleet.map_payload(%s)', text => 'a' ],
	[ 'SELECT fleet.create_server(%s, %s, %s)', text => 'x', 'text[]' => '{host=h}', 'text[]' => '{user=u}' ],
	[ 'SELECT fleet.is_running(%s)', text => $gid ],
	[ 'SELECT fleet.arriving(%s, %s)', text => $gid, text => 'b' ],
	[ 'SELECT fleet.branch_request(%s, %s)', text => $gid, int4 => 0 ],
	[ 'SELECT fleet.outcomes(%s)', 'text[]' => '{' . $gid =~ s/node_b/node_a/r . ':0}' ],
	[ 'SELECT fleet.branch_applied(%s)', text => $gid ],
	[ 'SELECT fleet.branch_evidence(%s)', text => $gid ],
	[ 'SELECT fleet.settle(%s, %s, %s)', 'text[]' => "{$gid}", 'int8[]' => '{5}', 'float8[]' => '{1}' ],
	[ 'SELECT fleet.apply_errors(%s), fleet.subscription_of(%1$s), fleet.merges_carefully(%1$s)', text => 'b' ],
	[ 'SELECT fleet.apply_replicas(%s)', jsonb => '[]' ],
	[ 'SELECT fleet.channel(%s, %s), fleet.slot_name(%1$s, %2$s)', text => 'ride', text => 'a-1' ],
	[ 'SELECT fleet.check_unused(%s)', text => 'x' ],
	[ 'SELECT fleet.copy_row(%s, %s)', text => 'ride', text => 'a-1' ],
	[ 'SELECT fleet.ask_all(%s, %s, %s)', 'text[]' => '{b}', text => 'SELECT 1', int4 => 1000 ],
	[ 'SELECT fleet.check_drift(%s, %s)', int4 => 5, float8 => 100 ],
	[ 'SELECT fleet.busy_rows(%s, %s), fleet.look_at_live(%1$s, %2$s)', text => 'ride', 'text[]' => '{a-1,zz}' ],
	[ 'SELECT fleet.digested(%s), fleet.drift_keys(%s)', text => 'ride', int4 => 5 ],
	[ 'SELECT fleet.digest_add(%s, %s, %s)', bytea => '\\x' . '00' x 24, text => 'x', int8 => 1 ],
	[ 'SELECT fleet.is_astray(%s, %s, %s)', text => 'a', geography => 'POINT(0.5 0.5)', timestamptz => 'now' ],
	[ 'SELECT fleet.live_row(%s, %s, %s), fleet.own_image(%2$s, %3$s)', text => 'b', text => 'ride', text => 'a-1' ],
	[ 'SELECT fleet.report_drift(%s, %s, %s, %s)', text => 'check', timestamptz => 'now', int8 => 5, jsonb => '{"findings": [], "undecided": 0, "failed": []}' ],
	[ 'SELECT fleet.sample_keys(%s, %s, \'true\', %s, %s)', text => 'local_rides', text => 'ride_id', text => 'a', int4 => 5 ],
	[ 'SELECT fleet.streams_behind(%s)', jsonb => '{"b": {"now": 5}}' ],
	[ 'SELECT fleet.digest(%s, %s, %s), fleet.digest_combine(%s, fleet.no_rows())', text => 'x', float8 => 1, jsonb => '{}', bytea => '\\x' . '00' x 24 ],
	[ 'SELECT fleet.digest_buckets(%s, %s, %s)', text => 'ride', int4 => 16, 'int4[]' => '{1}' ],
	[ 'SELECT fleet.digest_rows(%s, %s, %s)', text => 'ride', int4 => 16, 'int4[]' => '{1}' ],
	[ 'SELECT fleet.drift_confirm(%s, %s), fleet.keys_of(%1$s)', jsonb => '[{"problem": "lost", "kind": "ride", "key": "a-1", "epoch": 1}]', jsonb => '[]' ],
	[ 'SELECT fleet.drift_judge(%s, %s, %s, true, %s)', jsonb => '{"rows": []}', jsonb => '{"b": {"rows": [{"kind": "ride", "key": "a-1", "what": "live", "epoch": 1, "hlc": 5}]}}',
		'text[]' => '{b}', float8 => 100 ],
	[ 'SELECT fleet.drift_look(%s, %s)', jsonb => '{"ride": ["a-1"], "vehicle": []}', boolean => 'true' ],
	[ 'SELECT fleet.drift_sample(%s, %s)', jsonb => '{"a": {"ride": "a-1"}}', int4 => 10 ],
	[ 'SELECT fleet.drop_copy(%s, %s, %s, %s, %s, %s)', text => 'ride', text => 'a-1', int8 => 1, int8 => 5, jsonb => '{"target": "b", "epoch": 2, "hlc": 5, "image": {}}', text => 'x' ],
	[ 'SELECT fleet.examine(%s, %s)', jsonb => '{"ride": ["a-1"], "vehicle": []}', float8 => 100 ],
	[ 'SELECT fleet.heal_finding(%s, %s)', jsonb => '{"problem": "doubled", "kind": "ride", "key": "a-1", "region": "a", "epoch": 1, "hlc": 5, "winner": "b", "winner_epoch": 2}', text => 'x' ],
	[ 'SELECT fleet.copy_rows(%s, %s, %s)', int4 => 4, text => '', int4 => 10 ],
	[ 'SELECT fleet.missing_rows(%s)', jsonb => '[{"kind": "ride", "key": "a-1", "epoch": 1, "hlc": 5}]' ],
	[ 'SELECT fleet.sent_rows(%s, %s)', text => 'b', jsonb => '[{"kind": "ride", "key": "a-5", "epoch": 1, "hlc": 5}]' ],
	[ 'SELECT fleet.forget_rows(%s, %s)', text => 'a', jsonb => '[{"kind": "ride", "key": "zz", "epoch": 1, "hlc": 5}]' ],
	[ 'SELECT fleet.merge_rows(%s, %s)', text => 'b', jsonb => '[{"kind": "ride", "key": "zz", "epoch": 1, "hlc": 5}]' ],
	[ 'SELECT fleet.collect_graves(%s)', int4 => 10 ],
	[ 'SELECT fleet.is_published(%s)', text => 'fleet_rides' ],
	[ 'SELECT fleet.is_transient(%s)', text => '40001' ],
	[ 'SELECT fleet.forget_replica(%s), fleet.have_replica_forgotten(%1$s)', text => 'x' ],
	[ 'SELECT fleet.merge_carefully(%s, %s)', text => 'b', timestamptz => '2026-11-21' ],
	[ 'SELECT fleet.lon_lat(%s)', text => 'POINT(0 0)' ],
	[ 'SELECT fleet.replica_beat(%s, %s)', text => 'x', 'fleet.hlc' => $stamp ],
	[ 'SELECT fleet.require_server(%s, %s, %s)', text => 'x', 'text[]' => '{host=h}', 'text[]' => '{user=u}' ],
	[ 'SELECT fleet.server_options(%s)', text => 'host=h' ],
	[ 'SELECT fleet.source_conninfo(%s)', text => 'b' ],
	[ 'SELECT fleet.set_notify(%s), fleet.set_old_images(%1$s)', boolean => 'true' ],
	[ 'SELECT fleet.retry_merge(%s, %s)', int4 => 10, 'int8[]' => '{1}' ],
	[ 'SELECT fleet.take_snapshot(); SELECT fleet.verify_snapshot(%s), fleet.snapshot_stored(%1$s)', int8 => $snapshot ],
	[ 'SELECT * FROM fleet.restore_snapshot(%s, %s, %s)', int8 => $snapshot, text => 'missing rides', boolean => 'false' ],
	[ 'SELECT * FROM fleet.restore_snapshot(%s, %s, %s)', int8 => $snapshot, text => 'positions', boolean => 'true' ],
	[ 'SELECT fleet.check_restorable(%s, %s)', int8 => $snapshot, text => 'positions' ],
	[ 'SELECT count(*) FROM fleet.snapshot_candidates(%s, %s, %s), fleet.judge_candidates(%1$s, %2$s, %3$s)', int8 => $snapshot, text => 'ride', int8 => 0 ],
	[ 'SELECT fleet.snapshot_digest(s, p.sha256), fleet.snapshot_content(p) FROM fleet.snapshots AS s, fleet.snapshot_rides AS p WHERE s.id = %s', int8 => $snapshot ],
	[ 'SELECT count(*) FROM fleet.read_positions(), fleet.read_open_rides(), fleet.traces(%s, %s)', text => 'ride', 'text[]' => '{a-5,b-1}' ],
	[ 'SELECT fleet.put_row(%s, %s)', text => 'ride', jsonb => $ride_image ],
	[ 'SELECT fleet.put_row(%s, %s)', text => 'vehicle', jsonb => $vehicle_image ],
	[ 'SELECT fleet.try_put_row(%s, %s, %s, %s)', int8 => 1, text => 'ride', text => 'lost', jsonb => $ride_image ],
	[ 'SELECT fleet.thin_snapshots(%s)', timestamptz => '2026-11-21' ],
	[ 'SELECT fleet.prune_departures(%s), fleet.prunable_departures(%1$s), fleet.prune_handoff_log(%1$s), fleet.prune_call_log(%1$s), fleet.prune_idempotency_keys(%1$s),'
			. ' fleet.prune_dead_letters(%1$s), fleet.prune_job_runs(%1$s)', int4 => 10 ],
	[ 'SELECT fleet.require_own_region(), fleet.pruned_upto(), fleet.oldest_open(), fleet.settled_before(), fleet.roll_up_activity()' ],
	[ 'SELECT fleet.begin_job(%s); SELECT fleet.step_job(%1$s, max(id)) FROM fleet.job_runs', text => 'dead_letters' ],
	[ 'SELECT fleet.set_deadline(%s), fleet.set_deadline(0)', int4 => 10000 ],
	[ 'SELECT fleet.cron_schedule(%s, %s, %s)', interval => '10 s', int4 => 5, boolean => 'true' ],
	[ 'SELECT fleet.job_list(), fleet.planned_jobs(), fleet.scheduled_jobs(), fleet.cron_obstacle(), fleet.schedule_jobs(), fleet.unschedule_jobs()' ],
	[ 'COPY stamps FROM %s (FORMAT binary)', stamp => undef ],
	[ 'DELETE FROM fleet.local_rides WHERE ride_id = \'a-4\'; COPY fleet.local_rides FROM %s (FORMAT binary)', ride => undef ],
	[ 'INSERT INTO fleet.local_rides (ride_id, customer_id, region, fare, start_location, epoch, hlc, path_m) VALUES (%s, \'c\', %s, %s, \'POINT(0 0)\', %s, %s, %s)',
		text => 'x', text => 'a', numeric => 1, int8 => 1, 'fleet.hlc' => $stamp, float8 => 0 ],
	[ 'UPDATE fleet.local_rides SET vehicle_id = %s, region = %s, status = %s, epoch = %s, hlc = %s, path_m = %s WHERE ride_id = \'a-1\'',
		text => 'car-a-2', text => 'a', 'fleet.ride_status' => 'EN_ROUTE', int8 => 1, 'fleet.hlc' => $stamp, float8 => 0 ],
	[ 'UPDATE fleet.local_vehicles SET status = %s, epoch = %s, hlc = %s, fix_at = %s, speed_kmh = %s, heading = %s WHERE vehicle_id = \'car-a-3\'',
		'fleet.vehicle_status' => 'ONLINE', int8 => 1, 'fleet.hlc' => $stamp, timestamptz => 'now', float8 => 1, float8 => 1 ],
);
# These refuse their valid input, too, for want of what it names.
my @refusing = (
	[ 'SELECT fleet.init_node(%s)', text => 'x' ],
	[ 'SELECT fleet.add_region(%s, %s, %s, %s)', text => 'c', geometry => wkb(), conninfo => $c->conninfo('c'), int4 => 5 ],
	[ 'SELECT fleet.remove_region(%s)', text => 'b' ],
	[ 'SELECT fleet.drop_region(%s)', text => 'no_such' ],
	[ 'SELECT fleet.create_partitions(%s, %s)', text => 'x', boolean => 'true' ],
	[ 'SELECT fleet.finish_prepared(%s, %s)', text => $gid, boolean => 'true' ],
	[ 'SELECT fleet.resolve(%s, %s)', text => $gid, text => 'abort' ],
	[ 'SELECT fleet.raise_not_here(%s, %s)', text => 'ride', text => 'a-5' ],
	[ 'CREATE TABLE t (x text, y text); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fleet.guard(%s);'
			. ' INSERT INTO t VALUES (\'1\', \'2\')', argument => 'ride' ],
	[ 'CREATE TABLE t (x text, y text); CREATE TRIGGER g AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION fleet.guard(%s);'
			. ' UPDATE t SET x = y', argument => 'vehicle' ],
	[ 'CREATE TABLE t (x text, y text); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fleet.refuse_write(%s, %s);'
			. ' INSERT INTO t VALUES (\'1\', \'2\')', argument => 'ride', argument => 'a' ],
	[ 'SELECT fleet.guard()' ],
	[ 'SELECT fleet.refuse_write()' ],
	[ 'SELECT fleet.refuse_truncate()' ],
	[ 'SELECT fleet.merge_rows(%s, %s)', text => 'b', jsonb => $arriving ],
	[ 'SELECT fleet.merge_copied(%s, %s)', text => 'b', jsonb => $arriving ],
	[ 'SELECT fleet.merge_anew(%s, %s, %s)', text => 'ride', text => 'a-5', text => 'a' ],
	[ 'SELECT fleet.make_slot(%s)', text => 'x' ],
	[ 'SELECT fleet.begin_join(%s, %s)', text => 'c', conninfo => $c->conninfo('c') ],
	[ 'SELECT fleet.check_replica(%s, %s)', text => 'x', text => 'host=h' ],
	[ 'SELECT fleet.try_join(%s, %s)', text => 'b', boolean => 'true' ],
	[ 'SELECT fleet.heal(%s, %s)', int8 => 1_000_000, boolean => 'true' ],
	[ 'SELECT fleet.compare_all(%s, %s)', float8 => 100, interval => '5 s' ],
	[ 'SELECT fleet.compare_kind(%s, %s)', text => 'ride', timestamptz => 'now' ],
	[ 'SELECT fleet.differing_buckets(%s, %s, %s, %s)', text => 'ride', int4 => 16, 'int4[]' => '{1}', int4 => 1000 ],
	[ 'SELECT fleet.differing_keys(%s, %s, %s, %s)', text => 'ride', int4 => 16, 'int4[]' => '{1}', int4 => 1000 ],
	[ 'SELECT fleet.heal_region(%s, %s), fleet.heal_replica(%1$s, %2$s)', jsonb => '{"problem": "lost", "kind": "ride", "key": "a-5", "region": "b", "epoch": 2, "hlc": 5, "winner": "a"}', text => 'x' ],
	[ 'SELECT fleet.restore_row(%s, %s)', jsonb => $json->encode($json->decode($arriving)->[0]), text => 'x' ],
	[ 'SELECT fleet.reread_rows(%s, %s)', text => 'b', jsonb => $arriving ],
	[ 'SELECT fleet.follow_map(%s)', jsonb => $map ],
	[ 'SELECT fleet.follow_region(%s), fleet.follow_failed(%1$s, %s)', text => 'b', text => 'x' ],
	[ 'SELECT fleet.copy_batch(%s)', text => 'b' ],
	[ 'SELECT fleet.gone_rows(%s, %s)', text => 'a', jsonb => '[{"kind": "ride", "key": "a-1", "epoch": 1, "hlc": 5}]' ],
	[ 'SELECT fleet.start_stream(%s)', text => 'b' ],
	[ 'SELECT fleet.drop_subscription(%s)', text => 'b' ],
	[ 'SELECT fleet.leave_region(s), fleet.stream_problem(s, %s), fleet.watch_stream(s, %1$s) FROM fleet.replica_sources AS s', jsonb => '{"slot": null}' ],
	[ 'SELECT fleet.create_change_stream(%s, %s)', text => 'fuzzed', boolean => 'true' ],
	[ 'SELECT fleet.drop_change_stream(%s)', text => 'no_such' ],
	[ 'SELECT fleet.consume(%s, %s, %s, %s)', text => 'no_such', text => 'fleet.lon_lat', int4 => 5, 'text[]' => '{}' ],
	[ 'SELECT fleet.check_consumer(%s), fleet.try_change(%1$s, %s), fleet.retry_dead_letters(%1$s, %s, %s)', text => 'fleet.lon_lat', json => '{"id": 1}',
		int4 => 5, 'int8[]' => '{1}' ],
	[ 'SELECT fleet.take_change(%s, %s)', text => 'fleet.lon_lat', text => '{"id":"a:0/1:0"}' ],
);
my @all = (@public, @internal, @refusing);

# ---- one input

# As a literal: bytes that are not plain are escaped, so that psql never sees one.
sub literal
{
	my ($value, $type) = @_;
	my $text = defined $value ? "E'" . $value =~ s/([^ !#-&(-\[\]-~])/sprintf '\\x%02x', ord $1/ger . "'" : 'NULL';
	return $text if $type eq 'argument';
	return "$text\::$type";
}

# A row in COPY's binary format, of these fields (undef = null).
sub copy_data
{
	my ($count, @fields) = @_;
	return "PGCOPY\n\xff\r\n\0" . pack('NN n', 0, 0, $count)
	  . join('', map { defined $_ ? pack('N/a*', $_) : pack('N', 0xFFFFFFFF) } @fields) . pack('n', 0xFFFF);
}

# Damage one or some fields of a row.  Not the three places of a ride: PostGIS'
# own reader of their binary form crashes on some that are none.
sub damage_fields
{
	my @fields = @_;
	my @ours = grep { $_ < 6 || $_ > 8 } 0 .. $#fields;

	for (1 .. pick(1, 1, 2, 5))
	{
		my $field = \$fields[ pick(@ours) ];
		if (rand() < 0.2) { $$field = undef }
		elsif (rand() < 0.3) { $$field = join '', map { chr int rand 256 } 1 .. pick(0, 1, 4, 7, 8, 9, 16) }
		elsif (($$field // '') ne '') { substr($$field, int(rand(length $$field)), 1) = chr int rand 256 }
	}
	return @fields;
}

# A file to copy from; its name as a literal.
sub copy_file
{
	my ($type, $damage) = @_;
	my @fields = pack('Q>', 1_234_567_890_123);

	if ($type eq 'ride')
	{
		my $data = substr(slurp_file("$file.ride"), 21);
		@fields = ();
		while ((my $length = unpack 'l>', $data) && length $data > 2)
		{
			push @fields, $length < 0 ? undef : substr($data, 4, $length);
			$data = substr($data, 4 + ($length < 0 ? 0 : $length));
		}
	}
	@fields = damage_fields(@fields) if $damage;
	unlink $file;
	append_to_file($file, copy_data($damage && rand() < 0.05 ? pick(0, 1, 2, 65534) : scalar(@fields), @fields));
	return "'$file'";
}

# The statement of a template; damaged is how many of its values are to be.
sub statement
{
	my ($template, $damaged) = @_;
	my ($sql, @values) = @$template;
	my $n = @values / 2;
	my %which = map { int(rand($n)) => 1 } 1 .. ($n ? $damaged : 0);
	my @literals;

	for my $i (0 .. $n - 1)
	{
		my ($type, $value) = @values[ 2 * $i, 2 * $i + 1 ];
		if ($type eq 'stamp' || $type eq 'ride') { push @literals, copy_file($type, $which{$i}); next }
		$value = pick('', 'host=/nonexistent', 'port=0', 'host=x host', "dbname='", $value . ' dbname=none', $value . ' no_such=1', "\x80") if $type eq 'conninfo' && $which{$i};
		$type = 'text' if $type eq 'conninfo';
		if ($type eq 'argument') { push @literals, literal($which{$i} ? pick('', 'x', 'vehicle', 'ride', 'x' x 100) : $value, $type); next }
		$value = $damaged{$type}->($value) if $which{$i};
		$type = 'text' if $type eq 'condition';
		push @literals, literal($value, $type);
	}
	return sprintf $sql, @literals;
}

my $session = FleetChaos::Session->new($c, 'a', 'fuzz');
my %count = (accepted => 0, refused => 0);

# What is wrong with the answer to a statement, or ''.
sub problem_of
{
	my ($sql, $end) = @_;
	my $answer = $session->run($end ? "BEGIN;\n$sql;\n$end" : $sql, $patience);

	$count{ @{ $answer->{errors} } ? 'refused' : 'accepted' }++;
	return $answer->{state} eq 'late' ? 'no answer' : 'the server has crashed' if $answer->{state} ne 'done';
	my @internal = internal_errors($answer->{out});
	return @internal ? "an internal error: @internal" : '';
}

# Internal errors in psql's output or in a server's log, each with its place.
# PostGIS' own are none of ours, nor is what jsonb's binary reader says of its
# version; what another node said is in its log, too.
sub internal_errors
{
	my ($text) = @_;
	my @found;

	while ($text =~ /(?:ERROR|FATAL|PANIC):\s+(XX000: [^\n]*)(?:(?!ERROR:).)*?LOCATION:\s+\S+ ([\w.]+):/sg)
	{
		push @found, "$1 ($2)" if $2 !~ /^(?:lwgeom|geography|gserialized|postgis|request\.c)/ && $1 !~ /unsupported jsonb version number/;
	}
	return @found;
}

# ---- valid input is accepted

my @unloved;
for my $template (@public, @internal)
{
	srand(1);
	my $sql = statement($template, 0);
	my $answer = $session->run("BEGIN;\n$sql;\nROLLBACK", $patience);
	push @unloved, "$sql: $answer->{out}" if $answer->{state} ne 'done' || @{ $answer->{errors} };
}
is(join("\n", @unloved), '', 'valid input is accepted: ' . (@public + @internal) . ' statements');

# No function is forgotten, but those of the types' operators, which are the
# server's own for bigint, and of aggregates.
my %called = map { $_ => 1 } map { $_->[0] =~ /fleet\.(\w+)\(/g } @all;
my @forgotten = grep { !$called{$_} } map { $_->[0] } $c->rows('a', <<'SQL');
SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace = 'fleet'::regnamespace AND p.pronargs > 0 AND p.prokind = 'f' AND l.lanname <> 'internal'
	AND p.proname NOT IN ('hlc_in', 'hlc_out', 'hlc_recv', 'hlc_send', 'hlc_from_bigint')
	AND p.proname NOT IN ('quadkey_in', 'quadkey_out', 'quadkey_recv', 'quadkey_send', 'quadkey_from_bigint', 'quadkey_contains_support', 'quadkey_contained_support', 'search_rides_support')
SQL
is("@forgotten", '', 'every function is called');

# ---- damaged input gets a clean answer

my $inputs = 0;
my @wrong;
my $end = time + $seconds;

for (my $n = $ENV{ONLY} || 1; time < $end && @wrong < 5; $n++)
{
	FleetChaos::decide($seed, 'input', $n);
	my $template = $all[ int(rand(@all)) ];
	my $may_commit = grep { $_ == $template } @public;
	my $sql = statement($template, pick(1, 1, 1, 2, 3, 6));
	my $problem = problem_of($sql, $may_commit ? pick('ROLLBACK', 'COMMIT', '') : 'ROLLBACK');

	$inputs++;
	if ($problem ne '')
	{
		push @wrong, "SEED=$seed ONLY=$n: $problem\n  " . substr($sql, 0, 4000) . "\n";
		eval { $c->wait_until(sub { $c->is_up('a') }, 'node a is up again') };
	}
	last if $ENV{ONLY};
}
is(join('', @wrong), '', "$inputs inputs got a clean answer, $count{accepted} were accepted and $count{refused} refused");
ok($ENV{ONLY} || $count{accepted} > $inputs / 50 && $count{refused} > $inputs / 10, 'some are accepted, some refused');
$session->close_psql;

# ---- and nothing is left of it

my @crashes = map { my $node = $_; map { "$node: $_" } $c->log_text($node) =~ /^.*(?:PANIC:|TRAP:|terminated by signal).*$/mg } $c->names;
is(join("\n", @crashes), '', 'no server has crashed');
my @logged = map { my $node = $_; map { "$node: $_" } internal_errors($c->log_text($node)) } $c->names;
is(join("\n", @logged), '', 'no server has logged an internal error');
$c->heal;
is($c->sql('a', "SELECT fleet.request_ride('last', 'c', 0.5, 0.5); SELECT fleet.handoff('last', 'b')"), "a\n2", 'a ride is handed off as before');
# An id may have been requested at places of two regions: such ids are two rides.
is($c->sql('a', "SELECT check_name FROM fleet.verify() WHERE problems > 0 AND check_name <> 'doubled'"), '', 'verify finds nothing');
done_testing();
