/*-------------------------------------------------------------------------
 *
 * limit.c
 *	  Token buckets in shared memory, for all backends and databases of the server.
 *
 * A table has a fixed number of entries, fleet.limit_entries, in sets of some
 * each.  A bucket is found by a hash of its name with a key that is made anew at
 * each start: a part of it says which set, and the whole of it which entry.  An
 * entry has nothing else but the moment at which its bucket is full again
 * (bucket.h).
 *
 * What is in a set is ordered by use, the last one first.  A bucket that is
 * not there is full, and takes the place of
 *
 *	1. an entry that was never used, or
 *	2. the one not used for longest of those whose buckets are full by now, which is
 *	   the same as not being there: nothing is lost, or
 *	3. the one not used for longest, which is evicted: its bucket counts as full from
 *	   then on.
 *
 * So memory is bounded, whatever keys come, and what a flood of keys can do is to let
 * some others begin anew.  A refusal is a use: who is refused and goes on asking
 * is not forgotten.
 *
 * Two names with the same hash share a bucket.  It has 64 bits, and is SipHash
 * with a secret key, so this happens by chance only: for a new name with one of
 * N in the table, once in 2^64 / N.
 *
 * A set has a spinlock, under which some dozen words are read and written and
 * nothing can fail, so that finding, taking and counting are one step.  Backends wait
 * for each other only where they ask about the same set, and not for long.  A
 * backend reads the clock before it has the lock, and others may have been there with a later
 * time when it gets it.  For a bucket its clock would go back, and the bucket forgive what
 * lies between; so the latest time that a set has seen is kept and counts.
 * There is no transaction in it: what was taken stays so after a ROLLBACK.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/limit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/spin.h"
#include "utils/guc.h"

#include "base/shmem.h"
#include "track/limit.h"
#include "track/siphash.h"

/* With its counters a set has 256 bytes: whole cache lines. */
#define WAYS 13

typedef struct LimitSet
{
	slock_t		mutex;
	int64		now;			/* the latest time seen, of now_ns() */
	uint64		allowed;
	uint64		refused;
	uint64		evicted;
	uint64		hashes[WAYS];	/* 0 = never used; the last used first */
	int64		full_at[WAYS];	/* of now_ns() */
} LimitSet;

typedef union PaddedSet
{
	LimitSet	set;
	char		pad[256];
} PaddedSet;

typedef struct LimitShared
{
	uint64		secret[2];		/* constant, as are all but the sets */
	uint32		nset;			/* of each limiter */
	char		pad[PG_CACHE_LINE_SIZE - 2 * sizeof(uint64) - sizeof(uint32)];
	PaddedSet	sets[FLEXIBLE_ARRAY_MEMBER];
} LimitShared;

StaticAssertDecl(sizeof(PaddedSet) == 256, "a set is two or four cache lines");

static int	limit_entries = 65536;

static LimitShared *shared = NULL;

static uint32
number_of_sets(void)
{
	return (limit_entries + WAYS - 1) / WAYS;
}

static void
init_shared(void *area)
{
	LimitShared *s = area;

	memset(s, 0, offsetof(LimitShared, sets));
	if (!pg_strong_random(s->secret, sizeof(s->secret)))
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fleet: could not get random numbers")));
	s->nset = number_of_sets();
	for (uint32 i = 0; i < s->nset * FLEET_LIMITERS; i++)
	{
		memset(&s->sets[i], 0, sizeof(PaddedSet));
		SpinLockInit(&s->sets[i].set.mutex);
	}
}

void
fleet_track_limit_init(void)
{
	DefineCustomIntVariable("fleet.limit_entries",
							"How many keys each limiter can tell apart at a time.",
							"Raise it to twice the number of keys or vehicles that are limited at the same time; 40 bytes of shared memory each.",
							&limit_entries, 65536, WAYS, 16777216,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	fleet_base_shmem_reserve("fleet limits",
							 offsetof(LimitShared, sets) +
							 (Size) number_of_sets() * FLEET_LIMITERS * sizeof(PaddedSet),
							 init_shared, (void **) &shared);
}

/* ---------- finding an entry ---------- */

/* Of a clock that does not go back, and says nothing after a restart. */
static int64
now_ns(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now) * 1000;
}

/* The size goes in, so that no two names are the same bytes in a row. */
static uint64
hash_of(const FleetLimitKey *key)
{
	char		buf[sizeof(Oid) + sizeof(uint32) + FLEET_LIMIT_NAME];
	uint32		size = (uint32) key->bucket_size;
	char	   *end = buf;
	uint64		hash;

	Assert(key->bucket_size + key->key_size <= FLEET_LIMIT_NAME);
	memcpy(end, &MyDatabaseId, sizeof(Oid));
	end += sizeof(Oid);
	memcpy(end, &size, sizeof(uint32));
	end += sizeof(uint32);
	memcpy(end, key->bucket, key->bucket_size);
	end += key->bucket_size;
	memcpy(end, key->key, key->key_size);
	end += key->key_size;
	hash = fleet_track_siphash(shared->secret, buf, end - buf);
	return hash == 0 ? 1 : hash;
}

/* Lock a set, and have it know the time. */
static void
lock_set(LimitSet *set)
{
	int64		now = now_ns();

	SpinLockAcquire(&set->mutex);
	set->now = Max(set->now, now);
}

static LimitSet *
set_of(FleetLimiter limiter, uint64 hash)
{
	return &shared->sets[limiter * shared->nset + (uint32) (hash % shared->nset)].set;
}

/* Its place, or -1.  The mutex is held. */
static int
find(const LimitSet *set, uint64 hash)
{
	for (int i = 0; i < WAYS; i++)
		if (set->hashes[i] == hash)
			return i;
	return -1;
}

/* The place that a new one takes; see above.  The mutex is held. */
static int
find_room(LimitSet *set)
{
	for (int i = WAYS - 1; i >= 0; i--)
		if (set->hashes[i] == 0 || set->full_at[i] <= set->now)
			return i;
	set->evicted++;
	return WAYS - 1;
}

/* Put what is known of a bucket first; what was before its place moves on. */
static void
put_first(LimitSet *set, int place, uint64 hash, int64 full_at)
{
	memmove(&set->hashes[1], &set->hashes[0], place * sizeof(uint64));
	memmove(&set->full_at[1], &set->full_at[0], place * sizeof(int64));
	set->hashes[0] = hash;
	set->full_at[0] = full_at;
}

/* ---------- what callers see ---------- */

static int64
to_ms(int64 ns)
{
	return ns / 1000000 + (ns % 1000000 != 0);
}

/*
 * Is there a token; and if not, after how many milliseconds there may be.  One that
 * is there is taken and counted, or only looked at.
 */
static bool
try_token(FleetLimiter limiter, const FleetLimitKey *key, const FleetBucketRule *rule,
		  bool take, int64 *retry_ms)
{
	uint64		hash = hash_of(key);
	LimitSet   *set = set_of(limiter, hash);
	int64		full_at;
	int64		retry_ns;
	int			place;
	bool		there;

	lock_set(set);
	place = find(set, hash);
	full_at = place < 0 ? set->now : set->full_at[place];
	there = fleet_track_bucket_take(rule, set->now, &full_at, &retry_ns);
	if (take || !there)
		put_first(set, place < 0 ? find_room(set) : place, hash, full_at);
	if (!there)
		set->refused++;
	else if (take)
		set->allowed++;
	SpinLockRelease(&set->mutex);
	*retry_ms = to_ms(retry_ns);
	return there;
}

/* Take a token; where there is none, after how many milliseconds there may be. */
bool
fleet_track_limit_take(FleetLimiter limiter, const FleetLimitKey *key,
					   const FleetBucketRule *rule, int64 *retry_ms)
{
	return try_token(limiter, key, rule, true, retry_ms);
}

/* The same, but a token that is there stays there, and is not counted. */
bool
fleet_track_limit_look(FleetLimiter limiter, const FleetLimitKey *key,
					   const FleetBucketRule *rule, int64 *retry_ms)
{
	return try_token(limiter, key, rule, false, retry_ms);
}

/* The counters of a limiter.  Each set is right, while others go on. */
void
fleet_track_limit_sum(FleetLimiter limiter, FleetLimitLook *look)
{
	memset(look, 0, sizeof(FleetLimitLook));
	look->entries = (int64) shared->nset * WAYS;
	for (uint32 i = 0; i < shared->nset; i++)
	{
		LimitSet   *set = &shared->sets[limiter * shared->nset + i].set;
		LimitSet	copy;

		CHECK_FOR_INTERRUPTS();
		lock_set(set);
		memcpy(&copy, set, sizeof(LimitSet));
		SpinLockRelease(&set->mutex);
		for (int j = 0; j < WAYS; j++)
			look->in_use += copy.hashes[j] != 0 && copy.full_at[j] > copy.now;
		look->allowed += (int64) copy.allowed;
		look->refused += (int64) copy.refused;
		look->evicted += (int64) copy.evicted;
	}
}
