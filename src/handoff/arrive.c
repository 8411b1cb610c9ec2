/*-------------------------------------------------------------------------
 *
 * arrive.c
 *	  The target's half of a handoff.
 *
 * Insert the rows that the departures' images describe, replace what this node
 * keeps of their own older departures, and log.  The log rows are the proof that
 * the branch was applied.
 *
 * A branch whose PREPARE was lost is redone: then what is here, or has been
 * here, at that epoch or later is left alone; an older live copy, which a node
 * that went back in time may still have, gives way; and the capacity is not
 * asked about, since the decision was made.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/arrive.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "handoff/move.h"
#include "wire/image.h"

/* A row that arrives. */
typedef struct Arrival
{
	bool		is_ride;
	char	   *key;
	int64		epoch;
	uint64		hlc;
	char	   *source;
	char	   *target;
	JsonbContainer *image;
	bool		skip;			/* redone, and superseded */
} Arrival;

typedef struct Arrivals
{
	const FleetRegion *own;
	const char *dtxid;
	bool		redo;
	int			n;
	int			rides;			/* how many of them are rides */
	Arrival    *rows;
} Arrivals;

static FleetPlan open_rides_plan = {
	"SELECT count(*) FROM (SELECT FROM fleet.local_rides WHERE status < 'COMPLETED' LIMIT $1) AS o",
	1, {INT8OID}
};

static const char *
kind_of(const Arrival *row)
{
	return row->is_ride ? "ride" : "vehicle";
}

/* ---------- reading ---------- */

FLEET_NORETURN static void
raise_malformed(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("what is to arrive is malformed"),
			 errdetail_internal("%s", detail)));
}

static char *
require_text(JsonbContainer *object, const char *key)
{
	char	   *text = fleet_wire_get_text(object, key);

	if (text == NULL)
		raise_malformed(psprintf("Its field \"%s\" is missing.", key));
	return text;
}

static void
read_row(Arrivals *a, JsonbContainer *object)
{
	Arrival    *row = &a->rows[a->n++];
	char	   *kind = require_text(object, "kind");

	row->is_ride = strcmp(kind, "ride") == 0;
	if (!row->is_ride && strcmp(kind, "vehicle") != 0)
		raise_malformed("It is neither a ride nor a vehicle.");
	row->key = require_text(object, "key");
	row->epoch = fleet_wire_get_int64(object, "epoch");
	row->hlc = (uint64) fleet_wire_get_int64(object, "hlc");
	row->source = require_text(object, "source");
	row->target = require_text(object, "target");
	row->image = fleet_wire_get_object(object, "image");
	if (row->epoch < 1 ||
		row->epoch != strtoll(require_text(row->image, "epoch"), NULL, 10))
		raise_malformed("Its epoch is not that of its image.");
	(void) fleet_clock_receive(row->hlc);
	if (row->is_ride)
		a->rides++;
}

static void
read_rows(Arrivals *a, Jsonb *rows)
{
	uint32		n = JsonContainerSize(&rows->root);

	if (!JsonContainerIsArray(&rows->root) || JsonContainerIsScalar(&rows->root))
		raise_malformed("It is not an array.");
	a->rows = palloc0(sizeof(Arrival) * Max(n, 1));
	for (uint32 i = 0; i < n; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&rows->root, i);

		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			raise_malformed("Its elements are not objects.");
		read_row(a, value->val.binary.data);
	}
}

/* ---------- checks ---------- */

static void
check_capacity(const Arrivals *a)
{
	Datum		limit;
	int64		open;

	if (a->own->capacity < 0 || a->rides == 0)
		return;
	limit = Int64GetDatum((int64) a->own->capacity + 1);
	SPI_connect();
	fleet_base_plan_execute(&open_rides_plan, NULL, &limit, NULL);
	open = fleet_base_plan_int64(0, 1, NULL);
	SPI_finish();
	if (open + a->rides > a->own->capacity)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_OVER_CAPACITY),
				 errmsg("region \"%s\" is at its capacity", a->own->name),
				 errdetail("It has " INT64_FORMAT " open rides and takes %d; %d would arrive.",
						   open, a->own->capacity, a->rides),
				 errhint("Raise it with fleet.set_capacity, or try again when rides have ended.")));
}

static int64
epoch_in(const FleetOpenTable *open)
{
	return DatumGetInt64(fleet_base_table_get(open, "epoch", NULL));
}

/* The branch is redone: what has been here at that epoch or later is left alone. */
static void
skip_superseded(Arrivals *a)
{
	Snapshot	snapshot = fleet_handoff_snapshot();
	FleetOpenTable departures;

	fleet_base_table_open(&fleet_handoff_departure_table, false, &departures);
	for (int i = 0; i < a->n; i++)
	{
		Arrival    *row = &a->rows[i];

		row->skip = fleet_handoff_find_departure(&departures, snapshot, kind_of(row), row->key) &&
			epoch_in(&departures) >= row->epoch;
	}
	fleet_base_table_close(&departures);
	UnregisterSnapshot(snapshot);
}

/* ---------- writing ---------- */

/* The branch is redone: may the row be inserted?  An older copy gives way. */
static bool
make_room(FleetOpenTable *live, const Arrival *row)
{
	Snapshot	snapshot = fleet_handoff_snapshot();
	Datum		key = CStringGetTextDatum(row->key);
	bool		room = true;

	if (fleet_base_table_find(live, snapshot, 1, &key) &&
		fleet_base_table_lock(live, snapshot, true))
	{
		room = epoch_in(live) < row->epoch;
		if (room)
			fleet_base_table_delete(live);
	}
	UnregisterSnapshot(snapshot);
	return room;
}

/* Insert those of one kind. */
static void
insert_live(const Arrivals *a, FleetTable *table, bool rides)
{
	FleetOpenTable live;

	fleet_base_table_open(table, true, &live);
	for (int i = 0; i < a->n; i++)
	{
		Arrival    *row = &a->rows[i];

		if (row->is_ride != rides || row->skip)
			continue;
		row->skip = a->redo && !make_room(&live, row);
		if (row->skip)
			continue;
		fleet_wire_read_image(&live, row->image);
		fleet_base_table_insert(&live);
	}
	fleet_base_table_close(&live);
}

/*
 * What came back has not departed any more.  Only after the insert can this be
 * told: the unique index has then waited for a handoff that was taking the row
 * away, and whose departure nobody could see before.  And only by what is
 * committed now: an older snapshot of the caller's would show a departure that
 * was replaced since.
 */
static void
forget_departures(const Arrivals *a)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	FleetOpenTable departures;

	fleet_base_table_open(&fleet_handoff_departure_table, true, &departures);
	for (int i = 0; i < a->n; i++)
	{
		const Arrival *row = &a->rows[i];

		if (row->skip ||
			!fleet_handoff_find_departure(&departures, snapshot, kind_of(row), row->key) ||
			!fleet_base_table_lock(&departures, snapshot, true))
			continue;
		if (epoch_in(&departures) >= row->epoch)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("\"%s\" has been in region \"%s\" at a later epoch",
							row->key, a->own->name),
					 errdetail("An older copy of it must not come back.")));
		fleet_base_table_delete(&departures);
	}
	fleet_base_table_close(&departures);
	UnregisterSnapshot(snapshot);
}

static void
log_arrivals(const Arrivals *a)
{
	FleetOpenTable log;

	fleet_handoff_open_log(&log);
	for (int i = 0; i < a->n; i++)
	{
		const Arrival *row = &a->rows[i];

		fleet_handoff_log(&log, row->is_ride ? row->key : NULL,
						  row->is_ride ? fleet_wire_get_text(row->image, "vehicle_id") : row->key,
						  row->source, row->target, row->epoch, row->hlc, a->dtxid, "arrived");
	}
	fleet_base_table_close(&log);
}

static void
write_rows(const Arrivals *a)
{
	if (a->rides < a->n)
		insert_live(a, &fleet_handoff_vehicle_table, false);
	if (a->rides > 0)
		insert_live(a, &fleet_handoff_ride_table, true);
	forget_departures(a);
	log_arrivals(a);
}

/* Returns the number of rides. */
int
fleet_handoff_arrive(const FleetRegionMap *map, const char *dtxid, Datum rows, bool redo)
{
	Arrivals	a = {.own = fleet_handoff_own_region(map),.dtxid = dtxid,.redo = redo};
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	read_rows(&a, DatumGetJsonbP(rows));
	if (redo)
		skip_superseded(&a);
	else
		check_capacity(&a);
	fleet_handoff_begin_move();
	PG_TRY();
	{
		write_rows(&a);
	}
	PG_FINALLY();
	{
		fleet_handoff_end_move();
	}
	PG_END_TRY();
	FLEET_FAULT("arrived");
	fleet_base_become_caller(&caller);
	return a.rides;
}
