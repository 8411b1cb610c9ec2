/*-------------------------------------------------------------------------
 *
 * rules.h
 *	  The crossing rule of a region, and what it says of a fix.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/rules.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_RULES_H
#define FLEET_TRACK_RULES_H

#include "postgres.h"

#include "region/map.h"
#include "track/crossing.h"
#include "track/fix.h"

/* ---- rules.c ---- */

extern void fleet_track_rules_init(void);
extern const FleetCrossingRule *fleet_track_rule(const FleetRegion *own);
extern FleetCrossing fleet_track_cross_decide(const FleetRegion *own,
											  const FleetRegion *at_region,
											  const FleetFixVehicle *vehicle,
											  const FleetFix *fix);

/* ---- flap.c ---- */

extern void fleet_track_flap_init(void);
extern bool fleet_track_flap_is_damped(const FleetCrossingRule *rule,
									   const FleetCrossingFix *sight,
									   const FleetFixVehicle *vehicle,
									   const FleetFix *fix);
extern void fleet_track_flap_note_jump(const char *vehicle);

#endif							/* FLEET_TRACK_RULES_H */
