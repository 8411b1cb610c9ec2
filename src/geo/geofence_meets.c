/*-------------------------------------------------------------------------
 *
 * geofence_meets.c
 *	  Whether a straight line meets a border.
 *
 * All edges are looked at: most by their bounds only.  The rest is decided by
 * fleet_geo_orient(), which does not err.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence_meets.c
 *
 *-------------------------------------------------------------------------
 */
#include "geo/geofence_int.h"

static inline bool
bounds_meet(double a, double b, double p, double q)
{
	return fmin(a, b) <= fmax(p, q) && fmax(a, b) >= fmin(p, q);
}

/*
 * Two segments meet where each has its ends on different sides of the other, or on
 * it.  Where all four are in one line their bounds decide.
 */
static inline bool
segments_meet(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p, FleetGeoPoint q)
{
	return bounds_meet(a.x, b.x, p.x, q.x) && bounds_meet(a.y, b.y, p.y, q.y) &&
		fleet_geo_orient(a, b, p) * fleet_geo_orient(a, b, q) <= 0 &&
		fleet_geo_orient(p, q, a) * fleet_geo_orient(p, q, b) <= 0;
}

/* Whether the line from p to q meets the border of any region, its ends included. */
bool
fleet_geo_geofence_meets(const FleetGeoGeofence *fence, FleetGeoPoint p, FleetGeoPoint q)
{
	uint32_t	nrings = fence->nregions == 0 ? 0 :
		fence->regions[fence->nregions - 1].first_ring + fence->regions[fence->nregions - 1].nrings;

	if (!bounds_meet(fence->low.x, fence->high.x, p.x, q.x) ||
		!bounds_meet(fence->low.y, fence->high.y, p.y, q.y))
		return false;
	for (uint32_t ring = 0; ring < nrings; ring++)
		for (uint32_t e = fence->rings[ring]; e + 1 < fence->rings[ring + 1]; e++)
			if (segments_meet(fence->points[e], fence->points[e + 1], p, q))
				return true;
	return false;
}

/* The bounds of all vertices; there is one at least. */
void
fleet_geo_geofence_bounds(const FleetGeoGeofence *fence, double *west, double *south,
						  double *east, double *north)
{
	*west = fence->low.x;
	*south = fence->low.y;
	*east = fence->high.x;
	*north = fence->high.y;
}
