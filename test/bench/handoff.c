/*-------------------------------------------------------------------------
 *
 * handoff.c
 *	  How fast a handoff is, beside the same done by hand.
 *
 *	  handoff SECONDS CLIENTS REGION CONNINFO REGION CONNINFO REGION CONNINFO
 *
 * The three nodes are source, target and third.  A case is a list of ways to
 * hand rides off, the floor (handoff_way.c) first.  The time of a case is cut
 * into slices; in each, every way has its turn, and the order is turned round
 * from slice to slice.  So what disturbs the machine for a while hurts all ways
 * alike.  The first turn of each way warms up and is not counted.
 *
 * Printed is one line per way:
 *
 *	bench.handoff case=.. clients=.. per_s=.. p50_ms=.. p95_ms=.. p99_ms=..
 *		floor_per_s=.. ratio=.. ratio_min=.. ratio_max=.. floor_p50_ms=..
 *		floor_p99_ms=.. calls=..
 *
 * per_s and floor_per_s (rides a second) are medians over the slices, and ratio
 * is the median of the slices' ratios; latencies are of all calls.  The floor is
 * the same by hand, at as many clients: from the target or a third node where
 * the case is, else from the source.  A handoff from the third node has a flush
 * and two messages more, by hand too; a line case=floor beside it tells how much
 * faster the floor from the source is at that moment.
 *
 * The exit status is 0 only if each call succeeded and each ride is where it
 * belongs at the end.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/handoff.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handoff.h"

#define SLICES			5
#define MAX_WAYS		4
#define WARM_UP_CALLS	20		/* of each client */
#define FIRST_RATE		1000.0	/* rides a second, before it is known */

typedef struct BenchCase
{
	const BenchWay *ways[MAX_WAYS];	/* the floor first */
	int			clients;		/* 0 = as asked for; negative = so many times that */
	bool		at_once;		/* all clients call at the same moment */
	int			writers;		/* that update other rides meanwhile */
	const char *name;			/* of the second way, where it is not the way's own */
} BenchCase;

/* One way in one case. */
typedef struct Turn
{
	BenchClient *clients;
	double		rate;			/* as seen in the last slice */
	double		per_s[SLICES];
	double	   *latency;		/* of all clients, sorted */
	size_t		nlatency;
} Turn;

static const BenchCase cases[] = {
	{{&bench_way_floor, &bench_way_from_source, &bench_way_floor_bare, &bench_way_floor_decision}, 1},
	{{&bench_way_floor, &bench_way_from_source, &bench_way_floor_bare, &bench_way_floor_decision}, 0},
	{{&bench_way_floor, &bench_way_from_source}, -4},
	{{&bench_way_floor_target, &bench_way_from_target, &bench_way_floor}, 0},
	{{&bench_way_floor_third, &bench_way_from_third, &bench_way_floor}, 0},
	{{&bench_way_floor, &bench_way_batch}, 0},
	{{&bench_way_floor, &bench_way_from_source}, 50, true, 0, "simultaneous-50"},
	{{&bench_way_floor, &bench_way_dblink}, 1},
	{{&bench_way_floor, &bench_way_dblink}, 0},
	{{&bench_way_floor, &bench_way_from_source}, 0, false, 8, "update"},
};

void
bench_fail(const char *format,...)
{
	va_list		args;

	fflush(stdout);
	fprintf(stderr, "handoff: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	_Exit(1);
}

PGconn *
bench_connect(const BenchNode *node)
{
	PGconn	   *conn = PQconnectdb(node->conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		bench_fail("%s: %s", node->region, PQerrorMessage(conn));
	return conn;
}

/* Rows of a query that must succeed. */
PGresult *
bench_query(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		bench_fail("%s: %s", sql, PQerrorMessage(conn));
	return result;
}

/* ---------- figures ---------- */

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
quantile(const double *sorted, size_t n, double q)
{
	size_t		i = (size_t) (q * (double) n);

	return n == 0 ? 0 : sorted[i < n ? i : n - 1];
}

static double
median(const double *values)
{
	double		sorted[SLICES];

	memcpy(sorted, values, sizeof(sorted));
	qsort(sorted, SLICES, sizeof(double), compare);
	return sorted[SLICES / 2];
}

/* Put the latencies of all clients in order. */
static void
collect(Turn *turn, int nclient)
{
	for (int i = 0; i < nclient; i++)
		turn->nlatency += turn->clients[i].nlatency;
	turn->latency = malloc((turn->nlatency + 1) * sizeof(double));
	if (turn->latency == NULL)
		bench_fail("out of memory");
	turn->nlatency = 0;
	for (int i = 0; i < nclient; i++)
	{
		const BenchClient *client = &turn->clients[i];

		if (client->nlatency > 0)
			memcpy(turn->latency + turn->nlatency, client->latency,
				   client->nlatency * sizeof(double));
		turn->nlatency += client->nlatency;
	}
	qsort(turn->latency, turn->nlatency, sizeof(double), compare);
}

static void
report(const char *name, int nclient, const Turn *turn, const Turn *floor)
{
	double		ratio[SLICES];

	for (int i = 0; i < SLICES; i++)
		ratio[i] = floor->per_s[i] > 0 ? turn->per_s[i] / floor->per_s[i] : 0;
	qsort(ratio, SLICES, sizeof(double), compare);
	printf("bench.handoff case=%s clients=%d per_s=%.0f p50_ms=%.2f p95_ms=%.2f p99_ms=%.2f"
		   " floor_per_s=%.0f ratio=%.2f ratio_min=%.2f ratio_max=%.2f"
		   " floor_p50_ms=%.2f floor_p99_ms=%.2f calls=%zu\n",
		   name, nclient, median(turn->per_s), quantile(turn->latency, turn->nlatency, 0.50),
		   quantile(turn->latency, turn->nlatency, 0.95),
		   quantile(turn->latency, turn->nlatency, 0.99), median(floor->per_s),
		   ratio[SLICES / 2], ratio[0], ratio[SLICES - 1],
		   quantile(floor->latency, floor->nlatency, 0.50),
		   quantile(floor->latency, floor->nlatency, 0.99), turn->nlatency);
	fflush(stdout);
}

/* What each of the floor's round trips takes. */
static void
report_steps(const BenchClient *client)
{
	static const char *const steps[BENCH_STEPS] = {
		"leave", "enter_prepare", "commit", "commit_prepared"
	};

	printf("bench.handoff.floor clients=1");
	for (int i = 0; i < BENCH_STEPS; i++)
		printf(" %s_us=%.0f", steps[i], client->step[i] * 1e6 / (double) client->calls);
	printf("\n");
}

/* ---------- cases ---------- */

static int
count_ways(const BenchCase *c)
{
	int			n = 0;

	while (n < MAX_WAYS && c->ways[n] != NULL)
		n++;
	return n;
}

/* Let a way run for a while; returns rides a second. */
static double
take_turn(Bench *bench, const BenchCase *c, Turn *turn, int nclient, double seconds)
{
	const BenchWay *way = turn->clients->way;
	BenchPool  *pool = bench_pool(bench, way);
	long		wanted = (long) (turn->rate * seconds * 2);

	bench_pool_fill(bench, pool, wanted + (long) WARM_UP_CALLS * nclient * way->rides);
	bench_pool_settle(bench);
	turn->rate = bench_slice(turn->clients, nclient, seconds, c->at_once);
	return turn->rate;
}

static void
warm_up(Bench *bench, const BenchCase *c, Turn *turn, int nclient, double seconds)
{
	turn->rate = FIRST_RATE * turn->clients->way->rides;
	if (turn->clients->way->rides == 1)
		turn->rate *= 4;
	(void) take_turn(bench, c, turn, nclient, seconds < 0.5 ? seconds : 0.5);
	for (int i = 0; i < nclient; i++)
	{
		turn->clients[i].nlatency = 0;
		turn->clients[i].calls = 0;
		memset(turn->clients[i].step, 0, sizeof(turn->clients[i].step));
	}
}

static void
report_case(const BenchCase *c, Turn *turns, int nway, int nclient)
{
	for (int i = 0; i < nway; i++)
		collect(&turns[i], nclient);
	for (int i = 1; i < nway; i++)
		report(i == 1 && c->name ? c->name : c->ways[i]->name, nclient, &turns[i], &turns[0]);
	if (nclient == 1 && nway > 2)
		report_steps(turns[0].clients);
	for (int i = 0; i < nway; i++)
	{
		bench_clients_close(turns[i].clients, nclient);
		free(turns[i].latency);
	}
}

static void
run_case(Bench *bench, const BenchCase *c)
{
	int			nclient = c->clients > 0 ? c->clients :
		c->clients == 0 ? bench->clients : bench->clients * -c->clients;
	int			nway = count_ways(c);
	double		seconds = bench->seconds / SLICES;
	double		start;
	Turn		turns[MAX_WAYS] = {0};

	for (int i = 0; i < nway; i++)
		turns[i].clients = bench_clients_open(bench, c->ways[i], nclient);
	if (c->writers > 0)
		bench_writers_start(bench, c->writers);
	start = bench_now();
	for (int i = 0; i < nway; i++)
		warm_up(bench, c, &turns[i], nclient, seconds);
	for (int s = 0; s < SLICES; s++)
		for (int i = 0; i < nway; i++)
		{
			Turn	   *turn = &turns[s % 2 == 0 ? i : nway - 1 - i];

			turn->per_s[s] = take_turn(bench, c, turn, nclient, seconds);
		}
	if (c->writers > 0)
	{
		double		took = bench_now() - start;

		printf("bench.handoff.writers clients=%d per_s=%.0f\n", c->writers,
			   (double) bench_writers_stop() / took);
	}
	report_case(c, turns, nway, nclient);
}

int
main(int argc, char **argv)
{
	static Bench bench = {
		.fleet = {.schema = "fleet",.next = 1},
		.by_hand = {.schema = "bench",.next = 1},
	};
	const char *only = getenv("BENCH_CASES");	/* numbers, for the impatient */

	if (argc != 3 + 2 * BENCH_PLACES)
		bench_fail("usage: handoff SECONDS CLIENTS REGION CONNINFO (source, target, third)");
	bench.seconds = atof(argv[1]);
	bench.clients = atoi(argv[2]);
	if (bench.seconds <= 0 || bench.clients < 1 || bench.clients > 50)
		bench_fail("SECONDS must be above 0, and CLIENTS from 1 to 50");
	for (int i = 0; i < BENCH_PLACES; i++)
	{
		snprintf(bench.nodes[i].region, sizeof(bench.nodes[i].region), "%s", argv[3 + 2 * i]);
		snprintf(bench.nodes[i].conninfo, sizeof(bench.nodes[i].conninfo), "%s", argv[4 + 2 * i]);
		bench.nodes[i].control = bench_connect(&bench.nodes[i]);
	}
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (only == NULL || strchr(only, (char) ('0' + i)) != NULL)
			run_case(&bench, &cases[i]);
	if (!bench_pool_check(&bench))
		return 1;
	printf("bench.handoff.check rides=%ld moved=%ld by_hand=%ld all in their places, fleet.verify() is clean\n",
		   bench.fleet.loaded, bench.fleet.moved, bench.by_hand.moved);
	return 0;
}
