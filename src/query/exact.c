/*-------------------------------------------------------------------------
 *
 * exact.c
 *	  Reading all regions, each ride exactly once, while rides move.
 *
 * Each node answers from a snapshot of its own, so a plain union of the answers
 * may have read the source after a handoff and the target before it, and miss
 * the ride; or the other way round, and show it twice.  What we do:
 *
 *	1. The reader takes a stamp q from its clock.  Each region receives q into
 *	   its clock, and after that takes the one snapshot that it answers from.
 *	2. It answers with its live rides that match, and, whatever they match, with
 *	   its departures that are not settled or settled at a stamp above q.
 *	3. Of all that is said of a ride, the greatest epoch counts; a live row counts
 *	   before a departure that leads to it.
 *	4. Where a departure is what is left, its target is asked for that ride:
 *	   live there at that epoch or a later one, it is the ride; departed on, the
 *	   next target is asked; deleted, there is none.  Where the target knows of
 *	   nothing that new, the ride has not arrived, and the image in the departure
 *	   is the ride.
 *
 * Why no ride is missed.  Let e be the epoch of the ride's latest handoff that had
 * settled at a stamp of at most q (or of its creation, if that was before q), and
 * X its target.  Settling is stamped by a clock that has received the stamp which
 * X gave out after it had committed the arrival.  Had X answered from a snapshot
 * without the arrival, then X would have received q before that, and the settling
 * would be above q.  So X's snapshot has the arrival or what came of it: the ride,
 * live at epoch e or later; a later departure, which by the choice of e is not
 * settled up to q, and so is in the answer; or its grave.  In each case something is
 * said of epoch e or later, and 4 finds what became of it: a visible departure means
 * that the handoff is decided, and nobody can change the ride before it arrives.
 *
 * (Clocks are not kept over a restart.  The argument therefore wants that no two
 * servers' times are further apart than a server takes to restart: X, started anew
 * between its answer and its commit, must not be behind q again.)
 *
 * Why none is shown twice: 3, and that epochs are never used twice.
 *
 * What is shown of a ride is what it was at some moment between the beginning and
 * the end of the read.  Rides are not read at the same moment as each other.
 *
 * What is counted must be told apart ride by ride, too: a live row at the source
 * and one at the target, with a departure that is prepared but not yet visible, is
 * a ride twice, and no departure in any answer says so; only the two rows do.  So
 * sums that the regions make want more than this (sums.c).  Few rides are counted from
 * rows, as here.
 *
 * ORDER BY and LIMIT: each region sends a few rows more than are asked for.  Rows
 * that lost against a newer epoch leave a gap; where a region has more rows, and
 * fewer of those that it sent are left than were asked for, all is read again
 * with more of a margin.
 *
 * With a region given, that region's server alone is asked: the answer is what it
 * holds in one snapshot, a ride on its way there is not yet in it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/exact.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "handoff/handoff.h"
#include "query/read.h"

/* Rows that each region sends beyond those asked for. */
#define MARGIN 4

/* ---------- the first round ---------- */

/*
 * One ride, which is live in this node's own region: the answer, else NULL.  The
 * departing branch of a handoff deletes the row before it prepares, so a row that
 * nobody has touched is not decided to be elsewhere.  Of one that somebody has,
 * the target may know more.
 */
static List *
ask_for_own_ride(FleetMerge *x)
{
	FleetAnswer *answer;

	if (!x->read->by_id || x->read->map->own == NULL)
		return NIL;
	answer = fleet_query_ask_own(x->read, x->log, fleet_query_first_sql(x->read, true), NULL);
	if (strcmp(answer->rows[0][ANSWER_WHAT], "live") != 0)
		return NIL;
	x->log->asked = list_make1(pstrdup(x->read->map->own->name));
	return list_make1(answer);
}

/* Ask all regions, or the one that is wanted; a list of FleetAnswer. */
static List *
ask_regions(FleetMerge *x)
{
	const FleetRegionMap *map = x->read->map;
	FleetAnswer *own = NULL;
	FleetAsking asking;
	bool		own_wanted = false;
	List	   *answers;

	fleet_query_begin_asking(&asking, x->read, x->log, fleet_query_first_sql(x->read, false));
	answers = ask_for_own_ride(x);
	if (answers != NIL)
		return answers;
	for (int i = 0; i < map->nregion; i++)
	{
		char	   *name = map->regions[i].name;

		if (x->read->region != NULL && strcmp(x->read->region, name) != 0)
			continue;
		x->log->asked = lappend(x->log->asked, pstrdup(name));
		if (&map->regions[i] == map->own)
			own_wanted = true;
		else
			(void) fleet_query_ask(&asking, name, NULL);
	}
	if (own_wanted && x->read->by_id)
		fleet_handoff_await_briefly(map, false, x->read->params[1], FLEET_READ_PATIENCE_MS);
	if (own_wanted)
		own = fleet_query_ask_own(x->read, x->log, asking.sql, NULL);
	answers = fleet_query_answers(&asking);
	return own ? lcons(own, answers) : answers;
}

/*
 * One attempt.  False where a region has more that might belong in, or, if all are
 * wanted, more than it has sent.
 */
static bool
attempt(FleetMerge *x, bool all, List **rows)
{
	const FleetRead *read = x->read;
	List	   *answers;
	ListCell   *cell;
	int		   *sent;
	int		   *left;

	fleet_query_begin_merge(x);
	answers = ask_regions(x);
	sent = palloc0(sizeof(int) * (list_length(answers) + 1));
	left = palloc0(sizeof(int) * (list_length(answers) + 1));
	foreach(cell, answers)
	{
		int			i = foreach_current_index(cell);

		sent[i] = fleet_query_note_answer(x, lfirst(cell), i);
		if (all && sent[i] >= read->limit)
			return false;
	}
	fleet_query_follow_all(x);
	*rows = fleet_query_collect(x, left);
	for (int i = 0; !all && read->max_rows >= 0 && i < list_length(answers); i++)
		if (sent[i] >= read->limit && left[i] < read->max_rows)
			return false;
	return true;
}

/*
 * The matching rides as records, palloc'd: in no order, and where there is a limit,
 * some more than that, among which are those that come first.
 */
List *
fleet_query_exact(FleetRead *read, FleetLastRead *log)
{
	FleetMerge	x = {.read = read,.log = log};
	List	   *rows = NIL;

	fleet_query_set_limit(read, read->max_rows + MARGIN);
	while (!attempt(&x, false, &rows))
	{
		CHECK_FOR_INTERRUPTS();
		fleet_query_set_limit(read, read->limit + 1);
	}
	return rows;
}

/* All that match, unless a region has more than so many of them: then false. */
bool
fleet_query_exact_few(FleetRead *read, FleetLastRead *log, int most, List **rows)
{
	FleetMerge	x = {.read = read,.log = log};
	bool		few;

	read->max_rows = most;
	fleet_query_set_limit(read, most);
	few = attempt(&x, true, rows);
	read->max_rows = -1;
	return few;
}

/* ---------- replicas ---------- */

static FleetPlan replicas_plan = {
	"SELECT name FROM fleet.map_replicas ORDER BY name"
};

static List *
replicas(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *names = NIL;
	FleetCaller caller;
	int			n;

	fleet_base_become_owner(&caller);
	SPI_connect();
	n = fleet_base_plan_execute(&replicas_plan, NULL, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		char	   *name = fleet_base_plan_text(i, 1);
		MemoryContext spi = MemoryContextSwitchTo(context);

		names = lappend(names, pstrdup(name));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	fleet_base_become_caller(&caller);
	return names;
}

/* What the first replica that can be reached answers. */
FleetAnswer *
fleet_query_ask_replica(FleetRead *read, FleetLastRead *log, const char *sql)
{
	List	   *names = replicas();
	FleetAsking asking;
	ListCell   *cell;

	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no replica of all regions"),
				 errhint("CALL fleet.add_replica makes one; scope 'global-live' needs none.")));
	fleet_query_begin_asking(&asking, read, log, sql);
	asking.noun = "replica";
	foreach(cell, names)
	{
		List	   *answers = NIL;

		/* Only the last one's failure is the caller's. */
		asking.nasked = 0;
		asking.quiet = lnext(names, cell) != NULL;
		log->asked = lappend(log->asked, pstrdup(lfirst(cell)));
		if (fleet_query_ask(&asking, lfirst(cell), NULL))
			answers = fleet_query_answers(&asking);
		if (answers != NIL)
			return linitial(answers);
	}
	return NULL;
}

/* The same from a replica: its own rides where this is one, else another one's. */
List *
fleet_query_fast(FleetRead *read, FleetLastRead *log)
{
	FleetMerge	x = {.read = read,.log = log};
	FleetAnswer *answer;
	int			left;

	fleet_query_begin_merge(&x);
	fleet_query_set_limit(read, read->max_rows);
	if (read->map->own == NULL)
	{
		log->asked = list_make1(pstrdup(read->map->node));
		answer = fleet_query_ask_own(read, log, fleet_query_first_sql(read, false), NULL);
	}
	else
		answer = fleet_query_ask_replica(read, log, fleet_query_first_sql(read, false));
	if (answer == NULL)
		return NIL;
	(void) fleet_query_note_answer(&x, answer, 0);
	return fleet_query_collect(&x, &left);
}
