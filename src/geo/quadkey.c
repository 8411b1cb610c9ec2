/*-------------------------------------------------------------------------
 *
 * quadkey.c
 *	  Cells of the Bing Maps tile system as 64-bit numbers: the pure core.
 *
 * The world, in Web Mercator, is a square.  A cell of level n is one of the
 * 4^n equal squares into which it is cut; each digit of a cell's name says in
 * which quarter of the cell above it lies: 0 north-west, 1 north-east, 2
 * south-west, 3 south-east.  Projection, names and the latitude at which the
 * world is cut off are those of "Bing Maps Tile System", Microsoft.
 *
 * One thing is different.  The article rounds a place to the nearest pixel and
 * then looks which tile has it, so places within half a pixel of an edge count
 * to the tile behind it, and the tile of one level need not lie in that of the
 * level above.  Here nothing is rounded: a place's cell has the place in
 * its bounds, and its cell at a level is the ancestor of that at any deeper one.
 *
 * A key has 58 bits of digits, the first one on top and zeros where there are
 * no more, then 5 bits of level:
 *
 *		bit 63 is 0 | digit 1 | digit 2 | ... | digit 29 | level
 *
 * Invariants:
 *	- One cell has one number, which is not negative as a signed one.
 *	- The order of numbers is the Z-order, with a cell ahead of all that lies in
 *	  it.  So a cell and its descendants are one range, from the cell itself to
 *	  fleet_geo_quadkey_last(), and nothing else is in that range.
 *
 * 29 levels are as many as fit.  A cell of level 29 is 7 cm wide at the equator.
 *
 * C types only: no memory is allocated, nothing is raised.  Keys that are
 * passed in are valid, see fleet_geo_quadkey_valid().
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/quadkey.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geo/haversine.h"
#include "geo/quadkey.h"

#define PI					3.14159265358979323846
#define DEGREES_PER_RADIAN	(180.0 / PI)

/* Columns, and rows, of the deepest level. */
#define DEEPEST_TILES		(UINT32_C(1) << FLEET_GEO_QUADKEY_MAX_LEVEL)

/* Put each bit at twice its place, with zeros between. */
static uint64_t
spread(uint32_t bits)
{
	uint64_t	v = bits;

	v = (v | v << 16) & UINT64_C(0x0000FFFF0000FFFF);
	v = (v | v << 8) & UINT64_C(0x00FF00FF00FF00FF);
	v = (v | v << 4) & UINT64_C(0x0F0F0F0F0F0F0F0F);
	v = (v | v << 2) & UINT64_C(0x3333333333333333);
	return (v | v << 1) & UINT64_C(0x5555555555555555);
}

/* The inverse of spread; the bits between are ignored. */
static uint32_t
gather(uint64_t v)
{
	v &= UINT64_C(0x5555555555555555);
	v = (v | v >> 1) & UINT64_C(0x3333333333333333);
	v = (v | v >> 2) & UINT64_C(0x0F0F0F0F0F0F0F0F);
	v = (v | v >> 4) & UINT64_C(0x00FF00FF00FF00FF);
	v = (v | v >> 8) & UINT64_C(0x0000FFFF0000FFFF);
	return (uint32_t) (v | v >> 16);
}

static bool
level_valid(int level)
{
	return level >= 0 && level <= FLEET_GEO_QUADKEY_MAX_LEVEL;
}

/* The cell of column x, from the west, and row y, from the north. */
FleetGeoQuadkeyStatus
fleet_geo_quadkey_of_tile(uint32_t x, uint32_t y, int level, uint64_t *key)
{
	if (!level_valid(level))
		return FLEET_GEO_QUADKEY_BAD_LEVEL;
	if (x >> level != 0 || y >> level != 0)
		return FLEET_GEO_QUADKEY_BAD_TILE;
	*key = (spread(x) | spread(y) << 1) * (fleet_geo_quadkey_below(level) + 1) | (uint64_t) level;
	return FLEET_GEO_QUADKEY_OK;
}

void
fleet_geo_quadkey_tile(uint64_t key, uint32_t *x, uint32_t *y)
{
	uint64_t	digits = key / (fleet_geo_quadkey_below(fleet_geo_quadkey_level(key)) + 1);

	*x = gather(digits);
	*y = gather(digits >> 1);
}

/* A part of the world's width, or height, as a column, or row, of the deepest level. */
static uint32_t
deepest_tile(double part)
{
	double		tile = floor(part * DEEPEST_TILES);

	/* Where the world ends, the last column or row has the edge, too. */
	if (tile < 0.0)
		return 0;
	if (tile >= DEEPEST_TILES)
		return DEEPEST_TILES - 1;
	return (uint32_t) tile;
}

/*
 * The cell that has a place.  A place on an edge is in the cell to the east, or
 * south, of it; longitude 180 is in the easternmost column.
 */
FleetGeoQuadkeyStatus
fleet_geo_quadkey_of_place(double lon, double lat, int level, uint64_t *key)
{
	double		sine;
	uint32_t	x;
	uint32_t	y;

	if (!level_valid(level))
		return FLEET_GEO_QUADKEY_BAD_LEVEL;
	if (!fleet_geo_point_valid(lon, lat))
		return FLEET_GEO_QUADKEY_BAD_PLACE;
	lat = fmin(fmax(lat, -FLEET_GEO_QUADKEY_MAX_LAT), FLEET_GEO_QUADKEY_MAX_LAT);
	sine = sin(lat / DEGREES_PER_RADIAN);
	x = deepest_tile((lon + 180.0) / 360.0);
	y = deepest_tile(0.5 - log((1.0 + sine) / (1.0 - sine)) / (4.0 * PI));

	/* Of all levels the same place of the deepest: so they lie in each other. */
	return fleet_geo_quadkey_of_tile(x >> (FLEET_GEO_QUADKEY_MAX_LEVEL - level),
									 y >> (FLEET_GEO_QUADKEY_MAX_LEVEL - level), level, key);
}

/*
 * Read a cell from len bytes of text, which need not end with a NUL.  No digits
 * are the whole world.  *key is set only when the result is OK.
 */
FleetGeoQuadkeyStatus
fleet_geo_quadkey_parse(const char *text, size_t len, uint64_t *key)
{
	uint64_t	found = 0;

	for (size_t i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '3')
			return FLEET_GEO_QUADKEY_BAD_DIGIT;
		if (i < FLEET_GEO_QUADKEY_MAX_LEVEL)
			found = fleet_geo_quadkey_child(found, text[i] - '0');
	}
	if (len > FLEET_GEO_QUADKEY_MAX_LEVEL)
		return FLEET_GEO_QUADKEY_TOO_LONG;
	*key = found;
	return FLEET_GEO_QUADKEY_OK;
}

/*
 * Write the digits and a NUL to text, which has FLEET_GEO_QUADKEY_TEXT_SIZE
 * bytes.  Returns the length without the NUL.
 */
size_t
fleet_geo_quadkey_format(uint64_t key, char *text)
{
	int			level = fleet_geo_quadkey_level(key);

	for (int i = 0; i < level; i++)
		text[i] = (char) ('0' + (key / (fleet_geo_quadkey_below(i + 1) + 1) & 3));
	text[level] = '\0';
	return (size_t) level;
}

/*
 * The cells of the same level that share an edge or a corner, clockwise from
 * the north; returns how many.  East of the easternmost column is the
 * westernmost.  Beyond the first and the last row is nothing.  At level 1, where
 * east and west are the same cell, it is there once.
 */
int
fleet_geo_quadkey_neighbours(uint64_t key, uint64_t *neighbours)
{
	static const int8_t steps[FLEET_GEO_QUADKEY_NEIGHBOURS][2] = {
		{0, -1}, {1, -1}, {1, 0}, {1, 1}, {0, 1}, {-1, 1}, {-1, 0}, {-1, -1}
	};
	int			level = fleet_geo_quadkey_level(key);
	uint32_t	mask = (UINT32_C(1) << level) - 1;
	uint32_t	x;
	uint32_t	y;
	int			n = 0;

	fleet_geo_quadkey_tile(key, &x, &y);
	for (int i = 0; i < FLEET_GEO_QUADKEY_NEIGHBOURS; i++)
	{
		uint64_t	found;
		bool		known;

		/* Above the first row is a number that is no row. */
		if (fleet_geo_quadkey_of_tile((x + (uint32_t) steps[i][0]) & mask, y + (uint32_t) steps[i][1],
									  level, &found) != FLEET_GEO_QUADKEY_OK)
			continue;
		known = found == key;
		for (int j = 0; j < n && !known; j++)
			known = neighbours[j] == found;
		if (!known)
			neighbours[n++] = found;
	}
	return n;
}

/* The latitude of the northern edge of a row of this level. */
static double
latitude_of_row(uint32_t y, int level)
{
	return atan(sinh(PI * (1.0 - ldexp(y, 1 - level)))) * DEGREES_PER_RADIAN;
}

/* The edges of a cell, in degrees. */
void
fleet_geo_quadkey_bounds(uint64_t key, FleetGeoBox *box)
{
	int			level = fleet_geo_quadkey_level(key);
	uint32_t	x;
	uint32_t	y;

	fleet_geo_quadkey_tile(key, &x, &y);
	box->west = ldexp(x, -level) * 360.0 - 180.0;
	box->east = ldexp(x + 1.0, -level) * 360.0 - 180.0;
	box->north = latitude_of_row(y, level);
	box->south = latitude_of_row(y + 1, level);
}

/*
 * The places that fleet_geo_quadkey_of_place() gives to a cell: its bounds, but
 * the first and the last row reach to the poles.
 */
void
fleet_geo_quadkey_reach(uint64_t key, FleetGeoBox *box)
{
	int			level = fleet_geo_quadkey_level(key);
	uint32_t	x;
	uint32_t	y;

	fleet_geo_quadkey_bounds(key, box);
	fleet_geo_quadkey_tile(key, &x, &y);
	if (y == 0)
		box->north = 90.0;
	if (y + 1 == UINT32_C(1) << level)
		box->south = -90.0;
}
