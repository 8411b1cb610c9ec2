/*-------------------------------------------------------------------------
 *
 * map.c
 *	  This node's identity and its copy of the region map.
 *
 * The map lives in the tables fleet.node, fleet.map and fleet.map_regions and
 * is the same on all nodes: it changes in one two-phase commit (see
 * fleet.apply_map).  A backend reads it once and keeps it until
 * a relation-cache invalidation of fleet.map says that it changed;
 * fleet.apply_map sends one.  Invalidations travel with COMMIT PREPARED, so
 * this also holds on the participants of a map change.
 *
 * A map that was replaced lives on until the end of the transaction, because
 * callers up the stack may still look at it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/region/map.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "base/shmem.h"
#include "region/map.h"

PG_FUNCTION_INFO_V1(fleet_region_node_name);
PG_FUNCTION_INFO_V1(fleet_region_incarnation_sql);
PG_FUNCTION_INFO_V1(fleet_region_map_changed);

static FleetPlan map_plan = {
	"SELECT n.name, m.version FROM (SELECT) AS one"
	" LEFT JOIN fleet.node AS n ON true LEFT JOIN fleet.map AS m ON true"
};
static FleetPlan regions_plan = {
	"SELECT name, node, capacity FROM fleet.map_regions ORDER BY name COLLATE \"C\""
};

static FleetRegionMap *current_map = NULL;
static MemoryContext current_context = NULL;
static bool map_is_valid = false;
static bool callback_registered = false;
static Oid	map_relid = InvalidOid;

static void
on_relcache_inval(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == map_relid)
		map_is_valid = false;
}

static void
load_regions(FleetRegionMap *map, MemoryContext context)
{
	int			n = fleet_base_plan_execute_read(&regions_plan);

	map->nregion = n;
	map->regions = MemoryContextAllocZero(context, sizeof(FleetRegion) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		FleetRegion *region = &map->regions[i];
		bool		isnull;
		Datum		capacity;

		region->name = MemoryContextStrdup(context, fleet_base_plan_text(i, 1));
		region->node = MemoryContextStrdup(context, fleet_base_plan_text(i, 2));
		capacity = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								 3, &isnull);
		region->capacity = isnull ? -1 : DatumGetInt32(capacity);
		if (map->node && strcmp(region->node, map->node) == 0)
			map->own = region;
	}
}

static void
load_map(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "fleet region map",
												  ALLOCSET_SMALL_SIZES);
	FleetRegionMap *map = MemoryContextAllocZero(context, sizeof(FleetRegionMap));
	FleetCaller caller;
	char	   *node;

	fleet_base_become_owner(&caller);
	map_relid = get_relname_relid("map", get_namespace_oid("fleet", false));
	SPI_connect();

	/* An invalidation that arrives while we read must not be lost. */
	map_is_valid = true;

	/*
	 * One snapshot, so that version and regions belong together; a new one, so
	 * that a transaction with an older one does not leave an old map behind.
	 */
	fleet_base_push_new_snapshot();
	fleet_base_plan_execute_read(&map_plan);
	node = fleet_base_plan_text(0, 1);
	if (node != NULL)
		map->node = MemoryContextStrdup(context, node);
	map->version = fleet_base_plan_int64(0, 2, NULL);
	load_regions(map, context);
	PopActiveSnapshot();

	SPI_finish();
	fleet_base_become_caller(&caller);

	/* What an old snapshot showed is good for this call only. */
	if (IsInParallelMode() && IsolationUsesXactSnapshot())
		map_is_valid = false;
	if (current_context != NULL)
		MemoryContextSetParent(current_context, TopTransactionContext);
	current_context = context;
	current_map = map;
}

/*
 * The region map, as of now.  The result is valid until the end of the
 * transaction; a later call may return a newer one.
 */
const FleetRegionMap *
fleet_region_map(void)
{
	fleet_base_require_loaded();
	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(on_relcache_inval, (Datum) 0);
		callback_registered = true;
	}
	AcceptInvalidationMessages();
	if (!map_is_valid || current_map == NULL)
	{
		map_is_valid = false;
		PG_TRY();
		{
			load_map();
		}
		PG_CATCH();
		{
			map_is_valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return current_map;
}

/* The same, for callers that need this node to be part of a map. */
const FleetRegionMap *
fleet_region_map_member(void)
{
	const FleetRegionMap *map = fleet_region_map();

	if (map->node == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_NO_IDENTITY),
				 errmsg("this database has no node identity"),
				 errhint("Call fleet.init_node(name) once in this database.")));
	if (map->nregion == 0)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_UNKNOWN_REGION),
				 errmsg("node \"%s\" is not part of a region map", map->node),
				 errhint("Add its region with fleet.add_region, on this node if it is the first one.")));
	return map;
}

/* The region of that name, or NULL. */
const FleetRegion *
fleet_region_find(const FleetRegionMap *map, const char *name)
{
	int			low = 0;
	int			high = map->nregion - 1;

	while (low <= high)
	{
		int			mid = (low + high) / 2;
		int			cmp = strcmp(name, map->regions[mid].name);

		if (cmp == 0)
			return &map->regions[mid];
		if (cmp < 0)
			high = mid - 1;
		else
			low = mid + 1;
	}
	return NULL;
}

/* The region of that name, or an error that lists what there is. */
const FleetRegion *
fleet_region_require(const FleetRegionMap *map, const char *name)
{
	const FleetRegion *region = fleet_region_find(map, name);

	if (region == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_UNKNOWN_REGION),
				 errmsg("region \"%s\" does not exist", name),
				 errdetail("The region map has version " INT64_FORMAT " and %d regions.",
						   map->version, map->nregion),
				 errhint("The view fleet.regions lists them.")));
	return region;
}

/*
 * The incarnation of this server, palloc'd: its timeline and the low half of
 * its system identifier.  A promotion or a point-in-time recovery starts a
 * new timeline.  What neither changes (a copy of the data directory that was
 * started as it is) is told apart by the nonce in each gid.
 */
char *
fleet_region_incarnation(void)
{
	return psprintf("%x.%08x", GetWALInsertionTimeLine(),
					(uint32) GetSystemIdentifier());
}

Datum
fleet_region_node_name(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map();

	if (map->node == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(map->node));
}

Datum
fleet_region_incarnation_sql(PG_FUNCTION_ARGS)
{
	if (RecoveryInProgress())
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(fleet_region_incarnation()));
}

/* Tell all backends, when this transaction commits, that the map changed. */
Datum
fleet_region_map_changed(PG_FUNCTION_ARGS)
{
	Oid			relid = get_relname_relid("map", get_namespace_oid("fleet", false));

	CacheInvalidateRelcacheByRelid(relid);
	PG_RETURN_VOID();
}
