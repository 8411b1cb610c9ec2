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
#include "region/map.h"
#include "remote/breaker.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_remote_parse_conninfo);
PG_FUNCTION_INFO_V1(fleet_remote_ask);
PG_FUNCTION_INFO_V1(fleet_remote_peer_states);

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

#define PEER_COLUMNS 12

static const char *const state_names[] = {"closed", "open", "half-open"};

/* A time, or null for 0. */
static Datum
time_or_null(TimestampTz at, bool *isnull)
{
	*isnull = at == 0;
	return TimestampTzGetDatum(at);
}

/* fleet.peer_states(): how it stands with the node of each other region. */
Datum
fleet_remote_peer_states(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const FleetRegionMap *map = fleet_region_map();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < map->nregion; i++)
	{
		const char *region = map->regions[i].name;
		Datum		values[PEER_COLUMNS];
		bool		nulls[PEER_COLUMNS] = {false};
		uint64		options = 0;
		bool		known;
		FleetPeerLook look;

		if (&map->regions[i] == map->own)
			continue;
		known = fleet_remote_peer_options(region, &options);
		fleet_remote_breaker_look(region, known, options, &look);
		values[0] = CStringGetTextDatum(region);
		values[1] = CStringGetTextDatum(state_names[look.state]);
		values[2] = Int32GetDatum(look.failures);
		values[3] = time_or_null(look.opened_at, &nulls[3]);
		values[4] = time_or_null(look.next_try, &nulls[4]);
		values[5] = CStringGetTextDatum(look.last_error);
		nulls[5] = look.last_failed == 0;
		values[6] = time_or_null(look.last_failed, &nulls[6]);
		values[7] = time_or_null(look.last_ok, &nulls[7]);
		values[8] = Int64GetDatum((int64) look.connects);
		values[9] = Int64GetDatum((int64) look.answered);
		values[10] = Int64GetDatum((int64) look.failed);
		values[11] = Int64GetDatum((int64) look.refused);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
