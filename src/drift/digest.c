/*-------------------------------------------------------------------------
 *
 * digest.c
 *	  Digests of sets of rows, whatever their order.
 *
 * Two nodes have the same rows if the digests are the same.  A row's hash is of
 * 128 bits, and a set's digest is the sum of its rows' hashes, each half modulo
 * 2^64, and their number.  So digests of parts can be added, rows can come in any
 * order and from parallel workers, and a row that is there twice is not one that is
 * not there (as it would be with XOR).
 *
 * What is hashed is the canonical image of the values: of each value its length
 * and its bytes as they are stored, uncompressed and without a header; of null a length that
 * no value has; of an enum its label, since its number is another one on each
 * server.  No output function is asked, so no setting (time zone, date style, digits of
 * floats, client encoding) is in it, and it costs a fraction of what text would.
 * The stored form of the types in question is the same from PostgreSQL 15 to 18:
 * pg_upgrade keeps tables as they are.  It is not the same on servers of another byte order.
 *
 * The hash is the server's own hash_bytes_extended(), by which hash partitions
 * are told apart, so it does not change either; two seeds make 128 bits of it.  It is
 * no protection against somebody who looks for rows with the same digest.
 *
 * A digest is a bytea of 24 bytes: number, first half, second half, in the order of the network.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/digest.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "access/htup_details.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "port/pg_bswap.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(fleet_drift_digest_add);
PG_FUNCTION_INFO_V1(fleet_drift_digest_combine);

#define DIGEST_BYTES 24
#define SEED_1 UINT64CONST(0x666c656574206131)
#define SEED_2 UINT64CONST(0x666c656574206232)

/* Longer than any value. */
#define NULL_LENGTH UINT32_MAX

typedef struct Digest
{
	uint64		rows;
	uint64		half[2];
} Digest;

/* What a value is hashed as. */
typedef struct Column
{
	int16		typlen;
	bool		typbyval;
	bool		is_enum;
} Column;

/* What is kept from row to row. */
typedef struct Kept
{
	StringInfoData image;
	int			ncolumn;
	Column		columns[FLEXIBLE_ARRAY_MEMBER];
} Kept;

/* ---------- digests as values ---------- */

static Digest
read_digest(bytea *value)
{
	Digest		digest;
	uint64		parts[3];

	if (VARSIZE_ANY_EXHDR(value) != DIGEST_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a digest has %d bytes, not %d", DIGEST_BYTES, (int) VARSIZE_ANY_EXHDR(value))));
	memcpy(parts, VARDATA_ANY(value), DIGEST_BYTES);
	digest.rows = pg_ntoh64(parts[0]);
	digest.half[0] = pg_ntoh64(parts[1]);
	digest.half[1] = pg_ntoh64(parts[2]);
	return digest;
}

static void
write_digest(bytea *value, const Digest *digest)
{
	uint64		parts[3];

	parts[0] = pg_hton64(digest->rows);
	parts[1] = pg_hton64(digest->half[0]);
	parts[2] = pg_hton64(digest->half[1]);
	memcpy(VARDATA_ANY(value), parts, DIGEST_BYTES);
}

static void
add(Digest *digest, const Digest *other)
{
	digest->rows += other->rows;
	digest->half[0] += other->half[0];
	digest->half[1] += other->half[1];
}

/* ---------- images ---------- */

static Kept *
keep_columns(FunctionCallInfo fcinfo)
{
	int			n = PG_NARGS() - 1;
	MemoryContext context = fcinfo->flinfo->fn_mcxt;
	MemoryContext old = MemoryContextSwitchTo(context);
	Kept	   *kept = palloc0(offsetof(Kept, columns) + sizeof(Column) * n);

	initStringInfo(&kept->image);
	kept->ncolumn = n;
	for (int i = 0; i < n; i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i + 1);

		if (!OidIsValid(type) || type == UNKNOWNOID)
			ereport(ERROR,
					(errcode(ERRCODE_INDETERMINATE_DATATYPE),
					 errmsg("could not determine the type of value %d", i + 1)));
		get_typlenbyval(type, &kept->columns[i].typlen, &kept->columns[i].typbyval);
		kept->columns[i].is_enum = type_is_enum(type);
	}
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = kept;
	return kept;
}

static void
append(StringInfo image, const void *bytes, uint32 length)
{
	uint32		on_wire = pg_hton32(length);

	appendBinaryStringInfoNT(image, (const char *) &on_wire, sizeof(on_wire));
	if (length != NULL_LENGTH)
		appendBinaryStringInfoNT(image, (const char *) bytes, length);
}

static void
append_label(StringInfo image, Oid value)
{
	HeapTuple	tuple = SearchSysCache1(ENUMOID, ObjectIdGetDatum(value));
	const char *label;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid internal value for enum: %u", value)));
	label = NameStr(((Form_pg_enum) GETSTRUCT(tuple))->enumlabel);
	append(image, label, strlen(label));
	ReleaseSysCache(tuple);
}

static void
append_value(StringInfo image, const Column *column, Datum value)
{
	if (column->is_enum)
		append_label(image, DatumGetObjectId(value));
	else if (column->typbyval)
	{
		uint64		bits = pg_hton64((uint64) value);

		append(image, &bits, sizeof(bits));
	}
	else if (column->typlen == -1)
	{
		struct varlena *stored = (struct varlena *) DatumGetPointer(value);
		struct varlena *plain = pg_detoast_datum_packed(stored);

		append(image, VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));
		if (plain != stored)
			pfree(plain);
	}
	else if (column->typlen == -2)
		append(image, DatumGetCString(value), strlen(DatumGetCString(value)));
	else
		append(image, DatumGetPointer(value), column->typlen);
}

/* The digest of the one row that the arguments are. */
static Digest
row_digest(FunctionCallInfo fcinfo)
{
	Kept	   *kept = fcinfo->flinfo->fn_extra;
	Digest		digest = {.rows = 1};

	if (kept == NULL)
		kept = keep_columns(fcinfo);
	resetStringInfo(&kept->image);
	for (int i = 0; i < kept->ncolumn; i++)
		if (PG_ARGISNULL(i + 1))
			append(&kept->image, NULL, NULL_LENGTH);
		else
			append_value(&kept->image, &kept->columns[i], PG_GETARG_DATUM(i + 1));
	digest.half[0] = hash_bytes_extended((unsigned char *) kept->image.data, kept->image.len, SEED_1);
	digest.half[1] = hash_bytes_extended((unsigned char *) kept->image.data, kept->image.len, SEED_2);
	return digest;
}

/* ---------- the aggregate ---------- */

/* The state, to be changed in place where it is the aggregate's own. */
static bytea *
state_of(FunctionCallInfo fcinfo)
{
	bytea	   *state;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a digest must not be null")));
	state = AggCheckCallContext(fcinfo, NULL) ? PG_GETARG_BYTEA_PP(0) : PG_GETARG_BYTEA_P_COPY(0);
	return state;
}

/* fleet.digest_add(digest, VARIADIC "any") -> digest, with one row more */
Datum
fleet_drift_digest_add(PG_FUNCTION_ARGS)
{
	bytea	   *state = state_of(fcinfo);
	Digest		digest = read_digest(state);
	Digest		row;

	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a digest is made of values, not of an array of them")));
	row = row_digest(fcinfo);
	add(&digest, &row);
	write_digest(state, &digest);
	PG_RETURN_BYTEA_P(state);
}

/* fleet.digest_combine(digest, digest) -> digest of both sets */
Datum
fleet_drift_digest_combine(PG_FUNCTION_ARGS)
{
	bytea	   *state = state_of(fcinfo);
	Digest		digest = read_digest(state);
	Digest		other = read_digest(PG_GETARG_BYTEA_PP(1));

	add(&digest, &other);
	write_digest(state, &digest);
	PG_RETURN_BYTEA_P(state);
}
