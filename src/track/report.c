/*-------------------------------------------------------------------------
 *
 * report.c
 *	  What becomes of position reports, one or many.
 *
 *	1. The fix is checked; what is no position is refused, and so is one that comes
 *	   too soon after the last (pace.c).
 *	2. The vehicle's row is locked.  A fix that is not newer than the row's is
 *	   stale and changes nothing, so a repeated report does no harm.
 *	3. The crossing rule (rules.c) says what it means for the region.
 *	4. The row, and the place of the vehicle's open ride, are updated; fences that the
 *	   vehicle has passed say so (fence.c), and the fix goes into the history (history.c).
 *	5. Where the vehicle has crossed, it is handed off with its open ride: by a
 *	   worker, soon (queue.c), or in the same transaction.
 *
 * A vehicle that is not here is looked for (handoff/route.c), and the node that
 * has it does 2 to 4.
 *
 * Many at once go through the same steps, sorted by vehicle and time.  So two
 * batches lock vehicles in the same order and do not wait for each other in a circle
 * (of pairs, see fence.c, both vehicles are locked; there they may), and no
 * fix is made stale by one that only came before it in the array.  They count as
 * having come at one time: where a vehicle goes is decided by its newest fix.
 *
 * One bad fix must not lose the others.  What is wrong with the fix itself is seen
 * in 1 and 2.  Anything else that raises an error (a constraint, a trigger, a
 * lock that is not to be had, a target that is full or down) undoes a
 * subtransaction with all of them, and each half is tried again by itself, until the
 * one is alone that cannot be taken.  Tokens of the limiter are not given back
 * then, so they are not taken again.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/report.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/durability.h"
#include "base/plan.h"
#include "handoff/handoff.h"
#include "region/locate.h"
#include "track/fence.h"
#include "track/history.h"
#include "track/limit.h"
#include "track/queue.h"
#include "track/report.h"
#include "track/rules.h"
#include "track/store.h"

/* Made where the vehicle is; a null outcome where this is itself done for another node. */
static FleetPlan elsewhere_plan = {
	"SELECT r->>'outcome', r->>'region', (r->>'epoch')::bigint FROM fleet.route('report_fix', $1, NULL, pg_catalog.jsonb_build_object("
	"'vehicle_id', $1, 'lon', $2, 'lat', $3, 'at', $4, 'speed_kmh', $5, 'heading', $6, 'accuracy_m', $7,"
	" 'battery_pct', $8, 'altitude_m', $9, 'status', $10)) AS r",
	FLEET_FIX_ARGS, {TEXTOID, FLOAT8OID, FLOAT8OID, TIMESTAMPTZOID, FLOAT8OID, FLOAT8OID,
		FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}
};

typedef enum FixDurability
{
	FIX_DURABLE,
	FIX_ASYNC
} FixDurability;

static const struct config_enum_entry durabilities[] = {
	{"durable", FIX_DURABLE, false},
	{"async", FIX_ASYNC, false},
	{NULL, 0, false}
};

static int	fix_durability = FIX_DURABLE;

/* What is done with some reports, as a whole or not at all. */
typedef void (*ReportWork) (const FleetRegionMap *map, FleetReport **reports, int n);

void
fleet_track_report_init(void)
{
	DefineCustomEnumVariable("fleet.fix_durability",
							 "Whether a fix is on disk before it is answered.",
							 "Set async where the last moments of positions may be lost in a crash; rides and handoffs never are.",
							 &fix_durability, FIX_DURABLE, durabilities,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Before anything is written. */
static void
begin_report(void)
{
	if (fix_durability == FIX_ASYNC)
		fleet_base_durability_relax();
}

static bool
is_same_vehicle(const FleetReport *a, const FleetReport *b)
{
	return strcmp(a->fix.vehicle, b->fix.vehicle) == 0;
}

/* ---------- here ---------- */

/* The fix's region, in the same copy of the map as the vehicle's. */
static const FleetRegion *
region_of_fix(const FleetRegionMap *map, const FleetFix *fix)
{
	const FleetRegion *region = fleet_region_at(fix->lon, fix->lat);

	return region ? fleet_region_find(map, region->name) : NULL;
}

/*
 * What is to be remembered of having been seen outside: in which region, and
 * since when.  A fix in no region says nothing new; one in yet another region
 * begins anew.
 */
static void
remember_outside(FleetFixVehicle *vehicle, const FleetRegion *own,
				 const FleetRegion *at_region, TimestampTz at)
{
	if (at_region == NULL || at_region == vehicle->outside)
		return;
	vehicle->outside = at_region == own ? NULL : at_region;
	vehicle->outside_since = at;
}

/* Steps 2 to 4, without the ride. */
static void
take(const FleetRegionMap *map, FleetStore *store, FleetReport *r)
{
	FleetFixVehicle vehicle = {0};
	const FleetRegion *at_region;
	FleetCrossing crossing;

	r->elsewhere = !fleet_track_store_lock(store, r->fix.vehicle, &vehicle);
	if (r->elsewhere)
		return;
	r->region = map->own->name;
	r->epoch = vehicle.epoch;
	if (!r->paced && (r->refusal = fleet_track_pace_take(r->fix.vehicle)) != NULL)
		return;
	r->paced = true;
	r->outcome = "stale";
	if (vehicle.has_fix && r->fix.at <= vehicle.fix_at)
		return;
	at_region = region_of_fix(map, &r->fix);
	crossing = fleet_track_cross_decide(map->own, at_region, &vehicle, &r->fix);
	r->outcome = "implausible";
	if (crossing == FLEET_CROSSING_IMPLAUSIBLE)
		return;
	remember_outside(&vehicle, map->own, at_region, r->fix.at);
	fleet_track_store_vehicle(store, &r->fix, &vehicle);
	fleet_track_fences_pass(store, map->own, &vehicle, &r->fix);
	r->outcome = "accepted";
	r->accepted = true;
	r->target = crossing == FLEET_CROSSING_CROSS ? at_region : NULL;
}

/*
 * A vehicle that comes again is to be read as it was written.  What is written is
 * one table at a time, so the rides come after all vehicles.
 */
static void
take_all(const FleetRegionMap *map, FleetReport **reports, int n)
{
	FleetStore *store = fleet_track_store_open(map);

	for (int i = 0; i < n; i++)
	{
		if (i > 0 && is_same_vehicle(reports[i - 1], reports[i]))
			fleet_track_store_flush(store);
		take(map, store, reports[i]);
	}
	fleet_track_store_flush(store);
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && is_same_vehicle(reports[i - 1], reports[i]))
			fleet_track_store_flush(store);
		if (reports[i]->accepted)
			reports[i]->ride = fleet_track_store_ride(store, &reports[i]->fix);
	}
	fleet_track_store_close(store);
}

static void
keep_all(FleetReport **reports, int n)
{
	FleetHistory *history = fleet_track_history_begin();

	for (int i = 0; i < n; i++)
		if (reports[i]->accepted)
			fleet_track_history_add(history, &reports[i]->fix, reports[i]->ride, reports[i]->epoch);
	fleet_track_history_end(history);
}

/* ---------- across the border ---------- */

/* Only the newest fix of each vehicle that was taken says where it is. */
static void
forget_overtaken(FleetReport **reports, int n)
{
	FleetReport *newer = NULL;

	for (int i = n - 1; i >= 0; i--)
	{
		if (!reports[i]->accepted)
			continue;
		if (newer != NULL && is_same_vehicle(newer, reports[i]))
			reports[i]->target = NULL;
		newer = reports[i];
	}
}

/* Leave to the worker what may be done soon. */
static void
queue_crossings(FleetReport **reports, int n)
{
	for (int i = 0; i < n; i++)
		if (reports[i]->target != NULL &&
			fleet_track_queue_add(reports[i]->fix.vehicle, reports[i]->epoch, reports[i]->target))
		{
			reports[i]->outcome = "queued";
			reports[i]->target = NULL;
		}
}

/* Hand off all vehicles that have crossed to a region, in one go. */
static void
hand_off_to(const FleetRegion *target, FleetReport **reports, int n)
{
	Datum	   *ids = palloc(sizeof(Datum) * n);
	int			nid = 0;

	for (int i = 0; i < n; i++)
		if (reports[i]->target == target)
			ids[nid++] = CStringGetTextDatum(reports[i]->fix.vehicle);
	if (nid == 0)
		return;
	(void) fleet_handoff_run(true, construct_array(ids, nid, TEXTOID, -1, false, TYPALIGN_INT),
							 target->name, 0);
	for (int i = 0; i < n; i++)
		if (reports[i]->target == target)
		{
			reports[i]->outcome = "moved";
			reports[i]->region = target->name;
			reports[i]->epoch++;
		}
}

/* Steps 2 to 5. */
static void
report_here(const FleetRegionMap *map, FleetReport **reports, int n)
{
	MemoryContext context = CurrentMemoryContext;

	SPI_connect();
	MemoryContextSwitchTo(context); /* what is said of them is read after SPI_finish() */
	take_all(map, reports, n);
	keep_all(reports, n);
	SPI_finish();
	forget_overtaken(reports, n);
	queue_crossings(reports, n);
	if (fleet_handoff_is_serving())	/* handing it off is for the node that asked */
	{
		for (int i = 0; i < n; i++)
			if (reports[i]->target != NULL)
			{
				reports[i]->outcome = "crossed";
				reports[i]->region = reports[i]->target->name;
			}
		return;
	}
	for (int i = 0; i < map->nregion; i++)
		hand_off_to(&map->regions[i], reports, n);
}

/* ---------- elsewhere ---------- */

/*
 * The vehicle is not here.  The region that has it takes the fix; where that says
 * that the vehicle has crossed a border it is for us to hand it off, whose
 * transaction it is.
 */
static void
report_elsewhere(const FleetRegionMap *map, FleetReport **reports, int n)
{
	FleetReport *r = reports[0];
	MemoryContext context = CurrentMemoryContext;
	Datum		values[FLEET_FIX_ARGS];
	char		nulls[FLEET_FIX_ARGS + 1] = "          ";
	char	   *outcome;
	char	   *region;

	Assert(n == 1);
	fleet_track_fix_values(&r->fix, values, nulls);
	SPI_connect();
	fleet_base_plan_execute(&elsewhere_plan, NULL, values, nulls);
	outcome = fleet_base_plan_text(0, 1);
	region = fleet_base_plan_text(0, 2);
	r->epoch = fleet_base_plan_int64(0, 3, NULL);
	r->outcome = outcome ? MemoryContextStrdup(context, outcome) : NULL;
	r->region = region ? MemoryContextStrdup(context, region) : NULL;
	SPI_finish();
	if (r->outcome != NULL && strcmp(r->outcome, "crossed") == 0)
	{
		r->target = fleet_region_require(fleet_region_map_member(), r->region);
		hand_off_to(r->target, reports, 1);
	}
}

/* ---------- one ---------- */

/*
 * Report one fix; what refuses it is raised.  Its outcome stays NULL where this is
 * done for another node, which is told that the vehicle is not here.
 */
void
fleet_track_report_one(FleetReport *report)
{
	const FleetRegionMap *map = fleet_region_map_member();

	begin_report();
	report->refusal = fleet_track_fix_check(&report->fix);
	if (report->refusal == NULL && map->own != NULL)
		report->refusal = fleet_track_pace_look(report->fix.vehicle);
	if (report->refusal == NULL && map->own != NULL)
		report_here(map, &report, 1);
	if (report->refusal != NULL)
		fleet_track_fix_raise(report->refusal);
	if (map->own == NULL || report->elsewhere)
		report_elsewhere(map, &report, 1);
}

/* ---------- many ---------- */

/* As they were before they were tried. */
static void
reset_reports(FleetReport **reports, int n)
{
	for (int i = 0; i < n; i++)
	{
		reports[i]->refusal = NULL;
		reports[i]->outcome = NULL;
		reports[i]->region = NULL;
		reports[i]->elsewhere = reports[i]->accepted = false;
		reports[i]->target = NULL;
		reports[i]->ride = NULL;
	}
}

/* A cancel is not about any of the fixes. */
static FleetFixRefusal *
refusal_of_error(void)
{
	ErrorData  *error = CopyErrorData();

	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		PG_RE_THROW();
	FlushErrorState();
	return fleet_track_fix_refusal(error->sqlerrcode, error->message, error->detail, error->hint);
}

/* Do it in a subtransaction.  Why it could not be done, or NULL. */
static FleetFixRefusal *
try_work(ReportWork work, const FleetRegionMap *map, FleetReport **reports, int n)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	FleetFixRefusal *volatile refusal = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(map, reports, n);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		refusal = refusal_of_error();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return refusal;
}

/* Do it with all that it can be done with. */
static void
work_on_each(ReportWork work, const FleetRegionMap *map, FleetReport **reports, int n)
{
	FleetFixRefusal *refusal;

	if (n == 0)
		return;
	CHECK_FOR_INTERRUPTS();
	refusal = try_work(work, map, reports, n);
	if (refusal == NULL)
		return;
	reset_reports(reports, n);
	if (n == 1)
	{
		reports[0]->refusal = refusal;
		return;
	}
	work_on_each(work, map, reports, n / 2);
	work_on_each(work, map, reports + n / 2, n - n / 2);
}

static int
compare_reports(const void *a, const void *b)
{
	const FleetReport *one = *(FleetReport *const *) a;
	const FleetReport *other = *(FleetReport *const *) b;
	int			order = strcmp(one->fix.vehicle, other->fix.vehicle);

	if (order == 0)
		order = (one->fix.at > other->fix.at) - (one->fix.at < other->fix.at);
	return order != 0 ? order : (one > other) - (one < other);
}

/* Those that may be taken, in the order in which they are worked on. */
static int
choose(const FleetRegionMap *map, FleetReport *reports, int n, FleetReport **chosen)
{
	int			nchosen = 0;

	for (int i = 0; i < n; i++)
	{
		FleetReport *r = &reports[i];

		r->refusal = fleet_track_fix_check(&r->fix);
		if (r->refusal == NULL && map->own != NULL)
			r->refusal = fleet_track_pace_look(r->fix.vehicle);
		if (r->refusal == NULL)
			chosen[nchosen++] = r;
	}
	qsort(chosen, nchosen, sizeof(FleetReport *), compare_reports);
	return nchosen;
}

/*
 * Report many fixes.  Each gets an outcome or a refusal; an error is about none of
 * them.
 */
void
fleet_track_report_many(FleetReport *reports, int n)
{
	const FleetRegionMap *map = fleet_region_map_member();
	FleetReport **chosen = palloc(sizeof(FleetReport *) * Max(n, 1));
	int			nchosen = choose(map, reports, n, chosen);

	begin_report();
	if (map->own != NULL)
		work_on_each(report_here, map, chosen, nchosen);
	for (int i = 0; i < nchosen; i++)
		if (chosen[i]->refusal == NULL && (map->own == NULL || chosen[i]->elsewhere))
			work_on_each(report_elsewhere, map, &chosen[i], 1);
	pfree(chosen);
}
