/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  Background workers in each database that is a node.
 *
 * A launcher, started with the server, looks at all databases and starts a
 * resolver in each.  A resolver that finds no fleet node in its database says
 * so and ends; that database is left alone for a minute, or until
 * fleet.init_node() there asks for a worker.  A resolver that dies is started
 * again at the launcher's next round, and so is one that was asked for and does
 * not come: the postmaster may have had no process for it.
 *
 * A worker of another kind is started when somebody first calls it, and stays.  The
 * call may be lost with the server, so whoever has work for it says so again.
 *
 * A connected worker would stand in the way of DROP DATABASE, of renaming, and
 * of copying the database by CREATE DATABASE.  Before one of these runs, the
 * database's workers are stopped, and are started again some seconds later if the
 * database is still there.
 *
 * Each worker of a database has a slot.  A worker owns its slot only while the slot's
 * generation is the one it was started with, so that one which is slow to end
 * cannot clear the slot of its successor.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/fault.h"
#include "base/shmem.h"
#include "base/worker.h"

#define WORKER_SLOTS		128
#define LAUNCHER_NAP_MS		500

/* How long a worker stays away, and how long it may take to end. */
#define PAUSE_MS			10000
#define STOP_WAIT_MS		5000

/* How long a worker that was asked for may take to take its slot. */
#define START_WAIT_MS		10000

/* How often a database without a node is looked at: it may have been restored. */
#define LOOK_AGAIN_MS		60000

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_WANTED,				/* to be started at the next round */
	SLOT_STARTED,				/* a worker was asked for, or runs (proc) */
	SLOT_PAUSED,				/* stopped, until the database was dropped or copied */
	SLOT_NO_NODE				/* the database has no node: leave it alone a while */
} SlotState;

typedef struct WorkerSlot
{
	Oid			database;
	FleetWorkerKind kind;
	SlotState	state;
	uint32		generation;
	PGPROC	   *proc;			/* of the running worker, or NULL */
	bool		wanted_again;	/* a node was made while the worker looked for one */
	TimestampTz resume_at;		/* when paused, without a node, or not yet running: look again */
} WorkerSlot;

typedef struct WorkerShared
{
	LWLock		lock;
	PGPROC	   *launcher;
	WorkerSlot	slots[WORKER_SLOTS];
} WorkerShared;

PGDLLEXPORT void fleet_base_launcher_main(Datum main_arg);

/* By FleetWorkerKind. */
static const struct
{
	const char *type;
	const char *function;
}			kinds[] = {
	{"fleet resolver", "fleet_commit_resolver_main"},
	{"fleet handoffs", "fleet_track_queue_main"}
};

static WorkerShared *shared = NULL;
static int	my_slot = -1;
static uint32 my_generation = 0;
static ProcessUtility_hook_type prev_utility_hook = NULL;

static void
init_shared(void *area)
{
	WorkerShared *s = area;

	memset(s, 0, sizeof(WorkerShared));
	fleet_base_shmem_init_lock(&s->lock, "FleetWorkers");
}

static void on_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
					   ProcessUtilityContext context, ParamListInfo params,
					   QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);

void
fleet_base_worker_init(void)
{
	BackgroundWorker worker = {0};

	fleet_base_shmem_reserve("fleet workers", sizeof(WorkerShared), init_shared,
							 (void **) &shared);
	strlcpy(worker.bgw_name, "fleet launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "fleet launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "fleet", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "fleet_base_launcher_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
}

/* The slot of a worker, or a free one for it, or NULL.  Lock held. */
static WorkerSlot *
slot_of(Oid database, FleetWorkerKind kind, bool create)
{
	WorkerSlot *free_slot = NULL;

	for (int i = 0; i < WORKER_SLOTS; i++)
	{
		if (shared->slots[i].state == SLOT_FREE)
		{
			if (free_slot == NULL)
				free_slot = &shared->slots[i];
		}
		else if (shared->slots[i].database == database && shared->slots[i].kind == kind)
			return &shared->slots[i];
	}
	if (create && free_slot != NULL)
	{
		free_slot->database = database;
		free_slot->kind = kind;
		free_slot->state = SLOT_WANTED;
		free_slot->proc = NULL;
	}
	return create ? free_slot : NULL;
}

/* This database is a node now: have a worker started. */
void
fleet_base_worker_wanted(Oid database)
{
	WorkerSlot *slot;

	fleet_base_require_loaded();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = slot_of(database, FLEET_WORKER_RESOLVER, true);
	if (slot != NULL && slot->state == SLOT_NO_NODE)
		slot->state = SLOT_WANTED;
	else if (slot != NULL)
		slot->wanted_again = true;
	if (shared->launcher != NULL)
		SetLatch(&shared->launcher->procLatch);
	LWLockRelease(&shared->lock);
	if (slot == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("fleet runs at most %d workers on one server", WORKER_SLOTS)));
}

/* Have a worker look at its work now; false where it does not run. */
static bool
wake(Oid database, FleetWorkerKind kind)
{
	WorkerSlot *slot;
	bool		running;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_of(database, kind, false);
	running = slot != NULL && slot->proc != NULL;
	if (running)
		SetLatch(&slot->proc->procLatch);
	LWLockRelease(&shared->lock);
	return running;
}

/* Have the resolver of a database look at its work now.  Never throws. */
void
fleet_base_worker_wake(Oid database)
{
	(void) wake(database, FLEET_WORKER_RESOLVER);
}

/* The same with any worker, which is started if need be.  Never throws. */
void
fleet_base_worker_call(Oid database, FleetWorkerKind kind)
{
	WorkerSlot *slot;

	if (wake(database, kind))
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = slot_of(database, kind, true);
	if (slot != NULL && slot->state == SLOT_NO_NODE)
		slot->state = SLOT_WANTED;
	if (shared->launcher != NULL)
		SetLatch(&shared->launcher->procLatch);
	LWLockRelease(&shared->lock);
}

/* ---------- making way ---------- */

/* Tell a database's workers to end.  True while there is one. */
static bool
pause_workers(Oid database)
{
	bool		running = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < WORKER_SLOTS; i++)
	{
		WorkerSlot *slot = &shared->slots[i];

		if (slot->database != database || slot->state == SLOT_FREE || slot->state == SLOT_NO_NODE)
			continue;
		slot->state = SLOT_PAUSED;
		slot->resume_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PAUSE_MS);
		if (slot->proc == NULL)
			continue;
		kill(slot->proc->pid, SIGTERM);
		running = true;
	}
	LWLockRelease(&shared->lock);
	return running;
}

/*
 * May the caller have the database to itself?  The statements in question need
 * its owner, at the least; others fail, and must not stop anything before.
 */
static bool
is_owner(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		owner = HeapTupleIsValid(tuple) &&
		has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba);

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return owner;
}

/* The database that a statement needs to itself, or NULL. */
static const char *
database_alone(Node *statement)
{
	ListCell   *cell;

	if (IsA(statement, DropdbStmt))
		return ((DropdbStmt *) statement)->dbname;
	if (IsA(statement, RenameStmt) &&
		((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return ((RenameStmt *) statement)->subname;
	if (!IsA(statement, CreatedbStmt))
		return NULL;
	foreach(cell, ((CreatedbStmt *) statement)->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;				/* template1 is never a node */
}

static void
make_way(Oid database)
{
	if (!is_owner(database))
		return;
	for (int ms = 0; ms < STOP_WAIT_MS && pause_workers(database); ms += 10)
	{
		pg_usleep(10 * 1000L);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
is_begin(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		((TransactionStmt *) statement)->kind == TRANS_STMT_BEGIN;
}

static void
on_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		   ProcessUtilityContext context, ParamListInfo params,
		   QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	const char *name = database_alone(pstmt->utilityStmt);

	if (is_begin(pstmt->utilityStmt))
		FLEET_FAULT("begin");
	if (name != NULL)
		make_way(get_database_oid(name, true));
	if (prev_utility_hook)
		prev_utility_hook(pstmt, queryString, readOnlyTree, context, params,
						  queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

/* ---------- a worker ---------- */

static void
leave_slot(int code, Datum arg)
{
	WorkerSlot *slot = &shared->slots[my_slot];

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (slot->generation == my_generation)
	{
		slot->proc = NULL;
		if (slot->state == SLOT_STARTED)
			slot->state = SLOT_WANTED;
	}
	LWLockRelease(&shared->lock);
}

/*
 * First step of a worker: take the slot it was started for and connect to its
 * database.  False where the slot is no longer its own.
 */
bool
fleet_base_worker_start(Datum main_arg)
{
	WorkerSlot *slot;
	Oid			database;
	bool		mine;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	my_slot = DatumGetInt32(main_arg);
	memcpy(&my_generation, MyBgworkerEntry->bgw_extra, sizeof(my_generation));
	slot = &shared->slots[my_slot];
	before_shmem_exit(leave_slot, (Datum) 0);

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	mine = slot->generation == my_generation && slot->state == SLOT_STARTED;
	database = slot->database;
	if (mine)
		slot->proc = MyProc;
	LWLockRelease(&shared->lock);
	if (mine)
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	return mine;
}

/* Last step of a worker that found no node in its database. */
void
fleet_base_worker_not_wanted(void)
{
	WorkerSlot *slot = &shared->slots[my_slot];

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (slot->generation == my_generation && slot->state == SLOT_STARTED)
	{
		slot->state = slot->wanted_again ? SLOT_WANTED : SLOT_NO_NODE;
		slot->resume_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN_MS);
	}
	LWLockRelease(&shared->lock);
}

/* ---------- the launcher ---------- */

static void
start_worker(int index)
{
	BackgroundWorker worker = {0};
	WorkerSlot *slot = &shared->slots[index];
	Oid			database;
	FleetWorkerKind kind;
	uint32		generation;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	database = slot->database;
	kind = slot->kind;
	generation = ++slot->generation;
	slot->state = SLOT_STARTED;
	slot->wanted_again = false;
	slot->resume_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), START_WAIT_MS);
	LWLockRelease(&shared->lock);

	if (FLEET_FAULT_ON("worker-lost"))
		return;
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", kinds[kind].type, database);
	strlcpy(worker.bgw_type, kinds[kind].type, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "fleet", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, kinds[kind].function, BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &generation, sizeof(generation));
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		slot->state = SLOT_WANTED;
		LWLockRelease(&shared->lock);
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("fleet could not start a worker"),
				 errdetail("It is \"%s\".", worker.bgw_name),
				 errhint("Raise max_worker_processes.")));
	}
}

/* All databases that can be connected to, as a list of OIDs. */
static List *
list_databases(void)
{
	List	   *databases = NIL;
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);

		if (db->datallowconn && !db->datistemplate)
			databases = lappend_oid(databases, db->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return databases;
}

/* Give each database's resolver a slot; free those of dropped ones. */
static void
look_at_databases(void)
{
	List	   *databases;
	ListCell   *cell;

	StartTransactionCommand();
	databases = list_databases();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	foreach(cell, databases)
		(void) slot_of(lfirst_oid(cell), FLEET_WORKER_RESOLVER, true);
	for (int i = 0; i < WORKER_SLOTS; i++)
		if (shared->slots[i].proc == NULL &&
			!list_member_oid(databases, shared->slots[i].database))
			shared->slots[i].state = SLOT_FREE;
	LWLockRelease(&shared->lock);
	CommitTransactionCommand();
}

/* Is it time to start a worker in this slot? */
static bool
is_due(const WorkerSlot *slot)
{
	if (slot->state == SLOT_FREE || slot->proc != NULL)
		return false;
	return slot->state == SLOT_WANTED || GetCurrentTimestamp() >= slot->resume_at;
}

static void
leave_launcher(int code, Datum arg)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher = NULL;
	LWLockRelease(&shared->lock);
}

void
fleet_base_launcher_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher = MyProc;
	LWLockRelease(&shared->lock);
	before_shmem_exit(leave_launcher, (Datum) 0);

	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		look_at_databases();
		for (int i = 0; i < WORKER_SLOTS; i++)
			if (is_due(&shared->slots[i]))
				start_worker(i);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LAUNCHER_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
