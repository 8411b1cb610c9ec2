/*-------------------------------------------------------------------------
 *
 * hlc_type.c
 *	  The SQL type fleet.hlc and the clock's SQL functions.
 *
 * A fleet.hlc is stored like a bigint: same size, passed the same way, same
 * bytes on the wire.  The top bit of a stamp is clear until the year 6429 and
 * every way in refuses it set, so comparing as signed numbers is comparing
 * stamps.  That is why comparison, sorting and hashing have no code here: the
 * install script declares them on the server's own functions for bigint.
 *
 * Invariant: no fleet.hlc is negative.  The ways in are text, binary, the cast
 * from bigint, fleet.hlc_make() and the clock; each of them checks.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/clock/hlc_type.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/timestamp.h"

#include "base/shmem.h"
#include "clock/clock.h"

/* PostgreSQL counts time from 2000-01-01, in microseconds. */
#define UNIX_EPOCH_OFFSET_US \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

#define PG_GETARG_STAMP(n)		DatumGetFleetClockStamp(PG_GETARG_DATUM(n))
#define PG_RETURN_STAMP(stamp)	return FleetClockStampGetDatum(stamp)

#define HLC_BOUNDS_DETAIL \
	"Stamps reach from 1970-01-01T00:00:00.000Z/00000 to 6429-10-17T02:45:55.327Z/65535."

PG_FUNCTION_INFO_V1(fleet_clock_hlc_in);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_out);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_recv);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_send);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_from_bigint);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_make);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_physical);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_counter);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_now);
PG_FUNCTION_INFO_V1(fleet_clock_hlc_receive);

/* Report why a text is no stamp; status is not OK. */
static void
raise_bad_text(FleetClockHlcStatus status, const char *text)
{
	if (status == FLEET_CLOCK_HLC_MALFORMED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type fleet.hlc: \"%s\"", text),
				 errhint("A stamp is written in UTC with milliseconds and a counter of five digits, as 2026-11-21T08:03:22.123Z/00005.")));
	if (status == FLEET_CLOCK_HLC_BAD_FIELD)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("hlc field value out of range: \"%s\"", text),
				 errdetail("There is no such date or time, or the counter is above %u.",
						   FLEET_CLOCK_HLC_COUNTER_MAX)));
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("hlc out of range: \"%s\"", text),
			 errdetail(HLC_BOUNDS_DETAIL)));
}

Datum
fleet_clock_hlc_in(PG_FUNCTION_ARGS)
{
	char	   *text = PG_GETARG_CSTRING(0);
	uint64_t	stamp = 0;
	FleetClockHlcStatus status = fleet_clock_hlc_parse(text, strlen(text), &stamp);

	if (status == FLEET_CLOCK_HLC_OK && stamp > FLEET_CLOCK_STAMP_MAX)
		status = FLEET_CLOCK_HLC_OUT_OF_RANGE;
	if (status != FLEET_CLOCK_HLC_OK)
		raise_bad_text(status, text);
	PG_RETURN_STAMP(stamp);
}

Datum
fleet_clock_hlc_out(PG_FUNCTION_ARGS)
{
	char	   *text = palloc(FLEET_CLOCK_HLC_TEXT_SIZE);

	fleet_clock_hlc_format(PG_GETARG_STAMP(0), text);
	PG_RETURN_CSTRING(text);
}

/* Eight bytes in network order, no more and no fewer. */
Datum
fleet_clock_hlc_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int			len = buf->len - buf->cursor;
	int64		stamp;

	if (len != sizeof(int64))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid length of a binary fleet.hlc: %d bytes", len),
				 errdetail("A stamp has 8 bytes.")));
	stamp = pq_getmsgint64(buf);
	if (stamp < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("binary fleet.hlc out of range"),
				 errdetail(HLC_BOUNDS_DETAIL)));
	PG_RETURN_INT64(stamp);
}

Datum
fleet_clock_hlc_send(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint64(&buf, PG_GETARG_STAMP(0));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* The cast from bigint.  The cast to bigint needs no function. */
Datum
fleet_clock_hlc_from_bigint(PG_FUNCTION_ARGS)
{
	int64		value = PG_GETARG_INT64(0);

	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint " INT64_FORMAT " is no stamp", value),
				 errdetail("Stamps are not negative.")));
	PG_RETURN_INT64(value);
}

/* A stamp of this time, cut to whole milliseconds, and this counter. */
Datum
fleet_clock_hlc_make(PG_FUNCTION_ARGS)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);
	int32		counter = PG_GETARG_INT32(1);
	int64		max_ms = fleet_clock_hlc_ms(FLEET_CLOCK_STAMP_MAX);
	uint64_t	stamp = 0;

	/* Both bounds are far from the ends of int64, so the sums do not overflow. */
	if (at < -UNIX_EPOCH_OFFSET_US || at >= (max_ms + 1) * 1000 - UNIX_EPOCH_OFFSET_US)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("time out of range for fleet.hlc"),
				 errdetail(HLC_BOUNDS_DETAIL)));
	if (counter < 0 ||
		fleet_clock_hlc_pack((at + UNIX_EPOCH_OFFSET_US) / 1000, counter, &stamp) != FLEET_CLOCK_HLC_OK)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("hlc counter %d is out of range", counter),
				 errdetail("The counter is between 0 and %u.", FLEET_CLOCK_HLC_COUNTER_MAX)));
	PG_RETURN_STAMP(stamp);
}

Datum
fleet_clock_hlc_physical(PG_FUNCTION_ARGS)
{
	int64		ms = fleet_clock_hlc_ms(PG_GETARG_STAMP(0));

	PG_RETURN_TIMESTAMPTZ(ms * 1000 - UNIX_EPOCH_OFFSET_US);
}

Datum
fleet_clock_hlc_counter(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(fleet_clock_hlc_counter_of(PG_GETARG_STAMP(0)));
}

Datum
fleet_clock_hlc_now(PG_FUNCTION_ARGS)
{
	fleet_base_require_loaded();
	PG_RETURN_STAMP(fleet_clock_now());
}

Datum
fleet_clock_hlc_receive(PG_FUNCTION_ARGS)
{
	fleet_base_require_loaded();
	PG_RETURN_STAMP(fleet_clock_receive(PG_GETARG_STAMP(0)));
}
