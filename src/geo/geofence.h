/*-------------------------------------------------------------------------
 *
 * geofence.h
 *	  Which region holds a point, and how far is a point from a region.
 *
 * A pure core: C types and libc only.  A builder takes the polygons of all
 * regions as WKB and makes one immutable index of them (a "geofence").  The
 * index is read-only after that, so any number of readers may share it.
 *
 * Regions are numbered 0, 1, 2 .. in the order in which they were added.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/geofence.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_GEOFENCE_H
#define FLEET_GEO_GEOFENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "geo/orient.h"

typedef enum FleetGeoStatus
{
	FLEET_GEO_OK = 0,
	FLEET_GEO_NO_MEMORY,		/* the allocator returned NULL */
	FLEET_GEO_BAD_COORDINATE,	/* NaN, infinite, or beyond +-180 / +-90 */
	FLEET_GEO_BAD_WKB,			/* truncated, trailing bytes, unknown codes */
	FLEET_GEO_BAD_TYPE,			/* neither Polygon nor MultiPolygon */
	FLEET_GEO_BAD_SRID,			/* an SRID is given and is not 4326 */
	FLEET_GEO_BAD_RING,			/* fewer than four points, or not closed */
	FLEET_GEO_EMPTY,			/* no polygon with a shell in it */
	FLEET_GEO_TOO_BIG			/* more vertices or regions than we index */
} FleetGeoStatus;

/* What locate and nearest return when they do not return a region. */
#define FLEET_GEO_NOWHERE	(-1)	/* no region there */
#define FLEET_GEO_BAD_POINT	(-2)	/* NaN, infinite or out of range */

/*
 * Where memory comes from.  alloc may return NULL, or leave by longjmp when
 * the caller throws away all of its memory himself (a memory context).
 */
typedef struct FleetGeoAllocator
{
	void	   *(*alloc) (void *ctx, size_t size);
	void		(*free) (void *ctx, void *pointer);
	void	   *ctx;
} FleetGeoAllocator;

/* malloc() and free() */
extern const FleetGeoAllocator fleet_geo_malloc;

typedef struct FleetGeoBuilder FleetGeoBuilder;
typedef struct FleetGeoGeofence FleetGeoGeofence;

/*
 * Building.  begin returns NULL without memory; allocator NULL means malloc.
 * add copies what it needs of the WKB; when it refuses a region the builder
 * is as it was before.  finish frees the builder in every case; abandon frees
 * it without a result.  A geofence of no regions is allowed.
 */
extern FleetGeoBuilder *fleet_geo_geofence_begin(const FleetGeoAllocator *allocator);
extern FleetGeoStatus fleet_geo_geofence_add(FleetGeoBuilder *builder, int64_t id,
											 const unsigned char *wkb, size_t len);
extern FleetGeoStatus fleet_geo_geofence_finish(FleetGeoBuilder *builder,
												FleetGeoGeofence **fence);
extern void fleet_geo_geofence_abandon(FleetGeoBuilder *builder);
extern void fleet_geo_geofence_free(FleetGeoGeofence *fence);

/* How many regions; the id given for one; bytes of memory held. */
extern int	fleet_geo_geofence_count(const FleetGeoGeofence *fence);
extern int64_t fleet_geo_geofence_id(const FleetGeoGeofence *fence, int region);
extern size_t fleet_geo_geofence_memory(const FleetGeoGeofence *fence);

/*
 * The region that contains the point, boundary included; of several the one
 * added first.  FLEET_GEO_NOWHERE or FLEET_GEO_BAD_POINT otherwise.
 */
extern int	fleet_geo_geofence_locate(const FleetGeoGeofence *fence,
									  double lon, double lat);

/* Whether this one region contains the point, boundary included. */
extern bool fleet_geo_geofence_covers(const FleetGeoGeofence *fence, int region,
									  double lon, double lat);

/*
 * The region that is nearest to the point and at most max_m metres away (a
 * region that contains it is 0 m away).  *distance_m is set when a region is
 * returned; it may be NULL.
 */
extern int	fleet_geo_geofence_nearest(const FleetGeoGeofence *fence,
									   double lon, double lat, double max_m,
									   double *distance_m);

/*
 * Metres from the point to this region, 0 inside and on the boundary;
 * infinite when that is more than limit_m; NaN for a bad point or region.
 */
extern double fleet_geo_geofence_distance(const FleetGeoGeofence *fence, int region,
										  double lon, double lat, double limit_m);

/* Whether the line from p to q meets the border of any region. */
extern bool fleet_geo_geofence_meets(const FleetGeoGeofence *fence, FleetGeoPoint p,
									 FleetGeoPoint q);

/* The bounds of all regions, of which there is one. */
extern void fleet_geo_geofence_bounds(const FleetGeoGeofence *fence, double *west,
									  double *south, double *east, double *north);

/* A status in a few words of English, for error details. */
extern const char *fleet_geo_status_text(FleetGeoStatus status);

#endif							/* FLEET_GEO_GEOFENCE_H */
