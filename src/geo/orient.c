/*-------------------------------------------------------------------------
 *
 * orient.c
 *	  The exact half of the orientation test.
 *
 * The determinant is multiplied out to six products of coordinates, each an
 * exact sum of two doubles (the product and its rounding error, from fma).
 * The twelve are added up as an expansion: doubles that do not overlap, in
 * order of size, so that the sign of the last is the sign of the sum.
 *
 * fma() is used for the error of a product because it stays exact also when a
 * compiler fuses multiplications and additions by itself.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/orient.c
 *
 *-------------------------------------------------------------------------
 */
#include "geo/orient.h"

#define TERMS 12

typedef struct Expansion
{
	double		part[TERMS];
	int			nparts;
} Expansion;

/* Add one double: Shewchuk's GROW-EXPANSION, without keeping zeros. */
static void
expansion_add(Expansion *e, double value)
{
	double		sum = value;
	int			kept = 0;
	int			i;

	for (i = 0; i < e->nparts; i++)
	{
		double		a = sum;
		double		b = e->part[i];
		double		virtual_b;
		double		rest;

		sum = a + b;
		virtual_b = sum - a;
		rest = (a - (sum - virtual_b)) + (b - virtual_b);
		if (rest != 0.0)
			e->part[kept++] = rest;
	}
	if (sum != 0.0)
		e->part[kept++] = sum;
	e->nparts = kept;
}

static void
expansion_add_product(Expansion *e, double a, double b)
{
	double		product = a * b;

	expansion_add(e, fma(a, b, -product));
	expansion_add(e, product);
}

int
fleet_geo_orient_exact(FleetGeoPoint a, FleetGeoPoint b, FleetGeoPoint p)
{
	Expansion	e;

	e.nparts = 0;
	expansion_add_product(&e, a.x, b.y);
	expansion_add_product(&e, -a.y, b.x);
	expansion_add_product(&e, b.x, p.y);
	expansion_add_product(&e, -b.y, p.x);
	expansion_add_product(&e, p.x, a.y);
	expansion_add_product(&e, -p.y, a.x);

	if (e.nparts == 0)
		return 0;
	return e.part[e.nparts - 1] > 0.0 ? 1 : -1;
}
