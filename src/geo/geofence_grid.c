/*-------------------------------------------------------------------------
 *
 * geofence_grid.c
 *	  Divide the plane into cells, each with the edges that come near it.
 *
 * One grid is made from a list of edges in three steps:
 *
 * 1. Choose the number of cells, and list for each the edges that come near it
 *	  (geofence_frame.c).
 * 2. Go through the cells row by row, and carry along the set of regions that
 *	  hold the lower left corner of the cell.  It is empty at the first corner,
 *	  which lies outside everything, and changes by the edges that cross the
 *	  path to the next corner; these are all in the list of the cell.
 * 3. Each cell becomes empty, a region, a leaf, or a grid of its own.
 *
 * Edges are taken in order of vertices, so the runs of a cell are in order of
 * regions without sorting.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence_grid.c
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "geo/geofence_int.h"

#define MAX_DEPTH			6		/* grids within grids */
#define MAX_SIDE			1024	/* cells a side of one grid */
#define LEAF_EDGES			10		/* a cell with more is divided */
#define EDGES_PER_CELL		2		/* aimed at when a cell is divided */

/* The first grid begins this far outside of everything. */
#define RIM_DEGREES			1e-4

/* A set of regions: in no order, with the place of each that is in it. */
typedef struct RegionSet
{
	int32_t    *members;
	int32_t    *place;			/* by region; -1 when not in the set */
	int32_t		count;
} RegionSet;

typedef struct Work
{
	FleetGeoGeofence *fence;
	const FleetGeoPoint *points;
	const FleetGeoRegion *regions;
	int32_t		nregions;
	uint64_t	budget;			/* see fleet_geo_frame_fill() */
	RegionSet	column[MAX_DEPTH];	/* at the first corner of the row */
	RegionSet	row[MAX_DEPTH]; /* at the corner we are at */
} Work;

static FleetGeoStatus build_grid(Work *work, int depth, FleetGeoFrame *frame,
								 const FleetGeoRun *runs, uint32_t nruns,
								 uint32_t *result);

static bool
set_init(FleetGeoGeofence *fence, RegionSet *set, int32_t nregions)
{
	set->count = 0;
	set->members = fleet_geo_alloc(fence, 2 * sizeof(int32_t) * (size_t) nregions);
	if (set->members == NULL)
		return false;
	set->place = set->members + nregions;
	memset(set->place, 0xff, sizeof(int32_t) * (size_t) nregions);
	return true;
}

static void
set_flip(RegionSet *set, int32_t region)
{
	int32_t		place = set->place[region];

	if (place < 0)
	{
		set->place[region] = set->count;
		set->members[set->count++] = region;
		return;
	}
	set->members[place] = set->members[--set->count];
	set->place[set->members[place]] = place;
	set->place[region] = -1;
}

static void
set_copy(RegionSet *to, const RegionSet *from)
{
	int32_t		i;

	for (i = 0; i < to->count; i++)
		to->place[to->members[i]] = -1;
	for (i = 0; i < from->count; i++)
	{
		to->members[i] = from->members[i];
		to->place[from->members[i]] = i;
	}
	to->count = from->count;
}

/* The region that a run belongs to. */
static int32_t
region_of_run(const Work *work, const FleetGeoRun *run)
{
	int32_t		low = 0;
	int32_t		high = work->nregions - 1;

	while (low < high)
	{
		int32_t		middle = low + (high - low + 1) / 2;

		if (work->regions[middle].first_point <= run->first)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Which regions hold the next corner, when the set holds those of this one. */
static void
set_walk(Work *work, RegionSet *set, const FleetGeoRun *runs, uint32_t nruns,
		 FleetGeoPoint from, FleetGeoPoint to)
{
	uint32_t	i;

	for (i = 0; i < nruns; i++)
		if (fleet_geo_path_crosses(work->points + runs[i].first, runs[i].count, from, to))
			set_flip(set, region_of_run(work, &runs[i]));
}

/*
 * The region that holds the cell and has no edge in it, -1 for none.  Of
 * several the first is enough to locate a point; that others are left out is
 * noted, for those who ask about one region.
 */
static int32_t
whole_region(Work *work, const RegionSet *inside, const FleetGeoRun *runs, uint32_t nruns)
{
	int32_t		whole = -1;
	int32_t		count = inside->count;
	int32_t		last = -1;
	int32_t		i;
	uint32_t	j;

	/* Common cases first: nothing, or one region that has edges here. */
	for (j = 0; j < nruns && count > 0; j++)
	{
		int32_t		region = region_of_run(work, &runs[j]);

		if (region != last && inside->place[region] >= 0)
			count--;
		last = region;
	}
	if (count == 0)
		return -1;
	for (i = 0; i < inside->count; i++)
	{
		int32_t		region = inside->members[i];
		bool		has_edges = false;

		for (j = 0; j < nruns && !has_edges; j++)
			has_edges = region_of_run(work, &runs[j]) == region;
		if (!has_edges && (whole < 0 || region < whole))
			whole = region;
	}
	if (count > 1)
		work->fence->overlaps = true;
	return whole;
}

/* Begin a group; returns its head. */
static FleetGeoWord *
begin_group(FleetGeoWord *leaf, FleetGeoWord *at, int32_t region, bool inside)
{
	leaf[2].ngroups++;
	at->group.region_inside = (uint32_t) region * 2 + inside;
	at->group.nruns = 0;
	return at;
}

static FleetGeoStatus
make_leaf(Work *work, const RegionSet *inside, const FleetGeoRun *runs, uint32_t nruns,
		  int32_t whole, FleetGeoPoint reference, uint32_t *cell)
{
	FleetGeoList *leaves = &work->fence->lists[LIST_LEAVES];
	FleetGeoWord *leaf;
	FleetGeoWord *at;
	FleetGeoWord *group = NULL;
	int32_t		last = -1;
	uint32_t	i;

	/* At most a head for each run, and for the whole region. */
	if (!fleet_geo_list_reserve(work->fence, LIST_LEAVES,
								FLEET_GEO_LEAF_HEAD + 2 * (size_t) nruns + 1))
		return FLEET_GEO_NO_MEMORY;

	*cell = CELL(CELL_LEAF, leaves->count);
	leaf = (FleetGeoWord *) leaves->data + leaves->count;
	leaf[0].number = reference.x;
	leaf[1].number = reference.y;
	leaf[2].ngroups = 0;
	at = leaf + FLEET_GEO_LEAF_HEAD;
	for (i = 0; i < nruns; i++)
	{
		int32_t		region = region_of_run(work, &runs[i]);

		if (region != last && whole >= 0 && whole < region)
		{
			begin_group(leaf, at++, whole, true);
			whole = -1;
		}
		if (region != last)
			group = begin_group(leaf, at++, region, inside->place[region] >= 0);
		group->group.nruns++;
		(at++)->run = runs[i];
		last = region;
	}
	if (whole >= 0)
		begin_group(leaf, at++, whole, true);
	leaves->count += (size_t) (at - leaf);
	return FLEET_GEO_OK;
}

/* Try to divide a cell; *cell stays empty when that is not worth it. */
static FleetGeoStatus
divide_cell(Work *work, int depth, FleetGeoPoint corner, double width, double height,
			const FleetGeoRun *runs, uint32_t nruns, uint32_t *cell)
{
	FleetGeoFrame frame;
	FleetGeoStatus status;
	uint64_t	edges = 0;
	int32_t		side;
	uint32_t	i;

	for (i = 0; i < nruns; i++)
		edges += runs[i].count;
	side = (int32_t) ceil(sqrt((double) edges / EDGES_PER_CELL));
	side = side < MAX_SIDE ? side : MAX_SIDE;
	if (edges <= LEAF_EDGES || depth >= MAX_DEPTH ||
		width / side < FLEET_GEO_MIN_CELL_DEGREES || height / side < FLEET_GEO_MIN_CELL_DEGREES)
		return FLEET_GEO_OK;

	memset(&frame, 0, sizeof(frame));
	frame.grid.x0 = corner.x;
	frame.grid.y0 = corner.y;
	frame.grid.nx = side;
	frame.grid.ny = side;
	frame.width = width;
	frame.height = height;
	set_copy(&work->column[depth], &work->row[depth - 1]);
	status = build_grid(work, depth, &frame, runs, nruns, cell);
	fleet_geo_frame_free(work->fence, &frame);
	return status == FLEET_GEO_TOO_BIG ? FLEET_GEO_OK : status;
}

/* Step 3. */
static FleetGeoStatus
make_cell(Work *work, int depth, FleetGeoFrame *frame, int32_t column, int32_t row,
		  const FleetGeoRun *runs, uint32_t nruns, uint32_t *cell)
{
	const RegionSet *inside = &work->row[depth];
	int32_t		whole;
	FleetGeoPoint corner;
	FleetGeoStatus status;

	*cell = CELL(CELL_EMPTY, 0);
	if (nruns == 0 && inside->count == 0)
		return FLEET_GEO_OK;
	whole = whole_region(work, inside, runs, nruns);
	if (nruns == 0)
	{
		*cell = CELL(CELL_REGION, whole);
		return FLEET_GEO_OK;
	}
	corner.x = frame->x[column];
	corner.y = frame->y[row];
	status = divide_cell(work, depth + 1, corner, frame->x[column + 1] - corner.x,
						 frame->y[row + 1] - corner.y, runs, nruns, cell);
	if (status == FLEET_GEO_OK && CELL_KIND(*cell) == CELL_EMPTY)
		status = make_leaf(work, inside, runs, nruns, whole, corner, cell);
	return status;
}

/* Step 2, one row. */
static FleetGeoStatus
build_row(Work *work, int depth, FleetGeoFrame *frame, int32_t row)
{
	FleetGeoGrid *grid = &frame->grid;
	RegionSet  *set = &work->row[depth];
	int32_t		column;

	set_copy(set, &work->column[depth]);
	for (column = 0; column < grid->nx; column++)
	{
		uint32_t	index = (uint32_t) (row * grid->nx + column);
		uint32_t	first = index == 0 ? 0 : frame->next[index - 1];
		const FleetGeoRun *runs = frame->runs + first;
		uint32_t	nruns = frame->next[index] - first;
		FleetGeoPoint here = {frame->x[column], frame->y[row]};
		FleetGeoPoint right = {frame->x[column + 1], here.y};
		FleetGeoPoint up = {here.x, frame->y[row + 1]};
		FleetGeoStatus status;
		uint32_t	cell;

		status = make_cell(work, depth, frame, column, row, runs, nruns, &cell);
		if (status != FLEET_GEO_OK)
			return status;
		((uint32_t *) work->fence->lists[LIST_CELLS].data)[grid->first_cell + index] = cell;
		set_walk(work, set, runs, nruns, here, right);
		if (column == 0)
			set_walk(work, &work->column[depth], runs, nruns, here, up);
	}
	return FLEET_GEO_OK;
}

/*
 * Build the grid that the frame describes (corner, size, cells a side) over
 * these runs; column[depth] holds the regions around its first corner.
 * *result is the cell to put into the grid around it.
 */
static FleetGeoStatus
build_grid(Work *work, int depth, FleetGeoFrame *frame,
		   const FleetGeoRun *runs, uint32_t nruns, uint32_t *result)
{
	FleetGeoGeofence *fence = work->fence;
	FleetGeoList *cells = &fence->lists[LIST_CELLS];
	FleetGeoList *grids = &fence->lists[LIST_GRIDS];
	FleetGeoStatus status;
	size_t		ncells;
	int32_t		row;

	status = fleet_geo_frame_fill(fence, frame, depth > 0, runs, nruns, &work->budget);
	if (status != FLEET_GEO_OK)
		return status;
	ncells = (size_t) frame->grid.nx * (size_t) frame->grid.ny;
	if (!fleet_geo_list_reserve(fence, LIST_GRIDS, 1) ||
		!fleet_geo_list_reserve(fence, LIST_CELLS, ncells))
		return FLEET_GEO_NO_MEMORY;

	frame->grid.first_cell = (uint32_t) cells->count;
	cells->count += ncells;
	((FleetGeoGrid *) grids->data)[grids->count] = frame->grid;
	*result = CELL(CELL_GRID, grids->count);
	grids->count++;

	for (row = 0; row < frame->grid.ny; row++)
	{
		status = build_row(work, depth, frame, row);
		if (status != FLEET_GEO_OK)
			return status;
	}
	return FLEET_GEO_OK;
}

/* Bounds of all points; a grid around them of about one cell an edge. */
static void
describe_top(FleetGeoGeofence *fence, FleetGeoFrame *frame)
{
	const FleetGeoPoint *points = fence->lists[LIST_POINTS].data;
	size_t		npoints = fence->lists[LIST_POINTS].count;
	double		side;
	size_t		i;

	/* Without points: bounds that hold nothing. */
	fence->low.x = fence->low.y = 1.0;
	fence->high.x = fence->high.y = 0.0;
	for (i = 0; i < npoints; i++)
	{
		if (i == 0)
			fence->low = fence->high = points[0];
		fence->low.x = fmin(fence->low.x, points[i].x);
		fence->low.y = fmin(fence->low.y, points[i].y);
		fence->high.x = fmax(fence->high.x, points[i].x);
		fence->high.y = fmax(fence->high.y, points[i].y);
	}
	memset(frame, 0, sizeof(*frame));
	frame->grid.x0 = fence->low.x - RIM_DEGREES;
	frame->grid.y0 = fence->low.y - RIM_DEGREES;
	frame->width = fmax(fence->high.x - fence->low.x, 0.0) + 2 * RIM_DEGREES;
	frame->height = fmax(fence->high.y - fence->low.y, 0.0) + 2 * RIM_DEGREES;

	/* Cells about square, none smaller than allowed. */
	side = sqrt(frame->width * frame->height / (double) (npoints + 1));
	side = fmax(side, 10 * FLEET_GEO_MIN_CELL_DEGREES);
	frame->grid.nx = (int32_t) fmin(ceil(frame->width / side), MAX_SIDE);
	frame->grid.ny = (int32_t) fmin(ceil(frame->height / side), MAX_SIDE);
}

FleetGeoStatus
fleet_geo_grid_build(FleetGeoGeofence *fence)
{
	const uint32_t *rings = fence->lists[LIST_RINGS].data;
	uint32_t	nrings = (uint32_t) fence->lists[LIST_RINGS].count - 1;
	Work		work;
	FleetGeoFrame frame;
	FleetGeoRun *runs;
	FleetGeoStatus status = FLEET_GEO_OK;
	uint32_t	cell;
	uint32_t	i;

	memset(&work, 0, sizeof(work));
	work.fence = fence;
	work.points = fence->lists[LIST_POINTS].data;
	work.regions = fence->lists[LIST_REGIONS].data;
	work.nregions = (int32_t) fence->lists[LIST_REGIONS].count;
	work.budget = 16 * (uint64_t) fence->lists[LIST_POINTS].count + 4096;
	describe_top(fence, &frame);

	runs = fleet_geo_alloc(fence, sizeof(FleetGeoRun) * nrings);
	if (runs == NULL)
		status = FLEET_GEO_NO_MEMORY;
	for (i = 0; i < MAX_DEPTH && status == FLEET_GEO_OK; i++)
		if (!set_init(fence, &work.column[i], work.nregions) ||
			!set_init(fence, &work.row[i], work.nregions))
			status = FLEET_GEO_NO_MEMORY;
	for (i = 0; i < nrings && status == FLEET_GEO_OK; i++)
	{
		runs[i].first = rings[i];
		runs[i].count = rings[i + 1] - rings[i] - 1;
	}
	if (status == FLEET_GEO_OK)
		status = build_grid(&work, 0, &frame, runs, nrings, &cell);

	fleet_geo_frame_free(fence, &frame);
	fleet_geo_free(fence, runs);
	for (i = 0; i < MAX_DEPTH; i++)
	{
		fleet_geo_free(fence, work.column[i].members);
		fleet_geo_free(fence, work.row[i].members);
	}
	return status;
}
