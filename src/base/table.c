/*-------------------------------------------------------------------------
 *
 * table.c
 *	  Single rows of fleet's own tables, found and written without SQL.
 *
 * A handoff touches a handful of rows by their primary key.  To run a
 * statement for each costs several times what the row itself costs, so these
 * functions call the executor's own for one row, as the apply worker of
 * logical replication does: triggers, constraints, indexes and the partition's
 * bounds are all heeded.  Rights are not asked about: the caller has become
 * the owner (base/plan.h), for whom they would be.
 *
 * What is worth keeping from call to call is kept for each table: the input and
 * output functions of its columns, and its CHECK expressions, which the executor
 * would read and compile anew for every row.  An invalidation of the relation
 * has all of it read again; one of something that an expression uses (a function
 * that was replaced, say) is seen by the plan cache's own tracking.  What is
 * replaced may still be in use, further out in the same transaction (a user's
 * trigger may hand something off), so it goes when that transaction has ended.
 *
 * Rows written here are visible to what follows after CommandCounterIncrement(),
 * which fleet_base_table_close() does.  After an error nothing is to be done:
 * the end of the (sub)transaction closes all.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/table.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/heap.h"
#include "base/table.h"

static FleetTable *tables = NULL;
static FleetKept *retired = NULL;

/* ---------- what is kept ---------- */

static void
on_relation_inval(Datum arg, Oid relid)
{
	for (FleetTable *t = tables; t != NULL; t = t->next)
		if (relid == InvalidOid || relid == t->relid)
			t->relid = InvalidOid;
}

static bool
is_current(const FleetTable *table)
{
	if (!OidIsValid(table->relid))
		return false;
	for (int i = 0; i < table->kept->ncheck; i++)
		if (!table->kept->exprs[i]->is_valid)
			return false;
	return true;
}

/* Free what was replaced in transactions that have ended. */
static void
free_retired(void)
{
	FleetKept **link = &retired;

	while (*link != NULL)
	{
		FleetKept  *kept = *link;

		if (kept->retired == fleet_compat_lxid())
		{
			link = &kept->next;
			continue;
		}
		*link = kept->next;
		for (int i = 0; i < kept->ncheck; i++)
			FreeCachedExpression(kept->exprs[i]);
		MemoryContextDelete(kept->context);
	}
}

static void
retire(FleetTable *table)
{
	FleetKept  *kept = table->kept;

	table->relid = InvalidOid;
	table->kept = NULL;
	if (kept == NULL)
		return;
	kept->retired = fleet_compat_lxid();
	kept->next = retired;
	retired = kept;
}

static void
read_columns(FleetKept *kept, TupleDesc desc)
{
	kept->columns = palloc0(sizeof(FleetColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		FleetColumn *column = &kept->columns[i];
		Oid			function;
		bool		varlena;

		if (attr->attisdropped)
			continue;
		getTypeInputInfo(attr->atttypid, &function, &column->ioparam);
		fmgr_info_cxt(function, &column->in, kept->context);
		getTypeOutputInfo(attr->atttypid, &function, &varlena);
		fmgr_info_cxt(function, &column->out, kept->context);
	}
}

static void
add_check(FleetKept *kept, Node *expr)
{
	CachedExpression *cached = GetCachedExpression(expr);

	kept->exprs[kept->ncheck] = cached;
	kept->checks[kept->ncheck++] = ExecInitExpr((Expr *) cached->expr, NULL);
}

/* The table's CHECK expressions in their order, then the partition's bounds. */
static void
read_checks(FleetKept *kept, Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;
	int			n = constr != NULL ? constr->num_check : 0;

	kept->exprs = palloc0(sizeof(CachedExpression *) * (n + 1));
	kept->checks = palloc0(sizeof(ExprState *) * (n + 1));
	if (!fleet_compat_may_lend_checks(constr))
		n = 0;					/* the executor makes its own */
	for (int i = 0; i < n; i++)
		add_check(kept, stringToNode(constr->check[i].ccbin));
	if (rel->rd_rel->relispartition)
		add_check(kept, (Node *) make_ands_explicit(RelationGetPartitionQual(rel)));
}

static void
read_key(FleetKept *kept, Relation rel)
{
	Relation	index;

	if (!OidIsValid(fleet_compat_primary_key(rel)))
		return;
	index = index_open(fleet_compat_primary_key(rel), AccessShareLock);
	for (int i = 0; i < Min(index->rd_index->indnkeyatts, FLEET_TABLE_MAX_KEYS); i++)
		kept->key_columns[i] = index->rd_index->indkey.values[i];
	index_close(index, NoLock);
}

static FleetKept *
read_kept(Relation rel)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "fleet table",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	FleetKept  *kept = palloc0(sizeof(FleetKept));

	kept->context = context;
	read_columns(kept, RelationGetDescr(rel));
	read_checks(kept, rel);
	read_key(kept, rel);
	MemoryContextSwitchTo(old);
	return kept;
}

/* Hear of changes of the table. */
static void
enlist(FleetTable *table)
{
	if (tables == NULL)
		CacheRegisterRelcacheCallback(on_relation_inval, (Datum) 0);
	for (FleetTable *t = tables; t != NULL; t = t->next)
		if (t == table)
			return;
	table->next = tables;
	tables = table;
}

static Relation
open_anew(FleetTable *table, LOCKMODE lockmode)
{
	Relation	rel;

	enlist(table);
	free_retired();
	retire(table);
	rel = table_openrv(makeRangeVar(pstrdup("fleet"), pstrdup(table->name), -1), lockmode);
	table->kept = read_kept(rel);
	table->relid = RelationGetRelid(rel);
	return rel;
}

/* ---------- open and close ---------- */

/* Hand the kept expressions to the executor, which would make its own. */
static void
lend_checks(FleetOpenTable *open)
{
	int			n = open->kept->ncheck;

	if (n > 0 && open->rel->rd_rel->relispartition)
		open->target->ri_PartitionCheckExpr = open->kept->checks[--n];
	if (n > 0)
		fleet_compat_lend_checks(open->target, open->kept->checks);
}

/*
 * Open a table for work on single rows, in the current memory context.  Of tables that are open at the same time one is written at a time: it is
 * closed before another's first write.
 */
void
fleet_base_table_open(FleetTable *table, bool write, FleetOpenTable *open)
{
	LOCKMODE	lockmode = write ? RowExclusiveLock : AccessShareLock;

	open->rel = NULL;
	if (is_current(table))
	{
		open->rel = try_table_open(table->relid, lockmode);
		if (open->rel != NULL && !is_current(table))	/* as the lock came with news */
		{
			table_close(open->rel, NoLock);
			open->rel = NULL;
		}
	}
	if (open->rel == NULL)
		open->rel = open_anew(table, lockmode);
	open->kept = table->kept;
	open->estate = NULL;
	open->slot = table_slot_create(open->rel, NULL);
	open->changed = NULL;
	open->scan = NULL;
	open->lockmode = LockTupleExclusive;
}

static void
end_scan(FleetOpenTable *open)
{
	Relation	index;

	if (open->scan == NULL)
		return;
	index = open->scan->indexRelation;
	index_endscan(open->scan);
	index_close(index, NoLock);
	open->scan = NULL;
}

/*
 * Let go of the table.  What was written fires its after triggers and is
 * visible from now on.
 */
void
fleet_base_table_close(FleetOpenTable *open)
{
	ExecDropSingleTupleTableSlot(open->slot);
	if (open->changed != NULL)
		ExecDropSingleTupleTableSlot(open->changed);
	end_scan(open);
	if (open->estate != NULL)
	{
		AfterTriggerEndQuery(open->estate);
		EvalPlanQualEnd(&open->epq);
		ExecResetTupleTable(open->estate->es_tupleTable, false);
		ExecCloseResultRelations(open->estate);
		FreeExecutorState(open->estate);
		CommandCounterIncrement();
	}
	table_close(open->rel, NoLock);
}

/* ---------- find and lock ---------- */

/*
 * Begin a search for keys of type text.  One with the same index and snapshot is
 * likely to follow, so it is kept, and only given other keys then.
 */
static IndexScanDesc
begin_scan(FleetOpenTable *open, Oid relid, Snapshot snapshot, int nkey, const Datum *keys)
{
	ScanKeyData scankeys[FLEET_TABLE_MAX_KEYS];

	Assert(nkey <= FLEET_TABLE_MAX_KEYS);
	if (open->scan != NULL &&
		(RelationGetRelid(open->scan->indexRelation) != relid ||
		 open->scan->xs_snapshot != snapshot || open->scan->numberOfKeys != nkey))
		end_scan(open);
	if (open->scan == NULL)
		open->scan = fleet_compat_index_beginscan(open->rel, index_open(relid, AccessShareLock),
												  snapshot, nkey);
	for (int i = 0; i < nkey; i++)
		ScanKeyEntryInitialize(&scankeys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   open->scan->indexRelation->rd_indcollation[i], F_TEXTEQ, keys[i]);
	index_rescan(open->scan, scankeys, nkey, NULL, 0);
	return open->scan;
}

/* Let go of the pages: one that is pinned cannot be pruned. */
static void
rest_scan(FleetOpenTable *open)
{
	index_rescan(open->scan, open->scan->keyData, open->scan->numberOfKeys, NULL, 0);
}

/*
 * Find a row by its primary key, of text columns, as the snapshot shows it.
 * It is in the slot, no buffer is pinned.
 */
bool
fleet_base_table_find(FleetOpenTable *open, Snapshot snapshot, int nkey,
					  const Datum *keys)
{
	IndexScanDesc scan = begin_scan(open, fleet_compat_primary_key(open->rel), snapshot,
									nkey, keys);
	bool		found = fleet_base_heap_next(scan, open->slot);

	rest_scan(open);
	return found;
}

/*
 * Find and lock the newest version of a row by its primary key, whatever the
 * snapshots: who is writing it, or inserting it, is waited for.  It is in the
 * slot.
 */
bool
fleet_base_table_find_newest(FleetOpenTable *open, int nkey, const Datum *keys)
{
	TupleTableSlot *wanted = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsVirtual);
	bool		found;

	ExecStoreAllNullTuple(wanted);
	for (int i = 0; i < nkey; i++)
	{
		int			column = open->kept->key_columns[i] - 1;

		wanted->tts_values[column] = keys[i];
		wanted->tts_isnull[column] = false;
	}
	found = RelationFindReplTupleByIndex(open->rel, fleet_compat_primary_key(open->rel),
										 LockTupleExclusive, wanted, open->slot);
	if (found)
		ExecMaterializeSlot(open->slot);
	ExecDropSingleTupleTableSlot(wanted);
	return found;
}

/* All rows that the first column, of type text, of an index finds: a list of copies. */
List *
fleet_base_table_find_all(FleetOpenTable *open, Snapshot snapshot, const char *name,
						  Datum key)
{
	Oid			relid = get_relname_relid(name, RelationGetNamespace(open->rel));
	IndexScanDesc scan = begin_scan(open, relid, snapshot, 1, &key);
	List	   *rows = NIL;

	while (fleet_base_heap_next(scan, open->slot))
		rows = lappend(rows, ExecCopySlotHeapTuple(open->slot));
	ExecClearTuple(open->slot);
	rest_scan(open);
	return rows;
}

/* Put a copy of a row in the slot, as if it had just been found. */
void
fleet_base_table_take(FleetOpenTable *open, HeapTuple row)
{
	ExecForceStoreHeapTuple(row, open->slot, false);
	open->slot->tts_tid = row->t_self;
}

static TM_Result
lock(FleetOpenTable *open, Snapshot snapshot, LockWaitPolicy policy, bool newest)
{
	ItemPointerData tid = open->slot->tts_tid;
	TM_FailureData failure;

	return table_tuple_lock(open->rel, &tid, snapshot, open->slot,
							GetCurrentCommandId(false), open->lockmode, policy,
							newest ? TUPLE_LOCK_FLAG_FIND_LAST_VERSION : 0, &failure);
}

/*
 * Lock the row in the slot as SELECT FOR UPDATE does: wait for who has it, then
 * take its newest version, which replaces the one in the slot.  False where it
 * is gone by then.  Where newest is false, a row that the snapshot does not
 * show as it is now is an error.
 */
bool
fleet_base_table_lock(FleetOpenTable *open, Snapshot snapshot, bool newest)
{
	TM_Result	result = lock(open, snapshot, LockWaitBlock, newest);

	switch (result)
	{
		case TM_Ok:
			ExecMaterializeSlot(open->slot);
			return true;
		case TM_Updated:
		case TM_Deleted:
			if (!newest)
				ereport(ERROR,
						(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						 errmsg("could not serialize access due to concurrent update")));
			return false;
		case TM_SelfModified:
			return false;
		default:
			elog(ERROR, "unexpected result of table_tuple_lock: %d", result);
	}
}

/* The same for the newest version, without waiting: *busy where somebody has it. */
bool
fleet_base_table_try_lock(FleetOpenTable *open, Snapshot snapshot, bool *busy)
{
	TM_Result	result = lock(open, snapshot, LockWaitSkip, true);

	*busy = result == TM_WouldBlock;
	if (result == TM_Ok)
		ExecMaterializeSlot(open->slot);
	return result == TM_Ok;
}

/* ---------- columns ---------- */

/* The index of a column among all; it must exist. */
int
fleet_base_table_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped && strcmp(NameStr(attr->attname), name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("a table of fleet has no column \"%s\"", name),
			 errhint("Is the extension's script as new as its library? ALTER EXTENSION fleet UPDATE.")));
}

/* A column of the row in the slot. */
Datum
fleet_base_table_get(const FleetOpenTable *open, const char *column, bool *isnull)
{
	int			i = fleet_base_table_column(RelationGetDescr(open->rel), column);
	bool		null;
	Datum		value = slot_getattr(open->slot, i + 1, &null);

	if (isnull != NULL)
		*isnull = null;
	return null ? (Datum) 0 : value;
}

/* A value of a column (by its index) as text, palloc'd. */
char *
fleet_base_table_text(const FleetOpenTable *open, int column, Datum value)
{
	return OutputFunctionCall(&open->kept->columns[column].out, value);
}

/* A column of the row in the slot as text, palloc'd; NULL where it is null. */
char *
fleet_base_table_get_text(const FleetOpenTable *open, const char *column)
{
	int			i = fleet_base_table_column(RelationGetDescr(open->rel), column);
	bool		isnull;
	Datum		value = slot_getattr(open->slot, i + 1, &isnull);

	return isnull ? NULL : fleet_base_table_text(open, i, value);
}

/* Begin a new row in the slot, of nulls. */
void
fleet_base_table_clear(FleetOpenTable *open)
{
	TupleDesc	desc = RelationGetDescr(open->rel);

	ExecClearTuple(open->slot);
	memset(open->slot->tts_values, 0, sizeof(Datum) * desc->natts);
	memset(open->slot->tts_isnull, true, sizeof(bool) * desc->natts);
}

void
fleet_base_table_set(FleetOpenTable *open, const char *column, Datum value)
{
	int			i = fleet_base_table_column(RelationGetDescr(open->rel), column);

	open->slot->tts_values[i] = value;
	open->slot->tts_isnull[i] = false;
}

/* The same for a text column; NULL stays null. */
void
fleet_base_table_set_text(FleetOpenTable *open, const char *column, const char *value)
{
	if (value != NULL)
		fleet_base_table_set(open, column, CStringGetTextDatum(value));
}

/* The row that was put together in the slot, palloc'd; the slot is full then. */
HeapTuple
fleet_base_table_form(FleetOpenTable *open)
{
	ExecStoreVirtualTuple(open->slot);
	return ExecCopySlotHeapTuple(open->slot);
}

/* Begin a new row in the slot, of the values of another one. */
void
fleet_base_table_deform(FleetOpenTable *open, HeapTuple row)
{
	fleet_base_table_clear(open);
	heap_deform_tuple(row, RelationGetDescr(open->rel), open->slot->tts_values,
					  open->slot->tts_isnull);
}

/* The next number of a sequence of ours. */
Datum
fleet_base_table_next(const char *sequence)
{
	Oid			relid = get_relname_relid(sequence, get_namespace_oid("fleet", false));

	return Int64GetDatum(nextval_internal(relid, false));
}

/* ---------- write ---------- */

/* Before the first write. */
static void
prepare_to_write(FleetOpenTable *open)
{
	EState	   *estate = CreateExecutorState();

	estate->es_output_cid = GetCurrentCommandId(true);
	open->target = makeNode(ResultRelInfo);
	InitResultRelInfo(open->target, open->rel, 0, NULL, 0);
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, open->target);
	lend_checks(open);
	fleet_compat_epq_init(&open->epq, estate);
	open->estate = estate;
	open->indexed = false;
	AfterTriggerBeginQuery();
}

/* A trigger that swallows a row would lose a ride, or double it. */
static void
raise_swallowed(const FleetOpenTable *open, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger of table \"%s\" has suppressed the %s of a row",
					RelationGetRelationName(open->rel), what),
			 errdetail("A row that is handed off must leave one region and enter the other."),
			 errtable(open->rel)));
}

/* Insert the row that was put together in the slot. */
void
fleet_base_table_insert(FleetOpenTable *open)
{
	if (open->estate == NULL)
		prepare_to_write(open);
	if (!open->indexed)
		ExecOpenIndices(open->target, false);
	open->indexed = true;
	ExecStoreVirtualTuple(open->slot);
	ExecSimpleRelationInsert(open->target, open->estate, open->slot);
	if (!ItemPointerIsValid(&open->slot->tts_tid))
		raise_swallowed(open, "insert");
	ResetPerTupleExprContext(open->estate);
}

/*
 * Replace the row in the slot, which was found and, if others may write it,
 * locked, by another one of the same table.
 */
void
fleet_base_table_replace(FleetOpenTable *open, HeapTuple row)
{
	if (open->estate == NULL)
		prepare_to_write(open);
	if (!open->indexed)
		ExecOpenIndices(open->target, false);
	open->indexed = true;
	if (open->changed == NULL)
		open->changed = table_slot_create(open->rel, NULL);
	ExecForceStoreHeapTuple(row, open->changed, false);
	open->estate->es_snapshot = GetActiveSnapshot();
	ExecSimpleRelationUpdate(open->target, open->estate, &open->epq, open->slot, open->changed);
	ExecClearTuple(open->changed);
	ResetPerTupleExprContext(open->estate);
}

/* Change columns of such a row; numbers begin at 1. */
void
fleet_base_table_change(FleetOpenTable *open, int n, int *numbers, Datum *values, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	HeapTuple	old = ExecFetchSlotHeapTuple(open->slot, true, NULL);
	HeapTuple	new = heap_modify_tuple_by_cols(old, desc, n, numbers, values, isnull);

	fleet_base_table_replace(open, new);
	heap_freetuple(new);
}

/* The same for columns by their names. */
void
fleet_base_table_update(FleetOpenTable *open, int n, const char *const *columns,
						Datum *values, bool *isnull)
{
	int		   *numbers = palloc(sizeof(int) * n);

	for (int i = 0; i < n; i++)
		numbers[i] = fleet_base_table_column(RelationGetDescr(open->rel), columns[i]) + 1;
	fleet_base_table_change(open, n, numbers, values, isnull);
	pfree(numbers);
}

/* Delete the row in the slot, which was found and, if others may write it, locked. */
void
fleet_base_table_delete(FleetOpenTable *open)
{
	ItemPointerData tid = open->slot->tts_tid;

	if (open->estate == NULL)
		prepare_to_write(open);
	open->estate->es_snapshot = GetActiveSnapshot();
	ExecSimpleRelationDelete(open->target, open->estate, &open->epq, open->slot);
	if (table_tuple_fetch_row_version(open->rel, &tid, SnapshotSelf, open->slot))
		raise_swallowed(open, "delete");
	ResetPerTupleExprContext(open->estate);
}
