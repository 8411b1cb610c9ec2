/*-------------------------------------------------------------------------
 *
 * whereabouts.c
 *	  In which region is a ride or vehicle?
 *
 * Each node knows what is live in its region, and where what has left it went.
 * Who does not know asks all regions at once.  "Live" is the answer; a
 * departure may be an old one, so it only stands until somebody has the row.
 * Nothing is locked: the row may move meanwhile, and whoever acts on the answer
 * checks it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/handoff/whereabouts.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/errcodes.h"
#include "handoff/move.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_handoff_whereabouts_sql);

/* How long a node may take to say where a row is. */
#define WHEREABOUTS_TIMEOUT_MS 2000

#define WHEREABOUTS_SQL "SELECT fleet.whereabouts($1, $2)"

/* What is asked of the regions, by their numbers in the map. */
typedef struct Search
{
	const FleetRegionMap *map;
	const char *kind;
	const char *id;
	FleetConn **conns;			/* asked; NULL otherwise */
	char	  **answers;
	char	   *unreachable;	/* a region that could not be asked, or NULL */
	char	   *error;
} Search;

/*
 * What this node knows: "LIVE", "DELETED", the region it departed to (whose name
 * is in lower case), or NULL; palloc'd.
 */
char *
fleet_handoff_whereabouts(const FleetRegionMap *map, bool vehicles, const char *id)
{
	Datum		key = CStringGetTextDatum(id);
	Snapshot	snapshot = fleet_handoff_snapshot();
	FleetOpenTable open;
	char	   *answer = NULL;

	if (map->own != NULL)
	{
		fleet_base_table_open(vehicles ? &fleet_handoff_vehicle_table : &fleet_handoff_ride_table,
							  false, &open);
		if (fleet_base_table_find(&open, snapshot, 1, &key))
			answer = pstrdup("LIVE");
		fleet_base_table_close(&open);
	}
	if (answer == NULL)
	{
		fleet_base_table_open(&fleet_handoff_departure_table, false, &open);
		if (fleet_handoff_find_departure(&open, snapshot, vehicles ? "vehicle" : "ride", id))
		{
			answer = fleet_base_table_get_text(&open, "target");
			if (answer == NULL)
				answer = pstrdup("DELETED");
		}
		fleet_base_table_close(&open);
	}
	UnregisterSnapshot(snapshot);
	return answer;
}

/* ---------- asking the regions ---------- */

static void
ask(Search *s, int region)
{
	const char *params[2] = {s->kind, s->id};
	const char *name = s->map->regions[region].name;

	s->conns[region] = fleet_remote_try_connect(name, &s->error);
	if (s->conns[region] == NULL)
		s->unreachable = pstrdup(name);
	else
		(void) fleet_remote_send_prepared(s->conns[region], WHEREABOUTS_SQL, 2, params);
}

/*
 * Read the answer of a region.  The connection may be that of a branch, with
 * earlier replies still due; an error among them is the branch's, and raised.
 */
static void
receive(Search *s, int region, int64 deadline)
{
	FleetConn  *conn = s->conns[region];
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};

	do
	{
		fleet_remote_clear(&reply);
		if (fleet_remote_receive(conn, deadline, &reply) != FLEET_REPLY_OK)
		{
			if (reply.status == FLEET_REPLY_ERROR)
				fleet_remote_raise(conn, &reply, WHEREABOUTS_SQL);
			s->unreachable = pstrdup(conn->region);
			s->error = fleet_remote_error_text(conn, &reply);
			fleet_remote_clear(&reply);
			return;
		}
	} while (conn->pending > 0);
	if (PQntuples(reply.result) > 0 && !PQgetisnull(reply.result, 0, 0))
		s->answers[region] = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
}

/*
 * Where the departure of a region leads to, over further departures.  NULL
 * where it was deleted in the end, or did not depart from there.
 */
static char *
follow_departures(const Search *s, int region)
{
	char	   *at = NULL;

	for (int hops = 0; hops < s->map->nregion; hops++)
	{
		const FleetRegion *next;

		if (s->answers[region] == NULL)
			return at;
		if (strcmp(s->answers[region], "DELETED") == 0)
			return NULL;
		at = s->answers[region];
		next = fleet_region_find(s->map, at);
		if (next == NULL)
			return at;
		region = next - s->map->regions;
	}
	return at;
}

/* The region that has it, or where the departures lead to, or NULL. */
static char *
conclude(const Search *s, bool *live)
{
	char	   *hint = NULL;

	for (int i = 0; i < s->map->nregion; i++)
		if (s->answers[i] != NULL && strcmp(s->answers[i], "LIVE") == 0)
		{
			*live = true;
			return s->map->regions[i].name;
		}
	for (int i = 0; i < s->map->nregion && hint == NULL; i++)
		hint = follow_departures(s, i);
	return hint;
}

/*
 * The region where a ride or vehicle lives, as far as the nodes know, or NULL
 * where none has it.  *live is set where that region's node said so itself.  Raises
 * an error where nobody has it and one of the nodes cannot be asked.
 */
char *
fleet_handoff_search(const FleetRegionMap *map, bool vehicles, const char *id, bool *live)
{
	Search		s = {.map = map,.kind = vehicles ? "vehicle" : "ride",.id = id};
	int64		deadline = fleet_remote_deadline(WHEREABOUTS_TIMEOUT_MS);
	char	   *region;

	s.conns = palloc0(sizeof(FleetConn *) * map->nregion);
	s.answers = palloc0(sizeof(char *) * map->nregion);
	for (int i = 0; i < map->nregion; i++)
		if (&map->regions[i] != map->own)
			ask(&s, i);
	if (map->own != NULL)
		s.answers[map->own - map->regions] = fleet_handoff_whereabouts(map, vehicles, id);
	for (int i = 0; i < map->nregion; i++)
		if (s.conns[i] != NULL)
			receive(&s, i, deadline);
	region = conclude(&s, live);
	if (region == NULL && s.unreachable != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not ask region \"%s\" whether it has %s \"%s\"",
						s.unreachable, s.kind, id),
				 errdetail_internal("%s", s.error),
				 errhint("No other region has it. Is that region's server up?")));
	return region;
}

/* The only region that it can be in, given that it is neither here nor in that one; or NULL. */
char *
fleet_handoff_only_other(const FleetRegionMap *map, const FleetRegion *except)
{
	char	   *only = NULL;

	for (int i = 0; i < map->nregion; i++)
	{
		if (&map->regions[i] == map->own || &map->regions[i] == except)
			continue;
		if (only != NULL)
			return NULL;
		only = map->regions[i].name;
	}
	return only;
}

/* ---------- errors ---------- */

void
fleet_handoff_raise_not_found(bool vehicles, const char *id)
{
	ereport(ERROR,
			(errcode(vehicles ? FLEET_ERRCODE_VEHICLE_NOT_FOUND : FLEET_ERRCODE_RIDE_NOT_FOUND),
			 errmsg("%s \"%s\" does not exist", vehicles ? "vehicle" : "ride", id),
			 errdetail("No region has it.")));
}

void
fleet_handoff_raise_on_its_way(bool vehicles, const char *id)
{
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_IN_DOUBT),
			 errmsg("%s \"%s\" is being handed off by another transaction",
					vehicles ? "vehicle" : "ride", id),
			 errdetail("It has left one region and is not yet seen in the next."),
			 errhint("Try again. The view fleet.in_doubt shows what takes long.")));
}

/* fleet.whereabouts(kind text, key text) -> text */
Datum
fleet_handoff_whereabouts_sql(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *answer;

	answer = fleet_handoff_whereabouts(fleet_region_map(), strcmp(kind, "vehicle") == 0,
									   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}
