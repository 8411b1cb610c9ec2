/* cores: src/geo/geofence.c src/geo/geofence_build.c src/geo/geofence_frame.c src/geo/geofence_grid.c src/geo/geofence_near.c src/geo/haversine.c src/geo/orient.c src/geo/wkb.c */
/*-------------------------------------------------------------------------
 *
 * geofence_fuzz.c
 *	  Fuzz target: WKB of any kind, the index that is built of it, and points.
 *
 * The input is up to 255 regions, each a length and its WKB, then points.
 * Besides not crashing, the index must agree with itself: the region located
 * covers the point and is 0 m away, and none is nearer than the nearest.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/geofence_fuzz.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/geofence.h"
#include "geo/haversine.h"
#include "fuzz.h"

#define FAR_M	50000.0

static void
try_bad_point(const FleetGeoGeofence *fence, double lon, double lat)
{
	must(fleet_geo_geofence_locate(fence, lon, lat) == FLEET_GEO_BAD_POINT);
	must(fleet_geo_geofence_nearest(fence, lon, lat, FAR_M, NULL) == FLEET_GEO_BAD_POINT);
	must(isnan(fleet_geo_geofence_distance(fence, 0, lon, lat, FAR_M)));
}

static void
try_point(const FleetGeoGeofence *fence, double lon, double lat)
{
	int			count = fleet_geo_geofence_count(fence);
	int			at;
	int			nearest;
	double		distance = -1;

	if (!fleet_geo_point_valid(lon, lat))
	{
		try_bad_point(fence, lon, lat);
		return;
	}
	at = fleet_geo_geofence_locate(fence, lon, lat);
	nearest = fleet_geo_geofence_nearest(fence, lon, lat, FAR_M, &distance);
	must(at >= FLEET_GEO_NOWHERE && at < count);
	must(nearest >= FLEET_GEO_NOWHERE && nearest < count);
	if (at >= 0)
		must(nearest >= 0 && distance == 0);
	if (nearest >= 0)
		must(distance >= 0 && distance <= FAR_M);
	for (int i = 0; i < count; i++)
	{
		double		away = fleet_geo_geofence_distance(fence, i, lon, lat, FAR_M);
		bool		covers = fleet_geo_geofence_covers(fence, i, lon, lat);

		must(covers ? at >= 0 && at <= i : at != i);
		must(covers ? away == 0 : away >= 0);
		must(isinf(away) || (nearest >= 0 && away >= distance));
		must(i != nearest || away == distance);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FuzzInput	in = {data, size};
	int			want = (int) fuzz_number(&in, 1);
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *fence = NULL;
	int			added = 0;

	must(builder != NULL);
	for (int i = 0; i < want && in.left > 0; i++)
	{
		size_t		len = fuzz_number(&in, 2);
		FleetGeoStatus status;

		if (len > in.left)
			len = in.left;
		status = fleet_geo_geofence_add(builder, 1000 + i, in.next, len);
		must(fleet_geo_status_text(status) != NULL);
		added += status == FLEET_GEO_OK;
		in.next += len;
		in.left -= len;
	}
	if (fleet_geo_geofence_finish(builder, &fence) == FLEET_GEO_OK)
	{
		must(fleet_geo_geofence_count(fence) == added);
		must(fleet_geo_geofence_memory(fence) > 0);
		while (in.left >= 16)
		{
			double		lon = fuzz_double(&in);

			try_point(fence, lon, fuzz_double(&in));
		}
		fleet_geo_geofence_free(fence);
	}
	return 0;
}
