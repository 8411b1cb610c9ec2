/*-------------------------------------------------------------------------
 *
 * shmem.h
 *	  Shared memory for all rooms.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/shmem.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_SHMEM_H
#define FLEET_BASE_SHMEM_H

#include "postgres.h"

#include "storage/lwlock.h"

typedef void (*FleetShmemInit) (void *area);

extern void fleet_base_shmem_reserve(const char *name, Size size,
									 FleetShmemInit init, void **area);
extern void fleet_base_shmem_reserve_slots(const char *name, Size size, Size slot,
										   FleetShmemInit init, void **area);
extern void fleet_base_shmem_init_lock(LWLock *lock, const char *name);
extern void fleet_base_shmem_install(void);
extern void fleet_base_require_loaded(void);

#endif							/* FLEET_BASE_SHMEM_H */
