/*-------------------------------------------------------------------------
 *
 * condition.c
 *	  A condition over the columns of a ride, as a user writes it.
 *
 * The text is never pasted into a statement.  It is parsed as one expression, by
 * the server's own parser and in the caller's name, over the columns of
 * fleet.rides; what is sent to other nodes is made anew from the parsed tree.
 * It must mean the same on all nodes, and nothing that the caller may not do:
 *
 *	- It has no subqueries, aggregates, parameters or system columns.
 *	- What does not depend on the ride is computed here and now: now(), casts by
 *	  the session's time zone.  What is left must be immutable.
 *	- Functions, types and collations are those of PostgreSQL, PostGIS and fleet,
 *	  which every node has; the functions such as the caller may execute.  A type
 *	  of the caller's could bring a CHECK with it, which would run with an owner's
 *	  rights.
 *	- It is made of the nodes that are listed here, and so of none that a later
 *	  version brings.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/condition.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "base/compat.h"
#include "query/read.h"

static void
raise_refused(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not allowed in a condition over the rides of all regions", what),
			 hint ? errhint("%s", hint) : 0));
}

/* The one expression that the text is. */
static Node *
parse(const char *text)
{
	List	   *statements = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt, linitial_node(RawStmt, statements)->stmt);
	ResTarget  *target;

	if (list_length(select->targetList) != 1 || select->op != SETOP_NONE ||
		select->distinctClause || select->intoClause || select->fromClause ||
		select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->valuesLists || select->sortClause ||
		select->limitOffset || select->limitCount || select->lockingClause ||
		select->withClause)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the condition is not one expression"),
				 errhint("Give what would stand after WHERE, like: status = 'PENDING' AND fare > 20.")));
	target = linitial_node(ResTarget, select->targetList);
	if (IsA(target->val, ColumnRef) && IsA(llast(((ColumnRef *) target->val)->fields), A_Star))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the condition must not be a row")));
	if (target->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the condition must not have a name")));
	return target->val;
}

static Node *
analyze(const char *text, Oid relid)
{
	ParseState *pstate = make_parsestate(NULL);
	Relation	rel = table_open(relid, AccessShareLock);
	ParseNamespaceItem *item;
	Node	   *expr;

	pstate->p_sourcetext = text;
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, makeAlias("r", NIL),
										 false, true);
	addNSItemToQuery(pstate, item, true, true, true);
	expr = transformWhereClause(pstate, parse(text), EXPR_KIND_WHERE, "WHERE");
	if (pstate->p_hasSubLinks)
		raise_refused("a subquery", "Give an array where you would give a subquery.");
	assign_expr_collations(pstate, expr);
	table_close(rel, NoLock);
	free_parsestate(pstate);
	return expr;
}

/* Is it one that every node has? */
static bool
is_everywhere(Oid class, Oid object)
{
	Oid			extension;
	char	   *name;

	if (object < FirstNormalObjectId)
		return true;
	extension = getExtensionOfObject(class, object);
	name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	return name != NULL && (strcmp(name, "postgis") == 0 || strcmp(name, "fleet") == 0);
}

/* Raises an error for a function that others may lack, or the caller may not execute. */
static bool
check_function(Oid function, void *context)
{
	if (!fleet_compat_may_execute(function))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	if (!is_everywhere(ProcedureRelationId, function))
		raise_refused(psprintf("function %s", get_func_name(function)),
					  "Use functions of PostgreSQL, PostGIS and fleet, which all nodes have.");
	return false;
}

static void
check_type(Oid type, Oid collation)
{
	Oid			element = get_element_type(type);

	if (OidIsValid(element))
		type = element;
	if (type == RECORDOID || type == RECORDARRAYOID)
		raise_refused("a row", "Compare the columns one by one.");
	if (!is_everywhere(TypeRelationId, type))
		raise_refused(psprintf("type %s", format_type_be(type)),
					  "Use types of PostgreSQL, PostGIS and fleet, which all nodes have.");
	if (!is_everywhere(CollationRelationId, collation))
		raise_refused(psprintf("collation %s", get_collation_name(collation)),
					  "Use collations that PostgreSQL comes with, which all nodes have.");
}

static bool
check_node(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_List:
		case T_CaseWhen:
			return expression_tree_walker(node, check_node, context);
		case T_Var:
			if (((Var *) node)->varattno < 0)
				raise_refused("a system column", NULL);
			break;
		case T_Const:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowCompareExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_SQLValueFunction:
		case T_NullTest:
		case T_BooleanTest:
		case T_SubscriptingRef:
			break;
		default:
			raise_refused("such an expression", "Use columns, constants, operators and functions.");
	}
	check_type(exprType(node), exprCollation(node));
	if (IsA(node, CollateExpr))
		check_type(BOOLOID, ((CollateExpr *) node)->collOid);
	(void) check_functions_in_node(node, check_function, NULL);
	return expression_tree_walker(node, check_node, context);
}

/* With what is the same for all rides computed. */
static Node *
fold(Node *expr)
{
	PlannerInfo *root = makeNode(PlannerInfo);

	root->glob = makeNode(PlannerGlobal);
	return estimate_expression_value(root, expr);
}

static void
set_plain(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

/*
 * What is written with these settings is read the same on all nodes.  They last
 * until AtEOXact_GUC(true, the level that is returned).
 */
int
fleet_query_plain_settings(void)
{
	int			nest = NewGUCNestLevel();

	set_plain("search_path", "pg_catalog, pg_temp");
	set_plain("datestyle", "ISO");
	set_plain("intervalstyle", "postgres");
	set_plain("extra_float_digits", "1");
	set_plain("standard_conforming_strings", "on");
	return nest;
}

/* A position in an error is one in the condition, not in the caller's statement. */
static void
on_error(void *arg)
{
	int			position = geterrposition();

	if (position == 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(arg);
}

/*
 * Add the user's condition to a read.  The search path is the caller's; what is
 * added needs none.
 */
void
fleet_query_add_condition(FleetRead *read, const char *text, Oid relid)
{
	ErrorContextCallback context = {.callback = on_error,.arg = unconstify(char *, text)};
	Node	   *expr;
	char	   *sql;
	int			nest;

	context.previous = error_context_stack;
	error_context_stack = &context;
	expr = analyze(text, relid);
	error_context_stack = context.previous;
	(void) check_node(expr, NULL);
	if (contain_volatile_functions(expr))
		raise_refused("a volatile function", NULL);
	expr = fold(expr);
	if (contain_mutable_functions(expr))
		raise_refused("what depends on the session's settings",
					  "Compare columns as what they are; where a time zone is needed, say which: requested_at AT TIME ZONE 'UTC'.");
	nest = fleet_query_plain_settings();
	sql = deparse_expression(expr, deparse_context_for("r", relid), true, false);
	AtEOXact_GUC(true, nest);
	appendStringInfo(&read->condition, " AND (%s)", sql);
	read->once = true;
}
