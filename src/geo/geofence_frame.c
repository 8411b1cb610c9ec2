/*-------------------------------------------------------------------------
 *
 * geofence_frame.c
 *	  List in each cell of one grid the edges that come near it.
 *
 * First the number of cells is chosen.  If the edges are listed too often with
 * the number wished for (long edges cross many cells), half as many a side are
 * tried, and so on.  This, and a budget for all grids together, bounds memory
 * and time whatever the input.  Then the runs of each cell are counted, and
 * written down cell by cell in a second pass.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence_frame.c
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "geo/geofence_int.h"

/* How often edges may be listed in one grid, for each that there is. */
#define MAX_LISTED			3

/* No edge has this number, nor the one after it. */
#define NO_EDGE				0xfffffff0u

/* List an edge in a cell, or count the run that this would begin. */
static void
list_edge(FleetGeoFrame *frame, uint32_t cell, uint32_t edge)
{
	bool		begins = frame->last[cell] + 1 != edge;

	frame->last[cell] = edge;
	frame->listed++;
	if (frame->runs == NULL)
		frame->next[cell] += begins;
	else if (begins)
	{
		FleetGeoRun *run = &frame->runs[frame->next[cell]++];

		run->first = edge;
		run->count = 1;
	}
	else
		frame->runs[frame->next[cell] - 1].count++;
}

/* List an edge in every cell that it comes near. */
static void
spread_edge(FleetGeoFrame *frame, const FleetGeoPoint *points, uint32_t edge)
{
	const FleetGeoGrid *grid = &frame->grid;
	FleetGeoPoint low = points[edge];
	FleetGeoPoint high = points[edge + 1];
	double		margin_x = FLEET_GEO_MARGIN * frame->width / grid->nx;
	double		margin_y = FLEET_GEO_MARGIN * frame->height / grid->ny;
	int32_t		row;
	int32_t		last_row;

	if (low.y > high.y)
	{
		low = points[edge + 1];
		high = points[edge];
	}
	last_row = fleet_geo_grid_row(grid, high.y + margin_y);
	for (row = fleet_geo_grid_row(grid, low.y - margin_y); row <= last_row; row++)
	{
		/* The ends of that part of the edge which is in the row. */
		double		bottom = frame->y[row] - margin_y;
		double		top = frame->y[row + 1] + margin_y;
		double		x1 = low.x;
		double		x2 = high.x;
		double		slope;
		int32_t		column;
		int32_t		last_column;

		if (bottom > low.y && bottom < high.y)
		{
			slope = (bottom - low.y) / (high.y - low.y);
			x1 = low.x + slope * (high.x - low.x);
		}
		if (top > low.y && top < high.y)
		{
			slope = (top - low.y) / (high.y - low.y);
			x2 = low.x + slope * (high.x - low.x);
		}
		last_column = fleet_geo_grid_column(grid, fmax(x1, x2) + margin_x);
		for (column = fleet_geo_grid_column(grid, fmin(x1, x2) - margin_x);
			 column <= last_column; column++)
			list_edge(frame, (uint32_t) (row * grid->nx + column), edge);
	}
}

/* List all; false when that goes over the limit, which ends it early. */
static bool
spread_runs(FleetGeoFrame *frame, const FleetGeoPoint *points,
			const FleetGeoRun *runs, uint32_t nruns, uint64_t limit)
{
	uint32_t	i;
	uint32_t	edge;

	frame->listed = 0;
	for (i = 0; i < (uint32_t) (frame->grid.nx * frame->grid.ny); i++)
		frame->last[i] = NO_EDGE;
	for (i = 0; i < nruns; i++)
		for (edge = runs[i].first; edge < runs[i].first + runs[i].count; edge++)
		{
			spread_edge(frame, points, edge);
			if (frame->listed > limit)
				return false;
		}
	return true;
}

void
fleet_geo_frame_free(FleetGeoGeofence *fence, FleetGeoFrame *frame)
{
	fleet_geo_free(fence, frame->x);
	fleet_geo_free(fence, frame->y);
	fleet_geo_free(fence, frame->next);
	fleet_geo_free(fence, frame->last);
	fleet_geo_free(fence, frame->runs);
	frame->x = frame->y = NULL;
	frame->next = frame->last = NULL;
	frame->runs = NULL;
}

/* Room for a grid of nx * ny cells, and where its lines are. */
static FleetGeoStatus
frame_init(FleetGeoGeofence *fence, FleetGeoFrame *frame)
{
	FleetGeoGrid *grid = &frame->grid;
	size_t		ncells = (size_t) grid->nx * (size_t) grid->ny;
	int32_t		i;

	grid->cells_per_x = grid->nx / frame->width;
	grid->cells_per_y = grid->ny / frame->height;
	frame->x = fleet_geo_alloc(fence, sizeof(double) * (size_t) (grid->nx + 1));
	frame->y = fleet_geo_alloc(fence, sizeof(double) * (size_t) (grid->ny + 1));
	frame->next = fleet_geo_alloc(fence, sizeof(uint32_t) * ncells);
	frame->last = fleet_geo_alloc(fence, sizeof(uint32_t) * ncells);
	if (frame->x == NULL || frame->y == NULL || frame->next == NULL || frame->last == NULL)
		return FLEET_GEO_NO_MEMORY;
	for (i = 0; i <= grid->nx; i++)
		frame->x[i] = grid->x0 + i * (frame->width / grid->nx);
	for (i = 0; i <= grid->ny; i++)
		frame->y[i] = grid->y0 + i * (frame->height / grid->ny);
	memset(frame->next, 0, sizeof(uint32_t) * ncells);
	return FLEET_GEO_OK;
}

FleetGeoStatus
fleet_geo_frame_fill(FleetGeoGeofence *fence, FleetGeoFrame *frame, bool may_refuse,
					 const FleetGeoRun *runs, uint32_t nruns, uint64_t *budget)
{
	const FleetGeoPoint *points = fence->lists[LIST_POINTS].data;
	uint64_t	edges = 0;
	uint32_t	total = 0;
	uint32_t	i;

	for (i = 0; i < nruns; i++)
		edges += runs[i].count;
	for (;;)
	{
		/* One cell always is within the limit, and is of no use. */
		if (may_refuse && frame->grid.nx * frame->grid.ny < 2)
			return FLEET_GEO_TOO_BIG;
		if (frame_init(fence, frame) != FLEET_GEO_OK)
			return FLEET_GEO_NO_MEMORY;
		if (spread_runs(frame, points, runs, nruns, MAX_LISTED * edges + 64))
			break;
		fleet_geo_frame_free(fence, frame);
		frame->grid.nx = (frame->grid.nx + 1) / 2;
		frame->grid.ny = (frame->grid.ny + 1) / 2;
	}
	if (may_refuse && frame->listed > *budget)
		return FLEET_GEO_TOO_BIG;
	*budget -= frame->listed < *budget ? frame->listed : *budget;

	for (i = 0; i < (uint32_t) (frame->grid.nx * frame->grid.ny); i++)
	{
		uint32_t	count = frame->next[i];

		frame->next[i] = total;
		total += count;
	}
	frame->runs = fleet_geo_alloc(fence, sizeof(FleetGeoRun) * total);
	if (frame->runs == NULL)
		return FLEET_GEO_NO_MEMORY;
	spread_runs(frame, points, runs, nruns, frame->listed);
	return FLEET_GEO_OK;
}
