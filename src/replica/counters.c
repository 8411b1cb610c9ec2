/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  What became of the rows that each region sent, and what last went wrong.
 *
 * The apply workers of logical replication keep no such counts, and say what went
 * wrong in the server's log only.  So the merge rule counts here, in
 * shared memory, and the last error of each worker is caught on its way to the
 * log.  A slot belongs to a region of a database for good; all is zero after a
 * restart.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/counters.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_subscription.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/logicalworker.h"
#include "replication/worker_internal.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "base/shmem.h"
#include "remote/remote.h"
#include "replica/replica.h"

PG_FUNCTION_INFO_V1(fleet_replica_counters_sql);

/* Regions, over all databases of the server.  More are not counted. */
#define COUNTER_SLOTS 256
#define ERROR_LENGTH 256

typedef struct CounterSlot
{
	Oid			database;		/* InvalidOid = free */
	char		region[NAMEDATALEN];
	pg_atomic_uint64 counts[FLEET_MERGE_RESULTS];
	char		last_error[ERROR_LENGTH];	/* protected by the lock */
} CounterSlot;

typedef struct CounterShared
{
	LWLock		lock;			/* to take a slot, and for the errors */
	CounterSlot slots[COUNTER_SLOTS];
} CounterShared;

static CounterShared *shared = NULL;
static CounterSlot *mine = NULL;	/* the one that was counted in last */
static emit_log_hook_type prev_log_hook = NULL;

static void
init_shared(void *area)
{
	CounterShared *s = area;

	memset(s, 0, sizeof(CounterShared));
	fleet_base_shmem_init_lock(&s->lock, "FleetReplicaCounters");
	for (int i = 0; i < COUNTER_SLOTS; i++)
		for (int j = 0; j < FLEET_MERGE_RESULTS; j++)
			pg_atomic_init_u64(&s->slots[i].counts[j], 0);
}

/* The slot of a region, or NULL where all are taken.  Lock held exclusively. */
static CounterSlot *
find_slot(const char *region)
{
	for (int i = 0; i < COUNTER_SLOTS; i++)
	{
		CounterSlot *slot = &shared->slots[i];

		if (slot->database == InvalidOid)
		{
			strlcpy(slot->region, region, NAMEDATALEN);
			slot->database = MyDatabaseId;
			return slot;
		}
		if (slot->database == MyDatabaseId && strcmp(slot->region, region) == 0)
			return slot;
	}
	return NULL;
}

/* Count a row that a region sent. */
void
fleet_replica_count(const char *region, FleetMergeResult result)
{
	fleet_base_require_loaded();
	if (mine == NULL || strcmp(mine->region, region) != 0)
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		mine = find_slot(region);
		LWLockRelease(&shared->lock);
	}
	if (mine != NULL)
		(void) pg_atomic_fetch_add_u64(&mine->counts[result], 1);
}

/*
 * An error of an apply worker ends it, so this is called for its last one.  Not
 * where the lock is ours already, or waiting for it might be for ever.
 */
static void
on_log(ErrorData *error)
{
	if (error->elevel >= ERROR && shared != NULL && MySubscription != NULL &&
		IsLogicalWorker() && !LWLockHeldByMe(&shared->lock) &&
		strncmp(MySubscription->name, FLEET_SERVER_PREFIX, strlen(FLEET_SERVER_PREFIX)) == 0)
	{
		CounterSlot *slot;

		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		slot = find_slot(MySubscription->name + strlen(FLEET_SERVER_PREFIX));
		if (slot != NULL)
			snprintf(slot->last_error, ERROR_LENGTH, "%s: %s",
					 unpack_sql_state(error->sqlerrcode),
					 error->message ? error->message : "");
		LWLockRelease(&shared->lock);
	}
	if (prev_log_hook)
		prev_log_hook(error);
}

/* fleet.replica_counters() */
Datum
fleet_replica_counters_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	fleet_base_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < COUNTER_SLOTS; i++)
	{
		CounterSlot *slot = &shared->slots[i];
		Datum		values[2 + FLEET_MERGE_RESULTS];
		bool		nulls[2 + FLEET_MERGE_RESULTS] = {false};
		char		error[ERROR_LENGTH];

		LWLockAcquire(&shared->lock, LW_SHARED);
		nulls[0] = slot->database != MyDatabaseId || slot->region[0] == '\0';
		memcpy(error, slot->last_error, ERROR_LENGTH);
		LWLockRelease(&shared->lock);
		if (nulls[0])
			continue;
		values[0] = CStringGetTextDatum(slot->region);
		for (int j = 0; j < FLEET_MERGE_RESULTS; j++)
			values[1 + j] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->counts[j]));
		nulls[1 + FLEET_MERGE_RESULTS] = error[0] == '\0';
		values[1 + FLEET_MERGE_RESULTS] = CStringGetTextDatum(error);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

void
fleet_replica_counters_init(void)
{
	fleet_base_shmem_reserve("fleet replica counters", sizeof(CounterShared), init_shared,
							 (void **) &shared);
	prev_log_hook = emit_log_hook;
	emit_log_hook = on_log;
}
