/*-------------------------------------------------------------------------
 *
 * nearest.c
 *	  fleet.nearest_vehicles(): the nearest vehicles of a place, of this region or of
 *	  all that the circle reaches.
 *
 *	1. This node's region is searched: its live index, or its table (live/scan.c) where the
 *	   index cannot tell, where the caller may not see all vehicles, in a
 *	   transaction that has one snapshot, or that has changed vehicles itself.
 *	2. Where that has found enough, only what is nearer than the last of them can count
 *	   any more.  The regions that such a circle reaches are asked, all at once.
 *	3. All are put in order.  A vehicle that two regions have, because it was handed off
 *	   in between, is taken from the one with the greater epoch.
 *
 * Rights are those of reads of rides (search.c): SELECT on fleet.vehicles; what row-level
 * security leaves is searched with scope 'local' only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/nearest.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "geo/haversine.h"
#include "live/live.h"
#include "query/nearby.h"
#include "query/query.h"
#include "query/read.h"
#include "region/locate.h"

PG_FUNCTION_INFO_V1(fleet_query_nearest_vehicles);
PG_FUNCTION_INFO_V1(fleet_query_nearest_here);
PG_FUNCTION_INFO_V1(fleet_query_haversine);

#define MAX_VEHICLES 10000

/* Half the way round the earth, and a little. */
#define MAX_RADIUS_M 20100000.0

/*
 * The last fix of a vehicle may lie outside of its region: it has not crossed by the
 * crossing rule yet, or is in no region and counts to the nearest.  So far.
 */
#define OUTSIDE_M 2000.0

/* See clearance(): squares, how far their corners are from the middle at most, and what is far. */
#define SQUARES			256
#define SQUARE_DEGREES	(1.0 / 64)
#define SQUARE_HALF_M	1400.0
#define CLEAR_M			20000.0

/* What a peer is asked; its parameters are made in ask_regions(). */
#define PEER_SQL "SELECT 'vehicle', (n.vehicle).vehicle_id, n.epoch, $1::text, n.vehicle::text" \
	" FROM fleet.nearest_here($2::float8, $3::float8, $4::integer, $5::float8, NULLIF($6, '')::fleet.vehicle_status, $7::integer) AS n"

typedef struct Square
{
	const FleetRegionMap *map;	/* NULL = nothing is known */
	int64		version;
	int			x;
	int			y;
	double		distance;		/* of its middle to the nearest other region */
} Square;

static Square squares[SQUARES];

/* ---------- the arguments ---------- */

static Oid
fleet_relation(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("fleet", false));
}

static Oid
offline_status(void)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("vehicle_status"),
									   ObjectIdGetDatum(get_namespace_oid("fleet", false)));

	return GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid, ObjectIdGetDatum(type),
						   CStringGetDatum("OFFLINE"));
}

static void
check_search(const FleetLiveSearch *search)
{
	if (!fleet_geo_point_valid(search->lon, search->lat))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("no place has longitude %g and latitude %g", search->lon, search->lat),
				 errdetail("Longitude is from -180 to 180 degrees, latitude from -90 to 90."),
				 errhint("The longitude comes first.")));
	if (!(search->radius >= 0) || search->radius > MAX_RADIUS_M)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the radius of a search must be from 0 to %.0f metres, not %g", MAX_RADIUS_M, search->radius)));
	if (search->max < 0 || search->max > MAX_VEHICLES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ROW_COUNT_IN_LIMIT_CLAUSE),
				 errmsg("a search finds from 0 to %d vehicles, not %d", MAX_VEHICLES, search->max)));
}

/* Arguments lon, lat, k, radius_m, status; and whose fixes are older is silent. */
static void
read_search(FunctionCallInfo fcinfo, int ttl, FleetLiveSearch *search)
{
	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("longitude, latitude, number and radius of a search must not be null")));
	search->lon = PG_GETARG_FLOAT8(0);
	search->lat = PG_GETARG_FLOAT8(1);
	search->max = PG_GETARG_INT32(2);
	search->radius = PG_GETARG_FLOAT8(3);
	search->status = PG_ARGISNULL(4) ? InvalidOid : PG_GETARG_OID(4);
	search->offline = offline_status();
	search->silent = ttl == 0 ? DT_NOBEGIN : GetCurrentTimestamp() - ttl * USECS_PER_SEC;
	check_search(search);
}

/* Returns whether the caller may see all vehicles that are here. */
bool
fleet_query_check_vehicles(FleetScope scope)
{
	Oid			relid = fleet_relation("vehicles");
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	bool		all = check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "vehicles");
	if (scope != FLEET_SCOPE_LOCAL && !all)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read the vehicles of other regions"),
				 errdetail("Row-level security of fleet.vehicles applies to you, and other nodes do not know your policies."),
				 errhint("Use scope 'local'.")));
	return all;
}

/* Has this node what the scope needs? */
void
fleet_query_check_scope(const FleetRegionMap *map, FleetScope scope)
{
	if (scope == FLEET_SCOPE_LOCAL && map->own == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_NOT_WRITABLE),
				 errmsg("node \"%s\" is a replica and has no region of its own", map->node),
				 errhint("Use scope 'global-fast'.")));
}

/* ---------- this node ---------- */

static void
search_own(const FleetRegionMap *map, const FleetLiveSearch *search, bool all, FleetLiveFound *found)
{
	Oid			table = fleet_relation("local_vehicles");
	int			nest;

	found->n = 0;
	if (search->max == 0)
		return;
	if (all && map->own != NULL && !IsolationUsesXactSnapshot() && !fleet_live_has_noted() &&
		fleet_live_search_index(search, table, found))
		return;
	fleet_live_count_table_search(table);
	nest = fleet_query_plain_settings();
	fleet_live_search_table(search, map->own ? map->own->name : NULL, found);
	AtEOXact_GUC(true, nest);
}

/* The columns of fleet.nearby_vehicle. */
static void
fill_row(const FleetRegionMap *map, const FleetLiveVehicle *v, Datum *values, bool *nulls)
{
	memset(nulls, false, sizeof(bool) * FLEET_NEARBY_COLUMNS);
	values[0] = PointerGetDatum(cstring_to_text_with_len(v->id, v->id_size));
	values[1] = CStringGetTextDatum(v->region ? v->region : map->own->name);
	values[2] = ObjectIdGetDatum(v->status);
	values[3] = Float8GetDatum(v->lon);
	values[4] = Float8GetDatum(v->lat);
	values[5] = Float8GetDatum(v->distance);
	values[6] = Float8GetDatum(v->heading);
	nulls[6] = !v->has_heading;
	values[7] = TimestampTzGetDatum(v->fix_at);
	nulls[7] = !v->has_fix;
}

/*
 * fleet.nearest_here(lon, lat, k, radius_m, status, ttl): what a peer asks; with the
 * owner's rights, each with its epoch.
 */
Datum
fleet_query_nearest_here(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	FleetLiveSearch search;
	FleetLiveFound found;
	FleetCaller caller;
	TupleDesc	desc;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(5))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("ttl must not be null")));
	read_search(fcinfo, PG_GETARG_INT32(5), &search);
	fleet_base_become_owner(&caller);
	search_own(map, &search, true, &found);
	fleet_base_become_caller(&caller);
	desc = fleet_query_nearby_desc();
	for (int i = 0; i < found.n; i++)
	{
		Datum		row[FLEET_NEARBY_COLUMNS];
		bool		row_nulls[FLEET_NEARBY_COLUMNS];
		Datum		values[2];
		bool		nulls[2] = {false, false};

		fill_row(map, &found.vehicles[i], row, row_nulls);
		values[0] = HeapTupleGetDatum(heap_form_tuple(desc, row, row_nulls));
		values[1] = Int64GetDatum(found.vehicles[i].epoch);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---------- the others ---------- */

/* A read that nearby.c can ask others with. */
static void
init_read(FleetRead *read, const FleetRegionMap *map, const FleetLiveSearch *search,
		  const char *status)
{
	memset(read, 0, sizeof(FleetRead));
	read->map = map;
	read->max_rows = search->max;
	read->nparam = 7;
	read->params[1] = psprintf("%.17g", search->lon);
	read->params[2] = psprintf("%.17g", search->lat);
	read->params[3] = psprintf("%d", search->max);
	read->params[4] = psprintf("%.17g", search->radius);
	read->params[5] = status;
	read->params[6] = psprintf("%d", fleet_live_ttl);
}

/*
 * How far away the nearest region other than our own is, by squares of SQUARE_DEGREES;
 * to find that out takes longer than a search.  Of a map that was replaced nothing counts.
 */
static double
clearance(const FleetRegionMap *map, double lon, double lat)
{
	int			x = (int) floor(lon / SQUARE_DEGREES);
	int			y = (int) floor(lat / SQUARE_DEGREES);
	Square	   *square = &squares[(uint32) (x * 31 + y) % SQUARES];

	if (square->map != map || square->version != map->version || square->x != x || square->y != y)
	{
		double		nearest = CLEAR_M;

		for (int j = 0; j < map->nregion; j++)
			if (&map->regions[j] != map->own)
				nearest = Min(nearest, fleet_region_distance(&map->regions[j], (x + 0.5) * SQUARE_DEGREES,
															 (y + 0.5) * SQUARE_DEGREES, CLEAR_M));
		*square = (Square) {map, map->version, x, y, nearest};
	}
	return square->distance - SQUARE_HALF_M;
}

/* Regions other than our own that have vehicles within so many metres. */
static List *
regions_within(const FleetRegionMap *map, const FleetLiveSearch *search)
{
	double		within = search->radius + OUTSIDE_M;
	List	   *names = NIL;

	if (map->nregion == 1 || within < clearance(map, search->lon, search->lat))
		return NIL;
	for (int i = 0; i < map->nregion; i++)
	{
		const FleetRegion *region = &map->regions[i];

		if (region != map->own &&
			isfinite(fleet_region_distance(region, search->lon, search->lat, within)))
			names = lappend(names, region->name);
	}
	return names;
}

static void
search_regions(FleetRead *read, FleetLiveSearch *search, FleetLiveFound *own, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[FLEET_NEARBY_COLUMNS];
	bool		nulls[FLEET_NEARBY_COLUMNS];
	List	   *names = NIL;

	if (own->n == search->max && own->n > 0)
		search->radius = own->vehicles[own->n - 1].distance;
	if (read->scope == FLEET_SCOPE_LIVE && search->max > 0)
		names = regions_within(read->map, search);
	if (names == NIL && read->scope != FLEET_SCOPE_FAST)
	{
		for (int i = 0; i < own->n; i++)
		{
			fill_row(read->map, &own->vehicles[i], values, nulls);
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
		return;
	}
	read->params[4] = psprintf("%.17g", search->radius);
	{
		FleetNearby *all = fleet_query_nearby_begin(own->n);

		for (int i = 0; i < own->n; i++)
		{
			fill_row(read->map, &own->vehicles[i], values, nulls);
			fleet_query_nearby_add(all, values, nulls, own->vehicles[i].epoch);
		}
		fleet_query_nearby_ask(all, read, names, PEER_SQL);
		fleet_query_nearby_return(all, search->max, result);
	}
}

/* The label of a status, '' for none. */
static const char *
label_of(Oid status)
{
	return OidIsValid(status) ?
		OidOutputFunctionCall(F_ENUM_OUT, ObjectIdGetDatum(status)) : "";
}

/* fleet.nearest_vehicles(lon, lat, k, radius_m, status, scope, on_unavailable) */
Datum
fleet_query_nearest_vehicles(PG_FUNCTION_ARGS)
{
	FleetScope	scope = fleet_query_read_scope(PG_ARGISNULL(5) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(5)));
	bool		partial = fleet_query_read_partial(PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6)));
	const FleetRegionMap *map = fleet_region_map_member();
	FleetLiveSearch search;
	FleetLiveFound found = {0};
	FleetRead	read;
	bool		all;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	read_search(fcinfo, fleet_live_ttl, &search);
	all = fleet_query_check_vehicles(scope);
	fleet_query_check_scope(map, scope);
	if ((scope == FLEET_SCOPE_FAST) == (map->own == NULL))
		search_own(map, &search, all, &found);
	init_read(&read, map, &search, label_of(search.status));
	/* A replica has everything itself. */
	read.scope = map->own == NULL && scope == FLEET_SCOPE_FAST ? FLEET_SCOPE_LOCAL : scope;
	read.partial = partial;
	search_regions(&read, &search, &found, fcinfo);
	return (Datum) 0;
}

/* fleet.haversine(lon1, lat1, lon2, lat2) -> metres */
Datum
fleet_query_haversine(PG_FUNCTION_ARGS)
{
	for (int i = 0; i < 4; i += 2)
		if (!fleet_geo_point_valid(PG_GETARG_FLOAT8(i), PG_GETARG_FLOAT8(i + 1)))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("no place has longitude %g and latitude %g", PG_GETARG_FLOAT8(i), PG_GETARG_FLOAT8(i + 1)),
					 errdetail("Longitude is from -180 to 180 degrees, latitude from -90 to 90.")));
	PG_RETURN_FLOAT8(fleet_geo_haversine(PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1),
										 PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3)));
}
