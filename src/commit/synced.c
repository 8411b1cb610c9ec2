/*-------------------------------------------------------------------------
 *
 * synced.c
 *	  Does the synchronous standby have a decision?
 *
 * A decision that is not on the standby is undone by a failover, so nobody may
 * hear of it before.  The local commit waits for the standby, but the wait can
 * end without it: a cancel, a terminate, or the death of the postmaster ends it,
 * and the backend goes on as if all were well, if only for the moment in which
 * it would send COMMIT PREPARED.  And after a crash the record is visible at
 * once.  So the end of the wait proves nothing; what the standby has confirmed
 * does.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/synced.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "replication/syncrep.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"

#include "commit/synced.h"

/*
 * Has it what was written up to lsn?  True where no synchronous standby is asked
 * for.  Waits for it so long, looking now and then.  Never throws.
 */
bool
fleet_commit_is_synced(XLogRecPtr lsn, int timeout_ms)
{
	for (int ms = 0;; ms++)
	{
		XLogRecPtr	confirmed;

		if (SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
			return true;
		LWLockAcquire(SyncRepLock, LW_SHARED);
		confirmed = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH];
		LWLockRelease(SyncRepLock);
		if (confirmed >= lsn)
			return true;
		if (ms >= timeout_ms)
			return false;
		pg_usleep(1000L);
	}
}
