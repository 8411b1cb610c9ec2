/*-------------------------------------------------------------------------
 *
 * anomaly_reader.c
 *	  Who takes snapshots of the replica, and what is wrong in them.
 *
 * A snapshot is one statement.  One in nine is of all rides, the others of the
 * hot ones with their vehicles, as fast as they come.  Each has to show every
 * ride once.  What is seen of a ride at different times can be compared: its
 * version never gets older, and an epoch belongs to one region for ever.  A change
 * that a writer was told of is there once the watermark has passed its stamp.
 *
 * Commits of an apply worker need not be flushed, so a server that was killed may
 * show some of them only later again.  That is counted apart.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly_reader.c
 *
 *-------------------------------------------------------------------------
 */
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "anomaly.h"

#define HOT_SNAPSHOTS 8			/* to one full */
#define TOLD 10					/* problems that are printed */

AnomalySeen seen = {.complete = -1};

/* What is known of a row: rides first, then the vehicles of hot ones. */
typedef struct Known
{
	int64_t		epoch;
	int64_t		hlc;
	signed char region;
	long		snapshot;		/* the last one that had it */
	bool		forgiven;		/* the connection was lost since */
} Known;

typedef struct Reader
{
	const Anomaly *all;
	AnomalyLink link;
	Known	   *rows;
	long		nrow;
	int64_t		watermark;		/* of this snapshot; 0: none */
	long		told;
	bool		is_complete;
	char		sql[2][512];	/* hot, full */
} Reader;

static void
tell(Reader *reader, long row, const char *what)
{
	bool		is_ride = row < reader->all->rides;

	if (reader->told++ < TOLD)
		fprintf(stderr, "anomaly: snapshot %ld: %c%06ld %s\n", seen.snapshots,
				is_ride ? 'S' : 'V', is_ride ? row : row - reader->all->rides, what);
}

static int64_t
get_int64(const PGresult *result, int row, int column)
{
	uint64_t	value;

	memcpy(&value, PQgetvalue(result, row, column), sizeof(value));
	return (int64_t) be64toh(value);
}

static signed char
get_region(const Reader *reader, const PGresult *result, int row)
{
	const char *name = PQgetvalue(result, row, 1);

	for (int i = 0; i < reader->all->nregion; i++)
		if (strcmp(reader->all->regions[i].region, name) == 0)
			return (signed char) i;
	return -1;
}

/* Number of a row, -1 where it is none that has to be there. */
static long
get_row(const Reader *reader, const PGresult *result, int row)
{
	const char *id = PQgetvalue(result, row, 0);
	long		number = atol(id + 1);

	if (id[0] == 'S' && number < reader->all->rides)
		return number;
	if (id[0] == 'V' && number < reader->all->hot)
		return reader->all->rides + number;
	return -1;
}

/* One row of a snapshot beside what was seen before. */
static void
take_in(Reader *reader, long number, const PGresult *result, int row)
{
	Known	   *known = &reader->rows[number];
	int64_t		epoch = get_int64(result, row, 2);
	int64_t		hlc = get_int64(result, row, 3);
	signed char region = get_region(reader, result, row);

	if (known->snapshot == seen.snapshots)
	{
		seen.doubled++;
		tell(reader, number, "is doubled");
		return;
	}
	known->snapshot = seen.snapshots;
	if (epoch < known->epoch || (epoch == known->epoch && hlc < known->hlc))
	{
		if (known->forgiven)
			seen.lost_back++;
		else
		{
			seen.back++;
			seen.epoch_back += epoch < known->epoch;
			tell(reader, number, epoch < known->epoch ? "went back to an older epoch" : "went back to an older stamp");
		}
	}
	else if (epoch == known->epoch && region != known->region && !known->forgiven)
	{
		seen.torn++;
		tell(reader, number, "has another region at the same epoch");
	}
	if (number < reader->all->rides)
	{
		int64_t		written = atomic_load(&reader->all->written[number]);

		if (written > hlc && written <= reader->watermark)
		{
			seen.early++;
			tell(reader, number, "lacks a change that the watermark covers");
		}
	}
	known->epoch = epoch;
	known->hlc = hlc;
	known->region = region;
	known->forgiven = false;
}

/* Rows that this snapshot should have had: those from first to last. */
static long
count_missing(Reader *reader, long first, long last, long step)
{
	long		missing = 0;

	for (long i = first; i < last; i += step)
		if (reader->rows[i].snapshot != seen.snapshots)
		{
			missing++;
			if (reader->is_complete)
				tell(reader, i, "is missing");
		}
	return missing;
}

/* It is the row without a region; 0 where the replica does not know. */
static int64_t
find_watermark(const PGresult *result)
{
	int			last = PQntuples(result) - 1;

	if (last < 0 || strcmp(PQgetvalue(result, last, 0), "watermark") != 0 || PQgetisnull(result, last, 3))
		return 0;
	return get_int64(result, last, 3);
}

static void
check_snapshot(Reader *reader, const PGresult *result, bool full, double since)
{
	const Anomaly *all = reader->all;
	long		missing;

	seen.snapshots++;
	seen.full += full;
	reader->watermark = find_watermark(result);
	seen.marked += reader->watermark > 0;
	for (int i = 0; i < PQntuples(result); i++)
	{
		long		number = get_row(reader, result, i);

		if (number >= 0)
			take_in(reader, number, result, i);
	}
	missing = count_missing(reader, 0, full ? all->rides : all->hot, 1)
		+ count_missing(reader, all->rides + 1, all->rides + all->hot, 2);
	if (reader->is_complete)
		seen.missing += missing;
	else if (full && missing == 0)
	{
		reader->is_complete = true;
		seen.complete = now_s() - since;
	}
}

static void
make_statements(Reader *reader)
{
	static const char *const columns = "_id, region, epoch, hlc::bigint FROM fleet.";
	static const char *const watermark = " UNION ALL SELECT 'watermark', '', 0, fleet.global_watermark()::bigint";

	snprintf(reader->sql[0], sizeof(reader->sql[0]),
			 "SELECT ride%srides WHERE ride_id >= 'S000000' AND ride_id < 'S%06ld'"
			 " UNION ALL SELECT vehicle%svehicles%s",
			 columns, reader->all->hot, columns, watermark);
	snprintf(reader->sql[1], sizeof(reader->sql[1]),
			 "SELECT ride%srides UNION ALL SELECT vehicle%svehicles%s", columns, columns, watermark);
}

/* The thread of the reader. */
void *
read_snapshots(void *anomaly)
{
	Reader		reader = {.all = anomaly};
	double		since = now_s();

	reader.link.node = &reader.all->replica;
	reader.nrow = reader.all->rides + reader.all->hot;
	reader.rows = allocate(reader.nrow, sizeof(Known));
	make_statements(&reader);
	for (long n = 0; !atomic_load(&reader.all->stop);)
	{
		bool		full = !reader.is_complete || n % (HOT_SNAPSHOTS + 1) == 0;
		PGresult   *result;

		if (!link_open(&reader.link))
			continue;
		result = PQexecParams(reader.link.conn, reader.sql[full], 0, NULL, NULL, NULL, NULL, 1);
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
		{
			check_snapshot(&reader, result, full, since);
			n++;
		}
		else
		{
			link_check(&reader.link);
			if (reader.link.conn != NULL)
			{
				fprintf(stderr, "anomaly: replica: %s", PQresultErrorMessage(result));
				sleep_s(0.1);
			}
			for (long i = 0; reader.link.conn == NULL && i < reader.nrow; i++)
				reader.rows[i].forgiven = true;
		}
		PQclear(result);
		if (!reader.is_complete)
			sleep_s(0.05);
	}
	seen.lost = reader.link.lost;
	link_close(&reader.link);
	free(reader.rows);
	return NULL;
}
