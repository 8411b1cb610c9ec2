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
 *	3. After that, unless the epoch stays, what has been committed until now is searched for a
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
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "clock/clock.h"
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

static int64
epoch_in(const FleetOpenTable *open)
{
	return DatumGetInt64(fleet_base_table_get(open, "epoch", NULL));
}

static bool
is_newer_than(const Restored *row, const FleetOpenTable *live)
{
	if (row->epoch != epoch_in(live))
		return row->epoch > epoch_in(live);
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
		if (epoch_in(&departures) >= row->epoch)
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
	row->epoch = epoch_in(live);
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
	bool		same_epoch;

	fleet_base_table_open(table, true, &live);
	tuple = form_row(row, &live);
	is_live = fleet_base_table_find(&live, snapshot, 1, &key) &&
		fleet_base_table_lock(&live, snapshot, true);
	same_epoch = is_live && epoch_in(&live) == row->epoch;
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
	if (row->written && !same_epoch)
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
