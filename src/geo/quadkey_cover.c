/*-------------------------------------------------------------------------
 *
 * quadkey_cover.c
 *	  The cells that a circle touches.
 *
 * From the whole world down, a cell that is farther from the centre than the
 * radius is left out with all that lies in it.  The distance between a point
 * and a cell is that to the cell's nearest point, on the sphere, without
 * approximation.
 *
 * Guarantee: no cell is missed.  If a place is within the radius of the centre,
 * measured on the sphere of mean radius or on the WGS 84 spheroid, then the
 * cell of that place, as fleet_geo_quadkey_of_place() tells it, is in the cover;
 * beyond the latitudes of the tile system, too, where the first and the last
 * row reach to the poles.  For that the radius is enlarged by MARGIN and by
 * SLACK_M, and a cell in the cover comes as close as this to the centre, so no
 * cell is there without a reason.
 *
 * Why MARGIN is enough: take each point of the spheroid to the point of the
 * sphere with the same longitude and latitude.  That lengthens no short line
 * more than one along the meridian at the equator, where the spheroid is curved
 * most: its radius there is b^2 / a = 6,335,439.3 m, the sphere's 6,371,008.8 m,
 * which is 1.005615 times as much.  So the shortest line between two points of the
 * spheroid becomes one on the sphere that is at most that much longer.  SLACK_M
 * is for rounding, which is below a micrometre where the radius is small; where
 * it is large, what is left of MARGIN is larger.
 *
 * Cells come in the order of keys.  Each cell that is looked into has a child
 * that is as near as itself, so not much is looked at in vain: at most 4 * level
 * cells for each one that is found.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/quadkey_cover.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/haversine.h"
#include "geo/quadkey.h"

#define MARGIN				1.0057
#define SLACK_M				0.001
#define DEGREES_PER_RADIAN	57.29577951308232

/* Degrees of longitude between two meridians, by the shorter way. */
static double
between_meridians(double lon1, double lon2)
{
	return fabs(remainder(lon1 - lon2, 360.0));
}

/*
 * Metres from a place to the nearest point of a box.
 *
 * Of two places of the same latitude the one that is nearer by longitude is
 * nearer.  So the nearest point is on the place's own meridian, where the box
 * has it, else on the nearer of the two edges.  On a meridian, the cosine of
 * the distance is a sinus wave of the latitude: it is greatest at its crest,
 * if the box has that latitude, else at one of the ends.
 */
static double
distance_to_box(double lon, double lat, const FleetGeoBox *box)
{
	double		phi = lat / DEGREES_PER_RADIAN;
	double		apart = 0.0;
	double		crest;

	if (lon < box->west || lon > box->east)
		apart = fmin(between_meridians(lon, box->west), between_meridians(lon, box->east));
	crest = atan2(sin(phi), cos(phi) * cos(apart / DEGREES_PER_RADIAN)) * DEGREES_PER_RADIAN;
	if (crest >= box->south && crest <= box->north)
		return fleet_geo_haversine(0.0, lat, apart, crest);
	return fmin(fleet_geo_haversine(0.0, lat, apart, box->south),
				fleet_geo_haversine(0.0, lat, apart, box->north));
}

/* A radius of any size, infinite too, is allowed: the world is not larger. */
FleetGeoQuadkeyStatus
fleet_geo_quadkey_cover_begin(FleetGeoCover *cover, double lon, double lat, double radius_m, int level)
{
	if (level < 0 || level > FLEET_GEO_QUADKEY_MAX_LEVEL)
		return FLEET_GEO_QUADKEY_BAD_LEVEL;
	if (!fleet_geo_point_valid(lon, lat))
		return FLEET_GEO_QUADKEY_BAD_PLACE;
	if (!(radius_m >= 0.0))
		return FLEET_GEO_QUADKEY_BAD_RADIUS;
	cover->lon = lon;
	cover->lat = lat;
	cover->limit = radius_m * MARGIN + SLACK_M;
	cover->level = level;
	cover->found = 0;
	cover->waiting[0] = 0;		/* the whole world */
	cover->nwaiting = 1;
	return FLEET_GEO_QUADKEY_OK;
}

/* The next cell; END after the last one, TOO_MANY instead of one too many. */
FleetGeoQuadkeyStatus
fleet_geo_quadkey_cover_next(FleetGeoCover *cover, uint64_t *key)
{
	while (cover->nwaiting > 0)
	{
		uint64_t	cell = cover->waiting[--cover->nwaiting];
		FleetGeoBox box;

		fleet_geo_quadkey_reach(cell, &box);
		if (distance_to_box(cover->lon, cover->lat, &box) > cover->limit)
			continue;
		if (fleet_geo_quadkey_level(cell) == cover->level)
		{
			if (cover->found == FLEET_GEO_QUADKEY_COVER_MAX)
				return FLEET_GEO_QUADKEY_TOO_MANY;
			cover->found++;
			*key = cell;
			return FLEET_GEO_QUADKEY_OK;
		}
		for (int digit = 3; digit >= 0; digit--)
			cover->waiting[cover->nwaiting++] = fleet_geo_quadkey_child(cell, digit);
	}
	return FLEET_GEO_QUADKEY_END;
}
