/*-------------------------------------------------------------------------
 *
 * siphash.c
 *	  A hash with a secret key: SipHash-2-4 of Aumasson and Bernstein.
 *
 * PostgreSQL's own hash functions take a seed, but are not made to keep who
 * chooses the input from finding two that collide whatever the seed is.
 *
 * Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/siphash.c
 *
 *-------------------------------------------------------------------------
 */
#include "track/siphash.h"

static uint64_t
rotate(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static void
mix(uint64_t v[4], int rounds)
{
	for (int i = 0; i < rounds; i++)
	{
		v[0] += v[1];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[0] = rotate(v[0], 32);
		v[2] += v[3];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

/* Up to eight bytes as a number, the first one lowest. */
static uint64_t
number(const unsigned char *data, size_t size)
{
	uint64_t	result = 0;

	for (size_t i = 0; i < size; i++)
		result |= (uint64_t) data[i] << (8 * i);
	return result;
}

static void
absorb(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	mix(v, 2);
	v[0] ^= word;
}

uint64_t
fleet_track_siphash(const uint64_t key[2], const void *data, size_t size)
{
	const unsigned char *next = data;
	size_t		left = size;
	uint64_t	v[4];

	v[0] = key[0] ^ UINT64_C(0x736f6d6570736575);
	v[1] = key[1] ^ UINT64_C(0x646f72616e646f6d);
	v[2] = key[0] ^ UINT64_C(0x6c7967656e657261);
	v[3] = key[1] ^ UINT64_C(0x7465646279746573);
	for (; left >= 8; next += 8, left -= 8)
		absorb(v, number(next, 8));
	absorb(v, (uint64_t) size << 56 | number(next, left));
	v[2] ^= 0xff;
	mix(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
