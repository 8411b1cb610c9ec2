/*-------------------------------------------------------------------------
 *
 * locate.c
 *	  Which region a place is in: fleet.region_of().
 *
 * The geofences are read and indexed once for each version of the region map
 * and backend (geo/geofence.h); after that a call runs no SQL.  The index's
 * memory is malloc'd, because it is dropped as a whole when the map changes.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/region/locate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "region/locate.h"

PG_FUNCTION_INFO_V1(fleet_region_of);

static double border_tolerance = 1000.0;

static FleetGeoGeofence *geofence = NULL;
static const FleetRegionMap *geofence_map = NULL;	/* the map it was made of */
static int64 geofence_version = -1;

static FleetPlan geofences_plan = {
	"SELECT name, fleet.geofence_wkb(name) FROM fleet.map_regions ORDER BY name COLLATE \"C\""
};

void
fleet_region_init(void)
{
	DefineCustomRealVariable("fleet.border_tolerance",
							 "How far outside of all regions a place still counts to the nearest one, in metres.",
							 "Raise it where geofences are coarse or leave gaps (bridges, shores); 0 turns it off.",
							 &border_tolerance, 1000.0, 0.0, 100000.0,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

static void
add_geofences(FleetGeoBuilder *builder, const FleetRegionMap *map)
{
	int			n;

	fleet_base_push_new_snapshot();
	n = fleet_base_plan_execute_read(&geofences_plan);
	PopActiveSnapshot();
	for (int i = 0; i < n; i++)
	{
		const FleetRegion *region = fleet_region_find(map, fleet_base_plan_text(i, 1));
		bool		isnull;
		bytea	   *wkb = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 2, &isnull));
		FleetGeoStatus status;

		if (region == NULL)
			continue;			/* newer than this copy of the map, which is replaced soon */
		status = fleet_geo_geofence_add(builder, region - map->regions, (unsigned char *) VARDATA_ANY(wkb),
										VARSIZE_ANY_EXHDR(wkb));
		if (status != FLEET_GEO_OK)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the geofence of region \"%s\" cannot be indexed", region->name),
					 errdetail_internal("%s", fleet_geo_status_text(status))));
	}
}

static FleetGeoGeofence *
build_geofence(const FleetRegionMap *map)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *result = NULL;
	FleetCaller caller;

	if (builder == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	PG_TRY();
	{
		fleet_base_become_owner(&caller);
		SPI_connect();
		add_geofences(builder, map);
		SPI_finish();
		fleet_base_become_caller(&caller);
	}
	PG_CATCH();
	{
		fleet_geo_geofence_abandon(builder);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (fleet_geo_geofence_finish(builder, &result) != FLEET_GEO_OK)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return result;
}

/* The index of the present map. */
static const FleetGeoGeofence *
current_geofence(const FleetRegionMap *map)
{
	if (geofence == NULL || geofence_map != map || geofence_version != map->version)
	{
		FleetGeoGeofence *fresh = build_geofence(map);

		if (geofence != NULL)
			fleet_geo_geofence_free(geofence);
		geofence = fresh;
		geofence_map = map;
		geofence_version = map->version;
	}
	return geofence;
}

static void
check_place(double lon, double lat)
{
	if (isnan(lon) || isnan(lat) || lon < -180 || lon > 180 || lat < -90 || lat > 90)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("no place has longitude %g and latitude %g", lon, lat),
				 errdetail("Longitude is from -180 to 180 degrees, latitude from -90 to 90."),
				 errhint("The longitude comes first.")));
}

/*
 * The region that contains the place, else the nearest within
 * fleet.border_tolerance, else NULL.  An error for what is no place.
 */
const FleetRegion *
fleet_region_at(double lon, double lat)
{
	const FleetRegionMap *map = fleet_region_map();
	const FleetGeoGeofence *fence = current_geofence(map);
	int			index;

	check_place(lon, lat);
	index = fleet_geo_geofence_locate(fence, lon, lat);
	if (index < 0 && border_tolerance > 0)
		index = fleet_geo_geofence_nearest(fence, lon, lat, border_tolerance, NULL);
	return index < 0 ? NULL : &map->regions[fleet_geo_geofence_id(fence, index)];
}

/* Metres from the place to a region, 0 inside, infinite beyond limit_m. */
double
fleet_region_distance(const FleetRegion *region, double lon, double lat, double limit_m)
{
	const FleetRegionMap *map = fleet_region_map();
	const FleetGeoGeofence *fence = current_geofence(map);

	for (int i = 0; i < fleet_geo_geofence_count(fence); i++)
		if (strcmp(map->regions[fleet_geo_geofence_id(fence, i)].name, region->name) == 0)
			return fleet_geo_geofence_distance(fence, i, lon, lat, limit_m);
	return INFINITY;			/* it has just left the map */
}

/* fleet.region_of(lon, lat) -> text */
Datum
fleet_region_of(PG_FUNCTION_ARGS)
{
	const FleetRegion *region = fleet_region_at(PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1));

	if (region == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(region->name));
}
