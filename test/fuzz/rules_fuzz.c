/* cores: src/track/crossing.c src/handoff/state.c src/geo/haversine.c */
/*-------------------------------------------------------------------------
 *
 * rules_fuzz.c
 *	  Fuzz target: the crossing rule on any numbers, the states of a ride on
 *	  any label.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/rules_fuzz.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "fuzz.h"
#include "handoff/state.h"
#include "track/crossing.h"

static void
try_crossing(FuzzInput *in)
{
	uint64_t	flags = fuzz_number(in, 1);
	FleetCrossingRule rule;
	FleetCrossingFix fix;
	FleetCrossing decision;

	rule.distance_m = fuzz_double(in);
	rule.dwell_s = fuzz_double(in);
	rule.max_speed_mps = fuzz_double(in);
	fix.has_last = flags & 1;
	fix.is_outside = flags & 2;
	fix.was_outside = flags & 4;
	fix.last_lon = fuzz_double(in);
	fix.last_lat = fuzz_double(in);
	fix.elapsed_s = fuzz_double(in);
	fix.lon = fuzz_double(in);
	fix.lat = fuzz_double(in);
	fix.past_m = fuzz_double(in);
	fix.outside_s = fuzz_double(in);

	decision = fleet_track_crossing_decide(&rule, &fix);
	must(decision >= FLEET_CROSSING_STAY && decision <= FLEET_CROSSING_CROSS);
	must(decision != FLEET_CROSSING_IMPLAUSIBLE || (fix.has_last && rule.max_speed_mps > 0));
	if (decision == FLEET_CROSSING_STAY)
		must(!fix.is_outside);
	else if (decision != FLEET_CROSSING_IMPLAUSIBLE)
		must(fix.is_outside);
	/* The same question has the same answer. */
	must(fleet_track_crossing_decide(&rule, &fix) == decision);
}

static void
try_states(const uint8_t *data, size_t size)
{
	char	   *label = malloc(size + 1);
	FleetRideState state;

	must(label != NULL);
	memcpy(label, data, size);
	label[size] = '\0';
	state = fleet_handoff_state_parse(label);
	if (state != FLEET_RIDE_UNKNOWN)
	{
		must(strcmp(fleet_handoff_state_label(state), label) == 0);
		must(fleet_handoff_state_column(state) != NULL);
		must(fleet_handoff_state_may_follow(state, state));
		for (int to = 0; to < FLEET_RIDE_NSTATES; to++)
			if (to != (int) state && !fleet_handoff_state_is_open(state))
				must(!fleet_handoff_state_may_follow(state, (FleetRideState) to));
	}
	free(label);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FuzzInput	in = {data, size};

	try_states(data, size);
	try_crossing(&in);
	return 0;
}
