/*-------------------------------------------------------------------------
 *
 * replica.h
 *	  The replica of all regions: the merge rule, and the worker's steps.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/replica.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REPLICA_REPLICA_H
#define FLEET_REPLICA_REPLICA_H

#include "postgres.h"

/* What became of a row that was to be merged. */
typedef enum FleetMergeResult
{
	FLEET_MERGE_APPLIED,		/* it is newer than what was here */
	FLEET_MERGE_STALE,			/* it is not */
	FLEET_MERGE_MOVED,			/* the same, and the row is in another region now */
	FLEET_MERGE_HEALED			/* what was here cannot have been: it was put right */
} FleetMergeResult;

#define FLEET_MERGE_RESULTS 4

extern void fleet_replica_init(void);

/* ---- counters.c ---- */

extern void fleet_replica_counters_init(void);
extern void fleet_replica_count(const char *region, FleetMergeResult result);

/* ---- worker.c ---- */

extern void fleet_replica_worker_init(void);

#endif							/* FLEET_REPLICA_REPLICA_H */
