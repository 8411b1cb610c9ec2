/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The states of a ride.
 *
 * PENDING -> EN_ROUTE -> ARRIVED -> IN_PROGRESS -> COMPLETED, one step at a
 * time; from each of the first four also to CANCELLED.  COMPLETED and
 * CANCELLED are final: such a ride is closed.
 *
 * Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/state.c
 *
 *-------------------------------------------------------------------------
 */
#include "handoff/state.h"

#include <string.h>

typedef struct RideStateInfo
{
	const char *label;			/* of enum fleet.ride_status */
	const char *column;			/* of fleet.rides: when it was entered */
} RideStateInfo;

static const RideStateInfo infos[FLEET_RIDE_NSTATES] = {
	{"PENDING", "requested_at"},
	{"EN_ROUTE", "en_route_at"},
	{"ARRIVED", "arrived_at"},
	{"IN_PROGRESS", "started_at"},
	{"COMPLETED", "completed_at"},
	{"CANCELLED", "cancelled_at"},
};

FleetRideState
fleet_handoff_state_parse(const char *label)
{
	for (int i = 0; i < FLEET_RIDE_NSTATES; i++)
		if (strcmp(infos[i].label, label) == 0)
			return (FleetRideState) i;
	return FLEET_RIDE_UNKNOWN;
}

const char *
fleet_handoff_state_label(FleetRideState state)
{
	return infos[state].label;
}

/* The column that keeps when a ride entered the state. */
const char *
fleet_handoff_state_column(FleetRideState state)
{
	return infos[state].column;
}

bool
fleet_handoff_state_is_open(FleetRideState state)
{
	return state < FLEET_RIDE_COMPLETED;
}

/* Staying where it is always allowed. */
bool
fleet_handoff_state_may_follow(FleetRideState from, FleetRideState to)
{
	if (from == to)
		return true;
	if (!fleet_handoff_state_is_open(from))
		return false;
	return to == FLEET_RIDE_CANCELLED || (int) to == (int) from + 1;
}
