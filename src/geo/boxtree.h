/*-------------------------------------------------------------------------
 *
 * boxtree.h
 *	  Which of many boxes meet a box: a packed R-tree.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/boxtree.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_BOXTREE_H
#define FLEET_GEO_BOXTREE_H

#include "geo/geofence.h"

/* With its rim. */
typedef struct FleetGeoBox
{
	double		west;
	double		south;
	double		east;
	double		north;
} FleetGeoBox;

typedef struct FleetGeoBoxTree FleetGeoBoxTree;

typedef void (*FleetGeoBoxVisit) (void *ctx, int item);

static inline bool
fleet_geo_box_meets(const FleetGeoBox *a, const FleetGeoBox *b)
{
	return a->west <= b->east && a->east >= b->west &&
		a->south <= b->north && a->north >= b->south;
}

/* Items are numbered as their boxes are.  NULL without memory. */
extern FleetGeoBoxTree *fleet_geo_boxtree_build(const FleetGeoAllocator *allocator,
												const FleetGeoBox *boxes, int count);
extern void fleet_geo_boxtree_search(const FleetGeoBoxTree *tree, const FleetGeoBox *box,
									 FleetGeoBoxVisit visit, void *ctx);
extern void fleet_geo_boxtree_free(FleetGeoBoxTree *tree);

#endif							/* FLEET_GEO_BOXTREE_H */
