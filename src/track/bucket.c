/*-------------------------------------------------------------------------
 *
 * bucket.c
 *	  The arithmetic of a token bucket.
 *
 * A bucket holds so many tokens and is refilled evenly.  All there is to know of
 * it is one number: the moment at which it will be full again.  What is
 * missing now is how far away that is, in units of the time that one token
 * takes; a token that is taken moves it by one of these.  So nothing has to
 * refill it, and one that nobody uses says nothing more once it is full.
 *
 * Invariants:
 *
 *	1. It never holds more than its tokens: the moment is never counted from before
 *	   now, so what a bucket does not hold it does not save.
 *	2. It never owes more than its tokens.  A moment further away than it takes to
 *	   refill it comes from a rule that was another one then, or from a clock that
 *	   went back, and is brought back to that.  So nobody waits for longer than it
 *	   takes to refill it.  The price is that a clock which goes back by as
 *	   much forgives as much: the caller has to see to it that it does not.
 *	3. Rounding never gives more than was asked for: the time of a token is rounded
 *	   up, and all tokens take that many times theirs.
 *
 * Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/bucket.c
 *
 *-------------------------------------------------------------------------
 */
#include "track/bucket.h"

/* So many tokens in so long; false where either is out of range. */
bool
fleet_track_bucket_rule(int64_t max, int64_t per_ns, FleetBucketRule *rule)
{
	if (max < 1 || max > FLEET_BUCKET_MAX_TOKENS || per_ns < 1 || per_ns > FLEET_BUCKET_MAX_PER_NS)
		return false;
	rule->token_ns = per_ns / max + (per_ns % max != 0);
	rule->depth_ns = rule->token_ns * max;
	return true;
}

/* How long it is until the bucket is full: from 0 to the rule's depth. */
static int64_t
time_missing(const FleetBucketRule *rule, int64_t now_ns, int64_t full_at_ns)
{
	uint64_t	missing;

	if (full_at_ns <= now_ns)
		return 0;
	missing = (uint64_t) full_at_ns - (uint64_t) now_ns;
	return missing > (uint64_t) rule->depth_ns ? rule->depth_ns : (int64_t) missing;
}

static int64_t
later(int64_t now_ns, int64_t by_ns)
{
	return now_ns > INT64_MAX - by_ns ? INT64_MAX : now_ns + by_ns;
}

/*
 * Take a token.  Where there is none, says after how long there will be, if nobody
 * else takes it.
 */
bool
fleet_track_bucket_take(const FleetBucketRule *rule, int64_t now_ns, int64_t *full_at_ns,
						int64_t *retry_ns)
{
	int64_t		missing = time_missing(rule, now_ns, *full_at_ns);
	bool		taken = missing <= rule->depth_ns - rule->token_ns;

	*retry_ns = taken ? 0 : missing - (rule->depth_ns - rule->token_ns);
	if (taken)
		missing += rule->token_ns;
	if (missing > 0)
		*full_at_ns = later(now_ns, missing);
	return taken;
}
