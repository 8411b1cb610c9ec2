/*-------------------------------------------------------------------------
 *
 * hits.c
 *	  The nearest few of many, in a heap whose top is the farthest of them.
 *
 * A pure core: no server code, no state.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/hits.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "live/hits.h"

/* By distance, then by the bytes of the id. */
static int
compare(const void *left, const void *right)
{
	const FleetLiveHit *a = left;
	const FleetLiveHit *b = right;
	int			size = a->id_size < b->id_size ? a->id_size : b->id_size;
	int			order;

	if (a->distance != b->distance)
		return a->distance < b->distance ? -1 : 1;
	order = memcmp(a->id, b->id, size);
	return order != 0 ? order : a->id_size - b->id_size;
}

/* Put a hit where the hole is, or what is farther below it, down to a leaf. */
static void
sift_down(FleetLiveHits *h, int hole, FleetLiveHit hit)
{
	for (;;)
	{
		int			child = 2 * hole + 1;

		if (child >= h->n)
			break;
		if (child + 1 < h->n && compare(&h->hits[child + 1], &h->hits[child]) > 0)
			child++;
		if (compare(&h->hits[child], &hit) <= 0)
			break;
		h->hits[hole] = h->hits[child];
		hole = child;
	}
	h->hits[hole] = hit;
}

/* Keep it if it is among the nearest seen so far. */
void
fleet_live_hits_offer(FleetLiveHits *h, FleetLiveHit hit)
{
	int			hole;

	if (h->n == h->max)
	{
		if (h->max > 0 && compare(&hit, &h->hits[0]) < 0)
			sift_down(h, 0, hit);
		return;
	}
	for (hole = h->n++; hole > 0; hole = (hole - 1) / 2)
	{
		if (compare(&h->hits[(hole - 1) / 2], &hit) >= 0)
			break;
		h->hits[hole] = h->hits[(hole - 1) / 2];
	}
	h->hits[hole] = hit;
}

/* The nearest first; nothing can be offered after that. */
void
fleet_live_hits_sort(FleetLiveHits *h)
{
	qsort(h->hits, h->n, sizeof(FleetLiveHit), compare);
}
