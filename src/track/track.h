/*-------------------------------------------------------------------------
 *
 * track.h
 *	  Position reports.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/track.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_TRACK_H
#define FLEET_TRACK_TRACK_H

#include "track/crossing.h"
#include "track/fix.h"

extern void fleet_track_init(void);
extern FleetCrossing fleet_track_decide(const FleetRegion *own, const FleetRegion *at_region,
										const FleetFixVehicle *vehicle, const FleetFix *fix);

#endif							/* FLEET_TRACK_TRACK_H */
