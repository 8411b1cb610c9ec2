/*-------------------------------------------------------------------------
 *
 * doubt.c
 *	  Peers with which something has been in doubt for too long: the alarm, and
 *	  the refusal of more of the same.
 *
 * A branch in doubt keeps its rows locked.  Where one outlives
 * fleet.max_in_doubt_age, its peer is gone or something needs an operator, and
 * each further handoff with that peer might add to it.  So this node begins none
 * until the old ones are resolved, and says so instead.
 *
 * The resolver keeps, for each peer, the oldest branch that is in doubt:
 *
 *	1. The round begins with none (doubt_begin).
 *	2. push.c notes each branch that was decided here and that its node has
 *	   still not confirmed after it was told in this round (doubt_note).
 *	3. doubt_publish adds what is prepared here, finds those that are too old,
 *	   and makes shared memory equal to them.  It runs only where the whole round
 *	   went well: after an error what was noted is not complete, and what was
 *	   published before stands.
 *
 * Branches of a coordinator that is on no map raise the alarm under the empty
 * name: there is no region to refuse.
 *
 * Shared memory holds nothing that is not in tables.  It is empty after a
 * restart, and filled again by the first round of each resolver.  The handoff
 * looks at one counter, and at the entries only where it is not zero.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/doubt.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errcodes.h"
#include "base/plan.h"
#include "base/shmem.h"
#include "commit/doubt.h"
#include "commit/gid.h"
#include "commit/resolver.h"

/* Peers, over all databases of the server.  More are not refused. */
#define DOUBT_MAX 256

/* An alarm is repeated when the age has doubled, and not before this. */
#define ALARM_AGAIN_MS 60000

/* The oldest branch that is in doubt with a peer. */
typedef struct Doubt
{
	Oid			database;		/* InvalidOid = free */
	char		region[NAMEDATALEN];
	char		gid[FLEET_GID_MAX];
	TimestampTz since;
	TimestampTz next_alarm;
} Doubt;

typedef struct DoubtShared
{
	pg_atomic_uint32 count;		/* entries that are not free */
	LWLock		lock;			/* protects the entries; only resolvers write */
	Doubt		entries[DOUBT_MAX];
} DoubtShared;

int			fleet_commit_max_in_doubt_age = 60000;

static DoubtShared *shared = NULL;

/* Of this round; as many as there can be regions on a map that anybody has. */
static Doubt noted[DOUBT_MAX];
static int	nnoted = 0;

static FleetPlan prepared_plan = {
	"SELECT COALESCE(m.name, ''), p.gid, p.prepared FROM pg_catalog.pg_prepared_xacts AS p"
	" LEFT JOIN fleet.map_regions AS m ON m.node = pg_catalog.split_part(p.gid, ':', 2)"
	" WHERE p.database = pg_catalog.current_database() AND p.gid LIKE 'fleet:%'"
};
static FleetPlan notify_plan = {
	"SELECT pg_catalog.pg_notify('fleet_alert', pg_catalog.json_build_object("
	"'kind', 'in_doubt', 'region', NULLIF($1, ''), 'gid', $2, 'age_s', $3)::text)",
	3, {TEXTOID, TEXTOID, INT8OID}
};

static void
init_shared(void *area)
{
	DoubtShared *s = area;

	memset(s, 0, sizeof(DoubtShared));
	pg_atomic_init_u32(&s->count, 0);
	fleet_base_shmem_init_lock(&s->lock, "FleetDoubt");
}

void
fleet_commit_doubt_reserve(void)
{
	fleet_base_shmem_reserve("fleet doubt", sizeof(DoubtShared), init_shared,
							 (void **) &shared);
}

static int64
age_s(const Doubt *doubt, TimestampTz now)
{
	return Max(now - doubt->since, 0) / USECS_PER_SEC;
}

/* ---------- the handoff ---------- */

/*
 * Raise an error where something has been in doubt with that region for too
 * long.  Costs one read of a counter while there is nothing of the kind.
 */
void
fleet_commit_doubt_refuse(const char *region)
{
	Doubt		found = {0};

	if (pg_atomic_read_u32(&shared->count) == 0 || fleet_commit_max_in_doubt_age == 0)
		return;
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < DOUBT_MAX; i++)
		if (shared->entries[i].database == MyDatabaseId &&
			strcmp(shared->entries[i].region, region) == 0)
			found = shared->entries[i];
	LWLockRelease(&shared->lock);
	if (found.database == InvalidOid)
		return;
	ereport(ERROR,
			(errcode(FLEET_ERRCODE_PEER_IN_DOUBT),
			 errmsg("a transaction with region \"%s\" has been in doubt for too long", region),
			 errdetail("Branch \"%s\" is " INT64_FORMAT " s old; fleet.max_in_doubt_age is %d ms.",
					   found.gid, age_s(&found, GetCurrentTimestamp()),
					   fleet_commit_max_in_doubt_age),
			 errhint("The view fleet.in_doubt says what it waits for. Where its coordinator is gone for good, use fleet.resolve.")));
}

/* ---------- the resolver ---------- */

void
fleet_commit_doubt_begin(void)
{
	nnoted = 0;
}

static Doubt *
find(Doubt *doubts, int n, const char *region)
{
	for (int i = 0; i < n; i++)
		if (doubts[i].database == MyDatabaseId && strcmp(doubts[i].region, region) == 0)
			return &doubts[i];
	return NULL;
}

/* A branch is in doubt since then; the oldest of a region is kept. */
void
fleet_commit_doubt_note(const char *region, const char *gid, TimestampTz since)
{
	Doubt	   *doubt = find(noted, nnoted, region);

	if (doubt == NULL && nnoted < DOUBT_MAX)
	{
		doubt = &noted[nnoted++];
		memset(doubt, 0, sizeof(Doubt));
		doubt->database = MyDatabaseId;
		doubt->since = PG_INT64_MAX;
		strlcpy(doubt->region, region, NAMEDATALEN);
	}
	if (doubt == NULL || doubt->since <= since)
		return;
	strlcpy(doubt->gid, gid, FLEET_GID_MAX);
	doubt->since = since;
}

static void
note_prepared(void)
{
	int			n = fleet_base_plan_execute(&prepared_plan, NULL, NULL, NULL);

	for (int i = 0; i < n; i++)
	{
		char	   *gid = fleet_base_plan_text(i, 2);
		FleetGid	parsed;

		if (fleet_commit_gid_parse(gid, &parsed))
			fleet_commit_doubt_note(fleet_base_plan_text(i, 1), gid,
									fleet_base_plan_int64(i, 3, NULL));
	}
}

static void
forget_young(TimestampTz now)
{
	int			kept = 0;

	for (int i = 0; i < nnoted; i++)
		if (fleet_commit_max_in_doubt_age > 0 &&
			now - noted[i].since >= fleet_commit_max_in_doubt_age * INT64CONST(1000))
			noted[kept++] = noted[i];
	nnoted = kept;
}

/* In the log, and for whoever listens. */
static void
raise_alarm(const Doubt *doubt, TimestampTz now)
{
	Datum		values[3];

	ereport(WARNING,
			(errcode(FLEET_ERRCODE_PEER_IN_DOUBT),
			 doubt->region[0] == '\0' ?
			 errmsg("fleet: a transaction of a node that is not on the region map has been in doubt for too long") :
			 errmsg("fleet: a transaction with region \"%s\" has been in doubt for too long",
					doubt->region),
			 errdetail("Branch \"%s\" is " INT64_FORMAT " s old.", doubt->gid, age_s(doubt, now)),
			 errhint("Handoffs with that region are refused until it is resolved; see fleet.in_doubt.")));
	values[0] = CStringGetTextDatum(doubt->region);
	values[1] = CStringGetTextDatum(doubt->gid);
	values[2] = Int64GetDatum(age_s(doubt, now));
	fleet_base_plan_execute(&notify_plan, NULL, values, NULL);
}

/* Take out of shared memory what is no longer too old; what stays keeps its alarm. */
static void
remove_resolved(void)
{
	Doubt	   *doubt;

	for (int i = 0; i < DOUBT_MAX; i++)
	{
		Doubt	   *entry = &shared->entries[i];

		if (entry->database != MyDatabaseId)
			continue;
		doubt = find(noted, nnoted, entry->region);
		if (doubt != NULL)
		{
			doubt->next_alarm = entry->next_alarm;
			continue;
		}
		ereport(LOG,
				(errmsg("fleet: nothing is in doubt for too long with region \"%s\" any more",
						entry->region)));
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		entry->database = InvalidOid;
		pg_atomic_sub_fetch_u32(&shared->count, 1);
		LWLockRelease(&shared->lock);
	}
}

static Doubt *
free_entry(void)
{
	for (int i = 0; i < DOUBT_MAX; i++)
		if (shared->entries[i].database == InvalidOid)
			return &shared->entries[i];
	return NULL;
}

static void
put(const Doubt *doubt)
{
	Doubt	   *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find(shared->entries, DOUBT_MAX, doubt->region);
	if (entry == NULL && (entry = free_entry()) != NULL)
		pg_atomic_add_fetch_u32(&shared->count, 1);
	if (entry != NULL)
		*entry = *doubt;
	LWLockRelease(&shared->lock);
}

/* Last step of a round that went well. */
void
fleet_commit_doubt_publish(MemoryContext context)
{
	TimestampTz now = GetCurrentTimestamp();

	fleet_commit_begin_step();
	SPI_connect();
	note_prepared();
	forget_young(now);
	remove_resolved();
	for (int i = 0; i < nnoted; i++)
	{
		Doubt	   *doubt = &noted[i];

		if (now >= doubt->next_alarm)
		{
			raise_alarm(doubt, now);
			doubt->next_alarm = now + Max(now - doubt->since, ALARM_AGAIN_MS * INT64CONST(1000));
		}
		put(doubt);
	}
	SPI_finish();
	fleet_commit_end_step();
}
