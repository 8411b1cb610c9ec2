/*-------------------------------------------------------------------------
 *
 * limit.h
 *	  Token buckets in shared memory, and the two limiters that use them.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/limit.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_LIMIT_H
#define FLEET_TRACK_LIMIT_H

#include "postgres.h"

#include "track/bucket.h"
#include "track/fix.h"

/* Each limiter has a table of its own, so neither can push out the other's. */
typedef enum FleetLimiter
{
	FLEET_LIMITER_RATE,			/* fleet.rate_limit */
	FLEET_LIMITER_FIX			/* fleet.report_fix */
} FleetLimiter;

#define FLEET_LIMITERS 2

/* The bucket's name; together at most FLEET_LIMIT_NAME bytes. */
typedef struct FleetLimitKey
{
	const char *bucket;
	size_t		bucket_size;
	const char *key;
	size_t		key_size;
} FleetLimitKey;

#define FLEET_LIMIT_NAME 2048

typedef struct FleetLimitLook
{
	int64		entries;
	int64		in_use;
	int64		allowed;
	int64		refused;
	int64		evicted;
} FleetLimitLook;

/* limit.c */
extern void fleet_track_limit_init(void);
extern bool fleet_track_limit_take(FleetLimiter limiter, const FleetLimitKey *key,
								   const FleetBucketRule *rule, int64 *retry_ms);
extern bool fleet_track_limit_look(FleetLimiter limiter, const FleetLimitKey *key,
								   const FleetBucketRule *rule, int64 *retry_ms);
extern void fleet_track_limit_sum(FleetLimiter limiter, FleetLimitLook *look);

/* pace.c */
extern void fleet_track_pace_init(void);
extern FleetFixRefusal *fleet_track_pace_look(const char *vehicle);
extern FleetFixRefusal *fleet_track_pace_take(const char *vehicle);

#endif							/* FLEET_TRACK_LIMIT_H */
