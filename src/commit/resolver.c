/*-------------------------------------------------------------------------
 *
 * resolver.c
 *	  The background worker that finishes in-doubt transactions.
 *
 * It works both ways, every fleet.resolve_interval and whenever its latch is
 * set:
 *
 *	push (push.c)	what this node coordinated and somebody has not confirmed;
 *	pull (pull.c)	what is prepared on this node and not finished.
 *
 * And it settles departures that no coordinator will settle any more (orphan.c).
 * Other rooms add steps that they want done in each round.
 *
 * Push or pull alone would do as long as both nodes live; together they also
 * finish what one of them forgot or cannot know.
 *
 * Nothing waits for something that is stuck.  A gid that fails for reasons of
 * its own backs off alone, to half a minute at the most.  A peer that does not
 * even refuse a connection costs its timeout; of several such peers each round
 * tries one, in turn, so a round is never delayed by more than that.
 *
 * Each step is a transaction of its own.  An error ends the step, is logged,
 * and the next round begins anew from the tables.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/resolver.c
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
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/plan.h"
#include "base/worker.h"
#include "commit/doubt.h"
#include "commit/resolver.h"
#include "region/map.h"

PGDLLEXPORT void fleet_commit_resolver_main(Datum main_arg);

int			fleet_commit_resolve_interval = 1000;

/* An attempt that takes longer than this delays others. */
#define SLOW_MS 100

/* A region whose node could not be reached when it was last tried. */
typedef struct Unreachable
{
	char		region[NAMEDATALEN];
	TimestampTz last_try;
	TimestampTz last_wanted;
	bool		slow;			/* it did not even refuse */
} Unreachable;

#define MAX_STEPS 4

static FleetWorkerStep steps[MAX_STEPS];
static int	nsteps = 0;

static List *unreachable = NIL;
static bool slow_tried = false; /* in this round */
static bool peer_is_back = false;	/* in this round: others may be, too */

static FleetPlan failed_plan = {
	"INSERT INTO fleet.resolution AS r (gid, attempts, last_error, next_try)"
	" VALUES ($1, 1, $2, now() + $3 * interval '1 second')"
	" ON CONFLICT (gid) DO UPDATE SET attempts = r.attempts + 1, last_error = $2,"
	" next_try = now() + least($3 * 2 ^ least(r.attempts, 10), 30) * interval '1 second'"
	" WHERE $3 > 0 OR r.last_error IS DISTINCT FROM $2",
	3, {TEXTOID, TEXTOID, FLOAT8OID}
};
static FleetPlan forget_plan = {
	"DELETE FROM fleet.resolution AS r WHERE"
	" NOT EXISTS (SELECT FROM fleet.decisions AS d WHERE d.dtxid || ':' || d.branch = r.gid)"
	" AND NOT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts AS p WHERE p.gid = r.gid)"
};
static FleetPlan leftover_plan = {
	"SELECT fleet.drop_leftover_servers()"
};
static FleetPlan node_plan = {
	"SELECT 1 FROM fleet.node"
};
static FleetPlan incarnation_plan = {
	"UPDATE fleet.node SET incarnation = $1, incarnation_since = now()"
	" WHERE incarnation <> $1",
	1, {TEXTOID}
};

/*
 * Begin a step: a transaction with a snapshot, and now() as it is.  Without
 * the first line now() would stay what it was when the worker began.
 */
void
fleet_commit_begin_step(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
fleet_commit_end_step(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static Unreachable *
find_unreachable(const char *region)
{
	ListCell   *cell;

	foreach(cell, unreachable)
		if (strcmp(((Unreachable *) lfirst(cell))->region, region) == 0)
			return lfirst(cell);
	return NULL;
}

/* Is another slow region due before this one? */
static bool
is_anothers_turn(const Unreachable *mine, TimestampTz now)
{
	ListCell   *cell;

	foreach(cell, unreachable)
	{
		Unreachable *other = lfirst(cell);

		if (other != mine && other->slow && other->last_try < mine->last_try &&
			!TimestampDifferenceExceeds(other->last_wanted, now,
										5 * fleet_commit_resolve_interval))
			return true;
	}
	return false;
}

static void
note_failure(Unreachable *entry, const char *region, TimestampTz since)
{
	TimestampTz now = GetCurrentTimestamp();

	if (entry == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		entry = palloc0(sizeof(Unreachable));
		strlcpy(entry->region, region, NAMEDATALEN);
		unreachable = lappend(unreachable, entry);
		MemoryContextSwitchTo(old);
	}
	entry->last_wanted = entry->last_try = now;
	entry->slow = TimestampDifferenceExceeds(since, now, SLOW_MS);
	slow_tried = slow_tried || entry->slow;
}

/*
 * A connection to the node of a region, or NULL with a reason: it cannot be
 * reached, or could not be a moment ago and it is another's turn to be tried.
 */
FleetConn *
fleet_commit_peer(const char *region, char **error)
{
	Unreachable *entry = find_unreachable(region);
	TimestampTz now = GetCurrentTimestamp();
	FleetConn  *conn;

	if (entry != NULL)
	{
		entry->last_wanted = now;
		if (entry->slow && (slow_tried || is_anothers_turn(entry, now)))
		{
			*error = pstrdup("the node cannot be reached");
			return NULL;
		}
	}
	conn = fleet_remote_try_connect(region, error);
	if (conn == NULL)
		note_failure(entry, region, now);
	else if (entry != NULL)
	{
		unreachable = list_delete_ptr(unreachable, entry);
		pfree(entry);
		peer_is_back = true;
	}
	return conn;
}

/* Keep what went wrong with a gid, and have it wait, if it is its own fault. */
void
fleet_commit_failed(const char *gid, const char *error, bool back_off)
{
	Datum		values[3];

	values[0] = CStringGetTextDatum(gid);
	values[1] = CStringGetTextDatum(error);
	values[2] = Float8GetDatum(back_off ? fleet_commit_resolve_interval / 1000.0 : 0.0);
	SPI_connect();
	fleet_base_plan_execute(&failed_plan, NULL, values, NULL);
	SPI_finish();
}

/* Split off the doubts about the first one's peer. */
List *
fleet_commit_next_peer(List *doubts, List **rest)
{
	FleetDoubt *first = linitial(doubts);
	List	   *same = NIL;
	ListCell   *cell;

	*rest = NIL;
	foreach(cell, doubts)
	{
		FleetDoubt *doubt = lfirst(cell);

		if (strcmp(doubt->region, first->region) == 0)
			same = lappend(same, doubt);
		else
			*rest = lappend(*rest, doubt);
	}
	return same;
}

/* A text[] of C strings. */
Datum
fleet_commit_text_array(List *strings)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(list_length(strings), 1));
	int			n = 0;
	ListCell   *cell;

	foreach(cell, strings)
		elems[n++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Is there (still) a node in this database?  Also keeps its incarnation. */
static bool
look_at_node(void)
{
	Oid			namespace;
	bool		found = false;

	fleet_commit_begin_step();
	namespace = get_namespace_oid("fleet", true);
	if (OidIsValid(namespace) &&
		OidIsValid(get_relname_relid("resolution", namespace)))
	{
		Datum		incarnation = CStringGetTextDatum(fleet_region_incarnation());

		SPI_connect();
		found = fleet_base_plan_execute(&node_plan, NULL, NULL, NULL) > 0;
		if (found && fleet_base_plan_execute(&incarnation_plan, NULL, &incarnation, NULL) > 0)
			ereport(LOG,
					(errmsg("fleet: this node has a new incarnation, it was promoted or restored")));
		SPI_finish();
	}
	fleet_commit_end_step();
	return found;
}

static void
forget_resolved(MemoryContext context)
{
	fleet_commit_begin_step();
	SPI_connect();
	fleet_base_plan_execute(&forget_plan, NULL, NULL, NULL);
	fleet_base_plan_execute(&leftover_plan, NULL, NULL, NULL);
	SPI_finish();
	fleet_commit_end_step();
}

/* Run one step; an error in it is logged and ends only the step.  False then. */
static bool
run_step(void (*step) (MemoryContext), MemoryContext context)
{
	volatile bool done = false;

	MemoryContextReset(context);
	PG_TRY();
	{
		step(context);
		done = true;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return done;
}

/* Have the worker run a step in each round. */
void
fleet_commit_add_step(FleetWorkerStep step)
{
	Assert(nsteps < MAX_STEPS);
	steps[nsteps++] = step;
}

static bool more_to_do = false; /* in the steps of other rooms */

static void
run_added_steps(MemoryContext context)
{
	for (int i = 0; i < nsteps; i++)
		more_to_do = steps[i] (context) || more_to_do;
}

static void
run_round(MemoryContext context)
{
	bool		pushed;

	more_to_do = false;
	slow_tried = false;
	peer_is_back = false;
	fleet_commit_doubt_begin();
	pushed = run_step(fleet_commit_push, context);
	(void) run_step(fleet_commit_pull, context);
	(void) run_step(fleet_commit_settle_orphans, context);
	(void) run_step(forget_resolved, context);
	(void) run_step(run_added_steps, context);
	if (pushed)
		(void) run_step(fleet_commit_doubt_publish, context);
}

void
fleet_commit_resolver_main(Datum main_arg)
{
	MemoryContext context;

	if (!fleet_base_worker_start(main_arg))
		return;
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("application_name", "fleet resolver", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("fleet.connect_timeout", "500", PGC_USERSET, PGC_S_SESSION);
	/* It has a back-off of its own, and is the first to know that a node is back. */
	SetConfigOption("fleet.breaker_failures", "0", PGC_SUSET, PGC_S_SESSION);
	context = AllocSetContextCreate(TopMemoryContext, "fleet resolver round",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!look_at_node())
		{
			fleet_base_worker_not_wanted();
			proc_exit(0);
		}
		run_round(context);

		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 peer_is_back || more_to_do ? 0 : fleet_commit_resolve_interval, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
