/*-------------------------------------------------------------------------
 *
 * anomaly_actor.c
 *	  Who writes rides, and who hands them off.
 *
 * A writer changes a ride where it is: half of its changes go to the hot ones.
 * Where a ride was handed off under its hands it follows, by RF020 to the region
 * that the error names, by RF001 to the next one.  One change in twenty makes or
 * deletes a ride of the writer's own.
 *
 * A mover has hot rides of its own, so it knows where they are.  Half of them go
 * round in a ring, the others anywhere.  The node that coordinates is any: the
 * source, the target, a third.  One handoff in sixteen goes on to another
 * region in the same transaction, and one in sixteen is of some rides at once.
 *
 * Each keeps to its rate as long as the servers do; who is late by more than half
 * a second does not make up for it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly_actor.c
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "anomaly.h"

#define MAX_LATE 0.5			/* seconds */
#define CHURN_RIDES 10			/* of each writer */
#define FOLLOW_STEPS 12
#define BATCH 4
#define TOLD 5				/* strange errors that are printed */

typedef struct Actor
{
	Anomaly    *all;
	int			number;
	uint64_t	random;
	double		pause;			/* seconds from one action to the next */
	void		(*act) (struct Actor *actor);
	AnomalyLink links[MAX_REGIONS];
	bool		churn_lives[CHURN_RIDES];
	AnomalyCount count;
	pthread_t	thread;
} Actor;

struct Actors
{
	int			nwriter;
	int			n;
	Actor	   *actors;			/* the writers first */
};

/* A number from 0 up to and without n (xorshift64*). */
static long
pick(Actor *actor, long n)
{
	actor->random ^= actor->random >> 12;
	actor->random ^= actor->random << 25;
	actor->random ^= actor->random >> 27;
	return (long) ((actor->random * 2685821657736338717ULL >> 33) % (uint64_t) n);
}

/* An error that no trouble with servers explains. */
static bool
is_strange(const PGresult *result)
{
	const char *s = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return s == NULL || strncmp(s, "XX", 2) == 0 || strncmp(s, "42", 2) == 0 || strncmp(s, "22", 2) == 0;
}

/*
 * Run a prepared statement at a region.  NULL where there was no answer; else
 * the caller looks at it and frees it.
 */
static PGresult *
call(Actor *actor, int region, const char *name, int nparam, const char *const *params)
{
	AnomalyLink *link = &actor->links[region];
	PGresult   *result;

	if (!link_open(link))
		return NULL;
	result = PQexecPrepared(link->conn, name, nparam, params, NULL, NULL, 0);
	if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK)
		return result;
	link_check(link);
	if (link->conn == NULL)
	{
		PQclear(result);
		return NULL;
	}
	if (is_strange(result) && actor->count.strange++ < TOLD)
		fprintf(stderr, "anomaly: %s: %s", name, PQresultErrorMessage(result));
	return result;
}

static bool
has_state(const PGresult *result, const char *state)
{
	const char *s = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return s != NULL && strcmp(s, state) == 0;
}

/* ---------- writers ---------- */

/* Where a ride is that was not found here. */
static int
follow(Actor *actor, int here, const char *ride)
{
	const Anomaly *all = actor->all;
	PGresult   *result = call(actor, here, "where", 1, &ride);
	const char *detail = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL) : NULL;
	int			next = (here + 1) % all->nregion;

	if (result != NULL && has_state(result, "RF020") && detail != NULL)
		for (int i = 0; i < all->nregion; i++)
		{
			char		quoted[80];

			snprintf(quoted, sizeof(quoted), "\"%s\"", all->regions[i].region);
			if (strstr(detail, quoted) != NULL)
				next = i;
		}
	PQclear(result);
	return next;
}

/* Two writers may have changed it in either order. */
static void
note_written(Anomaly *all, long ride, int64_t hlc)
{
	int64_t		before = atomic_load(&all->written[ride]);

	while (before < hlc && !atomic_compare_exchange_weak(&all->written[ride], &before, hlc))
		;
}

static void
write_ride(Actor *actor)
{
	Anomaly    *all = actor->all;
	long		number = pick(actor, pick(actor, 2) == 0 ? all->hot : all->rides);
	int			place = atomic_load(&all->places[number]);
	char		id[32];
	char		lon[32];
	const char *params[2] = {id, lon};

	snprintf(id, sizeof(id), "S%06ld", number);
	snprintf(lon, sizeof(lon), "%d.%03ld", place, pick(actor, 1000));
	for (int step = 0; step < FOLLOW_STEPS && !atomic_load(&all->stop); step++)
	{
		PGresult   *result = call(actor, place, "write", 2, params);
		bool		ran = result && PQresultStatus(result) == PGRES_TUPLES_OK;
		bool		done = ran && PQntuples(result) == 1;
		int64_t		hlc = done ? atoll(PQgetvalue(result, 0, 0)) : 0;

		PQclear(result);
		if (done)
		{
			note_written(all, number, hlc);
			atomic_store(&all->places[number], (signed char) place);
			actor->count.done++;
			return;
		}
		if (ran)
			place = follow(actor, place, id);
		else if (actor->links[place].conn == NULL)
			break;
	}
	actor->count.failed++;
}

/* A ride of the writer's own: made if it is not there, deleted if it is. */
static void
churn(Actor *actor)
{
	long		n = pick(actor, CHURN_RIDES);
	char		id[32];
	const char *param = id;
	PGresult   *result;

	snprintf(id, sizeof(id), "C%02d%02ld", actor->number, n);
	result = call(actor, (int) (n % actor->all->nregion), actor->churn_lives[n] ? "bury" : "make", 1, &param);
	if (result != NULL && PQresultStatus(result) == PGRES_COMMAND_OK)
		actor->count.churned++;
	if (result != NULL)			/* else it is not known, and found out the next time */
		actor->churn_lives[n] = !actor->churn_lives[n];
	PQclear(result);
}

static void
write_one(Actor *actor)
{
	if (pick(actor, 20) == 0)
		churn(actor);
	else
		write_ride(actor);
}

/* ---------- movers ---------- */

/* One of the rides that only this mover hands off. */
static long
own_ride(Actor *actor)
{
	long		step = actor->all->movers;

	return actor->number + pick(actor, (actor->all->hot - actor->number - 1) / step + 1) * step;
}

static int
another(Actor *actor, int place)
{
	int			nregion = actor->all->nregion;

	return (place + 1 + (int) pick(actor, nregion - 1)) % nregion;
}

/* Hand some rides off to one region, all or none, in an order of their own. */
static void
move_batch(Actor *actor)
{
	Anomaly    *all = actor->all;
	int			target = (int) pick(actor, all->nregion);
	long		numbers[BATCH];
	int			n = 0;
	char		ids[BATCH * 16] = "{";
	const char *params[2] = {ids, all->regions[target].region};
	PGresult   *result;

	for (int i = 0; i < 4 * BATCH && n < BATCH; i++)
	{
		long		number = own_ride(actor);
		bool		drawn = atomic_load(&all->places[number]) == target;

		for (int j = 0; j < n; j++)
			drawn = drawn || numbers[j] == number;
		if (drawn)
			continue;
		snprintf(ids + strlen(ids), 16, "%sS%06ld", n > 0 ? "," : "", number);
		numbers[n++] = number;
	}
	strcat(ids, "}");
	result = call(actor, (int) pick(actor, all->nregion), "move many", 2, params);
	if (result != NULL && PQresultStatus(result) == PGRES_TUPLES_OK)
	{
		for (int i = 0; i < n; i++)
			atomic_store(&all->places[numbers[i]], (signed char) target);
		actor->count.done += n;
	}
	else
		actor->count.failed++;
	PQclear(result);
}

/*
 * Hand a ride off.  Where it is has only to be known to choose where it goes; a
 * call that was cut off may have moved it, and then RF003 says so later.
 */
static void
move_ride(Actor *actor)
{
	Anomaly    *all = actor->all;
	long		number = own_ride(actor);
	int			place = atomic_load(&all->places[number]);
	bool		ring = number / 2 % 2 == 0;
	int			target = ring ? (place + 1) % all->nregion : another(actor, place);
	int			last = target;
	bool		twice = pick(actor, 16) == 0;
	char		id[32];
	const char *params[3] = {id, all->regions[target].region};
	PGresult   *result;

	if (twice)
		last = ring ? (target + 1) % all->nregion : another(actor, target);
	params[2] = all->regions[last].region;
	snprintf(id, sizeof(id), "S%06ld", number);
	result = call(actor, (int) pick(actor, all->nregion), twice ? "move twice" : "move", twice ? 3 : 2, params);
	if (result != NULL && PQresultStatus(result) == PGRES_TUPLES_OK)
	{
		atomic_store(&all->places[number], (signed char) last);
		actor->count.done += twice ? 2 : 1;
	}
	else
	{
		actor->count.failed++;
		if (result != NULL && has_state(result, "RF003"))
			atomic_store(&all->places[number], (signed char) target);
	}
	PQclear(result);
}

static void
move_one(Actor *actor)
{
	if (pick(actor, 16) == 0)
		move_batch(actor);
	else
		move_ride(actor);
}

/* ---------- all of them ---------- */

static void *
run_actor(void *arg)
{
	Actor	   *actor = arg;
	double		next = now_s() + actor->pause * (double) pick(actor, 1000) / 1000;

	while (!atomic_load(&actor->all->stop))
	{
		double		now = now_s();

		if (now < next)
		{
			sleep_s(next - now < 0.1 ? next - now : 0.1);
			continue;
		}
		if (now - next > MAX_LATE)
			next = now;
		next += actor->pause;
		actor->act(actor);
	}
	for (int i = 0; i < actor->all->nregion; i++)
		link_close(&actor->links[i]);
	return NULL;
}

static void
start_actor(Actor *actor, Anomaly *all, int number, double rate, void (*act) (Actor *))
{
	actor->all = all;
	actor->number = number;
	actor->act = act;
	actor->pause = rate > 0 ? 1 / rate : 1e9;
	actor->random = (all->seed * 2 + (act == write_one)) * 0x9E3779B97F4A7C15ULL + (uint64_t) number * 0xBF58476D1CE4E5B9ULL + 1;
	for (int i = 0; i < 10; i++)
		(void) pick(actor, 2);
	for (int i = 0; i < all->nregion; i++)
		actor->links[i].node = &all->regions[i];
	if (pthread_create(&actor->thread, NULL, run_actor, actor) != 0)
		fail("cannot start a thread");
}

Actors *
actors_start(Anomaly *all)
{
	Actors	   *actors = allocate(1, sizeof(Actors));

	actors->nwriter = all->writers;
	actors->n = all->writers + all->movers;
	actors->actors = allocate(actors->n, sizeof(Actor));
	for (int i = 0; i < all->writers; i++)
		start_actor(&actors->actors[i], all, i, all->writes, write_one);
	for (int i = 0; i < all->movers; i++)
		start_actor(&actors->actors[all->writers + i], all, i, all->handoffs / all->movers, move_one);
	return actors;
}

/* Wait until they have ended, and sum up. */
void
actors_join(Actors *actors, AnomalyCount *writes, AnomalyCount *moves)
{
	for (int i = 0; i < actors->n; i++)
	{
		AnomalyCount *sum = i < actors->nwriter ? writes : moves;
		const AnomalyCount *count = &actors->actors[i].count;

		pthread_join(actors->actors[i].thread, NULL);
		sum->done += count->done;
		sum->failed += count->failed;
		sum->churned += count->churned;
		sum->strange += count->strange;
	}
	free(actors->actors);
	free(actors);
}
