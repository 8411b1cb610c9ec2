/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  What the background worker does for replicas, on both ends.
 *
 * On a region's node, in each round:
 *
 *	serve	makes what the map's replicas need (publications, rights), and drops
 *			the slots of those that have left (fleet.serve_replicas).
 *	beat	writes a heartbeat, which travels in the stream of changes.
 *
 * On a replica:
 *
 *	follow	takes the next step with each region (fleet.follow_region): asks it
 *			how it is, makes a slot, copies some rows, starts the subscription, or
 *			sees that the stream cannot be trusted any more and begins anew.  Each
 *			step is a transaction, and where it was cut off it is taken again.
 *	collect	forgets deleted rows of which no late change can come any more
 *			(graves.c), some at a time.
 *
 * A heartbeat says: every change with a stamp up to this one is ahead of me.  A
 * change is stamped some time before it commits, so a stamp of now would be a
 * lie.  What makes it true:
 *
 *	1. A transaction has a number before it takes a stamp (guard.c).
 *	2. We take a stamp, h, and after that the next number that will be given
 *	   out, x: whoever has stamped up to h has a number below x.
 *	3. Once no transaction with a number below x is running, prepared ones
 *	   among them, all of them have written their commit record; what we write
 *	   from now on comes after them in the log.
 *
 * So h is kept until that is so, and the heartbeat says the last h for which it
 * was.  It also says what was published by then: where somebody has altered that,
 * changes ahead of it may not have been sent, and the replica does not believe it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "region/map.h"
#include "replica/replica.h"

/* Graves that are collected in one transaction. */
#define COLLECT_ROWS 1000

static int	heartbeat_interval = 1000;	/* ms */

/* Of this node's region: the stamp that is to be proved next, and the last one that was. */
static uint64 candidate = 0;
static TransactionId candidate_next = InvalidTransactionId;
static uint64 proved = 0;

static TimestampTz next_beat = 0;
static TimestampTz next_serve = 0;
static TimestampTz next_follow = 0;
static TimestampTz next_collect = 0;
static bool copying = false;	/* steps with regions follow each other at once */
static bool collecting = false; /* there are more graves */

static FleetPlan role_plan = {
	"SELECT fleet.own_region(), fleet.is_replica(), EXISTS (SELECT FROM fleet.map_replicas),"
	" EXISTS (SELECT FROM fleet.replica_slots)"
	" OR EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'fleet_departures')"
};
static FleetPlan serve_plan = {
	"SELECT fleet.serve_replicas()"
};
static FleetPlan beat_plan = {
	"INSERT INTO fleet.heartbeat AS h (region, hlc, beat, publications)"
	" VALUES ($1, $2::fleet.hlc, $3::fleet.hlc, fleet.publications_seen())"
	" ON CONFLICT (region) DO UPDATE SET hlc = excluded.hlc, beat = excluded.beat,"
	" publications = excluded.publications",
	3, {TEXTOID, INT8OID, INT8OID}
};
static FleetPlan sources_plan = {
	"SELECT region FROM fleet.replica_sources UNION SELECT name FROM fleet.map_regions ORDER BY 1"
};
static FleetPlan follow_plan = {
	"SELECT fleet.follow_region($1)", 1, {TEXTOID}
};
static FleetPlan collect_plan = {
	"SELECT fleet.collect_graves($1)", 1, {INT4OID}
};
static FleetPlan failed_plan = {
	"SELECT fleet.follow_failed($1, $2)", 2, {TEXTOID, TEXTOID}
};

/* What this node is to replicas. */
typedef struct Role
{
	MemoryContext context;		/* of the round */
	char	   *own;			/* its region, or NULL */
	bool		follows;		/* it is a replica */
	bool		serves;			/* it is none, and the map has replicas */
	bool		served;			/* it has slots or publications */
	List	   *sources;		/* regions that it follows */
} Role;

/* The next step with a region. */
typedef struct Following
{
	const char *region;
	const char *error;			/* of the step before */
	bool		more;			/* there is more to do at once */
} Following;

/* ---------- steps ---------- */

/* In a transaction of its own; an error ends only that.  Its text, or NULL. */
static char *
run(void (*step) (void *arg), void *arg, MemoryContext context)
{
	char	   *volatile error = NULL;

	PG_TRY();
	{
		fleet_commit_begin_step();
		SPI_connect();
		step(arg);
		SPI_finish();
		fleet_commit_end_step();
	}
	PG_CATCH();
	{
		ErrorData  *data;

		MemoryContextSwitchTo(context);
		data = CopyErrorData();
		error = psprintf("%s: %s", unpack_sql_state(data->sqlerrcode), data->message);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

static bool
is_true(int column)
{
	char	   *text = fleet_base_plan_text(0, column);

	return text != NULL && text[0] == 't';
}

static void
read_role(void *arg)
{
	Role	   *role = arg;
	char	   *own;

	fleet_base_plan_execute(&role_plan, NULL, NULL, NULL);
	own = fleet_base_plan_text(0, 1);
	role->own = own != NULL ? MemoryContextStrdup(role->context, own) : NULL;
	role->follows = is_true(2);
	role->serves = !role->follows && is_true(3);
	role->served = is_true(4);
}

static bool
is_due(TimestampTz *next, int interval)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < *next)
		return false;
	*next = TimestampTzPlusMilliseconds(now, interval);
	return true;
}

/* ---------- a region ---------- */

static void
serve(void *arg)
{
	fleet_base_plan_execute(&serve_plan, NULL, NULL, NULL);
}

/* See whether the candidate is proved, and take the next one then. */
static void
prove(void)
{
	if (candidate != 0 &&
		TransactionIdFollowsOrEquals(GetOldestActiveTransactionId(), candidate_next))
	{
		proved = candidate;
		candidate = 0;
	}
	if (candidate == 0)
	{
		candidate = fleet_clock_now();
		candidate_next = ReadNextTransactionId();
	}
}

static void
beat(void *arg)
{
	Datum		values[3];

	values[0] = CStringGetTextDatum(arg);
	values[1] = Int64GetDatum((int64) proved);
	values[2] = Int64GetDatum((int64) fleet_clock_now());
	fleet_base_plan_execute(&beat_plan, NULL, values, NULL);
}

/*
 * What runs now has mostly ended a moment later, so a second look makes the
 * heartbeat a fresh one.  All this before the step has a transaction number of its
 * own, which would be in its way.
 */
static void
send_heartbeat(const Role *role)
{
	uint64		wanted;

	prove();
	wanted = candidate;
	for (int i = 0; i < 10 && proved < wanted; i++)
	{
		if (i > 0)
			pg_usleep(1000L);
		prove();
	}
	if (proved != 0)
		(void) run(beat, role->own, role->context);
}

/* ---------- a replica ---------- */

static void
read_sources(void *arg)
{
	Role	   *role = arg;
	int			n = fleet_base_plan_execute(&sources_plan, NULL, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(role->context);

	for (int i = 0; i < n; i++)
		role->sources = lappend(role->sources, fleet_base_plan_text(i, 1));
	MemoryContextSwitchTo(old);
}

static void
follow(void *arg)
{
	Following  *f = arg;
	Datum		region = CStringGetTextDatum(f->region);

	fleet_base_plan_execute(&follow_plan, NULL, &region, NULL);
	f->more = is_true(1);
}

static void
note_failure(void *arg)
{
	Following  *f = arg;
	Datum		values[2] = {CStringGetTextDatum(f->region), CStringGetTextDatum(f->error)};

	fleet_base_plan_execute(&failed_plan, NULL, values, NULL);
}

/* One step with each region; true where there is more to do at once. */
static bool
follow_regions(Role *role)
{
	bool		more = false;
	ListCell   *cell;

	(void) run(read_sources, role, role->context);
	foreach(cell, role->sources)
	{
		Following	f = {.region = lfirst(cell)};

		f.error = run(follow, &f, role->context);
		if (f.error != NULL)
			(void) run(note_failure, &f, role->context);
		more = more || f.more;
	}
	return more;
}

/* Collect some graves; is there more of that? */
static void
collect(void *arg)
{
	Datum		max_rows = Int32GetDatum(COLLECT_ROWS);
	char	   *n;

	fleet_base_plan_execute(&collect_plan, NULL, &max_rows, NULL);
	n = fleet_base_plan_text(0, 1);
	*(bool *) arg = n != NULL && atoi(n) == COLLECT_ROWS;
}

/* ---------- the round ---------- */

static bool
run_replica_steps(MemoryContext context)
{
	Role		role = {.context = context};
	int			interval = Min(heartbeat_interval, 1000);

	if (run(read_role, &role, context) != NULL)
		return false;
	if ((role.serves || role.served) && is_due(&next_serve, interval))
		(void) run(serve, NULL, context);
	if (role.serves && role.own != NULL && is_due(&next_beat, heartbeat_interval))
		send_heartbeat(&role);
	if (!role.follows)
		return false;
	if (is_due(&next_follow, interval))
		copying = true;
	if (copying)
		copying = follow_regions(&role);
	if (is_due(&next_collect, interval))
		collecting = true;
	if (collecting && run(collect, &collecting, context) != NULL)
		collecting = false;
	return copying || collecting;
}

void
fleet_replica_init(void)
{
	fleet_replica_counters_init();
	DefineCustomIntVariable("fleet.heartbeat_interval",
							"Time between two heartbeats that a region sends to its replicas.",
							"Lower it where the replica's lag and watermark have to be known more exactly, at the price of idle work.",
							&heartbeat_interval, 1000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	fleet_commit_add_step(run_replica_steps);
}
