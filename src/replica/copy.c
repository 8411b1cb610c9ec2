/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  Rows that were copied from a region go through the merge rule.
 *
 * They come as JSON (fleet.copy_rows), in the form in which rows travel anyway:
 * {kind, key, epoch, hlc, target, image}; without a target it is a grave.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/copy.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "replica/merge.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_replica_merge_rows);
PG_FUNCTION_INFO_V1(fleet_replica_reread_rows);
PG_FUNCTION_INFO_V1(fleet_replica_forget_rows);

static const char *
require_text(JsonbContainer *object, const char *key)
{
	char	   *text = fleet_wire_get_text(object, key);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a row that is copied is malformed"),
				 errdetail("Its field \"%s\" is missing.", key)));
	return text;
}

static FleetIncoming
incoming_object(JsonbContainer *object, const char *region)
{
	FleetIncoming	in = {.from = region};

	in.kind = fleet_replica_kind(require_text(object, "kind"));
	in.key = CStringGetTextDatum(require_text(object, "key"));
	in.epoch = fleet_wire_get_int64(object, "epoch");
	in.hlc = (uint64) fleet_wire_get_int64(object, "hlc");
	return in;
}

static void
raise_no_array(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("what is copied is not an array of objects")));
}

typedef FleetMergeResult (*MergeObject) (JsonbContainer *object, const char *region);

static FleetMergeResult
merge_element(JsonbContainer *rows, uint32 i, const char *region, MergeObject merge)
{
	JsonbValue *value = getIthJsonbValueFromContainer(rows, i);
	FleetMergeResult result;

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		raise_no_array();
	result = merge(value->val.binary.data, region);
	fleet_replica_count(region, result);
	return result;
}

/* Call it for each object of an array; returns how many calls changed something. */
static int
for_each(FunctionCallInfo fcinfo, MergeObject merge)
{
	char	   *region = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *rows = PG_GETARG_JSONB_P(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "fleet merged row",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	volatile int changed = 0;

	if (!JsonContainerIsArray(&rows->root) || JsonContainerIsScalar(&rows->root))
		raise_no_array();
	PG_TRY();
	{
		for (uint32 i = 0; i < JsonContainerSize(&rows->root); i++)
		{
			if (merge_element(&rows->root, i, region, merge) != FLEET_MERGE_STALE)
				changed++;
			MemoryContextReset(context);
		}
	}
	PG_CATCH();
	{
		fleet_replica_forget_lock();	/* the caller may catch it, too */
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return changed;
}

static FleetMergeResult
merge_object(JsonbContainer *object, const char *region)
{
	FleetIncoming in = incoming_object(object, region);
	char	   *target = fleet_wire_get_text(object, "target");

	if (target == NULL)
		return fleet_replica_bury(&in);
	/* In nobody's name it is not known what it is. */
	in.copied = strcmp(target, region) == 0;
	in.departed = !in.copied && region[0] != '\0';
	return fleet_replica_merge_image(&in, fleet_wire_get_object(object, "image"));
}

/* fleet.merge_rows(region, rows) -> how many changed something */
Datum
fleet_replica_merge_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(for_each(fcinfo, merge_object));
}

static FleetMergeResult
reread_object(JsonbContainer *object, const char *region)
{
	FleetIncoming in = incoming_object(object, region);

	if (strcmp(require_text(object, "target"), region) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a row that is read again must be live in its region")));
	in.reread = true;
	return fleet_replica_merge_image(&in, fleet_wire_get_object(object, "image"));
}

/* fleet.reread_rows(region, rows) -> how many changed something */
Datum
fleet_replica_reread_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(for_each(fcinfo, reread_object));
}

static FleetMergeResult
forget_object(JsonbContainer *object, const char *region)
{
	FleetIncoming in = incoming_object(object, region);

	return fleet_replica_forget(&in);
}

/* fleet.forget_rows(region, rows) -> how many were removed */
Datum
fleet_replica_forget_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(for_each(fcinfo, forget_object));
}
