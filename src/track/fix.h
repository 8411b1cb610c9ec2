/*-------------------------------------------------------------------------
 *
 * fix.h
 *	  One position report, and what was known of its vehicle before it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fix.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_FIX_H
#define FLEET_TRACK_FIX_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "region/map.h"

/* What a device may measure besides its place. */
typedef enum FleetFixMeasure
{
	FLEET_FIX_SPEED,			/* km/h */
	FLEET_FIX_HEADING,			/* degrees from north, clockwise */
	FLEET_FIX_ACCURACY,			/* metres */
	FLEET_FIX_BATTERY,			/* per cent */
	FLEET_FIX_ALTITUDE			/* metres */
} FleetFixMeasure;

#define FLEET_FIX_MEASURES 5

typedef struct FleetFix
{
	const char *vehicle;
	double		lon;			/* degrees, WGS 84 */
	double		lat;
	TimestampTz at;				/* when it was taken */
	double		measured[FLEET_FIX_MEASURES];	/* NaN where it is not given */
	const char *status;			/* a fleet.vehicle_status, or NULL */
} FleetFix;

/* The vehicle's row as it was. */
typedef struct FleetFixVehicle
{
	int64		epoch;
	bool		has_fix;
	TimestampTz fix_at;
	bool		has_place;
	double		lon;
	double		lat;
	const FleetRegion *outside; /* seen there without having crossed, or NULL */
	TimestampTz outside_since;
} FleetFixVehicle;

#endif							/* FLEET_TRACK_FIX_H */
