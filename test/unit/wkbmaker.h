/*-------------------------------------------------------------------------
 *
 * wkbmaker.h
 *	  For tests: write WKB and EWKB of polygons by hand.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/wkbmaker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_WKBMAKER_H
#define FLEET_WKBMAKER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WKB_POLYGON			3u
#define WKB_MULTIPOLYGON	6u
#define WKB_SRID			0x20000000u
#define WKB_Z				0x80000000u
#define WKB_M				0x40000000u

typedef struct Wkb
{
	unsigned char *data;
	size_t		len;
	size_t		room;
	bool		big_endian;
} Wkb;

static void
wkb_bytes(Wkb *w, uint64_t value, size_t size)
{
	size_t		i;

	if (w->len + size > w->room)
	{
		w->room = 2 * w->room + 1024;
		w->data = realloc(w->data, w->room);
		if (w->data == NULL)
			abort();
	}
	for (i = 0; i < size; i++)
		w->data[w->len++] = (unsigned char) (value >> 8 * (w->big_endian ? size - 1 - i : i));
}

static void
wkb_count(Wkb *w, uint32_t count)
{
	wkb_bytes(w, count, 4);
}

static void
wkb_number(Wkb *w, double value)
{
	uint64_t	bits;

	memcpy(&bits, &value, 8);
	wkb_bytes(w, bits, 8);
}

/* The head of a geometry; an SRID follows when the type says so. */
static void
wkb_head(Wkb *w, uint32_t type, uint32_t srid)
{
	wkb_bytes(w, w->big_endian ? 0 : 1, 1);
	wkb_count(w, type);
	if (type & WKB_SRID)
		wkb_count(w, srid);
}

/* A ring through these points (x, y, x, y, ..), closed here. */
static void
wkb_ring(Wkb *w, const double *xy, int npoints)
{
	int			i;

	wkb_count(w, (uint32_t) npoints + 1);
	for (i = 0; i <= npoints; i++)
	{
		wkb_number(w, xy[2 * (i % npoints)]);
		wkb_number(w, xy[2 * (i % npoints) + 1]);
	}
}

static void __attribute__((unused))
wkb_box_ring(Wkb *w, double x1, double y1, double x2, double y2)
{
	double		xy[8];

	xy[0] = xy[6] = x1;
	xy[2] = xy[4] = x2;
	xy[1] = xy[3] = y1;
	xy[5] = xy[7] = y2;
	wkb_ring(w, xy, 4);
}

#endif							/* FLEET_WKBMAKER_H */
