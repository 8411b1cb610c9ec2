/*-------------------------------------------------------------------------
 *
 * remote.h
 *	  Connections to other nodes: kept, pipelined, never blocking, always with
 *	  a deadline.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/remote.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REMOTE_REMOTE_H
#define FLEET_REMOTE_REMOTE_H

#include "postgres.h"

#include "storage/latch.h"

#include "base/compat.h"
#include "libpq-fe.h"

/* Longest name of a foreign server: "fleet_" and a region's name. */
#define FLEET_SERVER_PREFIX "fleet_"

/* Statements kept prepared on each connection. */
#define FLEET_STATEMENTS_MAX 16

typedef struct FleetStatement
{
	const char *sql;			/* a string constant of ours */
	char		name[32];
	bool		prepared;		/* the peer has said so */
} FleetStatement;

typedef struct FleetPeer FleetPeer; /* see breaker.c */

typedef struct FleetConn
{
	char		region[NAMEDATALEN];	/* hash key */
	PGconn	   *pg;				/* NULL while not connected */
	int			pending;		/* requests sent whose reply was not read */
	int			sent;			/* requests ever sent */
	bool		queued;			/* the next request has begun */
	WaitEventSet *wait_set;		/* latch and socket; made at the first wait */
	int			wait_socket;	/* the socket's place in it */
	PGresult   *partial;		/* reply that is being read */
	int			preparing;		/* request that prepares the last statement, or 0 */
	uint32		nonce;			/* in the names of its statements */
	int			nstatement;
	FleetStatement statements[FLEET_STATEMENTS_MAX];
	bool		in_transaction; /* a branch is open on it */
	bool		broken;			/* to be closed, never to be reused */
	uint32		server_hash;	/* syscache hash of its foreign server */
	uint32		mapping_hash;
	bool		stale;			/* options changed since it was opened */
	uint64		options;		/* hash of all options it was opened with */
	int64		asked_at;		/* when the last request was sent */
	FleetPeer  *peer;			/* in shared memory; NULL before the first use */
	uint32		peer_generation;
	uint64		probe;			/* token of the probe that it is, or 0 */
	bool		counted;		/* its failure is */
} FleetConn;

typedef enum FleetReplyStatus
{
	FLEET_REPLY_OK,
	FLEET_REPLY_ERROR,			/* the remote server said so; see result */
	FLEET_REPLY_TIMEOUT,		/* the deadline passed; the connection is broken */
	FLEET_REPLY_BROKEN			/* the connection was lost */
} FleetReplyStatus;

typedef struct FleetReply
{
	FleetReplyStatus status;
	PGresult   *result;			/* of the statement; NULL unless OK or ERROR */
} FleetReply;

extern int	fleet_remote_connect_timeout;	/* ms */

extern void fleet_remote_init(void);
extern int64 fleet_remote_deadline(int timeout_ms);

extern FleetConn *fleet_remote_connect(const char *region);
extern FleetConn *fleet_remote_try_connect(const char *region, char **error);
extern bool fleet_remote_send(FleetConn *conn, const char *sql, int nparams,
							  const char *const *params);
extern bool fleet_remote_queue(FleetConn *conn, const char *sql);
extern bool fleet_remote_queue_prepared(FleetConn *conn, const char *sql, int nparams,
										const char *const *params);
extern bool fleet_remote_flush(FleetConn *conn);
extern bool fleet_remote_send_prepared(FleetConn *conn, const char *sql, int nparams,
									   const char *const *params);
extern FleetReplyStatus fleet_remote_receive(FleetConn *conn, int64 deadline,
											 FleetReply *reply);
extern bool fleet_remote_is_busy(const FleetConn *conn);
extern void fleet_remote_clear(FleetReply *reply);
extern bool fleet_remote_is_sqlstate(const FleetReply *reply, const char *sqlstate);
FLEET_NORETURN extern void fleet_remote_raise(FleetConn *conn, FleetReply *reply,
											  const char *sql);
extern char *fleet_remote_error_text(FleetConn *conn, const FleetReply *reply);
extern char *fleet_remote_query(FleetConn *conn, const char *sql, int nparams,
								const char *const *params, int timeout_ms);
extern void fleet_remote_discard(FleetConn *conn);

#endif							/* FLEET_REMOTE_REMOTE_H */
