/*-------------------------------------------------------------------------
 *
 * request.c
 *	  What the install script asks of this room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/request.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "base/shmem.h"
#include "commit/commit.h"

PG_FUNCTION_INFO_V1(fleet_commit_request_fence);
PG_FUNCTION_INFO_V1(fleet_commit_request_map);
PG_FUNCTION_INFO_V1(fleet_commit_worker_wanted);

/*
 * Ask a region for one branch of a change that all nodes make, by the arguments
 * (region text, change jsonb).  Returns the transaction's name.
 */
static Datum
request(FunctionCallInfo fcinfo, const char *sql, const char *kind, bool keep)
{
	FleetBranch *branch;
	Jsonb	   *change = PG_GETARG_JSONB_P(1);
	const char *params[2];

	params[0] = fleet_commit_begin();
	params[1] = JsonbToCString(NULL, &change->root, VARSIZE(change));
	branch = fleet_commit_join(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	(void) fleet_commit_ask(branch, sql, 2, params);
	fleet_commit_record(branch, kind, keep ? params[1] : NULL);
	PG_RETURN_TEXT_P(cstring_to_text(params[0]));
}

/*
 * fleet.request_map(region, map).  The record carries no payload: if the branch is
 * redone, the map as it is then is what is sent, and no password is kept in a table.
 */
Datum
fleet_commit_request_map(PG_FUNCTION_ARGS)
{
	return request(fcinfo, "SELECT fleet.apply_map($1, $2::jsonb, false)", "map", false);
}

/* fleet.request_fence(region, change).  The record carries the change. */
Datum
fleet_commit_request_fence(PG_FUNCTION_ARGS)
{
	return request(fcinfo, "SELECT fleet.apply_fence($1, $2::jsonb, false)", "fence", true);
}

Datum
fleet_commit_worker_wanted(PG_FUNCTION_ARGS)
{
	fleet_base_require_loaded();
	fleet_commit_want_worker();
	PG_RETURN_VOID();
}
