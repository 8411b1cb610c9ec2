/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  How often a vehicle may report: fleet.fix_min_interval.
 *
 * Each vehicle has a bucket of one token on the server of its region (limit.h).  A
 * fix is asked twice:
 *
 *	1. Before the vehicle's row is looked for: is there a token?  If not the fix is
 *	   refused, and has cost next to nothing.  That takes none, since it is not known
 *	   yet whether the vehicle is here, and whether the caller may say anything
 *	   about it.
 *	2. With the row locked, before it is known what is to become of the fix: take it.
 *	   Of fixes that came at the same time, and all passed the first step, this
 *	   lets one through.
 *
 * So a call that is passed on to another region is counted there and nowhere
 * else, a vehicle that does not exist has no bucket, and nobody uses up that of
 * a vehicle whose row he may not lock.  What was taken is not given back, whether
 * the fix is stale or implausible or its transaction is undone.
 *
 * Who could learn from the first step what the second would not tell him, when a
 * vehicle has last reported, goes on to the second.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/pace.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "base/errcodes.h"
#include "track/limit.h"
#include "track/store.h"

static int	fix_min_interval = 0;

void
fleet_track_pace_init(void)
{
	DefineCustomIntVariable("fleet.fix_min_interval",
							"A fix of a vehicle that comes sooner than this after the last one is refused.",
							"Set it where devices report more often than is needed; 0 turns it off.",
							&fix_min_interval, 0, 0, 86400000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* Its bucket.  A name that is too long for any is that of its beginning. */
static void
bucket_of(const char *vehicle, FleetLimitKey *key, FleetBucketRule *rule)
{
	key->bucket = "";
	key->bucket_size = 0;
	key->key = vehicle;
	key->key_size = Min(strlen(vehicle), FLEET_LIMIT_NAME);
	(void) fleet_track_bucket_rule(1, (int64) fix_min_interval * 1000000, rule);
}

static FleetFixRefusal *
refuse(const char *vehicle, int64 retry_ms)
{
	return fleet_track_fix_refusal(FLEET_ERRCODE_RATE_LIMITED,
								   psprintf("vehicle \"%s\" reports too often", vehicle),
								   psprintf("One fix in %d ms is let through; retry after " INT64_FORMAT " ms.",
											fix_min_interval, retry_ms),
								   "Report less often, or lower fleet.fix_min_interval.");
}

/* Step 1: refuse a fix that comes too soon; NULL where it does not. */
FleetFixRefusal *
fleet_track_pace_look(const char *vehicle)
{
	FleetLimitKey key;
	FleetBucketRule rule;
	int64		retry_ms;

	if (fix_min_interval == 0 || !fleet_track_store_may("vehicles"))
		return NULL;
	bucket_of(vehicle, &key, &rule);
	return fleet_track_limit_look(FLEET_LIMITER_FIX, &key, &rule, &retry_ms) ? NULL :
		refuse(vehicle, retry_ms);
}

/* Step 2: let this one through (NULL), or refuse it. */
FleetFixRefusal *
fleet_track_pace_take(const char *vehicle)
{
	FleetLimitKey key;
	FleetBucketRule rule;
	int64		retry_ms;

	if (fix_min_interval == 0)
		return NULL;
	bucket_of(vehicle, &key, &rule);
	return fleet_track_limit_take(FLEET_LIMITER_FIX, &key, &rule, &retry_ms) ? NULL :
		refuse(vehicle, retry_ms);
}
