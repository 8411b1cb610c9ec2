/*-------------------------------------------------------------------------
 *
 * snapshot_restore.c
 *	  Put one row of a snapshot back, by its version.
 *
 * fleet.restore_snapshot() has found that the row is missing here or older, and
 * that no other region knows of anything newer.  What has happened since it
 * looked, here, is excluded in this order:
 *
 *	1. A live row is locked and compared: newer or as new, and nothing is done.
 *	   Whoever changes it or hands it off waits for us, or we for him.
 *	2. The row is written as it was, epoch and stamp too.  A new version would
 *	   beat what a replica has, which may be later than the snapshot.
 *	3. After an insert, what has been committed until now is searched for a
 *	   departure or a grave of that epoch or a later one.  By then the unique
 *	   index has waited for whoever was taking the row away, so its departure can
 *	   be seen (as in guard.c).
 *
 * Elsewhere nothing can happen meanwhile: a row moves only from where it is live.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/snapshot_restore.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "clock/clock.h"
#include "drift/snapshot.h"
#include "handoff/move.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_drift_put_row);

/* The row that is put back. */
typedef struct Restored
{
	bool		is_ride;
	const char *kind;
	char	   *key;
	int64		epoch;
	uint64		hlc;
	JsonbContainer *image;
	bool		written;
} Restored;

/* Ten years, in minutes. */
#define MAX_RETENTION (10 * 365 * 24 * 60)

/* How long everything is kept, in minutes; read by the SQL functions that prune. */
static int	snapshot_keep_all = 24 * 60;
static int	snapshot_keep_hourly = 7 * 24 * 60;
static int	snapshot_keep_daily = 30 * 24 * 60;
static int	departure_retention = 35 * 24 * 60;
static int	log_retention = 30 * 24 * 60;
static int	job_runs_retention = 7 * 24 * 60;

void
fleet_drift_snapshot_init(void)
{
	DefineCustomIntVariable("fleet.snapshot_keep_all", "How long every snapshot is kept.",
							"Lower it where the disk is small: a day has 1440 of them.",
							&snapshot_keep_all, snapshot_keep_all, 0, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.snapshot_keep_hourly", "How long the first snapshot of each hour is kept.",
							"Raise it where mistakes are found late.",
							&snapshot_keep_hourly, snapshot_keep_hourly, 0, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.snapshot_keep_daily", "How long the first snapshot of each day is kept.",
							"Raise it where mistakes are found late; rides of a snapshot older than fleet.departure_retention cannot be restored.",
							&snapshot_keep_daily, snapshot_keep_daily, 0, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.departure_retention", "How long it is remembered where a ride went, and that a row was deleted.",
							"Raise it above the longest outage of a node, and the age of the oldest backup or snapshot that may be restored.",
							&departure_retention, departure_retention, 60, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.log_retention", "How long the logs of handoffs and calls, and dead letters that were resolved, are kept.",
							"Raise it above the longest outage of a node: the logs prove what it has done.",
							&log_retention, log_retention, 60, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.job_runs_retention", "How long it is kept how jobs went.",
							"Lower it where jobs run often and nobody looks back.",
							&job_runs_retention, job_runs_retention, 1, MAX_RETENTION,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
}

/* ---------- one row ---------- */

static bool
is_newer_than(const Restored *row, const FleetOpenTable *live)
{
	int64		epoch = DatumGetInt64(fleet_base_table_get(live, "epoch", NULL));

	if (row->epoch != epoch)
		return row->epoch > epoch;
	return row->hlc > DatumGetFleetClockStamp(fleet_base_table_get(live, "hlc", NULL));
}

/*
 * Nothing of that epoch or later may have been here; an older departure is
 * forgotten, as when the row arrives.
 */
static void
forget_departure(const Restored *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	FleetOpenTable departures;

	fleet_base_table_open(&fleet_handoff_departure_table, true, &departures);
	if (fleet_handoff_find_departure(&departures, snapshot, row->kind, row->key))
	{
		if (DatumGetInt64(fleet_base_table_get(&departures, "epoch", NULL)) >= row->epoch)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("%s \"%s\" has left, or was deleted, meanwhile", row->kind, row->key)));
		fleet_handoff_delete_departure(&departures, snapshot, row->kind, row->key);
	}
	fleet_base_table_close(&departures);
	UnregisterSnapshot(snapshot);
}

/* The log explains why a row has the epoch that it has. */
static void
log_restored(const Restored *row)
{
	FleetOpenTable log;
	char	   *vehicle = row->is_ride ? fleet_wire_get_text(row->image, "vehicle_id") : row->key;

	fleet_handoff_open_log(&log);
	fleet_handoff_log(&log, row->is_ride ? row->key : NULL, vehicle, NULL,
					  fleet_handoff_own_region(fleet_region_map())->name,
					  row->epoch, row->hlc, NULL, "reinserted");
	fleet_base_table_close(&log);
}

/* Its version, too, which is read with the columns' own input functions. */
static HeapTuple
form_row(Restored *row, FleetOpenTable *live)
{
	HeapTuple	tuple;

	fleet_wire_read_image(live, row->image);
	tuple = fleet_base_table_form(live);
	row->epoch = DatumGetInt64(fleet_base_table_get(live, "epoch", NULL));
	row->hlc = DatumGetFleetClockStamp(fleet_base_table_get(live, "hlc", NULL));
	(void) fleet_clock_receive(row->hlc);
	return tuple;
}

/* Write it, unless what is here is as new. */
static void
write_row(Restored *row)
{
	FleetTable *table = row->is_ride ? &fleet_handoff_ride_table : &fleet_handoff_vehicle_table;
	Datum		key = CStringGetTextDatum(row->key);
	Snapshot	snapshot = fleet_handoff_snapshot();
	FleetOpenTable live;
	HeapTuple	tuple;
	bool		is_live;

	fleet_base_table_open(table, true, &live);
	tuple = form_row(row, &live);
	is_live = fleet_base_table_find(&live, snapshot, 1, &key) &&
		fleet_base_table_lock(&live, snapshot, true);
	row->written = !is_live || is_newer_than(row, &live);
	if (row->written && is_live)
		fleet_base_table_replace(&live, tuple);
	else if (row->written)
	{
		fleet_base_table_deform(&live, tuple);
		fleet_base_table_insert(&live);
	}
	fleet_base_table_close(&live);
	UnregisterSnapshot(snapshot);
	if (row->written)
	{
		forget_departure(row);
		log_restored(row);
	}
}

static void
read_image(Restored *row, const char *kind, Jsonb *image)
{
	row->is_ride = strcmp(kind, "ride") == 0;
	row->kind = row->is_ride ? "ride" : "vehicle";
	row->image = &image->root;
	if (JsonContainerIsObject(row->image))
		row->key = fleet_wire_get_text(row->image, row->is_ride ? "ride_id" : "vehicle_id");
	if (row->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this is not the image of a %s", row->kind)));
}

/* fleet.put_row(kind text, image jsonb) -> boolean: was it written? */
Datum
fleet_drift_put_row(PG_FUNCTION_ARGS)
{
	Restored	row = {0};

	(void) fleet_handoff_own_region(fleet_region_map());
	read_image(&row, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_JSONB_P(1));
	fleet_handoff_begin_move();
	PG_TRY();
	{
		write_row(&row);
	}
	PG_FINALLY();
	{
		fleet_handoff_end_move();
	}
	PG_END_TRY();
	PG_RETURN_BOOL(row.written);
}
