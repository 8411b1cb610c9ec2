/*-------------------------------------------------------------------------
 *
 * map.h
 *	  This node's identity and its copy of the region map.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/region/map.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REGION_MAP_H
#define FLEET_REGION_MAP_H

#include "postgres.h"

#include "geo/geofence.h"

typedef struct FleetRegion
{
	char	   *name;
	char	   *node;
	int			capacity;		/* open rides; -1 = no limit */
} FleetRegion;

typedef struct FleetRegionMap
{
	char	   *node;			/* this node; NULL before fleet.init_node */
	int64		version;		/* 0 = not part of any map yet */
	int			nregion;
	FleetRegion *regions;		/* ordered by name */
	const FleetRegion *own;		/* the region of this node, or NULL */
} FleetRegionMap;

extern const FleetRegionMap *fleet_region_map(void);
extern const FleetRegionMap *fleet_region_map_member(void);
extern const FleetRegion *fleet_region_find(const FleetRegionMap *map, const char *name);
extern const FleetRegion *fleet_region_require(const FleetRegionMap *map, const char *name);
extern char *fleet_region_incarnation(void);

#endif							/* FLEET_REGION_MAP_H */
