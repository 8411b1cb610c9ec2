/*-------------------------------------------------------------------------
 *
 * quadkey.h
 *	  Cells of the Bing Maps tile system as 64-bit numbers: the pure core.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/quadkey.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_QUADKEY_H
#define FLEET_GEO_QUADKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLEET_GEO_QUADKEY_LEVEL_BITS	5
#define FLEET_GEO_QUADKEY_MAX_LEVEL		29

/* Latitudes beyond this are cut to it, as the tile system does. */
#define FLEET_GEO_QUADKEY_MAX_LAT		85.05112878

/* Room for the longest text form, 29 digits, and its NUL. */
#define FLEET_GEO_QUADKEY_TEXT_SIZE		(FLEET_GEO_QUADKEY_MAX_LEVEL + 1)

/* A cell has at most so many neighbours; a cover has at most so many cells. */
#define FLEET_GEO_QUADKEY_NEIGHBOURS	8
#define FLEET_GEO_QUADKEY_COVER_MAX		65536

typedef enum FleetGeoQuadkeyStatus
{
	FLEET_GEO_QUADKEY_OK,
	FLEET_GEO_QUADKEY_BAD_DIGIT,	/* a text with something else than 0 to 3 */
	FLEET_GEO_QUADKEY_TOO_LONG, /* a text of more digits than there are levels */
	FLEET_GEO_QUADKEY_BAD_LEVEL,	/* negative, or beyond the deepest level */
	FLEET_GEO_QUADKEY_BAD_TILE, /* no such column or row at that level */
	FLEET_GEO_QUADKEY_BAD_PLACE,	/* NaN, infinite, or beyond +-180 / +-90 */
	FLEET_GEO_QUADKEY_BAD_RADIUS,	/* NaN or negative */
	FLEET_GEO_QUADKEY_END,		/* the cover has no more cells */
	FLEET_GEO_QUADKEY_TOO_MANY	/* it has more than FLEET_GEO_QUADKEY_COVER_MAX */
} FleetGeoQuadkeyStatus;

typedef struct FleetGeoBox
{
	double		west;
	double		south;
	double		east;
	double		north;
} FleetGeoBox;

/* The cells that a circle touches, one after the other; see quadkey_cover.c. */
typedef struct FleetGeoCover
{
	double		lon;
	double		lat;
	double		limit;			/* metres on the sphere, the margin included */
	int			level;
	int			found;
	int			nwaiting;
	uint64_t	waiting[3 * FLEET_GEO_QUADKEY_MAX_LEVEL + 1];	/* last one first */
} FleetGeoCover;

static inline int
fleet_geo_quadkey_level(uint64_t key)
{
	return (int) (key & ((1 << FLEET_GEO_QUADKEY_LEVEL_BITS) - 1));
}

/* Of all bits, those below the digits of a cell of this level. */
static inline uint64_t
fleet_geo_quadkey_below(int level)
{
	return (UINT64_C(1) << (2 * (FLEET_GEO_QUADKEY_MAX_LEVEL - level) + FLEET_GEO_QUADKEY_LEVEL_BITS)) - 1;
}

/* Whether a number is a cell. */
static inline bool
fleet_geo_quadkey_valid(uint64_t key)
{
	int			level = fleet_geo_quadkey_level(key);

	return key <= INT64_MAX && level <= FLEET_GEO_QUADKEY_MAX_LEVEL &&
		(key & fleet_geo_quadkey_below(level)) == (uint64_t) level;
}

/* The ancestor of this level, which is the cell's own at most. */
static inline uint64_t
fleet_geo_quadkey_ancestor(uint64_t key, int level)
{
	return (key & ~fleet_geo_quadkey_below(level)) | (uint64_t) level;
}

/* The child of this digit; the cell is not of the deepest level. */
static inline uint64_t
fleet_geo_quadkey_child(uint64_t key, int digit)
{
	uint64_t	unit = fleet_geo_quadkey_below(fleet_geo_quadkey_level(key) + 1) + 1;

	return (key + 1) | (uint64_t) digit * unit;
}

/* The last descendant in the order of keys; the first is the cell itself. */
static inline uint64_t
fleet_geo_quadkey_last(uint64_t key)
{
	uint64_t	below = fleet_geo_quadkey_below(fleet_geo_quadkey_level(key));
	uint64_t	levels = (1 << FLEET_GEO_QUADKEY_LEVEL_BITS) - 1;

	return (key & ~below) | (below & ~levels) | FLEET_GEO_QUADKEY_MAX_LEVEL;
}

/* Whether b is a or lies in it. */
static inline bool
fleet_geo_quadkey_contains(uint64_t a, uint64_t b)
{
	return a <= b && b <= fleet_geo_quadkey_last(a);
}

extern FleetGeoQuadkeyStatus fleet_geo_quadkey_of_tile(uint32_t x, uint32_t y, int level, uint64_t *key);
extern void fleet_geo_quadkey_tile(uint64_t key, uint32_t *x, uint32_t *y);
extern FleetGeoQuadkeyStatus fleet_geo_quadkey_of_place(double lon, double lat, int level, uint64_t *key);
extern FleetGeoQuadkeyStatus fleet_geo_quadkey_parse(const char *text, size_t len, uint64_t *key);
extern size_t fleet_geo_quadkey_format(uint64_t key, char *text);
extern int	fleet_geo_quadkey_neighbours(uint64_t key, uint64_t *neighbours);
extern void fleet_geo_quadkey_bounds(uint64_t key, FleetGeoBox *box);
extern void fleet_geo_quadkey_reach(uint64_t key, FleetGeoBox *box);

extern FleetGeoQuadkeyStatus fleet_geo_quadkey_cover_begin(FleetGeoCover *cover, double lon, double lat,
														   double radius_m, int level);
extern FleetGeoQuadkeyStatus fleet_geo_quadkey_cover_next(FleetGeoCover *cover, uint64_t *key);

#endif							/* FLEET_GEO_QUADKEY_H */
