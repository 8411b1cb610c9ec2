/*-------------------------------------------------------------------------
 *
 * siphash.h
 *	  A hash with a secret key.  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/siphash.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_SIPHASH_H
#define FLEET_TRACK_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

extern uint64_t fleet_track_siphash(const uint64_t key[2], const void *data, size_t size);

#endif							/* FLEET_TRACK_SIPHASH_H */
