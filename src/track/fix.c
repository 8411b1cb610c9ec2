/*-------------------------------------------------------------------------
 *
 * fix.c
 *	  What is a position report, and what is none.
 *
 * What is wrong with a fix is a value here and not an error at once, because one
 * among many must not lose the others.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fix.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "clock/clock.h"
#include "track/fix.h"

/* What a number may be. */
typedef struct Range
{
	const char *name;
	double		low;
	double		high;
	const char *text;
} Range;

static const Range longitudes = {"longitude", -180, 180, "It is from -180 to 180 degrees."};
static const Range latitudes = {"latitude", -90, 90, "It is from -90 to 90 degrees."};
static const Range measures[FLEET_FIX_MEASURES] = {
	[FLEET_FIX_SPEED] = {"speed", 0, 10000, "It is from 0 to 10000 km/h."},
	[FLEET_FIX_HEADING] = {"heading", 0, 360, "It is from 0 to 360 degrees."},
	[FLEET_FIX_ACCURACY] = {"accuracy", 0, 100000, "It is from 0 to 100000 metres."},
	[FLEET_FIX_BATTERY] = {"battery", 0, 100, "It is from 0 to 100 per cent."},
	[FLEET_FIX_ALTITUDE] = {"altitude", -1000, 100000, "It is from -1000 to 100000 metres."},
};

/* The strings are not copied. */
FleetFixRefusal *
fleet_track_fix_refusal(int sqlstate, const char *message, const char *detail,
						const char *hint)
{
	FleetFixRefusal *refusal = palloc(sizeof(FleetFixRefusal));

	refusal->sqlstate = sqlstate;
	refusal->message = message;
	refusal->detail = detail;
	refusal->hint = hint;
	return refusal;
}

void
fleet_track_fix_raise(const FleetFixRefusal *refusal)
{
	ereport(ERROR,
			(errcode(refusal->sqlstate),
			 errmsg_internal("%s", refusal->message),
			 refusal->detail ? errdetail_internal("%s", refusal->detail) : 0,
			 refusal->hint ? errhint("%s", refusal->hint) : 0));
}

static FleetFixRefusal *
invalid(const char *what, const char *detail)
{
	return fleet_track_fix_refusal(FLEET_ERRCODE_INVALID_FIX,
								   psprintf("invalid fix: %s", what), detail, NULL);
}

static FleetFixRefusal *
out_of_range(const Range *range, double value)
{
	return invalid(psprintf("%s is %g", range->name, value), range->text);
}

/* Comparisons with NaN are false. */
static bool
is_within(const Range *range, double value)
{
	return value >= range->low && value <= range->high;
}

static FleetFixRefusal *
check_time(TimestampTz at)
{
	if (TIMESTAMP_NOT_FINITE(at))
		return invalid("its time is infinite", "A fix was taken at some time.");
	if (at > GetCurrentTimestamp() + INT64CONST(1000) * fleet_clock_max_skew)
		return invalid(psprintf("its time is %s", timestamptz_to_str(at)),
					   "It is ahead of this server's clock by more than fleet.max_clock_skew.");
	return NULL;
}

/* Read it from values in the order of the arguments. */
void
fleet_track_fix_read(FleetFix *fix, const Datum *values, const bool *nulls)
{
	fix->missing = false;
	for (int i = FLEET_FIX_ARG_VEHICLE; i <= FLEET_FIX_ARG_AT; i++)
		fix->missing |= nulls[i];
	fix->vehicle = nulls[FLEET_FIX_ARG_VEHICLE] ? NULL :
		TextDatumGetCString(values[FLEET_FIX_ARG_VEHICLE]);
	fix->lon = nulls[FLEET_FIX_ARG_LON] ? NAN : DatumGetFloat8(values[FLEET_FIX_ARG_LON]);
	fix->lat = nulls[FLEET_FIX_ARG_LAT] ? NAN : DatumGetFloat8(values[FLEET_FIX_ARG_LAT]);
	fix->at = nulls[FLEET_FIX_ARG_AT] ? 0 : DatumGetTimestampTz(values[FLEET_FIX_ARG_AT]);
	for (int i = 0; i < FLEET_FIX_MEASURES; i++)
	{
		fix->given[i] = !nulls[FLEET_FIX_ARG_MEASURES + i];
		fix->measured[i] = fix->given[i] ? DatumGetFloat8(values[FLEET_FIX_ARG_MEASURES + i]) : NAN;
	}
	fix->status = nulls[FLEET_FIX_ARG_STATUS] ? NULL :
		DatumGetCString(DirectFunctionCall1(enum_out, values[FLEET_FIX_ARG_STATUS]));
}

/* The other way round, as arguments of a statement; the status as text. */
void
fleet_track_fix_values(const FleetFix *fix, Datum *values, char *nulls)
{
	values[FLEET_FIX_ARG_VEHICLE] = CStringGetTextDatum(fix->vehicle);
	values[FLEET_FIX_ARG_LON] = Float8GetDatum(fix->lon);
	values[FLEET_FIX_ARG_LAT] = Float8GetDatum(fix->lat);
	values[FLEET_FIX_ARG_AT] = TimestampTzGetDatum(fix->at);
	for (int i = 0; i < FLEET_FIX_MEASURES; i++)
	{
		values[FLEET_FIX_ARG_MEASURES + i] = Float8GetDatum(fix->measured[i]);
		nulls[FLEET_FIX_ARG_MEASURES + i] = fix->given[i] ? ' ' : 'n';
	}
	values[FLEET_FIX_ARG_STATUS] = fix->status ? CStringGetTextDatum(fix->status) : (Datum) 0;
	nulls[FLEET_FIX_ARG_STATUS] = fix->status ? ' ' : 'n';
}

/* What is wrong with it, palloc'd, or NULL. */
FleetFixRefusal *
fleet_track_fix_check(const FleetFix *fix)
{
	if (fix->vehicle == NULL || fix->missing)
		return invalid("something is null", "Vehicle, longitude, latitude and time must be given.");
	if (!is_within(&longitudes, fix->lon))
		return out_of_range(&longitudes, fix->lon);
	if (!is_within(&latitudes, fix->lat))
		return out_of_range(&latitudes, fix->lat);
	for (int i = 0; i < FLEET_FIX_MEASURES; i++)
		if (fix->given[i] && !is_within(&measures[i], fix->measured[i]))
			return out_of_range(&measures[i], fix->measured[i]);
	return check_time(fix->at);
}
