/*-------------------------------------------------------------------------
 *
 * seeds.c
 *	  Write the inputs from which fuzzing begins: seeds DIR makes DIR/TARGET/n.
 *
 * Valid inputs of each target, so that it does not have to find out first what
 * a polygon is.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/seeds.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <sys/stat.h>

#include "wkbmaker.h"

static const char *const stamps[] = {
	"1970-01-01T00:00:00.000Z/00000", "2026-11-21T08:03:22.123Z/00005",
	"6429-10-17T02:45:55.327Z/65535", "10889-08-02T05:31:50.655Z/65535",
	"2000-02-29T23:59:59.999Z/65536", "1969-12-31T23:59:59.999Z/00000", NULL
};

static const char *const gids[] = {
	"fleet:san_francisco:1.532efa58:1873:035802fd1a2d69c2",
	"fleet:n:i:0:0123456789abcdef:0", "fleet:n:i:18446744073709551615:0123456789abcdef:9999",
	"fleet:n:i:01:0123456789abcdef", NULL
};

static const char *const labels[] = {
	"PENDING", "EN_ROUTE", "ARRIVED", "IN_PROGRESS", "COMPLETED", "CANCELLED", NULL
};

static const char *const cells[] = {
	"", "213", "0123012301230123012301230", "01230123012301230123012301230", "012301230123012301230123012301", "4", NULL
};

static const char *folder;

static void
write_seed(const char *target, int number, const void *data, size_t len)
{
	char		path[4096];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", folder, target);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/%d", folder, target, number);
	file = fopen(path, "wb");
	if (file == NULL || fwrite(data, 1, len, file) != len || fclose(file) != 0)
	{
		perror(path);
		exit(1);
	}
}

static void
write_texts(const char *target, const char *const *texts)
{
	for (int i = 0; texts[i] != NULL; i++)
		write_seed(target, i, texts[i], strlen(texts[i]));
}

/* A rule and a fix that crosses by it, see rules_fuzz.c. */
static void
write_crossing(void)
{
	static const double numbers[] = {50, 30, 70, 0.9, 0.5, 10, 1.001, 0.5, 111, 12};
	Wkb			w = {NULL, 0, 0, false};

	wkb_bytes(&w, 7, 1);
	for (int i = 0; i < 10; i++)
		wkb_number(&w, numbers[i]);
	write_seed("rules", 100, w.data, w.len);
	free(w.data);
}

/* One polygon with a hole; kind chooses among the forms of WKB. */
static void
add_polygon(Wkb *w, int kind, double x)
{
	bool		is_multi = kind & 1;
	uint32_t	flags = (kind & 2 ? WKB_SRID : 0);

	w->big_endian = (kind & 4) != 0;
	if (is_multi)
	{
		wkb_head(w, WKB_MULTIPOLYGON | flags, 4326);
		wkb_count(w, 1);
		flags = 0;
	}
	wkb_head(w, WKB_POLYGON | flags, 4326);
	wkb_count(w, 2);
	wkb_box_ring(w, x, 0, x + 1, 1);
	wkb_box_ring(w, x + 0.25, 0.25, x + 0.75, 0.75);
}

/* Regions side by side, then points in and around them, see geofence_fuzz.c. */
static void
write_geofence(int kind)
{
	static const double points[] = {0.1, 0.1, 0.5, 0.5, 1, 1, 1.0001, 0.5, 2, 2, 180, 90, -179.9, -89.9};
	int			nregions = 1 + kind % 3;
	Wkb			all = {NULL, 0, 0, false};

	wkb_bytes(&all, (uint64_t) nregions, 1);
	for (int i = 0; i < nregions; i++)
	{
		Wkb			w = {NULL, 0, 0, false};

		add_polygon(&w, kind, i == 2 ? 179 : i);
		wkb_bytes(&all, w.len, 2);
		for (size_t b = 0; b < w.len; b++)
			wkb_bytes(&all, w.data[b], 1);
		free(w.data);
	}
	for (int i = 0; i < 14; i++)
		wkb_number(&all, points[i]);
	write_seed("geofence", kind, all.data, all.len);
	free(all.data);
}

int
main(int argc, char **argv)
{
	if (argc != 2)
		return 1;
	folder = argv[1];
	write_texts("hlc", stamps);
	write_texts("gid", gids);
	write_texts("rules", labels);
	write_texts("quadkey", cells);
	write_crossing();
	for (int kind = 0; kind < 8; kind++)
		write_geofence(kind);
	return 0;
}
