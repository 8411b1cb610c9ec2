/*-------------------------------------------------------------------------
 *
 * bucket.h
 *	  The arithmetic of a token bucket.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/bucket.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_BUCKET_H
#define FLEET_TRACK_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#define FLEET_BUCKET_MAX_TOKENS INT32_MAX
#define FLEET_BUCKET_MAX_PER_NS (INT64_C(366) * 24 * 3600 * 1000000000)

typedef struct FleetBucketRule
{
	int64_t		token_ns;		/* in which one token comes back */
	int64_t		depth_ns;		/* in which all of them do */
} FleetBucketRule;

extern bool fleet_track_bucket_rule(int64_t max, int64_t per_ns, FleetBucketRule *rule);
extern bool fleet_track_bucket_take(const FleetBucketRule *rule, int64_t now_ns,
									int64_t *full_at_ns, int64_t *retry_ns);

#endif							/* FLEET_TRACK_BUCKET_H */
