/*-------------------------------------------------------------------------
 *
 * fences.h
 *	  Many fences, which may overlap: what a step from one place to the next
 *	  enters, leaves and passes through.  Pure core: C types only.
 *
 * Fences are numbered 0, 1, 2 .. in the order in which they were added.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/fences.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_FENCES_H
#define FLEET_GEO_FENCES_H

#include "geo/geofence.h"
#include "geo/orient.h"

/* Of a circle, metres.  Beyond it the box around one would not be one. */
#define FLEET_GEO_MAX_RADIUS_M	1e6

typedef struct FleetGeoFences FleetGeoFences;

/*
 * create, add .., finish; then any number of readers.  create returns NULL without
 * memory; allocator NULL means malloc.  An add that refuses leaves the set as it
 * was.  After an error of finish the set can only be freed.
 */
extern FleetGeoFences *fleet_geo_fences_create(const FleetGeoAllocator *allocator);
extern FleetGeoStatus fleet_geo_fences_add_area(FleetGeoFences *fences,
												const unsigned char *wkb, size_t len);
extern FleetGeoStatus fleet_geo_fences_add_circle(FleetGeoFences *fences, double lon,
												  double lat, double radius_m);
extern FleetGeoStatus fleet_geo_fences_finish(FleetGeoFences *fences);
extern void fleet_geo_fences_free(FleetGeoFences *fences);
extern int	fleet_geo_fences_count(const FleetGeoFences *fences);

/* Was the place before in this fence (its rim included), and is the new one? */
typedef void (*FleetGeoFenceVisit) (void *ctx, int fence, bool was, bool is);

/*
 * Call visit for each fence that has one of the two places, or that the way between may
 * pass through, in no order; from may be NULL.  Places are valid ones.
 */
extern void fleet_geo_fences_step(const FleetGeoFences *fences, const FleetGeoPoint *from,
								  FleetGeoPoint to, FleetGeoFenceVisit visit, void *ctx);

/* Whether a place is in one fence. */
extern bool fleet_geo_fences_covers(const FleetGeoFences *fences, int fence, FleetGeoPoint p);

/*
 * Whether the straight line between two places that are not in the fence meets it.
 * Never, where it would cross the antimeridian.
 */
extern bool fleet_geo_fences_passes(const FleetGeoFences *fences, int fence,
									FleetGeoPoint from, FleetGeoPoint to);

#endif							/* FLEET_GEO_FENCES_H */
