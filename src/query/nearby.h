/*-------------------------------------------------------------------------
 *
 * nearby.h
 *	  Vehicles of several regions put together, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/nearby.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_QUERY_NEARBY_H
#define FLEET_QUERY_NEARBY_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "nodes/execnodes.h"

#include "query/read.h"

/* Columns of fleet.nearby_vehicle. */
#define FLEET_NEARBY_COLUMNS 8

typedef struct FleetNearby FleetNearby;

/* ---- nearby.c ---- */
extern TupleDesc fleet_query_nearby_desc(void);
extern FleetNearby *fleet_query_nearby_begin(int room);
extern void fleet_query_nearby_add(FleetNearby *all, Datum *values, bool *nulls, int64 epoch);
extern void fleet_query_nearby_ask(FleetNearby *all, FleetRead *read, List *regions,
								   const char *sql);
extern void fleet_query_nearby_return(FleetNearby *all, int64 max, ReturnSetInfo *result);

/* ---- nearest.c ---- */
extern bool fleet_query_check_vehicles(FleetScope scope);
extern void fleet_query_check_scope(const FleetRegionMap *map, FleetScope scope);

#endif							/* FLEET_QUERY_NEARBY_H */
