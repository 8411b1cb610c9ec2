/*-------------------------------------------------------------------------
 *
 * place.c
 *	  Values of type geography that are points, made and read without SQL.
 *
 * PostGIS exports no C functions for it, and to call its SQL functions costs more
 * than to find and write the row that the point is for.  How PostGIS stores a point
 * is its own affair and has changed between its versions.  So it is asked once, by
 * each backend, for a point whose coordinates are known.  Where that ends in
 * these two, as all versions until now have it, another point is the same with
 * other coordinates; where it does not, PostGIS is asked each time.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/geo/place.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "geo/place.h"

#define COORDINATES_SIZE	(2 * sizeof(double))
#define KNOWN_LON			1.25
#define KNOWN_LAT			2.5

typedef struct Sample
{
	struct varlena *point;		/* NULL: not asked yet */
	Size		size;
	bool		ends_in_coordinates;
} Sample;

static Sample sample;

static List *
name_of(char *function)
{
	return list_make2(makeString("fleet"), makeString(function));
}

static Datum
ask_for_point(double lon, double lat)
{
	const Oid	types[2] = {FLOAT8OID, FLOAT8OID};

	return OidFunctionCall2(LookupFuncName(name_of("make_point"), 2, types, false),
							Float8GetDatum(lon), Float8GetDatum(lat));
}

/* False where it has none, which an empty point has not. */
static bool
ask_for_coordinate(char *function, Datum place, double *value)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	info;
	Datum		result;

	fmgr_info(LookupFuncName(name_of(function), -1, NULL, false), &info);
	InitFunctionCallInfoData(*fcinfo, &info, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = place;
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	*value = fcinfo->isnull ? 0 : DatumGetFloat8(result);
	return !fcinfo->isnull;
}

static char *
coordinates_of(struct varlena *point)
{
	return (char *) point + VARSIZE(point) - COORDINATES_SIZE;
}

static void
take_sample(void)
{
	double		known[2] = {KNOWN_LON, KNOWN_LAT};
	Datum		asked = ask_for_point(KNOWN_LON, KNOWN_LAT);
	struct varlena *point = PG_DETOAST_DATUM(asked);

	sample.size = VARSIZE(point);
	sample.ends_in_coordinates = sample.size > VARHDRSZ + COORDINATES_SIZE &&
		memcmp(coordinates_of(point), known, COORDINATES_SIZE) == 0;
	sample.point = MemoryContextAlloc(TopMemoryContext, sample.size);
	memcpy(sample.point, point, sample.size);
}

/* A point in degrees, which must be within 180 and 90: palloc'd. */
Datum
fleet_geo_place_make(double lon, double lat)
{
	double		coordinates[2] = {lon, lat};
	struct varlena *point;

	if (sample.point == NULL)
		take_sample();
	if (!sample.ends_in_coordinates)
		return ask_for_point(lon, lat);
	point = palloc(sample.size);
	memcpy(point, sample.point, sample.size);
	memcpy(coordinates_of(point), coordinates, COORDINATES_SIZE);
	return PointerGetDatum(point);
}

/* Is it stored as the sample is? */
static bool
is_like_sample(struct varlena *point)
{
	return sample.ends_in_coordinates && VARSIZE(point) == sample.size &&
		memcmp(VARDATA(point), VARDATA(sample.point),
			   sample.size - VARHDRSZ - COORDINATES_SIZE) == 0;
}

/* The coordinates of a point, in degrees; false of an empty one. */
bool
fleet_geo_place_read(Datum place, double *lon, double *lat)
{
	struct varlena *point = PG_DETOAST_DATUM(place);
	double		coordinates[2];

	if (sample.point == NULL)
		take_sample();
	if (is_like_sample(point))
	{
		memcpy(coordinates, coordinates_of(point), COORDINATES_SIZE);
		*lon = coordinates[0];
		*lat = coordinates[1];
		return true;
	}
	return ask_for_coordinate("lon", place, lon) && ask_for_coordinate("lat", place, lat);
}
