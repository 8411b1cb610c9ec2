/*-------------------------------------------------------------------------
 *
 * fence.c
 *	  Events of vehicles that pass fences.
 *
 * An accepted fix is a step from the place before to the new one.  Both are in the
 * vehicle's row, which goes with it to another region, and so what a step enters
 * and leaves needs no memory of its own: each step begins where the last one ended, on
 * whichever node that was.  All nodes have the same fences.
 *
 *	enter	the new place is in the fence, the one before was not, or is not known
 *	exit	the other way round
 *	cross	neither is, but the line between them meets the fence
 *	near	enter, of a place with a radius; and two vehicles of which one comes
 *			within a distance of where the other one was last seen
 *	dwell	in the fence, of whose fixes the first is so long ago
 *
 * Since when it dwells is the only thing that is remembered, in the column stays of
 * the vehicle's row, written where it enters and leaves a fence that asks for
 * it.  Being part of the row, it goes where the vehicle goes.
 *
 * Two vehicles of a pair may report at the same time.  Each would see the other
 * where it was before, and that they have met be seen by neither; so a
 * lock of the pair is taken before the other's row is read, as of then.
 *
 * Events are rows of fleet.fence_events, written in the transaction of the fix.  They
 * are told by NOTIFY too, but where the fix is part of another node's
 * transaction: that is prepared here, where NOTIFY is an error.
 *
 * Who may report a fix need not be allowed to write events, so all of it runs as
 * the owner.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fence.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/plan.h"
#include "commit/commit.h"
#include "geo/haversine.h"
#include "handoff/handoff.h"
#include "handoff/move.h"
#include "track/fence.h"

#define TOLD "told"

static int	event_retention = 7 * 86400;

/* One accepted fix. */
typedef struct Pass
{
	FleetStore *store;
	const FleetFenceSet *set;
	const FleetRegion *own;
	const FleetFixVehicle *before;
	const FleetFix *fix;
	FleetGeoPoint from;
	FleetGeoPoint to;
	bool		connected;		/* to SPI, as the owner */
	FleetCaller caller;
} Pass;

static FleetPlan event_plan = {
	"INSERT INTO fleet.fence_events AS e (kind, fence, vehicle_id, other_id, region, location, at, epoch, hlc)"
	" SELECT $1, $2, v.vehicle_id, $4, v.region, fleet.make_point($5, $6), $7, v.epoch, v.hlc"
	" FROM fleet.local_vehicles AS v WHERE v.vehicle_id = $3 AND ($8 IS NULL OR v.status = $8::fleet.vehicle_status)"
	" RETURNING CASE WHEN $9 IS NOT NULL THEN pg_catalog.pg_notify($9, fleet.fence_event_json(e)) END",
	9, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID}
};
static FleetPlan stay_plan = {
	"SELECT stays->>$2 FROM fleet.local_vehicles WHERE vehicle_id = $1", 2, {TEXTOID, TEXTOID}
};

/* Fences that are gone are forgotten. */
static FleetPlan begin_stay_plan = {
	"UPDATE fleet.local_vehicles AS v SET stays = COALESCE((SELECT pg_catalog.jsonb_object_agg(s.key, s.value)"
	" FROM pg_catalog.jsonb_each(v.stays) AS s WHERE EXISTS (SELECT FROM fleet.fences AS f WHERE f.id::text = s.key)), '{}')"
	" || pg_catalog.jsonb_build_object($2, $3) WHERE v.vehicle_id = $1",
	3, {TEXTOID, TEXTOID, TEXTOID}
};
static FleetPlan end_stay_plan = {
	"UPDATE fleet.local_vehicles SET stays = NULLIF(stays - $2, '{}') WHERE vehicle_id = $1 AND stays ? $2",
	2, {TEXTOID, TEXTOID}
};
static FleetPlan lock_plan = {
	"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('fleet fence ' || $1, 0))", 1, {TEXTOID}
};
static FleetPlan other_plan = {
	"SELECT fleet.lon(location), fleet.lat(location) FROM fleet.local_vehicles"
	" WHERE vehicle_id = $1 AND location IS NOT NULL",
	1, {TEXTOID}
};

void
fleet_track_fence_init(void)
{
	DefineCustomIntVariable("fleet.fence_event_retention",
							"How long fleet.drop_fence_events() keeps events of fences.",
							"Lower it where the table grows too large, raise it where readers may be behind for longer; 0 keeps them for ever.",
							&event_retention, 7 * 86400, 0, 10 * 366 * 86400,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

/* ---------- writing ---------- */

/* What was stored is flushed only where something is to be written or looked up. */
static void
connect_once(Pass *pass)
{
	if (pass->connected)
		return;
	fleet_track_store_flush(pass->store);
	fleet_base_become_owner(&pass->caller);
	SPI_connect();
	pass->connected = true;
}

/* False where the fence is about vehicles of another status. */
static bool
write_event(Pass *pass, const FleetFence *fence, const char *kind, const char *other)
{
	const char *channel = fleet_handoff_is_serving() ? NULL : fence->channel;
	Datum		values[9];
	char		nulls[10] = "         ";

	connect_once(pass);
	values[0] = CStringGetTextDatum(kind);
	values[1] = CStringGetTextDatum(fence->name);
	values[2] = CStringGetTextDatum(pass->fix->vehicle);
	values[3] = CStringGetTextDatum(other != NULL ? other : "");
	nulls[3] = other != NULL ? ' ' : 'n';
	values[4] = Float8GetDatum(pass->fix->lon);
	values[5] = Float8GetDatum(pass->fix->lat);
	values[6] = TimestampTzGetDatum(pass->fix->at);
	values[7] = CStringGetTextDatum(fence->status != NULL ? fence->status : "");
	nulls[7] = fence->status != NULL ? ' ' : 'n';
	values[8] = CStringGetTextDatum(channel != NULL ? channel : "");
	nulls[8] = channel != NULL ? ' ' : 'n';
	return fleet_base_plan_execute(&event_plan, NULL, values, nulls) > 0;
}

/* ---------- dwelling ---------- */

static void
write_stay(Pass *pass, FleetPlan *plan, const FleetFence *fence, const char *since)
{
	Datum		values[3];

	connect_once(pass);
	values[0] = CStringGetTextDatum(pass->fix->vehicle);
	values[1] = CStringGetTextDatum(fence->id);
	values[2] = CStringGetTextDatum(since);
	fleet_base_plan_execute(plan, NULL, values, NULL);
}

/* In microseconds, as a timestamptz is kept. */
static char *
as_since(TimestampTz at)
{
	return psprintf(INT64_FORMAT, at);
}

/* It was in the fence, and is. */
static void
go_on_staying(Pass *pass, const FleetFence *fence)
{
	const FleetFixVehicle *before = pass->before;
	Datum		values[2];
	const char *since = NULL;

	connect_once(pass);
	values[0] = CStringGetTextDatum(pass->fix->vehicle);
	values[1] = CStringGetTextDatum(fence->id);
	if (fleet_base_plan_execute(&stay_plan, NULL, values, NULL) > 0)
		since = fleet_base_plan_text(0, 1);
	if (since != NULL && strcmp(since, TOLD) == 0)
		return;

	/* Here already when the fence was made: at least since the fix before. */
	if (since == NULL)
		write_stay(pass, &begin_stay_plan, fence,
				   since = as_since(before->has_fix ? before->fix_at : pass->fix->at));
	if (pass->fix->at - strtoi64(since, NULL, 10) >= fence->dwell_s * USECS_PER_SEC &&
		write_event(pass, fence, "dwell", NULL))
		write_stay(pass, &begin_stay_plan, fence, TOLD);
}

static void
dwell(Pass *pass, const FleetFence *fence, bool was, bool is)
{
	if (was && is)
		go_on_staying(pass, fence);
	else if (is)
		write_stay(pass, &begin_stay_plan, fence, as_since(pass->fix->at));
	else if (was)
		write_stay(pass, &end_stay_plan, fence, "");
}

/* ---------- areas and places ---------- */

static void
pass_fence(void *ctx, int item, bool was, bool is)
{
	Pass	   *pass = ctx;
	const FleetFence *fence = &pass->set->fences[item];

	if (fence->events & FLEET_FENCE_DWELL)
		dwell(pass, fence, was, is);
	if (is && !was && (fence->events & FLEET_FENCE_ENTER))
		write_event(pass, fence, "enter", NULL);
	if (is && !was && (fence->events & FLEET_FENCE_NEAR))
		write_event(pass, fence, "near", NULL);
	if (was && !is && (fence->events & FLEET_FENCE_EXIT))
		write_event(pass, fence, "exit", NULL);
	if (!was && !is && pass->before->has_place && (fence->events & FLEET_FENCE_CROSS) &&
		fleet_geo_fences_passes(pass->set->shapes, item, pass->from, pass->to))
		write_event(pass, fence, "cross", NULL);
}

/* ---------- pairs ---------- */

static void
lock_pair(void *arg)
{
	Datum		value = CStringGetTextDatum(((const FleetFence *) arg)->id);

	fleet_base_plan_execute(&lock_plan, NULL, &value, NULL);
}

static double
metres_to(FleetGeoPoint p, double lon, double lat)
{
	return fleet_geo_haversine(p.x, p.y, lon, lat);
}

/* The other one counts only where it is here. */
static void
meet(Pass *pass, const FleetFencePair *pair)
{
	const FleetFence *fence = pair->fence;
	Datum		value = CStringGetTextDatum(pair->other);
	bool		isnull;
	double		lon;
	double		lat;

	connect_once(pass);
	fleet_handoff_with_lock_timeout(fleet_commit_lock_timeout, pass->own->name,
									psprintf("pair \"%s\"", fence->name), lock_pair, (void *) fence);
	if (fleet_base_plan_execute_as_of_now(&other_plan, &value) == 0)
		return;
	lon = DatumGetFloat8(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	lat = DatumGetFloat8(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	if (metres_to(pass->to, lon, lat) <= fence->within_m &&
		!(pass->before->has_place && metres_to(pass->from, lon, lat) <= fence->within_m))
		write_event(pass, fence, "near", pair->other);
}

/* The pairs of the fix's vehicle. */
static void
meet_others(Pass *pass)
{
	const FleetFenceSet *set = pass->set;
	int			low = 0;
	int			high = set->npair;

	while (low < high)
	{
		int			mid = low + (high - low) / 2;

		if (strcmp(set->pairs[mid].vehicle, pass->fix->vehicle) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < set->npair && strcmp(set->pairs[low].vehicle, pass->fix->vehicle) == 0; low++)
		meet(pass, &set->pairs[low]);
}

/* ---------- */

/*
 * A fix was accepted and is stored: have its events follow.  It is within an SPI
 * connection that the row was stored.
 */
void
fleet_track_fences_pass(FleetStore *store, const FleetRegion *own,
						const FleetFixVehicle *before, const FleetFix *fix)
{
	Pass		pass = {.store = store,.set = fleet_track_fence_set(),.own = own,.before = before,.fix = fix,
	.from = {before->lon, before->lat},.to = {fix->lon, fix->lat}};

	if (pass.set->nfence > 0)
		fleet_geo_fences_step(pass.set->shapes, before->has_place ? &pass.from : NULL, pass.to,
							  pass_fence, &pass);
	if (pass.set->npair > 0)
		meet_others(&pass);
	if (pass.connected)
	{
		SPI_finish();
		fleet_base_become_caller(&pass.caller);
	}
}
