/*-------------------------------------------------------------------------
 *
 * track.c
 *	  Position reports: fleet.report_fix().
 *
 *	1. The fix is checked; what is no position is refused, and so is one that comes
 *	   too soon after the last (pace.c).
 *	2. The vehicle's row is locked.  A fix that is not newer than the row's is
 *	   stale and changes nothing, so a repeated report does no harm.
 *	3. The crossing rule (rules.c) says what it means for the region.
 *	4. The row, and the place of the vehicle's open ride, are updated.
 *	5. Where the vehicle has crossed, it is handed off with its open ride: by a
 *	   worker, soon (queue.c), or in the same transaction.
 *
 * A vehicle that is not here is looked for (handoff/route.c), and the node that
 * has it does 2 to 4.
 *
 * All statements run as the caller, on the partitioned tables, so that the
 * caller's grants and policies decide.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/track.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "handoff/handoff.h"
#include "region/locate.h"
#include "track/fix.h"
#include "track/limit.h"
#include "track/queue.h"
#include "track/rules.h"
#include "track/track.h"

PG_FUNCTION_INFO_V1(fleet_track_report_fix);

/* Arguments of fleet.report_fix. */
enum
{
	ARG_VEHICLE, ARG_LON, ARG_LAT, ARG_AT, ARG_SPEED, ARG_HEADING,
	ARG_ACCURACY, ARG_BATTERY, ARG_ALTITUDE, ARG_STATUS
};

static FleetPlan vehicle_plan = {
	"SELECT epoch, fix_at, fleet.lon(location), fleet.lat(location), outside_region, outside_since"
	" FROM fleet.vehicles WHERE region = '%s' AND vehicle_id = $1 FOR NO KEY UPDATE",
	1, {TEXTOID}
};
static FleetPlan update_plan = {
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
	" WHERE region = '%s' AND vehicle_id = $1 AND status < 'COMPLETED'",
	3, {TEXTOID, FLOAT8OID, FLOAT8OID}
};

/* Made where the vehicle is; a null outcome where this is itself done for another node. */
static FleetPlan elsewhere_plan = {
	"SELECT r->>'outcome', r->>'region', (r->>'epoch')::bigint FROM fleet.route('report_fix', $1, NULL, pg_catalog.jsonb_build_object("
	"'vehicle_id', $1, 'lon', $2, 'lat', $3, 'at', $4, 'speed_kmh', $5, 'heading', $6, 'accuracy_m', $7,"
	" 'battery_pct', $8, 'altitude_m', $9, 'status', $10)) AS r",
	10, {TEXTOID, FLOAT8OID, FLOAT8OID, TIMESTAMPTZOID, FLOAT8OID, FLOAT8OID,
		FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}
};

void
fleet_track_init(void)
{
	fleet_track_rules_init();
	fleet_track_flap_init();
	fleet_track_queue_init();
	fleet_track_limit_init();
	fleet_track_pace_init();
}

/* ---------- checking the fix ---------- */

static void
refuse_fix(const char *what, const char *range)
{
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_INVALID_FIX),
			 errmsg("invalid fix: %s", what),
			 errdetail_internal("%s", range)));
}

static void
check_range(FunctionCallInfo fcinfo, int arg, const char *name, double low, double high,
			const char *range)
{
	double		value;

	if (PG_ARGISNULL(arg))
		return;
	value = PG_GETARG_FLOAT8(arg);
	if (isnan(value) || value < low || value > high)
		refuse_fix(psprintf("%s is %g", name, value), range);
}

static void
check_fix(FunctionCallInfo fcinfo)
{
	for (int i = ARG_VEHICLE; i <= ARG_AT; i++)
		if (PG_ARGISNULL(i))
			refuse_fix("something is null", "Vehicle, longitude, latitude and time must be given.");
	check_range(fcinfo, ARG_LON, "longitude", -180, 180, "It is from -180 to 180 degrees.");
	check_range(fcinfo, ARG_LAT, "latitude", -90, 90, "It is from -90 to 90 degrees.");
	check_range(fcinfo, ARG_SPEED, "speed", 0, 10000, "It is from 0 to 10000 km/h.");
	check_range(fcinfo, ARG_HEADING, "heading", 0, 360, "It is from 0 to 360 degrees.");
	check_range(fcinfo, ARG_ACCURACY, "accuracy", 0, 100000, "It is from 0 to 100000 metres.");
	check_range(fcinfo, ARG_BATTERY, "battery", 0, 100, "It is from 0 to 100 per cent.");
	check_range(fcinfo, ARG_ALTITUDE, "altitude", -1000, 100000, "It is from -1000 to 100000 metres.");
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(ARG_AT)))
		refuse_fix("its time is infinite", "A fix was taken at some time.");
	if (PG_GETARG_TIMESTAMPTZ(ARG_AT) >
		GetCurrentTimestamp() + INT64CONST(1000) * fleet_clock_max_skew)
		refuse_fix(psprintf("its time is %s",
							timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(ARG_AT))),
				   "It is ahead of this server's clock by more than fleet.max_clock_skew.");
}

/* ---------- the vehicle ---------- */

/* Lock and read the vehicle's row; false where it is not here. */
static bool
lock_vehicle(const FleetRegionMap *map, const char *id, FleetFixVehicle *vehicle)
{
	const FleetRegion *own = map->own;
	Datum		key = CStringGetTextDatum(id);
	bool		no_fix;
	bool		no_place;
	char	   *outside;
	bool		isnull;
	HeapTuple	row;
	TupleDesc	desc;

	if (own == NULL)
		return false;
	(void) fleet_handoff_await(map, true, id);
	if (fleet_base_plan_execute(&vehicle_plan, own->name, &key, NULL) == 0)
		return false;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	vehicle->epoch = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	vehicle->fix_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &no_fix));
	vehicle->has_fix = !no_fix;
	(void) SPI_getbinval(row, desc, 3, &no_place);
	vehicle->has_place = !no_place;
	if (!no_place)
	{
		vehicle->lon = DatumGetFloat8(SPI_getbinval(row, desc, 3, &isnull));
		vehicle->lat = DatumGetFloat8(SPI_getbinval(row, desc, 4, &isnull));
	}
	outside = SPI_getvalue(row, desc, 5);
	vehicle->outside = outside ? fleet_region_find(map, outside) : NULL;
	if (vehicle->outside != NULL)
		vehicle->outside_since = DatumGetTimestampTz(SPI_getbinval(row, desc, 6, &isnull));
	return true;
}

/*
 * What is to be remembered of having been seen outside: in which region, and
 * since when.  A fix in no region says nothing new; one in yet another region
 * begins anew.
 */
static void
remember_outside(FleetFixVehicle *vehicle, const FleetRegion *own, const FleetRegion *at_region,
				 TimestampTz at)
{
	if (at_region == NULL || at_region == vehicle->outside)
		return;
	vehicle->outside = at_region == own ? NULL : at_region;
	vehicle->outside_since = at;
}

/* The fix's region, in the same copy of the map as the vehicle's. */
static const FleetRegion *
region_of_fix(const FleetRegionMap *map, double lon, double lat)
{
	const FleetRegion *region = fleet_region_at(lon, lat);

	return region ? fleet_region_find(map, region->name) : NULL;
}

/* The arguments as values of a statement; the status as text. */
static void
read_arguments(FunctionCallInfo fcinfo, Datum *values, char *nulls)
{
	for (int i = ARG_VEHICLE; i <= ARG_STATUS; i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_GETARG_DATUM(i);
	}
	if (!PG_ARGISNULL(ARG_STATUS))
		values[ARG_STATUS] = CStringGetTextDatum(DatumGetCString(
			DirectFunctionCall1(enum_out, PG_GETARG_DATUM(ARG_STATUS))));
}

/* Write the fix into the vehicle's row and its open ride's. */
static void
store_fix(FunctionCallInfo fcinfo, const FleetRegion *own, const FleetFixVehicle *vehicle)
{
	Datum		values[12];
	char		nulls[13] = "            ";

	read_arguments(fcinfo, values, nulls);
	nulls[10] = nulls[11] = vehicle->outside == NULL ? 'n' : ' ';
	if (vehicle->outside != NULL)
	{
		values[10] = CStringGetTextDatum(vehicle->outside->name);
		values[11] = TimestampTzGetDatum(vehicle->outside_since);
	}
	fleet_base_plan_execute(&update_plan, own->name, values, nulls);
	fleet_base_plan_execute(&ride_plan, own->name, values, NULL);
}

static Datum
make_result(FunctionCallInfo fcinfo, const char *outcome, const char *region, int64 epoch)
{
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(outcome);
	values[1] = CStringGetTextDatum(region);
	values[2] = Int64GetDatum(epoch);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

static int64
hand_off(FunctionCallInfo fcinfo, const FleetRegion *target)
{
	Datum		id = PG_GETARG_DATUM(ARG_VEHICLE);

	return fleet_handoff_run(true, construct_array(&id, 1, TEXTOID, -1, false, TYPALIGN_INT),
							 target->name, 0);
}

/*
 * The vehicle is not here.  The region that has it takes the fix; where that says
 * that the vehicle has crossed a border it is for us to hand it off, whose
 * transaction it is.
 */
static Datum
report_elsewhere(FunctionCallInfo fcinfo)
{
	Datum		values[10];
	char		nulls[11] = "          ";
	MemoryContext context = CurrentMemoryContext;
	const char *outcome;
	const char *region;
	int64		epoch;

	read_arguments(fcinfo, values, nulls);
	SPI_connect();
	fleet_base_plan_execute(&elsewhere_plan, NULL, values, nulls);
	outcome = fleet_base_plan_text(0, 1);
	region = fleet_base_plan_text(0, 2);
	epoch = fleet_base_plan_int64(0, 3, NULL);
	if (outcome != NULL)
	{
		outcome = MemoryContextStrdup(context, outcome);
		region = MemoryContextStrdup(context, region);
	}
	SPI_finish();
	if (outcome == NULL)
		return (Datum) 0;
	if (strcmp(outcome, "crossed") == 0)
		return make_result(fcinfo, "moved", region,
						   hand_off(fcinfo, fleet_region_require(fleet_region_map_member(), region)));
	return make_result(fcinfo, outcome, region, epoch);
}

/* fleet.report_fix(...) -> fleet.fix_result */
Datum
fleet_track_report_fix(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	const FleetRegion *own = map->own;
	const FleetRegion *at_region;
	FleetFix	fix = {0};
	FleetFixVehicle vehicle = {0};
	FleetCrossing crossing;
	bool		queued = false;

	check_fix(fcinfo);
	fix.vehicle = text_to_cstring(PG_GETARG_TEXT_PP(ARG_VEHICLE));
	fix.lon = PG_GETARG_FLOAT8(ARG_LON);
	fix.lat = PG_GETARG_FLOAT8(ARG_LAT);
	fix.at = PG_GETARG_TIMESTAMPTZ(ARG_AT);

	if (own != NULL)
		fleet_track_pace_look(fix.vehicle);
	SPI_connect();
	if (!lock_vehicle(map, fix.vehicle, &vehicle))
	{
		Datum		result;

		SPI_finish();
		result = report_elsewhere(fcinfo);
		fcinfo->isnull = result == (Datum) 0;
		return result;
	}
	fleet_track_pace_take(fix.vehicle);
	if (vehicle.has_fix && fix.at <= vehicle.fix_at)
	{
		SPI_finish();
		return make_result(fcinfo, "stale", own->name, vehicle.epoch);
	}
	at_region = region_of_fix(map, fix.lon, fix.lat);
	crossing = fleet_track_cross_decide(own, at_region, &vehicle, &fix);
	if (crossing != FLEET_CROSSING_IMPLAUSIBLE)
	{
		remember_outside(&vehicle, own, at_region, fix.at);
		store_fix(fcinfo, own, &vehicle);
	}
	SPI_finish();

	if (crossing == FLEET_CROSSING_IMPLAUSIBLE)
		return make_result(fcinfo, "implausible", own->name, vehicle.epoch);
	if (crossing == FLEET_CROSSING_CROSS)
		queued = fleet_track_queue_add(fix.vehicle, vehicle.epoch, at_region);
	if (queued)
		return make_result(fcinfo, "queued", own->name, vehicle.epoch);
	if (crossing == FLEET_CROSSING_CROSS && fleet_handoff_is_serving())
		return make_result(fcinfo, "crossed", at_region->name, vehicle.epoch);
	if (crossing == FLEET_CROSSING_CROSS)
		return make_result(fcinfo, "moved", at_region->name, hand_off(fcinfo, at_region));
	return make_result(fcinfo, "accepted", own->name, vehicle.epoch);
}
