/*-------------------------------------------------------------------------
 *
 * outcome.c
 *	  What a coordinator says when it is asked for the outcome of its
 *	  transactions.
 *
 * For a transaction of mine, in this order:
 *
 *	1. Does it still run here?  -> "running": ask again later.
 *	2. With a snapshot taken after 1: is there a decision record?  -> "commit".
 *	3. No record, and the name carries my present incarnation -> "abort": it is
 *	   over, and it left no decision, or all participants have confirmed it.
 *	   (One that has gone back in time since does not rely on this, pull.c.)
 *	4. No record, but another incarnation -> "unknown": I was promoted or
 *	   restored since, and may have lost the record.
 *
 * 1 before 2 because a transaction that is found not running has already made
 * its record visible, if it has one.  The other order could find no record,
 * miss the commit in between, and call a committed transaction aborted.
 *
 * Only the whole name decides.  The transaction number in it never does: after
 * a crash PostgreSQL hands out numbers again.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/outcome.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/plan.h"
#include "commit/gid.h"
#include "commit/registry.h"
#include "commit/synced.h"
#include "region/map.h"

PG_FUNCTION_INFO_V1(fleet_commit_outcomes);
PG_FUNCTION_INFO_V1(fleet_commit_is_running);

static FleetPlan record_plan = {
	"SELECT 1 FROM fleet.decisions WHERE dtxid = $1 LIMIT 1", 1, {TEXTOID}
};

static bool
record_exists(const char *dtxid)
{
	Datum		value = CStringGetTextDatum(dtxid);
	FleetCaller caller;
	bool		found;

	/* Not read-only, so SPI takes a new snapshot for this statement. */
	fleet_base_become_owner(&caller);
	SPI_connect();
	found = fleet_base_plan_execute(&record_plan, NULL, &value, NULL) > 0;
	SPI_finish();
	fleet_base_become_caller(&caller);
	return found;
}

static const char *
outcome_of(const char *text, const FleetRegionMap *map)
{
	FleetGid	gid;
	char		dtxid[FLEET_GID_MAX];
	bool		recorded = false;

	if (!fleet_commit_gid_parse(text, &gid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a gid of fleet", text)));
	if (map->node == NULL || strcmp(gid.node, map->node) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("transaction \"%s\" was not coordinated by this node", text)));

	gid.branch = -1;
	fleet_commit_gid_format(&gid, dtxid, sizeof(dtxid));
	if (FLEET_FAULT_ON("outcome-record-first"))
		recorded = record_exists(dtxid);
	FLEET_FAULT("outcome-look");
	if (!FLEET_FAULT_ON("outcome-ignores-running") &&
		fleet_commit_registry_is_running(gid.nonce))
		return "running";
	if (!FLEET_FAULT_ON("outcome-record-first"))
		recorded = record_exists(dtxid);
	if (recorded)
		return fleet_commit_is_synced(GetFlushRecPtr(NULL), FLEET_SYNCED_WAIT_MS) ? "commit" : "running";
	if (FLEET_FAULT_ON("outcome-unknown-aborts"))
		return "abort";
	return strcmp(gid.incarnation, fleet_region_incarnation()) == 0 ? "abort" : "unknown";
}

/* fleet.outcomes(gids text[]) -> text[], one answer for each gid. */
Datum
fleet_commit_outcomes(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map();
	Datum	   *gids;
	bool	   *nulls;
	int			n;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("fleet.outcomes must be called at isolation level read committed")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &gids, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a gid must not be null")));
		gids[i] = CStringGetTextDatum(outcome_of(TextDatumGetCString(gids[i]), map));
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(gids, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* fleet.is_running(dtxid text) -> boolean: does its coordinator still run here? */
Datum
fleet_commit_is_running(PG_FUNCTION_ARGS)
{
	FleetGid	gid;

	(void) fleet_region_map();
	if (!fleet_commit_gid_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &gid))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(fleet_commit_registry_is_running(gid.nonce));
}
