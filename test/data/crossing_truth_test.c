/* cores: src/geo/geofence.c src/geo/geofence_build.c src/geo/geofence_frame.c src/geo/geofence_grid.c src/geo/geofence_near.c src/geo/haversine.c src/geo/orient.c src/geo/wkb.c src/track/crossing.c */
/*-------------------------------------------------------------------------
 *
 * crossing_truth_test.c
 *	  The crossing rule finds in real traces what plain PostGIS found.
 *
 * The data come with two truths that were computed apart from this project:
 * each crossing without any rule (crossings.csv.gz), and how many hand-offs
 * each of a number of rules leaves (hysteresis.csv).  The pure cores are run
 * over all fixes and must give the same, row by row and number by number.
 *
 * Not every rule of that file can be said with our settings: "nfix" counts
 * fixes, "dist+dwell" wants both, and "none" takes "in no region" for a region.
 *
 * Three details had to be found by trying, because they are written nowhere:
 * - A stay in another region begins anew when the other region changes.  (When
 *	 any other region will do, dwell60 gives 17,135 instead of 17,134.)
 * - After five fixes in a row were ignored for their speed, the next one is
 *	 taken.  That counter is here, not in the rule: the rule has the time since
 *	 the last fix, which frees a vehicle as well (17,510 instead of 17,520).
 * - Its metres are longer than ours by 0.037 %, as those of UTM zone 10 are
 *	 there.  It matters to two fixes at dist500 (17,517 with our metres).
 *
 * From the environment: TRACES, the folder of the data; skips without them.
 *
 * Copyright (c) 2026, the fleet authors
 * test/data/crossing_truth_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>

#include "geojson.h"
#include "tap.h"
#include "track/crossing.h"

#define MAX_FIXES		2500000
#define MAX_CROSSINGS	50000
#define NAME_SIZE		16
#define IGNORED_IN_ROW	5		/* the truth takes the fix after these */
#define TRUTH_METRE		1.00037 /* in ours */

typedef struct Fix
{
	char		cab[NAME_SIZE];
	long		at;
	double		lon;
	double		lat;
	int			region;
	bool		first;			/* of its cab */
} Fix;

typedef struct Crossing
{
	char		cab[NAME_SIZE];
	long		at;
	char		from[NAME_SIZE];
	char		to[NAME_SIZE];
} Crossing;

typedef struct Outcome
{
	long		handoffs;
	long		ignored;
} Outcome;

static Geojson map;
static Fix *fixes;
static int	nfixes = 0;
static Crossing *expected;
static int	nexpected = 0;
static Crossing *found;

/* A file of the data, unpacked if need be. */
static FILE *
open_data(const char *folder, const char *name)
{
	char		command[4096];
	size_t		len = strlen(name);
	bool		packed = len > 3 && strcmp(name + len - 3, ".gz") == 0;

	snprintf(command, sizeof(command), "%s '%s/%s'", packed ? "gzip -dc" : "cat", folder, name);
	return popen(command, "r");
}

static void
read_fixes(const char *folder)
{
	FILE	   *file = open_data(folder, "fixes.csv.gz");
	char		line[256];

	while (file != NULL && nfixes < MAX_FIXES && fgets(line, sizeof(line), file))
	{
		Fix		   *fix = &fixes[nfixes];

		if (sscanf(line, "%15[^,],%ld,%lf,%lf,", fix->cab, &fix->at, &fix->lat, &fix->lon) != 4)
			continue;
		fix->region = fleet_geo_geofence_locate(map.fence, fix->lon, fix->lat);
		fix->first = nfixes == 0 || strcmp(fix->cab, fixes[nfixes - 1].cab) != 0;
		nfixes++;
	}
	if (file != NULL)
		pclose(file);
}

/* Copy one field of a line of CSV; returns what is behind it. */
static const char *
take_field(const char *s, char *field)
{
	size_t		len = strcspn(s, ",\n");

	snprintf(field, NAME_SIZE, "%.*s", (int) len, s);
	if (strcmp(field, "\"\"") == 0)
		field[0] = '\0';
	return s[len] == ',' ? s + len + 1 : s + len;
}

/*
 * The truth counts "in no region" as a region; fleet keeps the last one there.
 * So crossings to none do not count, and one from none counts only if it ends
 * in another region than the last.
 */
static void
read_crossings(const char *folder)
{
	FILE	   *file = open_data(folder, "crossings.csv.gz");
	char		line[256];
	char		last[NAME_SIZE] = "";
	char		cab[NAME_SIZE] = "";

	while (file != NULL && nexpected < MAX_CROSSINGS && fgets(line, sizeof(line), file))
	{
		Crossing   *c = &expected[nexpected];
		char		number[NAME_SIZE];
		char		from[NAME_SIZE];
		const char *s = take_field(line, c->cab);

		s = take_field(s, number);
		if (strspn(number, "0123456789") == 0)
			continue;
		s = take_field(s, number);
		c->at = atol(number);
		s = take_field(s, from);
		take_field(s, c->to);
		if (strcmp(cab, c->cab) != 0)
			last[0] = '\0';
		strcpy(cab, c->cab);
		if (from[0] != '\0')
			strcpy(last, from);
		strcpy(c->from, last);
		if (c->to[0] == '\0')
			continue;
		strcpy(last, c->to);
		if (c->from[0] != '\0' && strcmp(c->from, c->to) != 0)
			nexpected++;
	}
	if (file != NULL)
		pclose(file);
}

/* Run one rule over everything; found[] gets the crossings. */
static Outcome
run_rule(const FleetCrossingRule *rule)
{
	Outcome		out = {0, 0};
	const Fix  *last = NULL;	/* that was not ignored */
	int			current = -1;
	int			outside = -1;
	long		outside_since = 0;
	int			ignored = 0;
	int			i;

	for (i = 0; i < nfixes; i++)
	{
		const Fix  *fix = &fixes[i];
		FleetCrossingFix sight;
		FleetCrossing verdict;

		if (fix->first)
		{
			last = NULL;
			current = outside = -1;
			ignored = 0;
		}
		memset(&sight, 0, sizeof(sight));
		sight.lon = fix->lon;
		sight.lat = fix->lat;
		if (last != NULL && ignored < IGNORED_IN_ROW)
		{
			sight.has_last = true;
			sight.last_lon = last->lon;
			sight.last_lat = last->lat;
			sight.elapsed_s = (double) (fix->at - last->at);
		}
		sight.is_outside = current >= 0 && fix->region >= 0 && fix->region != current;
		sight.was_outside = sight.is_outside && outside == fix->region;
		if (sight.was_outside)
			sight.outside_s = (double) (fix->at - outside_since);
		if (sight.is_outside && rule->distance_m > 0)
			sight.past_m = fleet_geo_geofence_distance(map.fence, current, fix->lon, fix->lat,
													   rule->distance_m);

		verdict = fleet_track_crossing_decide(rule, &sight);
		if (verdict == FLEET_CROSSING_IMPLAUSIBLE)
		{
			out.ignored++;
			ignored++;
			continue;
		}
		last = fix;
		ignored = 0;
		if (fix->region < 0)
			continue;
		if (verdict == FLEET_CROSSING_OUTSIDE && !sight.was_outside)
			outside_since = fix->at;
		outside = verdict == FLEET_CROSSING_OUTSIDE ? fix->region : -1;
		if (verdict == FLEET_CROSSING_CROSS)
		{
			if (out.handoffs < MAX_CROSSINGS)
			{
				Crossing   *c = &found[out.handoffs];

				strcpy(c->cab, fix->cab);
				c->at = fix->at;
				snprintf(c->from, NAME_SIZE, "%.15s", map.names[current]);
				snprintf(c->to, NAME_SIZE, "%.15s", map.names[fix->region]);
			}
			out.handoffs++;
		}
		if (current < 0 || verdict == FLEET_CROSSING_CROSS)
			current = fix->region;
	}
	return out;
}

static void
test_rows(void)
{
	FleetCrossingRule none = {0.0, 0.0, 0.0};
	Outcome		out = run_rule(&none);
	int			same = 0;

	is_int(out.handoffs, nexpected, "without a rule: as many crossings as the truth has");
	while (same < nexpected && same < out.handoffs &&
		   strcmp(expected[same].cab, found[same].cab) == 0 &&
		   expected[same].at == found[same].at &&
		   strcmp(expected[same].from, found[same].from) == 0 &&
		   strcmp(expected[same].to, found[same].to) == 0)
		same++;
	is_int(same, nexpected, "without a rule: each crossing has the cab, time and regions of the truth");
}

/* Read a rule's name; false when our settings cannot say it. */
static bool
parse_rule(const char *name, FleetCrossingRule *rule)
{
	bool		either = strstr(name, "_or_") != NULL;
	const char *dist = strstr(name, "dist");
	const char *dwell = strstr(name, "dwell");

	rule->distance_m = dist ? atof(dist + 4) * TRUTH_METRE : -1.0;
	rule->dwell_s = dwell ? atof(dwell + 5) : -1.0;
	rule->max_speed_mps = name[0] == 'v' ? atof(name + 1) : 0.0;
	if (strstr(name, "nfix") || strcmp(name, "none") == 0 || (dist && dwell && !either))
		return false;
	return dist || dwell || name[0] == 'v' || strcmp(name, "skip_none") == 0;
}

static void
test_rules(const char *folder)
{
	FILE	   *file = open_data(folder, "hysteresis.csv");
	char		line[512];

	while (file != NULL && fgets(line, sizeof(line), file))
	{
		FleetCrossingRule rule;
		char		name[64];
		char		text[128];
		long		handoffs;
		Outcome		out;

		if (sscanf(line, "%63[^,],%ld", name, &handoffs) != 2 || !parse_rule(name, &rule))
			continue;
		out = run_rule(&rule);
		snprintf(text, sizeof(text), "rule %s leaves the hand-offs of the truth", name);
		is_int(out.handoffs, handoffs, text);
		if (rule.max_speed_mps > 0)
			printf("# %ld fixes ignored\n", out.ignored);
	}
	if (file != NULL)
		pclose(file);
}

int
main(void)
{
	const char *folder = getenv("TRACES");
	char		path[4096];
	char		truth[4096];
	FILE	   *probe;

	if (folder == NULL)
		folder = "../shared/data";
	snprintf(path, sizeof(path), "%s/regions.geojson", folder);
	snprintf(truth, sizeof(truth), "%s/truth", folder);
	probe = fopen(path, "r");
	if (probe == NULL)
	{
		printf("1..0 # SKIP no real traces (set TRACES to their folder)\n");
		return 0;
	}
	fclose(probe);

	map = geojson_load(path);
	fixes = calloc(MAX_FIXES, sizeof(Fix));
	expected = calloc(MAX_CROSSINGS, sizeof(Crossing));
	found = calloc(MAX_CROSSINGS, sizeof(Crossing));
	if (fixes == NULL || expected == NULL || found == NULL)
		geojson_die("out of memory");
	read_fixes(folder);
	read_crossings(truth);
	ok(nfixes > 0, "%d fixes are read", nfixes);
	ok(nexpected > 0, "%d crossings are expected", nexpected);
	test_rows();
	test_rules(truth);

	free(fixes);
	free(expected);
	free(found);
	free(map.names);
	fleet_geo_geofence_free(map.fence);
	return done();
}
