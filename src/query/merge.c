/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  What several nodes say of the same rides, made into one.
 *
 * Of all that is said of a ride the greatest epoch counts, and a departure that
 * is left is followed (exact.c tells why).
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/merge.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "query/read.h"

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

/* Forget what was said. */
void
fleet_query_begin_merge(FleetMerge *x)
{
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(Sighting),
		.hash = hash_id,
		.match = match_id,
		.hcxt = CurrentMemoryContext
	};

	x->rides = hash_create("fleet rides read", 256, &ctl,
						   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	x->open = x->sums = NIL;
	list_free_deep(x->log->asked);
	list_free_deep(x->log->failed);
	x->log->asked = x->log->failed = NIL;
}

static Sighting *
enter(FleetMerge *x, char **row)
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

/* Take what a node says.  Returns the number of live rows. */
int
fleet_query_note_answer(FleetMerge *x, const FleetAnswer *answer, int number)
{
	int			live = 0;

	for (int i = 0; i < answer->nrow; i++)
	{
		char	  **row = answer->rows[i];
		const char *what = row[ANSWER_WHAT];

		if (strcmp(what, "live") == 0)
		{
			note_live(enter(x, row), row, strtoll(row[ANSWER_EPOCH], NULL, 10), number);
			live++;
		}
		else if (strcmp(what, "gone") == 0)
			note_gone(enter(x, row), row, strtoll(row[ANSWER_EPOCH], NULL, 10));
		else if (strcmp(what, "sum") == 0)
			x->sums = lappend(x->sums, row[ANSWER_ROW]);
	}
	return live;
}

/* ---------- following departures ---------- */

/* The departure's image, as a record if it matches. */
static const char *
read_image(FleetMerge *x, const Sighting *s)
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

static bool
has_failed(const FleetMerge *x, const char *region)
{
	ListCell   *cell;

	foreach(cell, x->log->failed)
		if (strcmp(lfirst(cell), region) == 0)
			return true;
	return false;
}

/* Ask each target for what has departed to it. */
static List *
ask_targets(FleetMerge *x)
{
	const FleetRegionMap *map = x->read->map;
	const char *own_ids = NULL;
	FleetAsking asking;
	List	   *answers;

	fleet_query_begin_asking(&asking, x->read, x->log, fleet_query_again_sql(x->read, false));
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
conclude(FleetMerge *x, Sighting *s)
{
	(void) fleet_region_require(x->read->map, s->target);
	s->known = true;
	s->row = has_failed(x, s->target) ? NULL : read_image(x, s);
}

/* One hop of all open rides. */
static void
follow(FleetMerge *x)
{
	int			n = list_length(x->open);
	int64	   *asked = palloc(sizeof(int64) * n);
	List	   *open = NIL;
	ListCell   *cell;

	foreach(cell, x->open)
		asked[foreach_current_index(cell)] = ((Sighting *) lfirst(cell))->epoch;
	x->log->reasked += n;
	foreach(cell, ask_targets(x))
		(void) fleet_query_note_answer(x, lfirst(cell), -1);
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

/* Have each ride known. */
void
fleet_query_follow_all(FleetMerge *x)
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

/* The sums and the rows, and of each answer how many of its rows are among them. */
List *
fleet_query_collect(FleetMerge *x, int *left)
{
	HASH_SEQ_STATUS scan;
	List	   *rows = list_copy(x->sums);
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
