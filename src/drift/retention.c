/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  How long snapshots, and what else grows, are kept.
 *
 * Settings only: snapshots are taken, thinned and verified, and the rest is pruned, in
 * SQL, which reads them.  One depends on the others, by default as it should: a
 * snapshot can be restored only while departures as old as it are kept
 * (fleet.departures_pruned), so these are kept longer than the oldest snapshot.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/retention.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "drift/drift.h"

/* Ten years, in minutes. */
#define MAX_RETENTION (10 * 365 * 24 * 60)

/* In minutes. */
static int	snapshot_keep_all = 24 * 60;
static int	snapshot_keep_hourly = 7 * 24 * 60;
static int	snapshot_keep_daily = 30 * 24 * 60;
static int	departure_retention = 35 * 24 * 60;
static int	log_retention = 30 * 24 * 60;
static int	job_runs_retention = 7 * 24 * 60;

static void
define(const char *name, const char *what, const char *when, int *minutes, int least)
{
	DefineCustomIntVariable(name, what, when, minutes, *minutes, least, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
}

void
fleet_drift_retention_init(void)
{
	define("fleet.snapshot_keep_all", "How long every snapshot is kept.",
		   "Lower it where the disk is small: a day has 1440 of them.",
		   &snapshot_keep_all, 0);
	define("fleet.snapshot_keep_hourly", "How long the first snapshot of each hour is kept.",
		   "Raise it where mistakes are found late.",
		   &snapshot_keep_hourly, 0);
	define("fleet.snapshot_keep_daily", "How long the first snapshot of each day is kept.",
		   "Raise it where mistakes are found late; rides of a snapshot older than fleet.departure_retention cannot be restored.",
		   &snapshot_keep_daily, 0);
	define("fleet.departure_retention", "How long it is remembered where a ride went, and that a row was deleted.",
		   "Raise it above the longest outage of a node, and the age of the oldest backup or snapshot that may be restored.",
		   &departure_retention, 60);
	define("fleet.log_retention", "How long the logs of handoffs and calls, and dead letters that were resolved, are kept.",
		   "Raise it above the longest outage of a node: the logs prove what it has done.",
		   &log_retention, 60);
	define("fleet.job_runs_retention", "How long it is kept how jobs went.",
		   "Lower it where jobs run often and nobody looks back.",
		   &job_runs_retention, 1);
}
