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
 * Whether a peer is asked at all, the breaker says (breaker.c).
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
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "region/map.h"
#include "remote/breaker.h"
#include "remote/remote.h"
#include "remote/wait.h"

/* Room for all of libpq's options and ours. */
#define MAX_CONN_OPTIONS 64

/*
 * What every session of ours starts with, whatever its role's settings say.  The
 * server reports the style of dates; by its unusual order we know that it has got
 * all of this (nothing that is sent has dates whose meaning the order changes).
 */
#define REPORTED_DATESTYLE "ISO, YMD"
#define SESSION_OPTIONS "-c search_path=pg_catalog -c datestyle=ISO,YMD -c intervalstyle=postgres " \
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
							"Raise it where nodes are far apart.",
							&fleet_remote_connect_timeout, 2000, 10, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	fleet_remote_breaker_init();
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

/* How a peer is reached: its server and mapping, and a hash of all their options. */
typedef struct Address
{
	ForeignServer *server;
	UserMapping *mapping;
	uint64		options;
} Address;

static uint64
hash_options(uint64 hash, List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst(cell);
		const char *value = defGetString(def);

		/* With their ends, so that they do not run into each other. */
		hash = hash_bytes_extended((const unsigned char *) def->defname,
								   strlen(def->defname) + 1, hash);
		hash = hash_bytes_extended((const unsigned char *) value, strlen(value) + 1, hash);
	}
	return hash;
}

/* False where the region has no server.  Raises an error for a missing mapping. */
static bool
find_address(const char *region, Address *address)
{
	FleetCaller caller;

	address->server = GetForeignServerByName(psprintf(FLEET_SERVER_PREFIX "%s", region), true);
	if (address->server == NULL)
		return false;
	fleet_base_become_owner(&caller);
	address->mapping = GetUserMapping(GetUserId(), address->server->serverid);
	fleet_base_become_caller(&caller);
	address->options = hash_options(address->server->serverid, address->server->options);
	address->options = hash_options(address->options, address->mapping->options);
	return true;
}

/*
 * The hash of the options by which a region is reached.  False where that cannot
 * be said, without an error.
 */
bool
fleet_remote_peer_options(const char *region, uint64 *options)
{
	ForeignServer *server = GetForeignServerByName(psprintf(FLEET_SERVER_PREFIX "%s", region), true);
	Address		address;

	/* Who has no mapping for PUBLIC gets his error when he asks. */
	if (server == NULL ||
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid)) ||
		!find_address(region, &address))
		return false;
	*options = address.options;
	return true;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* Begin to connect; the caller polls. */
static PGconn *
start_connection(FleetConn *conn, const Address *address)
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
	n = add_options(address->server->options, keywords, values, n);
	n = add_options(address->mapping->options, keywords, values, n);

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
											  ObjectIdGetDatum(address->server->serverid));
	conn->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID,
											   ObjectIdGetDatum(address->mapping->umid));
	conn->options = address->options;
	conn->stale = false;
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
 * Does the session have the settings that it was to start with?  A pooler that
 * drops them also hands a session from one client to another between
 * transactions, or may: what is prepared there is not safe.
 */
static bool
has_settings(FleetConn *conn)
{
	const char *reported = PQparameterStatus(conn->pg, "DateStyle");

	return reported != NULL && strcmp(reported, REPORTED_DATESTYLE) == 0;
}

/* Open a connection.  NULL and a message where that fails. */
static FleetConn *
open_connection(FleetConn *conn, const Address *address, char **error)
{
	bool		connected;
	bool		usable;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to region \"%s\"", conn->region),
				 errdetail("There are too many open files.")));
	conn->broken = true;		/* until it is known to work */
	conn->counted = false;
	conn->nonce = pg_prng_uint32(&pg_global_prng_state);
	conn->pg = start_connection(conn, address);
	if (conn->pg == NULL)
	{
		ReleaseExternalFD();
		*error = connection_error(conn);
		return NULL;
	}
	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	connected = poll_connection(conn);
	usable = connected && has_settings(conn);
	if (!usable)
	{
		*error = connected ?
			pstrdup("the session has not got its settings: there is a pooler between the nodes, and must not be") :
			connection_error(conn);
		if (connected || PQstatus(conn->pg) == CONNECTION_BAD ||
			fleet_remote_connect_timeout >= FLEET_PEER_PATIENCE_MS)
			fleet_remote_breaker_failed(conn, *error);
		fleet_remote_discard(conn);
		return NULL;
	}
	conn->broken = false;
	fleet_remote_breaker_connected(conn);
	return conn;
}

/* Does the peer answer a request?  If not the connection is closed. */
static bool
is_answering(FleetConn *conn, char **error)
{
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

	if (fleet_remote_send(conn, "SELECT 1", 0, NULL))
		(void) fleet_remote_receive(conn, fleet_remote_deadline(fleet_remote_connect_timeout),
									&reply);
	if (reply.status != FLEET_REPLY_OK)
	{
		*error = fleet_remote_error_text(conn, &reply);
		fleet_remote_discard(conn);
	}
	fleet_remote_clear(&reply);
	return reply.status == FLEET_REPLY_OK;
}

static void
give_up_probe(int code, Datum conn)
{
	fleet_remote_breaker_probe_given_up((FleetConn *) DatumGetPointer(conn));
}

/* Find out for all whether a peer that has failed is back, by a new connection. */
static FleetConn *
probe(FleetConn *conn, const Address *address, char **error)
{
	FleetConn  *volatile peer = conn;
	volatile bool passed = false;

	fleet_remote_discard(peer);
	PG_ENSURE_ERROR_CLEANUP(give_up_probe, PointerGetDatum(peer));
	{
		passed = open_connection(peer, address, error) != NULL && is_answering(peer, error);
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_up_probe, PointerGetDatum(peer));
	if (passed)
		fleet_remote_breaker_probe_passed(peer);
	else
		fleet_remote_breaker_probe_given_up(peer);	/* if nobody has said how it ended */
	return passed ? peer : NULL;
}

/*
 * The kept connection to the node of a region, opened if need be.  NULL and a
 * palloc'd message where the peer cannot be reached, or is not asked now
 * (*refused); raises an error only for a missing user mapping, and for cancel.
 */
static FleetConn *
try_connect(const char *region, char **error, bool *refused)
{
	FleetConn  *conn = find_entry(region);
	FleetAdmission admission;
	Address		address;

	*refused = false;
	if (conn->pg != NULL && !conn->in_transaction)
	{
		if (!conn->broken && !fleet_remote_is_busy(conn) && !conn->stale)
			conn->broken = PQstatus(conn->pg) == CONNECTION_BAD || !is_quiet(conn->pg);
		if (conn->broken || conn->stale || fleet_remote_is_busy(conn))
			fleet_remote_discard(conn);
	}
	/* What was begun is not refused. */
	if (conn->pg != NULL && (conn->in_transaction || fleet_remote_breaker_is_calm(conn)))
		return conn;

	if (!find_address(region, &address))
	{
		*error = psprintf("there is no foreign server \"" FLEET_SERVER_PREFIX "%s\"", region);
		return NULL;
	}
	admission = fleet_remote_breaker_admit(conn, address.options, error);
	*refused = admission == FLEET_REFUSED;
	if (*refused)
		return NULL;
	if (admission == FLEET_ADMITTED_AS_PROBE)
		return probe(conn, &address, error);
	return conn->pg != NULL ? conn : open_connection(conn, &address, error);
}

/* The same; a peer that is not asked is like one that cannot be reached. */
FleetConn *
fleet_remote_try_connect(const char *region, char **error)
{
	bool		refused;
	FleetConn  *conn = try_connect(region, error, &refused);

	if (refused)
		*error = psprintf("the region is not asked now: %s", *error);
	return conn;
}

/* The same, with an error where the peer cannot be reached. */
FleetConn *
fleet_remote_connect(const char *region)
{
	char	   *error = NULL;
	bool		refused;
	FleetConn  *conn = try_connect(region, &error, &refused);

	if (refused)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_NOT_ASKED),
				 errmsg("region \"%s\" is not asked now", region),
				 errdetail_internal("%s.", error),
				 errhint("Is its server up? The view fleet.peers shows how it stands with each region.")));
	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to region \"%s\"", region),
				 errdetail_internal("%s", error),
				 errhint("Is its server up? The options are those of foreign server \"" FLEET_SERVER_PREFIX "%s\".",
						 region)));
	return conn;
}
