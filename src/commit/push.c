/*-------------------------------------------------------------------------
 *
 * push.c
 *	  Resolver, coordinator's side: have the participants finish what this
 *	  node decided, and write down what is settled.
 *
 * The order of observations:
 *
 *	1. Take what backends reported as confirmed, and settle it.
 *	2. Read the decision records that are left and not quite new.  Each is a
 *	   committed transaction of ours.
 *	3. Leave out those that still run: their backend is just telling its
 *	   participants, and will say how that went.  (One that reported after 1
 *	   is asked about once more, which does no harm.)
 *	4. Tell the participants of the rest COMMIT PREPARED.  "Does not exist"
 *	   (42704) has two meanings: it was committed before, or its PREPARE was
 *	   lost when the participant failed over.  The log row that the branch
 *	   itself wrote tells which: there -> committed; not there -> lost, and
 *	   the request in the decision record is made again.  That is harmless if
 *	   repeated, since each of its changes is guarded by the epoch.
 *	5. A transaction whose participants have all confirmed is settled: first
 *	   the departures on their source, then the decision record goes.  In the
 *	   other order a crash in between would leave departures unsettled for
 *	   ever.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/push.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/fault.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "commit/doubt.h"
#include "commit/gid.h"
#include "commit/registry.h"
#include "commit/resolver.h"
#include "commit/synced.h"
#include "region/map.h"

/* Most transactions that one round settles. */
#define SETTLE_BATCH 4096

/* Transactions to settle: parallel lists. */
typedef struct Settling
{
	int			n;
	char	  **dtxids;
	int64	   *hlcs;
	double	   *latencies;		/* < 0 where not known */
} Settling;

static FleetPlan records_plan = {
	"SELECT DISTINCT d.dtxid, d.branch, d.region, COALESCE(r.next_try > now(), false), d.decided_at"
	" FROM fleet.decisions AS d"
	" LEFT JOIN fleet.resolution AS r ON r.gid = d.dtxid || ':' || d.branch"
	" WHERE d.decided_at < now() - interval '200 milliseconds' ORDER BY d.region, d.dtxid"
};
static FleetPlan request_plan = {
	"SELECT fleet.branch_request($1, $2)::text", 2, {TEXTOID, INT4OID}
};
static FleetPlan sources_plan = {
	"SELECT DISTINCT region FROM fleet.decisions WHERE kind = 'depart' AND dtxid = ANY ($1)",
	1, {TEXTARRAYOID}
};
/* Those of the transactions that have a departure on one of these regions. */
static FleetPlan departed_plan = {
	"SELECT DISTINCT dtxid FROM fleet.decisions"
	" WHERE kind = 'depart' AND region = $1 AND dtxid = ANY ($2)",
	2, {TEXTOID, TEXTARRAYOID}
};
static FleetPlan settle_plan = {
	"SELECT unnest(fleet.settle($1, $2, $3))", 3, {TEXTARRAYOID, INT8ARRAYOID, FLOAT8ARRAYOID}
};
static FleetPlan done_plan = {
	"DELETE FROM fleet.decisions WHERE dtxid = ANY ($1)", 1, {TEXTARRAYOID}
};

static void
begin_step(void)
{
	fleet_commit_begin_step();
	SPI_connect();
}

static void
end_step(void)
{
	SPI_finish();
	fleet_commit_end_step();
}

/* Steps 2 and 3: the decisions whose transaction has ended, one for each branch. */
static List *
read_records(MemoryContext context)
{
	List	   *doubts = NIL;
	int			n;

	begin_step();
	n = fleet_base_plan_execute(&records_plan, NULL, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old;
		FleetDoubt *doubt;
		FleetGid	gid;
		char	   *dtxid = fleet_base_plan_text(i, 1);

		if (!fleet_commit_gid_parse(dtxid, &gid) ||
			fleet_commit_registry_is_running(gid.nonce))
			continue;
		old = MemoryContextSwitchTo(context);
		doubt = palloc0(sizeof(FleetDoubt));
		doubt->dtxid = pstrdup(dtxid);
		doubt->gid = psprintf("%s:%s", dtxid, fleet_base_plan_text(i, 2));
		doubt->region = pstrdup(fleet_base_plan_text(i, 3));
		doubt->waits = strcmp(fleet_base_plan_text(i, 4), "t") == 0;
		doubt->since = fleet_base_plan_int64(i, 5, NULL);
		if (!(doubt->waits && FLEET_FAULT_ON("push-forgets-waiting")))
			doubts = lappend(doubts, doubt);
		MemoryContextSwitchTo(old);
	}
	end_step();
	return doubts;
}

/* ---------- settling ---------- */

static Settling *
new_settling(int max)
{
	Settling   *s = palloc0(sizeof(Settling));

	s->dtxids = palloc(sizeof(char *) * Max(max, 1));
	s->hlcs = palloc(sizeof(int64) * Max(max, 1));
	s->latencies = palloc(sizeof(double) * Max(max, 1));
	return s;
}

static void
add_settling(Settling *s, char *dtxid, uint64 hlc, double latency_ms)
{
	s->dtxids[s->n] = dtxid;
	s->hlcs[s->n] = (int64) hlc;
	s->latencies[s->n] = latency_ms;
	s->n++;
}

/* What backends reported since the last round, by name. */
static Settling *
take_confirmed(MemoryContext context)
{
	FleetConfirmed *taken = palloc(sizeof(FleetConfirmed) * SETTLE_BATCH);
	int			n = fleet_commit_registry_take(taken, SETTLE_BATCH);
	Settling   *s = new_settling(n);
	const FleetRegionMap *map;
	FleetGid	gid = {.branch = -1};

	if (n == 0)
		return s;
	begin_step();
	map = fleet_region_map();
	strlcpy(gid.node, map->node ? map->node : "", sizeof(gid.node));
	strlcpy(gid.incarnation, fleet_region_incarnation(), sizeof(gid.incarnation));
	end_step();
	for (int i = 0; i < n; i++)
	{
		char		name[FLEET_GID_MAX];

		gid.fxid = taken[i].fxid;
		gid.nonce = taken[i].nonce;
		fleet_commit_gid_format(&gid, name, sizeof(name));
		add_settling(s, MemoryContextStrdup(context, name), taken[i].hlc,
					 taken[i].latency_ms);
	}
	return s;
}

/* The arguments of fleet.settle for some of the transactions. */
static void
settle_arguments(const Settling *s, Datum *values)
{
	Datum	   *names = palloc(sizeof(Datum) * s->n);
	Datum	   *hlcs = palloc(sizeof(Datum) * s->n);
	Datum	   *latencies = palloc(sizeof(Datum) * s->n);

	for (int i = 0; i < s->n; i++)
	{
		names[i] = CStringGetTextDatum(s->dtxids[i]);
		hlcs[i] = Int64GetDatum(s->hlcs[i]);
		latencies[i] = Float8GetDatum(s->latencies[i]);
	}
	values[0] = PointerGetDatum(construct_array(names, s->n, TEXTOID, -1, false, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(hlcs, s->n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(latencies, s->n, FLOAT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* One request of the resolver.  False, with the connection broken, on no answer. */
static bool
ask(FleetConn *conn, const char *sql, int nparams, const char *const *params,
	FleetReply *reply)
{
	reply->status = FLEET_REPLY_BROKEN;
	reply->result = NULL;
	return fleet_remote_send(conn, sql, nparams, params) &&
		fleet_remote_receive(conn, fleet_remote_deadline(FLEET_RESOLVER_ANSWER_MS),
							 reply) <= FLEET_REPLY_ERROR;
}

/*
 * Have another node settle its departures.  Adds to *open the transactions of which
 * that could not be done.
 */
static void
settle_remote(const char *region, Datum *values, List **open)
{
	char	   *error = NULL;
	FleetConn  *conn = fleet_commit_peer(region, &error);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	const char *params[3];

	FLEET_FAULT("before-settle-source");
	for (int i = 0; i < 3; i++)
		params[i] = OidOutputFunctionCall(F_ARRAY_OUT, values[i]);
	if (conn != NULL &&
		ask(conn, "SELECT unnest(fleet.settle($1::text[], $2::bigint[], $3::float8[]))",
			3, params, &reply) && reply.status == FLEET_REPLY_OK)
	{
		for (int i = 0; i < PQntuples(reply.result); i++)
			*open = lappend(*open, pstrdup(PQgetvalue(reply.result, i, 0)));
	}
	else if (!FLEET_FAULT_ON("settle-forgets-untold"))
	{
		Datum		told[2] = {CStringGetTextDatum(region), values[0]};
		int			n = fleet_base_plan_execute(&departed_plan, NULL, told, NULL);

		for (int i = 0; i < n; i++)
			*open = lappend(*open, fleet_base_plan_text(i, 1));
	}
	fleet_remote_clear(&reply);
}

/* The other regions that any of the transactions has departures on. */
static List *
sources_of(Datum *values)
{
	List	   *regions = NIL;
	int			n = fleet_base_plan_execute(&sources_plan, NULL, values, NULL);

	for (int i = 0; i < n; i++)
		regions = lappend(regions, fleet_base_plan_text(i, 1));
	return regions;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Without the transactions of that list. */
static const Settling *
without(const Settling *s, List *open)
{
	Settling   *rest = new_settling(s->n);
	int			n = list_length(open);
	char	  **names = palloc(sizeof(char *) * Max(n, 1));
	ListCell   *cell;

	n = 0;
	foreach(cell, open)
		names[n++] = lfirst(cell);
	qsort(names, n, sizeof(char *), compare_names);
	for (int i = 0; i < s->n; i++)
		if (n == 0 || bsearch(&s->dtxids[i], names, n, sizeof(char *), compare_names) == NULL)
			add_settling(rest, s->dtxids[i], s->hlcs[i], s->latencies[i]);
	return rest;
}

/*
 * Step 5.  Departures on other nodes first.  A record whose source cannot be
 * told, or is held up, stays for another round, and so do its departures here:
 * while a record is there, the departures here are open (see fleet.arriving).
 */
static void
settle(const Settling *s)
{
	List	   *open = NIL;
	ListCell   *cell;
	Datum		values[3];
	int			n;

	if (s->n == 0)
		return;
	begin_step();
	settle_arguments(s, values);
	foreach(cell, sources_of(values))
		settle_remote(lfirst(cell), values, &open);
	s = without(s, open);
	settle_arguments(s, values);

	FLEET_FAULT("before-settle");
	open = NIL;
	n = fleet_base_plan_execute(&settle_plan, NULL, values, NULL);
	for (int i = 0; i < n; i++)
		open = lappend(open, fleet_base_plan_text(i, 1));
	settle_arguments(without(s, open), values);
	fleet_base_plan_execute(&done_plan, NULL, values, NULL);
	end_step();
}

/* ---------- telling the participants ---------- */

/* Make the request of a lost branch again.  NULL, or what went wrong. */
static char *
redo(FleetConn *conn, FleetDoubt *doubt)
{
	Datum		values[2];
	const char *params[2];
	FleetReply	reply;
	char	   *error = NULL;

	ereport(LOG,
			(errmsg("fleet: the PREPARE of \"%s\" is lost on region \"%s\", its request is made again",
					doubt->gid, doubt->region)));
	values[0] = CStringGetTextDatum(doubt->dtxid);
	values[1] = Int32GetDatum(atoi(strrchr(doubt->gid, ':') + 1));
	SPI_connect();
	fleet_base_plan_execute(&request_plan, NULL, values, NULL);
	params[0] = doubt->dtxid;
	params[1] = fleet_base_plan_text(0, 1);
	if (!ask(conn, "SELECT fleet.redo($1, $2::jsonb)", 2, params, &reply) ||
		reply.status != FLEET_REPLY_OK)
		error = MemoryContextStrdup(TopTransactionContext,
									fleet_remote_error_text(conn, &reply));
	fleet_remote_clear(&reply);
	SPI_finish();
	return error;
}

/* Has it applied its branch?  't', 'f', or 0 for no answer. */
static char
branch_is_applied(FleetConn *conn, FleetDoubt *doubt)
{
	FleetReply	reply;
	char		applied = 0;

	if (FLEET_FAULT_ON("push-trusts-missing"))
		return 't';
	if (ask(conn, "SELECT fleet.branch_applied($1)", 1,
			(const char *const *) &doubt->dtxid, &reply) &&
		reply.status == FLEET_REPLY_OK)
		applied = PQgetvalue(reply.result, 0, 0)[0];
	fleet_remote_clear(&reply);
	return applied;
}

static void
confirm(FleetConn *conn, FleetDoubt *doubt)
{
	FleetReply	reply;

	if (ask(conn, "SELECT fleet.hlc_now()::bigint", 0, NULL, &reply) &&
		reply.status == FLEET_REPLY_OK)
	{
		doubt->hlc = strtoull(PQgetvalue(reply.result, 0, 0), NULL, 10);
		(void) fleet_clock_try_receive(doubt->hlc);
		doubt->confirmed = true;
	}
	fleet_remote_clear(&reply);
}

/* Step 4 for one branch. */
static void
push_branch(FleetConn *conn, FleetDoubt *doubt)
{
	FleetReply	reply;
	char	   *error = NULL;
	char		applied;

	if (!ask(conn, psprintf("COMMIT PREPARED '%s'", doubt->gid), 0, NULL, &reply))
		error = fleet_remote_error_text(conn, &reply);
	else if (reply.status == FLEET_REPLY_ERROR)
	{
		error = fleet_remote_error_text(conn, &reply);
		applied = fleet_remote_is_sqlstate(&reply, "42704") ?
			branch_is_applied(conn, doubt) : 0;
		if (applied == 't')
			error = NULL;
		else if (applied == 'f' && !FLEET_FAULT_ON("push-no-redo"))
			error = redo(conn, doubt);
	}
	fleet_remote_clear(&reply);
	if (error == NULL)
		confirm(conn, doubt);
	else
		fleet_commit_failed(doubt->gid, error, !conn->broken);
}

static void
push_to_peer(List *doubts)
{
	char	   *error = NULL;
	FleetConn  *conn;
	ListCell   *cell;

	fleet_commit_begin_step();
	conn = fleet_commit_peer(((FleetDoubt *) linitial(doubts))->region, &error);
	foreach(cell, doubts)
	{
		FleetDoubt *doubt = lfirst(cell);

		if (doubt->waits)
			continue;			/* and so its transaction is not settled either */
		if (conn != NULL && !conn->broken)
			push_branch(conn, doubt);
		else
			fleet_commit_failed(doubt->gid, error ? error : "the connection was lost", false);
	}
	fleet_commit_end_step();
	foreach(cell, doubts)
	{
		FleetDoubt *doubt = lfirst(cell);

		if (!doubt->confirmed)
			fleet_commit_doubt_note(doubt->region, doubt->gid, doubt->since);
	}
}

static int
by_dtxid(const ListCell *a, const ListCell *b)
{
	return strcmp(((FleetDoubt *) lfirst(a))->dtxid, ((FleetDoubt *) lfirst(b))->dtxid);
}

/* The transactions none of whose branches is open any more. */
static Settling *
all_confirmed(List *doubts)
{
	Settling   *s = new_settling(list_length(doubts));
	int			i = 0;

	list_sort(doubts, by_dtxid);
	while (i < list_length(doubts))
	{
		FleetDoubt *doubt = list_nth(doubts, i);
		uint64		hlc = fleet_clock_now();
		bool		all = true;

		for (; i < list_length(doubts); i++)
		{
			FleetDoubt *branch = list_nth(doubts, i);

			if (strcmp(branch->dtxid, doubt->dtxid) != 0)
				break;
			all = all && (branch->confirmed || FLEET_FAULT_ON("settle-unconfirmed"));
			hlc = Max(hlc, branch->hlc);
		}
		if (all)
			add_settling(s, doubt->dtxid, hlc, -1);
	}
	return s;
}

/* One round of the coordinator's side. */
void
fleet_commit_push(MemoryContext context)
{
	List	   *doubts;
	List	   *rest;

	MemoryContextSwitchTo(context);
	settle(take_confirmed(context));
	doubts = read_records(context);
	if (doubts != NIL && !fleet_commit_is_synced(GetFlushRecPtr(NULL), FLEET_SYNCED_WAIT_MS))
	{
		MemoryContextSwitchTo(TopMemoryContext);
		return;					/* a failover would undo them */
	}
	for (rest = doubts; rest != NIL;)
	{
		List	   *same;

		MemoryContextSwitchTo(context);
		same = fleet_commit_next_peer(rest, &rest);
		push_to_peer(same);
	}
	MemoryContextSwitchTo(context);
	settle(all_confirmed(doubts));
	MemoryContextSwitchTo(TopMemoryContext);
}
