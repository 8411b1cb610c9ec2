/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  What the files of the change stream share.
 *
 * plugin.c has PostgreSQL's callbacks and joins the parts of a handoff,
 * pending.c keeps what is to be joined, event.c writes messages, table.c knows
 * the tables, value.c their values, options.c the options.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/decode.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_DECODE_DECODE_H
#define FLEET_DECODE_DECODE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "replication/logical.h"
#include "utils/hsearch.h"
#include "utils/rel.h"

/* ---- options.c ---- */

typedef struct FleetDecodeOptions
{
	bool		rides;
	bool		vehicles;
	List	   *regions;		/* of char *; NIL = all */
	bool		include_old;
	bool		changed_only;
	bool		only_moves;
	bool		events;			/* of fences */
	bool		include_lsn;
	bool		streaming;
} FleetDecodeOptions;

extern void fleet_decode_read_options(List *given, FleetDecodeOptions *options);

/* ---- value.c ---- */

/* How the values of a column are written. */
typedef enum FleetDecodeEncoding
{
	FLEET_DECODE_TEXT,
	FLEET_DECODE_BOOL,
	FLEET_DECODE_INT2,
	FLEET_DECODE_INT4,
	FLEET_DECODE_INT8,
	FLEET_DECODE_FLOAT4,
	FLEET_DECODE_FLOAT8,
	FLEET_DECODE_NUMERIC,
	FLEET_DECODE_TIMESTAMP,
	FLEET_DECODE_TIMESTAMPTZ,
	FLEET_DECODE_DATE,
	FLEET_DECODE_INTERVAL,
	FLEET_DECODE_JSON,
	FLEET_DECODE_ENUM,
	FLEET_DECODE_STAMP,
	FLEET_DECODE_POINT,
	FLEET_DECODE_OTHER
} FleetDecodeEncoding;

#define FLEET_DECODE_KEPT_LABELS	8

/* A column, and what its values need. */
typedef struct FleetDecodeColumn
{
	char	   *name;
	char	   *member;			/* "name": */
	int			member_len;
	FleetDecodeEncoding encoding;
	bool		varlena;
	bool		byval;
	int16		len;
	bool		said;			/* by the event itself, so not in an image */
	bool		version;		/* said by the event of the new row only */
	FmgrInfo	out;
	int			nlabel;			/* labels of an enum that were looked up */
	Oid			label_oids[FLEET_DECODE_KEPT_LABELS];
	NameData	labels[FLEET_DECODE_KEPT_LABELS];
} FleetDecodeColumn;

extern void fleet_decode_column_init(FleetDecodeColumn *column, Form_pg_attribute attr,
									 Oid fleet_namespace, MemoryContext context);
extern void fleet_decode_put_value(StringInfo buf, FleetDecodeColumn *column, Datum value);
extern void fleet_decode_put_image_text(StringInfo buf, FleetDecodeColumn *column,
										const char *text, int len);

/* ---- table.c ---- */

typedef enum FleetDecodeRole
{
	FLEET_DECODE_NO_ROLE,
	FLEET_DECODE_LIVE,			/* local_rides, local_vehicles */
	FLEET_DECODE_DEPARTURES,
	FLEET_DECODE_LOG,
	FLEET_DECODE_FENCE_EVENTS
} FleetDecodeRole;

/* The columns that are looked at, by the role of the table. */
typedef enum FleetDecodeField
{
	FLEET_DECODE_KEY,			/* of live rows, departures and events; the ride in the log */
	FLEET_DECODE_EPOCH,
	FLEET_DECODE_HLC,
	FLEET_DECODE_REGION,		/* of live rows and events */
	FLEET_DECODE_KIND,			/* of departures, and what follows */
	FLEET_DECODE_TARGET,		/* and in the log */
	FLEET_DECODE_IMAGE,
	FLEET_DECODE_DTXID,			/* and in the log */
	FLEET_DECODE_SETTLED,
	FLEET_DECODE_VEHICLE,		/* in the log, and what follows */
	FLEET_DECODE_SOURCE,
	FLEET_DECODE_STATUS,
	FLEET_DECODE_NFIELD
} FleetDecodeField;

/* A row, taken apart. */
typedef struct FleetDecodeRow
{
	Datum	   *values;
	bool	   *isnull;
} FleetDecodeRow;

typedef struct FleetDecodeTable
{
	MemoryContext context;		/* it is in here itself */
	FleetDecodeRole role;
	bool		is_ride;		/* of live rows */
	bool		full_identity;	/* old rows are whole */
	char		region[NAMEDATALEN];	/* the own one; "" = not known */
	TupleDesc	desc;
	FleetDecodeColumn *columns;
	int			fields[FLEET_DECODE_NFIELD];	/* positions from 0; -1 = none */
	FleetDecodeRow new;
	FleetDecodeRow old;
} FleetDecodeTable;

extern void fleet_decode_tables_init(MemoryContext context);
extern FleetDecodeTable *fleet_decode_table(Relation rel);
extern FleetDecodeTable *fleet_decode_live_table(bool is_ride);

/* ---- pending.c ---- */

typedef enum FleetDecodeWait
{
	FLEET_DECODE_DELETED,		/* a live row, for its departure or grave */
	FLEET_DECODE_BURIED,		/* a grave, for its live row to be deleted */
	FLEET_DECODE_INSERTED,		/* a live row above epoch 1, for the log to say why */
	FLEET_DECODE_REINSERTED		/* the log said why, for the live row */
} FleetDecodeWait;

/* Which row; the text need not be terminated. */
typedef struct FleetDecodeKey
{
	bool		is_ride;
	int			len;
	const char *text;
} FleetDecodeKey;

/* Which change: where its record is, and the how-manieth of that record. */
typedef struct FleetDecodePlace
{
	XLogRecPtr	lsn;
	int			seq;
	TransactionId xid;			/* of the subtransaction */
} FleetDecodePlace;

typedef struct FleetDecodePending
{
	dlist_node	node;
	FleetDecodeWait wait;
	FleetDecodeKey key;
	FleetDecodePlace place;
	char		region[NAMEDATALEN];
	bool		has_version;
	int64		epoch;
	uint64		hlc;
	char	   *images;			/* members "old", "new", "unchanged" of the event */
	int			images_len;
} FleetDecodePending;

/* A transaction that is decoded. */
typedef struct FleetDecodeXact
{
	MemoryContext context;		/* of what is pending */
	HTAB	   *index;			/* NULL: nothing is pending */
	dlist_head	pending;		/* in the order of their changes */
	Size		size;
	bool		overflowed;		/* something was let go of for its size */
	bool		streamed;
	TransactionId xid;			/* of one that is streamed */
	bool		wrote;
	FleetDecodePlace last;
	XLogRecPtr	end_lsn;
	int			commit_time_len;
	char		commit_time[48];
} FleetDecodeXact;

extern void fleet_decode_pending_reset(FleetDecodeXact *xact);
extern FleetDecodePending *fleet_decode_pending_find(FleetDecodeXact *xact,
													 const FleetDecodeKey *key);
extern FleetDecodePending *fleet_decode_pending_add(FleetDecodeXact *xact, FleetDecodeWait wait,
													const FleetDecodeKey *key,
													const char *images, int images_len);
extern void fleet_decode_pending_remove(FleetDecodeXact *xact, FleetDecodePending *pending);
extern void fleet_decode_pending_forget(FleetDecodeXact *xact, TransactionId subxid);
extern bool fleet_decode_pending_is_full(const FleetDecodeXact *xact);

/* ---- event.c ---- */

/* One message. */
typedef struct FleetDecodeEvent
{
	const char *operation;
	bool		is_fence_event;
	FleetDecodeKey key;
	FleetDecodePlace place;
	const char *region;
	bool		has_version;
	int64		epoch;
	uint64		hlc;
	const char *from;			/* of a move, and what follows */
	const char *to;
	const char *gid;
	const char *images;			/* members that were written before, or NULL */
	int			images_len;
} FleetDecodeEvent;

extern bool fleet_decode_is_wanted(const FleetDecodeOptions *options,
								   const FleetDecodeEvent *event);
extern StringInfo fleet_decode_event_begin(LogicalDecodingContext *ctx, FleetDecodeXact *xact,
										   const FleetDecodeEvent *event);
extern void fleet_decode_event_end(LogicalDecodingContext *ctx, FleetDecodeXact *xact);
extern void fleet_decode_put_images(StringInfo buf, const FleetDecodeOptions *options,
									FleetDecodeTable *table, bool has_old, bool has_new);
extern bool fleet_decode_is_missing(Datum value);
extern void fleet_decode_put_departed(StringInfo buf, FleetDecodeTable *live, Datum image);

/* ---- plugin.c ---- */

/* A stream; the context's output_plugin_private. */
typedef struct FleetDecodeStream
{
	FleetDecodeOptions options;
	MemoryContext scratch;		/* of one change */
	FleetDecodeXact xact;		/* the one at hand, where it is not streamed */
	StringInfoData images;		/* of a row that is to wait */
	int			skipped;		/* changes since the last sign of life */
} FleetDecodeStream;

#endif							/* FLEET_DECODE_DECODE_H */
