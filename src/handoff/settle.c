/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  Write down that all participants of transactions have committed.
 *
 * The resolver calls this for thousands of transactions at once, so nothing
 * here is left to a planner, which knows these tables by old statistics only.
 *
 * Nothing here waits for a lock.  The departure of a ride that is just coming
 * back is held by the transaction that brings it, which may be prepared, and in
 * doubt: only the resolver could end it, and the resolver is who called.  Such
 * transactions are handed back, with nothing of them changed, to be settled
 * another time.  A departure that is gone by now, because its ride has come back,
 * needs no settling.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/settle.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/plan.h"
#include "clock/clock.h"
#include "handoff/move.h"

PG_FUNCTION_INFO_V1(fleet_handoff_settle);

/*
 * Find and lock the rows of a transaction.  False where somebody has one of them;
 * else a list of copies.
 */
static bool
lock_rows(FleetOpenTable *open, Snapshot snapshot, const char *index, Datum dtxid,
		  List **rows)
{
	ListCell   *cell;
	bool		busy = false;

	*rows = NIL;
	foreach(cell, fleet_base_table_find_all(open, snapshot, index, dtxid))
	{
		fleet_base_table_take(open, lfirst(cell));
		if (fleet_base_table_try_lock(open, snapshot, &busy))
			*rows = lappend(*rows, ExecCopySlotHeapTuple(open->slot));
		else if (busy)
			return false;
	}
	return true;
}

static void
settle_departures(FleetOpenTable *departures, List *rows, Datum hlc)
{
	static const char *const columns[] = {"settled_hlc"};
	bool		isnull = false;
	ListCell   *cell;

	foreach(cell, rows)
	{
		bool		open;

		fleet_base_table_take(departures, lfirst(cell));
		(void) fleet_base_table_get(departures, "settled_hlc", &open);
		if (open)
			fleet_base_table_update(departures, 1, columns, &hlc, &isnull);
	}
}

static void
settle_log(FleetOpenTable *log, List *rows, float8 latency_ms)
{
	static const char *const columns[] = {"status", "latency_ms"};
	Datum		values[2] = {CStringGetTextDatum("settled"), Float8GetDatum(latency_ms)};
	bool		isnull[2] = {false, latency_ms < 0};
	ListCell   *cell;

	foreach(cell, rows)
	{
		fleet_base_table_take(log, lfirst(cell));
		if (strcmp(fleet_base_table_get_text(log, "status"), "departed") == 0)
			fleet_base_table_update(log, 2, columns, values, isnull);
	}
}

/* The elements of an array without nulls; there must be n, or any number if n < 0. */
static Datum *
elements(ArrayType *array, Oid type, int len, bool byval, char align, int *n)
{
	Datum	   *elems;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, type, len, byval, align, &elems, &nulls, &count);
	if (*n >= 0 && count != *n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("the arrays must have the same number of elements")));
	for (int i = 0; i < count; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the arrays must not contain nulls")));
	*n = count;
	return elems;
}

/*
 * fleet.settle(dtxids text[], hlcs bigint[], latencies_ms float8[]) -> text[], the
 * transactions that somebody is in the way of.
 */
Datum
fleet_handoff_settle(PG_FUNCTION_ARGS)
{
	int			n = -1;
	Datum	   *dtxids = elements(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &n);
	Datum	   *hlcs = elements(PG_GETARG_ARRAYTYPE_P(1), INT8OID, 8, FLOAT8PASSBYVAL,
								TYPALIGN_DOUBLE, &n);
	Datum	   *latencies = elements(PG_GETARG_ARRAYTYPE_P(2), FLOAT8OID, 8, FLOAT8PASSBYVAL,
									 TYPALIGN_DOUBLE, &n);
	Snapshot	snapshot = fleet_handoff_snapshot();
	Datum	   *busy = palloc(sizeof(Datum) * Max(n, 1));
	List	  **departed = palloc(sizeof(List *) * Max(n, 1));
	List	  **logged = palloc(sizeof(List *) * Max(n, 1));
	int			nbusy = 0;
	FleetOpenTable departures;
	FleetOpenTable log;
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	fleet_base_table_open(&fleet_handoff_departure_table, true, &departures);
	fleet_handoff_open_log(&log);
	for (int i = 0; i < n; i++)
		if (!lock_rows(&departures, snapshot, "departures_unsettled", dtxids[i], &departed[i]) ||
			!lock_rows(&log, snapshot, "handoff_log_dtxid", dtxids[i], &logged[i]))
		{
			departed[i] = logged[i] = NIL;
			busy[nbusy++] = dtxids[i];
		}
	for (int i = 0; i < n; i++)
		settle_departures(&departures, departed[i],
						  FleetClockStampGetDatum((uint64) DatumGetInt64(hlcs[i])));
	fleet_base_table_close(&departures);
	for (int i = 0; i < n; i++)
		settle_log(&log, logged[i], DatumGetFloat8(latencies[i]));
	fleet_base_table_close(&log);
	fleet_base_become_caller(&caller);
	UnregisterSnapshot(snapshot);
	PG_RETURN_ARRAYTYPE_P(construct_array(busy, nbusy, TEXTOID, -1, false, TYPALIGN_INT));
}
