/*-------------------------------------------------------------------------
 *
 * history.h
 *	  The history of fixes, as it is written.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/history.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_HISTORY_H
#define FLEET_TRACK_HISTORY_H

#include "postgres.h"

#include "track/fix.h"

/* Fixes that were accepted in this transaction and are to be written. */
typedef struct FleetHistory FleetHistory;

/* Degrees as they are stored: integers, a ten millionth of a degree each. */
#define FLEET_HISTORY_UNITS 1e7

extern void fleet_track_history_init(void);
extern FleetHistory *fleet_track_history_begin(void);
extern void fleet_track_history_add(FleetHistory *history, const FleetFix *fix,
									const char *ride_id, int64 epoch);
extern void fleet_track_history_end(FleetHistory *history);

extern int64 fleet_track_history_hour(TimestampTz at);
extern int32 fleet_track_history_slot(const char *vehicle, int64 hour);

#endif							/* FLEET_TRACK_HISTORY_H */
