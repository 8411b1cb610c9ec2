/*-------------------------------------------------------------------------
 *
 * place.c
 *	  The longitude and latitude of a geography(Point).
 *
 * By PostGIS' own functions, called without SQL: a row of each fix comes by here.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/place.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "parser/parse_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/table.h"
#include "geo/haversine.h"
#include "live/live.h"
#include "live/record.h"

static bool is_ready = false;
static FmgrInfo to_geometry;
static FmgrInfo get_x;
static FmgrInfo get_y;

static Oid
find_function(const char *schema, const char *name, Oid arg, FmgrInfo *function)
{
	Oid			oid = LookupFuncName(list_make2(makeString(pstrdup(schema)),
												makeString(pstrdup(name))),
									 1, &arg, false);

	fmgr_info_cxt(oid, function, TopMemoryContext);
	return get_func_rettype(oid);
}

/* PostGIS is where the type of the column is. */
static void
find_functions(Oid geography)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(geography));
	char	   *schema;
	Oid			geometry;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", geography);
	schema = get_namespace_name(((Form_pg_type) GETSTRUCT(tuple))->typnamespace);
	ReleaseSysCache(tuple);
	geometry = find_function(schema, "geometry", geography, &to_geometry);
	(void) find_function(schema, "st_x", geometry, &get_x);
	(void) find_function(schema, "st_y", geometry, &get_y);
	is_ready = true;
}

static double
coordinate(FmgrInfo *function, Datum geometry, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		value;

	InitFunctionCallInfoData(*fcinfo, function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = geometry;
	fcinfo->args[0].isnull = false;
	value = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return fcinfo->isnull ? 0 : DatumGetFloat8(value);
}

/* Longitude and latitude of a geography; false for a point that is empty, or no place. */
bool
fleet_live_place(Oid geography, Datum place, double *lon, double *lat)
{
	Datum		geometry;
	bool		no_x;
	bool		no_y;

	if (!is_ready)
		find_functions(geography);
	geometry = FunctionCall1(&to_geometry, place);
	*lon = coordinate(&get_x, geometry, &no_x);
	*lat = coordinate(&get_y, geometry, &no_y);
	pfree(DatumGetPointer(geometry));
	return !no_x && !no_y && fleet_geo_point_valid(*lon, *lat);
}

/* What a row of fleet.vehicles says, but for its id, which the caller has to give. */
void
fleet_live_read_row(TupleTableSlot *slot, const FleetLiveColumns *columns, FleetLiveRecord *record)
{
	bool		isnull;
	Datum		value;

	memset(record, 0, offsetof(FleetLiveRecord, id));
	value = slot_getattr(slot, columns->location, &isnull);
	record->has_place = !isnull &&
		fleet_live_place(TupleDescAttr(slot->tts_tupleDescriptor, columns->location - 1)->atttypid, value,
				   &record->lon, &record->lat);
	record->status = DatumGetObjectId(slot_getattr(slot, columns->status, &isnull));
	value = slot_getattr(slot, columns->heading, &isnull);
	record->has_heading = !isnull;
	record->heading = isnull ? 0 : DatumGetFloat8(value);
	value = slot_getattr(slot, columns->fix_at, &isnull);
	record->has_fix = !isnull;
	record->fix_at = isnull ? 0 : DatumGetTimestampTz(value);
	record->epoch = DatumGetInt64(slot_getattr(slot, columns->epoch, &isnull));
	record->hlc = DatumGetInt64(slot_getattr(slot, columns->hlc, &isnull));
}

void
fleet_live_find_columns(TupleDesc desc, FleetLiveColumns *columns)
{
	columns->vehicle_id = fleet_base_table_column(desc, "vehicle_id") + 1;
	columns->status = fleet_base_table_column(desc, "status") + 1;
	columns->location = fleet_base_table_column(desc, "location") + 1;
	columns->fix_at = fleet_base_table_column(desc, "fix_at") + 1;
	columns->heading = fleet_base_table_column(desc, "heading") + 1;
	columns->epoch = fleet_base_table_column(desc, "epoch") + 1;
	columns->hlc = fleet_base_table_column(desc, "hlc") + 1;
}
