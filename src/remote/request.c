/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Requests and replies on a kept connection.
 *
 * libpq's pipeline mode: each request ends with a synchronisation point, so
 * several may be on their way and replies come back in the order of the
 * requests.  A request is one statement, or several of which all but the last
 * were queued: when one fails the peer skips the rest, and the reply is its
 * error; else the reply is the last one's result.  What is queued may be under way
 * before the request is complete, and has no reply before.
 *
 * Nothing here blocks in libpq; each wait is on the latch and the socket and
 * ends at a deadline, also where neither statement_timeout nor a cancel is
 * listened to (during COMMIT).
 *
 * fleet_remote_send, _queue, _receive and _clear never throw on account of the peer;
 * _receive throws for cancel and terminate unless interrupts are held.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/request.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"

#include "base/errcodes.h"
#include "remote/breaker.h"
#include "remote/remote.h"
#include "remote/wait.h"

static int64
monotonic_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/* The moment so many milliseconds from now, on a clock that is never set back. */
int64
fleet_remote_deadline(int timeout_ms)
{
	return monotonic_ms() + timeout_ms;
}

/*
 * In the transaction callbacks nothing may throw, and WaitLatchOrSocket does
 * where the server has run out of file descriptors.
 */
static bool
poll_socket(PGconn *pg, int events, int64 left)
{
	struct pollfd fd = {.fd = PQsocket(pg)};
	int			ready;

	fd.events = ((events & WL_SOCKET_READABLE) ? POLLIN : 0) |
		((events & WL_SOCKET_WRITEABLE) ? POLLOUT : 0);
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	ready = poll(&fd, 1, (int) left);
	pgstat_report_wait_end();
	return ready != 0;
}

/*
 * Wait for the socket while a connection is being made.  False when the deadline
 * has passed; what has arrived by then is still to be had, since another peer may
 * have used up the time.
 */
bool
fleet_remote_wait(PGconn *pg, int events, int64 deadline)
{
	int64		left = Max(deadline - monotonic_ms(), 0);
	int			rc;

	if (InterruptHoldoffCount > 0)
		return poll_socket(pg, events, left);
	rc = WaitLatchOrSocket(MyLatch,
						   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
						   PQsocket(pg), left, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return (rc & WL_TIMEOUT) == 0;
}

/* The same for one that is open, whose wait event set is kept. */
static bool
wait_for(FleetConn *conn, int events, int64 deadline)
{
	int64		left = Max(deadline - monotonic_ms(), 0);
	WaitEvent	event;

	if (InterruptHoldoffCount > 0)
		return poll_socket(conn->pg, events, left);
	if (conn->wait_set == NULL)
	{
		conn->broken = true;	/* until the set is complete */
		conn->wait_set = fleet_compat_create_wait_set(3);
		AddWaitEventToSet(conn->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(conn->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		conn->wait_socket = AddWaitEventToSet(conn->wait_set, events, PQsocket(conn->pg),
											  NULL, NULL);
		conn->broken = false;
	}
	ModifyWaitEvent(conn->wait_set, conn->wait_socket, events, NULL);
	if (WaitEventSetWait(conn->wait_set, left, &event, 1, PG_WAIT_EXTENSION) == 0)
		return false;
	if (event.events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* The connection is of no use any more; where it was lost that is the peer's failure. */
static void
break_off(FleetConn *conn)
{
	if (PQstatus(conn->pg) == CONNECTION_BAD)
		fleet_remote_breaker_failed(conn, PQerrorMessage(conn->pg));
	conn->broken = true;
}

/* End a request that was queued (or not): start to send it. */
static bool
finish_send(FleetConn *conn, bool queued)
{
	if (!queued || !PQpipelineSync(conn->pg) || PQflush(conn->pg) < 0)
	{
		break_off(conn);
		return false;
	}
	conn->queued = false;
	conn->pending++;
	conn->sent++;
	conn->asked_at = monotonic_ms();
	return true;
}

/* Is there a request that was begun, or whose reply was not read? */
bool
fleet_remote_is_busy(const FleetConn *conn)
{
	return conn->queued || conn->pending > 0;
}

/* Begin to send what is queued. */
bool
fleet_remote_flush(FleetConn *conn)
{
	if (PQflush(conn->pg) < 0)
		break_off(conn);
	return !conn->broken;
}

/*
 * Queue one statement and start to send it.  False, with the connection
 * broken, where libpq refuses; what the peer thinks of it is in the reply.
 */
bool
fleet_remote_send(FleetConn *conn, const char *sql, int nparams,
				  const char *const *params)
{
	if (conn->pg == NULL || conn->broken)
		return false;
	return finish_send(conn, PQsendQueryParams(conn->pg, sql, nparams, NULL, params,
											   NULL, NULL, 0));
}

static bool
note_queued(FleetConn *conn, bool queued)
{
	conn->queued = true;
	if (!queued)
		break_off(conn);
	return queued;
}

/* Put a statement ahead of the next one, as part of the same request. */
bool
fleet_remote_queue(FleetConn *conn, const char *sql)
{
	if (conn->pg == NULL || conn->broken)
		return false;
	return note_queued(conn, PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0));
}

/*
 * Put a new statement on the list; its preparation goes ahead in the request.  The
 * name is this connection's alone: where a pooler has others use the same session
 * of the server, a wrong statement under our name would be worse than none.
 */
static FleetStatement *
add_statement(FleetConn *conn, const char *sql)
{
	FleetStatement *statement;

	if (conn->preparing != 0 || conn->nstatement >= FLEET_STATEMENTS_MAX)
		return NULL;
	statement = &conn->statements[conn->nstatement];
	statement->sql = sql;
	statement->prepared = false;
	snprintf(statement->name, sizeof(statement->name), "fleet_%08x_%d", conn->nonce, conn->sent);
	if (!PQsendPrepare(conn->pg, statement->name, sql, 0, NULL))
		return NULL;
	conn->nstatement++;
	conn->preparing = conn->sent + 1;
	return statement;
}

/* Queue a statement that the peer parses and plans once. */
static bool
queue_prepared(FleetConn *conn, const char *sql, int nparams, const char *const *params)
{
	FleetStatement *statement = NULL;

	for (int i = 0; i < conn->nstatement && statement == NULL; i++)
		if (strcmp(conn->statements[i].sql, sql) == 0)
			statement = &conn->statements[i];
	if (statement == NULL)
		statement = add_statement(conn, sql);
	else if (!statement->prepared)
		statement = NULL;		/* its preparation has not been answered yet */
	if (statement == NULL)
		return PQsendQueryParams(conn->pg, sql, nparams, NULL, params, NULL, NULL, 0);
	return PQsendQueryPrepared(conn->pg, statement->name, nparams, params, NULL, NULL, 0);
}

/*
 * As fleet_remote_queue and fleet_remote_send, for a statement that is sent
 * often.  sql must be a string constant.
 */
bool
fleet_remote_queue_prepared(FleetConn *conn, const char *sql, int nparams,
							const char *const *params)
{
	if (conn->pg == NULL || conn->broken)
		return false;
	return note_queued(conn, queue_prepared(conn, sql, nparams, params));
}

bool
fleet_remote_send_prepared(FleetConn *conn, const char *sql, int nparams,
						   const char *const *params)
{
	if (conn->pg == NULL || conn->broken)
		return false;
	return finish_send(conn, queue_prepared(conn, sql, nparams, params));
}

/*
 * The reply to this request was read.  If it was to prepare a statement, the
 * statement can be used from now on, or is forgotten (under its name, which is
 * not used again, the peer may or may not have it).
 */
static void
note_prepared(FleetConn *conn, int request, bool ok)
{
	if (conn->preparing != request)
		return;
	if (ok)
		conn->statements[conn->nstatement - 1].prepared = true;
	else
		conn->nstatement--;
	conn->preparing = 0;
}

/* Let go of a reply. */
void
fleet_remote_clear(FleetReply *reply)
{
	if (reply->result != NULL)
		PQclear(reply->result);
	reply->result = NULL;
}

/* Keep the result, or the error where there is one. */
static void
keep_result(FleetConn *conn, PGresult *result)
{
	if (PQresultStatus(result) == PGRES_PIPELINE_ABORTED)
		PQclear(result);
	else if (conn->partial == NULL)
		conn->partial = result;
	else if (PQresultStatus(conn->partial) == PGRES_FATAL_ERROR)
		PQclear(result);
	else
	{
		PQclear(conn->partial);
		conn->partial = result;
	}
}

/* Take what has arrived.  True at the synchronisation point of the request. */
static bool
take_results(FleetConn *conn)
{
	while (!PQisBusy(conn->pg))
	{
		PGresult   *result = PQgetResult(conn->pg);

		if (result == NULL)
		{
			/* A NULL ends one statement's results; a lost peer gives only NULLs. */
			if (PQstatus(conn->pg) == CONNECTION_BAD)
				return false;
			continue;
		}
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
		{
			PQclear(result);
			return true;
		}
		keep_result(conn, result);
	}
	return false;
}

/*
 * Tell the breaker what has come of a request.  A timeout counts only where the
 * peer was given some time at all.
 */
static void
note_reply(FleetConn *conn, const PGresult *result, FleetReplyStatus status)
{
	const char *error = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (status == FLEET_REPLY_OK)
		fleet_remote_breaker_answered(conn);
	else if (status == FLEET_REPLY_BROKEN)
		fleet_remote_breaker_failed(conn, error ? error : PQerrorMessage(conn->pg));
	else if (monotonic_ms() - conn->asked_at >= FLEET_PEER_PATIENCE_MS)
		fleet_remote_breaker_failed(conn, "no answer in time");
}

static FleetReplyStatus
finish_reply(FleetConn *conn, FleetReply *reply, FleetReplyStatus status)
{
	reply->result = conn->partial;
	conn->partial = NULL;
	if (conn->pg != NULL && !conn->broken)
		note_reply(conn, reply->result, status);
	if (status == FLEET_REPLY_OK)
	{
		ExecStatusType s = PQresultStatus(reply->result);

		conn->pending--;
		if (s != PGRES_TUPLES_OK && s != PGRES_COMMAND_OK)
			status = FLEET_REPLY_ERROR;
		note_prepared(conn, conn->sent - conn->pending, status == FLEET_REPLY_OK);
	}
	else
		conn->broken = true;
	reply->status = status;
	return status;
}

/* Read the reply to the oldest request that has none yet. */
FleetReplyStatus
fleet_remote_receive(FleetConn *conn, int64 deadline, FleetReply *reply)
{
	reply->result = NULL;
	if (conn->pg == NULL || conn->broken || conn->pending == 0)
	{
		conn->broken = true;	/* nothing was lost just now */
		return finish_reply(conn, reply, FLEET_REPLY_BROKEN);
	}
	for (;;)
	{
		int			unsent = PQflush(conn->pg);

		if (take_results(conn))
			return finish_reply(conn, reply, FLEET_REPLY_OK);
		if (unsent < 0 || PQstatus(conn->pg) == CONNECTION_BAD)
			return finish_reply(conn, reply, FLEET_REPLY_BROKEN);
		if (!wait_for(conn, WL_SOCKET_READABLE | (unsent ? WL_SOCKET_WRITEABLE : 0), deadline))
			return finish_reply(conn, reply, FLEET_REPLY_TIMEOUT);

		/*
		 * On failure what was read before is still to be had: the peer may
		 * have said why it went.
		 */
		if (!PQconsumeInput(conn->pg))
		{
			if (take_results(conn))
				return finish_reply(conn, reply, FLEET_REPLY_OK);
			return finish_reply(conn, reply, FLEET_REPLY_BROKEN);
		}
	}
}

/* Is the reply this error? */
bool
fleet_remote_is_sqlstate(const FleetReply *reply, const char *sqlstate)
{
	const char *state;

	if (reply->status != FLEET_REPLY_ERROR)
		return false;
	state = PQresultErrorField(reply->result, PG_DIAG_SQLSTATE);
	return state != NULL && strcmp(state, sqlstate) == 0;
}

/* A reply that is no success, as one line of text, palloc'd. */
char *
fleet_remote_error_text(FleetConn *conn, const FleetReply *reply)
{
	const char *message = NULL;

	if (reply->status == FLEET_REPLY_TIMEOUT)
		return pstrdup("no answer in time");
	if (reply->result != NULL)
		message = PQresultErrorField(reply->result, PG_DIAG_MESSAGE_PRIMARY);
	if (message == NULL && reply->result != NULL)
		message = PQresultErrorMessage(reply->result);
	if ((message == NULL || *message == '\0') && conn->pg != NULL)
		message = PQerrorMessage(conn->pg);
	if (message == NULL || *message == '\0')
		return pstrdup("the connection was lost");
	return pchomp(message);
}

/*
 * Raise a reply that is no success as what it is: the peer's own SQLSTATE,
 * message, detail and hint, or that it did not answer.
 */
void
fleet_remote_raise(FleetConn *conn, FleetReply *reply, const char *sql)
{
	char	   *message = fleet_remote_error_text(conn, reply);
	char	   *detail = NULL;
	char	   *hint = NULL;
	int			code = ERRCODE_CONNECTION_FAILURE;

	if (reply->result != NULL)
	{
		const char *state = PQresultErrorField(reply->result, PG_DIAG_SQLSTATE);
		const char *text;

		if (state != NULL && strlen(state) == 5)
			code = MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
		text = PQresultErrorField(reply->result, PG_DIAG_MESSAGE_DETAIL);
		detail = text ? pstrdup(text) : NULL;
		text = PQresultErrorField(reply->result, PG_DIAG_MESSAGE_HINT);
		hint = text ? pstrdup(text) : NULL;
	}
	fleet_remote_clear(reply);
	if (reply->status == FLEET_REPLY_TIMEOUT)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_PEER_TIMEOUT),
				 errmsg("region \"%s\" did not answer in time", conn->region),
				 errhint("Nothing was changed. Is its server up, and is the network between the nodes open?"),
				 errcontext("remote SQL command: %s", sql)));
	ereport(ERROR,
			(errcode(code),
			 errmsg_internal("%s", message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 errcontext("remote SQL command on region \"%s\": %s", conn->region, sql)));
}

/*
 * Ask and wait: the first column of the first row, palloc'd, or NULL.  Any
 * failure is raised, also that of an earlier request whose reply is still due.
 */
char *
fleet_remote_query(FleetConn *conn, const char *sql, int nparams,
				   const char *const *params, int timeout_ms)
{
	int64		deadline = fleet_remote_deadline(timeout_ms);
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	char	   *value = NULL;

	if (!fleet_remote_send(conn, sql, nparams, params))
		fleet_remote_raise(conn, &reply, sql);
	while (conn->pending > 0)
	{
		fleet_remote_clear(&reply);
		if (fleet_remote_receive(conn, deadline, &reply) != FLEET_REPLY_OK)
			fleet_remote_raise(conn, &reply, sql);
	}
	if (PQntuples(reply.result) > 0 && !PQgetisnull(reply.result, 0, 0))
		value = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
	return value;
}
