/*-------------------------------------------------------------------------
 *
 * distributed.c
 *	  How the caller's transaction and its branches (branch.c) end together.
 *
 * This backend is the coordinator.
 *
 *	1. The first request to a node begins its branch, under the current
 *	   savepoint.  A request that must be redone if its PREPARE is lost is
 *	   recorded in fleet.decisions, by the caller's own (sub)transaction: what
 *	   ROLLBACK TO takes back here is taken back there, and in the record.
 *	   Calls (a change of a ride on the node that has it) are noted with the
 *	   branch, and recorded in 2.
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
 * Where only one node was written, and that by calls, there is nothing to agree
 * about: in PRE_COMMIT its branch commits by COMMIT, and that is the decision.  Who
 * then loses the connection before the answer cannot know which it was, like any
 * client; the error says so.
 *
 * The registry entry is made when the transaction is named, before anything is
 * prepared or recorded, and taken away after steps 4 or 5, see registry.c for why.
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
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/worker.h"
#include "base/xact.h"
#include "clock/clock.h"
#include "commit/branch.h"
#include "commit/registry.h"
#include "commit/synced.h"
#include "region/map.h"

int			fleet_commit_prepare_timeout = 5000;
int			fleet_commit_commit_timeout = 1000;
int			fleet_commit_lock_timeout = 1000;

FleetDtx   *fleet_commit_dtx = NULL;
static bool worker_wanted = false;	/* once this transaction commits */
static bool handoffs_called = false;	/* the same */

static void pre_commit(void);
static void pre_prepare(void);
static void committed(void);
static void aborted(void);

static const FleetXactHandlers handlers = {
	.waits = true,
	.pre_commit = pre_commit,
	.pre_prepare = pre_prepare,
	.committed = committed,
	.aborted = aborted,
	.sub_committed = fleet_commit_sub_committed,
	.sub_aborted = fleet_commit_sub_aborted
};

/* ---------- taking part ---------- */

static void
name_transaction(FleetDtx *d)
{
	const FleetRegionMap *map = fleet_region_map_member();

	/* A participant in doubt finds its coordinator on the map, by its region. */
	if (map->own == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_NOT_WRITABLE),
				 errmsg("node \"%s\" is a replica and coordinates nothing", map->node),
				 errhint("Call the node of a region.")));
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

/* Does this backend coordinate a distributed transaction? */
bool
fleet_commit_is_begun(void)
{
	return fleet_commit_dtx != NULL;
}

/* Have this transaction followed to its end, since it may have branches. */
void
fleet_commit_attend(void)
{
	FleetDtx   *d;

	if (fleet_commit_dtx != NULL)
		return;
	PreventCommandIfReadOnly("a change of rides or vehicles");
	d = MemoryContextAllocZero(TopTransactionContext, sizeof(FleetDtx));
	INSTR_TIME_SET_CURRENT(d->started);
	fleet_base_xact_handle(&handlers);
	fleet_commit_dtx = d;
}

/* Make the caller's transaction a distributed one, decided here; returns its name. */
const char *
fleet_commit_begin(void)
{
	FleetDtx   *d;

	fleet_commit_attend();
	d = fleet_commit_dtx;
	if (d->name[0] != '\0')
		return d->name;
	name_transaction(d);
	fleet_commit_registry_enter(d->gid.nonce);
	return d->name;
}

/* Have a resolver started in this database when this transaction commits. */
void
fleet_commit_want_worker(void)
{
	fleet_base_xact_handle(&handlers);
	worker_wanted = true;
}

/*
 * Call the worker that does queued handoffs when this transaction commits.  Where it
 * is prepared instead, the session that commits it then calls: a coordinator
 * does so on the connection that has prepared.
 */
void
fleet_commit_call_handoffs(void)
{
	fleet_base_xact_handle(&handlers);
	handoffs_called = true;
}

/* ---------- the end of the transaction ---------- */

static void
send_prepares(void)
{
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
	{
		char		gid[FLEET_GID_MAX];
		char		sql[FLEET_GID_MAX + 32];

		if (b != fleet_commit_dtx->branches)
			FLEET_FAULT("next-prepare");
		fleet_commit_branch_require_open(b);
		fleet_commit_branch_gid(b, gid);
		snprintf(sql, sizeof(sql), "PREPARE TRANSACTION '%s'", gid);
		b->state = BRANCH_PREPARING;
		fleet_commit_branch_send(b, sql);
	}
}

/* In a failed transaction PREPARE, and COMMIT, answer ROLLBACK. */
static void
require_done(FleetBranch *branch, FleetReply *reply, const char *command)
{
	bool		done = strcmp(PQcmdStatus(reply->result), command) == 0;

	fleet_remote_clear(reply);
	if (done)
		return;
	branch->state = BRANCH_FAILED;
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_ROLLBACK),
			 errmsg("region \"%s\" rolled the transaction back", branch->conn->region)));
}

static void
wait_for_prepares(void)
{
	int64		deadline = fleet_remote_deadline(fleet_commit_prepare_timeout +
												 fleet_commit_lock_timeout);

	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
	{
		FleetReply	reply;

		FLEET_FAULT("prepare-wait");
		fleet_commit_branch_drain(b, deadline, b->told ?
								  psprintf("%s; PREPARE TRANSACTION", b->told) :
								  "PREPARE TRANSACTION", &reply);
		require_done(b, &reply, "PREPARE TRANSACTION");
		b->state = BRANCH_PREPARED;
	}
}

/*
 * Was one other node written, by calls, and nothing here?  A serializable
 * transaction can still fail here after this, and does not count.
 */
static bool
is_of_one_node(void)
{
	const FleetBranch *branch = fleet_commit_dtx->branches;

	return branch != NULL && branch->next == NULL && !branch->recorded &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && !IsolationIsSerializable();
}

/*
 * The only branch commits, and with it the transaction.  Until it has answered
 * nobody may interrupt: whoever does would not know what became of it.
 */
static void
commit_only_branch(FleetBranch *branch)
{
	int64		deadline = fleet_remote_deadline(fleet_commit_prepare_timeout +
												 fleet_commit_lock_timeout);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

	fleet_commit_branch_require_open(branch);
	FLEET_FAULT("before-only-commit");
	branch->state = BRANCH_FAILED;	/* unless it says otherwise */
	HOLD_INTERRUPTS();
	if (fleet_remote_send(branch->conn, "COMMIT", 0, NULL))
		(void) fleet_remote_receive(branch->conn, deadline, &reply);
	RESUME_INTERRUPTS();
	if (reply.status == FLEET_REPLY_ERROR)
		fleet_remote_raise(branch->conn, &reply, "COMMIT");
	if (reply.status != FLEET_REPLY_OK)
	{
		char	   *reason = fleet_remote_error_text(branch->conn, &reply);

		fleet_remote_clear(&reply);
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				 errmsg("it is not known whether region \"%s\" has committed", branch->conn->region),
				 errdetail_internal("%s", reason),
				 errhint("Look, or make the call again: with an idempotency key it takes effect once.")));
	}
	require_done(branch, &reply, "COMMIT");
	FLEET_FAULT("after-only-commit");
	fleet_commit_branch_release(branch);
	fleet_commit_dtx->branches = NULL;
}

/* What was noted is recorded; a row of a table wants a snapshot. */
static void
record_calls(void)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		fleet_commit_record_calls(b);
	PopActiveSnapshot();
}

static void
pre_commit(void)
{
	if (fleet_commit_dtx == NULL || fleet_commit_dtx->branches == NULL)
		return;
	fleet_commit_end_idle_branches();
	if (is_of_one_node())
	{
		commit_only_branch(fleet_commit_dtx->branches);
		return;
	}
	record_calls();
	FLEET_FAULT("before-prepare");
	send_prepares();
	wait_for_prepares();
	FLEET_FAULT("after-prepare");

	/* The decision must reach the synchronous standby, whatever the caller set. */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	ForceSyncCommit();
}

/*
 * A transaction that is a distributed one is committed by us, or not at all:
 * a local PREPARE would leave the decision to somebody else.
 */
static void
pre_prepare(void)
{
	if (fleet_commit_dtx != NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_LOCAL_PREPARE),
				 errmsg("cannot PREPARE a transaction that has changed rides of several nodes"),
				 errdetail("fleet itself prepares it on the other nodes and decides by the local commit."),
				 errhint("Use COMMIT.")));
}

static void
send_commits(void)
{
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
	{
		char		gid[FLEET_GID_MAX];
		char		sql[FLEET_GID_MAX + 32];

		fleet_commit_branch_gid(b, gid);
		snprintf(sql, sizeof(sql), "COMMIT PREPARED '%s'", gid);
		b->state = BRANCH_COMMITTING;
		FLEET_FAULT_NOTHROW("before-commit-prepared");
		if (b != fleet_commit_dtx->branches)
			FLEET_FAULT_NOTHROW("next-commit-prepared");
		if (fleet_remote_queue(b->conn, sql))
			(void) fleet_remote_send_prepared(b->conn, "SELECT fleet.hlc_now()::bigint", 0, NULL);
	}
}

/* True if the branch confirmed; its clock's stamp goes into *hlc. */
static bool
receive_commit(FleetBranch *branch, int64 deadline, uint64 *hlc)
{
	FleetReply	reply;
	bool		confirmed;

	confirmed = fleet_remote_receive(branch->conn, deadline, &reply) == FLEET_REPLY_OK &&
		PQntuples(reply.result) == 1;
	if (confirmed)
	{
		uint64		stamp = strtoull(PQgetvalue(reply.result, 0, 0), NULL, 10);

		branch->state = BRANCH_COMMITTED;
		(void) fleet_clock_try_receive(stamp);
		*hlc = Max(*hlc, stamp);
		FLEET_FAULT_NOTHROW("after-commit-prepared");
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
	INSTR_TIME_SUBTRACT(latency, fleet_commit_dtx->started);
	confirmed.fxid = fleet_commit_dtx->gid.fxid;
	confirmed.nonce = fleet_commit_dtx->gid.nonce;
	confirmed.hlc = Max(hlc, fleet_clock_now());
	confirmed.latency_ms = INSTR_TIME_GET_MILLISEC(latency);
	(void) fleet_commit_registry_confirm(&confirmed);
}

/* Let go of the connections and of the registry entry.  Never throws. */
static void
leave(void)
{
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		fleet_commit_branch_release(b);
	if (fleet_commit_dtx->name[0] != '\0')
		fleet_commit_registry_leave();
	fleet_commit_dtx = NULL;
}

static void
committed(void)
{
	int64		deadline;
	uint64		hlc = 0;
	int			open = 0;
	bool		synced;

	if (worker_wanted)
		fleet_base_worker_wanted(MyDatabaseId);
	if (handoffs_called)
		fleet_base_worker_call(MyDatabaseId, FLEET_WORKER_HANDOFFS);
	worker_wanted = handoffs_called = false;
	if (fleet_commit_dtx == NULL)
		return;
	FLEET_FAULT_NOTHROW("after-local-commit");

	/* The wait for the standby may have been given up, see synced.c. */
	synced = fleet_commit_is_synced(XactLastCommitEnd, 0);
	if (synced)
		send_commits();
	deadline = fleet_remote_deadline(fleet_commit_commit_timeout);
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		if (!synced || !receive_commit(b, deadline, &hlc))
			open++;
	if (open == 0 && fleet_commit_dtx->branches != NULL)
		note_confirmed(hlc);
	if (open > 0)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("the transaction is committed, but %d of its nodes did not confirm it yet", open),
				 errdetail("Transaction \"%s\" is finished there by the resolver.", fleet_commit_dtx->name),
				 errhint("The view fleet.in_doubt shows what is open.")));
	leave();
	if (open > 0)
		fleet_base_worker_wake(MyDatabaseId);
}

static void
aborted(void)
{
	int64		deadline;

	worker_wanted = handoffs_called = false;
	if (fleet_commit_dtx == NULL)
		return;
	deadline = fleet_remote_deadline(FLEET_AWAIT_PREPARE_MS);
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		fleet_commit_branch_await_prepare(b, deadline);
	deadline = fleet_remote_deadline(FLEET_ABORT_TIMEOUT_MS);
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		fleet_commit_branch_send_rollback(b);
	for (FleetBranch *b = fleet_commit_dtx->branches; b != NULL; b = b->next)
		fleet_commit_branch_receive_rollback(b, deadline);
	leave();
}

