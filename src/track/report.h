/*-------------------------------------------------------------------------
 *
 * report.h
 *	  What becomes of position reports, one or many.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/report.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_REPORT_H
#define FLEET_TRACK_REPORT_H

#include "postgres.h"

#include "track/fix.h"

/* A fix, and what became of it. */
typedef struct FleetReport
{
	FleetFix	fix;
	FleetFixRefusal *refusal;	/* why it was not taken, or NULL */
	const char *outcome;		/* NULL where it was not taken, or see fleet_track_report_one */
	const char *region;			/* of the vehicle after it */
	int64		epoch;
	bool		paced;			/* its token has been taken */
	bool		elsewhere;		/* its vehicle is not here */
	bool		accepted;		/* it has been written */
	char	   *ride;			/* the vehicle's open ride then, or NULL */
	const FleetRegion *target;	/* where the vehicle has crossed to, or NULL */
} FleetReport;

extern void fleet_track_report_init(void);
extern void fleet_track_report_one(FleetReport *report);
extern void fleet_track_report_many(FleetReport *reports, int n);

#endif							/* FLEET_TRACK_REPORT_H */
