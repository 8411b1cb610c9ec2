/*-------------------------------------------------------------------------
 *
 * fleet.c
 *	  Entry point of the library.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/fleet.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "base/fault.h"
#include "base/shmem.h"
#include "base/worker.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "drift/drift.h"
#include "handoff/handoff.h"
#include "live/live.h"
#include "query/query.h"
#include "region/locate.h"
#include "remote/remote.h"
#include "replica/replica.h"
#include "track/track.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	/* Without preload the functions say what is missing, see base/shmem.c. */
	if (!process_shared_preload_libraries_in_progress)
		return;
#ifdef FLEET_FAULT_POINTS
	fleet_base_fault_init();
#endif
	fleet_clock_init();
	fleet_region_init();
	fleet_live_init();
	fleet_remote_init();
	fleet_commit_init();
	fleet_handoff_init();
	fleet_track_init();
	fleet_query_init();
	fleet_replica_init();
	fleet_drift_init();
	fleet_base_worker_init();
	MarkGUCPrefixReserved("fleet");
	fleet_base_shmem_install();
}
