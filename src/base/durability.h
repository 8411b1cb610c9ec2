/*-------------------------------------------------------------------------
 *
 * durability.h
 *	  Transactions whose commit need not wait for the disk.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/durability.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_DURABILITY_H
#define FLEET_BASE_DURABILITY_H

#include "postgres.h"

extern void fleet_base_durability_relax(void);
extern bool fleet_base_durability_is_relaxed(void);
extern void fleet_base_durability_restore(void);

#endif							/* FLEET_BASE_DURABILITY_H */
