/*-------------------------------------------------------------------------
 *
 * handoff.h
 *	  What the files of the handoff benchmark share.
 *
 *	  handoff.c			the cases, their slices, the report
 *	  handoff_slice.c	clients as threads, one slice of time, latencies
 *	  handoff_way.c		the ways to hand a ride off: fleet's, and by hand
 *	  handoff_pool.c	rides to hand off, and the count at the end
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/handoff.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_HANDOFF_H
#define BENCH_HANDOFF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <libpq-fe.h>

/* Rides always move from the source to the target. */
typedef enum BenchPlace
{
	BENCH_SOURCE,
	BENCH_TARGET,
	BENCH_THIRD,
	BENCH_PLACES
} BenchPlace;

typedef struct BenchNode
{
	char		region[64];
	char		conninfo[512];
	PGconn	   *control;		/* of the main thread */
} BenchNode;

/* Rides that have not been handed off yet: numbers next .. loaded. */
typedef struct BenchPool
{
	const char *schema;			/* whose table "rides" it is */
	long		loaded;
	atomic_long next;
	long		moved;			/* as the clients counted */
} BenchPool;

typedef struct Bench
{
	BenchNode	nodes[BENCH_PLACES];
	BenchPool	fleet;
	BenchPool	by_hand;
	double		seconds;		/* of each way in each case */
	int			clients;
} Bench;

struct BenchClient;

/* A way to hand rides off. */
typedef struct BenchWay
{
	const char *name;			/* in the report */
	bool		by_hand;		/* on the tables of schema bench */
	int			rides;			/* in one call */
	const BenchPlace *places;	/* connections that a client has, the one it */
	int			nplaces;		/* speaks to most first */
	const char *leave;			/* statement at the source, if by hand */
	bool		log;			/* by hand, with log rows */
	void		(*prepare) (struct BenchClient *client);
	void		(*hand_off) (struct BenchClient *client, long ride);
} BenchWay;

/* By hand, from the source: the four round trips. */
#define BENCH_STEPS 4

typedef struct BenchClient
{
	Bench	   *bench;
	const BenchWay *way;
	int			number;
	long		calls;
	PGconn	   *conn[BENCH_PLACES];
	double	   *latency;		/* of each call, ms */
	size_t		nlatency;
	size_t		maxlatency;
	double		step[BENCH_STEPS];	/* seconds in all */
} BenchClient;

/* ---- handoff_pool.c ---- */

extern BenchPool *bench_pool(Bench *bench, const BenchWay *way);
extern void bench_pool_fill(Bench *bench, BenchPool *pool, long wanted);
extern void bench_pool_settle(Bench *bench);
extern bool bench_pool_check(Bench *bench);

/* ---- handoff_slice.c ---- */

extern double bench_now(void);
extern BenchClient *bench_clients_open(Bench *bench, const BenchWay *way, int nclient);
extern void bench_clients_close(BenchClient *clients, int nclient);
extern double bench_slice(BenchClient *clients, int nclient, double seconds, bool at_once);
extern void bench_writers_start(Bench *bench, int nwriter);
extern long bench_writers_stop(void);

/* ---- handoff_way.c ---- */

extern const BenchWay bench_way_floor;
extern const BenchWay bench_way_floor_bare;
extern const BenchWay bench_way_floor_decision;
extern const BenchWay bench_way_floor_target;
extern const BenchWay bench_way_floor_third;
extern const BenchWay bench_way_dblink;
extern const BenchWay bench_way_from_source;
extern const BenchWay bench_way_from_target;
extern const BenchWay bench_way_from_third;
extern const BenchWay bench_way_batch;

/* Says what failed and ends the program: no figure is worth anything then. */
extern void bench_fail(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));
extern PGconn *bench_connect(const BenchNode *node);
extern PGresult *bench_query(PGconn *conn, const char *sql);

#endif							/* BENCH_HANDOFF_H */
