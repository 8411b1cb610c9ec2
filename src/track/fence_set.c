/*-------------------------------------------------------------------------
 *
 * fence_set.c
 *	  What a backend knows of fleet.fences.
 *
 * As the region map (region/map.c), the fences are the same on all nodes, are read
 * once by each backend and kept until a relation-cache invalidation of fleet.fences
 * says that they changed, which a trigger of the table sends.  It takes effect
 * when the change commits, also where that is COMMIT PREPARED.
 *
 * A set that was replaced lives on until the end of the transaction, because
 * a caller up the stack may still look at it.  Its index is in its memory context.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fence_set.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/plan.h"
#include "base/shmem.h"
#include "track/fence.h"

PG_FUNCTION_INFO_V1(fleet_track_fences_changed);

static FleetPlan areas_plan = {
	"SELECT f.name, f.id, f.events, EXTRACT(epoch FROM f.dwell)::float8, f.status,"
	" CASE WHEN f.notify THEN fleet.channel('fence', f.name) END,"
	" fleet.fence_wkb(f), fleet.lon(f.place), fleet.lat(f.place), f.radius_m"
	" FROM fleet.fences AS f WHERE f.vehicle_id IS NULL"
};
static FleetPlan pairs_plan = {
	"SELECT f.name, f.id, f.events, EXTRACT(epoch FROM f.dwell)::float8, f.status,"
	" CASE WHEN f.notify THEN fleet.channel('fence', f.name) END,"
	" f.radius_m, f.vehicle_id, f.other_id"
	" FROM fleet.fences AS f WHERE f.vehicle_id IS NOT NULL"
};

static const struct
{
	const char *name;
	FleetFenceEvent event;
}			event_names[] = {
	{"enter", FLEET_FENCE_ENTER},
	{"exit", FLEET_FENCE_EXIT},
	{"dwell", FLEET_FENCE_DWELL},
	{"cross", FLEET_FENCE_CROSS},
	{"near", FLEET_FENCE_NEAR},
};

static FleetFenceSet *current_set = NULL;
static MemoryContext current_context = NULL;
static bool set_is_valid = false;
static bool callback_registered = false;
static Oid	fences_relid = InvalidOid;

static void
on_relcache_inval(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == fences_relid)
		set_is_valid = false;
}

/* ---------- reading ---------- */

static void *
context_alloc(void *ctx, size_t size)
{
	return MemoryContextAllocHuge(ctx, size);
}

static void
context_free(void *ctx, void *pointer)
{
	pfree(pointer);
}

static const char *
keep_text(MemoryContext context, int row, int column)
{
	char	   *text = fleet_base_plan_text(row, column);

	return text == NULL ? NULL : MemoryContextStrdup(context, text);
}

static double
get_float8(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetFloat8(value);
}

/* From an array's text: the names are those of event_names, which need no quoting. */
static int
read_events(const char *names)
{
	int			events = 0;

	for (int i = 0; i < lengthof(event_names); i++)
		if (strstr(names, event_names[i].name) != NULL)
			events |= event_names[i].event;
	return events;
}

/* What areas, places and pairs have in common. */
static void
read_fence(FleetFence *fence, MemoryContext context, int row)
{
	fence->name = keep_text(context, row, 1);
	fence->id = keep_text(context, row, 2);
	fence->events = read_events(fleet_base_plan_text(row, 3));
	fence->dwell_s = get_float8(row, 4);
	fence->status = keep_text(context, row, 5);
	fence->channel = keep_text(context, row, 6);
}

static void
add_shape(FleetFenceSet *set, const FleetFence *fence, int row)
{
	bool		isnull;
	Datum		wkb = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 7, &isnull);
	FleetGeoStatus status;

	if (isnull)
		status = fleet_geo_fences_add_circle(set->shapes, get_float8(row, 8), get_float8(row, 9),
											 get_float8(row, 10));
	else
	{
		bytea	   *bytes = DatumGetByteaPP(wkb);

		status = fleet_geo_fences_add_area(set->shapes, (unsigned char *) VARDATA_ANY(bytes),
										   VARSIZE_ANY_EXHDR(bytes));
	}
	if (status != FLEET_GEO_OK)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("fence \"%s\" cannot be indexed", fence->name),
				 errdetail_internal("%s", fleet_geo_status_text(status))));
}

static void
load_areas(FleetFenceSet *set, MemoryContext context)
{
	FleetGeoAllocator allocator = {context_alloc, context_free, context};
	int			n = fleet_base_plan_execute_read(&areas_plan);

	set->nfence = n;
	set->fences = MemoryContextAllocZero(context, sizeof(FleetFence) * Max(n, 1));
	set->shapes = fleet_geo_fences_create(&allocator);
	for (int i = 0; i < n; i++)
	{
		read_fence(&set->fences[i], context, i);
		add_shape(set, &set->fences[i], i);
	}
	if (fleet_geo_fences_finish(set->shapes) != FLEET_GEO_OK)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
}

static int
compare_pairs(const void *left, const void *right)
{
	const FleetFencePair *a = left;
	const FleetFencePair *b = right;
	int			cmp = strcmp(a->vehicle, b->vehicle);

	/* In the same order everywhere, as they are locked in it. */
	return cmp != 0 ? cmp : strcmp(a->fence->name, b->fence->name);
}

/* Each pair twice, to be found by either of the two. */
static void
load_pairs(FleetFenceSet *set, MemoryContext context)
{
	int			n = fleet_base_plan_execute_read(&pairs_plan);
	FleetFence *fences = MemoryContextAllocZero(context, sizeof(FleetFence) * Max(n, 1));

	set->npair = 2 * n;
	set->pairs = MemoryContextAllocZero(context, sizeof(FleetFencePair) * Max(2 * n, 1));
	for (int i = 0; i < n; i++)
	{
		FleetFencePair *pair = &set->pairs[2 * i];

		read_fence(&fences[i], context, i);
		fences[i].within_m = get_float8(i, 7);
		pair[0].fence = pair[1].fence = &fences[i];
		pair[0].vehicle = pair[1].other = keep_text(context, i, 8);
		pair[0].other = pair[1].vehicle = keep_text(context, i, 9);
	}
	qsort(set->pairs, set->npair, sizeof(FleetFencePair), compare_pairs);
}

static void
load_set(void)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "fleet fences",
												  ALLOCSET_DEFAULT_SIZES);
	FleetFenceSet *set = MemoryContextAllocZero(context, sizeof(FleetFenceSet));
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	fences_relid = get_relname_relid("fences", get_namespace_oid("fleet", false));
	SPI_connect();

	/* An invalidation that arrives while we read must not be lost. */
	set_is_valid = true;
	fleet_base_push_new_snapshot();
	load_areas(set, context);
	load_pairs(set, context);
	PopActiveSnapshot();
	SPI_finish();
	fleet_base_become_caller(&caller);

	/* Until here an error frees it, from here on it is kept. */
	MemoryContextSetParent(context, TopMemoryContext);
	if (current_context != NULL)
		MemoryContextSetParent(current_context, TopTransactionContext);
	current_context = context;
	current_set = set;
}

/* The fences as of now.  Valid until the end of the transaction. */
const FleetFenceSet *
fleet_track_fence_set(void)
{
	if (!callback_registered)
	{
		fleet_base_require_loaded();
		CacheRegisterRelcacheCallback(on_relcache_inval, (Datum) 0);
		callback_registered = true;
	}
	AcceptInvalidationMessages();
	if (set_is_valid && current_set != NULL)
		return current_set;
	set_is_valid = false;
	PG_TRY();
	{
		load_set();
	}
	PG_CATCH();
	{
		set_is_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	return current_set;
}

/* Trigger of fleet.fences: tell all backends, when this transaction commits. */
Datum
fleet_track_fences_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(get_relname_relid("fences", get_namespace_oid("fleet", false)));
	return PointerGetDatum(NULL);
}
