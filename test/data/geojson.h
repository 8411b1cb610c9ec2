/*-------------------------------------------------------------------------
 *
 * geojson.h
 *	  For tests on real data: read regions from GeoJSON into a geofence.
 *
 * Enough for the files in the data folder and no more: a FeatureCollection
 * whose features have "id" in front of "geometry", and geometries of type
 * Polygon or MultiPolygon.  Anything else ends the program.
 *
 * Copyright (c) 2026, the fleet authors
 * test/data/geojson.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TEST_GEOJSON_H
#define FLEET_TEST_GEOJSON_H

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "geo/geofence.h"

typedef struct Geojson
{
	FleetGeoGeofence *fence;
	char	  (*names)[32];		/* the features' ids, by region */
	int			count;
} Geojson;

typedef struct GeojsonBytes
{
	unsigned char *data;
	size_t		len;
	size_t		room;
} GeojsonBytes;

static void
geojson_die(const char *what)
{
	fprintf(stderr, "geojson: %s\n", what);
	exit(2);
}

static void
geojson_put(GeojsonBytes *b, const void *bytes, size_t len)
{
	if (b->len + len > b->room)
	{
		b->room = 2 * b->room + len + 1024;
		b->data = realloc(b->data, b->room);
		if (b->data == NULL)
			geojson_die("out of memory");
	}
	memcpy(b->data + b->len, bytes, len);
	b->len += len;
}

/* The header of a polygon or multipolygon in this machine's byte order. */
static void
geojson_put_header(GeojsonBytes *b, uint32_t type)
{
	uint16_t	probe = 1;
	unsigned char order = *(unsigned char *) &probe;

	geojson_put(b, &order, 1);
	geojson_put(b, &type, 4);
}

static char *
geojson_space(char *s)
{
	while (isspace((unsigned char) *s) || *s == ',')
		s++;
	return s;
}

/*
 * An array of arrays of .. of points.  depth 3 is a multipolygon's list of
 * polygons, 2 a list of rings, 1 a list of points, 0 a point.
 */
static char *
geojson_array(char *s, int depth, GeojsonBytes *b)
{
	size_t		count_at = b->len;
	uint32_t	count = 0;

	s = geojson_space(s);
	if (*s++ != '[')
		geojson_die("expected [");
	if (depth > 0)
		geojson_put(b, &count, 4);
	for (s = geojson_space(s); *s != ']'; s = geojson_space(s))
	{
		if (*s == '\0')
			geojson_die("unexpected end");
		if (depth == 0)
		{
			double		value = strtod(s, &s);

			geojson_put(b, &value, 8);
			continue;
		}
		if (depth == 3)
			geojson_put_header(b, 3);
		s = geojson_array(s, depth - 1, b);
		count++;
	}
	if (depth > 0)
		memcpy(b->data + count_at, &count, 4);
	return s + 1;
}

static char *
geojson_slurp(const char *path)
{
	FILE	   *file = fopen(path, "r");
	size_t		room = 1 << 20;
	size_t		len = 0;
	size_t		got;
	char	   *text = malloc(room);

	if (file == NULL || text == NULL)
		geojson_die("cannot read the file");
	while ((got = fread(text + len, 1, room - len - 1, file)) > 0)
	{
		len += got;
		if (room - len < 2 && (text = realloc(text, room *= 2)) == NULL)
			geojson_die("out of memory");
	}
	fclose(file);
	text[len] = '\0';
	return text;
}

/*
 * Read a file; whoever calls frees fence and names, or ends the program.  A
 * feature without any area (one of the US counties lost it) is left out.
 */
static Geojson
geojson_load(const char *path)
{
	Geojson		result = {NULL, NULL, 0};
	char	   *text = geojson_slurp(path);
	char	   *s = text;
	FleetGeoBuilder *builder = fleet_geo_geofence_begin(NULL);

	while ((s = strstr(s, "\"id\"")) != NULL)
	{
		GeojsonBytes b = {NULL, 0, 0};
		char	   *geometry = strstr(s, "\"geometry\"");
		char	   *coordinates = geometry ? strstr(geometry, "\"coordinates\"") : NULL;
		char	   *multi = geometry ? strstr(geometry, "\"MultiPolygon\"") : NULL;
		int			depth = multi != NULL && multi < coordinates ? 3 : 2;
		FleetGeoStatus status;

		if (coordinates == NULL)
			geojson_die("a feature without coordinates");
		result.names = realloc(result.names, sizeof(*result.names) * (size_t) (result.count + 1));
		if (result.names == NULL ||
			sscanf(s, "\"id\" : \"%31[^\"]\"", result.names[result.count]) != 1)
			geojson_die("a feature without an id");
		geojson_put_header(&b, depth == 3 ? 6 : 3);
		s = geojson_array(strchr(coordinates, '['), depth, &b);
		status = fleet_geo_geofence_add(builder, result.count, b.data, b.len);
		if (status != FLEET_GEO_OK && status != FLEET_GEO_EMPTY)
			geojson_die(fleet_geo_status_text(status));
		free(b.data);
		result.count += status == FLEET_GEO_OK;
	}
	if (fleet_geo_geofence_finish(builder, &result.fence) != FLEET_GEO_OK)
		geojson_die("cannot build the index");
	free(text);
	return result;
}

#endif							/* FLEET_TEST_GEOJSON_H */
