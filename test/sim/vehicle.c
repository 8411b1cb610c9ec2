/*-------------------------------------------------------------------------
 *
 * vehicle.c
 *	  What one fix of one vehicle means for the cluster.
 *
 * Register the vehicle at its first fix in a region, report the fix on the
 * node where the vehicle lives, begin a ride when it becomes occupied and
 * complete the ride when it is free again.
 *
 * Why a repeated call does no harm: a fix is identified by its time (a repeated
 * one is "stale"), a ride by its id (a repeated request is a unique violation),
 * and a repeated change to the present status changes nothing.  After a try whose
 * outcome is unknown these answers mean that it had been done.
 *
 * Where a vehicle lives is learned from what the cluster says: the outcome
 * "moved", or error RF027, whose detail names the region.  A call that ends on
 * another node than it began on was a handoff, however many tries it took.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/vehicle.c
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>
#include <unistd.h>

#include "sim.h"

#define FIRST_PAUSE		0.02
#define LONGEST_PAUSE	1.0

#define MESSAGES		5			/* about failures, for each worker */

#define NUMBER_LEN		32

static void
count(SimWorker *worker, SimCounter counter)
{
	worker->stats.counters[counter]++;
}

static const char *
node_name(const SimWorker *worker, int node)
{
	return worker->cluster->nodes[node].name;
}

/*
 * Has this worker tried long enough?  A node that has been down for long does
 * not get the full time again for each call.
 */
static bool
give_up(const SimWorker *worker, const SimLink *link, double start)
{
	double		since = start;

	if (link->down_since != 0 && link->down_since < since)
		since = link->down_since;
	return sim_now() - since >= worker->retry_for;
}

/* Count a call that was given up, and say why unless that was said often. */
static void
report_failure(SimWorker *worker, const SimVehicle *vehicle, const char *what,
			   const SimReply *reply)
{
	count(worker, SIM_FAILED);
	if (worker->stats.counters[SIM_FAILED] <= MESSAGES)
		fprintf(stderr, "%s%s of %s given up: %s\n",
				isatty(STDERR_FILENO) ? "\r\033[K" : "", what, vehicle->id, reply->message);
}

/* One try on the node where the vehicle is thought to live; counts errors. */
static void
try_call(SimWorker *worker, const SimVehicle *vehicle, SimStatement statement,
		 const char *const *values, SimReply *reply)
{
	bool		unknown = reply->unknown;

	sim_link_try(&worker->links[vehicle->node], statement, values, reply);
	reply->unknown = reply->unknown || unknown;
	if (reply->verdict == SIM_AGAIN)
		count(worker, SIM_ERRORS);
}

/*
 * Call until it is done, refused, or given up.  A call about a vehicle or a
 * ride follows it to where it lives, and keeps that in vehicle->node; a call
 * about a place (follow is false) comes back with SIM_ELSEWHERE instead.
 * Returns whether it is done.  reply->unknown: a try may have done it unnoticed.
 */
static bool
call(SimWorker *worker, SimVehicle *vehicle, SimStatement statement,
	 const char *const *values, bool follow, SimReply *reply)
{
	double		start = sim_now();
	double		pause = FIRST_PAUSE;
	int			hops = 0;

	reply->unknown = false;
	for (;;)
	{
		try_call(worker, vehicle, statement, values, reply);
		if (reply->verdict == SIM_DONE)
			return true;
		if (reply->verdict == SIM_REFUSED ||
			(reply->verdict == SIM_ELSEWHERE && !follow))
			return false;
		if (give_up(worker, &worker->links[vehicle->node], start))
			return false;

		if (reply->verdict == SIM_ELSEWHERE)
		{
			vehicle->node = reply->node;
			if (++hops == 1)
				continue;		/* at once; afterwards something is in motion */
		}
		sim_sleep(pause);
		pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
	}
}

/* A place and a time as text, the way parameters are sent. */
typedef struct FixText
{
	char		lon[NUMBER_LEN];
	char		lat[NUMBER_LEN];
	char		t[NUMBER_LEN];
} FixText;

static void
make_text(FixText *text, const SimFix *fix)
{
	snprintf(text->lon, NUMBER_LEN, "%.6f", fix->lon);
	snprintf(text->lat, NUMBER_LEN, "%.6f", fix->lat);
	snprintf(text->t, NUMBER_LEN, "%lld", fix->t);
}

/*
 * Which node owns the place?  SIM_NOWHERE when it is in no region, or in one
 * without a node here.  Any node can tell, so ask one after the other; false
 * when nobody could for a long time.
 */
static bool
find_region(SimWorker *worker, const FixText *text, int *node, SimReply *reply)
{
	const char *values[2];
	double		start = sim_now();
	int			ask = 0;

	values[0] = text->lon;
	values[1] = text->lat;
	for (;;)
	{
		sim_link_try(&worker->links[ask], SIM_REGION_OF, values, reply);
		if (reply->verdict == SIM_DONE)
			break;
		count(worker, SIM_ERRORS);
		if (reply->verdict == SIM_REFUSED ||
			sim_now() - start >= worker->retry_for)
			return false;
		ask = (ask + 1) % worker->cluster->nnodes;
		if (ask == 0)
			sim_sleep(LONGEST_PAUSE);
	}
	*node = sim_cluster_find(worker->cluster, reply->value[0]);
	return true;
}

/*
 * First fix: returns whether the vehicle lives somewhere now.  If not, its next
 * fix is its first one again.
 */
static bool
register_vehicle(SimWorker *worker, SimVehicle *vehicle, const FixText *text)
{
	const char *values[3];
	SimReply	reply;

	if (!find_region(worker, text, &vehicle->node, &reply))
	{
		report_failure(worker, vehicle, "registration", &reply);
		return false;
	}
	if (vehicle->node == SIM_NOWHERE)
	{
		count(worker, SIM_WAITING);
		return false;
	}
	values[0] = vehicle->id;
	values[1] = text->lon;
	values[2] = text->lat;
	if (!call(worker, vehicle, SIM_REGISTER, values, true, &reply) &&
		strcmp(reply.sqlstate, "23505") != 0)
	{
		report_failure(worker, vehicle, "registration", &reply);
		vehicle->node = SIM_NOWHERE;
		return false;
	}
	count(worker, SIM_VEHICLES);
	return true;
}

/* The vehicle lives elsewhere than before: that was a handoff. */
static void
note_handoff(SimWorker *worker, const SimVehicle *vehicle, const SimFix *fix, int from)
{
	count(worker, SIM_HANDOFFS);
	if (worker->output->events != NULL)
		fprintf(worker->output->events, "%s,%s,%lld,%.6f,%.6f,%s,%s\n",
				vehicle->id, vehicle->ride, fix->t, fix->lon, fix->lat,
				node_name(worker, from), node_name(worker, vehicle->node));
}

/* Count what became of a fix; the ones that the server took make the track. */
static void
note_outcome(SimWorker *worker, const SimVehicle *vehicle, const FixText *text,
			 const SimReply *reply)
{
	if (strcmp(reply->value[0], "implausible") == 0)
		count(worker, SIM_IMPLAUSIBLE);
	else if (strcmp(reply->value[0], "stale") == 0 && !reply->unknown)
		count(worker, SIM_STALE);
	else
	{
		count(worker, SIM_ACCEPTED);
		if (worker->output->tracks != NULL)
			fprintf(worker->output->tracks, "%s,%s,%s,%s\n",
					vehicle->id, text->t, text->lon, text->lat);
	}
}

static void
report_fix(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix,
		   const FixText *text)
{
	const char *values[4];
	SimReply	reply;
	int			from = vehicle->node;

	values[0] = vehicle->id;
	values[1] = text->lon;
	values[2] = text->lat;
	values[3] = text->t;
	if (call(worker, vehicle, SIM_FIX, values, true, &reply))
	{
		note_outcome(worker, vehicle, text, &reply);
		if (strcmp(reply.value[0], "moved") == 0)
		{
			int			to = sim_cluster_find(worker->cluster, reply.value[1]);

			sim_stats_add_latency(&worker->stats, reply.ms);
			if (to != SIM_NOWHERE)
				vehicle->node = to;
		}
	}
	else
		report_failure(worker, vehicle, "fix", &reply);

	if (vehicle->node != from)
		note_handoff(worker, vehicle, fix, from);
}

/* A status is only worth writing down when the server has confirmed it. */
static void
note_ride(SimWorker *worker, const char *ride, const char *status)
{
	if (worker->output->rides != NULL)
		fprintf(worker->output->rides, "%s,%s\n", ride, status);
}

static bool
set_status(SimWorker *worker, SimVehicle *vehicle, const char *status,
		   const FixText *text)
{
	const char *values[3];
	SimReply	reply;

	values[0] = vehicle->ride;
	values[1] = status;
	values[2] = text->t;
	if (!call(worker, vehicle, SIM_STATUS, values, true, &reply))
	{
		report_failure(worker, vehicle, status, &reply);
		note_ride(worker, vehicle->ride, "UNKNOWN");
		return false;
	}
	note_ride(worker, vehicle->ride, status);
	return true;
}

/*
 * Hand the vehicle off although it has not crossed by the crossing rule yet,
 * because it takes a ride in the next region.  Returns whether it is there.
 */
static bool
hand_off(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix, int target,
		 SimReply *reply)
{
	const char *values[2];
	int			from = vehicle->node;

	values[0] = vehicle->id;
	values[1] = node_name(worker, target);
	if (call(worker, vehicle, SIM_HANDOFF, values, true, reply))
		sim_stats_add_latency(&worker->stats, reply->ms);
	else if (strcmp(reply->sqlstate, "RF003") != 0) /* it is there already */
		return false;
	vehicle->node = target;
	note_handoff(worker, vehicle, fix, from);
	return true;
}

/*
 * Request a ride on the node that owns the place.  When the vehicle still lives
 * beside it, it is handed off first.
 */
static bool
request_ride(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix,
			 const char *const *values, SimReply *reply)
{
	bool		done = call(worker, vehicle, SIM_REQUEST, values, false, reply);

	if (!done && reply->verdict == SIM_ELSEWHERE &&
		hand_off(worker, vehicle, fix, reply->node, reply))
		done = call(worker, vehicle, SIM_REQUEST, values, false, reply);
	return done || (reply->unknown && strcmp(reply->sqlstate, "23505") == 0);
}

/* No ride came of it; say so, unless the place is nobody's business. */
static void
drop_ride(SimWorker *worker, const SimVehicle *vehicle, const char *ride,
		  const SimReply *reply)
{
	if (strcmp(reply->sqlstate, "RF019") == 0)
		count(worker, SIM_RIDES_OUTSIDE);
	else
		report_failure(worker, vehicle, "ride request", reply);
	if (reply->unknown)
		note_ride(worker, ride, "UNKNOWN");
}

/* A passenger got in: request a ride and bring it to IN_PROGRESS. */
static void
begin_ride(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix, const FixText *text)
{
	char		ride[SIM_RIDE_LEN];
	char		customer[SIM_NAME_LEN + 2];
	const char *values[6];
	SimReply	reply;

	snprintf(ride, sizeof(ride), "%s-%s", vehicle->id, text->t);
	snprintf(customer, sizeof(customer), "c-%s", vehicle->id);
	values[0] = ride;
	values[1] = customer;
	values[2] = text->lon;
	values[3] = text->lat;
	values[4] = vehicle->id;
	values[5] = text->t;
	if (!request_ride(worker, vehicle, fix, values, &reply))
	{
		drop_ride(worker, vehicle, ride, &reply);
		return;
	}
	snprintf(vehicle->ride, SIM_RIDE_LEN, "%s", ride);
	count(worker, SIM_RIDES_STARTED);
	note_ride(worker, ride, "PENDING");
	if (set_status(worker, vehicle, "EN_ROUTE", text) &&
		set_status(worker, vehicle, "ARRIVED", text))
		set_status(worker, vehicle, "IN_PROGRESS", text);
}

static void
end_ride(SimWorker *worker, SimVehicle *vehicle, const FixText *text)
{
	if (set_status(worker, vehicle, "COMPLETED", text))
		count(worker, SIM_RIDES_COMPLETED);
	vehicle->ride[0] = '\0';
}

/* Everything that one fix of the feed brings about. */
void
sim_vehicle_fix(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix)
{
	FixText		text;

	make_text(&text, fix);
	if (vehicle->node == SIM_NOWHERE && !register_vehicle(worker, vehicle, &text))
	{
		count(worker, SIM_FIXES);
		return;
	}
	report_fix(worker, vehicle, fix, &text);

	if (worker->with_rides && fix->occupied != vehicle->occupied)
	{
		if (fix->occupied)
			begin_ride(worker, vehicle, fix, &text);
		else if (vehicle->ride[0] != '\0')
			end_ride(worker, vehicle, &text);
	}
	vehicle->occupied = fix->occupied;
	count(worker, SIM_FIXES);
}
