/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  SQL functions of this room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/sql.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "base/shmem.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_remote_parse_conninfo);
PG_FUNCTION_INFO_V1(fleet_remote_ask);

/* fleet.parse_conninfo(text) -> (keyword, value): the options that are given. */
Datum
fleet_remote_parse_conninfo(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *message = NULL;
	PQconninfoOption *options;

	options = PQconninfoParse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &message);
	if (options == NULL)
	{
		char	   *copy = message ? pchomp(message) : pstrdup("out of memory");

		PQfreemem(message);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid connection string"),
				 errdetail_internal("%s", copy)));
	}
	InitMaterializedSRF(fcinfo, 0);
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		if (o->val == NULL)
			continue;
		values[0] = CStringGetTextDatum(o->keyword);
		values[1] = CStringGetTextDatum(o->val);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	PQconninfoFree(options);
	return (Datum) 0;
}

/*
 * fleet.ask(region, query, timeout) -> text.  The peer gives up at the deadline,
 * too; a branch that is open on the connection is left with its own settings.
 */
Datum
fleet_remote_ask(PG_FUNCTION_ARGS)
{
	int			timeout = PG_GETARG_INT32(2);
	FleetConn  *conn;
	char	   *answer;

	fleet_base_require_loaded();
	if (timeout < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time to wait for an answer must be positive")));
	conn = fleet_remote_connect(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (!conn->in_transaction)
		(void) fleet_remote_queue(conn, psprintf("SELECT pg_catalog.set_config('statement_timeout', '%d', true)", timeout));
	answer = fleet_remote_query(conn, text_to_cstring(PG_GETARG_TEXT_PP(1)), 0, NULL,
								timeout);
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}
