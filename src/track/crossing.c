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

static bool
is_implausible(const FleetCrossingRule *rule, const FleetCrossingFix *fix)
{
	double		moved_m;

	if (rule->max_speed_mps <= 0 || !fix->has_last || fix->elapsed_s <= 0)
		return false;
	moved_m = fleet_geo_haversine(fix->last_lon, fix->last_lat, fix->lon, fix->lat);
	return moved_m > rule->max_speed_mps * fix->elapsed_s;
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
