/* cores: src/geo/quadkey.c src/geo/quadkey_cover.c src/geo/haversine.c */
/*-------------------------------------------------------------------------
 *
 * quadkey_fuzz.c
 *	  Fuzz target: cells as text and as numbers, places and circles of any kind.
 *
 * A text that is taken for a cell must be what that cell is written as.  A
 * number that is valid must be read back from its text, and its family must obey
 * the law of ranges.  A place must be in its cell, and its cell in each cover of
 * a circle around it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/quadkey_fuzz.c
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"
#include "geo/quadkey.h"

#define LOOK_AT		300			/* cells of a cover */

static void
try_text(const char *text, size_t len)
{
	char		again[FLEET_GEO_QUADKEY_TEXT_SIZE];
	uint64_t	key;

	if (fleet_geo_quadkey_parse(text, len, &key) != FLEET_GEO_QUADKEY_OK)
		return;
	must(fleet_geo_quadkey_valid(key));
	must(fleet_geo_quadkey_format(key, again) == len);
	must(memcmp(again, text, len) == 0);
}

static void
try_key(uint64_t key)
{
	uint64_t	neighbours[FLEET_GEO_QUADKEY_NEIGHBOURS];
	char		text[FLEET_GEO_QUADKEY_TEXT_SIZE];
	uint64_t	again = ~key;
	uint32_t	x;
	uint32_t	y;
	int			level = fleet_geo_quadkey_level(key);

	if (!fleet_geo_quadkey_valid(key))
		return;
	must(fleet_geo_quadkey_parse(text, fleet_geo_quadkey_format(key, text), &again) == FLEET_GEO_QUADKEY_OK);
	must(again == key);
	fleet_geo_quadkey_tile(key, &x, &y);
	must(fleet_geo_quadkey_of_tile(x, y, level, &again) == FLEET_GEO_QUADKEY_OK && again == key);
	must(fleet_geo_quadkey_valid(fleet_geo_quadkey_last(key)));
	must(fleet_geo_quadkey_contains(key, fleet_geo_quadkey_last(key)));
	must(level == 0 || fleet_geo_quadkey_contains(fleet_geo_quadkey_ancestor(key, level - 1), key));
	must(fleet_geo_quadkey_neighbours(key, neighbours) <= FLEET_GEO_QUADKEY_NEIGHBOURS);
}

static void
try_cover(double lon, double lat, double radius, int level, uint64_t home)
{
	FleetGeoCover cover;
	uint64_t	key = 0;
	uint64_t	before = 0;
	int			n = 0;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_cover_begin(&cover, lon, lat, radius, level);

	if (status != FLEET_GEO_QUADKEY_OK)
	{
		must(status == FLEET_GEO_QUADKEY_BAD_RADIUS && !(radius >= 0));
		return;
	}
	while (n < LOOK_AT && (status = fleet_geo_quadkey_cover_next(&cover, &key)) == FLEET_GEO_QUADKEY_OK)
	{
		must(fleet_geo_quadkey_valid(key) && fleet_geo_quadkey_level(key) == level);
		must(n++ == 0 || key > before);
		/* In their order, it is not jumped over. */
		must(!(before < home && home < key) || n == 1);
		must(n != 1 || key <= home);
		before = key;
	}
	must(status == FLEET_GEO_QUADKEY_OK || (status == FLEET_GEO_QUADKEY_END && before >= home));
}

static void
try_place(double lon, double lat, double radius, int level)
{
	FleetGeoBox box;
	uint64_t	key;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_of_place(lon, lat, level, &key);

	if (status != FLEET_GEO_QUADKEY_OK)
	{
		must(status == FLEET_GEO_QUADKEY_BAD_LEVEL ||
			 !(lon >= -180 && lon <= 180 && lat >= -90 && lat <= 90));
		return;
	}
	must(fleet_geo_quadkey_valid(key) && fleet_geo_quadkey_level(key) == level);
	fleet_geo_quadkey_reach(key, &box);
	must(lon >= box.west - 1e-12 && lon <= box.east + 1e-12);
	must(lat >= box.south - 1e-12 && lat <= box.north + 1e-12);
	try_cover(lon, lat, radius, level, key);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FuzzInput	in = {data, size};
	uint64_t	number;
	double		numbers[3];
	int			level;

	try_text((const char *) data, size);
	number = fuzz_number(&in, 8);
	level = (int) (int8_t) fuzz_number(&in, 1);
	for (int i = 0; i < 3; i++)
		numbers[i] = fuzz_double(&in);
	try_key(number);
	/* The same bits as a cell, which random ones hardly are. */
	try_key(fleet_geo_quadkey_ancestor(number & INT64_MAX, (int) (number % (FLEET_GEO_QUADKEY_MAX_LEVEL + 1))));
	try_place(numbers[0], numbers[1], numbers[2], level);
	/* And as numbers that are places. */
	try_place((double) (int64_t) number / 9.3e18 * 180.0, (double) (level - 50), numbers[2], level & 31);
	return 0;
}
