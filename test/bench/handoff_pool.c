/*-------------------------------------------------------------------------
 *
 * handoff_pool.c
 *	  Rides to hand off, and the count at the end.
 *
 * Each ride is handed off once, from the source to the target.  Before each
 * slice the source gets as many new ones as the slice may need.
 *
 * What fleet writes down after a handoff (that it is settled) is waited for
 * before the next slice begins: it must not slow down the floor.  In a slice
 * of fleet's own it runs along.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/handoff_pool.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "handoff.h"

#define SETTLE_SECONDS 60.0

BenchPool *
bench_pool(Bench *bench, const BenchWay *way)
{
	return way->by_hand ? &bench->by_hand : &bench->fleet;
}

/* Have at least so many rides ready. */
void
bench_pool_fill(Bench *bench, BenchPool *pool, long wanted)
{
	long		next = atomic_load(&pool->next);
	long		last;
	char		sql[256];

	/* The last numbers may have been drawn without a ride behind them. */
	if (next > pool->loaded + 1)
		next = pool->loaded + 1;
	last = next + wanted - 1;
	if (last > pool->loaded)
	{
		snprintf(sql, sizeof(sql), "SELECT bench.load('%s.rides', %ld, %ld)",
				 pool->schema, pool->loaded + 1, last);
		PQclear(bench_query(bench->nodes[BENCH_SOURCE].control, sql));
		pool->loaded = last;
	}
	atomic_store(&pool->next, next);
}

/* A number that every node may be asked for, summed up. */
static double
sum_over_nodes(Bench *bench, const char *sql)
{
	double		sum = 0;

	for (int i = 0; i < BENCH_PLACES; i++)
	{
		PGresult   *result = bench_query(bench->nodes[i].control, sql);

		sum += atof(PQgetvalue(result, 0, 0));
		PQclear(result);
	}
	return sum;
}

/* Wait until every handoff is settled on every node. */
void
bench_pool_settle(Bench *bench)
{
	double		deadline = bench_now() + SETTLE_SECONDS;

	while (sum_over_nodes(bench, "SELECT count(*) FROM (SELECT FROM fleet.decisions LIMIT 1) AS d") > 0)
	{
		struct timespec pause = {0, 20 * 1000 * 1000};

		if (bench_now() > deadline)
			bench_fail("handoffs are not settled after %.0f s", SETTLE_SECONDS);
		nanosleep(&pause, NULL);
	}
}

static bool
is_equal(const char *what, long value, long expected)
{
	if (value != expected)
		fprintf(stderr, "handoff: %s: %ld, not %ld\n", what, value, expected);
	return value == expected;
}

/* Is each ride where it belongs, with its fare? */
static bool
check_pool(Bench *bench, const BenchPool *pool)
{
	static const char *const places[BENCH_PLACES] = {
		"rides at the source", "rides at the target", "rides at the third node"
	};
	long		expected[BENCH_PLACES] = {pool->loaded - pool->moved, pool->moved, 0};
	bool		ok = true;
	long		cents = 0;
	char		sql[512];

	for (int i = 0; i < BENCH_PLACES; i++)
	{
		PGresult   *result;

		snprintf(sql, sizeof(sql),
				 "SELECT count(*), coalesce(sum(fare) * 100, 0)::bigint FROM %s.rides"
				 " WHERE region = '%s' AND ride_id LIKE 'R%%'",
				 pool->schema, bench->nodes[i].region);
		result = bench_query(bench->nodes[i].control, sql);
		ok &= is_equal(places[i], atol(PQgetvalue(result, 0, 0)), expected[i]);
		cents += atol(PQgetvalue(result, 0, 1));
		PQclear(result);
	}
	snprintf(sql, sizeof(sql), "SELECT (sum(bench.fare(n)) * 100)::bigint FROM generate_series(1, %ld) AS n",
			 pool->loaded);
	{
		PGresult   *result = bench_query(bench->nodes[BENCH_SOURCE].control, sql);

		ok &= is_equal("sum of fares in cents", cents, atol(PQgetvalue(result, 0, 0)));
		PQclear(result);
	}
	return ok;
}

/* Count all rides, and let fleet look for what is wrong. */
bool
bench_pool_check(Bench *bench)
{
	bool		ok = true;
	PGresult   *result;

	bench_pool_settle(bench);
	ok &= check_pool(bench, &bench->fleet);
	ok &= check_pool(bench, &bench->by_hand);
	ok &= is_equal("prepared transactions that are left",
				   (long) sum_over_nodes(bench, "SELECT count(*) FROM pg_prepared_xacts"), 0);
	result = bench_query(bench->nodes[BENCH_SOURCE].control,
						 "SELECT check_name, problems FROM fleet.verify()");
	if (PQntuples(result) == 0)
		ok = is_equal("checks of fleet.verify", 0, 1);
	for (int i = 0; i < PQntuples(result); i++)
		ok &= is_equal(PQgetvalue(result, i, 0), atol(PQgetvalue(result, i, 1)), 0);
	PQclear(result);
	return ok;
}
