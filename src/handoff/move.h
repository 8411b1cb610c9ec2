/*-------------------------------------------------------------------------
 *
 * move.h
 *	  The two halves of a handoff on the nodes that own the regions.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/move.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_HANDOFF_MOVE_H
#define FLEET_HANDOFF_MOVE_H

#include "postgres.h"

#include "region/map.h"

/* What is to leave: rides, or vehicles, by id. */
typedef struct FleetLeaving
{
	bool		vehicles;		/* ids are of vehicles, else of rides */
	Datum		ids;			/* text[] */
	int64		expected_epoch; /* of each; 0 = any */
	const char *target;
	const char *dtxid;
	int			lock_timeout;	/* ms, the coordinator's setting */
} FleetLeaving;

extern Datum fleet_handoff_depart(const FleetRegionMap *map, const FleetLeaving *leaving);
extern int	fleet_handoff_arrive(const FleetRegionMap *map, const char *dtxid,
								 Datum rows, bool redo);
extern void fleet_handoff_check_map(const FleetRegionMap *map, int64 version);
extern bool fleet_handoff_is_moving(void);

#endif							/* FLEET_HANDOFF_MOVE_H */
