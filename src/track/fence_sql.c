/*-------------------------------------------------------------------------
 *
 * fence_sql.c
 *	  Which fences a place is in: fleet.fences_at(), fleet.is_in_fence().
 *
 * They answer from what the backend has read as the owner, so they ask
 * themselves whether the caller may read fleet.fences.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/fence_sql.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/errcodes.h"
#include "geo/haversine.h"
#include "track/fence.h"

PG_FUNCTION_INFO_V1(fleet_track_fences_at);
PG_FUNCTION_INFO_V1(fleet_track_is_in_fence);

static const FleetFenceSet *
readable_set(void)
{
	Oid			relid = get_relname_relid("fences", get_namespace_oid("fleet", false));
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "fences");
	return fleet_track_fence_set();
}

/* What all places are given as; false where it is none. */
static bool
get_place(FunctionCallInfo fcinfo, int arg, FleetGeoPoint *place)
{
	place->x = PG_GETARG_FLOAT8(arg);
	place->y = PG_GETARG_FLOAT8(arg + 1);
	return fleet_geo_point_valid(place->x, place->y);
}

typedef struct Found
{
	const FleetFenceSet *set;
	ReturnSetInfo *result;
} Found;

static void
put_fence(void *ctx, int item, bool was, bool is)
{
	Found	   *found = ctx;
	Datum		value;
	bool		isnull = false;

	if (!is)
		return;
	value = CStringGetTextDatum(found->set->fences[item].name);
	tuplestore_putvalues(found->result->setResult, found->result->setDesc, &value, &isnull);
}

/* fleet.fences_at(lon, lat) -> setof text */
Datum
fleet_track_fences_at(PG_FUNCTION_ARGS)
{
	Found		found = {readable_set(), (ReturnSetInfo *) fcinfo->resultinfo};
	FleetGeoPoint place;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (get_place(fcinfo, 0, &place))
		fleet_geo_fences_step(found.set->shapes, NULL, place, put_fence, &found);
	return (Datum) 0;
}

/* fleet.is_in_fence(fence, lon, lat) -> boolean */
Datum
fleet_track_is_in_fence(PG_FUNCTION_ARGS)
{
	const FleetFenceSet *set = readable_set();
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	FleetGeoPoint place;

	for (int i = 0; i < set->nfence; i++)
		if (strcmp(set->fences[i].name, name) == 0)
			PG_RETURN_BOOL(get_place(fcinfo, 1, &place) &&
						   fleet_geo_fences_covers(set->shapes, i, place));
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_UNKNOWN_FENCE),
			 errmsg("fence \"%s\" does not exist", name),
			 errhint("The table fleet.fences lists them; a pair of vehicles is no area.")));
}
