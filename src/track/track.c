/*-------------------------------------------------------------------------
 *
 * track.c
 *	  fleet.report_fix() and fleet.report_fixes().
 *
 * What becomes of a fix is in report.c.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/track.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "track/fence.h"
#include "track/history.h"
#include "track/limit.h"
#include "track/queue.h"
#include "track/report.h"
#include "track/rules.h"
#include "track/track.h"

PG_FUNCTION_INFO_V1(fleet_track_report_fix);
PG_FUNCTION_INFO_V1(fleet_track_report_fixes);

/* One of the arrays that fleet.report_fixes is given. */
typedef struct Column
{
	Datum	   *values;
	bool	   *nulls;
	int			n;
} Column;

void
fleet_track_init(void)
{
	fleet_track_rules_init();
	fleet_track_flap_init();
	fleet_track_queue_init();
	fleet_track_limit_init();
	fleet_track_pace_init();
	fleet_track_report_init();
	fleet_track_history_init();
	fleet_track_fence_init();
}

/* ---------- one ---------- */

static Datum
text_or_null(const char *string, bool *isnull)
{
	*isnull = string == NULL;
	return string != NULL ? CStringGetTextDatum(string) : (Datum) 0;
}

/* fleet.report_fix(...) -> fleet.fix_result */
Datum
fleet_track_report_fix(PG_FUNCTION_ARGS)
{
	FleetReport report = {0};
	Datum		given[FLEET_FIX_ARGS];
	bool		isnull[FLEET_FIX_ARGS];
	Datum		values[3];
	bool		nulls[3] = {false};
	TupleDesc	desc;

	for (int i = 0; i < FLEET_FIX_ARGS; i++)
	{
		given[i] = PG_GETARG_DATUM(i);
		isnull[i] = PG_ARGISNULL(i);
	}
	fleet_track_fix_read(&report.fix, given, isnull);
	fleet_track_report_one(&report);
	if (report.outcome == NULL)
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(report.outcome);
	values[1] = text_or_null(report.region, &nulls[1]);
	values[2] = Int64GetDatum(report.epoch);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* ---------- many ---------- */

/* An array argument; empty where it is null. */
static Column
read_column(FunctionCallInfo fcinfo, int arg)
{
	Column		column = {NULL, NULL, 0};
	ArrayType  *array;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	if (PG_ARGISNULL(arg))
		return column;
	array = PG_GETARG_ARRAYTYPE_P(arg);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("an array of fixes must have one dimension")));
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  &column.values, &column.nulls, &column.n);
	return column;
}

static void
check_length(int arg, const Column *column, int n)
{
	if (column->n != n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("the arrays of fixes differ in length"),
				 errdetail("There are %d vehicles, and %d elements in argument %d.", n, column->n, arg + 1),
				 errhint("Give each array an element for each fix, null where it is not known, or leave the array out.")));
}

/* The fixes, one from each array's next element; *n of them. */
static FleetReport *
read_reports(FunctionCallInfo fcinfo, int *n)
{
	Column		columns[FLEET_FIX_ARGS];
	FleetReport *reports;

	for (int arg = 0; arg < FLEET_FIX_ARGS; arg++)
		columns[arg] = read_column(fcinfo, arg);
	*n = columns[FLEET_FIX_ARG_VEHICLE].n;
	for (int arg = 0; arg < FLEET_FIX_ARGS; arg++)
		if (!PG_ARGISNULL(arg) || arg <= FLEET_FIX_ARG_LAT)
			check_length(arg, &columns[arg], *n);
	reports = palloc_extended(sizeof(FleetReport) * Max(*n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < *n; i++)
	{
		Datum		values[FLEET_FIX_ARGS] = {0};
		bool		nulls[FLEET_FIX_ARGS];

		for (int arg = 0; arg < FLEET_FIX_ARGS; arg++)
		{
			nulls[arg] = columns[arg].n == 0 || columns[arg].nulls[i];
			if (!nulls[arg])
				values[arg] = columns[arg].values[i];
		}
		if (PG_ARGISNULL(FLEET_FIX_ARG_AT))	/* as fleet.report_fix has it */
		{
			nulls[FLEET_FIX_ARG_AT] = false;
			values[FLEET_FIX_ARG_AT] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
		}
		fleet_track_fix_read(&reports[i].fix, values, nulls);
	}
	return reports;
}

static void
put_report(ReturnSetInfo *result, int number, const FleetReport *report)
{
	const FleetFixRefusal *refusal = report->refusal;
	Datum		values[8];
	bool		nulls[8] = {false};

	values[0] = Int32GetDatum(number);
	values[1] = text_or_null(report->fix.vehicle, &nulls[1]);
	values[2] = CStringGetTextDatum(refusal ? "refused" : report->outcome);
	values[3] = text_or_null(report->region, &nulls[3]);
	values[4] = Int64GetDatum(report->epoch);
	nulls[4] = report->region == NULL;
	values[5] = text_or_null(refusal ? unpack_sql_state(refusal->sqlstate) : NULL, &nulls[5]);
	values[6] = text_or_null(refusal ? refusal->message : NULL, &nulls[6]);
	values[7] = text_or_null(refusal ? refusal->detail : NULL, &nulls[7]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* fleet.report_fixes(...) -> setof record */
Datum
fleet_track_report_fixes(PG_FUNCTION_ARGS)
{
	int			n;
	FleetReport *reports = read_reports(fcinfo, &n);

	fleet_track_report_many(reports, n);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
		put_report((ReturnSetInfo *) fcinfo->resultinfo, i + 1, &reports[i]);
	PG_RETURN_VOID();
}
