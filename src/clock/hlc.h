/*-------------------------------------------------------------------------
 *
 * hlc.h
 *	  Hybrid logical clock: the pure core.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/clock/hlc.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_CLOCK_HLC_H
#define FLEET_CLOCK_HLC_H

#include <stddef.h>
#include <stdint.h>

#define FLEET_CLOCK_HLC_COUNTER_BITS	16
#define FLEET_CLOCK_HLC_COUNTER_MAX		UINT32_C(0xFFFF)
/* 10889-08-02T05:31:50.655Z */
#define FLEET_CLOCK_HLC_MS_MAX			((UINT64_C(1) << 48) - 1)

/* Room for the longest text form, "10889-08-02T05:31:50.655Z/65535", and its NUL. */
#define FLEET_CLOCK_HLC_TEXT_SIZE		32

typedef enum FleetClockHlcStatus
{
	FLEET_CLOCK_HLC_OK,
	FLEET_CLOCK_HLC_MALFORMED,	/* not of the text form at all */
	FLEET_CLOCK_HLC_BAD_FIELD,	/* right form, but no such date, time or counter */
	FLEET_CLOCK_HLC_OUT_OF_RANGE,	/* a real time that a stamp cannot hold */
	FLEET_CLOCK_HLC_TOO_FAR_AHEAD,	/* refused by the skew limit */
	FLEET_CLOCK_HLC_EXHAUSTED	/* no stamp is left after this one */
} FleetClockHlcStatus;

static inline uint64_t
fleet_clock_hlc_ms(uint64_t stamp)
{
	return stamp >> FLEET_CLOCK_HLC_COUNTER_BITS;
}

static inline uint32_t
fleet_clock_hlc_counter_of(uint64_t stamp)
{
	return (uint32_t) (stamp & FLEET_CLOCK_HLC_COUNTER_MAX);
}

extern FleetClockHlcStatus fleet_clock_hlc_pack(uint64_t ms, uint32_t counter, uint64_t *stamp);
extern uint64_t fleet_clock_hlc_tick(uint64_t last, uint64_t physical_ms);
extern FleetClockHlcStatus fleet_clock_hlc_merge(uint64_t last, uint64_t received,
												 uint64_t physical_ms, uint64_t max_skew_ms,
												 uint64_t *out);
extern FleetClockHlcStatus fleet_clock_hlc_parse(const char *text, size_t len, uint64_t *stamp);
extern size_t fleet_clock_hlc_format(uint64_t stamp, char *text);

#endif							/* FLEET_CLOCK_HLC_H */
