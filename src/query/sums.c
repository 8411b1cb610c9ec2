/*-------------------------------------------------------------------------
 *
 * sums.c
 *	  Counts and sums over all regions, made by the regions.
 *
 * To fetch a row for each ride that is counted (exact.c) costs more the more rides
 * there are.  Sums that the regions make can simply be added up for a ride that
 * rests; one that moves can be in two of them, or in none.  So those that move are
 * taken out of the sums again and counted one by one.  What we do:
 *
 *	1. Each region receives the reader's stamp q, and after that opens a
 *	   transaction with one snapshot, S.  From S it names the rides that departed and
 *	   are not settled up to q, and those of whose departure from elsewhere it has an
 *	   unsettled decision record.  We wait for all.
 *	2. Now that all have their snapshots, each sums up its rides in S that match,
 *	   and names those of them that are touched: whose row, when this statement came
 *	   by, some transaction had begun to change, to delete or to lock.  We wait for
 *	   all.
 *	3. Of all rides that anybody has named each region says, from S, what exact.c
 *	   asks for: live rows, whether they match or not, and departures that are not
 *	   settled up to q; and how much of its sum these rides are.  That is subtracted,
 *	   and they are counted one by one as in exact.c.
 *
 * Why a ride that nobody named is counted once.  Not twice: say it is live in S of
 * region A at epoch e and in that of B at a later one, and matches in both.  It has
 * left A by a transaction that S of A does not show.  That transaction deleted the
 * row before it was prepared, so before it was decided, so before the arrival that
 * it was for committed, so before B took its S.  A looked at its row after that.  If
 * the row that S of A shows is not the very one that was deleted, it had been changed
 * before, which touches it as well.  So A named it.  Not too seldom: by exact.c
 * something is said in some S of the ride's latest settled epoch or a later one.
 * That is not a departure, which 1 would have named; so it is the live ride, which is
 * in the sum of its region if it matches; or a grave.
 *
 * Why one that somebody named is counted once: after 3 all is known of it that is
 * said in any S, as in exact.c.  And no sum has it any more, since S is the same in 2
 * and in 3.
 *
 * So nothing depends on when a row of a sum was looked at, but for the naming
 * in 2; and there it is enough that it was after all snapshots.
 *
 * The decision records are for a source that has gone back in time and lost what it
 * had prepared (a failover without a synchronous standby): its row is live again, and
 * untouched, until the resolver of the coordinator has the departure made again.
 * Until then the coordinator has the record; after that the row is touched.  Not
 * covered is a source that went back after PREPARE and before the decision, where
 * the coordinator took its S in between, too.
 *
 * A row stays touched after a transaction that was undone, or only locked it, until
 * VACUUM freezes it or somebody changes it.  That costs time and nothing else.
 *
 * A transaction that has handed rides off itself sees them through its branches,
 * which have a new snapshot for each statement; so then, and where too many rides are
 * named, rows are fetched after all.  They are fetched also where few rides match,
 * because it takes one round instead of three or four.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/sums.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "commit/commit.h"
#include "query/query.h"
#include "query/read.h"

/* Rides that are counted one by one at the most. */
#define MAX_NAMED 10000

static int	sum_threshold = 1000;

typedef struct Sums
{
	FleetMerge	merge;
	FleetAsking asking;			/* of the other regions; their transactions are open */
	bool		closed;			/* or not any more */
	bool		own;			/* this node is a region, too */
	int			nnamed;
	int			max_named;
	Datum	   *named;			/* text */
} Sums;

void
fleet_query_sums_init(void)
{
	DefineCustomIntVariable("fleet.sum_threshold",
							"Number of matching rides in a region above which counts and totals are summed up by the regions.",
							"Lower it where nodes are near to each other, raise it where a round trip takes long; 0 lets the regions sum up always.",
							&sum_threshold, 1000, 0, 1000000,
							PGC_USERSET, 0, NULL, NULL, NULL);
}

/* ---------- rounds ---------- */

/* Our own node: what rewrites the table cannot come in between either. */
static void
take_snapshot(FleetRead *read)
{
	RangeVar   *rides = makeRangeVar("fleet", "local_rides", -1);

	(void) RangeVarGetRelid(rides, AccessShareLock, true);
	read->snapshot = RegisterSnapshot(GetLatestSnapshot());
}

/*
 * What all say to a statement, which the others have been asked already.  NIL where
 * one of them does not answer.
 */
static List *
answers_to(Sums *s, const char *sql, const char *ids)
{
	FleetMerge *x = &s->merge;
	FleetAnswer *own = NULL;
	List	   *answers;

	if (s->own)
		own = fleet_query_ask_own(x->read, x->log, sql, ids);
	answers = fleet_query_answers(&s->asking);
	if (list_length(answers) < s->asking.nasked)
		return NIL;
	return own ? lcons(own, answers) : answers;
}

/* Open all snapshots.  False where a region cannot be reached. */
static bool
open_all(Sums *s)
{
	FleetMerge *x = &s->merge;
	const FleetRegionMap *map = x->read->map;

	for (int i = 0; i < map->nregion; i++)
	{
		char	   *name = map->regions[i].name;

		x->log->asked = lappend(x->log->asked, pstrdup(name));
		if (&map->regions[i] == map->own)
			s->own = true;
		else if (!fleet_query_open(&s->asking, name))
			return false;
	}
	if (s->own)
		take_snapshot(x->read);
	return true;
}

static void
add_named(Sums *s, Datum id)
{
	if (s->nnamed == s->max_named)
	{
		s->max_named = Max(64, s->max_named * 2);
		s->named = s->named ? repalloc(s->named, s->max_named * sizeof(Datum)) :
			palloc(s->max_named * sizeof(Datum));
	}
	s->named[s->nnamed++] = id;
}

/* The rides that an answer names, and its sums. */
static void
take_answer(Sums *s, const FleetAnswer *answer)
{
	(void) fleet_query_note_answer(&s->merge, answer, 0);
	for (int i = 0; i < answer->nrow; i++)
	{
		char	  **row = answer->rows[i];
		Datum		touched;
		Datum	   *ids;
		int			n;

		if (strcmp(row[ANSWER_WHAT], "moving") == 0)
			add_named(s, CStringGetTextDatum(row[ANSWER_ID]));
		if (strcmp(row[ANSWER_WHAT], "sum") != 0 || row[ANSWER_EXTRA] == NULL)
			continue;
		touched = OidInputFunctionCall(F_ARRAY_IN, row[ANSWER_EXTRA], TEXTOID, -1);
		deconstruct_array(DatumGetArrayTypeP(touched), TEXTOID, -1, false, TYPALIGN_INT,
						  &ids, NULL, &n);
		for (int j = 0; j < n; j++)
			add_named(s, ids[j]);
	}
}

/* Ask all, and take what they answer.  False where one does not. */
static bool
round_of(Sums *s, const char *sql, const char *ids)
{
	List	   *answers = answers_to(s, sql, ids);
	ListCell   *cell;

	foreach(cell, answers)
		take_answer(s, lfirst(cell));
	return answers != NIL;
}

static const char *
named_ids(const Sums *s)
{
	return OidOutputFunctionCall(F_ARRAY_OUT,
								 PointerGetDatum(construct_array(s->named, s->nnamed, TEXTOID, -1,
																 false, TYPALIGN_INT)));
}

/* The last round, and the end of the transactions. */
static bool
ask_for_named(Sums *s)
{
	bool		wanted = s->nnamed > 0 && s->nnamed <= MAX_NAMED;
	const char *sql = fleet_query_again_sql(s->merge.read, true);
	const char *ids = wanted ? named_ids(s) : NULL;

	if (wanted)
		fleet_query_ask_open(&s->asking, sql, ids);
	fleet_query_close(&s->asking);
	if (!wanted)
		(void) fleet_query_answers(&s->asking);
	else if (!round_of(s, sql, ids))
		return false;
	s->closed = true;
	return s->nnamed <= MAX_NAMED;
}

/* All rounds.  False where a region does not answer, or too many rides are named. */
static bool
run_rounds(Sums *s)
{
	FleetRead  *read = s->merge.read;
	const char *sql = s->asking.sql;

	read->unfiltered = true;
	if (!open_all(s) || !round_of(s, sql, NULL))
		return false;
	read->unfiltered = false;
	sql = fleet_query_sums_sql(read, true);
	fleet_query_ask_open(&s->asking, sql, NULL);
	return round_of(s, sql, NULL) && ask_for_named(s);
}

/* ---------- all of it ---------- */

/* Have the regions sum up.  False where rows must be fetched. */
static bool
sum_up(FleetRead *read, FleetLastRead *log, List **rows)
{
	Sums		s = {.merge = {.read = read,.log = log}};
	volatile bool done = false;
	int			left;

	fleet_query_begin_merge(&s.merge);
	fleet_query_begin_asking(&s.asking, read, log, fleet_query_moving_sql());
	/* Who misses a region anyway counts from rows, and is told there. */
	s.asking.quiet = read->partial;
	PG_TRY();
	{
		done = run_rounds(&s);
	}
	PG_FINALLY();
	{
		if (!s.closed)
			fleet_query_abandon(&s.asking);
	}
	PG_END_TRY();
	read->unfiltered = false;
	if (read->snapshot != NULL)
		UnregisterSnapshot(read->snapshot);
	read->snapshot = NULL;
	if (!done)
		return false;
	fleet_query_follow_all(&s.merge);
	*rows = fleet_query_collect(&s.merge, &left);
	return true;
}

/* The parts that make up the counts and sums of the rides that match, as records. */
List *
fleet_query_sums(FleetRead *read, FleetLastRead *log)
{
	List	   *rows = NIL;

	if (read->region != NULL)
		return fleet_query_exact(read, log);
	if (!fleet_commit_is_begun())
	{
		log->summed = false;
		if (sum_threshold > 0 && fleet_query_exact_few(read, log, sum_threshold, &rows))
			return rows;
		log->summed = true;
		if (sum_up(read, log, &rows))
			return rows;
	}
	log->summed = false;
	return fleet_query_exact(read, log);
}
