/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  Settings of distributed commit.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/commit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "commit/commit.h"
#include "commit/doubt.h"
#include "commit/registry.h"
#include "commit/resolver.h"

static bool allow_async = false;

void
fleet_commit_init(void)
{
	DefineCustomIntVariable("fleet.prepare_timeout",
							"Time that the other nodes may take to do and prepare their part.",
							"Raise it for large batches or distant nodes; past it the transaction is rolled back.",
							&fleet_commit_prepare_timeout, 5000, 10, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.commit_timeout",
							"Time that COMMIT waits for the other nodes to confirm.",
							"Lower it where callers must not wait; past it the resolver finishes the transaction.",
							&fleet_commit_commit_timeout, 1000, 1, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.lock_timeout",
							"Time that a handoff waits for a ride or vehicle that is locked.",
							"Raise it where transactions on rides are long.",
							&fleet_commit_lock_timeout, 1000, 1, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.resolve_interval",
							"Time between two rounds of the resolver.",
							"Lower it to finish in-doubt transactions sooner after an outage, at the price of idle work.",
							&fleet_commit_resolve_interval, 1000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("fleet.allow_async",
							 "Allows a node that has no synchronous standby.",
							 "Turn it on for tests, or where losing the last commits in a failover is acceptable.",
							 &allow_async, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.max_in_doubt_age",
							"Age of a branch in doubt past which handoffs with its peer are refused.",
							"Raise it where outages last longer and handoffs must go on meanwhile; 0 turns alarm and refusal off.",
							&fleet_commit_max_in_doubt_age, 60000, 0, 604800000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	fleet_commit_registry_reserve();
	fleet_commit_doubt_reserve();
}
