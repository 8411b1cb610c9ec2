/*-------------------------------------------------------------------------
 *
 * nearby.c
 *	  Vehicles of several regions put together, and fleet.vehicles_within().
 *
 * Peers answer with rows of fleet.nearby_vehicle as text, each with its epoch.  One
 * that two of them have is taken once, at the greater epoch.  The order is by distance,
 * where there is one, then by the bytes of the id.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/nearby.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "clock/clock.h"
#include "live/live.h"
#include "query/nearby.h"
#include "query/query.h"

PG_FUNCTION_INFO_V1(fleet_query_vehicles_within);

enum
{
	NEARBY_ID, NEARBY_REGION, NEARBY_STATUS, NEARBY_LON, NEARBY_LAT, NEARBY_DISTANCE,
	NEARBY_HEADING, NEARBY_FIX_AT
};

typedef struct Vehicle
{
	char	   *id;
	int64		epoch;
	double		distance;		/* 0 where there is none */
	HeapTuple	tuple;
} Vehicle;

struct FleetNearby
{
	TupleDesc	desc;
	int			n;
	int			room;
	Vehicle    *vehicles;
};

#define WITHIN_SQL "SELECT 'vehicle', (n.vehicle).vehicle_id, n.epoch, $1::text, n.vehicle::text" \
	" FROM fleet.within_peer($2::text, NULLIF($3, '')::fleet.vehicle_status, $4::integer) AS n"

static FleetPlan own_plan = {
	"SELECT n.vehicle, n.epoch FROM fleet.within_here(fleet.to_place($1), NULLIF($2, '')::fleet.vehicle_status, $3) AS n",
	3, {TEXTOID, TEXTOID, INT4OID}
};

TupleDesc
fleet_query_nearby_desc(void)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("nearby_vehicle"),
									   ObjectIdGetDatum(get_namespace_oid("fleet", false)));

	return lookup_rowtype_tupdesc_copy(type, -1);
}

FleetNearby *
fleet_query_nearby_begin(int room)
{
	FleetNearby *all = palloc0(sizeof(FleetNearby));

	all->desc = fleet_query_nearby_desc();
	all->room = Max(room, 16);
	all->vehicles = palloc(sizeof(Vehicle) * all->room);
	return all;
}

static void
add(FleetNearby *all, HeapTuple tuple, int64 epoch)
{
	Vehicle    *v;
	bool		isnull;

	if (all->n == all->room)
	{
		all->room *= 2;
		all->vehicles = repalloc_huge(all->vehicles, sizeof(Vehicle) * all->room);
	}
	v = &all->vehicles[all->n++];
	v->tuple = tuple;
	v->epoch = epoch;
	v->id = TextDatumGetCString(heap_getattr(tuple, NEARBY_ID + 1, all->desc, &isnull));
	v->distance = DatumGetFloat8(heap_getattr(tuple, NEARBY_DISTANCE + 1, all->desc, &isnull));
	if (isnull)
		v->distance = 0;
}

void
fleet_query_nearby_add(FleetNearby *all, Datum *values, bool *nulls, int64 epoch)
{
	add(all, heap_form_tuple(all->desc, values, nulls), epoch);
}

static void
add_record(FleetNearby *all, Datum record, int64 epoch)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	HeapTupleData tuple = {.t_data = header,.t_len = HeapTupleHeaderGetDatumLength(header)};

	add(all, heap_copytuple(&tuple), epoch);
}

static void
add_answer(FleetNearby *all, const FleetAnswer *answer)
{
	FmgrInfo	in;

	fmgr_info(F_RECORD_IN, &in);
	for (int i = 0; i < answer->nrow; i++)
		add_record(all, InputFunctionCall(&in, answer->rows[i][ANSWER_ROW], all->desc->tdtypeid, -1),
				   strtoll(answer->rows[i][ANSWER_EPOCH], NULL, 10));
}

/* Ask these regions, or with scope 'global-fast' a replica, and add what they say. */
void
fleet_query_nearby_ask(FleetNearby *all, FleetRead *read, List *regions, const char *sql)
{
	FleetLastRead log = {.scope = read->scope,.q = fleet_clock_now()};
	FleetAsking asking;
	ListCell   *cell;
	int			nest = fleet_query_plain_settings();

	if (read->scope == FLEET_SCOPE_FAST)
	{
		FleetAnswer *answer = fleet_query_ask_replica(read, &log, sql);

		if (answer != NULL)
			add_answer(all, answer);
	}
	else
	{
		fleet_query_begin_asking(&asking, read, &log, sql);
		foreach(cell, regions)
			(void) fleet_query_ask(&asking, lfirst(cell), NULL);
		foreach(cell, fleet_query_answers(&asking))
			add_answer(all, lfirst(cell));
	}
	AtEOXact_GUC(true, nest);
}

static int
compare_id(const void *left, const void *right)
{
	const Vehicle *a = left;
	const Vehicle *b = right;
	int			order = strcmp(a->id, b->id);

	if (order != 0)
		return order;
	return a->epoch > b->epoch ? -1 : a->epoch < b->epoch;
}

static int
compare_distance(const void *left, const void *right)
{
	const Vehicle *a = left;
	const Vehicle *b = right;

	if (a->distance != b->distance)
		return a->distance < b->distance ? -1 : 1;
	return strcmp(a->id, b->id);
}

/* Return each once, in their order, as many as are wanted; -1 = all. */
void
fleet_query_nearby_return(FleetNearby *all, int64 max, ReturnSetInfo *result)
{
	int			n = 0;

	qsort(all->vehicles, all->n, sizeof(Vehicle), compare_id);
	for (int i = 0; i < all->n; i++)
		if (n == 0 || strcmp(all->vehicles[i].id, all->vehicles[n - 1].id) != 0)
			all->vehicles[n++] = all->vehicles[i];
	qsort(all->vehicles, n, sizeof(Vehicle), compare_distance);
	for (int i = 0; i < n && (max < 0 || i < max); i++)
		tuplestore_puttuple(result->setResult, all->vehicles[i].tuple);
}

/* ---------- vehicles_within ---------- */

/* Those of this node, that the current user may see. */
static void
add_own(FleetNearby *all, const char *area, const char *status)
{
	MemoryContext context = CurrentMemoryContext;
	int			nest = fleet_query_plain_settings();
	Datum		values[3];
	int			n;

	SPI_connect();
	values[0] = CStringGetTextDatum(area);
	values[1] = CStringGetTextDatum(status);
	values[2] = Int32GetDatum(fleet_live_ttl);
	n = fleet_base_plan_execute(&own_plan, NULL, values, NULL);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		Datum		record = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		MemoryContext spi = MemoryContextSwitchTo(context);

		add_record(all, record, fleet_base_plan_int64(i, 2, NULL));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	AtEOXact_GUC(true, nest);
}

static void
init_read(FleetRead *read, const FleetRegionMap *map, const char *area, const char *status)
{
	memset(read, 0, sizeof(FleetRead));
	read->map = map;
	read->max_rows = -1;
	read->nparam = 4;
	read->params[1] = area;
	read->params[2] = status;
	read->params[3] = psprintf("%d", fleet_live_ttl);
}

/* fleet.vehicles_within(area text, status text, scope, on_unavailable): behind the one with a geography. */
Datum
fleet_query_vehicles_within(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	char	   *area = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *status = text_to_cstring(PG_GETARG_TEXT_PP(1));
	FleetScope	scope = fleet_query_read_scope(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	bool		partial = fleet_query_read_partial(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	List	   *names = NIL;
	FleetNearby *all;
	FleetRead	read;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	(void) fleet_query_check_vehicles(scope);
	fleet_query_check_scope(map, scope);
	all = fleet_query_nearby_begin(0);
	init_read(&read, map, area, status);
	read.scope = scope;
	read.partial = partial;
	for (int i = 0; scope == FLEET_SCOPE_LIVE && i < map->nregion; i++)
		if (&map->regions[i] != map->own)
			names = lappend(names, map->regions[i].name);
	if ((scope == FLEET_SCOPE_FAST) == (map->own == NULL))
		add_own(all, area, status);
	if (names != NIL || (scope == FLEET_SCOPE_FAST && map->own != NULL))
		fleet_query_nearby_ask(all, &read, names, WITHIN_SQL);
	fleet_query_nearby_return(all, -1, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
