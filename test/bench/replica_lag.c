/*-------------------------------------------------------------------------
 *
 * replica_lag.c
 *	  How far behind a row is, at a steady rate of changes.
 *
 * A writer commits TRANSACTIONS times a second; each transaction changes some
 * rides and counts the marker up.  The time at which the commit returned is
 * remembered.  A reader asks one side for its marker, again and again, and so
 * knows when each of these transactions became visible there.  Lag is the time
 * between the two, read too late by at most the pause between two questions,
 * which is the same for both sides.
 *
 * The sides take turns; meanwhile the other one is held back, and catches up
 * before its own turn is measured.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/replica_lag.c
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replica.h"

#define TRANSACTIONS 200		/* a second */
#define SLICES 4				/* of each side */
#define POLL_SECONDS 0.0001
#define CAUGHT_UP_SECONDS 0.02

typedef struct Writer
{
	Bench	   *bench;
	int			rows;			/* of each transaction */
	PGconn	   *conn;
	atomic_bool stop;
	double	   *committed;		/* when, of each mark from first on */
	long		first;
	long		max;
	atomic_long last;			/* mark that was committed */
	double		busy;			/* seconds in calls */
	double		start;
	double		end;
	pthread_t	thread;
} Writer;

/* Lags of one side, ms. */
typedef struct Lags
{
	double	   *values;
	size_t		n;
} Lags;

/* When a mark, or one after it, was first seen. */
typedef struct Sight
{
	long		mark;
	double		at;
} Sight;

static void *
run_writer(void *arg)
{
	Writer	   *writer = arg;
	double		next = bench_now();

	writer->start = next;
	while (!atomic_load(&writer->stop))
	{
		long		mark = atomic_load(&writer->last) + 1;
		double		before;

		bench_sleep(next - bench_now());
		next += 1.0 / TRANSACTIONS;
		if (bench_now() > next + 0.2)
			next = bench_now();	/* who is late does not make up for it */
		if (mark - writer->first >= writer->max)
			bench_fail("too many marks");
		before = bench_now();
		free(bench_ask(writer->conn, "SELECT bench.change(%ld, %d, %ld)", writer->bench->updated, writer->rows - 1, mark));
		writer->bench->updated += writer->rows - 1;
		writer->end = writer->committed[mark - writer->first] = bench_now();
		writer->busy += writer->end - before;
		atomic_store(&writer->last, mark);
	}
	return NULL;
}

/* Watch one side for a while; returns how many sights there are. */
static size_t
watch(BenchSide *side, double seconds, Sight *sights, size_t max)
{
	double		end = bench_now() + seconds;
	long		before = bench_marker(side);
	size_t		n = 0;

	while (bench_now() < end && n < max)
	{
		long		mark = bench_marker(side);

		if (mark != before)
		{
			sights[n].mark = mark;
			sights[n++].at = bench_now();
			before = mark;
		}
		bench_sleep(POLL_SECONDS);
	}
	return n;
}

/* The first sight only tells where the others begin. */
static void
add_lags(Lags *lags, const Writer *writer, const Sight *sights, size_t n)
{
	for (size_t i = 1; i < n; i++)
		for (long mark = sights[i - 1].mark + 1; mark <= sights[i].mark; mark++)
		{
			double		lag = sights[i].at - writer->committed[mark - writer->first];

			lags->values[lags->n++] = lag > 0 ? lag * 1000 : 0;
		}
}

static void
start_writer(Writer *writer, Bench *bench, int rate)
{
	writer->bench = bench;
	writer->rows = rate / TRANSACTIONS;
	writer->conn = bench_connect(bench->regions[0].conninfo);
	writer->first = bench->mark;
	writer->max = (long) (TRANSACTIONS * (bench->seconds * BENCH_SIDES + 120));
	writer->committed = calloc((size_t) writer->max, sizeof(double));
	if (writer->committed == NULL)
		bench_fail("out of memory");
	atomic_store(&writer->last, bench->mark);
	if (pthread_create(&writer->thread, NULL, run_writer, writer) != 0)
		bench_fail("cannot start a thread");
}

/* Let the sides take turns, each SLICES times. */
static void
take_turns(Bench *bench, Writer *writer, Sight **sights, size_t (*n)[SLICES], size_t max)
{
	for (int slice = 0; slice < SLICES; slice++)
		for (int i = 0; i < BENCH_SIDES; i++)
		{
			int			which = slice % 2 == 0 ? i : BENCH_SIDES - 1 - i;
			BenchSide  *side = &bench->sides[which];

			if (side->conn == NULL)
				continue;
			bench_release(side);
			/* While it catches up more is written, so that is not done at once. */
			while (bench_await_marker(bench, side, atomic_load(&writer->last)) > CAUGHT_UP_SECONDS)
				;
			bench_sleep(0.3);
			n[which][slice] = watch(side, bench->seconds / SLICES, sights[which] + (size_t) slice * max, max);
			bench_hold(side);
		}
}

/* Lag of both sides while so many rows are changed each second. */
void
bench_lag(Bench *bench, const char *name, int rate)
{
	static Writer writer;
	size_t		max = (size_t) (TRANSACTIONS * (bench->seconds / SLICES + 1)) * 2;
	size_t		n[BENCH_SIDES][SLICES] = {0};
	Sight	   *sights[BENCH_SIDES];
	BenchFigures figures[BENCH_SIDES] = {0};

	memset(&writer, 0, sizeof(writer));
	for (int i = 0; i < BENCH_SIDES; i++)
	{
		sights[i] = calloc(max * SLICES, sizeof(Sight));
		if (sights[i] == NULL)
			bench_fail("out of memory");
		if (bench->sides[i].conn != NULL)
			bench_hold(&bench->sides[i]);
	}
	start_writer(&writer, bench, rate);
	take_turns(bench, &writer, sights, n, max);
	atomic_store(&writer.stop, true);
	pthread_join(writer.thread, NULL);
	bench->mark = atomic_load(&writer.last);
	PQfinish(writer.conn);
	for (int i = 0; i < BENCH_SIDES; i++)
	{
		Lags		lags = {calloc((size_t) writer.max, sizeof(double)), 0};

		for (int slice = 0; slice < SLICES; slice++)
			add_lags(&lags, &writer, sights[i] + (size_t) slice * max, n[i][slice]);
		figures[i].p50 = bench_quantile(lags.values, lags.n, 0.50);
		figures[i].p95 = bench_quantile(lags.values, lags.n, 0.95);
		figures[i].p99 = bench_quantile(lags.values, lags.n, 0.99);
		free(lags.values);
		free(sights[i]);
		if (bench->sides[i].conn != NULL)
			bench_release(&bench->sides[i]);
	}
	figures[BENCH_NATIVE].rows_s = figures[BENCH_FLEET].rows_s =
		(double) (bench->mark - writer.first) * writer.rows / (writer.end - writer.start);
	free(writer.committed);
	bench_report(bench, name, figures);
}
