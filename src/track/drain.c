/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  The background worker that does queued handoffs.
 *
 * It is another process than the resolver: a handoff may have to wait for what
 * only the resolver finishes.  For each target it takes what is due, up to
 * BATCH_SIZE, in one transaction, which is one two-phase commit:
 *
 *	1. Read the rows of the queue, without locking them.
 *	2. Lock their vehicles, in the order in which a handoff locks.  One that somebody
 *	   else has locked stays for a later round, and holds up nobody.
 *	3. Take away the rows of those that are locked, and of those that are not here any
 *	   more.  What was queued about a locked vehicle is true if it is at the epoch of then, and
 *	   its last fix was in the target: nobody can change that now.  Of the others
 *	   nothing more is to be done: the vehicle came back, or was handed off or
 *	   deleted meanwhile.
 *	4. Hand off those of which it is true.  COMMIT does both 3 and 4 or neither, so a
 *	   crash at any moment leaves the row, or the handoff.
 *
 * When a batch fails because its target cannot be reached, the target is left alone
 * for a while, which doubles each time up to PAUSE_MAX_MS; then one vehicle is
 * tried, and not all, because it might be that one for which the target does not
 * answer.  When a batch fails for any other reason, each of its vehicles is tried
 * alone, and those that fail back off on their own, up to BACK_OFF_MAX_MS.  So one that
 * is refused, for whatever reason, costs the others one attempt.
 *
 * Each wait has a deadline: for locks LOCK_TIMEOUT, for the target PREPARE_TIMEOUT,
 * which bounds how long one target can hold up the others before it is left alone.
 *
 * It acts with the rights of the extension's owner, as fleet's own parts do on a
 * node that takes part in somebody's handoff.  Whose crossing it was is not known any
 * more, and does not matter: who stored the fix had the rights (queue.c).
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/drain.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "base/worker.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "track/queue.h"

PGDLLEXPORT void fleet_track_queue_main(Datum main_arg);

#define BATCH_SIZE		500
#define LOCK_TIMEOUT	"200ms"
#define PREPARE_TIMEOUT	"2s"
#define CONNECT_TIMEOUT	"500ms"

/* Between two looks at the queue, and at a vehicle that is locked. */
#define NAP_MS			1000
#define BUSY_NAP_MS		50

#define BACK_OFF_MS		200
#define BACK_OFF_MAX_MS	30000
#define PAUSE_MS		100
#define PAUSE_MAX_MS	5000

/* A region with something in the queue. */
typedef struct Target
{
	char		name[NAMEDATALEN];
	int			failures;		/* in a row, to reach it */
	TimestampTz paused_until;
} Target;

/* What is to be handed off in one transaction. */
typedef struct Batch
{
	Target	   *target;
	const char *only;			/* this vehicle alone, or NULL */
	int			most;
	int			n;				/* rows of the queue that it has read */
	Datum		ids;			/* text[] and bigint[]: what they say */
	Datum		epochs;
	char	  **names;			/* the ids, in the round's memory */
	bool		busy;			/* somebody has locked some of them */
	MemoryContext round;
} Batch;

static List *targets = NIL;		/* in TopMemoryContext */

static FleetPlan targets_plan = {
	"SELECT target FROM fleet.handoff_queue WHERE next_try <= pg_catalog.clock_timestamp()"
	" GROUP BY target ORDER BY pg_catalog.min(queued_at)"
};
static FleetPlan next_plan = {
	"SELECT pg_catalog.ceil(pg_catalog.extract('epoch', pg_catalog.min(next_try) - pg_catalog.clock_timestamp()) * 1000)::bigint"
	" FROM fleet.handoff_queue WHERE next_try > pg_catalog.clock_timestamp()"
};
static FleetPlan due_plan = {
	"SELECT q.vehicle_id, q.epoch FROM fleet.handoff_queue AS q WHERE q.target = $1"
	" AND (q.vehicle_id = $2 OR $2 IS NULL AND q.next_try <= pg_catalog.clock_timestamp())"
	" ORDER BY q.queued_at LIMIT $3",
	3, {TEXTOID, TEXTOID, INT8OID}
};

/* In the order in which handoff/depart.c locks. */
static FleetPlan lock_plan = {
	"SELECT v.vehicle_id, v.epoch = e.epoch AND v.outside_region IS NOT DISTINCT FROM $3"
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS e (vehicle_id, epoch) JOIN fleet.local_vehicles AS v ON v.vehicle_id = e.vehicle_id"
	" ORDER BY v.vehicle_id COLLATE \"C\" FOR UPDATE OF v SKIP LOCKED",
	3, {TEXTARRAYOID, INT8ARRAYOID, TEXTOID}
};
static FleetPlan take_plan = {
	"DELETE FROM fleet.handoff_queue AS q USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS e (vehicle_id, epoch)"
	" WHERE q.vehicle_id = e.vehicle_id AND q.epoch = e.epoch AND q.target = $3 AND (q.vehicle_id = ANY ($4)"
	" OR NOT EXISTS (SELECT FROM fleet.local_vehicles AS v WHERE v.vehicle_id = e.vehicle_id))",
	4, {TEXTARRAYOID, INT8ARRAYOID, TEXTOID, TEXTARRAYOID}
};
static FleetPlan drop_plan = {
	"DELETE FROM fleet.handoff_queue WHERE target = $1", 1, {TEXTOID}
};
static FleetPlan failed_plan = {
	"UPDATE fleet.handoff_queue SET attempts = attempts + 1, last_error = $3,"
	" next_try = pg_catalog.clock_timestamp() + least($4 * 2 ^ least(attempts, 20), $5) * interval '1 millisecond'"
	" WHERE target = $1 AND vehicle_id = ANY ($2)",
	5, {TEXTOID, TEXTARRAYOID, TEXTOID, FLOAT8OID, FLOAT8OID}
};

/* ---------- steps ---------- */

/*
 * Run one transaction as the extension's owner.  Returns NULL, or the error, which has
 * aborted it, in the round's memory.
 */
static ErrorData *
run(void (*work) (void *arg), void *arg, MemoryContext context)
{
	FleetCaller caller;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		fleet_commit_begin_step();
		fleet_base_become_owner(&caller);
		work(arg);
		fleet_base_become_caller(&caller);
		fleet_commit_end_step();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

static void
log_error(const ErrorData *error, const char *what)
{
	if (error != NULL)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("fleet: %s: %s", what, error->message)));
}

static Datum
text_array(char **strings, int n)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		elems[i] = CStringGetTextDatum(strings[i]);
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ---------- a batch ---------- */

/* Read what is due; false where there is nothing. */
static bool
read_batch(Batch *b)
{
	Datum		values[3];
	char		nulls[4] = "   ";
	Datum	   *epochs;

	values[0] = CStringGetTextDatum(b->target->name);
	nulls[1] = b->only == NULL ? 'n' : ' ';
	values[1] = b->only == NULL ? (Datum) 0 : CStringGetTextDatum(b->only);
	values[2] = Int64GetDatum(b->most);
	b->n = fleet_base_plan_execute(&due_plan, NULL, values, nulls);
	epochs = palloc(sizeof(Datum) * Max(b->n, 1));
	for (int i = 0; i < b->n; i++)
	{
		b->names[i] = MemoryContextStrdup(b->round, fleet_base_plan_text(i, 1));
		epochs[i] = Int64GetDatum(fleet_base_plan_int64(i, 2, NULL));
	}
	b->ids = text_array(b->names, b->n);
	b->epochs = PointerGetDatum(construct_array(epochs, b->n, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	return b->n > 0;
}

/* Lock the vehicles and take their rows away.  Those that are to go, in memory, or NULL. */
static ArrayType *
take_batch(Batch *b, MemoryContext memory)
{
	Datum		values[4];
	char	  **locked = palloc(sizeof(char *) * b->n);
	char	  **leaving = palloc(sizeof(char *) * b->n);
	int			nlocked;
	int			nleaving = 0;

	values[0] = b->ids;
	values[1] = b->epochs;
	values[2] = CStringGetTextDatum(b->target->name);
	nlocked = fleet_base_plan_execute(&lock_plan, NULL, values, NULL);
	for (int i = 0; i < nlocked; i++)
	{
		bool		isnull;

		locked[i] = fleet_base_plan_text(i, 1);
		if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull)))
			leaving[nleaving++] = locked[i];
	}
	values[3] = text_array(locked, nlocked);
	b->busy = fleet_base_plan_execute(&take_plan, NULL, values, NULL) < b->n;
	if (nleaving == 0)
		return NULL;
	MemoryContextSwitchTo(memory);
	return DatumGetArrayTypeP(text_array(leaving, nleaving));
}

/* The transaction of a batch. */
static void
hand_off(void *arg)
{
	Batch	   *b = arg;
	const FleetRegionMap *map = fleet_region_map();
	Datum		name = CStringGetTextDatum(b->target->name);
	MemoryContext memory = CurrentMemoryContext;
	ArrayType  *leaving = NULL;

	b->busy = false;
	b->n = 0;
	SPI_connect();
	if (map->own == NULL || fleet_region_find(map, b->target->name) == NULL)
		fleet_base_plan_execute(&drop_plan, NULL, &name, NULL);
	else if (read_batch(b))
		leaving = take_batch(b, memory);
	SPI_finish();
	if (leaving != NULL)
		(void) fleet_handoff_run(true, leaving, b->target->name, 0);
	FLEET_FAULT("queue-handed-off");
}

/* ---------- when it fails ---------- */

typedef struct Failure
{
	const Batch *batch;
	const char *message;
	double		first_ms;
	double		most_ms;
} Failure;

static void
write_failure(void *arg)
{
	Failure    *f = arg;
	Datum		values[5];

	values[0] = CStringGetTextDatum(f->batch->target->name);
	values[1] = text_array(f->batch->names, f->batch->n);
	values[2] = CStringGetTextDatum(f->message);
	values[3] = Float8GetDatum(f->first_ms);
	values[4] = Float8GetDatum(f->most_ms);
	SPI_connect();
	fleet_base_plan_execute(&failed_plan, NULL, values, NULL);
	SPI_finish();
}

/* Have the rows of a batch wait, and say why. */
static void
note_failure(const Batch *b, const char *message, int first_ms, int most_ms,
			 MemoryContext context)
{
	Failure		f = {b, message, first_ms, most_ms};

	log_error(run(write_failure, &f, context), "a failed handoff could not be noted");
}

/* Is it the target, and not what was to be handed off? */
static bool
is_unreachable(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
		error->sqlerrcode == ERRCODE_CRASH_SHUTDOWN ||
		error->sqlerrcode == ERRCODE_CANNOT_CONNECT_NOW ||
		error->sqlerrcode == FLEET_ERRCODE_PEER_TIMEOUT ||
		error->sqlerrcode == FLEET_ERRCODE_PEER_IN_DOUBT ||
		error->sqlerrcode == FLEET_ERRCODE_NOT_ASKED;
}

/* Leave the target alone for a while, with what was tried. */
static void
pause_target(const Batch *b, const ErrorData *error, MemoryContext context)
{
	Target	   *target = b->target;
	int			ms = Min(PAUSE_MS << Min(target->failures, 10), PAUSE_MAX_MS);

	target->failures++;
	target->paused_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	note_failure(b, error->message, ms, ms, context);
}

/* The vehicles of a batch that has failed, one by one. */
static void
hand_off_singly(const Batch *all, MemoryContext context)
{
	for (int i = 0; i < all->n; i++)
	{
		char	   *name;
		Batch		b = {.target = all->target,.only = all->names[i],.most = 1,.names = &name,.round = context};
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		error = run(hand_off, &b, context);
		if (error == NULL)
			continue;
		b.n = 1;
		name = all->names[i];
		if (is_unreachable(error))
		{
			pause_target(&b, error, context);
			return;
		}
		note_failure(&b, error->message, BACK_OFF_MS, BACK_OFF_MAX_MS, context);
	}
}

/* One batch for a target; returns after how long to look at it again. */
static int
serve(Target *target, MemoryContext context)
{
	Batch		b = {.target = target,.round = context};
	ErrorData  *error;

	b.most = target->failures > 0 ? 1 : BATCH_SIZE;
	b.names = palloc(sizeof(char *) * b.most);
	error = run(hand_off, &b, context);
	if (error == NULL)
	{
		target->failures = 0;
		return b.busy ? BUSY_NAP_MS : b.n > 0 ? 0 : NAP_MS;
	}
	if (b.n == 0)
		log_error(error, "the queue of handoffs could not be read");
	else if (is_unreachable(error))
		pause_target(&b, error, context);
	else if (b.n == 1)
		note_failure(&b, error->message, BACK_OFF_MS, BACK_OFF_MAX_MS, context);
	else
		hand_off_singly(&b, context);
	return b.n == 0 ? NAP_MS : 0;
}

/* ---------- the round ---------- */

/* What is kept of a target. */
static Target *
target_of(const char *name)
{
	MemoryContext old;
	ListCell   *cell;
	Target	   *target;

	foreach(cell, targets)
		if (strcmp(((Target *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	old = MemoryContextSwitchTo(TopMemoryContext);
	target = palloc0(sizeof(Target));
	strlcpy(target->name, name, NAMEDATALEN);
	targets = lappend(targets, target);
	MemoryContextSwitchTo(old);
	return target;
}

typedef struct Due
{
	List	   *targets;		/* with something that is due */
	int			next_ms;		/* when something else will be */
	MemoryContext context;
} Due;

static void
read_due(void *arg)
{
	Due		   *due = arg;
	int			n;
	bool		isnull;
	int64		next_ms;

	SPI_connect();
	n = fleet_base_plan_execute(&targets_plan, NULL, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		Target	   *target = target_of(fleet_base_plan_text(i, 1));
		MemoryContext old = MemoryContextSwitchTo(due->context);

		due->targets = lappend(due->targets, target);
		MemoryContextSwitchTo(old);
	}
	fleet_base_plan_execute(&next_plan, NULL, NULL, NULL);
	next_ms = fleet_base_plan_int64(0, 1, &isnull);
	if (!isnull)
		due->next_ms = (int) Max(Min(next_ms, NAP_MS), 1);
	SPI_finish();
}

/*
 * Returns how long there is nothing to do.  While anything was done that is not
 * known: waiting for other nodes uses up our latch, so it has to be looked again.
 */
static int
run_round(MemoryContext context)
{
	Due			due = {.next_ms = NAP_MS,.context = context};
	ListCell   *cell;

	MemoryContextReset(context);
	MemoryContextSwitchTo(context);
	log_error(run(read_due, &due, context), "the queue of handoffs could not be read");
	foreach(cell, due.targets)
	{
		Target	   *target = lfirst(cell);
		TimestampTz now = GetCurrentTimestamp();
		int			ms;

		CHECK_FOR_INTERRUPTS();
		if (target->paused_until > now)
			ms = (int) ((target->paused_until - now) / 1000 + 1);
		else
			ms = serve(target, context);
		due.next_ms = Min(due.next_ms, ms);
	}
	return due.next_ms;
}

/* Is the extension (still) here? */
static bool
has_queue(void)
{
	Oid			namespace;
	bool		found;

	fleet_commit_begin_step();
	namespace = get_namespace_oid("fleet", true);
	found = OidIsValid(namespace) && OidIsValid(get_relname_relid("handoff_queue", namespace));
	fleet_commit_end_step();
	return found;
}

static void
set_up(void)
{
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("application_name", "fleet handoffs", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("fleet.routing", "forward", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("fleet.lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("fleet.prepare_timeout", PREPARE_TIMEOUT, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("fleet.connect_timeout", CONNECT_TIMEOUT, PGC_USERSET, PGC_S_SESSION);
}

void
fleet_track_queue_main(Datum main_arg)
{
	MemoryContext context;

	if (!fleet_base_worker_start(main_arg))
		return;
	set_up();
	context = AllocSetContextCreate(TopMemoryContext, "fleet handoffs round",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		int			nap_ms;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!has_queue())
		{
			fleet_base_worker_not_wanted();
			proc_exit(0);
		}
		nap_ms = run_round(context);
		pgstat_report_activity(STATE_IDLE, NULL);
		if (nap_ms > 0)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 nap_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
