/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  The node's hybrid logical clock, in shared memory.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/clock/clock.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_CLOCK_CLOCK_H
#define FLEET_CLOCK_CLOCK_H

#include "postgres.h"

#include "clock/hlc.h"

/*
 * The greatest stamp that the SQL type holds: 6429-10-17T02:45:55.327Z/65535.
 * fleet.hlc is stored and compared as a signed number, so the top bit stays
 * clear; the node's clock gives out no stamp above it.
 */
#define FLEET_CLOCK_STAMP_MAX	((uint64) PG_INT64_MAX)

/* A stamp as the Datum of a fleet.hlc. */
static inline Datum
FleetClockStampGetDatum(uint64 stamp)
{
	return Int64GetDatum((int64) stamp);
}

static inline uint64
DatumGetFleetClockStamp(Datum datum)
{
	return (uint64) DatumGetInt64(datum);
}

extern int	fleet_clock_max_skew;	/* ms */

extern void fleet_clock_init(void);
extern uint64 fleet_clock_now(void);
extern uint64 fleet_clock_receive(uint64 stamp);
extern bool fleet_clock_try_receive(uint64 stamp);

#endif							/* FLEET_CLOCK_CLOCK_H */
