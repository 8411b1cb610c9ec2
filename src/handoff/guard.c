/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Triggers that keep rides and vehicles in order when users write them.
 *
 * fleet.guard is a row trigger on the local partitions, before and after:
 *
 *	before insert	version (epoch, HLC) is ours to give; after a grave the
 *					epoch goes on where the deleted row stopped
 *	after insert	an id that has departed from here is taken.  Only an after
 *					trigger can tell: by then the unique index has waited for
 *					a handoff that was deleting the row of that id
 *	before update	id, region and epoch stay; the status follows the state
 *					machine; times, path and duration are kept; new HLC
 *	before delete	a grave is left, so that no copy can revive the row
 *
 * A handoff moves rows as they are, so the guard lets it pass.
 *
 * fleet.refuse_write is a row trigger on the foreign partitions: what lives in
 * another region is changed there, or through fleet's functions.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/guard.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/durability.h"
#include "base/errcodes.h"
#include "base/plan.h"
#include "base/shmem.h"
#include "base/table.h"
#include "clock/clock.h"
#include "geo/haversine.h"
#include "geo/place.h"
#include "handoff/move.h"
#include "handoff/state.h"
#include "region/map.h"

PG_FUNCTION_INFO_V1(fleet_handoff_guard);
PG_FUNCTION_INFO_V1(fleet_handoff_refuse_write);

/* A row that is written: its old and new values, and what we change. */
typedef struct Row
{
	Relation	rel;
	TupleDesc	desc;
	HeapTuple	old;			/* NULL on insert */
	HeapTuple	tuple;			/* the new one; the old one on delete */
	bool		is_ride;
	const char *kind;
	const char *key_column;
	char	   *key;
} Row;

static FleetPlan past_plan = {
	"SELECT epoch, target FROM fleet.departures WHERE kind = $1 AND key = $2",
	2, {TEXTOID, TEXTOID}
};
static FleetPlan unbury_plan = {
	"DELETE FROM fleet.departures WHERE kind = $1 AND key = $2 AND target IS NULL",
	2, {TEXTOID, TEXTOID}
};
static FleetPlan log_plan = {
	"INSERT INTO fleet.handoff_log (ride_id, vehicle_id, target, epoch, hlc, status)"
	" VALUES ($1, $2, '%s', $3, $4::fleet.hlc, 'reinserted')",
	4, {TEXTOID, TEXTOID, INT8OID, INT8OID}
};
static FleetPlan forget_plan = {
	"DELETE FROM fleet.departures WHERE kind = $1 AND key = $2 AND epoch <= $3",
	3, {TEXTOID, TEXTOID, INT8OID}
};

/* Not an upsert: who follows this table is sent its inserts only. */
static FleetPlan bury_plan = {
	"INSERT INTO fleet.departures (kind, key, epoch, hlc, settled_hlc)"
	" VALUES ($1, $2, $3, $4::fleet.hlc, $4::fleet.hlc) ON CONFLICT (kind, key) DO NOTHING",
	4, {TEXTOID, TEXTOID, INT8OID, INT8OID}
};
static FleetPlan vehicle_plan = {
	"SELECT 1 FROM fleet.local_vehicles WHERE vehicle_id = $1 FOR KEY SHARE", 1, {TEXTOID}
};
static FleetPlan open_ride_plan = {
	"SELECT ride_id FROM fleet.local_rides WHERE vehicle_id = $1 AND status < 'COMPLETED' LIMIT 1",
	1, {TEXTOID}
};

/* ---------- columns ---------- */

static int
number_of(const Row *row, const char *column)
{
	return fleet_base_table_column(row->desc, column) + 1;
}

static Datum
get(const Row *row, HeapTuple tuple, const char *column, bool *isnull)
{
	bool		null;
	Datum		value = heap_getattr(tuple, number_of(row, column), row->desc, &null);

	if (isnull != NULL)
		*isnull = null;
	return value;
}

static char *
get_text(const Row *row, HeapTuple tuple, const char *column)
{
	return SPI_getvalue(tuple, row->desc, number_of(row, column));
}

static void
set(Row *row, const char *column, Datum value, bool isnull)
{
	int			number = number_of(row, column);

	row->tuple = heap_modify_tuple_by_cols(row->tuple, row->desc, 1, &number,
										   &value, &isnull);
}

/* The version, and when it was made. */
static void
set_version(Row *row, int64 epoch, uint64 hlc)
{
	int			columns[3];
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	columns[0] = number_of(row, "epoch");
	values[0] = Int64GetDatum(epoch);
	columns[1] = number_of(row, "hlc");
	values[1] = FleetClockStampGetDatum(hlc);
	columns[2] = number_of(row, "updated_at");
	values[2] = TimestampTzGetDatum(GetCurrentTimestamp());
	row->tuple = heap_modify_tuple_by_cols(row->tuple, row->desc, 3, columns, values, nulls);
}

static bool
is_changed_at(const Row *row, int number)
{
	Form_pg_attribute attr = TupleDescAttr(row->desc, number - 1);
	bool		old_null;
	bool		new_null;
	Datum		old = heap_getattr(row->old, number, row->desc, &old_null);
	Datum		new = heap_getattr(row->tuple, number, row->desc, &new_null);

	if (old_null || new_null)
		return old_null != new_null;
	return !datum_image_eq(old, new, attr->attbyval, attr->attlen);
}

static bool
is_changed(const Row *row, const char *column)
{
	return is_changed_at(row, number_of(row, column));
}

/*
 * A stamp for a row.  The transaction has a number before it takes one: who looks
 * for transactions that may have stamped relies on it (replica/worker.c).
 */
static uint64
stamp(void)
{
	(void) GetTopTransactionId();
	return fleet_clock_now();
}

/* A later one than the row has, which may be ahead of a clock that was restarted. */
static uint64
later_stamp(const Row *row)
{
	HeapTuple	before = row->old != NULL ? row->old : row->tuple;
	uint64		seen = DatumGetFleetClockStamp(get(row, before, "hlc", NULL));
	uint64		now;

	(void) fleet_clock_try_receive(seen);
	now = stamp();
	return Max(now, seen + 1);
}

/* ---------- the past of an id ---------- */

static Datum *
past_arguments(const Row *row)
{
	Datum	   *values = palloc(sizeof(Datum) * 2);

	values[0] = CStringGetTextDatum(row->kind);
	values[1] = CStringGetTextDatum(row->key);
	return values;
}

/*
 * Has the id been here before?  *target is where it departed to, NULL for a
 * grave.  Sees what has been committed until now, whatever snapshot the
 * calling transaction uses.
 */
static bool
has_past(const Row *row, int64 *epoch, char **target)
{
	bool		found;

	found = fleet_base_plan_execute_as_of_now(&past_plan, past_arguments(row)) > 0;
	if (found)
	{
		*epoch = fleet_base_plan_int64(0, 1, NULL);
		*target = fleet_base_plan_text(0, 2);
	}
	return found;
}

static void
raise_departed(const Row *row, const char *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("%s \"%s\" already exists", row->kind, row->key),
			 errdetail("It was handed off from here to region \"%s\".", target),
			 errtable(row->rel)));
}

/* ---------- insert ---------- */

/*
 * An id is used again, one epoch after its grave.  The log says so, because it
 * is what explains why a row has an epoch above one.
 */
static void
reinsert(const Row *row, int64 epoch, uint64 hlc)
{
	const FleetRegionMap *map = fleet_region_map();
	Datum		values[4] = {0};
	char		nulls[5] = "    ";

	fleet_base_plan_execute(&unbury_plan, NULL, past_arguments(row), NULL);
	if (map->own == NULL)
		return;
	nulls[row->is_ride ? 1 : 0] = 'n';
	values[row->is_ride ? 0 : 1] = CStringGetTextDatum(row->key);
	if (row->is_ride)
	{
		char	   *vehicle = get_text(row, row->tuple, "vehicle_id");

		if (vehicle != NULL)
		{
			nulls[1] = ' ';
			values[1] = CStringGetTextDatum(vehicle);
		}
	}
	values[2] = Int64GetDatum(epoch);
	values[3] = Int64GetDatum((int64) hlc);
	fleet_base_plan_execute(&log_plan, map->own->name, values, nulls);
}

static void
before_insert(Row *row)
{
	uint64		hlc = stamp();
	int64		epoch = 0;
	char	   *target = NULL;

	if (has_past(row, &epoch, &target))
	{
		if (target != NULL)
			raise_departed(row, target);
		reinsert(row, epoch + 1, hlc);
	}
	set_version(row, epoch + 1, hlc);
}

static void
after_insert(const Row *row)
{
	int64		epoch;
	char	   *target = NULL;

	if (!has_past(row, &epoch, &target))
		return;
	if (target != NULL)
		raise_departed(row, target);
	if (epoch >= DatumGetInt64(get(row, row->tuple, "epoch", NULL)))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("%s \"%s\" was deleted meanwhile", row->kind, row->key),
				 errhint("Try again.")));
}

/* ---------- rides ---------- */

/*
 * The vehicle of a ride stays here while the ride is written.  One that never
 * was registered is let be; one that has left is in another region.
 */
static void
check_vehicle(const Row *row)
{
	char	   *vehicle = get_text(row, row->tuple, "vehicle_id");
	const FleetRegionMap *map = fleet_region_map();
	Row			other = *row;
	Datum		value;
	int64		epoch;
	char	   *target = NULL;

	if (vehicle == NULL || map->own == NULL)
		return;
	value = CStringGetTextDatum(vehicle);
	if (fleet_base_plan_execute(&vehicle_plan, NULL, &value, NULL) > 0)
		return;
	other.kind = "vehicle";
	other.key = vehicle;
	if (has_past(&other, &epoch, &target) && target != NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_ELSEWHERE),
				 errmsg("vehicle \"%s\" of ride \"%s\" is in another region", vehicle, row->key),
				 errdetail("It was handed off from here to region \"%s\".", target),
				 errhint("A ride lives where its vehicle is.")));
}

/* Keep when the ride came to its state. */
static void
stamp_state(Row *row, FleetRideState state)
{
	const char *column = fleet_handoff_state_column(state);
	bool		isnull;

	(void) get(row, row->tuple, column, &isnull);
	if (isnull)
		set(row, column, TimestampTzGetDatum(GetCurrentTimestamp()), false);
}

static void
raise_illegal(const Row *row, FleetRideState from, FleetRideState to)
{
	const char *allowed = "nothing: the ride is closed";

	if (fleet_handoff_state_is_open(from))
		allowed = psprintf("%s and CANCELLED", fleet_handoff_state_label(from + 1));
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_ILLEGAL_STATUS),
			 errmsg("ride \"%s\" cannot go from %s to %s", row->key,
					fleet_handoff_state_label(from), fleet_handoff_state_label(to)),
			 errdetail("Allowed from %s: %s.", fleet_handoff_state_label(from), allowed)));
}

/* Add to the path what was driven since the last position, while under way. */
static void
add_path(Row *row, FleetRideState from)
{
	double		lon[2];
	double		lat[2];
	double		path_m;
	bool		was_nowhere;
	bool		is_nowhere;
	Datum		old = get(row, row->old, "current_location", &was_nowhere);
	Datum		new = get(row, row->tuple, "current_location", &is_nowhere);

	if (from != FLEET_RIDE_IN_PROGRESS || was_nowhere || is_nowhere ||
		!is_changed(row, "current_location"))
		return;
	fleet_geo_place_read(old, &lon[0], &lat[0]);
	fleet_geo_place_read(new, &lon[1], &lat[1]);
	path_m = DatumGetFloat8(get(row, row->tuple, "path_m", NULL)) +
		fleet_geo_haversine(lon[0], lat[0], lon[1], lat[1]);
	set(row, "path_m", Float8GetDatum(path_m), false);
}

static void
complete(Row *row)
{
	bool		no_start;
	bool		no_end;
	Datum		start = get(row, row->tuple, "started_at", &no_start);
	Datum		end = get(row, row->tuple, "completed_at", &no_end);
	bool		isnull;
	Datum		place = get(row, row->tuple, "current_location", &isnull);

	if (!no_start && !no_end)
		set(row, "duration", DirectFunctionCall2(timestamp_mi, end, start), false);
	if (!isnull)
		set(row, "end_location", place, false);
}

/* Unknown where it is null: then the NOT NULL constraint says so. */
static FleetRideState
state_of(const Row *row, HeapTuple tuple)
{
	char	   *label = get_text(row, tuple, "status");

	return label == NULL ? FLEET_RIDE_UNKNOWN : fleet_handoff_state_parse(label);
}

static void
insert_ride(Row *row)
{
	FleetRideState state = state_of(row, row->tuple);
	bool		isnull;
	bool		no_start;
	Datum		start = get(row, row->tuple, "start_location", &no_start);

	if (state == FLEET_RIDE_UNKNOWN || no_start)
		return;
	check_vehicle(row);
	stamp_state(row, FLEET_RIDE_PENDING);
	stamp_state(row, state);
	(void) get(row, row->tuple, "current_location", &isnull);
	if (isnull)
		set(row, "current_location", start, false);
	if (state == FLEET_RIDE_COMPLETED)
		complete(row);
}

static void
update_ride(Row *row)
{
	FleetRideState from = state_of(row, row->old);
	FleetRideState to = state_of(row, row->tuple);

	if (to == FLEET_RIDE_UNKNOWN)
		return;
	if (!fleet_handoff_state_may_follow(from, to))
		raise_illegal(row, from, to);
	if (is_changed(row, "vehicle_id"))
		check_vehicle(row);
	add_path(row, from);
	if (from != to)
	{
		stamp_state(row, to);
		if (to == FLEET_RIDE_COMPLETED)
			complete(row);
	}
}

/* ---------- update and delete ---------- */

static void
refuse_change(const Row *row, const char *column)
{
	if (!is_changed(row, column))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("column \"%s\" of %s \"%s\" cannot be changed", column, row->kind, row->key),
			 strcmp(column, "region") == 0 ?
			 errhint("Use %s.", row->is_ride ? "fleet.handoff(ride_id, region)" :
					 "fleet.handoff_vehicle(vehicle_id, region)") : 0));
}

static void
before_update(Row *row)
{
	refuse_change(row, row->key_column);
	refuse_change(row, "region");
	if (row->is_ride)
		update_ride(row);
	set_version(row, DatumGetInt64(get(row, row->old, "epoch", NULL)), later_stamp(row));
}

static void
before_delete(Row *row)
{
	Datum		values[4];

	if (!row->is_ride)
	{
		const FleetRegionMap *map = fleet_region_map();
		Datum		key = CStringGetTextDatum(row->key);

		if (map->own != NULL &&
			fleet_base_plan_execute(&open_ride_plan, NULL, &key, NULL) > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
					 errmsg("vehicle \"%s\" has an open ride", row->key),
					 errdetail("It is ride \"%s\".", fleet_base_plan_text(0, 1)),
					 errhint("Complete or cancel the ride first.")));
	}
	values[0] = CStringGetTextDatum(row->kind);
	values[1] = CStringGetTextDatum(row->key);
	values[2] = get(row, row->tuple, "epoch", NULL);
	values[3] = Int64GetDatum((int64) later_stamp(row));
	fleet_base_plan_execute(&forget_plan, NULL, values, NULL);
	fleet_base_plan_execute(&bury_plan, NULL, values, NULL);
}

/* ---------- the triggers ---------- */

static void
read_row(Row *row, TriggerData *trigger)
{
	row->rel = trigger->tg_relation;
	row->desc = RelationGetDescr(trigger->tg_relation);
	row->is_ride = strcmp(trigger->tg_trigger->tgargs[0], "ride") == 0;
	row->kind = row->is_ride ? "ride" : "vehicle";
	row->key_column = row->is_ride ? "ride_id" : "vehicle_id";
	row->old = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_trigtuple : NULL;
	row->tuple = row->old ? trigger->tg_newtuple : trigger->tg_trigtuple;
	row->key = get_text(row, row->old ? row->old : row->tuple, row->key_column);
}

/* Is it an update of where a ride is, which may be lost where fixes may be? */
static bool
is_position(const Row *row, TriggerData *trigger)
{
	if (!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return false;
	for (int number = 1; number <= row->desc->natts; number++)
		if (!TupleDescAttr(row->desc, number - 1)->attisdropped &&
			number != number_of(row, "current_location") && is_changed_at(row, number))
			return false;
	return true;
}

/*
 * Most of what is written are positions, which are many and need no statement of
 * ours.
 */
static bool
needs_no_sql(const Row *row, TriggerData *trigger)
{
	return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
		!(row->is_ride && is_changed(row, "vehicle_id"));
}

/*
 * With a search_path of our own.  It is set here and not by the function's
 * declaration, which would cost every row of every handoff several microseconds
 * for nothing.
 */
static void
run_guard(Row *row, TriggerData *trigger)
{
	FleetCaller caller;
	int			nest = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	fleet_base_become_owner(&caller);
	if (!TRIGGER_FIRED_BEFORE(trigger->tg_event))
		after_insert(row);
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		before_insert(row);
		if (row->is_ride)
			insert_ride(row);
	}
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		before_update(row);
	else
		before_delete(row);
	fleet_base_become_caller(&caller);
	AtEOXact_GUC(true, nest);
}

Datum
fleet_handoff_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Row			row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fleet.guard is a row trigger of fleet's own tables")));
	if (fleet_handoff_is_moving())
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);
	fleet_base_require_loaded();
	read_row(&row, trigger);
	if (row.key == NULL)		/* the NOT NULL constraint says so */
		return PointerGetDatum(row.tuple);
	if (row.is_ride && fleet_base_durability_is_relaxed() && !is_position(&row, trigger))
		fleet_base_durability_restore();
	if (needs_no_sql(&row, trigger))
	{
		before_update(&row);
		return PointerGetDatum(row.tuple);
	}
	SPI_connect();
	run_guard(&row, trigger);
	row.tuple = SPI_copytuple(row.tuple);
	SPI_finish();
	return PointerGetDatum(row.tuple);
}

Datum
fleet_handoff_refuse_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fleet.refuse_write is a trigger of fleet's own tables")));
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_NOT_WRITABLE),
			 errmsg("cannot write to %ss of region \"%s\" here",
					trigger->tg_trigger->tgargs[0], trigger->tg_trigger->tgargs[1]),
			 errdetail("That region's node owns them; this node only reads them."),
			 errhint("Connect to that node, or move the %s here with %s.",
					 trigger->tg_trigger->tgargs[0],
					 strcmp(trigger->tg_trigger->tgargs[0], "ride") == 0 ?
					 "fleet.handoff(ride_id, region)" :
					 "fleet.handoff_vehicle(vehicle_id, region)")));
}
