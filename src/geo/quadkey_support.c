/*-------------------------------------------------------------------------
 *
 * quadkey_support.c
 *	  Have the planner read what is in a cell from a btree index.
 *
 * A cell and its descendants are one range in the order of cells.  So where a
 * column has a btree index,
 *
 *		cell <@ x		is		cell >= x AND cell <= fleet.quadkey_last(x)
 *
 * and the planner is told so, for any x that is the same during one scan: a
 * constant, a parameter, a column of the outer table of a nested loop.  The two
 * conditions are exact: what they find need not be checked again.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/quadkey_support.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(fleet_geo_quadkey_contains_support);
PG_FUNCTION_INFO_V1(fleet_geo_quadkey_contained_support);

static List *
arguments_of(Node *clause)
{
	if (is_opclause(clause))
		return ((OpExpr *) clause)->args;
	if (is_funcclause(clause))
		return ((FuncExpr *) clause)->args;
	return NIL;
}

/* fleet.quadkey_last(cell), evaluated if it can be; NULL without that function. */
static Node *
last_of(SupportRequestIndexCondition *request, Node *cell, Oid type)
{
	char	   *schema = get_namespace_name(get_func_namespace(request->funcid));
	Oid			function = InvalidOid;
	FuncExpr   *call;

	if (schema != NULL)
		function = LookupFuncName(list_make2(makeString(schema), makeString("quadkey_last")), 1, &type, true);
	if (!OidIsValid(function))
		return NULL;
	call = makeFuncExpr(function, type, list_make1(copyObject(cell)), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	return eval_const_expressions(request->root, (Node *) call);
}

/*
 * The two conditions, if the indexed column is the argument that is to be in
 * the other one; else NULL, and the index is not used.
 */
static List *
range_of(SupportRequestIndexCondition *request, int contained)
{
	List	   *args = arguments_of(request->node);
	Node	   *column;
	Node	   *cell;
	Node	   *last;
	Oid			type;
	Oid			from;
	Oid			to;

	if (list_length(args) != 2 || request->indexarg != contained || request->index->relam != BTREE_AM_OID)
		return NIL;
	column = list_nth(args, contained);
	cell = list_nth(args, 1 - contained);
	if (!is_pseudo_constant_for_index(request->root, cell, request->index))
		return NIL;
	type = exprType(cell);
	from = get_opfamily_member(request->opfamily, type, type, BTGreaterEqualStrategyNumber);
	to = get_opfamily_member(request->opfamily, type, type, BTLessEqualStrategyNumber);
	last = OidIsValid(from) && OidIsValid(to) ? last_of(request, cell, type) : NULL;
	if (last == NULL)
		return NIL;
	request->lossy = false;
	return list_make2(make_opclause(from, BOOLOID, false, (Expr *) copyObject(column), (Expr *) copyObject(cell),
									InvalidOid, InvalidOid),
					  make_opclause(to, BOOLOID, false, (Expr *) copyObject(column), (Expr *) last,
									InvalidOid, InvalidOid));
}

static Node *
answer(FunctionCallInfo fcinfo, int contained)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (!IsA(request, SupportRequestIndexCondition))
		return NULL;
	return (Node *) range_of((SupportRequestIndexCondition *) request, contained);
}

/* Of container @> contained. */
Datum
fleet_geo_quadkey_contains_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(answer(fcinfo, 1));
}

/* Of contained <@ container. */
Datum
fleet_geo_quadkey_contained_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(answer(fcinfo, 0));
}
