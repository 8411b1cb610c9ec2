/*-------------------------------------------------------------------------
 *
 * anomaly_equal.c
 *	  The replica beside the union of the regions, row by row.
 *
 * All columns are compared, as text.  The nodes are read one after the other, so
 * this is for a time when nobody writes; it tries again until they are equal or
 * time is up, since the replica may be behind, and handoffs not finished.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly_equal.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "anomaly.h"

#define TOLD 6
#define PAUSE 0.2

/* Rows as text, sorted; the results keep them. */
typedef struct Rows
{
	const char **rows;
	size_t		n;
	PGresult   *results[MAX_REGIONS];
	int			nresult;
} Rows;

static int
compare(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Add the rows of a node; false where it does not answer. */
static bool
add_rows(Rows *rows, AnomalyLink *link)
{
	char		sql[512];
	char		where[128] = "";
	PGresult   *result;

	if (link->node->region != NULL)
		snprintf(where, sizeof(where), " WHERE t.region = '%s'", link->node->region);
	snprintf(sql, sizeof(sql), "SELECT 'ride ' || t::text FROM fleet.rides AS t%s"
			 " UNION ALL SELECT 'vehicle ' || t::text FROM fleet.vehicles AS t%s", where, where);
	if (!link_open(link))
		return false;
	result = PQexec(link->conn, sql);
	rows->results[rows->nresult++] = result;
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "anomaly: %s", PQresultErrorMessage(result));
		link_check(link);
		return false;
	}
	rows->rows = realloc(rows->rows, (rows->n + (size_t) PQntuples(result) + 1) * sizeof(char *));
	if (rows->rows == NULL)
		fail("out of memory");
	for (int i = 0; i < PQntuples(result); i++)
		rows->rows[rows->n++] = PQgetvalue(result, i, 0);
	return true;
}

static void
free_rows(Rows *rows)
{
	for (int i = 0; i < rows->nresult; i++)
		PQclear(rows->results[i]);
	free(rows->rows);
	memset(rows, 0, sizeof(*rows));
}

/* How many rows only one of them has. */
static size_t
count_different(const Rows *regions, const Rows *replica, bool tell)
{
	size_t		i = 0;
	size_t		j = 0;
	size_t		different = 0;

	while (i < regions->n || j < replica->n)
	{
		int			order = i == regions->n ? 1 : j == replica->n ? -1 : strcmp(regions->rows[i], replica->rows[j]);

		if (order == 0)
		{
			i++;
			j++;
			continue;
		}
		if (tell && different < TOLD)
			fprintf(stderr, "anomaly: only %s: %s\n", order < 0 ? "a region has" : "the replica has",
					order < 0 ? regions->rows[i] : replica->rows[j]);
		different++;
		if (order < 0)
			i++;
		else
			j++;
	}
	return different;
}

/* One look at all nodes; -1 where one of them does not answer. */
static long
look(Anomaly *all, AnomalyLink *links, bool tell, size_t *n)
{
	Rows		regions = {0};
	Rows		replica = {0};
	bool		ok = add_rows(&replica, &links[all->nregion]);
	long		different = -1;

	for (int i = 0; ok && i < all->nregion; i++)
		ok = add_rows(&regions, &links[i]);
	if (ok)
	{
		if (regions.n > 0)
			qsort(regions.rows, regions.n, sizeof(char *), compare);
		if (replica.n > 0)
			qsort(replica.rows, replica.n, sizeof(char *), compare);
		different = (long) count_different(&regions, &replica, tell);
		*n = regions.n;
	}
	free_rows(&regions);
	free_rows(&replica);
	return different;
}

/* Wait until the replica is equal; true if it became so. */
bool
compare_all(Anomaly *all)
{
	AnomalyLink links[MAX_REGIONS + 1] = {0};
	double		start = now_s();
	bool		last = false;
	size_t		n = 0;
	long		different;

	for (int i = 0; i < all->nregion; i++)
		links[i].node = &all->regions[i];
	links[all->nregion].node = &all->replica;
	while ((different = look(all, links, last, &n)) != 0 && !last)
	{
		sleep_s(PAUSE);
		last = now_s() > start + all->wait;
	}
	printf("equal rows=%zu different=%ld took_s=%.2f\n", n, different, now_s() - start);
	for (int i = 0; i <= all->nregion; i++)
		link_close(&links[i]);
	return different == 0;
}
