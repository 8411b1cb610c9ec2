/*-------------------------------------------------------------------------
 *
 * record.h
 *	  What the live index knows of a vehicle, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/record.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_LIVE_RECORD_H
#define FLEET_LIVE_RECORD_H

#include "postgres.h"

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"

/* Of a longer id the index knows nothing, see index.c. */
#define FLEET_LIVE_ID_MAX 88

/* The last row of a vehicle, or that it has none any more. */
typedef struct FleetLiveRecord
{
	TimestampTz fix_at;
	Oid			status;
	bool		is_gone;
	bool		has_place;
	bool		has_fix;
	bool		has_heading;
	double		lon;
	double		lat;
	double		heading;
	int64		epoch;			/* with hlc its version */
	int64		hlc;
	int			id_size;		/* bytes */
	char		id[FLEET_LIVE_ID_MAX];
} FleetLiveRecord;

/* Numbers of the columns of a table of vehicles. */
typedef struct FleetLiveColumns
{
	AttrNumber	vehicle_id;
	AttrNumber	status;
	AttrNumber	location;
	AttrNumber	fix_at;
	AttrNumber	heading;
	AttrNumber	epoch;
	AttrNumber	hlc;
} FleetLiveColumns;

/* A change that a transaction has made, to be told when it commits. */
typedef struct FleetLiveNote
{
	Oid			table;
	int			level;			/* of the subtransaction */
	FleetLiveRecord record;
} FleetLiveNote;

/* row.c */
extern void fleet_live_find_columns(TupleDesc desc, FleetLiveColumns *columns);
extern void fleet_live_read_row(TupleTableSlot *slot, const FleetLiveColumns *columns,
								FleetLiveRecord *record);

/* index.c */
extern bool fleet_live_is_on(void);
extern void fleet_live_begin_noting(void);
extern uint64 fleet_live_noting_since(void);
extern void fleet_live_end_noting(void);
extern void fleet_live_apply(const FleetLiveNote *notes, int n);
extern void fleet_live_give_up(Oid table);
extern uint32 fleet_live_begin_build(Oid table, FullTransactionId *unknown_before);
extern bool fleet_live_load(Oid table, uint32 build, const FleetLiveRecord *record);
extern void fleet_live_end_build(Oid table, uint32 build, bool complete);

/* prepared.c */
extern void fleet_live_prepared_init(void);
extern bool fleet_live_save_prepared(TransactionId xid, const FleetLiveNote *notes, int n);
extern void fleet_live_drop_prepared(TransactionId xid);
extern bool fleet_live_is_saved(TransactionId xid);
extern void fleet_live_settle_prepared(void);

/* build.c */
extern void fleet_live_build(Oid table);

#endif							/* FLEET_LIVE_RECORD_H */
