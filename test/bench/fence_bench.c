/*-------------------------------------------------------------------------
 *
 * fence_bench.c
 *	  How long a set of fences takes to say what a step enters and leaves.
 *
 * Usage: fence_bench FENCES STEPS.  Fences are as test/bench/fence.sh makes them:
 * polygons of 12 corners and a radius of 0.003 degrees, at random in a square of
 * one degree.  Steps are of 0.001 degrees in a random direction.  Prints
 * nanoseconds and events for each step.
 *
 * Copyright (c) 2026, the fleet authors
 * test/bench/fence_bench.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "geo/fences.h"
#include "random.h"
#include "wkbmaker.h"

#define CORNERS		12
#define RADIUS		0.003
#define STEP		0.001

static double
random_part(void)
{
	return (double) random_below(1000000) / 1000000;
}

static void
add_fence(FleetGeoFences *fences)
{
	Wkb			w = {NULL, 0, 0, false};
	double		x = random_part();
	double		y = random_part();
	double		xy[2 * CORNERS];

	for (int i = 0; i < CORNERS; i++)
	{
		xy[2 * i] = x + RADIUS * cos(i * 6.283185307 / CORNERS);
		xy[2 * i + 1] = y + RADIUS * sin(i * 6.283185307 / CORNERS);
	}
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_ring(&w, xy, CORNERS);
	if (fleet_geo_fences_add_area(fences, w.data, w.len) != FLEET_GEO_OK)
		abort();
	free(w.data);
}

static void
count_event(void *ctx, int fence, bool was, bool is)
{
	*(long *) ctx += was != is;
}

int
main(int argc, char **argv)
{
	FleetGeoFences *fences = fleet_geo_fences_create(NULL);
	FleetGeoPoint p = {0.5, 0.5};
	struct timespec begin;
	struct timespec end;
	long		steps;
	long		events = 0;

	if (argc != 3 || (steps = atol(argv[2])) <= 0)
		return 1;
	for (int i = 0; i < atoi(argv[1]); i++)
		add_fence(fences);
	if (fleet_geo_fences_finish(fences) != FLEET_GEO_OK)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (long i = 0; i < steps; i++)
	{
		double		angle = 6.283185307 * random_part();
		FleetGeoPoint q = {fmin(fmax(p.x + STEP * cos(angle), 0), 1), fmin(fmax(p.y + STEP * sin(angle), 0), 1)};

		fleet_geo_fences_step(fences, &p, q, count_event, &events);
		p = q;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.0f %.4f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / steps,
		   (double) events / steps);
	return 0;
}
