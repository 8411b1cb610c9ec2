/*-------------------------------------------------------------------------
 *
 * durability.c
 *	  Transactions whose commit need not wait for the disk.
 *
 * Who writes what may be lost in a crash relaxes the transaction, which is
 * synchronous_commit = off until its end.  It is refused, without a word, where the
 * transaction has written anything before, or is a block in which something may
 * follow.  Whatever else the same statement goes on to write is as relaxed, so
 * who writes what may not be lost restores what the user had set.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/durability.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"

#include "base/compat.h"
#include "base/durability.h"

static LocalTransactionId relaxed_in = InvalidLocalTransactionId;
static int	user_choice;		/* of synchronous_commit, before */

static void
set_synchronous_commit(const char *value)
{
	(void) set_config_option("synchronous_commit", value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* What is written next may be lost. */
void
fleet_base_durability_relax(void)
{
	if (synchronous_commit <= SYNCHRONOUS_COMMIT_OFF || IsTransactionBlock() ||
		GetCurrentTransactionNestLevel() > 1 || TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	user_choice = synchronous_commit;
	set_synchronous_commit("off");
	relaxed_in = fleet_compat_lxid();
}

/* The rollback of a savepoint may have undone a restore. */
bool
fleet_base_durability_is_relaxed(void)
{
	return relaxed_in == fleet_compat_lxid() && synchronous_commit == SYNCHRONOUS_COMMIT_OFF;
}

/* What is written next, or has been, may not be lost. */
void
fleet_base_durability_restore(void)
{
	if (!fleet_base_durability_is_relaxed())
		return;
	set_synchronous_commit(user_choice == SYNCHRONOUS_COMMIT_LOCAL_FLUSH ? "local" :
						   user_choice == SYNCHRONOUS_COMMIT_REMOTE_WRITE ? "remote_write" :
						   user_choice == SYNCHRONOUS_COMMIT_REMOTE_APPLY ? "remote_apply" : "on");
}
