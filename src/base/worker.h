/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers in each database that is a node.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/worker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_WORKER_H
#define FLEET_BASE_WORKER_H

#include "postgres.h"

typedef enum FleetWorkerKind
{
	FLEET_WORKER_RESOLVER,		/* in each node's database */
	FLEET_WORKER_HANDOFFS		/* once it was called */
} FleetWorkerKind;

extern void fleet_base_worker_init(void);
extern void fleet_base_worker_wanted(Oid database);
extern void fleet_base_worker_wake(Oid database);
extern void fleet_base_worker_call(Oid database, FleetWorkerKind kind);
extern bool fleet_base_worker_start(Datum main_arg);
extern void fleet_base_worker_not_wanted(void);

#endif							/* FLEET_BASE_WORKER_H */
