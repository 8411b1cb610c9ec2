/*-------------------------------------------------------------------------
 *
 * branch.h
 *	  The distributed transaction of this backend and its branches, within the
 *	  room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/branch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_BRANCH_H
#define FLEET_COMMIT_BRANCH_H

#include "postgres.h"

#include "commit/commit.h"
#include "commit/gid.h"
#include "portability/instr_time.h"
#include "remote/remote.h"

/* How long an abort waits for the peers to confirm that they rolled back. */
#define FLEET_ABORT_TIMEOUT_MS 1000

/* And for those whose PREPARE is on its way to say that they are prepared. */
#define FLEET_AWAIT_PREPARE_MS 200

typedef enum FleetBranchState
{
	BRANCH_OPEN,				/* its remote transaction runs */
	BRANCH_FAILED,				/* it cannot commit any more */
	BRANCH_PREPARING,			/* PREPARE sent: outcome unknown */
	BRANCH_PREPARED,
	BRANCH_COMMITTING,			/* COMMIT PREPARED sent */
	BRANCH_COMMITTED
} FleetBranchState;

/* A change that a branch was asked to make, as it is recorded if need be. */
typedef struct FleetCall
{
	int			level;			/* nesting level that it belongs to */
	const char *payload;
	struct FleetCall *next;
} FleetCall;

struct FleetBranch
{
	FleetConn  *conn;
	FleetBranchState state;
	int			number;			/* n of the gid */
	int			level;			/* nesting level at which it was begun */
	int			savepoint;		/* deepest savepoint set, or level */
	bool		recorded;		/* it was asked to do something */
	FleetCall  *calls;			/* in their order; not recorded yet */
	const char *told;			/* request that PREPARE's reply answers too */
	FleetBranch *next;
};

/* The distributed transaction of this backend; in TopTransactionContext. */
typedef struct FleetDtx
{
	FleetGid	gid;
	char		name[FLEET_GID_MAX];	/* empty until it must be decided here */
	instr_time	started;
	int			nbranch;		/* ever begun: the next one's number */
	int			nrecord;		/* decision records ever written */
	FleetBranch *branches;
} FleetDtx;

/* NULL while this backend's transaction is not distributed. */
extern FleetDtx *fleet_commit_dtx;

extern void fleet_commit_attend(void);
extern void fleet_commit_record_calls(FleetBranch *branch);
extern void fleet_commit_branch_require_open(const FleetBranch *branch);
extern void fleet_commit_branch_gid(const FleetBranch *branch, char *buf);
extern void fleet_commit_branch_send(FleetBranch *branch, const char *sql);
extern void fleet_commit_branch_drain(FleetBranch *branch, int64 deadline,
									  const char *sql, FleetReply *last);
extern void fleet_commit_branch_await_prepare(FleetBranch *branch, int64 deadline);
extern void fleet_commit_branch_send_rollback(FleetBranch *branch);
extern void fleet_commit_branch_receive_rollback(FleetBranch *branch, int64 deadline);
extern void fleet_commit_branch_release(FleetBranch *branch);
extern void fleet_commit_end_idle_branches(void);
extern void fleet_commit_sub_committed(int level);
extern void fleet_commit_sub_aborted(int level);

#endif							/* FLEET_COMMIT_BRANCH_H */
