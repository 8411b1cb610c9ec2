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
 * counts and sums are made from the rows here (few columns of them), not from
 * sums that the regions make.
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

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "query/read.h"

/* Rows that each region sends beyond those asked for. */
#define MARGIN 4

/* How often a ride that keeps moving is followed. */
#define MAX_HOPS 16

/* The newest that is known of a ride. */
typedef struct Sighting
{
	const char *id;				/* hash key */
	int64		epoch;
	bool		known;			/* what it is is known: row */
	const char *row;			/* the ride as a record; NULL: deleted, or it does not match */
	int			answer;			/* of the first round, that had the row; else -1 */
	const char *target;			/* not known: where to it departed, as what */
	const char *image;
} Sighting;

typedef struct Exact
{
	FleetRead  *read;
	FleetLastRead *log;
	HTAB	   *rides;
	List	   *open;			/* sightings that are not known */
} Exact;

/* ---------- sightings ---------- */

static uint32
hash_id(const void *key, Size keysize)
{
	const char *id = *(const char *const *) key;

	return DatumGetUInt32(hash_any((const unsigned char *) id, (int) strlen(id)));
}

static int
match_id(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static HTAB *
new_rides(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(Sighting),
		.hash = hash_id,
		.match = match_id,
		.hcxt = CurrentMemoryContext
	};

	return hash_create("fleet rides read", 256, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static Sighting *
enter(Exact *x, char **row)
{
	bool		found;
	Sighting   *s = hash_search(x->rides, &row[ANSWER_ID], HASH_ENTER, &found);

	if (!found)
	{
		s->epoch = 0;
		s->known = false;
		s->row = s->target = s->image = NULL;
		s->answer = -1;
	}
	return s;
}

/* A live row counts before a departure to the same epoch. */
static void
note_live(Sighting *s, char **row, int64 epoch, int answer)
{
	if (epoch < s->epoch || (epoch == s->epoch && s->known))
		return;
	s->epoch = epoch;
	s->known = true;
	s->row = strcmp(row[ANSWER_EXTRA], "true") == 0 ? row[ANSWER_ROW] : NULL;
	s->answer = answer;
}

/* A grave has the last epoch that the row had there. */
static void
note_gone(Sighting *s, char **row, int64 epoch)
{
	bool		grave = row[ANSWER_EXTRA] == NULL;

	if (epoch < s->epoch || (epoch == s->epoch && !grave))
		return;
	s->epoch = epoch;
	s->known = grave;
	s->row = NULL;
	s->answer = -1;
	s->target = row[ANSWER_EXTRA];
	s->image = row[ANSWER_ROW];
}

/* Returns the number of live rows. */
static int
note_answer(Exact *x, const FleetAnswer *answer, int number)
{
	int			live = 0;

	for (int i = 0; i < answer->nrow; i++)
	{
		char	  **row = answer->rows[i];
		int64		epoch = strtoll(row[ANSWER_EPOCH], NULL, 10);
		Sighting   *s;

		if (strcmp(row[ANSWER_WHAT], "clock") == 0)
			continue;
		s = enter(x, row);
		if (strcmp(row[ANSWER_WHAT], "live") == 0)
		{
			note_live(s, row, epoch, number);
			live++;
		}
		else
			note_gone(s, row, epoch);
	}
	return live;
}

/* ---------- following departures ---------- */

/* The departure's image, as a record if it matches. */
static const char *
read_image(Exact *x, const Sighting *s)
{
	MemoryContext context = CurrentMemoryContext;
	FleetCaller caller;
	char	   *row = NULL;

	fleet_base_become_owner(&caller);
	SPI_connect();
	fleet_base_push_new_snapshot();
	if (fleet_query_execute(x->read, fleet_query_image_sql(x->read), x->log->q, s->image) == 1 &&
		strcmp(fleet_base_plan_text(0, 1), "true") == 0)
		row = MemoryContextStrdup(context, fleet_base_plan_text(0, 2));
	PopActiveSnapshot();
	SPI_finish();
	fleet_base_become_caller(&caller);
	return row;
}

/* Those of the open rides that departed to a region, as an array's text. */
static char *
ids_at(const List *open, const char *target)
{
	Datum	   *elems = palloc(sizeof(Datum) * list_length(open));
	int			n = 0;
	ListCell   *cell;

	foreach(cell, open)
	{
		const Sighting *s = lfirst(cell);

		if (strcmp(s->target, target) == 0)
			elems[n++] = CStringGetTextDatum(s->id);
	}
	if (n == 0)
		return NULL;
	return OidOutputFunctionCall(F_ARRAY_OUT,
								 PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false,
																 TYPALIGN_INT)));
}

static void
init_asking(FleetAsking *asking, const Exact *x, const char *sql)
{
	asking->read = x->read;
	asking->log = x->log;
	asking->sql = sql;
	asking->noun = "region";
	asking->quiet = false;
	asking->nasked = 0;
	asking->asked = palloc0(sizeof(*asking->asked) * Max(x->read->map->nregion, 1));
}

static bool
has_failed(const Exact *x, const char *region)
{
	ListCell   *cell;

	foreach(cell, x->log->failed)
		if (strcmp(lfirst(cell), region) == 0)
			return true;
	return false;
}

/* Ask each target for what has departed to it. */
static List *
ask_targets(Exact *x)
{
	const FleetRegionMap *map = x->read->map;
	const char *own_ids = NULL;
	FleetAsking asking;
	List	   *answers;

	init_asking(&asking, x, fleet_query_again_sql(x->read));
	for (int i = 0; i < map->nregion; i++)
	{
		const char *name = map->regions[i].name;
		const char *ids = has_failed(x, name) ? NULL : ids_at(x->open, name);

		if (&map->regions[i] == map->own)
			own_ids = ids;
		else if (ids != NULL)
			(void) fleet_query_ask(&asking, name, ids);
	}
	answers = fleet_query_answers(&asking);
	if (own_ids != NULL)
		answers = lappend(answers, fleet_query_ask_own(x->read, x->log, asking.sql, own_ids));
	return answers;
}

/*
 * The target of a departure has said nothing newer: the ride has not arrived, and is
 * what departed.  A target that could not be asked is missing with all its rides.
 */
static void
conclude(Exact *x, Sighting *s)
{
	(void) fleet_region_require(x->read->map, s->target);
	s->known = true;
	s->row = has_failed(x, s->target) ? NULL : read_image(x, s);
}

/* One hop of all open rides. */
static void
follow(Exact *x)
{
	int			n = list_length(x->open);
	int64	   *asked = palloc(sizeof(int64) * n);
	List	   *open = NIL;
	ListCell   *cell;

	foreach(cell, x->open)
		asked[foreach_current_index(cell)] = ((Sighting *) lfirst(cell))->epoch;
	x->log->reasked += n;
	foreach(cell, ask_targets(x))
		(void) note_answer(x, lfirst(cell), -1);
	foreach(cell, x->open)
	{
		Sighting   *s = lfirst(cell);

		if (s->known)
			continue;
		if (s->epoch > asked[foreach_current_index(cell)])
			open = lappend(open, s);
		else
			conclude(x, s);
	}
	x->open = open;
}

static void
follow_all(Exact *x)
{
	HASH_SEQ_STATUS scan;
	Sighting   *s;

	x->open = NIL;
	hash_seq_init(&scan, x->rides);
	while ((s = hash_seq_search(&scan)) != NULL)
		if (!s->known)
			x->open = lappend(x->open, s);
	for (int hops = 0; x->open != NIL; hops++)
	{
		if (hops == MAX_HOPS)
			ereport(ERROR,
					(errcode(FLEET_ERRCODE_IN_DOUBT),
					 errmsg("ride \"%s\" moves faster than it can be followed",
							((Sighting *) linitial(x->open))->id),
					 errhint("Try again.")));
		follow(x);
	}
}

/* ---------- the first round ---------- */

/*
 * One ride, which is live in this node's own region: the answer, else NULL.  The
 * departing branch of a handoff deletes the row before it prepares, so a row that
 * nobody has touched is not decided to be elsewhere.  Of one that somebody has,
 * the target may know more.
 */
static List *
ask_for_own_ride(Exact *x)
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
ask_regions(Exact *x)
{
	const FleetRegionMap *map = x->read->map;
	FleetAnswer *own = NULL;
	FleetAsking asking;
	bool		own_wanted = false;
	List	   *answers;

	init_asking(&asking, x, fleet_query_first_sql(x->read, false));
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
	if (own_wanted)
		own = fleet_query_ask_own(x->read, x->log, asking.sql, NULL);
	answers = fleet_query_answers(&asking);
	return own ? lcons(own, answers) : answers;
}

/* The rows, and of each answer how many of its rows are among them. */
static List *
collect(Exact *x, int *left)
{
	HASH_SEQ_STATUS scan;
	List	   *rows = NIL;
	Sighting   *s;

	hash_seq_init(&scan, x->rides);
	while ((s = hash_seq_search(&scan)) != NULL)
	{
		Assert(s->known);
		if (s->row == NULL)
			continue;
		rows = lappend(rows, (void *) s->row);
		if (s->answer >= 0)
			left[s->answer]++;
	}
	return rows;
}

/* One attempt.  False where a region has more that might belong in. */
static bool
attempt(Exact *x, List **rows)
{
	const FleetRead *read = x->read;
	List	   *answers;
	ListCell   *cell;
	int		   *sent;
	int		   *left;

	list_free_deep(x->log->asked);
	list_free_deep(x->log->failed);
	x->log->asked = x->log->failed = NIL;
	x->rides = new_rides();
	answers = ask_regions(x);
	sent = palloc0(sizeof(int) * (list_length(answers) + 1));
	left = palloc0(sizeof(int) * (list_length(answers) + 1));
	foreach(cell, answers)
		sent[foreach_current_index(cell)] = note_answer(x, lfirst(cell), foreach_current_index(cell));
	follow_all(x);
	*rows = collect(x, left);
	for (int i = 0; read->max_rows >= 0 && i < list_length(answers); i++)
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
	Exact		x = {.read = read,.log = log};
	List	   *rows = NIL;

	fleet_query_set_limit(read, read->max_rows + MARGIN);
	while (!attempt(&x, &rows))
	{
		CHECK_FOR_INTERRUPTS();
		fleet_query_set_limit(read, read->limit + 1);
	}
	return rows;
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
static FleetAnswer *
ask_replica(Exact *x)
{
	List	   *names = replicas();
	FleetAsking asking;
	ListCell   *cell;

	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no replica of all regions"),
				 errhint("CALL fleet.add_replica makes one; scope 'global-live' needs none.")));
	init_asking(&asking, x, fleet_query_first_sql(x->read, false));
	asking.asked = palloc0(sizeof(*asking.asked));
	asking.noun = "replica";
	foreach(cell, names)
	{
		List	   *answers = NIL;

		/* Only the last one's failure is the caller's. */
		asking.quiet = lnext(names, cell) != NULL;
		x->log->asked = lappend(x->log->asked, pstrdup(lfirst(cell)));
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
	Exact		x = {.read = read,.log = log,.rides = new_rides()};
	FleetAnswer *answer;
	int			left;

	fleet_query_set_limit(read, read->max_rows);
	if (read->map->own == NULL)
	{
		log->asked = list_make1(pstrdup(read->map->node));
		answer = fleet_query_ask_own(read, log, fleet_query_first_sql(read, false), NULL);
	}
	else
		answer = ask_replica(&x);
	if (answer == NULL)
		return NIL;
	(void) note_answer(&x, answer, 0);
	return collect(&x, &left);
}
