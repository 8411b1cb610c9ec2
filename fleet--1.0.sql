\echo Use "CREATE EXTENSION fleet CASCADE" to load this file. \quit

-- fleet 1.0: one database of rides and vehicles over many servers.
--
-- Chapters, named like the rooms of src/:
--   base      the service role, and what this server must have
--   clock     the hybrid logical clock
--   geo       cells of the tile system
--   remote    how other nodes are reached
--   region    identity, the region map, where a place is
--   wire      row images
--   handoff   rides and vehicles, their life cycle, departures, the handoff
--   fences    areas, places and pairs of vehicles that users watch
--   commit    decisions, the resolver, what is in doubt
--   live      the latest positions in shared memory
--   region    changing the map (after commit, which it uses)
--   replica   replicas of all regions, fed by logical replication
--   notify    changes told by NOTIFY, to who listens
--   query     reads of rides and vehicles over many regions
--   track     position reports, limits, events of fences, the history of fixes
--   decode    the change stream
--   drift     snapshots of a region
--   jobs      what runs by itself, with pg_cron
--   verify    the invariants, checked
--   drift     what the nodes have that cannot be, found and healed
--
-- CREATE EXTENSION sets search_path to this schema and PostGIS'.  Every function
-- below runs with pg_catalog and pg_temp only; those that need PostGIS have
-- their bodies bound here (BEGIN ATOMIC).

-- ---------------------------------------------------------------------------
-- base: the service role, and what this server must have
-- ---------------------------------------------------------------------------

DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'fleet_node') THEN
		CREATE ROLE fleet_node LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION;
		COMMENT ON ROLE fleet_node IS 'service role by which fleet''s nodes talk to each other';
	END IF;
END
$$;

GRANT USAGE ON SCHEMA fleet TO PUBLIC;

CREATE FUNCTION fleet.check_setup() RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF current_setting('max_prepared_transactions')::int = 0 THEN
		RAISE EXCEPTION 'prepared transactions are turned off on this server'
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'A handoff is prepared on the nodes that take part.',
			HINT = 'Set max_prepared_transactions = 100 or more and restart the server.';
	END IF;
	IF current_setting('wal_level') <> 'logical' THEN
		RAISE EXCEPTION 'wal_level is "%", fleet needs "logical"', current_setting('wal_level')
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'The global replica follows each region by logical decoding.',
			HINT = 'Set wal_level = logical and restart the server.';
	END IF;
	IF current_setting('synchronous_standby_names') = '' AND NOT current_setting('fleet.allow_async')::boolean THEN
		RAISE EXCEPTION 'this server has no synchronous standby'
			USING ERRCODE = 'RF021',
			DETAIL = 'A failover to a standby that lags would lose the last commits, and with them parts of handoffs.',
			HINT = 'Set synchronous_standby_names, or accept it with fleet.allow_async = on in postgresql.conf.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_setup() IS 'raises an error that says what this server''s settings lack';

-- ---------------------------------------------------------------------------
-- clock: the hybrid logical clock
-- ---------------------------------------------------------------------------
--
-- A fleet.hlc is a bigint in all but name and text: never negative, ordered by
-- value.  So what compares, sorts and hashes it are the server's own functions
-- for bigint, declared here under the type's name (src/clock/hlc_type.c).

CREATE TYPE fleet.hlc;

CREATE FUNCTION fleet.hlc_in(pg_catalog.cstring) RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_in'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_in(pg_catalog.cstring) IS 'input function of fleet.hlc';

CREATE FUNCTION fleet.hlc_out(fleet.hlc) RETURNS pg_catalog.cstring
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_out'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_out(fleet.hlc) IS 'output function of fleet.hlc';

CREATE FUNCTION fleet.hlc_recv(pg_catalog.internal) RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_recv'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_recv(pg_catalog.internal) IS 'binary input function of fleet.hlc';

CREATE FUNCTION fleet.hlc_send(fleet.hlc) RETURNS pg_catalog.bytea
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_send'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_send(fleet.hlc) IS 'binary output function of fleet.hlc';

CREATE TYPE fleet.hlc (
	INPUT = fleet.hlc_in,
	OUTPUT = fleet.hlc_out,
	RECEIVE = fleet.hlc_recv,
	SEND = fleet.hlc_send,
	LIKE = pg_catalog.int8
);
COMMENT ON TYPE fleet.hlc IS 'hybrid logical clock stamp: 48 bits of Unix milliseconds, 16 bits of counter';

-- Comparison.  Leakproof, as the same functions are for bigint: a condition on
-- a stamp may then use an index below row-level security.

CREATE FUNCTION fleet.hlc_eq(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8eq' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_eq(fleet.hlc, fleet.hlc) IS 'implementation of = operator';

CREATE FUNCTION fleet.hlc_ne(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8ne' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_ne(fleet.hlc, fleet.hlc) IS 'implementation of <> operator';

CREATE FUNCTION fleet.hlc_lt(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8lt' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_lt(fleet.hlc, fleet.hlc) IS 'implementation of < operator';

CREATE FUNCTION fleet.hlc_le(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8le' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_le(fleet.hlc, fleet.hlc) IS 'implementation of <= operator';

CREATE FUNCTION fleet.hlc_gt(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8gt' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_gt(fleet.hlc, fleet.hlc) IS 'implementation of > operator';

CREATE FUNCTION fleet.hlc_ge(fleet.hlc, fleet.hlc) RETURNS pg_catalog.bool
	AS 'int8ge' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_ge(fleet.hlc, fleet.hlc) IS 'implementation of >= operator';

CREATE OPERATOR fleet.= (
	FUNCTION = fleet.hlc_eq, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.=), NEGATOR = OPERATOR(fleet.<>),
	RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel,
	HASHES, MERGES
);
COMMENT ON OPERATOR fleet.= (fleet.hlc, fleet.hlc) IS 'equal';

CREATE OPERATOR fleet.<> (
	FUNCTION = fleet.hlc_ne, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.<>), NEGATOR = OPERATOR(fleet.=),
	RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
COMMENT ON OPERATOR fleet.<> (fleet.hlc, fleet.hlc) IS 'not equal';

CREATE OPERATOR fleet.< (
	FUNCTION = fleet.hlc_lt, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.>), NEGATOR = OPERATOR(fleet.>=),
	RESTRICT = pg_catalog.scalarltsel, JOIN = pg_catalog.scalarltjoinsel
);
COMMENT ON OPERATOR fleet.< (fleet.hlc, fleet.hlc) IS 'less than';

CREATE OPERATOR fleet.<= (
	FUNCTION = fleet.hlc_le, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.>=), NEGATOR = OPERATOR(fleet.>),
	RESTRICT = pg_catalog.scalarlesel, JOIN = pg_catalog.scalarlejoinsel
);
COMMENT ON OPERATOR fleet.<= (fleet.hlc, fleet.hlc) IS 'less than or equal';

CREATE OPERATOR fleet.> (
	FUNCTION = fleet.hlc_gt, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.<), NEGATOR = OPERATOR(fleet.<=),
	RESTRICT = pg_catalog.scalargtsel, JOIN = pg_catalog.scalargtjoinsel
);
COMMENT ON OPERATOR fleet.> (fleet.hlc, fleet.hlc) IS 'greater than';

CREATE OPERATOR fleet.>= (
	FUNCTION = fleet.hlc_ge, LEFTARG = fleet.hlc, RIGHTARG = fleet.hlc,
	COMMUTATOR = OPERATOR(fleet.<=), NEGATOR = OPERATOR(fleet.<),
	RESTRICT = pg_catalog.scalargesel, JOIN = pg_catalog.scalargejoinsel
);
COMMENT ON OPERATOR fleet.>= (fleet.hlc, fleet.hlc) IS 'greater than or equal';

-- Indexes, sorting, grouping, hash and merge joins.

CREATE FUNCTION fleet.hlc_cmp(fleet.hlc, fleet.hlc) RETURNS pg_catalog.int4
	AS 'btint8cmp' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_cmp(fleet.hlc, fleet.hlc) IS 'less-equal-greater of two stamps';

CREATE FUNCTION fleet.hlc_sortsupport(pg_catalog.internal) RETURNS pg_catalog.void
	AS 'btint8sortsupport' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_sortsupport(pg_catalog.internal) IS 'sort support of fleet.hlc';

CREATE FUNCTION fleet.hlc_hash(fleet.hlc) RETURNS pg_catalog.int4
	AS 'hashint8' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_hash(fleet.hlc) IS 'hash of a stamp';

CREATE FUNCTION fleet.hlc_hash_extended(fleet.hlc, pg_catalog.int8) RETURNS pg_catalog.int8
	AS 'hashint8extended' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_hash_extended(fleet.hlc, pg_catalog.int8) IS 'seeded hash of a stamp';

CREATE OPERATOR CLASS fleet.hlc_ops DEFAULT FOR TYPE fleet.hlc USING btree AS
	OPERATOR 1 fleet.< (fleet.hlc, fleet.hlc),
	OPERATOR 2 fleet.<= (fleet.hlc, fleet.hlc),
	OPERATOR 3 fleet.= (fleet.hlc, fleet.hlc),
	OPERATOR 4 fleet.>= (fleet.hlc, fleet.hlc),
	OPERATOR 5 fleet.> (fleet.hlc, fleet.hlc),
	FUNCTION 1 fleet.hlc_cmp(fleet.hlc, fleet.hlc),
	FUNCTION 2 fleet.hlc_sortsupport(pg_catalog.internal),
	FUNCTION 4 (fleet.hlc, fleet.hlc) pg_catalog.btequalimage(pg_catalog.oid);
COMMENT ON OPERATOR CLASS fleet.hlc_ops USING btree IS 'order of stamps';

CREATE OPERATOR CLASS fleet.hlc_ops DEFAULT FOR TYPE fleet.hlc USING hash AS
	OPERATOR 1 fleet.= (fleet.hlc, fleet.hlc),
	FUNCTION 1 fleet.hlc_hash(fleet.hlc),
	FUNCTION 2 fleet.hlc_hash_extended(fleet.hlc, pg_catalog.int8);
COMMENT ON OPERATOR CLASS fleet.hlc_ops USING hash IS 'equality of stamps';

-- Aggregates.

CREATE FUNCTION fleet.hlc_larger(fleet.hlc, fleet.hlc) RETURNS fleet.hlc
	AS 'int8larger' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_larger(fleet.hlc, fleet.hlc) IS 'the later of two stamps';

CREATE FUNCTION fleet.hlc_smaller(fleet.hlc, fleet.hlc) RETURNS fleet.hlc
	AS 'int8smaller' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_smaller(fleet.hlc, fleet.hlc) IS 'the earlier of two stamps';

CREATE AGGREGATE fleet.max(fleet.hlc) (
	SFUNC = fleet.hlc_larger, STYPE = fleet.hlc,
	COMBINEFUNC = fleet.hlc_larger, SORTOP = OPERATOR(fleet.>), PARALLEL = SAFE
);
COMMENT ON AGGREGATE fleet.max(fleet.hlc) IS 'the latest stamp';

CREATE AGGREGATE fleet.min(fleet.hlc) (
	SFUNC = fleet.hlc_smaller, STYPE = fleet.hlc,
	COMBINEFUNC = fleet.hlc_smaller, SORTOP = OPERATOR(fleet.<), PARALLEL = SAFE
);
COMMENT ON AGGREGATE fleet.min(fleet.hlc) IS 'the earliest stamp';

-- Parts and casts.  All casts are explicit: a stamp is neither a time nor a
-- number, and should become one only where somebody says so.

CREATE FUNCTION fleet.hlc_make(at pg_catalog.timestamptz, counter pg_catalog.int4) RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_make'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_make(pg_catalog.timestamptz, pg_catalog.int4)
	IS 'the stamp with this time, cut to milliseconds, and this counter';

CREATE FUNCTION fleet.hlc_physical(fleet.hlc) RETURNS pg_catalog.timestamptz
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_physical'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_physical(fleet.hlc) IS 'the time of a stamp, in milliseconds';

CREATE FUNCTION fleet.hlc_counter(fleet.hlc) RETURNS pg_catalog.int4
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_counter'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_counter(fleet.hlc) IS 'the counter of a stamp, 0 to 65535';

CREATE FUNCTION fleet.hlc_from_bigint(pg_catalog.int8) RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_from_bigint'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_from_bigint(pg_catalog.int8) IS 'the stamp with this number, which may not be negative';

CREATE CAST (fleet.hlc AS pg_catalog.timestamptz) WITH FUNCTION fleet.hlc_physical(fleet.hlc);
COMMENT ON CAST (fleet.hlc AS pg_catalog.timestamptz) IS 'the time of a stamp, in milliseconds';

CREATE CAST (pg_catalog.int8 AS fleet.hlc) WITH FUNCTION fleet.hlc_from_bigint(pg_catalog.int8);
COMMENT ON CAST (pg_catalog.int8 AS fleet.hlc) IS 'the stamp with this number';

CREATE CAST (fleet.hlc AS pg_catalog.int8) WITHOUT FUNCTION;
COMMENT ON CAST (fleet.hlc AS pg_catalog.int8) IS 'the number of a stamp';

-- The node's clock.  Both functions change shared memory and nothing else, by
-- one atomic step that every process sees, so they may run in parallel workers
-- and on a standby, and a rollback does not turn the clock back.

CREATE FUNCTION fleet.hlc_now() RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_now'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_now() IS 'a new stamp of this server''s clock, greater than all before';

CREATE FUNCTION fleet.hlc_receive(stamp fleet.hlc) RETURNS fleet.hlc
	AS 'MODULE_PATHNAME', 'fleet_clock_hlc_receive'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.hlc_receive(fleet.hlc)
	IS 'merge a stamp into this server''s clock and return a new one, greater than it and than all before';

-- Whoever may call it can pull the clock ahead by fleet.max_clock_skew, and
-- peers whose time is a little behind would then refuse this node's stamps.
REVOKE ALL ON FUNCTION fleet.hlc_receive(fleet.hlc) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.hlc_receive(fleet.hlc) TO fleet_node;

-- ---------------------------------------------------------------------------
-- geo: cells of the tile system
-- ---------------------------------------------------------------------------
--
-- A fleet.quadkey is a bigint in all but name and text, as fleet.hlc is: never
-- negative, ordered by value (src/geo/quadkey_type.c).  A cell and all that lies
-- in it are one range of that order, so a btree index is all that is needed.

CREATE TYPE fleet.quadkey;

CREATE FUNCTION fleet.quadkey_in(pg_catalog.cstring) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_in'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_in(pg_catalog.cstring) IS 'input function of fleet.quadkey';

CREATE FUNCTION fleet.quadkey_out(fleet.quadkey) RETURNS pg_catalog.cstring
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_out'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_out(fleet.quadkey) IS 'output function of fleet.quadkey';

CREATE FUNCTION fleet.quadkey_recv(pg_catalog.internal) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_recv'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_recv(pg_catalog.internal) IS 'binary input function of fleet.quadkey';

CREATE FUNCTION fleet.quadkey_send(fleet.quadkey) RETURNS pg_catalog.bytea
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_send'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_send(fleet.quadkey) IS 'binary output function of fleet.quadkey';

CREATE TYPE fleet.quadkey (
	INPUT = fleet.quadkey_in,
	OUTPUT = fleet.quadkey_out,
	RECEIVE = fleet.quadkey_recv,
	SEND = fleet.quadkey_send,
	LIKE = pg_catalog.int8
);
COMMENT ON TYPE fleet.quadkey IS 'cell of the Bing Maps tile system: one digit 0 to 3 for each of up to 29 levels';

-- Comparison, leakproof as that of bigint.

CREATE FUNCTION fleet.quadkey_eq(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8eq' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_eq(fleet.quadkey, fleet.quadkey) IS 'implementation of = operator';

CREATE FUNCTION fleet.quadkey_ne(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8ne' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_ne(fleet.quadkey, fleet.quadkey) IS 'implementation of <> operator';

CREATE FUNCTION fleet.quadkey_lt(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8lt' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_lt(fleet.quadkey, fleet.quadkey) IS 'implementation of < operator';

CREATE FUNCTION fleet.quadkey_le(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8le' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_le(fleet.quadkey, fleet.quadkey) IS 'implementation of <= operator';

CREATE FUNCTION fleet.quadkey_gt(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8gt' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_gt(fleet.quadkey, fleet.quadkey) IS 'implementation of > operator';

CREATE FUNCTION fleet.quadkey_ge(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'int8ge' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_ge(fleet.quadkey, fleet.quadkey) IS 'implementation of >= operator';

CREATE OPERATOR fleet.= (
	FUNCTION = fleet.quadkey_eq, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.=), NEGATOR = OPERATOR(fleet.<>),
	RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel,
	HASHES, MERGES
);
COMMENT ON OPERATOR fleet.= (fleet.quadkey, fleet.quadkey) IS 'equal';

CREATE OPERATOR fleet.<> (
	FUNCTION = fleet.quadkey_ne, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.<>), NEGATOR = OPERATOR(fleet.=),
	RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
COMMENT ON OPERATOR fleet.<> (fleet.quadkey, fleet.quadkey) IS 'not equal';

CREATE OPERATOR fleet.< (
	FUNCTION = fleet.quadkey_lt, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.>), NEGATOR = OPERATOR(fleet.>=),
	RESTRICT = pg_catalog.scalarltsel, JOIN = pg_catalog.scalarltjoinsel
);
COMMENT ON OPERATOR fleet.< (fleet.quadkey, fleet.quadkey) IS 'less than';

CREATE OPERATOR fleet.<= (
	FUNCTION = fleet.quadkey_le, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.>=), NEGATOR = OPERATOR(fleet.>),
	RESTRICT = pg_catalog.scalarlesel, JOIN = pg_catalog.scalarlejoinsel
);
COMMENT ON OPERATOR fleet.<= (fleet.quadkey, fleet.quadkey) IS 'less than or equal';

CREATE OPERATOR fleet.> (
	FUNCTION = fleet.quadkey_gt, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.<), NEGATOR = OPERATOR(fleet.<=),
	RESTRICT = pg_catalog.scalargtsel, JOIN = pg_catalog.scalargtjoinsel
);
COMMENT ON OPERATOR fleet.> (fleet.quadkey, fleet.quadkey) IS 'greater than';

CREATE OPERATOR fleet.>= (
	FUNCTION = fleet.quadkey_ge, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.<=), NEGATOR = OPERATOR(fleet.<),
	RESTRICT = pg_catalog.scalargesel, JOIN = pg_catalog.scalargejoinsel
);
COMMENT ON OPERATOR fleet.>= (fleet.quadkey, fleet.quadkey) IS 'greater than or equal';

-- Indexes, sorting, grouping, hash and merge joins.

CREATE FUNCTION fleet.quadkey_cmp(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.int4
	AS 'btint8cmp' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_cmp(fleet.quadkey, fleet.quadkey) IS 'less-equal-greater of two cells';

CREATE FUNCTION fleet.quadkey_sortsupport(pg_catalog.internal) RETURNS pg_catalog.void
	AS 'btint8sortsupport' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_sortsupport(pg_catalog.internal) IS 'sort support of fleet.quadkey';

CREATE FUNCTION fleet.quadkey_hash(fleet.quadkey) RETURNS pg_catalog.int4
	AS 'hashint8' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_hash(fleet.quadkey) IS 'hash of a cell';

CREATE FUNCTION fleet.quadkey_hash_extended(fleet.quadkey, pg_catalog.int8) RETURNS pg_catalog.int8
	AS 'hashint8extended' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_hash_extended(fleet.quadkey, pg_catalog.int8) IS 'seeded hash of a cell';

CREATE OPERATOR CLASS fleet.quadkey_ops DEFAULT FOR TYPE fleet.quadkey USING btree AS
	OPERATOR 1 fleet.< (fleet.quadkey, fleet.quadkey),
	OPERATOR 2 fleet.<= (fleet.quadkey, fleet.quadkey),
	OPERATOR 3 fleet.= (fleet.quadkey, fleet.quadkey),
	OPERATOR 4 fleet.>= (fleet.quadkey, fleet.quadkey),
	OPERATOR 5 fleet.> (fleet.quadkey, fleet.quadkey),
	FUNCTION 1 fleet.quadkey_cmp(fleet.quadkey, fleet.quadkey),
	FUNCTION 2 fleet.quadkey_sortsupport(pg_catalog.internal),
	FUNCTION 4 (fleet.quadkey, fleet.quadkey) pg_catalog.btequalimage(pg_catalog.oid);
COMMENT ON OPERATOR CLASS fleet.quadkey_ops USING btree IS 'Z-order of cells, each ahead of those in it';

CREATE OPERATOR CLASS fleet.quadkey_ops DEFAULT FOR TYPE fleet.quadkey USING hash AS
	OPERATOR 1 fleet.= (fleet.quadkey, fleet.quadkey),
	FUNCTION 1 fleet.quadkey_hash(fleet.quadkey),
	FUNCTION 2 fleet.quadkey_hash_extended(fleet.quadkey, pg_catalog.int8);
COMMENT ON OPERATOR CLASS fleet.quadkey_ops USING hash IS 'equality of cells';

-- What lies in what.  The support functions turn it into a range for btree.

CREATE FUNCTION fleet.quadkey_contains_support(pg_catalog.internal) RETURNS pg_catalog.internal
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_contains_support'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_contains_support(pg_catalog.internal) IS 'planner support of @> operator: reads a btree index';

CREATE FUNCTION fleet.quadkey_contains(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_contains_sql'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT fleet.quadkey_contains_support;
COMMENT ON FUNCTION fleet.quadkey_contains(fleet.quadkey, fleet.quadkey) IS 'implementation of @> operator';

CREATE FUNCTION fleet.quadkey_contained_support(pg_catalog.internal) RETURNS pg_catalog.internal
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_contained_support'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_contained_support(pg_catalog.internal) IS 'planner support of <@ operator: reads a btree index';

CREATE FUNCTION fleet.quadkey_contained(fleet.quadkey, fleet.quadkey) RETURNS pg_catalog.bool
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_contained_sql'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT fleet.quadkey_contained_support;
COMMENT ON FUNCTION fleet.quadkey_contained(fleet.quadkey, fleet.quadkey) IS 'implementation of <@ operator';

CREATE OPERATOR fleet.@> (
	FUNCTION = fleet.quadkey_contains, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.<@), RESTRICT = pg_catalog.contsel, JOIN = pg_catalog.contjoinsel
);
COMMENT ON OPERATOR fleet.@> (fleet.quadkey, fleet.quadkey) IS 'the second cell is the first or lies in it';

CREATE OPERATOR fleet.<@ (
	FUNCTION = fleet.quadkey_contained, LEFTARG = fleet.quadkey, RIGHTARG = fleet.quadkey,
	COMMUTATOR = OPERATOR(fleet.@>), RESTRICT = pg_catalog.contsel, JOIN = pg_catalog.contjoinsel
);
COMMENT ON OPERATOR fleet.<@ (fleet.quadkey, fleet.quadkey) IS 'the first cell is the second or lies in it';

-- Casts, all explicit.  Text needs none of its own.

CREATE FUNCTION fleet.quadkey_from_bigint(pg_catalog.int8) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_from_bigint'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_from_bigint(pg_catalog.int8) IS 'the cell with this number';

CREATE CAST (pg_catalog.int8 AS fleet.quadkey) WITH FUNCTION fleet.quadkey_from_bigint(pg_catalog.int8);
COMMENT ON CAST (pg_catalog.int8 AS fleet.quadkey) IS 'the cell with this number';

CREATE CAST (fleet.quadkey AS pg_catalog.int8) WITHOUT FUNCTION;
COMMENT ON CAST (fleet.quadkey AS pg_catalog.int8) IS 'the number of a cell';

-- Places, tiles, and the family of a cell.

CREATE FUNCTION fleet.quadkey(lon float8, lat float8, level integer) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_make'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey(float8, float8, integer) IS 'the cell of this level that has the place (degrees)';

CREATE FUNCTION fleet.quadkey_of_tile(x integer, y integer, level integer) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_make_of_tile'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_of_tile(integer, integer, integer) IS 'the cell of this column, from the west, and row, from the north';

CREATE FUNCTION fleet.quadkey_tile(cell fleet.quadkey, OUT x integer, OUT y integer) RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_tile'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_tile(fleet.quadkey) IS 'column and row of a cell';

CREATE FUNCTION fleet.quadkey_level(cell fleet.quadkey) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_level'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_level(fleet.quadkey) IS 'the level of a cell: how many digits it has';

CREATE FUNCTION fleet.quadkey_parent(cell fleet.quadkey) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_parent'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_parent(fleet.quadkey) IS 'the cell one level up; null for the whole world';

CREATE FUNCTION fleet.quadkey_parent(cell fleet.quadkey, level integer) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_ancestor'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_parent(fleet.quadkey, integer) IS 'the cell of that level in which a cell lies';

CREATE FUNCTION fleet.quadkey_children(cell fleet.quadkey) RETURNS SETOF fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_children'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 4;
COMMENT ON FUNCTION fleet.quadkey_children(fleet.quadkey) IS 'the four cells one level down; none at level 29';

CREATE FUNCTION fleet.quadkey_neighbours(cell fleet.quadkey) RETURNS SETOF fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_neighbours'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 8;
COMMENT ON FUNCTION fleet.quadkey_neighbours(fleet.quadkey) IS 'the cells of the same level around a cell, clockwise from the north';

CREATE FUNCTION fleet.quadkey_last(cell fleet.quadkey) RETURNS fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_last'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_last(fleet.quadkey) IS 'the last of all cells that lie in a cell, in their order';

CREATE FUNCTION fleet.quadkey_range(cell fleet.quadkey, OUT first fleet.quadkey, OUT last fleet.quadkey) RETURNS record
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT cell, fleet.quadkey_last(cell);
END;
COMMENT ON FUNCTION fleet.quadkey_range(fleet.quadkey) IS 'the first and the last of a cell and all that lie in it; nothing else is between them';

CREATE FUNCTION fleet.quadkey_edges(cell fleet.quadkey, OUT west float8, OUT south float8, OUT east float8, OUT north float8) RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_edges'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_edges(fleet.quadkey) IS 'the edges of a cell in degrees';

CREATE FUNCTION fleet.quadkey_reach(cell fleet.quadkey, OUT west float8, OUT south float8, OUT east float8, OUT north float8) RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_get_reach'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.quadkey_reach(fleet.quadkey) IS 'the edges of what fleet.quadkey() gives to a cell: the first and the last row reach to the poles';

CREATE FUNCTION fleet.quadkey_bounds(cell fleet.quadkey) RETURNS geometry
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_MakeEnvelope(e.west, e.south, e.east, e.north, 4326) FROM fleet.quadkey_edges(cell) AS e;
END;
COMMENT ON FUNCTION fleet.quadkey_bounds(fleet.quadkey) IS 'the bounds of a cell as a polygon, SRID 4326';

-- Covers.  Those of an area go down level by level, and look only into cells
-- that intersect it.

CREATE FUNCTION fleet.quadkey_cover_circle(lon float8, lat float8, radius_m float8, level integer) RETURNS SETOF fleet.quadkey
	AS 'MODULE_PATHNAME', 'fleet_geo_quadkey_cover_circle'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 100 COST 100;
COMMENT ON FUNCTION fleet.quadkey_cover_circle(float8, float8, float8, integer) IS 'internal: behind fleet.quadkey_cover of a circle';

CREATE FUNCTION fleet.quadkey_cover(centre geography, radius_m float8, level integer) RETURNS SETOF fleet.quadkey
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 100 COST 200
BEGIN ATOMIC
	SELECT c.cell FROM (SELECT centre::geography(Point, 4326) AS place) AS p,
		fleet.quadkey_cover_circle(ST_X(p.place::geometry), ST_Y(p.place::geometry), radius_m, level) AS c (cell);
END;
COMMENT ON FUNCTION fleet.quadkey_cover(geography, float8, integer) IS
	'the cells of this level that a circle touches: no place within the radius is outside of them';

CREATE FUNCTION fleet.quadkey_area_problem(area geometry) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE
		WHEN ST_SRID(area) <> 4326 THEN 'Its SRID is ' || ST_SRID(area) || ', not 4326.'
		WHEN ST_XMin(area) < -180 OR ST_XMax(area) > 180 OR ST_YMin(area) < -90 OR ST_YMax(area) > 90
			THEN 'It leaves the range of longitude (-180 to 180) or latitude (-90 to 90).'
	END;
END;
COMMENT ON FUNCTION fleet.quadkey_area_problem(geometry) IS 'internal: why an area cannot be covered, or null';

CREATE FUNCTION fleet.quadkey_intersecting(area geometry, cells fleet.quadkey[]) RETURNS fleet.quadkey[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 10000
BEGIN ATOMIC
	SELECT array_agg(c.cell ORDER BY c.cell)
	FROM unnest(cells) AS c (cell), fleet.quadkey_reach(c.cell) AS r
	WHERE ST_Intersects(area, ST_MakeEnvelope(r.west, r.south, r.east, r.north, 4326));
END;
COMMENT ON FUNCTION fleet.quadkey_intersecting(geometry, fleet.quadkey[]) IS 'internal: those of the cells that intersect an area, or null';

CREATE FUNCTION fleet.quadkey_cover(area geometry, level integer) RETURNS SETOF fleet.quadkey
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE ROWS 100 COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text := fleet.quadkey_area_problem(area);
	-- A level that is out of range is refused here.
	cells fleet.quadkey[] := ARRAY[fleet.quadkey_parent(fleet.quadkey(0, 0, level), 0)];
BEGIN
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'the area cannot be covered with cells'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = problem;
	END IF;
	FOR i IN 0 .. level LOOP
		IF i > 0 THEN
			cells := ARRAY(SELECT fleet.quadkey_children(c) FROM unnest(cells) AS c);
		END IF;
		cells := fleet.quadkey_intersecting(area, cells);
		-- They do not get fewer further down.
		IF cardinality(cells) > 65536 THEN
			RAISE EXCEPTION 'the cover has more than 65536 cells'
				USING ERRCODE = 'program_limit_exceeded',
				HINT = 'Choose a lower level, of larger cells; each level less has about a quarter of the cells.';
		END IF;
	END LOOP;
	RETURN QUERY SELECT unnest(cells);
END
$$;
COMMENT ON FUNCTION fleet.quadkey_cover(geometry, integer) IS 'the cells of this level that intersect an area';

-- ---------------------------------------------------------------------------
-- remote: how other nodes are reached
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.parse_conninfo(conninfo text) RETURNS TABLE (keyword text, value text)
	AS 'MODULE_PATHNAME', 'fleet_remote_parse_conninfo'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.parse_conninfo(text) IS 'the options of a libpq connection string';

CREATE FUNCTION fleet.ask(region text, query text, timeout_ms integer DEFAULT 60000) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_remote_ask'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.ask(text, text, integer) IS
	'runs a query on the node of a region, or on a replica, as fleet_node: first column of the first row';
REVOKE EXECUTE ON FUNCTION fleet.ask(text, text, integer) FROM PUBLIC;

CREATE FUNCTION fleet.peer_states(OUT region text, OUT state text, OUT failures integer, OUT opened_at timestamptz,
	OUT next_try timestamptz, OUT last_error text, OUT last_failed timestamptz, OUT last_ok timestamptz,
	OUT connects bigint, OUT answered bigint, OUT failed bigint, OUT refused bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'fleet_remote_peer_states'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.peer_states() IS 'internal: behind the view fleet.peers';
REVOKE EXECUTE ON FUNCTION fleet.peer_states() FROM PUBLIC;

CREATE VIEW fleet.peers AS SELECT * FROM fleet.peer_states();
COMMENT ON VIEW fleet.peers IS
	'the nodes of the other regions, as this server has found them: whether they are asked, and what went wrong last';

-- ---------------------------------------------------------------------------
-- region: identity, the region map, where a place is
-- ---------------------------------------------------------------------------

CREATE TABLE fleet.node (
	name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,47}$'),
	incarnation text NOT NULL,
	incarnation_since timestamptz NOT NULL DEFAULT now(),
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX node_is_one ON fleet.node ((true));
COMMENT ON TABLE fleet.node IS 'the identity of this database; one row, see fleet.init_node';
COMMENT ON COLUMN fleet.node.incarnation IS 'timeline and system identifier; changes when the server is promoted or restored';

CREATE TABLE fleet.map (
	id uuid NOT NULL,
	version bigint NOT NULL CHECK (version > 0)
);
CREATE UNIQUE INDEX map_is_one ON fleet.map ((true));
COMMENT ON TABLE fleet.map IS 'which region map this node is part of, and its version; no row where it is part of none';

CREATE TABLE fleet.map_regions (
	name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,47}$'),
	node text NOT NULL UNIQUE,
	capacity integer CHECK (capacity >= 0),
	geofence geometry(MultiPolygon, 4326) NOT NULL
);
COMMENT ON TABLE fleet.map_regions IS 'the region map, the same on all nodes';
COMMENT ON COLUMN fleet.map_regions.capacity IS 'open rides that the region takes by handoff; null = no limit';

CREATE TABLE fleet.map_replicas (
	name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,47}$')
);
COMMENT ON TABLE fleet.map_replicas IS 'the replicas that follow the regions of the map, by their nodes'' names; the same on all nodes';

CREATE TABLE fleet.map_log (
	version bigint NOT NULL,
	change text NOT NULL,
	dtxid text,
	changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX map_log_dtxid ON fleet.map_log (dtxid);
COMMENT ON TABLE fleet.map_log IS 'every change of the region map that this node has applied';

SELECT pg_catalog.pg_extension_config_dump('fleet.node', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.map', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.map_regions', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.map_replicas', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.map_log', '');

CREATE FUNCTION fleet.node_name() RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_region_node_name'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.node_name() IS 'the name of this node, null before fleet.init_node';

CREATE FUNCTION fleet.incarnation() RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_region_incarnation_sql'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.incarnation() IS 'the present incarnation of this server, null on a standby';

CREATE FUNCTION fleet.own_region() RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT m.name FROM fleet.map_regions AS m JOIN fleet.node AS n ON n.name = m.node;
END;
COMMENT ON FUNCTION fleet.own_region() IS 'the region that this node owns, or null';

CREATE FUNCTION fleet.region_of(lon float8, lat float8) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_region_of'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 10;
COMMENT ON FUNCTION fleet.region_of(float8, float8) IS
	'the region that contains the place (degrees), else the nearest within fleet.border_tolerance, else null';

CREATE FUNCTION fleet.map_changed() RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_region_map_changed'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.map_changed() IS 'internal: has all backends read the region map again';
REVOKE EXECUTE ON FUNCTION fleet.map_changed() FROM PUBLIC;

CREATE FUNCTION fleet.worker_wanted() RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_commit_worker_wanted'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.worker_wanted() IS 'internal: has a resolver started in this database once this transaction commits';
REVOKE EXECUTE ON FUNCTION fleet.worker_wanted() FROM PUBLIC;

CREATE FUNCTION fleet.geofence_wkb(region text) RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_AsEWKB(m.geofence) FROM fleet.map_regions AS m WHERE m.name = region;
END;
COMMENT ON FUNCTION fleet.geofence_wkb(text) IS 'the geofence of a region as EWKB';
REVOKE EXECUTE ON FUNCTION fleet.geofence_wkb(text) FROM PUBLIC;

CREATE FUNCTION fleet.geofence_problem(geofence geometry) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE
		WHEN geofence IS NULL THEN 'it is null'
		WHEN ST_SRID(geofence) <> 4326 THEN 'its SRID is ' || ST_SRID(geofence) || ', not 4326'
		WHEN GeometryType(geofence) <> 'MULTIPOLYGON' THEN 'it is a ' || GeometryType(geofence) || ', not a MULTIPOLYGON'
		WHEN ST_IsEmpty(geofence) THEN 'it is empty'
		WHEN ST_XMin(geofence) < -180 OR ST_XMax(geofence) > 180
			OR ST_YMin(geofence) < -90 OR ST_YMax(geofence) > 90
			THEN 'it leaves the range of longitude (-180 to 180) or latitude (-90 to 90)'
		WHEN NOT ST_IsValid(geofence) THEN 'it is invalid: ' || ST_IsValidReason(geofence)
	END;
END;
COMMENT ON FUNCTION fleet.geofence_problem(geometry) IS 'why this cannot be a geofence, or null';

CREATE FUNCTION fleet.geofence_overlaps(geofence geometry, except_region text) RETURNS TABLE (region text, area_m2 float8)
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	-- Borders that were drawn apart cross each other by rounding: a square
	-- metre is no overlap.
	SELECT o.name, o.area FROM (
		SELECT m.name, ST_Area(ST_Intersection(m.geofence, geofence_overlaps.geofence)::geography) AS area
		FROM fleet.map_regions AS m
		WHERE m.name <> except_region AND m.geofence && geofence_overlaps.geofence
			AND ST_Relate(m.geofence, geofence_overlaps.geofence, '2********')
	) AS o WHERE o.area > 1;
END;
COMMENT ON FUNCTION fleet.geofence_overlaps(geometry, text) IS 'regions whose geofence overlaps with this one';
REVOKE EXECUTE ON FUNCTION fleet.geofence_overlaps(geometry, text) FROM PUBLIC;

CREATE FUNCTION fleet.init_node(name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM fleet.node_name();		-- says so where the library is not loaded
	PERFORM fleet.check_setup();
	IF name !~ '^[a-z][a-z0-9_]{0,47}$' THEN
		RAISE EXCEPTION '"%" cannot be the name of a node', name
			USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A name is 1 to 48 lower-case letters, digits and underscores, and begins with a letter.';
	END IF;
	BEGIN
		INSERT INTO fleet.node (name, incarnation) VALUES (init_node.name, fleet.incarnation());
	EXCEPTION WHEN unique_violation THEN
		RAISE EXCEPTION 'this database is node "%" already', (SELECT n.name FROM fleet.node AS n)
			USING ERRCODE = 'duplicate_object', DETAIL = 'The identity of a node is fixed once.';
	END;
	PERFORM fleet.map_changed(), fleet.worker_wanted();
	PERFORM fleet.make_history_partitions();
END
$$;
COMMENT ON FUNCTION fleet.init_node(text) IS 'gives this database its identity, once';
REVOKE EXECUTE ON FUNCTION fleet.init_node(text) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- wire: row images
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.row_image(row_value record) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'fleet_wire_row_image'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.row_image(record) IS
	'a row as a JSON object of its columns'' text; jsonb_populate_record reads it back exactly';

-- ---------------------------------------------------------------------------
-- handoff: rides and vehicles, their life cycle, departures, the handoff
-- ---------------------------------------------------------------------------

CREATE TYPE fleet.ride_status AS ENUM ('PENDING', 'EN_ROUTE', 'ARRIVED', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED');
COMMENT ON TYPE fleet.ride_status IS 'state of a ride; the last two are final';
CREATE TYPE fleet.vehicle_status AS ENUM ('OFFLINE', 'ONLINE', 'BUSY', 'ON_TRIP');
COMMENT ON TYPE fleet.vehicle_status IS 'state of a vehicle';

CREATE TABLE fleet.vehicles (
	vehicle_id text NOT NULL CHECK (length(vehicle_id) BETWEEN 1 AND 200),
	region text NOT NULL,
	status fleet.vehicle_status NOT NULL DEFAULT 'OFFLINE',
	location geography(Point, 4326),
	fix_at timestamptz,
	speed_kmh float8 CHECK (speed_kmh >= 0 AND speed_kmh < 'Infinity'),
	heading float8 CHECK (heading >= 0 AND heading <= 360),
	altitude_m float8 CHECK (altitude_m > '-Infinity' AND altitude_m < 'Infinity'),
	accuracy_m float8 CHECK (accuracy_m >= 0 AND accuracy_m < 'Infinity'),
	battery_pct float8 CHECK (battery_pct >= 0 AND battery_pct <= 100),
	outside_region text,
	outside_since timestamptz,
	updated_at timestamptz NOT NULL DEFAULT now(),
	epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
	hlc fleet.hlc NOT NULL DEFAULT fleet.hlc_now(),
	stays jsonb
) PARTITION BY LIST (region);
COMMENT ON TABLE fleet.vehicles IS 'vehicles of all regions; those of this node''s region are a local partition';
COMMENT ON COLUMN fleet.vehicles.location IS 'WGS 84, of the last accepted fix';
COMMENT ON COLUMN fleet.vehicles.heading IS 'degrees from north, clockwise';
COMMENT ON COLUMN fleet.vehicles.stays IS
	'since when it is in the fences that ask for dwell, {id of the fence: microseconds since 2000, or told}; being part of the row, it goes where the vehicle goes';
COMMENT ON COLUMN fleet.vehicles.outside_region IS 'region in which the vehicle was last seen without having crossed by the crossing rule';

CREATE TABLE fleet.rides (
	ride_id text NOT NULL CHECK (length(ride_id) BETWEEN 1 AND 200),
	vehicle_id text CHECK (length(vehicle_id) BETWEEN 1 AND 200),
	customer_id text NOT NULL CHECK (length(customer_id) BETWEEN 1 AND 200),
	region text NOT NULL,
	status fleet.ride_status NOT NULL DEFAULT 'PENDING',
	fare numeric(12, 2) NOT NULL DEFAULT 0 CHECK (fare >= 0 AND fare <> 'NaN'),
	start_location geography(Point, 4326) NOT NULL,
	current_location geography(Point, 4326),
	end_location geography(Point, 4326),
	requested_at timestamptz,
	en_route_at timestamptz,
	arrived_at timestamptz,
	started_at timestamptz,
	completed_at timestamptz,
	cancelled_at timestamptz,
	updated_at timestamptz NOT NULL DEFAULT now(),
	path_m float8 NOT NULL DEFAULT 0 CHECK (path_m >= 0 AND path_m < 'Infinity'),
	duration interval CHECK (duration >= interval '0'),
	epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
	hlc fleet.hlc NOT NULL DEFAULT fleet.hlc_now(),
	idempotency_keys jsonb,
	CHECK (completed_at IS NULL OR cancelled_at IS NULL)
) PARTITION BY LIST (region);
COMMENT ON TABLE fleet.rides IS 'rides of all regions; those of this node''s region are a local partition';
COMMENT ON COLUMN fleet.rides.path_m IS 'metres driven while IN_PROGRESS';
COMMENT ON COLUMN fleet.rides.epoch IS 'ownership version: one more at each handoff';
COMMENT ON COLUMN fleet.rides.hlc IS 'stamp of the last change; (epoch, hlc) is the version of the row';
COMMENT ON COLUMN fleet.rides.idempotency_keys IS
	'calls of the last 24 hours that were made with a key: {key: {call, result, at}}; being part of the row, they go where the ride goes';

CREATE TABLE fleet.departures (
	kind text NOT NULL CHECK (kind IN ('ride', 'vehicle')),
	key text NOT NULL,
	epoch bigint NOT NULL,
	target text,
	hlc fleet.hlc NOT NULL,
	image jsonb,
	dtxid text,
	settled_hlc fleet.hlc,
	departed_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (kind, key)
);
CREATE INDEX departures_unsettled ON fleet.departures (dtxid) WHERE settled_hlc IS NULL;
COMMENT ON TABLE fleet.departures IS 'what this node keeps of rows that left it; without a target it is a grave: the row was deleted';
COMMENT ON COLUMN fleet.departures.epoch IS 'epoch of the row at its target; of a grave, the last epoch of the row';
COMMENT ON COLUMN fleet.departures.image IS 'the row as it is at its target, see fleet.row_image';
COMMENT ON COLUMN fleet.departures.settled_hlc IS 'stamp after which every participant had committed';

CREATE TABLE fleet.handoff_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	ride_id text,
	vehicle_id text,
	source text,
	target text NOT NULL,
	epoch bigint NOT NULL,
	hlc fleet.hlc NOT NULL,
	dtxid text,
	status text NOT NULL CHECK (status IN ('departed', 'settled', 'arrived', 'reinserted')),
	started_at timestamptz NOT NULL DEFAULT now(),
	latency_ms float8
) WITH (fillfactor = 80);
CREATE INDEX handoff_log_dtxid ON fleet.handoff_log (dtxid);
CREATE INDEX handoff_log_ride ON fleet.handoff_log (ride_id, epoch);
CREATE INDEX handoff_log_vehicle ON fleet.handoff_log (vehicle_id, epoch) WHERE ride_id IS NULL;
COMMENT ON TABLE fleet.handoff_log IS
	'every handoff that this node took part in as source (departed, then settled) or target (arrived); the row proves that the branch was applied';
COMMENT ON COLUMN fleet.handoff_log.latency_ms IS 'from the first request to the last confirmation, as seen by the coordinator; null where the resolver finished it';
COMMENT ON COLUMN fleet.handoff_log.ride_id IS 'null where a vehicle is what moved';

SELECT pg_catalog.pg_extension_config_dump('fleet.departures', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.handoff_log', '');

CREATE FUNCTION fleet.make_point(lon float8, lat float8) RETURNS geography
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_SetSRID(ST_MakePoint(lon, lat), 4326)::geography;
END;
COMMENT ON FUNCTION fleet.make_point(float8, float8) IS 'a place: longitude, latitude in degrees, WGS 84';

CREATE FUNCTION fleet.lon(place geography) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_X(place::geometry);
END;
COMMENT ON FUNCTION fleet.lon(geography) IS 'longitude of a place in degrees';

CREATE FUNCTION fleet.lat(place geography) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_Y(place::geometry);
END;
COMMENT ON FUNCTION fleet.lat(geography) IS 'latitude of a place in degrees';

CREATE FUNCTION fleet.is_place(place text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT COALESCE(ST_X(place::geometry) BETWEEN -180 AND 180 AND ST_Y(place::geometry) BETWEEN -90 AND 90, false);
END;
COMMENT ON FUNCTION fleet.is_place(text) IS
	'internal: whether a point, given as text, is within 180 and 90 degrees; as a geography it would be moved there, with a notice';

CREATE FUNCTION fleet.guard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_handoff_guard'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.guard() IS 'trigger of the local partitions: version, state machine, graves';
-- It writes with the owner's rights: nobody else may put it on a table.
REVOKE EXECUTE ON FUNCTION fleet.guard() FROM PUBLIC;

CREATE FUNCTION fleet.refuse_write() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_handoff_refuse_write'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.refuse_write() IS 'trigger of the other regions'' partitions: says where the row can be changed';
REVOKE EXECUTE ON FUNCTION fleet.refuse_write() FROM PUBLIC;

CREATE FUNCTION fleet.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'TRUNCATE of % is refused', tg_table_name
		USING ERRCODE = 'feature_not_supported',
		DETAIL = 'It would leave no graves, and copies elsewhere could bring the rows back.',
		HINT = 'Use DELETE.';
END
$$;
COMMENT ON FUNCTION fleet.refuse_truncate() IS 'trigger of the local partitions: TRUNCATE would leave no graves';
REVOKE EXECUTE ON FUNCTION fleet.refuse_truncate() FROM PUBLIC;

CREATE FUNCTION fleet.whereabouts(kind text, key text) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_handoff_whereabouts_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.whereabouts(text, text) IS
	'what this node knows of a ride or vehicle: LIVE, DELETED, the region it departed to, or null';
REVOKE EXECUTE ON FUNCTION fleet.whereabouts(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.whereabouts(text, text) TO fleet_node;

CREATE FUNCTION fleet.await_outcome(kind text, key text, patience_ms integer DEFAULT 0) RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_handoff_await_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.await_outcome(text, text, integer) IS
	'internal: where a prepared branch of this node holds a ride or vehicle, has it finished, and waits for that up to fleet.lock_timeout, else RF022; with a patience for so long, and only for a branch that is not new, and without an error';

CREATE FUNCTION fleet.route(call text, key text, region text, arguments jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'fleet_handoff_route'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.route(text, text, text, jsonb) IS
	'internal: makes a call on the node that has the ride or vehicle, or that of a region, in this transaction; returns what it returned';

CREATE FUNCTION fleet.perform(call text, key text, arguments jsonb, stamp bigint, lock_timeout integer) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_handoff_perform_sql'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.perform(text, text, jsonb, bigint, integer) IS
	'internal: makes a call for another node: {hlc, result}, or {hlc, gone} where the row is not here';
REVOKE EXECUTE ON FUNCTION fleet.perform(text, text, jsonb, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.perform(text, text, jsonb, bigint, integer) TO fleet_node;

CREATE FUNCTION fleet.raise_not_here(kind text, key text) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text;
BEGIN
	-- Where it went is for those who may see it here.
	IF has_table_privilege(session_user, 'fleet.' || kind || 's', 'SELECT') THEN
		place := fleet.whereabouts(kind, key);
	END IF;
	IF place IS NULL OR place IN ('DELETED', 'LIVE') THEN
		RAISE EXCEPTION '% "%" does not exist here', kind, key
			USING ERRCODE = CASE kind WHEN 'ride' THEN 'RF001' ELSE 'RF010' END,
			DETAIL = format('Region "%s" has no such %s that you may see.', fleet.own_region(), kind),
			HINT = 'If it lives in another region, call that region''s node.';
	END IF;
	RAISE EXCEPTION '% "%" lives in another region', kind, key
		USING ERRCODE = 'RF020', DETAIL = format('It was handed off to region "%s".', place),
		HINT = 'Call that region''s node.';
END
$$;
COMMENT ON FUNCTION fleet.raise_not_here(text, text) IS 'internal: says where a ride or vehicle that is not here went';

CREATE FUNCTION fleet.require_region(lon float8, lat float8) RETURNS text
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text;
BEGIN
	IF lon IS NULL OR lat IS NULL THEN
		RAISE EXCEPTION 'longitude and latitude must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	place := fleet.region_of(lon, lat);
	IF place IS NULL AND fleet.node_name() IS NULL THEN
		RAISE EXCEPTION 'this database has no node identity'
			USING ERRCODE = 'RF011', HINT = 'Call fleet.init_node(name) once in this database.';
	ELSIF place IS NULL THEN
		RAISE EXCEPTION 'no region is at longitude % and latitude %', lon, lat
			USING ERRCODE = 'RF019', HINT = 'Raise fleet.border_tolerance where geofences leave gaps.';
	END IF;
	RETURN place;
END
$$;
COMMENT ON FUNCTION fleet.require_region(float8, float8) IS 'internal: the region of a place (degrees), or an error where there is none';

CREATE FUNCTION fleet.register_vehicle(vehicle_id text, lon float8, lat float8, status fleet.vehicle_status DEFAULT 'ONLINE') RETURNS text
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text := fleet.require_region(lon, lat);
BEGIN
	IF place IS DISTINCT FROM fleet.own_region() THEN
		RETURN fleet.route('register_vehicle', NULL, place, jsonb_build_object('vehicle_id', vehicle_id, 'lon', lon, 'lat', lat, 'status', status))#>>'{}';
	END IF;
	INSERT INTO fleet.vehicles (vehicle_id, region, status, location)
		VALUES (register_vehicle.vehicle_id, place, register_vehicle.status, fleet.make_point(lon, lat));
	RETURN place;
END
$$;
COMMENT ON FUNCTION fleet.register_vehicle(text, float8, float8, fleet.vehicle_status) IS
	'a new vehicle at a place (degrees); on any node; returns the region';

-- Idempotency keys.

CREATE FUNCTION fleet.known_result(keys jsonb, key text, call text) RETURNS jsonb
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known jsonb := keys->key;
BEGIN
	IF key IS NULL OR known IS NULL OR (known->>'at')::timestamptz < now() - interval '24 hours' THEN
		RETURN NULL;
	END IF;
	IF known->>'call' <> call THEN
		RAISE EXCEPTION 'idempotency key "%" was used for another call', key
			USING ERRCODE = 'RF028', DETAIL = format('It was "%s", and now is "%s".', known->>'call', call),
			HINT = 'Use a new key for each call, and the same one only to repeat it.';
	END IF;
	RETURN known->'result';
END
$$;
COMMENT ON FUNCTION fleet.known_result(jsonb, text, text) IS
	'internal: what a call returned that was made before with this key, or null';

CREATE FUNCTION fleet.with_result(keys jsonb, key text, call text, result jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF key IS NULL THEN
		RETURN keys;
	ELSIF length(key) NOT BETWEEN 1 AND 200 THEN
		RAISE EXCEPTION 'an idempotency key has 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN COALESCE((SELECT jsonb_object_agg(k.key, k.value) FROM jsonb_each(keys) AS k
			WHERE (k.value->>'at')::timestamptz >= now() - interval '24 hours'), '{}')
		|| jsonb_build_object(key, jsonb_build_object('call', call, 'result', result, 'at', now()));
END
$$;
COMMENT ON FUNCTION fleet.with_result(jsonb, text, text, jsonb) IS
	'internal: idempotency keys of a ride with one more, without those older than 24 hours';

CREATE FUNCTION fleet.has_departed(kind text, key text) RETURNS boolean
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM fleet.departures AS d WHERE d.kind = has_departed.kind AND d.key = has_departed.key AND d.target IS NOT NULL);
END;
COMMENT ON FUNCTION fleet.has_departed(text, text) IS 'internal: whether an id is taken here by a ride or vehicle that was handed off';

CREATE FUNCTION fleet.is_repeated(ride_id text, key text, call text) RETURNS boolean
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	keys jsonb;
BEGIN
	PERFORM fleet.await_outcome('ride', ride_id);
	IF key IS NULL THEN
		RETURN false;
	END IF;
	EXECUTE format('SELECT idempotency_keys FROM fleet.rides WHERE region = %L AND ride_id = $1 FOR NO KEY UPDATE', fleet.own_region())
		INTO keys USING ride_id;
	RETURN fleet.known_result(keys, key, call) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION fleet.is_repeated(text, text, text) IS
	'internal: locks a ride that is here; whether this call was made before with this key. What is in doubt about the ride is finished first';

CREATE FUNCTION fleet.request_ride(ride_id text, customer_id text, lon float8, lat float8, vehicle_id text DEFAULT NULL,
	fare numeric DEFAULT 0, end_lon float8 DEFAULT NULL, end_lat float8 DEFAULT NULL, at timestamptz DEFAULT now(),
	idempotency_key text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	place text := fleet.require_region(lon, lat);
	arguments jsonb := jsonb_build_object('ride_id', ride_id, 'customer_id', customer_id, 'lon', lon, 'lat', lat, 'vehicle_id', vehicle_id,
		'fare', fare, 'end_lon', end_lon, 'end_lat', end_lat, 'at', at, 'idempotency_key', idempotency_key);
	keys jsonb;
	result jsonb;
BEGIN
	IF idempotency_key IS NOT NULL THEN
		-- A repeat waits for the first call, and gets its result wherever the ride is now.
		PERFORM pg_advisory_xact_lock(hashtextextended('fleet request ' || ride_id, 0));
		SELECT COALESCE(r.idempotency_keys, '{}') INTO keys FROM fleet.rides AS r WHERE r.region = own AND r.ride_id = request_ride.ride_id;
		result := fleet.known_result(keys, idempotency_key, 'request_ride');
		IF result IS NOT NULL THEN
			RETURN result#>>'{}';
		ELSIF keys IS NOT NULL THEN
			RAISE EXCEPTION 'ride "%" already exists', ride_id
				USING ERRCODE = 'unique_violation', DETAIL = 'It was not requested with this idempotency key.';
		ELSIF fleet.has_departed('ride', ride_id) THEN
			RETURN fleet.route('request_ride', ride_id, NULL, arguments)#>>'{}';
		END IF;
	END IF;
	IF place IS DISTINCT FROM own THEN
		RETURN fleet.route('request_ride', NULL, place, arguments)#>>'{}';
	END IF;
	INSERT INTO fleet.rides (ride_id, customer_id, vehicle_id, region, fare, start_location, end_location, requested_at, idempotency_keys)
		VALUES (request_ride.ride_id, request_ride.customer_id, request_ride.vehicle_id, own, request_ride.fare,
			fleet.make_point(lon, lat), fleet.make_point(end_lon, end_lat), at,
			fleet.with_result(NULL, idempotency_key, 'request_ride', to_jsonb(own)));
	RETURN own;
END
$$;
COMMENT ON FUNCTION fleet.request_ride(text, text, float8, float8, text, numeric, float8, float8, timestamptz, text) IS
	'a new ride from a place (degrees); on any node; returns the region; made again with its idempotency key it returns what it did';

CREATE FUNCTION fleet.set_ride_status(ride_id text, status fleet.ride_status, vehicle_id text DEFAULT NULL, at timestamptz DEFAULT now(),
	idempotency_key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	call text := format('set_ride_status %s', status);
	time_column text := CASE status WHEN 'PENDING' THEN 'requested_at' WHEN 'EN_ROUTE' THEN 'en_route_at'
		WHEN 'ARRIVED' THEN 'arrived_at' WHEN 'IN_PROGRESS' THEN 'started_at'
		WHEN 'COMPLETED' THEN 'completed_at' ELSE 'cancelled_at' END;
	found_rows bigint;
BEGIN
	IF ride_id IS NULL OR status IS NULL THEN
		RAISE EXCEPTION 'ride and status must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF fleet.is_repeated(ride_id, idempotency_key, call) THEN
		RETURN;
	END IF;
	-- A repeat of the present status keeps the time at which it was reached.
	EXECUTE format('UPDATE fleet.rides SET status = $1, vehicle_id = COALESCE($2, vehicle_id),'
		|| ' %1$I = CASE WHEN status = $1 THEN COALESCE(%1$I, $3) ELSE $3 END, idempotency_keys = fleet.with_result(idempotency_keys, $5, $6, ''true'')'
		|| ' WHERE region = %2$L AND ride_id = $4', time_column, own) USING status, vehicle_id, at, ride_id, idempotency_key, call;
	GET DIAGNOSTICS found_rows = ROW_COUNT;
	IF found_rows = 0 THEN
		PERFORM fleet.route('set_ride_status', ride_id, NULL, jsonb_build_object('ride_id', ride_id, 'status', status,
			'vehicle_id', vehicle_id, 'at', at, 'idempotency_key', idempotency_key));
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.set_ride_status(text, fleet.ride_status, text, timestamptz, text) IS
	'moves a ride to its next status, perhaps with its vehicle; on any node; made again with its idempotency key it does nothing';

CREATE FUNCTION fleet.cancel_ride(ride_id text, at timestamptz DEFAULT now(), idempotency_key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM fleet.set_ride_status(ride_id, 'CANCELLED', NULL, at, idempotency_key);
END
$$;
COMMENT ON FUNCTION fleet.cancel_ride(text, timestamptz, text) IS 'cancels an open ride; on any node; as fleet.set_ride_status does';

CREATE FUNCTION fleet.update_ride(ride_id text, changes jsonb, idempotency_key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	-- What the state machine, the handoff and the version keep is not for callers.
	kept constant text[] := '{ride_id, region, status, requested_at, en_route_at, arrived_at, started_at, completed_at, cancelled_at,
		updated_at, path_m, duration, epoch, hlc, idempotency_keys}';
	allowed text[] := ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = 'fleet.rides'::regclass AND a.attnum > 0
		AND NOT a.attisdropped AND a.attgenerated = '' AND a.attname <> ALL (kept) ORDER BY a.attnum);
	bad text;
	found_rows bigint;
BEGIN
	IF ride_id IS NULL OR changes IS NULL THEN
		RAISE EXCEPTION 'ride and changes must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF jsonb_typeof(changes) <> 'object' OR changes = '{}' THEN
		RAISE EXCEPTION 'the changes are not an object with columns' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Like: {"fare": 12.50, "end_location": "POINT(-118.25 34.05)"}.';
	END IF;
	SELECT k INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (allowed) LIMIT 1;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'column "%" of a ride cannot be changed so', bad USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('Columns that can: %s.', array_to_string(allowed, ', ')),
			HINT = 'The status changes by fleet.set_ride_status, the region by fleet.handoff.';
	END IF;
	SELECT c.key INTO bad FROM jsonb_each_text(changes) AS c
		WHERE c.key IN ('start_location', 'current_location', 'end_location') AND NOT fleet.is_place(c.value) LIMIT 1;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'the % is no place', bad USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'Its longitude is not from -180 to 180 degrees, or its latitude not from -90 to 90.';
	END IF;
	IF fleet.is_repeated(ride_id, idempotency_key, 'update_ride') THEN
		RETURN;
	END IF;
	EXECUTE format('UPDATE fleet.rides AS r SET %s, idempotency_keys = fleet.with_result(r.idempotency_keys, $3, ''update_ride'', ''true'')'
		|| ' FROM jsonb_populate_record(NULL::fleet.rides, $1) AS c WHERE r.region = %L AND r.ride_id = $2',
		(SELECT string_agg(format('%1$I = c.%1$I', k), ', ') FROM jsonb_object_keys(changes) AS k), own) USING changes, ride_id, idempotency_key;
	GET DIAGNOSTICS found_rows = ROW_COUNT;
	IF found_rows = 0 THEN
		PERFORM fleet.route('update_ride', ride_id, NULL, jsonb_build_object('ride_id', ride_id, 'changes', changes,
			'idempotency_key', idempotency_key));
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.update_ride(text, jsonb, text) IS
	'changes columns of a ride: {column: value}, places as WKT; on any node; made again with its idempotency key it does nothing';

CREATE FUNCTION fleet.handoff(ride_id text, target text, expected_epoch bigint DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'fleet_handoff_ride'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.handoff(text, text, bigint) IS
	'hands a ride and its vehicle off to a region, at COMMIT; on any node; returns the new epoch';
REVOKE EXECUTE ON FUNCTION fleet.handoff(text, text, bigint) FROM PUBLIC;

CREATE FUNCTION fleet.handoff(ride_ids text[], target text) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_handoff_rides'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.handoff(text[], text) IS
	'hands many rides off to one region, all or none, in one two-phase commit; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.handoff(text[], text) FROM PUBLIC;

CREATE FUNCTION fleet.handoff_vehicle(vehicle_id text, target text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'fleet_handoff_vehicle'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.handoff_vehicle(text, text) IS
	'hands a vehicle and its open ride off to a region, at COMMIT; returns the vehicle''s new epoch';
REVOKE EXECUTE ON FUNCTION fleet.handoff_vehicle(text, text) FROM PUBLIC;

CREATE FUNCTION fleet.depart(dtxid text, vehicles boolean, ids text[], target text, expected_epoch bigint,
	map_version bigint, hlc bigint, lock_timeout integer) RETURNS text[]
	AS 'MODULE_PATHNAME', 'fleet_handoff_depart_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.depart(text, boolean, text[], text, bigint, bigint, bigint, integer) IS
	'internal: the source''s half of a handoff, called by the coordinator''s node';
REVOKE EXECUTE ON FUNCTION fleet.depart(text, boolean, text[], text, bigint, bigint, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.depart(text, boolean, text[], text, bigint, bigint, bigint, integer) TO fleet_node;

CREATE FUNCTION fleet.arrive(dtxid text, arriving jsonb, map_version bigint, redo boolean) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_handoff_arrive_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.arrive(text, jsonb, bigint, boolean) IS
	'internal: the target''s half of a handoff, called by the coordinator''s node';
REVOKE EXECUTE ON FUNCTION fleet.arrive(text, jsonb, bigint, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.arrive(text, jsonb, bigint, boolean) TO fleet_node;

CREATE FUNCTION fleet.depart_again(dtxid text, departed jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	a record;
BEGIN
	FOR a IN SELECT * FROM jsonb_to_recordset(departed)
		AS r(kind text, key text, epoch bigint, hlc bigint, target text, image jsonb)
	LOOP
		-- What is here at that epoch or later came back, or was never gone.
		CONTINUE WHEN EXISTS (SELECT FROM fleet.departures AS d
			WHERE d.kind = a.kind AND d.key = a.key AND d.epoch >= a.epoch);
		EXECUTE format('DELETE FROM fleet.%I WHERE %I = $1 AND epoch < $2', 'local_' || a.kind || 's', a.kind || '_id')
			USING a.key, a.epoch;
		CONTINUE WHEN fleet.whereabouts(a.kind, a.key) = 'LIVE';
		-- Not an upsert: who follows this table is sent its inserts only.
		DELETE FROM fleet.departures AS d WHERE d.kind = a.kind AND d.key = a.key AND (d.epoch < a.epoch OR d.target IS NULL);
		INSERT INTO fleet.departures (kind, key, epoch, target, hlc, image, dtxid)
			VALUES (a.kind, a.key, a.epoch, a.target, a.hlc::fleet.hlc, a.image, depart_again.dtxid)
			ON CONFLICT (kind, key) DO NOTHING;
	END LOOP;
	INSERT INTO fleet.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)
		SELECT CASE WHEN r.kind = 'ride' THEN r.key END,
			CASE WHEN r.kind = 'ride' THEN r.image->>'vehicle_id' ELSE r.key END,
			own, r.target, r.epoch, r.hlc::fleet.hlc, depart_again.dtxid, 'departed'
		FROM jsonb_to_recordset(departed)
			AS r(kind text, key text, epoch bigint, hlc bigint, target text, image jsonb);
END
$$;
COMMENT ON FUNCTION fleet.depart_again(text, jsonb) IS
	'internal: makes a departure whose PREPARE was lost, guarded by the epoch';
REVOKE EXECUTE ON FUNCTION fleet.depart_again(text, jsonb) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- fences: areas, places and pairs of vehicles that users watch
-- ---------------------------------------------------------------------------
--
-- They are the same on all regions' nodes, as the region map is: a change is applied on all of
-- them in one two-phase commit.  It holds the map, so that a region that joins gets either
-- the fences before it or those after it.

CREATE TABLE fleet.fences (
	name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
	id uuid NOT NULL,
	area geometry(MultiPolygon, 4326),
	place geography(Point, 4326),
	vehicle_id text,
	other_id text,
	radius_m float8,
	events text[] NOT NULL,
	dwell interval,
	status fleet.vehicle_status,
	notify boolean NOT NULL,
	created_at timestamptz NOT NULL,
	CHECK (num_nonnulls(area, place, vehicle_id) = 1 AND (area IS NULL) = (radius_m IS NOT NULL) AND (vehicle_id IS NULL) = (other_id IS NULL))
);
COMMENT ON TABLE fleet.fences IS 'what fleet.add_fence and fleet.add_pair have made; the same on all nodes';
COMMENT ON COLUMN fleet.fences.id IS 'tells it from another one that had the name before';
COMMENT ON COLUMN fleet.fences.radius_m IS 'of a place, around it; of a pair, how near the two are to come';
COMMENT ON COLUMN fleet.fences.dwell IS 'after so long in it there is an event dwell';
COMMENT ON COLUMN fleet.fences.status IS 'it is about vehicles of this status only; null = of all';
COMMENT ON COLUMN fleet.fences.notify IS 'whether its events are told by NOTIFY, too';

CREATE TABLE fleet.fence_log (
	name text NOT NULL,
	change text NOT NULL CHECK (change IN ('add', 'remove')),
	stamp fleet.hlc NOT NULL,
	dtxid text,
	changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX fence_log_dtxid ON fleet.fence_log (dtxid);
CREATE INDEX fence_log_name ON fleet.fence_log (name, stamp);
COMMENT ON TABLE fleet.fence_log IS 'every change of the fences that this node has applied';

SELECT pg_catalog.pg_extension_config_dump('fleet.fences', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.fence_log', '');

CREATE FUNCTION fleet.fences_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_track_fences_changed'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.fences_changed() IS 'trigger: has all backends read the fences again';
REVOKE EXECUTE ON FUNCTION fleet.fences_changed() FROM PUBLIC;
CREATE TRIGGER fleet_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON fleet.fences
	FOR EACH STATEMENT EXECUTE FUNCTION fleet.fences_changed();

CREATE FUNCTION fleet.fence_wkb(fence fleet.fences) RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_AsEWKB((fence).area);
END;
COMMENT ON FUNCTION fleet.fence_wkb(fleet.fences) IS 'internal: the area of a fence as EWKB, null where it has none';
REVOKE EXECUTE ON FUNCTION fleet.fence_wkb(fleet.fences) FROM PUBLIC;

CREATE FUNCTION fleet.as_fence_area(area geometry) RETURNS geometry
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_Force2D(ST_Multi(area));
END;
COMMENT ON FUNCTION fleet.as_fence_area(geometry) IS 'internal: a polygon as a flat MultiPolygon';

CREATE FUNCTION fleet.fence_area_problem(area geometry) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
BEGIN ATOMIC
	SELECT COALESCE(fleet.geofence_problem(area),
		CASE WHEN ST_NPoints(area) > 10000 THEN 'it has ' || ST_NPoints(area) || ' points, and 10000 are the most' END);
END;
COMMENT ON FUNCTION fleet.fence_area_problem(geometry) IS 'internal: why this cannot be the area of a fence, or null';

CREATE FUNCTION fleet.fence_place_problem(place geography, radius_m float8) RETURNS text
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
BEGIN ATOMIC
	SELECT CASE
		WHEN place IS NULL THEN 'it is null'
		WHEN GeometryType(place::geometry) <> 'POINT' OR ST_IsEmpty(place::geometry) THEN 'it is not a POINT'
		WHEN ST_SRID(place::geometry) <> 4326 THEN 'its SRID is ' || ST_SRID(place::geometry) || ', not 4326'
		WHEN radius_m IS NULL OR NOT (radius_m > 0 AND radius_m <= 1000000) THEN 'its radius is ' || COALESCE(radius_m::text, 'null') || ' metres'
	END;
END;
COMMENT ON FUNCTION fleet.fence_place_problem(geography, float8) IS 'internal: why this cannot be the place of a fence, or null';

CREATE FUNCTION fleet.flat_place(place geography) RETURNS geography
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_Force2D(place::geometry)::geography;
END;
COMMENT ON FUNCTION fleet.flat_place(geography) IS 'internal: a place without its height';

CREATE FUNCTION fleet.all_fences() RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(jsonb_agg(fleet.row_image(f)), '[]') FROM fleet.fences AS f;
END;
COMMENT ON FUNCTION fleet.all_fences() IS 'internal: the fences as they are sent to a region that joins';
REVOKE EXECUTE ON FUNCTION fleet.all_fences() FROM PUBLIC;

CREATE FUNCTION fleet.request_fence(region text, change jsonb) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_commit_request_fence'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.request_fence(text, jsonb) IS
	'internal: has the node of a region change a fence, as a branch of this transaction, whose name it returns';
REVOKE EXECUTE ON FUNCTION fleet.request_fence(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.apply_fence(dtxid text, change jsonb, redo boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = 0
AS $$
DECLARE
	is_new boolean := change ? 'add';
	fence fleet.fences := jsonb_populate_record(NULL::fleet.fences, change->'add');
	fence_name text := CASE WHEN is_new THEN fence.name ELSE change->>'remove' END;
	made_at fleet.hlc := (change->>'stamp')::bigint::fleet.hlc;
BEGIN
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	LOCK TABLE fleet.map IN SHARE MODE;
	IF NOT redo AND (SELECT m.version FROM fleet.map AS m) IS DISTINCT FROM (change->>'version')::bigint THEN
		RAISE EXCEPTION 'the region map has changed meanwhile' USING ERRCODE = 'RF007', HINT = 'Try again.';
	END IF;
	-- A change that is made again because its PREPARE was lost: what came later stands.
	IF NOT redo OR NOT EXISTS (SELECT FROM fleet.fence_log AS l WHERE l.name = fence_name AND l.stamp OPERATOR(fleet.>) made_at) THEN
		IF is_new THEN
			INSERT INTO fleet.fences SELECT fence.* ON CONFLICT (name) DO NOTHING;
			IF NOT FOUND AND NOT redo THEN
				RAISE EXCEPTION 'fence "%" already exists', fence_name
					USING ERRCODE = 'duplicate_object', HINT = 'Remove it first with fleet.remove_fence.';
			END IF;
		ELSE
			DELETE FROM fleet.fences AS f WHERE f.name = fence_name;
		END IF;
	END IF;
	INSERT INTO fleet.fence_log (name, change, stamp, dtxid)
		VALUES (fence_name, CASE WHEN is_new THEN 'add' ELSE 'remove' END, made_at, dtxid);
END
$$;
COMMENT ON FUNCTION fleet.apply_fence(text, jsonb, boolean) IS 'internal: changes a fence of this node';
REVOKE EXECUTE ON FUNCTION fleet.apply_fence(text, jsonb, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.apply_fence(text, jsonb, boolean) TO fleet_node;

CREATE FUNCTION fleet.change_fence(change jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = 0
AS $$
DECLARE
	own text := fleet.own_region();
	peer text;
	dtxid text;
BEGIN
	IF own IS NULL THEN
		RAISE EXCEPTION 'this node owns no region'
			USING ERRCODE = 'RF004', DETAIL = 'Fences are those of all regions'' nodes.', HINT = 'Call the node of a region.';
	END IF;
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	LOCK TABLE fleet.map IN SHARE MODE;
	change := change || jsonb_build_object('version', (SELECT m.version FROM fleet.map AS m), 'stamp', fleet.hlc_now()::bigint);
	FOR peer IN SELECT m.name FROM fleet.map_regions AS m WHERE m.name <> own ORDER BY m.name LOOP
		dtxid := fleet.request_fence(peer, change);
	END LOOP;
	PERFORM fleet.apply_fence(dtxid, change, false);
END
$$;
COMMENT ON FUNCTION fleet.change_fence(jsonb) IS 'internal: changes a fence on all regions'' nodes, in this transaction';
REVOKE EXECUTE ON FUNCTION fleet.change_fence(jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.make_fence(fence fleet.fences) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	allowed text[] := CASE WHEN fence.vehicle_id IS NOT NULL THEN '{near}' WHEN fence.area IS NOT NULL THEN '{enter,exit,dwell,cross}'
		ELSE '{enter,exit,dwell,cross,near}' END;
	problem text := CASE
		WHEN fence.name IS NULL OR length(fence.name) NOT BETWEEN 1 AND 100 THEN 'Its name must have 1 to 100 characters.'
		WHEN fence.notify IS NULL THEN 'Whether it is told by NOTIFY must not be null.'
		WHEN fence.events IS NULL OR cardinality(fence.events) = 0 OR NOT fence.events <@ allowed
			OR array_position(fence.events, NULL) IS NOT NULL THEN format('Its events must be some of %s.', array_to_string(allowed, ', '))
		WHEN ('dwell' = ANY (fence.events)) <> (fence.dwell IS NOT NULL) THEN 'The event dwell and the time to dwell must be given together.'
		WHEN NOT fence.dwell BETWEEN interval '1 second' AND interval '30 days' THEN 'The time to dwell must be from 1 second to 30 days.'
	END;
BEGIN
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'fence "%" cannot be made', fence.name USING ERRCODE = 'invalid_parameter_value', DETAIL = problem,
			HINT = CASE WHEN fence.area IS NOT NULL AND 'near' = ANY (fence.events) THEN 'near is for a place with a radius, and for two vehicles.' ELSE '' END;
	END IF;
	fence.id := gen_random_uuid();
	fence.created_at := now();
	PERFORM fleet.change_fence(jsonb_build_object('add', fleet.row_image(fence)));
	RETURN fleet.channel('fence', fence.name);
END
$$;
COMMENT ON FUNCTION fleet.make_fence(fleet.fences) IS 'internal: checks what all fences have in common, and makes one on all nodes';
REVOKE EXECUTE ON FUNCTION fleet.make_fence(fleet.fences) FROM PUBLIC;

-- These three write tables of fleet's on all nodes, so EXECUTE on them is the right to do it.

CREATE FUNCTION fleet.add_fence(name text, area geometry, events text[] DEFAULT '{enter,exit}', dwell interval DEFAULT NULL,
	status fleet.vehicle_status DEFAULT NULL, notify boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fence fleet.fences;
	problem text;
BEGIN
	area := fleet.as_fence_area(area);
	problem := fleet.fence_area_problem(area);
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'the area of fence "%" cannot be used', name
			USING ERRCODE = 'RF013', DETAIL = format('A fence is a Polygon or MultiPolygon of SRID 4326; %s.', problem),
			HINT = 'ST_SetSRID, ST_Transform, ST_MakeValid and ST_Simplify may help.';
	END IF;
	fence.name := name;
	fence.area := area;
	fence.events := events;
	fence.dwell := dwell;
	fence.status := status;
	fence.notify := notify;
	RETURN fleet.make_fence(fence);
END
$$;
COMMENT ON FUNCTION fleet.add_fence(text, geometry, text[], interval, fleet.vehicle_status, boolean) IS
	'an area whose events are noted from now on, on all nodes; returns the channel on which they are told';
REVOKE EXECUTE ON FUNCTION fleet.add_fence(text, geometry, text[], interval, fleet.vehicle_status, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.add_fence(name text, place geography, radius_m float8, events text[] DEFAULT '{near}', dwell interval DEFAULT NULL,
	status fleet.vehicle_status DEFAULT NULL, notify boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fence fleet.fences;
	problem text := fleet.fence_place_problem(place, radius_m);
BEGIN
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'the place of fence "%" cannot be used', name
			USING ERRCODE = 'RF013', DETAIL = format('A place is a Point of SRID 4326 with a radius of more than 0 and at most 1000000 metres; %s.', problem);
	END IF;
	fence.name := name;
	fence.place := fleet.flat_place(place);
	fence.radius_m := radius_m;
	fence.events := events;
	fence.dwell := dwell;
	fence.status := status;
	fence.notify := notify;
	RETURN fleet.make_fence(fence);
END
$$;
COMMENT ON FUNCTION fleet.add_fence(text, geography, float8, text[], interval, fleet.vehicle_status, boolean) IS
	'a place with a radius whose events are noted from now on, on all nodes; returns the channel on which they are told';
REVOKE EXECUTE ON FUNCTION fleet.add_fence(text, geography, float8, text[], interval, fleet.vehicle_status, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.add_pair(name text, vehicle_id text, other_id text, within_m float8, notify boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fence fleet.fences;
BEGIN
	IF vehicle_id IS NULL OR other_id IS NULL OR vehicle_id = other_id OR length(vehicle_id) NOT BETWEEN 1 AND 200
		OR length(other_id) NOT BETWEEN 1 AND 200 OR within_m IS NULL OR NOT (within_m > 0 AND within_m <= 1000000) THEN
		RAISE EXCEPTION 'fence "%" cannot be made', name USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A pair is two vehicles and a distance of more than 0 and at most 1000000 metres.';
	END IF;
	fence.name := name;
	fence.vehicle_id := vehicle_id;
	fence.other_id := other_id;
	fence.radius_m := within_m;
	fence.events := '{near}';
	fence.notify := notify;
	RETURN fleet.make_fence(fence);
END
$$;
COMMENT ON FUNCTION fleet.add_pair(text, text, text, float8, boolean) IS
	'two vehicles of which it is noted when one comes near the other, in the same region; returns the channel on which that is told';
REVOKE EXECUTE ON FUNCTION fleet.add_pair(text, text, text, float8, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.remove_fence(name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.fences AS f WHERE f.name = remove_fence.name) THEN
		RAISE EXCEPTION 'fence "%" does not exist', name
			USING ERRCODE = 'RF033', HINT = 'The table fleet.fences lists them.';
	END IF;
	PERFORM fleet.change_fence(jsonb_build_object('remove', name));
END
$$;
COMMENT ON FUNCTION fleet.remove_fence(text) IS 'removes a fence, or a pair, from all nodes; its events stay';
REVOKE EXECUTE ON FUNCTION fleet.remove_fence(text) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- commit: decisions, the resolver, what is in doubt
-- ---------------------------------------------------------------------------

CREATE TABLE fleet.decisions (
	seq integer NOT NULL DEFAULT 0,
	dtxid text NOT NULL,
	branch integer NOT NULL,
	region text NOT NULL,
	kind text NOT NULL CHECK (kind IN ('depart', 'arrive', 'map', 'call', 'fence')),
	payload jsonb,
	decided_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX decisions_dtxid ON fleet.decisions (dtxid);
COMMENT ON TABLE fleet.decisions IS
	'decision records of the transactions that this node coordinates: a row that is visible means commit; gone when settled';
COMMENT ON COLUMN fleet.decisions.seq IS 'order of the requests of a transaction';
COMMENT ON COLUMN fleet.decisions.payload IS
	'of a departure the rows that left, of a call its arguments, of a fence its change; null of an arrival, which departures tell, and of a map change, which the present map tells (see fleet.branch_request)';
SELECT pg_catalog.pg_extension_config_dump('fleet.decisions', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.handoff_log_id_seq', '');

CREATE TABLE fleet.call_log (
	dtxid text PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT now(),
	problem text
);
COMMENT ON TABLE fleet.call_log IS
	'transactions of other nodes that changed rides or vehicles here: the proof that this node''s branch was applied';
COMMENT ON COLUMN fleet.call_log.problem IS 'the PREPARE was lost, and these of its calls could not be made again';
SELECT pg_catalog.pg_extension_config_dump('fleet.call_log', '');

CREATE FUNCTION fleet.log_calls(dtxid text) RETURNS void
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO fleet.call_log (dtxid) VALUES (log_calls.dtxid);
END;
COMMENT ON FUNCTION fleet.log_calls(text) IS 'internal: the proof that a branch with calls leaves';
REVOKE EXECUTE ON FUNCTION fleet.log_calls(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.log_calls(text) TO fleet_node;

CREATE UNLOGGED TABLE fleet.resolution (
	gid text PRIMARY KEY,
	attempts integer NOT NULL,
	last_error text NOT NULL,
	next_try timestamptz NOT NULL
);
COMMENT ON TABLE fleet.resolution IS 'the resolver''s failed attempts, by gid; empty where all goes well';

CREATE FUNCTION fleet.arriving(dtxid text, region text) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- From this node: what has come back since is not in its departures any
	-- more, and need not arrive again.  While the decision record is there the
	-- departures are not settled.  Of what came twice the last time counts.
	SELECT COALESCE(jsonb_agg(r.arriving), '[]') FROM (
		SELECT DISTINCT ON (x.arriving->>'kind', x.arriving->>'key') x.arriving FROM (
			SELECT jsonb_build_object('kind', d.kind, 'key', d.key, 'epoch', d.epoch, 'hlc', d.hlc::bigint,
				'source', fleet.own_region(), 'target', d.target, 'image', d.image) AS arriving
			FROM fleet.departures AS d
			WHERE d.dtxid = arriving.dtxid AND d.target = arriving.region AND d.settled_hlc IS NULL
			UNION ALL
			SELECT a.value FROM fleet.decisions AS c, jsonb_array_elements(c.payload) AS a
			WHERE c.dtxid = arriving.dtxid AND c.kind = 'depart' AND a.value->>'target' = arriving.region) AS x
		ORDER BY x.arriving->>'kind', x.arriving->>'key', (x.arriving->>'epoch')::bigint DESC) AS r;
END;
COMMENT ON FUNCTION fleet.arriving(text, text) IS
	'internal: the rows that a transaction of this node has sent to a region, from their departures';
REVOKE EXECUTE ON FUNCTION fleet.arriving(text, text) FROM PUBLIC;

CREATE FUNCTION fleet.is_running(dtxid text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_commit_is_running'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.is_running(text) IS 'whether the backend that coordinates the transaction is still at it, on this node';
REVOKE EXECUTE ON FUNCTION fleet.is_running(text) FROM PUBLIC;

CREATE FUNCTION fleet.outcomes(gids text[]) RETURNS text[]
	AS 'MODULE_PATHNAME', 'fleet_commit_outcomes'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.outcomes(text[]) IS
	'what became of transactions that this node coordinated: running, commit, abort, or unknown';
REVOKE EXECUTE ON FUNCTION fleet.outcomes(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.outcomes(text[]) TO fleet_node;

CREATE FUNCTION fleet.branch_applied(dtxid text) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM fleet.handoff_log AS h WHERE h.dtxid = branch_applied.dtxid)
		OR EXISTS (SELECT FROM fleet.call_log AS c WHERE c.dtxid = branch_applied.dtxid)
		OR EXISTS (SELECT FROM fleet.map_log AS m WHERE m.dtxid = branch_applied.dtxid)
		OR EXISTS (SELECT FROM fleet.fence_log AS f WHERE f.dtxid = branch_applied.dtxid);
END;
COMMENT ON FUNCTION fleet.branch_applied(text) IS 'whether this node''s branch of a distributed transaction has committed';
REVOKE EXECUTE ON FUNCTION fleet.branch_applied(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.branch_applied(text) TO fleet_node;

CREATE FUNCTION fleet.branch_evidence(dtxid text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	coordinator text := 'fleet:' || split_part(dtxid, ':', 2);
BEGIN
	PERFORM pg_terminate_backend(a.pid, 500) FROM pg_stat_activity AS a
		WHERE a.datname = current_database() AND a.usename = 'fleet_node'
			AND a.application_name = coordinator AND a.pid <> pg_backend_pid();
	PERFORM pg_stat_clear_snapshot();
	IF EXISTS (SELECT FROM pg_stat_activity AS a
			WHERE a.datname = current_database() AND a.usename = 'fleet_node'
				AND a.application_name = coordinator AND a.pid <> pg_backend_pid()) THEN
		RETURN NULL;
	END IF;
	RETURN fleet.branch_applied(dtxid);
END
$$;
COMMENT ON FUNCTION fleet.branch_evidence(text) IS
	'as fleet.branch_applied, after ending the coordinator''s sessions here, one of which may be committing it; null while one remains';
REVOKE EXECUTE ON FUNCTION fleet.branch_evidence(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.branch_evidence(text) TO fleet_node;

CREATE FUNCTION fleet.settle(dtxids text[], hlcs bigint[], latencies_ms float8[]) RETURNS text[]
	AS 'MODULE_PATHNAME', 'fleet_handoff_settle'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.settle(text[], bigint[], float8[]) IS
	'internal: writes down that all participants of these transactions have committed; returns those that somebody is in the way of';
REVOKE EXECUTE ON FUNCTION fleet.settle(text[], bigint[], float8[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.settle(text[], bigint[], float8[]) TO fleet_node;

CREATE FUNCTION fleet.finish_prepared(gid text, commit boolean) RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_commit_finish'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.finish_prepared(text, boolean) IS 'internal: COMMIT or ROLLBACK PREPARED, at once';
REVOKE EXECUTE ON FUNCTION fleet.finish_prepared(text, boolean) FROM PUBLIC;

CREATE VIEW fleet.in_doubt AS
	SELECT p.gid, 'participant' AS role, split_part(p.gid, ':', 2) AS peer, 'prepared' AS state,
		clock_timestamp() - p.prepared AS age, COALESCE(r.attempts, 0) AS attempts, r.last_error, r.next_try
	FROM pg_catalog.pg_prepared_xacts AS p LEFT JOIN fleet.resolution AS r ON r.gid = p.gid
	WHERE p.database = current_database() AND p.gid LIKE 'fleet:%'
	UNION ALL
	SELECT d.gid, 'coordinator', d.region, 'committed, not confirmed',
		clock_timestamp() - d.since, COALESCE(r.attempts, 0), r.last_error, r.next_try
	FROM (SELECT dtxid || ':' || branch AS gid, dtxid, region, min(decided_at) AS since
			FROM fleet.decisions GROUP BY dtxid, branch, region) AS d
		LEFT JOIN fleet.resolution AS r ON r.gid = d.gid
	-- What has just been confirmed is settled in the resolver's next round.
	WHERE NOT fleet.is_running(d.dtxid)
		AND clock_timestamp() - d.since > 2 * current_setting('fleet.resolve_interval')::interval;
COMMENT ON VIEW fleet.in_doubt IS
	'branches of distributed transactions that are not finished: prepared here, or decided here and not yet confirmed by their node';

CREATE FUNCTION fleet.resolve(gid text, outcome text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	coordinator text := (SELECT m.name FROM fleet.map_regions AS m WHERE m.node = split_part(resolve.gid, ':', 2));
	answer text;
BEGIN
	IF outcome NOT IN ('commit', 'abort') THEN
		RAISE EXCEPTION 'outcome must be "commit" or "abort", not "%"', outcome
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF EXISTS (SELECT FROM fleet.decisions AS d WHERE d.dtxid || ':' || d.branch = resolve.gid) THEN
		IF outcome = 'abort' THEN
			RAISE EXCEPTION 'transaction "%" is committed', gid
				USING ERRCODE = 'RF022', DETAIL = 'Its decision record is on this node.',
				HINT = 'With "commit" this node stops to ask the participant for its confirmation.';
		END IF;
		DELETE FROM fleet.decisions AS d WHERE d.dtxid || ':' || d.branch = resolve.gid;
		RETURN;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_prepared_xacts AS p WHERE p.gid = resolve.gid
			AND p.database = current_database() AND p.gid LIKE 'fleet:%') THEN
		RAISE EXCEPTION 'nothing is in doubt by the name "%"', gid
			USING ERRCODE = 'undefined_object', HINT = 'The view fleet.in_doubt lists what is.';
	END IF;
	BEGIN
		answer := fleet.ask(coordinator, format('SELECT (fleet.outcomes(ARRAY[%L]))[1]', gid));
	EXCEPTION WHEN OTHERS THEN
		answer := NULL;		-- it does not answer: that is what this function is for
	END;
	IF answer IN ('commit', 'abort', 'running') AND answer <> outcome THEN
		RAISE EXCEPTION 'the coordinator of "%" says "%"', gid, answer
			USING ERRCODE = 'RF022', HINT = 'The resolver will finish it by itself.';
	END IF;
	PERFORM fleet.finish_prepared(gid, outcome = 'commit');
END
$$;
COMMENT ON FUNCTION fleet.resolve(text, text) IS
	'the operator''s last resort: finishes a branch whose coordinator is gone for good (commit or abort); takes effect at once';
REVOKE EXECUTE ON FUNCTION fleet.resolve(text, text) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- live: the latest positions in shared memory
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.live_note() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_live_note'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.live_note() IS 'trigger of this region''s vehicles: what changes goes into the live index at commit';
-- The index has one table of each database: nobody else may put it on another.
REVOKE EXECUTE ON FUNCTION fleet.live_note() FROM PUBLIC;

CREATE FUNCTION fleet.live_index_state(OUT state text, OUT vehicles bigint, OUT size bigint, OUT builds bigint,
	OUT index_searches bigint, OUT table_searches bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_live_index_state'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.live_index_state() IS 'internal: behind the view fleet.live_index';
REVOKE EXECUTE ON FUNCTION fleet.live_index_state() FROM PUBLIC;

CREATE VIEW fleet.live_index AS SELECT * FROM fleet.live_index_state();
COMMENT ON VIEW fleet.live_index IS
	'the live index of this region''s vehicles: off, empty, building, ready or full; how many it holds, how often it was built, and who has answered searches';

-- ---------------------------------------------------------------------------
-- region: changing the map
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.request_map(region text, map jsonb) RETURNS text
	AS 'MODULE_PATHNAME', 'fleet_commit_request_map'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.request_map(text, jsonb) IS
	'internal: has the node of a region apply a map, as a branch of this transaction, whose name it returns';
REVOKE EXECUTE ON FUNCTION fleet.request_map(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.create_server(region text, server text[], mapping text[]) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text := 'fleet_' || region;
BEGIN
	-- One that was left, see fleet.drop_region.
	IF EXISTS (SELECT FROM pg_foreign_server AS s WHERE s.srvname = name
			AND obj_description(s.oid, 'pg_foreign_server') = 'node of a region of fleet') THEN
		EXECUTE format('DROP SERVER %I CASCADE', name);
	END IF;
	EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER postgres_fdw OPTIONS (%s)', name,
		(SELECT string_agg(format('%I %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(server) AS o));
	EXECUTE format('CREATE USER MAPPING FOR PUBLIC SERVER %I OPTIONS (%s)', name,
		(SELECT string_agg(format('%I %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(mapping) AS o));
	EXECUTE format('COMMENT ON SERVER %I IS %L', name, 'node of a region of fleet');
END
$$;
COMMENT ON FUNCTION fleet.create_server(text, text[], text[]) IS 'internal: the foreign server of a region, with its user mapping';
REVOKE EXECUTE ON FUNCTION fleet.create_server(text, text[], text[]) FROM PUBLIC;

CREATE FUNCTION fleet.create_partitions(region text, is_own boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kind text;
	part text;
BEGIN
	FOREACH kind IN ARRAY ARRAY['vehicle', 'ride'] LOOP
		IF NOT is_own THEN
			part := kind || 's_' || region;
			EXECUTE format('CREATE FOREIGN TABLE fleet.%I PARTITION OF fleet.%I FOR VALUES IN (%L)'
				|| ' SERVER %I OPTIONS (schema_name ''fleet'', table_name %L)',
				part, kind || 's', region, 'fleet_' || region, 'local_' || kind || 's');
			EXECUTE format('CREATE TRIGGER fleet_refuse BEFORE INSERT OR UPDATE OR DELETE ON fleet.%I'
				|| ' FOR EACH ROW EXECUTE FUNCTION fleet.refuse_write(%L, %L)', part, kind, region);
			CONTINUE;
		END IF;
		-- The same name on each node, and on replicas: that is how logical replication finds it.
		part := 'local_' || kind || 's';
		EXECUTE format('CREATE TABLE fleet.%I PARTITION OF fleet.%I (PRIMARY KEY (%I)) FOR VALUES IN (%L) WITH (fillfactor = 85)',
			part, kind || 's', kind || '_id', region);
		EXECUTE format('CREATE TRIGGER fleet_guard BEFORE INSERT OR UPDATE OR DELETE ON fleet.%I'
			|| ' FOR EACH ROW EXECUTE FUNCTION fleet.guard(%L)', part, kind);
		EXECUTE format('CREATE TRIGGER fleet_guard_after AFTER INSERT ON fleet.%I'
			|| ' FOR EACH ROW EXECUTE FUNCTION fleet.guard(%L)', part, kind);
		EXECUTE format('CREATE TRIGGER fleet_guard_truncate BEFORE TRUNCATE ON fleet.%I'
			|| ' FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_truncate()', part);
		-- UPDATE of one column, so that another node may plan an UPDATE over all partitions.
		EXECUTE format('GRANT SELECT, UPDATE (updated_at) ON fleet.%I TO fleet_node', part);
		IF kind = 'ride' THEN
			EXECUTE format('CREATE UNIQUE INDEX ON fleet.%I (vehicle_id) WHERE status < ''COMPLETED''', part);
			EXECUTE format('CREATE INDEX ON fleet.%I (vehicle_id, requested_at)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I (customer_id, requested_at)', part);
			-- Backwards, the newest first, ties by the id: the whole order of fleet.search_rides.
			EXECUTE format('CREATE INDEX ON fleet.%I (status, requested_at, ride_id text_pattern_ops DESC)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I (requested_at, ride_id text_pattern_ops DESC)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I USING gist (current_location)', part);
		ELSE
			-- None on the location: each fix would have to write it anew, and the row's other indexes with it.
			EXECUTE format('CREATE INDEX ON fleet.%I (status)', part);
			EXECUTE format('CREATE TRIGGER fleet_live AFTER INSERT OR UPDATE OR DELETE ON fleet.%I'
				|| ' FOR EACH ROW EXECUTE FUNCTION fleet.live_note()', part);
			EXECUTE format('ALTER TABLE fleet.%I ENABLE ALWAYS TRIGGER fleet_live', part);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.create_partitions(text, boolean) IS 'internal: the partitions of a region, tables on its own node, foreign tables elsewhere';
REVOKE EXECUTE ON FUNCTION fleet.create_partitions(text, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.drop_region(region text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
	is_own boolean := region = fleet.own_region();
	rows bigint := 0;
	is_open boolean;
BEGIN
	FOR try IN 1 .. 25 LOOP		-- what is confirmed is settled within a round of the resolver
		-- Not counting what asks that region's node to leave, in this transaction.
		is_open := EXISTS (SELECT FROM fleet.decisions AS d WHERE d.region = drop_region.region
				AND NOT (d.kind = 'map' AND d.decided_at = now()))
			OR EXISTS (SELECT FROM fleet.departures AS d WHERE d.settled_hlc IS NULL AND (is_own OR d.target = drop_region.region));
		EXIT WHEN NOT is_open;
		PERFORM pg_sleep(0.1);
	END LOOP;
	IF is_open THEN
		RAISE EXCEPTION 'region "%" has handoffs that are not finished', region
			USING ERRCODE = 'RF024', DETAIL = format('Node "%s" still waits for confirmations.', fleet.node_name()),
			HINT = 'Try again in a few seconds; the view fleet.in_doubt shows what is open.';
	END IF;
	IF is_own THEN
		LOCK TABLE fleet.local_rides, fleet.local_vehicles IN ACCESS EXCLUSIVE MODE;
		rows := (SELECT count(*) FROM fleet.local_rides) + (SELECT count(*) FROM fleet.local_vehicles);
		IF rows > 0 THEN
			RAISE EXCEPTION 'region "%" still owns % rides and vehicles', region, rows
				USING ERRCODE = 'RF015', HINT = 'Hand them off, or delete them, first.';
		END IF;
		DROP TABLE fleet.local_rides, fleet.local_vehicles;
	ELSE
		EXECUTE format('DROP FOREIGN TABLE fleet.%I, fleet.%I', 'rides_' || region, 'vehicles_' || region);
	END IF;
	-- As long as its node has not confirmed, the resolver needs to reach it.
	IF NOT EXISTS (SELECT FROM fleet.decisions AS d WHERE d.region = drop_region.region) THEN
		EXECUTE format('DROP SERVER %I CASCADE', 'fleet_' || region);
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.drop_region(text) IS 'internal: takes a region off this node''s map; refused while it owns anything';
REVOKE EXECUTE ON FUNCTION fleet.drop_region(text) FROM PUBLIC;

CREATE FUNCTION fleet.drop_leftover_servers() RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
	name name;
BEGIN
	-- A change of the map takes up a server that it finds, so none may be under way.  It may be waiting for this worker, which
	-- does not wait for it.
	IF NOT EXISTS (SELECT FROM pg_foreign_server AS s WHERE s.srvname LIKE 'fleet\_%'
			AND NOT EXISTS (SELECT FROM fleet.map_regions AS m WHERE 'fleet_' || m.name = s.srvname)
			AND NOT EXISTS (SELECT FROM fleet.map_replicas AS m WHERE 'fleet_' || m.name = s.srvname)) THEN
		RETURN;
	END IF;
	BEGIN
		LOCK TABLE fleet.map IN SHARE ROW EXCLUSIVE MODE NOWAIT;
	EXCEPTION WHEN lock_not_available THEN
		RETURN;
	END;
	FOR name IN SELECT s.srvname FROM pg_foreign_server AS s JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
		WHERE w.fdwname = 'postgres_fdw'
			AND obj_description(s.oid, 'pg_foreign_server') = 'node of a region of fleet'
			AND NOT EXISTS (SELECT FROM fleet.map_regions AS m WHERE 'fleet_' || m.name = s.srvname)
			AND NOT EXISTS (SELECT FROM fleet.map_replicas AS m WHERE 'fleet_' || m.name = s.srvname)
			AND NOT EXISTS (SELECT FROM fleet.decisions AS d WHERE 'fleet_' || d.region = s.srvname)
			AND NOT EXISTS (SELECT FROM pg_foreign_table AS t WHERE t.ftserver = s.oid)
	LOOP
		EXECUTE format('DROP SERVER %I CASCADE', name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.drop_leftover_servers() IS
	'internal: drops the servers of regions that have left the map, once their nodes have confirmed';
REVOKE EXECUTE ON FUNCTION fleet.drop_leftover_servers() FROM PUBLIC;

CREATE FUNCTION fleet.map_replicas() RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(jsonb_agg(jsonb_build_object('name', r.name,
		'server', to_jsonb(s.srvoptions), 'mapping', to_jsonb(u.umoptions)) ORDER BY r.name), '[]')
	FROM fleet.map_replicas AS r
		JOIN pg_catalog.pg_foreign_server AS s ON s.srvname = 'fleet_' || r.name
		JOIN pg_catalog.pg_user_mapping AS u ON u.umserver = s.oid AND u.umuser = 0;
END;
COMMENT ON FUNCTION fleet.map_replicas() IS 'internal: the replicas of the map, with how to reach each';
REVOKE EXECUTE ON FUNCTION fleet.map_replicas() FROM PUBLIC;

CREATE FUNCTION fleet.map_payload(region text) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- A region that is not on the map (any more) gets an empty one.
	SELECT jsonb_build_object('id', m.id, 'version', m.version,
		'change', (SELECT l.change FROM fleet.map_log AS l WHERE l.version = m.version ORDER BY l.changed_at DESC LIMIT 1),
		'regions', COALESCE((SELECT jsonb_agg(jsonb_build_object('name', r.name, 'node', r.node,
				'capacity', r.capacity, 'geofence', r.geofence::text,
				'server', to_jsonb(s.srvoptions), 'mapping', to_jsonb(u.umoptions)) ORDER BY r.name)
			FROM fleet.map_regions AS r
				JOIN pg_catalog.pg_foreign_server AS s ON s.srvname = 'fleet_' || r.name
				JOIN pg_catalog.pg_user_mapping AS u ON u.umserver = s.oid AND u.umuser = 0
			WHERE EXISTS (SELECT FROM fleet.map_regions AS x WHERE x.name = map_payload.region)), '[]'),
		'replicas', fleet.map_replicas())
	FROM fleet.map AS m;
END;
COMMENT ON FUNCTION fleet.map_payload(text) IS 'internal: the region map as it is sent to the node of a region, with how to reach each node';
REVOKE EXECUTE ON FUNCTION fleet.map_payload(text) FROM PUBLIC;

CREATE FUNCTION fleet.require_server(name text, server text[], mapping text[]) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- The one that fleet.add_region made here is there; one that was left may lead elsewhere.
	IF NOT EXISTS (SELECT FROM pg_foreign_server AS s JOIN pg_user_mapping AS u ON u.umserver = s.oid AND u.umuser = 0
			WHERE s.srvname = 'fleet_' || require_server.name AND s.srvoptions = require_server.server
				AND u.umoptions = require_server.mapping) THEN
		PERFORM fleet.create_server(name, server, mapping);
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.require_server(text, text[], text[]) IS 'internal: the foreign server of a node, made if it is not there';
REVOKE EXECUTE ON FUNCTION fleet.require_server(text, text[], text[]) FROM PUBLIC;

CREATE FUNCTION fleet.apply_replicas(replicas jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
BEGIN
	-- The server of one that leaves goes with the resolver's next round.
	DELETE FROM fleet.map_replicas AS m
		WHERE NOT replicas @> jsonb_build_array(jsonb_build_object('name', m.name));
	FOR r IN SELECT * FROM jsonb_to_recordset(replicas) AS x(name text, server text[], mapping text[]) LOOP
		CONTINUE WHEN EXISTS (SELECT FROM fleet.map_replicas AS m WHERE m.name = r.name);
		PERFORM fleet.require_server(r.name, r.server, r.mapping);
		INSERT INTO fleet.map_replicas (name) VALUES (r.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.apply_replicas(jsonb) IS 'internal: makes the replicas on this node''s map the given ones';
REVOKE EXECUTE ON FUNCTION fleet.apply_replicas(jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.apply_map(dtxid text, map jsonb, redo boolean) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	new_version bigint := map->>'version';
	old_id uuid;
	old_version bigint;
	leaving boolean := map->'regions' = '[]';
	r record;
BEGIN
	PERFORM fleet.check_setup();
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	LOCK TABLE fleet.map IN SHARE ROW EXCLUSIVE MODE;
	SELECT m.id, m.version INTO old_id, old_version FROM fleet.map AS m;
	IF old_id <> (map->>'id')::uuid THEN
		RAISE EXCEPTION 'node "%" is part of another region map', fleet.node_name()
			USING ERRCODE = 'RF007', HINT = 'Remove its region there first.';
	END IF;
	INSERT INTO fleet.map_log (version, change, dtxid) VALUES (new_version, COALESCE(map->>'change', 'unknown'), dtxid);
	IF redo AND (old_version >= new_version OR leaving AND old_version IS NULL) THEN
		RETURN;
	ELSIF old_version <> new_version - 1 AND NOT redo THEN
		RAISE EXCEPTION 'the region map has changed meanwhile'
			USING ERRCODE = 'RF007', DETAIL = format('Node "%s" has version %s, the change makes version %s.',
				fleet.node_name(), old_version, new_version),
			HINT = 'Try again.';
	END IF;

	FOR r IN SELECT m.name FROM fleet.map_regions AS m
		WHERE NOT map->'regions' @> jsonb_build_array(jsonb_build_object('name', m.name))
		ORDER BY m.name = fleet.own_region() DESC	-- the one that can refuse, first
	LOOP
		PERFORM fleet.drop_region(r.name);
		DELETE FROM fleet.map_regions AS m WHERE m.name = r.name;
	END LOOP;
	FOR r IN SELECT * FROM jsonb_to_recordset(map->'regions') AS x(name text, node text, server text[], mapping text[]) LOOP
		CONTINUE WHEN EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = r.name);
		PERFORM fleet.require_server(r.name, r.server, r.mapping);
		PERFORM fleet.create_partitions(r.name, r.node = (SELECT n.name FROM fleet.node AS n));
	END LOOP;
	PERFORM fleet.apply_replicas(CASE WHEN leaving THEN '[]' ELSE map->'replicas' END);
	INSERT INTO fleet.map_regions AS m
		SELECT x.* FROM jsonb_populate_recordset(NULL::fleet.map_regions, map->'regions') AS x
		ON CONFLICT (name) DO UPDATE SET node = excluded.node, capacity = excluded.capacity, geofence = excluded.geofence;
	-- Who is on the map already has them.
	IF leaving OR old_version IS NULL THEN
		DELETE FROM fleet.fences;
		INSERT INTO fleet.fences SELECT f.* FROM jsonb_populate_recordset(NULL::fleet.fences, map->'fences') AS f WHERE NOT leaving;
	END IF;
	DELETE FROM fleet.map;
	IF NOT leaving THEN
		INSERT INTO fleet.map (id, version) VALUES ((map->>'id')::uuid, new_version);
	END IF;
	PERFORM fleet.map_changed();
END
$$;
COMMENT ON FUNCTION fleet.apply_map(text, jsonb, boolean) IS 'internal: makes this node''s region map, servers and partitions the given ones';
REVOKE EXECUTE ON FUNCTION fleet.apply_map(text, jsonb, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.apply_map(text, jsonb, boolean) TO fleet_node;

CREATE FUNCTION fleet.branch_request(dtxid text, branch integer) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- All arrivals in one, since that is how the departures tell them.
	SELECT jsonb_agg(jsonb_build_object('kind', r.kind, 'payload',
			CASE r.kind WHEN 'arrive' THEN fleet.arriving(branch_request.dtxid, r.region)
				WHEN 'map' THEN fleet.map_payload(r.region) || jsonb_build_object('fences', fleet.all_fences()) ELSE r.payload END) ORDER BY r.seq)
	FROM (SELECT d.kind, d.region, d.payload, min(d.seq) AS seq FROM fleet.decisions AS d
		WHERE d.dtxid = branch_request.dtxid AND d.branch = branch_request.branch
		GROUP BY d.kind, d.region, d.payload) AS r;
END;
COMMENT ON FUNCTION fleet.branch_request(text, integer) IS
	'internal: what a branch of a transaction of this node was asked to do, for fleet.redo';
REVOKE EXECUTE ON FUNCTION fleet.branch_request(text, integer) FROM PUBLIC;

CREATE FUNCTION fleet.call_again(request jsonb, earlier text[]) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	what text := format('%s of %s "%s"', request->>'call', request->>'kind', request->>'key');
	changed boolean;
BEGIN
	-- Newer wins: what was changed here since, or went on from here, is left alone.
	IF request->>'key' <> ALL (earlier) THEN
		EXECUTE format('SELECT hlc OPERATOR(fleet.>) $1::fleet.hlc FROM fleet.%I WHERE %I = $2',
			'local_' || (request->>'kind') || 's', (request->>'kind') || '_id') INTO changed USING (request->>'hlc')::bigint, request->>'key';
		IF changed IS NOT FALSE THEN
			RETURN what || CASE WHEN changed THEN ': it was changed since' ELSE ': it is not here any more' END;
		END IF;
	END IF;
	IF request->>'call' = 'report_fix' THEN
		PERFORM set_config('fleet.fix_min_interval', '0', true);	-- it was let through then; until the end of this function
	END IF;
	IF fleet.perform(request->>'call', request->>'key', request->'arguments', (request->>'hlc')::bigint, 1000)::jsonb ? 'result' THEN
		RETURN NULL;
	END IF;
	RETURN what || ': it is not here any more';
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s: %s', what, sqlerrm);
END
$$;
COMMENT ON FUNCTION fleet.call_again(jsonb, text[]) IS
	'internal: makes a call again whose PREPARE was lost, where what it changed is older than the call, or was changed by its earlier ones; returns why not';
REVOKE EXECUTE ON FUNCTION fleet.call_again(jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION fleet.redo(dtxid text, requests jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	request jsonb;
	again text[] := '{}';	-- what has been changed again
	problem text;
	problems text[] := '{}';
BEGIN
	PERFORM pg_advisory_xact_lock(hashtextextended(dtxid, 0));	-- one at a time
	IF fleet.branch_applied(dtxid) THEN
		RETURN;
	END IF;
	FOR request IN SELECT * FROM jsonb_array_elements(requests) LOOP
		CASE request->>'kind'
			WHEN 'arrive' THEN PERFORM fleet.arrive(dtxid, request->'payload', 0, true);
			WHEN 'depart' THEN PERFORM fleet.depart_again(dtxid, request->'payload');
			WHEN 'map' THEN PERFORM fleet.apply_map(dtxid, request->'payload', true);
			WHEN 'fence' THEN PERFORM fleet.apply_fence(dtxid, request->'payload', true);
			WHEN 'call' THEN
				problem := fleet.call_again(request->'payload', again);
				IF problem IS NULL THEN
					again := again || (request->'payload'->>'key');
				ELSE
					problems := problems || problem;
				END IF;
		END CASE;
	END LOOP;
	IF cardinality(problems) > 0 THEN
		RAISE WARNING 'calls of transaction "%" are lost: %', dtxid, array_to_string(problems, '; ');
	END IF;
	IF requests @> '[{"kind": "call"}]' THEN
		INSERT INTO fleet.call_log (dtxid, problem) VALUES (redo.dtxid, NULLIF(array_to_string(problems, '; '), ''));
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.redo(text, jsonb) IS
	'internal: makes the requests of a branch again whose PREPARE was lost; harmless where they were applied';
REVOKE EXECUTE ON FUNCTION fleet.redo(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.redo(text, jsonb) TO fleet_node;

CREATE FUNCTION fleet.change_map(change text, regions jsonb, replicas jsonb DEFAULT fleet.map_replicas()) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	new_version bigint := COALESCE((SELECT m.version FROM fleet.map AS m), 0) + 1;
	peers text[] := ARRAY(SELECT m.name FROM fleet.map_regions AS m UNION SELECT r->>'name' FROM jsonb_array_elements(regions) AS r);
	own_node text := fleet.node_name();
	map jsonb := jsonb_build_object('id', COALESCE((SELECT m.id FROM fleet.map AS m), gen_random_uuid()),
		'version', new_version, 'change', change, 'replicas', replicas);
	dtxid text;
	peer text;
BEGIN
	-- The peers first: a region that leaves is not on the map afterwards.
	FOREACH peer IN ARRAY peers LOOP
		CONTINUE WHEN EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = peer AND m.node = own_node)
			OR regions @> jsonb_build_array(jsonb_build_object('name', peer, 'node', own_node));
		dtxid := fleet.request_map(peer, map || jsonb_build_object('regions',
			CASE WHEN regions @> jsonb_build_array(jsonb_build_object('name', peer)) THEN regions ELSE '[]' END)
			|| CASE WHEN EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = peer) THEN '{}'
				ELSE jsonb_build_object('fences', fleet.all_fences()) END);
	END LOOP;
	-- This node, too, is off the map without a region of its own.
	PERFORM fleet.apply_map(dtxid, map || jsonb_build_object('regions',
		CASE WHEN regions @> jsonb_build_array(jsonb_build_object('node', own_node)) THEN regions ELSE '[]' END), false);
	RETURN new_version;
END
$$;
COMMENT ON FUNCTION fleet.change_map(text, jsonb, jsonb) IS 'internal: applies a region map on all regions'' nodes, in this transaction';
REVOKE EXECUTE ON FUNCTION fleet.change_map(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.begin_map_change() RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF fleet.node_name() IS NULL THEN
		RAISE EXCEPTION 'this database has no node identity'
			USING ERRCODE = 'RF011', HINT = 'Call fleet.init_node(name) once in this database.';
	END IF;
	IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
		RAISE EXCEPTION 'permission denied to change the region map'
			USING ERRCODE = 'insufficient_privilege', DETAIL = 'It creates foreign servers with user mappings, so it needs a superuser.';
	END IF;
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	LOCK TABLE fleet.map IN SHARE ROW EXCLUSIVE MODE;
	RETURN COALESCE(fleet.map_payload(fleet.own_region())->'regions', '[]');
END
$$;
COMMENT ON FUNCTION fleet.begin_map_change() IS 'internal: checks and locks, returns the regions as they are';
REVOKE EXECUTE ON FUNCTION fleet.begin_map_change() FROM PUBLIC;

CREATE FUNCTION fleet.check_geofence(region text, geofence geometry) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text := fleet.geofence_problem(geofence);
	other record;
BEGIN
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'the geofence of region "%" cannot be used', region
			USING ERRCODE = 'RF013', DETAIL = format('A geofence is a MultiPolygon of SRID 4326; %s.', problem),
			HINT = 'ST_Multi, ST_SetSRID, ST_Transform and ST_MakeValid may help.';
	END IF;
	SELECT * INTO other FROM fleet.geofence_overlaps(geofence, region) ORDER BY area_m2 DESC LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the geofence of region "%" overlaps with region "%"', region, other.region
			USING ERRCODE = 'RF014', DETAIL = format('They share %s square metres.', round(other.area_m2::numeric, 1)),
			HINT = 'Cut it with ST_Difference.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_geofence(text, geometry) IS 'raises an error where this cannot be the geofence of the region';
REVOKE EXECUTE ON FUNCTION fleet.check_geofence(text, geometry) FROM PUBLIC;

CREATE FUNCTION fleet.check_unused(name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Regions and replicas share their names, as foreign servers are called by them.
	IF EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = check_unused.name) THEN
		RAISE EXCEPTION 'region "%" already exists', name USING ERRCODE = 'duplicate_object';
	ELSIF EXISTS (SELECT FROM fleet.map_replicas AS m WHERE m.name = check_unused.name) THEN
		RAISE EXCEPTION 'replica "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_unused(text) IS 'internal: raises an error where a region or a replica has this name';
REVOKE EXECUTE ON FUNCTION fleet.check_unused(text) FROM PUBLIC;

CREATE FUNCTION fleet.server_options(conninfo text, OUT server text[], OUT mapping text[])
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	mapping_options text[] := ARRAY['user', 'password', 'sslcert', 'sslkey', 'sslpassword'];
BEGIN
	SELECT array_agg(c.keyword || '=' || c.value) FILTER (WHERE c.keyword <> ALL (mapping_options)),
		array_agg(c.keyword || '=' || c.value) FILTER (WHERE c.keyword = ANY (mapping_options))
		INTO server, mapping FROM fleet.parse_conninfo(conninfo) AS c;
	server := server || ARRAY['async_capable=true', 'truncatable=false'];
	IF NOT EXISTS (SELECT FROM unnest(server) AS o WHERE o LIKE 'connect_timeout=%') THEN
		server := server || 'connect_timeout=2'::text;
	END IF;
	IF NOT EXISTS (SELECT FROM unnest(mapping) AS o WHERE o LIKE 'user=%') THEN
		mapping := mapping || 'user=fleet_node'::text;
	END IF;
	mapping := mapping || 'password_required=false'::text;
END
$$;
COMMENT ON FUNCTION fleet.server_options(text) IS 'internal: the options of a node''s foreign server and user mapping, from a connection string';
REVOKE EXECUTE ON FUNCTION fleet.server_options(text) FROM PUBLIC;

CREATE FUNCTION fleet.add_region(name text, geofence geometry, conninfo text, capacity integer DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions jsonb := fleet.begin_map_change();
	server text[];
	mapping text[];
	peer text;
BEGIN
	IF name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,47}$' THEN
		RAISE EXCEPTION '"%" cannot be the name of a region', name
			USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A name is 1 to 48 lower-case letters, digits and underscores, and begins with a letter.';
	ELSIF conninfo IS NULL OR capacity < 0 THEN
		RAISE EXCEPTION 'conninfo must not be null, and capacity not negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM fleet.check_unused(name);
	PERFORM fleet.check_geofence(name, geofence);
	SELECT o.server, o.mapping INTO server, mapping FROM fleet.server_options(conninfo) AS o;
	PERFORM fleet.create_server(name, server, mapping);

	peer := fleet.ask(name, 'SELECT fleet.node_name()');
	IF peer IS NULL THEN
		RAISE EXCEPTION 'the database at this conninfo has no node identity'
			USING ERRCODE = 'RF011', HINT = 'Call fleet.init_node(name) once in that database.';
	ELSIF EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.node = peer) THEN
		RAISE EXCEPTION 'node "%" owns region "%" already', peer, (SELECT m.name FROM fleet.map_regions AS m WHERE m.node = peer)
			USING ERRCODE = 'duplicate_object', DETAIL = 'A node owns one region.';
	ELSIF fleet.own_region() IS NULL AND peer <> fleet.node_name() THEN
		RAISE EXCEPTION 'node "%" is not part of a region map', fleet.node_name()
			USING ERRCODE = 'RF004', DETAIL = format('It was asked to add the region of node "%s".', peer),
			HINT = 'Add this node''s own region first, or call a node that owns one.';
	END IF;
	RETURN fleet.change_map(format('add region %s', name), regions || jsonb_build_array(jsonb_build_object(
		'name', name, 'node', peer, 'capacity', capacity, 'geofence', geofence::text,
		'server', to_jsonb(server), 'mapping', to_jsonb(mapping))));
END
$$;
COMMENT ON FUNCTION fleet.add_region(text, geometry, text, integer) IS
	'adds a region, owned by the node at conninfo, to the map of all nodes; returns the new map version';
REVOKE EXECUTE ON FUNCTION fleet.add_region(text, geometry, text, integer) FROM PUBLIC;

CREATE FUNCTION fleet.edit_region(name text, change text, fields jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions jsonb := fleet.begin_map_change();
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = edit_region.name) THEN
		RAISE EXCEPTION 'region "%" does not exist', name
			USING ERRCODE = 'RF004', HINT = 'The view fleet.regions lists them.';
	END IF;
	RETURN fleet.change_map(change, (SELECT COALESCE(jsonb_agg(CASE WHEN r->>'name' = name THEN r || fields ELSE r END), '[]')
		FROM jsonb_array_elements(regions) AS r WHERE fields <> '{}' OR r->>'name' <> name));
END
$$;
COMMENT ON FUNCTION fleet.edit_region(text, text, jsonb) IS 'internal: changes fields of a region on all nodes; no fields = removes it';
REVOKE EXECUTE ON FUNCTION fleet.edit_region(text, text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.remove_region(name text) RETURNS bigint
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT fleet.edit_region(name, 'remove region ' || name, '{}');
END;
COMMENT ON FUNCTION fleet.remove_region(text) IS
	'removes a region that owns nothing from the map of all nodes; returns the new map version';
REVOKE EXECUTE ON FUNCTION fleet.remove_region(text) FROM PUBLIC;

CREATE FUNCTION fleet.set_geofence(name text, geofence geometry) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM fleet.check_geofence(name, geofence);
	RETURN fleet.edit_region(name, 'set geofence of ' || name, jsonb_build_object('geofence', geofence::text));
END
$$;
COMMENT ON FUNCTION fleet.set_geofence(text, geometry) IS 'changes a geofence on all nodes; returns the new map version';
REVOKE EXECUTE ON FUNCTION fleet.set_geofence(text, geometry) FROM PUBLIC;

CREATE FUNCTION fleet.set_capacity(name text, capacity integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF capacity < 0 THEN
		RAISE EXCEPTION 'capacity must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN fleet.edit_region(name, format('set capacity of %s to %s', name, COALESCE(capacity::text, 'none')),
		jsonb_build_object('capacity', capacity));
END
$$;
COMMENT ON FUNCTION fleet.set_capacity(text, integer) IS
	'how many open rides a region takes by handoff, null = no limit; returns the new map version';
REVOKE EXECUTE ON FUNCTION fleet.set_capacity(text, integer) FROM PUBLIC;

CREATE FUNCTION fleet.region_rides(region text) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rides bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM fleet.rides WHERE region = %L', region) INTO rides;
	RETURN rides;
EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleet.region_rides(text) IS 'rides that a region owns, null where its node cannot be reached';

CREATE VIEW fleet.regions AS
	SELECT r.name, r.node, CASE WHEN r.rides IS NULL THEN 'unreachable' ELSE 'active' END AS state,
		r.capacity, r.rides, r.version AS map_version
	FROM (SELECT m.name, m.node, m.capacity, fleet.region_rides(m.name) AS rides, v.version
			FROM fleet.map_regions AS m CROSS JOIN fleet.map AS v) AS r;
COMMENT ON VIEW fleet.regions IS 'the regions, with the rides that each owns now';

-- ---------------------------------------------------------------------------
-- replica: replicas of all regions, fed by logical replication
-- ---------------------------------------------------------------------------
--
-- On a region's node: heartbeats, publications, a slot for each replica.  On a
-- replica: one subscription for each region; what it applies goes through the
-- merge rule (src/replica/merge.c), and so does what is copied.  The state of
-- each region's stream is a row of fleet.replica_sources, which the background
-- worker moves on (fleet.follow_region).

CREATE TABLE fleet.heartbeat (
	region text PRIMARY KEY,
	hlc fleet.hlc NOT NULL,
	beat fleet.hlc NOT NULL,
	lag_ms float8,
	publications text
);
COMMENT ON TABLE fleet.heartbeat IS 'what a region says of its clock each fleet.heartbeat_interval; on a replica, of all regions, as they were applied';
COMMENT ON COLUMN fleet.heartbeat.hlc IS 'every change with this stamp or an earlier one is committed, and ahead of this row in the log';
COMMENT ON COLUMN fleet.heartbeat.beat IS 'when the row was written';
COMMENT ON COLUMN fleet.heartbeat.publications IS 'on a region: what it publishes, see fleet.publications_seen';
COMMENT ON COLUMN fleet.heartbeat.lag_ms IS 'on a replica: age of the heartbeat when it was applied, by this server''s clock';

CREATE TABLE fleet.replica_slots (
	replica text PRIMARY KEY,
	slot_name name NOT NULL,
	acknowledged fleet.hlc,
	seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE fleet.replica_slots IS 'on a region: the replicas that follow it, and up to which heartbeat each has said to be complete';

CREATE TABLE fleet.replica_joins (
	replica text PRIMARY KEY,
	lease timestamptz NOT NULL
);
COMMENT ON TABLE fleet.replica_joins IS 'replicas that a session of this node is adding; where it does not renew the lease, they are removed again';

CREATE TABLE fleet.replica_sources (
	region text PRIMARY KEY,
	state text NOT NULL DEFAULT 'joining' CHECK (state IN ('joining', 'copying', 'streaming')),
	incarnation text,
	publications text,
	acknowledged fleet.hlc,
	said fleet.hlc,
	complete_at fleet.hlc,
	copy_stage integer NOT NULL DEFAULT 0,
	copy_after text,
	copied bigint NOT NULL DEFAULT 0,
	repairs bigint NOT NULL DEFAULT 0,
	errors bigint NOT NULL DEFAULT 0,
	failures integer NOT NULL DEFAULT 0,
	next_try timestamptz NOT NULL DEFAULT '-infinity',
	asked_at timestamptz NOT NULL DEFAULT '-infinity',
	last_beat fleet.hlc,
	last_beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	stale_since timestamptz,
	last_error text,
	retained_bytes bigint,
	wal_status text
);
COMMENT ON TABLE fleet.replica_sources IS 'on a replica: the regions it follows, see fleet.replica_status';
COMMENT ON COLUMN fleet.replica_sources.publications IS 'the region''s publications when its slot was made, see fleet.publications_seen';
COMMENT ON COLUMN fleet.replica_sources.acknowledged IS 'heartbeat that was applied and on disk in the last round';
COMMENT ON COLUMN fleet.replica_sources.said IS 'heartbeat that the region was told of as complete here in the last round';
COMMENT ON COLUMN fleet.replica_sources.asked_at IS 'when the region was last asked how it is, while it is copied';
COMMENT ON COLUMN fleet.replica_sources.last_beat IS 'heartbeat that was there in the last round, and when it was first seen';
COMMENT ON COLUMN fleet.replica_sources.complete_at IS 'after a copy: the heartbeat with which the stream has caught up';
COMMENT ON COLUMN fleet.replica_sources.errors IS 'errors of the apply worker when it last made progress';

CREATE TABLE fleet.graves_collected (
	is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one),
	upto fleet.hlc NOT NULL,
	graves bigint NOT NULL,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE fleet.graves_collected IS 'on a replica: up to which stamp it has forgotten deleted rows, and how many';
SELECT pg_catalog.pg_extension_config_dump('fleet.graves_collected', '');

CREATE FUNCTION fleet.merge() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_replica_merge'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.merge() IS 'trigger of a replica''s tables: newer versions win, in place';
REVOKE EXECUTE ON FUNCTION fleet.merge() FROM PUBLIC;

CREATE FUNCTION fleet.merge_departure() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_replica_merge_departure'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.merge_departure() IS 'trigger of a replica''s departures: moves rows to their target, and buries deleted ones';
REVOKE EXECUTE ON FUNCTION fleet.merge_departure() FROM PUBLIC;

CREATE FUNCTION fleet.merge_heartbeat() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_replica_merge_heartbeat'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.merge_heartbeat() IS 'trigger of a replica''s heartbeats: measures the lag, and moves the clock';
REVOKE EXECUTE ON FUNCTION fleet.merge_heartbeat() FROM PUBLIC;

CREATE FUNCTION fleet.refuse_replica_write() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_replica_refuse_write'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.refuse_replica_write() IS 'trigger of a replica''s tables: says where rows are changed';
REVOKE EXECUTE ON FUNCTION fleet.refuse_replica_write() FROM PUBLIC;

CREATE FUNCTION fleet.merge_rows(region text, arriving jsonb) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_replica_merge_rows'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.merge_rows(text, jsonb) IS
	'internal: merges rows that were copied from a region into this replica; returns how many changed something';
REVOKE EXECUTE ON FUNCTION fleet.merge_rows(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.reread_rows(region text, arriving jsonb) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_replica_reread_rows'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.reread_rows(text, jsonb) IS
	'internal: merges rows that a region has, to put this replica right: also where it has them at the same version and other than the region; returns how many changed something';
REVOKE EXECUTE ON FUNCTION fleet.reread_rows(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.forget_rows(region text, gone jsonb) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_replica_forget_rows'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.forget_rows(text, jsonb) IS
	'internal: removes rows from this replica that their region does not have, unless they have changed since; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.forget_rows(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.replica_counters(OUT region text, OUT applied bigint, OUT stale bigint, OUT moved bigint,
	OUT healed bigint, OUT dead bigint, OUT last_error text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'fleet_replica_counters_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;
REVOKE EXECUTE ON FUNCTION fleet.replica_counters() FROM PUBLIC;
COMMENT ON FUNCTION fleet.replica_counters() IS
	'by region, since the server started: rows applied, dropped as stale, moved, healed, and not to be written; the last error of its apply worker';

CREATE FUNCTION fleet.merge_carefully(region text, until timestamptz) RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_replica_merge_carefully'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.merge_carefully(text, timestamptz) IS
	'has a region''s rows merged one by one for a while: one that cannot be written goes to fleet.dead_letters';
REVOKE EXECUTE ON FUNCTION fleet.merge_carefully(text, timestamptz) FROM PUBLIC;

CREATE FUNCTION fleet.merges_carefully(region text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_replica_merges_carefully'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.merges_carefully(text) IS 'whether a region''s rows are merged one by one at present';
REVOKE EXECUTE ON FUNCTION fleet.merges_carefully(text) FROM PUBLIC;

CREATE FUNCTION fleet.merge_copied(region text, arriving jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one jsonb;
BEGIN
	PERFORM fleet.merge_rows(region, arriving);
EXCEPTION WHEN OTHERS THEN
	FOR one IN SELECT * FROM jsonb_array_elements(arriving) LOOP
		BEGIN
			PERFORM fleet.merge_rows(region, jsonb_build_array(one));
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO fleet.dead_letters (origin, region, reason_sqlstate, reason_message, change)
				VALUES ('replica', merge_copied.region, sqlstate, sqlerrm, one);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.merge_copied(text, jsonb) IS 'internal: as fleet.merge_rows; a row that cannot be written goes to fleet.dead_letters';
REVOKE EXECUTE ON FUNCTION fleet.merge_copied(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.merge_anew(kind text, key text, region text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text := region;
	found jsonb;
BEGIN
	-- Where it has moved on, the region there knows more.
	FOR hop IN 1 .. 8 LOOP
		found := fleet.ask(place, format('SELECT fleet.copy_row(%L, %L)', kind, key), 10000);
		-- Not in the name of its region, which would be believed although its stream goes on.
		PERFORM fleet.merge_rows('', jsonb_build_array(found)) WHERE found IS NOT NULL;
		EXIT WHEN found->>'target' IS NULL OR found->>'target' = place;
		place := found->>'target';
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.merge_anew(text, text, text) IS 'internal: reads a row where it is now, and merges it into this replica';
REVOKE EXECUTE ON FUNCTION fleet.merge_anew(text, text, text) FROM PUBLIC;

CREATE FUNCTION fleet.retry_merge(max_letters integer DEFAULT 1000, ids bigint[] DEFAULT NULL,
	OUT resolved integer, OUT failed integer)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	letter fleet.dead_letters;
BEGIN
	resolved := 0;
	failed := 0;
	FOR letter IN SELECT * FROM fleet.dead_letters AS l
		WHERE l.origin = 'replica' AND l.resolved_at IS NULL AND (retry_merge.ids IS NULL OR l.id = ANY (retry_merge.ids))
		ORDER BY l.id LIMIT max_letters FOR UPDATE SKIP LOCKED
	LOOP
		BEGIN
			-- What it says, and then what has become of the row since: nothing of that could be applied to a row that was not here.
			PERFORM fleet.merge_rows('', jsonb_build_array(letter.change));
			PERFORM fleet.merge_anew(letter.change->>'kind', letter.change->>'key', COALESCE(letter.change->>'target', letter.region));
			UPDATE fleet.dead_letters AS l SET attempts = l.attempts + 1, tried_at = clock_timestamp(), resolved_at = clock_timestamp()
				WHERE l.id = letter.id;
			resolved := resolved + 1;
		EXCEPTION WHEN OTHERS THEN
			UPDATE fleet.dead_letters AS l SET attempts = l.attempts + 1, tried_at = clock_timestamp(),
					reason_sqlstate = sqlstate, reason_message = sqlerrm
				WHERE l.id = letter.id;
			failed := failed + 1;
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.retry_merge(integer, bigint[]) IS
	'on a replica: merges again what could not be written (fleet.dead_letters of origin "replica")';
REVOKE EXECUTE ON FUNCTION fleet.retry_merge(integer, bigint[]) FROM PUBLIC;

CREATE FUNCTION fleet.collect_graves(max_rows integer) RETURNS integer
	AS 'MODULE_PATHNAME', 'fleet_replica_collect_graves'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.collect_graves(integer) IS
	'internal, of the background worker: forgets deleted rows of which no late change can come any more; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.collect_graves(integer) FROM PUBLIC;

CREATE FUNCTION fleet.slot_name(replica text, region text) RETURNS name
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT CASE WHEN length(n.name) <= 63 THEN n.name ELSE left(n.name, 54) || '_' || left(md5(n.name), 8) END
	FROM (SELECT format('fleet_%s_%s', replica, region) AS name) AS n;
END;
COMMENT ON FUNCTION fleet.slot_name(text, text) IS 'the replication slot of a replica on the node of a region';

-- On a region's node.

CREATE FUNCTION fleet.published(OUT publication name, OUT part name, OUT columns name[], OUT operations text) RETURNS SETOF record
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- Columns of a user's own are not fleet's to replicate.
	SELECT 'fleet_rides', 'local_rides', '{ride_id,vehicle_id,customer_id,region,status,fare,start_location,current_location,end_location,requested_at,'
		'en_route_at,arrived_at,started_at,completed_at,cancelled_at,updated_at,path_m,duration,epoch,hlc,idempotency_keys}'::name[], 'insert, update'
	UNION ALL SELECT 'fleet_rides', 'local_vehicles', '{vehicle_id,region,status,location,fix_at,speed_kmh,heading,altitude_m,accuracy_m,battery_pct,'
		'outside_region,outside_since,updated_at,epoch,hlc,stays}', 'insert, update'
	UNION ALL SELECT 'fleet_rides', 'heartbeat', '{region,hlc,beat,publications}', 'insert, update'
	UNION ALL SELECT 'fleet_departures', 'departures', '{kind,key,epoch,target,hlc,image}', 'insert';
END;
COMMENT ON FUNCTION fleet.published() IS 'internal: what a region publishes for replicas';
REVOKE EXECUTE ON FUNCTION fleet.published() FROM PUBLIC;

CREATE FUNCTION fleet.is_published(publication name) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = publication AND p.pubinsert AND NOT p.pubdelete AND NOT p.pubtruncate
				AND NOT p.puballtables AND NOT p.pubviaroot
				AND p.pubupdate = (SELECT min(w.operations) LIKE '%update%' FROM fleet.published() AS w WHERE w.publication = is_published.publication)
				AND NOT EXISTS (SELECT FROM pg_publication_namespace AS n WHERE n.pnpubid = p.oid)
				AND NOT EXISTS (SELECT FROM pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prqual IS NOT NULL))
		AND (SELECT array_agg((w.part, c)::text ORDER BY w.part, c)
				FROM fleet.published() AS w, unnest(w.columns) AS c WHERE w.publication = is_published.publication)
			IS NOT DISTINCT FROM (SELECT array_agg((t.relname, a.attname)::text ORDER BY t.relname, a.attname)
				FROM pg_publication AS p JOIN pg_publication_rel AS r ON r.prpubid = p.oid JOIN pg_class AS t ON t.oid = r.prrelid
					LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = ANY (r.prattrs::int2[])
				WHERE p.pubname = publication AND t.relnamespace = (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = 'fleet'));
END;
COMMENT ON FUNCTION fleet.is_published(name) IS 'internal: whether a publication is there, and as a region makes it';
REVOKE EXECUTE ON FUNCTION fleet.is_published(name) FROM PUBLIC;

CREATE FUNCTION fleet.publications_seen() RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- By who wrote the catalog's rows: one that is altered and put back is another one, too.
	SELECT COALESCE(md5(string_agg(x.version, ' ' ORDER BY x.version)), '') FROM pg_publication AS p,
		LATERAL (SELECT format('%s %s', p.oid, p.xmin) AS version
			UNION ALL SELECT format('%s %s', r.oid, r.xmin) FROM pg_publication_rel AS r WHERE r.prpubid = p.oid
			UNION ALL SELECT format('%s %s', n.oid, n.xmin) FROM pg_publication_namespace AS n WHERE n.pnpubid = p.oid) AS x
	WHERE p.pubname IN ('fleet_rides', 'fleet_departures');
END;
COMMENT ON FUNCTION fleet.publications_seen() IS 'internal: changes whenever somebody alters the publications for replicas';
REVOKE EXECUTE ON FUNCTION fleet.publications_seen() FROM PUBLIC;

CREATE FUNCTION fleet.serve_replicas() RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
	own text := fleet.own_region();
	wanted boolean := own IS NOT NULL AND EXISTS (SELECT FROM fleet.map_replicas);
	altered name;
	j record;
	s record;
BEGIN
	FOR j IN SELECT * FROM fleet.replica_joins AS x WHERE x.lease < clock_timestamp() LOOP
		RAISE LOG 'fleet: the session that was adding replica "%" is gone, removing it', j.replica;
		PERFORM fleet.forget_replica(j.replica);
		DELETE FROM fleet.replica_joins AS d WHERE d.replica = j.replica;
	END LOOP;
	IF wanted AND NOT (SELECT r.rolreplication OR r.rolsuper FROM pg_roles AS r WHERE r.rolname = 'fleet_node') THEN
		ALTER ROLE fleet_node REPLICATION;
	END IF;
	-- Before the publication that makes this region ready: replicas are to see no insert of it.
	IF wanted AND NOT EXISTS (SELECT FROM fleet.heartbeat AS h WHERE h.region = own) THEN
		INSERT INTO fleet.heartbeat (region, hlc, beat) VALUES (own, 0::bigint::fleet.hlc, 0::bigint::fleet.hlc);
	END IF;
	-- What was not sent while one was altered, replicas copy: they see that it is another one now.
	FOR altered IN SELECT DISTINCT p.publication FROM fleet.published() AS p WHERE wanted AND NOT fleet.is_published(p.publication) LOOP
		IF EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = altered) THEN
			RAISE LOG 'fleet: publication "%" was altered, making it anew', altered;
			EXECUTE format('DROP PUBLICATION %I', altered);
		END IF;
		EXECUTE (SELECT format('CREATE PUBLICATION %I FOR TABLE %s WITH (publish = %L)', altered,
				string_agg(format('fleet.%I (%s)', p.part, (SELECT string_agg(format('%I', c), ', ') FROM unnest(p.columns) AS c)), ', '), min(p.operations))
			FROM fleet.published() AS p WHERE p.publication = altered);
	END LOOP;
	IF NOT wanted AND EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname IN ('fleet_rides', 'fleet_departures')) THEN
		DROP PUBLICATION IF EXISTS fleet_rides, fleet_departures;
		DELETE FROM fleet.heartbeat;
	END IF;
	-- One that is in use is let go first, and dropped in the next round.
	FOR s IN SELECT r.replica, r.slot_name, p.active_pid, p.slot_name IS NOT NULL AS found
		FROM fleet.replica_slots AS r LEFT JOIN pg_replication_slots AS p ON p.slot_name = r.slot_name
		WHERE NOT wanted OR NOT EXISTS (SELECT FROM fleet.map_replicas AS m WHERE m.name = r.replica)
	LOOP
		IF s.active_pid IS NOT NULL THEN
			PERFORM pg_terminate_backend(s.active_pid);
			CONTINUE;
		END IF;
		IF s.found THEN
			PERFORM pg_drop_replication_slot(s.slot_name);
		END IF;
		DELETE FROM fleet.replica_slots AS r WHERE r.replica = s.replica;
	END LOOP;
	IF NOT wanted AND NOT EXISTS (SELECT FROM pg_replication_slots AS p WHERE p.slot_name LIKE 'fleet\_%')
		AND (SELECT r.rolreplication FROM pg_roles AS r WHERE r.rolname = 'fleet_node') THEN
		ALTER ROLE fleet_node NOREPLICATION;
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.serve_replicas() IS
	'internal, of the background worker: makes publications and rights, drops slots, as the map''s replicas need';
REVOKE EXECUTE ON FUNCTION fleet.serve_replicas() FROM PUBLIC;

CREATE FUNCTION fleet.replica_beat(replica text, seen fleet.hlc) RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	slot name := fleet.slot_name(replica, own);
	before fleet.hlc := (SELECT s.acknowledged FROM fleet.replica_slots AS s WHERE s.replica = replica_beat.replica);
	result jsonb := jsonb_build_object('known', own IS NOT NULL
			AND EXISTS (SELECT FROM fleet.map_replicas AS m WHERE m.name = replica_beat.replica),
		'map_version', (SELECT m.version FROM fleet.map AS m), 'incarnation', fleet.incarnation(),
		'now', fleet.hlc_now()::bigint, 'acknowledged', before::bigint,
		'served', (SELECT r.rolreplication OR r.rolsuper FROM pg_roles AS r WHERE r.rolname = 'fleet_node')
			AND fleet.is_published('fleet_rides') AND fleet.is_published('fleet_departures'),
		'publications', fleet.publications_seen(),
		'slot', (SELECT jsonb_build_object('wal_status', p.wal_status, 'active', p.active,
				'retained', pg_wal_lsn_diff(pg_current_wal_lsn(), p.restart_lsn))
			FROM pg_replication_slots AS p WHERE p.slot_name = slot AND p.database = current_database()));
BEGIN
	IF (result->>'known')::boolean THEN
		INSERT INTO fleet.replica_slots AS s (replica, slot_name, acknowledged) VALUES (replica_beat.replica, slot, seen)
			ON CONFLICT ON CONSTRAINT replica_slots_pkey
			DO UPDATE SET acknowledged = excluded.acknowledged, seen_at = clock_timestamp();
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION fleet.replica_beat(text, fleet.hlc) IS
	'internal: a replica says up to which heartbeat it is complete, and hears how this region is';
REVOKE EXECUTE ON FUNCTION fleet.replica_beat(text, fleet.hlc) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.replica_beat(text, fleet.hlc) TO fleet_node;

CREATE FUNCTION fleet.make_slot(replica text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name := (SELECT s.slot_name FROM fleet.replica_slots AS s WHERE s.replica = make_slot.replica);
	waits_for text;
BEGIN
	-- A new slot waits for every transaction that is open, so those in doubt come first.
	SELECT p.gid INTO waits_for FROM pg_prepared_xacts AS p
		WHERE p.prepared < clock_timestamp() - interval '1 second' ORDER BY p.prepared LIMIT 1;
	IF FOUND THEN
		RETURN format('prepared transaction "%s" is not finished', waits_for);
	END IF;
	IF slot IS NULL THEN
		RETURN 'this region is not asked to serve the replica';
	END IF;
	IF EXISTS (SELECT FROM pg_replication_slots AS p WHERE p.slot_name = slot) THEN
		PERFORM pg_terminate_backend(p.active_pid, 1000) FROM pg_replication_slots AS p
			WHERE p.slot_name = slot AND p.active_pid IS NOT NULL;
		PERFORM pg_drop_replication_slot(slot);
	END IF;
	IF current_setting('server_version_num')::integer >= 170000 THEN
		-- The slot goes with the region when it fails over to a standby that synchronises slots.
		EXECUTE format('SELECT pg_create_logical_replication_slot(%L, ''pgoutput'', false, false, true)', slot);
	ELSE
		PERFORM pg_create_logical_replication_slot(slot, 'pgoutput');
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleet.make_slot(text) IS
	'internal: makes the slot of a replica anew; returns what has to be waited for, or null where it is made';
REVOKE EXECUTE ON FUNCTION fleet.make_slot(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.make_slot(text) TO fleet_node;

CREATE FUNCTION fleet.copy_rows(stage integer, after text, max_rows integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Graves and departures first: a row that is gone is not missed later.
	RETURN COALESCE(CASE stage
		WHEN 1 THEN (SELECT jsonb_agg(to_jsonb(r)) FROM (SELECT d.kind, d.key, d.epoch, d.hlc::bigint AS hlc, d.target, d.image
				FROM fleet.departures AS d WHERE d.kind = 'vehicle' AND (after IS NULL OR d.key > after) ORDER BY d.key LIMIT max_rows) AS r)
		WHEN 2 THEN (SELECT jsonb_agg(to_jsonb(r)) FROM (SELECT d.kind, d.key, d.epoch, d.hlc::bigint AS hlc, d.target, d.image
				FROM fleet.departures AS d WHERE d.kind = 'ride' AND (after IS NULL OR d.key > after) ORDER BY d.key LIMIT max_rows) AS r)
		WHEN 3 THEN (SELECT jsonb_agg(to_jsonb(r)) FROM (SELECT 'vehicle' AS kind, v.vehicle_id AS key, v.epoch, v.hlc::bigint AS hlc,
					v.region AS target, fleet.row_image(v) AS image
				FROM fleet.local_vehicles AS v WHERE after IS NULL OR v.vehicle_id > after ORDER BY v.vehicle_id LIMIT max_rows) AS r)
		WHEN 4 THEN (SELECT jsonb_agg(to_jsonb(r)) FROM (SELECT 'ride' AS kind, v.ride_id AS key, v.epoch, v.hlc::bigint AS hlc,
					v.region AS target, fleet.row_image(v) AS image
				FROM fleet.local_rides AS v WHERE after IS NULL OR v.ride_id > after ORDER BY v.ride_id LIMIT max_rows) AS r)
		END, '[]');
END
$$;
COMMENT ON FUNCTION fleet.copy_rows(integer, text, integer) IS
	'internal: the next rows for a replica: departures of vehicles (1) and rides (2), vehicles (3), rides (4)';
REVOKE EXECUTE ON FUNCTION fleet.copy_rows(integer, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.copy_rows(integer, text, integer) TO fleet_node;

CREATE FUNCTION fleet.copy_row(kind text, key text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN COALESCE((SELECT to_jsonb(r) FROM (SELECT 'vehicle' AS kind, v.vehicle_id AS key, v.epoch, v.hlc::bigint AS hlc, v.region AS target,
				fleet.row_image(v) AS image FROM fleet.local_vehicles AS v WHERE copy_row.kind = 'vehicle' AND v.vehicle_id = copy_row.key) AS r),
		(SELECT to_jsonb(r) FROM (SELECT 'ride' AS kind, v.ride_id AS key, v.epoch, v.hlc::bigint AS hlc, v.region AS target,
				fleet.row_image(v) AS image FROM fleet.local_rides AS v WHERE copy_row.kind = 'ride' AND v.ride_id = copy_row.key) AS r),
		(SELECT to_jsonb(r) FROM (SELECT d.kind, d.key, d.epoch, d.hlc::bigint AS hlc, d.target, d.image
			FROM fleet.departures AS d WHERE d.kind = copy_row.kind AND d.key = copy_row.key) AS r));
END
$$;
COMMENT ON FUNCTION fleet.copy_row(text, text) IS 'internal: what this region has of one ride or vehicle, for a replica; a departure where it has left';
REVOKE EXECUTE ON FUNCTION fleet.copy_row(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.copy_row(text, text) TO fleet_node;

CREATE FUNCTION fleet.sent_rows(target text, candidates jsonb) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(candidates) AS c
	WHERE EXISTS (SELECT FROM fleet.departures AS d WHERE d.kind = c->>'kind' AND d.key = c->>'key' AND d.target = sent_rows.target
		AND d.epoch >= (c->>'epoch')::bigint AND d.settled_hlc IS NULL);
END;
COMMENT ON FUNCTION fleet.sent_rows(text, jsonb) IS
	'internal: which of these rows this region has handed off to another, which has not confirmed it yet';
REVOKE EXECUTE ON FUNCTION fleet.sent_rows(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.sent_rows(text, jsonb) TO fleet_node;

CREATE FUNCTION fleet.missing_rows(candidates jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	arriving text[] := ARRAY(SELECT p.gid FROM pg_prepared_xacts AS p WHERE p.database = current_database() AND p.gid LIKE 'fleet:%');
BEGIN
	-- What is about to arrive is not gone.  It is prepared by now, or committed: the replica has seen its departure.
	FOR try IN 1 .. 40 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_prepared_xacts AS p WHERE p.gid = ANY (arriving));
		IF try = 40 THEN
			RETURN '[]';
		END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN (SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(candidates) AS c
		WHERE NOT EXISTS (SELECT FROM fleet.departures AS d WHERE d.kind = c->>'kind' AND d.key = c->>'key' AND d.epoch >= (c->>'epoch')::bigint)
			AND NOT EXISTS (SELECT FROM fleet.local_rides AS r WHERE c->>'kind' = 'ride' AND r.ride_id = c->>'key')
			AND NOT EXISTS (SELECT FROM fleet.local_vehicles AS v WHERE c->>'kind' = 'vehicle' AND v.vehicle_id = c->>'key'));
END
$$;
COMMENT ON FUNCTION fleet.missing_rows(jsonb) IS 'internal: which of these rows this region knows nothing of';
REVOKE EXECUTE ON FUNCTION fleet.missing_rows(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.missing_rows(jsonb) TO fleet_node;

CREATE FUNCTION fleet.map_for_replica() RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT fleet.map_payload(fleet.own_region());
END;
COMMENT ON FUNCTION fleet.map_for_replica() IS 'internal: the region map, for a replica on it';
REVOKE EXECUTE ON FUNCTION fleet.map_for_replica() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.map_for_replica() TO fleet_node;

-- On a replica.

CREATE FUNCTION fleet.is_replica() RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM fleet.map_replicas AS m JOIN fleet.node AS n ON n.name = m.name);
END;
COMMENT ON FUNCTION fleet.is_replica() IS 'whether this node is a replica on a region map';

CREATE FUNCTION fleet.create_replica_tables() RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part name;
	kind text;
BEGIN
	FOREACH kind IN ARRAY ARRAY['vehicle', 'ride'] LOOP
		part := 'local_' || kind || 's';
		-- One heap for all regions: where a row moves, its region is updated in place, so that each snapshot sees it once.
		EXECUTE format('CREATE TABLE fleet.%I PARTITION OF fleet.%I (PRIMARY KEY (%I)) DEFAULT WITH (fillfactor = 85)',
			part, kind || 's', kind || '_id');
		EXECUTE format('CREATE TRIGGER fleet_merge BEFORE INSERT OR UPDATE OR DELETE ON fleet.%I'
			|| ' FOR EACH ROW EXECUTE FUNCTION fleet.merge(%L)', part, kind);
		EXECUTE format('ALTER TABLE fleet.%I ENABLE REPLICA TRIGGER fleet_merge', part);
	END LOOP;
	CREATE INDEX ON fleet.local_rides (vehicle_id, requested_at);
	CREATE INDEX ON fleet.local_rides (customer_id, requested_at);
	CREATE INDEX ON fleet.local_rides (region, status, requested_at);
	CREATE INDEX ON fleet.local_rides (requested_at);
	CREATE INDEX ON fleet.local_rides USING gist (current_location);
	CREATE INDEX ON fleet.local_vehicles (region, status);
	CREATE INDEX ON fleet.local_vehicles USING gist (location);
	CREATE INDEX departures_hlc ON fleet.departures (hlc);
	CREATE TRIGGER fleet_merge BEFORE INSERT ON fleet.departures FOR EACH ROW EXECUTE FUNCTION fleet.merge_departure();
	CREATE TRIGGER fleet_merge BEFORE INSERT OR UPDATE ON fleet.heartbeat FOR EACH ROW EXECUTE FUNCTION fleet.merge_heartbeat();
	ALTER TABLE fleet.departures ENABLE REPLICA TRIGGER fleet_merge;
	ALTER TABLE fleet.heartbeat ENABLE REPLICA TRIGGER fleet_merge;
	FOREACH part IN ARRAY ARRAY['local_rides', 'local_vehicles', 'departures'] LOOP
		EXECUTE format('CREATE TRIGGER fleet_refuse BEFORE INSERT OR UPDATE OR DELETE ON fleet.%I'
			|| ' FOR EACH ROW EXECUTE FUNCTION fleet.refuse_replica_write()', part);
		EXECUTE format('CREATE TRIGGER fleet_refuse_truncate BEFORE TRUNCATE ON fleet.%I'
			|| ' FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_replica_write()', part);
	END LOOP;
	GRANT SELECT ON fleet.local_rides, fleet.local_vehicles TO fleet_node;
END
$$;
COMMENT ON FUNCTION fleet.create_replica_tables() IS 'internal: the tables of a replica, with the merge rule on them';
REVOKE EXECUTE ON FUNCTION fleet.create_replica_tables() FROM PUBLIC;

CREATE FUNCTION fleet.follow_map(map jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
BEGIN
	PERFORM fleet.check_setup();
	LOCK TABLE fleet.map IN SHARE ROW EXCLUSIVE MODE;
	IF fleet.own_region() IS NOT NULL THEN
		RAISE EXCEPTION 'node "%" owns region "%"', fleet.node_name(), fleet.own_region()
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'A replica owns no region.';
	ELSIF (SELECT m.id FROM fleet.map AS m) <> (map->>'id')::uuid THEN
		RAISE EXCEPTION 'node "%" follows another region map', fleet.node_name()
			USING ERRCODE = 'RF007', HINT = 'Remove it there first, with fleet.remove_replica.';
	ELSIF (SELECT m.version FROM fleet.map AS m) >= (map->>'version')::bigint THEN
		RETURN;
	END IF;
	IF to_regclass('fleet.local_rides') IS NULL THEN
		PERFORM fleet.create_replica_tables();
	END IF;
	FOR r IN SELECT * FROM jsonb_to_recordset(map->'regions') AS x(name text, server text[], mapping text[]) LOOP
		PERFORM fleet.require_server(r.name, r.server, r.mapping);
	END LOOP;
	INSERT INTO fleet.map_regions AS m
		SELECT x.* FROM jsonb_populate_recordset(NULL::fleet.map_regions, map->'regions') AS x
		ON CONFLICT (name) DO UPDATE SET node = excluded.node, capacity = excluded.capacity, geofence = excluded.geofence;
	DELETE FROM fleet.map_regions AS m WHERE NOT map->'regions' @> jsonb_build_array(jsonb_build_object('name', m.name));
	PERFORM fleet.apply_replicas(map->'replicas');
	DELETE FROM fleet.map;
	INSERT INTO fleet.map (id, version) VALUES ((map->>'id')::uuid, (map->>'version')::bigint);
	INSERT INTO fleet.replica_sources (region) SELECT m.name FROM fleet.map_regions AS m ON CONFLICT DO NOTHING;
	PERFORM fleet.map_changed(), fleet.worker_wanted();
END
$$;
COMMENT ON FUNCTION fleet.follow_map(jsonb) IS 'internal: makes this node a replica on the given map, or gives it a newer one';
REVOKE EXECUTE ON FUNCTION fleet.follow_map(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.follow_map(jsonb) TO fleet_node;

CREATE FUNCTION fleet.subscription_of(region text) RETURNS oid
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- The catalog is that of all databases.
	SELECT s.oid FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
		WHERE d.datname = current_database() AND s.subname = 'fleet_' || region;
END;
COMMENT ON FUNCTION fleet.subscription_of(text) IS 'internal: this database''s subscription to a region, or null';
REVOKE EXECUTE ON FUNCTION fleet.subscription_of(text) FROM PUBLIC;

CREATE FUNCTION fleet.drop_subscription(region text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
	IF fleet.subscription_of(region) IS NOT NULL THEN
		-- The slot is the region's to drop, which may be down.
		EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', 'fleet_' || region);
		EXECUTE format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', 'fleet_' || region);
		EXECUTE format('DROP SUBSCRIPTION %I', 'fleet_' || region);
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.drop_subscription(text) IS 'internal: ends what a replica hears of a region';
REVOKE EXECUTE ON FUNCTION fleet.drop_subscription(text) FROM PUBLIC;

CREATE FUNCTION fleet.leave_map() RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT s.region FROM fleet.replica_sources AS s LOOP
		PERFORM fleet.drop_subscription(r.region);
	END LOOP;
	DELETE FROM fleet.replica_sources;
	DELETE FROM fleet.map_replicas;
	DELETE FROM fleet.map_regions;
	DELETE FROM fleet.map;
	DROP TABLE fleet.local_rides, fleet.local_vehicles;
	DROP TRIGGER fleet_merge ON fleet.heartbeat;
	DROP TRIGGER fleet_merge ON fleet.departures;
	DROP TRIGGER fleet_refuse ON fleet.departures;
	DROP TRIGGER fleet_refuse_truncate ON fleet.departures;
	DROP INDEX IF EXISTS fleet.departures_hlc;
	DELETE FROM fleet.departures;
	DELETE FROM fleet.graves_collected;
	DELETE FROM fleet.heartbeat;
	PERFORM fleet.map_changed();
END
$$;
COMMENT ON FUNCTION fleet.leave_map() IS 'internal: this node is no replica any more, and forgets what it held';
REVOKE EXECUTE ON FUNCTION fleet.leave_map() FROM PUBLIC;

CREATE FUNCTION fleet.source_conninfo(region text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- What only postgres_fdw knows is left out.
	SELECT string_agg(format('%s=''%s''', o.option_name, replace(replace(o.option_value, '\', '\\'), '''', '\''')), ' ')
	FROM pg_catalog.pg_foreign_server AS s JOIN pg_catalog.pg_user_mapping AS u ON u.umserver = s.oid AND u.umuser = 0,
		LATERAL (SELECT * FROM pg_options_to_table(s.srvoptions) UNION ALL SELECT * FROM pg_options_to_table(u.umoptions)
			UNION ALL SELECT 'target_session_attrs', 'read-write') AS o
	WHERE s.srvname = 'fleet_' || region
		AND o.option_name NOT IN ('async_capable', 'truncatable', 'password_required', 'use_remote_estimate', 'fdw_startup_cost',
			'fdw_tuple_cost', 'extensions', 'fetch_size', 'batch_size', 'updatable', 'keep_connections', 'parallel_commit',
			'parallel_abort', 'analyze_sampling', 'use_scram_passthrough');
END;
COMMENT ON FUNCTION fleet.source_conninfo(text) IS 'internal: how a replica''s subscription reaches a region';
REVOKE EXECUTE ON FUNCTION fleet.source_conninfo(text) FROM PUBLIC;

CREATE FUNCTION fleet.start_stream(region text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = error
AS $$
BEGIN
	-- The region only updates its row.
	INSERT INTO fleet.heartbeat (region, hlc, beat) VALUES (region, 0::bigint::fleet.hlc, 0::bigint::fleet.hlc) ON CONFLICT DO NOTHING;
	EXECUTE format('CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION fleet_rides, fleet_departures'
		|| ' WITH (create_slot = false, slot_name = %L, copy_data = false, binary = true)',
		'fleet_' || region, fleet.source_conninfo(region), fleet.slot_name(fleet.node_name(), region));
	UPDATE fleet.replica_sources AS s SET state = 'streaming', copy_stage = 0, copy_after = NULL,
			errors = fleet.apply_errors(start_stream.region)
		WHERE s.region = start_stream.region;
END
$$;
COMMENT ON FUNCTION fleet.start_stream(text) IS 'internal: all was copied, what comes after it is applied from now on';
REVOKE EXECUTE ON FUNCTION fleet.start_stream(text) FROM PUBLIC;

CREATE FUNCTION fleet.gone_rows(region text, candidates jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	other text;
	sent jsonb;
	rest jsonb := candidates;
BEGIN
	-- A region that has lost an arrival is sent it again by the resolver.  The others are asked before it is: what arrives
	-- meanwhile is there then.
	FOR other IN SELECT m.name FROM fleet.map_regions AS m WHERE m.name <> gone_rows.region ORDER BY m.name LOOP
		BEGIN
			sent := fleet.ask(other, format('SELECT fleet.sent_rows(%L, %L)', region, rest), 3000);
		EXCEPTION WHEN OTHERS THEN
			-- It does not answer, and may have sent whatever has moved.
			sent := (SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(rest) AS c WHERE (c->>'epoch')::bigint > 1);
		END;
		rest := (SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(rest) AS c WHERE NOT sent @> jsonb_build_array(c));
	END LOOP;
	RETURN fleet.ask(region, format('SELECT fleet.missing_rows(%L)', rest), 30000);
END
$$;
COMMENT ON FUNCTION fleet.gone_rows(text, jsonb) IS
	'internal: which of these rows are nowhere any more, neither in their region nor on the way to it';
REVOKE EXECUTE ON FUNCTION fleet.gone_rows(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.copy_batch(region text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	max_rows CONSTANT integer := 500;
	s fleet.replica_sources := (SELECT r FROM fleet.replica_sources AS r WHERE r.region = copy_batch.region);
	fetched jsonb := fleet.ask(region, format('SELECT fleet.copy_rows(%s, %L, %s)', s.copy_stage, s.copy_after, max_rows), 30000);
	n integer := jsonb_array_length(fetched);
	last text := fetched->(n - 1)->>'key';
	extra jsonb;
	now_there bigint;
BEGIN
	PERFORM fleet.merge_copied(region, fetched);
	-- Rows that the region should have between these keys, and does not.
	extra := CASE s.copy_stage
		WHEN 3 THEN (SELECT jsonb_agg(jsonb_build_object('kind', 'vehicle', 'key', v.vehicle_id, 'epoch', v.epoch, 'hlc', v.hlc::bigint))
			FROM fleet.local_vehicles AS v WHERE v.region = copy_batch.region AND (s.copy_after IS NULL OR v.vehicle_id > s.copy_after)
				AND (n < max_rows OR v.vehicle_id <= last)
				AND v.vehicle_id NOT IN (SELECT f->>'key' FROM jsonb_array_elements(fetched) AS f))
		WHEN 4 THEN (SELECT jsonb_agg(jsonb_build_object('kind', 'ride', 'key', r.ride_id, 'epoch', r.epoch, 'hlc', r.hlc::bigint))
			FROM fleet.local_rides AS r WHERE r.region = copy_batch.region AND (s.copy_after IS NULL OR r.ride_id > s.copy_after)
				AND (n < max_rows OR r.ride_id <= last)
				AND r.ride_id NOT IN (SELECT f->>'key' FROM jsonb_array_elements(fetched) AS f))
		END;
	IF extra IS NOT NULL THEN
		PERFORM fleet.forget_rows(region, fleet.gone_rows(region, extra));
	END IF;
	IF n < max_rows AND s.copy_stage = 4 THEN
		now_there := fleet.ask(region, 'SELECT fleet.hlc_now()::bigint', 3000);
	END IF;
	UPDATE fleet.replica_sources AS r SET copied = r.copied + n, failures = 0,
			copy_after = CASE WHEN n = max_rows THEN last END,
			copy_stage = r.copy_stage + (n < max_rows)::integer,
			complete_at = now_there::fleet.hlc
		WHERE r.region = copy_batch.region;
	IF now_there IS NOT NULL THEN
		PERFORM fleet.start_stream(region);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION fleet.copy_batch(text) IS 'internal: copies the next rows of a region through the merge rule';
REVOKE EXECUTE ON FUNCTION fleet.copy_batch(text) FROM PUBLIC;

CREATE FUNCTION fleet.apply_errors(region text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE((SELECT t.apply_error_count FROM pg_stat_subscription_stats AS t WHERE t.subid = fleet.subscription_of(region)), 0);
END;
COMMENT ON FUNCTION fleet.apply_errors(text) IS 'internal: how often the apply worker of a region has failed';
REVOKE EXECUTE ON FUNCTION fleet.apply_errors(text) FROM PUBLIC;

CREATE FUNCTION fleet.stream_problem(s fleet.replica_sources, beat jsonb) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE
		WHEN s.incarnation <> beat->>'incarnation' THEN 'the region''s server was promoted or restored'
		WHEN beat->'slot' = 'null' THEN 'the replication slot is gone'
		WHEN beat->'slot'->>'wal_status' = 'lost' THEN 'the replication slot was lost: the region did not keep its WAL for so long'
		WHEN (beat->>'acknowledged')::bigint > s.acknowledged::bigint THEN 'this replica went back in time'
		WHEN COALESCE((beat->>'acknowledged')::bigint, 0) < s.said::bigint THEN 'the region''s server went back in time'
		WHEN s.publications <> beat->>'publications' THEN 'the region''s publications were altered'
		WHEN fleet.subscription_of(s.region) IS NULL THEN 'the subscription is gone'
		WHEN NOT EXISTS (SELECT FROM pg_subscription AS p WHERE p.oid = fleet.subscription_of(s.region)
				AND p.subpublications @> '{fleet_rides,fleet_departures}' AND p.subslotname = fleet.slot_name(fleet.node_name(), s.region))
			THEN 'the subscription was altered'
		WHEN fleet.merges_carefully(s.region) AND fleet.apply_errors(s.region) >= s.errors + 3 THEN 'the apply worker fails again and again'
	END;
END
$$;
COMMENT ON FUNCTION fleet.stream_problem(fleet.replica_sources, jsonb) IS
	'internal: why what a replica hears of a region cannot be trusted or does not go on, or null';
REVOKE EXECUTE ON FUNCTION fleet.stream_problem(fleet.replica_sources, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.watch_stream(s fleet.replica_sources, beat jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text := fleet.stream_problem(s, beat);
	seen fleet.hlc := (SELECT h.hlc FROM fleet.heartbeat AS h WHERE h.region = s.region);
	beat_now fleet.hlc := (SELECT h.beat FROM fleet.heartbeat AS h WHERE h.region = s.region);
	-- By this server's clock alone: that of the region may be off.
	heard_at timestamptz := CASE WHEN beat_now::bigint IS DISTINCT FROM s.last_beat::bigint THEN clock_timestamp() ELSE s.last_beat_at END;
	fresh boolean := clock_timestamp() - heard_at < 2 * current_setting('fleet.heartbeat_interval')::interval + interval '1 second';
BEGIN
	IF problem IS NOT NULL THEN
		RAISE LOG 'fleet: replica copies region "%" again: %', s.region, problem;
		PERFORM fleet.drop_subscription(s.region);
		UPDATE fleet.replica_sources AS r SET state = 'joining', repairs = r.repairs + 1, last_error = problem,
				stale_since = COALESCE(r.stale_since, clock_timestamp()), failures = 0, next_try = '-infinity'
			WHERE r.region = s.region;
		RETURN;
	END IF;
	-- A worker that failed fails on the same row again, unless it goes round it.
	IF fleet.apply_errors(s.region) > s.errors AND NOT fleet.merges_carefully(s.region) THEN
		PERFORM fleet.merge_carefully(s.region, clock_timestamp() + interval '1 minute');
		s.errors := fleet.apply_errors(s.region);
	END IF;
	IF EXISTS (SELECT FROM pg_subscription AS p WHERE p.oid = fleet.subscription_of(s.region) AND NOT p.subenabled) THEN
		RAISE LOG 'fleet: the subscription to region "%" was disabled, enabling it', s.region;
		EXECUTE format('ALTER SUBSCRIPTION %I ENABLE', 'fleet_' || s.region);
	END IF;
	UPDATE fleet.replica_sources AS r SET failures = 0, acknowledged = seen, said = r.acknowledged,
			last_beat = beat_now, last_beat_at = heard_at,
			complete_at = CASE WHEN seen::bigint >= r.complete_at::bigint THEN NULL ELSE r.complete_at END,
			errors = CASE WHEN seen::bigint > r.acknowledged::bigint THEN fleet.apply_errors(s.region) ELSE s.errors END,
			stale_since = CASE WHEN fresh AND (r.complete_at IS NULL OR seen::bigint >= r.complete_at::bigint) THEN NULL
				ELSE COALESCE(r.stale_since, clock_timestamp()) END,
			retained_bytes = (beat->'slot'->>'retained')::bigint, wal_status = beat->'slot'->>'wal_status'
		WHERE r.region = s.region;
END
$$;
COMMENT ON FUNCTION fleet.watch_stream(fleet.replica_sources, jsonb) IS
	'internal: sees whether what a region sends arrives, and begins anew where it does not';
REVOKE EXECUTE ON FUNCTION fleet.watch_stream(fleet.replica_sources, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.leave_region(s fleet.replica_sources) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF s.complete_at IS NULL OR s.state = 'streaming' THEN
		PERFORM fleet.drop_subscription(s.region);
		UPDATE fleet.replica_sources AS r SET state = 'joining', complete_at = fleet.hlc_now() WHERE r.region = s.region;
	ELSIF NOT EXISTS (SELECT FROM fleet.map_regions) OR fleet.global_watermark()::bigint > s.complete_at::bigint THEN
		-- It owned nothing when it left.  What has gone elsewhere is known to be there by now; the rest was deleted.
		PERFORM fleet.forget_rows(s.region, (SELECT COALESCE(jsonb_agg(x), '[]') FROM (
			SELECT 'ride' AS kind, r.ride_id AS key, r.epoch, r.hlc::bigint AS hlc FROM fleet.local_rides AS r WHERE r.region = s.region
			UNION ALL SELECT 'vehicle', v.vehicle_id, v.epoch, v.hlc::bigint FROM fleet.local_vehicles AS v WHERE v.region = s.region) AS x));
		DELETE FROM fleet.replica_sources AS r WHERE r.region = s.region;
		DELETE FROM fleet.heartbeat AS h WHERE h.region = s.region;
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.leave_region(fleet.replica_sources) IS 'internal: a region has left the map';
REVOKE EXECUTE ON FUNCTION fleet.leave_region(fleet.replica_sources) FROM PUBLIC;

CREATE FUNCTION fleet.follow_region(region text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s fleet.replica_sources := (SELECT r FROM fleet.replica_sources AS r WHERE r.region = follow_region.region);
	node text := fleet.node_name();
	beat jsonb;
	waits_for text;
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = follow_region.region) THEN
		PERFORM fleet.leave_region(s);
		RETURN false;
	ELSIF s IS NULL THEN		-- restored from a dump
		INSERT INTO fleet.replica_sources (region) VALUES (follow_region.region);
		RETURN true;
	ELSIF s.state = 'copying' AND s.asked_at > clock_timestamp() - interval '1 second' THEN
		RETURN fleet.copy_batch(region);
	ELSIF s.next_try > clock_timestamp() THEN
		RETURN false;
	END IF;
	-- What was applied up to the last round is on disk by now: that round's own commit has flushed it.
	beat := fleet.ask(region, format('SELECT fleet.replica_beat(%L, %L)', node, s.acknowledged), 3000);
	IF NOT (beat->>'known')::boolean THEN
		IF (beat->>'map_version')::bigint > (SELECT m.version FROM fleet.map AS m) THEN
			RAISE LOG 'fleet: this replica was removed from the map';
			PERFORM fleet.leave_map();
		END IF;
		RETURN false;
	ELSIF (beat->>'map_version')::bigint > (SELECT m.version FROM fleet.map AS m) THEN
		PERFORM fleet.follow_map(fleet.ask(region, 'SELECT fleet.map_for_replica()', 30000)::jsonb);
	END IF;
	IF s.state = 'streaming' THEN
		PERFORM fleet.watch_stream(s, beat);
		RETURN false;
	ELSIF s.state = 'copying' THEN
		UPDATE fleet.replica_sources AS r SET asked_at = clock_timestamp() WHERE r.region = follow_region.region;
		RETURN fleet.copy_batch(region);
	ELSIF NOT (beat->>'served')::boolean THEN
		RETURN false;		-- its worker will see to that
	END IF;
	-- Nothing has been written here yet: on the same server the new slot would wait for this transaction.
	-- It waits for what is running there, and the other regions wait for us: patience comes with time.
	waits_for := fleet.ask(region, format('SELECT fleet.make_slot(%L)', node), least(1500 * (1 + s.failures), 10000));
	UPDATE fleet.replica_sources AS r SET state = CASE WHEN waits_for IS NULL THEN 'copying' ELSE r.state END,
			incarnation = beat->>'incarnation', publications = beat->>'publications', acknowledged = NULL, said = NULL, copy_stage = 1, copy_after = NULL, failures = 0,
			last_error = COALESCE('waiting: ' || waits_for, r.last_error)
		WHERE r.region = follow_region.region;
	RETURN waits_for IS NULL;
END
$$;
COMMENT ON FUNCTION fleet.follow_region(text) IS
	'internal, of the background worker: the next step of a replica with one region; whether there is more to do at once';
REVOKE EXECUTE ON FUNCTION fleet.follow_region(text) FROM PUBLIC;

CREATE FUNCTION fleet.follow_failed(region text, error text) RETURNS void
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	UPDATE fleet.replica_sources AS r SET failures = r.failures + 1, last_error = error,
			stale_since = COALESCE(r.stale_since, clock_timestamp()),
			next_try = clock_timestamp() + least(0.5 * 2 ^ least(r.failures, 10), 5) * interval '1 second'
		WHERE r.region = follow_failed.region;
END;
COMMENT ON FUNCTION fleet.follow_failed(text, text) IS 'internal: the last step with a region failed; the next one waits a little';
REVOKE EXECUTE ON FUNCTION fleet.follow_failed(text, text) FROM PUBLIC;

CREATE VIEW fleet.replica_status AS
	SELECT s.region,
		CASE WHEN s.failures > 0 THEN 'unreachable'
			WHEN s.state = 'joining' AND s.repairs > 0 THEN 'stale'
			WHEN s.state = 'streaming' AND s.stale_since IS NOT NULL AND s.complete_at IS NULL THEN 'stale'
			ELSE s.state END AS state,
		p.received_lsn, p.latest_end_lsn AS applied_lsn,
		h.lag_ms + CASE WHEN clock_timestamp() - s.last_beat_at < 2 * current_setting('fleet.heartbeat_interval')::interval + interval '1 second'
			THEN 0 ELSE extract(epoch FROM clock_timestamp() - s.last_beat_at)::float8 * 1000 END AS lag_ms,
		s.retained_bytes, s.wal_status, s.stale_since, NULLIF(concat_ws('; ', s.last_error, c.last_error), '') AS last_error,
		COALESCE(c.applied, 0) AS applied, COALESCE(c.stale, 0) AS stale, COALESCE(c.moved, 0) AS moved,
		COALESCE(c.healed, 0) AS healed, COALESCE(c.dead, 0) AS dead, s.copied, s.repairs
	FROM fleet.replica_sources AS s
		LEFT JOIN fleet.heartbeat AS h ON h.region = s.region
		LEFT JOIN pg_catalog.pg_stat_subscription AS p ON p.relid IS NULL AND p.subname = 'fleet_' || s.region
			AND p.subid IN (SELECT d.oid FROM pg_catalog.pg_subscription AS d JOIN pg_catalog.pg_database AS b ON b.oid = d.subdbid
				WHERE b.datname = current_database())
		LEFT JOIN fleet.replica_counters() AS c ON c.region = s.region;
COMMENT ON VIEW fleet.replica_status IS 'on a replica: how it stands with each region';

CREATE FUNCTION fleet.replica_ready() RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM fleet.replica_sources)
		AND NOT EXISTS (SELECT FROM fleet.map_regions AS m LEFT JOIN fleet.replica_sources AS s ON s.region = m.name
			WHERE s.state IS DISTINCT FROM 'streaming' OR s.complete_at IS NOT NULL OR s.stale_since IS NOT NULL OR s.failures > 0);
END;
COMMENT ON FUNCTION fleet.replica_ready() IS 'whether this replica follows every region of the map, and none is stale';

CREATE FUNCTION fleet.global_watermark() RETURNS fleet.hlc
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT CASE WHEN count(*) = count(h.hlc) AND bool_and(s.state = 'streaming' AND s.complete_at IS NULL) THEN fleet.min(h.hlc) END
	FROM fleet.map_regions AS m LEFT JOIN fleet.replica_sources AS s ON s.region = m.name
		LEFT JOIN fleet.heartbeat AS h ON h.region = m.name;
END;
COMMENT ON FUNCTION fleet.global_watermark() IS
	'on a replica: every change and handoff with this stamp or an earlier one is complete here; null while a region is being copied';

-- Adding and removing replicas, on a region's node.

CREATE FUNCTION fleet.replica_progress() RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('ready', fleet.replica_ready(),
		'regions', COALESCE(string_agg(format('%s %s, %s rows copied%s', s.region, s.state, s.copied,
			CASE WHEN s.last_error IS NOT NULL AND s.state = 'joining' OR s.failures > 0 THEN format(' (%s)', s.last_error) ELSE '' END),
			'; ' ORDER BY s.region), 'none'))
	FROM fleet.replica_sources AS s;
END;
COMMENT ON FUNCTION fleet.replica_progress() IS 'internal: how far a replica is that is being added';
REVOKE EXECUTE ON FUNCTION fleet.replica_progress() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.replica_progress() TO fleet_node;

CREATE FUNCTION fleet.forget_replica(name text) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions jsonb := fleet.begin_map_change();
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.map_replicas AS m WHERE m.name = forget_replica.name) THEN
		RETURN NULL;
	END IF;
	RETURN fleet.change_map('remove replica ' || name, regions, (SELECT COALESCE(jsonb_agg(r), '[]')
		FROM jsonb_array_elements(fleet.map_replicas()) AS r WHERE r->>'name' <> name));
END
$$;
COMMENT ON FUNCTION fleet.forget_replica(text) IS 'internal: takes a replica off the map; its slots go, and it finds out by itself';
REVOKE EXECUTE ON FUNCTION fleet.forget_replica(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.forget_replica(text) TO fleet_node;

CREATE FUNCTION fleet.have_replica_forgotten(name text) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	region text;
BEGIN
	IF fleet.own_region() IS NOT NULL THEN
		RETURN fleet.forget_replica(name);
	END IF;
	-- From a replica: by the first region that answers.
	FOR region IN SELECT m.name FROM fleet.map_regions AS m ORDER BY m.name LOOP
		BEGIN
			RETURN fleet.ask(region, format('SELECT fleet.forget_replica(%L)', name), 30000);
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR SQLSTATE 'RF026' THEN
			CONTINUE;
		END;
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleet.have_replica_forgotten(text) IS 'internal: as fleet.forget_replica, on a replica too';
REVOKE EXECUTE ON FUNCTION fleet.have_replica_forgotten(text) FROM PUBLIC;

CREATE FUNCTION fleet.check_replica(name text, conninfo text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	libraries text := current_setting('output_plugin_libraries', true);
	facts jsonb;
BEGIN
	IF fleet.own_region() IS NULL THEN
		RAISE EXCEPTION 'this node owns no region'
			USING ERRCODE = 'RF004', HINT = 'Call it on a node that owns one.';
	ELSIF name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,47}$' OR conninfo IS NULL THEN
		RAISE EXCEPTION 'name and conninfo of a replica must be given'
			USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A name is 1 to 48 lower-case letters, digits and underscores, and begins with a letter.';
	ELSIF libraries IS NOT NULL AND NOT 'pgoutput' = ANY (regexp_split_to_array(libraries, '\s*,\s*')) THEN
		RAISE EXCEPTION 'this server does not allow the output plugin "pgoutput"'
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('output_plugin_libraries is "%s".', libraries),
			HINT = format('Add this line to postgresql.conf, and reload: output_plugin_libraries = ''%s''', concat_ws(', ', NULLIF(libraries, ''), 'pgoutput'));
	END IF;
	PERFORM fleet.check_unused(name);
	facts := fleet.ask(name, 'SELECT jsonb_build_object(''node'', fleet.node_name(), ''own'', fleet.own_region(), ''replica'', fleet.is_replica())', 10000);
	IF facts->>'node' IS DISTINCT FROM name THEN
		RAISE EXCEPTION 'the database at this conninfo is not node "%"', name
			USING ERRCODE = 'RF011', DETAIL = COALESCE(format('It is node "%s".', facts->>'node'), 'It has no node identity.'),
			HINT = 'A replica has the name that fleet.init_node(name) gave its database.';
	ELSIF facts->>'own' IS NOT NULL OR (facts->>'replica')::boolean THEN
		RAISE EXCEPTION 'node "%" is part of a region map already', name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Remove it there first.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_replica(text, text) IS 'internal: raises an error where this cannot become a replica';
REVOKE EXECUTE ON FUNCTION fleet.check_replica(text, text) FROM PUBLIC;

CREATE FUNCTION fleet.begin_join(name text, conninfo text) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions jsonb := fleet.begin_map_change();
	server text[];
	mapping text[];
BEGIN
	IF name IS NOT NULL AND conninfo IS NOT NULL AND name ~ '^[a-z][a-z0-9_]{0,47}$' THEN
		PERFORM fleet.check_unused(name);
		SELECT o.server, o.mapping INTO server, mapping FROM fleet.server_options(conninfo) AS o;
		PERFORM fleet.create_server(name, server, mapping);
	END IF;
	PERFORM fleet.check_replica(name, conninfo);
	INSERT INTO fleet.replica_joins (replica, lease) VALUES (name, clock_timestamp() + interval '45 seconds');
	PERFORM fleet.change_map('add replica ' || name, regions, fleet.map_replicas() || jsonb_build_array(jsonb_build_object(
		'name', name, 'server', to_jsonb(server), 'mapping', to_jsonb(mapping))));
END
$$;
COMMENT ON FUNCTION fleet.begin_join(text, text) IS 'internal: puts a replica on the map, to be taken off again unless it gets ready';
REVOKE EXECUTE ON FUNCTION fleet.begin_join(text, text) FROM PUBLIC;

CREATE FUNCTION fleet.try_join(name text, told boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT told THEN
		PERFORM fleet.ask(name, format('SELECT fleet.follow_map(%L)', fleet.map_payload(fleet.own_region())), 30000);
	END IF;
	PERFORM pg_sleep(0.1);
	RETURN fleet.ask(name, 'SELECT fleet.replica_progress()', 10000);
EXCEPTION WHEN OTHERS OR query_canceled THEN
	RETURN jsonb_build_object('error', sqlerrm, 'state', sqlstate);
END
$$;
COMMENT ON FUNCTION fleet.try_join(text, boolean) IS 'internal: asks a replica that is being added how far it is; an error is part of the answer';
REVOKE EXECUTE ON FUNCTION fleet.try_join(text, boolean) FROM PUBLIC;

CREATE PROCEDURE fleet.add_replica(name text, conninfo text, deadline interval DEFAULT interval '10 minutes')
LANGUAGE plpgsql
AS $$
DECLARE
	until timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) deadline;
	answer pg_catalog.jsonb;
	shown text;
BEGIN
	COMMIT;		-- says so where it is called within a transaction
	PERFORM fleet.begin_join(name, conninfo);
	COMMIT;
	LOOP
		answer := fleet.try_join(name, answer IS NOT NULL);
		COMMIT;
		UPDATE fleet.replica_joins AS j SET lease = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) interval '45 seconds'
			WHERE j.replica OPERATOR(pg_catalog.=) name;
		COMMIT;
		IF answer OPERATOR(pg_catalog.->>) 'regions' IS DISTINCT FROM shown THEN
			shown := answer OPERATOR(pg_catalog.->>) 'regions';
			RAISE NOTICE 'replica "%": %', name, shown;
		END IF;
		EXIT WHEN answer OPERATOR(pg_catalog.?) 'error' OR (answer OPERATOR(pg_catalog.->>) 'ready')::boolean
			OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) until;
	END LOOP;
	IF NOT COALESCE((answer OPERATOR(pg_catalog.->>) 'ready')::boolean, false) THEN
		CALL fleet.remove_replica(name);
	END IF;
	DELETE FROM fleet.replica_joins AS j WHERE j.replica OPERATOR(pg_catalog.=) name;
	COMMIT;
	IF answer OPERATOR(pg_catalog.?) 'error' THEN
		RAISE EXCEPTION 'replica "%" was not added: %', name, answer OPERATOR(pg_catalog.->>) 'error'
			USING ERRCODE = answer OPERATOR(pg_catalog.->>) 'state', DETAIL = 'What was made for it is removed again.';
	ELSIF NOT (answer OPERATOR(pg_catalog.->>) 'ready')::boolean THEN
		RAISE EXCEPTION 'replica "%" was not ready within %', name, deadline
			USING ERRCODE = 'RF016', DETAIL = pg_catalog.format('It got as far as: %s. What was made for it is removed again.', shown),
			HINT = 'Give it more time, as third argument.';
	END IF;
END
$$;
COMMENT ON PROCEDURE fleet.add_replica(text, text, interval) IS
	'makes the node at conninfo, which owns no region, a replica that follows all regions; returns when it is ready';
REVOKE EXECUTE ON PROCEDURE fleet.add_replica(text, text, interval) FROM PUBLIC;

CREATE PROCEDURE fleet.remove_replica(name text)
LANGUAGE plpgsql
AS $$
DECLARE
	until timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) interval '30 seconds';
BEGIN
	COMMIT;
	IF name IS NULL OR fleet.have_replica_forgotten(name) IS NULL THEN
		RAISE EXCEPTION 'replica "%" does not exist', name
			USING ERRCODE = 'RF004', HINT = 'The table fleet.map_replicas lists them.';
	END IF;
	COMMIT;
	WHILE EXISTS (SELECT FROM fleet.replica_slots AS s WHERE s.replica OPERATOR(pg_catalog.=) name)
		AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) until LOOP
		PERFORM pg_catalog.pg_sleep(0.1);
		COMMIT;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE fleet.remove_replica(text) IS
	'takes a replica off the map of all nodes; its slots are dropped, and its own tables when it hears of it';
REVOKE EXECUTE ON PROCEDURE fleet.remove_replica(text) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- notify: changes told by NOTIFY, to who listens
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.may_notify() RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_handoff_may_notify'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.may_notify() IS 'internal: false while rows move in a branch that will be prepared, where NOTIFY is not allowed';
REVOKE EXECUTE ON FUNCTION fleet.may_notify() FROM PUBLIC;

CREATE FUNCTION fleet.channel(kind text, key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT format('fleet_%s_%s', kind, CASE WHEN octet_length(kind || key) <= 56 THEN key ELSE md5(key) END);
END;
COMMENT ON FUNCTION fleet.channel(text, text) IS
	'the channel on which changes of a ride, vehicle or region are told; a name that is too long for a channel is hashed';

CREATE FUNCTION fleet.lon_lat(place text) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT jsonb_build_array(fleet.lon(place::geography), fleet.lat(place::geography));
END;
COMMENT ON FUNCTION fleet.lon_lat(text) IS 'internal: a place, given as text, as [longitude, latitude]';

CREATE FUNCTION fleet.notify_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
	kind text := tg_argv[0];
	now_here jsonb := CASE WHEN tg_op = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
	key text := now_here->>(kind || '_id');
	came_from text := CASE WHEN tg_op = 'UPDATE' AND OLD.region <> NEW.region THEN OLD.region END;
	event jsonb;
	place text;
BEGIN
	IF NOT fleet.may_notify() THEN
		RETURN NULL;
	END IF;
	FOR place IN SELECT c FROM unnest(ARRAY['location', 'start_location', 'current_location', 'end_location']) AS c WHERE now_here->c <> 'null' LOOP
		now_here := jsonb_set(now_here, ARRAY[place], fleet.lon_lat(now_here->>place));
	END LOOP;
	event := jsonb_strip_nulls(jsonb_build_object('kind', kind, 'key', key, 'epoch', now_here->'epoch',
		'operation', CASE WHEN came_from IS NOT NULL THEN 'moved' ELSE lower(tg_op) END,
		'hlc', (CASE WHEN tg_op = 'DELETE' THEN OLD.hlc ELSE NEW.hlc END)::bigint::text,
		'region', now_here->>'region', 'from', came_from, 'to', CASE WHEN came_from IS NOT NULL THEN now_here->>'region' END,
		'new', CASE WHEN tg_op <> 'DELETE' THEN now_here - 'hlc' END));
	IF octet_length(event::text) >= 8000 THEN
		event := event - 'new';
	END IF;
	PERFORM pg_notify(c, event::text) FROM (SELECT fleet.channel(kind, key) AS c UNION SELECT fleet.channel('region', now_here->>'region')
		UNION SELECT fleet.channel('region', came_from) WHERE came_from IS NOT NULL) AS channels;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleet.notify_change() IS 'trigger: tells a change to who listens, see fleet.set_notify';
REVOKE EXECUTE ON FUNCTION fleet.notify_change() FROM PUBLIC;

CREATE FUNCTION fleet.set_notify(wanted boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
	kind text;
	part name;
BEGIN
	IF to_regclass('fleet.local_rides') IS NULL THEN
		RAISE EXCEPTION 'this node has no rides of its own'
			USING ERRCODE = 'RF004', HINT = 'Call it on a node that owns a region, or on a replica.';
	END IF;
	FOREACH kind IN ARRAY ARRAY['vehicle', 'ride'] LOOP
		part := 'local_' || kind || 's';
		EXECUTE format('DROP TRIGGER IF EXISTS fleet_notify ON fleet.%I', part);
		CONTINUE WHEN NOT wanted;
		EXECUTE format('CREATE TRIGGER fleet_notify AFTER INSERT OR UPDATE OR DELETE ON fleet.%I'
			|| ' FOR EACH ROW EXECUTE FUNCTION fleet.notify_change(%L)', part, kind);
		-- On a replica it is the subscriptions that write.
		IF fleet.is_replica() THEN
			EXECUTE format('ALTER TABLE fleet.%I ENABLE ALWAYS TRIGGER fleet_notify', part);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.set_notify(boolean) IS
	'whether this node tells changes of rides and vehicles by NOTIFY, to the channels that fleet.channel names; off at first';
REVOKE EXECUTE ON FUNCTION fleet.set_notify(boolean) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- query: reads of rides over many regions
-- ---------------------------------------------------------------------------

-- Departures that may not have arrived: what a read of all regions carries (src/query/exact.c).
CREATE INDEX departures_settled ON fleet.departures (settled_hlc) WHERE target IS NOT NULL;
GRANT SELECT ON fleet.departures, fleet.decisions TO fleet_node;

CREATE FUNCTION fleet.is_within(place geography, near text, within_m float8) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_DWithin(place, near::geography, within_m);
END;
COMMENT ON FUNCTION fleet.is_within(geography, text, float8) IS 'whether a place is within so many metres of another';

CREATE FUNCTION fleet.distance_to(place geography, near text) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT place <-> near::geography;
END;
COMMENT ON FUNCTION fleet.distance_to(geography, text) IS 'metres from a place to another, on the sphere; an index can be read in this order';

CREATE FUNCTION fleet.note_local_read(region text, max_rows integer) RETURNS bigint
	AS 'MODULE_PATHNAME', 'fleet_query_note_local_read'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.note_local_read(text, integer) IS
	'internal: max_rows; has fleet.last_read tell of a local read that is part of a statement''s plan, and changes nothing else';

-- It takes part in the caller's statement (src/query/inline.c), which forbids a search path
-- of its own: so all names in it are qualified.  Not bound here, for columns that are added to fleet.rides.
CREATE FUNCTION fleet.search_local_rides(region text, status fleet.ride_status, vehicle_id text, customer_id text, min_fare numeric, max_fare numeric,
	since timestamptz, max_rows integer) RETURNS SETOF fleet.rides
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS $$
	SELECT r.* FROM fleet.rides AS r
		WHERE r.region OPERATOR(pg_catalog.=) search_local_rides.region
			AND (search_local_rides.status IS NULL OR r.status OPERATOR(pg_catalog.=) search_local_rides.status)
			AND (search_local_rides.vehicle_id IS NULL OR r.vehicle_id OPERATOR(pg_catalog.=) search_local_rides.vehicle_id)
			AND (search_local_rides.customer_id IS NULL OR r.customer_id OPERATOR(pg_catalog.=) search_local_rides.customer_id)
			AND (search_local_rides.min_fare IS NULL OR r.fare OPERATOR(pg_catalog.>=) search_local_rides.min_fare)
			AND (search_local_rides.max_fare IS NULL OR r.fare OPERATOR(pg_catalog.<=) search_local_rides.max_fare)
			AND (search_local_rides.since IS NULL OR r.requested_at OPERATOR(pg_catalog.>=) search_local_rides.since)
		ORDER BY r.requested_at DESC, r.ride_id USING OPERATOR(pg_catalog.~<~)
		LIMIT fleet.note_local_read(search_local_rides.region, search_local_rides.max_rows)
$$;
COMMENT ON FUNCTION fleet.search_local_rides(text, fleet.ride_status, text, text, numeric, numeric, timestamptz, integer) IS
	'internal: what fleet.search_rides with scope local becomes in a plan';

CREATE FUNCTION fleet.search_rides_support(pg_catalog.internal) RETURNS pg_catalog.internal
	AS 'MODULE_PATHNAME', 'fleet_query_search_support'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.search_rides_support(pg_catalog.internal) IS 'planner support of fleet.search_rides';

CREATE FUNCTION fleet.search_rides(scope text DEFAULT 'global-live', region text DEFAULT NULL, status fleet.ride_status DEFAULT NULL,
	vehicle_id text DEFAULT NULL, customer_id text DEFAULT NULL, min_fare numeric DEFAULT NULL, max_fare numeric DEFAULT NULL,
	since timestamptz DEFAULT NULL, near geography DEFAULT NULL, within_m float8 DEFAULT NULL,
	order_by text DEFAULT 'requested_at desc', max_rows integer DEFAULT 100, on_unavailable text DEFAULT 'fail') RETURNS SETOF fleet.rides
	AS 'MODULE_PATHNAME', 'fleet_query_search_rides'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SUPPORT fleet.search_rides_support;
COMMENT ON FUNCTION fleet.search_rides(text, text, fleet.ride_status, text, text, numeric, numeric, timestamptz, geography, float8, text, integer, text) IS
	'rides that match what is given, of this region (local), from the replica (global-fast), or of all regions, each exactly once (global-live)';

CREATE FUNCTION fleet.ride_sums(scope text DEFAULT 'global-live', region text DEFAULT NULL, status fleet.ride_status DEFAULT NULL,
	vehicle_id text DEFAULT NULL, customer_id text DEFAULT NULL, min_fare numeric DEFAULT NULL, max_fare numeric DEFAULT NULL,
	since timestamptz DEFAULT NULL, near geography DEFAULT NULL, within_m float8 DEFAULT NULL,
	on_unavailable text DEFAULT 'fail', only_number boolean DEFAULT false)
	RETURNS TABLE (ride_region text, ride_status fleet.ride_status, rides bigint, fares numeric)
	AS 'MODULE_PATHNAME', 'fleet_query_ride_sums'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.ride_sums(text, text, fleet.ride_status, text, text, numeric, numeric, timestamptz, geography, float8, text, boolean) IS
	'internal: numbers and fares of the rides that match, in parts that are to be added up; some may be negative';

CREATE FUNCTION fleet.count_rides(scope text DEFAULT 'global-live', region text DEFAULT NULL, status fleet.ride_status DEFAULT NULL,
	vehicle_id text DEFAULT NULL, customer_id text DEFAULT NULL, min_fare numeric DEFAULT NULL, max_fare numeric DEFAULT NULL,
	since timestamptz DEFAULT NULL, near geography DEFAULT NULL, within_m float8 DEFAULT NULL,
	on_unavailable text DEFAULT 'fail') RETURNS bigint
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(sum(s.rides), 0)::bigint FROM fleet.ride_sums(scope, region, status, vehicle_id, customer_id, min_fare, max_fare, since, near, within_m, on_unavailable, true) AS s;
END;
COMMENT ON FUNCTION fleet.count_rides(text, text, fleet.ride_status, text, text, numeric, numeric, timestamptz, geography, float8, text) IS 'how many rides match what is given, see fleet.search_rides';

CREATE FUNCTION fleet.ride_totals(scope text DEFAULT 'global-live', region text DEFAULT NULL, status fleet.ride_status DEFAULT NULL,
	vehicle_id text DEFAULT NULL, customer_id text DEFAULT NULL, min_fare numeric DEFAULT NULL, max_fare numeric DEFAULT NULL,
	since timestamptz DEFAULT NULL, near geography DEFAULT NULL, within_m float8 DEFAULT NULL,
	on_unavailable text DEFAULT 'fail')
	RETURNS TABLE (ride_region text, ride_status fleet.ride_status, rides bigint, fares numeric, average_fare numeric)
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT s.ride_region, s.ride_status, sum(s.rides)::bigint, sum(s.fares), round(sum(s.fares) / sum(s.rides), 2)
		FROM fleet.ride_sums(scope, region, status, vehicle_id, customer_id, min_fare, max_fare, since, near, within_m, on_unavailable) AS s
		GROUP BY s.ride_region, s.ride_status HAVING sum(s.rides) <> 0 ORDER BY s.ride_region, s.ride_status;
END;
COMMENT ON FUNCTION fleet.ride_totals(text, text, fleet.ride_status, text, text, numeric, numeric, timestamptz, geography, float8, text) IS
	'number, sum and average of the fares of the rides that match, by region and status; see fleet.search_rides';

CREATE FUNCTION fleet.live_rides(where_sql text, scope text DEFAULT 'global-live', order_by text DEFAULT NULL, max_rows integer DEFAULT NULL,
	on_unavailable text DEFAULT 'fail') RETURNS SETOF fleet.rides
	AS 'MODULE_PATHNAME', 'fleet_query_live_rides'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.live_rides(text, text, text, integer, text) IS
	'rides for which a condition over the columns of fleet.rides is true, each exactly once; see fleet.search_rides';

CREATE FUNCTION fleet.get_ride(ride_id text, scope text DEFAULT 'global-live') RETURNS SETOF fleet.rides
	AS 'MODULE_PATHNAME', 'fleet_query_get_ride'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION fleet.get_ride(text, text) IS 'one ride, wherever it is; no row where there is none';

CREATE FUNCTION fleet.locate(ride_id text) RETURNS text
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT r.region FROM fleet.get_ride(locate.ride_id, 'global-live') AS r;
END;
COMMENT ON FUNCTION fleet.locate(text) IS 'the region that a ride is in; null where there is no such ride';

CREATE TYPE fleet.nearby_vehicle AS (vehicle_id text, region text, status fleet.vehicle_status, lon float8, lat float8,
	distance_m float8, heading float8, fix_at timestamptz);
COMMENT ON TYPE fleet.nearby_vehicle IS
	'a vehicle that a search has found; its status is OFFLINE where it has been silent for fleet.vehicle_ttl';

CREATE FUNCTION fleet.nearest_vehicles(lon float8, lat float8, k integer DEFAULT 10, radius_m float8 DEFAULT 5000,
	status fleet.vehicle_status DEFAULT NULL, scope text DEFAULT 'global-live', on_unavailable text DEFAULT 'fail')
	RETURNS SETOF fleet.nearby_vehicle
	AS 'MODULE_PATHNAME', 'fleet_query_nearest_vehicles'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION fleet.nearest_vehicles(float8, float8, integer, float8, fleet.vehicle_status, text, text) IS
	'the k vehicles of a status, or of all that are not offline, that are nearest to a place; also those of the neighbours near a border';

CREATE FUNCTION fleet.nearest_here(lon float8, lat float8, k integer, radius_m float8, status fleet.vehicle_status, ttl integer)
	RETURNS TABLE (vehicle fleet.nearby_vehicle, epoch bigint)
	AS 'MODULE_PATHNAME', 'fleet_query_nearest_here'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION fleet.nearest_here(float8, float8, integer, float8, fleet.vehicle_status, integer) IS
	'internal: fleet.nearest_vehicles of this node alone, as another node asks for it';
REVOKE EXECUTE ON FUNCTION fleet.nearest_here(float8, float8, integer, float8, fleet.vehicle_status, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.nearest_here(float8, float8, integer, float8, fleet.vehicle_status, integer) TO fleet_node;

CREATE FUNCTION fleet.to_place(place text) RETURNS geography
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT place::geography;
END;
COMMENT ON FUNCTION fleet.to_place(text) IS 'internal: a place or an area of its text';

CREATE FUNCTION fleet.covers(area geography, place geography) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_Covers(area, place);
END;
COMMENT ON FUNCTION fleet.covers(geography, geography) IS 'internal: whether a place lies in an area, border included';

CREATE FUNCTION fleet.as_nearby(v fleet.vehicles, ttl integer) RETURNS fleet.nearby_vehicle
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ROW(v.vehicle_id, v.region,
		CASE WHEN ttl > 0 AND v.fix_at < clock_timestamp() - make_interval(secs => ttl) THEN 'OFFLINE' ELSE v.status END,
		fleet.lon(v.location), fleet.lat(v.location), NULL, v.heading, v.fix_at)::fleet.nearby_vehicle;
END;
COMMENT ON FUNCTION fleet.as_nearby(fleet.vehicles, integer) IS 'internal: a vehicle as searches return it, with no distance';

CREATE FUNCTION fleet.within_here(area geography, status fleet.vehicle_status, ttl integer)
	RETURNS TABLE (vehicle fleet.nearby_vehicle, epoch bigint)
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
BEGIN
	-- A replica has the vehicles of all regions.
	RETURN QUERY EXECUTE 'SELECT a.n, v.epoch FROM fleet.vehicles AS v, LATERAL (SELECT fleet.as_nearby(v, $3) AS n OFFSET 0) AS a WHERE fleet.covers($1, v.location)'
		|| CASE WHEN own IS NULL THEN '' ELSE format(' AND v.region = %L', own) END
		|| ' AND CASE WHEN $2 IS NULL THEN (a.n).status <> ''OFFLINE'' ELSE (a.n).status = $2 END' USING area, status, ttl;
END
$$;
COMMENT ON FUNCTION fleet.within_here(geography, fleet.vehicle_status, integer) IS
	'internal: fleet.vehicles_within of this node alone, with the caller''s rights';

CREATE FUNCTION fleet.within_peer(area text, status fleet.vehicle_status, ttl integer)
	RETURNS TABLE (vehicle fleet.nearby_vehicle, epoch bigint)
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT n.vehicle, n.epoch FROM fleet.within_here(fleet.to_place(area), status, ttl) AS n;
END;
COMMENT ON FUNCTION fleet.within_peer(text, fleet.vehicle_status, integer) IS 'internal: the same, as another node asks for it';
REVOKE EXECUTE ON FUNCTION fleet.within_peer(text, fleet.vehicle_status, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.within_peer(text, fleet.vehicle_status, integer) TO fleet_node;

CREATE FUNCTION fleet.search_within(area text, status text, scope text, on_unavailable text) RETURNS SETOF fleet.nearby_vehicle
	AS 'MODULE_PATHNAME', 'fleet_query_vehicles_within'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.search_within(text, text, text, text) IS 'internal: behind fleet.vehicles_within';

CREATE FUNCTION fleet.vehicles_within(area geography, status fleet.vehicle_status DEFAULT NULL, scope text DEFAULT 'global-live',
	on_unavailable text DEFAULT 'fail') RETURNS SETOF fleet.nearby_vehicle
LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT n.* FROM fleet.search_within(area::text, COALESCE(status::text, ''), scope, on_unavailable) AS n;
END;
COMMENT ON FUNCTION fleet.vehicles_within(geography, fleet.vehicle_status, text, text) IS
	'the vehicles of a status, or all that are not offline, in an area, border included; by their ids';

CREATE FUNCTION fleet.haversine(lon1 float8, lat1 float8, lon2 float8, lat2 float8) RETURNS float8
	AS 'MODULE_PATHNAME', 'fleet_query_haversine'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.haversine(float8, float8, float8, float8) IS 'metres between two places, on the sphere of the earth''s mean radius';

CREATE FUNCTION fleet.vehicle_place(vehicle_id text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text;
	is_there boolean;
BEGIN
	-- Here, else wherever it is; one that is just being handed off is looked for again.
	FOR try IN 1 .. 3 LOOP
		SELECT v.location, true INTO place, is_there FROM fleet.vehicles AS v
			WHERE v.region = fleet.own_region() AND v.vehicle_id = vehicle_place.vehicle_id;
		IF is_there IS NULL THEN
			SELECT v.location, true INTO place, is_there FROM fleet.vehicles AS v
				WHERE v.vehicle_id = vehicle_place.vehicle_id ORDER BY v.epoch DESC LIMIT 1;
		END IF;
		EXIT WHEN is_there;
		PERFORM pg_sleep(0.02);
	END LOOP;
	IF is_there IS NULL THEN
		RAISE EXCEPTION 'vehicle "%" does not exist', vehicle_id USING ERRCODE = 'RF010', DETAIL = 'It is in no region.';
	ELSIF place IS NULL THEN
		RAISE EXCEPTION 'vehicle "%" has no position', vehicle_id USING ERRCODE = 'RF030', HINT = 'It has one after its first fix.';
	END IF;
	RETURN place;
END
$$;
COMMENT ON FUNCTION fleet.vehicle_place(text) IS 'internal: the last position of a vehicle of any region, or an error';

CREATE FUNCTION fleet.distance(vehicle text, other text) RETURNS float8
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a CONSTANT text := fleet.vehicle_place(vehicle);
	b CONSTANT text := fleet.vehicle_place(other);
BEGIN
	RETURN fleet.haversine(fleet.lon(fleet.to_place(a)), fleet.lat(fleet.to_place(a)),
		fleet.lon(fleet.to_place(b)), fleet.lat(fleet.to_place(b)));
END
$$;
COMMENT ON FUNCTION fleet.distance(text, text) IS 'metres between the last positions of two vehicles, of any regions';

CREATE FUNCTION fleet.last_read(OUT scope text, OUT asked text[], OUT failed text[], OUT reasked integer, OUT latency_ms float8, OUT q fleet.hlc,
	OUT summed boolean)
	RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_query_last_read'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.last_read() IS
	'this session''s last read of rides: scope, who was asked, who could not answer, rides asked for once more at their target, time taken, stamp, and whether others made the sums';

-- ---------------------------------------------------------------------------
-- track: position reports, limits, events of fences, the history of fixes
-- ---------------------------------------------------------------------------

CREATE TYPE fleet.fix_result AS (outcome text, region text, epoch bigint);
COMMENT ON TYPE fleet.fix_result IS
	'what became of a fix: accepted, stale, implausible, queued or moved; the vehicle''s region and epoch after it';

CREATE FUNCTION fleet.report_fix(vehicle_id text, lon float8, lat float8, at timestamptz DEFAULT now(),
	speed_kmh float8 DEFAULT NULL, heading float8 DEFAULT NULL, accuracy_m float8 DEFAULT NULL,
	battery_pct float8 DEFAULT NULL, altitude_m float8 DEFAULT NULL, status fleet.vehicle_status DEFAULT NULL)
	RETURNS fleet.fix_result
	AS 'MODULE_PATHNAME', 'fleet_track_report_fix'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.report_fix(text, float8, float8, timestamptz, float8, float8, float8, float8, float8, fleet.vehicle_status) IS
	'one position report of a vehicle, in whichever region it is; newest wins; where it has crossed a border it is handed off with its open ride, see fleet.handoff_mode';

CREATE FUNCTION fleet.report_fixes(vehicle_ids text[], lons float8[], lats float8[], ats timestamptz[] DEFAULT NULL,
	speeds_kmh float8[] DEFAULT NULL, headings float8[] DEFAULT NULL, accuracies_m float8[] DEFAULT NULL,
	batteries_pct float8[] DEFAULT NULL, altitudes_m float8[] DEFAULT NULL, statuses fleet.vehicle_status[] DEFAULT NULL)
	RETURNS TABLE (number integer, vehicle_id text, outcome text, region text, epoch bigint, reason_sqlstate text, reason_message text, reason_detail text)
	AS 'MODULE_PATHNAME', 'fleet_track_report_fixes'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 1000
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.report_fixes(text[], float8[], float8[], timestamptz[], float8[], float8[], float8[], float8[], float8[], fleet.vehicle_status[]) IS
	'many position reports, one from each array''s next element; returns what became of each, refused ones with the reason';

CREATE FUNCTION fleet.feed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_track_feed'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.feed() IS 'trigger of fleet.fix_feed: reports what is inserted';
-- It writes dead letters with the owner's rights: nobody else may put it on a view.
REVOKE EXECUTE ON FUNCTION fleet.feed() FROM PUBLIC;

CREATE VIEW fleet.fix_feed WITH (security_invoker = true) AS
	SELECT v.vehicle_id, fleet.lon(v.location) AS lon, fleet.lat(v.location) AS lat, v.fix_at AS at, v.speed_kmh, v.heading, v.accuracy_m,
		v.battery_pct, v.altitude_m, v.status
	FROM fleet.vehicles AS v WHERE v.fix_at IS NOT NULL;
COMMENT ON VIEW fleet.fix_feed IS
	'the last fix of each vehicle; what is inserted or copied into it is reported as by fleet.report_fixes, and what is refused goes to fleet.dead_letters';
ALTER VIEW fleet.fix_feed ALTER COLUMN at SET DEFAULT now();
CREATE TRIGGER fleet_feed INSTEAD OF INSERT OR UPDATE OR DELETE ON fleet.fix_feed FOR EACH ROW EXECUTE FUNCTION fleet.feed();
CREATE TRIGGER fleet_feed_end AFTER INSERT ON fleet.fix_feed FOR EACH STATEMENT EXECUTE FUNCTION fleet.feed();

CREATE TABLE fleet.crossing_rules (
	region text PRIMARY KEY,
	distance_m float8 CHECK (distance_m = -1 OR distance_m BETWEEN 0 AND 100000),
	dwell_s float8 CHECK (dwell_s = -1 OR dwell_s BETWEEN 0 AND 86400),
	max_speed_mps float8 CHECK (max_speed_mps BETWEEN 0 AND 10000)
);
COMMENT ON TABLE fleet.crossing_rules IS
	'where the crossing rule of this node''s region differs from the settings fleet.crossing_distance, fleet.crossing_dwell and fleet.max_speed; null = the setting holds';
SELECT pg_catalog.pg_extension_config_dump('fleet.crossing_rules', '');

CREATE FUNCTION fleet.rules_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'fleet_track_rules_changed'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.rules_changed() IS 'trigger of fleet.crossing_rules: has all sessions read them anew';
REVOKE EXECUTE ON FUNCTION fleet.rules_changed() FROM PUBLIC;
CREATE TRIGGER fleet_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON fleet.crossing_rules
	FOR EACH STATEMENT EXECUTE FUNCTION fleet.rules_changed();

CREATE FUNCTION fleet.set_crossing_rule(region text, distance_m float8 DEFAULT NULL, dwell_s float8 DEFAULT NULL, max_speed_mps float8 DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF region IS NULL OR NOT EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = set_crossing_rule.region) THEN
		RAISE EXCEPTION 'region "%" does not exist', region
			USING ERRCODE = 'RF004', HINT = 'The view fleet.regions lists them.';
	ELSIF region IS DISTINCT FROM fleet.own_region() THEN
		RAISE EXCEPTION 'region "%" is not the region of this node', region
			USING ERRCODE = 'RF032', DETAIL = 'Crossings are decided by the node that has the vehicle, with a rule of its own.',
			HINT = 'Call that region''s node.';
	ELSIF NOT (COALESCE(distance_m = -1 OR distance_m BETWEEN 0 AND 100000, true)
			AND COALESCE(dwell_s = -1 OR dwell_s BETWEEN 0 AND 86400, true)
			AND COALESCE(max_speed_mps BETWEEN 0 AND 10000, true)) THEN
		RAISE EXCEPTION 'invalid crossing rule for region "%"', region
			USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'The distance is from 0 to 100000 m and the dwell from 0 to 86400 s, or -1; the speed is from 0 to 10000 m/s.';
	END IF;
	DELETE FROM fleet.crossing_rules AS r WHERE r.region = set_crossing_rule.region;
	IF num_nonnulls(distance_m, dwell_s, max_speed_mps) > 0 THEN
		INSERT INTO fleet.crossing_rules VALUES (region, distance_m, dwell_s, max_speed_mps);
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.set_crossing_rule(text, float8, float8, float8) IS
	'the crossing rule of this node''s region, where it differs from the settings: metres past the border, seconds past it, greatest speed in m/s; null = the setting holds';
REVOKE EXECUTE ON FUNCTION fleet.set_crossing_rule(text, float8, float8, float8) FROM PUBLIC;

CREATE TABLE fleet.handoff_queue (
	vehicle_id text PRIMARY KEY,
	target text NOT NULL,
	epoch bigint NOT NULL,
	queued_at timestamptz NOT NULL DEFAULT now(),
	attempts integer NOT NULL DEFAULT 0,
	next_try timestamptz NOT NULL DEFAULT now(),
	last_error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE fleet.handoff_queue IS
	'vehicles of this node that have crossed a border and are handed off by the worker; a row goes in the transaction of its handoff, or when it is not true any more';
COMMENT ON COLUMN fleet.handoff_queue.epoch IS 'of the vehicle when it crossed';
SELECT pg_catalog.pg_extension_config_dump('fleet.handoff_queue', '');

CREATE UNLOGGED TABLE fleet.flaps (
	vehicle_id text PRIMARY KEY,
	kind text NOT NULL CHECK (kind IN ('border', 'jumps')),
	count bigint NOT NULL DEFAULT 1,
	since timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	damped_until timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE fleet.flaps IS 'internal: behind the view fleet.flapping; what is a day old is deleted';

CREATE VIEW fleet.flapping AS
	SELECT f.vehicle_id, f.kind, f.count, f.since, f.last_at, f.damped_until FROM fleet.flaps AS f
	WHERE f.last_at > clock_timestamp() - current_setting('fleet.flap_window')::interval
		-- A receiver may be wrong once.
		AND (f.damped_until IS NOT NULL OR f.count >= 3);
COMMENT ON VIEW fleet.flapping IS
	'vehicles that went back and forth within the last fleet.flap_window: over a border, which damps their handoffs, or by jumps that no vehicle makes, as two devices under one id do';
COMMENT ON COLUMN fleet.flapping.count IS 'fixes that were damped or ignored since';
COMMENT ON COLUMN fleet.flapping.damped_until IS 'time of the fix with which it is handed off if it stays there; null where its fixes are ignored';

CREATE FUNCTION fleet.rate_limit(bucket text, key text, max integer, per interval) RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_track_rate_limit'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.rate_limit(text, text, integer, interval) IS
	'takes one of the key''s tokens in the bucket, of which there are max and which come back evenly within per; false where there is none. Not undone by ROLLBACK';
REVOKE EXECUTE ON FUNCTION fleet.rate_limit(text, text, integer, interval) FROM PUBLIC;

CREATE FUNCTION fleet.require_rate(bucket text, key text, max integer, per interval) RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_track_require_rate'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.require_rate(text, text, integer, interval) IS
	'fleet.rate_limit that raises an error, which says when to try again, instead of returning false';
REVOKE EXECUTE ON FUNCTION fleet.require_rate(text, text, integer, interval) FROM PUBLIC;

CREATE FUNCTION fleet.limit_counters(OUT limiter text, OUT entries bigint, OUT in_use bigint, OUT allowed bigint, OUT refused bigint,
	OUT evicted bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'fleet_track_limit_counters'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 2;
COMMENT ON FUNCTION fleet.limit_counters() IS 'internal: behind the view fleet.limits';
REVOKE EXECUTE ON FUNCTION fleet.limit_counters() FROM PUBLIC;

CREATE VIEW fleet.limits AS SELECT * FROM fleet.limit_counters();
COMMENT ON VIEW fleet.limits IS 'the limiters of this server, of all databases: their entries, and what they have let through and refused since it started';

-- Events of fences (fleet.add_fence), and relations between what moves and where it is.

CREATE TABLE fleet.fence_events (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	kind text NOT NULL CHECK (kind IN ('enter', 'exit', 'dwell', 'cross', 'near')),
	fence text NOT NULL,
	vehicle_id text NOT NULL,
	other_id text,
	region text NOT NULL,
	location geography(Point, 4326) NOT NULL,
	at timestamptz NOT NULL,
	epoch bigint NOT NULL,
	hlc fleet.hlc NOT NULL,
	noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX fence_events_noted ON fleet.fence_events (noted_at);
COMMENT ON TABLE fleet.fence_events IS 'what vehicles of this region did at fences; written with the fix';
COMMENT ON COLUMN fleet.fence_events.other_id IS 'the vehicle that it is near to';
COMMENT ON COLUMN fleet.fence_events.location IS 'of the fix, as is at; epoch and hlc are those of the vehicle with it';
SELECT pg_catalog.pg_extension_config_dump('fleet.fence_events', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.fence_events_id_seq', '');

CREATE FUNCTION fleet.fence_event_json(event fleet.fence_events) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
BEGIN ATOMIC
	SELECT jsonb_strip_nulls(jsonb_build_object('id', (event).id, 'operation', 'event', 'kind', 'vehicle', 'key', (event).vehicle_id,
		'epoch', (event).epoch, 'hlc', (event).hlc::bigint::text, 'region', (event).region, 'event', (event).kind, 'fence', (event).fence,
		'other_id', (event).other_id, 'location', fleet.lon_lat((event).location::text), 'at', (event).at))::text;
END;
COMMENT ON FUNCTION fleet.fence_event_json(fleet.fence_events) IS 'internal: an event as it is told by NOTIFY';
REVOKE EXECUTE ON FUNCTION fleet.fence_event_json(fleet.fence_events) FROM PUBLIC;

CREATE FUNCTION fleet.drop_fence_events(older_than interval DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	age interval := COALESCE(older_than, NULLIF(current_setting('fleet.fence_event_retention')::interval, interval '0'));
	dropped bigint;
BEGIN
	IF age < interval '0' THEN
		RAISE EXCEPTION 'an age is not negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	DELETE FROM fleet.fence_events AS e WHERE e.noted_at < now() - age;
	GET DIAGNOSTICS dropped = ROW_COUNT;
	RETURN dropped;
END
$$;
COMMENT ON FUNCTION fleet.drop_fence_events(interval) IS
	'deletes events of fences that are older than this, or than fleet.fence_event_retention; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.drop_fence_events(interval) FROM PUBLIC;

CREATE FUNCTION fleet.fences_at(lon float8, lat float8) RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'fleet_track_fences_at'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 2
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.fences_at(float8, float8) IS 'the fences that a place (degrees) is in; needs SELECT on fleet.fences';

CREATE FUNCTION fleet.is_in_fence(fence text, lon float8, lat float8) RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_track_is_in_fence'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.is_in_fence(text, float8, float8) IS 'whether a place (degrees) is in a fence; needs SELECT on fleet.fences';

CREATE VIEW fleet.located_in WITH (security_invoker = true) AS
	SELECT 'vehicle' AS kind, v.vehicle_id AS key, v.region,
		ARRAY(SELECT f FROM fleet.fences_at(fleet.lon(v.location), fleet.lat(v.location)) AS f ORDER BY f) AS fences
	FROM fleet.vehicles AS v
	UNION ALL
	SELECT 'ride', r.ride_id, r.region,
		ARRAY(SELECT f FROM fleet.fences_at(fleet.lon(COALESCE(r.current_location, r.start_location)),
			fleet.lat(COALESCE(r.current_location, r.start_location))) AS f ORDER BY f)
	FROM fleet.rides AS r;
COMMENT ON VIEW fleet.located_in IS 'which region and which fences each vehicle and each ride is in';

CREATE VIEW fleet.requested_by WITH (security_invoker = true) AS
	SELECT r.ride_id, r.customer_id, r.region, r.status, r.requested_at FROM fleet.rides AS r;
COMMENT ON VIEW fleet.requested_by IS 'which customer each ride was requested by';

CREATE FUNCTION fleet.near(vehicle_id text, within_m float8) RETURNS TABLE (other_id text, region text, status fleet.vehicle_status, distance_m float8)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	place text;
BEGIN
	-- One region's rows are one partition; a replica has those of all.
	SELECT v.location::text INTO place FROM fleet.vehicles AS v
		WHERE v.vehicle_id = near.vehicle_id AND (own IS NULL OR v.region = own);
	IF NOT FOUND THEN
		PERFORM fleet.raise_not_here('vehicle', vehicle_id);
	ELSIF own IS NULL THEN
		RETURN QUERY SELECT v.vehicle_id, v.region, v.status, fleet.distance_to(v.location, place) AS d FROM fleet.vehicles AS v
			WHERE fleet.is_within(v.location, place, within_m) AND v.vehicle_id <> near.vehicle_id ORDER BY d, v.vehicle_id;
	ELSE
		RETURN QUERY SELECT v.vehicle_id, v.region, v.status, fleet.distance_to(v.location, place) AS d FROM fleet.vehicles AS v
			WHERE v.region = own AND fleet.is_within(v.location, place, within_m) AND v.vehicle_id <> near.vehicle_id ORDER BY d, v.vehicle_id;
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.near(text, float8) IS
	'the vehicles within so many metres of a vehicle, nearest first: those of this node''s region, on a replica of all';

CREATE FUNCTION fleet.within(name text) RETURNS TABLE (kind text, key text, region text)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
BEGIN
	IF EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = within.name) THEN
		RETURN QUERY SELECT 'vehicle', v.vehicle_id, v.region FROM fleet.vehicles AS v WHERE v.region = within.name
			UNION ALL SELECT 'ride', r.ride_id, r.region FROM fleet.rides AS r WHERE r.region = within.name AND r.status < 'COMPLETED';
		RETURN;
	END IF;
	PERFORM fleet.is_in_fence(name, 0, 0);		-- says so where there is none
	RETURN QUERY SELECT 'vehicle', v.vehicle_id, v.region FROM fleet.vehicles AS v
			WHERE v.region = COALESCE(own, v.region) AND fleet.is_in_fence(within.name, fleet.lon(v.location), fleet.lat(v.location))
		UNION ALL SELECT 'ride', r.ride_id, r.region FROM fleet.rides AS r
			WHERE r.region = COALESCE(own, r.region) AND r.status < 'COMPLETED' AND fleet.is_in_fence(within.name,
				fleet.lon(COALESCE(r.current_location, r.start_location)), fleet.lat(COALESCE(r.current_location, r.start_location)));
END
$$;
COMMENT ON FUNCTION fleet.within(text) IS
	'the vehicles and open rides that are in a region; or in a fence, of those of this node''s region, on a replica of all';

-- ---- the history of fixes

CREATE TABLE fleet.fix_history (
	at timestamptz NOT NULL,
	epoch integer NOT NULL,
	lon_e7 integer NOT NULL,
	lat_e7 integer NOT NULL,
	speed_kmh real,
	heading real,
	accuracy_m real,
	status fleet.vehicle_status,
	slot integer NOT NULL,
	vehicle_id text COLLATE "C" NOT NULL,
	ride_id text COLLATE "C"
) PARTITION BY RANGE (at);
CREATE TABLE fleet.fix_history_default PARTITION OF fleet.fix_history DEFAULT;
CREATE INDEX fix_history_slot ON fleet.fix_history USING hash (slot);
CREATE INDEX fix_history_ride ON fleet.fix_history USING hash (ride_id) WHERE ride_id IS NOT NULL;
COMMENT ON TABLE fleet.fix_history IS
	'the fixes that this node has accepted, a partition for each day (UTC); written with the fix, by no one else, kept for fleet.history_retention';
COMMENT ON TABLE fleet.fix_history_default IS 'fixes of days that have no partition';
COMMENT ON COLUMN fleet.fix_history.epoch IS 'of the vehicle when it sent the fix';
COMMENT ON COLUMN fleet.fix_history.lon_e7 IS 'longitude in ten millionths of a degree, WGS 84';
COMMENT ON COLUMN fleet.fix_history.lat_e7 IS 'latitude, likewise';
COMMENT ON COLUMN fleet.fix_history.status IS 'as it came with the fix; null where it did not';
COMMENT ON COLUMN fleet.fix_history.slot IS 'what the index finds a vehicle''s fixes of an hour by, see fleet.history_slots';
COMMENT ON COLUMN fleet.fix_history.ride_id IS 'the ride that was open; null where there was none';
GRANT SELECT ON fleet.fix_history TO fleet_node;
SELECT pg_catalog.pg_extension_config_dump('fleet.fix_history_default', '');

CREATE FUNCTION fleet.history_partitions(OUT name text, OUT since timestamptz, OUT until timestamptz) RETURNS SETOF record
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT c.relname::text, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
	FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid,
		LATERAL (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day) AS d
	WHERE i.inhparent = 'fleet.fix_history'::regclass AND c.relname ~ '^fix_history_[0-9]{8}$';
END;
COMMENT ON FUNCTION fleet.history_partitions() IS 'internal: the partitions of days, and their times';
REVOKE EXECUTE ON FUNCTION fleet.history_partitions() FROM PUBLIC;

CREATE FUNCTION fleet.make_history_partition(day date) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	part text := 'fix_history_' || to_char(day, 'YYYYMMDD');
	since timestamptz := day::timestamp AT TIME ZONE 'UTC';
	until timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
	moved bigint := 0;
	late bigint;
BEGIN
	-- One at a time; fixes do not lock the table, and readers do not mind.
	LOCK TABLE ONLY fleet.fix_history IN SHARE UPDATE EXCLUSIVE MODE;
	IF to_regclass('fleet.' || part) IS NOT NULL THEN
		RETURN NULL;
	END IF;
	-- All that takes long is done before the lock: with the constraint the rows need not be looked at again.
	EXECUTE format('CREATE TABLE fleet.%I (LIKE fleet.fix_history INCLUDING INDEXES INCLUDING CONSTRAINTS,'
		|| ' CONSTRAINT day CHECK (at >= %L AND at < %L))', part, since, until);
	EXECUTE format('ALTER TABLE fleet.%I OWNER TO %I', part,
		(SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = 'fleet.fix_history'::regclass));
	-- Most of the day's rows are moved while fixes still come there; the last ones under the lock.
	FOR pass IN 1 .. 2 LOOP
		IF pass = 2 THEN
			LOCK TABLE fleet.fix_history_default IN ACCESS EXCLUSIVE MODE;
		END IF;
		EXECUTE format('WITH moved AS (DELETE FROM fleet.fix_history_default AS d WHERE d.at >= $1 AND d.at < $2 RETURNING d.*)'
			|| ' INSERT INTO fleet.%I SELECT * FROM moved', part) USING since, until;
		GET DIAGNOSTICS late = ROW_COUNT;
		moved := moved + late;
	END LOOP;
	EXECUTE format('ALTER TABLE fleet.fix_history ATTACH PARTITION fleet.%I FOR VALUES FROM (%L) TO (%L)', part, since, until);
	EXECUTE format('ALTER TABLE fleet.%I DROP CONSTRAINT day', part);
	RETURN moved;
END
$$;
COMMENT ON FUNCTION fleet.make_history_partition(date) IS
	'internal: makes the partition of a day and moves what the default partition has of it: how many fixes; null where it is there';
REVOKE EXECUTE ON FUNCTION fleet.make_history_partition(date) FROM PUBLIC;

CREATE FUNCTION fleet.make_history_partitions(days integer DEFAULT 7) RETURNS TABLE (part text, outcome text, fixes bigint)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
	horizon timestamptz := now() - current_setting('fleet.history_retention')::interval;
BEGIN
	IF days NOT BETWEEN 0 AND 366 THEN
		RAISE EXCEPTION 'cannot make partitions of % days ahead', days
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is from 0 (no further than today) to 366.';
	END IF;
	-- And of the days whose fixes had to go into the default partition.
	FOR part IN SELECT 'fix_history_' || to_char(d.day, 'YYYYMMDD') FROM (SELECT today + n AS day FROM generate_series(-1, days) AS n
			UNION SELECT (h.at AT TIME ZONE 'UTC')::date FROM fleet.fix_history_default AS h WHERE h.at >= horizon) AS d
		WHERE to_regclass('fleet.fix_history_' || to_char(d.day, 'YYYYMMDD')) IS NULL ORDER BY 1
	LOOP
		BEGIN
			fixes := fleet.make_history_partition(to_date(right(part, 8), 'YYYYMMDD'));
			outcome := CASE WHEN fixes IS NULL THEN 'exists' ELSE 'made' END;
		EXCEPTION WHEN lock_not_available THEN
			outcome := 'busy';
			fixes := NULL;
		END;
		RETURN NEXT;
		EXIT WHEN outcome = 'busy';
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.make_history_partitions(integer) IS
	'makes the partitions of fleet.fix_history for yesterday, today and so many days ahead, and for days whose fixes are in the default partition';
REVOKE EXECUTE ON FUNCTION fleet.make_history_partitions(integer) FROM PUBLIC;

CREATE FUNCTION fleet.drop_old_history() RETURNS TABLE (part text, outcome text, fixes bigint)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	horizon timestamptz := now() - current_setting('fleet.history_retention')::interval;
	free text[] := '{}';
BEGIN
	-- First each partition, whose readers may take long, and the table last: it is locked for the moment of the DROP.
	FOR part IN SELECT p.name FROM fleet.history_partitions() AS p WHERE p.until <= horizon ORDER BY p.until LOOP
		BEGIN
			EXECUTE format('LOCK TABLE fleet.%I IN ACCESS EXCLUSIVE MODE', part);
			free := free || part;
		EXCEPTION WHEN lock_not_available THEN
			outcome := 'busy';
			RETURN NEXT;
		END;
	END LOOP;
	FOREACH part IN ARRAY free LOOP
		outcome := 'dropped';
		BEGIN
			EXECUTE format('DROP TABLE fleet.%I', part);
		EXCEPTION WHEN lock_not_available THEN
			outcome := 'busy';
		END;
		RETURN NEXT;
		EXIT WHEN outcome = 'busy';
	END LOOP;
	-- A day without a partition is deleted by row, so many in a call.
	DELETE FROM fleet.fix_history_default WHERE ctid = ANY (ARRAY(
		SELECT d.ctid FROM fleet.fix_history_default AS d WHERE d.at < horizon LIMIT 100000));
	GET DIAGNOSTICS fixes = ROW_COUNT;
	IF fixes > 0 THEN
		part := 'fix_history_default';
		outcome := 'trimmed';
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.drop_old_history() IS
	'drops the partitions of fleet.fix_history that are older than fleet.history_retention, and says which; busy: somebody uses it, call again';
REVOKE EXECUTE ON FUNCTION fleet.drop_old_history() FROM PUBLIC;

CREATE FUNCTION fleet.history_slots(vehicle_id text, since timestamptz, until timestamptz) RETURNS integer[]
	AS 'MODULE_PATHNAME', 'fleet_track_history_slots'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.history_slots(text, timestamptz, timestamptz) IS
	'internal: the slots in which fleet.fix_history has a vehicle''s fixes of that time, one for each hour';

CREATE FUNCTION fleet.path_fixes(kind text, key text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
	RETURNS TABLE (at timestamptz, lon float8, lat float8)
	AS 'MODULE_PATHNAME', 'fleet_track_path_fixes'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.path_fixes(text, text, timestamptz, timestamptz) IS
	'where a ride or vehicle was, from since to before until, of all regions: its fixes in the order of time';

CREATE FUNCTION fleet.path_of(points geometry[]) RETURNS geometry
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_SetSRID(CASE cardinality(points) WHEN 0 THEN NULL WHEN 1 THEN points[1] ELSE ST_MakeLine(points) END, 4326);
END;
COMMENT ON FUNCTION fleet.path_of(geometry[]) IS 'internal: the line through points; a single one is itself, since a line of one point is not valid';

CREATE FUNCTION fleet.ride_path(ride_id text) RETURNS geometry
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT fleet.path_of(ARRAY(SELECT ST_MakePointM(f.lon, f.lat, EXTRACT(epoch FROM f.at)::float8)
		FROM fleet.path_fixes('ride', ride_path.ride_id) AS f));
END;
COMMENT ON FUNCTION fleet.ride_path(text) IS
	'where a ride was driven, over all its regions: LINESTRING M, with Unix time in seconds; POINT M of a single fix, null without any';

CREATE FUNCTION fleet.vehicle_path(vehicle_id text, since timestamptz, until timestamptz) RETURNS geometry
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT fleet.path_of(ARRAY(SELECT ST_MakePointM(f.lon, f.lat, EXTRACT(epoch FROM f.at)::float8)
		FROM fleet.path_fixes('vehicle', vehicle_path.vehicle_id, vehicle_path.since, vehicle_path.until) AS f));
END;
COMMENT ON FUNCTION fleet.vehicle_path(text, timestamptz, timestamptz) IS
	'where a vehicle was from since to before until, over all regions, as fleet.ride_path';

-- ---------------------------------------------------------------------------
-- decode: the change stream
-- ---------------------------------------------------------------------------

CREATE TABLE fleet.dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	origin text NOT NULL,
	region text,
	reason_sqlstate text NOT NULL,
	reason_message text NOT NULL,
	change json NOT NULL,
	attempts integer NOT NULL DEFAULT 1,
	tried_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	resolved_at timestamptz
);
CREATE INDEX dead_letters_open ON fleet.dead_letters (origin, id) WHERE resolved_at IS NULL;
COMMENT ON TABLE fleet.dead_letters IS 'changes that could not be taken, with the reason; kept until somebody removes them';
COMMENT ON COLUMN fleet.dead_letters.origin IS 'who could not take it: a consumer''s function, or "replica"';
COMMENT ON COLUMN fleet.dead_letters.region IS 'where the change was made';
COMMENT ON COLUMN fleet.dead_letters.change IS 'the change: of a consumer, the event as it was sent; it need not be a valid jsonb';
COMMENT ON COLUMN fleet.dead_letters.resolved_at IS 'when a later attempt succeeded, null = it has not';
SELECT pg_catalog.pg_extension_config_dump('fleet.dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.dead_letters_id_seq', '');

-- Not dumped: its locations mean nothing on another server.
CREATE TABLE fleet.consumers (
	slot name PRIMARY KEY,
	done pg_lsn NOT NULL DEFAULT '0/0',
	by_xid xid8,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE fleet.consumers IS 'how far fleet.consume has taken each slot';
COMMENT ON COLUMN fleet.consumers.done IS 'end of the last transaction whose changes were taken';
COMMENT ON COLUMN fleet.consumers.by_xid IS 'the transaction that wrote this row';

CREATE FUNCTION fleet.create_change_stream(slot name, temporary boolean DEFAULT false) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	libraries text := current_setting('output_plugin_libraries', true);		-- null in older servers
BEGIN
	IF NOT regexp_split_to_array(translate(libraries, '" ', ''), ',') && ARRAY['fleet', '*'] THEN
		RAISE EXCEPTION 'this server does not allow "fleet" as an output plugin'
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('Setting output_plugin_libraries is "%s".', libraries),
			HINT = format('Add this line to postgresql.conf and reload: output_plugin_libraries = ''%s''',
				concat_ws(', ', NULLIF(libraries, ''), 'fleet'));
	END IF;
	RETURN (SELECT s.lsn FROM pg_create_logical_replication_slot(slot, 'fleet', temporary) AS s);
END
$$;
COMMENT ON FUNCTION fleet.create_change_stream(name, boolean) IS
	'a replication slot that gives this node''s changes as JSON from now on; says what the server lacks';
REVOKE EXECUTE ON FUNCTION fleet.create_change_stream(name, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.drop_change_stream(slot name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM pg_drop_replication_slot(slot);
	DELETE FROM fleet.consumers AS c WHERE c.slot = drop_change_stream.slot;
END
$$;
COMMENT ON FUNCTION fleet.drop_change_stream(name) IS 'drops a slot, and what fleet.consume knows of it';
REVOKE EXECUTE ON FUNCTION fleet.drop_change_stream(name) FROM PUBLIC;

CREATE FUNCTION fleet.set_old_images(enabled boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text;
BEGIN
	IF fleet.own_region() IS NULL THEN
		RAISE EXCEPTION 'this node owns no region'
			USING ERRCODE = 'RF004', HINT = 'Call it on the node of a region.';
	END IF;
	FOREACH part IN ARRAY ARRAY['local_vehicles', 'local_rides'] LOOP
		EXECUTE format('ALTER TABLE fleet.%I REPLICA IDENTITY %s', part, CASE WHEN enabled THEN 'FULL' ELSE 'DEFAULT' END);
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.set_old_images(boolean) IS
	'whether this node writes whole old rows to the WAL, for change streams that show old images or what was changed';
REVOKE EXECUTE ON FUNCTION fleet.set_old_images(boolean) FROM PUBLIC;

CREATE FUNCTION fleet.check_consumer(consumer regproc) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = consumer AND p.prokind = 'f' AND NOT p.proretset
			AND p.pronargs >= 1 AND p.proargtypes[0] IN ('jsonb'::regtype, 'json'::regtype) AND p.pronargs - p.pronargdefaults <= 1) THEN
		RAISE EXCEPTION '% cannot consume changes', consumer
			USING ERRCODE = 'invalid_function_definition', DETAIL = 'A consumer is a function with one argument of type jsonb or json.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_consumer(regproc) IS 'internal: raises an error where this cannot be called with a change';
REVOKE EXECUTE ON FUNCTION fleet.check_consumer(regproc) FROM PUBLIC;

CREATE FUNCTION fleet.is_transient(state text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- Connections, serialization and deadlocks, resources, an operator or a shutdown; a lock that was not to be had.
	-- Of fleet's own: a handoff that met another one, or a node that does not answer, is not asked, is in doubt or has another map or time; a limit.
	SELECT left(state, 2) IN ('08', '40', '53', '57')
		OR state IN ('55P03', 'RF002', 'RF007', 'RF016', 'RF017', 'RF022', 'RF025', 'RF026', 'RF029');
END;
COMMENT ON FUNCTION fleet.is_transient(text) IS 'internal: whether an error with that SQLSTATE is no fault of what was tried, so that it may succeed later';
REVOKE EXECUTE ON FUNCTION fleet.is_transient(text) FROM PUBLIC;

CREATE FUNCTION fleet.try_change(consumer regproc, change json, OUT failed boolean, OUT state text, OUT message text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A cancel is not caught: then nothing of the batch was done.
	EXECUTE format('SELECT %s($1::%s)', consumer, (SELECT format_type(p.proargtypes[0], NULL) FROM pg_proc AS p WHERE p.oid = consumer)) USING change;
	failed := false;
EXCEPTION WHEN OTHERS OR assert_failure THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
	failed := true;
END
$$;
COMMENT ON FUNCTION fleet.try_change(regproc, json) IS 'internal: calls a consumer in a subtransaction; says how that went';
REVOKE EXECUTE ON FUNCTION fleet.try_change(regproc, json) FROM PUBLIC;

CREATE FUNCTION fleet.take_change(consumer regproc, event text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result record := fleet.try_change(consumer, event::json);
BEGIN
	IF NOT result.failed THEN
		RETURN true;
	ELSIF fleet.is_transient(result.state) THEN
		RAISE EXCEPTION '%', result.message
			USING ERRCODE = result.state, DETAIL = format('Consumer %s got it from change %s.', consumer, substring(event FROM '"id":("[^"]+")')),
			HINT = 'The change was not taken, and comes again.';
	END IF;
	INSERT INTO fleet.dead_letters (origin, region, reason_sqlstate, reason_message, change)
		VALUES (consumer, substring(event FROM '"id":"([^":]+):'), result.state, result.message, event::json);
	RETURN false;
END
$$;
COMMENT ON FUNCTION fleet.take_change(regproc, text) IS
	'internal: gives a change to a consumer; false where it became a dead letter, an error where it may be taken another time';
REVOKE EXECUTE ON FUNCTION fleet.take_change(regproc, text) FROM PUBLIC;

CREATE FUNCTION fleet.consume(slot name, consumer regproc, max_changes integer DEFAULT 1000, options text[] DEFAULT '{}',
	OUT changes integer, OUT dead integer)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	progress fleet.consumers;
	upto pg_lsn := pg_current_wal_flush_lsn();
	-- No text within a change can look like its commit_lsn.
	events CURSOR FOR SELECT substring(p.data FROM '"commit_lsn":"([0-9A-F/]+)"')::pg_lsn AS lsn, regexp_replace(p.data, ',"commit_lsn":"[0-9A-F/]+"', '') AS event
		FROM pg_logical_slot_peek_changes(consume.slot, NULL, max_changes, VARIADIC options || ARRAY['include_lsn', 'true']) AS p;
	sent record;
	ends pg_lsn;
	taken integer;
	given_up integer;
BEGIN
	PERFORM fleet.check_consumer(consumer);
	IF max_changes < 1 THEN
		RAISE EXCEPTION 'max_changes must be 1 or more' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	changes := 0;
	dead := 0;
	INSERT INTO fleet.consumers (slot) VALUES (consume.slot) ON CONFLICT DO NOTHING;
	SELECT * INTO progress FROM fleet.consumers AS c WHERE c.slot = consume.slot FOR UPDATE;
	IF progress.by_xid = pg_current_xact_id() THEN
		RAISE EXCEPTION 'slot "%" was consumed in this transaction already', slot
			USING ERRCODE = 'active_sql_transaction', DETAIL = 'The slot moves on when what was taken is committed.',
			HINT = 'Commit between two calls.';
	ELSIF progress.done > pg_current_wal_insert_lsn() THEN
		progress.done := '0/0';		-- of another server
	END IF;
	-- The slot gives up what earlier calls have taken: they are committed, and, by this, flushed.
	IF current_setting('synchronous_commit') = 'off' THEN
		PERFORM set_config('synchronous_commit', 'local', true);
	END IF;
	IF EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.slot_name = slot AND s.confirmed_flush_lsn < progress.done) THEN
		PERFORM pg_replication_slot_advance(slot, progress.done);
	END IF;
	OPEN events;
	FETCH events INTO sent;
	WHILE sent.lsn <= progress.done LOOP
		FETCH events INTO sent;
	END LOOP;
	-- The changes of a transaction are all taken, or none of them.
	WHILE sent.lsn IS NOT NULL LOOP
		ends := sent.lsn;
		taken := 0;
		given_up := 0;
		BEGIN
			WHILE sent.lsn = ends LOOP
				given_up := given_up + (NOT fleet.take_change(consumer, sent.event))::integer;
				taken := taken + 1;
				FETCH events INTO sent;
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			IF changes = 0 THEN
				RAISE;
			END IF;
			RAISE WARNING 'slot "%" was consumed only up to a change that failed: %', slot, sqlerrm;
			EXIT;
		END;
		changes := changes + taken;
		dead := dead + given_up;
		upto := ends;
	END LOOP;
	-- Where there was nothing for it the slot moves on as well, but not for each record of others.
	IF changes > 0 OR upto - progress.done > 16 * 1024 * 1024 THEN
		UPDATE fleet.consumers AS c SET done = GREATEST(upto, progress.done),
				by_xid = pg_current_xact_id(), at = clock_timestamp()
			WHERE c.slot = consume.slot;
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.consume(name, regproc, integer, text[]) IS
	'gives the changes of a slot to a function, each once; those that it fails on go to fleet.dead_letters, unless that may pass; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.consume(name, regproc, integer, text[]) FROM PUBLIC;

CREATE FUNCTION fleet.retry_dead_letters(consumer regproc, max_letters integer DEFAULT 1000, ids bigint[] DEFAULT NULL,
	OUT resolved integer, OUT failed integer)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	letter fleet.dead_letters;
	result record;
BEGIN
	PERFORM fleet.check_consumer(consumer);
	resolved := 0;
	failed := 0;
	FOR letter IN SELECT * FROM fleet.dead_letters AS l
		WHERE l.origin = consumer::text AND l.resolved_at IS NULL AND (retry_dead_letters.ids IS NULL OR l.id = ANY (retry_dead_letters.ids))
		ORDER BY l.id LIMIT max_letters FOR UPDATE SKIP LOCKED
	LOOP
		result := fleet.try_change(consumer, letter.change);
		UPDATE fleet.dead_letters AS l SET attempts = l.attempts + 1, tried_at = clock_timestamp(),
				resolved_at = CASE WHEN NOT result.failed THEN clock_timestamp() END,
				reason_sqlstate = COALESCE(result.state, l.reason_sqlstate),
				reason_message = COALESCE(result.message, l.reason_message)
			WHERE l.id = letter.id;
		IF result.failed THEN
			failed := failed + 1;
		ELSE
			resolved := resolved + 1;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.retry_dead_letters(regproc, integer, bigint[]) IS
	'gives a consumer''s dead letters to it again, in their order; returns how many it could take now';
REVOKE EXECUTE ON FUNCTION fleet.retry_dead_letters(regproc, integer, bigint[]) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- drift: snapshots of a region, and what was kept long enough
-- ---------------------------------------------------------------------------
--
-- A snapshot is a few chunks of some thousand rows, each column an array, in the
-- order of the ids: the values of a column resemble each other, so the server's
-- own compression of large values (TOAST) does well.  Its digests are over the
-- arrays' binary form, and so do not depend on how they are compressed.

CREATE TABLE fleet.snapshots (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	region text NOT NULL,
	format integer NOT NULL DEFAULT 1,
	map_version bigint NOT NULL,
	hlc fleet.hlc NOT NULL,
	vehicles bigint NOT NULL,
	rides bigint NOT NULL,
	raw_bytes bigint NOT NULL,
	stored_bytes bigint,
	sha256 bytea NOT NULL,
	took_ms float8
);
CREATE INDEX snapshots_at ON fleet.snapshots (at);
COMMENT ON TABLE fleet.snapshots IS 'snapshots of this node''s region: where its vehicles were, and its open rides';
COMMENT ON COLUMN fleet.snapshots.hlc IS 'the clock before it was taken';
COMMENT ON COLUMN fleet.snapshots.raw_bytes IS 'of the content that the digest is over; stored_bytes is what the server made of it';
COMMENT ON COLUMN fleet.snapshots.sha256 IS 'of the counts, the versions and the digests of the chunks';

CREATE TABLE fleet.snapshot_positions (
	snapshot bigint NOT NULL REFERENCES fleet.snapshots ON DELETE CASCADE,
	part bigint NOT NULL,
	ids text[] NOT NULL,
	epochs bigint[] NOT NULL,
	hlcs bigint[] NOT NULL,
	statuses smallint[] NOT NULL,
	lons float8[] NOT NULL,
	lats float8[] NOT NULL,
	fixes_at timestamptz[] NOT NULL,
	speeds_kmh float8[] NOT NULL,
	headings float8[] NOT NULL,
	altitudes_m float8[] NOT NULL,
	accuracies_m float8[] NOT NULL,
	batteries_pct float8[] NOT NULL,
	outside_regions text[] NOT NULL,
	outside_since timestamptz[] NOT NULL,
	updated_us bigint[] NOT NULL,
	raw_bytes bigint NOT NULL,
	sha256 bytea NOT NULL,
	PRIMARY KEY (snapshot, part)
);
COMMENT ON TABLE fleet.snapshot_positions IS 'the vehicles of snapshots: columns of fleet.vehicles as arrays';
COMMENT ON COLUMN fleet.snapshot_positions.statuses IS 'by their places in fleet.vehicle_status, from 1: a fifth of the bytes of their names';
COMMENT ON COLUMN fleet.snapshot_positions.updated_us IS 'updated_at, in microseconds after the time of the stamp, which makes small numbers';

CREATE TABLE fleet.snapshot_rides (
	snapshot bigint NOT NULL REFERENCES fleet.snapshots ON DELETE CASCADE,
	part bigint NOT NULL,
	ids text[] NOT NULL,
	images jsonb[] NOT NULL,
	raw_bytes bigint NOT NULL,
	sha256 bytea NOT NULL,
	PRIMARY KEY (snapshot, part)
);
COMMENT ON TABLE fleet.snapshot_rides IS 'the open rides of snapshots, see fleet.row_image';

-- lz4 is several times as fast as the server's own method, where it was built with it.
DO $$
DECLARE
	kept record;
BEGIN
	FOR kept IN SELECT a.attrelid::regclass AS rel, a.attname FROM pg_catalog.pg_attribute AS a
		WHERE a.attrelid IN ('fleet.snapshot_positions'::regclass, 'fleet.snapshot_rides'::regclass) AND a.attnum > 0 AND a.attndims > 0
	LOOP
		EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', kept.rel, kept.attname);
	END LOOP;
EXCEPTION WHEN feature_not_supported THEN
	NULL;
END
$$;

CREATE TABLE fleet.restores (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	snapshot bigint NOT NULL,
	what text NOT NULL,
	by_role name NOT NULL DEFAULT session_user,
	restored bigint NOT NULL,
	left_alone bigint NOT NULL
);
COMMENT ON TABLE fleet.restores IS 'what was restored from snapshots, and by whom';

CREATE TABLE fleet.restored_rows (
	restore bigint NOT NULL REFERENCES fleet.restores ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
	kind text NOT NULL,
	key text NOT NULL,
	before_image jsonb,
	after_image jsonb NOT NULL,
	PRIMARY KEY (restore, kind, key)
);
COMMENT ON TABLE fleet.restored_rows IS 'the rows that were restored: as they were before (null = not there), and as they came from the snapshot';

CREATE TABLE fleet.departures_pruned (
	is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one),
	upto fleet.hlc NOT NULL DEFAULT '1970-01-01T00:00:00.000Z/00000',
	departures bigint NOT NULL DEFAULT 0,
	after_kind text NOT NULL DEFAULT '',
	after_key text NOT NULL DEFAULT '',
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE fleet.departures_pruned IS 'up to which stamp departures and graves may have been removed here, and where the next search goes on';
SELECT pg_catalog.pg_extension_config_dump('fleet.departures_pruned', '');

CREATE FUNCTION fleet.snapshot_content(p fleet.snapshot_positions) RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT array_send(ARRAY[array_send(p.ids), array_send(p.epochs), array_send(p.hlcs), array_send(p.statuses), array_send(p.lons),
		array_send(p.lats), array_send(p.fixes_at), array_send(p.speeds_kmh), array_send(p.headings), array_send(p.altitudes_m),
		array_send(p.accuracies_m), array_send(p.batteries_pct), array_send(p.outside_regions), array_send(p.outside_since),
		array_send(p.updated_us)]);
END;
COMMENT ON FUNCTION fleet.snapshot_content(fleet.snapshot_positions) IS 'internal: what the digest of a chunk of vehicles is over';
REVOKE EXECUTE ON FUNCTION fleet.snapshot_content(fleet.snapshot_positions) FROM PUBLIC;

CREATE FUNCTION fleet.snapshot_content(p fleet.snapshot_rides) RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT array_send(ARRAY[array_send(p.ids), array_send(p.images)]);
END;
COMMENT ON FUNCTION fleet.snapshot_content(fleet.snapshot_rides) IS 'internal: what the digest of a chunk of rides is over';
REVOKE EXECUTE ON FUNCTION fleet.snapshot_content(fleet.snapshot_rides) FROM PUBLIC;

CREATE FUNCTION fleet.snapshot_digest(s fleet.snapshots, chunks bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT sha256(convert_to(concat_ws(' ', s.format, s.region, s.map_version, s.hlc::bigint, s.vehicles, s.rides), 'UTF8') || COALESCE(chunks, ''));
END;
COMMENT ON FUNCTION fleet.snapshot_digest(fleet.snapshots, bytea) IS 'internal: the digest of a snapshot, given those of its chunks, one after the other';
REVOKE EXECUTE ON FUNCTION fleet.snapshot_digest(fleet.snapshots, bytea) FROM PUBLIC;

CREATE FUNCTION fleet.read_positions() RETURNS SETOF fleet.snapshot_positions
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT 0::bigint, v.n / 10000, array_agg(v.vehicle_id), array_agg(v.epoch), array_agg(v.hlc::bigint),
			array_agg(array_position(enum_range(NULL::fleet.vehicle_status), v.status)::smallint),
			array_agg(fleet.lon(v.location)), array_agg(fleet.lat(v.location)), array_agg(v.fix_at), array_agg(v.speed_kmh), array_agg(v.heading),
			array_agg(v.altitude_m), array_agg(v.accuracy_m), array_agg(v.battery_pct), array_agg(v.outside_region), array_agg(v.outside_since),
			array_agg((extract(epoch FROM v.updated_at - v.hlc::timestamptz) * 1000000)::bigint), 0::bigint, ''::bytea
		FROM (SELECT w.*, row_number() OVER (ORDER BY w.vehicle_id COLLATE "C") - 1 AS n FROM fleet.local_vehicles AS w) AS v
		GROUP BY v.n / 10000;
END
$$;
COMMENT ON FUNCTION fleet.read_positions() IS 'internal: the vehicles of this region as chunks of a snapshot, as the calling statement sees them';
REVOKE EXECUTE ON FUNCTION fleet.read_positions() FROM PUBLIC;

CREATE FUNCTION fleet.read_open_rides() RETURNS SETOF fleet.snapshot_rides
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT 0::bigint, r.n / 2000, array_agg(r.ride_id), array_agg(r.image), 0::bigint, ''::bytea
		FROM (SELECT o.ride_id, fleet.row_image(o) AS image, row_number() OVER (ORDER BY o.ride_id COLLATE "C") - 1 AS n
			FROM fleet.local_rides AS o WHERE o.status < 'COMPLETED') AS r
		GROUP BY r.n / 2000;
END
$$;
COMMENT ON FUNCTION fleet.read_open_rides() IS 'internal: the open rides of this region as chunks of a snapshot, as the calling statement sees them';
REVOKE EXECUTE ON FUNCTION fleet.read_open_rides() FROM PUBLIC;

CREATE FUNCTION fleet.require_own_region() RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
BEGIN
	IF own IS NULL THEN
		RAISE EXCEPTION 'this node owns no region' USING ERRCODE = 'RF004', HINT = 'Call it on the node of a region.';
	END IF;
	RETURN own;
END
$$;
COMMENT ON FUNCTION fleet.require_own_region() IS 'internal: the region that this node owns, or an error';
REVOKE EXECUTE ON FUNCTION fleet.require_own_region() FROM PUBLIC;

-- work_mem: the rows are sorted and gathered in memory, for some hundred thousand vehicles.
CREATE FUNCTION fleet.take_snapshot() RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET work_mem = '128MB'
AS $$
DECLARE
	started timestamptz := clock_timestamp();
	s fleet.snapshots;
BEGIN
	s.region := fleet.require_own_region();
	s.id := nextval('fleet.snapshots_id_seq');
	s.format := 1;
	s.hlc := fleet.hlc_now();
	-- One statement, so that all of it is one snapshot of the database.
	WITH positions AS (
		INSERT INTO fleet.snapshot_positions
			SELECT s.id, p.part, p.ids, p.epochs, p.hlcs, p.statuses, p.lons, p.lats, p.fixes_at, p.speeds_kmh, p.headings, p.altitudes_m, p.accuracies_m,
				p.batteries_pct, p.outside_regions, p.outside_since, p.updated_us, octet_length(p.content), sha256(p.content)
			FROM (SELECT r.*, fleet.snapshot_content(r) AS content FROM fleet.read_positions() AS r OFFSET 0) AS p
			RETURNING 1 AS kind, part, cardinality(ids) AS n, raw_bytes, sha256
	), rides AS (
		INSERT INTO fleet.snapshot_rides
			SELECT s.id, p.part, p.ids, p.images, octet_length(p.content), sha256(p.content)
			FROM (SELECT r.*, fleet.snapshot_content(r) AS content FROM fleet.read_open_rides() AS r OFFSET 0) AS p
			RETURNING 2 AS kind, part, cardinality(ids) AS n, raw_bytes, sha256
	), taken AS (
		SELECT COALESCE(sum(c.n) FILTER (WHERE c.kind = 1), 0) AS vehicles, COALESCE(sum(c.n) FILTER (WHERE c.kind = 2), 0) AS rides,
			COALESCE(sum(c.raw_bytes), 0) AS raw_bytes, string_agg(c.sha256, '' ORDER BY c.kind, c.part) AS chunks,
			(SELECT m.version FROM fleet.map AS m) AS map_version
		FROM (SELECT * FROM positions UNION ALL SELECT * FROM rides) AS c
	)
	INSERT INTO fleet.snapshots (id, region, map_version, hlc, vehicles, rides, raw_bytes, sha256) OVERRIDING SYSTEM VALUE
		SELECT s.id, s.region, t.map_version, s.hlc, t.vehicles, t.rides, t.raw_bytes,
			fleet.snapshot_digest(ROW(s.id, NULL, s.region, s.format, t.map_version, s.hlc, t.vehicles, t.rides, NULL, NULL, NULL, NULL)::fleet.snapshots, t.chunks)
		FROM taken AS t;
	UPDATE fleet.snapshots AS u SET stored_bytes = fleet.snapshot_stored(s.id),
			took_ms = extract(epoch FROM clock_timestamp() - started) * 1000
		WHERE u.id = s.id;
	RETURN s.id;
END
$$;
COMMENT ON FUNCTION fleet.take_snapshot() IS
	'keeps where the vehicles of this region are, and its open rides, compressed and with digests; returns its number in fleet.snapshots';
REVOKE EXECUTE ON FUNCTION fleet.take_snapshot() FROM PUBLIC;

CREATE FUNCTION fleet.snapshot_stored(id bigint) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	-- A column that was moved out of the row is not read for this.
	SELECT COALESCE((SELECT sum(pg_column_size(p.ids) + pg_column_size(p.epochs) + pg_column_size(p.hlcs) + pg_column_size(p.statuses)
				+ pg_column_size(p.lons) + pg_column_size(p.lats) + pg_column_size(p.fixes_at) + pg_column_size(p.speeds_kmh)
				+ pg_column_size(p.headings) + pg_column_size(p.altitudes_m) + pg_column_size(p.accuracies_m)
				+ pg_column_size(p.batteries_pct) + pg_column_size(p.outside_regions) + pg_column_size(p.outside_since)
				+ pg_column_size(p.updated_us)) FROM fleet.snapshot_positions AS p WHERE p.snapshot = snapshot_stored.id), 0)
		+ COALESCE((SELECT sum(pg_column_size(p.ids) + pg_column_size(p.images))
			FROM fleet.snapshot_rides AS p WHERE p.snapshot = snapshot_stored.id), 0);
END;
COMMENT ON FUNCTION fleet.snapshot_stored(bigint) IS 'internal: bytes that the chunks of a snapshot take, compressed';
REVOKE EXECUTE ON FUNCTION fleet.snapshot_stored(bigint) FROM PUBLIC;

CREATE FUNCTION fleet.verify_snapshot(id bigint, OUT ok boolean, OUT problem text)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s fleet.snapshots;
	chunks bytea;
	vehicles bigint;
	rides bigint;
BEGIN
	SELECT * INTO s FROM fleet.snapshots AS t WHERE t.id = verify_snapshot.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'snapshot % does not exist', id USING ERRCODE = 'undefined_object', HINT = 'The table fleet.snapshots lists them.';
	END IF;
	SELECT string_agg(sha256(c.content), '' ORDER BY c.kind, c.part), COALESCE(sum(c.n) FILTER (WHERE c.kind = 1), 0), COALESCE(sum(c.n) FILTER (WHERE c.kind = 2), 0)
		INTO chunks, vehicles, rides
		FROM (SELECT 1 AS kind, p.part, cardinality(p.ids) AS n, fleet.snapshot_content(p) AS content FROM fleet.snapshot_positions AS p WHERE p.snapshot = s.id
			UNION ALL SELECT 2, p.part, cardinality(p.ids), fleet.snapshot_content(p) FROM fleet.snapshot_rides AS p WHERE p.snapshot = s.id) AS c;
	problem := CASE WHEN (vehicles, rides) <> (s.vehicles, s.rides)
			THEN format('it has %s vehicles and %s rides, and had %s and %s', vehicles, rides, s.vehicles, s.rides)
		WHEN fleet.snapshot_digest(s, chunks) <> s.sha256 THEN 'its content does not have its digest' END;
	ok := problem IS NULL;
EXCEPTION WHEN data_corrupted OR data_exception OR internal_error THEN	-- it cannot even be read
	problem := sqlerrm;
	ok := false;
END
$$;
COMMENT ON FUNCTION fleet.verify_snapshot(bigint) IS 'whether a snapshot is what it was when it was taken, by its counts and digests; if not, what is wrong';
REVOKE EXECUTE ON FUNCTION fleet.verify_snapshot(bigint) FROM PUBLIC;

CREATE FUNCTION fleet.thin_snapshots(as_of timestamptz DEFAULT now()) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	gone integer;
BEGIN
	-- The newest is kept whatever its age: when nobody takes any more, it is all there is.
	DELETE FROM fleet.snapshots AS d USING (
			SELECT s.id, s.at, row_number() OVER (ORDER BY s.at DESC, s.id DESC) AS newest,
				row_number() OVER (PARTITION BY date_trunc('hour', s.at, 'UTC') ORDER BY s.at, s.id) AS in_hour,
				row_number() OVER (PARTITION BY date_trunc('day', s.at, 'UTC') ORDER BY s.at, s.id) AS in_day
			FROM fleet.snapshots AS s) AS n
		WHERE n.id = d.id AND n.newest > 1 AND n.at < as_of - current_setting('fleet.snapshot_keep_all')::interval
			AND NOT (n.in_hour = 1 AND n.at >= as_of - current_setting('fleet.snapshot_keep_hourly')::interval)
			AND NOT (n.in_day = 1 AND n.at >= as_of - current_setting('fleet.snapshot_keep_daily')::interval);
	GET DIAGNOSTICS gone = ROW_COUNT;
	DELETE FROM fleet.restores AS r WHERE r.at < as_of - current_setting('fleet.log_retention')::interval;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.thin_snapshots(timestamptz) IS
	'removes snapshots that are old: by and by only the first of each hour, then of each day, then none but the newest stays; returns how many went';
REVOKE EXECUTE ON FUNCTION fleet.thin_snapshots(timestamptz) FROM PUBLIC;

CREATE FUNCTION fleet.pruned_upto() RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(max(p.upto::bigint), 0) FROM fleet.departures_pruned AS p;
END;
COMMENT ON FUNCTION fleet.pruned_upto() IS 'internal: the stamp up to which departures and graves may be gone here';
REVOKE EXECUTE ON FUNCTION fleet.pruned_upto() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.pruned_upto() TO fleet_node;

CREATE FUNCTION fleet.traces(kind text, keys text[]) RETURNS TABLE (region text, key text, epoch bigint, hlc bigint, target text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.own_region();
	other text;
BEGIN
	IF keys = '{}' THEN
		RETURN;
	END IF;
	FOR other IN SELECT m.name FROM fleet.map_regions AS m WHERE m.name <> own ORDER BY m.name LOOP
		RETURN QUERY SELECT other, t->>'key', (t->>'epoch')::bigint, (t->>'hlc')::bigint, t->>'target'
			FROM jsonb_array_elements(fleet.ask(other, format('SELECT pg_catalog.jsonb_agg(fleet.copy_row(%L, k) - ''image'') FROM pg_catalog.unnest(%L::text[]) AS k',
				kind, keys))::jsonb) AS t WHERE t <> 'null';
	END LOOP;
END
$$;
COMMENT ON FUNCTION fleet.traces(text, text[]) IS
	'internal: what the other regions know of these rides or vehicles; the target is the region itself where one is live, and null of a grave';
REVOKE EXECUTE ON FUNCTION fleet.traces(text, text[]) FROM PUBLIC;

CREATE FUNCTION fleet.snapshot_candidates(snapshot bigint, kind text, part bigint)
	RETURNS TABLE (key text, epoch bigint, hlc bigint, vehicle text, image jsonb)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF kind = 'ride' THEN
		RETURN QUERY SELECT i.id, (i.image->>'epoch')::bigint, (i.image->>'hlc')::fleet.hlc::bigint, i.image->>'vehicle_id', i.image
			FROM fleet.snapshot_rides AS p, unnest(p.ids, p.images) AS i(id, image)
			WHERE p.snapshot = snapshot_candidates.snapshot AND p.part = snapshot_candidates.part
				AND NOT EXISTS (SELECT FROM fleet.local_rides AS r WHERE r.ride_id = i.id);
		RETURN;
	END IF;
	RETURN QUERY SELECT i.id, i.epoch, i.hlc, NULL, fleet.row_image(jsonb_populate_record(NULL::fleet.vehicles, jsonb_build_object('vehicle_id', i.id,
			'region', s.region, 'status', (enum_range(NULL::fleet.vehicle_status))[i.status], 'location', CASE WHEN i.lon IS NOT NULL THEN fleet.make_point(i.lon, i.lat)::text END, 'fix_at', i.fix_at,
			'speed_kmh', i.speed, 'heading', i.heading, 'altitude_m', i.altitude, 'accuracy_m', i.accuracy, 'battery_pct', i.battery,
			'outside_region', i.outside_region, 'outside_since', i.outside_since,
			'updated_at', i.hlc::fleet.hlc::timestamptz + i.updated_us * interval '1 microsecond', 'epoch', i.epoch, 'hlc', i.hlc::fleet.hlc::text)))
		FROM fleet.snapshots AS s JOIN fleet.snapshot_positions AS p ON p.snapshot = s.id,
			unnest(p.ids, p.epochs, p.hlcs, p.statuses, p.lons, p.lats, p.fixes_at, p.speeds_kmh, p.headings, p.altitudes_m, p.accuracies_m, p.batteries_pct,
				p.outside_regions, p.outside_since, p.updated_us)
				AS i(id, epoch, hlc, status, lon, lat, fix_at, speed, heading, altitude, accuracy, battery, outside_region, outside_since, updated_us)
		WHERE s.id = snapshot_candidates.snapshot AND p.part = snapshot_candidates.part
			AND NOT EXISTS (SELECT FROM fleet.local_vehicles AS v WHERE v.vehicle_id = i.id AND (v.epoch, v.hlc::bigint) >= (i.epoch, i.hlc));
END
$$;
COMMENT ON FUNCTION fleet.snapshot_candidates(bigint, text, bigint) IS
	'internal: what a chunk has that is missing here or, of vehicles, older here';
REVOKE EXECUTE ON FUNCTION fleet.snapshot_candidates(bigint, text, bigint) FROM PUBLIC;

CREATE FUNCTION fleet.judge_candidates(snapshot bigint, kind text, part bigint)
	RETURNS TABLE (key text, image jsonb, obstacle text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	keys text[] := ARRAY(SELECT c.key FROM fleet.snapshot_candidates(snapshot, kind, part) AS c);
	vehicles text[] := ARRAY(SELECT DISTINCT c.vehicle FROM fleet.snapshot_candidates(snapshot, kind, part) AS c
		WHERE c.vehicle IS NOT NULL AND NOT EXISTS (SELECT FROM fleet.local_vehicles AS v WHERE v.vehicle_id = c.vehicle));
BEGIN
	RETURN QUERY
	WITH elsewhere AS MATERIALIZED (SELECT * FROM fleet.traces(judge_candidates.kind, keys)),
		away AS MATERIALIZED (SELECT t.key, t.region FROM fleet.traces('vehicle', vehicles) AS t WHERE t.target = t.region
			UNION SELECT d.key, d.target FROM fleet.departures AS d WHERE d.kind = 'vehicle' AND d.key = ANY (vehicles) AND d.target IS NOT NULL)
	SELECT c.key, c.image, COALESCE(
		(SELECT CASE WHEN d.target IS NULL THEN 'it was deleted' ELSE format('it left for region "%s"', d.target) END
			FROM fleet.departures AS d WHERE d.kind = judge_candidates.kind AND d.key = c.key AND d.epoch >= c.epoch),
		(SELECT format('it is in region "%s"', min(t.region)) FROM elsewhere AS t WHERE t.key = c.key AND t.target = t.region HAVING count(*) > 0),
		(SELECT format('region "%s" knows of a later epoch or change', min(t.region)) FROM elsewhere AS t
			WHERE t.key = c.key AND (t.epoch > c.epoch OR t.epoch = c.epoch AND (t.target IS NULL OR t.hlc > c.hlc)) HAVING count(*) > 0),
		(SELECT format('its vehicle is in region "%s"', min(a.region)) FROM away AS a WHERE a.key = c.vehicle HAVING count(*) > 0))
	FROM fleet.snapshot_candidates(judge_candidates.snapshot, judge_candidates.kind, judge_candidates.part) AS c;
END
$$;
COMMENT ON FUNCTION fleet.judge_candidates(bigint, text, bigint) IS
	'internal: what a chunk has that is missing or older here, and why it must not come back, by what this and all other regions know';
REVOKE EXECUTE ON FUNCTION fleet.judge_candidates(bigint, text, bigint) FROM PUBLIC;

CREATE FUNCTION fleet.put_row(kind text, image jsonb) RETURNS boolean
	AS 'MODULE_PATHNAME', 'fleet_drift_put_row'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION fleet.put_row(text, jsonb) IS
	'internal: writes a row with its version, unless what is here is as new; an error where it has left or was deleted';
REVOKE EXECUTE ON FUNCTION fleet.put_row(text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.try_put_row(restore bigint, kind text, key text, image jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before_image jsonb;
BEGIN
	IF kind = 'vehicle' THEN
		before_image := (SELECT fleet.row_image(v) FROM fleet.local_vehicles AS v WHERE v.vehicle_id = try_put_row.key);
	END IF;
	IF NOT fleet.put_row(kind, image) THEN
		RETURN 'it has come, or changed, meanwhile';
	END IF;
	INSERT INTO fleet.restored_rows VALUES (restore, kind, key, before_image, image);
	RETURN NULL;
EXCEPTION WHEN integrity_constraint_violation OR lock_not_available OR serialization_failure THEN
	RETURN sqlerrm;
END
$$;
COMMENT ON FUNCTION fleet.try_put_row(bigint, text, text, jsonb) IS 'internal: restores one row, in a subtransaction; returns why not';
REVOKE EXECUTE ON FUNCTION fleet.try_put_row(bigint, text, text, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.check_restorable(id bigint, what text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.require_own_region();
	s fleet.snapshots;
	found_bad text;
	forgotten text;
BEGIN
	IF what NOT IN ('positions', 'missing rides') THEN
		RAISE EXCEPTION '"%" cannot be restored', what
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is "positions" or "missing rides".';
	END IF;
	found_bad := (fleet.verify_snapshot(id)).problem;
	IF found_bad IS NOT NULL THEN
		RAISE EXCEPTION 'snapshot % is damaged: %', id, found_bad
			USING ERRCODE = 'data_corrupted', HINT = 'Take another one; fleet.verify_snapshot(id) says which are good.';
	END IF;
	SELECT * INTO s FROM fleet.snapshots AS t WHERE t.id = check_restorable.id;
	IF s.region <> own THEN
		RAISE EXCEPTION 'snapshot % is of region "%", not of "%"', id, s.region, own USING ERRCODE = 'invalid_parameter_value';
	END IF;
	forgotten := (SELECT min(m.name) FROM fleet.map_regions AS m WHERE s.hlc::bigint
		<= CASE WHEN m.name = own THEN fleet.pruned_upto() ELSE fleet.ask(m.name, 'SELECT fleet.pruned_upto()')::bigint END);
	IF forgotten IS NOT NULL THEN
		RAISE EXCEPTION 'snapshot % is too old to be restored', id
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Region "%s" has forgotten some of what left it, or was deleted, since.', forgotten),
			HINT = 'The setting fleet.departure_retention says how long that is kept.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.check_restorable(bigint, text) IS 'internal: raises an error where a snapshot cannot be restored safely';
REVOKE EXECUTE ON FUNCTION fleet.check_restorable(bigint, text) FROM PUBLIC;

CREATE FUNCTION fleet.restore_snapshot(id bigint, what text, dry_run boolean DEFAULT true)
	RETURNS TABLE (kind text, key text, action text, reason text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	restore bigint := CASE WHEN NOT dry_run THEN nextval('fleet.restores_id_seq') END;
	restored bigint := 0;
	left_alone bigint := 0;
	chunk bigint;
	c record;
BEGIN
	PERFORM fleet.check_restorable(id, what);
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	kind := CASE what WHEN 'positions' THEN 'vehicle' ELSE 'ride' END;
	FOR chunk IN SELECT p.part FROM fleet.snapshot_positions AS p WHERE p.snapshot = restore_snapshot.id AND kind = 'vehicle'
		UNION ALL SELECT p.part FROM fleet.snapshot_rides AS p WHERE p.snapshot = restore_snapshot.id AND kind = 'ride' ORDER BY 1
	LOOP
		FOR c IN SELECT * FROM fleet.judge_candidates(id, kind, chunk) AS j LOOP
			key := c.key;
			reason := c.obstacle;
			IF reason IS NULL AND NOT dry_run THEN
				reason := fleet.try_put_row(restore, kind, key, c.image);
			END IF;
			action := CASE WHEN reason IS NOT NULL THEN 'left alone' WHEN dry_run THEN 'would be restored' ELSE 'restored' END;
			restored := restored + (reason IS NULL)::integer;
			left_alone := left_alone + (reason IS NOT NULL)::integer;
			RETURN NEXT;
		END LOOP;
	END LOOP;
	IF NOT dry_run THEN
		INSERT INTO fleet.restores (id, snapshot, what, restored, left_alone) OVERRIDING SYSTEM VALUE
			VALUES (restore, restore_snapshot.id, restore_snapshot.what, restored, left_alone);
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.restore_snapshot(bigint, text, boolean) IS
	'brings back from a snapshot "positions" of vehicles or "missing rides", where no region knows anything newer; says what is, or would be, done with each row that is missing or older here';
REVOKE EXECUTE ON FUNCTION fleet.restore_snapshot(bigint, text, boolean) FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- jobs: what runs by itself, with pg_cron
-- ---------------------------------------------------------------------------
--
-- fleet.job_list() says what there is, fleet.job_settings what somebody wants
-- otherwise.  pg_cron calls fleet.run_job(name), which does not run while the same job
-- runs elsewhere, gives each step a deadline, and writes down how it went.

CREATE TABLE fleet.job_settings (
	job text PRIMARY KEY,
	every interval CHECK (every > interval '0'),
	deadline interval CHECK (deadline BETWEEN interval '1 millisecond' AND interval '1 day'),
	wanted boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE fleet.job_settings IS 'jobs that are to run otherwise than fleet.job_list() says; null = as it says. See fleet.schedule_jobs';
COMMENT ON COLUMN fleet.job_settings.wanted IS 'false = the job is not scheduled, and does nothing where it is called';
SELECT pg_catalog.pg_extension_config_dump('fleet.job_settings', '');

CREATE TABLE fleet.job_runs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	job text NOT NULL,
	started timestamptz NOT NULL DEFAULT clock_timestamp(),
	ended timestamptz,
	ok boolean,
	error text,
	detail text
);
CREATE INDEX job_runs_job ON fleet.job_runs (job, id);
CREATE INDEX job_runs_open ON fleet.job_runs (job) WHERE ended IS NULL;
COMMENT ON TABLE fleet.job_runs IS 'how jobs went, for fleet.job_runs_retention';
COMMENT ON COLUMN fleet.job_runs.ok IS 'null = it still runs, or was left out because it did';
COMMENT ON COLUMN fleet.job_runs.detail IS 'what it returned: how many rows, or which snapshot';

CREATE TABLE fleet.activity (
	hour timestamptz PRIMARY KEY,
	rides_requested bigint NOT NULL,
	rides_in bigint NOT NULL,
	rides_out bigint NOT NULL,
	mean_ms float8,
	max_ms float8
);
COMMENT ON TABLE fleet.activity IS 'rides of this region by the hour: requested here, handed off to and from here; what stays when the logs are removed';
COMMENT ON COLUMN fleet.activity.mean_ms IS 'of handoffs from here, as their coordinators saw them';
SELECT pg_catalog.pg_extension_config_dump('fleet.activity', '');

CREATE FUNCTION fleet.prunable_departures(max_rows integer) RETURNS SETOF fleet.departures
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	seen fleet.hlc := (SELECT fleet.min(s.acknowledged) FROM fleet.replica_slots AS s JOIN fleet.map_replicas AS m ON m.name = s.replica);
	progress fleet.departures_pruned;
BEGIN
	-- A replica may still need what it has not acknowledged.
	IF EXISTS (SELECT FROM fleet.map_replicas AS m LEFT JOIN fleet.replica_slots AS s ON s.replica = m.name WHERE s.acknowledged IS NULL) THEN
		RETURN;
	END IF;
	SELECT * INTO progress FROM fleet.departures_pruned;
	RETURN QUERY SELECT * FROM fleet.departures AS d
		WHERE (d.kind, d.key) > (COALESCE(progress.after_kind, ''), COALESCE(progress.after_key, ''))
			AND d.settled_hlc IS NOT NULL AND d.departed_at < now() - current_setting('fleet.departure_retention')::interval
			AND (seen IS NULL OR d.hlc OPERATOR(fleet.<) seen AND d.settled_hlc OPERATOR(fleet.<) seen)
			AND NOT EXISTS (SELECT FROM fleet.decisions AS c WHERE c.dtxid = d.dtxid)
		ORDER BY d.kind, d.key LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION fleet.prunable_departures(integer) IS
	'internal: the next departures and graves that are old, settled, and known to all replicas';
REVOKE EXECUTE ON FUNCTION fleet.prunable_departures(integer) FROM PUBLIC;

CREATE FUNCTION fleet.prune_departures(max_rows integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old fleet.departures[];
	last fleet.departures;
	gone integer;
	newest fleet.hlc;
BEGIN
	PERFORM fleet.require_own_region();
	INSERT INTO fleet.departures_pruned DEFAULT VALUES ON CONFLICT DO NOTHING;
	PERFORM FROM fleet.departures_pruned FOR UPDATE;	-- one at a time
	old := ARRAY(SELECT d FROM fleet.prunable_departures(max_rows) AS d);
	last := old[cardinality(old)];
	-- A departure may go when another region knows what became of the row: a ride at that epoch or later; a vehicle
	-- only that it was deleted, for vehicles live long, and their ids must stay taken where they have been.  A grave goes
	-- last: without it a departure that leads to the row would look like a row that was lost.
	WITH trace AS MATERIALIZED (
		SELECT 'ride' AS kind, t.* FROM fleet.traces('ride', ARRAY(SELECT o.key FROM unnest(old) AS o WHERE o.kind = 'ride')) AS t
		UNION ALL SELECT 'vehicle', t.* FROM fleet.traces('vehicle', ARRAY(SELECT o.key FROM unnest(old) AS o WHERE o.kind = 'vehicle')) AS t
	), removed AS (
		DELETE FROM fleet.departures AS d USING unnest(old) AS o
		WHERE d.kind = o.kind AND d.key = o.key AND d.epoch = o.epoch AND d.hlc OPERATOR(fleet.=) o.hlc
			AND CASE WHEN o.target IS NULL THEN NOT EXISTS (SELECT FROM trace AS t WHERE t.kind = o.kind AND t.key = o.key AND t.target <> t.region)
				ELSE EXISTS (SELECT FROM trace AS t WHERE t.kind = o.kind AND t.key = o.key AND t.epoch >= o.epoch
					AND (o.kind = 'ride' OR t.target IS NULL)) END
		RETURNING d.hlc
	)
	SELECT count(*), fleet.max(r.hlc) INTO gone, newest FROM removed AS r;
	UPDATE fleet.departures_pruned AS p SET departures = p.departures + gone, at = clock_timestamp(),
		upto = fleet.hlc_larger(p.upto, COALESCE(newest, p.upto)),
		after_kind = COALESCE(last.kind, ''), after_key = COALESCE(last.key, '');
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_departures(integer) IS
	'removes old departures and graves that nobody needs any more, looking at so many at a time; returns how many went';
REVOKE EXECUTE ON FUNCTION fleet.prune_departures(integer) FROM PUBLIC;

CREATE FUNCTION fleet.oldest_open() RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT LEAST((SELECT min(d.decided_at) FROM fleet.decisions AS d),
		(SELECT min(d.departed_at) FROM fleet.departures AS d WHERE d.settled_hlc IS NULL),
		(SELECT min(p.prepared) FROM pg_prepared_xacts AS p WHERE p.database = current_database() AND p.gid LIKE 'fleet:%'));
END;
COMMENT ON FUNCTION fleet.oldest_open() IS
	'internal: since when this node has a decision that is not confirmed, a departure that is not settled, or a prepared branch; null = it has none';
REVOKE EXECUTE ON FUNCTION fleet.oldest_open() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.oldest_open() TO fleet_node;

CREATE FUNCTION fleet.settled_before() RETURNS timestamptz
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.require_own_region();
	oldest timestamptz;
BEGIN
	oldest := (SELECT min(CASE WHEN m.name = own THEN fleet.oldest_open() ELSE fleet.ask(m.name, 'SELECT fleet.oldest_open()')::timestamptz END)
		FROM fleet.map_regions AS m);
	-- A branch begins before it is prepared, by clocks that differ: a day is more than either.
	RETURN LEAST(now() - current_setting('fleet.log_retention')::interval, oldest - interval '1 day');
END
$$;
COMMENT ON FUNCTION fleet.settled_before() IS
	'internal: every transaction that began before this is settled on all nodes, and its logs are older than fleet.log_retention';
REVOKE EXECUTE ON FUNCTION fleet.settled_before() FROM PUBLIC;

CREATE FUNCTION fleet.prune_handoff_log(max_rows integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before timestamptz := fleet.settled_before();
	gone integer;
BEGIN
	-- What explains the epoch of a row that is here, or has left and is remembered, stays: fleet.verify() asks for it.
	DELETE FROM fleet.handoff_log AS d USING (
			SELECT h.id FROM fleet.handoff_log AS h WHERE h.started_at < before AND h.status <> 'departed'
				AND NOT EXISTS (SELECT FROM fleet.local_rides AS r WHERE r.ride_id = h.ride_id AND r.epoch = h.epoch)
				AND NOT EXISTS (SELECT FROM fleet.local_vehicles AS v WHERE h.ride_id IS NULL AND v.vehicle_id = h.vehicle_id AND v.epoch = h.epoch)
				AND NOT EXISTS (SELECT FROM fleet.departures AS p WHERE p.epoch = h.epoch
					AND p.kind = CASE WHEN h.ride_id IS NULL THEN 'vehicle' ELSE 'ride' END AND p.key = COALESCE(h.ride_id, h.vehicle_id))
			ORDER BY h.id LIMIT max_rows) AS o
		WHERE d.id = o.id;
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_handoff_log(integer) IS
	'removes up to so many old rows of the log of handoffs that prove nothing any more; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.prune_handoff_log(integer) FROM PUBLIC;

CREATE FUNCTION fleet.prune_call_log(max_rows integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before timestamptz := fleet.settled_before();
	gone integer;
BEGIN
	DELETE FROM fleet.call_log AS d USING (SELECT c.dtxid FROM fleet.call_log AS c WHERE c.at < before LIMIT max_rows) AS o
		WHERE d.dtxid = o.dtxid;
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_call_log(integer) IS
	'removes up to so many old rows of the log of calls that prove nothing any more; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.prune_call_log(integer) FROM PUBLIC;

CREATE FUNCTION fleet.prune_idempotency_keys(max_rows integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	gone integer;
BEGIN
	PERFORM fleet.require_own_region();
	-- A key is as old as the change that was made with it.  Those of open rides go with the next change.
	UPDATE fleet.local_rides AS u SET idempotency_keys = NULL
		FROM (SELECT r.ride_id FROM fleet.local_rides AS r WHERE r.idempotency_keys IS NOT NULL AND r.status >= 'COMPLETED'
				AND r.updated_at < now() - interval '24 hours' LIMIT max_rows FOR UPDATE SKIP LOCKED) AS o
		WHERE u.ride_id = o.ride_id;
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_idempotency_keys(integer) IS
	'removes the idempotency keys of up to so many rides that were closed more than 24 hours ago; returns of how many';
REVOKE EXECUTE ON FUNCTION fleet.prune_idempotency_keys(integer) FROM PUBLIC;

CREATE FUNCTION fleet.prune_dead_letters(max_rows integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	gone integer;
BEGIN
	DELETE FROM fleet.dead_letters AS d USING (SELECT l.id FROM fleet.dead_letters AS l
			WHERE l.resolved_at < now() - current_setting('fleet.log_retention')::interval ORDER BY l.id LIMIT max_rows) AS o
		WHERE d.id = o.id;
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_dead_letters(integer) IS 'removes up to so many dead letters that were resolved long ago; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.prune_dead_letters(integer) FROM PUBLIC;

CREATE FUNCTION fleet.prune_job_runs(max_rows integer DEFAULT 10000) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	keep interval := current_setting('fleet.job_runs_retention');
	gone integer;
BEGIN
	DELETE FROM fleet.job_runs AS d USING (SELECT r.id FROM fleet.job_runs AS r WHERE r.ended < now() - keep ORDER BY r.id LIMIT max_rows) AS o
		WHERE d.id = o.id;
	GET DIAGNOSTICS gone = ROW_COUNT;
	-- pg_cron keeps its own account of each call, for ever.
	IF to_regclass('cron.job_run_details') IS NOT NULL THEN
		EXECUTE 'DELETE FROM cron.job_run_details WHERE database = pg_catalog.current_database() AND command LIKE $1 AND end_time < pg_catalog.now() - $2'
			USING 'CALL fleet.run_job%', keep;
	END IF;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION fleet.prune_job_runs(integer) IS
	'removes up to so many old rows of fleet.job_runs, and pg_cron''s own about the same runs; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.prune_job_runs(integer) FROM PUBLIC;

CREATE FUNCTION fleet.roll_up_activity() RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.require_own_region();
	-- The last hour that is there was not over, and a handoff in it perhaps not settled.
	since timestamptz := COALESCE((SELECT max(a.hour) - interval '1 hour' FROM fleet.activity AS a), date_trunc('day', now(), 'UTC'));
	hours integer;
BEGIN
	INSERT INTO fleet.activity AS a
		SELECT h.hour, (SELECT count(*) FROM fleet.local_rides AS r WHERE r.requested_at >= h.hour AND r.requested_at < h.hour + interval '1 hour'),
			count(l.id) FILTER (WHERE l.status = 'arrived'), count(l.id) FILTER (WHERE l.status IN ('departed', 'settled')),
			avg(l.latency_ms) FILTER (WHERE l.status = 'settled'), max(l.latency_ms) FILTER (WHERE l.status = 'settled')
		FROM generate_series(since, now(), interval '1 hour') AS h(hour)
			LEFT JOIN fleet.handoff_log AS l ON date_trunc('hour', l.started_at, 'UTC') = h.hour AND l.started_at >= since AND l.ride_id IS NOT NULL
		GROUP BY h.hour
		ON CONFLICT (hour) DO UPDATE SET rides_requested = GREATEST(a.rides_requested, excluded.rides_requested),
			rides_in = excluded.rides_in, rides_out = excluded.rides_out, mean_ms = excluded.mean_ms, max_ms = excluded.max_ms;
	GET DIAGNOSTICS hours = ROW_COUNT;
	RETURN hours;
END
$$;
COMMENT ON FUNCTION fleet.roll_up_activity() IS
	'brings fleet.activity up to date; returns how many hours were written';
REVOKE EXECUTE ON FUNCTION fleet.roll_up_activity() FROM PUBLIC;

CREATE FUNCTION fleet.job_list() RETURNS TABLE (job text, function text, arguments text, every interval, deadline interval, node text, repeats boolean, purpose text)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	VALUES
		('drift', 'fleet.drift_job', '', interval '10 seconds', interval '9 seconds', 'member', false, 'compares a sample of rows with where they should be, and heals'),
		('snapshot', 'fleet.take_snapshot', '', interval '1 minute', interval '30 seconds', 'region', false, 'keeps where vehicles are, and open rides'),
		('compare', 'fleet.compare_all', '', interval '5 minutes', interval '4 minutes', 'replica', false, 'compares all rows by digests'),
		('activity', 'fleet.roll_up_activity', '', interval '10 minutes', interval '1 minute', 'region', false, 'sums up the logs by the hour'),
		('departures', 'fleet.prune_departures', '1000', interval '10 minutes', interval '2 minutes', 'region', true, 'removes departures and graves that nobody needs'),
		('handoff_log', 'fleet.prune_handoff_log', '5000', interval '10 minutes', interval '2 minutes', 'region', true, 'removes old proofs of handoffs'),
		('call_log', 'fleet.prune_call_log', '5000', interval '10 minutes', interval '1 minute', 'region', true, 'removes old proofs of calls'),
		('idempotency_keys', 'fleet.prune_idempotency_keys', '1000', interval '1 hour', interval '1 minute', 'region', true, 'removes old idempotency keys of closed rides'),
		('history_partitions', 'fleet.make_history_partitions', '', interval '1 hour', interval '1 minute', 'region', false, 'makes the next partitions of the history of fixes'),
		('history', 'fleet.drop_old_history', '', interval '1 hour', interval '1 minute', 'region', false, 'drops the oldest partitions of the history of fixes'),
		('thin_snapshots', 'fleet.thin_snapshots', '', interval '1 hour', interval '1 minute', 'region', false, 'removes snapshots that are old'),
		('fence_events', 'fleet.drop_fence_events', '', interval '1 hour', interval '1 minute', 'region', false, 'removes old events of fences'),
		('dead_letters', 'fleet.prune_dead_letters', '1000', interval '1 hour', interval '1 minute', NULL, true, 'removes dead letters that were resolved'),
		('job_runs', 'fleet.prune_job_runs', '10000', interval '1 hour', interval '1 minute', NULL, true, 'removes old records of jobs');
END;
COMMENT ON FUNCTION fleet.job_list() IS
	'the jobs: what each calls, how often, its deadline, on which kind of node, and whether it is called again at once while it finds something';
REVOKE EXECUTE ON FUNCTION fleet.job_list() FROM PUBLIC;

CREATE FUNCTION fleet.planned_jobs() RETURNS TABLE (job text, call text, every interval, deadline interval, repeats boolean, is_possible boolean,
	obstacle text, purpose text)
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT l.job, CASE p.prokind WHEN 'p' THEN format('CALL %s(%s)', l.function, l.arguments)
			ELSE format('SELECT string_agg(x.r::text, '', '') FROM (SELECT r FROM %s(%s) AS r LIMIT 20) AS x', l.function, l.arguments) END,
		COALESCE(s.every, l.every), COALESCE(s.deadline, l.deadline), l.repeats,
		COALESCE(s.wanted, true) AND p.oid IS NOT NULL,
		CASE WHEN NOT COALESCE(s.wanted, true) THEN 'fleet.job_settings says that it is not wanted'
			WHEN l.node = 'region' AND fleet.own_region() IS NULL THEN 'this node owns no region'
			WHEN l.node = 'replica' AND NOT fleet.is_replica() THEN 'this node is no replica'
			WHEN l.node = 'member' AND fleet.own_region() IS NULL AND NOT fleet.is_replica() THEN 'this node is on no region map'
			WHEN p.oid IS NULL THEN format('function %s does not exist', l.function) END,
		l.purpose
	FROM fleet.job_list() AS l LEFT JOIN fleet.job_settings AS s ON s.job = l.job
		LEFT JOIN pg_proc AS p ON p.oid = to_regproc(l.function);
END;
COMMENT ON FUNCTION fleet.planned_jobs() IS 'internal: the jobs as they are to run on this node, and why one does not run here';
REVOKE EXECUTE ON FUNCTION fleet.planned_jobs() FROM PUBLIC;

CREATE FUNCTION fleet.set_deadline(ms integer) RETURNS void
	AS 'MODULE_PATHNAME', 'fleet_drift_set_deadline'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.set_deadline(integer) IS 'internal: has this statement canceled after so many milliseconds from now; 0 = no more';
REVOKE EXECUTE ON FUNCTION fleet.set_deadline(integer) FROM PUBLIC;

CREATE FUNCTION fleet.begin_job(job text) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	obstacle text;
	run bigint;
BEGIN
	SELECT p.obstacle INTO obstacle FROM fleet.planned_jobs() AS p WHERE p.job = begin_job.job;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'job "%" does not exist', job USING ERRCODE = 'undefined_object', HINT = 'The view fleet.jobs lists them.';
	ELSIF obstacle IS NOT NULL THEN
		RAISE NOTICE 'job "%" does not run here: %', job, obstacle;
		RETURN NULL;
	END IF;
	IF NOT pg_try_advisory_lock(hashtextextended('fleet job ' || job, 0)) THEN
		INSERT INTO fleet.job_runs (job, ended, detail) VALUES (begin_job.job, clock_timestamp(), 'left out: the last run is still at work');
		RETURN NULL;
	END IF;
	-- We have the lock, so who began these is gone.
	UPDATE fleet.job_runs AS r SET ended = clock_timestamp(), ok = false, error = 'its session ended' WHERE r.job = begin_job.job AND r.ended IS NULL;
	INSERT INTO fleet.job_runs (job) VALUES (begin_job.job) RETURNING id INTO run;
	RETURN run;
END
$$;
COMMENT ON FUNCTION fleet.begin_job(text) IS 'internal: the record of a run that begins now; null where it is not to run. The session has the job''s lock then';
REVOKE EXECUTE ON FUNCTION fleet.begin_job(text) FROM PUBLIC;

CREATE FUNCTION fleet.step_job(job text, run bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	j record;
	ms integer;
	result text;
	message text;
BEGIN
	SELECT p.*, r.started, r.detail INTO j FROM fleet.planned_jobs() AS p JOIN fleet.job_runs AS r ON r.id = run WHERE p.job = step_job.job;
	ms := GREATEST(ceil(extract(epoch FROM j.started + j.deadline - clock_timestamp()) * 1000), 1);
	BEGIN
		PERFORM fleet.set_deadline(ms);
		IF j.call LIKE 'CALL %' THEN
			EXECUTE j.call;
		ELSE
			EXECUTE j.call INTO result;
		END IF;
		PERFORM fleet.set_deadline(0);
	EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
		PERFORM fleet.set_deadline(0);
		message := sqlstate || ' ' || sqlerrm;
	END;
	IF message IS NULL AND j.repeats THEN
		result := COALESCE(j.detail::bigint, 0) + COALESCE(result::bigint, 0);
	END IF;
	IF message IS NULL AND j.repeats AND result IS DISTINCT FROM COALESCE(j.detail, '0') AND clock_timestamp() < j.started + j.deadline THEN
		UPDATE fleet.job_runs AS r SET detail = result WHERE r.id = run;
		RETURN true;
	END IF;
	UPDATE fleet.job_runs AS r SET ended = clock_timestamp(), ok = message IS NULL, error = message, detail = left(COALESCE(result, r.detail), 1000) WHERE r.id = run;
	RETURN false;
END
$$;
COMMENT ON FUNCTION fleet.step_job(text, bigint) IS 'internal: one step of a run, within its deadline; whether there is to be another one';
REVOKE EXECUTE ON FUNCTION fleet.step_job(text, bigint) FROM PUBLIC;

CREATE PROCEDURE fleet.run_job(job text)
LANGUAGE plpgsql
AS $$
DECLARE
	run bigint;
	again boolean;
BEGIN
	COMMIT;		-- says so where it is called within a transaction
	run := fleet.begin_job(job);
	COMMIT;
	IF run IS NULL THEN
		RETURN;
	END IF;
	LOOP
		again := fleet.step_job(job, run);
		COMMIT;
		EXIT WHEN NOT again;
	END LOOP;
	PERFORM pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended(pg_catalog.concat('fleet job ', job), 0));
	COMMIT;
END
$$;
COMMENT ON PROCEDURE fleet.run_job(text) IS 'runs a job now, unless it runs already, and writes it down in fleet.job_runs; it fails only where it cannot do that';
REVOKE EXECUTE ON PROCEDURE fleet.run_job(text) FROM PUBLIC;

CREATE PROCEDURE fleet.run_job_for_a_minute(job text, every interval)
LANGUAGE plpgsql
AS $$
DECLARE
	began timestamptz := pg_catalog.clock_timestamp();
	ends timestamptz := began OPERATOR(pg_catalog.+) interval '55 seconds';
	due timestamptz := began;
BEGIN
	LOOP
		CALL fleet.run_job(job);
		-- The next of the steps that are not past.
		WHILE due OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() LOOP
			due := due OPERATOR(pg_catalog.+) every;
		END LOOP;
		EXIT WHEN due OPERATOR(pg_catalog.>) ends;
		PERFORM pg_catalog.pg_sleep_until(due);
		COMMIT;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE fleet.run_job_for_a_minute(text, interval) IS
	'runs a job again and again within the next 55 seconds: what pg_cron before 1.5, which knows no seconds, calls each minute';
REVOKE EXECUTE ON PROCEDURE fleet.run_job_for_a_minute(text, interval) FROM PUBLIC;

CREATE FUNCTION fleet.cron_schedule(every interval, offset_minutes integer, knows_seconds boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	seconds numeric := extract(epoch FROM every);
	minutes numeric := seconds / 60;
BEGIN
	IF seconds IN (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30) THEN
		RETURN CASE WHEN knows_seconds THEN seconds::integer || ' seconds' ELSE '* * * * *' END;
	ELSIF minutes IN (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30) THEN
		RETURN CASE WHEN minutes = 1 THEN '* * * * *' ELSE format('*/%s * * * *', minutes::integer) END;
	ELSIF minutes / 60 IN (1, 2, 3, 4, 6, 8, 12) THEN
		RETURN format('%s */%s * * *', offset_minutes, (minutes / 60)::integer);
	ELSIF minutes / 60 = 24 THEN
		RETURN format('%s 3 * * *', offset_minutes);
	END IF;
	RAISE EXCEPTION 'a job cannot run every %', every
		USING ERRCODE = 'invalid_parameter_value', DETAIL = 'pg_cron counts within each minute, hour and day.',
		HINT = 'Take seconds or minutes that divide 60 evenly, hours that divide 24, or a day.';
END
$$;
COMMENT ON FUNCTION fleet.cron_schedule(interval, integer, boolean) IS 'internal: an interval as pg_cron wants it';
REVOKE EXECUTE ON FUNCTION fleet.cron_schedule(interval, integer, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.cron_obstacle() RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT CASE WHEN EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'pg_cron') THEN NULL
		WHEN NOT EXISTS (SELECT FROM pg_available_extensions AS a WHERE a.name = 'pg_cron')
			THEN 'Install the package of pg_cron for this server (on Debian postgresql-15-cron for version 15).'
		WHEN current_setting('cron.database_name', true) IS NULL
			THEN 'Add pg_cron to shared_preload_libraries, set cron.database_name to this database, and restart the server.'
		WHEN current_setting('cron.database_name') <> current_database()
			THEN 'Set cron.database_name to this database, and restart the server.'
		ELSE 'CREATE EXTENSION pg_cron.' END;
END;
COMMENT ON FUNCTION fleet.cron_obstacle() IS 'internal: what has to be done before pg_cron can be used here, or null';
REVOKE EXECUTE ON FUNCTION fleet.cron_obstacle() FROM PUBLIC;

CREATE FUNCTION fleet.unschedule_jobs() RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	jobs integer := 0;
BEGIN
	IF fleet.cron_obstacle() IS NULL THEN
		EXECUTE 'SELECT count(cron.unschedule(j.jobid)) FROM cron.job AS j JOIN fleet.job_list() AS l ON j.jobname = ''fleet_'' || l.job'
			' WHERE j.database = current_database()' INTO jobs;
	END IF;
	RETURN jobs;
END
$$;
COMMENT ON FUNCTION fleet.unschedule_jobs() IS 'takes fleet''s jobs out of pg_cron; returns how many were there. What runs now is not stopped';
REVOKE EXECUTE ON FUNCTION fleet.unschedule_jobs() FROM PUBLIC;

CREATE FUNCTION fleet.schedule_jobs() RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	lacking text := fleet.cron_obstacle();
	knows_seconds boolean := (SELECT string_to_array(substring(e.extversion FROM '^\d+\.\d+'), '.')::integer[] >= '{1,5}' FROM pg_extension AS e WHERE e.extname = 'pg_cron');
	j record;
	command text;
	jobs integer := 0;
BEGIN
	IF lacking IS NOT NULL THEN
		RAISE NOTICE 'no jobs were scheduled: pg_cron is not here'
			USING ERRCODE = 'RF035', DETAIL = 'All else works; drift checks, snapshots and retention run only where somebody calls fleet.run_job.',
			HINT = lacking;
		RETURN 0;
	END IF;
	PERFORM fleet.unschedule_jobs();
	FOR j IN SELECT * FROM fleet.planned_jobs() LOOP
		-- What this node is may change: a job that is for another kind of node looks each time, and does nothing.
		IF NOT j.is_possible THEN
			RAISE NOTICE 'job "%" is not scheduled: %', j.job, j.obstacle;
			CONTINUE;
		END IF;
		command := CASE WHEN j.every < interval '1 minute' AND NOT knows_seconds
			THEN format('CALL fleet.run_job_for_a_minute(%L, %L)', j.job, j.every) ELSE format('CALL fleet.run_job(%L)', j.job) END;
		EXECUTE 'SELECT cron.schedule($1, $2, $3)' USING 'fleet_' || j.job, fleet.cron_schedule(j.every, abs(hashtext(j.job) % 60), knows_seconds), command;
		jobs := jobs + 1;
	END LOOP;
	RETURN jobs;
END
$$;
COMMENT ON FUNCTION fleet.schedule_jobs() IS
	'has pg_cron run this node''s jobs from now on, as the caller; replaces what was scheduled before; returns how many';
REVOKE EXECUTE ON FUNCTION fleet.schedule_jobs() FROM PUBLIC;

CREATE FUNCTION fleet.scheduled_jobs() RETURNS TABLE (job text, schedule text)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF fleet.cron_obstacle() IS NULL THEN
		RETURN QUERY EXECUTE 'SELECT l.job, j.schedule FROM cron.job AS j JOIN fleet.job_list() AS l ON j.jobname = ''fleet_'' || l.job'
			' WHERE j.database = current_database() AND j.active';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.scheduled_jobs() IS 'internal: fleet''s jobs that pg_cron has for this database';
REVOKE EXECUTE ON FUNCTION fleet.scheduled_jobs() FROM PUBLIC;

CREATE VIEW fleet.jobs AS
	SELECT p.job, p.every, p.deadline, c.schedule, p.obstacle IS NULL AS runs_here, r.started AS last_run, r.ok AS last_ok, r.error AS last_error,
		(SELECT max(x.started) FROM fleet.job_runs AS x WHERE x.job = p.job AND x.ok) AS last_success,
		CASE WHEN c.schedule IS NOT NULL THEN r.started + p.every END AS next_run, p.obstacle, p.purpose
	FROM fleet.planned_jobs() AS p LEFT JOIN fleet.scheduled_jobs() AS c ON c.job = p.job
		LEFT JOIN LATERAL (SELECT x.* FROM fleet.job_runs AS x WHERE x.job = p.job AND (x.ok IS NOT NULL OR x.ended IS NULL) ORDER BY x.id DESC LIMIT 1) AS r ON true;
COMMENT ON VIEW fleet.jobs IS 'the jobs: how often each runs here, or why not, and how it went last';

-- ---------------------------------------------------------------------------
-- verify: the invariants, checked
-- ---------------------------------------------------------------------------

CREATE FUNCTION fleet.inventory() RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (WITH live AS (SELECT 'ride' AS kind, ride_id AS key, epoch FROM fleet.local_rides
			UNION ALL SELECT 'vehicle', vehicle_id, epoch FROM fleet.local_vehicles)
		SELECT jsonb_build_object(
			'live', (SELECT jsonb_agg(jsonb_build_array(kind, key, epoch)) FROM live),
			'gone', (SELECT jsonb_agg(jsonb_build_array(kind, key, epoch, target)) FROM fleet.departures),
			'prepared', (SELECT jsonb_agg(gid) FROM pg_prepared_xacts
				WHERE database = current_database() AND gid LIKE 'fleet:%'),
			'unlogged', (SELECT jsonb_agg(jsonb_build_array(kind, key)) FROM (
				(SELECT kind, key, epoch FROM live WHERE epoch > 1
				UNION ALL SELECT kind, key, epoch FROM fleet.departures WHERE target IS NOT NULL)
				-- Not NOT IN, which is quadratic where work_mem does not hold the log.
				EXCEPT (SELECT 'ride', h.ride_id, h.epoch FROM fleet.handoff_log AS h WHERE h.ride_id IS NOT NULL
				UNION ALL SELECT 'vehicle', h.vehicle_id, h.epoch FROM fleet.handoff_log AS h
					WHERE h.ride_id IS NULL AND h.vehicle_id IS NOT NULL)) AS moved)));
END
$$;
COMMENT ON FUNCTION fleet.inventory() IS 'internal: what this node has and had, for fleet.verify on any node';
REVOKE EXECUTE ON FUNCTION fleet.inventory() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.inventory() TO fleet_node;

CREATE FUNCTION fleet.verify_once() RETURNS TABLE (check_name text, id text)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	WITH node AS MATERIALIZED (
		SELECT m.name AS region, fleet.ask(m.name, 'SELECT fleet.inventory()')::jsonb AS has FROM fleet.map_regions AS m
	), live AS MATERIALIZED (
		SELECT n.region, e->>0 AS kind, e->>1 AS key, (e->>2)::bigint AS epoch
		FROM node AS n, jsonb_array_elements(NULLIF(n.has->'live', 'null')) AS e
	), gone AS MATERIALIZED (
		SELECT n.region, e->>0 AS kind, e->>1 AS key, (e->>2)::bigint AS epoch, e->>3 AS target
		FROM node AS n, jsonb_array_elements(NULLIF(n.has->'gone', 'null')) AS e
	)
	SELECT 'doubled', l.kind || ' ' || l.key FROM live AS l GROUP BY l.kind, l.key HAVING count(*) > 1
	UNION ALL
	SELECT 'missing', g.kind || ' ' || g.key FROM gone AS g WHERE g.target IS NOT NULL
		AND NOT EXISTS (SELECT FROM live AS l WHERE l.kind = g.kind AND l.key = g.key AND l.epoch >= g.epoch)
		AND NOT EXISTS (SELECT FROM gone AS o WHERE o.kind = g.kind AND o.key = g.key
			AND (o.epoch > g.epoch OR o.target IS NULL AND o.epoch >= g.epoch))
	UNION ALL
	SELECT 'orphaned_locks', e #>> '{}' FROM node AS n, jsonb_array_elements(NULLIF(n.has->'prepared', 'null')) AS e
	UNION ALL
	SELECT 'unlogged', (e->>0) || ' ' || (e->>1) FROM node AS n, jsonb_array_elements(NULLIF(n.has->'unlogged', 'null')) AS e;
END
$$;
COMMENT ON FUNCTION fleet.verify_once() IS 'internal: what looks wrong in one look at all nodes; while rides move, some of it only seems so';
REVOKE EXECUTE ON FUNCTION fleet.verify_once() FROM PUBLIC;

CREATE FUNCTION fleet.verify() RETURNS TABLE (check_name text, problems bigint, ids text[])
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	suspects text[];	-- check and id, as one text
	again text[];
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.map) THEN
		RAISE EXCEPTION 'node "%" is not part of a region map', fleet.node_name()
			USING ERRCODE = 'RF004', HINT = 'Call it on a node that owns a region.';
	END IF;
	-- The nodes are read one after the other, so a ride that moves meanwhile can
	-- seem doubled or missing once; what is wrong is seen each time.
	FOR round IN 1 .. 3 LOOP
		again := ARRAY(SELECT v.check_name || ' ' || v.id FROM fleet.verify_once() AS v);
		suspects := CASE WHEN round = 1 THEN again
			ELSE ARRAY(SELECT unnest(suspects) INTERSECT SELECT unnest(again)) END;
		EXIT WHEN suspects = '{}';
		PERFORM pg_sleep(0.5);
	END LOOP;
	RETURN QUERY SELECT c.name, count(s.s), COALESCE(array_agg(substr(s.s, length(c.name) + 2) ORDER BY s.s)
			FILTER (WHERE s.s IS NOT NULL), '{}')
		FROM unnest(ARRAY['doubled', 'missing', 'orphaned_locks', 'unlogged']) WITH ORDINALITY AS c(name, n)
			LEFT JOIN unnest(suspects) AS s(s) ON split_part(s.s, ' ', 1) = c.name
		GROUP BY c.name, c.n ORDER BY c.n;
END
$$;
COMMENT ON FUNCTION fleet.verify() IS
	'over all regions: rides or vehicles that are doubled, missing, locked by orphans, or whose handoff is not logged';
REVOKE EXECUTE ON FUNCTION fleet.verify() FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- drift: what the nodes have that cannot be, found and healed
-- ---------------------------------------------------------------------------
--
-- In which order the nodes are looked at, and why what is found is not merely
-- late: src/drift/check.c.

CREATE FUNCTION fleet.digest_add(digest bytea, VARIADIC "any") RETURNS bytea
	AS 'MODULE_PATHNAME', 'fleet_drift_digest_add'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.digest_add(bytea, "any") IS 'internal: behind fleet.digest';

CREATE FUNCTION fleet.digest_combine(bytea, bytea) RETURNS bytea
	AS 'MODULE_PATHNAME', 'fleet_drift_digest_combine'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION fleet.digest_combine(bytea, bytea) IS 'the digest of two sets of rows together';

CREATE AGGREGATE fleet.digest(VARIADIC "any") (
	SFUNC = fleet.digest_add, STYPE = bytea, INITCOND = '\x000000000000000000000000000000000000000000000000',
	COMBINEFUNC = fleet.digest_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE fleet.digest(VARIADIC "any") IS
	'number of rows and 128 bits that tell whether two sets of rows are the same, whatever their order; of the values that are given';

CREATE AGGREGATE fleet.digest_total(bytea) (
	SFUNC = fleet.digest_combine, STYPE = bytea, INITCOND = '\x000000000000000000000000000000000000000000000000',
	COMBINEFUNC = fleet.digest_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE fleet.digest_total(bytea) IS 'the digest of all sets of rows together whose digests are given';

CREATE FUNCTION fleet.no_rows() RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN '\x000000000000000000000000000000000000000000000000'::bytea;
COMMENT ON FUNCTION fleet.no_rows() IS 'internal: the digest of no rows';

CREATE TABLE fleet.drift_cursors (
	source text PRIMARY KEY,
	marks jsonb NOT NULL
);
COMMENT ON TABLE fleet.drift_cursors IS 'up to which key this node''s drift checks have come, by the node whose keys they are: what follows was checked longest ago';

CREATE TABLE fleet.drift_reports (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	node text NOT NULL,
	what text NOT NULL CHECK (what IN ('check', 'compare', 'heal')),
	checked bigint NOT NULL,
	missing integer NOT NULL,
	extra integer NOT NULL,
	stale integer NOT NULL,
	differing integer NOT NULL,
	distant integer NOT NULL,
	doubled integer NOT NULL,
	lost integer NOT NULL,
	astray integer NOT NULL,
	undecided integer NOT NULL,
	average_m float8 NOT NULL,
	maximum_m float8 NOT NULL,
	percentage float8 NOT NULL,
	ids jsonb NOT NULL,
	duration_ms float8 NOT NULL,
	asked text[] NOT NULL,
	failed text[] NOT NULL
);
CREATE INDEX drift_reports_at ON fleet.drift_reports (at);
COMMENT ON TABLE fleet.drift_reports IS 'what checks for drift have found';
COMMENT ON COLUMN fleet.drift_reports.undecided IS 'rows that may have been late or on their way until fleet.drift_timeout had passed; they do not count';
COMMENT ON COLUMN fleet.drift_reports.percentage IS 'of the checked rows, those that are wrong; astray ones do not count';
COMMENT ON COLUMN fleet.drift_reports.ids IS 'the findings, the first 10000 of them, for fleet.heal';

CREATE TABLE fleet.heal_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	report text NOT NULL,
	kind text NOT NULL,
	key text NOT NULL,
	problem text NOT NULL,
	action text NOT NULL,
	before jsonb,
	after jsonb
);
COMMENT ON TABLE fleet.heal_log IS 'every row of this node that healing has changed, as it was and as it is (fleet.row_image), and what could not be healed';
COMMENT ON COLUMN fleet.heal_log.report IS 'node and number of the report';

CREATE TABLE fleet.conflicts (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	report text NOT NULL,
	kind text NOT NULL,
	key text NOT NULL,
	epoch bigint NOT NULL,
	hlc fleet.hlc NOT NULL,
	image jsonb NOT NULL,
	kept_in text
);
COMMENT ON TABLE fleet.conflicts IS 'copies of doubled rides and vehicles that healing has taken out of this region, for a person to look at';
COMMENT ON COLUMN fleet.conflicts.kept_in IS 'the region whose copy is newer; null where the ride or vehicle was deleted';

SELECT pg_catalog.pg_extension_config_dump('fleet.heal_log', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.conflicts', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.heal_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('fleet.conflicts_id_seq', '');

CREATE FUNCTION fleet.ask_all(peers text[], query text, timeout_ms integer DEFAULT 5000, OUT peer text, OUT answer text, OUT error text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'fleet_drift_ask_all'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION fleet.ask_all(text[], text, integer) IS
	'runs a query on many nodes at once, as fleet_node: first column of the first row of each, or why there is none';
REVOKE EXECUTE ON FUNCTION fleet.ask_all(text[], text, integer) FROM PUBLIC;

-- What each node says of its rows.

CREATE FUNCTION fleet.digested(kind text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT string_agg(format('r.%I', c.name), ', ' ORDER BY c.n)
	FROM fleet.published() AS p, unnest(p.columns) WITH ORDINALITY AS c(name, n) WHERE p.part = 'local_' || kind || 's';
END;
COMMENT ON FUNCTION fleet.digested(text) IS 'internal: the columns of rides or vehicles that are compared, for a statement: those that replicas get';
REVOKE EXECUTE ON FUNCTION fleet.digested(text) FROM PUBLIC;

CREATE FUNCTION fleet.is_astray(region text, place geography, at timestamptz) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
BEGIN ATOMIC
	SELECT EXISTS (SELECT FROM fleet.map_regions AS m WHERE m.name = is_astray.region
		AND current_setting('fleet.crossing_distance')::float8 >= 0
		AND fleet.region_of(fleet.lon(place), fleet.lat(place)) <> is_astray.region
		AND is_astray.at < now() - greatest(interval '10 seconds', current_setting('fleet.crossing_dwell')::interval)
		AND ST_Distance(place, m.geofence::geography) > current_setting('fleet.crossing_distance')::float8);
END;
COMMENT ON FUNCTION fleet.is_astray(text, geography, timestamptz) IS
	'internal: whether a vehicle that was last seen there at that time should have been handed off by the crossing rule';
REVOKE EXECUTE ON FUNCTION fleet.is_astray(text, geography, timestamptz) FROM PUBLIC;

CREATE FUNCTION fleet.sample_keys(part text, key_column text, filter text, after text, size integer, OUT keys text[], OUT mark text)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	half integer := (size + 1) / 2;
	blocks bigint := pg_relation_size('fleet.' || part) / current_setting('block_size')::integer;
	-- Blocks with some 10 rows each would do.
	share float8 := least(100, 10.0 * size / greatest(blocks, 1));
	random_keys text[];
BEGIN
	EXECUTE format('SELECT array_agg(k ORDER BY k) FROM (SELECT %1$I AS k FROM fleet.%2$I WHERE %3$s AND ($1 IS NULL OR %1$I > $1) ORDER BY %1$I LIMIT $2) AS s',
		key_column, part, filter) INTO keys USING after, half;
	EXECUTE format('SELECT array_agg(k) FROM (SELECT %1$I AS k FROM fleet.%2$I TABLESAMPLE SYSTEM (%4$s) WHERE %3$s ORDER BY random() LIMIT $1) AS s',
		key_column, part, filter, share) INTO random_keys USING size - half;
	mark := CASE WHEN cardinality(keys) = half THEN keys[half] END;
	keys := COALESCE(keys, '{}') || COALESCE(random_keys, '{}');
END
$$;
COMMENT ON FUNCTION fleet.sample_keys(text, text, text, text, integer) IS
	'internal: keys of one of fleet''s tables, half of them those after a key, the others at random; and the key to go on from';
REVOKE EXECUTE ON FUNCTION fleet.sample_keys(text, text, text, text, integer) FROM PUBLIC;

CREATE FUNCTION fleet.drift_sample(cursors jsonb, size integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	source text := COALESCE(fleet.own_region(), fleet.node_name());
	kind text;
	live record;
	gone record;
	result jsonb := jsonb_build_object('source', source);
	marks jsonb := '{}';
BEGIN
	FOREACH kind IN ARRAY ARRAY['vehicle', 'ride'] LOOP
		live := fleet.sample_keys('local_' || kind || 's', kind || '_id', 'true', cursors->source->>kind, size);
		gone := fleet.sample_keys('departures', 'key', format('kind = %L AND target IS NOT NULL', kind), cursors->source->>(kind || ' gone'), size);
		result := result || jsonb_build_object(kind, live.keys || gone.keys);
		marks := marks || jsonb_build_object(kind, live.mark, kind || ' gone', gone.mark);
	END LOOP;
	RETURN result || jsonb_build_object('marks', marks);
END
$$;
COMMENT ON FUNCTION fleet.drift_sample(jsonb, integer) IS
	'internal: keys of this node''s vehicles and rides, and as many of departed ones, half of them checked longest ago, the others at random';
REVOKE EXECUTE ON FUNCTION fleet.drift_sample(jsonb, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.drift_sample(jsonb, integer) TO fleet_node;

CREATE FUNCTION fleet.look_at_live(kind text, keys text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	place text := CASE kind WHEN 'ride' THEN 'COALESCE(r.current_location, r.start_location)' ELSE 'r.location' END;
	result jsonb;
BEGIN
	EXECUTE format('SELECT jsonb_agg(to_jsonb(x)) FROM (SELECT %1$L AS kind, r.%2$I AS key, ''live'' AS what, r.epoch, r.hlc::bigint AS hlc, r.region,'
			' encode(fleet.digest(%3$s), ''hex'') AS digest, %4$s AS place, fleet.region_of(fleet.lon(%4$s), fleet.lat(%4$s)) = r.region AS home, %5$s AS astray'
			' FROM fleet.%6$I AS r WHERE r.%2$I = ANY ($1) GROUP BY r.%2$I) AS x',
		kind, kind || '_id', fleet.digested(kind), place,
		CASE kind WHEN 'ride' THEN 'false' ELSE 'fleet.is_astray(r.region, r.location, r.updated_at)' END, 'local_' || kind || 's')
		INTO result USING keys;
	RETURN COALESCE(result, '[]');
END
$$;
COMMENT ON FUNCTION fleet.look_at_live(text, text[]) IS 'internal: what this node has of these rides or vehicles, with a digest of each row';
REVOKE EXECUTE ON FUNCTION fleet.look_at_live(text, text[]) FROM PUBLIC;

CREATE FUNCTION fleet.busy_rows(kind text, keys text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	free text[];
BEGIN
	-- Who deletes a row, or hands it off, holds a lock that this one does not go with.
	EXECUTE format('WITH f AS (SELECT %1$I AS key FROM fleet.%2$I WHERE %1$I = ANY ($1) FOR KEY SHARE SKIP LOCKED) SELECT array_agg(f.key) FROM f',
		kind || '_id', 'local_' || kind || 's') INTO free USING keys;
	RETURN (SELECT COALESCE(jsonb_agg(jsonb_build_array(kind, k)), '[]') FROM unnest(keys) AS k WHERE free IS NULL OR k <> ALL (free));
END
$$;
COMMENT ON FUNCTION fleet.busy_rows(text, text[]) IS 'internal: which of these rows somebody is deleting, or are not here';
REVOKE EXECUTE ON FUNCTION fleet.busy_rows(text, text[]) FROM PUBLIC;

CREATE FUNCTION fleet.drift_look(keys jsonb, with_busy boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rides text[] := ARRAY(SELECT jsonb_array_elements_text(keys->'ride'));
	vehicles text[] := ARRAY(SELECT jsonb_array_elements_text(keys->'vehicle'));
	result jsonb;
BEGIN
	-- In the snapshot of one statement: of a row that comes back, the live row and the departure are never both missed.
	SELECT jsonb_build_object('rows', fleet.look_at_live('ride', rides) || fleet.look_at_live('vehicle', vehicles)
		|| COALESCE(jsonb_agg(jsonb_build_object('kind', d.kind, 'key', d.key, 'what', CASE WHEN d.target IS NULL THEN 'grave' ELSE 'departure' END,
			'epoch', d.epoch, 'hlc', d.hlc::bigint, 'region', d.target, 'settled', d.settled_hlc IS NOT NULL)), '[]'))
		INTO result FROM fleet.departures AS d WHERE d.kind = 'ride' AND d.key = ANY (rides) OR d.kind = 'vehicle' AND d.key = ANY (vehicles);
	result := result || jsonb_build_object('now', fleet.hlc_now()::bigint);
	IF with_busy THEN
		result := result || jsonb_build_object('busy', fleet.busy_rows('ride', rides) || fleet.busy_rows('vehicle', vehicles));
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION fleet.drift_look(jsonb, boolean) IS
	'internal: what this node has of some rides and vehicles, live rows, departures and graves, its clock afterwards, and which live rows are busy';
REVOKE EXECUTE ON FUNCTION fleet.drift_look(jsonb, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.drift_look(jsonb, boolean) TO fleet_node;

-- The judgement: what looks wrong in one round, and what did in two.

CREATE FUNCTION fleet.drift_judge(here jsonb, looks jsonb, streams text[], complete boolean, threshold_m float8)
	RETURNS TABLE (problem text, kind text, key text, region text, epoch bigint, hlc bigint, winner text, winner_epoch bigint,
		here_region text, here_epoch bigint, here_hlc bigint, metres float8, busy boolean)
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH mine AS MATERIALIZED (
		SELECT r.* FROM jsonb_to_recordset(COALESCE(here->'rows', '[]'))
			AS r(kind text, key text, what text, epoch bigint, hlc bigint, region text, digest text, place text) WHERE r.what = 'live'
	), word AS MATERIALIZED (
		SELECT l.key AS node, l.value->'busy' @> jsonb_build_array(jsonb_build_array(r.kind, r.key)) AS busy, r.*
		FROM jsonb_each(looks) AS l, jsonb_to_recordset(l.value->'rows')
			AS r(kind text, key text, what text, epoch bigint, hlc bigint, region text, settled boolean, digest text, place text, home boolean, astray boolean)
	), top AS MATERIALIZED (
		-- By what every node sees alike: two that heal at the same time must not each take the other's away.
		SELECT DISTINCT ON (w.kind, w.key) w.* FROM word AS w
		ORDER BY w.kind, w.key, w.epoch DESC, array_position('{live,grave,departure}', w.what), w.hlc DESC, w.home DESC NULLS LAST, w.node
	), doubled AS MATERIALIZED (
		SELECT w.*, t.node AS winner, t.epoch AS winner_epoch FROM word AS w JOIN top AS t ON t.kind = w.kind AND t.key = w.key
		WHERE w.what = 'live' AND w.node <> t.node AND t.what IN ('live', 'grave')
	), beside AS MATERIALIZED (
		SELECT COALESCE(t.kind, m.kind) AS kind, COALESCE(t.key, m.key) AS key, COALESCE(t.node, m.region) AS node, t.what, t.epoch, t.hlc, t.busy,
			m.region AS here_region, m.epoch AS here_epoch, m.hlc AS here_hlc, t.digest IS DISTINCT FROM m.digest AS differs,
			ST_Distance(t.place::geography, m.place::geography, false) AS metres
		FROM top AS t FULL JOIN mine AS m ON m.kind = t.kind AND m.key = t.key
		WHERE here IS NOT NULL AND t.what IS DISTINCT FROM 'departure'
			AND NOT EXISTS (SELECT FROM doubled AS d WHERE d.kind = t.kind AND d.key = t.key)
	)
	SELECT 'doubled', d.kind, d.key, d.node, d.epoch, d.hlc, d.winner, d.winner_epoch, NULL::text, NULL::bigint, NULL::bigint, NULL::float8, d.busy
		FROM doubled AS d
	UNION ALL
	SELECT CASE WHEN t.settled THEN 'lost' ELSE 'moving' END, t.kind, t.key, t.region, t.epoch, t.hlc, t.node, t.epoch, NULL::text, NULL::bigint, NULL::bigint, NULL::float8, false
		FROM top AS t WHERE t.what = 'departure' AND looks ? t.region
	UNION ALL
	SELECT 'astray', t.kind, t.key, t.node, t.epoch, t.hlc, NULL::text, NULL::bigint, NULL::text, NULL::bigint, NULL::bigint, NULL::float8, false
		FROM top AS t WHERE t.what = 'live' AND t.astray
	UNION ALL
	SELECT j.problem, b.kind, b.key, b.node, b.epoch, b.hlc, NULL, NULL, b.here_region, b.here_epoch, b.here_hlc, b.metres, b.busy
	FROM beside AS b, LATERAL (SELECT CASE
			WHEN b.what = 'live' AND b.here_epoch IS NULL THEN 'missing'
			WHEN b.what = 'live' AND (b.here_epoch, b.here_hlc) < (b.epoch, b.hlc) THEN 'stale'
			WHEN b.what = 'live' AND (b.here_epoch, b.here_hlc) > (b.epoch, b.hlc) THEN CASE WHEN complete THEN 'ahead' END
			WHEN b.what = 'live' AND b.differs THEN CASE WHEN b.metres > threshold_m THEN 'distant' ELSE 'differing' END
			WHEN b.what IS DISTINCT FROM 'live' AND b.here_epoch IS NOT NULL AND complete THEN 'extra' END AS problem) AS j
	WHERE j.problem = 'extra' OR j.problem IS NOT NULL AND b.node = ANY (streams);
END;
COMMENT ON FUNCTION fleet.drift_judge(jsonb, jsonb, text[], boolean, float8) IS
	'internal: what looks wrong in one look at a replica (or null) and at the regions, of which those whose streams are followed are compared with it';
REVOKE EXECUTE ON FUNCTION fleet.drift_judge(jsonb, jsonb, text[], boolean, float8) FROM PUBLIC;

CREATE FUNCTION fleet.drift_confirm(candidates jsonb, before jsonb) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT COALESCE(jsonb_agg(to_jsonb(c)), '[]')
	FROM jsonb_to_recordset(candidates) AS c(problem text, kind text, key text, region text, epoch bigint, hlc bigint, winner text, winner_epoch bigint,
			here_region text, here_epoch bigint, here_hlc bigint, metres float8, busy boolean)
		JOIN jsonb_to_recordset(before) AS b(problem text, kind text, key text, region text, epoch bigint, hlc bigint, here_epoch bigint, here_hlc bigint)
			ON b.problem = c.problem AND b.kind = c.kind AND b.key = c.key
	WHERE CASE
		WHEN c.problem = 'stale' THEN (c.here_epoch, c.here_hlc) < (b.epoch, b.hlc)
		WHEN c.problem = 'missing' THEN c.epoch = b.epoch
		WHEN c.problem = 'extra' THEN c.here_epoch = b.here_epoch AND c.here_hlc = b.here_hlc
		WHEN c.problem = 'ahead' THEN c.here_epoch = b.here_epoch AND c.here_hlc = b.here_hlc AND c.busy IS FALSE
		WHEN c.problem = 'doubled' THEN c.region = b.region AND c.epoch = b.epoch AND c.busy IS FALSE
		WHEN c.problem = 'lost' THEN c.region = b.region AND c.epoch = b.epoch
		ELSE c.problem <> 'moving' END;
END;
COMMENT ON FUNCTION fleet.drift_confirm(jsonb, jsonb) IS 'internal: which of a round''s candidates are findings, since the round before had them, too';
REVOKE EXECUTE ON FUNCTION fleet.drift_confirm(jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.healthy_streams() RETURNS SETOF text
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT s.region FROM fleet.replica_sources AS s
	WHERE s.state = 'streaming' AND s.complete_at IS NULL AND s.stale_since IS NULL AND s.failures = 0;
END;
COMMENT ON FUNCTION fleet.healthy_streams() IS 'internal: the regions whose changes this replica applies as they come';
REVOKE EXECUTE ON FUNCTION fleet.healthy_streams() FROM PUBLIC;

CREATE FUNCTION fleet.streams_behind(looks jsonb) RETURNS bigint
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT count(*) FROM fleet.healthy_streams() AS s(region) LEFT JOIN fleet.heartbeat AS h ON h.region = s.region
	WHERE looks ? s.region AND (h.hlc IS NULL OR h.hlc::bigint < (looks->s.region->>'now')::bigint);
END;
COMMENT ON FUNCTION fleet.streams_behind(jsonb) IS 'internal: of how many regions this replica does not have yet what they had when they were looked at';
REVOKE EXECUTE ON FUNCTION fleet.streams_behind(jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.keys_of(found jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT jsonb_build_object('ride', COALESCE(jsonb_agg(DISTINCT f->'key') FILTER (WHERE f->>'kind' = 'ride'), '[]'),
		'vehicle', COALESCE(jsonb_agg(DISTINCT f->'key') FILTER (WHERE f->>'kind' = 'vehicle'), '[]'))
	FROM jsonb_array_elements(found) AS f;
END;
COMMENT ON FUNCTION fleet.keys_of(jsonb) IS 'internal: the rides and vehicles of findings, each once';
REVOKE EXECUTE ON FUNCTION fleet.keys_of(jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.examine(keys jsonb, threshold_m float8) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions text[] := ARRAY(SELECT m.name FROM fleet.map_regions AS m ORDER BY m.name);
	follows boolean := fleet.is_replica();
	timeout integer := extract(epoch FROM current_setting('fleet.drift_timeout')::interval) * 1000;
	deadline timestamptz := clock_timestamp() + timeout * interval '1 ms';
	open jsonb := keys;
	streams text[];
	here jsonb;
	looks jsonb;
	failed text[];
	candidates jsonb;
	before jsonb := '[]';
	confirmed jsonb;
	findings jsonb := '[]';
BEGIN
	LOOP
		-- The order of these looks is what the judgement is based on.
		IF follows THEN
			streams := ARRAY(SELECT fleet.healthy_streams());
			here := fleet.drift_look(open, false);
		END IF;
		SELECT COALESCE(jsonb_object_agg(a.peer, a.answer::jsonb) FILTER (WHERE a.answer IS NOT NULL), '{}'),
				COALESCE(array_agg(a.peer ORDER BY a.peer) FILTER (WHERE a.answer IS NULL), '{}')
			INTO looks, failed FROM fleet.ask_all(regions, format('SELECT fleet.drift_look(%L, %L)', open, before <> '[]'), timeout) AS a;
		SELECT COALESCE(jsonb_agg(to_jsonb(j)), '[]') INTO candidates
			FROM fleet.drift_judge(here, looks, streams, failed = '{}' AND streams @> regions, threshold_m) AS j;
		confirmed := fleet.drift_confirm(candidates, before);
		findings := findings || confirmed;
		open := fleet.keys_of((SELECT COALESCE(jsonb_agg(c), '[]') FROM jsonb_array_elements(candidates) AS c
			WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(confirmed) AS f WHERE f->>'kind' = c->>'kind' AND f->>'key' = c->>'key')));
		EXIT WHEN open = '{"ride": [], "vehicle": []}';
		before := candidates;
		PERFORM pg_sleep(0.05);
		WHILE follows AND fleet.streams_behind(looks) > 0 AND clock_timestamp() < deadline LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
		EXIT WHEN clock_timestamp() >= deadline;
	END LOOP;
	RETURN jsonb_build_object('findings', findings, 'failed', to_jsonb(failed),
		'undecided', jsonb_array_length(open->'ride') + jsonb_array_length(open->'vehicle'));
END
$$;
COMMENT ON FUNCTION fleet.examine(jsonb, float8) IS
	'internal: looks at some rides and vehicles on all nodes, round after round until it is known of each whether it is wrong or only late; the findings';
REVOKE EXECUTE ON FUNCTION fleet.examine(jsonb, float8) FROM PUBLIC;

-- Checks, and their reports.  What an operator calls has its owner's rights, so that EXECUTE is all
-- that a role needs for it: it takes no SQL, and changes rows by the versions of fleet alone.

CREATE FUNCTION fleet.begin_drift_check() RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM fleet.map) THEN
		RAISE EXCEPTION 'node "%" is not part of a region map', fleet.node_name()
			USING ERRCODE = 'RF004', HINT = 'Call it on a node that owns a region, or on a replica.';
	ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION 'drift is looked for in transactions that are READ COMMITTED'
			USING ERRCODE = 'feature_not_supported', DETAIL = 'With one snapshot for all looks, nothing could be seen to arrive.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.begin_drift_check() IS 'internal: raises an error where this node, or this transaction, cannot check for drift';
REVOKE EXECUTE ON FUNCTION fleet.begin_drift_check() FROM PUBLIC;

CREATE FUNCTION fleet.report_drift(what text, since timestamptz, checked bigint, result jsonb) RETURNS fleet.drift_reports
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO fleet.drift_reports (node, what, checked, missing, extra, stale, differing, distant, doubled, lost, astray, undecided,
			average_m, maximum_m, percentage, ids, duration_ms, asked, failed)
		SELECT fleet.node_name(), report_drift.what, report_drift.checked,
			count(*) FILTER (WHERE f.problem = 'missing'), count(*) FILTER (WHERE f.problem = 'extra'),
			count(*) FILTER (WHERE f.problem = 'stale'), count(*) FILTER (WHERE f.problem IN ('differing', 'ahead')),
			count(*) FILTER (WHERE f.problem = 'distant'), count(*) FILTER (WHERE f.problem = 'doubled'),
			count(*) FILTER (WHERE f.problem = 'lost'), count(*) FILTER (WHERE f.problem = 'astray'), (report_drift.result->>'undecided')::integer,
			COALESCE(sum(f.metres), 0) / greatest(report_drift.checked, 1), COALESCE(max(f.metres), 0),
			100.0 * count(DISTINCT (f.kind, f.key)) FILTER (WHERE f.problem <> 'astray') / greatest(report_drift.checked, 1),
			COALESCE(jsonb_agg(to_jsonb(f)) FILTER (WHERE f.n <= 10000), '[]'),
			extract(epoch FROM clock_timestamp() - report_drift.since) * 1000,
			ARRAY(SELECT m.name FROM fleet.map_regions AS m ORDER BY m.name),
			ARRAY(SELECT jsonb_array_elements_text(report_drift.result->'failed'))
		FROM (SELECT x.*, row_number() OVER () AS n FROM jsonb_to_recordset(report_drift.result->'findings')
			AS x(problem text, kind text, key text, region text, epoch bigint, hlc bigint, winner text, winner_epoch bigint,
				here_region text, here_epoch bigint, here_hlc bigint, metres float8)) AS f
		RETURNING *;
END;
COMMENT ON FUNCTION fleet.report_drift(text, timestamptz, bigint, jsonb) IS 'internal: writes a report';
REVOKE EXECUTE ON FUNCTION fleet.report_drift(text, timestamptz, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION fleet.drift_keys(size integer, OUT keys jsonb, OUT failed text[])
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	regions text[] := ARRAY(SELECT m.name FROM fleet.map_regions AS m ORDER BY m.name);
	follows boolean := fleet.is_replica();
	cursors jsonb := (SELECT COALESCE(jsonb_object_agg(c.source, c.marks), '{}') FROM fleet.drift_cursors AS c);
	share integer := ceil(size::numeric / greatest(cardinality(regions) + follows::integer, 1));
	samples jsonb;
BEGIN
	SELECT COALESCE(jsonb_agg(a.answer::jsonb) FILTER (WHERE a.answer IS NOT NULL), '[]'),
			COALESCE(array_agg(a.peer) FILTER (WHERE a.answer IS NULL), '{}')
		INTO samples, failed FROM fleet.ask_all(regions, format('SELECT fleet.drift_sample(%L, %s)', cursors, share)) AS a;
	IF follows THEN
		samples := samples || fleet.drift_sample(cursors, share);
	END IF;
	INSERT INTO fleet.drift_cursors AS c (source, marks) SELECT s->>'source', s->'marks' FROM jsonb_array_elements(samples) AS s
		ON CONFLICT (source) DO UPDATE SET marks = excluded.marks;
	keys := (SELECT jsonb_build_object('ride', COALESCE(jsonb_agg(DISTINCT k.key) FILTER (WHERE k.kind = 'ride'), '[]'),
			'vehicle', COALESCE(jsonb_agg(DISTINCT k.key) FILTER (WHERE k.kind = 'vehicle'), '[]'))
		FROM (SELECT 'ride' AS kind, jsonb_array_elements_text(s->'ride') AS key FROM jsonb_array_elements(samples) AS s
			UNION ALL SELECT 'vehicle', jsonb_array_elements_text(s->'vehicle') FROM jsonb_array_elements(samples) AS s) AS k);
END
$$;
COMMENT ON FUNCTION fleet.drift_keys(integer) IS 'internal: the rides and vehicles that are to be checked next, from all nodes';
REVOKE EXECUTE ON FUNCTION fleet.drift_keys(integer) FROM PUBLIC;

CREATE FUNCTION fleet.check_drift(sample integer DEFAULT 1000, threshold_m float8 DEFAULT 100) RETURNS fleet.drift_reports
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	since timestamptz := clock_timestamp();
	keys jsonb;
BEGIN
	IF sample NOT BETWEEN 1 AND 100000 OR threshold_m < 0 THEN
		RAISE EXCEPTION 'the sample must be from 1 to 100000 rows, and the threshold not negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM fleet.begin_drift_check();
	keys := (SELECT k.keys FROM fleet.drift_keys(sample) AS k);
	RETURN fleet.report_drift('check', since, jsonb_array_length(keys->'ride') + jsonb_array_length(keys->'vehicle'), fleet.examine(keys, threshold_m));
END
$$;
COMMENT ON FUNCTION fleet.check_drift(integer, float8) IS
	'looks at a sample of vehicles, and as many rides, on all nodes, and reports what is wrong; on a replica it is compared with the regions, too';
REVOKE EXECUTE ON FUNCTION fleet.check_drift(integer, float8) FROM PUBLIC;

-- Whole tables.

CREATE FUNCTION fleet.digest_buckets(kind text, buckets integer, wanted integer[]) RETURNS text
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result text;
BEGIN
	IF buckets NOT BETWEEN 1 AND 1048576 OR buckets & (buckets - 1) <> 0 THEN
		RAISE EXCEPTION 'rows cannot be digested in % buckets', buckets
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The number of buckets is a power of two, at most 1048576.';
	END IF;
	EXECUTE format('WITH d AS (SELECT hashtextextended(r.%1$I, 0) & ($1 - 1) AS bucket, fleet.digest(%2$s) AS digest FROM fleet.%3$I AS r'
			' WHERE $2 IS NULL OR hashtextextended(r.%1$I, 0) & ($1 - 1) = ANY ($2::bigint[]) GROUP BY 1)'
			' SELECT encode(string_agg(COALESCE(d.digest, fleet.no_rows()), '''' ORDER BY b.bucket), ''base64'')'
			' FROM (SELECT generate_series(0, $1 - 1) AS bucket) AS b LEFT JOIN d USING (bucket) WHERE $2 IS NULL OR b.bucket = ANY ($2)',
		kind || '_id', fleet.digested(kind), 'local_' || kind || 's') INTO result USING buckets, wanted;
	RETURN result;
END
$$;
COMMENT ON FUNCTION fleet.digest_buckets(text, integer, integer[]) IS
	'internal: digests of this node''s rides or vehicles by bucket, in the order of buckets, all of them or those wanted; base64';
REVOKE EXECUTE ON FUNCTION fleet.digest_buckets(text, integer, integer[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.digest_buckets(text, integer, integer[]) TO fleet_node;

CREATE FUNCTION fleet.digest_rows(kind text, buckets integer, wanted integer[]) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result jsonb;
BEGIN
	EXECUTE format('SELECT COALESCE(jsonb_object_agg(x.key, encode(x.digest, ''base64'')), ''{}'') FROM (SELECT r.%1$I AS key, fleet.digest(%2$s) AS digest'
			' FROM fleet.%3$I AS r WHERE hashtextextended(r.%1$I, 0) & ($1 - 1) = ANY ($2::bigint[]) GROUP BY r.%1$I) AS x',
		kind || '_id', fleet.digested(kind), 'local_' || kind || 's') INTO result USING buckets, wanted;
	RETURN result;
END
$$;
COMMENT ON FUNCTION fleet.digest_rows(text, integer, integer[]) IS 'internal: the digest of each row in some buckets';
REVOKE EXECUTE ON FUNCTION fleet.digest_rows(text, integer, integer[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.digest_rows(text, integer, integer[]) TO fleet_node;

CREATE FUNCTION fleet.differing_buckets(kind text, buckets integer, wanted integer[], timeout_ms integer, OUT differing integer[], OUT rows bigint)
LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own text := fleet.node_name();
	missing text;
BEGIN
	-- All scan at the same time, this replica too.
	WITH answers AS MATERIALIZED (
		SELECT a.peer, a.error, decode(a.answer, 'base64') AS digests
		FROM fleet.ask_all(ARRAY(SELECT m.name FROM fleet.map_regions AS m) || own,
			format('SELECT fleet.digest_buckets(%L, %s, %L)', kind, buckets, wanted), timeout_ms) AS a
	), places AS MATERIALIZED (
		SELECT b.bucket, b.n FROM unnest(COALESCE((SELECT array_agg(w ORDER BY w) FROM unnest(wanted) AS w),
			(SELECT array_agg(g ORDER BY g) FROM generate_series(0, buckets - 1) AS g))) WITH ORDINALITY AS b(bucket, n)
	), sums AS (
		SELECT p.bucket, fleet.digest_total(substr(a.digests, 24 * p.n::integer - 23, 24)) FILTER (WHERE a.peer <> own) AS there,
			fleet.digest_total(substr(a.digests, 24 * p.n::integer - 23, 24)) FILTER (WHERE a.peer = own) AS here
		FROM answers AS a, places AS p WHERE a.digests IS NOT NULL GROUP BY p.bucket
	)
	SELECT (SELECT string_agg(format('%s: %s', a.peer, a.error), '; ') FROM answers AS a WHERE a.digests IS NULL),
			COALESCE((SELECT array_agg(s.bucket) FROM sums AS s WHERE s.here <> s.there), '{}'),
			(SELECT sum(('x' || encode(substr(s.here, 1, 8), 'hex'))::bit(64)::bigint) FROM sums AS s)
		INTO missing, differing, rows;
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'whole tables cannot be compared while a node does not answer'
			USING ERRCODE = 'connection_failure', DETAIL = missing, HINT = 'fleet.check_drift compares the regions that do.';
	END IF;
END
$$;
COMMENT ON FUNCTION fleet.differing_buckets(text, integer, integer[], integer) IS
	'internal: in which buckets, of all or of those wanted, this replica has other rows than all regions together; and how many it has';
REVOKE EXECUTE ON FUNCTION fleet.differing_buckets(text, integer, integer[], integer) FROM PUBLIC;

CREATE FUNCTION fleet.differing_keys(kind text, buckets integer, wanted integer[], timeout_ms integer) RETURNS text[]
LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH answers AS MATERIALIZED (
		SELECT a.peer, a.answer::jsonb AS digests FROM fleet.ask_all(ARRAY(SELECT m.name FROM fleet.map_regions AS m) || fleet.node_name(),
			format('SELECT fleet.digest_rows(%L, %s, %L)', kind, buckets, wanted), timeout_ms) AS a
	), found AS (
		SELECT a.peer = fleet.node_name() AS is_here, d.key, d.value AS digest FROM answers AS a, jsonb_each_text(a.digests) AS d
	)
	-- On the replica once, in the regions once, and the same.
	SELECT COALESCE(array_agg(x.key), '{}') FROM (SELECT f.key FROM found AS f GROUP BY f.key
		HAVING count(*) <> 2 OR count(*) FILTER (WHERE f.is_here) <> 1 OR min(f.digest) <> max(f.digest)) AS x;
END;
COMMENT ON FUNCTION fleet.differing_keys(text, integer, integer[], integer) IS
	'internal: which rides or vehicles of some buckets this replica has other than the regions, or a region other than once';
REVOKE EXECUTE ON FUNCTION fleet.differing_keys(text, integer, integer[], integer) FROM PUBLIC;

CREATE FUNCTION fleet.compare_kind(kind text, deadline timestamptz, OUT keys text[], OUT rows bigint, OUT left_out integer)
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	max_keys CONSTANT integer := 20000;		-- that a round of drilling down may bring from each node
	estimate bigint := greatest(pg_relation_size('fleet.local_' || kind || 's') / 400,
		(SELECT c.reltuples::bigint FROM pg_class AS c WHERE c.oid = ('fleet.local_' || kind || 's')::regclass));
	buckets integer := 2 ^ least(12, greatest(4, ceil(log(2, greatest(estimate / 500, 1)))));
	found record;
	differing integer[];
	drilled integer[];
	timeout integer := greatest(1, extract(epoch FROM deadline - clock_timestamp()) * 1000);
BEGIN
	-- Rows that change while they are read make buckets differ.  In one look or another each bucket is at rest, if all is well in it.
	FOR round IN 1 .. 6 LOOP
		found := fleet.differing_buckets(kind, buckets, differing, timeout);
		differing := found.differing;
		rows := COALESCE(rows, found.rows);
		RAISE NOTICE 'comparing %s, round %: % of % buckets differ', kind, round, cardinality(differing), buckets;
		EXIT WHEN differing = '{}' OR clock_timestamp() > deadline;
		PERFORM pg_sleep(0.2);
	END LOOP;
	drilled := differing[1 : greatest(1, max_keys / greatest(1, rows / buckets))::integer];
	left_out := cardinality(differing) - cardinality(drilled);
	keys := CASE WHEN drilled = '{}' THEN '{}' ELSE fleet.differing_keys(kind, buckets, drilled, timeout) END;
END
$$;
COMMENT ON FUNCTION fleet.compare_kind(text, timestamptz) IS
	'internal: the rides or vehicles that differ between this replica and the regions, by digests of whole tables; how many rows there are, and how many buckets with differences were left out';
REVOKE EXECUTE ON FUNCTION fleet.compare_kind(text, timestamptz) FROM PUBLIC;

CREATE FUNCTION fleet.compare_all(threshold_m float8 DEFAULT 100, deadline interval DEFAULT '1 minute') RETURNS fleet.drift_reports
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	since timestamptz := clock_timestamp();
	rides record;
	vehicles record;
	result jsonb;
BEGIN
	PERFORM fleet.begin_drift_check();
	IF NOT fleet.is_replica() THEN
		RAISE EXCEPTION 'node "%" is not a replica', fleet.node_name()
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Whole tables are compared between a replica and all regions.',
			HINT = 'Call it on a replica, or fleet.check_drift here.';
	ELSIF deadline NOT BETWEEN interval '1 second' AND interval '1 day' THEN
		RAISE EXCEPTION 'the deadline must be from one second to one day' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	vehicles := fleet.compare_kind('vehicle', since + deadline);
	rides := fleet.compare_kind('ride', since + deadline);
	result := fleet.examine(jsonb_build_object('ride', to_jsonb(rides.keys), 'vehicle', to_jsonb(vehicles.keys)), threshold_m);
	RETURN fleet.report_drift('compare', since, rides.rows + vehicles.rows, jsonb_set(result, '{undecided}',
		to_jsonb((result->>'undecided')::integer + rides.left_out + vehicles.left_out)));
END
$$;
COMMENT ON FUNCTION fleet.compare_all(float8, interval) IS
	'on a replica: compares all rides and vehicles with all regions, by digests; what differs is looked at row by row, and reported';
REVOKE EXECUTE ON FUNCTION fleet.compare_all(float8, interval) FROM PUBLIC;

-- Healing.  What a region has to do it does in a transaction of its own, with its
-- own record, since it commits whatever becomes of ours.

CREATE FUNCTION fleet.restore_row(departure jsonb, report text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kind text := departure->>'kind';
	key text := departure->>'key';
	found jsonb;
BEGIN
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	PERFORM pg_advisory_xact_lock(hashtextextended('fleet heal ' || key, 0));	-- several nodes may have found it
	IF (fleet.copy_row(kind, key)->>'epoch')::bigint >= (departure->>'epoch')::bigint THEN
		RETURN false;
	END IF;
	-- As an arrival whose PREPARE was lost: what is here at that epoch or later, or was, is left alone.
	PERFORM fleet.arrive('heal:' || report, jsonb_build_array(departure), 0, true);
	found := fleet.copy_row(kind, key);
	IF found->>'target' IS DISTINCT FROM fleet.own_region() OR (found->>'hlc')::bigint <> (departure->>'hlc')::bigint THEN
		RETURN false;
	END IF;
	INSERT INTO fleet.heal_log (report, kind, key, problem, action, after)
		VALUES (restore_row.report, kind, key, 'lost', 'restored', found->'image');
	RETURN true;
END
$$;
COMMENT ON FUNCTION fleet.restore_row(jsonb, text) IS 'internal: lets a ride or vehicle arrive again that was lost here; false where that is not needed any more';
REVOKE EXECUTE ON FUNCTION fleet.restore_row(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.restore_row(jsonb, text) TO fleet_node;

CREATE FUNCTION fleet.drop_copy(kind text, key text, epoch bigint, hlc bigint, winner jsonb, report text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- No grave is left: where both copies are of one epoch it would take the newer one from replicas.
SET session_replication_role = replica
AS $$
DECLARE
	image jsonb;
	winner_region text := winner->>'target';
BEGIN
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	IF kind NOT IN ('ride', 'vehicle') OR winner_region = fleet.own_region() THEN
		RAISE EXCEPTION 'this copy cannot be dropped' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	EXECUTE format('DELETE FROM fleet.%I AS r WHERE r.%I = $1 AND r.epoch = $2 AND r.hlc::bigint = $3 RETURNING fleet.row_image(r)',
		'local_' || kind || 's', kind || '_id') INTO image USING key, epoch, hlc;
	IF image IS NULL THEN
		RETURN false;		-- it has changed, or is gone
	END IF;
	INSERT INTO fleet.conflicts (report, kind, key, epoch, hlc, image, kept_in)
		VALUES (drop_copy.report, drop_copy.kind, drop_copy.key, drop_copy.epoch, drop_copy.hlc::fleet.hlc, image, winner_region);
	-- From now on this region says where it is, as if it had been handed off there.
	DELETE FROM fleet.departures AS d WHERE d.kind = drop_copy.kind AND d.key = drop_copy.key;
	INSERT INTO fleet.departures (kind, key, epoch, target, hlc, image, settled_hlc)
		VALUES (drop_copy.kind, drop_copy.key, (winner->>'epoch')::bigint, winner_region, (winner->>'hlc')::bigint::fleet.hlc, winner->'image', fleet.hlc_now());
	IF winner_region IS NOT NULL THEN
		INSERT INTO fleet.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)
			VALUES (CASE kind WHEN 'ride' THEN key END, CASE kind WHEN 'ride' THEN image->>'vehicle_id' ELSE key END, fleet.own_region(), winner_region,
				(winner->>'epoch')::bigint, (winner->>'hlc')::bigint::fleet.hlc, 'heal:' || report, 'settled');
	END IF;
	INSERT INTO fleet.heal_log (report, kind, key, problem, action, before)
		VALUES (drop_copy.report, drop_copy.kind, drop_copy.key, 'doubled', 'removed', image);
	RETURN true;
END
$$;
COMMENT ON FUNCTION fleet.drop_copy(text, text, bigint, bigint, jsonb, text) IS
	'internal: takes one version of a ride or vehicle out of this region, since a newer one is elsewhere; kept in fleet.conflicts; false where it is not here any more';
REVOKE EXECUTE ON FUNCTION fleet.drop_copy(text, text, bigint, bigint, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.drop_copy(text, text, bigint, bigint, jsonb, text) TO fleet_node;

CREATE FUNCTION fleet.live_row(region text, kind text, key text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN fleet.ask(region, format('SELECT fleet.copy_row(%L, %L)', kind, key), 5000);
END
$$;
COMMENT ON FUNCTION fleet.live_row(text, text, text) IS 'internal: what a region has of a ride or vehicle now; a departure or grave where it has left';
REVOKE EXECUTE ON FUNCTION fleet.live_row(text, text, text) FROM PUBLIC;

CREATE FUNCTION fleet.own_image(kind text, key text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN fleet.copy_row(kind, key)->'image';
END
$$;
COMMENT ON FUNCTION fleet.own_image(text, text) IS 'internal: a ride or vehicle as this node has it';
REVOKE EXECUTE ON FUNCTION fleet.own_image(text, text) FROM PUBLIC;

CREATE FUNCTION fleet.heal_region(f jsonb, report text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known jsonb := fleet.live_row(f->>'winner', f->>'kind', f->>'key');
	mine jsonb;
BEGIN
	IF (known->>'epoch')::bigint IS DISTINCT FROM (f->>'winner_epoch')::bigint
		OR f->>'problem' = 'doubled' AND known->>'target' <> f->>'winner' THEN
		RETURN false;		-- it has gone on
	ELSIF f->>'problem' = 'doubled' THEN
		RETURN fleet.ask(f->>'region', format('SELECT fleet.drop_copy(%L, %L, %s, %s, %L, %L)',
			f->>'kind', f->>'key', f->>'epoch', f->>'hlc', known, report), 5000);
	ELSIF known->>'target' IS DISTINCT FROM f->>'region' THEN
		RETURN false;
	END IF;
	-- The greatest version: this replica may have seen what became of the row after it had arrived.
	mine := CASE WHEN fleet.is_replica() THEN fleet.copy_row(f->>'kind', f->>'key') END;
	IF mine->>'target' = known->>'target' AND mine->'epoch' = known->'epoch' AND (mine->>'hlc')::bigint > (known->>'hlc')::bigint THEN
		known := mine;
	END IF;
	RETURN fleet.ask(f->>'region', format('SELECT fleet.restore_row(%L, %L)', known || jsonb_build_object('source', f->>'winner'), report), 5000);
END
$$;
COMMENT ON FUNCTION fleet.heal_region(jsonb, text) IS 'internal: has a region put right what is doubled or lost; false where that is not needed any more';
REVOKE EXECUTE ON FUNCTION fleet.heal_region(jsonb, text) FROM PUBLIC;

CREATE FUNCTION fleet.heal_replica(f jsonb, report text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kind text := f->>'kind';
	key text := f->>'key';
	old_image jsonb := fleet.own_image(kind, key);
	new_image jsonb;
	found jsonb;
BEGIN
	-- A version that no region has is taken away, unless it has changed meanwhile: compared under the row's lock.
	IF f->>'problem' IN ('extra', 'ahead') THEN
		PERFORM fleet.forget_rows(f->>'here_region', jsonb_build_array(jsonb_build_object('kind', kind, 'key', key, 'epoch', f->'here_epoch', 'hlc', f->'here_hlc')));
	END IF;
	-- Twice: an update that the apply worker dropped, because it came before there was a row here, is seen by the second
	-- look; one that comes after the row is in the index waits for us.
	FOR look IN 1 .. 2 LOOP
		EXIT WHEN f->>'problem' = 'extra';
		found := fleet.live_row(f->>'region', kind, key);
		EXIT WHEN found->>'target' IS DISTINCT FROM f->>'region';		-- it has moved or was deleted: the streams tell
		PERFORM fleet.reread_rows(f->>'region', jsonb_build_array(found));
	END LOOP;
	new_image := fleet.own_image(kind, key);
	IF new_image IS NOT DISTINCT FROM old_image THEN
		RETURN false;
	END IF;
	INSERT INTO fleet.heal_log (report, kind, key, problem, action, before, after)
		VALUES (heal_replica.report, kind, key, f->>'problem',
			CASE WHEN old_image IS NULL THEN 'inserted' WHEN new_image IS NULL THEN 'removed' ELSE 'replaced' END, old_image, new_image);
	RETURN true;
END
$$;
COMMENT ON FUNCTION fleet.heal_replica(jsonb, text) IS 'internal: reads a row of this replica again from its region; false where it has not changed by that';
REVOKE EXECUTE ON FUNCTION fleet.heal_replica(jsonb, text) FROM PUBLIC;

CREATE FUNCTION fleet.heal_finding(f jsonb, report text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('lock_timeout', current_setting('fleet.lock_timeout'), true);
	CASE WHEN f->>'problem' IN ('doubled', 'lost') THEN PERFORM fleet.heal_region(f, report);
		WHEN f->>'problem' <> 'astray' THEN PERFORM fleet.heal_replica(f, report);
		ELSE NULL;		-- the crossing rule will hand it off, or a person
	END CASE;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s: %s', sqlstate, sqlerrm);
END
$$;
COMMENT ON FUNCTION fleet.heal_finding(jsonb, text) IS 'internal: heals one finding; returns the error where that failed';
REVOKE EXECUTE ON FUNCTION fleet.heal_finding(jsonb, text) FROM PUBLIC;

CREATE FUNCTION fleet.heal(report_id bigint, force boolean DEFAULT false) RETURNS fleet.drift_reports
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	since timestamptz := clock_timestamp();
	report fleet.drift_reports := (SELECT r FROM fleet.drift_reports AS r WHERE r.id = report_id);
	name text := format('%s/%s', fleet.node_name(), report_id);
	wrong bigint;
	keys jsonb;
	f jsonb;
	problem text;
BEGIN
	PERFORM fleet.begin_drift_check();
	IF report.id IS NULL THEN
		RAISE EXCEPTION 'there is no report %', report_id
			USING ERRCODE = 'undefined_object', HINT = 'The table fleet.drift_reports has them.';
	END IF;
	keys := fleet.keys_of((SELECT COALESCE(jsonb_agg(x), '[]') FROM jsonb_array_elements(report.ids) AS x WHERE x->>'problem' <> 'astray'));
	wrong := greatest(jsonb_array_length(keys->'ride') + jsonb_array_length(keys->'vehicle'), round(report.percentage * report.checked / 100));
	IF wrong > current_setting('fleet.heal_limit')::integer AND NOT force THEN
		RAISE EXCEPTION 'report % tells of % wrong rows, more than may be healed without an operator''s word', report_id, wrong
			USING ERRCODE = 'RF034', DETAIL = format('fleet.heal_limit is %s.', current_setting('fleet.heal_limit')),
			HINT = 'Look at what has happened first. Then call fleet.heal with force => true.';
	END IF;
	-- The report may be old: what is still wrong is healed, as it is now.
	FOR f IN SELECT * FROM jsonb_array_elements(fleet.examine(keys, 0)->'findings') AS x
		ORDER BY x->>'problem' NOT IN ('doubled', 'lost'), x->>'kind' DESC, x->>'key'
	LOOP
		problem := fleet.heal_finding(f, name);
		IF problem IS NOT NULL THEN
			INSERT INTO fleet.heal_log (report, kind, key, problem, action)
				VALUES (name, f->>'kind', f->>'key', f->>'problem', 'failed: ' || heal.problem);
		END IF;
	END LOOP;
	RETURN fleet.report_drift('heal', since, jsonb_array_length(keys->'ride') + jsonb_array_length(keys->'vehicle'), fleet.examine(keys, 0));
END
$$;
COMMENT ON FUNCTION fleet.heal(bigint, boolean) IS
	'heals what a report has found and is still wrong, not more than fleet.heal_limit rows unless forced; checks the same rows again, and reports';
REVOKE EXECUTE ON FUNCTION fleet.heal(bigint, boolean) FROM PUBLIC;

CREATE FUNCTION fleet.drift_job() RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	report fleet.drift_reports;
	compared fleet.drift_reports;
	healed fleet.drift_reports;
	problem text;
BEGIN
	IF NOT pg_try_advisory_xact_lock(hashtextextended('fleet drift job', 0)) THEN
		RETURN NULL;		-- the last one is still at it
	END IF;
	report := fleet.check_drift();
	IF report.lost + report.doubled = 0 AND report.percentage <= current_setting('fleet.drift_threshold')::float8 THEN
		RETURN report.id;
	END IF;
	BEGIN
		healed := fleet.heal(report.id);
		-- The sample was wrong in so many rows that there are others: they are looked for.
		IF fleet.is_replica() AND report.percentage > current_setting('fleet.drift_threshold')::float8 AND report.failed = '{}' THEN
			compared := fleet.compare_all();
			IF compared.percentage > 0 THEN
				healed := fleet.heal(compared.id);
			END IF;
		END IF;
	EXCEPTION WHEN OTHERS THEN
		problem := format('%s: %s', sqlstate, sqlerrm);
	END;
	RAISE LOG 'fleet: drift of % per cent in report %: % missing, % extra, % stale, % differing, % distant, % doubled, % lost; %',
		round(report.percentage::numeric, 2), report.id, report.missing, report.extra, report.stale, report.differing, report.distant,
		report.doubled, report.lost, COALESCE('not healed, ' || problem, format('after healing %s per cent in report %s', round(healed.percentage::numeric, 2), healed.id));
	PERFORM pg_notify('fleet_alert', json_build_object('kind', 'drift', 'node', report.node, 'report', report.id, 'percentage', report.percentage,
		'doubled', report.doubled, 'lost', report.lost, 'healed', healed.percentage = 0 AND healed.undecided = 0, 'problem', problem)::text);
	RETURN COALESCE(healed.id, report.id);
END
$$;
COMMENT ON FUNCTION fleet.drift_job() IS
	'checks for drift, and heals it where it is more than fleet.drift_threshold, or anything is doubled or lost; with an alert (log, NOTIFY fleet_alert); returns the last report';
REVOKE EXECUTE ON FUNCTION fleet.drift_job() FROM PUBLIC;
