/*-------------------------------------------------------------------------
 *
 * synced.h
 *	  Does the synchronous standby have a decision?
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/synced.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_SYNCED_H
#define FLEET_COMMIT_SYNCED_H

#include "access/xlogdefs.h"

/* How long the resolver, and who asks for an outcome, wait for the standby. */
#define FLEET_SYNCED_WAIT_MS 500

extern bool fleet_commit_is_synced(XLogRecPtr lsn, int timeout_ms);

#endif							/* FLEET_COMMIT_SYNCED_H */
