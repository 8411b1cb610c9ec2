/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  The triggers by which a replica's tables keep to the merge rule.
 *
 * fleet.merge, fleet.merge_departure and fleet.merge_heartbeat fire for what the
 * apply workers of logical replication write, fleet.refuse_replica_write for
 * everybody else.  The rule itself is in merge.c.
 *
 * A row that a worker cannot write ends it; started again it would fail on the
 * same row for ever.  So after an error the region's rows are merged carefully for
 * a while (fleet.merge_carefully): the trigger writes each row itself, in a
 * subtransaction, and one that fails is kept in fleet.dead_letters instead.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/trigger.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/worker_internal.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "remote/remote.h"
#include "replica/merge.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_replica_merge);
PG_FUNCTION_INFO_V1(fleet_replica_merge_departure);
PG_FUNCTION_INFO_V1(fleet_replica_merge_heartbeat);
PG_FUNCTION_INFO_V1(fleet_replica_refuse_write);

/* Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin. */
#define UNIX_EPOCH_OFFSET_US \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

static FleetPlan dead_letter_plan = {
	"INSERT INTO fleet.dead_letters (origin, region, reason_sqlstate, reason_message, change)"
	" VALUES ('replica', $1, $2, $3, pg_catalog.jsonb_build_object('kind', $4, 'key', $5,"
	" 'epoch', $6, 'hlc', $7, 'target', $8, 'image', $9))",
	9, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID, JSONBOID}
};

static FleetPlan published_plan = {
	"SELECT FROM fleet.replica_sources WHERE region = $1 AND publications = $2",
	2, {TEXTOID, TEXTOID}
};

/* Which region is it that this process applies the stream of? */
static const char *
applied_region(void)
{
	size_t		prefix = strlen(FLEET_SERVER_PREFIX);

	if (MySubscription == NULL ||
		strncmp(MySubscription->name, FLEET_SERVER_PREFIX, prefix) != 0)
		return "";
	return MySubscription->name + prefix;
}


static TriggerData *
trigger_data(FunctionCallInfo fcinfo, int nargs)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != nargs)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is a trigger of a fleet replica's own tables")));
	return trigger;
}

/* The row is to be inserted: the result is what the worker inserts, or NULL. */
static HeapTuple
merge_insert(FleetMergeKind *kind, Relation rel, HeapTuple tuple)
{
	FleetIncoming	in = fleet_replica_incoming(kind, tuple, rel, applied_region());
	FleetMergeResult result;
	FleetOpenTable open;
	bool		found;

	fleet_base_table_open(&kind->table, true, &open);
	found = fleet_replica_find(&open, &in);
	if (found)
	{
		result = fleet_replica_compare(&open, &in, tuple);
		if (result != FLEET_MERGE_STALE)
			fleet_replica_replace_row(&open, tuple);
	}
	else
		result = fleet_replica_is_buried(&in) ? FLEET_MERGE_STALE : FLEET_MERGE_APPLIED;
	fleet_base_table_close(&open);
	fleet_replica_count(in.from, result);
	return found || result == FLEET_MERGE_STALE ? NULL : tuple;
}

static HeapTuple
merge_update(FleetMergeKind *kind, Relation rel, HeapTuple old, HeapTuple new)
{
	FleetIncoming	in = fleet_replica_incoming(kind, new, rel, applied_region());
	FleetIncoming	here = fleet_replica_incoming(kind, old, rel, in.from);
	bool		newer = fleet_replica_is_newer(in.epoch, in.hlc, here.epoch, here.hlc);

	fleet_replica_count(in.from, newer ? FLEET_MERGE_APPLIED : FLEET_MERGE_STALE);
	return newer ? new : NULL;
}

/* ---------- carefully ---------- */

static void
keep_dead_letter(const FleetIncoming *in, const char *target, Jsonb *image, const ErrorData *error)
{
	Datum		values[9];
	char		nulls[] = "         ";

	values[0] = CStringGetTextDatum(in->from);
	values[1] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[2] = CStringGetTextDatum(error->message ? error->message : "");
	values[3] = CStringGetTextDatum(in->kind->name);
	values[4] = in->key;
	values[5] = Int64GetDatum(in->epoch);
	values[6] = Int64GetDatum((int64) in->hlc);
	nulls[7] = target == NULL ? 'n' : ' ';
	values[7] = target == NULL ? (Datum) 0 : CStringGetTextDatum(target);
	nulls[8] = image == NULL ? 'n' : ' ';
	values[8] = image == NULL ? (Datum) 0 : JsonbPGetDatum(image);
	SPI_connect();
	fleet_base_plan_execute(&dead_letter_plan, NULL, values, nulls);
	SPI_finish();
}

/*
 * Merge what an image describes, or bury the row where there is none, in a
 * subtransaction.  What fails is kept; cancel and terminate are not its fault.
 */
static FleetMergeResult
merge_carefully(const FleetIncoming *in, const char *target, Jsonb *image)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile FleetMergeResult result = FLEET_MERGE_STALE;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = image != NULL ? fleet_replica_merge_image(in, &image->root) :
			fleet_replica_bury(in);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		fleet_replica_forget_lock();
		keep_dead_letter(in, target, image, error);
		result = FLEET_MERGE_DEAD;
	}
	PG_END_TRY();
	return result;
}

static void
merge_row_carefully(FleetMergeKind *kind, Relation rel, HeapTuple tuple)
{
	FleetIncoming in = fleet_replica_incoming(kind, tuple, rel, applied_region());
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	char	   *region = TextDatumGetCString(fleet_replica_column(tuple, rel, kind->region));

	heap_deform_tuple(tuple, desc, values, isnull);
	fleet_replica_count(in.from, merge_carefully(&in, region,
												 fleet_wire_image(desc, NULL, values, isnull)));
}

/* ---------- the triggers ---------- */

/* fleet.merge(kind): before insert, update and delete of rides and vehicles */
Datum
fleet_replica_merge(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 1);
	bool		is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	result = NULL;
	FleetMergeKind	   *kind;

	if (fleet_replica_is_merging())
		return PointerGetDatum(is_update ? trigger->tg_newtuple : trigger->tg_trigtuple);
	kind = fleet_replica_kind(trigger->tg_trigger->tgargs[0]);
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		result = NULL;
	else if (fleet_replica_is_careful(applied_region()))
		merge_row_carefully(kind, trigger->tg_relation,
							is_update ? trigger->tg_newtuple : trigger->tg_trigtuple);
	else if (is_update)
		result = merge_update(kind, trigger->tg_relation, trigger->tg_trigtuple,
							  trigger->tg_newtuple);
	else
		result = merge_insert(kind, trigger->tg_relation, trigger->tg_trigtuple);
	return PointerGetDatum(result);
}

/* A column of a departure. */
static Datum
departure_column(TriggerData *trigger, const char *column, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	return heap_getattr(trigger->tg_trigtuple, fleet_base_table_column(desc, column) + 1,
						desc, isnull);
}

/* fleet.merge_departure(): before insert of departures; nothing is left to be inserted */
Datum
fleet_replica_merge_departure(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 0);
	FleetIncoming in = {.from = applied_region()};
	FleetMergeResult result;
	bool		is_grave;
	bool		no_image;
	bool		isnull;
	Datum		target;
	Datum		image;
	Jsonb	   *row;

	if (fleet_replica_is_merging())
		return PointerGetDatum(trigger->tg_trigtuple);
	in.kind = fleet_replica_kind(TextDatumGetCString(departure_column(trigger, "kind", &isnull)));
	in.key = departure_column(trigger, "key", &isnull);
	in.epoch = DatumGetInt64(departure_column(trigger, "epoch", &isnull));
	in.hlc = DatumGetFleetClockStamp(departure_column(trigger, "hlc", &isnull));
	target = departure_column(trigger, "target", &is_grave);
	image = departure_column(trigger, "image", &no_image);
	row = is_grave || no_image ? NULL : DatumGetJsonbP(image);
	in.departed = row != NULL;
	if (fleet_replica_is_careful(in.from))
		result = merge_carefully(&in, row != NULL ? TextDatumGetCString(target) : NULL, row);
	else if (row != NULL)
		result = fleet_replica_merge_image(&in, &row->root);
	else
		result = fleet_replica_bury(&in);
	fleet_replica_count(in.from, result);
	return PointerGetDatum(NULL);
}

/* Does the region publish what it did when its slot was made? */
static bool
is_published_as_known(Datum region, Datum publications)
{
	Datum		values[2] = {region, publications};
	bool		known;

	SPI_connect();
	known = fleet_base_plan_execute_as_of_now(&published_plan, values) > 0;
	SPI_finish();
	return known;
}

/* Up to which stamp is all of the region here, now that this heartbeat has come? */
static Datum
complete_upto(TriggerData *trigger, HeapTuple new, HeapTuple old)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	AttrNumber	hlc = fleet_base_table_column(desc, "hlc") + 1;
	int64		before = old == NULL ? 0 :
		DatumGetInt64(fleet_replica_column(old, trigger->tg_relation, hlc));
	int64		said = DatumGetInt64(fleet_replica_column(new, trigger->tg_relation, hlc));
	bool		no_region;
	bool		not_said;
	Datum		region = heap_getattr(new, fleet_base_table_column(desc, "region") + 1, desc, &no_region);
	Datum		publications = heap_getattr(new, fleet_base_table_column(desc, "publications") + 1,
											desc, &not_said);

	if (no_region || not_said || !is_published_as_known(region, publications))
		said = before;
	return Int64GetDatum(Max(said, before));
}

/*
 * fleet.merge_heartbeat(): before insert and update of heartbeats.  The region's
 * clock is met, and its watermark never goes back: what was complete is.  What is
 * published is not kept, or a heartbeat that does not say it would be taken for one
 * that says the same.
 */
Datum
fleet_replica_merge_heartbeat(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 0);
	bool		is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	new = is_update ? trigger->tg_newtuple : trigger->tg_trigtuple;
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	int			columns[3] = {fleet_base_table_column(desc, "lag_ms") + 1,
		fleet_base_table_column(desc, "hlc") + 1,
	fleet_base_table_column(desc, "publications") + 1};
	int			beat_column = fleet_base_table_column(desc, "beat") + 1;
	bool		isnull[3] = {false, false, true};
	uint64		beat = DatumGetFleetClockStamp(fleet_replica_column(new, trigger->tg_relation, beat_column));
	Datum		values[3] = {0};
	int64		sent_ms = (int64) fleet_clock_hlc_ms(beat);
	double		lag = (double) (GetCurrentTimestamp() + UNIX_EPOCH_OFFSET_US) / 1000.0 - (double) sent_ms;

	(void) fleet_clock_try_receive(beat);
	values[0] = Float8GetDatum(Max(lag, 0.0));
	values[1] = complete_upto(trigger, new, is_update ? trigger->tg_trigtuple : NULL);
	return PointerGetDatum(heap_modify_tuple_by_cols(new, desc, 3, columns, values, isnull));
}

/* fleet.refuse_replica_write(): before what a user writes by hand */
Datum
fleet_replica_refuse_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 0);

	if (fleet_replica_is_merging())
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_NOT_WRITABLE),
			 errmsg("cannot write to table \"%s\" of a replica",
					RelationGetRelationName(trigger->tg_relation)),
			 errdetail("This node only follows the regions."),
			 errhint("Connect to the node of the region that owns the row.")));
}
