/*-------------------------------------------------------------------------
 *
 * fence.h
 *	  Fences that users define, and the events of vehicles that pass them.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fence.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_FENCE_H
#define FLEET_TRACK_FENCE_H

#include "postgres.h"

#include "geo/fences.h"
#include "track/fix.h"
#include "track/store.h"

typedef enum FleetFenceEvent
{
	FLEET_FENCE_ENTER = 1,
	FLEET_FENCE_EXIT = 2,
	FLEET_FENCE_DWELL = 4,
	FLEET_FENCE_CROSS = 8,
	FLEET_FENCE_NEAR = 16
} FleetFenceEvent;

/* An area, a place with a radius, or two vehicles to come within a distance. */
typedef struct FleetFence
{
	const char *name;
	const char *id;				/* a uuid: no two fences ever have the same */
	int			events;			/* of FleetFenceEvent */
	double		dwell_s;
	const char *status;			/* of vehicles that it is about; NULL = of all */
	const char *channel;		/* where its events are told; NULL = nowhere */
	double		within_m;		/* of a pair */
} FleetFence;

/* One of two vehicles, and the other one. */
typedef struct FleetFencePair
{
	const char *vehicle;
	const char *other;
	const FleetFence *fence;
} FleetFencePair;

/* What this backend knows of fleet.fences. */
typedef struct FleetFenceSet
{
	int			nfence;			/* areas and places */
	FleetFence *fences;			/* in the order of shapes */
	FleetGeoFences *shapes;
	int			npair;			/* twice the number of pairs */
	FleetFencePair *pairs;		/* ordered by vehicle */
} FleetFenceSet;

/* fence_set.c */
extern const FleetFenceSet *fleet_track_fence_set(void);

/* fence.c */
extern void fleet_track_fence_init(void);
extern void fleet_track_fences_pass(FleetStore *store, const FleetRegion *own,
									const FleetFixVehicle *before, const FleetFix *fix);

#endif							/* FLEET_TRACK_FENCE_H */
