/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Reading a table of vehicles into the live index.
 *
 * The first search does it, after a restart or whenever the index has given up;
 * others read the table meanwhile.
 *
 *	1. It is said in shared memory that changes are to be applied.  A transaction that
 *	   committed without having seen this is visible to snapshots from now on.
 *	2. Where a prepared transaction is open that may have changed vehicles without
 *	   notes of it being kept (one of before the server's start), the build
 *	   is put off: its changes would be missed.
 *	3. The table is read with a new snapshot.  A row whose vehicle is known at a higher
 *	   version, or is known to be gone, is skipped by that.
 *	4. The index is said to be ready.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/build.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/plan.h"
#include "live/record.h"

static FleetPlan prepared_plan = {
	"SELECT transaction FROM pg_catalog.pg_prepared_xacts"
	" WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()"
};

/* Is there a prepared transaction that may have changed vehicles, and no notes of it? */
static bool
has_unknown(FullTransactionId before)
{
	bool		found = false;
	FleetCaller caller;
	int			n;

	fleet_base_become_owner(&caller);
	SPI_connect();
	fleet_base_push_new_snapshot();
	n = fleet_base_plan_execute_read(&prepared_plan);
	PopActiveSnapshot();
	for (int i = 0; i < n && !found; i++)
	{
		bool		isnull;
		TransactionId xid = DatumGetTransactionId(SPI_getbinval(SPI_tuptable->vals[i],
																SPI_tuptable->tupdesc, 1, &isnull));

		found = TransactionIdPrecedes(xid, XidFromFullTransactionId(before)) &&
			!fleet_live_is_saved(xid);
	}
	SPI_finish();
	fleet_base_become_caller(&caller);
	return found;
}

static bool
load_row(Oid relid, uint32 build, TupleTableSlot *slot, const FleetLiveColumns *columns)
{
	FleetLiveRecord record;
	bool		isnull;
	text	   *id = DatumGetTextPP(slot_getattr(slot, columns->vehicle_id, &isnull));

	fleet_live_read_row(slot, columns, &record);
	record.id_size = VARSIZE_ANY_EXHDR(id);
	memcpy(record.id, VARDATA_ANY(id), Min(record.id_size, FLEET_LIVE_ID_MAX));
	return fleet_live_load(relid, build, &record);
}

/* False where there is no use in going on. */
static bool
load_table(Oid relid, uint32 build)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	FleetLiveColumns columns;
	bool		going = true;

	fleet_live_find_columns(RelationGetDescr(rel), &columns);
	while (going && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		going = load_row(relid, build, slot, &columns);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return going;
}

typedef struct Build
{
	Oid			relid;
	uint32		build;
} Build;

static void
end_badly(int code, Datum arg)
{
	const Build *b = (const Build *) DatumGetPointer(arg);

	fleet_live_end_build(b->relid, b->build, false);
	fleet_live_end_noting();
}

/* Read the table in, if it is time and nobody else does. */
void
fleet_live_build(Oid relid)
{
	FullTransactionId unknown_before;
	Build		b = {relid, fleet_live_begin_build(relid, &unknown_before)};
	bool		complete;

	if (b.build == 0)
		return;
	PG_ENSURE_ERROR_CLEANUP(end_badly, PointerGetDatum(&b));
	{
		/* What is old in the snapshot must not come back. */
		fleet_live_begin_noting();
		complete = !has_unknown(unknown_before) && load_table(relid, b.build);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_badly, PointerGetDatum(&b));
	fleet_live_end_build(relid, b.build, complete);
	fleet_live_end_noting();
}
