/* cores: src/track/crossing.c src/geo/haversine.c */
/*-------------------------------------------------------------------------
 *
 * crossing_test.c
 *	  Unit tests of the crossing rule.
 *
 * What the rule does to real traces is tested in test/data.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/crossing_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "tap.h"
#include "track/crossing.h"

#define OFF		(-1.0)
#define DEGREE	111195.0797		/* metres, on the sphere */

static const char *const names[] = {"stay", "implausible", "outside", "cross"};

/* A fix in another region, this far past the border and this long outside. */
static FleetCrossingFix
outside(double past_m, bool was_outside, double outside_s)
{
	FleetCrossingFix fix = {0};

	fix.is_outside = true;
	fix.past_m = past_m;
	fix.was_outside = was_outside;
	fix.outside_s = outside_s;
	return fix;
}

/* A fix this many metres east of the last one, after this many seconds. */
static FleetCrossingFix
moved(double metres, double elapsed_s)
{
	FleetCrossingFix fix = {0};

	fix.has_last = true;
	fix.last_lon = 10;
	fix.lon = 10 + metres / DEGREE;
	fix.elapsed_s = elapsed_s;
	return fix;
}

static void
decides(double distance_m, double dwell_s, double max_speed, FleetCrossingFix fix,
		FleetCrossing want, const char *name)
{
	FleetCrossingRule rule = {distance_m, dwell_s, max_speed};

	is_str(names[fleet_track_crossing_decide(&rule, &fix)], names[want], name);
}

static void
test_distance(void)
{
	decides(100, OFF, 0, outside(99.9, false, 0), FLEET_CROSSING_OUTSIDE, "not far enough");
	decides(100, OFF, 0, outside(100, false, 0), FLEET_CROSSING_CROSS, "exactly far enough");
	decides(100, OFF, 0, outside(HUGE_VAL, false, 0), FLEET_CROSSING_CROSS, "further than anyone measured");
	decides(100, OFF, 0, outside(50, true, 1e9), FLEET_CROSSING_OUTSIDE, "no time is long enough when dwell is off");
	decides(0, OFF, 0, outside(0, false, 0), FLEET_CROSSING_CROSS, "on the border, distance 0");
}

static void
test_dwell(void)
{
	decides(OFF, 60, 0, outside(0, false, 0), FLEET_CROSSING_OUTSIDE, "the first fix outside");
	decides(OFF, 60, 0, outside(0, false, 1e9), FLEET_CROSSING_OUTSIDE, "an old stay does not count once it has ended");
	decides(OFF, 60, 0, outside(0, true, 59.9), FLEET_CROSSING_OUTSIDE, "not long enough");
	decides(OFF, 60, 0, outside(0, true, 60), FLEET_CROSSING_CROSS, "exactly long enough");
	decides(OFF, 60, 0, outside(1e6, true, 1), FLEET_CROSSING_OUTSIDE, "no way is far enough when distance is off");
	decides(OFF, 0, 0, outside(0, false, 0), FLEET_CROSSING_CROSS, "the first fix, dwell 0");
}

static void
test_either(void)
{
	decides(100, 60, 0, outside(99, true, 59), FLEET_CROSSING_OUTSIDE, "neither far nor long");
	decides(100, 60, 0, outside(100, true, 1), FLEET_CROSSING_CROSS, "far is enough");
	decides(100, 60, 0, outside(1, true, 60), FLEET_CROSSING_CROSS, "long is enough");
	decides(0, 0, 0, outside(0, false, 0), FLEET_CROSSING_CROSS, "all settings 0: at once");
	decides(OFF, OFF, 0, outside(0, false, 0), FLEET_CROSSING_CROSS, "both off: at once");
}

static void
test_inside(void)
{
	FleetCrossingFix fix = {0};

	decides(0, 0, 0, fix, FLEET_CROSSING_STAY, "in its own region, or in none");
	fix.was_outside = true;
	fix.outside_s = 1e9;
	fix.past_m = 1e9;
	decides(0, 0, 0, fix, FLEET_CROSSING_STAY, "back again, whatever was before");
}

static void
test_speed(void)
{
	FleetCrossingFix fix = moved(6001, 100);

	decides(0, 0, 60, moved(5999, 100), FLEET_CROSSING_STAY, "just below the limit");
	decides(0, 0, 60, fix, FLEET_CROSSING_IMPLAUSIBLE, "just above the limit");
	decides(0, 0, 0, moved(1e6, 1), FLEET_CROSSING_STAY, "limit 0 is no limit");
	decides(0, 0, 60, moved(0, 0), FLEET_CROSSING_STAY, "the same place at the same time");
	fix.is_outside = true;
	decides(0, 0, 60, fix, FLEET_CROSSING_IMPLAUSIBLE, "an implausible fix does not cross");
	fix.has_last = false;
	decides(0, 0, 60, fix, FLEET_CROSSING_CROSS, "the first fix has no speed");

	/* 1,000 km off: the last good place becomes plausible again by waiting */
	decides(0, 0, 60, moved(1e6, 16000), FLEET_CROSSING_IMPLAUSIBLE, "after an outlier: ignored for a while");
	decides(0, 0, 60, moved(1e6, 17000), FLEET_CROSSING_STAY, "after an outlier: not stuck for ever");
}

static void
delays(double dwell_s, int handoffs, double most_s, long want, const char *name)
{
	FleetCrossingRule rule = {100, dwell_s, 0};

	is_int((long) fleet_track_crossing_delay(&rule, handoffs, most_s), want, name);
}

static void
test_delay(void)
{
	delays(60, 0, 600, 0, "never handed off: no delay");
	delays(60, 1, 600, 0, "it has come here: no delay");
	delays(60, 2, 600, 120, "it came and went: twice the dwell");
	delays(60, 3, 600, 240, "and once more: four times");
	delays(60, 4, 600, 480, "eight times");
	delays(60, 5, 600, 600, "no longer than the window");
	delays(60, 1000000000, 600, 600, "however often");
	delays(OFF, 2, 600, 120, "without a dwell: of a minute");
	delays(0, 3, 600, 240, "with none: of a minute");
	delays(5, 3, 600, 20, "a short one is doubled, too");
	delays(3600, 2, 600, 600, "a long one is not cut by it, but here");
}

static void
test_jump(void)
{
	FleetCrossingRule slow = {0, 0, 10};
	FleetCrossingRule off = {0, 0, 0};
	FleetCrossingFix fix = moved(5900, 100);
	FleetCrossingFix far = moved(6100, 100);

	ok(fleet_track_crossing_is_jump(&slow, &fix), "a jump by the rule's speed");
	ok(!fleet_track_crossing_is_jump(&off, &fix), "none by 60 m/s, where the rule has no speed");
	ok(fleet_track_crossing_is_jump(&off, &far), "one by 60 m/s");
	far.has_last = false;
	ok(!fleet_track_crossing_is_jump(&off, &far), "the first fix is no jump");
}

int
main(void)
{
	test_distance();
	test_dwell();
	test_either();
	test_inside();
	test_speed();
	test_delay();
	test_jump();
	return done();
}
