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
 *					like an insert there, unless it is older than graves that were
 *					collected.  It is not kept.
 *	grave			(a departure without target) removes what is not newer than
 *					itself, or of its own region and epoch, and is kept, or a late change could revive the row,
 *					until none can come any more (graves.c).
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
 * An update whose row the worker does not find is dropped by it without a word.
 * That is right: the row was deleted at that epoch or later, or, where the worker
 * has just missed it (see is_shown), another one was writing a newer version, for
 * a region writes its rows only after the insert that brought them there.
 *
 * Rows that are copied (copy.c) go through the same rule, with one more right:
 * what the region itself has of a row that is its own is true, also where it is
 * older than what is here, or was deleted; then the region has lost that (it was restored).
 * So it is where it differs at the same version: somebody has changed it here, or had
 * the region send a part of it.  That is only so while no stream of the region is applied.
 *
 * Rows that are read again to put them right (fleet.reread_rows) come while it is
 * applied.  What was read may be late, so a row that is newer here stays.  But a version has one content:
 * at the same version what the region's own table has is true.
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
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "clock/clock.h"
#include "replica/merge.h"
#include "wire/image.h"

/* Field 4 of an advisory lock's tag; PostgreSQL's own are 1 and 2. */
#define KEY_LOCK_CLASS 7

static FleetMergeKind rides = {
	.name = "ride",.key_column = "ride_id",.table = {.name = "local_rides"}
};
static FleetMergeKind vehicles = {
	.name = "vehicle",.key_column = "vehicle_id",.table = {.name = "local_vehicles"}
};
static FleetTable departures_table = {.name = "departures"};

static int	merging = 0;		/* rows are written by us */

/* The one key that is locked, and in which transaction. */
static LOCKTAG held;
static LocalTransactionId held_in = InvalidLocalTransactionId;

/* ---------- kinds and versions ---------- */

FleetMergeKind *
fleet_replica_kind(const char *name)
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
find_columns(FleetMergeKind *kind, Relation rel)
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

Datum
fleet_replica_column(HeapTuple tuple, Relation rel, AttrNumber column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a row that is merged has no key or version")));
	return value;
}

FleetIncoming
fleet_replica_incoming(FleetMergeKind *kind, HeapTuple tuple, Relation rel, const char *from)
{
	FleetIncoming	in = {.kind = kind,.from = from};

	find_columns(kind, rel);
	in.key = fleet_replica_column(tuple, rel, kind->key);
	in.epoch = DatumGetInt64(fleet_replica_column(tuple, rel, kind->epoch));
	in.hlc = DatumGetFleetClockStamp(fleet_replica_column(tuple, rel, kind->hlc));
	return in;
}

bool
fleet_replica_is_newer(int64 epoch, uint64 hlc, int64 than_epoch, uint64 than_hlc)
{
	return epoch != than_epoch ? epoch > than_epoch : hlc > than_hlc;
}

/* ---------- the lock of a key ---------- */

static LOCKTAG
key_tag(const FleetIncoming *in)
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

void
fleet_replica_unlock_key(void)
{
	if (held_in == fleet_compat_lxid())
		(void) LockRelease(&held, ExclusiveLock, false);
	held_in = InvalidLocalTransactionId;
}

/* After an error: the lock went with the (sub)transaction. */
void
fleet_replica_forget_lock(void)
{
	held_in = InvalidLocalTransactionId;
}

static bool
lock_key(const FleetIncoming *in, bool wait)
{
	LOCKTAG		tag = key_tag(in);

	fleet_replica_unlock_key();
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
is_shown(FleetOpenTable *open, const FleetIncoming *in)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		shown = fleet_base_table_find(open, snapshot, 1, &in->key);

	UnregisterSnapshot(snapshot);
	return shown;
}

/*
 * The row of that key, locked and in the slot.  Where there is none its key is
 * locked, so that there will be none until fleet_replica_unlock_key().
 */
bool
fleet_replica_find(FleetOpenTable *open, const FleetIncoming *in)
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
		fleet_replica_unlock_key();
	return found;
}

/* ---------- writing ---------- */

bool
fleet_replica_is_merging(void)
{
	return merging > 0;
}

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

void
fleet_replica_replace_row(FleetOpenTable *open, HeapTuple row)
{
	write_row(open, row, NULL);
}

static bool
find_grave(FleetOpenTable *departures, const FleetIncoming *in)
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

/*
 * Was the row deleted at its epoch or later?  A grave that does not hold is
 * opened: an older one, and one that the row's own region has lost, if it has the
 * row (again) while its stream rests.
 */
bool
fleet_replica_is_buried(const FleetIncoming *in)
{
	FleetOpenTable departures;
	bool		buried = false;

	fleet_base_table_open(&departures_table, true, &departures);
	if (find_grave(&departures, in))
	{
		buried = epoch_in(&departures) >= in->epoch &&
			!(in->copied && epoch_in(&departures) == in->epoch);
		if (!buried)
			delete_row(&departures);
	}
	fleet_base_table_close(&departures);
	return buried;
}

/* A grave that nobody needs; the keys are its kind and key. */
void
fleet_replica_open_grave(const Datum *keys)
{
	FleetOpenTable departures;

	fleet_base_table_open(&departures_table, true, &departures);
	if (fleet_base_table_find_newest(&departures, 2, keys))
		delete_row(&departures);
	fleet_base_table_close(&departures);
}

static bool
is_same_value(Form_pg_attribute column, Datum a, Datum b)
{
	struct varlena *left;
	struct varlena *right;

	if (column->attlen != -1)
		return datumIsEqual(a, b, column->attbyval, column->attlen);
	left = PG_DETOAST_DATUM_PACKED(a);
	right = PG_DETOAST_DATUM_PACKED(b);
	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}

/* Has the row in the slot the same values, to the byte? */
static bool
is_same_row(const FleetOpenTable *open, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(open->rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		isnull[2];
		Datum		here;
		Datum		there;

		if (column->attisdropped)
			continue;
		here = slot_getattr(open->slot, i + 1, &isnull[0]);
		there = heap_getattr(tuple, i + 1, desc, &isnull[1]);
		if (isnull[0] != isnull[1] || (!isnull[0] && !is_same_value(column, here, there)))
			return false;
	}
	return true;
}

/* What the region itself has now is true, where nobody but it can have changed the row. */
static bool
is_wrong_here(const FleetOpenTable *open, const FleetIncoming *in, HeapTuple tuple)
{
	if (in->reread)
		return epoch_in(open) == in->epoch && hlc_in(open) == in->hlc && !is_same_row(open, tuple);
	if (!in->copied || epoch_in(open) != in->epoch || hlc_in(open) < in->hlc ||
		strcmp(fleet_base_table_get_text(open, "region"), in->from) != 0)
		return false;
	return hlc_in(open) > in->hlc || !is_same_row(open, tuple);
}

/* The row was found: does the one that comes replace it? */
FleetMergeResult
fleet_replica_compare(const FleetOpenTable *open, const FleetIncoming *in, HeapTuple tuple)
{
	char	   *region;

	if (is_wrong_here(open, in, tuple))
		return FLEET_MERGE_HEALED;
	if (!fleet_replica_is_newer(in->epoch, in->hlc, epoch_in(open), hlc_in(open)))
		return FLEET_MERGE_STALE;
	region = TextDatumGetCString(fleet_replica_column(tuple, open->rel, in->kind->region));
	return strcmp(region, fleet_base_table_get_text(open, "region")) == 0 ?
		FLEET_MERGE_APPLIED : FLEET_MERGE_MOVED;
}

/* ---------- rows ---------- */

/* Merge a row into its table. */
static FleetMergeResult
merge(FleetOpenTable *open, const FleetIncoming *in, HeapTuple tuple)
{
	FleetMergeResult result;

	find_columns(in->kind, open->rel);
	if (fleet_replica_find(open, in))
	{
		result = fleet_replica_compare(open, in, tuple);
		if (result != FLEET_MERGE_STALE)
			fleet_replica_replace_row(open, tuple);
	}
	else if (fleet_replica_is_buried(in) ||
			 (in->departed && fleet_replica_was_collected(in->hlc)))
		result = FLEET_MERGE_STALE;
	else
	{
		fleet_base_table_deform(open, tuple);
		insert_row(open);
		result = FLEET_MERGE_APPLIED;
	}
	fleet_replica_unlock_key();
	return result;
}

FleetMergeResult
fleet_replica_merge_tuple(const FleetIncoming *in, HeapTuple tuple)
{
	FleetOpenTable open;
	FleetMergeResult result;

	fleet_base_table_open(&in->kind->table, true, &open);
	result = merge(&open, in, tuple);
	fleet_base_table_close(&open);
	return result;
}

/* The same for a row that an image describes. */
FleetMergeResult
fleet_replica_merge_image(const FleetIncoming *in, JsonbContainer *image)
{
	FleetOpenTable open;
	FleetMergeResult result;

	fleet_base_table_open(&in->kind->table, true, &open);
	fleet_wire_read_image(&open, image);
	result = merge(&open, in, fleet_base_table_form(&open));
	fleet_base_table_close(&open);
	return result;
}

/* The region knows nothing of the row, not even a departure: it was lost there. */
FleetMergeResult
fleet_replica_forget(const FleetIncoming *in)
{
	FleetOpenTable open;
	FleetMergeResult result = FLEET_MERGE_STALE;

	fleet_base_table_open(&in->kind->table, true, &open);
	if (fleet_replica_find(&open, in) && epoch_in(&open) == in->epoch && hlc_in(&open) == in->hlc &&
		strcmp(fleet_base_table_get_text(&open, "region"), in->from) == 0)
	{
		delete_row(&open);
		result = FLEET_MERGE_HEALED;
	}
	fleet_base_table_close(&open);
	fleet_replica_unlock_key();
	return result;
}

/* ---------- graves ---------- */

/*
 * Is the row deleted?  A grave is the last word of its region on that epoch, also
 * where its stamp is older, because the region's server has started anew with a clock
 * behind.
 */
static bool
is_covered(const FleetOpenTable *open, const FleetIncoming *in)
{
	if (!fleet_replica_is_newer(epoch_in(open), hlc_in(open), in->epoch, in->hlc))
		return true;
	return epoch_in(open) == in->epoch &&
		strcmp(fleet_base_table_get_text(open, "region"), in->from) == 0;
}

/* Remove what a grave covers.  Where it covers nothing, because the row is newer, false. */
static bool
remove_buried(const FleetIncoming *in)
{
	FleetOpenTable open;
	bool		covers = true;

	fleet_base_table_open(&in->kind->table, true, &open);
	if (fleet_replica_find(&open, in))
	{
		covers = is_covered(&open, in);
		if (covers)
			delete_row(&open);
	}
	fleet_base_table_close(&open);
	return covers;
}

/* Keep the grave, unless there is a later one. */
static bool
dig(const FleetIncoming *in)
{
	FleetOpenTable departures;
	bool		newer = true;

	fleet_base_table_open(&departures_table, true, &departures);
	if (find_grave(&departures, in))
	{
		newer = fleet_replica_is_newer(in->epoch, in->hlc, epoch_in(&departures), hlc_in(&departures));
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

FleetMergeResult
fleet_replica_bury(const FleetIncoming *in)
{
	bool		buried = remove_buried(in) && dig(in);

	fleet_replica_unlock_key();
	return buried ? FLEET_MERGE_APPLIED : FLEET_MERGE_STALE;
}
