/*-------------------------------------------------------------------------
 *
 * handoff.h
 *	  Handing rides and vehicles off to another region, and calls that find them.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/handoff.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_HANDOFF_HANDOFF_H
#define FLEET_HANDOFF_HANDOFF_H

#include "postgres.h"

#include "utils/array.h"

#include "region/map.h"

extern void fleet_handoff_init(void);
extern bool fleet_handoff_is_serving(void);
extern bool fleet_handoff_await(const FleetRegionMap *map, bool vehicles, const char *id);
extern void fleet_handoff_await_briefly(const FleetRegionMap *map, bool vehicles,
										const char *id, int patience_ms);
extern int64 fleet_handoff_run(bool vehicles, ArrayType *ids, const char *target,
							   int64 expected_epoch);

#endif							/* FLEET_HANDOFF_HANDOFF_H */
