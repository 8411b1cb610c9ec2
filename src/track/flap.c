/*-------------------------------------------------------------------------
 *
 * flap.c
 *	  Vehicles that go back and forth: damped, and shown in fleet.flapping.
 *
 * A vehicle that zigzags over a border, or two devices under one id, would be handed
 * off at each fix.  How often a vehicle was handed off lately is known to every node
 * that has seen it: the handoff log has a row for each arrival and each departure, written in
 * the transaction of the handoff.  So there is no state that would have to
 * travel with the vehicle, be bounded, or survive a crash, and a node to which a
 * vehicle comes back knows what the last one knew: both took part in each of these
 * handoffs.  The count falls by itself as handoffs get older than
 * fleet.flap_window, which also bounds the delay (crossing.c).
 *
 * The log is looked at only for a fix that would cross, by an index, and of a vehicle
 * only the latest rows.  The window is one of real time, that of the log: what is
 * to be prevented is a storm of handoffs, whatever time the fixes say.
 *
 * fleet.flaps is for the view alone: who was damped, or jumped, and how often.  It is
 * written where the vehicle's row is locked, so never by two at a time.  It is
 * not logged, for nothing depends on it; the resolver deletes what is old.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/flap.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/plan.h"
#include "track/rules.h"

static int	flap_window = 600;

static FleetPlan handoffs_plan = {
	"SELECT pg_catalog.count(*) FROM (SELECT started_at FROM fleet.handoff_log"
	" WHERE vehicle_id = $1 AND ride_id IS NULL AND status <> 'reinserted' ORDER BY epoch DESC LIMIT 16) AS h"
	" WHERE started_at > pg_catalog.clock_timestamp() - $2 * interval '1 second'",
	2, {TEXTOID, INT4OID}
};
static FleetPlan note_plan = {
	"INSERT INTO fleet.flaps AS f (vehicle_id, kind, damped_until) VALUES ($1, $2, $3)"
	" ON CONFLICT (vehicle_id) DO UPDATE SET kind = $2, damped_until = $3, last_at = pg_catalog.clock_timestamp(),"
	" count = CASE WHEN f.last_at > pg_catalog.clock_timestamp() - $4 * interval '1 second' THEN f.count + 1 ELSE 1 END,"
	" since = CASE WHEN f.last_at > pg_catalog.clock_timestamp() - $4 * interval '1 second' THEN f.since"
	" ELSE pg_catalog.clock_timestamp() END",
	4, {TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID}
};

void
fleet_track_flap_init(void)
{
	DefineCustomIntVariable("fleet.flap_window",
							"How long a handoff counts against a vehicle that goes back and forth.",
							"Raise it where vehicles flap slowly, lower it where they have reason to come back soon; 0 turns damping off.",
							&flap_window, 600, 0, 86400,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
}

static int
count_handoffs(const char *vehicle)
{
	Datum		values[2] = {CStringGetTextDatum(vehicle), Int32GetDatum(flap_window)};

	fleet_base_plan_execute(&handoffs_plan, NULL, values, NULL);
	return (int) fleet_base_plan_int64(0, 1, NULL);
}

static void
note(const char *vehicle, const char *kind, const TimestampTz *damped_until)
{
	Datum		values[4];
	char		nulls[5] = "    ";

	values[0] = CStringGetTextDatum(vehicle);
	values[1] = CStringGetTextDatum(kind);
	nulls[2] = damped_until == NULL ? 'n' : ' ';
	values[2] = damped_until == NULL ? (Datum) 0 : TimestampTzGetDatum(*damped_until);
	values[3] = Int32GetDatum(flap_window);
	fleet_base_plan_execute(&note_plan, NULL, values, nulls);
}

/*
 * The vehicle has crossed by the rule: is it to stay for now, since it comes and
 * goes?
 */
bool
fleet_track_flap_is_damped(const FleetCrossingRule *rule, const FleetCrossingFix *sight,
						   const FleetFixVehicle *vehicle, const FleetFix *fix)
{
	FleetCaller caller;
	double		outside_s = sight->was_outside ? sight->outside_s : 0;
	double		delay_s;

	if (flap_window == 0)
		return false;
	fleet_base_become_owner(&caller);
	SPI_connect();
	delay_s = fleet_track_crossing_delay(rule, count_handoffs(fix->vehicle), flap_window);
	if (outside_s < delay_s)
	{
		TimestampTz since = sight->was_outside ? vehicle->outside_since : fix->at;
		TimestampTz until = TimestampTzPlusMilliseconds(since, (int64) (delay_s * 1000));

		note(fix->vehicle, fleet_track_crossing_is_jump(rule, sight) ? "jumps" : "border", &until);
	}
	SPI_finish();
	fleet_base_become_caller(&caller);
	return outside_s < delay_s;
}

/* A fix of the vehicle was ignored for its speed. */
void
fleet_track_flap_note_jump(const char *vehicle)
{
	FleetCaller caller;

	if (flap_window == 0)
		return;
	fleet_base_become_owner(&caller);
	SPI_connect();
	note(vehicle, "jumps", NULL);
	SPI_finish();
	fleet_base_become_caller(&caller);
}
