/*-------------------------------------------------------------------------
 *
 * link.c
 *	  One connection to one node of the cluster, and one try of one call.
 *
 * A try never waits longer than TRY_SECONDS: a server that is stopped and not
 * dead would otherwise hold a worker for ever.  A connection on which anything
 * went wrong below SQL is closed, and the next try opens a new one.
 *
 * A try reports "unknown" when the statement was sent and no answer came: the
 * server may have committed it.  An SQL error is never unknown, because the
 * server rolled back before it said so.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/sim/link.c
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

#define TRY_SECONDS		15.0

typedef struct StatementText
{
	const char *name;
	int			nparams;
	const char *sql;
} StatementText;

static const StatementText statements[SIM_NSTATEMENTS] = {
	[SIM_REGION_OF] = {"region_of", 2,
		"SELECT fleet.region_of($1::float8, $2::float8)"},
	[SIM_REGISTER] = {"register", 3,
		"SELECT fleet.register_vehicle($1::text, $2::float8, $3::float8)"},
	[SIM_FIX] = {"fix", 4,
		"SELECT outcome::text, region FROM fleet.report_fix("
		"$1::text, $2::float8, $3::float8, to_timestamp($4::float8))"},
	[SIM_HANDOFF] = {"handoff", 2,
		"SELECT fleet.handoff_vehicle($1::text, $2::text)"},
	[SIM_REQUEST] = {"request", 6,
		"SELECT fleet.request_ride($1::text, $2::text, $3::float8, $4::float8, "
		"vehicle_id => $5::text, at => to_timestamp($6::float8))"},
	[SIM_STATUS] = {"status", 3,
		"SELECT fleet.set_ride_status($1::text, $2::fleet.ride_status, "
		"at => to_timestamp($3::float8))"},
};

double
sim_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

void
sim_sleep(double seconds)
{
	struct timespec ts;

	ts.tv_sec = (time_t) seconds;
	ts.tv_nsec = (long) ((seconds - (double) ts.tv_sec) * 1e9);
	while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
		;
}

/* Read DIR/nodes: "node host port dbname user" a line, # starts a comment. */
bool
sim_cluster_read(SimCluster *cluster, const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		line[1024];

	cluster->nnodes = 0;
	if (file == NULL)
	{
		perror(path);
		return false;
	}
	while (fgets(line, sizeof(line), file) != NULL && cluster->nnodes < SIM_MAX_NODES)
	{
		SimNode    *node = &cluster->nodes[cluster->nnodes];

		if (line[0] != '#' &&
			sscanf(line, "%63s %511s %15s %63s %63s", node->name, node->host,
				   node->port, node->dbname, node->user) == 5)
			cluster->nnodes++;
	}
	fclose(file);
	if (cluster->nnodes == 0)
		fprintf(stderr, "%s: no node in there\n", path);
	return cluster->nnodes > 0;
}

/* the node with that name, or SIM_NOWHERE */
int
sim_cluster_find(const SimCluster *cluster, const char *name)
{
	int			i;

	for (i = 0; i < cluster->nnodes; i++)
		if (strcmp(cluster->nodes[i].name, name) == 0)
			return i;
	return SIM_NOWHERE;
}

void
sim_link_init(SimLink *link, const SimCluster *cluster, int node)
{
	link->cluster = cluster;
	link->node = node;
	link->conn = NULL;
	link->down_since = 0;
}

void
sim_link_close(SimLink *link)
{
	if (link->conn != NULL)
		PQfinish(link->conn);
	link->conn = NULL;
}

/* Errors that pass: a server comes back, a lock is released, a row arrives. */
static bool
passes(const char *sqlstate)
{
	static const char *const states[] = {
		"08", "40", "53", "55P03", "57", "HV",
		"RF001",				/* a ride or vehicle that is on its way here, */
		"RF010",				/* for we only ask for those we know of */
		"RF002", "RF007", "RF016", "RF021", "RF022",
	};
	size_t		i;

	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strncmp(sqlstate, states[i], strlen(states[i])) == 0)
			return true;
	return false;
}

/* The node of the region that a redirect's detail names, or SIM_NOWHERE. */
static int
node_in_detail(const SimCluster *cluster, const char *detail)
{
	char		name[SIM_NAME_LEN];

	if (detail == NULL || sscanf(detail, "region=%63s", name) != 1)
		return SIM_NOWHERE;
	return sim_cluster_find(cluster, name);
}

/* The connection failed: close it, and say what libpq said. */
static void
fail_connection(SimLink *link, SimReply *reply, bool sent)
{
	snprintf(reply->message, sizeof(reply->message), "%s: %s",
			 link->cluster->nodes[link->node].name,
			 link->conn == NULL ? "out of memory" : PQerrorMessage(link->conn));
	reply->message[strcspn(reply->message, "\n")] = '\0';
	reply->verdict = SIM_AGAIN;
	reply->unknown = sent;
	if (link->down_since == 0)
		link->down_since = sim_now();
	sim_link_close(link);
}

/* An SQL error: keep its state, message and detail; decide what it means. */
static void
take_error(SimLink *link, const PGresult *result, SimReply *reply)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);

	snprintf(reply->sqlstate, sizeof(reply->sqlstate), "%s", sqlstate ? sqlstate : "");
	snprintf(reply->message, sizeof(reply->message), "%s: %s %s%s%s",
			 link->cluster->nodes[link->node].name, reply->sqlstate,
			 primary ? primary : PQresultErrorMessage(result),
			 detail ? "; " : "", detail ? detail : "");

	if (strcmp(reply->sqlstate, "RF027") == 0)
		reply->node = node_in_detail(link->cluster, detail);
	if (reply->node != SIM_NOWHERE)
		reply->verdict = SIM_ELSEWHERE;
	else if (sqlstate == NULL || passes(reply->sqlstate))
		reply->verdict = SIM_AGAIN;
	else
		reply->verdict = SIM_REFUSED;
}

static void
take_row(const PGresult *result, SimReply *reply)
{
	int			i;

	for (i = 0; i < 2; i++)
		snprintf(reply->value[i], sizeof(reply->value[i]), "%s",
				 PQntuples(result) > 0 && i < PQnfields(result) ?
				 PQgetvalue(result, 0, i) : "");
	reply->verdict = SIM_DONE;
}

/* Notices would break the progress line; errors carry what matters. */
static void
ignore_notice(void *arg, const PGresult *result)
{
	(void) arg;
	(void) result;
}

/* Open the connection and prepare the statements; false leaves it closed. */
static bool
open_connection(SimLink *link, SimReply *reply)
{
	const SimNode *node = &link->cluster->nodes[link->node];
	const char *const keywords[] = {
		"host", "port", "dbname", "user", "connect_timeout", "application_name", NULL
	};
	const char *const values[] = {
		node->host, node->port, node->dbname, node->user, "5", "fleet_replay", NULL
	};
	int			i;

	link->conn = PQconnectdbParams(keywords, values, 0);
	if (PQstatus(link->conn) != CONNECTION_OK)
	{
		fail_connection(link, reply, false);
		return false;
	}
	PQsetNoticeReceiver(link->conn, ignore_notice, NULL);

	/* Not by the option "options": that would replace those of PGOPTIONS. */
	PQclear(PQexec(link->conn, "SET fleet.routing = 'redirect'"));

	for (i = 0; i < SIM_NSTATEMENTS; i++)
	{
		PGresult   *result = PQprepare(link->conn, statements[i].name,
									   statements[i].sql, statements[i].nparams, NULL);
		bool		prepared = PQresultStatus(result) == PGRES_COMMAND_OK;

		if (!prepared)
		{
			take_error(link, result, reply);
			sim_link_close(link);
		}
		PQclear(result);
		if (!prepared)
			return false;
	}
	return true;
}

/* Wait until the answer is complete; false when it is late or cut off. */
static bool
wait_for_answer(PGconn *conn, double deadline)
{
	for (;;)
	{
		struct pollfd pfd;
		double		left = deadline - sim_now();

		if (!PQisBusy(conn))
			return true;
		pfd.fd = PQsocket(conn);
		pfd.events = POLLIN;
		if (left <= 0 || poll(&pfd, 1, (int) (left * 1000) + 1) < 0)
			return false;
		if (pfd.revents != 0 && !PQconsumeInput(conn))
			return false;
	}
}

/* Send the statement and take its answer. */
static void
exchange(SimLink *link, SimStatement statement, const char *const *values,
		 SimReply *reply)
{
	double		deadline = sim_now() + TRY_SECONDS;
	PGresult   *result;
	ExecStatusType status;

	if (!PQsendQueryPrepared(link->conn, statements[statement].name,
							 statements[statement].nparams, values, NULL, NULL, 0) ||
		!wait_for_answer(link->conn, deadline) ||
		(result = PQgetResult(link->conn)) == NULL)
	{
		fail_connection(link, reply, true);
		return;
	}

	link->down_since = 0;
	status = PQresultStatus(result);
	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		take_row(result, reply);
	else
		take_error(link, result, reply);
	PQclear(result);

	/* what follows can only be the end of the answer, or of the connection */
	if (!wait_for_answer(link->conn, deadline) ||
		PQgetResult(link->conn) != NULL ||
		PQstatus(link->conn) != CONNECTION_OK)
	{
		if (reply->verdict != SIM_DONE)
			reply->unknown = true;
		sim_link_close(link);
	}
}

/* One try of one call; never waits much longer than TRY_SECONDS. */
void
sim_link_try(SimLink *link, SimStatement statement, const char *const *values,
			 SimReply *reply)
{
	double		start = sim_now();

	memset(reply, 0, sizeof(*reply));
	reply->node = SIM_NOWHERE;
	if (link->conn != NULL || open_connection(link, reply))
	{
		start = sim_now();
		exchange(link, statement, values, reply);
	}
	reply->ms = (sim_now() - start) * 1000;
}
