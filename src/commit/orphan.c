/*-------------------------------------------------------------------------
 *
 * orphan.c
 *	  Resolver, source's side: settle departures that no coordinator will.
 *
 * Departures are settled by their coordinator, before it removes its decision
 * record (push.c).  A coordinator that has lost the record does not come; nor
 * does one that removed it long ago, to a source that went back in time since.
 * The order of observations:
 *
 *	1. Read the departures that have been unsettled for a while.  Each that is
 *	   visible was decided: commit.
 *	2. Ask the coordinator.  Where it says "running" or "commit" it will come.
 *	   "Abort" or "unknown": it has no record, and as records go last, it will
 *	   never come.
 *	3. Ask the targets whether they have applied their branch.  Once all have,
 *	   the departures are settled with the latest of their stamps.
 *
 * A target that has not applied its branch may have it prepared, and will
 * commit it by evidence (pull.c): ask again.  One that has lost it is not given
 * the rows again from here: that is only right where nobody has seen them
 * since, which without a decision record this node does not know.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/orphan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/fault.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "commit/resolver.h"

/* Rounds that a coordinator is given to settle by itself. */
#define PATIENCE_ROUNDS 10

/* A coordinator that takes longer is left alone for the rest of the round. */
#define SLOW_MS 200

/* One transaction with unsettled departures here, at one of its targets. */
typedef struct Orphan
{
	char	   *dtxid;
	char	   *coordinator;	/* region */
	char	   *target;			/* region */
} Orphan;

static FleetPlan unsettled_plan = {
	"SELECT DISTINCT d.dtxid, m.name, d.target FROM fleet.departures AS d"
	" JOIN fleet.map_regions AS m ON m.node = pg_catalog.split_part(d.dtxid, ':', 2)"
	" WHERE d.settled_hlc IS NULL AND d.dtxid IS NOT NULL AND d.target IS NOT NULL"
	" AND NOT EXISTS (SELECT FROM fleet.decisions AS c WHERE c.dtxid = d.dtxid)"
	" AND d.departed_at < pg_catalog.clock_timestamp() - $1 * interval '1 millisecond'"
	" ORDER BY m.name, d.dtxid",
	1, {INT4OID}
};
static FleetPlan settle_plan = {
	"SELECT FROM fleet.settle(ARRAY[$1], ARRAY[$2], ARRAY[-1.0::float8]) AS busy WHERE busy = '{}'", 2, {TEXTOID, INT8OID}
};

/* Step 1. */
static List *
read_unsettled(MemoryContext context)
{
	Datum		age = Int32GetDatum(PATIENCE_ROUNDS * fleet_commit_resolve_interval);
	List	   *orphans = NIL;
	int			n;

	fleet_commit_begin_step();
	SPI_connect();
	n = fleet_base_plan_execute(&unsettled_plan, NULL, &age, NULL);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		Orphan	   *orphan = palloc(sizeof(Orphan));

		orphan->dtxid = fleet_base_plan_text(i, 1);
		orphan->coordinator = fleet_base_plan_text(i, 2);
		orphan->target = fleet_base_plan_text(i, 3);
		orphans = lappend(orphans, orphan);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	fleet_commit_end_step();
	return orphans;
}

/* A request with the transaction's name; the reply's value or NULL. */
static char *
ask(const char *region, const char *sql, const char *dtxid)
{
	char	   *error = NULL;
	FleetConn  *conn = fleet_commit_peer(region, &error);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	char	   *answer = NULL;

	if (conn != NULL && fleet_remote_send(conn, sql, 1, &dtxid) &&
		fleet_remote_receive(conn, fleet_remote_deadline(FLEET_RESOLVER_ANSWER_MS),
							 &reply) == FLEET_REPLY_OK &&
		!PQgetisnull(reply.result, 0, 0))
		answer = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
	return answer;
}

/* Step 2. */
static bool
has_no_record(const Orphan *orphan)
{
	char	   *outcome = ask(orphan->coordinator, "SELECT (fleet.outcomes(ARRAY[$1]))[1]",
							  orphan->dtxid);

	return outcome != NULL &&
		(strcmp(outcome, "abort") == 0 || strcmp(outcome, "unknown") == 0);
}

/* Step 3 for one target: its stamp, or 0 while it has not applied its branch. */
static uint64
applied_at(const Orphan *orphan)
{
	char	   *stamp = ask(orphan->target, "SELECT CASE WHEN fleet.branch_applied($1)"
							" THEN fleet.hlc_now()::bigint END", orphan->dtxid);

	if (stamp == NULL)
		return 0;
	(void) fleet_clock_try_receive(strtoull(stamp, NULL, 10));
	return fleet_clock_now();
}

/* Settle the transaction of the first of these, whose targets they are. */
static void
settle_one(List *same)
{
	const Orphan *first = linitial(same);
	Datum		values[2];
	uint64		hlc = 0;
	ListCell   *cell;

	fleet_commit_begin_step();
	if (has_no_record(first))
	{
		foreach(cell, same)
		{
			hlc = applied_at(lfirst(cell));
			if (hlc == 0)
				break;
		}
	}
	if (hlc != 0)
	{
		SPI_connect();
		values[0] = CStringGetTextDatum(first->dtxid);
		values[1] = Int64GetDatum((int64) hlc);
		if (fleet_base_plan_execute(&settle_plan, NULL, values, NULL) > 0)
			ereport(LOG,
					(errmsg("fleet: settled the departures of \"%s\", of which its coordinator has no record",
							first->dtxid)));
		SPI_finish();
	}
	fleet_commit_end_step();
}

/* One round. */
void
fleet_commit_settle_orphans(MemoryContext context)
{
	List	   *orphans;
	char		slow[NAMEDATALEN] = "";	/* coordinator that took its time */

	if (FLEET_FAULT_ON("orphans-stay"))
		return;
	orphans = read_unsettled(context);
	while (orphans != NIL)
	{
		List	   *same = NIL;

		MemoryContextSwitchTo(context);
		do
		{
			same = lappend(same, linitial(orphans));
			orphans = list_delete_first(orphans);
		} while (orphans != NIL && strcmp(((Orphan *) linitial(orphans))->dtxid,
										  ((Orphan *) linitial(same))->dtxid) == 0);
		if (strcmp(slow, ((Orphan *) linitial(same))->coordinator) != 0)
		{
			int64		started = fleet_remote_deadline(0);

			settle_one(same);
			if (fleet_remote_deadline(0) - started > SLOW_MS)
				strlcpy(slow, ((Orphan *) linitial(same))->coordinator, NAMEDATALEN);
		}
	}
	MemoryContextSwitchTo(TopMemoryContext);
}
