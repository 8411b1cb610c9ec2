/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  The crossing rule of a region, and what it says of a fix.
 *
 * The rule is three settings.  A region may have its own instead, of any of them, in
 * fleet.crossing_rules.  A vehicle's crossing is decided by the node that has it,
 * by the rule of that node's region, so the table is that node's own and no part
 * of the region map.
 *
 * A backend reads the row once and keeps it until a relation-cache invalidation of
 * the table, which a trigger on it sends with whatever changes it.  An invalidation
 * that comes while we read is not lost: the row counts as read from before that on.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/rules.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/plan.h"
#include "region/locate.h"
#include "track/rules.h"

PG_FUNCTION_INFO_V1(fleet_track_rules_changed);

static double crossing_distance = 100.0;
static double crossing_dwell = 60.0;
static double max_speed = 60.0;

/* Of the region whose rule was read last; NaN = the setting holds. */
static FleetCrossingRule overrides;
static char overrides_of[NAMEDATALEN];
static bool overrides_are_valid = false;
static bool callback_registered = false;
static Oid	rules_relid = InvalidOid;

static FleetPlan rule_plan = {
	"SELECT distance_m, dwell_s, max_speed_mps FROM fleet.crossing_rules WHERE region = $1",
	1, {TEXTOID}
};

void
fleet_track_rules_init(void)
{
	DefineCustomRealVariable("fleet.crossing_distance",
							 "How far past the border of its region a vehicle has crossed, in metres.",
							 "Raise it where positions are inexact; 0 = at once, -1 = distance does not count.",
							 &crossing_distance, 100.0, -1.0, 100000.0,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("fleet.crossing_dwell",
							 "How long a vehicle must be past the border of its region to have crossed.",
							 "Raise it where vehicles drive along borders; 0 = at once, -1 = time does not count.",
							 &crossing_dwell, 60.0, -1.0, 86400.0,
							 PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomRealVariable("fleet.max_speed",
							 "A fix that implies a higher speed is ignored, in metres per second.",
							 "Raise it for aircraft and fast trains; 0 turns it off.",
							 &max_speed, 60.0, 0.0, 10000.0,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

/* ---------- the rule ---------- */

static void
on_relcache_inval(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == rules_relid)
		overrides_are_valid = false;
}

static double
read_override(bool found, int column)
{
	bool		isnull = true;
	Datum		value = 0;

	if (found)
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);
	return isnull ? NAN : DatumGetFloat8(value);
}

static void
read_overrides(const char *region)
{
	Datum		key = CStringGetTextDatum(region);
	FleetCaller caller;
	bool		found;

	fleet_base_become_owner(&caller);
	rules_relid = get_relname_relid("crossing_rules", get_namespace_oid("fleet", false));
	SPI_connect();
	overrides_are_valid = true;
	strlcpy(overrides_of, region, NAMEDATALEN);
	found = fleet_base_plan_execute_as_of_now(&rule_plan, &key) > 0;
	overrides.distance_m = read_override(found, 1);
	overrides.dwell_s = read_override(found, 2);
	overrides.max_speed_mps = read_override(found, 3);
	SPI_finish();
	fleet_base_become_caller(&caller);
}

/* The rule of a region of this node; good until the next call. */
const FleetCrossingRule *
fleet_track_rule(const FleetRegion *own)
{
	static FleetCrossingRule rule;

	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(on_relcache_inval, (Datum) 0);
		callback_registered = true;
	}
	if (!overrides_are_valid || strcmp(overrides_of, own->name) != 0)
	{
		overrides_are_valid = false;
		PG_TRY();
		{
			read_overrides(own->name);
		}
		PG_CATCH();
		{
			overrides_are_valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	rule.distance_m = isnan(overrides.distance_m) ? crossing_distance : overrides.distance_m;
	rule.dwell_s = isnan(overrides.dwell_s) ? crossing_dwell : overrides.dwell_s;
	rule.max_speed_mps = isnan(overrides.max_speed_mps) ? max_speed : overrides.max_speed_mps;
	return &rule;
}

/* fleet.rules_changed(): tell all backends when this transaction commits. */
Datum
fleet_track_rules_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fleet.rules_changed must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* ---------- the decision ---------- */

static double
seconds_between(TimestampTz from, TimestampTz to)
{
	return (double) (to - from) / USECS_PER_SEC;
}

/*
 * What a fix means for the region of its vehicle, which is locked, and older than the
 * fix.  at_region is the fix's, of the same map, or NULL.  Says only OUTSIDE of a
 * vehicle that goes back and forth (flap.c).
 */
FleetCrossing
fleet_track_cross_decide(const FleetRegion *own, const FleetRegion *at_region,
						 const FleetFixVehicle *vehicle, const FleetFix *fix)
{
	const FleetCrossingRule *rule = fleet_track_rule(own);
	FleetCrossingFix sight = {0};
	FleetCrossing crossing;

	sight.has_last = vehicle->has_fix && vehicle->has_place;
	sight.last_lon = vehicle->lon;
	sight.last_lat = vehicle->lat;
	sight.elapsed_s = vehicle->has_fix ? seconds_between(vehicle->fix_at, fix->at) : 0;
	sight.lon = fix->lon;
	sight.lat = fix->lat;
	sight.is_outside = at_region != NULL && at_region != own;
	sight.was_outside = vehicle->outside != NULL && vehicle->outside == at_region;
	if (sight.was_outside)
		sight.outside_s = seconds_between(vehicle->outside_since, fix->at);
	if (sight.is_outside && rule->distance_m > 0)
		sight.past_m = fleet_region_distance(own, fix->lon, fix->lat, rule->distance_m);
	crossing = fleet_track_crossing_decide(rule, &sight);
	if (crossing == FLEET_CROSSING_IMPLAUSIBLE)
		fleet_track_flap_note_jump(fix->vehicle);
	else if (crossing == FLEET_CROSSING_CROSS &&
			 fleet_track_flap_is_damped(rule, &sight, vehicle, fix))
		crossing = FLEET_CROSSING_OUTSIDE;
	return crossing;
}
