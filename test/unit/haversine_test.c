/* cores: src/geo/haversine.c */
/*-------------------------------------------------------------------------
 *
 * haversine_test.c
 *	  Unit tests of the distances on the globe.
 *
 * The expected values are PostGIS 3.3's: ST_DistanceSphere for the sphere, and
 * ST_Distance on geography over a thousandth of a degree for the spheroid.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/haversine_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/haversine.h"
#include "tap.h"

#define COUNT(array)	((int) (sizeof(array) / sizeof((array)[0])))

typedef struct Known
{
	double		lon1;
	double		lat1;
	double		lon2;
	double		lat2;
	double		metres;
} Known;

static const Known knowns[] = {
	{0, 0, 1, 0, 111195.07973463},
	{-122.41494, 37.78549, -122.39409, 37.70375, 9272.13035639},
	{-118.2437, 34.0522, -112.074, 33.4484, 574266.61699247},
	{179.9, 10, -179.9, 10, 21901.15498861},
	{0, 89.9, 180, 89.9, 22239.01594693},
	{151.2093, -33.8688, -0.1276, 51.5072, 16993955.66260779},
	{0, 0, 180, 0, 20015114.35223369},
};

/* Latitude, and the metres of a degree of longitude and of latitude there. */
static const double degrees[][3] = {
	{0, 111319.49079, 110574.27582},
	{33.8, 92600.73702, 110918.77874},
	{37.7, 88189.05912, 110990.80742},
	{60, 55800.00157, 111412.28746},
	{-45, 78846.83509, 111131.77742},
	{80, 19393.48553, 111659.94041},
};

static void
test_sphere(void)
{
	int			i;

	for (i = 0; i < COUNT(knowns); i++)
	{
		const Known *k = &knowns[i];
		double		there = fleet_geo_haversine(k->lon1, k->lat1, k->lon2, k->lat2);
		double		back = fleet_geo_haversine(k->lon2, k->lat2, k->lon1, k->lat1);

		/* PostGIS' radius has three more digits: 4e-9 of the distance. */
		ok(fabs(there - k->metres) < 1e-4 + 1e-8 * k->metres,
		   "distance %d: %.6f m is %.6f m", i, there, k->metres);
		ok(there == back, "distance %d is the same the other way round", i);
	}
	ok(fleet_geo_haversine(-122.4, 37.7, -122.4, 37.7) == 0.0, "a place is 0 m from itself");
	ok(fleet_geo_haversine(-180, 12.5, 180, 12.5) < 1e-6, "the antimeridian is one line");
	ok(fleet_geo_haversine(0, 90, 77, 90) < 1e-6, "the pole is one place");
}

static void
test_antipodes(void)
{
	double		half = FLEET_GEO_MEAN_RADIUS * 3.14159265358979323846;
	double		lon;
	bool		all = true;

	for (lon = -180; lon <= 0; lon += 0.37)
	{
		double		metres = fleet_geo_haversine(lon, lon / 3, lon + 180, -lon / 3);

		all = all && fabs(metres - half) < 1.0;
	}
	ok(all, "antipodes are half a turn apart, and never NaN");
}

static void
test_degrees(void)
{
	int			i;

	for (i = 0; i < COUNT(degrees); i++)
	{
		double		per_lon;
		double		per_lat;

		fleet_geo_degree_metres(degrees[i][0], &per_lon, &per_lat);
		ok(fabs(per_lon - degrees[i][1]) < 0.01, "a degree of longitude at %g", degrees[i][0]);
		ok(fabs(per_lat - degrees[i][2]) < 0.01, "a degree of latitude at %g", degrees[i][0]);
	}
}

static void
test_valid(void)
{
	ok(fleet_geo_point_valid(-180, -90), "the south-west corner is valid");
	ok(fleet_geo_point_valid(180, 90), "the north-east corner is valid");
	ok(fleet_geo_point_valid(-0.0, 0.0), "zero is valid");
	ok(!fleet_geo_point_valid(nextafter(180, 181), 0), "just east of 180 is not");
	ok(!fleet_geo_point_valid(nextafter(-180, -181), 0), "just west of -180 is not");
	ok(!fleet_geo_point_valid(0, nextafter(90, 91)), "just north of 90 is not");
	ok(!fleet_geo_point_valid(0, nextafter(-90, -91)), "just south of -90 is not");
	ok(!fleet_geo_point_valid(NAN, 0), "NaN is no longitude");
	ok(!fleet_geo_point_valid(0, NAN), "NaN is no latitude");
	ok(!fleet_geo_point_valid(HUGE_VAL, 0), "infinity is no longitude");
	ok(!fleet_geo_point_valid(0, -HUGE_VAL), "infinity is no latitude");
}

int
main(void)
{
	test_sphere();
	test_antipodes();
	test_degrees();
	test_valid();
	return done();
}
