/* cores: src/geo/geofence.c src/geo/geofence_build.c src/geo/geofence_frame.c src/geo/geofence_grid.c src/geo/geofence_near.c src/geo/haversine.c src/geo/orient.c src/geo/wkb.c */
/*-------------------------------------------------------------------------
 *
 * geofence_test.c
 *	  Unit tests of the geofence index: shapes by hand, distances, refused and
 *	  corrupt input, and memory.
 *
 * Whether it is right for any shape is the matter of geofence_random_test.c.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/geofence_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/geofence.h"
#include "random.h"
#include "tap.h"
#include "wkbmaker.h"

/* ---------- shapes by hand ---------- */

/* Add what w holds, free it, and return the status. */
static FleetGeoStatus
add(FleetGeoBuilder *builder, int64_t id, Wkb *w)
{
	FleetGeoStatus status = fleet_geo_geofence_add(builder, id, w->data, w->len);

	free(w->data);
	w->data = NULL;
	w->len = w->room = 0;
	return status;
}

static FleetGeoGeofence *
finish(FleetGeoBuilder *builder)
{
	FleetGeoGeofence *fence = NULL;

	if (fleet_geo_geofence_finish(builder, &fence) != FLEET_GEO_OK)
		abort();
	return fence;
}

/* A region of one box. */
static void
add_box(FleetGeoBuilder *builder, int64_t id, double x1, double y1, double x2, double y2)
{
	Wkb			w = {0};

	wkb_head(&w, WKB_POLYGON | WKB_SRID, 4326);
	wkb_count(&w, 1);
	wkb_box_ring(&w, x1, y1, x2, y2);
	if (add(builder, id, &w) != FLEET_GEO_OK)
		abort();
}

/* Two polygons: a box with a hole that holds an island, and a far box. */
static FleetGeoGeofence *
make_islands(bool big_endian)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	Wkb			w = {0};

	w.big_endian = big_endian;
	wkb_head(&w, WKB_MULTIPOLYGON | WKB_SRID, 4326);
	wkb_count(&w, 3);
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 2);
	wkb_box_ring(&w, 0, 0, 10, 10);
	wkb_box_ring(&w, 2, 2, 8, 8);
	w.big_endian = !big_endian;
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_box_ring(&w, 4, 4, 6, 6);
	w.big_endian = big_endian;
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_box_ring(&w, 20, 20, 21, 21);
	ok(add(builder, 7, &w) == FLEET_GEO_OK, "a multipolygon with a hole and an island is taken");
	add_box(builder, 8, 10, 0, 12, 10);
	return finish(builder);
}

static void
test_islands(void)
{
	int			order;

	for (order = 0; order < 2; order++)
	{
		FleetGeoGeofence *f = make_islands(order == 1);

		is_int(fleet_geo_geofence_count(f), 2, "there are two regions");
		is_int(fleet_geo_geofence_id(f, 0), 7, "the first has its id");
		is_int(fleet_geo_geofence_id(f, 1), 8, "the second has its id");
		is_int(fleet_geo_geofence_id(f, 2), -1, "there is no third");
		is_int(fleet_geo_geofence_locate(f, 1, 1), 0, "in the shell");
		is_int(fleet_geo_geofence_locate(f, 3, 3), -1, "in the hole");
		is_int(fleet_geo_geofence_locate(f, 2, 5), 0, "on the border of the hole");
		is_int(fleet_geo_geofence_locate(f, 8, 8), 0, "on a corner of the hole");
		is_int(fleet_geo_geofence_locate(f, 5, 5), 0, "on the island");
		is_int(fleet_geo_geofence_locate(f, 20.5, 20.5), 0, "in the far part");
		is_int(fleet_geo_geofence_locate(f, 10, 5), 0, "on a shared border: the first one");
		ok(fleet_geo_geofence_covers(f, 1, 10, 5), "which is the other one's too");
		is_int(fleet_geo_geofence_locate(f, nextafter(10, 11), 5), 1, "just past it");
		is_int(fleet_geo_geofence_locate(f, 15, 15), -1, "between the parts");
		is_int(fleet_geo_geofence_locate(f, 0, 0), 0, "on the first corner");
		is_int(fleet_geo_geofence_locate(f, 21, 21), 0, "on the last corner");
		is_int(fleet_geo_geofence_locate(f, -1e-99, 0), -1, "just off the corner");
		is_int(fleet_geo_geofence_locate(f, nextafter(0, -1), 0), 0, "what is next to zero is zero");
		fleet_geo_geofence_free(f);
	}
}

static void
test_bad_points(void)
{
	FleetGeoGeofence *f = make_islands(false);
	double		d;

	is_int(fleet_geo_geofence_locate(f, NAN, 5), FLEET_GEO_BAD_POINT, "NaN is refused");
	is_int(fleet_geo_geofence_locate(f, 5, NAN), FLEET_GEO_BAD_POINT, "NaN latitude is refused");
	is_int(fleet_geo_geofence_locate(f, HUGE_VAL, 5), FLEET_GEO_BAD_POINT, "infinity is refused");
	is_int(fleet_geo_geofence_locate(f, 5, -HUGE_VAL), FLEET_GEO_BAD_POINT, "minus infinity is refused");
	is_int(fleet_geo_geofence_locate(f, 180.0001, 5), FLEET_GEO_BAD_POINT, "longitude 180.0001 is refused");
	is_int(fleet_geo_geofence_locate(f, 5, -90.0001), FLEET_GEO_BAD_POINT, "latitude -90.0001 is refused");
	is_int(fleet_geo_geofence_locate(f, -180, 90), FLEET_GEO_NOWHERE, "a corner of the world is in no region");
	is_int(fleet_geo_geofence_nearest(f, NAN, 5, 1e9, &d), FLEET_GEO_BAD_POINT, "nearest refuses NaN");
	ok(isnan(fleet_geo_geofence_distance(f, 0, NAN, 5, 1e9)), "the distance from NaN is NaN");
	ok(isnan(fleet_geo_geofence_distance(f, 2, 5, 5, 1e9)), "the distance to no region is NaN");
	ok(isnan(fleet_geo_geofence_distance(f, -1, 5, 5, 1e9)), "the distance to region -1 is NaN");
	ok(!fleet_geo_geofence_covers(f, 0, NAN, 5), "nothing covers NaN");
	ok(!fleet_geo_geofence_covers(f, 99, 5, 5), "no region covers nothing");
	is_int(fleet_geo_geofence_nearest(f, 3, 3, NAN, &d), -1, "within NaN metres there is nothing");
	is_int(fleet_geo_geofence_nearest(f, 3, 3, -1, &d), -1, "within -1 metres there is nothing");
	fleet_geo_geofence_free(f);
}

/* PostGIS 3.3: ST_Distance(geography) to the border, cut into small pieces. */
static void
test_distances(void)
{
	static const double known[][4] = {
		{9.999, 37.5, 88.42544414, 8820.42665271},
		{9.99, 37.2, 887.77993973, 4383.33817759},
		{10.5, 38.02, 2219.93331761, 18078.29605481},
		{11.03, 38.03, 4245.99937684, 47832.57131836},
		{11.001, 37.999, 87.83365371, 43554.04305065},
		{10.6, 36.96, 4439.09069797, 32011.03562217},
		{9.95, 36.98, 4973.85957798, 4973.85957798},
		{10.8, 37.3, 0, 9406.45831085},
	};
	static const double slanted[] = {10, 37, 11, 37.5, 10.2, 38};
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *f;
	Wkb			w = {0};
	int			i;

	add_box(builder, 0, 10, 37, 11, 38);
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_ring(&w, slanted, 3);
	add(builder, 1, &w);
	f = finish(builder);
	for (i = 0; i < (int) (sizeof(known) / sizeof(known[0])); i++)
	{
		double		lon = known[i][0];
		double		lat = known[i][1];
		double		box = fleet_geo_geofence_distance(f, 0, lon, lat, 1e6);
		double		skew = fleet_geo_geofence_distance(f, 1, lon, lat, 1e6);
		double		d = -1;

		ok(fabs(box - known[i][2]) <= 0.0005 * known[i][2], "%.3f m from the box", box);
		ok(fabs(skew - known[i][3]) <= 0.0005 * known[i][3], "%.3f m from the triangle", skew);
		ok(isinf(fleet_geo_geofence_distance(f, 1, lon, lat, known[i][3] * 0.99)),
		   "which is beyond a smaller limit");
		is_int(fleet_geo_geofence_nearest(f, lon, lat, 5000, &d), 0, "the box is the nearest, or the first");
		ok(d == box, "at the same distance");
	}
	is_int(fleet_geo_geofence_nearest(f, 9.999, 37.5, 88.4, NULL), -1, "nothing within 88.4 m");
	is_int(fleet_geo_geofence_nearest(f, 9.999, 37.5, 88.5, NULL), 0, "the box within 88.5 m");
	is_int(fleet_geo_geofence_nearest(f, 9.999, 37.5, HUGE_VAL, NULL), 0, "no limit is a limit");
	is_int(fleet_geo_geofence_nearest(f, 10.5, 37.9, 0, NULL), 0, "0 m from where it is");
	fleet_geo_geofence_free(f);
}

static void
test_world(void)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *f;
	double		d = -1;

	add_box(builder, 0, 179, -1, 180, 1);
	add_box(builder, 1, -180, 80, 180, 90);
	add_box(builder, 2, -180, -90, 180, -80);
	f = finish(builder);
	is_int(fleet_geo_geofence_locate(f, 180, 0), 0, "on the antimeridian");
	is_int(fleet_geo_geofence_locate(f, -180, 0), -1, "its other name is another place");
	is_int(fleet_geo_geofence_nearest(f, -179.999, 0.5, 1000, &d), 0, "but near, across the antimeridian");
	ok(fabs(d - 111.3) < 0.2, "111 m is %.3f m", d);
	is_int(fleet_geo_geofence_locate(f, 0, 90), 1, "the north pole");
	is_int(fleet_geo_geofence_locate(f, -123, -90), 2, "the south pole");
	is_int(fleet_geo_geofence_nearest(f, 0, 79.99, 2000, &d), 1, "south of a polar cap");
	ok(fabs(d - 1116.6) < 1, "1117 m is %.3f m", d);
	is_int(fleet_geo_geofence_nearest(f, 0, 0, HUGE_VAL, NULL) >= 0, 1, "somewhere in the world is a region");
	fleet_geo_geofence_free(f);
}

static void
test_empty(void)
{
	FleetGeoGeofence *f = finish(fleet_geo_geofence_begin(NULL));

	is_int(fleet_geo_geofence_count(f), 0, "a geofence of no regions");
	is_int(fleet_geo_geofence_locate(f, 0, 0), FLEET_GEO_NOWHERE, "has nothing at 0, 0");
	is_int(fleet_geo_geofence_locate(f, 1, 1), FLEET_GEO_NOWHERE, "nor at 1, 1");
	is_int(fleet_geo_geofence_locate(f, NAN, 1), FLEET_GEO_BAD_POINT, "nor at NaN");
	is_int(fleet_geo_geofence_nearest(f, 1, 1, HUGE_VAL, NULL), FLEET_GEO_NOWHERE, "nor near");
	ok(!fleet_geo_geofence_covers(f, 0, 1, 1), "and region 0 covers nothing");
	fleet_geo_geofence_free(f);
	fleet_geo_geofence_free(NULL);
	fleet_geo_geofence_abandon(NULL);
}

/* The same region again and again: what is left out of cells must not be lost. */
static void
test_stacked(void)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *f;
	int			i;
	bool		all = true;

	for (i = 0; i < 50; i++)
		add_box(builder, i, 0, 0, 10 - 0.1 * i, 10);
	f = finish(builder);
	is_int(fleet_geo_geofence_locate(f, 5, 5), 0, "of many stacked regions the first");
	for (i = 0; i < 50; i++)
		all = all && fleet_geo_geofence_covers(f, i, 5, 5) &&
			fleet_geo_geofence_distance(f, i, 5, 5, 1) == 0 &&
			fleet_geo_geofence_covers(f, i, 9, 5) == (9 <= 10 - 0.1 * i);
	ok(all, "each knows whether it covers a point");
	fleet_geo_geofence_free(f);
}

/* ---------- refused input ---------- */

static void
refuses(Wkb *w, FleetGeoStatus want, const char *name)
{
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoStatus got = add(builder, 1, w);
	FleetGeoGeofence *f;

	is_str(fleet_geo_status_text(got), fleet_geo_status_text(want), name);
	add_box(builder, 2, 0, 0, 1, 1);
	f = finish(builder);
	ok(fleet_geo_geofence_count(f) == (want == FLEET_GEO_OK ? 2 : 1) &&
	   fleet_geo_geofence_locate(f, 0.5, 0.5) == (want == FLEET_GEO_OK ? 1 : 0),
	   "the builder is usable after it");
	fleet_geo_geofence_free(f);
}

/* A polygon of one ring at x = 50, of this type; points as given. */
static Wkb
ring_of(uint32_t type, uint32_t srid, const double *xy, int npoints)
{
	Wkb			w = {0};
	int			i;

	wkb_head(&w, type, srid);
	wkb_count(&w, 1);
	wkb_count(&w, (uint32_t) npoints);
	for (i = 0; i < 2 * npoints; i++)
		wkb_number(&w, xy[i]);
	return w;
}

static void
test_refused(void)
{
	static const double good[] = {50, 0, 51, 0, 51, 1, 50, 0};
	static const double open[] = {50, 0, 51, 0, 51, 1, 50, 1};
	static const double flat[] = {50, 0, 51, 0, 51, 0, 50, 0};
	static const double far[] = {50, 0, 181, 0, 51, 1, 50, 0};
	static const double polar[] = {50, 0, 51, -91, 51, 1, 50, 0};
	double		nan_ring[] = {50, 0, NAN, 0, 51, 1, 50, 0};
	double		inf_ring[] = {50, 0, 51, HUGE_VAL, 51, 1, 50, 0};
	static const double measured[] = {50, 0, 9, 51, 0, 9, 51, 1, 9, 50, 0, 9};
	Wkb			w;

	w = ring_of(WKB_POLYGON, 0, good, 4);
	refuses(&w, FLEET_GEO_OK, "a good ring");
	w = ring_of(WKB_POLYGON | WKB_SRID, 4326, good, 4);
	refuses(&w, FLEET_GEO_OK, "SRID 4326");
	w = ring_of(WKB_POLYGON | WKB_SRID, 0, good, 4);
	refuses(&w, FLEET_GEO_OK, "SRID 0");
	w = ring_of(WKB_POLYGON | WKB_SRID, 3857, good, 4);
	refuses(&w, FLEET_GEO_BAD_SRID, "SRID 3857");
	w = ring_of(WKB_POLYGON, 0, open, 4);
	refuses(&w, FLEET_GEO_BAD_RING, "an open ring");
	w = ring_of(WKB_POLYGON, 0, good, 3);
	refuses(&w, FLEET_GEO_BAD_RING, "three points");
	w = ring_of(WKB_POLYGON, 0, flat, 4);
	refuses(&w, FLEET_GEO_BAD_RING, "four points, two of them different");
	w = ring_of(WKB_POLYGON, 0, far, 4);
	refuses(&w, FLEET_GEO_BAD_COORDINATE, "longitude 181");
	w = ring_of(WKB_POLYGON, 0, polar, 4);
	refuses(&w, FLEET_GEO_BAD_COORDINATE, "latitude -91");
	w = ring_of(WKB_POLYGON, 0, nan_ring, 4);
	refuses(&w, FLEET_GEO_BAD_COORDINATE, "a NaN");
	w = ring_of(WKB_POLYGON, 0, inf_ring, 4);
	refuses(&w, FLEET_GEO_BAD_COORDINATE, "an infinity");
	w = ring_of(1, 0, good, 4);
	refuses(&w, FLEET_GEO_BAD_TYPE, "a point");
	w = ring_of(7, 0, good, 4);
	refuses(&w, FLEET_GEO_BAD_TYPE, "a collection");
	w = ring_of(4003, 0, good, 4);
	refuses(&w, FLEET_GEO_BAD_WKB, "a type code of no known kind");
	w = ring_of(WKB_POLYGON, 0, good, 4);
	wkb_bytes(&w, 0, 1);
	refuses(&w, FLEET_GEO_BAD_WKB, "one byte too many");
	w = ring_of(WKB_POLYGON, 0, good, 4);
	w.data[0] = 2;
	refuses(&w, FLEET_GEO_BAD_WKB, "a byte order of no known kind");

	/* 12 numbers: the same 4 points, each with one more number */
	w = ring_of(WKB_POLYGON | WKB_Z, 0, measured, 6);
	w.data[9] = 4;
	refuses(&w, FLEET_GEO_OK, "Z is skipped");
	w = ring_of(WKB_POLYGON | WKB_M, 0, measured, 6);
	w.data[9] = 4;
	refuses(&w, FLEET_GEO_OK, "M is skipped");
	w = ring_of(1003, 0, measured, 6);
	w.data[9] = 4;
	refuses(&w, FLEET_GEO_OK, "ISO's Z is skipped");
}

static void
test_refused_structure(void)
{
	Wkb			w = {0};

	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 0);
	refuses(&w, FLEET_GEO_EMPTY, "a polygon without rings");
	wkb_head(&w, WKB_MULTIPOLYGON, 0);
	wkb_count(&w, 0);
	refuses(&w, FLEET_GEO_EMPTY, "a multipolygon without polygons");
	wkb_head(&w, WKB_MULTIPOLYGON, 0);
	wkb_count(&w, 0xffffffff);
	refuses(&w, FLEET_GEO_BAD_WKB, "four billion polygons");
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_count(&w, 0x10000001);
	refuses(&w, FLEET_GEO_BAD_WKB, "more points than bytes, when multiplied in 32 bits");
	wkb_head(&w, WKB_MULTIPOLYGON, 0);
	wkb_count(&w, 1);
	wkb_head(&w, WKB_MULTIPOLYGON, 0);
	wkb_count(&w, 0);
	refuses(&w, FLEET_GEO_BAD_WKB, "a multipolygon in a multipolygon");
	w.data = malloc(1);
	refuses(&w, FLEET_GEO_BAD_WKB, "no bytes at all");
}

/* A valid multipolygon that has a bit of everything. */
static Wkb
sample_wkb(void)
{
	Wkb			w = {0};

	wkb_head(&w, WKB_MULTIPOLYGON | WKB_SRID, 4326);
	wkb_count(&w, 2);
	wkb_head(&w, WKB_POLYGON | WKB_SRID, 4326);
	wkb_count(&w, 2);
	wkb_box_ring(&w, 0, 0, 10, 10);
	wkb_box_ring(&w, 2, 2, 8, 8);
	w.big_endian = true;
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_box_ring(&w, 4, 4, 6, 6);
	return w;
}

/* In memory of exactly its size, so that the sanitizer sees a read past it. */
static FleetGeoStatus
add_copy(FleetGeoBuilder *builder, const unsigned char *data, size_t len)
{
	unsigned char *copy = malloc(len > 0 ? len : 1);
	FleetGeoStatus status;

	if (copy == NULL)
		abort();
	memcpy(copy, data, len);
	status = fleet_geo_geofence_add(builder, 1, copy, len);
	free(copy);
	return status;
}

static void
test_corrupt(void)
{
	Wkb			w = sample_wkb();
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	int			taken = 0;
	int			refused = 0;
	size_t		len;
	int			round;

	for (len = 0; len < w.len; len++)
		taken += add_copy(builder, w.data, len) == FLEET_GEO_OK;
	is_int(taken, 0, "every truncation is refused");
	ok(add_copy(builder, w.data, w.len) == FLEET_GEO_OK, "the whole is taken");
	fleet_geo_geofence_free(finish(builder));

	for (round = 0; round < 30000; round++)
	{
		unsigned char copy[1024];
		int			flips = 1 + (int) random_below(4);
		FleetGeoGeofence *f;

		memcpy(copy, w.data, w.len);
		while (flips-- > 0)
			copy[random_below((int64_t) w.len)] ^= (unsigned char) (1 << random_below(8));
		builder = fleet_geo_geofence_begin(NULL);
		if (add_copy(builder, copy, w.len) != FLEET_GEO_OK)
			refused++;
		f = finish(builder);
		taken += fleet_geo_geofence_locate(f, 5, 5) >= 0;
		(void) fleet_geo_geofence_nearest(f, 3, 3, 1e6, NULL);
		fleet_geo_geofence_free(f);
	}
	ok(refused > 0 && taken > 0, "flipped bits do no harm (%d refused, %d found)", refused, taken);
	free(w.data);
}

/* ---------- memory ---------- */

typedef struct Purse
{
	int			left;			/* allocations until none is granted */
	int			held;
} Purse;

static void *
purse_alloc(void *ctx, size_t size)
{
	Purse	   *purse = ctx;

	if (purse->left-- <= 0)
		return NULL;
	purse->held++;
	return malloc(size);
}

static void
purse_free(void *ctx, void *pointer)
{
	((Purse *) ctx)->held--;
	free(pointer);
}

static void
test_memory(void)
{
	Wkb			w = sample_wkb();
	bool		clean = true;
	bool		finished = false;
	int			refused = 0;
	int			grants;

	for (grants = 0; grants < 1000 && !finished; grants++)
	{
		Purse		purse = {grants, 0};
		FleetGeoAllocator allocator = {purse_alloc, purse_free, &purse};
		FleetGeoBuilder *builder = fleet_geo_geofence_begin(&allocator);
		FleetGeoGeofence *f = NULL;
		FleetGeoStatus status = FLEET_GEO_NO_MEMORY;

		if (builder != NULL)
			status = fleet_geo_geofence_add(builder, 1, w.data, w.len);
		if (builder != NULL && status != FLEET_GEO_OK)
			fleet_geo_geofence_abandon(builder);
		else if (builder != NULL)
			status = fleet_geo_geofence_finish(builder, &f);
		finished = status == FLEET_GEO_OK;
		refused += status == FLEET_GEO_NO_MEMORY;
		clean = clean && finished == (f != NULL);
		fleet_geo_geofence_free(f);
		clean = clean && purse.held == 0;
	}
	ok(finished && refused > 10, "it works when memory is given %d times", grants - 1);
	ok(clean, "without memory it says so, and gives all back");
	free(w.data);
}

/* Long edges all across the map must not be listed without end. */
static void
test_bounded(void)
{
	enum
	{
		CORNERS = 20000
	};
	double	   *xy = malloc(sizeof(double) * 2 * CORNERS);
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);
	FleetGeoGeofence *f;
	Wkb			w = {0};
	int			i;

	for (i = 0; i < CORNERS; i++)
	{
		xy[2 * i] = (double) random_below(340) - 170;
		xy[2 * i + 1] = (double) random_below(160) - 80 + i / (double) CORNERS;
	}
	wkb_head(&w, WKB_POLYGON, 0);
	wkb_count(&w, 1);
	wkb_ring(&w, xy, CORNERS);
	ok(add(builder, 1, &w) == FLEET_GEO_OK, "a scribble of %d long edges is taken", CORNERS);
	f = finish(builder);
	ok(fleet_geo_geofence_memory(f) < (size_t) 4 << 20, "and takes %zu kB",
	   fleet_geo_geofence_memory(f) >> 10);
	is_int(fleet_geo_geofence_locate(f, xy[2], xy[3]), 0, "a corner of it is in it");
	fleet_geo_geofence_free(f);
	free(xy);
}

int
main(void)
{
	test_islands();
	test_bad_points();
	test_distances();
	test_world();
	test_empty();
	test_stacked();
	test_refused();
	test_refused_structure();
	test_corrupt();
	test_memory();
	test_bounded();
	return done();
}
