/* cores: src/clock/hlc.c */
/*-------------------------------------------------------------------------
 *
 * hlc_test.c
 *	  Unit tests of the hybrid logical clock's pure core.
 *
 * Random values come from a generator with a fixed seed, so a failure can be
 * repeated.  Loops report once, with the first value that broke the rule.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/unit/hlc_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "clock/hlc.h"
#include "tap.h"

#define ROUNDS		200000
#define NBOUNDARY	((int) (sizeof(boundaries) / sizeof(boundaries[0])))
#define NMALFORMED	((int) (sizeof(malformed) / sizeof(malformed[0])))
#define NWRONG		((int) (sizeof(wrong) / sizeof(wrong[0])))

#define STAMP(ms, counter)	(((uint64_t) (ms) << 16) | (counter))

typedef struct Known
{
	uint64_t	ms;
	uint32_t	counter;
	const char *text;
} Known;

/* The times were computed with GNU date and with Python's own calendar. */
static const Known boundaries[] = {
	{UINT64_C(0), 0, "1970-01-01T00:00:00.000Z/00000"},
	{UINT64_C(0), 65535, "1970-01-01T00:00:00.000Z/65535"},
	{UINT64_C(1), 0, "1970-01-01T00:00:00.001Z/00000"},
	{UINT64_C(86399999), 9, "1970-01-01T23:59:59.999Z/00009"},
	{UINT64_C(68169599999), 0, "1972-02-28T23:59:59.999Z/00000"},
	{UINT64_C(68169600000), 0, "1972-02-29T00:00:00.000Z/00000"},
	{UINT64_C(68256000000), 0, "1972-03-01T00:00:00.000Z/00000"},
	{UINT64_C(951782400000), 1, "2000-02-29T00:00:00.000Z/00001"},
	{UINT64_C(951868800000), 1, "2000-03-01T00:00:00.000Z/00001"},
	{UINT64_C(978307199999), 0, "2000-12-31T23:59:59.999Z/00000"},
	{UINT64_C(1795248202123), 5, "2026-11-21T08:03:22.123Z/00005"},
	{UINT64_C(4107542399999), 2, "2100-02-28T23:59:59.999Z/00002"},
	{UINT64_C(4107542400000), 2, "2100-03-01T00:00:00.000Z/00002"},
	{UINT64_C(13574563200000), 0, "2400-02-29T00:00:00.000Z/00000"},
	{UINT64_C(140737488355327), 65535, "6429-10-17T02:45:55.327Z/65535"},
	{UINT64_C(140737488355328), 0, "6429-10-17T02:45:55.328Z/00000"},
	{UINT64_C(253402300799999), 65535, "9999-12-31T23:59:59.999Z/65535"},
	{UINT64_C(253402300800000), 0, "10000-01-01T00:00:00.000Z/00000"},
	{UINT64_C(281474976710655), 65535, "10889-08-02T05:31:50.655Z/65535"},
};

/* Texts that are not of the form. */
static const char *const malformed[] = {
	"", "0", "-", "now", "infinity", "2026", "2026-11-21", "2026-11-21T08:03:22.123Z",
	" 2026-11-21T08:03:22.123Z/00005", "2026-11-21T08:03:22.123Z/00005 ",
	"2026-11-21T08:03:22.123Z/00005\n", "2026-11-21 08:03:22.123Z/00005",
	"2026-11-21t08:03:22.123z/00005", "2026-11-21T08:03:22.123/00005",
	"2026-11-21T08:03:22.123+00:00/00005", "2026-11-21T08:03:22Z/00005",
	"2026-11-21T08:03:22.12Z/00005", "2026-11-21T08:03:22.1234Z/00005",
	"2026-11-21T08:03:22.123456Z/00005", "2026-11-21T08:03:22,123Z/00005",
	"2026-11-21T08:03:22.123Z/5", "2026-11-21T08:03:22.123Z/0005",
	"2026-11-21T08:03:22.123Z/000005", "2026-11-21T08:03:22.123Z/",
	"2026-11-21T08:03:22.123Z00005", "2026-11-21T08:03:22.123Z/-0005",
	"2026-11-21T08:03:22.123Z/+0005", "2026-11-21T08:03:22.123Z/0x005",
	"2026-11-21T08:03:22.123Z\\00005", "2026-1-21T08:03:22.123Z/00005",
	"2026-11-1T08:03:22.123Z/00005", "26-11-21T08:03:22.123Z/00005",
	"02026-11-21T08:03:22.123Z/00005", "09999-12-31T23:59:59.999Z/00000",
	"+2026-11-21T08:03:22.123Z/00005", "-2026-11-21T08:03:22.123Z/00005",
	"-026-11-21T08:03:22.123Z/00005", "110000-01-01T00:00:00.000Z/00000",
	"2026-11-21T08:03:22.123Z/00005/00005", "2026-11-21T8:03:22.123Z/000005",
	"2026/11/21T08:03:22.123Z/00005", "2026-11-21T08-03-22.123Z/00005",
	"\xef\xbc\x92" "026-11-21T08:03:22.123Z/00005", "2026-11-21T08:03:22.\xff" "23Z/00005",
	"----------T--:--:--.---Z/-----", "///////////////////////////////",
};

typedef struct Wrong
{
	FleetClockHlcStatus status;
	const char *text;
} Wrong;

/* Texts of the form that name no stamp. */
static const Wrong wrong[] = {
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-00-21T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-13-21T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-99-21T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-00T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-31T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-12-32T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-02-29T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2100-02-29T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2000-02-30T08:03:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-21T24:00:00.000Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-21T08:60:22.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-21T08:03:60.123Z/00005"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-21T08:03:22.123Z/65536"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "2026-11-21T08:03:22.123Z/99999"},
	{FLEET_CLOCK_HLC_BAD_FIELD, "0000-00-00T00:00:00.000Z/00000"},
	{FLEET_CLOCK_HLC_OUT_OF_RANGE, "0000-01-01T00:00:00.000Z/00000"},
	{FLEET_CLOCK_HLC_OUT_OF_RANGE, "0001-01-01T00:00:00.000Z/00000"},
	{FLEET_CLOCK_HLC_OUT_OF_RANGE, "1969-12-31T23:59:59.999Z/65535"},
	{FLEET_CLOCK_HLC_OUT_OF_RANGE, "10889-08-02T05:31:50.656Z/00000"},
	{FLEET_CLOCK_HLC_OUT_OF_RANGE, "99999-12-31T23:59:59.999Z/65535"},
};

static uint64_t random_state = UINT64_C(0x9E3779B97F4A7C15);

/* xorshift64*, good enough to pick test values. */
static uint64_t
random_bits(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * UINT64_C(2685821657736338717);
}

/* Any stamp: most often of a random size, sometimes at the ends of a counter. */
static uint64_t
random_stamp(void)
{
	uint64_t	stamp = random_bits() >> (random_bits() % 64);

	switch (random_bits() % 4)
	{
		case 0:
			return stamp | 0xFFFF;
		case 1:
			return stamp & ~UINT64_C(0xFFFF);
		default:
			return stamp;
	}
}

static FleetClockHlcStatus
parse(const char *text, uint64_t *stamp)
{
	return fleet_clock_hlc_parse(text, strlen(text), stamp);
}

static void
test_pack(void)
{
	uint64_t	stamp = 77;

	is_int(fleet_clock_hlc_pack(0, 0, &stamp), FLEET_CLOCK_HLC_OK, "zero is a stamp");
	ok(stamp == 0, "zero packs to zero");
	is_int(fleet_clock_hlc_pack(FLEET_CLOCK_HLC_MS_MAX, 65535, &stamp), FLEET_CLOCK_HLC_OK,
		   "the greatest parts pack");
	ok(stamp == UINT64_MAX, "and give all bits");
	is_int(fleet_clock_hlc_pack(1, 2, &stamp), FLEET_CLOCK_HLC_OK, "small parts pack");
	is_int((long long) stamp, 65538, "milliseconds are above the counter");
	is_int((long long) fleet_clock_hlc_ms(stamp), 1, "milliseconds unpack");
	is_int(fleet_clock_hlc_counter_of(stamp), 2, "the counter unpacks");

	stamp = 77;
	is_int(fleet_clock_hlc_pack(FLEET_CLOCK_HLC_MS_MAX + 1, 0, &stamp),
		   FLEET_CLOCK_HLC_OUT_OF_RANGE, "49 bits of milliseconds are refused");
	is_int(fleet_clock_hlc_pack(UINT64_MAX, 0, &stamp),
		   FLEET_CLOCK_HLC_OUT_OF_RANGE, "64 bits of milliseconds are refused");
	is_int(fleet_clock_hlc_pack(0, 65536, &stamp),
		   FLEET_CLOCK_HLC_OUT_OF_RANGE, "17 bits of counter are refused");
	is_int((long long) stamp, 77, "a refusal leaves the output alone");
}

static void
test_tick(void)
{
	uint64_t	last = STAMP(1000, 7);
	uint64_t	bad = 0;

	ok(fleet_clock_hlc_tick(0, 1000) == STAMP(1000, 0), "a new clock takes physical time");
	ok(fleet_clock_hlc_tick(last, 1001) == STAMP(1001, 0), "time has passed: counter from zero");
	ok(fleet_clock_hlc_tick(last, 1000) == STAMP(1000, 8), "same millisecond: counter plus one");
	ok(fleet_clock_hlc_tick(last, 3) == STAMP(1000, 8), "time set back: counter plus one");
	ok(fleet_clock_hlc_tick(0, 0) == 1, "after zero comes one");
	ok(fleet_clock_hlc_tick(STAMP(1000, 65535), 1000) == STAMP(1001, 0),
	   "a full counter carries into the next millisecond");
	ok(fleet_clock_hlc_tick(STAMP(1000, 65535), 1001) == STAMP(1001, 0),
	   "a full counter and a new millisecond");
	ok(fleet_clock_hlc_tick(0, FLEET_CLOCK_HLC_MS_MAX + 6) == FLEET_CLOCK_HLC_MS_MAX << 16,
	   "physical time past 48 bits is cut, not wrapped");
	ok(fleet_clock_hlc_tick(UINT64_MAX - 1, 0) == UINT64_MAX, "the very last stamp is given out");
	ok(fleet_clock_hlc_tick(UINT64_MAX, 0) == UINT64_MAX, "after it the clock stands, it does not wrap");
	ok(fleet_clock_hlc_tick(UINT64_MAX, UINT64_MAX) == UINT64_MAX, "also with physical time past the end");

	for (int i = 0; i < ROUNDS && bad == 0; i++)
	{
		uint64_t	from = random_stamp();
		uint64_t	physical = random_stamp() >> 16;
		uint64_t	next = fleet_clock_hlc_tick(from, physical);

		if (from != UINT64_MAX &&
			(next <= from || fleet_clock_hlc_ms(next) < physical ||
			 (next != from + 1 && next != physical << 16)))
			bad = from;
	}
	ok(bad == 0, "tick: greater than last, not before physical, no further than needed (%" PRIu64 ")", bad);
}

/* A clock whose physical time wobbles still never repeats or goes back. */
static void
test_monotonic(void)
{
	uint64_t	last = 0;
	uint64_t	physical = 1000;
	int			bad = 0;

	for (int i = 0; i < ROUNDS; i++)
	{
		uint64_t	next;

		physical += random_bits() % 5;
		physical -= random_bits() % 4;
		next = fleet_clock_hlc_tick(last, physical);
		bad += next <= last;
		last = next;
	}
	is_int(bad, 0, "a wobbling physical clock: every stamp is greater than the one before");

	for (int i = 0; i < ROUNDS; i++)
		last = fleet_clock_hlc_tick(last, 0);
	ok(fleet_clock_hlc_ms(last) <= physical + ROUNDS / 65536 + 5,
	   "a standing physical clock costs a millisecond per 65536 stamps");
}

/* What must hold of each merge that is accepted, and of each that is not. */
static int
merge_breaks(uint64_t last, uint64_t received, uint64_t physical, uint64_t skew)
{
	uint64_t	out = 4711;
	uint64_t	other = 4711;
	uint64_t	received_ms = received >> 16;
	int			too_far = received > last && received_ms > physical && received_ms - physical > skew;
	FleetClockHlcStatus status = fleet_clock_hlc_merge(last, received, physical, skew, &out);

	if (too_far)
		return status != FLEET_CLOCK_HLC_TOO_FAR_AHEAD || out != 4711;
	if (last == UINT64_MAX || received == UINT64_MAX)
		return status != FLEET_CLOCK_HLC_EXHAUSTED || out != 4711;
	if (status != FLEET_CLOCK_HLC_OK || out <= last || out <= received || out >> 16 < physical)
		return 1;
	/* No further than needed. */
	if (out != last + 1 && out != received + 1 && out != physical << 16)
		return 2;
	/* With no skew limit to tell them apart, the two stamps are equals. */
	if (fleet_clock_hlc_merge(received, last, physical, UINT64_MAX, &other) != FLEET_CLOCK_HLC_OK ||
		other != out)
		return 3;
	/* To receive one's own last stamp is to tick. */
	if (fleet_clock_hlc_merge(last, last, physical, 0, &other) != FLEET_CLOCK_HLC_OK ||
		other != fleet_clock_hlc_tick(last, physical))
		return 4;
	/* A stamp received again changes nothing but the count of events. */
	if (out != UINT64_MAX &&
		(fleet_clock_hlc_merge(out, received, physical, 0, &other) != FLEET_CLOCK_HLC_OK ||
		 other != out + 1))
		return 5;
	return 0;
}

static void
test_merge(void)
{
	int			bad = 0;
	int			at = -1;
	uint64_t	out = 0;

	for (int i = 0; i < ROUNDS && bad == 0; i++)
	{
		uint64_t	last = random_stamp();
		uint64_t	received = random_bits() % 2 ? random_stamp() : last + random_bits() % (1 << 20);
		uint64_t	physical = random_bits() % 2 ? random_stamp() >> 16 : (received >> 16) - random_bits() % 8;
		uint64_t	skew = random_bits() % 2 ? random_bits() % 8 : random_bits();

		/* The core is asked for physical times that a stamp can hold. */
		physical &= FLEET_CLOCK_HLC_MS_MAX;
		bad = merge_breaks(last, received, physical, skew);
		at = i;
	}
	ok(bad == 0, "merge laws hold for random stamps (law %d, round %d)", bad, at);

	for (int order = 0; order < 2; order++)
	{
		uint64_t	a = STAMP(2000, 4);
		uint64_t	b = STAMP(2000, 9);
		uint64_t	clock = STAMP(1999, 65535);

		fleet_clock_hlc_merge(clock, order ? b : a, 1990, 50, &clock);
		fleet_clock_hlc_merge(clock, order ? a : b, 1990, 50, &clock);
		ok(clock >= STAMP(2000, 10) && clock <= STAMP(2000, 11),
		   "the order of two messages matters by no more than their count (%d)", order);
	}

	is_int(fleet_clock_hlc_merge(5, STAMP(1000, 65535), 1000, 0, &out), FLEET_CLOCK_HLC_OK,
		   "a received full counter is accepted");
	ok(out == STAMP(1001, 0), "and carries into the next millisecond");
}

static void
test_skew(void)
{
	uint64_t	out = 4711;

	is_int(fleet_clock_hlc_merge(0, STAMP(6000, 65535), 1000, 5000, &out),
		   FLEET_CLOCK_HLC_OK, "exactly the allowed skew is accepted");
	ok(out == STAMP(6001, 0), "and merged");
	out = 4711;
	is_int(fleet_clock_hlc_merge(0, STAMP(6001, 0), 1000, 5000, &out),
		   FLEET_CLOCK_HLC_TOO_FAR_AHEAD, "one millisecond more is refused");
	is_int(fleet_clock_hlc_merge(0, UINT64_MAX, 1000, 5000, &out),
		   FLEET_CLOCK_HLC_TOO_FAR_AHEAD, "the greatest stamp is refused");
	is_int(fleet_clock_hlc_merge(0, STAMP(1, 0), 0, 0, &out),
		   FLEET_CLOCK_HLC_TOO_FAR_AHEAD, "a limit of zero refuses any lead");
	is_int((long long) out, 4711, "a refusal leaves the output alone");

	is_int(fleet_clock_hlc_merge(STAMP(9000, 3), STAMP(9000, 3), 1000, 5000, &out),
		   FLEET_CLOCK_HLC_OK, "our own last stamp is accepted however far ahead");
	ok(out == STAMP(9000, 4), "and counted on");
	is_int(fleet_clock_hlc_merge(STAMP(9000, 3), STAMP(8000, 0), 1000, 5000, &out),
		   FLEET_CLOCK_HLC_OK, "so is one below it");
	is_int(fleet_clock_hlc_merge(STAMP(9000, 3), STAMP(9000, 4), 1000, 5000, &out),
		   FLEET_CLOCK_HLC_TOO_FAR_AHEAD, "one above it is not");
	is_int(fleet_clock_hlc_merge(0, 0, UINT64_MAX, 0, &out), FLEET_CLOCK_HLC_OK,
		   "an ancient stamp is accepted");

	out = 4711;
	is_int(fleet_clock_hlc_merge(0, UINT64_MAX, 0, UINT64_MAX, &out), FLEET_CLOCK_HLC_EXHAUSTED,
		   "nothing follows the greatest stamp");
	is_int(fleet_clock_hlc_merge(UINT64_MAX, 0, 0, UINT64_MAX, &out), FLEET_CLOCK_HLC_EXHAUSTED,
		   "nor in the clock");
	is_int((long long) out, 4711, "and the output is left alone");
}

static void
test_text_boundaries(void)
{
	for (int i = 0; i < NBOUNDARY; i++)
	{
		const Known *known = &boundaries[i];
		uint64_t	stamp = 4711;
		char		text[FLEET_CLOCK_HLC_TEXT_SIZE];
		size_t		len = fleet_clock_hlc_format(STAMP(known->ms, known->counter), text);

		is_str(text, known->text, "format");
		is_int((long long) len, (long long) strlen(known->text), "its length");
		is_int(parse(known->text, &stamp), FLEET_CLOCK_HLC_OK, "parse");
		ok(stamp == STAMP(known->ms, known->counter), "its stamp, %s", known->text);
	}
}

/* Compare the calendar with libc's, day by day through all of time. */
static void
test_calendar(void)
{
	int64_t		bad = -1;
	int64_t		day;

	for (day = 0; day <= (int64_t) (FLEET_CLOCK_HLC_MS_MAX / 86400000) && bad < 0; day++)
	{
		time_t		seconds = (time_t) day * 86400;
		struct tm	tm;
		char		want[64];
		char		text[FLEET_CLOCK_HLC_TEXT_SIZE];
		uint64_t	stamp = 4711;
		size_t		len = fleet_clock_hlc_format(STAMP(day * 86400000, 0), text);

		gmtime_r(&seconds, &tm);
		snprintf(want, sizeof(want), "%04d-%02d-%02dT00:00:00.000Z/00000",
				 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
		if (strcmp(text, want) != 0 ||
			fleet_clock_hlc_parse(text, len, &stamp) != FLEET_CLOCK_HLC_OK ||
			stamp != STAMP(day * 86400000, 0))
			bad = day;
	}
	is_int(bad, -1, "each day from 1970 to 10889 agrees with libc and reads back");
	is_int(day, 3257813, "that was 3257813 days");
}

static void
test_round_trip(void)
{
	uint64_t	bad = 0;
	uint64_t	unsorted = 0;

	for (int i = 0; i < ROUNDS; i++)
	{
		uint64_t	a = random_stamp();
		uint64_t	b = random_bits() % 2 ? random_stamp() : a + random_bits() % (1 << 20);
		uint64_t	back = ~a;
		char		text_a[FLEET_CLOCK_HLC_TEXT_SIZE];
		char		text_b[FLEET_CLOCK_HLC_TEXT_SIZE];

		fleet_clock_hlc_format(a, text_a);
		fleet_clock_hlc_format(b, text_b);
		if (parse(text_a, &back) != FLEET_CLOCK_HLC_OK || back != a)
			bad = a;
		if (strlen(text_a) == 30 && strlen(text_b) == 30 &&
			((a < b) != (strcmp(text_a, text_b) < 0) || (a == b) != (strcmp(text_a, text_b) == 0)))
			unsorted = a;
	}
	ok(bad == 0, "random stamps survive their text (%" PRIu64 ")", bad);
	ok(unsorted == 0, "text sorts as stamps do, up to the year 9999 (%" PRIu64 ")", unsorted);
}

static void
test_bad_text(void)
{
	static const char *const good = "2026-11-21T08:03:22.123Z/00005";
	uint64_t	stamp = 4711;

	for (int i = 0; i < NMALFORMED; i++)
		is_int(parse(malformed[i], &stamp), FLEET_CLOCK_HLC_MALFORMED, malformed[i]);
	for (int i = 0; i < NWRONG; i++)
		is_int(parse(wrong[i].text, &stamp), wrong[i].status, wrong[i].text);

	is_int(fleet_clock_hlc_parse("2026-11-21T08:03:22.123Z\0/0005", 30, &stamp),
		   FLEET_CLOCK_HLC_MALFORMED, "a NUL inside");
	is_int(fleet_clock_hlc_parse("2026-11-21T08:03:22.123Z/00005\0", 31, &stamp),
		   FLEET_CLOCK_HLC_MALFORMED, "a NUL at the end");
	is_int((long long) stamp, 4711, "a refusal leaves the output alone");

	/* In memory of exactly that size, so that valgrind sees a byte too many. */
	for (size_t len = 0; len < strlen(good); len++)
	{
		char	   *cut = malloc(len + (len == 0));

		memcpy(cut, good, len);
		is_int(fleet_clock_hlc_parse(cut, len, &stamp), FLEET_CLOCK_HLC_MALFORMED, "cut short");
		free(cut);
	}
}

/* Change a good text in a few places: what is accepted must print as it was. */
static void
test_mutated_text(void)
{
	static const char marks[] = "0123456789-T:.Z/ t+\xff";
	int			accepted = 0;
	int			refused = 0;
	int			bad = 0;

	for (int i = 0; i < ROUNDS; i++)
	{
		char		text[FLEET_CLOCK_HLC_TEXT_SIZE];
		char		back[FLEET_CLOCK_HLC_TEXT_SIZE];
		uint64_t	stamp;
		size_t		len = fleet_clock_hlc_format(random_stamp(), text);

		for (uint64_t change = random_bits() % 3; change < 3; change++)
			text[random_bits() % len] = marks[random_bits() % (sizeof(marks) - 1)];
		if (fleet_clock_hlc_parse(text, len, &stamp) != FLEET_CLOCK_HLC_OK)
		{
			refused++;
			continue;
		}
		accepted++;
		fleet_clock_hlc_format(stamp, back);
		bad += strcmp(text, back) != 0;
	}
	is_int(bad, 0, "each stamp has one text: what is accepted prints unchanged");
	ok(accepted > ROUNDS / 100 && refused > ROUNDS / 100, "both outcomes were met");
}

int
main(void)
{
	test_pack();
	test_tick();
	test_monotonic();
	test_merge();
	test_skew();
	test_text_boundaries();
	test_calendar();
	test_round_trip();
	test_bad_text();
	test_mutated_text();
	return done();
}
