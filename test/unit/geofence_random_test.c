/* cores: src/geo/geofence.c src/geo/geofence_build.c src/geo/geofence_frame.c src/geo/geofence_grid.c src/geo/geofence_near.c src/geo/haversine.c src/geo/orient.c src/geo/wkb.c */
/*-------------------------------------------------------------------------
 *
 * geofence_random_test.c
 *	  The geofence index against a second way to decide, at random.
 *
 * The coordinates are whole multiples of 2^-45 degrees, which doubles hold
 * exactly, so point in polygon can be decided in 128-bit integers, edge by
 * edge, without any rounding.  Most points are chosen to be difficult: on
 * vertices and edges, level with them, or one step beside them.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/geofence_random_test.c
 *
 *-------------------------------------------------------------------------
 */
#include "geo/geofence_int.h"
#include "random.h"
#include "tap.h"
#include "wkbmaker.h"

#define UNIT			((int64_t) 1 << 45)	/* one degree */
#define MAX_REGIONS		40
#define MAX_VERTICES	120

typedef struct Ring
{
	int64_t		x[MAX_VERTICES];
	int64_t		y[MAX_VERTICES];
	int			n;
} Ring;

static double
degrees(int64_t units)
{
	return (double) units / (double) UNIT;
}

/* ---------- a second opinion, in whole numbers ---------- */

/* 1 inside, 0 on the border, -1 outside. */
static int
ring_side(const Ring *r, int64_t x, int64_t y)
{
	bool		inside = false;
	int			i;

	for (i = 0; i < r->n; i++)
	{
		int			j = (i + 1) % r->n;
		__int128	dx1 = r->x[i] - x;
		__int128	dy1 = r->y[i] - y;
		__int128	dx2 = r->x[j] - x;
		__int128	dy2 = r->y[j] - y;
		__int128	cross = dx1 * dy2 - dx2 * dy1;

		if (cross == 0 && dx1 * dx2 + dy1 * dy2 <= 0)
			return 0;
		if (dy1 > 0 && dy2 <= 0 && cross < 0)
			inside = !inside;
		else if (dy1 <= 0 && dy2 > 0 && cross > 0)
			inside = !inside;
	}
	return inside ? 1 : -1;
}

static int
slow_locate(const Ring *rings, int nrings, int64_t x, int64_t y)
{
	int			i;

	for (i = 0; i < nrings; i++)
		if (ring_side(&rings[i], x, y) >= 0)
			return i;
	return FLEET_GEO_NOWHERE;
}

static FleetGeoGeofence *
index_rings(const Ring *rings, int nrings)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *fence = NULL;
	int			i;
	int			j;

	for (i = 0; i < nrings; i++)
	{
		Wkb			w = {NULL, 0, 0, i % 2 == 1};
		double		xy[2 * MAX_VERTICES];

		for (j = 0; j < rings[i].n; j++)
		{
			xy[2 * j] = degrees(rings[i].x[j]);
			xy[2 * j + 1] = degrees(rings[i].y[j]);
		}
		wkb_head(&w, WKB_POLYGON, 0);
		wkb_count(&w, 1);
		wkb_ring(&w, xy, rings[i].n);
		if (fleet_geo_geofence_add(builder, 100 + i, w.data, w.len) != FLEET_GEO_OK)
			abort();
		free(w.data);
	}
	if (fleet_geo_geofence_finish(builder, &fence) != FLEET_GEO_OK)
		abort();
	return fence;
}

/* A point that is likely to be difficult for these rings. */
static void
random_point(const Ring *rings, int nrings, int64_t size, int64_t *x, int64_t *y)
{
	const Ring *r = &rings[random_below(nrings)];
	int			i = (int) random_below(r->n);
	int			j = (i + 1) % r->n;
	int64_t		part = random_below(65);

	*x = random_below(size);
	*y = random_below(size);
	switch (random_below(5))
	{
		case 0:					/* anywhere */
			break;
		case 1:					/* a vertex */
			*x = r->x[i];
			*y = r->y[i];
			break;
		case 2:					/* on or very near an edge */
			*x = r->x[i] + (r->x[j] - r->x[i]) / 64 * part;
			*y = r->y[i] + (r->y[j] - r->y[i]) / 64 * part;
			break;
		case 3:					/* level with a vertex */
			*y = r->y[i];
			break;
		case 4:					/* above or below a vertex */
			*x = r->x[i];
			break;
	}
	if (random_below(3) == 0)
	{
		*x += random_below(3) - 1;
		*y += random_below(3) - 1;
	}
}

/* Compare on many points; the region's number must be right, not only its kind. */
static void
compare(const Ring *rings, int nrings, int64_t size, int rounds, const char *name)
{
	FleetGeoGeofence *fence = index_rings(rings, nrings);
	int			wrong = 0;
	int			wrong_covers = 0;
	int			on_border = 0;
	int			i;

	for (i = 0; i < rounds; i++)
	{
		int64_t		x;
		int64_t		y;
		int			want;
		int			region = (int) random_below(nrings);
		int			side;

		random_point(rings, nrings, size, &x, &y);
		want = slow_locate(rings, nrings, x, y);
		side = ring_side(&rings[region], x, y);
		on_border += side == 0;
		if (fleet_geo_geofence_locate(fence, degrees(x), degrees(y)) != want && wrong++ == 0)
			printf("# locate(%.17g, %.17g) is not %d\n", degrees(x), degrees(y), want);
		if (fleet_geo_geofence_covers(fence, region, degrees(x), degrees(y)) != (side >= 0) &&
			wrong_covers++ == 0)
			printf("# covers(%d, %.17g, %.17g) is wrong\n", region, degrees(x), degrees(y));
	}
	ok(wrong == 0 && wrong_covers == 0, "%s (%d points, %d on a border)", name, rounds, on_border);
	fleet_geo_geofence_free(fence);
}

/* Rings of any shape, most of them crossing themselves and each other. */
static void
test_random_shapes(void)
{
	static Ring rings[MAX_REGIONS];
	int			round;
	int			i;
	int			j;

	for (round = 0; round < 60; round++)
	{
		int			nrings = 1 + (int) random_below(8);
		int64_t		size = UNIT * (round % 3 == 0 ? 90 : 1);
		int64_t		step = round % 2 == 0 ? UNIT / 64 : 1;

		for (i = 0; i < nrings; i++)
		{
			rings[i].n = 3 + (int) random_below(MAX_VERTICES - 3);
			for (j = 0; j < rings[i].n; j++)
			{
				rings[i].x[j] = random_below(size / step) * step;
				rings[i].y[j] = random_below(size / step) * step;
			}

			/* a ring needs three different points */
			rings[i].x[0] = -step;
			rings[i].y[1] = -step;
			rings[i].x[2] = size;
		}
		if (round < 54)
			compare(rings, nrings, size, 3000, "random rings that cross each other");
		else
			compare(rings, 1, size, 3000, "one random ring");
	}
}

/* A net of cells with crooked, shared borders: no gap, and no overlap. */
static void
test_shared_borders(void)
{
	static Ring rings[36];
	static int64_t x[7][7];
	static int64_t y[7][7];
	FleetGeoGeofence *fence;
	int			gaps = 0;
	int			doubles = 0;
	int			i;
	int			j;

	for (i = 0; i < 7; i++)
		for (j = 0; j < 7; j++)
		{
			x[i][j] = i * UNIT / 3 + random_below(UNIT / 9);
			y[i][j] = j * UNIT / 3 + random_below(UNIT / 9);
		}
	for (i = 0; i < 36; i++)
	{
		int			c = i / 6;
		int			r = i % 6;
		Ring		ring = {{x[c][r], x[c + 1][r], x[c + 1][r + 1], x[c][r + 1]},
		{y[c][r], y[c + 1][r], y[c + 1][r + 1], y[c][r + 1]}, 4};

		rings[i] = ring;
	}
	compare(rings, 36, 2 * UNIT + UNIT / 4, 40000, "a net of regions with shared borders");

	fence = index_rings(rings, 36);
	for (i = 0; i < 20000; i++)
	{
		int			owners = 0;
		int			borders = 0;
		int64_t		px;
		int64_t		py;

		random_point(rings, 36, 2 * UNIT, &px, &py);
		for (j = 0; j < 36; j++)
		{
			owners += fleet_geo_geofence_covers(fence, j, degrees(px), degrees(py));
			borders += ring_side(&rings[j], px, py) == 0;
		}
		doubles += owners > 1 && borders == 0;
		gaps += owners == 0 && px > UNIT / 2 && py > UNIT / 2 &&
			px < 3 * UNIT / 2 && py < 3 * UNIT / 2;
	}
	is_int(gaps, 0, "no point between shared borders is in no region");
	is_int(doubles, 0, "no point off the borders is in two regions");
	fleet_geo_geofence_free(fence);
}

/*
 * The path rule by itself, on a small lattice, where the path's corner often
 * lies on a vertex or an edge, and its legs along edges.
 */
static void
test_paths(void)
{
	int			wrong = 0;
	int			paths = 0;
	int			round;
	int			i;

	for (round = 0; round < 200000; round++)
	{
		Ring		ring;
		FleetGeoPoint edges[10];
		int			n = 3 + (int) random_below(6);
		FleetGeoPoint from = {(double) random_below(7) - 1, (double) random_below(7) - 1};
		FleetGeoPoint to = {(double) random_below(7) - 1, (double) random_below(7) - 1};
		int			side1;
		int			side2;

		ring.n = n;
		for (i = 0; i < n; i++)
		{
			ring.x[i] = random_below(5);
			ring.y[i] = random_below(5);
		}
		for (i = 0; i <= n; i++)
		{
			edges[i].x = (double) ring.x[i % n];
			edges[i].y = (double) ring.y[i % n];
		}
		side1 = ring_side(&ring, (int64_t) from.x, (int64_t) from.y);
		side2 = ring_side(&ring, (int64_t) to.x, (int64_t) to.y);
		if (side1 == 0 || side2 == 0)
			continue;
		paths++;
		wrong += fleet_geo_path_crosses(edges, (uint32_t) n, from, to) != (side1 != side2);
	}
	ok(wrong == 0 && paths > 1000, "%d paths on a lattice cross as often as they must", paths);
}

/* A fan of very thin triangles: sides that doubles alone cannot decide. */
static void
test_thin_triangles(void)
{
	static Ring rings[MAX_REGIONS];
	int			i;

	for (i = 0; i < MAX_REGIONS; i++)
	{
		Ring		ring = {{UNIT / 3, 100 * UNIT + 7, 100 * UNIT + 7},
		{UNIT / 7, 60 * UNIT + 3 * i, 60 * UNIT + 3 * (i + 1)}, 3};

		rings[i] = ring;
	}
	compare(rings, MAX_REGIONS, 85 * UNIT, 40000, "triangles of a hundred degrees, 1e-13 degrees wide");
}

int
main(void)
{
	test_random_shapes();
	test_shared_borders();
	test_paths();
	test_thin_triangles();
	return done();
}
