/*-------------------------------------------------------------------------
 *
 * replica.c
 *	  How fast the global replica follows, beside native logical replication.
 *
 *	  replica SECONDS REPETITIONS OPTIONS NATIVE_CONNINFO FLEET_CONNINFO
 *		REGION CONNINFO...
 *
 * The native side is a database with the same tables and indexes, without the
 * merge rule; OPTIONS are those of its subscriptions.  An empty FLEET_CONNINFO
 * measures the native side alone.  Printed is a line per case:
 *
 *	bench.replica case=.. rows_s=.. lag_p50_ms=.. lag_p95_ms=.. lag_p99_ms=..
 *		native_rows_s=.. native_lag_p50_ms=.. .. ratio=..
 *
 * In cases of apply and copy ratio is fleet's rate to the native one, the median
 * over the repetitions, whose sides have the same backlog; of lag it is fleet's
 * median lag to the native one.
 *
 * Apply rate: both sides are held back, changes are committed in transactions
 * of so many rows, and then each side in turn has to catch up.  One backlog
 * serves both; who is first changes each time.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/replica.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "replica.h"

typedef struct ApplyCase
{
	const char *what;			/* updates, inserts */
	int			rows;			/* of each transaction */
	int			transactions;
} ApplyCase;

static const ApplyCase apply_cases[] = {
	{"update", 1, 15000}, {"update", 10, 4000}, {"update", 100, 800}, {"update", 1000, 80},
	{"insert", 1, 15000}, {"insert", 10, 4000}, {"insert", 100, 600}, {"insert", 1000, 60},
};

void
bench_fail(const char *format,...)
{
	va_list		args;

	bench_release_all();
	fflush(stdout);
	fprintf(stderr, "replica: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	_Exit(1);
}

double
bench_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

void
bench_sleep(double seconds)
{
	struct timespec ts;

	if (seconds <= 0)
		return;
	ts.tv_sec = (time_t) seconds;
	ts.tv_nsec = (long) ((seconds - (double) ts.tv_sec) * 1e9);
	nanosleep(&ts, NULL);
}

/* ---------- figures ---------- */

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Sorts them. */
double
bench_quantile(double *values, size_t n, double q)
{
	size_t		i = (size_t) (q * (double) n);

	if (n == 0)
		return 0;
	qsort(values, n, sizeof(double), compare);
	return values[i < n ? i : n - 1];
}

/* Median and spread of some rates; sorts them. */
static BenchFigures
spread(double *rates, int n)
{
	BenchFigures figures = {0};

	figures.rows_s = bench_quantile(rates, (size_t) n, 0.5);
	figures.rows_s_min = rates[0];
	figures.rows_s_max = rates[n - 1];
	return figures;
}

/* The rates of both sides, or of the native one alone, in the same repetitions. */
void
bench_compare(const Bench *bench, double *native, double *fleet, int n, BenchFigures *figures)
{
	double		ratios[MAX_REPETITIONS];

	if (bench->sides[BENCH_FLEET].conn != NULL)
	{
		for (int i = 0; i < n; i++)
			ratios[i] = fleet[i] / native[i];
		figures[BENCH_FLEET] = spread(fleet, n);
		figures[BENCH_FLEET].ratio = bench_quantile(ratios, (size_t) n, 0.5);
	}
	figures[BENCH_NATIVE] = spread(native, n);
}

void
bench_report(const Bench *bench, const char *name, const BenchFigures *figures)
{
	const BenchFigures *fleet = &figures[BENCH_FLEET];
	const BenchFigures *native = &figures[BENCH_NATIVE];
	double		ratio = native->p50 > 0 ? fleet->p50 / native->p50 :
		native->rows_s > 0 ? fleet->rows_s / native->rows_s : 0;

	if (fleet->ratio > 0)
		ratio = fleet->ratio;
	if (bench->sides[BENCH_FLEET].conn == NULL)
		ratio = 0;
	printf("bench.replica case=%s rows_s=%.0f lag_p50_ms=%.2f lag_p95_ms=%.2f lag_p99_ms=%.2f"
		   " native_rows_s=%.0f native_lag_p50_ms=%.2f native_lag_p95_ms=%.2f native_lag_p99_ms=%.2f ratio=%.2f",
		   name, fleet->rows_s, fleet->p50, fleet->p95, fleet->p99,
		   native->rows_s, native->p50, native->p95, native->p99, ratio);
	if (native->rows_s_max > 0)
		printf(" rows_s_min=%.0f rows_s_max=%.0f native_rows_s_min=%.0f native_rows_s_max=%.0f",
			   fleet->rows_s_min, fleet->rows_s_max, native->rows_s_min, native->rows_s_max);
	printf("\n");
	fflush(stdout);
}

/* ---------- apply rate ---------- */

/* Make a backlog; returns its rows. */
static long
produce(Bench *bench, const ApplyCase *c)
{
	PGconn	   *conn = bench->regions[0].conn;
	long		rows = (long) c->rows * c->transactions;

	if (strcmp(c->what, "update") == 0)
	{
		free(bench_ask(conn, "CALL bench.update_rides(%ld, %d, %d)", bench->updated, c->rows, c->transactions));
		bench->updated += rows;
	}
	else
	{
		free(bench_ask(conn, "CALL bench.insert_rides(%ld, %d, %d)", bench->inserted, c->rows, c->transactions));
		bench->inserted += rows;
	}
	free(bench_ask(conn, "UPDATE fleet.local_rides SET fare = %ld WHERE ride_id = 'marker'", ++bench->mark));
	return rows;
}

static void
apply(Bench *bench, const ApplyCase *c)
{
	double		rates[BENCH_SIDES][MAX_REPETITIONS];
	BenchFigures figures[BENCH_SIDES] = {0};
	char		name[64];

	for (int n = 0; n < bench->repetitions; n++)
	{
		long		rows;

		for (int i = 0; i < BENCH_SIDES; i++)
			if (bench->sides[i].conn != NULL)
				bench_hold(&bench->sides[i]);
		rows = produce(bench, c);
		for (int i = 0; i < BENCH_SIDES; i++)
		{
			int			which = n % 2 == 0 ? i : BENCH_SIDES - 1 - i;
			BenchSide  *side = &bench->sides[which];

			if (side->conn == NULL)
				continue;
			bench_release(side);
			rates[which][n] = (double) rows / bench_await_marker(bench, side, bench->mark);
		}
	}
	bench_compare(bench, rates[BENCH_NATIVE], rates[BENCH_FLEET], bench->repetitions, figures);
	snprintf(name, sizeof(name), "%s-%d", c->what, c->rows);
	bench_report(bench, name, figures);
}

/* ---------- the run ---------- */

static void
connect_all(Bench *bench, char **argv, int argc)
{
	bench->sides[BENCH_NATIVE] = (BenchSide) {.name = "native",.conninfo = argv[0]};
	bench->sides[BENCH_FLEET] = (BenchSide) {.name = "fleet",.conninfo = argv[1]};
	for (int i = 0; i < BENCH_SIDES; i++)
		if (*bench->sides[i].conninfo != '\0')
			bench->sides[i].conn = bench_connect(bench->sides[i].conninfo);
	for (int i = 2; i + 1 < argc && bench->nregion < MAX_REGIONS; i += 2)
	{
		BenchRegion *region = &bench->regions[bench->nregion++];

		region->name = argv[i];
		region->conninfo = argv[i + 1];
		region->conn = bench_connect(region->conninfo);
	}
}

int
main(int argc, char **argv)
{
	static Bench bench;
	const char *only = getenv("BENCH_CASES");	/* copy, apply, lag */

	if (argc < 8)
		bench_fail("usage: replica SECONDS REPETITIONS OPTIONS NATIVE_CONNINFO FLEET_CONNINFO REGION CONNINFO...");
	bench.seconds = atof(argv[1]);
	bench.repetitions = atoi(argv[2]);
	bench.options = argv[3];
	if (bench.seconds <= 0 || bench.repetitions < 1 || bench.repetitions > MAX_REPETITIONS)
		bench_fail("SECONDS must be above 0, and REPETITIONS from 1 to %d", MAX_REPETITIONS);
	connect_all(&bench, argv + 4, argc - 4);
	atexit(bench_release_all);
	bench_copy(&bench, "copy-5000", 5000);
	if (only == NULL || strstr(only, "copy") != NULL)
		bench_copy(&bench, "copy-100000", 100000);
	for (int i = 0; i < BENCH_SIDES; i++)
		if (bench.sides[i].conn != NULL)
			bench_find_sender(&bench, &bench.sides[i]);
	for (size_t i = 0; i < sizeof(apply_cases) / sizeof(apply_cases[0]); i++)
		if (only == NULL || strstr(only, "apply") != NULL)
			apply(&bench, &apply_cases[i]);
	if (only == NULL || strstr(only, "lag") != NULL)
	{
		bench_lag(&bench, "lag-1000", 1000);
		bench_lag(&bench, "lag-10000", 10000);
	}
	return 0;
}
