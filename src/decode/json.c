/*-------------------------------------------------------------------------
 *
 * json.c
 *	  JSON values, written to the end of a buffer.
 *
 * A stream writes some forty values for each change, so nothing here goes
 * through a format string, an output function or a setting of the session.
 *
 * What a reader with doubles would round is a string: integers beyond 2^53,
 * decimals of more than 15 digits, stamps.  JSON has no infinite numbers, so these
 * are strings, too.  A message is one line: no value has a line break in it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/json.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"

#include "decode/json.h"

/* The integers that a double holds exactly, and the decimals. */
#define MAX_SAFE_INTEGER	((INT64CONST(1) << 53) - 1)
#define MAX_SAFE_DIGITS		15

static const char hex[] = "0123456789abcdef";

/* ---------- text ---------- */

static bool
is_escaped(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

static char *
escape(char *p, unsigned char c)
{
	*p++ = '\\';
	switch (c)
	{
		case '"':
		case '\\':
			*p++ = c;
			break;
		case '\n':
			*p++ = 'n';
			break;
		case '\r':
			*p++ = 'r';
			break;
		case '\t':
			*p++ = 't';
			break;
		default:
			*p++ = 'u';
			*p++ = '0';
			*p++ = '0';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
	}
	return p;
}

/* A string of UTF-8 text. */
void
fleet_decode_put_string(StringInfo buf, const char *text, int len)
{
	int			escaped = 0;
	char	   *p;

	for (int i = 0; i < len; i++)
		escaped += is_escaped((unsigned char) text[i]);
	enlargeStringInfo(buf, len + 5 * escaped + 2);
	p = buf->data + buf->len;
	*p++ = '"';
	if (escaped == 0)
	{
		memcpy(p, text, len);
		p += len;
	}
	else
		for (int i = 0; i < len; i++)
		{
			if (is_escaped((unsigned char) text[i]))
				p = escape(p, (unsigned char) text[i]);
			else
				*p++ = text[i];
		}
	*p++ = '"';
	buf->len = p - buf->data;
}

/* A value that is JSON already; a line break in it can only be white space. */
void
fleet_decode_put_one_line(StringInfo buf, const char *json, int len)
{
	int			from = buf->len;

	fleet_decode_put(buf, json, len);
	for (int i = from; i < buf->len; i++)
		if (buf->data[i] == '\n' || buf->data[i] == '\r')
			buf->data[i] = ' ';
}

/* ---------- numbers ---------- */

void
fleet_decode_put_int64(StringInfo buf, int64 value)
{
	bool		exact = value >= -MAX_SAFE_INTEGER && value <= MAX_SAFE_INTEGER;
	char		text[MAXINT8LEN + 1];
	int			len = pg_lltoa(value, text);

	if (!exact)
		FLEET_DECODE_PUT(buf, "\"");
	fleet_decode_put(buf, text, len);
	if (!exact)
		FLEET_DECODE_PUT(buf, "\"");
}

/* A stamp of the hybrid logical clock: its number, as a string. */
void
fleet_decode_put_stamp(StringInfo buf, uint64 value)
{
	char		text[MAXINT8LEN + 3];
	int			len = pg_ulltoa_n(value, text + 1);

	text[0] = text[len + 1] = '"';
	fleet_decode_put(buf, text, len + 2);
}

static char *
write_hex(char *p, uint32 value)
{
	char		digits[8];
	int			n = 0;

	do
	{
		digits[n++] = "0123456789ABCDEF"[value & 15];
		value >>= 4;
	} while (value != 0);
	while (n > 0)
		*p++ = digits[--n];
	return p;
}

/* A WAL location as PostgreSQL writes it, without quotes. */
void
fleet_decode_put_lsn(StringInfo buf, XLogRecPtr lsn)
{
	char		text[17];
	char	   *p = write_hex(text, (uint32) (lsn >> 32));

	*p++ = '/';
	p = write_hex(p, (uint32) lsn);
	fleet_decode_put(buf, text, p - text);
}

static void
put_no_number(StringInfo buf, double value)
{
	const char *text = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";

	fleet_decode_put_string(buf, text, strlen(text));
}

void
fleet_decode_put_float8(StringInfo buf, double value)
{
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (isfinite(value))
		fleet_decode_put(buf, text, double_to_shortest_decimal_bufn(value, text));
	else
		put_no_number(buf, value);
}

void
fleet_decode_put_float4(StringInfo buf, float value)
{
	char		text[FLOAT_SHORTEST_DECIMAL_LEN];

	if (isfinite(value))
		fleet_decode_put(buf, text, float_to_shortest_decimal_bufn(value, text));
	else
		put_no_number(buf, value);
}

/* A numeric, by its text. */
void
fleet_decode_put_decimal(StringInfo buf, const char *text, int len)
{
	int			digits = 0;
	bool		number = len > 0;

	for (int i = 0; i < len; i++)
	{
		if (text[i] >= '0' && text[i] <= '9')
			digits++;
		else if (text[i] != '.' && text[i] != '-')
			number = false;
	}
	if (number && digits <= MAX_SAFE_DIGITS)
		fleet_decode_put(buf, text, len);
	else
		fleet_decode_put_string(buf, text, len);
}

/* ---------- times ---------- */

static char *
write_digits(char *p, int value, int n)
{
	for (int i = n - 1; i >= 0; i--)
	{
		p[i] = '0' + value % 10;
		value /= 10;
	}
	return p + n;
}

/* ISO 8601; a year of more or less than four digits has a sign and six, or seven. */
static char *
write_day(char *p, int julian)
{
	int			year;
	int			month;
	int			day;

	j2date(julian, &year, &month, &day);
	if (year >= 0 && year <= 9999)
		p = write_digits(p, year, 4);
	else
	{
		*p++ = year < 0 ? '-' : '+';
		p = write_digits(p, abs(year), abs(year) > 999999 ? 7 : 6);
	}
	*p++ = '-';
	p = write_digits(p, month, 2);
	*p++ = '-';
	return write_digits(p, day, 2);
}

static char *
write_time_of_day(char *p, int64 time)
{
	int			fraction = (int) (time % USECS_PER_SEC);
	int			seconds = (int) (time / USECS_PER_SEC);

	p = write_digits(p, seconds / 3600, 2);
	*p++ = ':';
	p = write_digits(p, seconds / 60 % 60, 2);
	*p++ = ':';
	p = write_digits(p, seconds % 60, 2);
	if (fraction != 0)
	{
		*p++ = '.';
		p = write_digits(p, fraction, 6);
		while (p[-1] == '0')
			p--;
	}
	return p;
}

/* A time, in UTC and marked so if it has a zone. */
void
fleet_decode_put_time(StringInfo buf, Timestamp time, bool zone)
{
	char		text[48];
	char	   *p = text;
	int64		day = time / USECS_PER_DAY;
	int64		rest = time % USECS_PER_DAY;

	if (TIMESTAMP_NOT_FINITE(time))
	{
		put_no_number(buf, TIMESTAMP_IS_NOBEGIN(time) ? -INFINITY : INFINITY);
		return;
	}
	if (rest < 0)
	{
		rest += USECS_PER_DAY;
		day--;
	}
	*p++ = '"';
	p = write_day(p, (int) day + POSTGRES_EPOCH_JDATE);
	*p++ = 'T';
	p = write_time_of_day(p, rest);
	if (zone)
		*p++ = 'Z';
	*p++ = '"';
	fleet_decode_put(buf, text, p - text);
}

void
fleet_decode_put_date(StringInfo buf, int32 date)
{
	char		text[24];
	char	   *p = text;

	if (DATE_NOT_FINITE(date))
	{
		put_no_number(buf, DATE_IS_NOBEGIN(date) ? -INFINITY : INFINITY);
		return;
	}
	*p++ = '"';
	p = write_day(p, date + POSTGRES_EPOCH_JDATE);
	*p++ = '"';
	fleet_decode_put(buf, text, p - text);
}
