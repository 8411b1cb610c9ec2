/*-------------------------------------------------------------------------
 *
 * hint.c
 *	  Where rides and vehicles of other regions were last seen.
 *
 * Who has asked once need not ask all regions the next time.  It is only a hint:
 * the node that is named knows better, and says so; one that cannot be reached is
 * not believed to have anything.  So it may be old, or another ride's with the same
 * hash; nothing is ever decided by it, and no lock is taken.
 *
 * One table in shared memory for all backends and databases: 40 bits of the hash
 * of what it is about (of which some are the place in the table), and 24 bits of the
 * hash of the region's name.  What comes later to a place replaces what is there.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/hint.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"

#include "base/shmem.h"
#include "handoff/route.h"
#include "remote/remote.h"

#define NHINT			16384	/* 128 kB */
#define REGION_BITS		24
#define REGION_MASK		((UINT64CONST(1) << REGION_BITS) - 1)

typedef struct Hints
{
	pg_atomic_uint64 hints[NHINT];
} Hints;

static Hints *hints = NULL;

static void
init_hints(void *area)
{
	for (int i = 0; i < NHINT; i++)
		pg_atomic_init_u64(&((Hints *) area)->hints[i], 0);
}

void
fleet_handoff_hint_reserve(void)
{
	fleet_base_shmem_reserve("fleet hints", sizeof(Hints), init_hints, (void **) &hints);
}

static uint64
hash_of(bool vehicles, const char *id)
{
	return hash_any_extended((const unsigned char *) id, (int) strlen(id),
							 ((uint64) MyDatabaseId << 1) | vehicles);
}

static uint64
region_bits(const char *region)
{
	return hash_any((const unsigned char *) region, (int) strlen(region)) & REGION_MASK;
}

void
fleet_handoff_hint_keep(bool vehicles, const char *id, const char *region)
{
	uint64		hash = hash_of(vehicles, id);

	pg_atomic_write_u64(&hints->hints[hash % NHINT],
						(hash & ~REGION_MASK) | region_bits(region));
}

static bool
is_reachable(const char *region)
{
	char	   *error;

	return fleet_remote_try_connect(region, &error) != NULL;
}

/* The region where it was last seen, another than our own; or NULL. */
char *
fleet_handoff_hint(const FleetRegionMap *map, bool vehicles, const char *id)
{
	uint64		hash = hash_of(vehicles, id);
	uint64		hint = pg_atomic_read_u64(&hints->hints[hash % NHINT]);

	if ((hint & ~REGION_MASK) != (hash & ~REGION_MASK))
		return NULL;
	for (int i = 0; i < map->nregion; i++)
		if (&map->regions[i] != map->own &&
			region_bits(map->regions[i].name) == (hint & REGION_MASK) &&
			is_reachable(map->regions[i].name))
			return map->regions[i].name;
	return NULL;
}
