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

/* What a device may measure besides its place, in the order of the arguments. */
typedef enum FleetFixMeasure
{
	FLEET_FIX_SPEED,			/* km/h */
	FLEET_FIX_HEADING,			/* degrees from north, clockwise */
	FLEET_FIX_ACCURACY,			/* metres */
	FLEET_FIX_BATTERY,			/* per cent */
	FLEET_FIX_ALTITUDE			/* metres */
} FleetFixMeasure;

#define FLEET_FIX_MEASURES 5

/* Arguments of fleet.report_fix, and columns of fleet.fix_feed, in their order. */
enum
{
	FLEET_FIX_ARG_VEHICLE, FLEET_FIX_ARG_LON, FLEET_FIX_ARG_LAT, FLEET_FIX_ARG_AT,
	FLEET_FIX_ARG_MEASURES, FLEET_FIX_ARG_STATUS = FLEET_FIX_ARG_MEASURES + FLEET_FIX_MEASURES,
	FLEET_FIX_ARGS
};

typedef struct FleetFix
{
	const char *vehicle;
	double		lon;			/* degrees, WGS 84 */
	double		lat;
	TimestampTz at;				/* when it was taken */
	bool		missing;		/* one of these was null */
	double		measured[FLEET_FIX_MEASURES];	/* NaN where it is not given */
	bool		given[FLEET_FIX_MEASURES];
	const char *status;			/* a fleet.vehicle_status, or NULL */
} FleetFix;

/* Why a fix was not taken: what the error would say; hint may be NULL. */
typedef struct FleetFixRefusal
{
	int			sqlstate;		/* as errcode() takes it */
	const char *message;
	const char *detail;
	const char *hint;
} FleetFixRefusal;

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

/* fix.c */
extern void fleet_track_fix_read(FleetFix *fix, const Datum *values, const bool *nulls);
extern FleetFixRefusal *fleet_track_fix_refusal(int sqlstate, const char *message,
												const char *detail, const char *hint);
extern void fleet_track_fix_raise(const FleetFixRefusal *refusal);
extern void fleet_track_fix_values(const FleetFix *fix, Datum *values, char *nulls);
extern FleetFixRefusal *fleet_track_fix_check(const FleetFix *fix);

#endif							/* FLEET_TRACK_FIX_H */
