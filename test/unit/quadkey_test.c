/* cores: src/geo/quadkey.c src/geo/quadkey_cover.c src/geo/haversine.c */
/*-------------------------------------------------------------------------
 *
 * quadkey_test.c
 *	  Unit tests of the cells of the tile system and of covers of circles.
 *
 * What is known from elsewhere is from "Bing Maps Tile System", Microsoft: its
 * examples, and its way from a place to a name, written anew here in plain
 * steps.  The rest are laws on random cells.  Loops report once, with the first
 * case that broke the law.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/unit/quadkey_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "geo/haversine.h"
#include "geo/quadkey.h"
#include "random.h"
#include "tap.h"

#define ROUNDS		40000
#define PI			3.14159265358979323846
#define OK			FLEET_GEO_QUADKEY_OK
#define MAX_LEVEL	FLEET_GEO_QUADKEY_MAX_LEVEL
#define COVER_MAX	FLEET_GEO_QUADKEY_COVER_MAX
#define LENGTH(a)	((int) (sizeof(a) / sizeof((a)[0])))

typedef struct Circle
{
	double		lon;
	double		lat;
	double		radius;
} Circle;

static uint64_t covered[COVER_MAX];

static double
random_between(double low, double high)
{
	return low + (high - low) * ((double) (random_next() >> 11) / 9007199254740992.0);
}

static uint64_t
random_cell(int level)
{
	uint64_t	key = 0;

	while (fleet_geo_quadkey_level(key) < level)
		key = fleet_geo_quadkey_child(key, (int) random_below(4));
	return key;
}

/* The cell of a place; a number that is no cell where there is none. */
static uint64_t
cell_of(double lon, double lat, int level)
{
	uint64_t	key;

	return fleet_geo_quadkey_of_place(lon, lat, level, &key) == OK ? key : UINT64_MAX;
}

static uint64_t
cell_named(const char *text)
{
	uint64_t	key;

	return fleet_geo_quadkey_parse(text, strlen(text), &key) == OK ? key : UINT64_MAX;
}

static const char *
name_of(uint64_t key)
{
	static char text[FLEET_GEO_QUADKEY_TEXT_SIZE];

	fleet_geo_quadkey_format(key, text);
	return text;
}

static void
test_text(void)
{
	static const char *const wrong[] = {"4", "0123x", " 213", "213 ", "-1", "213\n", "\xef\xbc\x91", "01/", "2:"};
	const char *longest = "01230123012301230123012301230";
	uint64_t	key;
	int			broken = 0;

	is_int(cell_named(""), 0, "no digits are the world, number 0");
	is_int(cell_named("0"), 1, "the first cell of level 1");
	is_int(cell_named("3"), (3LL << 61) | 1, "the last one");
	is_str(name_of(cell_named("213")), "213", "a name is read and written");
	is_str(name_of(cell_named(longest)), longest, "one of 29 digits, too");
	is_int(fleet_geo_quadkey_parse("012301230123012301230123012300", 30, &key), FLEET_GEO_QUADKEY_TOO_LONG, "30 are too many");
	is_int(fleet_geo_quadkey_parse("01230123012301230123012301230x", 30, &key), FLEET_GEO_QUADKEY_BAD_DIGIT, "whatever is wrong behind them");
	is_int(fleet_geo_quadkey_parse("2\0", 2, &key), FLEET_GEO_QUADKEY_BAD_DIGIT, "a NUL is no digit");
	for (int i = 0; i < LENGTH(wrong); i++)
		broken += fleet_geo_quadkey_parse(wrong[i], strlen(wrong[i]), &key) != FLEET_GEO_QUADKEY_BAD_DIGIT;
	is_int(broken, 0, "nothing but the digits 0 to 3 is taken");

	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		key = random_cell(i % (MAX_LEVEL + 1));
		broken = !fleet_geo_quadkey_valid(key) || cell_named(name_of(key)) != key ||
			(int) strlen(name_of(key)) != fleet_geo_quadkey_level(key);
	}
	ok(!broken, "every cell is read back from its name: %s", name_of(key));
}

static void
test_valid(void)
{
	int			broken = 0;

	ok(!fleet_geo_quadkey_valid(UINT64_C(1) << 63), "a number with the top bit is no cell");
	ok(!fleet_geo_quadkey_valid(30) && !fleet_geo_quadkey_valid(31), "nor are those of levels 30 and 31");
	ok(!fleet_geo_quadkey_valid(UINT64_C(1) << 61), "nor is one with digits below its level");
	ok(fleet_geo_quadkey_valid(0) && fleet_geo_quadkey_valid(29), "the first and the deepest are");
	is_int(fleet_geo_quadkey_last(0), (INT64_MAX & ~31LL) | 29, "the last of all");
	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		/* A cell, or one with a bit turned. */
		uint64_t	number = random_cell(i % (MAX_LEVEL + 1)) ^ (i % 3 == 0 ? 0 : UINT64_C(1) << random_below(64));

		if (fleet_geo_quadkey_level(number) <= MAX_LEVEL)
			broken = fleet_geo_quadkey_valid(number) != (cell_named(name_of(number)) == number);
	}
	ok(!broken, "a number is valid just when it is made anew from its name");
}

/* The article's way from a tile to a name: one digit for each bit of both. */
static void
plain_name(uint32_t x, uint32_t y, int level, char *text)
{
	for (int i = level; i > 0; i--)
	{
		uint32_t	mask = UINT32_C(1) << (i - 1);

		*text++ = (char) ('0' + ((x & mask) ? 1 : 0) + ((y & mask) ? 2 : 0));
	}
	*text = '\0';
}

static void
test_tiles(void)
{
	uint64_t	key = 0;
	uint32_t	x = 0;
	uint32_t	y = 0;
	int			broken = 0;

	is_int(fleet_geo_quadkey_of_tile(3, 5, 3, &key), OK, "tile (3, 5) of level 3");
	is_str(name_of(key), "213", "is quadkey 213");
	fleet_geo_quadkey_tile(cell_named("213"), &x, &y);
	ok(x == 3 && y == 5, "and quadkey 213 is tile (3, 5)");
	is_int(fleet_geo_quadkey_of_tile(8, 0, 3, &key), FLEET_GEO_QUADKEY_BAD_TILE, "there is no column 8 at level 3");
	is_int(fleet_geo_quadkey_of_tile(0, 8, 3, &key), FLEET_GEO_QUADKEY_BAD_TILE, "nor a row");
	is_int(fleet_geo_quadkey_of_tile(UINT32_MAX, 0, 29, &key), FLEET_GEO_QUADKEY_BAD_TILE, "nor a very large one");
	is_int(fleet_geo_quadkey_of_tile(0, 0, -1, &key), FLEET_GEO_QUADKEY_BAD_LEVEL, "nor level -1");
	is_int(fleet_geo_quadkey_of_tile(0, 0, 30, &key), FLEET_GEO_QUADKEY_BAD_LEVEL, "nor level 30");
	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		int			level = i % (MAX_LEVEL + 1);
		uint32_t	column = (uint32_t) random_below(INT64_C(1) << level);
		uint32_t	row = (uint32_t) random_below(INT64_C(1) << level);
		char		plain[FLEET_GEO_QUADKEY_TEXT_SIZE];

		plain_name(column, row, level, plain);
		broken = fleet_geo_quadkey_of_tile(column, row, level, &key) != OK || strcmp(name_of(key), plain) != 0;
		fleet_geo_quadkey_tile(key, &x, &y);
		broken = broken || x != column || y != row;
	}
	ok(!broken, "tiles have the names that the article gives them, and back: %s", name_of(key));
}

/* The article's way from a place to the name of its tile, by the pixel. */
static void
plain_cell(double lon, double lat, int level, char *text)
{
	double		size = ldexp(256.0, level);
	double		sine = sin(fmin(fmax(lat, -85.05112878), 85.05112878) * PI / 180.0);
	double		x = (lon + 180.0) / 360.0;
	double		y = 0.5 - log((1.0 + sine) / (1.0 - sine)) / (4.0 * PI);
	uint32_t	pixel_x = (uint32_t) fmin(fmax(x * size + 0.5, 0.0), size - 1.0);
	uint32_t	pixel_y = (uint32_t) fmin(fmax(y * size + 0.5, 0.0), size - 1.0);

	plain_name(pixel_x / 256, pixel_y / 256, level, text);
}

/* Does a place lie within half a pixel of an edge of its cell, where rounding to pixels counts? */
static int
near_edge(double lon, double lat, uint64_t key)
{
	FleetGeoBox box;
	double		width;
	double		height;

	fleet_geo_quadkey_bounds(key, &box);
	width = (box.east - box.west) / 500.0;
	/* On large cells, degrees of latitude are more pixels in the north than at the equator. */
	height = (box.north - box.south) / 150.0;
	return lon < box.west + width || lon > box.east - width || lat < box.south + height || lat > box.north - height;
}

static void
test_places(void)
{
	static const struct
	{
		double		lon;
		double		lat;
		const char *name;
	}			known[] = {
		{-180, 85.05112878, "0000"}, {-180, 90, "0000"}, {180, 90, "1111"}, {179.9999, 85.05112878, "1111"},
		{-180, -85.05112878, "2222"}, {-180, -90, "2222"}, {180, -90, "3333"}, {0, 0, "3000"},
		{-1e-9, 1e-9, "0333"}, {0, 1e-9, "1222"}, {-1e-9, 0, "2111"}, {-0.0, -0.0, "3000"}
	};
	static const double bad[][2] = {
		{180.0000001, 0}, {-180.0000001, 0}, {0, 90.0000001}, {0, -90.0000001}, {NAN, 0}, {0, NAN}, {INFINITY, 0}, {0, -INFINITY}
	};
	uint64_t	key = 0;
	int			broken = 0;
	int			compared = 0;

	for (int i = 0; i < LENGTH(known); i++)
		is_str(name_of(cell_of(known[i].lon, known[i].lat, 4)), known[i].name, "corners, poles, edges");
	for (int i = 0; i < LENGTH(bad); i++)
		broken += fleet_geo_quadkey_of_place(bad[i][0], bad[i][1], 5, &key) != FLEET_GEO_QUADKEY_BAD_PLACE;
	is_int(broken, 0, "what is no place is refused");
	is_int(fleet_geo_quadkey_of_place(0, 0, 30, &key), FLEET_GEO_QUADKEY_BAD_LEVEL, "as is level 30");
	is_int(fleet_geo_quadkey_of_place(0, 0, -1, &key), FLEET_GEO_QUADKEY_BAD_LEVEL, "and level -1");

	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		double		lon = random_between(-180, 180);
		double		lat = random_between(-85, 85);
		int			level = i % (MAX_LEVEL + 1);
		char		plain[FLEET_GEO_QUADKEY_TEXT_SIZE];
		FleetGeoBox box;

		key = cell_of(lon, lat, level);
		fleet_geo_quadkey_bounds(key, &box);
		broken = lon < box.west - 1e-12 || lon > box.east + 1e-12 || lat < box.south - 1e-12 || lat > box.north + 1e-12;
		broken = broken || fleet_geo_quadkey_ancestor(cell_of(lon, lat, MAX_LEVEL), level) != key;
		/* The article has 23 levels; from there on pixels do not fit its integers. */
		if (level > 23 || near_edge(lon, lat, key))
			continue;
		plain_cell(lon, lat, level, plain);
		broken = broken || strcmp(plain, name_of(key)) != 0;
		compared++;
	}
	ok(!broken, "places are in the bounds of their cells, cells in those of other levels, as in the article: %s", name_of(key));
	ok(compared > ROUNDS / 2, "%d places were compared with the article's way", compared);
}

static void
test_bounds(void)
{
	FleetGeoBox box;
	int			broken = 0;
	uint64_t	key = 0;

	fleet_geo_quadkey_bounds(0, &box);
	ok(box.west == -180 && box.east == 180, "the world is 360 degrees wide");
	ok(fabs(box.north - 85.05112878) < 1e-8 && fabs(box.south + 85.05112878) < 1e-8, "and ends where the article says");
	fleet_geo_quadkey_bounds(cell_named("213"), &box);
	ok(box.west == -45 && box.east == 0, "213 goes from 45 degrees west to the meridian");
	/* Its first pixel of 2048 is (768, 1280), so says the size of a tile. */
	ok((box.west + 180) / 360 * 2048 == 768, "its western edge is pixel 768");
	ok(fabs((0.5 - asinh(tan(box.north * PI / 180)) / (2 * PI)) * 2048 - 1280) < 1e-9, "its northern edge is pixel 1280");
	fleet_geo_quadkey_reach(cell_named("213"), &box);
	ok(box.north < 0 && box.south > -67, "it does not reach farther than it is");
	fleet_geo_quadkey_reach(cell_named("011"), &box);
	ok(box.north == 90 && box.south > 0, "one of the first row reaches to the pole");
	fleet_geo_quadkey_reach(cell_named("233"), &box);
	ok(box.south == -90 && box.north < 0, "one of the last row to the other");

	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		FleetGeoBox child;
		int			level = i % (MAX_LEVEL + 1);

		key = random_cell(level);
		fleet_geo_quadkey_bounds(key, &box);
		broken = cell_of((box.west + box.east) / 2, (box.south + box.north) / 2, level) != key || box.south >= box.north;
		if (level == MAX_LEVEL)
			continue;
		fleet_geo_quadkey_bounds(fleet_geo_quadkey_child(key, 0), &child);
		broken = broken || child.west != box.west || child.north != box.north;
		fleet_geo_quadkey_bounds(fleet_geo_quadkey_child(key, 3), &child);
		broken = broken || child.east != box.east || child.south != box.south;
	}
	ok(!broken, "the middle of a cell is in it, and its children's edges are its own: %s", name_of(key));
}

static void
test_order(void)
{
	int			broken = 0;
	uint64_t	key = 0;

	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		int			level = (int) random_below(MAX_LEVEL);
		char		a[FLEET_GEO_QUADKEY_TEXT_SIZE];
		char		b[FLEET_GEO_QUADKEY_TEXT_SIZE];
		uint64_t	other = random_cell((int) random_below(MAX_LEVEL + 1));
		int			within;

		key = random_cell(level);
		/* Half of the time something that is near. */
		if (i % 2 == 0)
			other = fleet_geo_quadkey_child(fleet_geo_quadkey_ancestor(key, (int) random_below(level + 1)), (int) random_below(4));
		strcpy(a, name_of(key));
		strcpy(b, name_of(other));
		/* What the names say: one is a prefix of the other, and the order of bytes. */
		within = strncmp(a, b, strlen(a)) == 0;
		broken = within != fleet_geo_quadkey_contains(key, other) ||
			within != (other >= key && other <= fleet_geo_quadkey_last(key)) ||
			(strcmp(a, b) < 0) != (key < other) || (strcmp(a, b) == 0) != (key == other);
	}
	ok(!broken, "order and containment are those of the names, and a cell's descendants a range: %s", name_of(key));

	for (int i = 0; i < ROUNDS && !broken; i++)
	{
		uint64_t	before;

		key = random_cell((int) random_below(MAX_LEVEL));
		before = key;
		for (int digit = 0; digit < 4; digit++)
		{
			uint64_t	child = fleet_geo_quadkey_child(key, digit);

			broken = broken || child <= before || !fleet_geo_quadkey_valid(child) ||
				fleet_geo_quadkey_ancestor(child, fleet_geo_quadkey_level(key)) != key ||
				!fleet_geo_quadkey_contains(key, child) || fleet_geo_quadkey_contains(child, key);
			before = fleet_geo_quadkey_last(child);
		}
		broken = broken || before != fleet_geo_quadkey_last(key) || !fleet_geo_quadkey_valid(before);
	}
	ok(!broken, "four children follow each other to the end of their parent: %s", name_of(key));
}

static void
test_neighbours(void)
{
	uint64_t	found[FLEET_GEO_QUADKEY_NEIGHBOURS];
	uint64_t	back[FLEET_GEO_QUADKEY_NEIGHBOURS];
	int			broken = 0;
	uint64_t	key = 0;

	is_int(fleet_geo_quadkey_neighbours(0, found), 0, "the world has no neighbours");
	is_int(fleet_geo_quadkey_neighbours(cell_named("0"), found), 3, "a cell of level 1 has three");
	is_int(fleet_geo_quadkey_neighbours(cell_named("213"), found), 8, "one in the middle has eight");
	ok(found[0] == cell_named("211") && found[2] == cell_named("302") && found[4] == cell_named("231") && found[6] == cell_named("212"),
	   "from the north clockwise");
	is_int(fleet_geo_quadkey_neighbours(cell_named("000"), found), 5, "one in the first row has five");
	ok(found[3] == cell_named("113") && found[4] == cell_named("111"), "two of them beyond the antimeridian");
	is_int(fleet_geo_quadkey_neighbours(cell_named("333"), found), 5, "as has one in the last row");

	for (int i = 0; i < ROUNDS / 8 && !broken; i++)
	{
		int			level = 2 + (int) random_below(MAX_LEVEL - 1);
		uint32_t	x;
		uint32_t	y;
		int			n;

		key = random_cell(level);
		/* Often at the edge of the world. */
		if (i % 2 == 0)
			key = cell_of(i % 4 == 0 ? -180 : 180, random_between(-90, 90), level);
		fleet_geo_quadkey_tile(key, &x, &y);
		n = fleet_geo_quadkey_neighbours(key, found);
		broken = n != (y == 0 || y + 1 == UINT32_C(1) << level ? 5 : 8);
		for (int j = 0; j < n; j++)
		{
			int			nback = fleet_geo_quadkey_neighbours(found[j], back);
			int			mutual = 0;

			for (int k = 0; k < nback; k++)
				mutual += back[k] == key;
			broken = broken || mutual != 1 || found[j] == key || !fleet_geo_quadkey_valid(found[j]);
			for (int k = 0; k < j; k++)
				broken = broken || found[k] == found[j];
		}
	}
	ok(!broken, "neighbours are different, and each other's: %s", name_of(key));
}

/* Fill covered; returns how many, or minus a status. */
static int
cover(const Circle *circle, int level)
{
	FleetGeoCover state;
	FleetGeoQuadkeyStatus status = fleet_geo_quadkey_cover_begin(&state, circle->lon, circle->lat, circle->radius, level);
	int			n = 0;

	if (status != OK)
		return -(int) status;
	while ((status = fleet_geo_quadkey_cover_next(&state, &covered[n < COVER_MAX ? n : 0])) == OK)
		n++;
	if (n > COVER_MAX)
		return -n;				/* one too many was given out */
	return status == FLEET_GEO_QUADKEY_END ? n : -(int) status;
}

static int
compare_cells(const void *a, const void *b)
{
	uint64_t	x = *(const uint64_t *) a;
	uint64_t	y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

static int
is_covered(uint64_t key, int n)
{
	return bsearch(&key, covered, n, sizeof(key), compare_cells) != NULL;
}

/* A place so many metres away on the sphere, in some direction. */
static void
go(const Circle *from, double metres, double direction, double *lon, double *lat)
{
	double		phi = from->lat * PI / 180;
	double		d = metres / FLEET_GEO_MEAN_RADIUS;
	double		sine = sin(phi) * cos(d) + cos(phi) * sin(d) * cos(direction);
	double		turn = atan2(sin(direction) * sin(d) * cos(phi), cos(d) - sin(phi) * sine);

	*lat = asin(fmin(fmax(sine, -1), 1)) * 180 / PI;
	*lon = remainder(from->lon + turn * 180 / PI, 360);
}

static Circle
random_circle(int i)
{
	static const Circle special[] = {
		{180, 0, 0}, {-180, 0, 0}, {180, 85.05112878, 0}, {-180, -85.05112878, 0}, {0, 90, 0}, {77, -90, 0},
		{179.99999, 60, 0}, {-179.99999, -60, 0}, {0, 0, 0}, {-45, 85, 0}, {10, 89.9999, 0}
	};
	Circle		c = {random_between(-180, 180), asin(random_between(-1, 1)) * 180 / PI, 0};

	if (i % 3 == 0)
		c = special[(i / 3) % LENGTH(special)];
	c.radius = exp(random_between(log(0.01), log(2.5e7)));
	return c;
}

static void
test_cover_misses_nothing(void)
{
	int			broken = 0;
	int			tried = 0;
	Circle		c = {0, 0, 0};
	uint64_t	key = 0;

	for (int i = 0; i < 1500 && !broken; i++)
	{
		/* Cells about as large as the circle, or some levels smaller. */
		int			level;
		int			n;

		c = random_circle(i);
		level = (int) fmin(fmax(log2(4e7 / c.radius) + (double) random_below(6) - 1, 0), MAX_LEVEL);
		n = cover(&c, level);
		if (n == -FLEET_GEO_QUADKEY_TOO_MANY)
			continue;			/* near a pole, where cells are small */
		broken = n <= 0 || !is_covered(cell_of(c.lon, c.lat, level), n);
		for (int j = 1; j < n; j++)
			broken = broken || covered[j - 1] >= covered[j] || fleet_geo_quadkey_level(covered[j]) != level;
		for (int j = 0; j < 60 && !broken; j++)
		{
			double		lon;
			double		lat;

			/* Half of them on the very rim. */
			go(&c, fmin(c.radius, PI * FLEET_GEO_MEAN_RADIUS) * (j % 2 ? 1 : sqrt(random_between(0, 1))), random_between(0, 2 * PI), &lon, &lat);
			key = cell_of(lon, lat, level);
			broken = !is_covered(key, n);
		}
		tried++;
	}
	ok(!broken, "no cell of a place within the radius is missing: %.10g %.10g %.10g %s", c.lon, c.lat, c.radius, name_of(key));
	ok(tried > 1200, "%d circles were tried", tried);
}

/* The least distance from a place to so many places on the rim of a cell. */
static double
distance_to_rim(const Circle *c, uint64_t key)
{
	FleetGeoBox box;
	double		least = INFINITY;

	fleet_geo_quadkey_reach(key, &box);
	for (int i = 0; i <= 400; i++)
	{
		double		lon = box.west + (box.east - box.west) * i / 400;
		double		lat = box.south + (box.north - box.south) * i / 400;

		least = fmin(least, fleet_geo_haversine(c->lon, c->lat, lon, box.south));
		least = fmin(least, fleet_geo_haversine(c->lon, c->lat, lon, box.north));
		least = fmin(least, fleet_geo_haversine(c->lon, c->lat, box.west, lat));
		least = fmin(least, fleet_geo_haversine(c->lon, c->lat, box.east, lat));
	}
	return least;
}

/* By looking at all cells of level 4: those in a cover are near, the others far. */
static void
test_cover_has_no_more(void)
{
	int			broken = 0;
	Circle		c = {0, 0, 0};
	uint64_t	key = 0;

	for (int i = 0; i < 40 && !broken; i++)
	{
		int			n;

		c = random_circle(i);
		c.radius = random_between(1000, 1.5e7);
		n = cover(&c, 4);
		for (uint32_t tile = 0; tile < 256 && !broken; tile++)
		{
			double		apart;
			int			inside;

			fleet_geo_quadkey_of_tile(tile / 16, tile % 16, 4, &key);
			apart = distance_to_rim(&c, key);
			inside = key == cell_of(c.lon, c.lat, 4);
			/* Places on the rim are 8 km from each other at the most. */
			broken = is_covered(key, n) ? !inside && apart > c.radius * 1.0057 + 0.001 + 8000 : inside || apart <= c.radius * 1.0057;
		}
	}
	ok(!broken, "a cell is in a cover just when it is near enough: %.10g %.10g %.10g %s", c.lon, c.lat, c.radius, name_of(key));
}

static void
test_cover_limits(void)
{
	static const Circle null_island = {0, 0, 0};
	static const Circle everything = {12, 34, INFINITY};
	static const Circle far = {12, 34, 2.1e7};
	static const Circle pole = {0, 90, 0};
	static const Circle wrong[] = {{0, 0, NAN}, {0, 0, -1}, {0, 0, -INFINITY}};

	is_int(cover(&null_island, 10), 4, "a circle without extent at a corner touches four cells");
	is_int(cover(&null_island, MAX_LEVEL), 4, "of the deepest level, too");
	is_int(cover(&null_island, 0), 1, "the world is one cell");
	is_int(cover(&everything, 8), COVER_MAX, "an infinite circle has all cells of level 8");
	is_int(cover(&everything, 9), -FLEET_GEO_QUADKEY_TOO_MANY, "those of level 9 are too many");
	is_int(cover(&far, 7), 128 * 128, "as has one that is larger than the world");
	is_int(cover(&pole, 10), 1024, "a pole is in all cells of the first row");
	is_int(cover(&pole, 16), 65536, "up to level 16");
	is_int(cover(&pole, 17), -FLEET_GEO_QUADKEY_TOO_MANY, "which are too many at level 17");
	is_int(cover(&null_island, 30), -FLEET_GEO_QUADKEY_BAD_LEVEL, "level 30 is refused");
	is_int(cover(&null_island, -1), -FLEET_GEO_QUADKEY_BAD_LEVEL, "as is level -1");
	is_int(cover(&(Circle) {181, 0, 5}, 3), -FLEET_GEO_QUADKEY_BAD_PLACE, "and what is no place");
	for (int i = 0; i < LENGTH(wrong); i++)
		is_int(cover(&wrong[i], 5), -FLEET_GEO_QUADKEY_BAD_RADIUS, "and what is no radius");
}

int
main(void)
{
	test_text();
	test_valid();
	test_tiles();
	test_places();
	test_bounds();
	test_order();
	test_neighbours();
	test_cover_misses_nothing();
	test_cover_has_no_more();
	test_cover_limits();
	return done();
}
