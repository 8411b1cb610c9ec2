/*-------------------------------------------------------------------------
 *
 * history_path.c
 *	  Where a ride or vehicle was: fleet.path_fixes(), behind fleet.ride_path() and
 *	  fleet.vehicle_path().
 *
 * A fix stays on the node that accepted it, so each region has a part of the path.
 * All regions are asked at once, since any may have been crossed; one that cannot
 * answer is an error, for a path with a gap looks like one without.  Nothing
 * moves between them, so the parts need no common snapshot.  A region that holds the
 * ride or vehicle in a prepared branch has that finished first, if that does not take long:
 * who was told that a fix is committed finds it.
 *
 * The parts are sorted by time.  A path has one place at a time: of fixes with the
 * same time, which only a vehicle that was deleted and registered again or two
 * vehicles of one ride can have, the one of the greatest epoch counts.
 *
 * Rights: the caller needs SELECT on fleet.rides, or fleet.vehicles, of this node.
 * Where row-level security applies to him, this node must show him the row, and
 * who may see the row may see its path.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/history_path.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "commit/commit.h"
#include "handoff/handoff.h"
#include "region/map.h"
#include "remote/remote.h"
#include "track/history.h"

PG_FUNCTION_INFO_V1(fleet_track_path_fixes);
PG_FUNCTION_INFO_V1(fleet_track_history_slots);

/* How long a prepared branch that holds the row is waited for, ms. */
#define PATIENCE_MS 100

#define AWAIT_SQL "SELECT fleet.await_outcome($1, $2, $3::integer)"

/* Time in microseconds, which all nodes read and write alike. */
#define FIXES_SQL \
	"SELECT (EXTRACT(epoch FROM h.at) * 1000000)::bigint, h.epoch, h.lon_e7, h.lat_e7" \
	" FROM fleet.fix_history AS h WHERE "
#define WITHIN_SQL " AND h.at >= $2::timestamptz AND h.at < $3::timestamptz"
#define RIDE_SQL FIXES_SQL "h.ride_id = $1" WITHIN_SQL
#define VEHICLE_SQL FIXES_SQL "h.vehicle_id = $1" WITHIN_SQL
#define HOURS_SQL VEHICLE_SQL \
	" AND h.slot = ANY (fleet.history_slots($1, $2::timestamptz, $3::timestamptz))"

/* A longer time is not looked up by hours: all fixes are looked through. */
#define MAX_HOURS (31 * 24)

typedef struct Fix
{
	TimestampTz at;
	int64		epoch;
	int32		lon;
	int32		lat;
} Fix;

typedef enum Question
{
	QUESTION_RIDE,
	QUESTION_VEHICLE,
	QUESTION_HOURS
} Question;

/* A question, and what has been answered. */
typedef struct Path
{
	const FleetRegionMap *map;
	bool		vehicles;		/* of a vehicle, else of a ride */
	Question	question;
	const char *params[3];		/* key, since, until */
	FleetConn **conns;			/* of the other regions; NULL = not asked */
	int			n;
	int			room;
	Fix		   *fixes;
} Path;

/* Each statement twice: for the other nodes, and for our own. */
static const char *const questions[] = {RIDE_SQL, VEHICLE_SQL, HOURS_SQL};

static FleetPlan own_plans[] = {
	{RIDE_SQL, 3, {TEXTOID, TEXTOID, TEXTOID}},
	{VEHICLE_SQL, 3, {TEXTOID, TEXTOID, TEXTOID}},
	{HOURS_SQL, 3, {TEXTOID, TEXTOID, TEXTOID}}
};

/* As the caller: with his policies. */
static FleetPlan visible_plans[] = {
	{"SELECT 1 FROM fleet.rides WHERE region = '%s' AND ride_id = $1", 1, {TEXTOID}},
	{"SELECT 1 FROM fleet.vehicles WHERE region = '%s' AND vehicle_id = $1", 1, {TEXTOID}}
};

static const char *
noun(const Path *path)
{
	return path->vehicles ? "vehicle" : "ride";
}

/* ---------- rights ---------- */

static bool
is_visible(const Path *path)
{
	Datum		key = CStringGetTextDatum(path->params[0]);
	bool		visible;

	if (path->map->own == NULL)
		return false;
	SPI_connect();
	visible = fleet_base_plan_execute(&visible_plans[path->vehicles], path->map->own->name,
									  &key, NULL) > 0;
	SPI_finish();
	return visible;
}

static void
check_rights(const Path *path)
{
	const char *name = path->vehicles ? "vehicles" : "rides";
	Oid			relid = get_relname_relid(name, get_namespace_oid("fleet", false));
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, name);
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED && !is_visible(path))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read the path of %s \"%s\"", noun(path),
						path->params[0]),
				 errdetail("Row-level security of fleet.%s applies to you, and shows you no such %s in this region.",
						   name, noun(path)),
				 errhint("Call the node of the region that it is in.")));
}

/* ---------- the parts ---------- */

static void
add_fix(Path *path, int64 unix_us, int64 epoch, int32 lon, int32 lat)
{
	Fix		   *fix;

	if (path->n == path->room)
	{
		path->room = path->room ? path->room * 2 : 64;
		path->fixes = path->fixes ?
			repalloc_huge(path->fixes, sizeof(Fix) * path->room) :
			palloc(sizeof(Fix) * path->room);
	}
	fix = &path->fixes[path->n++];
	fix->at = unix_us - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	fix->epoch = epoch;
	fix->lon = lon;
	fix->lat = lat;
}

static int64
own_value(int row, int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
}

/* What this node has, in the owner's rights. */
static void
read_own(Path *path)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi;
	FleetCaller caller;
	Datum		values[3];
	int			n;

	fleet_handoff_await_briefly(path->map, path->vehicles, path->params[0], PATIENCE_MS);
	for (int i = 0; i < 3; i++)
		values[i] = CStringGetTextDatum(path->params[i]);
	fleet_base_become_owner(&caller);
	SPI_connect();
	n = fleet_base_plan_execute_as_of_now(&own_plans[path->question], values);
	spi = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
		add_fix(path, own_value(i, 1), own_value(i, 2), (int32) own_value(i, 3),
				(int32) own_value(i, 4));
	MemoryContextSwitchTo(spi);
	SPI_finish();
	fleet_base_become_caller(&caller);
}

FLEET_NORETURN static void
raise_missing(const Path *path, const char *region, const char *error)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not read what region \"%s\" has of the path of %s \"%s\"", region,
					noun(path), path->params[0]),
			 errdetail_internal("%s", error),
			 errhint("Is its server up? A path is answered whole or not at all.")));
}

/* A lost request is told by the missing answer. */
static FleetConn *
ask(const Path *path, const char *region)
{
	const char *await[3] = {noun(path), path->params[0], CppAsString2(PATIENCE_MS)};
	char	   *error = NULL;
	FleetConn  *conn = fleet_remote_try_connect(region, &error);

	if (conn == NULL)
		raise_missing(path, region, error);
	/* An error there then undoes no more than it does here. */
	if (conn->in_transaction)
		(void) fleet_commit_join(region);
	if (fleet_remote_queue_prepared(conn, AWAIT_SQL, 3, await))
		(void) fleet_remote_send_prepared(conn, questions[path->question], 3, path->params);
	return conn;
}

static void
take_part(Path *path, const char *region, const PGresult *part)
{
	if (PQnfields(part) != 4)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("region \"%s\" answered with %d columns", region, PQnfields(part))));
	for (int i = 0; i < PQntuples(part); i++)
		add_fix(path, strtoll(PQgetvalue(part, i, 0), NULL, 10),
				strtoll(PQgetvalue(part, i, 1), NULL, 10),
				pg_strtoint32(PQgetvalue(part, i, 2)), pg_strtoint32(PQgetvalue(part, i, 3)));
}

/*
 * The answer of a region.  The connection may be that of a branch, with earlier replies
 * still due; an error among them, and any error of a branch, is the transaction's.
 */
static void
receive(Path *path, const char *region, FleetConn *conn, int64 deadline)
{
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

	do
	{
		fleet_remote_clear(&reply);
		if (fleet_remote_receive(conn, deadline, &reply) == FLEET_REPLY_OK)
			continue;
		if (reply.status == FLEET_REPLY_ERROR || conn->in_transaction)
			fleet_remote_raise(conn, &reply, questions[path->question]);
		raise_missing(path, region, fleet_remote_error_text(conn, &reply));
	} while (conn->pending > 0);
	take_part(path, region, reply.result);
	fleet_remote_clear(&reply);
}

/* All regions are asked before the first answer is awaited; ours is read meanwhile. */
static void
read_parts(Path *path)
{
	const FleetRegionMap *map = path->map;
	int64		deadline;

	/* The reads of rides (src/query) define it. */
	deadline = fleet_remote_deadline(pg_strtoint32(GetConfigOption("fleet.read_timeout", false, false)));
	path->conns = palloc0(sizeof(FleetConn *) * Max(map->nregion, 1));
	for (int i = 0; i < map->nregion; i++)
		if (&map->regions[i] != map->own)
			path->conns[i] = ask(path, map->regions[i].name);
	if (map->own != NULL)
		read_own(path);
	for (int i = 0; i < map->nregion; i++)
		if (path->conns[i] != NULL)
			receive(path, map->regions[i].name, path->conns[i], deadline);
}

/* ---------- the whole ---------- */

/* By time; of the same time the one that counts first. */
static int
compare_fixes(const void *a, const void *b)
{
	const Fix  *left = a;
	const Fix  *right = b;

	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	if (left->epoch != right->epoch)
		return left->epoch > right->epoch ? -1 : 1;
	if (left->lon != right->lon)
		return left->lon < right->lon ? -1 : 1;
	return left->lat < right->lat ? -1 : left->lat > right->lat;
}

static void
put_fixes(Path *path, ReturnSetInfo *result)
{
	qsort(path->fixes, path->n, sizeof(Fix), compare_fixes);
	for (int i = 0; i < path->n; i++)
	{
		const Fix  *fix = &path->fixes[i];
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		if (i > 0 && fix->at == fix[-1].at)
			continue;
		values[0] = TimestampTzGetDatum(fix->at);
		values[1] = Float8GetDatum(fix->lon / FLEET_HISTORY_UNITS);
		values[2] = Float8GetDatum(fix->lat / FLEET_HISTORY_UNITS);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/* How many hours a time touches; more than MAX_HOURS where it is too long. */
static int
count_hours(TimestampTz since, TimestampTz until)
{
	int64		first = fleet_track_history_hour(since);
	int64		last = fleet_track_history_hour(until);

	if (until <= since)
		return 0;
	if (TIMESTAMP_NOT_FINITE(since) || TIMESTAMP_NOT_FINITE(until) || last - first >= MAX_HOURS)
		return MAX_HOURS + 1;
	return (int) (last - first) + 1;
}

static Question
choose_question(const Path *path, TimestampTz since, TimestampTz until)
{
	if (!path->vehicles)
		return QUESTION_RIDE;
	return count_hours(since, until) <= MAX_HOURS ? QUESTION_HOURS : QUESTION_VEHICLE;
}

/*
 * fleet.history_slots(vehicle text, since timestamptz, until timestamptz) -> integer[]:
 * the slots of a vehicle in that time, as this node counts them.
 */
Datum
fleet_track_history_slots(PG_FUNCTION_ARGS)
{
	const char *vehicle = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz since = PG_GETARG_TIMESTAMPTZ(1);
	int			n = count_hours(since, PG_GETARG_TIMESTAMPTZ(2));
	Datum	   *slots;

	if (n > MAX_HOURS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d hours", MAX_HOURS)));
	slots = palloc(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
		slots[i] = Int32GetDatum(fleet_track_history_slot(vehicle, fleet_track_history_hour(since) + i));
	PG_RETURN_ARRAYTYPE_P(construct_array(slots, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/* A time as text that is read alike whatever the settings. */
static char *
time_text(TimestampTz at)
{
	return pstrdup(timestamptz_to_str(at));
}

/* fleet.path_fixes(kind text, key text, since timestamptz, until timestamptz) */
Datum
fleet_track_path_fixes(PG_FUNCTION_ARGS)
{
	Path		path = {.map = fleet_region_map_member()};
	TimestampTz since = PG_ARGISNULL(2) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(2);
	TimestampTz until = PG_ARGISNULL(3) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(3);
	char	   *kind;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	path.vehicles = strcmp(kind, "vehicle") == 0;
	if (!path.vehicles && strcmp(kind, "ride") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are no paths of \"%s\"", kind),
				 errhint("It is 'ride' or 'vehicle'.")));
	path.params[0] = text_to_cstring(PG_GETARG_TEXT_PP(1));
	path.params[1] = time_text(since);
	path.params[2] = time_text(until);
	path.question = choose_question(&path, since, until);
	check_rights(&path);
	read_parts(&path);
	put_fixes(&path, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
