/*-------------------------------------------------------------------------
 *
 * distributed.c
 *	  The caller's transaction and its branches on other nodes.
 *
 * This backend is the coordinator.  A branch is one open transaction on
 * another node, on the one connection this backend has to it.
 *
 *	1. The first request to a node begins its branch, under the current
 *	   savepoint.  A request that must be redone if its PREPARE is lost is
 *	   recorded in fleet.decisions, by the caller's own (sub)transaction: what
 *	   ROLLBACK TO takes back here is taken back there, and in the record.
 *	2. PRE_COMMIT: PREPARE TRANSACTION on all branches at once, then wait for
 *	   all.  Any failure raises, so the local transaction aborts.
 *	3. The local commit is the decision: it makes the rows in fleet.decisions
 *	   visible and, by ForceSyncCommit, durable.  Before it no branch may
 *	   commit; after it no branch may roll back.
 *	4. COMMIT: COMMIT PREPARED on all branches at once, then wait, but no
 *	   longer than fleet.commit_timeout.  Nothing here throws.  What is not
 *	   confirmed is the resolver's.
 *	5. ABORT: branches are rolled back.  Where that cannot be done (or is not
 *	   known to be done) the connection is closed: an unprepared branch ends
 *	   with it, a prepared one is found by its node's resolver, which learns
 *	   from us that there is no record, and rolls back.
 *
 * The registry entry is made before step 1 and taken away after steps 4 or 5,
 * see registry.c for why.
 *
 * A branch's reply that nobody needs at once (an arrival in a transaction
 * that is a single statement) is read together with the reply to PREPARE,
 * which saves a round trip.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/distributed.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "base/worker.h"
#include "base/xact.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "commit/gid.h"
#include "commit/registry.h"
#include "region/map.h"
#include "remote/remote.h"

/* How long an abort waits for the peers to confirm that they rolled back. */
#define ABORT_TIMEOUT_MS 1000

typedef enum FleetBranchState
{
	BRANCH_OPEN,				/* its remote transaction runs */
	BRANCH_FAILED,				/* it cannot commit any more */
	BRANCH_PREPARING,			/* PREPARE sent: outcome unknown */
	BRANCH_PREPARED,
	BRANCH_COMMITTING,			/* COMMIT PREPARED sent */
	BRANCH_COMMITTED
} FleetBranchState;

struct FleetBranch
{
	FleetConn  *conn;
	FleetBranchState state;
	int			number;			/* n of the gid */
	int			level;			/* nesting level at which it was begun */
	int			savepoint;		/* deepest savepoint set, or level */
	FleetBranch *next;
};

/* The distributed transaction of this backend; in TopTransactionContext. */
typedef struct FleetDtx
{
	FleetGid	gid;
	char		name[FLEET_GID_MAX];
	instr_time	started;
	int			nbranch;		/* ever begun: the next one's number */
	FleetBranch *branches;
} FleetDtx;

int			fleet_commit_prepare_timeout = 5000;
int			fleet_commit_commit_timeout = 1000;
int			fleet_commit_lock_timeout = 1000;

static FleetDtx *dtx = NULL;
static bool worker_wanted = false;	/* once this transaction commits */

static FleetPlan decide_plan = {
	"INSERT INTO fleet.decisions (dtxid, branch, region, kind, payload)"
	" VALUES ($1, $2, $3, $4, $5::pg_catalog.jsonb)",
	5, {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID}
};

static void pre_commit(void);
static void pre_prepare(void);
static void committed(void);
static void aborted(void);
static void sub_pre_commit(int level);
static void sub_aborted(int level);

static const FleetXactHandlers handlers = {
	pre_commit, pre_prepare, committed, aborted, sub_pre_commit, sub_aborted
};

static void
branch_gid(const FleetBranch *branch, char *buf)
{
	FleetGid	gid = dtx->gid;

	gid.branch = branch->number;
	if (!fleet_commit_gid_format(&gid, buf, FLEET_GID_MAX))
		elog(PANIC, "fleet: gid too long");
}

/* ---------- taking part ---------- */

static void
name_transaction(FleetDtx *d)
{
	const FleetRegionMap *map = fleet_region_map_member();

	strlcpy(d->gid.node, map->node, sizeof(d->gid.node));
	strlcpy(d->gid.incarnation, fleet_region_incarnation(), sizeof(d->gid.incarnation));
	d->gid.fxid = U64FromFullTransactionId(GetTopFullTransactionId());
	d->gid.branch = -1;
	do
	{
		if (!pg_strong_random(&d->gid.nonce, sizeof(d->gid.nonce)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random nonce")));
	} while (d->gid.nonce == 0);
	if (!fleet_commit_gid_format(&d->gid, d->name, FLEET_GID_MAX - 6))
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("the name of node \"%s\" is too long", map->node)));
}

/* Make the caller's transaction a distributed one; returns its name. */
const char *
fleet_commit_begin(void)
{
	FleetDtx   *d;

	if (dtx != NULL)
		return dtx->name;
	PreventCommandIfReadOnly("a fleet handoff");
	d = MemoryContextAllocZero(TopTransactionContext, sizeof(FleetDtx));
	name_transaction(d);
	INSTR_TIME_SET_CURRENT(d->started);
	fleet_base_xact_handle(&handlers);
	fleet_commit_registry_enter(d->gid.nonce);
	dtx = d;
	return dtx->name;
}

/* Have a resolver started in this database when this transaction commits. */
void
fleet_commit_want_worker(void)
{
	fleet_base_xact_handle(&handlers);
	worker_wanted = true;
}

static FleetBranch *
find_branch(const char *region)
{
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
		if (strcmp(b->conn->region, region) == 0)
			return b;
	return NULL;
}

static void
send_or_fail(FleetBranch *branch, const char *sql, int nparams,
			 const char *const *params)
{
	if (!fleet_remote_send(branch->conn, sql, nparams, params))
	{
		FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

		branch->state = BRANCH_FAILED;
		fleet_remote_raise(branch->conn, &reply, sql);
	}
}

/* Set the savepoints that the caller has and the branch has not. */
static void
follow_savepoints(FleetBranch *branch)
{
	int			level = GetCurrentTransactionNestLevel();

	while (branch->savepoint < level)
	{
		char		sql[64];

		snprintf(sql, sizeof(sql), "SAVEPOINT fleet_s%d", branch->savepoint + 1);
		send_or_fail(branch, sql, 0, NULL);
		branch->savepoint++;
	}
}

/*
 * The branch of this transaction on the node of a region, begun if need be.
 * Raises an error where the node cannot be reached or the branch has failed.
 */
FleetBranch *
fleet_commit_join(const char *region)
{
	FleetBranch *branch;
	FleetConn  *conn;

	fleet_commit_begin();
	branch = find_branch(region);
	if (branch != NULL)
	{
		if (branch->state != BRANCH_OPEN || branch->conn->broken)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the transaction on region \"%s\" has failed", region)));
		follow_savepoints(branch);
		return branch;
	}

	conn = fleet_remote_connect(region);
	branch = MemoryContextAllocZero(TopTransactionContext, sizeof(FleetBranch));
	branch->conn = conn;
	branch->state = BRANCH_OPEN;
	branch->number = dtx->nbranch++;
	branch->level = branch->savepoint = GetCurrentTransactionNestLevel();
	branch->next = dtx->branches;
	dtx->branches = branch;
	conn->in_transaction = true;
	send_or_fail(branch, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", 0, NULL);
	return branch;
}

/* ---------- requests ---------- */

/*
 * After an error the rest only repeats that the transaction has failed; with
 * those replies read, ROLLBACK TO can still mend the branch.
 */
static void
skip_replies(FleetConn *conn, int64 deadline)
{
	while (!conn->broken && conn->pending > 0)
	{
		FleetReply	reply;

		(void) fleet_remote_receive(conn, deadline, &reply);
		fleet_remote_clear(&reply);
	}
}

/* Read all replies that are due; the last one is handed out. */
static void
drain(FleetBranch *branch, int64 deadline, const char *sql, FleetReply *last)
{
	last->status = FLEET_REPLY_OK;
	last->result = NULL;
	while (branch->conn->pending > 0)
	{
		fleet_remote_clear(last);
		if (fleet_remote_receive(branch->conn, deadline, last) != FLEET_REPLY_OK)
		{
			branch->state = BRANCH_FAILED;
			skip_replies(branch->conn, deadline);
			fleet_remote_raise(branch->conn, last, sql);
		}
	}
}

/*
 * Send a statement to the branch and wait: the first column of its first row,
 * palloc'd.  The wait covers the peer's wait for locks.
 */
char *
fleet_commit_ask(FleetBranch *branch, const char *sql, int nparams,
				 const char *const *params)
{
	FleetReply	reply;
	char	   *value = NULL;

	send_or_fail(branch, sql, nparams, params);
	drain(branch, fleet_remote_deadline(fleet_commit_prepare_timeout +
										fleet_commit_lock_timeout),
		  sql, &reply);
	if (PQntuples(reply.result) > 0 && !PQgetisnull(reply.result, 0, 0))
		value = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
	return value;
}

/*
 * Send a statement whose answer says nothing but yes.  In a transaction that
 * is this one statement the answer is waited for at its end; otherwise now, so
 * that an error can be caught where it belongs.
 */
void
fleet_commit_tell(FleetBranch *branch, const char *sql, int nparams,
				  const char *const *params)
{
	if (IsTransactionBlock() || GetCurrentTransactionNestLevel() > 1)
		(void) fleet_commit_ask(branch, sql, nparams, params);
	else
		send_or_fail(branch, sql, nparams, params);
}

/*
 * Record what the branch was asked to do.  The row is the decision to commit
 * once the caller's transaction commits, and what is sent again if the
 * branch's PREPARE turns out to be lost.
 */
void
fleet_commit_record(FleetBranch *branch, const char *kind, const char *payload)
{
	Datum		values[5];
	char		nulls[6] = "     ";
	FleetCaller caller;

	values[0] = CStringGetTextDatum(dtx->name);
	values[1] = Int32GetDatum(branch->number);
	values[2] = CStringGetTextDatum(branch->conn->region);
	values[3] = CStringGetTextDatum(kind);
	if (payload != NULL)
		values[4] = CStringGetTextDatum(payload);
	else
		nulls[4] = 'n';
	fleet_base_become_owner(&caller);
	SPI_connect();
	fleet_base_plan_execute(&decide_plan, NULL, values, nulls);
	SPI_finish();
	fleet_base_become_caller(&caller);
}

/* ---------- the end of the transaction ---------- */

static void
send_prepares(void)
{
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
	{
		char		gid[FLEET_GID_MAX];
		char		sql[FLEET_GID_MAX + 32];

		if (b->state != BRANCH_OPEN || b->conn->broken)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the transaction on region \"%s\" has failed", b->conn->region)));
		branch_gid(b, gid);
		snprintf(sql, sizeof(sql), "PREPARE TRANSACTION '%s'", gid);
		b->state = BRANCH_PREPARING;
		send_or_fail(b, sql, 0, NULL);
	}
}

static void
wait_for_prepares(void)
{
	int64		deadline = fleet_remote_deadline(fleet_commit_prepare_timeout +
												 fleet_commit_lock_timeout);

	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
	{
		FleetReply	reply;

		FLEET_FAULT("prepare-wait");
		drain(b, deadline, "PREPARE TRANSACTION", &reply);
		if (strcmp(PQcmdStatus(reply.result), "PREPARE TRANSACTION") != 0)
		{
			/* In a failed transaction PREPARE answers ROLLBACK. */
			b->state = BRANCH_FAILED;
			fleet_remote_clear(&reply);
			ereport(ERROR,
					(errcode(ERRCODE_TRANSACTION_ROLLBACK),
					 errmsg("region \"%s\" rolled the transaction back", b->conn->region)));
		}
		fleet_remote_clear(&reply);
		b->state = BRANCH_PREPARED;
	}
}

static void
pre_commit(void)
{
	if (dtx == NULL || dtx->branches == NULL)
		return;
	FLEET_FAULT("before-prepare");
	send_prepares();
	wait_for_prepares();
	FLEET_FAULT("after-prepare");
	ForceSyncCommit();
}

/*
 * A transaction that is a distributed one is committed by us, or not at all:
 * a local PREPARE would leave the decision to somebody else.
 */
static void
pre_prepare(void)
{
	if (dtx != NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_LOCAL_PREPARE),
				 errmsg("cannot PREPARE a transaction that has handed off rides"),
				 errdetail("fleet itself prepares it on the other nodes and decides by the local commit."),
				 errhint("Use COMMIT.")));
}

static void
send_commits(void)
{
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
	{
		char		gid[FLEET_GID_MAX];
		char		sql[FLEET_GID_MAX + 32];

		branch_gid(b, gid);
		snprintf(sql, sizeof(sql), "COMMIT PREPARED '%s'", gid);
		b->state = BRANCH_COMMITTING;
		FLEET_FAULT_NOTHROW("before-commit-prepared");
		if (fleet_remote_send(b->conn, sql, 0, NULL))
			(void) fleet_remote_send(b->conn, "SELECT fleet.hlc_now()::bigint", 0, NULL);
	}
}

/* True if the branch confirmed; its clock's stamp goes into *hlc. */
static bool
receive_commit(FleetBranch *branch, int64 deadline, uint64 *hlc)
{
	FleetReply	reply;
	bool		confirmed;

	if (fleet_remote_receive(branch->conn, deadline, &reply) != FLEET_REPLY_OK)
	{
		fleet_remote_clear(&reply);
		branch->conn->broken = true;
		return false;
	}
	branch->state = BRANCH_COMMITTED;
	fleet_remote_clear(&reply);
	FLEET_FAULT_NOTHROW("after-commit-prepared");

	confirmed = fleet_remote_receive(branch->conn, deadline, &reply) == FLEET_REPLY_OK &&
		PQntuples(reply.result) == 1;
	if (confirmed)
	{
		uint64		stamp = strtoull(PQgetvalue(reply.result, 0, 0), NULL, 10);

		(void) fleet_clock_try_receive(stamp);
		*hlc = Max(*hlc, stamp);
	}
	else
		branch->conn->broken = true;
	fleet_remote_clear(&reply);
	return confirmed;
}

static void
note_confirmed(uint64 hlc)
{
	FleetConfirmed confirmed = {.database = MyDatabaseId};
	instr_time	latency;

	INSTR_TIME_SET_CURRENT(latency);
	INSTR_TIME_SUBTRACT(latency, dtx->started);
	confirmed.fxid = dtx->gid.fxid;
	confirmed.nonce = dtx->gid.nonce;
	confirmed.hlc = Max(hlc, fleet_clock_now());
	confirmed.latency_ms = INSTR_TIME_GET_MILLISEC(latency);
	(void) fleet_commit_registry_confirm(&confirmed);
}

/* Let go of the connections and of the registry entry.  Never throws. */
static void
leave(void)
{
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
	{
		b->conn->in_transaction = false;
		if (b->conn->broken || b->conn->pending > 0)
			fleet_remote_discard(b->conn);
	}
	fleet_commit_registry_leave();
	dtx = NULL;
}

static void
committed(void)
{
	int64		deadline;
	uint64		hlc = 0;
	int			open = 0;

	if (worker_wanted)
		fleet_base_worker_wanted(MyDatabaseId);
	worker_wanted = false;
	if (dtx == NULL)
		return;
	FLEET_FAULT_NOTHROW("after-local-commit");
	send_commits();
	deadline = fleet_remote_deadline(fleet_commit_commit_timeout);
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
		if (!receive_commit(b, deadline, &hlc))
			open++;
	if (open == 0 && dtx->branches != NULL)
		note_confirmed(hlc);
	if (open > 0)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("the transaction is committed, but %d of its nodes did not confirm it yet", open),
				 errdetail("Transaction \"%s\" is finished there by the resolver.", dtx->name),
				 errhint("The view fleet.in_doubt shows what is open.")));
	leave();
	if (open > 0)
		fleet_base_worker_wake(MyDatabaseId);
}

/* Roll a branch back, as far as that can be said without waiting. */
static void
send_rollback(FleetBranch *branch)
{
	char		gid[FLEET_GID_MAX];
	char		sql[FLEET_GID_MAX + 32];

	if (branch->conn->pending > 0)
		branch->conn->broken = true;	/* busy, or its outcome is unknown */
	else if (branch->state == BRANCH_PREPARED)
	{
		branch_gid(branch, gid);
		snprintf(sql, sizeof(sql), "ROLLBACK PREPARED '%s'", gid);
		(void) fleet_remote_send(branch->conn, sql, 0, NULL);
	}
	else
		(void) fleet_remote_send(branch->conn, "ROLLBACK", 0, NULL);
}

static void
receive_rollback(FleetBranch *branch, int64 deadline)
{
	FleetReply	reply;

	if (branch->conn->broken || branch->conn->pending == 0)
		return;
	if (fleet_remote_receive(branch->conn, deadline, &reply) != FLEET_REPLY_OK)
		branch->conn->broken = true;
	fleet_remote_clear(&reply);
}

static void
aborted(void)
{
	int64		deadline = fleet_remote_deadline(ABORT_TIMEOUT_MS);

	worker_wanted = false;
	if (dtx == NULL)
		return;
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
		send_rollback(b);
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
		receive_rollback(b, deadline);
	leave();
}

/* ---------- savepoints ---------- */

/* Forget a branch whose whole life was inside what is rolled back. */
static void
drop_branch(FleetBranch *branch)
{
	FleetBranch **link = &dtx->branches;

	send_rollback(branch);
	receive_rollback(branch, fleet_remote_deadline(ABORT_TIMEOUT_MS));
	branch->conn->in_transaction = false;
	if (branch->conn->broken || branch->conn->pending > 0)
		fleet_remote_discard(branch->conn);
	while (*link != branch)
		link = &(*link)->next;
	*link = branch->next;
}

/* RELEASE on each branch that has this savepoint. */
static void
sub_pre_commit(int level)
{
	if (dtx == NULL)
		return;
	for (FleetBranch *b = dtx->branches; b != NULL; b = b->next)
	{
		char		sql[64];

		if (b->level >= level)
			b->level = b->savepoint = level - 1;
		else if (b->savepoint >= level)
		{
			snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT fleet_s%d", level);
			(void) fleet_commit_ask(b, sql, 0, NULL);
			b->savepoint = level - 1;
		}
	}
}

/*
 * ROLLBACK TO on each branch that has this savepoint.  Must not throw: a
 * branch where it fails can only be rolled back as a whole, and makes COMMIT
 * fail.
 */
static void
sub_aborted(int level)
{
	FleetBranch *next;

	if (dtx == NULL)
		return;
	for (FleetBranch *b = dtx->branches; b != NULL; b = next)
	{
		char		sql[128];

		next = b->next;
		if (b->level >= level)
			drop_branch(b);
		else if (b->savepoint >= level)
		{
			snprintf(sql, sizeof(sql), "ROLLBACK TO SAVEPOINT fleet_s%d", level);
			if (b->conn->pending > 0 || !fleet_remote_send(b->conn, sql, 0, NULL))
				b->conn->broken = true;
			snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT fleet_s%d", level);
			(void) fleet_remote_send(b->conn, sql, 0, NULL);
			receive_rollback(b, fleet_remote_deadline(ABORT_TIMEOUT_MS));
			receive_rollback(b, fleet_remote_deadline(ABORT_TIMEOUT_MS));
			b->savepoint = level - 1;
			b->state = b->conn->broken ? BRANCH_FAILED : BRANCH_OPEN;
		}
	}
}
