/*-------------------------------------------------------------------------
 *
 * anomaly_link.c
 *	  Connections that may be lost.
 *
 * A server may be killed at any time; then its connections are opened again as
 * soon as it answers, at most some times a second.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/anomaly_link.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "anomaly.h"

#define RETRY_SECONDS 0.05

/* Statements of an actor, prepared with each connection to a region. */
static const struct
{
	const char *name;
	const char *sql;			/* %s: the region */
}			statements[] =
{
	{
		"write", "UPDATE fleet.rides SET fare = fare + 0.01, path_m = path_m + 1,"
		" current_location = fleet.make_point($2::float8, 0.5) WHERE region = '%s' AND ride_id = $1"
		" RETURNING hlc::bigint"
	},
	{"where", "SELECT fleet.raise_not_here('ride', $1)%.0s"},
	{
		"make", "INSERT INTO fleet.rides (ride_id, customer_id, region, start_location)"
		" VALUES ($1, 'churn', '%s', fleet.make_point(0.5, 0.5))"
	},
	{"bury", "DELETE FROM fleet.rides WHERE region = '%s' AND ride_id = $1"},
	{"move", "SELECT fleet.handoff($1, $2)%.0s"},
	{"move many", "SELECT fleet.handoff($1::text[], $2)%.0s"},
	{"move twice", "SELECT fleet.handoff($1, $2), fleet.handoff($1, $3)%.0s"},
};

static bool
prepare_all(AnomalyLink *link)
{
	bool		ok = true;

	for (size_t i = 0; ok && i < sizeof(statements) / sizeof(statements[0]); i++)
	{
		char		sql[512];
		PGresult   *result;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(sql, sizeof(sql), statements[i].sql, link->node->region);
#pragma GCC diagnostic pop
		result = PQprepare(link->conn, statements[i].name, sql, 0, NULL);
		ok = PQresultStatus(result) == PGRES_COMMAND_OK;
		if (!ok && PQstatus(link->conn) == CONNECTION_OK)
			fail("%s: %s", sql, PQerrorMessage(link->conn));
		PQclear(result);
	}
	return ok;
}

/* A connection that can be used, or false: try again. */
bool
link_open(AnomalyLink *link)
{
	char		conninfo[1024];

	if (link->conn != NULL)
		return true;
	sleep_s(link->next_try - now_s());
	link->next_try = now_s() + RETRY_SECONDS;
	/* Nobody waits for ever: not for a server, nor behind a branch in doubt. */
	snprintf(conninfo, sizeof(conninfo), "%s connect_timeout=5 application_name=anomaly"
			 " options='-c lock_timeout=2s -c timezone=UTC'", link->node->conninfo);
	link->conn = PQconnectdb(conninfo);
	if (PQstatus(link->conn) == CONNECTION_OK && (link->node->region == NULL || prepare_all(link)))
		return true;
	PQfinish(link->conn);
	link->conn = NULL;
	return false;
}

void
link_close(AnomalyLink *link)
{
	PQfinish(link->conn);
	link->conn = NULL;
}

/* After an error: is the connection gone? */
void
link_check(AnomalyLink *link)
{
	if (PQstatus(link->conn) == CONNECTION_OK)
		return;
	link_close(link);
	link->lost++;
}

/* Rows of a query that has to succeed. */
PGresult *
must_query(AnomalyLink *link, const char *sql)
{
	PGresult   *result;

	if (!link_open(link))
		fail("cannot connect to \"%s\"", link->node->conninfo);
	result = PQexec(link->conn, sql);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		fail("%s: %s", sql, PQerrorMessage(link->conn));
	return result;
}
