/*-------------------------------------------------------------------------
 *
 * state.c
 *	  What the live index is doing, behind the view fleet.live_index.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/state.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/shmem.h"
#include "live/live.h"
#include "live/record.h"
#include "live/shared.h"

PG_FUNCTION_INFO_V1(fleet_live_index_state);

#define STATE_COLUMNS 6

static const char *const state_names[] = {"empty", "building", "ready", "full"};

/* Count a search that the table has to answer. */
void
fleet_live_count_table_search(Oid relid)
{
	int			table;

	if (!fleet_live_is_on())
		return;
	LWLockAcquire(&fleet_live_shared->lock, LW_SHARED);
	table = fleet_live_find_table(MyDatabaseId, relid);
	if (table >= 0)
		pg_atomic_fetch_add_u64(&fleet_live_shared->by_table[table], 1);
	LWLockRelease(&fleet_live_shared->lock);
}

/* fleet.live_index_state() -> (state, vehicles, size, builds, index_searches, table_searches) */
Datum
fleet_live_index_state(PG_FUNCTION_ARGS)
{
	Oid			relid = get_relname_relid("local_vehicles", get_namespace_oid("fleet", false));
	Datum		values[STATE_COLUMNS] = {0};
	bool		nulls[STATE_COLUMNS] = {false};
	FleetLiveTable t = {.state = FLEET_LIVE_EMPTY};
	uint64		by_index = 0;
	uint64		by_table = 0;
	bool		is_on;
	TupleDesc	desc;

	fleet_base_require_loaded();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	is_on = fleet_live_is_on();
	if (is_on)
	{
		int			table;

		LWLockAcquire(&fleet_live_shared->lock, LW_SHARED);
		table = fleet_live_find_table(MyDatabaseId, relid);
		if (table >= 0)
		{
			t = fleet_live_shared->tables[table];
			by_index = pg_atomic_read_u64(&fleet_live_shared->by_index[table]);
			by_table = pg_atomic_read_u64(&fleet_live_shared->by_table[table]);
		}
		LWLockRelease(&fleet_live_shared->lock);
	}
	values[0] = CStringGetTextDatum(is_on ? state_names[t.state] : "off");
	values[1] = Int64GetDatum(t.vehicles);
	values[2] = Int64GetDatum(is_on ? fleet_live_shared->size : 0);
	values[3] = Int64GetDatum(t.builds);
	values[4] = Int64GetDatum(by_index);
	values[5] = Int64GetDatum(by_table);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
