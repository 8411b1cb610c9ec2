/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  Kept SPI plans, and the rights that fleet's own statements run with.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/plan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_PLAN_H
#define FLEET_BASE_PLAN_H

#include "postgres.h"

#include "executor/spi.h"

#define FLEET_PLAN_MAX_ARGS 12

/*
 * A statement that is prepared once per backend.  Every "%s" in its text
 * stands for the own region's name (the suffix of the local partitions), and
 * the plan is made anew when that changes.
 */
typedef struct FleetPlan
{
	const char *sql;
	int			nargs;
	Oid			argtypes[FLEET_PLAN_MAX_ARGS];
	SPIPlanPtr	plan;
	char		own[NAMEDATALEN];
} FleetPlan;

/* Who called, while the extension's owner acts. */
typedef struct FleetCaller
{
	Oid			userid;
	int			sec_context;
} FleetCaller;

extern int	fleet_base_plan_execute(FleetPlan *plan, const char *own,
									Datum *values, const char *nulls);
extern int	fleet_base_plan_execute_as_of_now(FleetPlan *plan, Datum *values);
extern void fleet_base_push_new_snapshot(void);
extern int	fleet_base_plan_execute_read(FleetPlan *plan);
extern int64 fleet_base_plan_int64(int row, int column, bool *isnull);
extern char *fleet_base_plan_text(int row, int column);

extern void fleet_base_become_owner(FleetCaller *caller);
extern void fleet_base_become_caller(const FleetCaller *caller);

#endif							/* FLEET_BASE_PLAN_H */
