/* cores: src/live/hits.c */
/*-------------------------------------------------------------------------
 *
 * hits_test.c
 *	  Unit tests of the nearest few of many.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/hits_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "live/hits.h"
#include "random.h"
#include "tap.h"

#define MANY 500

static FleetLiveHit
hit(double distance, const char *id)
{
	return (FleetLiveHit) {distance, id, (int) strlen(id), NULL};
}

static int
by_distance_and_id(const void *left, const void *right)
{
	const FleetLiveHit *a = left;
	const FleetLiveHit *b = right;

	if (a->distance != b->distance)
		return a->distance < b->distance ? -1 : 1;
	return strcmp(a->id, b->id);
}

/* Offer so many, with few different distances; are those kept the first of all in order? */
static int
keeps_the_nearest(int offered, int max)
{
	static char ids[MANY][12];
	FleetLiveHit all[MANY];
	FleetLiveHit kept[MANY];
	FleetLiveHits hits = {max, 0, kept};
	int			right = 1;

	for (int i = 0; i < offered; i++)
	{
		snprintf(ids[i], sizeof(ids[i]), "%d", i);
		all[i] = hit((double) random_below(20), ids[i]);
		fleet_live_hits_offer(&hits, all[i]);
	}
	qsort(all, offered, sizeof(FleetLiveHit), by_distance_and_id);
	fleet_live_hits_sort(&hits);
	right = hits.n == (offered < max ? offered : max);
	for (int i = 0; i < hits.n; i++)
		right = right && kept[i].distance == all[i].distance && strcmp(kept[i].id, all[i].id) == 0;
	return right;
}

int
main(void)
{
	FleetLiveHit kept[2];
	FleetLiveHits hits = {2, 0, kept};
	int			wrong = 0;

	ok(fleet_live_hits_reach(&hits, 100) == 100, "with room the radius counts");
	fleet_live_hits_offer(&hits, hit(7, "b"));
	fleet_live_hits_offer(&hits, hit(3, "c"));
	ok(fleet_live_hits_reach(&hits, 100) == 7, "without room the farthest that was found");
	fleet_live_hits_offer(&hits, hit(7, "a"));
	fleet_live_hits_offer(&hits, hit(7, "ab"));
	fleet_live_hits_sort(&hits);
	is_str(kept[0].id, "c", "the nearest is first");
	is_str(kept[1].id, "a", "of one distance the first by its id, of which the shorter one is");

	hits = (FleetLiveHits) {0, 0, NULL};
	fleet_live_hits_offer(&hits, hit(1, "a"));
	is_int(hits.n, 0, "none is wanted");

	for (int offered = 0; offered < MANY; offered += 7)
		for (int max = 1; max < MANY; max += 13)
			wrong += !keeps_the_nearest(offered, max);
	is_int(wrong, 0, "of any number the nearest are kept, in order");
	return done();
}
