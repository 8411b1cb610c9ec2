/*-------------------------------------------------------------------------
 *
 * replica_side.c
 *	  Native replication and fleet's: two sides of one kind.
 *
 * Both follow the same region.  One side is held back by stopping the process on
 * the region that sends it the changes (SIGSTOP): nothing else of it notices, no
 * worker has to be started again, and so both have the same backlog when their
 * turn comes.  What is behind is known by a marker, a ride whose fare is a number
 * that grows.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/replica_side.c
 *
 *-------------------------------------------------------------------------
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replica.h"

#define POLL_SECONDS 0.0005
#define PATIENCE 120.0

static pid_t held[BENCH_SIDES];	/* to be let go at exit */

PGconn *
bench_connect(const char *conninfo)
{
	PGconn	   *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		bench_fail("%s: %s", conninfo, PQerrorMessage(conn));
	PQclear(PQexec(conn, "SET client_min_messages = warning"));
	return conn;
}

/* The first value of a statement's result; "" where there is none.  Must be freed. */
char *
bench_ask(PGconn *conn, const char *format,...)
{
	char		sql[2048];
	va_list		args;
	PGresult   *result;
	char	   *value;

	va_start(args, format);
	vsnprintf(sql, sizeof(sql), format, args);
	va_end(args);
	result = PQexec(conn, sql);
	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
		bench_fail("%s: %s", sql, PQerrorMessage(conn));
	value = strdup(PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
	PQclear(result);
	return value;
}

/* Wait for the process that sends the first region's changes to this side. */
void
bench_find_sender(Bench *bench, BenchSide *side)
{
	double		deadline = bench_now() + PATIENCE;
	const BenchRegion *region = &bench->regions[0];

	for (;;)
	{
		char	   *pid = bench_ask(region->conn, "SELECT pid FROM pg_stat_replication"
									" WHERE application_name = '%s_%s'", side->name, region->name);

		side->sender = (pid_t) atol(pid);
		free(pid);
		if (side->sender > 0)
			return;
		if (bench_now() > deadline)
			bench_fail("nobody sends to %s_%s", side->name, region->name);
		bench_sleep(0.05);
	}
}

void
bench_hold(BenchSide *side)
{
	if (kill(side->sender, SIGSTOP) != 0)
		bench_fail("cannot stop process %d", (int) side->sender);
	for (int i = 0; i < BENCH_SIDES; i++)
		if (held[i] == 0 || held[i] == side->sender)
		{
			held[i] = side->sender;
			break;
		}
}

void
bench_release(BenchSide *side)
{
	if (kill(side->sender, SIGCONT) != 0)
		bench_fail("cannot continue process %d", (int) side->sender);
}

/* Also at exit. */
void
bench_release_all(void)
{
	for (int i = 0; i < BENCH_SIDES; i++)
		if (held[i] != 0)
			(void) kill(held[i], SIGCONT);
}

/* What the side's copy of the marker says. */
long
bench_marker(BenchSide *side)
{
	PGresult   *result = PQexec(side->conn, "EXECUTE marker");
	long		mark;

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		PQclear(result);
		free(bench_ask(side->conn, "PREPARE marker AS SELECT fare::bigint FROM fleet.local_rides WHERE ride_id = 'marker'"));
		result = PQexec(side->conn, "EXECUTE marker");
	}
	mark = PQntuples(result) > 0 ? atol(PQgetvalue(result, 0, 0)) : -1;
	PQclear(result);
	return mark;
}

/* Wait until the side has it; returns the seconds that took. */
double
bench_await_marker(Bench *bench, BenchSide *side, long mark)
{
	double		start = bench_now();

	while (bench_marker(side) < mark)
	{
		bench_sleep(POLL_SECONDS);
		if (bench_now() > start + PATIENCE)
			bench_fail("%s_%s does not come to mark %ld", side->name, bench->regions[0].name, mark);
	}
	return bench_now() - start;
}
