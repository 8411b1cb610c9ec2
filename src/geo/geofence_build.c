/*-------------------------------------------------------------------------
 *
 * geofence_build.c
 *	  Collect the polygons of all regions and make the index of them.
 *
 * The builder is an index whose lists still grow.  add() reads a region's
 * rings into room reserved behind the last vertex and counts them only when
 * all is well, so a refused region leaves nothing behind.  finish() has the
 * grid built (geofence_grid.c), cuts the lists to size and hands them over.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence_build.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "geo/geofence_int.h"
#include "geo/wkb.h"

/* Far more than any map has; keeps every index below within 30 bits. */
#define MAX_POINTS		((size_t) 1 << 26)
#define MAX_REGIONS		((size_t) 1 << 20)

struct FleetGeoBuilder
{
	FleetGeoGeofence *fence;
};

static const size_t element_sizes[LIST_COUNT] = {
	[LIST_POINTS] = sizeof(FleetGeoPoint),
	[LIST_RINGS] = sizeof(uint32_t),
	[LIST_REGIONS] = sizeof(FleetGeoRegion),
	[LIST_GRIDS] = sizeof(FleetGeoGrid),
	[LIST_CELLS] = sizeof(uint32_t),
	[LIST_LEAVES] = sizeof(FleetGeoWord),
};

static void *
malloc_alloc(void *ctx, size_t size)
{
	return malloc(size);
}

static void
malloc_free(void *ctx, void *pointer)
{
	free(pointer);
}

/* For who brings no allocator of his own. */
const FleetGeoAllocator fleet_geo_malloc = {malloc_alloc, malloc_free, NULL};

void *
fleet_geo_alloc(FleetGeoGeofence *fence, size_t size)
{
	return fence->allocator.alloc(fence->allocator.ctx, size > 0 ? size : 1);
}

void
fleet_geo_free(FleetGeoGeofence *fence, void *pointer)
{
	if (pointer != NULL)
		fence->allocator.free(fence->allocator.ctx, pointer);
}

/* Give a list this much room, no more and no less. */
static bool
list_resize(FleetGeoGeofence *fence, FleetGeoList *list, size_t room)
{
	void	   *data = fleet_geo_alloc(fence, room * list->size);

	if (data == NULL)
		return false;
	if (list->count > 0)
		memcpy(data, list->data, list->count * list->size);
	fleet_geo_free(fence, list->data);
	list->data = data;
	list->room = room;
	return true;
}

/* Make room for this many more elements; false when there is no memory. */
bool
fleet_geo_list_reserve(FleetGeoGeofence *fence, FleetGeoListName name, size_t more)
{
	FleetGeoList *list = &fence->lists[name];
	size_t		room = list->room;

	if (list->room - list->count >= more)
		return true;
	room += room / 2 + 16;
	if (room < list->count + more)
		room = list->count + more;
	return list_resize(fence, list, room);
}

FleetGeoBuilder *
fleet_geo_geofence_begin(const FleetGeoAllocator *allocator)
{
	FleetGeoGeofence *fence;
	FleetGeoBuilder *builder;
	int			i;

	if (allocator == NULL)
		allocator = &fleet_geo_malloc;
	fence = allocator->alloc(allocator->ctx, sizeof(FleetGeoGeofence));
	if (fence == NULL)
		return NULL;
	memset(fence, 0, sizeof(*fence));
	fence->allocator = *allocator;
	for (i = 0; i < LIST_COUNT; i++)
		fence->lists[i].size = element_sizes[i];

	builder = fleet_geo_alloc(fence, sizeof(FleetGeoBuilder));
	if (builder == NULL)
	{
		fleet_geo_geofence_free(fence);
		return NULL;
	}
	builder->fence = fence;
	return builder;
}

/* The rings have been read into reserved room: make them count. */
static void
take_region(FleetGeoGeofence *fence, int64_t id, const FleetGeoRings *rings)
{
	FleetGeoList *points = &fence->lists[LIST_POINTS];
	FleetGeoList *firsts = &fence->lists[LIST_RINGS];
	FleetGeoList *regions = &fence->lists[LIST_REGIONS];
	FleetGeoRegion *region = (FleetGeoRegion *) regions->data + regions->count;
	uint32_t	first = (uint32_t) points->count;
	uint32_t	i;

	region->id = id;
	region->first_ring = (uint32_t) firsts->count;
	region->nrings = rings->nrings;
	region->first_point = first;
	region->npoints = rings->npoints;

	/* The sizes lie where the first vertices shall: turn each in place. */
	for (i = 0; i < rings->nrings; i++)
	{
		uint32_t	size = rings->sizes[i];

		rings->sizes[i] = first;
		first += size;
	}
	points->count += rings->npoints;
	firsts->count += rings->nrings;
	regions->count++;
}

FleetGeoStatus
fleet_geo_geofence_add(FleetGeoBuilder *builder, int64_t id,
					   const unsigned char *wkb, size_t len)
{
	FleetGeoGeofence *fence = builder->fence;
	FleetGeoList *points = &fence->lists[LIST_POINTS];
	FleetGeoList *firsts = &fence->lists[LIST_RINGS];
	FleetGeoRings rings;
	FleetGeoStatus status;

	if (FLEET_GEO_WKB_MAX_POINTS(len) > MAX_POINTS - points->count ||
		fence->lists[LIST_REGIONS].count >= MAX_REGIONS)
		return FLEET_GEO_TOO_BIG;
	/* One more, so that there is a place to point at even for no point. */
	if (!fleet_geo_list_reserve(fence, LIST_POINTS, FLEET_GEO_WKB_MAX_POINTS(len) + 1) ||
		!fleet_geo_list_reserve(fence, LIST_RINGS, FLEET_GEO_WKB_MAX_RINGS(len) + 1) ||
		!fleet_geo_list_reserve(fence, LIST_REGIONS, 1))
		return FLEET_GEO_NO_MEMORY;

	rings.points = (FleetGeoPoint *) points->data + points->count;
	rings.sizes = (uint32_t *) firsts->data + firsts->count;
	status = fleet_geo_wkb_read(wkb, len, &rings);
	if (status == FLEET_GEO_OK)
		take_region(fence, id, &rings);
	return status;
}

/* Cut every list to its size and set the pointers that readers use. */
static FleetGeoStatus
seal(FleetGeoGeofence *fence)
{
	FleetGeoList *lists = fence->lists;
	int			i;

	fence->memory = sizeof(FleetGeoGeofence);
	for (i = 0; i < LIST_COUNT; i++)
	{
		if (lists[i].room > lists[i].count &&
			!list_resize(fence, &lists[i], lists[i].count))
			return FLEET_GEO_NO_MEMORY;
		fence->memory += lists[i].count * lists[i].size;
	}
	fence->points = lists[LIST_POINTS].data;
	fence->rings = lists[LIST_RINGS].data;
	fence->regions = lists[LIST_REGIONS].data;
	fence->grids = lists[LIST_GRIDS].data;
	fence->cells = lists[LIST_CELLS].data;
	fence->leaves = lists[LIST_LEAVES].data;
	fence->nregions = (int) lists[LIST_REGIONS].count;
	return FLEET_GEO_OK;
}

FleetGeoStatus
fleet_geo_geofence_finish(FleetGeoBuilder *builder, FleetGeoGeofence **result)
{
	FleetGeoGeofence *fence = builder->fence;
	FleetGeoList *firsts = &fence->lists[LIST_RINGS];
	FleetGeoStatus status = FLEET_GEO_NO_MEMORY;

	*result = NULL;
	fleet_geo_free(fence, builder);

	/* One more than there are rings, so that each ring has an end. */
	if (fleet_geo_list_reserve(fence, LIST_RINGS, 1))
	{
		((uint32_t *) firsts->data)[firsts->count++] =
			(uint32_t) fence->lists[LIST_POINTS].count;
		status = fleet_geo_grid_build(fence);
	}
	if (status == FLEET_GEO_OK)
		status = seal(fence);
	if (status == FLEET_GEO_OK)
		*result = fence;
	else
		fleet_geo_geofence_free(fence);
	return status;
}

void
fleet_geo_geofence_abandon(FleetGeoBuilder *builder)
{
	FleetGeoGeofence *fence;

	if (builder == NULL)
		return;
	fence = builder->fence;
	fleet_geo_free(fence, builder);
	fleet_geo_geofence_free(fence);
}

void
fleet_geo_geofence_free(FleetGeoGeofence *fence)
{
	FleetGeoAllocator allocator;
	int			i;

	if (fence == NULL)
		return;
	for (i = 0; i < LIST_COUNT; i++)
		fleet_geo_free(fence, fence->lists[i].data);
	allocator = fence->allocator;
	allocator.free(allocator.ctx, fence);
}
