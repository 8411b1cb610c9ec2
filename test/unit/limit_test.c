/* cores: src/track/bucket.c src/track/siphash.c */
/*-------------------------------------------------------------------------
 *
 * limit_test.c
 *	  Unit tests of the token bucket and of the hash that finds it.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/limit_test.c
 *
 *-------------------------------------------------------------------------
 */
#include "random.h"
#include "tap.h"
#include "track/bucket.h"
#include "track/siphash.h"

#define MS INT64_C(1000000)
#define S  INT64_C(1000000000)
#define MAX_PER FLEET_BUCKET_MAX_PER_NS

static FleetBucketRule
rule_of(int64_t max, int64_t per_ns)
{
	FleetBucketRule rule = {0, 0};

	if (!fleet_track_bucket_rule(max, per_ns, &rule))
		printf("# no rule: %lld in %lld ns\n", (long long) max, (long long) per_ns);
	return rule;
}

/* How many of so many tries at one moment get a token. */
static int
taken(const FleetBucketRule *rule, int64_t now, int64_t *full_at, int tries)
{
	int64_t		retry;
	int			n = 0;

	for (int i = 0; i < tries; i++)
		n += fleet_track_bucket_take(rule, now, full_at, &retry);
	return n;
}

static void
test_rules(void)
{
	FleetBucketRule rule = rule_of(10, S);

	is_int(rule.token_ns, S / 10, "10 in 1 s: one in 100 ms");
	is_int(rule.depth_ns, S, "and all of them in 1 s");
	rule = rule_of(3, S);
	is_int(rule.token_ns, 333333334, "3 in 1 s: rounded up");
	is_int(rule.depth_ns, 1000000002, "three times that");
	rule = rule_of(FLEET_BUCKET_MAX_TOKENS, 1);
	is_int(rule.token_ns, 1, "more tokens than nanoseconds: one each");
	is_int(rule.depth_ns, FLEET_BUCKET_MAX_TOKENS, "it takes longer then");
	rule = rule_of(FLEET_BUCKET_MAX_TOKENS, MAX_PER);
	ok(rule.depth_ns >= MAX_PER && rule.depth_ns < MAX_PER + INT64_C(0x80000000), "the largest of both");
	ok(!fleet_track_bucket_rule(0, S, &rule), "no token");
	ok(!fleet_track_bucket_rule(-1, S, &rule), "less than no token");
	ok(!fleet_track_bucket_rule(INT64_C(0x80000000), S, &rule), "too many");
	ok(!fleet_track_bucket_rule(1, 0, &rule), "no time");
	ok(!fleet_track_bucket_rule(1, INT64_MIN, &rule), "negative time");
	ok(!fleet_track_bucket_rule(1, MAX_PER + 1, &rule), "too long");
	ok(fleet_track_bucket_rule(1, MAX_PER, &rule), "as long as can be");
}

static void
test_refill(void)
{
	FleetBucketRule rule = rule_of(5, 10 * S);
	int64_t		full_at = 0;
	int64_t		retry;
	int64_t		now = 1000 * S;

	is_int(taken(&rule, now, &full_at, 20), 5, "a new bucket is full, and holds no more");
	is_int(full_at, now + 10 * S, "empty: full after all of the time");
	ok(!fleet_track_bucket_take(&rule, now, &full_at, &retry), "empty: refused");
	is_int(retry, 2 * S, "until the next token");
	is_int(full_at, now + 10 * S, "a refusal costs nothing");
	ok(!fleet_track_bucket_take(&rule, now + 2 * S - 1, &full_at, &retry), "a nanosecond early: refused");
	is_int(retry, 1, "by that nanosecond");
	ok(fleet_track_bucket_take(&rule, now + 2 * S, &full_at, &retry), "in time: taken");
	is_int(retry, 0, "nothing to wait for");
	is_int(taken(&rule, now + 2 * S, &full_at, 20), 0, "but one only");
	is_int(taken(&rule, now + 8 * S, &full_at, 20), 3, "three after three times that");
	is_int(taken(&rule, now + 1000 * S, &full_at, 20), 5, "after a long time all, and no more");
	is_int(taken(&rule, now + 1001 * S, &full_at, 20), 0, "half a token is none");
	is_int(taken(&rule, now + 1002 * S, &full_at, 20), 1, "nor is it lost");
	rule = rule_of(3, S);
	full_at = 0;
	is_int(taken(&rule, now, &full_at, 20), 3, "the rounding costs no token");
	rule = rule_of(1, 5 * S);
	full_at = 0;
	is_int(taken(&rule, now, &full_at, 20), 1, "a bucket of one");
	is_int(taken(&rule, now + 5 * S - 1, &full_at, 20), 0, "is empty until its time");
	is_int(taken(&rule, now + 5 * S, &full_at, 20), 1, "and full then");
}

static void
test_other_rule(void)
{
	FleetBucketRule slow = rule_of(5, 3600 * S);
	FleetBucketRule fast = rule_of(5, S);
	FleetBucketRule more = rule_of(10, 3600 * S);
	int64_t		full_at = 0;
	int64_t		retry;
	int64_t		now = 1000 * S;

	taken(&slow, now, &full_at, 5);
	ok(!fleet_track_bucket_take(&fast, now, &full_at, &retry), "a shorter time: empty as it was");
	is_int(retry, S / 5, "but nobody waits for longer than by the new rule");
	is_int(taken(&fast, now + S, &full_at, 20), 5, "which holds at once");
	full_at = 0;
	taken(&slow, now, &full_at, 5);
	is_int(taken(&more, now, &full_at, 20), 0, "more tokens: what was empty stays so");
	full_at = 0;
	taken(&slow, now, &full_at, 1);
	is_int(taken(&more, now, &full_at, 20), 8, "a fifth of it was taken, which is two of them");
}

static void
test_clock(void)
{
	FleetBucketRule rule = rule_of(5, 10 * S);
	FleetBucketRule largest = rule_of(FLEET_BUCKET_MAX_TOKENS, MAX_PER);
	int64_t		full_at = 0;
	int64_t		retry;
	int64_t		now = 1000 * S;

	taken(&rule, now, &full_at, 3);
	ok(taken(&rule, now - 500 * S, &full_at, 20) == 0, "the clock goes back: no token more");
	is_int(full_at, now - 490 * S, "and nobody waits for longer than ever");
	is_int(taken(&rule, now - 490 * S, &full_at, 20), 5, "it goes on from there");

	full_at = INT64_MAX;
	ok(!fleet_track_bucket_take(&rule, INT64_MIN, &full_at, &retry), "from one end to the other");
	is_int(retry, 2 * S, "a wait within reason");
	is_int(full_at, INT64_MIN + 10 * S, "and a moment, too");
	full_at = INT64_MIN;
	is_int(taken(&largest, INT64_MAX, &full_at, 3), 3, "the end of time");
	is_int(full_at, INT64_MAX, "is not passed");
	full_at = INT64_MIN;
	is_int(taken(&rule, INT64_MIN, &full_at, 20), 5, "the beginning of time");
}

/*
 * Against a bucket that counts tokens: at random moments, with a clock that now and
 * then goes back, never more than all tokens and what was refilled since any moment.
 */
static void
test_random(void)
{
	int			too_many = 0;
	int			too_late = 0;
	int			too_few = 0;

	for (int i = 0; i < 2000; i++)
	{
		int64_t		max = 1 + random_below(20);
		int64_t		per = 1 + random_below(i % 2 ? 1000 : 1000 * MS);
		FleetBucketRule rule = rule_of(max, per);
		int64_t		now = random_below(1000 * S);
		int64_t		start = now;
		int64_t		full_at = random_below(2) ? 0 : now;
		int64_t		got = 0;
		int64_t		retry;

		for (int j = 0; j < 200; j++)
		{
			if (fleet_track_bucket_take(&rule, now, &full_at, &retry))
				got++;
			else if (retry < 1 || retry > rule.token_ns)
				too_late++;
			else if (random_below(4) == 0)
			{
				now += retry;	/* as it was told */
				if (fleet_track_bucket_take(&rule, now, &full_at, &retry))
					got++;
				else
					too_few++;
			}
			if (got > max + (now - start) / rule.token_ns)
				too_many++;
			now += random_below(3) ? 0 : random_below(2 * rule.token_ns);
		}
	}
	is_int(too_many, 0, "never more than all tokens and what was refilled");
	is_int(too_late, 0, "a wait is for one token at most");
	is_int(too_few, 0, "who waits as told gets it");
}

static void
test_hash(void)
{
	/* From the authors' table: key 00 01 .. 0f, of 00 01 .. of each length. */
	static const struct
	{
		size_t		size;
		uint64_t	hash;
	}			known[] = {
		{0, UINT64_C(0x726fdb47dd0e0e31)}, {1, UINT64_C(0x74f839c593dc67fd)},
		{2, UINT64_C(0x0d6c8009d9a94f5a)}, {8, UINT64_C(0x93f5f5799a932462)},
		{15, UINT64_C(0xa129ca6149be45e5)}
	};
	uint64_t	key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
	uint64_t	other[2] = {UINT64_C(0x0706050403020101), UINT64_C(0x0f0e0d0c0b0a0908)};
	unsigned char data[64];

	for (int i = 0; i < 64; i++)
		data[i] = i;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		ok(fleet_track_siphash(key, data, known[i].size) == known[i].hash, "SipHash of %zu bytes", known[i].size);
	ok(fleet_track_siphash(other, data, 15) != known[4].hash, "another key, another hash");
}

int
main(void)
{
	test_rules();
	test_refill();
	test_other_rule();
	test_clock();
	test_random();
	test_hash();
	return done();
}
