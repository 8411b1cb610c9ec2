/*-------------------------------------------------------------------------
 *
 * pull.c
 *	  Resolver, participant's side: finish what is prepared on this node.
 *
 * A prepared transaction of ours that is not quite new is one whose coordinator
 * did not come back to it.  Its gid names the coordinator; that node is asked and
 * answers as outcome.c says:
 *
 *	running		the coordinator will come: leave it.
 *	commit		commit it.
 *	abort		roll it back.
 *	unknown		the coordinator was promoted or restored since and may have
 *				lost its record.  Its word alone decides nothing.  If any node
 *				has applied its branch, the decision was commit.  If all nodes
 *				answer and none has, then no node, the coordinator included,
 *				has anything of it, and rolling back leaves all of them as
 *				they are.  While one does not answer, wait.
 *
 * "Abort" from a coordinator that finished the transaction long ago and has
 * removed its record is wrong for a node that went back in time to when the
 * branch was prepared.  So for a branch that is older than this node's own
 * incarnation, "abort" counts as "unknown".
 *
 * Before a node says that it has not applied its branch, it ends the sessions
 * of that coordinator (fleet.branch_evidence): a COMMIT PREPARED of the old
 * coordinator may be waiting there for a synchronous standby, or not be read
 * yet.  After that, a branch becomes applied only by a decision to commit, so
 * two nodes that decide by evidence cannot differ.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/pull.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "commit/gid.h"
#include "commit/resolver.h"
#include "region/map.h"

PG_FUNCTION_INFO_V1(fleet_commit_finish);

static FleetPlan prepared_plan = {
	"SELECT p.gid, m.name, p.prepared < (SELECT incarnation_since FROM fleet.node) FROM pg_catalog.pg_prepared_xacts AS p"
	" LEFT JOIN fleet.map_regions AS m ON m.node = pg_catalog.split_part(p.gid, ':', 2)"
	" LEFT JOIN fleet.resolution AS r ON r.gid = p.gid"
	" WHERE p.database = pg_catalog.current_database() AND p.gid LIKE 'fleet:%'"
	" AND p.prepared < pg_catalog.clock_timestamp() - $1 * interval '1 millisecond'"
	" AND (r.next_try IS NULL OR r.next_try <= now()) ORDER BY m.name, p.gid",
	1, {INT4OID}
};

static List *
read_prepared(MemoryContext context)
{
	Datum		age = Int32GetDatum(Min(fleet_commit_resolve_interval, FLEET_ASK_AGE_MS));
	List	   *doubts = NIL;
	int			n;

	fleet_commit_begin_step();
	SPI_connect();
	n = fleet_base_plan_execute(&prepared_plan, NULL, &age, NULL);
	for (int i = 0; i < n; i++)
	{
		char	   *gid = fleet_base_plan_text(i, 1);
		char	   *region = fleet_base_plan_text(i, 2);
		FleetGid	parsed;
		MemoryContext old;
		FleetDoubt *doubt;

		if (!fleet_commit_gid_parse(gid, &parsed))
			continue;			/* somebody else's who likes our prefix */
		if (region == NULL)
		{
			fleet_commit_failed(gid, "its coordinator is not in the region map", true);
			continue;
		}
		old = MemoryContextSwitchTo(context);
		doubt = palloc0(sizeof(FleetDoubt));
		doubt->gid = pstrdup(gid);
		doubt->dtxid = pnstrdup(gid, strrchr(gid, ':') - gid);
		doubt->region = pstrdup(region);
		doubt->older = strcmp(fleet_base_plan_text(i, 3), "t") == 0 &&
			!FLEET_FAULT_ON("pull-ignores-older");
		doubts = lappend(doubts, doubt);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	fleet_commit_end_step();
	return doubts;
}

/*
 * Commit or roll back one prepared transaction, in a transaction of its own.
 * That somebody else was quicker is no error.
 */
static void
finish(const char *gid, bool commit, MemoryContext context)
{
	StartTransactionCommand();
	PG_TRY();
	{
		FinishPreparedTransaction(gid, commit);
		CommitTransactionCommand();
		ereport(LOG,
				(errmsg("fleet: %s prepared transaction \"%s\"",
						commit ? "committed" : "rolled back", gid)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		if (error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT &&
			error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("fleet: could not finish \"%s\": %s", gid, error->message)));
	}
	PG_END_TRY();
}

/* Has the node of a region applied its branch?  't', 'f', or 0 for no answer. */
static char
ask_applied(const char *region, const char *dtxid)
{
	char	   *error = NULL;
	FleetConn  *conn = fleet_commit_peer(region, &error);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	const char *sql = FLEET_FAULT_ON("evidence-no-fence") ?
		"SELECT fleet.branch_applied($1)" : "SELECT fleet.branch_evidence($1)";
	char		answer = 0;

	if (conn != NULL &&
		fleet_remote_send(conn, sql, 1, &dtxid) &&
		fleet_remote_receive(conn, fleet_remote_deadline(FLEET_RESOLVER_ANSWER_MS),
							 &reply) == FLEET_REPLY_OK &&
		!PQgetisnull(reply.result, 0, 0))
		answer = PQgetvalue(reply.result, 0, 0)[0];
	fleet_remote_clear(&reply);
	return answer;
}

/* The outcome that all nodes together show, or NULL while one does not answer. */
static const char *
outcome_by_evidence(const char *dtxid)
{
	const FleetRegionMap *map = fleet_region_map();
	bool		all = true;

	for (int i = 0; i < map->nregion; i++)
	{
		char		answer;

		if (&map->regions[i] == map->own)
			continue;			/* here it is prepared, so not applied */
		answer = ask_applied(map->regions[i].name, dtxid);
		if (answer == 't')
			return "commit";
		all = all && (answer == 'f' || FLEET_FAULT_ON("evidence-missing-is-no"));
	}
	return all ? "abort" : NULL;
}

static void
act_on(FleetDoubt *doubt, const char *outcome, MemoryContext context)
{
	if (strcmp(outcome, "unknown") == 0 ||
		(doubt->older && strcmp(outcome, "abort") == 0))
	{
		fleet_commit_begin_step();
		outcome = outcome_by_evidence(doubt->dtxid);
		if (outcome == NULL)
			fleet_commit_failed(doubt->gid, "its coordinator was promoted or restored, "
								"and not every node answers", false);
		fleet_commit_end_step();
	}
	if (outcome == NULL || strcmp(outcome, "running") == 0)
		return;
	finish(doubt->gid, strcmp(outcome, "commit") == 0, context);
}

/* Ask the coordinator of these.  The answers in their order, or NIL. */
static List *
ask_outcomes(List *doubts, MemoryContext context)
{
	const char *region = ((FleetDoubt *) linitial(doubts))->region;
	char	   *error = NULL;
	FleetConn  *conn = fleet_commit_peer(region, &error);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	List	   *gids = NIL;
	List	   *outcomes = NIL;
	const char *param;
	ListCell   *cell;

	foreach(cell, doubts)
		gids = lappend(gids, ((FleetDoubt *) lfirst(cell))->gid);
	param = OidOutputFunctionCall(F_ARRAY_OUT, fleet_commit_text_array(gids));
	if (conn != NULL &&
		fleet_remote_send(conn, "SELECT unnest(fleet.outcomes($1::text[]))", 1, &param) &&
		fleet_remote_receive(conn, fleet_remote_deadline(FLEET_RESOLVER_ANSWER_MS),
							 &reply) == FLEET_REPLY_OK &&
		PQntuples(reply.result) == list_length(doubts))
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		for (int i = 0; i < list_length(doubts); i++)
			outcomes = lappend(outcomes, pstrdup(PQgetvalue(reply.result, i, 0)));
		MemoryContextSwitchTo(old);
	}
	else
	{
		if (conn != NULL)
			error = fleet_remote_error_text(conn, &reply);
		foreach(cell, gids)
			fleet_commit_failed(lfirst(cell), error, false);
	}
	fleet_remote_clear(&reply);
	return outcomes;
}

/* One round of the participant's side. */
void
fleet_commit_pull(MemoryContext context)
{
	List	   *rest;

	for (rest = read_prepared(context); rest != NIL;)
	{
		List	   *same;
		List	   *outcomes;
		ListCell   *doubt;
		ListCell   *outcome;

		MemoryContextSwitchTo(context);
		same = fleet_commit_next_peer(rest, &rest);
		fleet_commit_begin_step();
		outcomes = ask_outcomes(same, context);
		fleet_commit_end_step();
		if (outcomes == NIL)
			continue;
		forboth(doubt, same, outcome, outcomes)
			act_on(lfirst(doubt), lfirst(outcome), context);
	}
	MemoryContextSwitchTo(TopMemoryContext);
}

/*
 * fleet.finish_prepared(gid text, commit boolean): what fleet.resolve() does on
 * the node where the branch is prepared.  Like COMMIT PREPARED itself it takes
 * effect at once, whatever becomes of the calling transaction.
 */
Datum
fleet_commit_finish(PG_FUNCTION_ARGS)
{
	FinishPreparedTransaction(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}
