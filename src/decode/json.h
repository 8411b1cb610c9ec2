/*-------------------------------------------------------------------------
 *
 * json.h
 *	  JSON values, written to the end of a buffer.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/json.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_DECODE_JSON_H
#define FLEET_DECODE_JSON_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

/* Append bytes as they are.  The buffer has no terminator until fleet_decode_end(). */
static inline void
fleet_decode_put(StringInfo buf, const char *bytes, int len)
{
	if (buf->len + len >= buf->maxlen)
		enlargeStringInfo(buf, len);
	memcpy(buf->data + buf->len, bytes, len);
	buf->len += len;
}

/* The same, of a string literal. */
#define FLEET_DECODE_PUT(buf, literal)	fleet_decode_put(buf, literal, sizeof(literal) - 1)

static inline void
fleet_decode_end(StringInfo buf)
{
	if (buf->len >= buf->maxlen)
		enlargeStringInfo(buf, 1);
	buf->data[buf->len] = '\0';
}

extern void fleet_decode_put_string(StringInfo buf, const char *text, int len);
extern void fleet_decode_put_one_line(StringInfo buf, const char *json, int len);
extern void fleet_decode_put_int64(StringInfo buf, int64 value);
extern void fleet_decode_put_stamp(StringInfo buf, uint64 value);
extern void fleet_decode_put_lsn(StringInfo buf, XLogRecPtr lsn);
extern void fleet_decode_put_float8(StringInfo buf, double value);
extern void fleet_decode_put_float4(StringInfo buf, float value);
extern void fleet_decode_put_decimal(StringInfo buf, const char *text, int len);
extern void fleet_decode_put_time(StringInfo buf, Timestamp time, bool zone);
extern void fleet_decode_put_date(StringInfo buf, int32 date);

#endif							/* FLEET_DECODE_JSON_H */
