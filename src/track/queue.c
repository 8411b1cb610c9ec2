/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  Crossings that a background worker hands off: fleet.handoff_mode.
 *
 * With the mode queued, who reports a fix does not wait for the two-phase commit of
 * its vehicle's handoff:
 *
 *	1. The crossing becomes a row of fleet.handoff_queue, in the fix's transaction, under
 *	   the lock of the vehicle's row.  There is one for a vehicle; a later crossing
 *	   replaces it.
 *	2. COMMIT sets the worker's latch.  That call may be lost: with the server, or
 *	   where the transaction is prepared and its coordinator dies.  So the resolver
 *	   looks at the queue in each round, and calls, too.
 *	3. The worker (drain.c) takes the row away in the transaction of the handoff, so
 *	   that a crossing is queued, or done, and never both or neither.
 *
 * The order of locks is the vehicle's row, then its row here, on both sides.
 *
 * Until it is done the vehicle is here, and its fixes are taken here.
 *
 * The queue is bounded, by fleet.handoff_queue_limit.  Beyond it a crossing is done at
 * once, in the fix's transaction, as with the mode immediate: who reports too much
 * for the worker is slowed down to what two-phase commit can do, and where a
 * target is down learns of it, instead of filling a disk.  Transactions that run at the same
 * time do not see each other's rows, so the bound may be passed by as many.
 *
 * Rights: who may store the fix, which takes SELECT and UPDATE on the vehicle and
 * policies that show it, may have the vehicle handed off.  The row is written with
 * the owner's rights.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/queue.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/plan.h"
#include "base/worker.h"
#include "commit/commit.h"
#include "track/queue.h"

typedef enum HandoffMode
{
	MODE_IMMEDIATE,
	MODE_QUEUED
} HandoffMode;

static const struct config_enum_entry modes[] = {
	{"immediate", MODE_IMMEDIATE, false},
	{"queued", MODE_QUEUED, false},
	{NULL, 0, false}
};

static int	handoff_mode = MODE_QUEUED;
static int	queue_limit = 10000;

static FleetPlan look_plan = {
	"SELECT target = $2 AND epoch = $3 FROM fleet.handoff_queue WHERE vehicle_id = $1",
	3, {TEXTOID, TEXTOID, INT8OID}
};
static FleetPlan length_plan = {
	"SELECT pg_catalog.count(*) FROM (SELECT FROM fleet.handoff_queue LIMIT $1) AS q", 1, {INT8OID}
};
static FleetPlan add_plan = {
	"INSERT INTO fleet.handoff_queue (vehicle_id, target, epoch) VALUES ($1, $2, $3)"
	" ON CONFLICT (vehicle_id) DO UPDATE SET target = $2, epoch = $3,"
	" queued_at = DEFAULT, attempts = 0, next_try = DEFAULT, last_error = NULL",
	3, {TEXTOID, TEXTOID, INT8OID}
};
static FleetPlan waiting_plan = {
	"SELECT 1 FROM fleet.handoff_queue LIMIT 1"
};
static FleetPlan forget_plan = {
	"DELETE FROM fleet.flaps WHERE last_at < pg_catalog.clock_timestamp() - interval '1 day'"
};

static bool call_if_waiting(MemoryContext context);

void
fleet_track_queue_init(void)
{
	DefineCustomEnumVariable("fleet.handoff_mode",
							 "Who hands off a vehicle that a fix shows to have crossed a border.",
							 "queued: a worker does, soon after; immediate: the fix's own transaction, where its caller wants to know.",
							 &handoff_mode, MODE_QUEUED, modes,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.handoff_queue_limit",
							"How many crossings wait to be handed off by the worker, at the most.",
							"Lower it where callers should be slowed down sooner when handoffs do not keep up; 0 queues none.",
							&queue_limit, 10000, 0, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	fleet_commit_add_step(call_if_waiting);
}

/* How many rows the table could have room for, at the most. */
static int64
most_rows(void)
{
	Relation	rel = table_open(get_relname_relid("handoff_queue", get_namespace_oid("fleet", false)),
								 AccessShareLock);
	int64		most = (int64) RelationGetNumberOfBlocks(rel) * MaxHeapTuplesPerPage;

	table_close(rel, NoLock);
	return most;
}

/* The rows are counted only where there may be so many. */
static bool
is_full(void)
{
	Datum		limit = Int64GetDatum(queue_limit);

	if (most_rows() < queue_limit)
		return false;
	fleet_base_plan_execute(&length_plan, NULL, &limit, NULL);
	return fleet_base_plan_int64(0, 1, NULL) >= queue_limit;
}

/* Add it, unless it is there or there is no room: false then. */
static bool
add(const char *vehicle, int64 epoch, const char *target)
{
	Datum		values[3];
	bool		queued;

	values[0] = CStringGetTextDatum(vehicle);
	values[1] = CStringGetTextDatum(target);
	values[2] = Int64GetDatum(epoch);
	queued = fleet_base_plan_execute(&look_plan, NULL, values, NULL) > 0;
	if (queued)
	{
		bool		isnull;

		if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
			return true;
	}
	if (!queued && is_full())
		return false;
	fleet_base_plan_execute(&add_plan, NULL, values, NULL);
	fleet_commit_call_handoffs();
	return true;
}

/*
 * Have the worker hand off a vehicle of this node, whose row is locked, once this
 * transaction commits.  False where that is to be done at once.
 */
bool
fleet_track_queue_add(const char *vehicle, int64 epoch, const FleetRegion *target)
{
	FleetCaller caller;
	bool		queued;

	if (handoff_mode == MODE_IMMEDIATE || queue_limit == 0)
		return false;
	fleet_base_become_owner(&caller);
	SPI_connect();
	queued = add(vehicle, epoch, target->name);
	SPI_finish();
	fleet_base_become_caller(&caller);
	return queued;
}

/* The resolver's step: call the worker while there is something in the queue. */
static bool
call_if_waiting(MemoryContext context)
{
	bool		waiting;

	fleet_commit_begin_step();
	SPI_connect();
	waiting = fleet_base_plan_execute(&waiting_plan, NULL, NULL, NULL) > 0;
	fleet_base_plan_execute(&forget_plan, NULL, NULL, NULL);
	SPI_finish();
	fleet_commit_end_step();
	if (waiting)
		fleet_base_worker_call(MyDatabaseId, FLEET_WORKER_HANDOFFS);
	return false;
}
