/*-------------------------------------------------------------------------
 *
 * crossing.c
 *	  When a vehicle has crossed a border.
 *
 * Receivers jitter and teleport, so one fix beyond a border is no crossing
 * yet.  A vehicle has crossed when it is far enough past the border of its
 * region, or has been past it for long enough.  A fix to which the vehicle
 * would have had to fly is ignored altogether; the next one is measured from
 * the last fix that was not ignored, so when that one was the outlier, the
 * implied speed falls as time goes on and the vehicle is not stuck.
 *
 * A fix that is in no region keeps the vehicle where it is.
 *
 * A vehicle that goes back and forth is damped: to leave a region where it has come
 * and gone before, within a while, it must have been past the border for longer than
 * the rule says, twice as long each time, however far it is.
 *
 * Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/crossing.c
 *
 *-------------------------------------------------------------------------
 */
#include "track/crossing.h"

#include "geo/haversine.h"

/* The dwell that is doubled, and the speed of a jump, where the rule has none. */
#define DAMPED_DWELL_S	60.0
#define JUMP_MPS		60.0

static bool
is_faster(const FleetCrossingFix *fix, double limit_mps)
{
	if (!fix->has_last || fix->elapsed_s <= 0)
		return false;
	return fleet_geo_haversine(fix->last_lon, fix->last_lat, fix->lon, fix->lat) >
		limit_mps * fix->elapsed_s;
}

static bool
is_implausible(const FleetCrossingRule *rule, const FleetCrossingFix *fix)
{
	return rule->max_speed_mps > 0 && is_faster(fix, rule->max_speed_mps);
}

/* Did no vehicle drive there?  Said also where the rule lets such fixes pass. */
bool
fleet_track_crossing_is_jump(const FleetCrossingRule *rule, const FleetCrossingFix *fix)
{
	return is_faster(fix, rule->max_speed_mps > 0 ? rule->max_speed_mps : JUMP_MPS);
}

/*
 * How long a vehicle must be past the border that was handed off so often, in or out,
 * within a while of most_s.  Having come here says nothing yet.
 */
double
fleet_track_crossing_delay(const FleetCrossingRule *rule, int handoffs, double most_s)
{
	double		delay_s = rule->dwell_s > 0 ? rule->dwell_s : DAMPED_DWELL_S;

	if (handoffs < 2)
		return 0.0;
	for (int i = 1; i < handoffs && delay_s < most_s; i++)
		delay_s *= 2;
	return delay_s < most_s ? delay_s : most_s;
}

/* What one fix means for the region of its vehicle. */
FleetCrossing
fleet_track_crossing_decide(const FleetCrossingRule *rule, const FleetCrossingFix *fix)
{
	bool		both_off = rule->distance_m < 0 && rule->dwell_s < 0;

	if (is_implausible(rule, fix))
		return FLEET_CROSSING_IMPLAUSIBLE;
	if (!fix->is_outside)
		return FLEET_CROSSING_STAY;
	if (both_off || (rule->distance_m >= 0 && fix->past_m >= rule->distance_m))
		return FLEET_CROSSING_CROSS;
	if (rule->dwell_s >= 0 && (fix->was_outside ? fix->outside_s : 0.0) >= rule->dwell_s)
		return FLEET_CROSSING_CROSS;
	return FLEET_CROSSING_OUTSIDE;
}
