/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Shared memory of distributed commit: what runs, and what was confirmed.
 *
 * Running: one slot per backend holds the nonce of the distributed
 * transaction that it coordinates.  It is set before the first branch is
 * begun and cleared after the transaction has ended for everyone (its commit
 * is visible, its confirmations were waited for).  So whoever finds a nonce
 * *not* here, and takes a snapshot after that, sees its decision record if
 * there will ever be one.  The other order could miss a commit in between.
 *
 * Confirmed: the transactions whose settling has yet to be written down.  It
 * spares the commit path a write; losing it (crash, or the ring is full)
 * costs only that the resolver asks the participants again.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/registry.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#include "base/compat.h"
#include "base/shmem.h"
#include "commit/registry.h"

#define CONFIRMED_MAX 16384

typedef struct Registry
{
	LWLock		lock;			/* protects confirmed */
	int			nconfirmed;
	FleetConfirmed confirmed[CONFIRMED_MAX];
	int			nslot;
	pg_atomic_uint64 running[FLEXIBLE_ARRAY_MEMBER];	/* nonce, 0 = none */
} Registry;

static Registry *registry = NULL;

static void
init_registry(void *area)
{
	Registry   *r = area;

	fleet_base_shmem_init_lock(&r->lock, "FleetConfirmed");
	r->nconfirmed = 0;
	r->nslot = MaxBackends;
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u64(&r->running[i], 0);
}

void
fleet_commit_registry_reserve(void)
{
	fleet_base_shmem_reserve_slots("fleet commit registry",
								   offsetof(Registry, running),
								   sizeof(pg_atomic_uint64),
								   init_registry, (void **) &registry);
}

void
fleet_commit_registry_enter(uint64 nonce)
{
	int			slot = fleet_compat_backend_index();

	Assert(slot >= 0 && slot < registry->nslot);
	pg_atomic_write_u64(&registry->running[slot], nonce);
	pg_memory_barrier();
}

void
fleet_commit_registry_leave(void)
{
	pg_memory_barrier();
	pg_atomic_write_u64(&registry->running[fleet_compat_backend_index()], 0);
}

/* Take a snapshot after this, not before it. */
bool
fleet_commit_registry_is_running(uint64 nonce)
{
	bool		running = false;

	/* 0 is what idle slots hold; no transaction has it. */
	for (int i = 0; i < registry->nslot && !running && nonce != 0; i++)
		running = pg_atomic_read_u64(&registry->running[i]) == nonce;
	pg_memory_barrier();
	return running;
}

/* Note a confirmed transaction.  False where there is no room. */
bool
fleet_commit_registry_confirm(const FleetConfirmed *confirmed)
{
	bool		room;

	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	room = registry->nconfirmed < CONFIRMED_MAX;
	if (room)
		registry->confirmed[registry->nconfirmed++] = *confirmed;
	LWLockRelease(&registry->lock);
	return room;
}

/* Take out up to max confirmed transactions of this database. */
int
fleet_commit_registry_take(FleetConfirmed *into, int max)
{
	int			taken = 0;
	int			kept = 0;

	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < registry->nconfirmed; i++)
	{
		if (registry->confirmed[i].database == MyDatabaseId && taken < max)
			into[taken++] = registry->confirmed[i];
		else
			registry->confirmed[kept++] = registry->confirmed[i];
	}
	registry->nconfirmed = kept;
	LWLockRelease(&registry->lock);
	return taken;
}
