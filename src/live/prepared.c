/*-------------------------------------------------------------------------
 *
 * prepared.c
 *	  Notes of transactions that are prepared, kept in shared memory.
 *
 * COMMIT PREPARED may be run by any backend, and tells nobody.  So whoever wants
 * to know looks: before a search, and before the first note of a transaction, each
 * transaction kept here is asked about.  Where it has ended its notes are applied, or
 * dropped if it was rolled back.  Until then the index has what was
 * committed before it, which is right.
 *
 * The order matters: first whether it still runs, then whether it has committed.
 * A transaction is among those that run until its rows can be seen.
 *
 * What is here is lost with the server.  A build (build.c) that finds a prepared
 * transaction of before that waits for its end, and so it does for one whose notes did not fit.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/prepared.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"

#include "base/shmem.h"
#include "live/record.h"
#include "live/shared.h"

#define SAVED_MAX 4096

typedef struct SavedNote
{
	Oid			database;
	TransactionId xid;
	uint64		since;			/* see fleet_live_begin_noting() */
	FleetLiveNote note;
} SavedNote;

typedef struct Saved
{
	LWLock		lock;
	pg_atomic_uint32 n;			/* changed under the lock */
	SavedNote	notes[SAVED_MAX];	/* those of one transaction in a row */
} Saved;

static Saved *saved = NULL;

static void
init_saved(void *area)
{
	Saved	   *s = area;

	fleet_base_shmem_init_lock(&s->lock, "FleetLivePrepared");
	pg_atomic_init_u32(&s->n, 0);
}

void
fleet_live_prepared_init(void)
{
	fleet_base_shmem_reserve("fleet live prepared", sizeof(Saved), init_saved, (void **) &saved);
}

/* The lock is held. */
static void
set_count(uint32 n)
{
	uint64		since = 0;

	for (uint32 i = 0; i < n; i++)
		if (since == 0 || saved->notes[i].since < since)
			since = saved->notes[i].since;
	pg_atomic_write_u64(&fleet_live_shared->saved_since, since);
	pg_atomic_write_u32(&saved->n, n);
}

/* Keep the notes of a transaction that is about to be prepared, if there is room. */
bool
fleet_live_save_prepared(TransactionId xid, const FleetLiveNote *notes, int n)
{
	uint32		before;
	bool		room;

	LWLockAcquire(&saved->lock, LW_EXCLUSIVE);
	before = pg_atomic_read_u32(&saved->n);
	room = n <= SAVED_MAX - before;
	for (int i = 0; room && i < n; i++)
	{
		SavedNote  *s = &saved->notes[before + i];

		s->database = MyDatabaseId;
		s->xid = xid;
		s->since = fleet_live_noting_since();
		s->note = notes[i];
	}
	if (room)
		set_count(before + n);
	LWLockRelease(&saved->lock);
	return room;
}

/* Take out the n notes from first on.  The lock is held. */
static void
take_out(uint32 first, uint32 n)
{
	uint32		count = pg_atomic_read_u32(&saved->n);

	memmove(&saved->notes[first], &saved->notes[first + n], sizeof(SavedNote) * (count - first - n));
	set_count(count - n);
}

/* How many notes from first on are of one transaction.  The lock is held. */
static uint32
count_of_one(uint32 first)
{
	uint32		n = 1;

	while (first + n < pg_atomic_read_u32(&saved->n) &&
		   saved->notes[first + n].xid == saved->notes[first].xid)
		n++;
	return n;
}

/* PREPARE has failed. */
void
fleet_live_drop_prepared(TransactionId xid)
{
	LWLockAcquire(&saved->lock, LW_EXCLUSIVE);
	for (uint32 i = 0; i < pg_atomic_read_u32(&saved->n); i++)
		if (saved->notes[i].xid == xid)
			take_out(i, count_of_one(i));
	LWLockRelease(&saved->lock);
}

/* Are there notes of that transaction? */
bool
fleet_live_is_saved(TransactionId xid)
{
	bool		found = false;

	LWLockAcquire(&saved->lock, LW_SHARED);
	for (uint32 i = 0; i < pg_atomic_read_u32(&saved->n) && !found; i++)
		found = saved->notes[i].xid == xid;
	LWLockRelease(&saved->lock);
	return found;
}

/* Apply or drop the notes of this database's transactions that have ended. */
void
fleet_live_settle_prepared(void)
{
	uint32		i = 0;

	if (pg_atomic_read_u32(&saved->n) == 0)
		return;
	LWLockAcquire(&saved->lock, LW_EXCLUSIVE);
	while (i < pg_atomic_read_u32(&saved->n))
	{
		uint32		n = count_of_one(i);

		if (saved->notes[i].database != MyDatabaseId || TransactionIdIsInProgress(saved->notes[i].xid))
		{
			i += n;
			continue;
		}
		if (TransactionIdDidCommit(saved->notes[i].xid))
			for (uint32 j = i; j < i + n; j++)
				fleet_live_apply(&saved->notes[j].note, 1);
		take_out(i, n);
	}
	LWLockRelease(&saved->lock);
}
