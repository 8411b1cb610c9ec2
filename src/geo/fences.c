/*-------------------------------------------------------------------------
 *
 * fences.c
 *	  Many fences, which may overlap.
 *
 * A fence is an area or a circle.  An area is a geofence of its own
 * (geofence.h), whose grid decides about a point exactly, in a time that does not
 * grow with its border.  A circle is a centre and metres of haversine distance.
 *
 * A tree of the fences' boxes (boxtree.h) finds those that a step can be about: the
 * ones whose box meets the box around both places.  So a box may be too large
 * but never too small.
 *
 * An area is plane in longitude and latitude, as ST_Covers sees it, and so is the
 * line between two places.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/fences.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "geo/boxtree.h"
#include "geo/fences.h"
#include "geo/haversine.h"

#define DEGREES_PER_METRE	(57.29577951308232 / FLEET_GEO_MEAN_RADIUS)

/* More than any rounding of a haversine distance or of a sine, in degrees. */
#define BOX_MARGIN			1e-6

typedef struct Fence
{
	FleetGeoGeofence *area;		/* NULL: a circle */
	FleetGeoPoint centre;
	double		radius_m;
} Fence;

struct FleetGeoFences
{
	FleetGeoAllocator allocator;
	Fence	   *fences;
	FleetGeoBox *boxes;
	int			count;
	int			room;
	FleetGeoBoxTree *tree;		/* NULL until it is finished */
};

/* ---------- making a set ---------- */

FleetGeoFences *
fleet_geo_fences_create(const FleetGeoAllocator *allocator)
{
	FleetGeoFences *fences;

	if (allocator == NULL)
		allocator = &fleet_geo_malloc;
	fences = allocator->alloc(allocator->ctx, sizeof(FleetGeoFences));
	if (fences == NULL)
		return NULL;
	memset(fences, 0, sizeof(*fences));
	fences->allocator = *allocator;
	return fences;
}

/* A larger array with what is in the old one; false without memory. */
static bool
grow(const FleetGeoAllocator *allocator, void **array, size_t used, size_t size)
{
	void	   *larger = allocator->alloc(allocator->ctx, size);

	if (larger == NULL)
		return false;
	if (*array != NULL)
	{
		memcpy(larger, *array, used);
		allocator->free(allocator->ctx, *array);
	}
	*array = larger;
	return true;
}

static bool
reserve_one(FleetGeoFences *fences)
{
	int			room = 2 * fences->room + 16;
	void	   *all = fences->fences;
	void	   *boxes = fences->boxes;
	bool		ok;

	if (fences->count < fences->room)
		return true;
	ok = grow(&fences->allocator, &all, fences->count * sizeof(Fence), room * sizeof(Fence));
	fences->fences = all;
	ok = ok && grow(&fences->allocator, &boxes, fences->count * sizeof(FleetGeoBox), room * sizeof(FleetGeoBox));
	fences->boxes = boxes;
	if (ok)
		fences->room = room;
	return ok;
}

static void
take(FleetGeoFences *fences, const Fence *fence, const FleetGeoBox *box)
{
	fences->fences[fences->count] = *fence;
	fences->boxes[fences->count++] = *box;
}

FleetGeoStatus
fleet_geo_fences_add_area(FleetGeoFences *fences, const unsigned char *wkb, size_t len)
{
	FleetGeoBuilder *builder;
	Fence		fence = {NULL};
	FleetGeoBox box;
	FleetGeoStatus status;

	if (!reserve_one(fences) ||
		(builder = fleet_geo_geofence_begin(&fences->allocator)) == NULL)
		return FLEET_GEO_NO_MEMORY;
	status = fleet_geo_geofence_add(builder, 0, wkb, len);
	if (status != FLEET_GEO_OK)
	{
		fleet_geo_geofence_abandon(builder);
		return status;
	}
	status = fleet_geo_geofence_finish(builder, &fence.area);
	if (status != FLEET_GEO_OK)
		return status;
	fleet_geo_geofence_bounds(fence.area, &box.west, &box.south, &box.east, &box.north);
	take(fences, &fence, &box);
	return FLEET_GEO_OK;
}

/*
 * The box around a circle; all longitudes where a pole or the antimeridian
 * is in it.
 */
static FleetGeoBox
box_of_circle(FleetGeoPoint centre, double radius_m)
{
	double		reach = radius_m * DEGREES_PER_METRE + BOX_MARGIN;
	FleetGeoBox box = {-180, centre.y - reach, 180, centre.y + reach};
	double		width;

	if (fabs(centre.y) + reach >= 90)
		return box;
	width = asin(sin(reach / 57.29577951308232) / cos(centre.y / 57.29577951308232)) *
		57.29577951308232 + BOX_MARGIN;
	if (centre.x - width < -180 || centre.x + width > 180)
		return box;
	box.west = centre.x - width;
	box.east = centre.x + width;
	return box;
}

FleetGeoStatus
fleet_geo_fences_add_circle(FleetGeoFences *fences, double lon, double lat, double radius_m)
{
	Fence		fence = {NULL, {lon, lat}, radius_m};
	FleetGeoBox box;

	if (!fleet_geo_point_valid(lon, lat))
		return FLEET_GEO_BAD_COORDINATE;
	if (!(radius_m > 0 && radius_m <= FLEET_GEO_MAX_RADIUS_M))
		return FLEET_GEO_TOO_BIG;
	if (!reserve_one(fences))
		return FLEET_GEO_NO_MEMORY;
	box = box_of_circle(fence.centre, radius_m);
	take(fences, &fence, &box);
	return FLEET_GEO_OK;
}

FleetGeoStatus
fleet_geo_fences_finish(FleetGeoFences *fences)
{
	fences->tree = fleet_geo_boxtree_build(&fences->allocator, fences->boxes, fences->count);
	return fences->tree != NULL ? FLEET_GEO_OK : FLEET_GEO_NO_MEMORY;
}

void
fleet_geo_fences_free(FleetGeoFences *fences)
{
	FleetGeoAllocator allocator = fences->allocator;

	for (int i = 0; i < fences->count; i++)
		if (fences->fences[i].area != NULL)
			fleet_geo_geofence_free(fences->fences[i].area);
	if (fences->fences != NULL)
		allocator.free(allocator.ctx, fences->fences);
	if (fences->boxes != NULL)
		allocator.free(allocator.ctx, fences->boxes);
	if (fences->tree != NULL)
		fleet_geo_boxtree_free(fences->tree);
	allocator.free(allocator.ctx, fences);
}

int
fleet_geo_fences_count(const FleetGeoFences *fences)
{
	return fences->count;
}

/* ---------- asking it ---------- */

bool
fleet_geo_fences_covers(const FleetGeoFences *fences, int fence, FleetGeoPoint p)
{
	const Fence *f = &fences->fences[fence];

	if (f->area != NULL)
		return fleet_geo_geofence_covers(f->area, 0, p.x, p.y);
	return fleet_geo_haversine(f->centre.x, f->centre.y, p.x, p.y) <= f->radius_m;
}

typedef struct Step
{
	const FleetGeoFences *fences;
	const FleetGeoPoint *from;
	FleetGeoPoint to;
	FleetGeoFenceVisit visit;
	void	   *ctx;
} Step;

static void
visit_fence(void *ctx, int item)
{
	Step	   *step = ctx;

	step->visit(step->ctx, item,
				step->from != NULL && fleet_geo_fences_covers(step->fences, item, *step->from),
				fleet_geo_fences_covers(step->fences, item, step->to));
}

void
fleet_geo_fences_step(const FleetGeoFences *fences, const FleetGeoPoint *from,
					  FleetGeoPoint to, FleetGeoFenceVisit visit, void *ctx)
{
	Step		step = {fences, from, fleet_geo_point(to.x, to.y), visit, ctx};
	FleetGeoPoint other = from != NULL ? fleet_geo_point(from->x, from->y) : step.to;
	FleetGeoBox box = {fmin(step.to.x, other.x), fmin(step.to.y, other.y),
	fmax(step.to.x, other.x), fmax(step.to.y, other.y)};

	fleet_geo_boxtree_search(fences->tree, &box, visit_fence, &step);
}

/* Does the line come as near to the centre as the radius?  In the plane around it. */
static bool
meets_circle(const Fence *f, FleetGeoPoint from, FleetGeoPoint to)
{
	double		per_lon = cos(f->centre.y / 57.29577951308232);
	double		turn = f->centre.x - from.x > 180 ? 360 : f->centre.x - from.x < -180 ? -360 : 0;
	double		ax = (from.x + turn - f->centre.x) * per_lon;
	double		ay = from.y - f->centre.y;
	double		dx = (to.x - from.x) * per_lon;
	double		dy = to.y - from.y;
	double		t = 0;

	if (dx * dx + dy * dy > 0)
		t = fmin(fmax(-(ax * dx + ay * dy) / (dx * dx + dy * dy), 0), 1);
	return fleet_geo_haversine(f->centre.x, f->centre.y, from.x + t * (to.x - from.x),
							   from.y + t * (to.y - from.y)) <= f->radius_m;
}

bool
fleet_geo_fences_passes(const FleetGeoFences *fences, int fence,
						FleetGeoPoint from, FleetGeoPoint to)
{
	const Fence *f = &fences->fences[fence];

	if (fabs(from.x - to.x) > 180)
		return false;
	if (f->area != NULL)
		return fleet_geo_geofence_meets(f->area, fleet_geo_point(from.x, from.y),
										fleet_geo_point(to.x, to.y));
	return meets_circle(f, from, to);
}
