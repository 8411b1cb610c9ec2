/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  The merge rule, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/merge.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REPLICA_MERGE_H
#define FLEET_REPLICA_MERGE_H

#include "postgres.h"

#include "access/attnum.h"
#include "utils/jsonb.h"

#include "base/table.h"
#include "replica/replica.h"

/* Rides or vehicles, here. */
typedef struct FleetMergeKind
{
	const char *name;
	const char *key_column;
	FleetTable	table;
	Oid			relid;			/* whose columns these are; or InvalidOid */
	AttrNumber	key;
	AttrNumber	region;
	AttrNumber	epoch;
	AttrNumber	hlc;
} FleetMergeKind;

/* A row that comes. */
typedef struct FleetIncoming
{
	FleetMergeKind *kind;
	Datum		key;			/* text */
	int64		epoch;
	uint64		hlc;
	const char *from;			/* the region that sends it */
	bool		copied;			/* from the region's own table, whose stream rests */
	bool		departed;		/* what the region has is a departure */
	bool		reread;			/* from the region's own table, to put a row right */
} FleetIncoming;

extern FleetMergeKind *fleet_replica_kind(const char *name);
extern Datum fleet_replica_column(HeapTuple tuple, Relation rel, AttrNumber column);
extern FleetIncoming fleet_replica_incoming(FleetMergeKind *kind, HeapTuple tuple,
											Relation rel, const char *from);
extern bool fleet_replica_is_newer(int64 epoch, uint64 hlc, int64 than_epoch,
								   uint64 than_hlc);
extern bool fleet_replica_is_merging(void);

extern bool fleet_replica_find(FleetOpenTable *open, const FleetIncoming *in);
extern void fleet_replica_unlock_key(void);
extern void fleet_replica_forget_lock(void);
extern bool fleet_replica_is_buried(const FleetIncoming *in);
extern void fleet_replica_open_grave(const Datum *keys);
extern FleetMergeResult fleet_replica_compare(const FleetOpenTable *open,
											  const FleetIncoming *in, HeapTuple tuple);
extern void fleet_replica_replace_row(FleetOpenTable *open, HeapTuple row);

extern FleetMergeResult fleet_replica_merge_tuple(const FleetIncoming *in, HeapTuple tuple);
extern FleetMergeResult fleet_replica_merge_image(const FleetIncoming *in,
												  JsonbContainer *image);
extern FleetMergeResult fleet_replica_bury(const FleetIncoming *in);
extern FleetMergeResult fleet_replica_forget(const FleetIncoming *in);

/* ---- graves.c ---- */

extern bool fleet_replica_was_collected(uint64 hlc);

#endif							/* FLEET_REPLICA_MERGE_H */
