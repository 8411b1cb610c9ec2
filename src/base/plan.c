/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  Kept SPI plans, and the rights that fleet's own statements run with.
 *
 * What the caller may see and change is decided by statements that run as the
 * caller; what the protocol then writes (departures, log, decisions) runs as
 * the owner of schema fleet.  The owner acts only between
 * fleet_base_become_owner() and fleet_base_become_caller(), on fixed
 * statements whose names are all qualified; an error in between lets the
 * (sub)transaction abort restore the caller.
 *
 * Every SQL function that leads here is declared with
 * SET search_path = pg_catalog, pg_temp, so operators in these statements
 * cannot be captured.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/plan.h"

/* Replace each %s by the own region's name: palloc'd. */
static char *
expand(const char *sql, const char *own)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *p = sql; *p != '\0'; p++)
	{
		if (p[0] == '%' && p[1] == 's')
		{
			appendStringInfoString(&buf, own);
			p++;
		}
		else
			appendStringInfoChar(&buf, *p);
	}
	return buf.data;
}

static void
prepare(FleetPlan *plan, const char *own)
{
	if (plan->plan != NULL)
	{
		SPI_freeplan(plan->plan);
		plan->plan = NULL;
	}

	/*
	 * All of them look rows up by key, whatever the values: to plan them anew
	 * for each call would cost more than to run them.
	 */
	plan->plan = SPI_prepare_cursor(expand(plan->sql, own), plan->nargs,
									plan->argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan->plan == NULL || SPI_keepplan(plan->plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", plan->sql,
			 SPI_result_code_string(SPI_result));
	strlcpy(plan->own, own, NAMEDATALEN);
}

static int
execute(FleetPlan *plan, const char *own, Datum *values, const char *nulls,
		bool read_only)
{
	int			rc;

	if (own == NULL)
		own = "";
	if (plan->plan == NULL || strcmp(plan->own, own) != 0)
		prepare(plan, own);
	rc = SPI_execute_plan(plan->plan, values, nulls, read_only, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", plan->sql,
			 SPI_result_code_string(rc));
	return (int) SPI_processed;
}

/*
 * Execute within the caller's SPI connection; returns the number of rows,
 * which are in SPI_tuptable.  own may be NULL where the text has no "%s"; a
 * region's name needs no quoting (see fleet.add_region).
 */
int
fleet_base_plan_execute(FleetPlan *plan, const char *own,
						Datum *values, const char *nulls)
{
	return execute(plan, own, values, nulls, false);
}

/*
 * Push a snapshot of what has been committed until now, also in a transaction
 * that uses an older one.  During a parallel query none may be taken; there it
 * is the query's.
 */
void
fleet_base_push_new_snapshot(void)
{
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/* As fleet_base_plan_execute, for a SELECT in such a snapshot. */
int
fleet_base_plan_execute_as_of_now(FleetPlan *plan, Datum *values)
{
	int			n;

	fleet_base_push_new_snapshot();
	n = execute(plan, NULL, values, NULL, true);
	PopActiveSnapshot();
	return n;
}

/* A SELECT without parameters in the active snapshot. */
int
fleet_base_plan_execute_read(FleetPlan *plan)
{
	return execute(plan, NULL, NULL, NULL, true);
}

/* A bigint (or hlc) of the last result; 0 and *isnull where it is null. */
int64
fleet_base_plan_int64(int row, int column, bool *isnull)
{
	bool		null;
	Datum		value;

	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						  column, &null);
	if (isnull != NULL)
		*isnull = null;
	return null ? 0 : DatumGetInt64(value);
}

/* Any column of the last result as text, palloc'd; NULL where it is null. */
char *
fleet_base_plan_text(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* Act as the owner of schema fleet until fleet_base_become_caller(). */
void
fleet_base_become_owner(FleetCaller *caller)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum("fleet"));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"fleet\" does not exist"),
				 errhint("Run CREATE EXTENSION fleet CASCADE in this database.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);

	GetUserIdAndSecContext(&caller->userid, &caller->sec_context);
	SetUserIdAndSecContext(owner,
						   caller->sec_context | SECURITY_LOCAL_USERID_CHANGE);
}

void
fleet_base_become_caller(const FleetCaller *caller)
{
	SetUserIdAndSecContext(caller->userid, caller->sec_context);
}
