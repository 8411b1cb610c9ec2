/*-------------------------------------------------------------------------
 *
 * search.c
 *	  The SQL functions that read rides.
 *
 * Rights: the caller needs SELECT on fleet.rides of this node.  Scope 'local' runs
 * with the caller's own rights, row-level security included.  The other
 * scopes are answered by nodes to whom the caller is nobody, so they are refused
 * where row-level security applies to the caller here.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/search.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "portability/instr_time.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "base/errcodes.h"
#include "clock/clock.h"
#include "query/query.h"
#include "query/read.h"

PG_FUNCTION_INFO_V1(fleet_query_search_rides);
PG_FUNCTION_INFO_V1(fleet_query_ride_sums);
PG_FUNCTION_INFO_V1(fleet_query_live_rides);
PG_FUNCTION_INFO_V1(fleet_query_get_ride);

static const char *const scope_names[] = {"local", "global-fast", "global-live"};

/* ---------- what is asked for ---------- */

FleetScope
fleet_query_read_scope(const char *text)
{
	for (int i = 0; text != NULL && i < lengthof(scope_names); i++)
		if (strcmp(text, scope_names[i]) == 0)
			return (FleetScope) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid scope \"%s\"", text ? text : "null"),
			 errhint("The scopes are 'local' (this region), 'global-fast' (the replica) and 'global-live' (all regions, exact).")));
}

bool
fleet_query_read_partial(const char *text)
{
	if (text != NULL && strcmp(text, "partial") == 0)
		return true;
	if (text == NULL || strcmp(text, "fail") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value \"%s\" of on_unavailable", text ? text : "null"),
				 errhint("It is 'fail' or 'partial'.")));
	return false;
}

/* An argument as text, by its type's output function; NULL where it is null. */
static char *
argument(FunctionCallInfo fcinfo, int n)
{
	Oid			output;
	bool		varlena;

	if (PG_ARGISNULL(n))
		return NULL;
	getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, n), &output, &varlena);
	return OidOutputFunctionCall(output, PG_GETARG_DATUM(n));
}

const char *
fleet_query_scope_name(FleetScope scope)
{
	return scope_names[scope];
}

/* fleet.rides, which the caller has rights on. */
Oid
fleet_query_rides_table(void)
{
	return get_relname_relid("rides", get_namespace_oid("fleet", false));
}

static void
check_rights(const FleetRead *read)
{
	Oid			relid = fleet_query_rides_table();
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "rides");
	if (read->scope != FLEET_SCOPE_LOCAL &&
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read the rides of other regions"),
				 errdetail("Row-level security of fleet.rides applies to you, and other nodes do not know your policies."),
				 errhint("Use scope 'local'.")));
}

static void
set_limit(FleetRead *read, FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return;
	read->max_rows = PG_GETARG_INT32(n);
	if (read->max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ROW_COUNT_IN_LIMIT_CLAUSE),
				 errmsg("max_rows must not be negative"),
				 errhint("Null is no limit.")));
}

static void
init_read(FleetRead *read, FunctionCallInfo fcinfo, const char *scope, const char *unavailable)
{
	memset(read, 0, sizeof(FleetRead));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	read->desc = ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc;
	read->map = fleet_region_map_member();
	read->scope = fleet_query_read_scope(scope);
	read->partial = fleet_query_read_partial(unavailable);
	read->max_rows = -1;
	read->nparam = 1;
	initStringInfo(&read->condition);
	check_rights(read);
	if (read->scope == FLEET_SCOPE_LOCAL && read->map->own == NULL)
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_NOT_WRITABLE),
				 errmsg("node \"%s\" is a replica and has no region of its own", read->map->node),
				 errhint("Use scope 'global-fast'.")));
}

/* From here to the end of run_read() values are written as all nodes read them. */
static void
begin_read(FleetRead *read)
{
	if (read->scope != FLEET_SCOPE_LOCAL)
		read->nest = fleet_query_plain_settings();
}

/* The arguments that all functions with a filter begin with, after the scope. */
static void
add_filter(FleetRead *read, FunctionCallInfo fcinfo)
{
	char	   *near = argument(fcinfo, 8);
	char	   *within_m = argument(fcinfo, 9);

	if ((near == NULL) != (within_m == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a place needs a distance, and a distance a place"),
				 errhint("Give both near and within_m (metres), or neither.")));
	read->region = argument(fcinfo, 1);
	if (read->region != NULL)
		(void) fleet_region_require(read->map, read->region);
	fleet_query_add(read, "r.region = $?", read->region);
	fleet_query_add(read, "r.status = $?::fleet.ride_status", argument(fcinfo, 2));
	fleet_query_add(read, "r.vehicle_id = $?", argument(fcinfo, 3));
	fleet_query_add(read, "r.customer_id = $?", argument(fcinfo, 4));
	fleet_query_add(read, "r.fare >= $?::numeric", argument(fcinfo, 5));
	fleet_query_add(read, "r.fare <= $?::numeric", argument(fcinfo, 6));
	fleet_query_add(read, "r.requested_at >= $?::timestamptz", argument(fcinfo, 7));
	if (near != NULL)
	{
		read->near = near;
		read->near_param = fleet_query_add_value(read, near);
		read->within_param = fleet_query_add_value(read, within_m);
	}
}

/*
 * The last condition, that of the place, once the order is known.  By distance an
 * index is to be read until the limit is reached.  But PostGIS tells the planner that a
 * distance it knows leaves hardly any rides, fewer than the limit; what is selected
 * it does not know.
 */
static void
add_place(FleetRead *read)
{
	if (read->near != NULL)
		appendStringInfo(&read->condition, read->by_distance ?
						 " AND fleet.is_within(r.current_location, (SELECT $%d::text), (SELECT $%d::float8))" :
						 " AND fleet.is_within(r.current_location, $%d, $%d::float8)",
						 read->near_param, read->within_param);
}

/* ---------- rows out ---------- */

/* A record's text as a row of fleet.rides. */
static HeapTuple
read_record(FmgrInfo *in, TupleDesc desc, const char *text)
{
	Datum		value = InputFunctionCall(in, unconstify(char *, text), desc->tdtypeid,
										  desc->tdtypmod);
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple = {.t_data = header,.t_len = HeapTupleHeaderGetDatumLength(header)};

	return heap_copytuple(&tuple);
}

static AttrNumber
find_column(const FleetRead *read, const char *name)
{
	for (int i = 0; i < read->desc->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(read->desc, i)->attname), name) == 0)
			return i + 1;
	elog(ERROR, "fleet.rides has no column \"%s\"", name);
}

static Tuplesortstate *
begin_sort(const FleetRead *read)
{
	AttrNumber	columns[2] = {read->order_column, find_column(read, "ride_id")};
	Oid			operators[2];
	Oid			collations[2];
	bool		nulls_first[2] = {read->descending, false};
	Form_pg_attribute att = TupleDescAttr(read->desc, read->order_column - 1);
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);

	operators[0] = read->descending ? type->gt_opr : type->lt_opr;
	collations[0] = att->attcollation;
	operators[1] = lookup_type_cache(TEXTOID, TYPECACHE_LT_OPR)->lt_opr;
	collations[1] = C_COLLATION_OID;
	return tuplesort_begin_heap(read->desc, 2, columns, operators, collations, nulls_first,
								work_mem, NULL, TUPLESORT_NONE);
}

/* A ride and how far away it is. */
typedef struct Distant
{
	float8		distance;
	char	   *id;
	HeapTuple	tuple;
} Distant;

static int
compare_distance(const void *a, const void *b, void *arg)
{
	const Distant *x = a;
	const Distant *y = b;
	const FleetRead *read = arg;

	if (x->distance != y->distance)
		return (x->distance < y->distance) == read->descending ? 1 : -1;
	return strcmp(x->id, y->id);
}

/* The function of PostGIS' operator for distances, the same that all nodes sort by. */
static void
find_distance(Oid type, FmgrInfo *function)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			schema = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	List	   *name = list_make2(makeString(get_namespace_name(schema)), makeString("<->"));

	ReleaseSysCache(tuple);
	fmgr_info(get_opcode(OpernameGetOprid(name, type, type)), function);
}

/* Return the rows, sorted by distance and cut as asked. */
static void
return_by_distance(FleetRead *read, ReturnSetInfo *result, List *rows)
{
	Distant    *rides = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(Distant) * Max(list_length(rows), 1));
	AttrNumber	place_column = find_column(read, "current_location");
	AttrNumber	id_column = find_column(read, "ride_id");
	Oid			type = TupleDescAttr(read->desc, place_column - 1)->atttypid;
	int64		left = read->max_rows >= 0 ? read->max_rows : PG_INT64_MAX;
	FmgrInfo	in;
	FmgrInfo	distance;
	Oid			input;
	Oid			parameter;
	Datum		near;
	ListCell   *cell;

	find_distance(type, &distance);
	getTypeInputInfo(type, &input, &parameter);
	near = OidInputFunctionCall(input, unconstify(char *, read->near), parameter, -1);
	fmgr_info(F_RECORD_IN, &in);
	foreach(cell, rows)
	{
		Distant    *ride = &rides[foreach_current_index(cell)];
		bool		isnull;
		Datum		place;

		ride->tuple = read_record(&in, read->desc, lfirst(cell));
		ride->id = TextDatumGetCString(heap_getattr(ride->tuple, id_column, read->desc, &isnull));
		place = heap_getattr(ride->tuple, place_column, read->desc, &isnull);
		/* No ride without a place is near to one. */
		Assert(!isnull);
		ride->distance = DatumGetFloat8(FunctionCall2(&distance, place, near));
	}
	qsort_arg(rides, list_length(rows), sizeof(Distant), compare_distance, read);
	for (int i = 0; i < list_length(rows) && left-- > 0; i++)
		tuplestore_puttuple(result->setResult, rides[i].tuple);
}

static void
return_rows(const FleetRead *read, ReturnSetInfo *result, List *rows)
{
	Tuplesortstate *sort = read->order_column ? begin_sort(read) : NULL;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(read->desc, &TTSOpsHeapTuple);
	TupleTableSlot *sorted;
	int64		left = read->max_rows >= 0 ? read->max_rows : PG_INT64_MAX;
	FmgrInfo	in;
	ListCell   *cell;

	fmgr_info(F_RECORD_IN, &in);
	foreach(cell, rows)
	{
		HeapTuple	tuple = read_record(&in, read->desc, lfirst(cell));

		if (sort != NULL)
			tuplesort_puttupleslot(sort, ExecStoreHeapTuple(tuple, slot, false));
		else if (left-- > 0)
			tuplestore_puttuple(result->setResult, tuple);
		heap_freetuple(tuple);
	}
	ExecDropSingleTupleTableSlot(slot);
	if (sort == NULL)
		return;
	sorted = MakeSingleTupleTableSlot(read->desc, &TTSOpsMinimalTuple);
	tuplesort_performsort(sort);
	while (left-- > 0 && tuplesort_gettupleslot(sort, true, false, sorted, NULL))
		tuplestore_puttupleslot(result->setResult, sorted);
	ExecDropSingleTupleTableSlot(sorted);
	tuplesort_end(sort);
}

/* Return the rows, sorted and cut as asked. */
static void
return_list(FleetRead *read, ReturnSetInfo *result, List *rows)
{
	if (read->by_distance)
		return_by_distance(read, result, rows);
	else
		return_rows(read, result, rows);
}

/* With the caller's own rights and in the caller's own snapshot. */
static void
return_local(FleetRead *read, uint64 q, ReturnSetInfo *result)
{
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);

	if (read->max_rows == 0)
		return;
	fleet_query_set_limit(read, read->max_rows);
	SetTuplestoreDestReceiverParams(receiver, result->setResult, CurrentMemoryContext, false,
									NULL, NULL);
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	fleet_query_execute_to(read, fleet_query_local_sql(read), q, receiver);
	PopActiveSnapshot();
	SPI_finish();
	receiver->rDestroy(receiver);
}

/* ---------- reading ---------- */

/* What other nodes have a part in, as records. */
static List *
read_others(FleetRead *read, FleetLastRead *log)
{
	if (read->scope == FLEET_SCOPE_FAST)
		return fleet_query_fast(read, log);
	if (read->parts)
		return fleet_query_sums(read, log);
	return fleet_query_exact(read, log);
}

/* Read, and return what was read.  Also a read that fails is the last one. */
static void
run_read(FleetRead *read, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	FleetLastRead log = {.scope = read->scope};
	instr_time	started;
	instr_time	ended;

	INSTR_TIME_SET_CURRENT(started);
	log.q = fleet_clock_now();
	PG_TRY();
	{
		log.summed = read->parts;
		if (read->scope == FLEET_SCOPE_LOCAL)
		{
			log.asked = list_make1(read->map->own->name);
			return_local(read, log.q, result);
		}
		else
			return_list(read, result, read_others(read, &log));
	}
	PG_FINALLY();
	{
		INSTR_TIME_SET_CURRENT(ended);
		INSTR_TIME_SUBTRACT(ended, started);
		log.latency_ms = INSTR_TIME_GET_MILLISEC(ended);
		fleet_query_keep_log(&log);
	}
	PG_END_TRY();
	if (read->nest != 0)
		AtEOXact_GUC(true, read->nest);
}

/* ---------- SQL functions ---------- */

/* fleet.search_rides(scope, region ... within_m, order_by, max_rows, on_unavailable) */
Datum
fleet_query_search_rides(PG_FUNCTION_ARGS)
{
	FleetRead	read;

	init_read(&read, fcinfo, argument(fcinfo, 0), argument(fcinfo, 12));
	begin_read(&read);
	add_filter(&read, fcinfo);
	fleet_query_set_order(&read, argument(fcinfo, 10));
	add_place(&read);
	set_limit(&read, fcinfo, 11);
	run_read(&read, fcinfo);
	return (Datum) 0;
}

/* fleet.ride_sums(scope, region ... within_m, on_unavailable, only_number): parts, to be added up. */
Datum
fleet_query_ride_sums(PG_FUNCTION_ARGS)
{
	FleetRead	read;

	init_read(&read, fcinfo, argument(fcinfo, 0), argument(fcinfo, 10));
	begin_read(&read);
	read.parts = true;
	read.only_number = !PG_ARGISNULL(11) && PG_GETARG_BOOL(11);
	(void) BlessTupleDesc(read.desc);
	add_filter(&read, fcinfo);
	add_place(&read);
	run_read(&read, fcinfo);
	return (Datum) 0;
}

/* fleet.live_rides(where_sql, scope, order_by, max_rows, on_unavailable) */
Datum
fleet_query_live_rides(PG_FUNCTION_ARGS)
{
	FleetRead	read;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the condition must not be null"),
				 errhint("'true' is every ride.")));
	init_read(&read, fcinfo, argument(fcinfo, 1), argument(fcinfo, 4));
	/* The names in it are the caller's. */
	fleet_query_add_condition(&read, argument(fcinfo, 0), fleet_query_rides_table());
	begin_read(&read);
	fleet_query_set_order(&read, argument(fcinfo, 2));
	set_limit(&read, fcinfo, 3);
	run_read(&read, fcinfo);
	return (Datum) 0;
}

/* fleet.get_ride(ride_id, scope) */
Datum
fleet_query_get_ride(PG_FUNCTION_ARGS)
{
	FleetRead	read;

	init_read(&read, fcinfo, argument(fcinfo, 1), "fail");
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	begin_read(&read);
	fleet_query_add(&read, "r.ride_id = $?", argument(fcinfo, 0));
	read.by_id = true;
	run_read(&read, fcinfo);
	return (Datum) 0;
}
