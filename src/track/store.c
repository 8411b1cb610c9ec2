/*-------------------------------------------------------------------------
 *
 * store.c
 *	  The rows that fixes are written to: the vehicle's, and its open ride's.
 *
 * Who may write any vehicle and any ride has the rows found and written without
 * SQL (base/table.h), as the same user, so that triggers see no difference.
 * Everybody else, to whom column grants or policies may apply, has it done by
 * statements of his own on the partitioned tables, which know all about that.
 *
 * A row is locked before it is decided what the fix means for it.  Nobody else holds
 * it most of the time, so it is tried first; only where somebody does is it
 * asked whether that is a branch of another node in doubt, which would be waited
 * for as long as that node is away.  In a transaction with one snapshot a row that
 * has been changed since is an error, as it is for any UPDATE.
 *
 * What has been written is seen by the next look after fleet_track_store_flush().
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/store.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/plan.h"
#include "geo/place.h"
#include "handoff/handoff.h"
#include "handoff/move.h"
#include "handoff/state.h"
#include "track/store.h"

/* Columns of a vehicle that a fix says something about, or that are read. */
enum
{
	COL_LOCATION, COL_FIX_AT, COL_SPEED, COL_HEADING, COL_ACCURACY, COL_BATTERY,
	COL_ALTITUDE, COL_STATUS, COL_OUTSIDE, COL_OUTSIDE_SINCE, COL_EPOCH
};

#define NCOLUMNS		(COL_EPOCH + 1)
#define NWRITTEN		COL_EPOCH

static const char *const column_names[NCOLUMNS] = {
	[COL_LOCATION] = "location",
	[COL_FIX_AT] = "fix_at",
	[COL_SPEED] = "speed_kmh",
	[COL_HEADING] = "heading",
	[COL_ACCURACY] = "accuracy_m",
	[COL_BATTERY] = "battery_pct",
	[COL_ALTITUDE] = "altitude_m",
	[COL_STATUS] = "status",
	[COL_OUTSIDE] = "outside_region",
	[COL_OUTSIDE_SINCE] = "outside_since",
	[COL_EPOCH] = "epoch",
};

/* Which column a measure goes to. */
static const int measure_columns[FLEET_FIX_MEASURES] = {
	[FLEET_FIX_SPEED] = COL_SPEED,
	[FLEET_FIX_HEADING] = COL_HEADING,
	[FLEET_FIX_ACCURACY] = COL_ACCURACY,
	[FLEET_FIX_BATTERY] = COL_BATTERY,
	[FLEET_FIX_ALTITUDE] = COL_ALTITUDE,
};

/* One of the two tables, while it is open. */
typedef struct Rows
{
	FleetTable *table;
	bool		is_open;
	FleetOpenTable open;
	Snapshot	snapshot;
} Rows;

struct FleetStore
{
	const FleetRegionMap *map;
	bool		by_statement;
	Rows		vehicles;
	Rows		rides;
	int			columns[NCOLUMNS];	/* of the vehicle's table, from 1 */
};

/* The open ride of a vehicle is found by this index. */
#define OPEN_RIDE_INDEX	"local_rides_vehicle_id_idx"

static FleetPlan lock_plan = {
	"SELECT epoch, fix_at, fleet.lon(location), fleet.lat(location), outside_region, outside_since"
	" FROM fleet.vehicles WHERE region = '%s' AND vehicle_id = $1 FOR NO KEY UPDATE",
	1, {TEXTOID}
};
static FleetPlan vehicle_plan = {
	"UPDATE fleet.vehicles SET location = fleet.make_point($2, $3), fix_at = $4,"
	" speed_kmh = $5, heading = $6, accuracy_m = $7,"
	" battery_pct = COALESCE($8, battery_pct), altitude_m = $9,"
	" status = COALESCE($10::fleet.vehicle_status, status),"
	" outside_region = $11, outside_since = $12"
	" WHERE region = '%s' AND vehicle_id = $1",
	12, {TEXTOID, FLOAT8OID, FLOAT8OID, TIMESTAMPTZOID, FLOAT8OID, FLOAT8OID,
		FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};
static FleetPlan ride_plan = {
	"UPDATE fleet.rides SET current_location = fleet.make_point($2, $3)"
	" WHERE region = '%s' AND vehicle_id = $1 AND status < 'COMPLETED' RETURNING ride_id",
	3, {TEXTOID, FLOAT8OID, FLOAT8OID}
};

/* May the caller read and change any row of this table? */
bool
fleet_track_store_may(const char *table)
{
	const AclMode both = ACL_SELECT | ACL_UPDATE;
	Oid			relid = get_relname_relid(table, get_namespace_oid("fleet", false));

	return pg_class_aclmask(relid, GetUserId(), both, ACLMASK_ALL) == both &&
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/* Within an SPI connection; the region map must be one with a region of ours. */
FleetStore *
fleet_track_store_open(const FleetRegionMap *map)
{
	FleetStore *store = palloc0(sizeof(FleetStore));

	Assert(map->own != NULL);
	store->map = map;
	store->by_statement = !fleet_track_store_may("vehicles") || !fleet_track_store_may("rides");
	store->vehicles.table = &fleet_handoff_vehicle_table;
	store->rides.table = &fleet_handoff_ride_table;
	return store;
}

/* ---------- without SQL ---------- */

static void
open_rows(Rows *rows)
{
	if (rows->is_open)
		return;
	fleet_base_table_open(rows->table, true, &rows->open);
	rows->open.lockmode = LockTupleNoKeyExclusive;
	rows->snapshot = fleet_handoff_snapshot();
	rows->is_open = true;
}

static void
close_rows(Rows *rows)
{
	if (!rows->is_open)
		return;
	UnregisterSnapshot(rows->snapshot);
	fleet_base_table_close(&rows->open);
	rows->is_open = false;
}

static void
open_vehicles(FleetStore *store)
{
	if (store->vehicles.is_open)
		return;
	open_rows(&store->vehicles);
	for (int i = 0; i < NCOLUMNS; i++)
		store->columns[i] = 1 +
			fleet_base_table_column(RelationGetDescr(store->vehicles.open.rel), column_names[i]);
}

/* A column of the vehicle that has been found. */
static Datum
get(FleetStore *store, int column, bool *isnull)
{
	return slot_getattr(store->vehicles.open.slot, store->columns[column], isnull);
}

/* Find and lock the row, if nobody else has it locked. */
static bool
try_to_lock(Rows *rows, Datum key)
{
	bool		busy;

	return !IsolationUsesXactSnapshot() &&
		fleet_base_table_find(&rows->open, rows->snapshot, 1, &key) &&
		fleet_base_table_try_lock(&rows->open, rows->snapshot, &busy);
}

/* The same, as it is by now, waiting for who has it. */
static bool
wait_and_lock(Rows *rows, Datum key)
{
	UnregisterSnapshot(rows->snapshot);
	rows->snapshot = fleet_handoff_snapshot();
	return fleet_base_table_find(&rows->open, rows->snapshot, 1, &key) &&
		fleet_base_table_lock(&rows->open, rows->snapshot, !IsolationUsesXactSnapshot());
}

static void
read_found(FleetStore *store, FleetFixVehicle *row)
{
	Datum		value;
	bool		isnull;

	row->epoch = DatumGetInt64(get(store, COL_EPOCH, &isnull));
	row->fix_at = DatumGetTimestampTz(get(store, COL_FIX_AT, &isnull));
	row->has_fix = !isnull;
	value = get(store, COL_LOCATION, &isnull);
	row->has_place = !isnull;
	if (row->has_place)
		fleet_geo_place_read(value, &row->lon, &row->lat);
	value = get(store, COL_OUTSIDE, &isnull);
	row->outside = isnull ? NULL : fleet_region_find(store->map, TextDatumGetCString(value));
	row->outside_since = DatumGetTimestampTz(get(store, COL_OUTSIDE_SINCE, &isnull));
}

static bool
lock_directly(FleetStore *store, const char *vehicle, FleetFixVehicle *row)
{
	Datum		key = CStringGetTextDatum(vehicle);

	open_vehicles(store);
	if (!try_to_lock(&store->vehicles, key))
	{
		(void) fleet_handoff_await(store->map, true, vehicle);
		if (!wait_and_lock(&store->vehicles, key))
			return false;
	}
	read_found(store, row);
	return true;
}

static Datum
status_datum(FleetStore *store, const char *label)
{
	const FleetColumn *column =
		&store->vehicles.open.kept->columns[store->columns[COL_STATUS] - 1];

	return InputFunctionCall(unconstify(FmgrInfo *, &column->in), unconstify(char *, label),
							 column->ioparam, -1);
}

/* What is to be written, and into which columns: all but what the fix says nothing about. */
static int
form_change(FleetStore *store, const FleetFix *fix, const FleetFixVehicle *now,
			int *numbers, Datum *values, bool *nulls)
{
	Datum		all[NWRITTEN] = {0};
	bool		isnull[NWRITTEN] = {false};
	int			n = 0;

	all[COL_LOCATION] = fleet_geo_place_make(fix->lon, fix->lat);
	all[COL_FIX_AT] = TimestampTzGetDatum(fix->at);
	for (int i = 0; i < FLEET_FIX_MEASURES; i++)
	{
		all[measure_columns[i]] = Float8GetDatum(fix->measured[i]);
		isnull[measure_columns[i]] = !fix->given[i];
	}
	isnull[COL_OUTSIDE] = isnull[COL_OUTSIDE_SINCE] = now->outside == NULL;
	if (now->outside != NULL)
	{
		all[COL_OUTSIDE] = CStringGetTextDatum(now->outside->name);
		all[COL_OUTSIDE_SINCE] = TimestampTzGetDatum(now->outside_since);
	}
	if (fix->status != NULL)
		all[COL_STATUS] = status_datum(store, fix->status);
	for (int i = 0; i < NWRITTEN; i++)
	{
		if ((i == COL_STATUS && fix->status == NULL) || (i == COL_BATTERY && isnull[i]))
			continue;
		numbers[n] = store->columns[i];
		values[n] = all[i];
		nulls[n++] = isnull[i];
	}
	return n;
}

static void
store_vehicle_directly(FleetStore *store, const FleetFix *fix, const FleetFixVehicle *now)
{
	int			numbers[NWRITTEN];
	Datum		values[NWRITTEN];
	bool		nulls[NWRITTEN];
	int			n = form_change(store, fix, now, numbers, values, nulls);

	fleet_base_table_change(&store->vehicles.open, n, numbers, values, nulls);
}

/* A row that was waited for may have become another. */
static bool
is_open_ride_of(FleetOpenTable *rides, const char *vehicle)
{
	char	   *its = fleet_base_table_get_text(rides, "vehicle_id");

	return its != NULL && strcmp(its, vehicle) == 0 &&
		fleet_handoff_state_is_open(fleet_handoff_state_parse(fleet_base_table_get_text(rides, "status")));
}

static char *
store_ride_directly(FleetStore *store, const FleetFix *fix)
{
	static const char *const columns[] = {"current_location"};
	Rows	   *rides = &store->rides;
	List	   *found;
	Datum		place;
	bool		isnull = false;

	open_rows(rides);
	found = fleet_base_table_find_all(&rides->open, rides->snapshot, OPEN_RIDE_INDEX,
									  CStringGetTextDatum(fix->vehicle));
	if (found == NIL)
		return NULL;
	fleet_base_table_take(&rides->open, linitial(found));
	if (!fleet_base_table_lock(&rides->open, rides->snapshot, !IsolationUsesXactSnapshot()) ||
		!is_open_ride_of(&rides->open, fix->vehicle))
		return NULL;
	place = fleet_geo_place_make(fix->lon, fix->lat);
	fleet_base_table_update(&rides->open, 1, columns, &place, &isnull);
	return fleet_base_table_get_text(&rides->open, "ride_id");
}

/* ---------- by statements ---------- */

static bool
lock_by_statement(FleetStore *store, const char *vehicle, FleetFixVehicle *row)
{
	Datum		key = CStringGetTextDatum(vehicle);
	HeapTuple	tuple;
	TupleDesc	desc;
	char	   *outside;
	bool		isnull;

	(void) fleet_handoff_await(store->map, true, vehicle);
	if (fleet_base_plan_execute(&lock_plan, store->map->own->name, &key, NULL) == 0)
		return false;
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	row->epoch = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	row->fix_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull));
	row->has_fix = !isnull;
	row->lon = DatumGetFloat8(SPI_getbinval(tuple, desc, 3, &isnull));
	row->has_place = !isnull;
	if (row->has_place)
		row->lat = DatumGetFloat8(SPI_getbinval(tuple, desc, 4, &isnull));
	outside = SPI_getvalue(tuple, desc, 5);
	row->outside = outside ? fleet_region_find(store->map, outside) : NULL;
	row->outside_since = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 6, &isnull));
	return true;
}

static void
store_vehicle_by_statement(FleetStore *store, const FleetFix *fix, const FleetFixVehicle *now)
{
	Datum		values[12];
	char		nulls[13] = "            ";

	fleet_track_fix_values(fix, values, nulls);
	nulls[10] = nulls[11] = now->outside == NULL ? 'n' : ' ';
	if (now->outside != NULL)
	{
		values[10] = CStringGetTextDatum(now->outside->name);
		values[11] = TimestampTzGetDatum(now->outside_since);
	}
	fleet_base_plan_execute(&vehicle_plan, store->map->own->name, values, nulls);
}

static char *
store_ride_by_statement(FleetStore *store, const FleetFix *fix)
{
	Datum		values[3];

	values[0] = CStringGetTextDatum(fix->vehicle);
	values[1] = Float8GetDatum(fix->lon);
	values[2] = Float8GetDatum(fix->lat);
	if (fleet_base_plan_execute(&ride_plan, store->map->own->name, values, NULL) == 0)
		return NULL;
	return fleet_base_plan_text(0, 1);
}

/* ---------- either way ---------- */

/* Lock and read a vehicle's row; false where it is not here. */
bool
fleet_track_store_lock(FleetStore *store, const char *vehicle, FleetFixVehicle *row)
{
	return store->by_statement ? lock_by_statement(store, vehicle, row) :
		lock_directly(store, vehicle, row);
}

/* Write a fix into the row that was locked last. */
void
fleet_track_store_vehicle(FleetStore *store, const FleetFix *fix, const FleetFixVehicle *now)
{
	if (store->by_statement)
		store_vehicle_by_statement(store, fix, now);
	else
		store_vehicle_directly(store, fix, now);
}

/*
 * Write it into the vehicle's open ride, whose id is returned; NULL where it has
 * none.  Vehicles are flushed first: one table is written at a time.
 */
char *
fleet_track_store_ride(FleetStore *store, const FleetFix *fix)
{
	Assert(!store->vehicles.is_open);
	return store->by_statement ? store_ride_by_statement(store, fix) :
		store_ride_directly(store, fix);
}

/* What has been written until now is visible to what follows. */
void
fleet_track_store_flush(FleetStore *store)
{
	close_rows(&store->rides);
	close_rows(&store->vehicles);
}

void
fleet_track_store_close(FleetStore *store)
{
	fleet_track_store_flush(store);
	pfree(store);
}
