/*-------------------------------------------------------------------------
 *
 * route.c
 *	  Calls that find the ride or vehicle wherever it is.
 *
 * A call that finds its ride (or vehicle) not here comes to fleet.route().  With
 * fleet.routing = redirect the caller is told where it is, with an SQLSTATE of its
 * own, and goes there.  With forward, the default, the node that has it makes the
 * call, in a branch of the caller's transaction:
 *
 *	1. Where is it?  Where the departure that is left here leads to; where it was
 *	   last seen (hint.c); the only region that it can be in; else all regions are
 *	   asked.  All of these may be old.
 *	2. That node is asked to make the call (perform.c).  It locks the row, so what
 *	   it has done is right when the transaction commits.  Where the row is not
 *	   there, it says where it went, and that one is asked, at most MAX_HOPS times.
 *	3. What was done is noted with the branch (commit/branch.c).  The transaction
 *	   commits on that node alone where nothing else was written, else on all in
 *	   two phases.
 *
 * A call that is made again because its PREPARE was lost (fleet.redo) is made only
 * where the row is older than the call.
 *
 * Rights: those that the function needs here, on the tables of this node.  Where
 * row-level security applies to the caller nothing is forwarded: other nodes do
 * not know which of their rows the caller may see.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/route.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/errcodes.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "handoff/move.h"
#include "handoff/route.h"
#include "remote/remote.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_handoff_route);

/* How often a row that keeps moving is followed. */
#define MAX_HOPS 8

#define PERFORM_SQL "SELECT fleet.perform($1, $2, $3::jsonb, $4::bigint, $5::integer)"

typedef enum Routing
{
	ROUTING_FORWARD,
	ROUTING_REDIRECT
} Routing;

static const struct config_enum_entry routings[] = {
	{"forward", ROUTING_FORWARD, false},
	{"redirect", ROUTING_REDIRECT, false},
	{NULL, 0, false}
};

static int	routing = ROUTING_FORWARD;

/* A call that is on its way. */
typedef struct Route
{
	const FleetRegionMap *map;
	FleetCallSpec *spec;
	char	   *key;			/* NULL: the call is about a place */
	char	   *region;			/* where it is thought to be, or NULL */
	bool		sure;			/* a node said so in this call */
	Datum		arguments;
} Route;

static FleetPlan not_here_plan = {
	"SELECT fleet.raise_not_here($1, $2)", 2, {TEXTOID, TEXTOID}
};

void
fleet_handoff_init(void)
{
	DefineCustomEnumVariable("fleet.routing",
							 "What becomes of a call about a ride or vehicle that is in another region.",
							 "forward: that region's node is asked to do it; redirect: an error says which node to call.",
							 &routing, ROUTING_FORWARD, routings,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	fleet_handoff_hint_reserve();
}

static const char *
noun(const Route *r)
{
	return r->spec->vehicles ? "vehicle" : "ride";
}

/* ---------- rights ---------- */

static bool
may_execute_one_named(const char *name)
{
	Oid			namespace = get_namespace_oid("fleet", false);
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	bool		may = false;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		may = may || (proc->pronamespace == namespace && fleet_compat_may_execute(proc->oid));
	}
	ReleaseSysCacheList(list);
	return may;
}

/* Row-level security: the same answer as where there is no such row. */
static void
raise_not_here(const Route *r)
{
	Datum		values[2];

	values[0] = CStringGetTextDatum(noun(r));
	values[1] = CStringGetTextDatum(r->key);
	SPI_connect();
	fleet_base_plan_execute(&not_here_plan, NULL, values, NULL);
	SPI_finish();
}

static void
check_rights(const Route *r)
{
	Oid			relid;

	if (!may_execute_one_named(r->spec->name))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, r->spec->name);
	relid = fleet_handoff_check_table(r->spec->vehicles ? "vehicles" : "rides",
									  r->spec->inserts ? ACL_INSERT : ACL_SELECT | ACL_UPDATE);
	if (check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED)
		return;
	if (r->key != NULL)
		raise_not_here(r);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for another region's %ss", noun(r)),
			 errdetail("Row-level security applies to you, and its policies here say nothing about other regions."),
			 errhint("Call the node of region \"%s\".", r->region)));
}

/* ---------- where it is ---------- */

static char *
departed_to(const FleetRegionMap *map, bool vehicles, const char *key)
{
	char	   *answer = fleet_handoff_whereabouts(map, vehicles, key);

	return answer != NULL && fleet_region_find(map, answer) != NULL ? answer : NULL;
}

/* A first guess costs less than to ask, and whom we ask by it tells where to go on. */
static void
guess(Route *r)
{
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	r->region = departed_to(r->map, r->spec->vehicles, r->key);
	fleet_base_become_caller(&caller);
	if (r->region == NULL)
		r->region = fleet_handoff_hint(r->map, r->spec->vehicles, r->key);
	if (r->region == NULL)
		r->region = fleet_handoff_only_other(r->map, NULL);
}

static void
search(Route *r)
{
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	r->region = fleet_handoff_search(r->map, r->spec->vehicles, r->key, &r->sure);
	fleet_base_become_caller(&caller);
	if (r->region == NULL)
		fleet_handoff_raise_not_found(r->spec->vehicles, r->key);
	(void) fleet_region_require(r->map, r->region);
}

/* ---------- redirect ---------- */

static void
raise_redirect(const FleetRegionMap *map, bool vehicles, const char *key, const char *region)
{
	const char *what = vehicles ? "vehicle" : "ride";

	ereport(ERROR,
			(errcode(FLEET_ERRCODE_REDIRECT),
			 key != NULL ? errmsg("%s \"%s\" is in region \"%s\"", what, key, region) :
			 errmsg("the place of the %s is in region \"%s\"", what, region),
			 errdetail("region=%s server=" FLEET_SERVER_PREFIX "%s", region, region),
			 errhint("Call that region's node; or set fleet.routing to forward.")));
}

/*
 * Where calls are redirected, and the row is not here: raise the error that says
 * where it is.  The caller has the rights to know.
 */
void
fleet_handoff_redirect(const FleetRegionMap *map, bool vehicles, const char *id)
{
	char	   *region;
	char	   *here;
	FleetCaller caller;
	bool		live = false;

	if (routing != ROUTING_REDIRECT)
		return;
	fleet_base_become_owner(&caller);
	here = fleet_handoff_whereabouts(map, vehicles, id);
	region = here != NULL && strcmp(here, "LIVE") == 0 ? NULL :
		fleet_handoff_search(map, vehicles, id, &live);
	fleet_base_become_caller(&caller);
	if (region != NULL && (map->own == NULL || strcmp(region, map->own->name) != 0))
		raise_redirect(map, vehicles, id, region);
}

/* ---------- the call ---------- */

/* For fleet.redo: what was done, and when. */
static char *
as_payload(const Route *r, const char *arguments, uint64 hlc)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"call\": \"%s\", \"kind\": \"%s\", \"key\": ", r->spec->name, noun(r));
	if (r->key != NULL)
		escape_json(&buf, r->key);
	else
		appendStringInfoString(&buf, "null");
	appendStringInfo(&buf, ", \"hlc\": " UINT64_FORMAT ", \"arguments\": %s}", hlc, arguments);
	return buf.data;
}

static void
read_performed(const char *answer, FleetPerformed *performed, uint64 *hlc)
{
	Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer)));
	JsonbValue	value;

	*hlc = (uint64) fleet_wire_get_int64(&json->root, "hlc");
	(void) fleet_clock_receive(*hlc);
	performed->result = NULL;
	performed->gone = NULL;
	performed->done = getKeyJsonValueFromContainer(&json->root, "result", 6, &value) != NULL;
	if (performed->done)
	{
		Jsonb	   *result = JsonbValueToJsonb(&value);

		performed->result = JsonbToCString(NULL, &result->root, VARSIZE(result));
	}
	else
		performed->gone = fleet_wire_get_text(&json->root, "gone");
}

/* Have the node of r->region make the call. */
static void
ask(Route *r, FleetPerformed *performed)
{
	FleetBranch *branch = fleet_commit_join(r->region);
	const char *params[5];
	char	   *answer;
	uint64		hlc;

	params[0] = r->spec->name;
	params[1] = r->key;
	params[2] = DatumGetCString(DirectFunctionCall1(jsonb_out, r->arguments));
	params[3] = psprintf(UINT64_FORMAT, fleet_clock_now());
	params[4] = psprintf("%d", fleet_commit_lock_timeout);
	answer = fleet_commit_ask(branch, PERFORM_SQL, 5, params);
	if (answer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("fleet.perform returned null")));
	read_performed(answer, performed, &hlc);
	if (!performed->done)
		return;
	fleet_commit_note_call(branch, as_payload(r, params[2], hlc));
	if (r->key != NULL)
		fleet_handoff_hint_keep(r->spec->vehicles, r->key, r->region);
}

static bool
is_own(const Route *r)
{
	return r->map->own != NULL && strcmp(r->region, r->map->own->name) == 0;
}

/* It has come here meanwhile: in our own rights, as the first time. */
static void
perform_here(Route *r, FleetPerformed *performed)
{
	(void) fleet_handoff_await(r->map, r->spec->vehicles, r->key);
	fleet_handoff_perform(r->spec, r->key, r->arguments, false, performed);
}

/* Follow it until it stands still.  Returns the result as JSON, or NULL. */
static char *
follow(Route *r)
{
	FleetPerformed performed = {0};

	if (fleet_handoff_await(r->map, r->spec->vehicles, r->key))
		r->region = r->map->own->name;
	else
		guess(r);
	for (int hops = 0; hops < MAX_HOPS; hops++)
	{
		CHECK_FOR_INTERRUPTS();
		if (r->region == NULL || (routing == ROUTING_REDIRECT && !r->sure && !is_own(r)))
			search(r);
		if (is_own(r))
			perform_here(r, &performed);
		else if (routing == ROUTING_REDIRECT)
			raise_redirect(r->map, r->spec->vehicles, r->key, r->region);
		else
			ask(r, &performed);
		if (performed.done)
			return performed.result;
		r->region = performed.gone;
		r->sure = false;
	}
	fleet_handoff_raise_on_its_way(r->spec->vehicles, r->key);
}

/* The call is about a place, in r->region. */
static char *
pass_on(Route *r)
{
	FleetPerformed performed;

	(void) fleet_region_require(r->map, r->region);
	if (is_own(r) || fleet_handoff_is_serving())
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_STALE_MAP),
				 errmsg("the region map has changed"),
				 errdetail("On this node's map the place is in region \"%s\".", r->region),
				 errhint("Try again.")));
	if (routing == ROUTING_REDIRECT)
		raise_redirect(r->map, r->spec->vehicles, NULL, r->region);

	/* A repeated request, whose ride has moved on since: with what was answered then. */
	for (int hops = 0; hops < MAX_HOPS && r->region != NULL && !is_own(r); hops++)
	{
		ask(r, &performed);
		if (performed.done)
			return performed.result;
		r->region = performed.gone;
	}
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_IN_DOUBT),
			 errmsg("the %s is being handed off by another transaction", noun(r)),
			 errhint("Try again.")));
}

/*
 * fleet.route(call text, key text, region text, arguments jsonb) -> jsonb: make a
 * call on the node that has the key, or with a null key on that of the region.
 * Null where this is itself a part of another node's call, which will follow.
 */
Datum
fleet_handoff_route(PG_FUNCTION_ARGS)
{
	Route		r = {.map = fleet_region_map_member()};
	char	   *result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(3) || PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("call, arguments, and either key or region must be given")));
	r.spec = fleet_handoff_call_spec(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	r.key = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	r.region = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	r.arguments = PG_GETARG_DATUM(3);
	if (r.key != NULL && fleet_handoff_note_not_here(r.map, r.spec->vehicles, r.key))
		PG_RETURN_NULL();
	check_rights(&r);
	result = r.key != NULL ? follow(&r) : pass_on(&r);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(result)));
}
