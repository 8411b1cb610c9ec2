/*-------------------------------------------------------------------------
 *
 * route.h
 *	  Calls that find the ride or vehicle wherever it is, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/route.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_HANDOFF_ROUTE_H
#define FLEET_HANDOFF_ROUTE_H

#include "postgres.h"

#include "base/plan.h"
#include "region/map.h"

/* A call that may be made on any node. */
typedef struct FleetCallSpec
{
	const char *name;			/* of the function in schema fleet */
	bool		inserts;		/* rights that the caller needs: else UPDATE */
	bool		vehicles;		/* of vehicles, else of rides */
	FleetPlan	plan;			/* makes it, given its arguments as jsonb; its result as jsonb */
} FleetCallSpec;

/* What came of a call on a node. */
typedef struct FleetPerformed
{
	bool		done;
	char	   *result;			/* of the call as JSON, or NULL */
	char	   *gone;			/* not done: the region where it went, or NULL */
} FleetPerformed;

/* ---- perform.c ---- */

extern FleetCallSpec *fleet_handoff_call_spec(const char *name);
extern void fleet_handoff_perform(FleetCallSpec *spec, const char *key, Datum arguments,
								  bool for_other, FleetPerformed *performed);
extern bool fleet_handoff_note_not_here(const FleetRegionMap *map, bool vehicles, const char *key);

/* ---- hint.c ---- */

extern void fleet_handoff_hint_reserve(void);
extern void fleet_handoff_hint_keep(bool vehicles, const char *id, const char *region);
extern char *fleet_handoff_hint(const FleetRegionMap *map, bool vehicles, const char *id);

/* ---- handoff.c ---- */

extern Oid	fleet_handoff_check_table(const char *name, AclMode rights);

/* ---- route.c ---- */

extern void fleet_handoff_redirect(const FleetRegionMap *map, bool vehicles, const char *id);

#endif							/* FLEET_HANDOFF_ROUTE_H */
