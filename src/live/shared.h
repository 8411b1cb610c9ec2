/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  The live index in shared memory, within the room; see index.c.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/shared.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_LIVE_SHARED_H
#define FLEET_LIVE_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "live/record.h"

#define FLEET_LIVE_NONE		PG_UINT32_MAX	/* no entry */

/* So many tables: one in each database that is a node. */
#define FLEET_LIVE_TABLES	64

/* The grid: cells of 360 / 2^18 by 180 / 2^17 degrees, about 150 m at the equator. */
#define FLEET_LIVE_COLUMNS	(1 << 18)
#define FLEET_LIVE_ROWS		(1 << 17)

/* Blocks of 8 x 8 cells are counted in so many counters. */
#define FLEET_LIVE_BLOCK_BITS 3
#define FLEET_LIVE_COUNTERS (1 << 16)

typedef enum FleetLiveState
{
	FLEET_LIVE_EMPTY,			/* to be built */
	FLEET_LIVE_BUILDING,
	FLEET_LIVE_READY,
	FLEET_LIVE_FULL				/* something does not fit */
} FleetLiveState;

/* A table whose vehicles the index knows. */
typedef struct FleetLiveTable
{
	Oid			database;		/* InvalidOid = unused */
	Oid			relid;
	FleetLiveState state;
	TimestampTz retry_at;		/* no build before */
	FullTransactionId unknown_before;	/* older prepared transactions may have changed vehicles unnoted */
	uint32		vehicles;		/* entries of it, with those of vehicles that are gone */
	uint32		build;			/* number of the last that was begun */
	uint32		builds;			/* how many were completed */
} FleetLiveTable;

/* What a search reads of each is in the first cache line. */
typedef struct FleetLiveEntry
{
	double		at[3];			/* on the unit sphere */
	uint64		cell;			/* with the table's number; of one that is in none, when that came */
	uint32		cell_next;
	uint32		cell_prev;
	uint32		id_next;
	uint32		hash;			/* of table and id */
	FleetLiveRecord record;
	uint16		table;
	bool		is_used;
	bool		is_placed;		/* in a cell */
} FleetLiveEntry;

typedef struct FleetLiveShared
{
	LWLock		lock;			/* exclusive to change, shared to search */
	uint32		size;			/* constant, as the masks are */
	uint32		id_mask;
	uint32		cell_mask;
	uint32		nused;			/* entries beyond were never used */
	uint32		free;			/* list by id_next */
	uint32		idle_first;		/* entries in no cell, by age; list by cell_next */
	uint32		idle_last;
	pg_atomic_uint64 idled;		/* how often an entry has left its cell for none */
	pg_atomic_uint64 saved_since;	/* oldest note of a prepared transaction; 0 = none */
	FleetLiveTable tables[FLEET_LIVE_TABLES];
	pg_atomic_uint64 by_index[FLEET_LIVE_TABLES];	/* searches that it has answered */
	pg_atomic_uint64 by_table[FLEET_LIVE_TABLES];	/* and that it has not */
	uint32		counters[FLEET_LIVE_COUNTERS];
} FleetLiveShared;

extern FleetLiveShared *fleet_live_shared;
extern FleetLiveEntry *fleet_live_entries;
extern uint32 *fleet_live_cells;

/* The table's number, or -1.  The lock is held. */
static inline int
fleet_live_find_table(Oid database, Oid relid)
{
	for (int i = 0; i < FLEET_LIVE_TABLES; i++)
		if (fleet_live_shared->tables[i].database == database &&
			fleet_live_shared->tables[i].relid == relid)
			return i;
	return -1;
}

static inline int
fleet_live_column(double lon)
{
	int			x = (int) ((lon + 180.0) / 360.0 * FLEET_LIVE_COLUMNS);

	return Min(x, FLEET_LIVE_COLUMNS - 1);
}

static inline int
fleet_live_row(double lat)
{
	int			y = (int) ((lat + 90.0) / 180.0 * FLEET_LIVE_ROWS);

	return Min(y, FLEET_LIVE_ROWS - 1);
}

static inline uint64
fleet_live_cell(int table, int x, int y)
{
	return ((uint64) table << 40) | ((uint64) y << 20) | x;
}

static inline uint32 *
fleet_live_cell_head(uint64 cell)
{
	uint64		hash = cell * UINT64CONST(0x9E3779B97F4A7C15);

	return &fleet_live_cells[(uint32) (hash >> 32) & fleet_live_shared->cell_mask];
}

/* The counter of the cell's block, which may be others' as well. */
static inline uint32 *
fleet_live_counter(int table, int x, int y)
{
	uint64		block = fleet_live_cell(table, x >> FLEET_LIVE_BLOCK_BITS, y >> FLEET_LIVE_BLOCK_BITS);

	return &fleet_live_shared->counters[(block * UINT64CONST(0x9E3779B97F4A7C15)) >> 48];
}

#endif							/* FLEET_LIVE_SHARED_H */
