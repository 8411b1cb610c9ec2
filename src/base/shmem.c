/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared memory for all rooms: the only file that touches the hooks.
 *
 * A room reserves its area from _PG_init and is given the address once the
 * segment exists.  Where the library was not loaded by
 * shared_preload_libraries there is no segment, every address stays NULL, and
 * fleet_base_require_loaded() tells the caller what to do.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/shmem.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "base/shmem.h"

#define FLEET_MAX_AREAS 16

typedef struct FleetShmemArea
{
	const char *name;
	Size		size;
	Size		slot;			/* so much more for each backend */
	FleetShmemInit init;
	void	  **area;
} FleetShmemArea;

static FleetShmemArea areas[FLEET_MAX_AREAS];
static int	narea = 0;
static bool attached = false;
static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

/* How many backends there can be is known only after _PG_init. */
static Size
area_size(const FleetShmemArea *area)
{
	return add_size(area->size, mul_size(area->slot, MaxBackends));
}

/*
 * Promise an area of this size.  Only useful from _PG_init during
 * shared_preload_libraries; otherwise *area stays NULL.
 */
void
fleet_base_shmem_reserve(const char *name, Size size,
						 FleetShmemInit init, void **area)
{
	fleet_base_shmem_reserve_slots(name, size, 0, init, area);
}

/* The same, with so many bytes more for each backend of the server. */
void
fleet_base_shmem_reserve_slots(const char *name, Size size, Size slot,
							   FleetShmemInit init, void **area)
{
	if (narea >= FLEET_MAX_AREAS)
		elog(FATAL, "fleet: too many shared memory areas");
	areas[narea].name = name;
	areas[narea].size = size;
	areas[narea].slot = slot;
	areas[narea].init = init;
	areas[narea].area = area;
	narea++;
}

/*
 * Initialize a lock of an area, from its init function.  That runs in the
 * postmaster, so all processes know the name under which waits are shown.
 */
void
fleet_base_shmem_init_lock(LWLock *lock, const char *name)
{
	int			tranche = LWLockNewTrancheId();

	LWLockRegisterTranche(tranche, name);
	LWLockInitialize(lock, tranche);
}

static void
request_areas(void)
{
	if (prev_request_hook)
		prev_request_hook();
	for (int i = 0; i < narea; i++)
		RequestAddinShmemSpace(MAXALIGN(area_size(&areas[i])));
}

static void
attach_areas(void)
{
	if (prev_startup_hook)
		prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < narea; i++)
	{
		bool		found;

		*areas[i].area = ShmemInitStruct(areas[i].name,
										 area_size(&areas[i]), &found);
		if (!found)
			areas[i].init(*areas[i].area);
	}
	LWLockRelease(AddinShmemInitLock);
	attached = true;
}

/* Hook into start-up.  Called once, after all rooms have reserved. */
void
fleet_base_shmem_install(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_areas;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_areas;
}

/* Raise an error unless shared memory is there. */
void
fleet_base_require_loaded(void)
{
	if (!attached)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("fleet must be loaded by shared_preload_libraries"),
				 errhint("Add fleet to shared_preload_libraries in postgresql.conf and restart the server.")));
}
