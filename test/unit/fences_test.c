/* cores: src/geo/boxtree.c src/geo/fences.c src/geo/geofence.c src/geo/geofence_build.c src/geo/geofence_frame.c src/geo/geofence_grid.c src/geo/geofence_meets.c src/geo/geofence_near.c src/geo/haversine.c src/geo/orient.c src/geo/wkb.c */
/*-------------------------------------------------------------------------
 *
 * fences_test.c
 *	  Unit tests of sets of fences, and of the tree that finds them.
 *
 * Coordinates are whole multiples of 2^-10 degrees, so a second opinion about
 * areas is exact in 64-bit integers, without any index.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/fences_test.c
 *
 *-------------------------------------------------------------------------
 */
#include "geo/boxtree.h"
#include "geo/fences.h"
#include "geo/haversine.h"
#include "random.h"
#include "tap.h"
#include "wkbmaker.h"

#define UNIT		1024.0
#define MAX_FENCES	400
#define MAX_POINTS	12

typedef struct Place
{
	int64_t		x;
	int64_t		y;
} Place;

typedef struct Shape
{
	int			n;				/* vertices; 0: a circle around the first */
	Place		p[MAX_POINTS];
	double		radius_m;
} Shape;

static Shape shapes[MAX_FENCES];
static int	nshape;

static FleetGeoPoint
degrees(Place p)
{
	FleetGeoPoint d = {p.x / UNIT, p.y / UNIT};

	return d;
}

/* ---------- a second opinion ---------- */

static int64_t
side(Place a, Place b, Place p)
{
	return (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x);
}

static bool
between(int64_t a, int64_t b, int64_t x)
{
	return (a <= x && x <= b) || (b <= x && x <= a);
}

static bool
is_on(Place a, Place b, Place p)
{
	return side(a, b, p) == 0 && between(a.x, b.x, p.x) && between(a.y, b.y, p.y);
}

static bool
slow_covers(const Shape *s, Place p)
{
	bool		inside = false;

	if (s->n == 0)
		return fleet_geo_haversine(degrees(s->p[0]).x, degrees(s->p[0]).y,
								   degrees(p).x, degrees(p).y) <= s->radius_m;
	for (int i = 0; i < s->n; i++)
	{
		Place		a = s->p[i];
		Place		b = s->p[(i + 1) % s->n];

		if (is_on(a, b, p))
			return true;
		if ((a.y <= p.y) != (b.y <= p.y) && (side(a, b, p) > 0) == (b.y > a.y))
			inside = !inside;
	}
	return inside;
}

static int
sign(int64_t x)
{
	return (x > 0) - (x < 0);
}

/* Both ends are outside. */
static bool
slow_passes_area(const Shape *s, Place p, Place q)
{
	for (int i = 0; i < s->n; i++)
	{
		Place		a = s->p[i];
		Place		b = s->p[(i + 1) % s->n];

		if (is_on(p, q, a) || is_on(a, b, p) || is_on(a, b, q))
			return true;
		if (sign(side(a, b, p)) * sign(side(a, b, q)) < 0 &&
			sign(side(p, q, a)) * sign(side(p, q, b)) < 0)
			return true;
	}
	return false;
}

/* How near the line comes to a circle's centre, by many places on it. */
static double
slow_nearest(const Shape *s, Place p, Place q)
{
	double		best = 1e9;

	for (int i = 0; i <= 1000; i++)
		best = fmin(best, fleet_geo_haversine(degrees(s->p[0]).x, degrees(s->p[0]).y,
											  (p.x + (q.x - p.x) * i / 1000.0) / UNIT,
											  (p.y + (q.y - p.y) * i / 1000.0) / UNIT));
	return best;
}

/* ---------- random fences and steps ---------- */

static Place
random_place(int64_t x, int64_t y, int64_t reach)
{
	Place		p = {x + random_below(2 * reach + 1) - reach, y + random_below(2 * reach + 1) - reach};

	return p;
}

static void
random_shape(Shape *s, int64_t size)
{
	Place		middle = random_place(0, 0, size);
	int64_t		reach = 1 + random_below(size / 2);

	s->n = random_below(3) == 0 ? 0 : (int) (3 + random_below(MAX_POINTS - 2));
	s->p[0] = middle;
	s->radius_m = 1.0 + random_below(reach * 100);
	for (int i = 0; i < s->n; i++)
		s->p[i] = random_place(middle.x, middle.y, reach);
}

static FleetGeoStatus
add(FleetGeoFences *fences, const Shape *s)
{
	Wkb			w = {NULL, 0, 0, random_below(2) == 0};
	double		xy[2 * MAX_POINTS];
	FleetGeoStatus status;

	if (s->n == 0)
		return fleet_geo_fences_add_circle(fences, degrees(s->p[0]).x, degrees(s->p[0]).y, s->radius_m);
	for (int i = 0; i < s->n; i++)
	{
		xy[2 * i] = degrees(s->p[i]).x;
		xy[2 * i + 1] = degrees(s->p[i]).y;
	}
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_ring(&w, xy, s->n);
	status = fleet_geo_fences_add_area(fences, w.data, w.len);
	free(w.data);
	return status;
}

/* Shapes of few distinct points are refused; these are not counted. */
static FleetGeoFences *
random_fences(int count, int64_t size)
{
	FleetGeoFences *fences = fleet_geo_fences_create(NULL);

	nshape = 0;
	while (nshape < count)
	{
		random_shape(&shapes[nshape], size);
		if (add(fences, &shapes[nshape]) == FLEET_GEO_OK)
			nshape++;
	}
	if (fleet_geo_fences_finish(fences) != FLEET_GEO_OK)
		abort();
	return fences;
}

typedef struct Seen
{
	int			visits[MAX_FENCES];
	bool		was[MAX_FENCES];
	bool		is[MAX_FENCES];
} Seen;

static void
note(void *ctx, int fence, bool was, bool is)
{
	Seen	   *seen = ctx;

	seen->visits[fence]++;
	seen->was[fence] = was;
	seen->is[fence] = is;
}

/* What is wrong about one fence and one step. */
static int
check(const FleetGeoFences *fences, int i, const Seen *seen, Place from, Place to)
{
	const Shape *s = &shapes[i];
	bool		was = slow_covers(s, from);
	bool		is = slow_covers(s, to);
	bool		passes;
	double		nearest;

	if (seen->visits[i] > 1 || (seen->visits[i] == 0 && (was || is)) ||
		(seen->visits[i] == 1 && (seen->was[i] != was || seen->is[i] != is)))
		return 1;
	if (was || is)
		return 0;
	passes = fleet_geo_fences_passes(fences, i, degrees(from), degrees(to));
	if (passes && seen->visits[i] == 0)
		return 1;
	if (s->n > 0)
		return passes != slow_passes_area(s, from, to);
	if (!passes && random_below(50) != 0)
		return 0;				/* it takes long */
	nearest = slow_nearest(s, from, to);
	return passes ? nearest > s->radius_m * 1.01 + 200 : nearest < s->radius_m * 0.999 - 1;
}

static void
compare(int count, int64_t size, int steps, const char *name)
{
	FleetGeoFences *fences = random_fences(count, size);
	int			wrong = 0;
	int			entered = 0;

	for (int n = 0; n < steps; n++)
	{
		Place		from = random_place(0, 0, 2 * size);
		Place		to = random_below(2) == 0 ? random_place(from.x, from.y, 1 + size / 10) :
			random_place(0, 0, 2 * size);
		FleetGeoPoint start = degrees(from);
		Seen		seen = {.visits = {0}};

		/* A corner of a fence is a difficult place. */
		if (count > 0 && random_below(4) == 0)
			to = shapes[random_below(count)].p[0];
		fleet_geo_fences_step(fences, &start, degrees(to), note, &seen);
		for (int i = 0; i < count; i++)
		{
			wrong += check(fences, i, &seen, from, to);
			entered += seen.visits[i] && seen.is[i] && !seen.was[i];
		}
	}
	is_int(wrong, 0, name);
	ok(count == 0 || entered > 0, "%s: some are entered", name);
	is_int(fleet_geo_fences_count(fences), count, "and all are there");
	fleet_geo_fences_free(fences);
}

/* ---------- edges of the world, refusals ---------- */

static int
count_in(const FleetGeoFences *fences, double lon, double lat)
{
	FleetGeoPoint p = {lon, lat};
	Seen		seen = {.visits = {0}};
	int			n = 0;

	fleet_geo_fences_step(fences, NULL, p, note, &seen);
	for (int i = 0; i < fleet_geo_fences_count(fences); i++)
		n += seen.visits[i] == 1 && seen.is[i] && !seen.was[i];
	return n;
}

static void
test_edges(void)
{
	FleetGeoFences *fences = fleet_geo_fences_create(NULL);
	FleetGeoPoint east = {179.999, 0};
	FleetGeoPoint west = {-179.999, 0};
	Shape		line = {3, {{0, 0}, {0, 0}, {0, 0}}, 0};

	is_int(fleet_geo_fences_add_circle(fences, 180, 0, 1000), FLEET_GEO_OK, "a circle on the antimeridian");
	is_int(fleet_geo_fences_add_circle(fences, 10, 90, 1000), FLEET_GEO_OK, "and one on the pole");
	is_int(fleet_geo_fences_add_circle(fences, 0, 0, 0), FLEET_GEO_TOO_BIG, "none without a radius");
	is_int(fleet_geo_fences_add_circle(fences, 0, 0, NAN), FLEET_GEO_TOO_BIG, "or with one that is no number");
	is_int(fleet_geo_fences_add_circle(fences, 0, 0, 2e6), FLEET_GEO_TOO_BIG, "or with one that is too large");
	is_int(fleet_geo_fences_add_circle(fences, 181, 0, 1), FLEET_GEO_BAD_COORDINATE, "or beyond the world");
	is_int(add(fences, &line), FLEET_GEO_BAD_RING, "no area of one point");
	is_int(fleet_geo_fences_count(fences), 2, "what was refused is not there");
	is_int(fleet_geo_fences_finish(fences), FLEET_GEO_OK, "finished");
	is_int(count_in(fences, 179.995, 0), 1, "west of the antimeridian");
	is_int(count_in(fences, -179.995, 0), 1, "and east of it");
	is_int(count_in(fences, -179.9, 0), 0, "and not further away");
	is_int(count_in(fences, -170, 89.995), 1, "the pole is near from everywhere");
	ok(!fleet_geo_fences_passes(fences, 0, east, west), "no line crosses the antimeridian");
	fleet_geo_fences_free(fences);
}

int
main(void)
{
	compare(0, 100, 10, "no fence");
	compare(1, 100, 2000, "one fence");
	compare(16, 60, 2000, "as many as are in one node");
	compare(17, 60, 2000, "and one more");
	compare(300, 2000, 500, "many that are far apart");
	compare(400, 300, 200, "many that overlap");
	test_edges();
	return done();
}
