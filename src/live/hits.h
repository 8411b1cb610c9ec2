/*-------------------------------------------------------------------------
 *
 * hits.h
 *	  The nearest few of many.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/hits.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_LIVE_HITS_H
#define FLEET_LIVE_HITS_H

#include <stdbool.h>

typedef struct FleetLiveHit
{
	double		distance;
	const char *id;
	int			id_size;
	const void *of;				/* the caller's */
} FleetLiveHit;

/* The farthest one first, and then in the order of a heap. */
typedef struct FleetLiveHits
{
	int			max;
	int			n;
	FleetLiveHit *hits;			/* room for max */
} FleetLiveHits;

/* How far a vehicle may be to get in. */
static inline double
fleet_live_hits_reach(const FleetLiveHits *hits, double radius)
{
	return hits->n < hits->max ? radius : hits->hits[0].distance;
}

extern void fleet_live_hits_offer(FleetLiveHits *hits, FleetLiveHit hit);
extern void fleet_live_hits_sort(FleetLiveHits *hits);

#endif							/* FLEET_LIVE_HITS_H */
