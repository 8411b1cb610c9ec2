/*-------------------------------------------------------------------------
 *
 * move.c
 *	  What departures (depart.c) and arrivals (arrive.c) share.
 *
 * The rows that travel are a JSON array of objects
 * {kind, key, epoch, hlc, source, target, image}; epoch, hlc, region
 * and image are those of the row as it will be on the target.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/move.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "handoff/move.h"

PG_FUNCTION_INFO_V1(fleet_handoff_may_notify);

FleetTable	fleet_handoff_ride_table = {.name = "local_rides"};
FleetTable	fleet_handoff_vehicle_table = {.name = "local_vehicles"};
FleetTable	fleet_handoff_departure_table = {.name = "departures"};
static FleetTable log_table = {.name = "handoff_log"};

static int	moving = 0;

/*
 * Between these, rows of rides and vehicles are moved by us, and not changed by
 * a user.  An error has to end it too.
 */
void
fleet_handoff_begin_move(void)
{
	moving++;
}

void
fleet_handoff_end_move(void)
{
	moving--;
}

bool
fleet_handoff_is_moving(void)
{
	return moving > 0;
}

/*
 * fleet.may_notify(): rows that we move or change for another node's transaction are
 * in a branch that will (or may) be prepared, where NOTIFY is an error.
 */
Datum
fleet_handoff_may_notify(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL((!fleet_handoff_is_moving() || fleet_commit_is_begun()) && !fleet_handoff_is_serving());
}

/* A handoff that was begun with another region map than ours is refused. */
void
fleet_handoff_check_map(const FleetRegionMap *map, int64 version)
{
	if (map->version != version)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_STALE_MAP),
				 errmsg("the region map has changed"),
				 errdetail("The caller has version " INT64_FORMAT ", node \"%s\" has version " INT64_FORMAT ".",
						   version, map->node, map->version),
				 errhint("Try again.")));
}

const FleetRegion *
fleet_handoff_own_region(const FleetRegionMap *map)
{
	if (map->own == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_UNKNOWN_REGION),
				 errmsg("node \"%s\" owns no region", map->node),
				 errhint("Call the node of a region.")));
	return map->own;
}

/*
 * Do work that waits for locks, for so long each.  Waiting too long is said in our
 * words; what is what is locked, in which region.
 */
void
fleet_handoff_with_lock_timeout(int timeout_ms, const char *region, const char *what,
								void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	int			nest = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", psprintf("%d", timeout_ms),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_LOCKED),
				 errmsg("%s is locked by another transaction", what),
				 errdetail("It was waited for %d ms in region \"%s\".", timeout_ms, region),
				 errhint("Try again, or raise fleet.lock_timeout.")));
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest);
}

/* ---------- ids ---------- */

static int
compare_ids(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The ids of a text[], none of which may be null. */
FleetIds
fleet_handoff_read_ids(ArrayType *array, const char *noun)
{
	FleetIds	ids;
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	ids.n = 0;
	ids.ids = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the id of a %s must not be null", noun)));
		ids.ids[i] = TextDatumGetCString(elems[i]);
	}
	qsort(ids.ids, n, sizeof(char *), compare_ids);
	for (int i = 0; i < n; i++)
		if (i == 0 || strcmp(ids.ids[i], ids.ids[ids.n - 1]) != 0)
			ids.ids[ids.n++] = ids.ids[i];
	return ids;
}

bool
fleet_handoff_has_id(const FleetIds *ids, const char *id)
{
	return bsearch(&id, ids->ids, ids->n, sizeof(char *), compare_ids) != NULL;
}

/* ---------- departures and the log ---------- */

/*
 * What has been committed until now, or, where the caller's transaction keeps
 * to one snapshot, that.  Registered: the caller unregisters it.
 */
Snapshot
fleet_handoff_snapshot(void)
{
	return RegisterSnapshot(IsolationUsesXactSnapshot() ?
							GetTransactionSnapshot() : GetLatestSnapshot());
}

/* Find what this node keeps of a row that has left it, or a grave. */
bool
fleet_handoff_find_departure(FleetOpenTable *departures, Snapshot snapshot,
							 const char *kind, const char *key)
{
	Datum		keys[2] = {CStringGetTextDatum(kind), CStringGetTextDatum(key)};

	return fleet_base_table_find(departures, snapshot, 2, keys);
}

/* Delete it, if there is one; the resolver may be writing down that it is settled. */
void
fleet_handoff_delete_departure(FleetOpenTable *departures, Snapshot snapshot,
							   const char *kind, const char *key)
{
	if (fleet_handoff_find_departure(departures, snapshot, kind, key) &&
		fleet_base_table_lock(departures, snapshot, true))
		fleet_base_table_delete(departures);
}

void
fleet_handoff_open_log(FleetOpenTable *log)
{
	fleet_base_table_open(&log_table, true, log);
}

/* One row of the log: of a ride and perhaps its vehicle, or of a vehicle. */
void
fleet_handoff_log(FleetOpenTable *log, const char *ride, const char *vehicle,
				  const char *source, const char *target, int64 epoch,
				  uint64 hlc, const char *dtxid, const char *status)
{
	fleet_base_table_clear(log);
	fleet_base_table_set(log, "id", fleet_base_table_next("handoff_log_id_seq"));
	fleet_base_table_set_text(log, "ride_id", ride);
	fleet_base_table_set_text(log, "vehicle_id", vehicle);
	fleet_base_table_set_text(log, "source", source);
	fleet_base_table_set_text(log, "target", target);
	fleet_base_table_set(log, "epoch", Int64GetDatum(epoch));
	fleet_base_table_set(log, "hlc", FleetClockStampGetDatum(hlc));
	fleet_base_table_set_text(log, "dtxid", dtxid);
	fleet_base_table_set_text(log, "status", status);
	fleet_base_table_set(log, "started_at",
						 TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()));
	fleet_base_table_insert(log);
}
