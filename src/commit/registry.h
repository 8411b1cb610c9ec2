/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Shared memory of distributed commit: what runs, and what was confirmed.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/registry.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_REGISTRY_H
#define FLEET_COMMIT_REGISTRY_H

#include "postgres.h"

/* A transaction all of whose participants have confirmed the commit. */
typedef struct FleetConfirmed
{
	Oid			database;
	uint64		fxid;
	uint64		nonce;
	uint64		hlc;			/* greatest stamp of the confirmations */
	double		latency_ms;
} FleetConfirmed;

extern void fleet_commit_registry_reserve(void);
extern void fleet_commit_registry_enter(uint64 nonce);
extern void fleet_commit_registry_leave(void);
extern bool fleet_commit_registry_is_running(uint64 nonce);
extern bool fleet_commit_registry_confirm(const FleetConfirmed *confirmed);
extern int	fleet_commit_registry_take(FleetConfirmed *into, int max);

#endif							/* FLEET_COMMIT_REGISTRY_H */
