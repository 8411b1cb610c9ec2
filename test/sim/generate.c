/*-------------------------------------------------------------------------
 *
 * generate.c
 *	  Makes a small world for the demonstration: three regions and the traces
 *	  of vehicles that drive in it.
 *
 *	  generate regions                           GeoJSON on stdout
 *	  generate traces  SEED VEHICLES MINUTES     vehicle,t,lat,lon,occ on stdout,
 *	                                             sorted by t, then vehicle
 *
 * The regions are the same for every seed: los_angeles north and san_diego
 * south of a straight border at latitude 33.8, phoenix east of both behind a
 * winding one.  A shared border is one array of points that both neighbours
 * use, so they agree vertex for vertex.  A winding line is displaced only
 * across its main direction and thus cannot cross itself.
 *
 * Every vehicle has a home and a leash: it walks at random and turns back when
 * it is too far away.  The even ones have their home on a border and a short
 * leash, so they cross again and again.
 *
 * The output depends on the arguments alone: own random numbers, one stream
 * per vehicle, no clock, no locale.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/generate.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* the corners of the world */
#define WEST			(-118.25)
#define MIDDLE			(-117.65)	/* where the eastern border starts */
#define EAST			(-117.05)
#define SOUTH			33.45
#define STRAIGHT		33.80		/* the straight border */
#define NORTH			34.15

#define LINE_POINTS		129			/* a power of two, and one */
#define FIRST_SECOND	INT64_C(1767225600) /* 2026-01-01 00:00:00 UTC */

#define DEGREE_M		111195.0	/* metres in a degree of latitude */
#define EAST_SHRINK		0.83		/* cosine of the latitude here */
#define PI				3.14159265358979323846

#define BORDER_LEASH_M	4000.0
#define LEASH_M			12000.0

typedef struct Point
{
	double		lon;
	double		lat;
} Point;

/* A line from one corner to another, both included. */
typedef struct Line
{
	Point		p[LINE_POINTS];
} Line;

/* All lines of the world; each is used by one region or by two neighbours. */
typedef struct World
{
	Line		straight;		/* west to middle */
	Line		upper;			/* middle to north */
	Line		lower;			/* middle to south */
	Line		northwest;		/* north, west part; east to west */
	Line		northeast;
	Line		southwest;		/* west to east */
	Line		southeast;
	Line		west_upper;		/* north to south */
	Line		west_lower;
	Line		east;			/* south to north */
} World;

typedef struct Vehicle
{
	uint64_t	random;			/* its own stream of random numbers */
	Point		at;
	Point		home;
	double		leash_m;
	double		heading;		/* radians, clockwise from north */
	double		speed_kmh;
	int			next_fix;		/* second of its next fix */
	int			next_change;	/* second when a ride starts or ends */
	bool		occupied;
} Vehicle;

/* splitmix64: small, good enough, and the same everywhere */
static uint64_t
random_next(uint64_t *state)
{
	uint64_t	z = (*state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* a number in [low, high) */
static double
random_between(uint64_t *state, double low, double high)
{
	double		unit = (double) (random_next(state) >> 11) / 9007199254740992.0;

	return low + (high - low) * unit;
}

/* six decimals, so that what is printed is what is computed with */
static double
rounded(double degrees)
{
	return floor(degrees * 1e6 + 0.5) / 1e6;
}

/*
 * Midpoint displacement between two corners.  "bend" is the greatest
 * displacement of the first midpoint in degrees, halved at each step; 0 makes
 * a straight line.
 */
static void
make_line(Line *line, Point from, Point to, double bend, uint64_t seed)
{
	bool		northward = fabs(to.lat - from.lat) > fabs(to.lon - from.lon);
	int			step;

	line->p[0] = from;
	line->p[LINE_POINTS - 1] = to;
	for (step = LINE_POINTS - 1; step > 1; step /= 2, bend *= 0.55)
	{
		int			i;

		for (i = step / 2; i < LINE_POINTS; i += step)
		{
			Point		a = line->p[i - step / 2];
			Point		b = line->p[i + step / 2];
			double		off = random_between(&seed, -bend, bend);

			line->p[i].lon = rounded((a.lon + b.lon) / 2 + (northward ? off : 0));
			line->p[i].lat = rounded((a.lat + b.lat) / 2 + (northward ? 0 : off));
		}
	}
}

static Point
point(double lon, double lat)
{
	Point		p;

	p.lon = lon;
	p.lat = lat;
	return p;
}

static void
make_world(World *world)
{
	Point		nw = point(WEST, NORTH);
	Point		n = point(MIDDLE + 0.08, NORTH);
	Point		ne = point(EAST, NORTH);
	Point		w = point(WEST, STRAIGHT);
	Point		m = point(MIDDLE, STRAIGHT);
	Point		sw = point(WEST, SOUTH);
	Point		s = point(MIDDLE - 0.06, SOUTH);
	Point		se = point(EAST, SOUTH);

	make_line(&world->straight, w, m, 0, 0);
	make_line(&world->upper, m, n, 0.07, 11);
	make_line(&world->lower, m, s, 0.07, 12);
	make_line(&world->northwest, n, nw, 0.02, 13);
	make_line(&world->northeast, ne, n, 0.02, 14);
	make_line(&world->southwest, sw, s, 0.02, 15);
	make_line(&world->southeast, s, se, 0.02, 16);
	make_line(&world->west_upper, nw, w, 0.02, 17);
	make_line(&world->west_lower, w, sw, 0.02, 18);
	make_line(&world->east, se, ne, 0.02, 19);
}

/*
 * Print the points of a line without its last one, which is the first of the
 * line that follows in the ring.
 */
static void
print_line(const Line *line, bool backwards)
{
	int			i;

	for (i = 0; i < LINE_POINTS - 1; i++)
	{
		const Point *p = &line->p[backwards ? LINE_POINTS - 1 - i : i];

		printf("[%.6f,%.6f],", p->lon, p->lat);
	}
}

static void
print_region_start(const char *name, bool first)
{
	printf("%s\n{\"type\":\"Feature\",\"properties\":{\"name\":\"%s\"},"
		   "\"geometry\":{\"type\":\"MultiPolygon\",\"coordinates\":[[[",
		   first ? "" : ",", name);
}

/* the ring's first point again closes it */
static void
print_region_end(Point first)
{
	printf("[%.6f,%.6f]]]]}}", first.lon, first.lat);
}

static void
print_regions(void)
{
	World		world;

	make_world(&world);
	printf("{\"type\":\"FeatureCollection\",\"features\":[");

	print_region_start("los_angeles", true);
	print_line(&world.straight, false);
	print_line(&world.upper, false);
	print_line(&world.northwest, false);
	print_line(&world.west_upper, false);
	print_region_end(world.straight.p[0]);

	print_region_start("san_diego", false);
	print_line(&world.southwest, false);
	print_line(&world.lower, true);
	print_line(&world.straight, true);
	print_line(&world.west_lower, false);
	print_region_end(world.southwest.p[0]);

	print_region_start("phoenix", false);
	print_line(&world.southeast, false);
	print_line(&world.east, false);
	print_line(&world.northeast, false);
	print_line(&world.upper, true);
	print_line(&world.lower, false);
	print_region_end(world.southeast.p[0]);

	printf("\n]}\n");
}

/* Home of a vehicle: on a border for the even ones, else anywhere inland. */
static Point
choose_home(const World *world, uint64_t *random, int number)
{
	const Line *borders[3];

	borders[0] = &world->straight;
	borders[1] = &world->upper;
	borders[2] = &world->lower;

	if (number % 2 == 0)
	{
		/* not near the ends, where the world ends too */
		int			i = (int) random_between(random, 10, LINE_POINTS - 10);

		return borders[number / 2 % 3]->p[i];
	}
	return point(random_between(random, WEST + 0.15, EAST - 0.15),
				 random_between(random, SOUTH + 0.12, NORTH - 0.12));
}

static void
start_vehicle(Vehicle *v, const World *world, uint64_t seed, int number)
{
	v->random = seed * UINT64_C(0xD1342543DE82EF95) + (uint64_t) number;
	random_next(&v->random);
	v->home = choose_home(world, &v->random, number);
	v->at = v->home;
	v->leash_m = number % 2 == 0 ? BORDER_LEASH_M : LEASH_M;
	v->heading = random_between(&v->random, 0, 2 * PI);
	v->speed_kmh = random_between(&v->random, 40, 80);
	v->next_fix = (int) random_between(&v->random, 0, 10);
	v->next_change = (int) random_between(&v->random, 20, 300);
	v->occupied = false;
}

/* Drive for some seconds: home when the leash is tight, else as it comes. */
static void
drive(Vehicle *v, int seconds)
{
	double		east_m = (v->home.lon - v->at.lon) * DEGREE_M * EAST_SHRINK;
	double		north_m = (v->home.lat - v->at.lat) * DEGREE_M;
	double		distance_m;

	if (hypot(east_m, north_m) > v->leash_m)
		v->heading = atan2(east_m, north_m) + random_between(&v->random, -0.5, 0.5);
	else
		v->heading += random_between(&v->random, -0.35, 0.35);

	v->speed_kmh += random_between(&v->random, -4, 4);
	v->speed_kmh = fmin(80, fmax(40, v->speed_kmh));

	distance_m = v->speed_kmh / 3.6 * seconds;
	v->at.lon += sin(v->heading) * distance_m / (DEGREE_M * EAST_SHRINK);
	v->at.lat += cos(v->heading) * distance_m / DEGREE_M;
}

/* Begin or end a ride when its time has come. */
static void
change_occupancy(Vehicle *v, int now)
{
	if (now < v->next_change)
		return;
	v->occupied = !v->occupied;
	v->next_change = now + (int) (v->occupied ?
								  random_between(&v->random, 300, 900) :
								  random_between(&v->random, 60, 300));
}

static int
print_traces(uint64_t seed, int nvehicles, int minutes)
{
	Vehicle    *vehicles = calloc((size_t) nvehicles, sizeof(Vehicle));
	World		world;
	int			now;
	int			i;

	if (vehicles == NULL)
	{
		fprintf(stderr, "generate: out of memory\n");
		return 1;
	}
	make_world(&world);
	for (i = 0; i < nvehicles; i++)
		start_vehicle(&vehicles[i], &world, seed, i);

	for (now = 0; now < minutes * 60; now++)
	{
		for (i = 0; i < nvehicles; i++)
		{
			Vehicle    *v = &vehicles[i];
			int			pause;

			if (now != v->next_fix)
				continue;
			change_occupancy(v, now);
			printf("v%05d,%lld,%.5f,%.5f,%d\n", i + 1,
				   (long long) (FIRST_SECOND + now),
				   v->at.lat, v->at.lon, v->occupied ? 1 : 0);
			pause = (int) random_between(&v->random, 8, 13);
			drive(v, pause);
			v->next_fix = now + pause;
		}
	}
	free(vehicles);
	return 0;
}

static int
usage(void)
{
	fprintf(stderr,
			"usage: generate regions\n"
			"       generate traces SEED VEHICLES MINUTES\n");
	return 2;
}

/* a whole number within limits, or -1 */
static long
parse_number(const char *text, long low, long high)
{
	char	   *end;
	long		value = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || value < low || value > high)
	{
		fprintf(stderr, "generate: \"%s\" is not a number from %ld to %ld\n",
				text, low, high);
		return -1;
	}
	return value;
}

int
main(int argc, char **argv)
{
	int			rc = 0;

	if (argc == 2 && strcmp(argv[1], "regions") == 0)
		print_regions();
	else if (argc == 5 && strcmp(argv[1], "traces") == 0)
	{
		long		seed = parse_number(argv[2], 0, 2147483647L);
		long		vehicles = parse_number(argv[3], 1, 99999);
		long		minutes = parse_number(argv[4], 1, 100000);

		if (seed < 0 || vehicles < 0 || minutes < 0)
			return usage();
		rc = print_traces((uint64_t) seed, (int) vehicles, (int) minutes);
	}
	else
		return usage();

	if (fflush(stdout) != 0 || ferror(stdout))
	{
		perror("generate");
		return 1;
	}
	return rc;
}
