/*-------------------------------------------------------------------------
 *
 * replica.h
 *	  What the files of the replica benchmark share.
 *
 *	  replica.c			the command line, apply rates, the report
 *	  replica_lag.c		how far behind a row is, at a steady rate of changes
 *	  replica_copy.c	how long the initial copy takes
 *	  replica_side.c	native replication and fleet's: two sides of one kind
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/replica.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_REPLICA_H
#define BENCH_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <libpq-fe.h>

#define MAX_REGIONS 9
#define MAX_REPETITIONS 25

typedef enum BenchSideName
{
	BENCH_NATIVE,
	BENCH_FLEET,
	BENCH_SIDES
} BenchSideName;

typedef struct BenchRegion
{
	const char *name;
	const char *conninfo;
	PGconn	   *conn;
} BenchRegion;

/* A database that follows the regions, and how. */
typedef struct BenchSide
{
	const char *name;			/* of its subscriptions, "name_region" */
	const char *conninfo;
	PGconn	   *conn;			/* NULL: there is no such side */
	pid_t		sender;			/* the process that sends it the first region's changes */
} BenchSide;

typedef struct Bench
{
	double		seconds;		/* of a case of lag, for each side */
	int			repetitions;
	const char *options;		/* of a native subscription, like fleet's own */
	BenchSide	sides[BENCH_SIDES];
	BenchRegion regions[MAX_REGIONS];
	int			nregion;
	long		updated;		/* where the next updates begin */
	long		inserted;		/* rides inserted so far */
	long		mark;			/* last value of the marker's fare */
} Bench;

typedef struct BenchFigures
{
	double		rows_s;			/* 0: not of this case */
	double		rows_s_min;
	double		rows_s_max;
	double		ratio;			/* of fleet's side; 0: by the medians */
	double		p50;			/* ms */
	double		p95;
	double		p99;
} BenchFigures;

/* ---- replica.c ---- */

extern void bench_fail(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));
extern double bench_now(void);
extern void bench_sleep(double seconds);
extern void bench_report(const Bench *bench, const char *name, const BenchFigures *figures);
extern double bench_quantile(double *values, size_t n, double q);
extern void bench_compare(const Bench *bench, double *native, double *fleet, int n,
						  BenchFigures *figures);

/* ---- replica_side.c ---- */

extern PGconn *bench_connect(const char *conninfo);
extern char *bench_ask(PGconn *conn, const char *format,...) __attribute__((format(printf, 2, 3)));
extern void bench_find_sender(Bench *bench, BenchSide *side);
extern void bench_hold(BenchSide *side);
extern void bench_release(BenchSide *side);
extern void bench_release_all(void);
extern long bench_marker(BenchSide *side);
extern double bench_await_marker(Bench *bench, BenchSide *side, long mark);

/* ---- the cases ---- */

extern void bench_lag(Bench *bench, const char *name, int rate);
extern void bench_copy(Bench *bench, const char *name, long rides);

#endif							/* BENCH_REPLICA_H */
