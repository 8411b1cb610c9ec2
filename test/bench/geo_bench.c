/*-------------------------------------------------------------------------
 *
 * geo_bench.c
 *	  Nanoseconds that the geofence core takes to find the region of a point.
 *
 *		geo_bench REGIONS.geojson REPETITIONS <points
 *
 * Points are lines "lon,lat".  Prints "NS HITS" for each repetition, after one
 * that is not counted, and on standard error what the index takes.
 *
 * Copyright (c) 2026, the fleet authors
 * test/bench/geo_bench.c
 *
 *-------------------------------------------------------------------------
 */
#include <time.h>

#include "geojson.h"

#define MAX_POINTS	5000000

static double
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static long
locate_all(const FleetGeoGeofence *fence, const double *points, long npoints)
{
	long		hits = 0;
	long		i;

	for (i = 0; i < npoints; i++)
		hits += fleet_geo_geofence_locate(fence, points[2 * i], points[2 * i + 1]) >= 0;
	return hits;
}

int
main(int argc, char **argv)
{
	double	   *points = malloc(sizeof(double) * 2 * MAX_POINTS);
	long		npoints = 0;
	double		begin = now_ns();
	Geojson		map;
	int			repetitions;
	int			i;

	if (argc != 3 || points == NULL)
		geojson_die("usage: geo_bench REGIONS.geojson REPETITIONS <points");
	map = geojson_load(argv[1]);
	fprintf(stderr, "# %d regions, read and indexed in %.0f ms, index %zu kB\n", map.count,
			(now_ns() - begin) / 1e6, fleet_geo_geofence_memory(map.fence) >> 10);
	while (npoints < MAX_POINTS &&
		   scanf("%lf,%lf", &points[2 * npoints], &points[2 * npoints + 1]) == 2)
		npoints++;
	if (npoints == 0)
		geojson_die("no points");

	repetitions = atoi(argv[2]);
	locate_all(map.fence, points, npoints);
	for (i = 0; i < repetitions; i++)
	{
		long		hits;

		begin = now_ns();
		hits = locate_all(map.fence, points, npoints);
		printf("%.2f %ld\n", (now_ns() - begin) / (double) npoints, hits);
	}
	fleet_geo_geofence_free(map.fence);
	free(map.names);
	free(points);
	return 0;
}
