/*-------------------------------------------------------------------------
 *
 * last_read.c
 *	  What a session can ask about its last read.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/last_read.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "clock/clock.h"
#include "query/read.h"

PG_FUNCTION_INFO_V1(fleet_query_last_read);
PG_FUNCTION_INFO_V1(fleet_query_note_local_read);

/* Lists in their own context. */
static FleetLastRead last_read;
static MemoryContext last_context = NULL;

static List *
keep_names(const List *names)
{
	List	   *kept = NIL;
	ListCell   *cell;

	foreach(cell, names)
		kept = lappend(kept, pstrdup(lfirst(cell)));
	return kept;
}

/* From now on this is the last read. */
void
fleet_query_keep_log(const FleetLastRead *log)
{
	MemoryContext old;

	if (last_context == NULL)
		last_context = AllocSetContextCreate(TopMemoryContext, "fleet last read",
											 ALLOCSET_SMALL_SIZES);
	last_read = *log;
	last_read.asked = last_read.failed = last_read.told = NIL;
	MemoryContextReset(last_context);
	old = MemoryContextSwitchTo(last_context);
	last_read.asked = keep_names(log->asked);
	last_read.failed = keep_names(log->failed);
	MemoryContextSwitchTo(old);
}

/*
 * fleet.note_local_read(region, max_rows): max_rows, and a local read begins that is
 * part of its caller's plan (inline.c).  When it ends nobody is told, so its time is
 * not known.
 *
 * It is called in LIMIT, which is evaluated once, before the first row, and costs
 * no node of its own.
 */
Datum
fleet_query_note_local_read(PG_FUNCTION_ARGS)
{
	FleetLastRead log = {.scope = FLEET_SCOPE_LOCAL,.latency_ms = -1};

	if (!PG_ARGISNULL(0) && !fleet_query_is_planning())
	{
		log.asked = list_make1(text_to_cstring(PG_GETARG_TEXT_PP(0)));
		log.q = fleet_clock_now();
		fleet_query_keep_log(&log);
	}
	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_INT64(PG_GETARG_INT32(1));
}

static Datum
names_array(const List *names)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(list_length(names), 1));
	ListCell   *cell;

	foreach(cell, names)
		elems[foreach_current_index(cell)] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elems, list_length(names), TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* fleet.last_read(): nulls where this session has read nothing yet. */
Datum
fleet_query_last_read(PG_FUNCTION_ARGS)
{
	Datum		values[7];
	bool		nulls[7] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "fleet.last_read is declared with another type");
	if (last_read.q == 0)
		memset(nulls, true, sizeof(nulls));
	values[0] = CStringGetTextDatum(fleet_query_scope_name(last_read.scope));
	values[1] = names_array(last_read.asked);
	values[2] = names_array(last_read.failed);
	values[3] = Int32GetDatum(last_read.reasked);
	values[4] = Float8GetDatum(last_read.latency_ms);
	nulls[4] |= last_read.latency_ms < 0;
	values[5] = FleetClockStampGetDatum(last_read.q);
	values[6] = BoolGetDatum(last_read.summed);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
