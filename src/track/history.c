/*-------------------------------------------------------------------------
 *
 * history.c
 *	  The history of fixes, fleet.fix_history: written with each accepted fix.
 *
 * A fix is added here after the vehicle's row has been updated, in the same
 * transaction: both are there, or neither.  Only accepted fixes are added.  Each
 * is newer than the vehicle's last one, whose row is locked, so nothing is written
 * twice and nothing needs to be looked up before.
 *
 * The rows of a call are collected and written as COPY does, many at a time, by the
 * table's and the executor's own functions.  Rights are not asked about: who could update
 * the vehicle writes its history, and in no other way.  Triggers of the table do not
 * fire.
 *
 * An index entry is most of what a fix costs here.  Hash indexes take half the time of btrees,
 * whose descents and splits are all over an index that is far larger than the
 * caches.  But a hash bucket must not become long, so a vehicle's fixes are found by
 * slots, a hash of the vehicle and the hour.
 *
 * The table has a partition for each day (UTC), made ahead by
 * fleet.make_history_partitions(), and one for all other days; what is written
 * never makes one.  Only the partition is locked, not the table, so that days can be
 * added and dropped while fixes come:
 *
 *	1. Find the partition: the one kept from last time, or by the table's
 *	   partition descriptor, with a lock on the table that is released at once.
 *	2. Lock it.  The lock brings the news of what has been committed before.
 *	3. Where the table's partitions have changed by that news, begin anew.
 *
 * A day stops belonging to its partition only by who has locked that partition
 * exclusively: to detach or drop it, or, for the one of all other days, to attach a
 * partition of its own for that day.  So what was found to be right once it is
 * locked stays right until the end of the transaction.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/history.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "track/history.h"

/* Rows that are collected before they are written: some pages full. */
#define MAX_ROWS 500

#define MINUTES_PER_DAY 1440

/* Columns of fleet.fix_history. */
enum
{
	COLUMN_AT, COLUMN_EPOCH, COLUMN_LON, COLUMN_LAT, COLUMN_SPEED, COLUMN_HEADING,
	COLUMN_ACCURACY, COLUMN_STATUS, COLUMN_SLOT, COLUMN_VEHICLE, COLUMN_RIDE,
	COLUMNS
};

typedef struct Row
{
	Datum		values[COLUMNS];
	bool		isnull[COLUMNS];
} Row;

struct FleetHistory
{
	MemoryContext context;		/* of this itself */
	MemoryContext row_context;	/* of the rows' values; reset when they are written */
	int			nrow;
	int			room;
	Row		   *rows;
};

/* A partition, and which times are its own: from <= at < until. */
typedef struct Partition
{
	Oid			relid;			/* InvalidOid: not known */
	TimestampTz from;
	TimestampTz until;			/* = from where that is not said */
} Partition;

static int	retention = 7 * MINUTES_PER_DAY;

/* The partition that was written to last, and whether it may still be believed. */
static Partition last;
static Oid	table_relid = InvalidOid;
static uint64 changes = 0;		/* news of the table's partitions, counted */

void
fleet_track_history_init(void)
{
	DefineCustomIntVariable("fleet.history_retention",
							"How long fixes are kept in fleet.fix_history.",
							"Raise it where paths are asked for after that time; 0 = fixes are not kept at all.",
							&retention, 7 * MINUTES_PER_DAY, 0, 36500 * MINUTES_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

/* ---------- the partition ---------- */

static void
on_relation_inval(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != table_relid && relid != last.relid)
		return;
	changes++;
	last.relid = InvalidOid;
}

static Relation
open_table(void)
{
	Relation	table = table_openrv(makeRangeVar(pstrdup("fleet"), pstrdup("fix_history"), -1),
									 AccessShareLock);

	if (!OidIsValid(table_relid))
		CacheRegisterRelcacheCallback(on_relation_inval, (Datum) 0);
	table_relid = RelationGetRelid(table);
	return table;
}

/* Its times, where they have both bounds. */
static void
read_bounds(PartitionBoundInfo bounds, int offset, Partition *found)
{
	if (bounds->kind[offset][0] != PARTITION_RANGE_DATUM_VALUE ||
		bounds->kind[offset + 1][0] != PARTITION_RANGE_DATUM_VALUE)
		return;
	found->from = DatumGetTimestampTz(bounds->datums[offset][0]);
	found->until = DatumGetTimestampTz(bounds->datums[offset + 1][0]);
}

/* Find a moment's partition in the table's descriptor. */
static void
find_partition(TimestampTz at, Partition *found)
{
	Relation	table = open_table();
	PartitionDesc desc = RelationGetPartitionDesc(table, true);
	PartitionKey key = RelationGetPartitionKey(table);
	Datum		value = TimestampTzGetDatum(at);
	bool		is_equal;
	int			number = -1;

	memset(found, 0, sizeof(*found));
	if (desc->nparts > 0)
	{
		PartitionBoundInfo bounds = desc->boundinfo;
		int			offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
														   bounds, 1, &value, &is_equal);

		number = bounds->indexes[offset + 1];
		if (number >= 0)
			read_bounds(bounds, offset, found);
		else
			number = bounds->default_index;
	}
	if (number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("table \"fleet.fix_history\" has no partition for %s", timestamptz_to_str(at)),
				 errdetail("Its default partition has been dropped or detached."),
				 errhint("Run CREATE TABLE fleet.fix_history_default PARTITION OF fleet.fix_history DEFAULT.")));
	found->relid = desc->oids[number];
	table_close(table, AccessShareLock);
}

/* Open a moment's partition for writing, see the top of this file. */
static Relation
open_partition(TimestampTz at, Partition *partition)
{
	for (;;)
	{
		uint64		before = changes;
		Relation	rel;

		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(last.relid) && at >= last.from && at < last.until)
			*partition = last;
		else
			find_partition(at, partition);
		rel = try_table_open(partition->relid, RowExclusiveLock);
		if (rel != NULL && before == changes)
		{
			if (rel->rd_rel->relkind != RELKIND_RELATION)
				ereport(ERROR,
						(errcode(ERRCODE_WRONG_OBJECT_TYPE),
						 errmsg("partition \"%s\" of fleet.fix_history is not a table",
								RelationGetRelationName(rel))));
			last = *partition;
			return rel;
		}
		if (rel != NULL)
			table_close(rel, NoLock);
	}
}

/* ---------- writing ---------- */

static void
store_row(TupleTableSlot *slot, const Row *row)
{
	memcpy(slot->tts_values, row->values, sizeof(row->values));
	memcpy(slot->tts_isnull, row->isnull, sizeof(row->isnull));
	ExecStoreVirtualTuple(slot);
}

/* Insert rows, all of one partition. */
static void
insert_rows(Relation rel, const Row *rows, int n)
{
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot **slots = palloc(sizeof(TupleTableSlot *) * n);

	for (int i = 0; i < n; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
		store_row(slots[i], &rows[i]);
	}
	table_multi_insert(rel, slots, n, GetCurrentCommandId(true), 0, NULL);
	InitResultRelInfo(target, rel, 0, NULL, 0);
	ExecOpenIndices(target, false);
	for (int i = 0; i < n && target->ri_NumIndices > 0; i++)
	{
		fleet_compat_insert_index_tuples(target, slots[i], estate);
		ResetPerTupleExprContext(estate);
	}
	ExecCloseIndices(target);
	for (int i = 0; i < n; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
}

static TimestampTz
time_of(const Row *row)
{
	return DatumGetTimestampTz(row->values[COLUMN_AT]);
}

/* Write the rows from the first one on that are of the same partition; returns how many. */
static int
write_run(const Row *rows, int nrow)
{
	Partition	partition;
	Relation	rel = open_partition(time_of(rows), &partition);
	int			n = 1;

	if (RelationGetDescr(rel)->natts != COLUMNS)
		elog(ERROR, "partition \"%s\" of fleet.fix_history has %d columns, not %d",
			 RelationGetRelationName(rel), RelationGetDescr(rel)->natts, COLUMNS);
	while (n < nrow && time_of(&rows[n]) >= partition.from && time_of(&rows[n]) < partition.until)
		n++;
	insert_rows(rel, rows, n);
	table_close(rel, NoLock);
	return n;
}

static void
write_rows(FleetHistory *history)
{
	for (int done = 0; done < history->nrow;)
		done += write_run(history->rows + done, history->nrow - done);
	history->nrow = 0;
	MemoryContextReset(history->row_context);
}

/* ---------- the calls ---------- */

/*
 * Begin to write, in the current memory context.  NULL where no history is kept,
 * which the others take, too.
 */
FleetHistory *
fleet_track_history_begin(void)
{
	FleetHistory *history;

	if (retention == 0)
		return NULL;
	history = palloc0(sizeof(FleetHistory));
	history->context = CurrentMemoryContext;
	history->row_context = AllocSetContextCreate(CurrentMemoryContext, "fleet history",
												 ALLOCSET_SMALL_SIZES);
	return history;
}

/* Hours are numbered, in UTC. */
int64
fleet_track_history_hour(TimestampTz at)
{
	return at / USECS_PER_HOUR;
}

/* What the index finds a vehicle's fixes of an hour by; few others have the same. */
int32
fleet_track_history_slot(const char *vehicle, int64 hour)
{
	uint32		hash = hash_bytes((const unsigned char *) vehicle, strlen(vehicle));

	return (int32) hash_combine(hash, murmurhash32((uint32) hour));
}

/* A row of nulls. */
static Row *
new_row(FleetHistory *history)
{
	Row		   *row;

	if (history->nrow == MAX_ROWS)
		write_rows(history);
	if (history->nrow == history->room)
	{
		int			room = Min(Max(history->room * 4, 4), MAX_ROWS);
		MemoryContext old = MemoryContextSwitchTo(history->context);

		history->rows = history->rows ? repalloc(history->rows, sizeof(Row) * room) :
			palloc(sizeof(Row) * room);
		history->room = room;
		MemoryContextSwitchTo(old);
	}
	row = &history->rows[history->nrow++];
	memset(row->values, 0, sizeof(row->values));
	memset(row->isnull, true, sizeof(row->isnull));
	return row;
}

static void
set(Row *row, int column, Datum value)
{
	row->values[column] = value;
	row->isnull[column] = false;
}

static void
set_measure(Row *row, int column, double value)
{
	if (!isnan(value))
		set(row, column, Float4GetDatum((float4) value));
}

static Datum
status_value(const char *status)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									   PointerGetDatum("vehicle_status"),
									   ObjectIdGetDatum(get_namespace_oid("fleet", false)));
	Oid			value = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
										ObjectIdGetDatum(type), CStringGetDatum(status));

	if (!OidIsValid(value))
		elog(ERROR, "\"%s\" is no fleet.vehicle_status", status);
	return ObjectIdGetDatum(value);
}

/* Add a fix that was accepted: with the vehicle's open ride, or NULL, and the vehicle's epoch. */
void
fleet_track_history_add(FleetHistory *history, const FleetFix *fix, const char *ride_id,
						int64 epoch)
{
	MemoryContext old;
	Row		   *row;

	if (history == NULL)
		return;
	row = new_row(history);
	old = MemoryContextSwitchTo(history->row_context);
	set(row, COLUMN_AT, TimestampTzGetDatum(fix->at));
	set(row, COLUMN_EPOCH, Int32GetDatum((int32) Min(epoch, PG_INT32_MAX)));
	set(row, COLUMN_LON, Int32GetDatum((int32) rint(fix->lon * FLEET_HISTORY_UNITS)));
	set(row, COLUMN_LAT, Int32GetDatum((int32) rint(fix->lat * FLEET_HISTORY_UNITS)));
	set_measure(row, COLUMN_SPEED, fix->measured[FLEET_FIX_SPEED]);
	set_measure(row, COLUMN_HEADING, fix->measured[FLEET_FIX_HEADING]);
	set_measure(row, COLUMN_ACCURACY, fix->measured[FLEET_FIX_ACCURACY]);
	if (fix->status != NULL)
		set(row, COLUMN_STATUS, status_value(fix->status));
	set(row, COLUMN_SLOT, Int32GetDatum(fleet_track_history_slot(fix->vehicle,
																 fleet_track_history_hour(fix->at))));
	set(row, COLUMN_VEHICLE, CStringGetTextDatum(fix->vehicle));
	if (ride_id != NULL)
		set(row, COLUMN_RIDE, CStringGetTextDatum(ride_id));
	MemoryContextSwitchTo(old);
}

/* Write what is left.  The rows are visible to the next command. */
void
fleet_track_history_end(FleetHistory *history)
{
	if (history == NULL)
		return;
	write_rows(history);
	MemoryContextDelete(history->row_context);
	if (history->rows != NULL)
		pfree(history->rows);
	pfree(history);
}
