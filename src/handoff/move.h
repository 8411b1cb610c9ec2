/*-------------------------------------------------------------------------
 *
 * move.h
 *	  The two halves of a handoff on the nodes that own the regions, and where
 *	  a row is.
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

#include "utils/array.h"

#include "base/compat.h"
#include "base/table.h"
#include "region/map.h"

/* Ids of rides or vehicles: sorted, each once. */
typedef struct FleetIds
{
	int			n;
	char	  **ids;
} FleetIds;

/* What is to leave. */
typedef struct FleetLeaving
{
	bool		vehicles;		/* ids are of vehicles, else of rides */
	FleetIds	ids;
	int64		expected_epoch; /* of each; 0 = any */
	const char *target;
	const char *dtxid;
	int			lock_timeout;	/* ms, the coordinator's setting */
} FleetLeaving;

/* What leaves, once it is locked. */
typedef struct FleetDeparture FleetDeparture;

/* ---- move.c ---- */

/* Partitions of this node, and what it keeps of handoffs. */
extern FleetTable fleet_handoff_ride_table;
extern FleetTable fleet_handoff_vehicle_table;
extern FleetTable fleet_handoff_departure_table;

extern FleetIds fleet_handoff_read_ids(ArrayType *array, const char *noun);
extern bool fleet_handoff_has_id(const FleetIds *ids, const char *id);
extern const FleetRegion *fleet_handoff_own_region(const FleetRegionMap *map);
extern void fleet_handoff_check_map(const FleetRegionMap *map, int64 version);
extern bool fleet_handoff_find_departure(FleetOpenTable *departures, Snapshot snapshot,
										 const char *kind, const char *key);
extern void fleet_handoff_delete_departure(FleetOpenTable *departures, Snapshot snapshot,
										   const char *kind, const char *key);
extern void fleet_handoff_log(FleetOpenTable *log, const char *ride, const char *vehicle,
							  const char *source, const char *target, int64 epoch,
							  uint64 hlc, const char *dtxid, const char *status);
extern void fleet_handoff_open_log(FleetOpenTable *log);
extern Snapshot fleet_handoff_snapshot(void);
extern void fleet_handoff_with_lock_timeout(int timeout_ms, const char *region,
											const char *what, void (*work) (void *arg),
											void *arg);
extern void fleet_handoff_begin_move(void);
extern void fleet_handoff_end_move(void);
extern bool fleet_handoff_is_moving(void);

/* ---- depart.c ---- */

extern FleetDeparture *fleet_handoff_depart(const FleetRegionMap *map,
											const FleetLeaving *leaving);
extern Datum fleet_handoff_departure_answer(const FleetDeparture *departure);
extern void fleet_handoff_departure_write(FleetDeparture *departure);

/* ---- arrive.c ---- */

extern int	fleet_handoff_arrive(const FleetRegionMap *map, const char *dtxid,
								 Datum rows, bool redo);

/* ---- whereabouts.c ---- */

extern char *fleet_handoff_whereabouts(const FleetRegionMap *map, bool vehicles,
									   const char *id);
extern char *fleet_handoff_search(const FleetRegionMap *map, bool vehicles,
								  const char *id, bool *live);
extern char *fleet_handoff_only_other(const FleetRegionMap *map, const FleetRegion *except);
FLEET_NORETURN extern void fleet_handoff_raise_not_found(bool vehicles, const char *id);
FLEET_NORETURN extern void fleet_handoff_raise_on_its_way(bool vehicles, const char *id);

#endif							/* FLEET_HANDOFF_MOVE_H */
