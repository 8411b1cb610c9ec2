/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  Crossings that a background worker hands off.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/queue.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_QUEUE_H
#define FLEET_TRACK_QUEUE_H

#include "postgres.h"

#include "region/map.h"

/* ---- queue.c ---- */

extern void fleet_track_queue_init(void);
extern bool fleet_track_queue_add(const char *vehicle, int64 epoch, const FleetRegion *target);

#endif							/* FLEET_TRACK_QUEUE_H */
