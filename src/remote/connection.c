/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  Connections to other nodes: one per peer and backend, kept.
 *
 * The peer of a region is described by the foreign server "fleet_<region>"
 * and its user mapping for PUBLIC, so an operator uses ALTER SERVER and ALTER
 * USER MAPPING as ever; a connection that was opened with older options is
 * replaced at its next idle moment.
 *
 * A connection is used again only when every reply of its last use was read
 * and its remote transaction is known to have ended.  In any other case it is
 * closed: the remote backend then rolls back by itself.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/connection.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "region/map.h"
#include "remote/remote.h"
#include "remote/wait.h"

/* Room for all of libpq's options and ours. */
#define MAX_CONN_OPTIONS 64

/* What every session of ours starts with, whatever its role's settings say. */
#define SESSION_OPTIONS "-c search_path=pg_catalog -c datestyle=ISO -c intervalstyle=postgres " \
	"-c extra_float_digits=1 -c standard_conforming_strings=on -c statement_timeout=0 -c lock_timeout=0 " \
	"-c idle_in_transaction_session_timeout=0 -c synchronous_commit=on " \
	"-c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off"

/*
 * What a session of ours starts with unless its server or mapping says
 * otherwise: it ends when this machine has vanished, since a branch that is not
 * prepared keeps its rows locked until then.
 */
#define DEFAULT_OPTIONS "-c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 " \
	"-c tcp_user_timeout=5000 "

/* And our end of it the same, so that a kept connection is not found dead when it is used. */
static const char *const default_keywords[][2] = {
	{"keepalives_idle", "2"}, {"keepalives_interval", "1"}, {"keepalives_count", "3"},
	{"tcp_user_timeout", "5000"}
};

int			fleet_remote_connect_timeout = 2000;

static HTAB *connections = NULL;

void
fleet_remote_init(void)
{
	DefineCustomIntVariable("fleet.connect_timeout",
							"Time that opening a connection to another node may take.",
							"Raise it where nodes are far apart or behind a slow pooler.",
							&fleet_remote_connect_timeout, 2000, 10, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* Options of a server or mapping changed: replace what was opened with them. */
static void
on_options_inval(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	FleetConn  *conn;

	hash_seq_init(&scan, connections);
	while ((conn = hash_seq_search(&scan)) != NULL)
	{
		uint32		hash = (cacheid == FOREIGNSERVEROID) ?
			conn->server_hash : conn->mapping_hash;

		if (hashvalue == 0 || hash == hashvalue)
			conn->stale = true;
	}
}

static FleetConn *
find_entry(const char *region)
{
	char		key[NAMEDATALEN] = {0};
	bool		found;
	FleetConn  *conn;

	if (connections == NULL)
	{
		HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = sizeof(FleetConn)};

		connections = hash_create("fleet connections", 8, &ctl,
								  HASH_ELEM | HASH_STRINGS);
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, on_options_inval, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, on_options_inval, (Datum) 0);
	}
	strlcpy(key, region, NAMEDATALEN);
	conn = hash_search(connections, key, HASH_ENTER, &found);
	if (!found)
		memset((char *) conn + NAMEDATALEN, 0, sizeof(FleetConn) - NAMEDATALEN);
	return conn;
}

/* Close a connection and forget what was in flight on it.  Never throws. */
void
fleet_remote_discard(FleetConn *conn)
{
	if (conn->partial != NULL)
		PQclear(conn->partial);
	if (conn->wait_set != NULL)
		FreeWaitEventSet(conn->wait_set);
	if (conn->pg != NULL)
	{
		PQfinish(conn->pg);
		ReleaseExternalFD();
	}
	conn->partial = NULL;
	conn->wait_set = NULL;
	conn->pg = NULL;
	conn->queued = false;
	conn->pending = 0;
	conn->sent = 0;
	conn->preparing = 0;
	conn->nstatement = 0;
	conn->in_transaction = false;
	conn->broken = false;
	conn->stale = false;
}

/* Is this a keyword of libpq (and not an option of postgres_fdw)? */
static bool
is_libpq_option(const char *keyword)
{
	static PQconninfoOption *known = NULL;

	if (known == NULL)
		known = PQconndefaults();
	for (PQconninfoOption *o = known; o != NULL && o->keyword != NULL; o++)
		if (strcmp(o->keyword, keyword) == 0)
			return true;
	return false;
}

static int
add_options(List *options, const char **keywords, const char **values, int n)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst(cell);

		if (n >= MAX_CONN_OPTIONS - 5 || !is_libpq_option(def->defname))
			continue;
		keywords[n] = def->defname;
		values[n] = defGetString(def);
		if (strcmp(def->defname, "options") == 0)
			values[n] = psprintf(DEFAULT_OPTIONS "%s " SESSION_OPTIONS, values[n]);
		n++;
	}
	return n;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* Begin to connect; the caller polls. */
static PGconn *
start_connection(FleetConn *conn, ForeignServer *server, UserMapping *mapping)
{
	const char *keywords[MAX_CONN_OPTIONS];
	const char *values[MAX_CONN_OPTIONS];
	const char *node = fleet_region_map()->node;
	int			n = 0;

	keywords[n] = "options";
	values[n++] = DEFAULT_OPTIONS SESSION_OPTIONS;
	for (int i = 0; i < lengthof(default_keywords); i++)
	{
		keywords[n] = default_keywords[i][0];
		values[n++] = default_keywords[i][1];
	}
	n = add_options(server->options, keywords, values, n);
	n = add_options(mapping->options, keywords, values, n);

	/* A standby cannot speak for its primary, and pull.c fences by this name. */
	keywords[n] = "target_session_attrs";
	values[n++] = "primary";
	keywords[n] = "application_name";
	values[n++] = psprintf("fleet:%s", node ? node : "");
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();
	keywords[n] = NULL;
	values[n] = NULL;

	conn->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID,
											  ObjectIdGetDatum(server->serverid));
	conn->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID,
											   ObjectIdGetDatum(mapping->umid));
	return PQconnectStartParams(keywords, values, false);
}

/* Poll until connected, the deadline passed or it failed.  True if connected. */
static bool
poll_connection(FleetConn *conn)
{
	int64		deadline = fleet_remote_deadline(fleet_remote_connect_timeout);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (conn->pg == NULL || PQstatus(conn->pg) == CONNECTION_BAD)
		return false;
	while (status != PGRES_POLLING_OK)
	{
		int			event = (status == PGRES_POLLING_READING) ?
			WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		if (!fleet_remote_wait(conn->pg, event, deadline))
			return false;
		status = PQconnectPoll(conn->pg);
		if (status == PGRES_POLLING_FAILED)
			return false;
	}
	return PQsetnonblocking(conn->pg, 1) == 0 && PQenterPipelineMode(conn->pg) == 1;
}

static char *
connection_error(FleetConn *conn)
{
	char	   *message;

	if (conn->pg == NULL)
		return pstrdup("out of memory");
	if (PQstatus(conn->pg) != CONNECTION_BAD)
		return psprintf("no answer within %d ms", fleet_remote_connect_timeout);
	message = pchomp(PQerrorMessage(conn->pg));
	return message[0] != '\0' ? message : pstrdup("connection failed");
}

/*
 * A peer of which nothing is asked has one thing to say: that it goes.  The end
 * of the connection may come a moment after its words.
 */
static bool
is_quiet(PGconn *pg)
{
	struct pollfd fd = {.fd = PQsocket(pg),.events = POLLIN};

	return poll(&fd, 1, 0) == 0;
}

/*
 * The kept connection to the node of a region, opened if need be.  NULL and a
 * palloc'd message where the peer cannot be reached; raises an error only for
 * a missing user mapping, and for cancel.
 */
FleetConn *
fleet_remote_try_connect(const char *region, char **error)
{
	FleetConn  *conn = find_entry(region);
	ForeignServer *server;
	FleetCaller caller;
	UserMapping *mapping;

	if (conn->pg != NULL && !conn->in_transaction)
	{
		if (!conn->broken && !fleet_remote_is_busy(conn) && !conn->stale)
			conn->broken = PQstatus(conn->pg) == CONNECTION_BAD || !is_quiet(conn->pg);
		if (conn->broken || conn->stale || fleet_remote_is_busy(conn))
			fleet_remote_discard(conn);
	}
	if (conn->pg != NULL)
		return conn;

	server = GetForeignServerByName(psprintf(FLEET_SERVER_PREFIX "%s", region), true);
	if (server == NULL)
	{
		*error = psprintf("there is no foreign server \"" FLEET_SERVER_PREFIX "%s\"", region);
		return NULL;
	}
	fleet_base_become_owner(&caller);
	mapping = GetUserMapping(GetUserId(), server->serverid);
	fleet_base_become_caller(&caller);

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to region \"%s\"", region),
				 errdetail("There are too many open files.")));
	conn->broken = true;		/* until it is known to work */
	conn->pg = start_connection(conn, server, mapping);
	if (conn->pg == NULL)
	{
		ReleaseExternalFD();
		*error = connection_error(conn);
		return NULL;
	}
	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	if (!poll_connection(conn))
	{
		*error = connection_error(conn);
		fleet_remote_discard(conn);
		return NULL;
	}
	conn->broken = false;
	return conn;
}

/* The same, with an error where the peer cannot be reached. */
FleetConn *
fleet_remote_connect(const char *region)
{
	char	   *error = NULL;
	FleetConn  *conn = fleet_remote_try_connect(region, &error);

	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to region \"%s\"", region),
				 errdetail_internal("%s", error),
				 errhint("Is its server up? The options are those of foreign server \"" FLEET_SERVER_PREFIX "%s\".",
						 region)));
	return conn;
}
