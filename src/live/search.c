/*-------------------------------------------------------------------------
 *
 * search.c
 *	  The nearest vehicles of a place, by the live index.
 *
 * Cells are visited in rings around that of the place, of each ring the sides that are
 * near enough to count: within the radius, and not farther than all that were found
 * if there are enough.  Where no side is, nothing further out is.  After MAX_RINGS of them, which is much more than a
 * city, or next to a pole, all entries are gone through instead.
 *
 * How far an entry is, is first looked at as the chord between two points of the
 * unit sphere, three multiplications; only what may get in is measured by
 * the haversine formula, whose result counts.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/search.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "geo/haversine.h"
#include "live/hits.h"
#include "live/live.h"
#include "live/record.h"
#include "live/shared.h"

#define MAX_RINGS 100

/* More than rounding moves a chord by, as a part of the earth's radius: 64 nm. */
#define CHORD_SLACK 1e-14

typedef struct Walk
{
	const FleetLiveSearch *search;
	FleetLiveHits hits;
	int			table;
	double		at[3];			/* the place, on the unit sphere */
	double		chord2;			/* the square of the longest chord that counts */
} Walk;

/* With silence taken into account. */
static Oid
status_of(const FleetLiveSearch *search, const FleetLiveRecord *record)
{
	bool		is_silent = record->has_fix && record->fix_at < search->silent;

	return is_silent ? search->offline : record->status;
}

static bool
is_wanted(const FleetLiveSearch *search, const FleetLiveRecord *record)
{
	Oid			status = status_of(search, record);

	return OidIsValid(search->status) ? status == search->status : status != search->offline;
}

static void
set_reach(Walk *w)
{
	double		reach = fleet_live_hits_reach(&w->hits, w->search->radius);
	double		half = Min(reach / (2.0 * FLEET_GEO_MEAN_RADIUS), M_PI / 2.0);
	double		chord = 2.0 * sin(half) + CHORD_SLACK;

	w->chord2 = chord * chord;
}

static void
look_at(Walk *w, const FleetLiveEntry *e)
{
	double		dx = e->at[0] - w->at[0];
	double		dy = e->at[1] - w->at[1];
	double		dz = e->at[2] - w->at[2];
	FleetLiveHit hit = {.id = e->record.id,.id_size = e->record.id_size,.of = &e->record};

	if (dx * dx + dy * dy + dz * dz > w->chord2 || !is_wanted(w->search, &e->record))
		return;
	hit.distance = fleet_geo_haversine(w->search->lon, w->search->lat, e->record.lon, e->record.lat);
	if (hit.distance > w->search->radius)
		return;
	fleet_live_hits_offer(&w->hits, hit);
	set_reach(w);
}

static void
look_into_cell(Walk *w, int x, int y)
{
	uint64		cell;

	if (y < 0 || y >= FLEET_LIVE_ROWS)
		return;
	x &= FLEET_LIVE_COLUMNS - 1;
	if (*fleet_live_counter(w->table, x, y) == 0)
		return;
	cell = fleet_live_cell(w->table, x, y);
	for (uint32 i = *fleet_live_cell_head(cell); i != FLEET_LIVE_NONE;)
	{
		const FleetLiveEntry *e = &fleet_live_entries[i];

		if (e->cell == cell)
			look_at(w, e);
		i = e->cell_next;
	}
}

/* How far the four sides of a ring are away: what lies on them, or beyond. */
typedef struct Sides
{
	double		west;
	double		east;
	double		south;
	double		north;
} Sides;

/* Metres to a meridian that is so many degrees away. */
static double
to_meridian(const FleetLiveSearch *s, double degrees)
{
	return asin(cos(s->lat * (M_PI / 180.0)) * sin(degrees * (M_PI / 180.0))) * FLEET_GEO_MEAN_RADIUS - 1e-3;
}

static double
to_parallel(double degrees)
{
	return degrees * (M_PI / 180.0) * FLEET_GEO_MEAN_RADIUS - 1e-3;
}

/* A little less than they are, for what is rounded. */
static Sides
sides_of(const FleetLiveSearch *s, int x, int y, int ring)
{
	double		width = 360.0 / FLEET_LIVE_COLUMNS;
	double		height = 180.0 / FLEET_LIVE_ROWS;
	Sides		sides;

	sides.west = to_meridian(s, s->lon + 180.0 - (x - ring + 1) * width);
	sides.east = to_meridian(s, (x + ring) * width - 180.0 - s->lon);
	sides.south = to_parallel(s->lat + 90.0 - (y - ring + 1) * height);
	sides.north = to_parallel((y + ring) * height - 90.0 - s->lat);
	return sides;
}

/* Look at those sides of a ring that are near enough; false where none is. */
static bool
look_at_ring(Walk *w, int x, int y, int ring)
{
	Sides		sides = sides_of(w->search, x, y, ring);
	double		reach = fleet_live_hits_reach(&w->hits, w->search->radius);
	int			west = sides.west <= reach ? -ring : 1 - ring;
	int			east = sides.east <= reach ? ring : ring - 1;

	for (int i = west; i <= east && sides.south <= reach; i++)
		look_into_cell(w, x + i, y - ring);
	for (int i = west; i <= east && sides.north <= reach; i++)
		look_into_cell(w, x + i, y + ring);
	for (int i = 1 - ring; i < ring && sides.west <= reach; i++)
		look_into_cell(w, x - ring, y + i);
	for (int i = 1 - ring; i < ring && sides.east <= reach; i++)
		look_into_cell(w, x + ring, y + i);
	return Min(Min(sides.west, sides.east), Min(sides.south, sides.north)) <= reach;
}

static void
walk(Walk *w)
{
	int			x = fleet_live_column(w->search->lon);
	int			y = fleet_live_row(w->search->lat);

	look_into_cell(w, x, y);
	for (int ring = 1; ring <= MAX_RINGS; ring++)
		if (!look_at_ring(w, x, y, ring))
			return;
	/* What was seen is seen again. */
	w->hits.n = 0;
	set_reach(w);
	for (uint32 i = 0; i < fleet_live_shared->nused; i++)
		if (fleet_live_entries[i].is_placed && fleet_live_entries[i].table == w->table)
			look_at(w, &fleet_live_entries[i]);
}

/* Copy what was found, while it cannot change. */
static void
copy_found(const Walk *w, FleetLiveFound *found, char *ids)
{
	found->n = w->hits.n;
	for (int i = 0; i < w->hits.n; i++)
	{
		const FleetLiveRecord *r = w->hits.hits[i].of;
		FleetLiveVehicle *v = &found->vehicles[i];

		v->distance = w->hits.hits[i].distance;
		v->id = ids + (Size) i * FLEET_LIVE_ID_MAX;
		v->id_size = r->id_size;
		memcpy(v->id, r->id, r->id_size);
		v->region = NULL;
		v->epoch = r->epoch;
		v->status = status_of(w->search, r);
		v->lon = r->lon;
		v->lat = r->lat;
		v->has_heading = r->has_heading;
		v->heading = r->heading;
		v->has_fix = r->has_fix;
		v->fix_at = r->fix_at;
	}
}

static bool
search_once(const FleetLiveSearch *search, Oid relid, FleetLiveFound *found)
{
	double		lambda = search->lon * (M_PI / 180.0);
	double		phi = search->lat * (M_PI / 180.0);
	Walk		w = {.search = search,.at = {cos(phi) * cos(lambda), cos(phi) * sin(lambda), sin(phi)}};
	char	   *ids = palloc((Size) Max(search->max, 1) * FLEET_LIVE_ID_MAX);
	bool		is_ready;

	w.hits.max = search->max;
	w.hits.hits = palloc(sizeof(FleetLiveHit) * Max(search->max, 1));
	found->vehicles = palloc(sizeof(FleetLiveVehicle) * Max(search->max, 1));
	set_reach(&w);

	LWLockAcquire(&fleet_live_shared->lock, LW_SHARED);
	w.table = fleet_live_find_table(MyDatabaseId, relid);
	is_ready = w.table >= 0 && fleet_live_shared->tables[w.table].state == FLEET_LIVE_READY;
	if (is_ready)
	{
		pg_atomic_fetch_add_u64(&fleet_live_shared->by_index[w.table], 1);
		walk(&w);
		fleet_live_hits_sort(&w.hits);
		copy_found(&w, found, ids);
	}
	LWLockRelease(&fleet_live_shared->lock);
	pfree(w.hits.hits);
	return is_ready;
}

/*
 * Search among all vehicles of a table as they are committed now.  False where the
 * index cannot tell, and the table has to.
 */
bool
fleet_live_search_index(const FleetLiveSearch *search, Oid relid, FleetLiveFound *found)
{
	if (!fleet_live_is_on())
		return false;
	fleet_live_settle_prepared();
	if (search_once(search, relid, found))
		return true;
	fleet_live_build(relid);
	return search_once(search, relid, found);
}
