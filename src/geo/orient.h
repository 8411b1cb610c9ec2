/*-------------------------------------------------------------------------
 *
 * orient.h
 *	  On which side of a directed line does a point lie?  Decided exactly.
 *
 * The usual determinant in doubles is right whenever it is larger than its
 * own rounding error; the error bound is Shewchuk's ("Adaptive Precision
 * Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997).
 * Only the rare rest is decided by exact arithmetic, out of line.
 *
 * Exact means: exact for the doubles given, unless a product of two of them
 * underflows, which takes coordinates other than 0 of less than 1e-140.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/orient.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_ORIENT_H
#define FLEET_GEO_ORIENT_H

#include <math.h>

typedef struct FleetGeoPoint
{
	double		x;
	double		y;
} FleetGeoPoint;

/*
 * What is nearer to zero than this is zero: the product of two such coordinates, or
 * its last bits, would be too small for a double, and fleet_geo_orient_exact() wrong.
 * Both the vertices and the points that are looked up go through here.
 */
#define FLEET_GEO_TINY	1e-100

static inline FleetGeoPoint
fleet_geo_point(double x, double y)
{
	FleetGeoPoint p = {fabs(x) < FLEET_GEO_TINY ? 0.0 : x, fabs(y) < FLEET_GEO_TINY ? 0.0 : y};

	return p;
}

/* (3 + 16u)u with u = 2^-53, the bound of the first stage */
#define FLEET_GEO_ORIENT_BOUND	3.3306690738754716e-16

extern int	fleet_geo_orient_exact(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p);

/* 1 when p lies left of the line from a to b, -1 right of it, 0 on it. */
static inline int
fleet_geo_orient(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p)
{
	double		left = (b.x - a.x) * (p.y - a.y);
	double		right = (b.y - a.y) * (p.x - a.x);
	double		det = left - right;
	double		bound = FLEET_GEO_ORIENT_BOUND * (fabs(left) + fabs(right));

	if (det > bound)
		return 1;
	if (det < -bound)
		return -1;
	return fleet_geo_orient_exact(a, b, p);
}

#endif							/* FLEET_GEO_ORIENT_H */
