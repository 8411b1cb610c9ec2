/*-------------------------------------------------------------------------
 *
 * ask.c
 *	  One question to many nodes at once.
 *
 * All are sent the question before the first answer is awaited; our own node
 * answers while the others work.  Every question carries the reader's stamp, in a
 * statement of its own ahead of it: the peer's clock must have passed the stamp
 * before the snapshot is taken from which it answers (see exact.c).  Every answer
 * carries the peer's stamp back.
 *
 * The connections are the session's kept ones.  Where one of them has a branch of
 * the caller's transaction open, the question goes through that branch, and so
 * sees what the transaction itself has done there.
 *
 * Several questions can be put to the same snapshots: fleet_query_open(), then
 * fleet_query_ask_open() for each further one, then fleet_query_close().  In between a
 * connection has a transaction open that is nobody's branch; where the caller does
 * not come to the end, fleet_query_abandon() has to close it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/ask.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/plan.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "query/query.h"
#include "query/read.h"

#define STAMP_SQL "SELECT fleet.hlc_receive($1::bigint::fleet.hlc)"

/* The same where one ride is asked for by its id, see FLEET_READ_PATIENCE_MS. */
#define RIDE_STAMP_SQL STAMP_SQL ", fleet.await_outcome('ride', $2, $3::integer)"
#define BEGIN_SQL "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

/* Before there is a snapshot: what rewrites a table then cannot come in between. */
#define LOCK_SQL "LOCK TABLE fleet.local_rides IN ACCESS SHARE MODE"

/* Statements kept prepared; further ones are planned each time. */
#define KEPT_MAX 32

typedef struct Kept
{
	char	   *sql;			/* never freed: connections know statements by it */
	SPIPlanPtr	plan;			/* ours; NULL until it is needed */
} Kept;

int			fleet_query_read_timeout = 5000;

static Kept kept[KEPT_MAX];
static int	nkept = 0;

void
fleet_query_init(void)
{
	DefineCustomIntVariable("fleet.read_timeout",
							"Time that the other nodes may take to answer a read.",
							"Lower it where callers would rather have an error, or a part of the answer, than wait.",
							&fleet_query_read_timeout, 5000, 1, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	fleet_query_sums_init();
	fleet_query_inline_init();
}

/* The kept entry of a statement, made if there is room; else NULL. */
static Kept *
keep(const FleetRead *read, const char *sql)
{
	if (read->once)
		return NULL;
	for (int i = 0; i < nkept; i++)
		if (strcmp(kept[i].sql, sql) == 0)
			return &kept[i];
	if (nkept == KEPT_MAX)
		return NULL;
	kept[nkept].sql = MemoryContextStrdup(TopMemoryContext, sql);
	return &kept[nkept++];
}

/* ---------- our own node ---------- */

static SPIPlanPtr
prepare(const char *sql, int nparam)
{
	Oid			types[FLEET_READ_MAX_PARAMS];
	SPIPlanPtr	plan;

	for (int i = 0; i < nparam; i++)
		types[i] = TEXTOID;
	plan = SPI_prepare(sql, nparam, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	return plan;
}

/* The parameters of a statement, as every node gets them; returns how many. */
static int
parameters(const FleetRead *read, uint64 q, const char *subject, const char **params)
{
	int			n = read->unfiltered ? 1 : read->nparam;

	memcpy(params, read->params, sizeof(char *) * n);
	params[0] = psprintf(UINT64_FORMAT, q);
	if (subject != NULL)
		params[n++] = subject;
	return n;
}

/* The plan of a statement, and its parameters. */
static SPIPlanPtr
plan_statement(const FleetRead *read, const char *sql, uint64 q, const char *subject,
			   ParamListInfo *list)
{
	const char *params[FLEET_READ_MAX_PARAMS];
	int			nparam = parameters(read, q, subject, params);
	Kept	   *k = keep(read, sql);
	SPIPlanPtr	plan = k ? k->plan : NULL;

	if (plan == NULL)
		plan = prepare(sql, nparam);
	if (k != NULL && k->plan == NULL && SPI_keepplan(plan) == 0)
		k->plan = plan;
	*list = makeParamList(nparam);
	for (int i = 0; i < nparam; i++)
	{
		ParamExternData *param = &(*list)->params[i];

		param->value = CStringGetTextDatum(params[i]);
		param->isnull = false;
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = TEXTOID;
	}
	return plan;
}

static void
execute(const char *sql, SPIPlanPtr plan, const SPIExecuteOptions *options)
{
	int			rc = SPI_execute_plan_extended(plan, options);

	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

/*
 * Execute a SELECT within the caller's SPI connection, in the active snapshot.
 * Returns the number of rows, which are in SPI_tuptable.
 */
int
fleet_query_execute(const FleetRead *read, const char *sql, uint64 q, const char *subject)
{
	SPIExecuteOptions options = {.read_only = true};
	SPIPlanPtr	plan = plan_statement(read, sql, q, subject, &options.params);

	execute(sql, plan, &options);
	return (int) SPI_processed;
}

/* The same, as many rows as are wanted, to a receiver. */
void
fleet_query_execute_to(const FleetRead *read, const char *sql, uint64 q, DestReceiver *receiver)
{
	SPIExecuteOptions options = {
		.read_only = true,
		.tcount = Max(read->max_rows, 0),
		.dest = receiver
	};
	SPIPlanPtr	plan = plan_statement(read, sql, q, NULL, &options.params);

	execute(sql, plan, &options);
}

static FleetAnswer *
new_answer(const char *region, int nrow)
{
	FleetAnswer *answer = palloc0(sizeof(FleetAnswer));

	answer->region = region;
	answer->nrow = nrow;
	answer->rows = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(char **) * Max(nrow, 1));
	return answer;
}

/*
 * What our own node says, with its owner's rights, and all that is committed by now,
 * or, where it has one, in the read's snapshot.
 */
FleetAnswer *
fleet_query_ask_own(FleetRead *read, FleetLastRead *log, const char *sql, const char *ids)
{
	MemoryContext context = CurrentMemoryContext;
	FleetAnswer *answer;
	FleetCaller caller;
	MemoryContext spi;

	fleet_base_become_owner(&caller);
	SPI_connect();
	if (read->snapshot != NULL)
		PushActiveSnapshot(read->snapshot);
	else
		fleet_base_push_new_snapshot();
	(void) fleet_query_execute(read, sql, log->q, ids);
	PopActiveSnapshot();
	spi = MemoryContextSwitchTo(context);
	answer = new_answer(NULL, (int) SPI_processed);
	for (int i = 0; i < answer->nrow; i++)
	{
		answer->rows[i] = palloc(sizeof(char *) * ANSWER_COLUMNS);
		for (int j = 0; j < ANSWER_COLUMNS; j++)
			answer->rows[i][j] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 1);
	}
	MemoryContextSwitchTo(spi);
	SPI_finish();
	fleet_base_become_caller(&caller);
	return answer;
}

/* ---------- the others ---------- */

/* Was this node's absence told before? */
static bool
is_told(const FleetLastRead *log, const char *node)
{
	ListCell   *cell;

	foreach(cell, log->told)
		if (strcmp(lfirst(cell), node) == 0)
			return true;
	return false;
}

/* A node cannot answer: a NOTICE where the caller takes a part, else an error. */
static void
miss(FleetAsking *asking, const char *node, const char *error)
{
	FleetLastRead *log = asking->log;

	log->failed = lappend(log->failed, pstrdup(node));
	if (asking->quiet)
		return;
	if (asking->read->partial && is_told(log, node))
		return;
	log->told = lappend(log->told, pstrdup(node));
	if (asking->read->partial)
		ereport(NOTICE,
				(errmsg("%s \"%s\" is missing in the answer", asking->noun, node),
				 errdetail_internal("%s", error)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not read %s \"%s\"", asking->noun, node),
				 errdetail_internal("%s", error),
				 asking->read->by_id ? errhint("Is its server up?") :
				 errhint("Is its server up? With on_unavailable => 'partial' what the others have is answered.")));
}

void
fleet_query_begin_asking(FleetAsking *asking, FleetRead *read, FleetLastRead *log,
						 const char *sql)
{
	memset(asking, 0, sizeof(*asking));
	asking->read = read;
	asking->log = log;
	asking->sql = sql;
	asking->noun = "region";
	asking->asked = palloc0(sizeof(*asking->asked) * Max(read->map->nregion, 1));
}

/* Put a region on the list of the asked; NULL where it cannot be reached. */
static FleetConn *
add_asked(FleetAsking *asking, const char *region)
{
	char	   *error = NULL;
	FleetConn  *conn = fleet_remote_try_connect(region, &error);

	if (conn == NULL)
	{
		miss(asking, region, error);
		return NULL;
	}
	asking->asked[asking->nasked].region = region;
	asking->asked[asking->nasked++].conn = conn;
	return conn;
}

/* What does not go out is told by the missing answer. */
static void
send_question(const FleetAsking *asking, FleetConn *conn, const char *ids)
{
	const char *params[FLEET_READ_MAX_PARAMS];
	int			nparam = parameters(asking->read, asking->log->q, ids, params);
	Kept	   *k = keep(asking->read, asking->sql);

	if (k != NULL)
		(void) fleet_remote_send_prepared(conn, k->sql, nparam, params);
	else
		(void) fleet_remote_send(conn, asking->sql, nparam, params);
}

/*
 * Send the question to a region.  False where the region cannot be reached, which
 * is an error unless the caller takes a part of the answer.
 */
bool
fleet_query_ask(FleetAsking *asking, const char *region, const char *ids)
{
	const char *params[3] = {psprintf(UINT64_FORMAT, asking->log->q)};
	FleetConn  *conn = add_asked(asking, region);
	bool		queued;

	if (conn == NULL)
		return false;
	/* An error there then undoes no more than it does here. */
	if (conn->in_transaction)
		(void) fleet_commit_join(region);
	if (asking->read->by_id)
	{
		params[1] = asking->read->params[1];
		params[2] = psprintf("%d", FLEET_READ_PATIENCE_MS);
		queued = fleet_remote_queue_prepared(conn, RIDE_STAMP_SQL, 3, params);
	}
	else
		queued = fleet_remote_queue_prepared(conn, STAMP_SQL, 1, params);
	if (queued)
		send_question(asking, conn, ids);
	return true;
}

/*
 * The same, in a transaction whose one snapshot further questions are answered from
 * as well.  The stamp is a request of its own: it must be received before that.
 */
bool
fleet_query_open(FleetAsking *asking, const char *region)
{
	const char *q = psprintf(UINT64_FORMAT, asking->log->q);
	FleetConn  *conn = add_asked(asking, region);

	if (conn == NULL)
		return false;
	Assert(!conn->in_transaction);
	if (fleet_remote_send_prepared(conn, STAMP_SQL, 1, &q) &&
		fleet_remote_queue(conn, BEGIN_SQL) && fleet_remote_queue(conn, LOCK_SQL))
		send_question(asking, conn, NULL);
	return true;
}

/* Put another question to all that have such a transaction open. */
void
fleet_query_ask_open(FleetAsking *asking, const char *sql, const char *ids)
{
	asking->sql = sql;
	for (int i = 0; i < asking->nasked; i++)
		send_question(asking, asking->asked[i].conn, ids);
}

/* End these transactions, after the question that was put last. */
void
fleet_query_close(FleetAsking *asking)
{
	for (int i = 0; i < asking->nasked; i++)
		(void) fleet_remote_send_prepared(asking->asked[i].conn, "COMMIT", 0, NULL);
	asking->later = 1;
}

/* Drop the connections of those who were asked. */
void
fleet_query_abandon(FleetAsking *asking)
{
	for (int i = 0; i < asking->nasked; i++)
		fleet_remote_discard(asking->asked[i].conn);
	asking->nasked = 0;
}

static FleetAnswer *
copy_answer(const char *region, PGresult *result)
{
	FleetAnswer *answer = new_answer(region, PQntuples(result));

	if (PQnfields(result) != ANSWER_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("region \"%s\" answered a read with %d columns", region, PQnfields(result))));
	for (int i = 0; i < answer->nrow; i++)
	{
		answer->rows[i] = palloc(sizeof(char *) * ANSWER_COLUMNS);
		for (int j = 0; j < ANSWER_COLUMNS; j++)
			answer->rows[i][j] = PQgetisnull(result, i, j) ? NULL :
				pstrdup(PQgetvalue(result, i, j));
	}
	return answer;
}

/*
 * Raise an error, with the replies read that only repeat it: ROLLBACK TO can then
 * still mend a branch.
 */
static void
raise_error(FleetAsking *asking, FleetConn *conn, int64 deadline, FleetReply *reply)
{
	while (!conn->broken && conn->pending > 0)
	{
		FleetReply	rest;

		(void) fleet_remote_receive(conn, deadline, &rest);
		fleet_remote_clear(&rest);
	}
	fleet_remote_raise(conn, reply, asking->sql);
}

/*
 * One region's answer, or NULL.  In a branch earlier replies may be due: an error
 * there, and any error of a branch, is the transaction's.
 */
static FleetAnswer *
receive(FleetAsking *asking, const char *region, FleetConn *conn, int64 deadline)
{
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	FleetAnswer *answer = NULL;

	do
	{
		char	   *error;

		fleet_remote_clear(&reply);
		if (fleet_remote_receive(conn, deadline, &reply) != FLEET_REPLY_OK)
		{
			if (reply.status == FLEET_REPLY_ERROR || conn->in_transaction)
				raise_error(asking, conn, deadline, &reply);
			error = fleet_remote_error_text(conn, &reply);
			fleet_remote_clear(&reply);
			miss(asking, region, error);
			return NULL;
		}
		if (conn->pending == asking->later)
			answer = copy_answer(region, reply.result);
	} while (conn->pending > 0);
	fleet_remote_clear(&reply);
	return answer;
}

/* The clock rows: later stamps of ours are greater than any answer. */
static void
take_clock(const FleetAnswer *answer)
{
	for (int i = answer->nrow - 1; i >= 0; i--)
		if (strcmp(answer->rows[i][ANSWER_WHAT], "clock") == 0)
		{
			(void) fleet_clock_receive(strtoull(answer->rows[i][ANSWER_EPOCH], NULL, 10));
			return;
		}
}

/*
 * Await the answers of all that were asked; a list of FleetAnswer.  Of those who
 * do not answer there is none.
 */
List *
fleet_query_answers(FleetAsking *asking)
{
	int64		deadline = fleet_remote_deadline(fleet_query_read_timeout);
	List	   *answers = NIL;

	for (int i = 0; i < asking->nasked; i++)
	{
		FleetAnswer *answer = receive(asking, asking->asked[i].region, asking->asked[i].conn,
									  deadline);

		if (answer == NULL)
			continue;
		take_clock(answer);
		answers = lappend(answers, answer);
	}
	return answers;
}
