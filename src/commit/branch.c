/*-------------------------------------------------------------------------
 *
 * branch.c
 *	  One node's part in this backend's distributed transaction: requests,
 *	  records, savepoints.
 *
 * A branch is one open transaction on another node, on the one connection that
 * this backend has to it.  It is begun by the first request, under the
 * caller's savepoint, and follows the caller's savepoints from then on:
 *
 *	level		nesting level that the branch belongs to.  When that level is
 *				rolled back nothing of the branch is left, so it is dropped.
 *	savepoint	deepest level for which the branch has a savepoint.  They are
 *				set only when a request is made that deep.
 *
 * A request whose reply nobody needs at once (an arrival in a transaction that is
 * a single statement) is sent without a synchronisation point: the peer works on
 * it, and answers together with the answer to PREPARE.  That saves a round trip,
 * and the peer a flush.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/branch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "base/table.h"
#include "commit/branch.h"
#include "commit/doubt.h"

#define BEGIN_SQL "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
#define LOG_CALLS_SQL "SELECT fleet.log_calls($1)"

static FleetTable decisions = {.name = "decisions"};

/* The name of the branch's prepared transaction; buf has FLEET_GID_MAX bytes. */
void
fleet_commit_branch_gid(const FleetBranch *branch, char *buf)
{
	FleetGid	gid = fleet_commit_dtx->gid;

	gid.branch = branch->number;
	if (!fleet_commit_gid_format(&gid, buf, FLEET_GID_MAX))
		elog(PANIC, "fleet: gid too long");
}

static FleetBranch *
find_branch(const char *region)
{
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		if (strcmp(b->conn->region, region) == 0)
			return b;
	return NULL;
}

static void
raise_lost(FleetBranch *branch, const char *sql)
{
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

	branch->state = BRANCH_FAILED;
	fleet_remote_raise(branch->conn, &reply, sql);
}

/* Send a statement without parameters, or raise an error with the branch failed. */
void
fleet_commit_branch_send(FleetBranch *branch, const char *sql)
{
	if (!fleet_remote_send(branch->conn, sql, 0, NULL))
		raise_lost(branch, sql);
}

/* The same for a request, which is a string constant. */
static void
send_request(FleetBranch *branch, const char *sql, int nparams,
			 const char *const *params)
{
	if (!fleet_remote_send_prepared(branch->conn, sql, nparams, params))
		raise_lost(branch, sql);
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
		if (!fleet_remote_queue(branch->conn, sql))
			raise_lost(branch, sql);
		branch->savepoint++;
	}
}

/* Raise an error where the branch cannot go on. */
void
fleet_commit_branch_require_open(const FleetBranch *branch)
{
	if (branch->state != BRANCH_OPEN || branch->conn->broken)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the transaction on region \"%s\" has failed", branch->conn->region)));
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

	fleet_commit_attend();
	branch = find_branch(region);
	if (branch != NULL)
	{
		fleet_commit_branch_require_open(branch);
		follow_savepoints(branch);
		return branch;
	}

	fleet_commit_doubt_refuse(region);
	conn = fleet_remote_connect(region);
	branch = MemoryContextAllocZero(TopTransactionContext, sizeof(FleetBranch));
	branch->conn = conn;
	branch->state = BRANCH_OPEN;
	branch->number = fleet_commit_dtx->nbranch++;
	branch->level = branch->savepoint = GetCurrentTransactionNestLevel();
	branch->next = fleet_commit_dtx->branches;
	fleet_commit_dtx->branches = branch;
	conn->in_transaction = true;

	/* Part of the first request: without a transaction it must not run. */
	if (!fleet_remote_queue_prepared(conn, BEGIN_SQL, 0, NULL))
		raise_lost(branch, BEGIN_SQL);
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
void
fleet_commit_branch_drain(FleetBranch *branch, int64 deadline, const char *sql, FleetReply *last)
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

/* Wait for all replies: the first column of the last one's first row, palloc'd. */
static char *
receive_answer(FleetBranch *branch, const char *sql)
{
	FleetReply	reply;
	char	   *value = NULL;

	fleet_commit_branch_drain(branch,
							  fleet_remote_deadline(fleet_commit_prepare_timeout +
													fleet_commit_lock_timeout),
							  sql, &reply);
	if (PQntuples(reply.result) > 0 && !PQgetisnull(reply.result, 0, 0))
		value = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
	return value;
}

/*
 * Make a request of the branch (a string constant) and wait for its answer.
 * The wait covers the peer's wait for locks.
 */
char *
fleet_commit_ask(FleetBranch *branch, const char *sql, int nparams,
				 const char *const *params)
{
	send_request(branch, sql, nparams, params);
	return receive_answer(branch, sql);
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
	{
		branch->told = sql;
		if (!fleet_remote_queue_prepared(branch->conn, sql, nparams, params) ||
			!fleet_remote_flush(branch->conn))
			raise_lost(branch, sql);
	}
}

/*
 * Record what the branch was asked to do.  The row is the decision to commit
 * once the caller's transaction commits, and what is sent again if the
 * branch's PREPARE turns out to be lost; payload is JSON, or NULL where other
 * records tell (fleet.branch_request).
 */
void
fleet_commit_record(FleetBranch *branch, const char *kind, const char *payload)
{
	FleetOpenTable open;
	FleetCaller caller;

	(void) fleet_commit_begin();
	fleet_base_become_owner(&caller);
	fleet_base_table_open(&decisions, true, &open);
	fleet_base_table_clear(&open);
	fleet_base_table_set(&open, "seq", Int32GetDatum(fleet_commit_dtx->nrecord++));
	fleet_base_table_set_text(&open, "dtxid", fleet_commit_dtx->name);
	fleet_base_table_set(&open, "branch", Int32GetDatum(branch->number));
	fleet_base_table_set_text(&open, "region", branch->conn->region);
	fleet_base_table_set_text(&open, "kind", kind);
	if (payload != NULL)
		fleet_base_table_set(&open, "payload",
							 DirectFunctionCall1(jsonb_in, CStringGetDatum(payload)));
	fleet_base_table_set(&open, "decided_at",
						 TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()));
	fleet_base_table_insert(&open);
	fleet_base_table_close(&open);
	fleet_base_become_caller(&caller);
	branch->recorded = true;
}

/*
 * Note that the branch was asked to change something, for the case that it must
 * be prepared: whether it must is not known before the end of the transaction.
 */
void
fleet_commit_note_call(FleetBranch *branch, const char *payload)
{
	FleetCall **link = &branch->calls;
	FleetCall  *call = MemoryContextAlloc(TopTransactionContext, sizeof(FleetCall));

	call->level = GetCurrentTransactionNestLevel();
	call->payload = MemoryContextStrdup(TopTransactionContext, payload);
	call->next = NULL;
	while (*link != NULL)
		link = &(*link)->next;
	*link = call;
}

/* The branch will be prepared: record its calls, and have it leave proof of them. */
void
fleet_commit_record_calls(FleetBranch *branch)
{
	const char *name;

	if (branch->calls == NULL)
		return;
	for (FleetCall *call = branch->calls; call != NULL; call = call->next)
		fleet_commit_record(branch, "call", call->payload);
	branch->calls = NULL;
	name = fleet_commit_dtx->name;
	if (!fleet_remote_queue_prepared(branch->conn, LOG_CALLS_SQL, 1, &name))
		raise_lost(branch, LOG_CALLS_SQL);
}

/* ---------- rolling back ---------- */

/*
 * A branch whose PREPARE has not been answered when another one fails is
 * prepared, or soon will be.  To wait a moment for the answer is better than to
 * leave it to the resolver of its node.
 */
void
fleet_commit_branch_await_prepare(FleetBranch *branch, int64 deadline)
{
	FleetReply	reply;
	FleetReplyStatus status;

	if (branch->state != BRANCH_PREPARING || branch->conn->broken ||
		branch->conn->pending != 1)
		return;
	status = fleet_remote_receive(branch->conn, deadline, &reply);
	if (status == FLEET_REPLY_OK &&
		strcmp(PQcmdStatus(reply.result), "PREPARE TRANSACTION") == 0)
		branch->state = BRANCH_PREPARED;
	else if (status == FLEET_REPLY_OK || status == FLEET_REPLY_ERROR)
		branch->state = BRANCH_FAILED;
	fleet_remote_clear(&reply);
}

/* Roll a branch back, as far as that can be said without waiting. */
void
fleet_commit_branch_send_rollback(FleetBranch *branch)
{
	char		gid[FLEET_GID_MAX];
	char		sql[FLEET_GID_MAX + 32];

	if (branch->conn->pending > 0)
		branch->conn->broken = true;	/* busy, or its outcome is unknown */
	else if (branch->state == BRANCH_PREPARED)
	{
		fleet_commit_branch_gid(branch, gid);
		snprintf(sql, sizeof(sql), "ROLLBACK PREPARED '%s'", gid);
		(void) fleet_remote_send(branch->conn, sql, 0, NULL);
	}
	else
		(void) fleet_remote_send(branch->conn, "ROLLBACK", 0, NULL);
}

/* Wait for the reply to that; without one the connection is broken. */
void
fleet_commit_branch_receive_rollback(FleetBranch *branch, int64 deadline)
{
	FleetReply	reply;

	if (branch->conn->broken || branch->conn->pending == 0)
		return;
	if (fleet_remote_receive(branch->conn, deadline, &reply) != FLEET_REPLY_OK)
		branch->conn->broken = true;
	fleet_remote_clear(&reply);
}

/* Let go of the branch's connection; one that is not clean is closed. */
void
fleet_commit_branch_release(FleetBranch *branch)
{
	branch->conn->in_transaction = false;
	if (branch->conn->broken || fleet_remote_is_busy(branch->conn))
		fleet_remote_discard(branch->conn);
}

/* ---------- savepoints ---------- */

/* Forget a branch whose whole life was inside what is rolled back. */
static void
drop_branch(FleetBranch *branch)
{
	FleetBranch **link = &fleet_commit_dtx->branches;

	fleet_commit_branch_send_rollback(branch);
	fleet_commit_branch_receive_rollback(branch, fleet_remote_deadline(FLEET_ABORT_TIMEOUT_MS));
	fleet_commit_branch_release(branch);
	while (*link != branch)
		link = &(*link)->next;
	*link = branch->next;
}

/*
 * End the branches that were asked but told to do nothing: there is nothing to
 * prepare there.
 */
void
fleet_commit_end_idle_branches(void)
{
	FleetBranch *next;

	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = next)
	{
		next = b->next;
		if (!b->recorded && b->calls == NULL)
			drop_branch(b);
	}
}

/*
 * RELEASE on each branch that has this savepoint, as part of what is sent next.
 * Nothing can fail here; if RELEASE fails there, so does that request, or PREPARE.
 */
void
fleet_commit_sub_committed(int level)
{
	if (fleet_commit_dtx == NULL)
		return;
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
	{
		char		sql[64];

		for (FleetCall *call = b->calls; call != NULL; call = call->next)
			call->level = Min(call->level, level - 1);
		if (b->level >= level)
			b->level = b->savepoint = level - 1;
		else if (b->savepoint >= level)
		{
			snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT fleet_s%d", level);
			if (!fleet_remote_queue(b->conn, sql))
				b->state = BRANCH_FAILED;
			b->savepoint = level - 1;
		}
	}
}

/* They are in order of their levels as well. */
static void
forget_calls(FleetBranch *branch, int level)
{
	FleetCall **link = &branch->calls;

	while (*link != NULL && (*link)->level < level)
		link = &(*link)->next;
	*link = NULL;
}

static void
roll_back_to(FleetBranch *branch, int level)
{
	int64		deadline = fleet_remote_deadline(FLEET_ABORT_TIMEOUT_MS);
	char		sql[64];

	snprintf(sql, sizeof(sql), "ROLLBACK TO SAVEPOINT fleet_s%d", level);
	if (branch->conn->pending > 0 || !fleet_remote_send(branch->conn, sql, 0, NULL))
		branch->conn->broken = true;
	snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT fleet_s%d", level);
	(void) fleet_remote_send(branch->conn, sql, 0, NULL);
	fleet_commit_branch_receive_rollback(branch, deadline);
	fleet_commit_branch_receive_rollback(branch, deadline);
}

/*
 * ROLLBACK TO on each branch that has this savepoint.  Must not throw: a
 * branch where it fails can only be rolled back as a whole, and makes COMMIT
 * fail.
 */
void
fleet_commit_sub_aborted(int level)
{
	FleetBranch *next;

	if (fleet_commit_dtx == NULL)
		return;
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = next)
	{
		next = b->next;
		if (b->level >= level)
			drop_branch(b);
		else if (b->savepoint >= level)
		{
			forget_calls(b, level);
			roll_back_to(b, level);
			b->savepoint = level - 1;
			b->state = b->conn->broken ? BRANCH_FAILED : BRANCH_OPEN;
		}
	}
}
