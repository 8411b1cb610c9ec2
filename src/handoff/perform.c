/*-------------------------------------------------------------------------
 *
 * perform.c
 *	  A call is made on the node that has the ride or vehicle.
 *
 * The functions that users call work on what is here, and hand the rest to
 * fleet.route() (route.c), which asks another node to make the same call.  That
 * node makes it with the same function; where that one finds that the row is not
 * here either, its fleet.route() does not go on from there but notes where the
 * row went, and the node that was called first follows.  So there is one
 * coordinator, and each node does its part in one branch.
 *
 * Before anything else, who performs a call on a row that a prepared branch has
 * inserted or is taking away has the resolver finish that branch, and waits for
 * it, up to fleet.lock_timeout: who was told that a handoff is committed finds the
 * ride where it went, also while the confirmation of some node is still
 * outstanding.  Nobody else waits.  Who reads a ride by its id has it finished, too,
 * but takes what there is after a moment.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/perform.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "base/fault.h"
#include "base/worker.h"
#include "clock/clock.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "handoff/move.h"
#include "handoff/route.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_handoff_perform_sql);
PG_FUNCTION_INFO_V1(fleet_handoff_await_sql);

/* How often the resolver is woken while one waits for it, and looked after it. */
#define WAKE_MS 100
#define LOOK_MS 5

/* The call that is being made here for another node, or for fleet.route(). */
typedef struct Serving
{
	const char *key;			/* NULL: the call is about a place */
	bool		for_other;		/* in a branch of another node's transaction */
	bool		not_here;
	char	   *gone;
	MemoryContext context;
} Serving;

static Serving *serving = NULL;

static FleetCallSpec specs[] = {
	{"request_ride", true, false, {
		"SELECT pg_catalog.to_jsonb(fleet.request_ride($1->>'ride_id', $1->>'customer_id', ($1->>'lon')::float8, ($1->>'lat')::float8,"
		" $1->>'vehicle_id', ($1->>'fare')::numeric, ($1->>'end_lon')::float8, ($1->>'end_lat')::float8, ($1->>'at')::timestamptz,"
		" $1->>'idempotency_key'))", 1, {JSONBOID}
	}},
	{"register_vehicle", true, true, {
		"SELECT pg_catalog.to_jsonb(fleet.register_vehicle($1->>'vehicle_id', ($1->>'lon')::float8, ($1->>'lat')::float8,"
		" ($1->>'status')::fleet.vehicle_status))", 1, {JSONBOID}
	}},
	{"set_ride_status", false, false, {
		"SELECT 'null'::jsonb FROM fleet.set_ride_status($1->>'ride_id', ($1->>'status')::fleet.ride_status,"
		" $1->>'vehicle_id', ($1->>'at')::timestamptz, $1->>'idempotency_key')", 1, {JSONBOID}
	}},
	{"update_ride", false, false, {
		"SELECT 'null'::jsonb FROM fleet.update_ride($1->>'ride_id', $1->'changes', $1->>'idempotency_key')", 1, {JSONBOID}
	}},
	{"report_fix", false, true, {
		"SELECT pg_catalog.to_jsonb(fleet.report_fix($1->>'vehicle_id', ($1->>'lon')::float8, ($1->>'lat')::float8, ($1->>'at')::timestamptz,"
		" ($1->>'speed_kmh')::float8, ($1->>'heading')::float8, ($1->>'accuracy_m')::float8, ($1->>'battery_pct')::float8,"
		" ($1->>'altitude_m')::float8, ($1->>'status')::fleet.vehicle_status))", 1, {JSONBOID}
	}}
};

static FleetPlan branch_plan = {
	"SELECT p.gid FROM pg_catalog.pg_prepared_xacts AS p"
	" WHERE p.transaction = $1::pg_catalog.xid AND p.gid LIKE 'fleet:%'"
	" AND p.prepared <= pg_catalog.clock_timestamp() - $2 * interval '1 millisecond'", 2, {TEXTOID, INT4OID}
};

/* The call of this name, or an error. */
FleetCallSpec *
fleet_handoff_call_spec(const char *name)
{
	for (int i = 0; i < lengthof(specs); i++)
		if (strcmp(specs[i].name, name) == 0)
			return &specs[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("\"%s\" is not a call that other nodes make", name)));
}

/* ---------- waiting for what is in doubt ---------- */

/* The transaction that is inserting or changing the row, if any. */
static TransactionId
writer_of(bool vehicles, const char *id)
{
	Datum		key = CStringGetTextDatum(id);
	SnapshotData dirty;
	FleetOpenTable open;
	TransactionId writer = InvalidTransactionId;

	InitDirtySnapshot(dirty);
	fleet_base_table_open(vehicles ? &fleet_handoff_vehicle_table : &fleet_handoff_ride_table,
						  false, &open);
	if (fleet_base_table_find(&open, &dirty, 1, &key))
		writer = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
	fleet_base_table_close(&open);
	return writer;
}

/* The name of a prepared branch of some age, or NULL where the transaction is none. */
static char *
branch_of(TransactionId xid, int age_ms)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {CStringGetTextDatum(psprintf("%u", xid)), Int32GetDatum(age_ms)};
	char	   *gid = NULL;

	SPI_connect();
	if (fleet_base_plan_execute(&branch_plan, NULL, values, NULL) > 0)
		gid = MemoryContextStrdup(context, fleet_base_plan_text(0, 1));
	SPI_finish();
	return gid;
}

/* Wait for so long until a prepared transaction has ended.  False if it has not. */
static bool
await_end(TransactionId xid, int patience_ms)
{
	int64		deadline = fleet_remote_deadline(patience_ms);

	for (int waited = 0; TransactionIdIsInProgress(xid); waited += LOOK_MS)
	{
		if (fleet_remote_deadline(0) >= deadline)
			return false;
		if (waited % WAKE_MS == 0)
			fleet_base_worker_wake(MyDatabaseId);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * For readers: one who was told that a handoff is committed sees it.  That a branch
 * is new says that its coordinator is still at it, and has told nobody.
 */
void
fleet_handoff_await_briefly(const FleetRegionMap *map, bool vehicles, const char *id,
							int patience_ms)
{
	FleetCaller caller;
	TransactionId writer;

	if (map->own == NULL)
		return;
	fleet_base_become_owner(&caller);
	writer = writer_of(vehicles, id);
	if (TransactionIdIsValid(writer) && branch_of(writer, FLEET_ASK_AGE_MS) != NULL)
		(void) await_end(writer, patience_ms);
	fleet_base_become_caller(&caller);
}

/*
 * Where a prepared branch has inserted the row, or is taking it away, have that
 * branch finished first.  True where there was one.
 */
bool
fleet_handoff_await(const FleetRegionMap *map, bool vehicles, const char *id)
{
	FleetCaller caller;
	TransactionId writer;
	char	   *gid = NULL;

	if (map->own == NULL)
		return false;
	fleet_base_become_owner(&caller);
	writer = writer_of(vehicles, id);
	if (TransactionIdIsValid(writer))
		gid = branch_of(writer, 0);
	if (gid != NULL && !await_end(writer, fleet_commit_lock_timeout))
		ereport(ERROR,
				(errcode(FLEET_ERRCODE_IN_DOUBT),
				 errmsg("%s \"%s\" is in doubt", vehicles ? "vehicle" : "ride", id),
				 errdetail("Branch \"%s\" holds it, and its coordinator has not said for %d ms what became of it.",
						   gid, fleet_commit_lock_timeout),
				 errhint("Try again. The view fleet.in_doubt shows what it waits for.")));
	fleet_base_become_caller(&caller);
	return gid != NULL;
}

/* fleet.await_outcome(kind text, key text, patience_ms integer) */
Datum
fleet_handoff_await_sql(PG_FUNCTION_ARGS)
{
	bool		vehicles = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(0)), "vehicle") == 0;
	char	   *id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			patience_ms = PG_GETARG_INT32(2);

	if (patience_ms > 0)
		fleet_handoff_await_briefly(fleet_region_map(), vehicles, id, patience_ms);
	else
		(void) fleet_handoff_await(fleet_region_map(), vehicles, id);
	PG_RETURN_VOID();
}

/* ---------- making the call ---------- */

/* Is this a part of another node's transaction, which may have to be prepared? */
bool
fleet_handoff_is_serving(void)
{
	return serving != NULL && serving->for_other;
}

/*
 * The function that makes the call has not found the row here.  Where the call is
 * made for another node, note where it went; else it is for us to follow: false.
 */
bool
fleet_handoff_note_not_here(const FleetRegionMap *map, bool vehicles, const char *key)
{
	char	   *gone;

	if (serving == NULL)
		return false;
	if (serving->key != NULL && strcmp(serving->key, key) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a trigger cannot change \"%s\", which is in another region", key),
				 errdetail("It runs as a part of another node's call.")));
	gone = fleet_handoff_whereabouts(map, vehicles, key);
	serving->not_here = true;
	if (gone != NULL && fleet_region_find(map, gone) != NULL)
		serving->gone = MemoryContextStrdup(serving->context, gone);
	return true;
}

/* Make a call on what is here, with the present user's rights. */
void
fleet_handoff_perform(FleetCallSpec *spec, const char *key, Datum arguments, bool for_other,
					  FleetPerformed *performed)
{
	Serving		mine = {.key = key,.for_other = for_other,.context = CurrentMemoryContext};
	Serving    *outer = serving;
	char	   *volatile result = NULL;

	serving = &mine;
	PG_TRY();
	{
		SPI_connect();
		if (fleet_base_plan_execute(&spec->plan, NULL, &arguments, NULL) > 0)
			result = fleet_base_plan_text(0, 1);
		if (result != NULL)
			result = MemoryContextStrdup(mine.context, result);
		SPI_finish();
	}
	PG_FINALLY();
	{
		serving = outer;
	}
	PG_END_TRY();
	performed->done = !mine.not_here;
	performed->result = result;
	performed->gone = mine.gone;
}

static Datum
as_json(const FleetPerformed *performed)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"hlc\": " UINT64_FORMAT, fleet_clock_now());
	if (performed->done)
		appendStringInfo(&buf, ", \"result\": %s", performed->result ? performed->result : "null");
	else if (performed->gone != NULL)
		appendStringInfo(&buf, ", \"gone\": \"%s\"", performed->gone);
	appendStringInfoChar(&buf, '}');
	return PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
}

/* A call that another node has asked for. */
typedef struct Asked
{
	FleetCallSpec *spec;
	const char *key;
	Datum		arguments;
	FleetPerformed performed;
} Asked;

/* The owner makes it. */
static void
perform_asked(void *arg)
{
	Asked	   *asked = arg;
	FleetCaller caller;

	fleet_base_become_owner(&caller);
	fleet_handoff_perform(asked->spec, asked->key, asked->arguments, true, &asked->performed);
	fleet_base_become_caller(&caller);
}

/*
 * fleet.perform(call text, key text, arguments jsonb, stamp bigint, lock_timeout
 * integer) -> text: for another node.  {hlc, result}, or where the row is not here
 * {hlc, gone}, gone being the region where it went, if known.  The key is null
 * where the call is about a place.
 */
Datum
fleet_handoff_perform_sql(PG_FUNCTION_ARGS)
{
	const FleetRegionMap *map = fleet_region_map_member();
	Asked		asked = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("call, arguments, stamp and lock timeout must not be null")));
	RequireTransactionBlock(true, "fleet.perform");
	asked.spec = fleet_handoff_call_spec(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	asked.key = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	asked.arguments = PG_GETARG_DATUM(2);
	(void) fleet_clock_receive((uint64) PG_GETARG_INT64(3));
	if (asked.key != NULL)
		(void) fleet_handoff_await(map, asked.spec->vehicles, asked.key);
	fleet_handoff_with_lock_timeout(PG_GETARG_INT32(4), fleet_handoff_own_region(map)->name,
									asked.spec->vehicles ? "the vehicle" : "the ride",
									perform_asked, &asked);
	FLEET_FAULT("performed");
	return as_json(&asked.performed);
}
