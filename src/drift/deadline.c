/*-------------------------------------------------------------------------
 *
 * deadline.c
 *	  A deadline for what a job calls.
 *
 * A job is one CALL, which commits between its steps.  statement_timeout cannot
 * bound a step: it is read when the statement begins, and a background worker of
 * pg_cron has the server's.  So the timer behind it is set here for the step, and
 * ends it by the same error (57014), which the job records.  Where the session has
 * a statement_timeout that ends sooner, that one stays.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/deadline.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(fleet_drift_set_deadline);

/* Has this session's timer been set by us? */
static bool is_ours = false;

static void
begin_deadline(int ms)
{
	if (!is_ours && get_timeout_active(STATEMENT_TIMEOUT) &&
		get_timeout_finish_time(STATEMENT_TIMEOUT) <=
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms))
		return;
	enable_timeout_after(STATEMENT_TIMEOUT, ms);
	is_ours = true;
}

/* One that has just fired is still raised here, and not somewhere after it. */
static void
end_deadline(void)
{
	if (!is_ours)
		return;
	is_ours = false;
	disable_timeout(STATEMENT_TIMEOUT, true);
	CHECK_FOR_INTERRUPTS();
}

/* fleet.set_deadline(ms integer): from now on; 0 = none */
Datum
fleet_drift_set_deadline(PG_FUNCTION_ARGS)
{
	int			ms = PG_GETARG_INT32(0);

	if (ms > 0)
		begin_deadline(ms);
	else
		end_deadline();
	PG_RETURN_VOID();
}
