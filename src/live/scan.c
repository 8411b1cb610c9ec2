/*-------------------------------------------------------------------------
 *
 * scan.c
 *	  The nearest vehicles of a place, by the table.
 *
 * What the live index cannot answer: with the caller's own rights, in the caller's own snapshot,
 * and with what its transaction has changed.  The table of a region has no index on the location (each fix would have to write
 * it anew), so all of it is read; that of a replica has one, for which the place is searched in
 * circles that grow until there are enough.  Distances and order are made by the same code as
 * in search.c, so that the answers are the same.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/plan.h"
#include "geo/haversine.h"
#include "live/hits.h"
#include "live/live.h"

#define FIRST_CIRCLE_M	500.0
#define CIRCLE_GROWTH	4.0

/* The index measures on the spheroid, which differs from the sphere by less than 0.6 %. */
#define SPHEROID_SLACK	1.01

enum
{
	COLUMN_ID = 1, COLUMN_REGION, COLUMN_STATUS, COLUMN_LOCATION, COLUMN_HEADING, COLUMN_FIX_AT, COLUMN_EPOCH
};

#define NEAR_SQL "SELECT v.vehicle_id, v.region, v.status, v.location, v.heading, v.fix_at, v.epoch" \
	" FROM fleet.vehicles AS v WHERE fleet.is_within(v.location, $1, $2)"

static FleetPlan near_plan = {
	NEAR_SQL " AND v.region OPERATOR(pg_catalog.=) '%s'", 2, {TEXTOID, FLOAT8OID}
};

/* On a replica, which has the vehicles of all regions. */
static FleetPlan replica_plan = {NEAR_SQL, 2, {TEXTOID, FLOAT8OID}};

static Datum
column(int row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

/* A row's vehicle; false where it is not searched for.  Its id stays where it is. */
static bool
read_vehicle(const FleetLiveSearch *search, int row, FleetLiveVehicle *v)
{
	bool		isnull;
	text	   *id = DatumGetTextPP(column(row, COLUMN_ID, &isnull));

	v->id = VARDATA_ANY(id);
	v->id_size = VARSIZE_ANY_EXHDR(id);
	v->region = NULL;
	v->status = DatumGetObjectId(column(row, COLUMN_STATUS, &isnull));
	v->heading = DatumGetFloat8(column(row, COLUMN_HEADING, &isnull));
	v->has_heading = !isnull;
	v->fix_at = DatumGetTimestampTz(column(row, COLUMN_FIX_AT, &isnull));
	v->has_fix = !isnull;
	v->epoch = DatumGetInt64(column(row, COLUMN_EPOCH, &isnull));
	if (v->has_fix && v->fix_at < search->silent)
		v->status = search->offline;
	if (OidIsValid(search->status) ? v->status != search->status : v->status == search->offline)
		return false;
	if (!fleet_live_place(column(row, COLUMN_LOCATION, &isnull), &v->lon, &v->lat))
		return false;
	v->distance = fleet_geo_haversine(search->lon, search->lat, v->lon, v->lat);
	return true;
}

/* The nearest of the rows in SPI_tuptable that are within the circle. */
static void
pick(const FleetLiveSearch *search, double circle, int nrow, FleetLiveHits *hits)
{
	hits->n = 0;
	for (int i = 0; i < nrow; i++)
	{
		FleetLiveVehicle v;
		FleetLiveVehicle *kept;

		CHECK_FOR_INTERRUPTS();
		if (!read_vehicle(search, i, &v) || v.distance > fleet_live_hits_reach(hits, circle))
			continue;
		kept = palloc(sizeof(FleetLiveVehicle));
		*kept = v;
		kept->region = fleet_base_plan_text(i, COLUMN_REGION);
		fleet_live_hits_offer(hits, (FleetLiveHit) {v.distance, kept->id, kept->id_size, kept});
	}
	fleet_live_hits_sort(hits);
}

static void
copy_found(const FleetLiveHits *hits, MemoryContext context, FleetLiveFound *found)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	found->n = hits->n;
	found->vehicles = palloc(sizeof(FleetLiveVehicle) * Max(hits->n, 1));
	for (int i = 0; i < hits->n; i++)
	{
		found->vehicles[i] = *(const FleetLiveVehicle *) hits->hits[i].of;
		found->vehicles[i].id = pnstrdup(found->vehicles[i].id, found->vehicles[i].id_size);
		found->vehicles[i].region = pstrdup(found->vehicles[i].region);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Search among the vehicles of this node's region that the current user may see; where
 * own is NULL, which a replica's is, among those of all regions.
 */
void
fleet_live_search_table(const FleetLiveSearch *search, const char *own, FleetLiveFound *found)
{
	MemoryContext context = CurrentMemoryContext;
	FleetLiveHits hits = {.max = search->max};
	Datum		values[2];

	SPI_connect();
	hits.hits = palloc(sizeof(FleetLiveHit) * Max(search->max, 1));
	values[0] = CStringGetTextDatum(psprintf("SRID=4326;POINT(%.17g %.17g)", search->lon, search->lat));
	for (double circle = own != NULL ? search->radius : Min(FIRST_CIRCLE_M, search->radius);;
		 circle = Min(circle * CIRCLE_GROWTH, search->radius))
	{
		int			n;

		values[1] = Float8GetDatum(circle * SPHEROID_SLACK + 1.0);
		n = fleet_base_plan_execute(own != NULL ? &near_plan : &replica_plan, own, values, NULL);
		pick(search, circle, n, &hits);
		if (hits.n == search->max || circle >= search->radius)
			break;
		SPI_freetuptable(SPI_tuptable);
	}
	copy_found(&hits, context, found);
	SPI_finish();
}
