/*-------------------------------------------------------------------------
 *
 * replica_copy.c
 *	  How long the initial copy of all regions takes.
 *
 * Native: CREATE SUBSCRIPTION for each region with its copy, until all tables are
 * in sync.  Fleet's: CALL fleet.add_replica, until it returns; what it does
 * besides (slots, the region map on all nodes) is counted.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/replica_copy.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replica.h"

#define REPETITIONS 3
#define PATIENCE 300.0

static void
drop_native(Bench *bench, BenchSide *side)
{
	for (int i = 0; i < bench->nregion; i++)
	{
		char	   *there = bench_ask(side->conn, "SELECT count(*) FROM pg_subscription"
									  " WHERE subname = '%s_%s'", side->name, bench->regions[i].name);

		if (atol(there) > 0)
			free(bench_ask(side->conn, "DROP SUBSCRIPTION %s_%s", side->name, bench->regions[i].name));
		free(there);
	}
	free(bench_ask(side->conn, "TRUNCATE fleet.local_rides, fleet.local_vehicles"));
}

static void
copy_native(Bench *bench, BenchSide *side)
{
	double		deadline = bench_now() + PATIENCE;
	long		left = 1;

	for (int i = 0; i < bench->nregion; i++)
		free(bench_ask(side->conn, "CREATE SUBSCRIPTION %s_%s CONNECTION '%s' PUBLICATION native WITH (%s)",
					   side->name, bench->regions[i].name, bench->regions[i].conninfo, bench->options));
	while (left > 0)
	{
		char	   *text = bench_ask(side->conn, "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'");

		left = atol(text);
		free(text);
		if (bench_now() > deadline)
			bench_fail("the native copy takes more than %.0f s", PATIENCE);
		bench_sleep(0.02);
	}
}

static void
drop_fleet(Bench *bench)
{
	char	   *there = bench_ask(bench->regions[0].conn, "SELECT count(*) FROM fleet.map_replicas");

	if (atol(there) > 0)
		free(bench_ask(bench->regions[0].conn, "CALL fleet.remove_replica('global')"));
	free(there);
}

static void
copy_fleet(Bench *bench, BenchSide *side)
{
	free(bench_ask(bench->regions[0].conn, "CALL fleet.add_replica('global', '%s')", getenv("FLEET_CONNINFO")));
	/* Its tables are there only now. */
	PQfinish(side->conn);
	side->conn = bench_connect(side->conninfo);
}

/* Rides and vehicles that the side has. */
static long
count_rows(BenchSide *side)
{
	char	   *text = bench_ask(side->conn, "SELECT (SELECT count(*) FROM fleet.rides) + (SELECT count(*) FROM fleet.vehicles)");
	long		n = atol(text);

	free(text);
	return n;
}

/* Have so many rides in each region, and let both sides copy them. */
void
bench_copy(Bench *bench, const char *name, long rides)
{
	double		rates[BENCH_SIDES][REPETITIONS];
	BenchFigures figures[BENCH_SIDES] = {0};

	for (int i = 0; i < bench->nregion; i++)
		free(bench_ask(bench->regions[i].conn, "SELECT bench.load(%d, %ld)", i, rides));
	for (int n = 0; n < REPETITIONS; n++)
		for (int i = 0; i < BENCH_SIDES; i++)
		{
			BenchSide  *side = &bench->sides[n % 2 == 0 ? i : BENCH_SIDES - 1 - i];
			bool		native = side == &bench->sides[BENCH_NATIVE];
			double		start;
			long		rows;

			if (side->conn == NULL)
				continue;
			if (native)
				drop_native(bench, side);
			else
				drop_fleet(bench);
			start = bench_now();
			if (native)
				copy_native(bench, side);
			else
				copy_fleet(bench, side);
			start = bench_now() - start;
			rows = count_rows(side);
			if (rows < rides * bench->nregion)
				bench_fail("%s has copied %ld rows of %ld", side->name, rows, rides * bench->nregion);
			rates[side - bench->sides][n] = (double) rows / start;
		}
	bench_compare(bench, rates[BENCH_NATIVE], rates[BENCH_FLEET], REPETITIONS, figures);
	bench_report(bench, name, figures);
}
