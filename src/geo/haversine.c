/*-------------------------------------------------------------------------
 *
 * haversine.c
 *	  Metres between two places on the globe.
 *
 * Two measures of length live here.  The haversine formula is the distance on
 * a sphere of the mean radius; it is good at any distance and differs from the
 * distance on the WGS 84 spheroid by at most about 0.6 %.  The metres of a
 * degree are those of the WGS 84 spheroid at one latitude; they are for plane
 * geometry close to a point, where they are the better measure.
 *
 * A pure core: no server code, no state.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/haversine.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/haversine.h"

#define RADIANS_PER_DEGREE	0.017453292519943295

/* WGS 84: semi-major axis, and the square of the first eccentricity. */
#define WGS84_A				6378137.0
#define WGS84_E2			0.0066943799901413165

/* Comparisons with NaN are false, so NaN is refused too. */
bool
fleet_geo_point_valid(double lon, double lat)
{
	return lon >= -180.0 && lon <= 180.0 && lat >= -90.0 && lat <= 90.0;
}

double
fleet_geo_haversine(double lon1, double lat1, double lon2, double lat2)
{
	double		phi1 = lat1 * RADIANS_PER_DEGREE;
	double		phi2 = lat2 * RADIANS_PER_DEGREE;
	double		sin_lat = sin((lat2 - lat1) * RADIANS_PER_DEGREE / 2.0);
	double		sin_lon = sin((lon2 - lon1) * RADIANS_PER_DEGREE / 2.0);
	double		h = sin_lat * sin_lat + cos(phi1) * cos(phi2) * sin_lon * sin_lon;

	/* Rounding may lead past 1 for antipodes, and asin() would say NaN. */
	if (h > 1.0)
		h = 1.0;
	return 2.0 * FLEET_GEO_MEAN_RADIUS * asin(sqrt(h));
}

void
fleet_geo_degree_metres(double lat, double *per_lon, double *per_lat)
{
	double		phi = lat * RADIANS_PER_DEGREE;
	double		sin_phi = sin(phi);
	double		w2 = 1.0 - WGS84_E2 * sin_phi * sin_phi;
	double		w = sqrt(w2);

	*per_lon = RADIANS_PER_DEGREE * WGS84_A / w * cos(phi);
	*per_lat = RADIANS_PER_DEGREE * WGS84_A * (1.0 - WGS84_E2) / (w2 * w);
}
