/*-------------------------------------------------------------------------
 *
 * move.c
 *	  The two halves of a handoff on the nodes that own the regions.
 *
 * Depart, on the source: lock, check, delete the live rows, keep their
 * departures.  Arrive, on the target: insert the rows that the departures'
 * images describe, one epoch later.  Both write the log; the log row of a
 * branch is the proof that the branch was applied.
 *
 * A ride travels with its vehicle, and a vehicle with its open ride.  Locks are
 * taken on vehicles first, then on rides, each in the order of their ids, so
 * two handoffs on one node never wait for each other in a circle.
 *
 * The rows that travel are a JSON array of objects
 * {kind, key, epoch, hlc, source, target, image}; epoch, hlc, region
 * and image are those of the row as it will be on the target.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/move.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "handoff/move.h"
#include "handoff/state.h"

/* Ids, sorted. */
typedef struct IdSet
{
	int			n;
	char	  **ids;
} IdSet;

static int	moving = 0;

/* Vehicles to lock: those named, and those of the named rides. */
static FleetPlan lock_vehicles_plan = {
	"SELECT vehicle_id, epoch, hlc::bigint FROM fleet.vehicles_%s WHERE vehicle_id = ANY"
	" (CASE WHEN $1 THEN $2 ELSE ARRAY(SELECT vehicle_id FROM fleet.rides_%s"
	" WHERE ride_id = ANY ($2) AND vehicle_id IS NOT NULL) END)"
	" ORDER BY vehicle_id FOR UPDATE",
	2, {BOOLOID, TEXTARRAYOID}
};

/* Rides to lock: those named, and the open ones of the locked vehicles. */
static FleetPlan lock_rides_plan = {
	"SELECT ride_id, epoch, hlc::bigint, status::text, vehicle_id FROM fleet.rides_%s"
	" WHERE ride_id = ANY ($1) OR (vehicle_id = ANY ($2) AND status < 'COMPLETED')"
	" ORDER BY ride_id FOR UPDATE",
	2, {TEXTARRAYOID, TEXTARRAYOID}
};

static FleetPlan vehicle_is_here_plan = {
	"SELECT 1 FROM fleet.vehicles_%s WHERE vehicle_id = $1", 1, {TEXTOID}
};

/* Of the named, those that are not here, and where their departure points. */
#define WHEREABOUTS(table, key, kind) \
	"SELECT k.key, d.target FROM unnest($1) AS k(key) LEFT JOIN fleet.departures AS d" \
	" ON d.kind = '" kind "' AND d.key = k.key WHERE NOT EXISTS" \
	" (SELECT FROM fleet." table "_%s AS t WHERE t." key " = k.key)"

static FleetPlan whereabouts_plans[2] = {
	{WHEREABOUTS("rides", "ride_id", "ride"), 1, {TEXTARRAYOID}},
	{WHEREABOUTS("vehicles", "vehicle_id", "vehicle"), 1, {TEXTARRAYOID}}
};

#define DEPART(table, key, kind, vehicle, also) \
	"WITH gone AS (DELETE FROM fleet." table "_%s WHERE " key " = ANY ($1) RETURNING *)," \
	" kept AS (INSERT INTO fleet.departures AS d (kind, key, epoch, target, hlc, image, dtxid)" \
	"  SELECT '" kind "', " key ", epoch + 1, $2, $3::fleet.hlc, fleet.row_image(gone)" \
	"  || pg_catalog.jsonb_build_object('region', $2, 'epoch', epoch + 1, 'hlc', $3::fleet.hlc::text" also ")," \
	"  $4 FROM gone" \
	"  ON CONFLICT (kind, key) DO UPDATE SET epoch = excluded.epoch, target = excluded.target," \
	"  hlc = excluded.hlc, image = excluded.image, dtxid = excluded.dtxid, settled_hlc = NULL" \
	"  RETURNING *)," \
	" logged AS (INSERT INTO fleet.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)" \
	"  SELECT " vehicle ", '%s', $2, epoch, hlc, $4, 'departed' FROM kept)" \
	" SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', kind, 'key', key," \
	"  'epoch', epoch, 'hlc', hlc::bigint, 'source', '%s', 'target', target, 'image', image)), max(epoch)" \
	" FROM kept"

static FleetPlan depart_rides_plan = {
	DEPART("rides", "ride_id", "ride", "key, image->>'vehicle_id'", ""),
	4, {TEXTARRAYOID, TEXTOID, INT8OID, TEXTOID}
};

/* Having been outside of one region says nothing about the next. */
static FleetPlan depart_vehicles_plan = {
	DEPART("vehicles", "vehicle_id", "vehicle", "NULL, key",
		   ", 'outside_region', NULL, 'outside_since', NULL"),
	4, {TEXTARRAYOID, TEXTOID, INT8OID, TEXTOID}
};

/*
 * Rows of the array that may be applied.  Where the branch is redone, one
 * that is here, or has been here, at that epoch or later, is left alone.
 */
#define ARRIVING(table, key, kind) \
	"(SELECT a.* FROM pg_catalog.jsonb_to_recordset($1) AS a(kind text, key text," \
	" epoch bigint, hlc bigint, source text, target text, image jsonb)" \
	" WHERE a.kind = '" kind "' AND NOT ($2 AND (" \
	"  EXISTS (SELECT FROM fleet." table "_%s AS t WHERE t." key " = a.key AND t.epoch >= a.epoch)" \
	"  OR EXISTS (SELECT FROM fleet.departures AS d WHERE d.kind = a.kind AND d.key = a.key" \
	"   AND d.epoch >= a.epoch))))"

#define ARRIVE(table, key, kind) \
	"INSERT INTO fleet." table "_%s SELECT r.* FROM " ARRIVING(table, key, kind) " AS a," \
	" LATERAL pg_catalog.jsonb_populate_record(NULL::fleet." table "_%s, a.image) AS r"

static FleetPlan arrive_vehicles_plan = {
	ARRIVE("vehicles", "vehicle_id", "vehicle"), 2, {JSONBOID, BOOLOID}
};
static FleetPlan arrive_rides_plan = {
	ARRIVE("rides", "ride_id", "ride"), 2, {JSONBOID, BOOLOID}
};

/*
 * A target that went back in time may still have the row itself, older: it
 * gives way when the branch is redone.
 */
#define GIVE_WAY(table, key, kind) \
	"DELETE FROM fleet." table "_%s AS old USING " ARRIVING(table, key, kind) " AS a" \
	" WHERE old." key " = a.key"

static FleetPlan older_rides_plan = {
	GIVE_WAY("rides", "ride_id", "ride"), 2, {JSONBOID, BOOLOID}
};
static FleetPlan older_vehicles_plan = {
	GIVE_WAY("vehicles", "vehicle_id", "vehicle"), 2, {JSONBOID, BOOLOID}
};

/* The target's own older departure of a row that comes back is replaced. */
static FleetPlan replace_departures_plan = {
	"DELETE FROM fleet.departures AS d USING pg_catalog.jsonb_to_recordset($1)"
	" AS a(kind text, key text, epoch bigint)"
	" WHERE d.kind = a.kind AND d.key = a.key AND d.epoch < a.epoch",
	1, {JSONBOID}
};

static FleetPlan log_arrivals_plan = {
	"INSERT INTO fleet.handoff_log (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)"
	" SELECT CASE WHEN kind = 'ride' THEN key END,"
	" CASE WHEN kind = 'ride' THEN image->>'vehicle_id' ELSE key END,"
	" source, target, epoch, hlc::fleet.hlc, $2, 'arrived'"
	" FROM pg_catalog.jsonb_to_recordset($1) AS a(kind text, key text,"
	" epoch bigint, hlc bigint, source text, target text, image jsonb)",
	2, {JSONBOID, TEXTOID}
};

static FleetPlan newest_plan = {
	"SELECT max((a->>'hlc')::bigint), count(*) FILTER (WHERE a->>'kind' = 'ride'),"
	" count(*) FILTER (WHERE a->>'kind' = 'vehicle'),"
	" min(a->>'key') FILTER (WHERE EXISTS (SELECT FROM fleet.departures AS d"
	"  WHERE d.kind = a->>'kind' AND d.key = a->>'key' AND d.epoch >= (a->>'epoch')::bigint))"
	" FROM pg_catalog.jsonb_array_elements($1) AS a",
	1, {JSONBOID}
};

static FleetPlan open_rides_plan = {
	"SELECT count(*) FROM (SELECT FROM fleet.rides_%s WHERE status < 'COMPLETED' LIMIT $1) AS o",
	1, {INT8OID}
};

/* Are rows of rides and vehicles being moved by us (and not changed by a user)? */
bool
fleet_handoff_is_moving(void)
{
	return moving > 0;
}

/* A handoff that was begun with another region map than ours is refused. */
void
fleet_handoff_check_map(const FleetRegionMap *map, int64 version)
{
	if (map->version != version)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_STALE_MAP),
				 errmsg("the region map has changed"),
				 errdetail("The caller has version " INT64_FORMAT ", node \"%s\" has version " INT64_FORMAT ".",
						   version, map->node, map->version),
				 errhint("Try again.")));
}

static const FleetRegion *
own_region(const FleetRegionMap *map)
{
	if (map->own == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_UNKNOWN_REGION),
				 errmsg("node \"%s\" owns no region", map->node)));
	return map->own;
}

/* ---------- departure ---------- */

/* Column 1 of the result as text[]; *newest is the greatest of column 3. */
static Datum
locked_ids(int n, uint64 *newest)
{
	Datum	   *ids = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		ids[i] = CStringGetTextDatum(fleet_base_plan_text(i, 1));
		*newest = Max(*newest, (uint64) fleet_base_plan_int64(i, 3, NULL));
	}
	return PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static int
compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The ids of a text[] as sorted C strings. */
static IdSet
sorted_ids(Datum array)
{
	IdSet		set;
	Datum	   *elems;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, &set.n);
	set.ids = palloc(sizeof(char *) * Max(set.n, 1));
	for (int i = 0; i < set.n; i++)
		set.ids[i] = TextDatumGetCString(elems[i]);
	qsort(set.ids, set.n, sizeof(char *), compare_strings);
	return set;
}

static bool
has_id(const IdSet *set, const char *id)
{
	return bsearch(&id, set->ids, set->n, sizeof(char *), compare_strings) != NULL;
}

static void
check_epoch(const FleetLeaving *leaving, const char *id, int64 epoch)
{
	if (leaving->expected_epoch == 0 || leaving->expected_epoch == epoch)
		return;
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_STALE_EPOCH),
			 errmsg("%s \"%s\" is at epoch " INT64_FORMAT ", not " INT64_FORMAT,
					leaving->vehicles ? "vehicle" : "ride", id, epoch,
					leaving->expected_epoch),
			 errdetail("It was handed off since the caller read it."),
			 errhint("Read it again.")));
}

/*
 * A ride was given another vehicle after we looked for its vehicle: to lock
 * that one now would be against the order of locks.
 */
static void
check_vehicle(const FleetRegion *own, const char *ride, const char *vehicle,
			  const IdSet *vehicles)
{
	Datum		value;

	if (vehicle == NULL || has_id(vehicles, vehicle))
		return;
	value = CStringGetTextDatum(vehicle);
	if (fleet_base_plan_execute(&vehicle_is_here_plan, own->name, &value, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("ride \"%s\" was given another vehicle meanwhile", ride),
				 errhint("Try again.")));
}

/* Check the locked rides; returns how many of them were named. */
static int
check_rides(const FleetRegion *own, const FleetLeaving *leaving, int n, Datum vehicles)
{
	SPITupleTable *rides = SPI_tuptable;
	IdSet		asked_for = sorted_ids(leaving->ids);
	IdSet		locked = sorted_ids(vehicles);
	int			named = 0;

	for (int i = 0; i < n; i++)
	{
		char	   *id = fleet_base_plan_text(i, 1);
		char	   *status = fleet_base_plan_text(i, 4);
		char	   *vehicle = fleet_base_plan_text(i, 5);
		int64		epoch = fleet_base_plan_int64(i, 2, NULL);

		if (leaving->vehicles || !has_id(&asked_for, id))
			continue;
		named++;
		check_epoch(leaving, id, epoch);
		if (!fleet_handoff_state_is_open(fleet_handoff_state_parse(status)))
			ereport(ERROR,
					(errcode(FLEET_ERRCODE_RIDE_CLOSED),
					 errmsg("ride \"%s\" is closed", id),
					 errdetail("Its status is %s.", status),
					 errhint("A closed ride stays in the region where it ended.")));
		check_vehicle(own, id, vehicle, &locked);
		SPI_tuptable = rides;
	}
	return named;
}

/*
 * Lock what is to leave.  Returns how many of the named were found; their
 * ids, with those of what travels along, in *vehicles and *rides.
 */
static int
lock_leaving(const FleetRegion *own, const FleetLeaving *leaving,
			 Datum *vehicles, Datum *rides, uint64 *newest)
{
	Datum		values[2];
	int			n;
	int			found = 0;

	values[0] = BoolGetDatum(leaving->vehicles);
	values[1] = leaving->ids;
	n = fleet_base_plan_execute(&lock_vehicles_plan, own->name, values, NULL);
	*vehicles = locked_ids(n, newest);
	if (leaving->vehicles)
	{
		found = n;
		for (int i = 0; i < n; i++)
			check_epoch(leaving, fleet_base_plan_text(i, 1),
						fleet_base_plan_int64(i, 2, NULL));
	}

	values[0] = leaving->vehicles ?
		PointerGetDatum(construct_empty_array(TEXTOID)) : leaving->ids;
	values[1] = *vehicles;
	n = fleet_base_plan_execute(&lock_rides_plan, own->name, values, NULL);
	*rides = locked_ids(n, newest);
	return found + check_rides(own, leaving, n, *vehicles);
}

/* The same, where waiting too long for a lock is said in our words. */
static int
lock_leaving_or_say(const FleetRegion *own, const FleetLeaving *leaving,
					Datum *vehicles, Datum *rides, uint64 *newest)
{
	MemoryContext context = CurrentMemoryContext;
	int			nest = NewGUCNestLevel();
	int			found = 0;

	(void) set_config_option("lock_timeout",
							 psprintf("%d", leaving->lock_timeout),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		found = lock_leaving(own, leaving, vehicles, rides, newest);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_LOCKED),
				 errmsg("%s is locked by another transaction",
						leaving->vehicles ? "the vehicle or its ride" : "the ride or its vehicle"),
				 errdetail("It was waited for %d ms in region \"%s\".",
						   leaving->lock_timeout, own->name),
				 errhint("Try again, or raise fleet.lock_timeout.")));
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest);
	return found;
}

/* {NULL, key, region, key, region, ...}: where they went; NULL = not known here. */
static Datum
say_whereabouts(const FleetRegion *own, const FleetLeaving *leaving)
{
	Datum		ids = leaving->ids;
	Datum	   *elems;
	bool	   *nulls;
	int			dims;
	int			lbound = 1;
	int			n;

	n = fleet_base_plan_execute(&whereabouts_plans[leaving->vehicles ? 1 : 0], own->name,
								&ids, NULL);
	dims = 1 + 2 * n;
	elems = palloc0(sizeof(Datum) * dims);
	nulls = palloc0(sizeof(bool) * dims);
	nulls[0] = true;
	for (int i = 0; i < n; i++)
	{
		char	   *region = fleet_base_plan_text(i, 2);

		elems[1 + 2 * i] = CStringGetTextDatum(fleet_base_plan_text(i, 1));
		nulls[2 + 2 * i] = region == NULL;
		if (region != NULL)
			elems[2 + 2 * i] = CStringGetTextDatum(region);
	}
	return PointerGetDatum(construct_md_array(elems, nulls, 1, &dims, &lbound,
											  TEXTOID, -1, false, TYPALIGN_INT));
}

static int
count_ids(Datum ids)
{
	ArrayType  *array = DatumGetArrayTypeP(ids);

	return ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
}

/* Delete these rows and keep their departures.  The rows, or NULL if none. */
static char *
leave_kind(const FleetRegion *own, FleetPlan *plan, Datum ids, Datum *values, int64 *epoch)
{
	if (count_ids(ids) == 0)
		return NULL;
	values[0] = ids;
	fleet_base_plan_execute(plan, own->name, values, NULL);
	*epoch = fleet_base_plan_int64(0, 2, NULL);
	return fleet_base_plan_text(0, 1);
}

/* Delete the locked rows and keep their departures: {rows, epoch, hlc}. */
static Datum
leave(const FleetRegion *own, const FleetLeaving *leaving,
	  Datum vehicles, Datum rides, uint64 hlc)
{
	Datum		values[4];
	Datum		elems[3];
	char	   *ride_rows;
	char	   *vehicle_rows;
	char	   *rows;
	int64		ride_epoch = 0;
	int64		vehicle_epoch = 0;

	values[1] = CStringGetTextDatum(leaving->target);
	values[2] = Int64GetDatum((int64) hlc);
	values[3] = CStringGetTextDatum(leaving->dtxid);
	ride_rows = leave_kind(own, &depart_rides_plan, rides, values, &ride_epoch);
	vehicle_rows = leave_kind(own, &depart_vehicles_plan, vehicles, values, &vehicle_epoch);

	/* Two JSON arrays, each perhaps absent, become one. */
	rows = ride_rows ? ride_rows : vehicle_rows;
	if (ride_rows != NULL && vehicle_rows != NULL)
	{
		ride_rows[strlen(ride_rows) - 1] = '\0';
		rows = psprintf("%s, %s", ride_rows, vehicle_rows + 1);
	}
	elems[0] = CStringGetTextDatum(rows);
	elems[1] = CStringGetTextDatum(psprintf(INT64_FORMAT,
											leaving->vehicles ? vehicle_epoch : ride_epoch));
	elems[2] = CStringGetTextDatum(psprintf(UINT64_FORMAT, hlc));
	return PointerGetDatum(construct_array(elems, 3, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * The source's half.  Returns a text[]: {rows, greatest new epoch, HLC} when all
 * that was named has left; else {NULL, id, region, id, region, ...} for those
 * that are not here (region is where their departure points, or NULL), with
 * nothing changed.  Refusals are raised.
 */
Datum
fleet_handoff_depart(const FleetRegionMap *map, const FleetLeaving *leaving)
{
	const FleetRegion *own = own_region(map);
	FleetCaller caller;
	MemoryContext context = CurrentMemoryContext;
	Datum		vehicles;
	Datum		rides;
	Datum		result;
	uint64		newest = 0;
	int			found;

	if (count_ids(leaving->ids) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no ride or vehicle was named")));
	fleet_base_become_owner(&caller);
	SPI_connect();
	found = lock_leaving_or_say(own, leaving, &vehicles, &rides, &newest);
	FLEET_FAULT("depart-locked");
	if (found < count_ids(leaving->ids))
		result = say_whereabouts(own, leaving);
	else
	{
		/* A row may carry a stamp that this clock has not seen (restart). */
		(void) fleet_clock_receive(newest);
		moving++;
		PG_TRY();
		{
			result = leave(own, leaving, vehicles, rides, fleet_clock_now());
		}
		PG_FINALLY();
		{
			moving--;
		}
		PG_END_TRY();
	}
	MemoryContextSwitchTo(context);
	result = PointerGetDatum(DatumGetArrayTypePCopy(result));
	SPI_finish();
	fleet_base_become_caller(&caller);
	return result;
}

/* ---------- arrival ---------- */

static void
check_capacity(const FleetRegion *own, int64 arriving)
{
	Datum		limit;
	int64		open;

	if (own->capacity < 0 || arriving == 0)
		return;
	limit = Int64GetDatum((int64) own->capacity + 1);
	fleet_base_plan_execute(&open_rides_plan, own->name, &limit, NULL);
	open = fleet_base_plan_int64(0, 1, NULL);
	if (open + arriving > own->capacity)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_OVER_CAPACITY),
				 errmsg("region \"%s\" is at its capacity", own->name),
				 errdetail("It has " INT64_FORMAT " open rides and takes %d; " INT64_FORMAT " would arrive.",
						   open, own->capacity, arriving),
				 errhint("Raise it with fleet.set_capacity, or try again when rides have ended.")));
}

static void
apply_arrivals(const FleetRegion *own, const char *dtxid, Datum rows, bool with_vehicles,
			   bool redo)
{
	Datum		values[2];

	values[0] = rows;
	values[1] = BoolGetDatum(redo);
	if (redo)
	{
		fleet_base_plan_execute(&older_rides_plan, own->name, values, NULL);
		fleet_base_plan_execute(&older_vehicles_plan, own->name, values, NULL);
	}
	if (with_vehicles)
		fleet_base_plan_execute(&arrive_vehicles_plan, own->name, values, NULL);
	fleet_base_plan_execute(&arrive_rides_plan, own->name, values, NULL);
	fleet_base_plan_execute(&replace_departures_plan, NULL, values, NULL);
	values[1] = CStringGetTextDatum(dtxid);
	fleet_base_plan_execute(&log_arrivals_plan, NULL, values, NULL);
}

/*
 * The target's half.  rows is a jsonb.  Returns the number of rides.  With redo,
 * what has been here at that epoch or later is left alone, and the capacity is
 * not asked about: the decision was made.
 */
int
fleet_handoff_arrive(const FleetRegionMap *map, const char *dtxid, Datum rows, bool redo)
{
	const FleetRegion *own = own_region(map);
	FleetCaller caller;
	int64		arriving;
	bool		with_vehicles;
	char	   *newer;

	fleet_base_become_owner(&caller);
	SPI_connect();
	fleet_base_plan_execute(&newest_plan, NULL, &rows, NULL);
	(void) fleet_clock_receive((uint64) fleet_base_plan_int64(0, 1, NULL));
	arriving = fleet_base_plan_int64(0, 2, NULL);
	with_vehicles = fleet_base_plan_int64(0, 3, NULL) > 0;
	newer = fleet_base_plan_text(0, 4);
	if (newer != NULL && !redo)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("\"%s\" has been in region \"%s\" at a later epoch", newer, own->name),
				 errdetail("An older copy of it must not come back.")));
	if (!redo)
		check_capacity(own, arriving);
	moving++;
	PG_TRY();
	{
		apply_arrivals(own, dtxid, rows, with_vehicles, redo);
	}
	PG_FINALLY();
	{
		moving--;
	}
	PG_END_TRY();
	FLEET_FAULT("arrived");
	SPI_finish();
	fleet_base_become_caller(&caller);
	return (int) arriving;
}
