/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  The merge rule: what a replica makes of the rows that regions send.
 *
 * A ride's row comes to a replica by several ways, in no order that anybody
 * guarantees: its source's departure and its target's insert travel in two
 * streams, either of which may be hours behind.  What is applied is decided by
 * the version of the row alone, (epoch, HLC), the greater of which is the newer:
 *
 *	insert, update	newer than what is here: replaces it in place.  Not newer:
 *					dropped.  Nothing is here: inserted, unless a grave says
 *					that it was deleted at that epoch or later.
 *	departure		carries the row as it is at its target, so it is merged
 *					like an insert there.  It is not kept.
 *	grave			(a departure without target) removes what is not newer than
 *					itself, and is kept, or a late change could revive the row.
 *	delete			never removes anything: regions do not send it, since it is
 *					half of a departure or comes with a grave.
 *
 * All regions' rows are in one heap, so that a row that moves is updated where
 * it is: each snapshot sees it before or after, never twice and never not.
 *
 * The streams are applied by the workers of PostgreSQL's logical replication,
 * one for each region, and these functions are their tables' triggers.  Two
 * workers may meet in one row:
 *
 * - The row is here: it is found and locked by the newest version that anybody
 *	 has written (fleet_base_table_find_newest), so the second worker waits
 *	 for the first one's transaction and compares with what that has left.
 * - The row is not here: who inserts it first holds the lock of its key until the
 *	 row is in the index, where the other one finds it.  A worker that does not
 *	 get the lock at once looks for the row first, and waits for the lock
 *	 only if there is none: so whoever has inserted a row never waits for its key
 *	 again, and a worker that waits for another's transaction while it holds a
 *	 key's lock cannot be waited for by that one.  The worker inserts after our
 *	 trigger has returned, so the lock is kept until the next row comes,
 *	 or the transaction ends: one at a time, however large the transaction is.
 *
 * Rows that are copied (worker.c) go through the same rule, with one more right:
 * what the region itself has of a row that is its own is true, also where it is
 * older than what is here; then the region has lost it (it was restored).  That
 * is only so while no stream of the region is applied.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/merge.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_subscription.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/worker_internal.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/errcodes.h"
#include "base/table.h"
#include "clock/clock.h"
#include "remote/remote.h"
#include "replica/replica.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_replica_merge);
PG_FUNCTION_INFO_V1(fleet_replica_merge_departure);
PG_FUNCTION_INFO_V1(fleet_replica_merge_heartbeat);
PG_FUNCTION_INFO_V1(fleet_replica_refuse_write);
PG_FUNCTION_INFO_V1(fleet_replica_merge_rows);
PG_FUNCTION_INFO_V1(fleet_replica_forget_rows);

/* Field 4 of an advisory lock's tag; PostgreSQL's own are 1 and 2. */
#define KEY_LOCK_CLASS 7

/* Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin. */
#define UNIX_EPOCH_OFFSET_US \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Rides or vehicles, here. */
typedef struct Kind
{
	const char *name;
	const char *key_column;
	FleetTable	table;
	Oid			relid;			/* whose columns these are; or InvalidOid */
	AttrNumber	key;
	AttrNumber	region;
	AttrNumber	epoch;
	AttrNumber	hlc;
} Kind;

/* A row that comes. */
typedef struct Incoming
{
	Kind	   *kind;
	Datum		key;			/* text */
	int64		epoch;
	uint64		hlc;
	const char *from;			/* the region that sends it */
	bool		copied;			/* from the region's own table, whose stream rests */
} Incoming;

static Kind rides = {.name = "ride",.key_column = "ride_id",.table = {.name = "local_rides"}};
static Kind vehicles = {.name = "vehicle",.key_column = "vehicle_id",.table = {.name = "local_vehicles"}};
static FleetTable departures_table = {.name = "departures"};

static int	merging = 0;		/* rows are written by us */

/* The one key that is locked, and in which transaction. */
static LOCKTAG held;
static LocalTransactionId held_in = InvalidLocalTransactionId;

/* ---------- kinds and versions ---------- */

static Kind *
kind_of(const char *name)
{
	if (strcmp(name, "ride") == 0)
		return &rides;
	if (strcmp(name, "vehicle") == 0)
		return &vehicles;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("what is to be merged is neither a ride nor a vehicle")));
}

/* Where the columns are; a column of a table has its number for life. */
static void
find_columns(Kind *kind, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (kind->relid == RelationGetRelid(rel))
		return;
	kind->key = fleet_base_table_column(desc, kind->key_column) + 1;
	kind->region = fleet_base_table_column(desc, "region") + 1;
	kind->epoch = fleet_base_table_column(desc, "epoch") + 1;
	kind->hlc = fleet_base_table_column(desc, "hlc") + 1;
	kind->relid = RelationGetRelid(rel);
}

static Datum
column_of(HeapTuple tuple, Relation rel, AttrNumber column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a row that is merged has no key or version")));
	return value;
}

static Incoming
incoming_row(Kind *kind, HeapTuple tuple, Relation rel, const char *from)
{
	Incoming	in = {.kind = kind,.from = from};

	find_columns(kind, rel);
	in.key = column_of(tuple, rel, kind->key);
	in.epoch = DatumGetInt64(column_of(tuple, rel, kind->epoch));
	in.hlc = DatumGetFleetClockStamp(column_of(tuple, rel, kind->hlc));
	return in;
}

static bool
is_newer(int64 epoch, uint64 hlc, int64 than_epoch, uint64 than_hlc)
{
	return epoch != than_epoch ? epoch > than_epoch : hlc > than_hlc;
}

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

/* ---------- the lock of a key ---------- */

static LOCKTAG
key_tag(const Incoming *in)
{
	text	   *key = DatumGetTextPP(in->key);
	uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(key),
										   VARSIZE_ANY_EXHDR(key),
										   in->kind == &rides ? 1 : 2);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 KEY_LOCK_CLASS);
	return tag;
}

static void
unlock_key(void)
{
	if (held_in == fleet_compat_lxid())
		(void) LockRelease(&held, ExclusiveLock, false);
	held_in = InvalidLocalTransactionId;
}

static bool
lock_key(const Incoming *in, bool wait)
{
	LOCKTAG		tag = key_tag(in);

	unlock_key();
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	held = tag;
	held_in = fleet_compat_lxid();
	return true;
}

/*
 * Does a snapshot of this moment show the row?  The search for its newest version
 * does not look at one moment: while another worker updates the row, it can meet
 * the old version when that is no longer current, and be past the new one's place.
 */
static bool
is_shown(FleetOpenTable *open, const Incoming *in)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		shown = fleet_base_table_find(open, snapshot, 1, &in->key);

	UnregisterSnapshot(snapshot);
	return shown;
}

/*
 * The row of that key, locked and in the slot.  Where there is none its key is
 * locked, so that there will be none until unlock_key().
 */
static bool
find(FleetOpenTable *open, const Incoming *in)
{
	bool		locked = lock_key(in, false);
	bool		found = fleet_base_table_find_newest(open, 1, &in->key);

	if (!found && !locked)
	{
		(void) lock_key(in, true);
		found = fleet_base_table_find_newest(open, 1, &in->key);
	}
	while (!found && is_shown(open, in))
		found = fleet_base_table_find_newest(open, 1, &in->key);
	if (found)
		unlock_key();
	return found;
}

/* ---------- writing ---------- */

/* What is written by us passes the triggers; an error must end that, too. */
static void
write_row(FleetOpenTable *open, HeapTuple replacement, void (*write) (FleetOpenTable *open))
{
	merging++;
	PG_TRY();
	{
		if (replacement != NULL)
			fleet_base_table_replace(open, replacement);
		else
			write(open);
	}
	PG_FINALLY();
	{
		merging--;
	}
	PG_END_TRY();
}

static void
insert_row(FleetOpenTable *open)
{
	write_row(open, NULL, fleet_base_table_insert);
}

static void
delete_row(FleetOpenTable *open)
{
	write_row(open, NULL, fleet_base_table_delete);
}

static void
replace_row(FleetOpenTable *open, HeapTuple row)
{
	write_row(open, row, NULL);
}

static bool
find_grave(FleetOpenTable *departures, const Incoming *in)
{
	Datum		keys[2] = {CStringGetTextDatum(in->kind->name), in->key};

	return fleet_base_table_find_newest(departures, 2, keys);
}

static int64
epoch_in(const FleetOpenTable *open)
{
	return DatumGetInt64(fleet_base_table_get(open, "epoch", NULL));
}

static uint64
hlc_in(const FleetOpenTable *open)
{
	return DatumGetFleetClockStamp(fleet_base_table_get(open, "hlc", NULL));
}

/* Was the row deleted at its epoch or later?  An older grave is opened. */
static bool
is_buried(const Incoming *in)
{
	FleetOpenTable departures;
	bool		buried = false;

	fleet_base_table_open(&departures_table, true, &departures);
	if (find_grave(&departures, in))
	{
		buried = epoch_in(&departures) >= in->epoch;
		if (!buried)
			delete_row(&departures);
	}
	fleet_base_table_close(&departures);
	return buried;
}

/* What the region itself has now is true, where nobody but it can have changed the row. */
static bool
is_lost_there(const FleetOpenTable *open, const Incoming *in)
{
	return in->copied && epoch_in(open) == in->epoch && hlc_in(open) > in->hlc &&
		strcmp(fleet_base_table_get_text(open, "region"), in->from) == 0;
}

/* The row was found: does the one that comes replace it? */
static FleetMergeResult
compare(const FleetOpenTable *open, const Incoming *in, HeapTuple tuple)
{
	char	   *region;

	if (is_lost_there(open, in))
		return FLEET_MERGE_HEALED;
	if (!is_newer(in->epoch, in->hlc, epoch_in(open), hlc_in(open)))
		return FLEET_MERGE_STALE;
	region = TextDatumGetCString(column_of(tuple, open->rel, in->kind->region));
	return strcmp(region, fleet_base_table_get_text(open, "region")) == 0 ?
		FLEET_MERGE_APPLIED : FLEET_MERGE_MOVED;
}

/* Merge the row that an image describes into its table, which is open. */
static FleetMergeResult
merge_row(FleetOpenTable *open, const Incoming *in, JsonbContainer *image)
{
	FleetMergeResult result;
	HeapTuple	tuple;

	fleet_wire_read_image(open, image);
	tuple = fleet_base_table_form(open);
	find_columns(in->kind, open->rel);
	if (find(open, in))
	{
		result = compare(open, in, tuple);
		if (result != FLEET_MERGE_STALE)
			replace_row(open, tuple);
	}
	else if (is_buried(in))
		result = FLEET_MERGE_STALE;
	else
	{
		fleet_base_table_deform(open, tuple);
		insert_row(open);
		result = FLEET_MERGE_APPLIED;
	}
	unlock_key();
	return result;
}

/* ---------- graves ---------- */

/* Remove what a grave covers.  Where it covers nothing, because the row is newer, false. */
static bool
remove_buried(const Incoming *in)
{
	FleetOpenTable open;
	bool		covers = true;

	fleet_base_table_open(&in->kind->table, true, &open);
	if (find(&open, in))
	{
		covers = !is_newer(epoch_in(&open), hlc_in(&open), in->epoch, in->hlc);
		if (covers)
			delete_row(&open);
	}
	fleet_base_table_close(&open);
	return covers;
}

/* Keep the grave, unless there is a later one. */
static bool
dig(const Incoming *in)
{
	FleetOpenTable departures;
	bool		newer = true;

	fleet_base_table_open(&departures_table, true, &departures);
	if (find_grave(&departures, in))
	{
		newer = is_newer(in->epoch, in->hlc, epoch_in(&departures), hlc_in(&departures));
		if (newer)
			delete_row(&departures);
	}
	if (newer)
	{
		fleet_base_table_clear(&departures);
		fleet_base_table_set_text(&departures, "kind", in->kind->name);
		fleet_base_table_set(&departures, "key", in->key);
		fleet_base_table_set(&departures, "epoch", Int64GetDatum(in->epoch));
		fleet_base_table_set(&departures, "hlc", FleetClockStampGetDatum(in->hlc));
		fleet_base_table_set(&departures, "settled_hlc", FleetClockStampGetDatum(in->hlc));
		fleet_base_table_set(&departures, "departed_at",
							 TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()));
		insert_row(&departures);
	}
	fleet_base_table_close(&departures);
	return newer;
}

static FleetMergeResult
bury(const Incoming *in)
{
	bool		buried = remove_buried(in) && dig(in);

	unlock_key();
	return buried ? FLEET_MERGE_APPLIED : FLEET_MERGE_STALE;
}

/* ---------- the triggers ---------- */

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
merge_insert(Kind *kind, Relation rel, HeapTuple tuple)
{
	Incoming	in = incoming_row(kind, tuple, rel, applied_region());
	FleetMergeResult result;
	FleetOpenTable open;
	bool		found;

	fleet_base_table_open(&kind->table, true, &open);
	found = find(&open, &in);
	if (found)
	{
		result = compare(&open, &in, tuple);
		if (result != FLEET_MERGE_STALE)
			replace_row(&open, tuple);
	}
	else
		result = is_buried(&in) ? FLEET_MERGE_STALE : FLEET_MERGE_APPLIED;
	fleet_base_table_close(&open);
	fleet_replica_count(in.from, result);
	return found || result == FLEET_MERGE_STALE ? NULL : tuple;
}

static HeapTuple
merge_update(Kind *kind, Relation rel, HeapTuple old, HeapTuple new)
{
	Incoming	in = incoming_row(kind, new, rel, applied_region());
	Incoming	here = incoming_row(kind, old, rel, in.from);
	bool		newer = is_newer(in.epoch, in.hlc, here.epoch, here.hlc);

	fleet_replica_count(in.from, newer ? FLEET_MERGE_APPLIED : FLEET_MERGE_STALE);
	return newer ? new : NULL;
}

/* fleet.merge(kind): before insert, update and delete of rides and vehicles */
Datum
fleet_replica_merge(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 1);
	bool		is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	result = NULL;
	Kind	   *kind;

	if (merging > 0)
		return PointerGetDatum(is_update ? trigger->tg_newtuple : trigger->tg_trigtuple);
	kind = kind_of(trigger->tg_trigger->tgargs[0]);
	if (is_update)
		result = merge_update(kind, trigger->tg_relation, trigger->tg_trigtuple,
							  trigger->tg_newtuple);
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
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
	Incoming	in = {.from = applied_region()};
	FleetMergeResult result;
	bool		no_image;
	bool		isnull;
	Datum		image;

	if (merging > 0)
		return PointerGetDatum(trigger->tg_trigtuple);
	in.kind = kind_of(TextDatumGetCString(departure_column(trigger, "kind", &isnull)));
	in.key = departure_column(trigger, "key", &isnull);
	in.epoch = DatumGetInt64(departure_column(trigger, "epoch", &isnull));
	in.hlc = DatumGetFleetClockStamp(departure_column(trigger, "hlc", &isnull));
	(void) departure_column(trigger, "target", &isnull);
	image = departure_column(trigger, "image", &no_image);
	if (isnull || no_image)
		result = bury(&in);
	else
	{
		FleetOpenTable open;

		fleet_base_table_open(&in.kind->table, true, &open);
		result = merge_row(&open, &in, &DatumGetJsonbP(image)->root);
		fleet_base_table_close(&open);
	}
	fleet_replica_count(in.from, result);
	return PointerGetDatum(NULL);
}

/*
 * fleet.merge_heartbeat(): before insert and update of heartbeats.  The region's
 * clock is met, and its watermark never goes back: what was complete is.
 */
Datum
fleet_replica_merge_heartbeat(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 0);
	bool		is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	new = is_update ? trigger->tg_newtuple : trigger->tg_trigtuple;
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	int			columns[2] = {fleet_base_table_column(desc, "lag_ms") + 1,
	fleet_base_table_column(desc, "hlc") + 1};
	int			beat_column = fleet_base_table_column(desc, "beat") + 1;
	bool		isnull[2] = {false, false};
	uint64		beat = DatumGetFleetClockStamp(column_of(new, trigger->tg_relation, beat_column));
	Datum		values[2];
	int64		sent_ms = (int64) fleet_clock_hlc_ms(beat);
	double		lag = (double) (GetCurrentTimestamp() + UNIX_EPOCH_OFFSET_US) / 1000.0 - (double) sent_ms;

	(void) fleet_clock_try_receive(beat);
	values[0] = Float8GetDatum(Max(lag, 0.0));
	values[1] = column_of(new, trigger->tg_relation, columns[1]);
	if (is_update)
		values[1] = Int64GetDatum(Max(DatumGetInt64(values[1]),
									  DatumGetInt64(column_of(trigger->tg_trigtuple, trigger->tg_relation, columns[1]))));
	return PointerGetDatum(heap_modify_tuple_by_cols(new, desc, 2, columns, values, isnull));
}

/* fleet.refuse_replica_write(): before what a user writes by hand */
Datum
fleet_replica_refuse_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo, 0);

	if (merging > 0)
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_NOT_WRITABLE),
			 errmsg("cannot write to table \"%s\" of a replica",
					RelationGetRelationName(trigger->tg_relation)),
			 errdetail("This node only follows the regions."),
			 errhint("Connect to the node of the region that owns the row.")));
}

/* ---------- what is copied ---------- */

static const char *
require_text(JsonbContainer *object, const char *key)
{
	char	   *text = fleet_wire_get_text(object, key);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a row that is copied is malformed"),
				 errdetail("Its field \"%s\" is missing.", key)));
	return text;
}

static Incoming
incoming_object(JsonbContainer *object, const char *region)
{
	Incoming	in = {.from = region};

	in.kind = kind_of(require_text(object, "kind"));
	in.key = CStringGetTextDatum(require_text(object, "key"));
	in.epoch = fleet_wire_get_int64(object, "epoch");
	in.hlc = (uint64) fleet_wire_get_int64(object, "hlc");
	return in;
}

/* Call it for each object of an array; returns how many calls said so. */
static int
for_each(FunctionCallInfo fcinfo, FleetMergeResult (*merge) (JsonbContainer *object, const char *region))
{
	char	   *region = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *rows = PG_GETARG_JSONB_P(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "fleet merged row",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			changed = 0;

	for (uint32 i = 0; i < JsonContainerSize(&rows->root); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&rows->root, i);
		FleetMergeResult result;

		if (value == NULL || value->type != jbvBinary ||
			!JsonContainerIsObject(value->val.binary.data))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("what is copied is not an array of objects")));
		result = merge(value->val.binary.data, region);
		fleet_replica_count(region, result);
		if (result != FLEET_MERGE_STALE)
			changed++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return changed;
}

static FleetMergeResult
merge_object(JsonbContainer *object, const char *region)
{
	Incoming	in = incoming_object(object, region);
	char	   *target = fleet_wire_get_text(object, "target");
	FleetOpenTable open;
	FleetMergeResult result;

	if (target == NULL)
		return bury(&in);
	in.copied = strcmp(target, region) == 0;
	fleet_base_table_open(&in.kind->table, true, &open);
	result = merge_row(&open, &in, fleet_wire_get_object(object, "image"));
	fleet_base_table_close(&open);
	return result;
}

/* fleet.merge_rows(region, rows) -> how many changed something */
Datum
fleet_replica_merge_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(for_each(fcinfo, merge_object));
}

/* The region has nothing of the row, not even a departure: it was lost there. */
static FleetMergeResult
forget_object(JsonbContainer *object, const char *region)
{
	Incoming	in = incoming_object(object, region);
	FleetOpenTable open;
	FleetMergeResult result = FLEET_MERGE_STALE;

	fleet_base_table_open(&in.kind->table, true, &open);
	if (find(&open, &in) && epoch_in(&open) == in.epoch && hlc_in(&open) == in.hlc &&
		strcmp(fleet_base_table_get_text(&open, "region"), region) == 0)
	{
		delete_row(&open);
		result = FLEET_MERGE_HEALED;
	}
	fleet_base_table_close(&open);
	unlock_key();
	return result;
}

/* fleet.forget_rows(region, rows) -> how many were removed */
Datum
fleet_replica_forget_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(for_each(fcinfo, forget_object));
}

void
fleet_replica_init(void)
{
	fleet_replica_counters_init();
	fleet_replica_worker_init();
}
