/*-------------------------------------------------------------------------
 *
 * tap.h
 *	  The few lines of TAP that the unit tests of the pure cores need.
 *
 * A test calls ok(), is_int(), is_str() as often as it likes and ends with
 * "return done();", which prints the plan and says whether all was well.
 *
 * Copyright (c) 2026, the fleet authors
 * test/unit/tap.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TAP_H
#define FLEET_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TAP_UNUSED __attribute__((unused))

static int	tap_run = 0;
static int	tap_failed = 0;

/* One line of result; the condition is returned, so that tests can chain. */
static int	ok(int cond, const char *fmt,...) __attribute__((format(printf, 2, 3)));

static int	TAP_UNUSED
ok(int cond, const char *fmt,...)
{
	va_list		args;

	tap_run++;
	if (!cond)
		tap_failed++;
	printf("%sok %d - ", cond ? "" : "not ", tap_run);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	return cond;
}

static int	TAP_UNUSED
is_int(long long got, long long want, const char *name)
{
	if (!ok(got == want, "%s", name))
		printf("#      got: %lld\n# expected: %lld\n", got, want);
	return got == want;
}

static int	TAP_UNUSED
is_str(const char *got, const char *want, const char *name)
{
	int			same = strcmp(got, want) == 0;

	if (!ok(same, "%s", name))
		printf("#      got: %s\n# expected: %s\n", got, want);
	return same;
}

static int	TAP_UNUSED
done(void)
{
	printf("1..%d\n", tap_run);
	if (tap_failed > 0)
		printf("# %d of %d failed\n", tap_failed, tap_run);
	return tap_failed > 0 || tap_run == 0;
}

#endif							/* FLEET_TAP_H */
