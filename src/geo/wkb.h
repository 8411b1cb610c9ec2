/*-------------------------------------------------------------------------
 *
 * wkb.h
 *	  Read the rings of a Polygon or MultiPolygon from WKB or EWKB.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/wkb.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_WKB_H
#define FLEET_GEO_WKB_H

#include "geo/geofence.h"
#include "geo/orient.h"

/*
 * Room for what a WKB of len bytes can hold at most: a point takes 16 bytes,
 * a ring at least four points and its count.
 */
#define FLEET_GEO_WKB_MAX_POINTS(len)	((len) / 16)
#define FLEET_GEO_WKB_MAX_RINGS(len)	((len) / 68)

typedef struct FleetGeoRings
{
	FleetGeoPoint *points;		/* caller's, FLEET_GEO_WKB_MAX_POINTS(len) */
	uint32_t   *sizes;			/* caller's, FLEET_GEO_WKB_MAX_RINGS(len) */
	uint32_t	npoints;		/* points of all rings, ring after ring */
	uint32_t	nrings;
} FleetGeoRings;

/*
 * Fill the caller's arrays.  Every ring read is closed (its last point is its
 * first), has no repeated point in a row and at least four points; every
 * coordinate is finite and in range.  Z and M are skipped.
 */
extern FleetGeoStatus fleet_geo_wkb_read(const unsigned char *wkb, size_t len,
										 FleetGeoRings *rings);

#endif							/* FLEET_GEO_WKB_H */
