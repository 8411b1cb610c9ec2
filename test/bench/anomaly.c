/*-------------------------------------------------------------------------
 *
 * anomaly.c
 *	  Does the global replica ever show a ride other than once, or go back?
 *
 *	  anomaly load  [NAME=VALUE...] REPLICA_CONNINFO REGION CONNINFO...
 *	  anomaly run   [NAME=VALUE...] REPLICA_CONNINFO REGION CONNINFO...
 *	  anomaly equal [NAME=VALUE...] REPLICA_CONNINFO REGION CONNINFO...
 *
 * "load" makes the rides.  "run" writes and hands off for a while, reads the
 * replica meanwhile, and prints
 *
 *	anomaly snapshots=.. missing=.. doubled=.. back=.. handoffs_s=.. writes_s=.. ..
 *
 * and is successful only if there was nothing of the kind.  It bears the loss of
 * any connection, so servers may be killed under it.  A ride can be missing only
 * once a snapshot has shown all of them, so that the replica may be made
 * meanwhile.  "early" counts changes that a snapshot lacks although the replica's
 * watermark in the same snapshot is past their stamps.  "equal" waits until the replica has what the regions have.
 *
 *	rides=5000		in each region
 *	hot=200			rides that are handed off, of all regions
 *	seconds=10		how long "run" takes
 *	writers=2, writes=500		writers, and changes a second of each
 *	movers=8, handoffs=100		sessions that hand off, and handoffs a second of all
 *	seed=1			what is done, not when
 *	wait=30			seconds that "equal" waits
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly.c
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "anomaly.h"

#define HANG_SECONDS 90			/* after the end of a run */

void
fail(const char *format,...)
{
	va_list		args;

	fflush(stdout);
	fprintf(stderr, "anomaly: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	_Exit(2);
}

double
now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

void
sleep_s(double seconds)
{
	struct timespec ts;

	if (seconds <= 0)
		return;
	ts.tv_sec = (time_t) seconds;
	ts.tv_nsec = (long) ((seconds - (double) ts.tv_sec) * 1e9);
	nanosleep(&ts, NULL);
}

/* Zeroed memory. */
void *
allocate(size_t n, size_t size)
{
	void	   *p = calloc(n > 0 ? n : 1, size);

	if (p == NULL)
		fail("out of memory");
	return p;
}

/* ---------- load ---------- */

/*
 * Rides and vehicles of one region, under way nowhere in particular.  Ride i goes
 * to region i modulo the number of regions; only odd hot ones have a vehicle.
 */
static void
load_region(const Anomaly *all, int region)
{
	AnomalyLink link = {.node = &all->regions[region]};
	char		sql[1024];

	snprintf(sql, sizeof(sql),
			 "WITH cars AS (INSERT INTO fleet.vehicles (vehicle_id, region, status)"
			 " SELECT 'V' || lpad(i::text, 6, '0'), '%s', 'ON_TRIP'"
			 " FROM generate_series(%d, %ld - 1, %d) AS i WHERE i %% 2 = 1)"
			 " SELECT 0",
			 link.node->region, region, all->hot, all->nregion);
	PQclear(must_query(&link, sql));
	snprintf(sql, sizeof(sql),
			 "WITH rides AS (INSERT INTO fleet.rides (ride_id, vehicle_id, customer_id, region, fare,"
			 " start_location, current_location, requested_at)"
			 " SELECT 'S' || lpad(i::text, 6, '0'),"
			 " CASE WHEN i < %ld AND i %% 2 = 1 THEN 'V' || lpad(i::text, 6, '0') END,"
			 " 'customer ' || i, '%s', i %% 9973 / 100.0,"
			 " fleet.make_point(%d.1 + i %% 800 / 1000.0, 0.5), fleet.make_point(%d.5, 0.1 + i %% 800 / 1000.0),"
			 " now() - i * interval '1 ms' FROM generate_series(%d, %ld - 1, %d) AS i)"
			 " SELECT 0",
			 all->hot, link.node->region, region, region, region, all->rides, all->nregion);
	PQclear(must_query(&link, sql));
	link_close(&link);
}

/* ---------- run ---------- */

static bool
report(const Anomaly *all, const AnomalyCount *writes, const AnomalyCount *moves, double took)
{
	bool		complete = seen.complete >= 0;

	printf("anomaly snapshots=%ld missing=%ld doubled=%ld back=%ld handoffs_s=%.0f writes_s=%.0f"
		   " full=%ld epoch_back=%ld torn=%ld early=%ld marked=%ld complete_s=%.2f lost=%ld lost_back=%ld"
		   " handoffs=%ld failed_handoffs=%ld failed_writes=%ld churned=%ld strange=%ld seed=%llu\n",
		   seen.snapshots, seen.missing, seen.doubled, seen.back,
		   (double) moves->done / took, (double) writes->done / took,
		   seen.full, seen.epoch_back, seen.torn, seen.early, seen.marked, seen.complete, seen.lost, seen.lost_back,
		   moves->done, moves->failed, writes->failed, writes->churned, writes->strange + moves->strange, (unsigned long long) all->seed);
	fflush(stdout);
	return complete && seen.missing == 0 && seen.doubled == 0 && seen.back == 0 && seen.torn == 0
		&& seen.early == 0 && writes->strange + moves->strange == 0;
}

/* Where the hot rides are; of a region that is down it is found out later. */
static void
find_places(Anomaly *all)
{
	all->places = allocate(all->rides, sizeof(*all->places));
	all->written = allocate(all->rides, sizeof(*all->written));
	for (long i = 0; i < all->rides; i++)
		atomic_init(&all->places[i], (signed char) (i % all->nregion));
	for (int r = 0; r < all->nregion; r++)
	{
		AnomalyLink link = {.node = &all->regions[r]};
		PGresult   *result;
		char		sql[256];

		snprintf(sql, sizeof(sql), "SELECT substr(ride_id, 2) FROM fleet.local_rides"
				 " WHERE ride_id >= 'S' AND ride_id < 'S%06ld'", all->hot);
		if (!link_open(&link))
			continue;
		result = PQexec(link.conn, sql);
		for (int i = 0; i < PQntuples(result); i++)
			atomic_store(&all->places[atol(PQgetvalue(result, i, 0))], (signed char) r);
		PQclear(result);
		link_close(&link);
	}
}

static bool
run(Anomaly *all)
{
	AnomalyCount writes = {0};
	AnomalyCount moves = {0};
	Actors	   *actors;
	pthread_t	reader;
	double		start = now_s();

	find_places(all);
	if (pthread_create(&reader, NULL, read_snapshots, all) != 0)
		fail("cannot start a thread");
	actors = actors_start(all);
	sleep_s(all->seconds);
	atomic_store(&all->stop, true);
	alarm(HANG_SECONDS);
	actors_join(actors, &writes, &moves);
	pthread_join(reader, NULL);
	alarm(0);
	return report(all, &writes, &moves, now_s() - start);
}

/* ---------- command line ---------- */

/* NAME=VALUE; false where it is none of ours. */
static bool
read_option(Anomaly *all, const char *arg)
{
	const char *equals = strchr(arg, '=');
	double		value;
	size_t		len;

	if (equals == NULL)
		return false;
	len = (size_t) (equals - arg);
	value = atof(equals + 1);
#define IS(name) (len == strlen(name) && strncmp(arg, name, len) == 0)
	if (IS("rides"))
		all->rides = (long) value;
	else if (IS("hot"))
		all->hot = (long) value;
	else if (IS("seconds"))
		all->seconds = value;
	else if (IS("writers"))
		all->writers = (int) value;
	else if (IS("writes"))
		all->writes = value;
	else if (IS("movers"))
		all->movers = (int) value;
	else if (IS("handoffs"))
		all->handoffs = value;
	else if (IS("seed"))
		all->seed = (uint64_t) value;
	else if (IS("wait"))
		all->wait = value;
	else
		return false;			/* a conninfo has a = as well */
#undef IS
	return true;
}

static void
read_arguments(Anomaly *all, int argc, char **argv)
{
	int			i = 2;

	while (i < argc && read_option(all, argv[i]))
		i++;
	if (i >= argc || (argc - i) % 2 == 0 || (argc - i) / 2 > MAX_REGIONS || (argc - i) / 2 < 2)
		fail("usage: anomaly load|run|equal [NAME=VALUE...] REPLICA_CONNINFO REGION CONNINFO REGION CONNINFO...");
	all->replica.conninfo = argv[i++];
	for (; i < argc; i += 2)
	{
		all->regions[all->nregion].region = argv[i];
		all->regions[all->nregion++].conninfo = argv[i + 1];
	}
	all->rides *= all->nregion;
	if (all->rides > 999999 || all->hot > all->rides || all->writers < 0 || all->movers < 0 || all->movers > all->hot)
		fail("too many rides, or more movers than hot rides");
}

int
main(int argc, char **argv)
{
	static Anomaly all = {
		.rides = 5000,.hot = 200,.seconds = 10,.writers = 2,.writes = 500,
		.movers = 8,.handoffs = 100,.seed = 1,.wait = 30
	};

	read_arguments(&all, argc, argv);
	if (strcmp(argv[1], "load") == 0)
	{
		for (int i = 0; i < all.nregion; i++)
			load_region(&all, i);
		return 0;
	}
	if (strcmp(argv[1], "run") == 0)
		return run(&all) ? 0 : 1;
	if (strcmp(argv[1], "equal") == 0)
		return compare_all(&all) ? 0 : 1;
	fail("no command \"%s\"", argv[1]);
}
