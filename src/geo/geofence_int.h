/*-------------------------------------------------------------------------
 *
 * geofence_int.h
 *	  The shape of the index, shared by those who build it and who read it.
 *
 * Points are vertices of rings.  Edge e joins vertex e and vertex e + 1; the
 * last vertex of a ring begins no edge.  A run is a row of edges that follow
 * each other in one ring.
 *
 * The plane is divided by a grid of cells.  A cell is empty, or wholly inside
 * one region, or divided again by a smaller grid, or a leaf.  A leaf has a
 * reference point (its lower left corner) and, for each region that has edges
 * there, a group: those edges, and whether the reference point is inside.
 *
 * A point then is inside a region if the reference point is, and the path
 * from there to the point crosses the region's edges an even number of times
 * (or the other way round).  The path goes up or down first, then sideways;
 * it never leaves the cell, so the edges of the cell are all that matters.
 *
 * What makes that exact:
 * - The cell of a coordinate is a monotone function of it, whatever the
 *   rounding, and a cell lists every edge that comes near it (by MARGIN of its
 *   size), so a rounding in the choice of the cell does no harm.
 * - Sides are decided by fleet_geo_orient(), which does not err.
 * - A path that meets a vertex, or runs along an edge, is moved in thought: by
 *   an infinitely small amount to the right, and by a still smaller one
 *   upwards.  Every decision is made for the path so moved, in one place
 *   (fleet_geo_side_of_moved), so that they agree with each other.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence_int.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_GEOFENCE_INT_H
#define FLEET_GEO_GEOFENCE_INT_H

#include "geo/geofence.h"
#include "geo/orient.h"

typedef struct FleetGeoRun
{
	uint32_t	first;			/* first edge */
	uint32_t	count;			/* edges */
} FleetGeoRun;

/*
 * Leaves lie in one list of words, each leaf in one piece, as most of the time
 * of a call is spent waiting for memory: the reference point (two words), the
 * number of groups, then for each group its head and its runs.  Groups are
 * ordered by region.  A group without runs: the whole cell is inside.
 */
typedef union FleetGeoWord
{
	double		number;
	FleetGeoRun run;
	uint64_t	ngroups;
	struct
	{
		uint32_t	region_inside;	/* region * 2, + 1: reference is inside */
		uint32_t	nruns;
	}			group;
} FleetGeoWord;

#define FLEET_GEO_LEAF_HEAD			3	/* words in front of the first group */
#define FLEET_GEO_GROUP_REGION(g)	((int) ((g)->group.region_inside >> 1))
#define FLEET_GEO_GROUP_INSIDE(g)	(((g)->group.region_inside & 1u) != 0)

typedef struct FleetGeoGrid
{
	double		x0;
	double		y0;
	double		cells_per_x;	/* cells in a degree */
	double		cells_per_y;
	int32_t		nx;
	int32_t		ny;
	uint32_t	first_cell;		/* row after row from the south */
} FleetGeoGrid;

/* A cell is one number: two bits of kind, and the index of what it is. */
typedef enum FleetGeoCellKind
{
	CELL_EMPTY = 0,
	CELL_REGION = 1,
	CELL_LEAF = 2,
	CELL_GRID = 3
} FleetGeoCellKind;

#define CELL(kind, index)	(((uint32_t) (index) << 2) | (uint32_t) (kind))
#define CELL_KIND(cell)		((FleetGeoCellKind) ((cell) & 3u))
#define CELL_INDEX(cell)	((cell) >> 2)

/* A growing array; the builder's lists are these. */
typedef struct FleetGeoList
{
	void	   *data;
	size_t		count;
	size_t		room;
	size_t		size;			/* of one element */
} FleetGeoList;

typedef enum FleetGeoListName
{
	LIST_POINTS,				/* FleetGeoPoint */
	LIST_RINGS,					/* uint32_t: first vertex of each ring */
	LIST_REGIONS,				/* FleetGeoRegion */
	LIST_GRIDS,					/* FleetGeoGrid; the first covers everything */
	LIST_CELLS,					/* uint32_t */
	LIST_LEAVES,				/* FleetGeoWord */
	LIST_COUNT
} FleetGeoListName;

typedef struct FleetGeoRegion
{
	int64_t		id;
	uint32_t	first_ring;
	uint32_t	nrings;
	uint32_t	first_point;
	uint32_t	npoints;
} FleetGeoRegion;

struct FleetGeoGeofence
{
	FleetGeoAllocator allocator;
	size_t		memory;

	/* bounds of all vertices */
	FleetGeoPoint low;
	FleetGeoPoint high;

	const FleetGeoPoint *points;
	const FleetGeoGrid *grids;
	const uint32_t *cells;
	const FleetGeoWord *leaves;
	const uint32_t *rings;
	const FleetGeoRegion *regions;
	int			nregions;

	/*
	 * Regions overlap, and some cell leaves out a region that holds all of
	 * it, because one added earlier does so too.
	 */
	bool		overlaps;

	FleetGeoList lists[LIST_COUNT];
};

/* Cut a position, counted in cells, down to one of count cells. */
static inline int32_t
fleet_geo_grid_index(double position, int32_t count)
{
	if (!(position > 0.0))
		return 0;
	if (position >= count)
		return count - 1;
	return (int32_t) position;
}

static inline int32_t
fleet_geo_grid_column(const FleetGeoGrid *grid, double x)
{
	return fleet_geo_grid_index((x - grid->x0) * grid->cells_per_x, grid->nx);
}

static inline int32_t
fleet_geo_grid_row(const FleetGeoGrid *grid, double y)
{
	return fleet_geo_grid_index((y - grid->y0) * grid->cells_per_y, grid->ny);
}

/* The cell that a point falls into; what is outside counts to the rim. */
static inline uint32_t
fleet_geo_grid_cell(const FleetGeoGrid *grid, double x, double y)
{
	return grid->first_cell +
		(uint32_t) fleet_geo_grid_row(grid, y) * (uint32_t) grid->nx +
		(uint32_t) fleet_geo_grid_column(grid, x);
}

/* The side of a point that is moved a little right, and still less upwards. */
static inline bool
fleet_geo_side_of_moved(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p)
{
	int			side = fleet_geo_orient(a, b, p);

	if (side != 0)
		return side > 0;
	if (a.y != b.y)
		return b.y < a.y;
	return b.x > a.x;
}

/*
 * Does the path from -> (from.x, to.y) -> to cross these edges an odd number
 * of times?  All three corners of the path are moved as said above.
 */
static inline bool
fleet_geo_path_crosses(const FleetGeoPoint *edge, uint32_t count,
					   FleetGeoPoint from, FleetGeoPoint to)
{
	FleetGeoPoint corner;
	bool		odd = false;
	uint32_t	i;

	corner.x = from.x;
	corner.y = to.y;
	for (i = 0; i < count; i++)
	{
		FleetGeoPoint a = edge[i];
		FleetGeoPoint b = edge[i + 1];

		if ((a.x <= from.x) != (b.x <= from.x))
			odd ^= fleet_geo_side_of_moved(a, b, from) !=
				fleet_geo_side_of_moved(a, b, corner);
		if ((a.y <= to.y) != (b.y <= to.y))
			odd ^= fleet_geo_side_of_moved(a, b, corner) !=
				fleet_geo_side_of_moved(a, b, to);
	}
	return odd;
}

/*
 * Cells keep edges that come this close, in parts of a cell; a cell is never
 * so small that this is near the rounding of a coordinate (3e-14).
 */
#define FLEET_GEO_MARGIN			(1.0 / 1024)
#define FLEET_GEO_MIN_CELL_DEGREES	1e-6

/* One grid while it is made: what is listed in its cells. */
typedef struct FleetGeoFrame
{
	FleetGeoGrid grid;			/* corner, cells a side */
	double		width;
	double		height;
	double	   *x;				/* nx + 1 lines between the cells */
	double	   *y;				/* ny + 1 */
	uint32_t   *next;			/* per cell: where its runs end */
	uint32_t   *last;			/* per cell: the edge listed last */
	FleetGeoRun *runs;			/* of all cells; NULL while counting */
	uint64_t	listed;			/* edges, as often as they are listed */
} FleetGeoFrame;

/*
 * geofence_frame.c: list these edges in the cells that they come near.  The
 * frame has the corner, the size and the cells a side that are wished for, and
 * zeros else.  After it, the runs of cell c end at next[c], and begin where
 * those of the cell before end.  FLEET_GEO_TOO_BIG when may_refuse, and it is
 * not worth dividing, or the budget (edges that may still be listed) is spent.
 * The frame is to be freed in every case.
 */
extern FleetGeoStatus fleet_geo_frame_fill(FleetGeoGeofence *fence, FleetGeoFrame *frame,
										   bool may_refuse, const FleetGeoRun *runs,
										   uint32_t nruns, uint64_t *budget);
extern void fleet_geo_frame_free(FleetGeoGeofence *fence, FleetGeoFrame *frame);

/* geofence_grid.c: fill in the grid lists from the points. */
extern FleetGeoStatus fleet_geo_grid_build(FleetGeoGeofence *fence);

/* geofence_build.c: lists of the index under construction. */
extern bool fleet_geo_list_reserve(FleetGeoGeofence *fence, FleetGeoListName name,
								   size_t more);
extern void *fleet_geo_alloc(FleetGeoGeofence *fence, size_t size);
extern void fleet_geo_free(FleetGeoGeofence *fence, void *pointer);

#endif							/* FLEET_GEO_GEOFENCE_INT_H */
