/*-------------------------------------------------------------------------
 *
 * handoff_slice.c
 *	  Clients as threads, one slice of time, latencies, and the writers.
 *
 * The clients of one way keep their connections over all slices of a case; the
 * threads live for one slice.  All take the next ride from one counter, so a
 * slice whose rides run out ends for all clients at once, and its rate is still
 * right, because it is divided by the time that it took.
 *
 * Where all are to call at once they meet at a barrier, and the latency of each
 * counts from the moment at which the last one came.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/handoff_slice.c
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "handoff.h"

#define MAX_WRITERS 32

typedef struct Slice
{
	BenchPool  *pool;
	double		deadline;
	bool		at_once;
	int			nclient;
	pthread_barrier_t barrier;
	double		start;			/* of the round, where all call at once */
	bool		over;
} Slice;

typedef struct Task
{
	Slice	   *slice;
	BenchClient *client;
	pthread_t	thread;
	long		moved;
} Task;

static struct
{
	pthread_t	threads[MAX_WRITERS];
	PGconn	   *conns[MAX_WRITERS];
	int			n;
	atomic_bool stop;
	atomic_long updates;
} writers;

double
bench_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

static void
note_latency(BenchClient *client, double seconds)
{
	if (client->nlatency == client->maxlatency)
	{
		client->maxlatency = client->maxlatency ? 2 * client->maxlatency : 4096;
		client->latency = realloc(client->latency, client->maxlatency * sizeof(double));
		if (client->latency == NULL)
			bench_fail("out of memory");
	}
	client->latency[client->nlatency++] = seconds * 1000;
}

/* The next ride, or -1 when there are none left. */
static long
next_ride(BenchPool *pool, int rides)
{
	long		ride = atomic_fetch_add(&pool->next, rides);

	return ride + rides - 1 <= pool->loaded ? ride : -1;
}

/* Wait for all; true when the slice is over, or has no rides for all of them. */
static bool
meet(Slice *slice)
{
	if (pthread_barrier_wait(&slice->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
	{
		slice->start = bench_now();
		slice->over = slice->start >= slice->deadline ||
			atomic_load(&slice->pool->next) + slice->nclient - 1 > slice->pool->loaded;
	}
	(void) pthread_barrier_wait(&slice->barrier);
	return slice->over;
}

static void *
run_client(void *arg)
{
	Task	   *task = arg;
	Slice	   *slice = task->slice;
	BenchClient *client = task->client;
	double		start = bench_now();
	long		ride;

	for (;;)
	{
		if (slice->at_once ? meet(slice) : start >= slice->deadline)
			break;
		ride = next_ride(slice->pool, client->way->rides);
		if (ride < 0)
			break;
		if (slice->at_once)
			start = slice->start;
		client->way->hand_off(client, ride);
		client->calls++;
		task->moved += client->way->rides;
		note_latency(client, bench_now() - start);
		start = bench_now();
	}
	return NULL;
}

/* Rides handed off in a second. */
double
bench_slice(BenchClient *clients, int nclient, double seconds, bool at_once)
{
	Task	   *tasks = calloc(nclient, sizeof(Task));
	double		start = bench_now();
	long		moved = 0;
	Slice		slice = {
		.pool = bench_pool(clients->bench, clients->way),
		.deadline = start + seconds,
		.at_once = at_once,
		.nclient = nclient,
	};

	if (tasks == NULL || pthread_barrier_init(&slice.barrier, NULL, nclient) != 0)
		bench_fail("out of memory");
	for (int i = 0; i < nclient; i++)
	{
		tasks[i].slice = &slice;
		tasks[i].client = &clients[i];
		if (pthread_create(&tasks[i].thread, NULL, run_client, &tasks[i]) != 0)
			bench_fail("cannot start a thread");
	}
	for (int i = 0; i < nclient; i++)
	{
		pthread_join(tasks[i].thread, NULL);
		moved += tasks[i].moved;
	}
	seconds = bench_now() - start;
	pthread_barrier_destroy(&slice.barrier);
	free(tasks);
	slice.pool->moved += moved;
	return (double) moved / seconds;
}

BenchClient *
bench_clients_open(Bench *bench, const BenchWay *way, int nclient)
{
	BenchClient *clients = calloc(nclient, sizeof(BenchClient));

	if (clients == NULL)
		bench_fail("out of memory");
	for (int i = 0; i < nclient; i++)
	{
		clients[i].bench = bench;
		clients[i].way = way;
		clients[i].number = i;
		for (int j = 0; j < way->nplaces; j++)
			clients[i].conn[way->places[j]] = bench_connect(&bench->nodes[way->places[j]]);
		way->prepare(&clients[i]);
	}
	return clients;
}

void
bench_clients_close(BenchClient *clients, int nclient)
{
	for (int i = 0; i < nclient; i++)
	{
		for (int j = 0; j < BENCH_PLACES; j++)
			if (clients[i].conn[j] != NULL)
				PQfinish(clients[i].conn[j]);
		free(clients[i].latency);
	}
	free(clients);
}

/* ---------- writers ---------- */

static void *
run_writer(void *arg)
{
	int			number = (int) (size_t) arg;
	PGconn	   *conn = writers.conns[number];
	long		n = 0;

	while (!atomic_load(&writers.stop))
	{
		char		id[32];
		const char *values[1] = {id};
		PGresult   *result;

		snprintf(id, sizeof(id), "W%02d%02ld", number, n++ % 100);
		result = PQexecPrepared(conn, "update", 1, values, NULL, NULL, 0);
		if (strcmp(PQcmdTuples(result), "1") != 0)
			bench_fail("update of ride %s: %s", id, PQerrorMessage(conn));
		PQclear(result);
		atomic_fetch_add(&writers.updates, 1);
	}
	return NULL;
}

/* Let so many clients update rides of the source that stay there. */
void
bench_writers_start(Bench *bench, int nwriter)
{
	const BenchNode *source = &bench->nodes[BENCH_SOURCE];
	char		sql[256];

	snprintf(sql, sizeof(sql),
			 "UPDATE fleet.rides SET fare = fare + 0.01 WHERE region = '%s' AND ride_id = $1",
			 source->region);
	PQclear(bench_query(source->control, "SELECT bench.load_for_writers()"));
	atomic_store(&writers.stop, false);
	atomic_store(&writers.updates, 0);
	writers.n = nwriter;
	for (int i = 0; i < nwriter; i++)
	{
		PGresult   *result;

		writers.conns[i] = bench_connect(source);
		result = PQprepare(writers.conns[i], "update", sql, 0, NULL);
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			bench_fail("%s: %s", sql, PQerrorMessage(writers.conns[i]));
		PQclear(result);
	}
	for (int i = 0; i < nwriter; i++)
		if (pthread_create(&writers.threads[i], NULL, run_writer, (void *) (size_t) i) != 0)
			bench_fail("cannot start a thread");
}

/* Returns how many updates they made. */
long
bench_writers_stop(void)
{
	atomic_store(&writers.stop, true);
	for (int i = 0; i < writers.n; i++)
	{
		pthread_join(writers.threads[i], NULL);
		PQfinish(writers.conns[i]);
	}
	writers.n = 0;
	return atomic_load(&writers.updates);
}
