/*-------------------------------------------------------------------------
 *
 * store.h
 *	  The rows that fixes are written to: the vehicle's, and its open ride's.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/store.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_STORE_H
#define FLEET_TRACK_STORE_H

#include "postgres.h"

#include "track/fix.h"

typedef struct FleetStore FleetStore;

extern bool fleet_track_store_may(const char *table);
extern FleetStore *fleet_track_store_open(const FleetRegionMap *map);
extern bool fleet_track_store_lock(FleetStore *store, const char *vehicle,
								   FleetFixVehicle *row);
extern void fleet_track_store_vehicle(FleetStore *store, const FleetFix *fix,
									  const FleetFixVehicle *now);
extern char *fleet_track_store_ride(FleetStore *store, const FleetFix *fix);
extern void fleet_track_store_flush(FleetStore *store);
extern void fleet_track_store_close(FleetStore *store);

#endif							/* FLEET_TRACK_STORE_H */
