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
--   commit    decisions, the resolver, what is in doubt
--   region    changing the map (after commit, which it uses)
--   replica   replicas of all regions, fed by logical replication
--   notify    changes told by NOTIFY, to who listens
--   query     reads of rides over many regions
--   track     position reports, limits
--   decode    the change stream
--   verify    the invariants, checked
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
	hlc fleet.hlc NOT NULL DEFAULT fleet.hlc_now()
) PARTITION BY LIST (region);
COMMENT ON TABLE fleet.vehicles IS 'vehicles of all regions; those of this node''s region are a local partition';
COMMENT ON COLUMN fleet.vehicles.location IS 'WGS 84, of the last accepted fix';
COMMENT ON COLUMN fleet.vehicles.heading IS 'degrees from north, clockwise';
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

CREATE FUNCTION fleet.distance_m(a text, b text) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT ST_Distance(a::geography, b::geography, false);
END;
COMMENT ON FUNCTION fleet.distance_m(text, text) IS 'internal: metres between two places given as text, on the sphere';

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
-- commit: decisions, the resolver, what is in doubt
-- ---------------------------------------------------------------------------

CREATE TABLE fleet.decisions (
	seq integer NOT NULL DEFAULT 0,
	dtxid text NOT NULL,
	branch integer NOT NULL,
	region text NOT NULL,
	kind text NOT NULL CHECK (kind IN ('depart', 'arrive', 'map', 'call')),
	payload jsonb,
	decided_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX decisions_dtxid ON fleet.decisions (dtxid);
COMMENT ON TABLE fleet.decisions IS
	'decision records of the transactions that this node coordinates: a row that is visible means commit; gone when settled';
COMMENT ON COLUMN fleet.decisions.seq IS 'order of the requests of a transaction';
COMMENT ON COLUMN fleet.decisions.payload IS
	'of a departure the rows that left, of a call its arguments; null of an arrival, which departures tell, and of a map change, which the present map tells (see fleet.branch_request)';
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
		OR EXISTS (SELECT FROM fleet.map_log AS m WHERE m.dtxid = branch_applied.dtxid);
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
			EXECUTE format('CREATE INDEX ON fleet.%I (status, requested_at)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I (requested_at)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I USING gist (current_location)', part);
		ELSE
			EXECUTE format('CREATE INDEX ON fleet.%I (status)', part);
			EXECUTE format('CREATE INDEX ON fleet.%I USING gist (location)', part);
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
				WHEN 'map' THEN fleet.map_payload(r.region) ELSE r.payload END) ORDER BY r.seq)
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
			CASE WHEN regions @> jsonb_build_array(jsonb_build_object('name', peer)) THEN regions ELSE '[]' END));
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
		'outside_region,outside_since,updated_at,epoch,hlc}', 'insert, update'
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

CREATE FUNCTION fleet.search_rides(scope text DEFAULT 'global-live', region text DEFAULT NULL, status fleet.ride_status DEFAULT NULL,
	vehicle_id text DEFAULT NULL, customer_id text DEFAULT NULL, min_fare numeric DEFAULT NULL, max_fare numeric DEFAULT NULL,
	since timestamptz DEFAULT NULL, near geography DEFAULT NULL, within_m float8 DEFAULT NULL,
	order_by text DEFAULT 'requested_at desc', max_rows integer DEFAULT 100, on_unavailable text DEFAULT 'fail') RETURNS SETOF fleet.rides
	AS 'MODULE_PATHNAME', 'fleet_query_search_rides'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
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

CREATE FUNCTION fleet.last_read(OUT scope text, OUT asked text[], OUT failed text[], OUT reasked integer, OUT latency_ms float8, OUT q fleet.hlc,
	OUT summed boolean)
	RETURNS record
	AS 'MODULE_PATHNAME', 'fleet_query_last_read'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION fleet.last_read() IS
	'this session''s last read of rides: scope, who was asked, who could not answer, rides asked for once more at their target, time taken, stamp, and whether others made the sums';

-- ---------------------------------------------------------------------------
-- track: position reports, limits
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
	'one position report of a vehicle of this region; newest wins; hands it off with its open ride when it has crossed a border';

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
