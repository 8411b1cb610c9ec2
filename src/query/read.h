/*-------------------------------------------------------------------------
 *
 * read.h
 *	  One read of rides, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/read.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_QUERY_READ_H
#define FLEET_QUERY_READ_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "lib/stringinfo.h"
#include "tcop/dest.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"

#include "region/map.h"
#include "remote/remote.h"

/*
 * Parameters of a statement: $1 the reader's stamp, then those of the conditions,
 * then, where there is one, the subject: ids that are asked for, or an image.
 */
#define FLEET_READ_MAX_PARAMS 16

/*
 * Who was told that a handoff is committed must not find the ride, by its id, where
 * it was.  So a region that holds it in a prepared branch has that finished before it
 * answers, if that takes no longer than this, in ms.
 */
#define FLEET_READ_PATIENCE_MS 100

typedef enum FleetScope
{
	FLEET_SCOPE_LOCAL,			/* this node's region, with the caller's own rights */
	FLEET_SCOPE_FAST,			/* a replica of all regions */
	FLEET_SCOPE_LIVE			/* all regions, exact */
} FleetScope;

/* What is asked for. */
typedef struct FleetRead
{
	const FleetRegionMap *map;
	TupleDesc	desc;			/* of fleet.rides */
	FleetScope	scope;
	int			nest;			/* of the settings that all nodes read alike; 0 = the caller's */
	const char *region;			/* only this one's; NULL = all */
	bool		once;			/* its statements are not worth keeping */
	bool		by_id;			/* the first condition is r.ride_id = $2 */
	bool		partial;		/* leave out who cannot answer */
	bool		parts;			/* what is shown of rides is (region, status, number, fares) */
	bool		only_number;	/* no more of it than the number */
	bool		unfiltered;		/* the present statement has no conditions: $1 only */
	Snapshot	snapshot;		/* of our own node's answers; NULL = the latest */
	StringInfoData condition;	/* over r, ends each statement's WHERE */
	int			nparam;			/* without the subject */
	const char *params[FLEET_READ_MAX_PARAMS];
	const char *near;			/* a place that distances are measured from, or NULL */
	int			near_param;		/* $n */
	int			within_param;	/* how far from there, metres */
	bool		by_distance;	/* that is their order */
	AttrNumber	order_column;	/* 0 = not by a column */
	bool		descending;
	int64		max_rows;		/* -1 = all */
	int64		limit;			/* of each answer: max_rows and some more */
} FleetRead;

/* What one node said, in the columns below; either of a peer or of our own. */
typedef struct FleetAnswer
{
	const char *region;			/* NULL = this node */
	int			nrow;
	char	 ***rows;			/* palloc'd */
} FleetAnswer;

enum
{
	ANSWER_WHAT,				/* live, gone, moving, sum or clock */
	ANSWER_ID,
	ANSWER_EPOCH,
	ANSWER_EXTRA,				/* live: true where it matches; gone: its target; sum: rides that
								 * are being changed, an array */
	ANSWER_ROW,					/* live: the ride as a record; gone: its image; sum: a part */
	ANSWER_COLUMNS
};

/* About the session's last read. */
typedef struct FleetLastRead
{
	FleetScope	scope;
	List	   *asked;			/* names of regions and replicas */
	List	   *failed;
	List	   *told;			/* failed, and the caller knows it */
	bool		summed;			/* counted by the nodes, not from rows */
	int			reasked;		/* rides asked for once more, at their target */
	double		latency_ms;		/* -1 = not known */
	uint64		q;				/* stamp of the reader; 0 = there was no read */
} FleetLastRead;

/* One question, put to any number of nodes at once. */
typedef struct FleetAsking
{
	FleetRead  *read;
	FleetLastRead *log;
	const char *sql;
	const char *noun;			/* what the nodes are: region, replica */
	bool		quiet;			/* there are others to ask where one cannot answer */
	int			later;			/* requests that were sent after the question */
	int			nasked;
	struct
	{
		const char *region;
		FleetConn  *conn;
	}		   *asked;
} FleetAsking;

/* What has been said of rides. */
typedef struct FleetMerge
{
	FleetRead  *read;
	FleetLastRead *log;
	HTAB	   *rides;			/* of sightings */
	List	   *open;			/* sightings that are not known */
	List	   *sums;			/* parts, records */
} FleetMerge;

/* ---- search.c ---- */
extern FleetScope fleet_query_read_scope(const char *text);
extern bool fleet_query_read_partial(const char *text);

/* ---- search.c ---- */
extern const char *fleet_query_scope_name(FleetScope scope);
extern Oid	fleet_query_rides_table(void);

/* ---- last_read.c ---- */
extern void fleet_query_keep_log(const FleetLastRead *log);

/* ---- inline.c ---- */
extern void fleet_query_inline_init(void);
extern bool fleet_query_is_planning(void);

/* ---- filter.c ---- */
extern int	fleet_query_add_value(FleetRead *read, const char *value);
extern void fleet_query_add(FleetRead *read, const char *condition, const char *value);
extern void fleet_query_set_limit(FleetRead *read, int64 rows);
extern void fleet_query_set_order(FleetRead *read, const char *order_by);
extern const char *fleet_query_moving_sql(void);
extern const char *fleet_query_sums_sql(const FleetRead *read, bool touched);
extern const char *fleet_query_first_sql(const FleetRead *read, bool untouched);
extern const char *fleet_query_again_sql(const FleetRead *read, bool summed);
extern const char *fleet_query_image_sql(const FleetRead *read);
extern const char *fleet_query_local_sql(const FleetRead *read);

/* ---- condition.c ---- */
extern int	fleet_query_plain_settings(void);
extern void fleet_query_add_condition(FleetRead *read, const char *text, Oid relid);

/* ---- ask.c ---- */
extern int	fleet_query_read_timeout;	/* ms */
extern void fleet_query_begin_asking(FleetAsking *asking, FleetRead *read, FleetLastRead *log,
									 const char *sql);
extern bool fleet_query_ask(FleetAsking *asking, const char *region, const char *ids);
extern List *fleet_query_answers(FleetAsking *asking);
extern bool fleet_query_open(FleetAsking *asking, const char *region);
extern void fleet_query_ask_open(FleetAsking *asking, const char *sql, const char *ids);
extern void fleet_query_close(FleetAsking *asking);
extern void fleet_query_abandon(FleetAsking *asking);
extern FleetAnswer *fleet_query_ask_own(FleetRead *read, FleetLastRead *log, const char *sql,
										const char *ids);
extern int	fleet_query_execute(const FleetRead *read, const char *sql, uint64 q,
								const char *subject);
extern void fleet_query_execute_to(const FleetRead *read, const char *sql, uint64 q,
								   DestReceiver *receiver);

/* ---- merge.c ---- */
extern void fleet_query_begin_merge(FleetMerge *x);
extern int	fleet_query_note_answer(FleetMerge *x, const FleetAnswer *answer, int number);
extern void fleet_query_follow_all(FleetMerge *x);
extern List *fleet_query_collect(FleetMerge *x, int *left);

/* ---- sums.c ---- */
extern void fleet_query_sums_init(void);
extern List *fleet_query_sums(FleetRead *read, FleetLastRead *log);

/* ---- exact.c ---- */
extern List *fleet_query_exact(FleetRead *read, FleetLastRead *log);
extern bool fleet_query_exact_few(FleetRead *read, FleetLastRead *log, int most, List **rows);
extern List *fleet_query_fast(FleetRead *read, FleetLastRead *log);
extern FleetAnswer *fleet_query_ask_replica(FleetRead *read, FleetLastRead *log, const char *sql);

#endif							/* FLEET_QUERY_READ_H */
