/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The states of a ride.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/state.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_HANDOFF_STATE_H
#define FLEET_HANDOFF_STATE_H

#include <stdbool.h>

typedef enum FleetRideState
{
	FLEET_RIDE_PENDING,
	FLEET_RIDE_EN_ROUTE,
	FLEET_RIDE_ARRIVED,
	FLEET_RIDE_IN_PROGRESS,
	FLEET_RIDE_COMPLETED,
	FLEET_RIDE_CANCELLED,
	FLEET_RIDE_NSTATES,
	FLEET_RIDE_UNKNOWN = -1
} FleetRideState;

extern FleetRideState fleet_handoff_state_parse(const char *label);
extern const char *fleet_handoff_state_label(FleetRideState state);
extern const char *fleet_handoff_state_column(FleetRideState state);
extern bool fleet_handoff_state_is_open(FleetRideState state);
extern bool fleet_handoff_state_may_follow(FleetRideState from, FleetRideState to);

#endif							/* FLEET_HANDOFF_STATE_H */
