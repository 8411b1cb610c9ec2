/*-------------------------------------------------------------------------
 *
 * crossing.h
 *	  When a vehicle has crossed a border.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/crossing.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_CROSSING_H
#define FLEET_TRACK_CROSSING_H

#include <stdbool.h>

/* Each limit is off where it is negative (speed: where it is zero). */
typedef struct FleetCrossingRule
{
	double		distance_m;		/* so far past the border is across */
	double		dwell_s;		/* so long past the border is across */
	double		max_speed_mps;	/* a fix that implies more is ignored */
} FleetCrossingRule;

typedef struct FleetCrossingFix
{
	bool		has_last;		/* was there a fix before? */
	double		last_lon;
	double		last_lat;
	double		elapsed_s;		/* since that one */
	double		lon;
	double		lat;
	bool		is_outside;		/* it resolves to another region than the vehicle's */
	double		past_m;			/* metres past the border, if outside */
	bool		was_outside;	/* so did the accepted fix before */
	double		outside_s;		/* since the first of these, if was_outside */
} FleetCrossingFix;

typedef enum FleetCrossing
{
	FLEET_CROSSING_STAY,		/* in its region, or in none */
	FLEET_CROSSING_IMPLAUSIBLE, /* ignore the fix */
	FLEET_CROSSING_OUTSIDE,		/* in another region, but not across yet */
	FLEET_CROSSING_CROSS		/* hand it off */
} FleetCrossing;

extern FleetCrossing fleet_track_crossing_decide(const FleetCrossingRule *rule,
												 const FleetCrossingFix *fix);

extern double fleet_track_crossing_delay(const FleetCrossingRule *rule, int handoffs,
										 double most_s);
extern bool fleet_track_crossing_is_jump(const FleetCrossingRule *rule,
										 const FleetCrossingFix *fix);

#endif							/* FLEET_TRACK_CROSSING_H */
