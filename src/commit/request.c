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
 * fleet.request_map(region, map): one branch of a change of the region map.  The
 * record carries no payload: if the branch is redone, the map as it is then is
 * what is sent, and no password is kept in a table.
 */
Datum
fleet_commit_request_map(PG_FUNCTION_ARGS)
{
	FleetBranch *branch;
	Jsonb	   *map = PG_GETARG_JSONB_P(1);
	const char *params[2];

	params[0] = fleet_commit_begin();
	params[1] = JsonbToCString(NULL, &map->root, VARSIZE(map));
	branch = fleet_commit_join(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	(void) fleet_commit_ask(branch, "SELECT fleet.apply_map($1, $2::jsonb, false)", 2, params);
	fleet_commit_record(branch, "map", NULL);
	PG_RETURN_TEXT_P(cstring_to_text(params[0]));
}

/*
 * fleet.request_fence(region, change): one branch of a change of the fences, which
 * the record carries.
 */
Datum
fleet_commit_request_fence(PG_FUNCTION_ARGS)
{
	FleetBranch *branch;
	Jsonb	   *change = PG_GETARG_JSONB_P(1);
	const char *params[2];

	params[0] = fleet_commit_begin();
	params[1] = JsonbToCString(NULL, &change->root, VARSIZE(change));
	branch = fleet_commit_join(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	(void) fleet_commit_ask(branch, "SELECT fleet.apply_fence($1, $2::jsonb, false)", 2, params);
	fleet_commit_record(branch, "fence", params[1]);
	PG_RETURN_TEXT_P(cstring_to_text(params[0]));
}

Datum
fleet_commit_worker_wanted(PG_FUNCTION_ARGS)
{
	fleet_base_require_loaded();
	fleet_commit_want_worker();
	PG_RETURN_VOID();
}
