/*-------------------------------------------------------------------------
 *
 * inline.c
 *	  Have the planner make a local read a part of its caller's statement.
 *
 * A call of fleet.search_rides runs its query in an executor of its own inside the
 * caller's, which takes as long as a short query itself.  So where the arguments
 * are known when the statement is planned, its support function puts
 *
 *		fleet.search_local_rides(own region, ...)
 *
 * in the place of the call: a function in SQL with nothing but the plain SELECT,
 * which the planner dissolves in the statement.  What is left of it is a scan of
 * the own partition, kept with the statement's plan, with the caller's rights and
 * policies and in the caller's snapshot.
 *
 * What is not exactly the same stays a call:
 *
 *	- Arguments that are not constants.  Whether one is null decides which
 *	  conditions there are.  Also where the plan is made for known values of a
 *	  statement's parameters, since it is used once: planning the SELECT takes
 *	  longer than the call does.
 *	- What the call refuses, so that the error is the call's, when it is run.
 *	- Another order than the default, a place, another region than the own one.
 *	- A call that is not by itself in FROM (in the target list, WITH ORDINALITY, in
 *	  ROWS FROM with others): the planner would keep the function in SQL, which is
 *	  slower than ours.
 *
 * The own region's name is a constant of the plan, so the plan must end when that
 * changes:
 *
 *	1. fleet.rides is locked, as the statement will do anyway.
 *	2. The map is read.  Partitions of fleet.rides come and go in the same
 *	   transaction as what the map says of them, under a lock that conflicts with
 *	   (1).  So the map that is read is the one that the partitions belong to until
 *	   this transaction ends, and every later change of it invalidates fleet.rides,
 *	   and with that the plan.
 *
 * In the other order the region could be removed between the two, before the plan
 * exists that its invalidation was for; the plan would be kept, and find no rides
 * where the call raises an error.
 *
 * That there was such a read is noted in its LIMIT (last_read.c), which is evaluated
 * once and before the first row.  The planner evaluates it as well, to know how many rows
 * are wanted, and that is no read: so it is kept in mind when it is at work.
 *
 * The call is gone from the plan, so its right to be executed is checked here, and
 * the plan is marked as depending on it, as the planner does for functions that it
 * dissolves by itself.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/inline.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "nodes/value.h"
#include "optimizer/planmain.h"
#include "optimizer/planner.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/compat.h"
#include "query/read.h"

PG_FUNCTION_INFO_V1(fleet_query_search_support);

/* Arguments of fleet.search_rides. */
enum
{
	SEARCH_SCOPE,
	SEARCH_REGION,
	SEARCH_FIRST_FILTER,		/* status, vehicle_id, customer_id, min_fare, max_fare, since */
	SEARCH_NEAR = SEARCH_FIRST_FILTER + 6,
	SEARCH_WITHIN_M,
	SEARCH_ORDER_BY,
	SEARCH_MAX_ROWS,
	SEARCH_ON_UNAVAILABLE,
	SEARCH_ARGUMENTS
};

/* Arguments of fleet.search_local_rides: the region, the filters, max_rows. */
#define LOCAL_ARGUMENTS (1 + SEARCH_NEAR - SEARCH_FIRST_FILTER + 1)

static bool inline_local_reads = true;
static int	planning = 0;		/* how many planners are at work, one within the other */
static planner_hook_type next_planner = NULL;

static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo params)
{
	PlannedStmt *planned;

	planning++;
	PG_TRY();
	{
		planned = next_planner != NULL ? next_planner(query, text, options, params) :
			standard_planner(query, text, options, params);
	}
	PG_FINALLY();
	{
		planning--;
	}
	PG_END_TRY();
	return planned;
}

/* Is what is evaluated now evaluated for a plan? */
bool
fleet_query_is_planning(void)
{
	return planning > 0;
}

void
fleet_query_inline_init(void)
{
	next_planner = planner_hook;
	planner_hook = plan;
	DefineCustomBoolVariable("fleet.inline_local_reads",
							 "Whether reads of scope local are planned as a part of the statement that calls fleet.search_rides.",
							 "Turn it off where statements are not prepared: then planning them takes longer than it saves.",
							 &inline_local_reads, true, PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Is it one item of FROM, by itself, that becomes a subquery? */
static bool
is_plain_item(const PlannerInfo *root, Oid function)
{
	bool		found = false;
	ListCell   *cell;

	if (root == NULL || root->parse == NULL || root->parse->hasTargetSRFs)
		return false;
	foreach(cell, root->parse->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);
		ListCell   *item;

		if (rte->rtekind != RTE_FUNCTION)
			continue;
		foreach(item, rte->functions)
		{
			Node	   *expr = lfirst_node(RangeTblFunction, item)->funcexpr;

			if (!IsA(expr, FuncExpr) || ((FuncExpr *) expr)->funcid != function)
				continue;
			if (rte->funcordinality || list_length(rte->functions) != 1)
				return false;
			found = true;
		}
	}
	return found;
}

static bool
is_null(const List *args, int n)
{
	return list_nth_node(Const, args, n)->constisnull;
}

/* Is this argument that text? */
static bool
is_text(const List *args, int n, const char *value)
{
	return !is_null(args, n) &&
		strcmp(TextDatumGetCString(list_nth_node(Const, args, n)->constvalue), value) == 0;
}

/* Are the arguments such that the call would do what the SELECT does? */
static bool
is_plain_read(const List *args, const char *own)
{
	return (is_null(args, SEARCH_REGION) || is_text(args, SEARCH_REGION, own)) &&
		is_null(args, SEARCH_NEAR) && is_null(args, SEARCH_WITHIN_M) &&
		is_text(args, SEARCH_ORDER_BY, "requested_at desc") &&
		(is_null(args, SEARCH_MAX_ROWS) ||
		 DatumGetInt32(list_nth_node(Const, args, SEARCH_MAX_ROWS)->constvalue) > 0) &&
		(is_text(args, SEARCH_ON_UNAVAILABLE, "fail") ||
		 is_text(args, SEARCH_ON_UNAVAILABLE, "partial"));
}

static bool
are_constants(const List *args)
{
	ListCell   *cell;

	foreach(cell, args)
		if (!IsA(lfirst(cell), Const))
			return false;
	return list_length(args) == SEARCH_ARGUMENTS;
}

/* The call of the function in SQL, or NULL without that function. */
static Node *
local_call(const FuncExpr *call, const char *own)
{
	List	   *args = list_make1(makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
											CStringGetTextDatum(own), false, false));
	Oid			types[LOCAL_ARGUMENTS];
	Oid			function;
	FuncExpr   *local;
	ListCell   *cell;

	for (int i = SEARCH_FIRST_FILTER; i < SEARCH_NEAR; i++)
		args = lappend(args, copyObject(list_nth(call->args, i)));
	args = lappend(args, copyObject(list_nth(call->args, SEARCH_MAX_ROWS)));
	foreach(cell, args)
		types[foreach_current_index(cell)] = exprType(lfirst(cell));
	function = LookupFuncName(list_make2(makeString("fleet"), makeString("search_local_rides")),
							  LOCAL_ARGUMENTS, types, true);
	if (!OidIsValid(function))
		return NULL;
	/* A collation that came with an argument does not change what the call finds. */
	local = makeFuncExpr(function, call->funcresulttype, args, InvalidOid,
						 DEFAULT_COLLATION_OID, COERCE_EXPLICIT_CALL);
	local->funcretset = true;
	return (Node *) local;
}

/* What the call may be replaced by, or NULL. */
static Node *
replace(PlannerInfo *root, const FuncExpr *call)
{
	const FleetRegionMap *map;
	Node	   *local;

	if (!inline_local_reads || !are_constants(call->args) || !is_text(call->args, SEARCH_SCOPE, "local") ||
		!is_plain_item(root, call->funcid) || root->glob->boundParams != NULL ||
		!fleet_compat_may_execute(call->funcid))
		return NULL;
	LockRelationOid(fleet_query_rides_table(), AccessShareLock);
	map = fleet_region_map();
	if (map->own == NULL || !is_plain_read(call->args, map->own->name))
		return NULL;
	local = local_call(call, map->own->name);
	if (local != NULL)
		record_plan_function_dependency(root, call->funcid);
	return local;
}

/* The planner's questions about fleet.search_rides. */
Datum
fleet_query_search_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *answer = NULL;

	if (IsA(request, SupportRequestSimplify))
		answer = replace(((SupportRequestSimplify *) request)->root,
						 ((SupportRequestSimplify *) request)->fcall);
	PG_RETURN_POINTER(answer);
}
