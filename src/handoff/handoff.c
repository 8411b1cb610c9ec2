/*-------------------------------------------------------------------------
 *
 * handoff.c
 *	  Handing rides and vehicles off to another region: the coordinator.
 *
 * It runs in the caller's transaction on any node.  What is asked of this node
 * itself is done here; what is asked of another is a request to its branch
 * (commit/distributed.c), recorded with the decision.
 *
 *	1. Where is it?  Here, if this node owns a region; else, or where it is not
 *	   here, its departure says where it went; else all regions are asked.  Where
 *	   it was last seen (hint.c), or where there is only one region that it can be
 *	   in, that one is not asked but told to let it go, which saves a round trip.
 *	2. Lock and check at the source.  If it has moved meanwhile, the source says
 *	   where to, and we follow, at most MAX_HOPS times.
 *	3. Send it to the target, which works on it while
 *	4. the source, if that is here, writes its departure.
 *
 * Nothing has taken effect when this returns; COMMIT does that.
 *
 * Rights: the caller needs EXECUTE on the function and SELECT and UPDATE on
 * fleet.rides and fleet.vehicles of this node.  Where row-level security
 * applies to the caller, only rows of this node that its policies let the
 * caller update can be handed off.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/handoff.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "handoff/move.h"
#include "handoff/route.h"
#include "region/map.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_handoff_ride);
PG_FUNCTION_INFO_V1(fleet_handoff_rides);
PG_FUNCTION_INFO_V1(fleet_handoff_vehicle);
PG_FUNCTION_INFO_V1(fleet_handoff_depart_sql);
PG_FUNCTION_INFO_V1(fleet_handoff_arrive_sql);

/* How often a row that keeps moving is followed. */
#define MAX_HOPS 8

#define DEPART_SQL "SELECT fleet.depart($1, $2::boolean, $3::text[], $4, $5::bigint, $6::bigint, $7::bigint, $8::integer)"
#define ARRIVE_SQL "SELECT fleet.arrive($1, $2::jsonb, $3::bigint, false)"

/* One ride or vehicle that is to be handed off. */
typedef struct HandoffItem
{
	char	   *id;
	char	   *region;			/* where it is thought to be, or NULL */
	bool		guessed;		/* a region was guessed once */
	bool		gone;			/* has departed in this call */
} HandoffItem;

typedef struct Handoff
{
	const FleetRegionMap *map;
	const FleetRegion *target;
	bool		vehicles;
	int64		expected_epoch;
	int			nitem;
	HandoffItem *items;
	int64		new_epoch;		/* greatest one given */
	int			moved;			/* items that arrive */
} Handoff;

static FleetPlan visible_plans[2] = {
	{"SELECT 1 FROM fleet.rides WHERE region = '%s' AND ride_id = ANY ($1) FOR UPDATE",
	1, {TEXTARRAYOID}},
	{"SELECT 1 FROM fleet.vehicles WHERE region = '%s' AND vehicle_id = ANY ($1) FOR UPDATE",
	1, {TEXTARRAYOID}},
};

static const char *
noun(const Handoff *h)
{
	return h->vehicles ? "vehicle" : "ride";
}

/* ---------- rights ---------- */

/* Raise an error unless the caller has these rights, all of them, on a table of fleet's. */
Oid
fleet_handoff_check_table(const char *name, AclMode rights)
{
	Oid			relid = get_relname_relid(name, get_namespace_oid("fleet", false));
	AclResult	result = ACLCHECK_OK;

	for (AclMode right = 1; right <= rights && result == ACLCHECK_OK; right <<= 1)
		if (rights & right)
			result = pg_class_aclcheck(relid, GetUserId(), right);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, name);
	return relid;
}

/* Where row-level security applies, only what its policies show may go. */
static void
check_policies(const Handoff *h, ArrayType *ids)
{
	Datum		value = PointerGetDatum(ids);
	int			visible = 0;

	if (h->map->own != NULL)
	{
		SPI_connect();
		visible = fleet_base_plan_execute(&visible_plans[h->vehicles ? 1 : 0],
										  h->map->own->name, &value, NULL);
		SPI_finish();
	}
	if (visible < h->nitem)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to hand off the %s", noun(h)),
				 errdetail("Row-level security applies to you: it must be in this node's region, and its policies must let you update it.")));
}

static void
check_rights(const Handoff *h, ArrayType *ids)
{
	Oid			rides = fleet_handoff_check_table("rides", ACL_SELECT | ACL_UPDATE);
	Oid			vehicles = fleet_handoff_check_table("vehicles", ACL_SELECT | ACL_UPDATE);

	if (check_enable_rls(h->vehicles ? vehicles : rides, InvalidOid, true) == RLS_ENABLED)
		check_policies(h, ids);
}

/* ---------- where it is ---------- */

static bool
is_at_target(const Handoff *h, const HandoffItem *item)
{
	return item->region != NULL && strcmp(item->region, h->target->name) == 0;
}

/* The target is this node's own region: is the item here, or where did it go? */
static void
look_here(const Handoff *h, HandoffItem *item, bool *live)
{
	char	   *answer = fleet_handoff_whereabouts(h->map, h->vehicles, item->id);

	*live = answer != NULL && strcmp(answer, "LIVE") == 0;
	if (!*live)
		item->region = (answer == NULL || strcmp(answer, "DELETED") == 0) ? NULL : answer;
}

/*
 * Make sure that an item has a region other than the target.  Being said to be
 * at the target is believed only from the target itself.
 */
static void
find_item(const Handoff *h, HandoffItem *item)
{
	bool		live = false;

	if (h->target == h->map->own && is_at_target(h, item))
		look_here(h, item, &live);
	if (item->region == NULL && !item->guessed)
	{
		item->guessed = true;
		item->region = fleet_handoff_hint(h->map, h->vehicles, item->id);
		if (item->region == NULL || is_at_target(h, item))
			item->region = fleet_handoff_only_other(h->map, h->target);
	}
	if (!live && (item->region == NULL || is_at_target(h, item)))
		item->region = fleet_handoff_search(h->map, h->vehicles, item->id, &live);
	if (item->region == NULL)
		fleet_handoff_raise_not_found(h->vehicles, item->id);
	(void) fleet_region_require(h->map, item->region);
	if (live && is_at_target(h, item))
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_ALREADY_THERE),
				 errmsg("%s \"%s\" is already in region \"%s\"", noun(h), item->id,
						h->target->name)));
}

/* ---------- departure and arrival ---------- */

/* The items that are thought to be in one region; they are sorted. */
static FleetIds
ids_in(const Handoff *h, const char *region)
{
	FleetIds	ids = {.ids = palloc(sizeof(char *) * h->nitem)};

	for (int i = 0; i < h->nitem; i++)
		if (!h->items[i].gone && h->items[i].region != NULL &&
			strcmp(h->items[i].region, region) == 0)
			ids.ids[ids.n++] = h->items[i].id;
	return ids;
}

static char *
array_text(const FleetIds *ids)
{
	Datum	   *elems = palloc(sizeof(Datum) * ids->n);

	for (int i = 0; i < ids->n; i++)
		elems[i] = CStringGetTextDatum(ids->ids[i]);
	return OidOutputFunctionCall(F_ARRAY_OUT,
								 PointerGetDatum(construct_array(elems, ids->n, TEXTOID, -1,
																 false, TYPALIGN_INT)));
}

/* The same answer as fleet_handoff_departure_answer(), from another node. */
static Datum
depart_remote(const Handoff *h, FleetBranch *branch, const FleetLeaving *leaving)
{
	const char *params[8];
	char	   *answer;

	params[0] = leaving->dtxid;
	params[1] = leaving->vehicles ? "true" : "false";
	params[2] = array_text(&leaving->ids);
	params[3] = leaving->target;
	params[4] = psprintf(INT64_FORMAT, leaving->expected_epoch);
	params[5] = psprintf(INT64_FORMAT, h->map->version);
	params[6] = psprintf(UINT64_FORMAT, fleet_clock_now());
	params[7] = psprintf("%d", leaving->lock_timeout);
	answer = fleet_commit_ask(branch, DEPART_SQL, 8, params);
	if (answer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("fleet.depart returned null")));
	return OidInputFunctionCall(F_ARRAY_IN, answer, TEXTOID, -1);
}

/*
 * The record says no more than that there was an arrival: what arrived is what
 * the transaction's departures say, see fleet.branch_request().
 */
static void
arrive(Handoff *h, const char *rows, const char *dtxid)
{
	FleetBranch *branch;
	const char *params[3];

	if (h->target == h->map->own)
	{
		(void) fleet_handoff_arrive(h->map, dtxid,
									DirectFunctionCall1(jsonb_in, CStringGetDatum(rows)),
									false);
		return;
	}
	branch = fleet_commit_join(h->target->name);
	params[0] = dtxid;
	params[1] = rows;
	params[2] = psprintf(INT64_FORMAT, h->map->version);
	fleet_commit_tell(branch, ARRIVE_SQL, 3, params);
	fleet_commit_record(branch, "arrive", NULL);
}

static int
compare_items(const void *a, const void *b)
{
	return strcmp(((const HandoffItem *) a)->id, ((const HandoffItem *) b)->id);
}

/* Take over what a source said about rows that it has not. */
static void
follow(Handoff *h, Datum *elems, bool *nulls, int n)
{
	for (int i = 1; i + 1 < n; i += 2)
	{
		HandoffItem key = {.id = TextDatumGetCString(elems[i])};
		HandoffItem *item = bsearch(&key, h->items, h->nitem, sizeof(HandoffItem),
									compare_items);

		if (item != NULL)
			item->region = nulls[i + 1] ? NULL : TextDatumGetCString(elems[i + 1]);
	}
}

/* Hand off all items that are thought to be in one region. */
static void
move_from(Handoff *h, char *region)
{
	FleetLeaving leaving = {
		.vehicles = h->vehicles,
		.ids = ids_in(h, region),
		.expected_epoch = h->expected_epoch,
		.target = h->target->name,
		.dtxid = fleet_commit_begin(),
		.lock_timeout = fleet_commit_lock_timeout
	};
	FleetBranch *branch = NULL;
	FleetDeparture *departure = NULL;
	Datum		answer;
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	if (strcmp(region, h->map->own->name) == 0)
	{
		departure = fleet_handoff_depart(h->map, &leaving);
		answer = fleet_handoff_departure_answer(departure);
	}
	else
	{
		branch = fleet_commit_join(region);
		answer = depart_remote(h, branch, &leaving);
	}
	deconstruct_array(DatumGetArrayTypeP(answer), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	if (nulls[0])
	{
		follow(h, elems, nulls, n);
		return;
	}
	(void) fleet_clock_receive(strtoull(TextDatumGetCString(elems[2]), NULL, 10));
	if (branch != NULL)
		fleet_commit_record(branch, "depart", TextDatumGetCString(elems[0]));
	arrive(h, TextDatumGetCString(elems[0]), leaving.dtxid);
	if (departure != NULL)
		fleet_handoff_departure_write(departure);
	h->new_epoch = Max(h->new_epoch, strtoll(TextDatumGetCString(elems[1]), NULL, 10));
	for (int i = 0; i < h->nitem; i++)
		if (!h->items[i].gone && h->items[i].region != NULL &&
			strcmp(h->items[i].region, region) == 0)
		{
			h->items[i].gone = true;
			h->moved++;
			if (h->target != h->map->own)
				fleet_handoff_hint_keep(h->vehicles, h->items[i].id, h->target->name);
		}
}

static HandoffItem *
first_to_go(Handoff *h)
{
	for (int i = 0; i < h->nitem; i++)
		if (!h->items[i].gone)
			return &h->items[i];
	return NULL;
}

/* The ids as items, which at first are thought to be here. */
static void
read_items(Handoff *h, ArrayType *array)
{
	FleetIds	ids = fleet_handoff_read_ids(array, noun(h));

	h->items = palloc0(sizeof(HandoffItem) * Max(ids.n, 1));
	h->nitem = ids.n;
	for (int i = 0; i < ids.n; i++)
	{
		h->items[i].id = ids.ids[i];
		h->items[i].region = fleet_handoff_own_region(h->map)->name;
	}
}

/*
 * Hand off rides (or vehicles) to a region: all or none.  How many moved, and
 * the greatest new epoch, are in *h.
 */
static void
run(Handoff *h, ArrayType *ids, const char *target)
{
	HandoffItem *item;
	int			hops = 0;

	h->map = fleet_region_map_member();
	h->target = fleet_region_require(h->map, target);
	read_items(h, ids);
	check_rights(h, ids);
	for (int i = 0; i < h->nitem; i++)
		fleet_handoff_redirect(h->map, h->vehicles, h->items[i].id);
	while ((item = first_to_go(h)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		find_item(h, item);
		if (++hops > MAX_HOPS + h->nitem)
			fleet_handoff_raise_on_its_way(h->vehicles, item->id);
		if (strcmp(item->region, h->target->name) != 0)
			move_from(h, item->region);
	}
}

/*
 * Hand off, as the functions below do, for callers in other rooms.  Returns
 * the greatest new epoch.
 */
int64
fleet_handoff_run(bool vehicles, ArrayType *ids, const char *target,
				  int64 expected_epoch)
{
	Handoff		h = {.vehicles = vehicles,.expected_epoch = expected_epoch};

	run(&h, ids, target);
	return h.new_epoch;
}

static ArrayType *
one_id(Datum id)
{
	return construct_array(&id, 1, TEXTOID, -1, false, TYPALIGN_INT);
}

/* fleet.handoff(ride_id text, target text, expected_epoch bigint) -> bigint */
Datum
fleet_handoff_ride(PG_FUNCTION_ARGS)
{
	int64		expected = 0;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ride and target must not be null")));
	if (!PG_ARGISNULL(2))
	{
		expected = PG_GETARG_INT64(2);
		if (expected < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an epoch is at least 1")));
	}
	PG_RETURN_INT64(fleet_handoff_run(false, one_id(PG_GETARG_DATUM(0)),
									  text_to_cstring(PG_GETARG_TEXT_PP(1)), expected));
}

/* fleet.handoff(ride_ids text[], target text) -> integer */
Datum
fleet_handoff_rides(PG_FUNCTION_ARGS)
{
	Handoff		h = {.vehicles = false};

	run(&h, PG_GETARG_ARRAYTYPE_P(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_INT32(h.moved);
}

/* fleet.handoff_vehicle(vehicle_id text, target text) -> bigint */
Datum
fleet_handoff_vehicle(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(fleet_handoff_run(true, one_id(PG_GETARG_DATUM(0)),
									  text_to_cstring(PG_GETARG_TEXT_PP(1)), 0));
}

/* fleet.depart(...) -> text[]: the source's half, for another node. */
Datum
fleet_handoff_depart_sql(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	FleetDeparture *departure;
	FleetLeaving leaving;
	Datum		answer;

	RequireTransactionBlock(true, "fleet.depart");
	leaving.dtxid = text_to_cstring(PG_GETARG_TEXT_PP(0));
	leaving.vehicles = PG_GETARG_BOOL(1);
	leaving.ids = fleet_handoff_read_ids(PG_GETARG_ARRAYTYPE_P(2),
										 leaving.vehicles ? "vehicle" : "ride");
	leaving.target = text_to_cstring(PG_GETARG_TEXT_PP(3));
	leaving.expected_epoch = PG_GETARG_INT64(4);
	fleet_handoff_check_map(map, PG_GETARG_INT64(5));
	(void) fleet_clock_receive((uint64) PG_GETARG_INT64(6));
	leaving.lock_timeout = PG_GETARG_INT32(7);
	departure = fleet_handoff_depart(map, &leaving);
	answer = fleet_handoff_departure_answer(departure);
	fleet_handoff_departure_write(departure);
	PG_RETURN_DATUM(answer);
}

/* fleet.arrive(dtxid, rows, map_version, redo) -> integer: the target's half. */
Datum
fleet_handoff_arrive_sql(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	bool		redo = PG_GETARG_BOOL(3);

	if (!redo)
	{
		RequireTransactionBlock(true, "fleet.arrive");
		fleet_handoff_check_map(map, PG_GETARG_INT64(2));
	}
	PG_RETURN_INT32(fleet_handoff_arrive(map, text_to_cstring(PG_GETARG_TEXT_PP(0)),
										 PG_GETARG_DATUM(1), redo));
}
