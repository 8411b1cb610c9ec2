/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the fuzz targets share.
 *
 * A target is one function that is called with any bytes whatever.  It fails
 * by crashing: a sanitizer's finding does, and so does must().
 *
 * Copyright (c) 2026, the fleet authors
 * test/fuzz/fuzz.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_FUZZ_H
#define FLEET_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

typedef struct FuzzInput
{
	const uint8_t *next;
	size_t		left;
} FuzzInput;

/* Take so many bytes as a number; what is missing is zero. */
static inline uint64_t
fuzz_number(FuzzInput *in, int nbytes)
{
	uint64_t	value = 0;

	for (int i = 0; i < nbytes && in->left > 0; i++, in->left--)
		value |= (uint64_t) *in->next++ << (8 * i);
	return value;
}

/* Take eight bytes as a double, of any kind. */
static inline double
fuzz_double(FuzzInput *in)
{
	uint64_t	bits = fuzz_number(in, 8);
	double		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

#endif							/* FLEET_FUZZ_H */
