/*-------------------------------------------------------------------------
 *
 * random.h
 *	  For tests: random numbers that are the same in every run (xorshift).
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/random.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_RANDOM_H
#define FLEET_RANDOM_H

#include <stdint.h>

static uint64_t random_state = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t
random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* From 0 to n - 1. */
static int64_t
random_below(int64_t n)
{
	return (int64_t) (random_next() % (uint64_t) n);
}

#endif							/* FLEET_RANDOM_H */
