/*-------------------------------------------------------------------------
 *
 * wkb.c
 *	  Read the rings of a Polygon or MultiPolygon from WKB or EWKB.
 *
 * Understood: both byte orders (each part may have its own), the type codes of
 * OGC/ISO WKB with Z, M and ZM (+1000, +2000, +3000), and PostGIS' flags for
 * Z, M and SRID.  An SRID must be 4326, or 0 for unknown.
 *
 * The bytes are not trusted.  Every count is compared with the bytes that are
 * left before it is believed, nothing is read past the end, and no byte may be
 * left over.  A cursor remembers its first error and reads zeros after it, so
 * that the code below need not look after each number.
 *
 * Whether rings cross each other is not checked here: that is the caller's
 * business (ST_IsValid).
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/wkb.c
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "geo/haversine.h"
#include "geo/wkb.h"

#define TYPE_POLYGON		3
#define TYPE_MULTIPOLYGON	6

#define FLAG_Z				0x80000000u
#define FLAG_M				0x40000000u
#define FLAG_SRID			0x20000000u

#define SRID_WGS84			4326

typedef struct Cursor
{
	const unsigned char *at;
	const unsigned char *end;
	bool		big_endian;
	FleetGeoStatus status;
} Cursor;

/* What the header of a geometry says. */
typedef struct Header
{
	uint32_t	type;
	size_t		point_size;		/* bytes of one point, 16 to 32 */
} Header;

static void
cursor_fail(Cursor *c, FleetGeoStatus status)
{
	if (c->status == FLEET_GEO_OK)
		c->status = status;
	c->at = c->end;
}

static size_t
cursor_left(const Cursor *c)
{
	return (size_t) (c->end - c->at);
}

static uint64_t
cursor_bytes(Cursor *c, size_t size)
{
	uint64_t	value = 0;
	size_t		i;

	if (cursor_left(c) < size)
	{
		cursor_fail(c, FLEET_GEO_BAD_WKB);
		return 0;
	}
	for (i = 0; i < size; i++)
		value = (value << 8) | c->at[c->big_endian ? i : size - 1 - i];
	c->at += size;
	return value;
}

static uint32_t
cursor_uint32(Cursor *c)
{
	return (uint32_t) cursor_bytes(c, 4);
}

static double
cursor_double(Cursor *c)
{
	uint64_t	bits = cursor_bytes(c, 8);
	double		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* A count of things that take at least min_size bytes each. */
static uint32_t
cursor_count(Cursor *c, size_t min_size)
{
	uint32_t	count = cursor_uint32(c);

	if (count > cursor_left(c) / min_size)
	{
		cursor_fail(c, FLEET_GEO_BAD_WKB);
		return 0;
	}
	return count;
}

static Header
read_header(Cursor *c)
{
	Header		header = {0, 16};
	unsigned int order = (unsigned int) cursor_bytes(c, 1);
	uint32_t	code;
	uint32_t	dimensions;

	if (order > 1)
		cursor_fail(c, FLEET_GEO_BAD_WKB);
	c->big_endian = (order == 0);
	code = cursor_uint32(c);

	if (code & FLAG_SRID)
	{
		uint32_t	srid = cursor_uint32(c);

		if (srid != SRID_WGS84 && srid != 0)
			cursor_fail(c, FLEET_GEO_BAD_SRID);
	}
	dimensions = (code & ~(FLAG_Z | FLAG_M | FLAG_SRID)) / 1000;
	header.type = (code & ~(FLAG_Z | FLAG_M | FLAG_SRID)) % 1000;
	if (dimensions > 3)
		cursor_fail(c, FLEET_GEO_BAD_WKB);
	if ((code & FLAG_Z) || dimensions == 1 || dimensions == 3)
		header.point_size += 8;
	if ((code & FLAG_M) || dimensions == 2 || dimensions == 3)
		header.point_size += 8;
	return header;
}

/* One ring, appended to rings; a point equal to the one before is dropped. */
static void
read_ring(Cursor *c, size_t point_size, FleetGeoRings *rings)
{
	uint32_t	count = cursor_count(c, point_size);
	FleetGeoPoint *first = rings->points + rings->npoints;
	uint32_t	kept = 0;
	uint32_t	i;

	if (c->status == FLEET_GEO_OK && count < 4)
		cursor_fail(c, FLEET_GEO_BAD_RING);
	for (i = 0; i < count && c->status == FLEET_GEO_OK; i++)
	{
		double		x = cursor_double(c);
		double		y = cursor_double(c);
		FleetGeoPoint p = fleet_geo_point(x, y);

		c->at += point_size - 16;
		if (!fleet_geo_point_valid(p.x, p.y))
			cursor_fail(c, FLEET_GEO_BAD_COORDINATE);
		else if (kept == 0 || first[kept - 1].x != p.x || first[kept - 1].y != p.y)
			first[kept++] = p;
	}
	if (c->status != FLEET_GEO_OK)
		return;
	if (kept < 4 || first[0].x != first[kept - 1].x || first[0].y != first[kept - 1].y)
	{
		cursor_fail(c, FLEET_GEO_BAD_RING);
		return;
	}
	rings->npoints += kept;
	rings->sizes[rings->nrings++] = kept;
}

/* The body of a polygon, behind its header.  No rings: an empty polygon. */
static void
read_polygon(Cursor *c, size_t point_size, FleetGeoRings *rings)
{
	uint32_t	count = cursor_count(c, 4);
	uint32_t	i;

	for (i = 0; i < count && c->status == FLEET_GEO_OK; i++)
		read_ring(c, point_size, rings);
}

static void
read_multipolygon(Cursor *c, FleetGeoRings *rings)
{
	uint32_t	count = cursor_count(c, 9);
	uint32_t	i;

	for (i = 0; i < count && c->status == FLEET_GEO_OK; i++)
	{
		bool		outer_order = c->big_endian;
		Header		part = read_header(c);

		if (c->status == FLEET_GEO_OK && part.type != TYPE_POLYGON)
			cursor_fail(c, FLEET_GEO_BAD_WKB);
		if (c->status == FLEET_GEO_OK)
			read_polygon(c, part.point_size, rings);
		c->big_endian = outer_order;
	}
}

FleetGeoStatus
fleet_geo_wkb_read(const unsigned char *wkb, size_t len, FleetGeoRings *rings)
{
	Cursor		c;
	Header		header;

	c.at = wkb;
	c.end = wkb + len;
	c.big_endian = false;
	c.status = FLEET_GEO_OK;
	rings->npoints = 0;
	rings->nrings = 0;

	header = read_header(&c);
	if (c.status != FLEET_GEO_OK)
		return c.status;
	if (header.type == TYPE_POLYGON)
		read_polygon(&c, header.point_size, rings);
	else if (header.type == TYPE_MULTIPOLYGON)
		read_multipolygon(&c, rings);
	else
		return FLEET_GEO_BAD_TYPE;

	if (c.status == FLEET_GEO_OK && c.at != c.end)
		return FLEET_GEO_BAD_WKB;
	if (c.status == FLEET_GEO_OK && rings->nrings == 0)
		return FLEET_GEO_EMPTY;
	return c.status;
}
