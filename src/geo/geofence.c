/*-------------------------------------------------------------------------
 *
 * geofence.c
 *	  Which region holds a point.
 *
 * The design is told in geofence_int.h.  A point is looked up in the grid;
 * most points end in a cell that is wholly inside one region.  In a leaf the
 * regions are tried in the order in which they were added, so that the first
 * one wins where they touch.
 *
 * A reader changes nothing and takes no memory.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence.c
 *
 *-------------------------------------------------------------------------
 */
#include "geo/geofence_int.h"
#include "geo/haversine.h"

/* Is p the end of this edge, or on an edge along its own parallel? */
static inline bool
on_level_edge(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p)
{
	if (b.y != p.y)
		return false;
	if (b.x == p.x)
		return true;
	return a.y == p.y && (a.x <= p.x) != (b.x < p.x);
}

/*
 * Follow the path from the reference point to p through these edges.  Returns
 * true when p is on one of them; else *odd is turned at each crossing.
 *
 * This is fleet_geo_path_crosses() with two differences: p itself is not
 * moved, as it is on no edge, and the sides of edges that lie clearly to the
 * left or right are seen without a determinant.
 */
static inline bool
walk_edges(const FleetGeoPoint *edge, uint32_t count, FleetGeoPoint reference,
		   FleetGeoPoint p, bool *odd)
{
	FleetGeoPoint corner = {reference.x, p.y};
	double		left = reference.x < p.x ? reference.x : p.x;
	double		right = reference.x < p.x ? p.x : reference.x;
	uint32_t	i;

	for (i = 0; i < count; i++)
	{
		FleetGeoPoint a = edge[i];
		FleetGeoPoint b = edge[i + 1];

		if ((a.y <= p.y) != (b.y <= p.y))
		{
			if (!((a.x < left && b.x < left) || (a.x > right && b.x > right)))
			{
				int			side = fleet_geo_orient(a, b, p);

				if (side == 0)
					return true;
				*odd ^= (side > 0) != fleet_geo_side_of_moved(a, b, corner);
			}
		}
		else if (on_level_edge(a, b, p))
			return true;
		if ((a.x <= reference.x) != (b.x <= reference.x))
			*odd ^= fleet_geo_side_of_moved(a, b, reference) !=
				fleet_geo_side_of_moved(a, b, corner);
	}
	return false;
}

static inline bool
group_covers(const FleetGeoGeofence *fence, const FleetGeoWord *leaf,
			 const FleetGeoWord *group, FleetGeoPoint p)
{
	FleetGeoPoint reference = {leaf[0].number, leaf[1].number};
	bool		odd = FLEET_GEO_GROUP_INSIDE(group);
	uint32_t	i;

	for (i = 1; i <= group->group.nruns; i++)
		if (walk_edges(fence->points + group[i].run.first, group[i].run.count,
					   reference, p, &odd))
			return true;
	return odd;
}

/* The cell of a point that lies within the bounds, never a grid. */
static inline uint32_t
find_cell(const FleetGeoGeofence *fence, FleetGeoPoint p)
{
	uint32_t	cell = CELL(CELL_GRID, 0);

	do
	{
		const FleetGeoGrid *grid = &fence->grids[CELL_INDEX(cell)];

		cell = fence->cells[fleet_geo_grid_cell(grid, p.x, p.y)];
	} while (CELL_KIND(cell) == CELL_GRID);
	return cell;
}

static inline bool
within_bounds(const FleetGeoGeofence *fence, FleetGeoPoint p)
{
	return p.x >= fence->low.x && p.x <= fence->high.x &&
		p.y >= fence->low.y && p.y <= fence->high.y;
}

int
fleet_geo_geofence_locate(const FleetGeoGeofence *fence, double lon, double lat)
{
	FleetGeoPoint p = fleet_geo_point(lon, lat);
	const FleetGeoWord *leaf;
	const FleetGeoWord *group;
	uint32_t	cell;
	uint64_t	i;

	if (!within_bounds(fence, p))
		return fleet_geo_point_valid(lon, lat) ? FLEET_GEO_NOWHERE : FLEET_GEO_BAD_POINT;
	cell = find_cell(fence, p);
	if (CELL_KIND(cell) == CELL_REGION)
		return (int) CELL_INDEX(cell);
	if (CELL_KIND(cell) == CELL_EMPTY)
		return FLEET_GEO_NOWHERE;

	leaf = &fence->leaves[CELL_INDEX(cell)];
	group = leaf + FLEET_GEO_LEAF_HEAD;
	for (i = 0; i < leaf[2].ngroups; i++, group += 1 + group->group.nruns)
		if (group_covers(fence, leaf, group, p))
			return FLEET_GEO_GROUP_REGION(group);
	return FLEET_GEO_NOWHERE;
}

/* Without the grid: all edges of the region, from a point outside of all. */
static bool
covers_by_all_edges(const FleetGeoGeofence *fence, int region, FleetGeoPoint p)
{
	const FleetGeoRegion *r = &fence->regions[region];
	FleetGeoPoint outside = {fence->grids[0].x0, fence->grids[0].y0};
	bool		odd = false;
	uint32_t	ring;

	for (ring = r->first_ring; ring < r->first_ring + r->nrings; ring++)
	{
		uint32_t	first = fence->rings[ring];

		if (walk_edges(fence->points + first, fence->rings[ring + 1] - first - 1,
					   outside, p, &odd))
			return true;
	}
	return odd;
}

bool
fleet_geo_geofence_covers(const FleetGeoGeofence *fence, int region, double lon, double lat)
{
	FleetGeoPoint p = fleet_geo_point(lon, lat);
	uint32_t	cell;
	uint64_t	i;

	if (region < 0 || region >= fence->nregions || !within_bounds(fence, p))
		return false;
	cell = find_cell(fence, p);
	if (CELL_KIND(cell) == CELL_REGION && (int) CELL_INDEX(cell) == region)
		return true;
	if (CELL_KIND(cell) == CELL_LEAF)
	{
		const FleetGeoWord *leaf = &fence->leaves[CELL_INDEX(cell)];
		const FleetGeoWord *group = leaf + FLEET_GEO_LEAF_HEAD;

		for (i = 0; i < leaf[2].ngroups; i++, group += 1 + group->group.nruns)
			if (FLEET_GEO_GROUP_REGION(group) == region)
				return group_covers(fence, leaf, group, p);
	}

	/* The cell may not name all that hold it, if regions overlap. */
	return fence->overlaps && CELL_KIND(cell) != CELL_EMPTY &&
		covers_by_all_edges(fence, region, p);
}

int
fleet_geo_geofence_count(const FleetGeoGeofence *fence)
{
	return fence->nregions;
}

int64_t
fleet_geo_geofence_id(const FleetGeoGeofence *fence, int region)
{
	return region >= 0 && region < fence->nregions ? fence->regions[region].id : -1;
}

size_t
fleet_geo_geofence_memory(const FleetGeoGeofence *fence)
{
	return fence->memory;
}

const char *
fleet_geo_status_text(FleetGeoStatus status)
{
	switch (status)
	{
		case FLEET_GEO_OK:
			return "ok";
		case FLEET_GEO_NO_MEMORY:
			return "out of memory";
		case FLEET_GEO_BAD_COORDINATE:
			return "a coordinate is not a number or beyond 180 or 90 degrees";
		case FLEET_GEO_BAD_WKB:
			return "the well-known binary is corrupt";
		case FLEET_GEO_BAD_TYPE:
			return "neither a polygon nor a multipolygon";
		case FLEET_GEO_BAD_SRID:
			return "the SRID is not 4326";
		case FLEET_GEO_BAD_RING:
			return "a ring has fewer than four points or is not closed";
		case FLEET_GEO_EMPTY:
			return "the polygon is empty";
		case FLEET_GEO_TOO_BIG:
			return "too many vertices or regions";
	}
	return "unknown status";
}
