/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The node's hybrid logical clock, in shared memory.
 *
 * One 64-bit number, the last stamp given out or received, is all there is.
 * Each operation reads it, computes the next stamp (hlc.c) and puts it in
 * place by compare-and-swap; whoever loses the race computes anew from what
 * the winner left.  So two calls, in whatever backends, never return the same
 * stamp, and a call that starts after another has returned gets a greater one.
 * The swap is a full memory barrier.  There is no lock, so a backend that dies
 * half way leaves nothing behind, and the clock may be used where no lock may
 * be taken.
 *
 * There is one clock per server: nodes that are databases of the same server
 * share it.  That costs nothing, the order is merely finer than each needs.
 *
 * Nothing is persistent.  After a restart the clock starts from the physical
 * one, and may at first be behind stamps that it gave out before: by up to
 * fleet.max_clock_skew, when a peer had pulled it ahead.  Therefore whoever
 * stamps a row anew receives the row's present stamp first
 * (fleet_clock_receive), and the new version is greater in any case.
 *
 * The skew limit holds against this server's physical time.  A stamp carries
 * the time of the fastest server that it came by; the one that refuses it need
 * not be set wrong, nor the one that sent it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/clock/clock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/time.h>

#include "port/atomics.h"
#include "utils/guc.h"

#include "base/errcodes.h"
#include "base/shmem.h"
#include "clock/clock.h"

typedef struct FleetClockShared
{
	pg_atomic_uint64 last;
} FleetClockShared;

static FleetClockShared *shared_clock = NULL;

int			fleet_clock_max_skew = 5000;
#ifdef FLEET_FAULT_POINTS
static int	test_clock_offset = 0;
#endif

static void clock_shmem_init(void *area);

/* Define the room's settings and reserve its shared memory. */
void
fleet_clock_init(void)
{
	DefineCustomIntVariable("fleet.max_clock_skew",
							"How far ahead of this server's time a stamp from another node may be.",
							"Raise it when servers cannot be kept in time any closer; a stamp further ahead is refused with an error.",
							&fleet_clock_max_skew,
							5000, 1, 24 * 60 * 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
#ifdef FLEET_FAULT_POINTS
	DefineCustomIntVariable("fleet.test_clock_offset",
							"Added to this server's time by the hybrid logical clock; exists in test builds only.",
							"Set it to see what a wrong clock does.",
							&test_clock_offset,
							0, -PG_INT32_MAX, PG_INT32_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
#endif

	fleet_base_shmem_reserve("fleet clock", sizeof(FleetClockShared),
							 clock_shmem_init, (void **) &shared_clock);
}

static void
clock_shmem_init(void *area)
{
	pg_atomic_init_u64(&((FleetClockShared *) area)->last, 0);
}

/* Unix milliseconds by this server's time; 0 when that is before 1970. */
static uint64
physical_ms(void)
{
	struct timeval now;
	int64		ms;

	gettimeofday(&now, NULL);
	ms = (int64) now.tv_sec * 1000 + now.tv_usec / 1000;
#ifdef FLEET_FAULT_POINTS
	ms += test_clock_offset;
#endif
	return ms < 0 ? 0 : (uint64) ms;
}

/*
 * Put next in the place of *last.  False when another backend was faster;
 * *last is then what it left.
 */
static bool
advance(uint64 *last, uint64 next)
{
	return pg_atomic_compare_exchange_u64(&shared_clock->last, last, next);
}

static void
raise_exhausted(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("hybrid logical clock has no stamp left"),
			 errhint("Set this server's clock right, then restart the server.")));
}

/*
 * The stamp of a local event: greater than every stamp this server gave out
 * or received since it started.  Raises an error without shared memory, and
 * when this server's time is past the year 6429; never otherwise.
 */
uint64
fleet_clock_now(void)
{
	uint64		physical;
	uint64		last;
	uint64		next;

	if (shared_clock == NULL)
		fleet_base_require_loaded();

	physical = physical_ms();
	last = pg_atomic_read_u64(&shared_clock->last);
	do
	{
		next = fleet_clock_hlc_tick(last, physical);
		if (next > FLEET_CLOCK_STAMP_MAX)
			raise_exhausted();
	} while (!advance(&last, next));
	return next;
}

/*
 * Merge a received stamp into the clock.  On OK *next is the stamp of the
 * receipt; otherwise the clock is as before.  Never raises an error.
 */
static FleetClockHlcStatus
merge_stamp(uint64 stamp, uint64 physical, uint64_t *next)
{
	uint64		last = pg_atomic_read_u64(&shared_clock->last);

	do
	{
		FleetClockHlcStatus status;

		status = fleet_clock_hlc_merge(last, stamp, physical, fleet_clock_max_skew, next);
		if (status != FLEET_CLOCK_HLC_OK)
			return status;
		if (*next > FLEET_CLOCK_STAMP_MAX)
			return FLEET_CLOCK_HLC_EXHAUSTED;
	} while (!advance(&last, *next));
	return FLEET_CLOCK_HLC_OK;
}

/*
 * Receive a stamp, from a peer or from a row, and return the stamp of the
 * receipt: greater than the one received and than all before it here.  A
 * stamp too far ahead of this server's time raises an error.
 */
uint64
fleet_clock_receive(uint64 stamp)
{
	FleetClockHlcStatus status;
	uint64		physical;
	uint64_t	next = 0;
	char		text[FLEET_CLOCK_HLC_TEXT_SIZE];

	if (shared_clock == NULL)
		fleet_base_require_loaded();

	physical = physical_ms();
	status = merge_stamp(stamp, physical, &next);
	if (status == FLEET_CLOCK_HLC_TOO_FAR_AHEAD)
	{
		fleet_clock_hlc_format(stamp, text);
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_CLOCK_SKEW),
				 errmsg("stamp %s is too far ahead of this server's clock", text),
				 errdetail("It is " UINT64_FORMAT " ms ahead, and fleet.max_clock_skew is %d ms.",
						   fleet_clock_hlc_ms(stamp) - physical, fleet_clock_max_skew),
				 errhint("Check that this server and its peers keep time (NTP, chrony); raise fleet.max_clock_skew if they cannot do better.")));
	}
	if (status != FLEET_CLOCK_HLC_OK)
		raise_exhausted();
	return next;
}

/*
 * As fleet_clock_receive, for places that must not throw.  False means that
 * the stamp was refused (too far ahead, no stamp left, no shared memory) and
 * the clock does not know it: the caller must not rely on later stamps being
 * greater, and does well to leave the matter to someone who may raise.
 */
bool
fleet_clock_try_receive(uint64 stamp)
{
	uint64_t	next;

	return shared_clock != NULL &&
		merge_stamp(stamp, physical_ms(), &next) == FLEET_CLOCK_HLC_OK;
}
