/*-------------------------------------------------------------------------
 *
 * hlc.c
 *	  Hybrid logical clock: the pure core.
 *
 * A stamp is one unsigned 64-bit number: 48 bits of Unix milliseconds, then a
 * counter of 16 bits.  Because the counter is the low part, "the next stamp"
 * is plus one, and a counter that is full carries into the next millisecond
 * by itself: the clock then runs ahead of time until time catches up, and
 * never repeats a stamp.
 *
 * Rules:
 *	- tick: the next stamp is greater than the last, and not before the
 *	  physical clock.  A physical clock that stands still or steps back costs
 *	  counter, never order.
 *	- merge: the next stamp is also greater than the one received.
 *	- a received stamp that would pull the clock more than the allowed skew
 *	  past the physical clock is refused, and nothing changes.  One at or
 *	  below our own last stamp pulls nothing, so it is never refused: a server
 *	  whose time was set back can still read its own rows.
 *
 * The text form is ISO 8601 in UTC, a slash, and the counter:
 *
 *		2026-11-21T08:03:22.123Z/00005
 *
 * Each stamp has exactly one text form, and the parser takes no other, so
 * equal text means equal stamps.  Up to the year 9999 byte order of the text
 * is the order of the stamps.  Years from 10000 on have five digits and sort
 * before the others as text; the SQL type ends in the year 6429 and never
 * comes there.
 *
 * C types only: no memory is allocated, no time is read, nothing is raised.
 * Dates are computed here because libc's functions depend on time zone and
 * locale, and PostgreSQL's are not to be had without a server.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/clock/hlc.c
 *
 *-------------------------------------------------------------------------
 */
#include "clock/hlc.h"

#include <stdbool.h>

#define MS_PER_DAY			UINT64_C(86400000)
#define FIRST_YEAR			1970
/* Both ends of a 400-year cycle of the calendar have the same number of days. */
#define DAYS_PER_CYCLE		146097
#define YEARS_PER_CYCLE		400
/* From 0000-03-01, where the cycle is counted from, to 1970-01-01. */
#define DAYS_BEFORE_EPOCH	719468

/* Months count from March: the leap day is then the last day of the year. */
#define DAYS_BEFORE_MONTH(m)	((153 * (m) + 2) / 5)

typedef struct Reader
{
	const char *next;
	const char *end;
	bool		failed;
} Reader;

static uint64_t
greater_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Compose a stamp; OUT_OF_RANGE where a part does not fit. */
FleetClockHlcStatus
fleet_clock_hlc_pack(uint64_t ms, uint32_t counter, uint64_t *stamp)
{
	if (ms > FLEET_CLOCK_HLC_MS_MAX || counter > FLEET_CLOCK_HLC_COUNTER_MAX)
		return FLEET_CLOCK_HLC_OUT_OF_RANGE;
	*stamp = (ms << FLEET_CLOCK_HLC_COUNTER_BITS) | counter;
	return FLEET_CLOCK_HLC_OK;
}

/*
 * The stamp of a local event: greater than last, at or after physical_ms.
 * At the very last stamp there is no greater one: it is returned again, which
 * the caller sees because the result is not greater than last.
 */
uint64_t
fleet_clock_hlc_tick(uint64_t last, uint64_t physical_ms)
{
	uint64_t	physical;

	if (physical_ms > FLEET_CLOCK_HLC_MS_MAX)
		physical_ms = FLEET_CLOCK_HLC_MS_MAX;
	physical = physical_ms << FLEET_CLOCK_HLC_COUNTER_BITS;

	if (physical > last)
		return physical;
	return last == UINT64_MAX ? last : last + 1;
}

/*
 * The stamp of an event that follows a received stamp: greater than last and
 * received.  *out is set only when the result is OK.
 */
FleetClockHlcStatus
fleet_clock_hlc_merge(uint64_t last, uint64_t received, uint64_t physical_ms,
					  uint64_t max_skew_ms, uint64_t *out)
{
	uint64_t	floor = greater_of(last, received);
	uint64_t	received_ms = fleet_clock_hlc_ms(received);

	if (received > last && received_ms > physical_ms &&
		received_ms - physical_ms > max_skew_ms)
		return FLEET_CLOCK_HLC_TOO_FAR_AHEAD;
	if (floor == UINT64_MAX)
		return FLEET_CLOCK_HLC_EXHAUSTED;
	*out = fleet_clock_hlc_tick(floor, physical_ms);
	return FLEET_CLOCK_HLC_OK;
}

static bool
is_leap_year(uint32_t year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static uint32_t
days_in_month(uint32_t year, uint32_t month)
{
	static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	return month == 2 && is_leap_year(year) ? 29 : days[month - 1];
}

/* Days from 1970-01-01 to a valid date of 1970 or later. */
static uint64_t
days_of_date(uint32_t year, uint32_t month, uint32_t day)
{
	/* January and February belong to the year that began last March. */
	uint64_t	y = month <= 2 ? year - 1 : year;
	uint64_t	m = month <= 2 ? month + 9 : month - 3;
	uint64_t	leap_days = y / 4 - y / 100 + y / 400;

	return y * 365 + leap_days + DAYS_BEFORE_MONTH(m) + (day - 1) - DAYS_BEFORE_EPOCH;
}

/* The inverse of days_of_date. */
static void
date_of_days(uint64_t days, uint32_t *year, uint32_t *month, uint32_t *day)
{
	uint64_t	since = days + DAYS_BEFORE_EPOCH;
	uint32_t	in_cycle = (uint32_t) (since % DAYS_PER_CYCLE);
	uint32_t	y;
	uint32_t	in_year;
	uint32_t	m;

	/*
	 * Take out the leap days that came before (one each 1460 days, save one
	 * each 36524, and the last of the cycle), so that years are 365 days.
	 */
	y = (in_cycle - in_cycle / 1460 + in_cycle / 36524 -
		 in_cycle / (DAYS_PER_CYCLE - 1)) / 365;
	in_year = in_cycle - (365 * y + y / 4 - y / 100);
	m = (5 * in_year + 2) / 153;

	*day = in_year - DAYS_BEFORE_MONTH(m) + 1;
	*month = m < 10 ? m + 3 : m - 9;
	*year = (uint32_t) (since / DAYS_PER_CYCLE) * YEARS_PER_CYCLE + y + (m < 10 ? 0 : 1);
}

/* Read exactly this many digits, at most nine. */
static uint32_t
read_digits(Reader *reader, int ndigit)
{
	uint32_t	value = 0;

	for (int i = 0; i < ndigit; i++)
	{
		if (reader->next == reader->end || *reader->next < '0' || *reader->next > '9')
		{
			reader->failed = true;
			return 0;
		}
		value = value * 10 + (uint32_t) (*reader->next++ - '0');
	}
	return value;
}

static void
read_mark(Reader *reader, char mark)
{
	if (reader->next == reader->end || *reader->next != mark)
		reader->failed = true;
	else
		reader->next++;
}

static uint32_t
read_field(Reader *reader, char mark, int ndigit)
{
	read_mark(reader, mark);
	return read_digits(reader, ndigit);
}

/*
 * Read a stamp from len bytes of text, which need not end with a NUL.
 * *stamp is set only when the result is OK.
 */
FleetClockHlcStatus
fleet_clock_hlc_parse(const char *text, size_t len, uint64_t *stamp)
{
	Reader		reader = {text, text + len, false};
	bool		long_year = len == FLEET_CLOCK_HLC_TEXT_SIZE - 1;
	uint32_t	year = read_digits(&reader, long_year ? 5 : 4);
	uint32_t	month = read_field(&reader, '-', 2);
	uint32_t	day = read_field(&reader, '-', 2);
	uint32_t	hour = read_field(&reader, 'T', 2);
	uint32_t	minute = read_field(&reader, ':', 2);
	uint32_t	second = read_field(&reader, ':', 2);
	uint32_t	milli = read_field(&reader, '.', 3);
	uint32_t	counter;
	uint64_t	ms;

	read_mark(&reader, 'Z');
	counter = read_field(&reader, '/', 5);

	/* A fifth digit of the year must be needed, or one stamp had two forms. */
	if (reader.failed || reader.next != reader.end || (long_year && year < 10000))
		return FLEET_CLOCK_HLC_MALFORMED;
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) ||
		hour > 23 || minute > 59 || second > 59 || counter > FLEET_CLOCK_HLC_COUNTER_MAX)
		return FLEET_CLOCK_HLC_BAD_FIELD;
	if (year < FIRST_YEAR)
		return FLEET_CLOCK_HLC_OUT_OF_RANGE;

	ms = days_of_date(year, month, day) * MS_PER_DAY +
		((hour * 60 + minute) * 60 + second) * UINT64_C(1000) + milli;
	return fleet_clock_hlc_pack(ms, counter, stamp);
}

/* Write exactly this many digits; returns the place behind them. */
static char *
write_digits(char *text, uint32_t value, int ndigit)
{
	for (int i = ndigit - 1; i >= 0; i--)
	{
		text[i] = (char) ('0' + value % 10);
		value /= 10;
	}
	return text + ndigit;
}

/*
 * Write the text form and a NUL to text, which has FLEET_CLOCK_HLC_TEXT_SIZE
 * bytes.  Returns the length without the NUL.
 */
size_t
fleet_clock_hlc_format(uint64_t stamp, char *text)
{
	uint64_t	ms = fleet_clock_hlc_ms(stamp);
	uint32_t	in_day = (uint32_t) (ms % MS_PER_DAY);
	uint32_t	year;
	uint32_t	month;
	uint32_t	day;
	char	   *p = text;

	date_of_days(ms / MS_PER_DAY, &year, &month, &day);
	p = write_digits(p, year, year > 9999 ? 5 : 4);
	*p++ = '-';
	p = write_digits(p, month, 2);
	*p++ = '-';
	p = write_digits(p, day, 2);
	*p++ = 'T';
	p = write_digits(p, in_day / 3600000, 2);
	*p++ = ':';
	p = write_digits(p, in_day / 60000 % 60, 2);
	*p++ = ':';
	p = write_digits(p, in_day / 1000 % 60, 2);
	*p++ = '.';
	p = write_digits(p, in_day % 1000, 3);
	*p++ = 'Z';
	*p++ = '/';
	p = write_digits(p, fleet_clock_hlc_counter_of(stamp), 5);
	*p = '\0';
	return (size_t) (p - text);
}
