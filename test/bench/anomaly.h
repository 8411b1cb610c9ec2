/*-------------------------------------------------------------------------
 *
 * anomaly.h
 *	  What the files of the replica's anomaly test share.
 *
 *	  anomaly.c			the command line, the run, the report
 *	  anomaly_link.c	connections that may be lost
 *	  anomaly_actor.c	who writes rides and who hands them off
 *	  anomaly_reader.c	who takes snapshots of the replica, and what is wrong in them
 *	  anomaly_equal.c	the replica beside the union of the regions, row by row
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_ANOMALY_H
#define BENCH_ANOMALY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#define MAX_REGIONS 9

typedef struct AnomalyNode
{
	const char *region;			/* NULL: the replica */
	const char *conninfo;
} AnomalyNode;

/*
 * Rides are numbers, 0 .. rides - 1 over all regions: "S000042".  Ride i begins
 * in region i modulo the number of regions.  The first of them are hot: they are
 * handed off all the time, every second one with a vehicle, "V000043".
 */
typedef struct Anomaly
{
	AnomalyNode replica;
	AnomalyNode regions[MAX_REGIONS];
	int			nregion;

	/* As asked for. */
	long		rides;			/* in all regions together */
	long		hot;
	double		seconds;
	int			writers;
	double		writes;			/* a second, of each writer */
	int			movers;
	double		handoffs;		/* a second, of all movers */
	uint64_t	seed;
	double		wait;			/* seconds in which all must have become equal */

	/* What is shared by the threads. */
	atomic_bool stop;
	_Atomic signed char *places;	/* where each ride was last */
	_Atomic int64_t *written;	/* stamp of the last change that a writer was told is committed */
} Anomaly;

/* A connection, opened when it is needed and anew when it was lost. */
typedef struct AnomalyLink
{
	const AnomalyNode *node;
	PGconn	   *conn;
	long		lost;			/* how often */
	double		next_try;
} AnomalyLink;

typedef struct AnomalyCount
{
	long		done;
	long		failed;			/* calls that came to nothing */
	long		churned;		/* rides made or deleted by the way */
	long		strange;		/* errors that nothing explains */
} AnomalyCount;

/* Each number counts rides of snapshots: one ride wrong in two counts twice. */
typedef struct AnomalySeen
{
	long		snapshots;
	long		full;			/* those of all rides */
	long		missing;
	long		doubled;
	long		back;			/* version, (epoch, HLC), older than seen before */
	long		epoch_back;		/* of these, those with an older epoch */
	long		torn;			/* the same epoch in two regions */
	long		early;			/* lacks a change that the watermark covers */
	long		marked;			/* snapshots with a watermark */
	long		lost;			/* connections */
	long		lost_back;		/* as back, but over the loss of a connection */
	double		complete;		/* seconds until all rides were there; below 0: never */
} AnomalySeen;

/* ---- anomaly.c ---- */

extern void fail(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));
extern double now_s(void);
extern void sleep_s(double seconds);
extern void *allocate(size_t n, size_t size);

/* ---- anomaly_link.c ---- */

extern bool link_open(AnomalyLink *link);
extern void link_close(AnomalyLink *link);
extern void link_check(AnomalyLink *link);
extern PGresult *must_query(AnomalyLink *link, const char *sql);

/* ---- anomaly_actor.c ---- */

typedef struct Actors Actors;

extern Actors *actors_start(Anomaly *all);
extern void actors_join(Actors *actors, AnomalyCount *writes, AnomalyCount *moves);

/* ---- anomaly_reader.c ---- */

extern void *read_snapshots(void *anomaly);
extern AnomalySeen seen;

/* ---- anomaly_equal.c ---- */

extern bool compare_all(Anomaly *all);

#endif							/* BENCH_ANOMALY_H */
