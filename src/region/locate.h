/*-------------------------------------------------------------------------
 *
 * locate.h
 *	  Which region a place is in.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/region/locate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REGION_LOCATE_H
#define FLEET_REGION_LOCATE_H

#include "postgres.h"

#include "region/map.h"

extern void fleet_region_init(void);
extern const FleetRegion *fleet_region_at(double lon, double lat);
extern double fleet_region_distance(const FleetRegion *region, double lon, double lat,
									double limit_m);

#endif							/* FLEET_REGION_LOCATE_H */
