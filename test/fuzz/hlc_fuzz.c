/* cores: src/clock/hlc.c */
/*-------------------------------------------------------------------------
 *
 * hlc_fuzz.c
 *	  Fuzz target: stamps as text, and the clock's rules on any numbers.
 *
 * A text that is taken for a stamp must be what that stamp is written as, and
 * every stamp must be read back from its own text.  The first bytes serve as
 * numbers too, for tick and merge.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/hlc_fuzz.c
 *
 *-------------------------------------------------------------------------
 */
#include "clock/hlc.h"
#include "fuzz.h"

static void
try_text(const char *text, size_t len)
{
	char		again[FLEET_CLOCK_HLC_TEXT_SIZE];
	uint64_t	stamp;

	if (fleet_clock_hlc_parse(text, len, &stamp) != FLEET_CLOCK_HLC_OK)
		return;
	must(fleet_clock_hlc_format(stamp, again) == len);
	must(memcmp(again, text, len) == 0);
}

static void
try_stamp(uint64_t stamp)
{
	char		text[FLEET_CLOCK_HLC_TEXT_SIZE];
	size_t		len = fleet_clock_hlc_format(stamp, text);
	uint64_t	again = ~stamp;

	must(len == strlen(text) && len < sizeof(text));
	must(fleet_clock_hlc_parse(text, len, &again) == FLEET_CLOCK_HLC_OK);
	must(again == stamp);
}

static void
try_clock(uint64_t last, uint64_t received, uint64_t ms, uint64_t skew)
{
	uint64_t	next = fleet_clock_hlc_tick(last, ms);
	FleetClockHlcStatus status;

	must(next > last || last == UINT64_MAX);
	status = fleet_clock_hlc_merge(last, received, ms, skew, &next);
	if (status == FLEET_CLOCK_HLC_OK)
		must(next > last && next > received);
	else if (status == FLEET_CLOCK_HLC_TOO_FAR_AHEAD)
		must(received > last && fleet_clock_hlc_ms(received) - ms > skew);
	else
		must(status == FLEET_CLOCK_HLC_EXHAUSTED && (last == UINT64_MAX || received == UINT64_MAX));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FuzzInput	in = {data, size};
	uint64_t	numbers[4];

	try_text((const char *) data, size);
	for (int i = 0; i < 4; i++)
	{
		numbers[i] = fuzz_number(&in, 8);
		try_stamp(numbers[i]);
	}
	try_clock(numbers[0], numbers[1], numbers[2], numbers[3]);
	/* Milliseconds near those of the stamp, which random bytes hardly are. */
	try_clock(numbers[0], numbers[1], (numbers[0] >> 16) + (numbers[2] & 0xFF), numbers[3] & 0xFF);
	return 0;
}
