/*-------------------------------------------------------------------------
 *
 * depart.c
 *	  The source's half of a handoff.
 *
 * In two steps, so that the coordinator can send the rows to their target
 * before this node has written anything: lock and check what leaves, then
 * delete the live rows, keep their departures, and log.
 *
 * A ride travels with its vehicle, and a vehicle with its open ride (there is
 * one at most, see the unique index on vehicle_id).  Locks are taken on
 * vehicles first, then on rides, each in the order of their ids, so two handoffs
 * on one node never wait for each other in a circle.  Whoever gives a ride a
 * vehicle locks that vehicle first (guard.c), so after the vehicle is locked
 * its open ride stays what it is.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/depart.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "handoff/move.h"
#include "handoff/state.h"
#include "wire/image.h"

/* A row that leaves. */
typedef struct Leaver
{
	char	   *key;
	char	   *vehicle;		/* of a ride, or NULL */
	HeapTuple	tuple;			/* as it was locked */
	int64		epoch;			/* on its target */
	Jsonb	   *image;			/* as it will be on its target */
} Leaver;

/* The rides, or the vehicles, that leave. */
typedef struct Leavers
{
	const char *kind;
	FleetOpenTable open;
	int			n;
	Leaver	   *rows;
} Leavers;

struct FleetDeparture
{
	const FleetRegion *own;
	const FleetLeaving *leaving;
	Leavers		vehicles;
	Leavers		rides;
	FleetIds	missing;		/* of the named, those that are not here */
	uint64		newest;			/* stamp that any of the rows carries */
	uint64		hlc;			/* of the departure */
	int64		epoch;			/* greatest new one of what was named */
	char	   *rows;			/* as they travel */
};

static FleetPlan open_ride_plan = {
	"SELECT ride_id FROM fleet.local_rides WHERE vehicle_id = $1 AND status < 'COMPLETED'",
	1, {TEXTOID}
};

/* ---------- locks ---------- */

static bool
find(Leavers *leavers, Snapshot snapshot, const char *id)
{
	Datum		key = CStringGetTextDatum(id);

	return fleet_base_table_find(&leavers->open, snapshot, 1, &key);
}

/* Lock these, in their order; adds those that are here. */
static void
lock_rows(FleetDeparture *d, Leavers *leavers, const FleetIds *ids)
{
	Snapshot	snapshot = fleet_handoff_snapshot();

	leavers->rows = palloc0(sizeof(Leaver) * Max(ids->n, 1));
	for (int i = 0; i < ids->n; i++)
	{
		Leaver	   *row = &leavers->rows[leavers->n];
		uint64		hlc;

		if (!find(leavers, snapshot, ids->ids[i]) ||
			!fleet_base_table_lock(&leavers->open, snapshot, !IsolationUsesXactSnapshot()))
			continue;
		row->key = ids->ids[i];
		row->epoch = DatumGetInt64(fleet_base_table_get(&leavers->open, "epoch", NULL)) + 1;
		if (leavers == &d->rides)
			row->vehicle = fleet_base_table_get_text(&leavers->open, "vehicle_id");
		hlc = DatumGetFleetClockStamp(fleet_base_table_get(&leavers->open, "hlc", NULL));
		d->newest = Max(d->newest, hlc);
		row->tuple = ExecCopySlotHeapTuple(leavers->open.slot);
		leavers->n++;
	}
	UnregisterSnapshot(snapshot);
}

static void
check_epoch(const FleetLeaving *leaving, const Leaver *row)
{
	if (leaving->expected_epoch == 0 || leaving->expected_epoch == row->epoch - 1)
		return;
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_STALE_EPOCH),
			 errmsg("%s \"%s\" is at epoch " INT64_FORMAT ", not " INT64_FORMAT,
					leaving->vehicles ? "vehicle" : "ride", row->key, row->epoch - 1,
					leaving->expected_epoch),
			 errdetail("It was handed off since the caller read it."),
			 errhint("Read it again.")));
}

static void
check_open(const Leavers *rides, const Leaver *row)
{
	TupleDesc	desc = RelationGetDescr(rides->open.rel);
	int			column = fleet_base_table_column(desc, "status");
	bool		isnull;
	Datum		value = heap_getattr(row->tuple, column + 1, desc, &isnull);
	char	   *status = fleet_base_table_text(&rides->open, column, value);

	if (!fleet_handoff_state_is_open(fleet_handoff_state_parse(status)))
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_RIDE_CLOSED),
				 errmsg("ride \"%s\" is closed", row->key),
				 errdetail("Its status is %s.", status),
				 errhint("A closed ride stays in the region where it ended.")));
}

static int
compare_leavers(const void *a, const void *b)
{
	return strcmp(((const Leaver *) a)->key, ((const Leaver *) b)->key);
}

/*
 * A ride was given another vehicle after we looked for its vehicle: to lock
 * that one now would be against the order of locks.
 */
static void
check_vehicle(FleetDeparture *d, Snapshot snapshot, const Leaver *row)
{
	Leaver		key = {.key = row->vehicle};

	if (row->vehicle == NULL ||
		bsearch(&key, d->vehicles.rows, d->vehicles.n, sizeof(Leaver), compare_leavers) ||
		!find(&d->vehicles, snapshot, row->vehicle))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("ride \"%s\" was given another vehicle meanwhile", row->key),
			 errhint("Try again.")));
}

/* The vehicles of the named rides, whether they are here or not. */
static FleetIds
vehicles_of(FleetDeparture *d)
{
	const FleetIds *ids = &d->leaving->ids;
	Datum	   *vehicles = palloc(sizeof(Datum) * Max(ids->n, 1));
	Snapshot	snapshot = fleet_handoff_snapshot();
	int			n = 0;

	for (int i = 0; i < ids->n; i++)
	{
		char	   *vehicle = find(&d->rides, snapshot, ids->ids[i]) ?
			fleet_base_table_get_text(&d->rides.open, "vehicle_id") : NULL;

		if (vehicle != NULL)
			vehicles[n++] = CStringGetTextDatum(vehicle);
	}
	UnregisterSnapshot(snapshot);
	return fleet_handoff_read_ids(construct_array(vehicles, n, TEXTOID, -1, false, TYPALIGN_INT),
								  "vehicle");
}

/* The open rides of the vehicles, which are locked. */
static FleetIds
rides_of(FleetDeparture *d)
{
	Datum	   *rides = palloc(sizeof(Datum) * Max(d->vehicles.n, 1));
	int			n = 0;
	FleetIds	ids;

	SPI_connect();
	for (int i = 0; i < d->vehicles.n; i++)
	{
		Datum		vehicle = CStringGetTextDatum(d->vehicles.rows[i].key);

		if (fleet_base_plan_execute(&open_ride_plan, NULL, &vehicle, NULL) > 0)
			rides[n++] = SPI_datumTransfer(CStringGetTextDatum(fleet_base_plan_text(0, 1)),
										   false, -1);
	}
	SPI_finish();
	ids = fleet_handoff_read_ids(construct_array(rides, n, TEXTOID, -1, false, TYPALIGN_INT),
								 "ride");
	return ids;
}

/* Of the named, those that were not found. */
static void
note_missing(FleetDeparture *d, const Leavers *found)
{
	const FleetIds *ids = &d->leaving->ids;
	int			next = 0;

	d->missing.ids = palloc(sizeof(char *) * Max(ids->n, 1));
	for (int i = 0; i < ids->n; i++)
	{
		if (next < found->n && strcmp(found->rows[next].key, ids->ids[i]) == 0)
			next++;
		else
			d->missing.ids[d->missing.n++] = ids->ids[i];
	}
}

static void
lock_vehicles_with_rides(FleetDeparture *d)
{
	FleetIds	rides;

	lock_rows(d, &d->vehicles, &d->leaving->ids);
	note_missing(d, &d->vehicles);
	for (int i = 0; i < d->vehicles.n; i++)
		check_epoch(d->leaving, &d->vehicles.rows[i]);
	rides = rides_of(d);
	lock_rows(d, &d->rides, &rides);
}

static void
lock_rides_with_vehicles(FleetDeparture *d)
{
	FleetIds	vehicles = vehicles_of(d);
	Snapshot	snapshot;

	lock_rows(d, &d->vehicles, &vehicles);
	lock_rows(d, &d->rides, &d->leaving->ids);
	note_missing(d, &d->rides);
	snapshot = fleet_handoff_snapshot();
	for (int i = 0; i < d->rides.n; i++)
	{
		check_epoch(d->leaving, &d->rides.rows[i]);
		check_open(&d->rides, &d->rides.rows[i]);
		check_vehicle(d, snapshot, &d->rides.rows[i]);
	}
	UnregisterSnapshot(snapshot);
}

static void
lock_leaving(void *departure)
{
	FleetDeparture *d = departure;

	if (d->leaving->vehicles)
		lock_vehicles_with_rides(d);
	else
		lock_rides_with_vehicles(d);
}

/* ---------- the rows that travel ---------- */

/* The row as it will be on its target. */
static Jsonb *
image_of(const FleetDeparture *d, const Leavers *leavers, const Leaver *row)
{
	TupleDesc	desc = RelationGetDescr(leavers->open.rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(row->tuple, desc, values, isnull);
	values[fleet_base_table_column(desc, "region")] = CStringGetTextDatum(d->leaving->target);
	values[fleet_base_table_column(desc, "epoch")] = Int64GetDatum(row->epoch);
	values[fleet_base_table_column(desc, "hlc")] = FleetClockStampGetDatum(d->hlc);
	if (leavers == &d->vehicles)
	{
		/* Having been outside of one region says nothing about the next. */
		isnull[fleet_base_table_column(desc, "outside_region")] = true;
		isnull[fleet_base_table_column(desc, "outside_since")] = true;
	}
	return fleet_wire_image(desc, leavers->open.kept->columns, values, isnull);
}

static void
append_rows(FleetDeparture *d, Leavers *leavers, StringInfo buf)
{
	for (int i = 0; i < leavers->n; i++)
	{
		Leaver	   *row = &leavers->rows[i];

		row->image = image_of(d, leavers, row);
		appendStringInfo(buf, "%s{\"kind\": \"%s\", \"key\": ", buf->len > 1 ? ", " : "",
						 leavers->kind);
		escape_json(buf, row->key);
		appendStringInfo(buf, ", \"epoch\": " INT64_FORMAT ", \"hlc\": " UINT64_FORMAT
						 ", \"source\": \"%s\", \"target\": \"%s\", \"image\": ",
						 row->epoch, d->hlc, d->own->name, d->leaving->target);
		(void) JsonbToCString(buf, &row->image->root, VARSIZE(row->image));
		appendStringInfoChar(buf, '}');
		if (leavers == (d->leaving->vehicles ? &d->vehicles : &d->rides))
			d->epoch = Max(d->epoch, row->epoch);
	}
}

/* All is here and locked: make the images of it. */
static void
describe(FleetDeparture *d)
{
	StringInfoData buf;

	/* A row may carry a stamp that this clock has not seen (restart). */
	(void) fleet_clock_receive(d->newest);
	d->hlc = fleet_clock_now();
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	append_rows(d, &d->rides, &buf);
	append_rows(d, &d->vehicles, &buf);
	appendStringInfoChar(&buf, ']');
	d->rows = buf.data;
}

/*
 * Lock and check what is to leave.  Refusals are raised.  Where not all of it
 * is here the departure only says so and is over; else nothing is changed
 * before fleet_handoff_departure_write().
 */
FleetDeparture *
fleet_handoff_depart(const FleetRegionMap *map, const FleetLeaving *leaving)
{
	FleetDeparture *d = palloc0(sizeof(FleetDeparture));
	FleetCaller caller;

	if (leaving->ids.n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no ride or vehicle was named")));
	d->own = fleet_handoff_own_region(map);
	d->leaving = leaving;
	d->rides.kind = "ride";
	d->vehicles.kind = "vehicle";
	fleet_base_become_owner(&caller);
	fleet_base_table_open(&fleet_handoff_ride_table, true, &d->rides.open);
	fleet_base_table_open(&fleet_handoff_vehicle_table, true, &d->vehicles.open);
	fleet_handoff_with_lock_timeout(leaving->lock_timeout, d->own->name,
									leaving->vehicles ? "the vehicle or its ride" : "the ride or its vehicle",
									lock_leaving, d);
	FLEET_FAULT("depart-locked");
	if (d->missing.n == 0)
		describe(d);
	else
	{
		fleet_base_table_close(&d->rides.open);
		fleet_base_table_close(&d->vehicles.open);
	}
	fleet_base_become_caller(&caller);
	return d;
}

/* {NULL, key, region, key, region, ...}: where they went; NULL = not known here. */
static Datum
say_missing(const FleetDeparture *d)
{
	int			dims = 1 + 2 * d->missing.n;
	int			lbound = 1;
	Datum	   *elems = palloc0(sizeof(Datum) * dims);
	bool	   *nulls = palloc0(sizeof(bool) * dims);
	Snapshot	snapshot = fleet_handoff_snapshot();
	FleetOpenTable departures;

	fleet_base_table_open(&fleet_handoff_departure_table, false, &departures);
	nulls[0] = true;
	for (int i = 0; i < d->missing.n; i++)
	{
		const char *id = d->missing.ids[i];
		char	   *region = NULL;

		if (fleet_handoff_find_departure(&departures, snapshot,
										 d->leaving->vehicles ? "vehicle" : "ride", id))
			region = fleet_base_table_get_text(&departures, "target");
		elems[1 + 2 * i] = CStringGetTextDatum(id);
		nulls[2 + 2 * i] = region == NULL;
		if (region != NULL)
			elems[2 + 2 * i] = CStringGetTextDatum(region);
	}
	fleet_base_table_close(&departures);
	UnregisterSnapshot(snapshot);
	return PointerGetDatum(construct_md_array(elems, nulls, 1, &dims, &lbound,
											  TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * What the coordinator is told, a text[]: {rows, greatest new epoch, HLC} where
 * all that was named leaves; else {NULL, id, region, id, region, ...} for those
 * that are not here (region is where their departure points, or NULL).
 */
Datum
fleet_handoff_departure_answer(const FleetDeparture *d)
{
	Datum		elems[3];

	if (d->missing.n > 0)
		return say_missing(d);
	elems[0] = CStringGetTextDatum(d->rows);
	elems[1] = CStringGetTextDatum(psprintf(INT64_FORMAT, d->epoch));
	elems[2] = CStringGetTextDatum(psprintf(UINT64_FORMAT, d->hlc));
	return PointerGetDatum(construct_array(elems, 3, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ---------- writing ---------- */

static void
delete_live(Leavers *leavers)
{
	for (int i = 0; i < leavers->n; i++)
	{
		fleet_base_table_take(&leavers->open, leavers->rows[i].tuple);
		fleet_base_table_delete(&leavers->open);
	}
	fleet_base_table_close(&leavers->open);
}

static void
keep_departures(const FleetDeparture *d, const Leavers *leavers)
{
	Snapshot	snapshot = fleet_handoff_snapshot();
	FleetOpenTable departures;

	fleet_base_table_open(&fleet_handoff_departure_table, true, &departures);
	for (int i = 0; i < leavers->n; i++)
	{
		const Leaver *row = &leavers->rows[i];

		fleet_handoff_delete_departure(&departures, snapshot, leavers->kind, row->key);
		fleet_base_table_clear(&departures);
		fleet_base_table_set_text(&departures, "kind", leavers->kind);
		fleet_base_table_set_text(&departures, "key", row->key);
		fleet_base_table_set(&departures, "epoch", Int64GetDatum(row->epoch));
		fleet_base_table_set_text(&departures, "target", d->leaving->target);
		fleet_base_table_set(&departures, "hlc", FleetClockStampGetDatum(d->hlc));
		fleet_base_table_set(&departures, "image", JsonbPGetDatum(row->image));
		fleet_base_table_set_text(&departures, "dtxid", d->leaving->dtxid);
		fleet_base_table_set(&departures, "departed_at",
							 TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()));
		fleet_base_table_insert(&departures);
	}
	fleet_base_table_close(&departures);
	UnregisterSnapshot(snapshot);
}

static void
log_departures(const FleetDeparture *d)
{
	FleetOpenTable log;

	fleet_handoff_open_log(&log);
	for (int i = 0; i < d->rides.n; i++)
		fleet_handoff_log(&log, d->rides.rows[i].key, d->rides.rows[i].vehicle,
						  d->own->name, d->leaving->target, d->rides.rows[i].epoch, d->hlc,
						  d->leaving->dtxid, "departed");
	for (int i = 0; i < d->vehicles.n; i++)
		fleet_handoff_log(&log, NULL, d->vehicles.rows[i].key,
						  d->own->name, d->leaving->target, d->vehicles.rows[i].epoch, d->hlc,
						  d->leaving->dtxid, "departed");
	fleet_base_table_close(&log);
}

/*
 * Delete the live rows, keep their departures, log; the departure is over.
 * Does nothing where it was over already, since not all was here.
 */
void
fleet_handoff_departure_write(FleetDeparture *d)
{
	FleetCaller caller;

	if (d->missing.n > 0)
		return;
	fleet_base_become_owner(&caller);
	fleet_handoff_begin_move();
	PG_TRY();
	{
		delete_live(&d->rides);
		delete_live(&d->vehicles);
	}
	PG_FINALLY();
	{
		fleet_handoff_end_move();
	}
	PG_END_TRY();

	/* In the order of arrivals, or a replica that applies both might deadlock. */
	if (d->vehicles.n > 0)
		keep_departures(d, &d->vehicles);
	keep_departures(d, &d->rides);
	log_departures(d);
	fleet_base_become_caller(&caller);
}
