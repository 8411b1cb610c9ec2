/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  One background worker in each database that is a node.
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

extern void fleet_base_worker_init(void);
extern void fleet_base_worker_wanted(Oid database);
extern void fleet_base_worker_wake(Oid database);
extern bool fleet_base_worker_start(Datum main_arg);
extern void fleet_base_worker_not_wanted(void);

#endif							/* FLEET_BASE_WORKER_H */
