/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Fault points: wait, fail or crash at a named place, in test builds only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/fault.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_FAULT_H
#define FLEET_BASE_FAULT_H

#include "postgres.h"

#ifdef FLEET_FAULT_POINTS
extern void fleet_base_fault_init(void);
extern void fleet_base_fault_reach(const char *point, bool may_throw);
extern bool fleet_base_fault_is_on(const char *point);

#define FLEET_FAULT(point)			fleet_base_fault_reach(point, true)
#define FLEET_FAULT_NOTHROW(point)	fleet_base_fault_reach(point, false)
/* Is a rule switched off by the test that must notice it? */
#define FLEET_FAULT_ON(point)		fleet_base_fault_is_on(point)
#else
#define FLEET_FAULT(point)			((void) 0)
#define FLEET_FAULT_NOTHROW(point)	((void) 0)
#define FLEET_FAULT_ON(point)		false
#endif

#endif							/* FLEET_BASE_FAULT_H */
