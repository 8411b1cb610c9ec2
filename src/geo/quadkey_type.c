/*-------------------------------------------------------------------------
 *
 * quadkey_type.c
 *	  The SQL type fleet.quadkey and its functions.
 *
 * A fleet.quadkey is stored like a bigint: same size, passed the same way, same
 * bytes on the wire.  The order of cells is that of their numbers, which are
 * not negative (quadkey.c).  So comparison, sorting and hashing have no code
 * here: the install script declares them on the server's own functions.
 *
 * Invariant: each fleet.quadkey is a valid cell.  The ways in are text, binary,
 * the cast from bigint, and the functions below; each of them checks.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/quadkey_type.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"

#include "geo/quadkey.h"

#define PG_GETARG_CELL(n)		((uint64) PG_GETARG_INT64(n))
#define PG_RETURN_CELL(key)		PG_RETURN_INT64((int64) (key))

PG_FUNCTION_INFO_V1(fleet_geo_quadkey_in);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_out);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_recv);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_send);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_from_bigint);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_make);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_make_of_tile);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_tile);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_level);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_parent);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_ancestor);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_last);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_children);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_neighbours);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_edges);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_get_reach);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_cover_circle);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_contains_sql);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_contained_sql);

Datum
fleet_geo_quadkey_in(PG_FUNCTION_ARGS)
{
	char	   *text = PG_GETARG_CSTRING(0);
	uint64_t	key = 0;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_parse(text, strlen(text), &key);

	if (status != FLEET_GEO_QUADKEY_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type fleet.quadkey: \"%s\"", text),
				 status == FLEET_GEO_QUADKEY_TOO_LONG ?
				 errdetail("It has more than %d digits.", FLEET_GEO_QUADKEY_MAX_LEVEL) :
				 errdetail("A digit is 0, 1, 2 or 3."),
				 errhint("A cell is written as one digit for each level, as 0230102.")));
	PG_RETURN_CELL(key);
}

Datum
fleet_geo_quadkey_out(PG_FUNCTION_ARGS)
{
	char	   *text = palloc(FLEET_GEO_QUADKEY_TEXT_SIZE);

	fleet_geo_quadkey_format(PG_GETARG_CELL(0), text);
	PG_RETURN_CSTRING(text);
}

/* Eight bytes in network order, no more and no fewer. */
Datum
fleet_geo_quadkey_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int			len = buf->len - buf->cursor;
	int64		number;

	if (len != sizeof(int64))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid length of a binary fleet.quadkey: %d bytes", len),
				 errdetail("A cell has 8 bytes.")));
	number = pq_getmsgint64(buf);
	if (!fleet_geo_quadkey_valid((uint64) number))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("binary fleet.quadkey is no cell"),
				 errdetail("Its number is " INT64_FORMAT ".", number)));
	PG_RETURN_INT64(number);
}

Datum
fleet_geo_quadkey_send(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint64(&buf, PG_GETARG_INT64(0));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* The cast from bigint.  The cast to bigint needs no function. */
Datum
fleet_geo_quadkey_from_bigint(PG_FUNCTION_ARGS)
{
	int64		number = PG_GETARG_INT64(0);

	if (!fleet_geo_quadkey_valid((uint64) number))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint " INT64_FORMAT " is no quadkey", number),
				 errdetail("The number of a cell has its level in the lowest 5 bits, two bits for each digit from bit 62 down, and zeros else."),
				 errhint("Digits are read from text: '0230102'::fleet.quadkey.")));
	PG_RETURN_INT64(number);
}

/* Report what is wrong with the arguments of a call; status is not OK. */
static void
raise_bad_argument(FleetGeoQuadkeyStatus status)
{
	if (status == FLEET_GEO_QUADKEY_BAD_LEVEL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("level out of range for fleet.quadkey"),
				 errdetail("Levels are 0, the whole world, to %d.", FLEET_GEO_QUADKEY_MAX_LEVEL)));
	if (status == FLEET_GEO_QUADKEY_BAD_TILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no such tile"),
				 errdetail("At level n, columns and rows are 0 to 2^n - 1.")));
	if (status == FLEET_GEO_QUADKEY_BAD_RADIUS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("radius must not be negative, nor NaN")));
	if (status == FLEET_GEO_QUADKEY_TOO_MANY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the cover has more than %d cells", FLEET_GEO_QUADKEY_COVER_MAX),
				 errhint("Choose a lower level, of larger cells; each level less has about a quarter of the cells.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("place out of range"),
			 errdetail("Longitudes are -180 to 180 degrees, latitudes -90 to 90.")));
}

Datum
fleet_geo_quadkey_make(PG_FUNCTION_ARGS)
{
	uint64_t	key = 0;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_of_place(PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1),
															  PG_GETARG_INT32(2), &key);

	if (status != FLEET_GEO_QUADKEY_OK)
		raise_bad_argument(status);
	PG_RETURN_CELL(key);
}

Datum
fleet_geo_quadkey_make_of_tile(PG_FUNCTION_ARGS)
{
	/* A negative column becomes a number that is none. */
	uint64_t	key = 0;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_of_tile((uint32) PG_GETARG_INT32(0), (uint32) PG_GETARG_INT32(1),
															 PG_GETARG_INT32(2), &key);

	if (status != FLEET_GEO_QUADKEY_OK)
		raise_bad_argument(status);
	PG_RETURN_CELL(key);
}

/* A row of the result type, none of its columns null. */
static Datum
row_of(FunctionCallInfo fcinfo, Datum *values)
{
	bool		nulls[4] = {false, false, false, false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts > lengthof(nulls))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function returning record called in context that cannot accept type record")));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

Datum
fleet_geo_quadkey_get_tile(PG_FUNCTION_ARGS)
{
	Datum		values[2];
	uint32_t	x;
	uint32_t	y;

	fleet_geo_quadkey_tile(PG_GETARG_CELL(0), &x, &y);
	values[0] = Int32GetDatum((int32) x);
	values[1] = Int32GetDatum((int32) y);
	return row_of(fcinfo, values);
}

Datum
fleet_geo_quadkey_get_level(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(fleet_geo_quadkey_level(PG_GETARG_CELL(0)));
}

/* Null for the whole world. */
Datum
fleet_geo_quadkey_get_parent(PG_FUNCTION_ARGS)
{
	uint64		key = PG_GETARG_CELL(0);
	int			level = fleet_geo_quadkey_level(key);

	if (level == 0)
		PG_RETURN_NULL();
	PG_RETURN_CELL(fleet_geo_quadkey_ancestor(key, level - 1));
}

Datum
fleet_geo_quadkey_get_ancestor(PG_FUNCTION_ARGS)
{
	uint64		key = PG_GETARG_CELL(0);
	int32		level = PG_GETARG_INT32(1);

	if (level < 0 || level > fleet_geo_quadkey_level(key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a cell of level %d has no parent of level %d", fleet_geo_quadkey_level(key), level),
				 errdetail("A parent's level is 0 to that of the cell.")));
	PG_RETURN_CELL(fleet_geo_quadkey_ancestor(key, level));
}

Datum
fleet_geo_quadkey_get_last(PG_FUNCTION_ARGS)
{
	PG_RETURN_CELL(fleet_geo_quadkey_last(PG_GETARG_CELL(0)));
}

Datum
fleet_geo_quadkey_contains_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(fleet_geo_quadkey_contains(PG_GETARG_CELL(0), PG_GETARG_CELL(1)));
}

Datum
fleet_geo_quadkey_contained_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(fleet_geo_quadkey_contains(PG_GETARG_CELL(1), PG_GETARG_CELL(0)));
}

/* One more row of a result that was begun by InitMaterializedSRF(). */
static void
put_cell(FunctionCallInfo fcinfo, uint64 key)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		value = Int64GetDatum((int64) key);
	bool		isnull = false;

	tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
}

/* None at the deepest level. */
Datum
fleet_geo_quadkey_get_children(PG_FUNCTION_ARGS)
{
	uint64		key = PG_GETARG_CELL(0);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (fleet_geo_quadkey_level(key) < FLEET_GEO_QUADKEY_MAX_LEVEL)
		for (int digit = 0; digit < 4; digit++)
			put_cell(fcinfo, fleet_geo_quadkey_child(key, digit));
	return (Datum) 0;
}

Datum
fleet_geo_quadkey_get_neighbours(PG_FUNCTION_ARGS)
{
	uint64_t	neighbours[FLEET_GEO_QUADKEY_NEIGHBOURS];
	int			n = fleet_geo_quadkey_neighbours(PG_GETARG_CELL(0), neighbours);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < n; i++)
		put_cell(fcinfo, neighbours[i]);
	return (Datum) 0;
}

static Datum
row_of_box(FunctionCallInfo fcinfo, const FleetGeoBox *box)
{
	Datum		values[4];

	values[0] = Float8GetDatum(box->west);
	values[1] = Float8GetDatum(box->south);
	values[2] = Float8GetDatum(box->east);
	values[3] = Float8GetDatum(box->north);
	return row_of(fcinfo, values);
}

Datum
fleet_geo_quadkey_get_edges(PG_FUNCTION_ARGS)
{
	FleetGeoBox box;

	fleet_geo_quadkey_bounds(PG_GETARG_CELL(0), &box);
	return row_of_box(fcinfo, &box);
}

Datum
fleet_geo_quadkey_get_reach(PG_FUNCTION_ARGS)
{
	FleetGeoBox box;

	fleet_geo_quadkey_reach(PG_GETARG_CELL(0), &box);
	return row_of_box(fcinfo, &box);
}

Datum
fleet_geo_quadkey_cover_circle(PG_FUNCTION_ARGS)
{
	FleetGeoCover cover;
	uint64_t	key;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_cover_begin(&cover, PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1),
																 PG_GETARG_FLOAT8(2), PG_GETARG_INT32(3));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	while (status == FLEET_GEO_QUADKEY_OK)
	{
		CHECK_FOR_INTERRUPTS();
		status = fleet_geo_quadkey_cover_next(&cover, &key);
		if (status == FLEET_GEO_QUADKEY_OK)
			put_cell(fcinfo, key);
	}
	if (status != FLEET_GEO_QUADKEY_END)
		raise_bad_argument(status);
	return (Datum) 0;
}
