/*-------------------------------------------------------------------------
 *
 * history_bench.c
 *	  Fixes written into the history alone, in test builds only; test/bench/history.sh
 *	  makes the SQL function.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/history_bench.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "track/history.h"

#ifdef FLEET_FAULT_POINTS

#include "fmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(fleet_track_history_bench);

/*
 * (first bigint, n integer, vehicles integer, since timestamptz, step_us bigint):
 * fixes number first and so on in one call, of vehicles in an order that looks like
 * none, half of them with a ride.
 */
Datum
fleet_track_history_bench(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(0);
	int			n = PG_GETARG_INT32(1);
	int			vehicles = PG_GETARG_INT32(2);
	FleetHistory *history = fleet_track_history_begin();

	for (int64 i = first; i < first + n; i++)
	{
		int			number = (int) (i * INT64CONST(7919) % vehicles);
		char		vehicle[32];
		char		ride[32];
		FleetFix	fix = {.vehicle = vehicle};

		snprintf(vehicle, sizeof(vehicle), "cab-%06d", number);
		snprintf(ride, sizeof(ride), "ride-%08d", number);
		fix.lon = -118 + number % 1000 / 1000.0;
		fix.lat = 34 + number % 997 / 1000.0;
		fix.at = PG_GETARG_TIMESTAMPTZ(3) + i * PG_GETARG_INT64(4);
		for (int j = 0; j < FLEET_FIX_MEASURES; j++)
			fix.measured[j] = number % 90;
		fleet_track_history_add(history, &fix, number % 2 == 0 ? ride : NULL, 1);
	}
	fleet_track_history_end(history);
	PG_RETURN_VOID();
}

#endif							/* FLEET_FAULT_POINTS */
