/*-------------------------------------------------------------------------
 *
 * sim.h
 *	  What the files of the replay client share.
 *
 *	  replay.c	 options, the feed, progress, the summary
 *	  queue.c	 fixes on their way from the feed to a worker
 *	  vehicle.c	 what one fix means: register, report, begin or end a ride
 *	  link.c	 one connection to one node, one call, one deadline
 *	  stats.c	 counters and latencies
 *
 * The feed is the main thread.  A vehicle belongs to one worker from its first
 * fix on, a worker is a thread with one connection per node, and a queue is
 * first in first out: so the fixes of a vehicle arrive strictly in order,
 * while vehicles of different workers overtake each other.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/sim.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_H
#define SIM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

#include <libpq-fe.h>

#define SIM_MAX_NODES		64
#define SIM_MAX_WORKERS		32
#define SIM_NAME_LEN		64
#define SIM_RIDE_LEN		96
#define SIM_TEXT_LEN		512
#define SIM_QUEUE_LEN		64
#define SIM_NOWHERE			(-1)

/* one server of the cluster: a line of DIR/nodes */
typedef struct SimNode
{
	char		name[SIM_NAME_LEN];
	char		host[SIM_TEXT_LEN];
	char		port[16];
	char		dbname[SIM_NAME_LEN];
	char		user[SIM_NAME_LEN];
} SimNode;

typedef struct SimCluster
{
	int			nnodes;
	SimNode		nodes[SIM_MAX_NODES];
} SimCluster;

/* ---- link.c ---- */

/* the prepared statements that every connection has */
typedef enum SimStatement
{
	SIM_REGION_OF,
	SIM_REGISTER,
	SIM_FIX,
	SIM_HANDOFF,
	SIM_REQUEST,
	SIM_STATUS,
	SIM_NSTATEMENTS
} SimStatement;

/* what one try of a call came to */
typedef enum SimVerdict
{
	SIM_DONE,
	SIM_ELSEWHERE,				/* RF027; reply->node says where */
	SIM_AGAIN,					/* may work later */
	SIM_REFUSED					/* will never work */
} SimVerdict;

typedef struct SimReply
{
	SimVerdict	verdict;
	char		sqlstate[6];	/* empty when the connection broke */
	char		message[SIM_TEXT_LEN];
	int			node;			/* of SIM_ELSEWHERE */
	bool		unknown;		/* it may have been done after all */
	double		ms;				/* how long the try took */
	char		value[2][SIM_NAME_LEN]; /* first columns of the row */
} SimReply;

/* one connection; used by one worker alone */
typedef struct SimLink
{
	const SimCluster *cluster;
	int			node;
	PGconn	   *conn;			/* NULL when there is none */
	double		down_since;		/* 0 when the last try was answered */
} SimLink;

extern bool sim_cluster_read(SimCluster *cluster, const char *path);
extern int	sim_cluster_find(const SimCluster *cluster, const char *name);
extern void sim_link_init(SimLink *link, const SimCluster *cluster, int node);
extern void sim_link_try(SimLink *link, SimStatement statement,
						 const char *const *values, SimReply *reply);
extern void sim_link_close(SimLink *link);
extern double sim_now(void);
extern void sim_sleep(double seconds);

/* ---- stats.c ---- */

typedef enum SimCounter
{
	SIM_FIXES,					/* fixes done with, whatever came of them */
	SIM_ACCEPTED,
	SIM_STALE,
	SIM_IMPLAUSIBLE,
	SIM_WAITING,				/* fixes before a vehicle's first region */
	SIM_HANDOFFS,
	SIM_VEHICLES,
	SIM_RIDES_STARTED,
	SIM_RIDES_COMPLETED,
	SIM_RIDES_OUTSIDE,			/* not requested: they began in no region */
	SIM_ERRORS,					/* tries that failed */
	SIM_FAILED,					/* calls that were given up */
	SIM_NCOUNTERS
} SimCounter;

/* of one worker; the progress line reads the counters while they change */
typedef struct SimStats
{
	_Atomic long counters[SIM_NCOUNTERS];
	double	   *latencies;		/* of calls that handed off, in ms */
	size_t		nlatencies;
	size_t		maxlatencies;
} SimStats;

extern void sim_stats_add_latency(SimStats *stats, double ms);
extern void sim_stats_merge(SimStats *into, SimStats *from);
extern void sim_stats_print(SimStats *stats, FILE *out);

/* ---- vehicle.c ---- */

typedef struct SimFix
{
	long long	t;				/* Unix seconds */
	double		lon;
	double		lat;
	bool		occupied;
} SimFix;

typedef struct SimVehicle
{
	struct SimVehicle *next;	/* in the feed's hash chain */
	int			worker;
	char		id[SIM_NAME_LEN];
	int			node;			/* where it lives, SIM_NOWHERE before */
	bool		occupied;		/* at the fix before */
	char		ride[SIM_RIDE_LEN]; /* its open ride, or empty */
} SimVehicle;

/* files that all workers write to; NULL where nobody asked */
typedef struct SimOutput
{
	FILE	   *events;			/* vehicle,ride,t,lon,lat,from,to */
	FILE	   *tracks;			/* vehicle,t,lon,lat */
	FILE	   *rides;			/* ride,status, one line per change */
} SimOutput;

typedef struct SimQueueItem
{
	SimVehicle *vehicle;
	SimFix		fix;
} SimQueueItem;

/* a bounded queue with one writer and one reader */
typedef struct SimQueue
{
	pthread_mutex_t lock;
	pthread_cond_t changed;
	SimQueueItem items[SIM_QUEUE_LEN];
	int			first;
	int			count;
	bool		closed;
} SimQueue;

typedef struct SimWorker
{
	const SimCluster *cluster;
	const SimOutput *output;
	double		retry_for;		/* seconds before a call is given up */
	bool		with_rides;
	SimLink		links[SIM_MAX_NODES];
	SimQueue	queue;
	SimStats	stats;
	pthread_t	thread;
} SimWorker;

extern void sim_vehicle_fix(SimWorker *worker, SimVehicle *vehicle, const SimFix *fix);

/* ---- queue.c ---- */

extern void sim_queue_init(SimQueue *queue);
extern void sim_queue_put(SimQueue *queue, const SimQueueItem *item);
extern bool sim_queue_get(SimQueue *queue, SimQueueItem *item);
extern void sim_queue_close(SimQueue *queue);

#endif							/* SIM_H */
