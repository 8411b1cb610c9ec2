/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  COPY fleet.fix_feed FROM: fixes in bulk.
 *
 * The view's triggers collect the rows and report them by the thousand
 * (report.c), the last ones when the statement ends.  A fix that is refused goes
 * to fleet.dead_letters with its reason, but for one that only came too soon after
 * the last; a NOTICE says how many there were.
 *
 * What is collected belongs to the (sub)transaction that began it, and goes with its
 * memory if that is undone.  A statement within the statement, in a
 * subtransaction of its own, begins a collection of its own; one in the same
 * subtransaction takes what is there along, which is only earlier than it would
 * have been.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/feed.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "region/map.h"
#include "track/report.h"

PG_FUNCTION_INFO_V1(fleet_track_feed);

#define BATCH			1000

typedef struct Feed
{
	MemoryContext context;		/* it is in here itself */
	MemoryContext rows;			/* of the present batch */
	int			level;			/* nesting of the subtransaction that began it */
	int			n;
	FleetReport reports[BATCH];
	Datum		given[BATCH];	/* the rows as they came */
	int64		taken;
	int64		refused;
	MemoryContextCallback gone;
	struct Feed *outer;
} Feed;

static Feed *feeds = NULL;

static FleetPlan letter_plan = {
	"INSERT INTO fleet.dead_letters (origin, region, reason_sqlstate, reason_message, change)"
	" VALUES ('fix_feed', $1, $2, $3, $4::json)", 4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

static void
forget_feed(void *feed)
{
	feeds = ((Feed *) feed)->outer;
}

static Feed *
current_feed(void)
{
	MemoryContext context;
	Feed	   *feed;

	if (feeds != NULL && feeds->level == GetCurrentTransactionNestLevel())
		return feeds;
	context = AllocSetContextCreate(CurTransactionContext, "fleet feed", ALLOCSET_DEFAULT_SIZES);
	feed = MemoryContextAllocZero(context, sizeof(Feed));
	feed->context = context;
	feed->rows = AllocSetContextCreate(context, "fleet feed rows", ALLOCSET_DEFAULT_SIZES);
	feed->level = GetCurrentTransactionNestLevel();
	feed->gone.func = forget_feed;
	feed->gone.arg = feed;
	feed->outer = feeds;
	MemoryContextRegisterResetCallback(context, &feed->gone);
	feeds = feed;
	return feed;
}

/* ---------- what was refused ---------- */

static void
keep_letter(const FleetReport *report, Datum row)
{
	const FleetRegion *own = fleet_region_map()->own;
	Datum		values[4];
	char		nulls[5] = "    ";

	nulls[0] = own == NULL ? 'n' : ' ';
	values[0] = own == NULL ? (Datum) 0 : CStringGetTextDatum(own->name);
	values[1] = CStringGetTextDatum(unpack_sql_state(report->refusal->sqlstate));
	values[2] = CStringGetTextDatum(report->refusal->message);
	values[3] = DirectFunctionCall1(row_to_json, row);
	fleet_base_plan_execute(&letter_plan, NULL, values, nulls);
}

/* Nobody but the owner writes dead letters; what is written here is what he would. */
static void
keep_letters(Feed *feed)
{
	FleetCaller caller;

	SPI_connect();
	fleet_base_become_owner(&caller);
	for (int i = 0; i < feed->n; i++)
	{
		const FleetFixRefusal *refusal = feed->reports[i].refusal;

		if (refusal != NULL && refusal->sqlstate != FLEET_ERRCODE_RATE_LIMITED)
			keep_letter(&feed->reports[i], feed->given[i]);
	}
	fleet_base_become_caller(&caller);
	SPI_finish();
}

/* ---------- the batches ---------- */

/* With a search_path of our own, which is not set anew for each row. */
static void
flush(Feed *feed)
{
	MemoryContext old = MemoryContextSwitchTo(feed->rows);
	int			nest = NewGUCNestLevel();
	int64		refused = 0;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	fleet_track_report_many(feed->reports, feed->n);
	for (int i = 0; i < feed->n; i++)
		refused += feed->reports[i].refusal != NULL;
	if (refused > 0)
		keep_letters(feed);
	feed->taken += feed->n - refused;
	feed->refused += refused;
	feed->n = 0;
	AtEOXact_GUC(true, nest);
	MemoryContextSwitchTo(old);
	MemoryContextReset(feed->rows);
}

/* A row: one more fix. */
static void
add(Feed *feed, HeapTuple row, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(feed->rows);
	FleetReport *report = &feed->reports[feed->n];
	Datum		values[FLEET_FIX_ARGS];
	bool		nulls[FLEET_FIX_ARGS];

	heap_deform_tuple(row, desc, values, nulls);
	memset(report, 0, sizeof(FleetReport));
	fleet_track_fix_read(&report->fix, values, nulls);
	feed->given[feed->n++] = heap_copy_tuple_as_datum(row, desc);
	MemoryContextSwitchTo(old);
	if (feed->n == BATCH)
		flush(feed);
}

/* The end of the statement. */
static void
finish(Feed *feed)
{
	if (feed->n > 0)
		flush(feed);
	if (feed->refused > 0)
		ereport(NOTICE,
				(errmsg("of " INT64_FORMAT " fixes " INT64_FORMAT " were refused",
						feed->taken + feed->refused, feed->refused),
				 errdetail("Table fleet.dead_letters says why, but for those that came too soon after another.")));
	MemoryContextDelete(feed->context);
}

/* Trigger of the view fleet.fix_feed: for each row instead of writing it, and after each INSERT. */
Datum
fleet_track_feed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetDescr(trigger->tg_relation)->natts != FLEET_FIX_ARGS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fleet.feed is a trigger of fleet's own view")));
	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("fixes can only be inserted into fleet.fix_feed"),
				 errhint("Change vehicles in fleet.vehicles.")));
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
	{
		finish(current_feed());
		return PointerGetDatum(NULL);
	}
	add(current_feed(), trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	return PointerGetDatum(trigger->tg_trigtuple);
}
