/* cores: src/handoff/state.c */
/*-------------------------------------------------------------------------
 *
 * state_test.c
 *	  Unit tests of the states of a ride.
 *
 * The table of what may follow what is written out here by hand, so that a
 * change of the rule has to be made twice.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/unit/state_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "handoff/state.h"
#include "tap.h"

static const char *const labels[] = {
	"PENDING", "EN_ROUTE", "ARRIVED", "IN_PROGRESS", "COMPLETED", "CANCELLED"
};
static const char *const columns[] = {
	"requested_at", "en_route_at", "arrived_at", "started_at", "completed_at", "cancelled_at"
};
static const char *const unknown[] = {
	"", "pending", "Pending", " PENDING", "PENDING ", "PENDIN", "PENDINGS", "EN ROUTE",
	"EN-ROUTE", "COMPLETE", "CANCELED", "0", "NULL", "PENDING\n"
};

/* One row for each state to go from; columns in the order of the states. */
static const char *const allowed[] = {
	"11...1",					/* PENDING */
	".11..1",					/* EN_ROUTE */
	"..11.1",					/* ARRIVED */
	"...111",					/* IN_PROGRESS */
	"....1.",					/* COMPLETED */
	".....1",					/* CANCELLED */
};

static void
test_labels(void)
{
	is_int(FLEET_RIDE_NSTATES, 6, "there are six states");
	for (int i = 0; i < FLEET_RIDE_NSTATES; i++)
	{
		is_int(fleet_handoff_state_parse(labels[i]), i, labels[i]);
		is_str(fleet_handoff_state_label((FleetRideState) i), labels[i], "label of it");
		is_str(fleet_handoff_state_column((FleetRideState) i), columns[i], "column of its time");
		is_int(fleet_handoff_state_is_open((FleetRideState) i), i < 4, "open or closed");
	}
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		ok(fleet_handoff_state_parse(unknown[i]) == FLEET_RIDE_UNKNOWN,
		   "no state is read from malformed label %d", (int) i);
}

static void
test_steps(void)
{
	for (int from = 0; from < FLEET_RIDE_NSTATES; from++)
		for (int to = 0; to < FLEET_RIDE_NSTATES; to++)
			ok(fleet_handoff_state_may_follow((FleetRideState) from, (FleetRideState) to) ==
			   (allowed[from][to] == '1'),
			   "%s to %s is %s", labels[from], labels[to],
			   allowed[from][to] == '1' ? "allowed" : "refused");
}

/* However a ride goes, it never leaves a closed state and never goes back. */
static void
test_walks(void)
{
	int			broken = 0;
	int			completed = 0;

	srand(20261121);
	for (int walk = 0; walk < 20000; walk++)
	{
		FleetRideState state = FLEET_RIDE_PENDING;

		for (int step = 0; step < 40; step++)
		{
			FleetRideState next = (FleetRideState) (rand() % FLEET_RIDE_NSTATES);

			if (!fleet_handoff_state_may_follow(state, next))
				continue;
			if (next < state || (!fleet_handoff_state_is_open(state) && next != state))
				broken++;
			state = next;
		}
		completed += state == FLEET_RIDE_COMPLETED;
	}
	is_int(broken, 0, "no walk goes back or leaves a closed state");
	ok(completed > 0 && completed < 20000, "some walks end COMPLETED (%d)", completed);
}

int
main(void)
{
	test_labels();
	test_steps();
	test_walks();
	return done();
}
