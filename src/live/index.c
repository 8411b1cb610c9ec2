/*-------------------------------------------------------------------------
 *
 * index.c
 *	  The live index: the latest committed position of each vehicle of this
 *	  node's region, in shared memory.
 *
 * A vehicle has an entry.  Entries are found by the id's hash, and those with a
 * place also in a list of their cell's hash; a cell is a rectangle of a fixed grid.
 * A counter for each block of cells says where there is nothing at all.
 * One lock is held to search (shared) and to change (exclusive), the latter for some
 * dozen words, with nothing in it that can fail.
 *
 * What keeps the index right:
 *
 *	1. Only committed changes come in.  A row trigger notes what a transaction does to the
 *	   table, and the notes are applied when it has committed (note.c).  Of
 *	   transactions that are prepared the notes are kept until it is seen what became of
 *	   them (prepared.c).
 *	2. Two transactions that changed one vehicle may come in the other order than they
 *	   committed, since other backends see that a transaction has ended before it
 *	   applies its notes.  So each note has the row's version, and the greater one wins.
 *	3. A vehicle that is deleted, or handed off, leaves an entry with its last
 *	   version in no cell, or an older change that comes late would revive it.  Such an
 *	   entry is used for another vehicle only when nobody has notes that are older:
 *	   each backend says since when it has some, in a count of entries that
 *	   became idle.
 *	4. A table's vehicles are read in by the first search (build.c), after it was said that
 *	   changes are to be applied: what committed before that is in the
 *	   snapshot, what committed later is applied, and 2 orders the two.
 *	5. Where something does not fit (fleet.live_index_size, or a very long id) the table
 *	   is FULL: its searches go to the table itself, which is tried again later.
 *
 * The memory is one for all databases of the server: tables are told apart by
 * database and OID.  One that was dropped and made anew has another OID, and what
 * is known of the old one is forgotten then.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/index.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/shmem.h"
#include "live/live.h"
#include "live/record.h"
#include "live/shared.h"

/* Notes that are applied under one hold of the lock. */
#define APPLY_AT_ONCE 32

#define FULL_RETRY_MS	60000
#define RETRY_MS		1000

int			fleet_live_ttl = 600;

FleetLiveShared *fleet_live_shared = NULL;
FleetLiveEntry *fleet_live_entries;
uint32	   *fleet_live_cells;

static int	index_size = 100000;
static void *area = NULL;

/* Parts of the area; addresses are the same in all processes. */
static uint32 *ids;
static pg_atomic_uint64 *noting;	/* by backend: since when it has notes; 0 = it has none */

/* ---------- memory ---------- */

static uint32
id_buckets(void)
{
	return pg_nextpower2_32(Max(index_size, 16));
}

static uint32
cell_buckets(void)
{
	return 2 * id_buckets();
}

static Size
size_without_backends(void)
{
	Size		size = CACHELINEALIGN(sizeof(FleetLiveShared));

	if (index_size == 0)
		return MAXALIGN(1);
	size = add_size(size, PG_CACHE_LINE_SIZE);
	size = add_size(size, mul_size(index_size, sizeof(FleetLiveEntry)));
	size = add_size(size, mul_size(id_buckets() + cell_buckets(), sizeof(uint32)));
	return MAXALIGN(size);
}

/* Where the parts are. */
static void
find_parts(void)
{
	char	   *p = (char *) CACHELINEALIGN(area);

	fleet_live_shared = (FleetLiveShared *) p;
	p += CACHELINEALIGN(sizeof(FleetLiveShared));
	fleet_live_entries = (FleetLiveEntry *) p;
	p += (Size) index_size * sizeof(FleetLiveEntry);
	ids = (uint32 *) p;
	p += id_buckets() * sizeof(uint32);
	fleet_live_cells = (uint32 *) p;
	noting = (pg_atomic_uint64 *) ((char *) area + size_without_backends());
}

static void
init_shared(void *memory)
{
	FleetLiveShared *s;

	area = memory;
	if (index_size == 0)
		return;
	find_parts();
	s = fleet_live_shared;
	memset(s, 0, sizeof(FleetLiveShared));
	fleet_base_shmem_init_lock(&s->lock, "FleetLive");
	s->size = index_size;
	s->id_mask = id_buckets() - 1;
	s->cell_mask = cell_buckets() - 1;
	s->free = s->idle_first = s->idle_last = FLEET_LIVE_NONE;
	pg_atomic_init_u64(&s->idled, 0);
	pg_atomic_init_u64(&s->saved_since, 0);
	for (int i = 0; i < FLEET_LIVE_TABLES; i++)
	{
		pg_atomic_init_u64(&s->by_index[i], 0);
		pg_atomic_init_u64(&s->by_table[i], 0);
	}
	memset(ids, 0xFF, id_buckets() * sizeof(uint32));
	memset(fleet_live_cells, 0xFF, cell_buckets() * sizeof(uint32));
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u64(&noting[i], 0);
}

void
fleet_live_init(void)
{
	DefineCustomIntVariable("fleet.live_index_size",
							"How many vehicles the live index holds, of all databases of this server.",
							"Raise it above the number of vehicles of this server's regions; 220 bytes of shared memory each; 0 turns it off, searches then read the table.",
							&index_size, 100000, 0, 50000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.vehicle_ttl",
							"Time without a fix after which a vehicle counts as offline.",
							"Set it to several times the interval of the fixes; 0 = never.",
							&fleet_live_ttl, 600, 0, 31536000,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	fleet_base_shmem_reserve_slots("fleet live index", size_without_backends(),
								   sizeof(pg_atomic_uint64), init_shared, &area);
	fleet_live_prepared_init();
}

/* A standby applies changes of its primary without our hearing of it. */
bool
fleet_live_is_on(void)
{
	if (area == NULL || index_size == 0 || RecoveryInProgress())
		return false;
	if (fleet_live_shared == NULL)
		find_parts();
	return true;
}

/* ---------- entries ---------- */

static uint32
hash_of(int table, const FleetLiveRecord *record)
{
	return hash_combine(hash_bytes((const unsigned char *) record->id, record->id_size),
						murmurhash32(table));
}

static FleetLiveEntry *
find(int table, uint32 hash, const FleetLiveRecord *record)
{
	for (uint32 i = ids[hash & fleet_live_shared->id_mask]; i != FLEET_LIVE_NONE;)
	{
		FleetLiveEntry *e = &fleet_live_entries[i];

		if (e->hash == hash && e->table == table && e->record.id_size == record->id_size &&
			memcmp(e->record.id, record->id, record->id_size) == 0)
			return e;
		i = e->id_next;
	}
	return NULL;
}

static uint32
number_of(const FleetLiveEntry *e)
{
	return e - fleet_live_entries;
}

/* Put it into its cell, or at the end of the idle ones. */
static void
place(FleetLiveEntry *e)
{
	FleetLiveShared *s = fleet_live_shared;
	double		lambda = e->record.lon * (M_PI / 180.0);
	double		phi = e->record.lat * (M_PI / 180.0);
	int			x = fleet_live_column(e->record.lon);
	int			y = fleet_live_row(e->record.lat);
	uint32	   *head;

	e->is_placed = e->record.has_place && !e->record.is_gone;
	if (!e->is_placed)
	{
		e->cell = pg_atomic_add_fetch_u64(&s->idled, 1);
		e->cell_next = FLEET_LIVE_NONE;
		e->cell_prev = s->idle_last;
		*(s->idle_last == FLEET_LIVE_NONE ? &s->idle_first :
		  &fleet_live_entries[s->idle_last].cell_next) = number_of(e);
		s->idle_last = number_of(e);
		return;
	}
	e->at[0] = cos(phi) * cos(lambda);
	e->at[1] = cos(phi) * sin(lambda);
	e->at[2] = sin(phi);
	e->cell = fleet_live_cell(e->table, x, y);
	head = fleet_live_cell_head(e->cell);
	e->cell_next = *head;
	e->cell_prev = FLEET_LIVE_NONE;
	if (*head != FLEET_LIVE_NONE)
		fleet_live_entries[*head].cell_prev = number_of(e);
	*head = number_of(e);
	(*fleet_live_counter(e->table, x, y))++;
}

/* Take it from where place() has put it. */
static void
displace(FleetLiveEntry *e)
{
	FleetLiveShared *s = fleet_live_shared;

	if (e->cell_prev != FLEET_LIVE_NONE)
		fleet_live_entries[e->cell_prev].cell_next = e->cell_next;
	else if (e->is_placed)
		*fleet_live_cell_head(e->cell) = e->cell_next;
	else
		s->idle_first = e->cell_next;
	if (e->cell_next != FLEET_LIVE_NONE)
		fleet_live_entries[e->cell_next].cell_prev = e->cell_prev;
	else if (!e->is_placed)
		s->idle_last = e->cell_prev;
	if (e->is_placed)
		(*fleet_live_counter(e->table, fleet_live_column(e->record.lon), fleet_live_row(e->record.lat)))--;
}

/* Forget a vehicle. */
static void
release(FleetLiveEntry *e)
{
	uint32	   *link = &ids[e->hash & fleet_live_shared->id_mask];

	displace(e);
	while (*link != number_of(e))
		link = &fleet_live_entries[*link].id_next;
	*link = e->id_next;
	fleet_live_shared->tables[e->table].vehicles--;
	e->is_used = e->is_placed = false;
	e->id_next = fleet_live_shared->free;
	fleet_live_shared->free = number_of(e);
}

/* Does nobody have notes from before that? */
static bool
is_past(uint64 idled)
{
	uint64		saved = pg_atomic_read_u64(&fleet_live_shared->saved_since);

	if (saved != 0 && saved <= idled)
		return false;
	for (int i = 0; i < MaxBackends; i++)
	{
		uint64		since = pg_atomic_read_u64(&noting[i]);

		if (since != 0 && since <= idled)
			return false;
	}
	return true;
}

/* An unused entry, or NULL. */
static FleetLiveEntry *
take_free(void)
{
	FleetLiveShared *s = fleet_live_shared;
	FleetLiveEntry *e;

	if (s->free == FLEET_LIVE_NONE && s->nused < s->size)
		return &fleet_live_entries[s->nused++];
	if (s->free == FLEET_LIVE_NONE && s->idle_first != FLEET_LIVE_NONE &&
		is_past(fleet_live_entries[s->idle_first].cell))
		release(&fleet_live_entries[s->idle_first]);
	if (s->free == FLEET_LIVE_NONE)
		return NULL;
	e = &fleet_live_entries[s->free];
	s->free = e->id_next;
	return e;
}

static bool
is_newer(const FleetLiveRecord *a, const FleetLiveRecord *b)
{
	if (a->epoch != b->epoch)
		return a->epoch > b->epoch;
	if (a->hlc != b->hlc)
		return a->hlc > b->hlc;
	/* A row that is gone had that version. */
	return a->is_gone || !b->is_gone;
}

/* Let the index know of a record.  False where there is no room. */
static bool
apply(int table, const FleetLiveRecord *record)
{
	uint32		hash = hash_of(table, record);
	FleetLiveEntry *e = find(table, hash, record);

	if (e != NULL && !is_newer(record, &e->record))
		return true;
	if (e != NULL)
		displace(e);
	else
	{
		uint32	   *head = &ids[hash & fleet_live_shared->id_mask];

		e = take_free();
		if (e == NULL)
			return false;
		e->table = table;
		e->hash = hash;
		e->is_used = true;
		e->id_next = *head;
		*head = number_of(e);
		fleet_live_shared->tables[table].vehicles++;
	}
	memcpy(&e->record, record, offsetof(FleetLiveRecord, id) + record->id_size);
	place(e);
	return true;
}

/* ---------- tables ---------- */

static void
set_state(FleetLiveTable *t, FleetLiveState state)
{
	int			wait_ms = state == FLEET_LIVE_FULL ? FULL_RETRY_MS : RETRY_MS;

	t->state = state;
	t->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait_ms);
}

static void
forget_table(int table)
{
	FleetLiveShared *s = fleet_live_shared;

	for (uint32 i = 0; i < s->nused && s->tables[table].vehicles > 0; i++)
		if (fleet_live_entries[i].is_used && fleet_live_entries[i].table == table)
			release(&fleet_live_entries[i]);
}

/* The table's number; where it is new, in place of an older one of this database. */
static int
require_table(Oid relid)
{
	FleetLiveShared *s = fleet_live_shared;
	int			table = fleet_live_find_table(MyDatabaseId, relid);

	if (table >= 0)
		return table;
	for (int i = 0; i < FLEET_LIVE_TABLES; i++)
	{
		if (s->tables[i].database == MyDatabaseId)
		{
			table = i;
			break;
		}
		if (s->tables[i].database == InvalidOid && table < 0)
			table = i;
	}
	if (table < 0)
		return -1;
	forget_table(table);
	memset(&s->tables[table], 0, sizeof(FleetLiveTable));
	s->tables[table].database = MyDatabaseId;
	s->tables[table].relid = relid;
	s->tables[table].unknown_before = ReadNextFullTransactionId();
	pg_atomic_write_u64(&s->by_index[table], 0);
	pg_atomic_write_u64(&s->by_table[table], 0);
	return table;
}

/*
 * From now on changes are applied.  Returns the build's number, or 0 where another backend
 * builds, or it is not time yet.  Prepared transactions older than *unknown_before may have
 * changed vehicles without our knowing.
 */
uint32
fleet_live_begin_build(Oid relid, FullTransactionId *unknown_before)
{
	uint32		build = 0;
	int			table;

	LWLockAcquire(&fleet_live_shared->lock, LW_EXCLUSIVE);
	table = require_table(relid);
	if (table >= 0)
	{
		FleetLiveTable *t = &fleet_live_shared->tables[table];

		if ((t->state == FLEET_LIVE_EMPTY || t->state == FLEET_LIVE_FULL) &&
			GetCurrentTimestamp() >= t->retry_at)
		{
			forget_table(table);
			t->state = FLEET_LIVE_BUILDING;
			build = ++t->build;
			*unknown_before = t->unknown_before;
		}
	}
	LWLockRelease(&fleet_live_shared->lock);
	return build;
}

/* The table that is being built, in that build, or -1.  The lock is held. */
static int
find_building(Oid relid, uint32 build)
{
	int			table = fleet_live_find_table(MyDatabaseId, relid);

	if (table < 0 || fleet_live_shared->tables[table].state != FLEET_LIVE_BUILDING ||
		fleet_live_shared->tables[table].build != build)
		return -1;
	return table;
}

/* A row that was read.  False where there is no use in going on. */
bool
fleet_live_load(Oid relid, uint32 build, const FleetLiveRecord *record)
{
	bool		going = false;
	int			table;

	LWLockAcquire(&fleet_live_shared->lock, LW_EXCLUSIVE);
	table = find_building(relid, build);
	if (table >= 0)
	{
		going = record->id_size <= FLEET_LIVE_ID_MAX && apply(table, record);
		if (!going)
			set_state(&fleet_live_shared->tables[table], FLEET_LIVE_FULL);
	}
	LWLockRelease(&fleet_live_shared->lock);
	return going;
}

/* All rows were read; or it ended early, and is done anew later. */
void
fleet_live_end_build(Oid relid, uint32 build, bool complete)
{
	int			table;

	LWLockAcquire(&fleet_live_shared->lock, LW_EXCLUSIVE);
	table = find_building(relid, build);
	if (table >= 0)
	{
		set_state(&fleet_live_shared->tables[table], complete ? FLEET_LIVE_READY : FLEET_LIVE_EMPTY);
		fleet_live_shared->tables[table].builds += complete;
	}
	LWLockRelease(&fleet_live_shared->lock);
}

/*
 * A change could not be noted: the table has to be read anew, once prepared transactions
 * that are open now have ended.
 */
void
fleet_live_give_up(Oid relid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	int			table;

	LWLockAcquire(&fleet_live_shared->lock, LW_EXCLUSIVE);
	table = fleet_live_find_table(MyDatabaseId, relid);
	if (table >= 0)
	{
		set_state(&fleet_live_shared->tables[table], FLEET_LIVE_EMPTY);
		fleet_live_shared->tables[table].unknown_before = next;
	}
	LWLockRelease(&fleet_live_shared->lock);
}

/* ---------- changes ---------- */

/* Entries that become idle from now on stay until this backend has told its notes. */
void
fleet_live_begin_noting(void)
{
	pg_atomic_write_u64(&noting[fleet_compat_backend_index()],
						pg_atomic_read_u64(&fleet_live_shared->idled) + 1);
	pg_memory_barrier();
}

/* Since when this backend has notes, in the count of idle entries. */
uint64
fleet_live_noting_since(void)
{
	return pg_atomic_read_u64(&noting[fleet_compat_backend_index()]);
}

void
fleet_live_end_noting(void)
{
	pg_memory_barrier();
	pg_atomic_write_u64(&noting[fleet_compat_backend_index()], 0);
}

static void
apply_note(const FleetLiveNote *note)
{
	int			table = fleet_live_find_table(MyDatabaseId, note->table);
	FleetLiveTable *t;

	if (table < 0)
		return;
	t = &fleet_live_shared->tables[table];
	if (t->state != FLEET_LIVE_BUILDING && t->state != FLEET_LIVE_READY)
		return;
	if (!apply(table, &note->record))
		set_state(t, FLEET_LIVE_FULL);
}

/* What has been committed.  Cannot fail. */
void
fleet_live_apply(const FleetLiveNote *notes, int n)
{
	for (int i = 0; i < n;)
	{
		int			end = Min(i + APPLY_AT_ONCE, n);

		LWLockAcquire(&fleet_live_shared->lock, LW_EXCLUSIVE);
		while (i < end)
			apply_note(&notes[i++]);
		LWLockRelease(&fleet_live_shared->lock);
	}
}
