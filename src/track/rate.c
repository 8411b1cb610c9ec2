/*-------------------------------------------------------------------------
 *
 * rate.c
 *	  fleet.rate_limit() and what belongs to it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/rate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/shmem.h"
#include "track/limit.h"

PG_FUNCTION_INFO_V1(fleet_track_rate_limit);
PG_FUNCTION_INFO_V1(fleet_track_require_rate);
PG_FUNCTION_INFO_V1(fleet_track_limit_counters);

/* Bytes of a bucket or a key. */
#define MAX_NAME (FLEET_LIMIT_NAME / 2)

#define COUNTER_COLUMNS 6

static const char *const limiter_names[FLEET_LIMITERS] = {"rate_limit", "report_fix"};

/* ---------- checking the arguments ---------- */

static void
check_name(const char *what, size_t size, const char *hint)
{
	if (size > MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s of a rate limit is too long", what),
				 errdetail("It has %zu bytes, of at most %d.", size, MAX_NAME),
				 errhint("%s", hint)));
}

/* The interval in nanoseconds, where 30 days are a month; -1 if it is too long. */
static int64
interval_ns(const Interval *per)
{
	int64		days = (int64) per->month * DAYS_PER_MONTH + per->day;
	int64		ns;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &ns) ||
		pg_add_s64_overflow(ns, per->time, &ns) ||
		pg_mul_s64_overflow(ns, 1000, &ns))
		return -1;
	return ns;
}

static FleetBucketRule
rule_of(int32 max, const Interval *per)
{
	int64		per_ns = interval_ns(per);
	FleetBucketRule rule;

	if (max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the maximum of a rate limit must be at least 1, not %d", max)));
	if (per_ns < 1000000 || !fleet_track_bucket_rule(max, per_ns, &rule))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the interval of a rate limit must be from 1 millisecond to 366 days")));
	return rule;
}

/* Take a token, by the arguments (bucket text, key text, max integer, per interval). */
static bool
take(FunctionCallInfo fcinfo, int64 *retry_ms)
{
	FleetLimitKey key;
	FleetBucketRule rule;
	text	   *bucket;
	text	   *name;

	fleet_base_require_loaded();
	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("bucket, key, maximum and interval of a rate limit must not be null")));
	bucket = PG_GETARG_TEXT_PP(0);
	name = PG_GETARG_TEXT_PP(1);
	key.bucket = VARDATA_ANY(bucket);
	key.bucket_size = VARSIZE_ANY_EXHDR(bucket);
	key.key = VARDATA_ANY(name);
	key.key_size = VARSIZE_ANY_EXHDR(name);
	check_name("bucket", key.bucket_size, "Name it after what is limited, and put what differs from caller to caller into the key.");
	check_name("key", key.key_size, "Use a hash of it, such as pg_catalog.sha256.");
	rule = rule_of(PG_GETARG_INT32(2), PG_GETARG_INTERVAL_P(3));
	return fleet_track_limit_take(FLEET_LIMITER_RATE, &key, &rule, retry_ms);
}

/* ---------- the functions ---------- */

/* fleet.rate_limit(bucket text, key text, max integer, per interval) -> boolean */
Datum
fleet_track_rate_limit(PG_FUNCTION_ARGS)
{
	int64		retry_ms;

	PG_RETURN_BOOL(take(fcinfo, &retry_ms));
}

/* fleet.require_rate(bucket text, key text, max integer, per interval) -> void */
Datum
fleet_track_require_rate(PG_FUNCTION_ARGS)
{
	int64		retry_ms;

	if (!take(fcinfo, &retry_ms))
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_RATE_LIMITED),
				 errmsg("too many calls in bucket \"%s\"", text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errdetail("Of this key %d are let through in %s; retry after " INT64_FORMAT " ms.",
						   PG_GETARG_INT32(2),
						   DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(3))),
						   retry_ms),
				 errhint("Call less often.")));
	PG_RETURN_VOID();
}

/* fleet.limit_counters(): a row for each limiter. */
Datum
fleet_track_limit_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	fleet_base_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < FLEET_LIMITERS; i++)
	{
		Datum		values[COUNTER_COLUMNS];
		bool		nulls[COUNTER_COLUMNS] = {false};
		FleetLimitLook look;

		fleet_track_limit_sum(i, &look);
		values[0] = CStringGetTextDatum(limiter_names[i]);
		values[1] = Int64GetDatum(look.entries);
		values[2] = Int64GetDatum(look.in_use);
		values[3] = Int64GetDatum(look.allowed);
		values[4] = Int64GetDatum(look.refused);
		values[5] = Int64GetDatum(look.evicted);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
