/*-------------------------------------------------------------------------
 *
 * join.c
 *	  From changes of tables to events.
 *
 * What a transaction writes for one row, in the order of its records, and the
 * event that comes of it, at the change marked with *:
 *
 *	handed off from here	live row deleted, departure with a target*: moved
 *	handed off to here		live row inserted above epoch 1, log "arrived"*: moved
 *	deleted					grave, live row deleted*: delete
 *	inserted again			log "reinserted", live row inserted*: insert
 *	inserted				live row inserted at epoch 1*: insert
 *	updated					live row updated*: update
 *	an event of a fence		row inserted*: event
 *
 * The first change of a pair waits (pending.c) for the second, in whichever order
 * the two come.  What is left when the transaction ends, or when another change
 * of the same row comes, is sent as what it is: a deleted row as delete, an
 * inserted one as insert.  A grave or a log row alone is no event.  So no change of
 * a live row is ever lost, whatever a repair or a later version writes.
 *
 * An update of a departure counts like an insert (a row deleted again where a
 * departure was kept), unless it only says that the departure is settled.  All
 * else that happens to departures and the log is no event.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/join.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "clock/clock.h"
#include "decode/join.h"
#include "decode/json.h"

/* ---------- columns ---------- */

static bool
has(const FleetDecodeTable *table, const FleetDecodeRow *row, FleetDecodeField field)
{
	return !row->isnull[table->fields[field]];
}

static Datum
get(const FleetDecodeTable *table, const FleetDecodeRow *row, FleetDecodeField field)
{
	return row->values[table->fields[field]];
}

/* NULL where it is null. */
static char *
get_text(const FleetDecodeTable *table, FleetDecodeField field)
{
	if (!has(table, &table->new, field))
		return NULL;
	return TextDatumGetCString(get(table, &table->new, field));
}

static void
set_key(FleetDecodeKey *key, bool is_ride, Datum text)
{
	struct varlena *packed = PG_DETOAST_DATUM_PACKED(text);

	key->is_ride = is_ride;
	key->text = VARDATA_ANY(packed);
	key->len = VARSIZE_ANY_EXHDR(packed);
}

static void
set_version(FleetDecodeEvent *event, const FleetDecodeTable *table, const FleetDecodeRow *row)
{
	event->has_version = has(table, row, FLEET_DECODE_EPOCH) && has(table, row, FLEET_DECODE_HLC);
	if (!event->has_version)
		return;
	event->epoch = DatumGetInt64(get(table, row, FLEET_DECODE_EPOCH));
	event->hlc = DatumGetFleetClockStamp(get(table, row, FLEET_DECODE_HLC));
}

/* The partition says which region it is; where it does not, the row does. */
static void
set_region(FleetDecodeEvent *event, const FleetDecodeTable *table, const FleetDecodeRow *row)
{
	event->region = table->region;
	if (table->region[0] == '\0' && row != NULL && table->fields[FLEET_DECODE_REGION] >= 0 &&
		has(table, row, FLEET_DECODE_REGION))
		event->region = TextDatumGetCString(get(table, row, FLEET_DECODE_REGION));
}

/* ---------- what waits ---------- */

/* Keep an event until it is known what it is a part of. */
static void
wait_for_more(FleetDecodeXact *xact, FleetDecodeWait wait, const FleetDecodeEvent *event,
			  const StringInfoData *images)
{
	FleetDecodePending *pending =
		fleet_decode_pending_add(xact, wait, &event->key, images != NULL ? images->data : NULL,
								 images != NULL ? images->len : 0);

	pending->place = event->place;
	strlcpy(pending->region, event->region, NAMEDATALEN);
	pending->has_version = event->has_version;
	pending->epoch = event->epoch;
	pending->hlc = event->hlc;
}

static void
send_event(LogicalDecodingContext *ctx, FleetDecodeXact *xact, const FleetDecodeEvent *event)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;

	if (!fleet_decode_is_wanted(&stream->options, event))
		return;
	(void) fleet_decode_event_begin(ctx, xact, event);
	fleet_decode_event_end(ctx, xact);
}

/* Nothing more is known of it: send what it is by itself. */
static void
let_go(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodePending *pending)
{
	FleetDecodeEvent event = {.key = pending->key,.place = pending->place,
		.region = pending->region,.has_version = pending->has_version,.epoch = pending->epoch,
		.hlc = pending->hlc,.images = pending->images,.images_len = pending->images_len};

	if (pending->wait == FLEET_DECODE_DELETED || pending->wait == FLEET_DECODE_INSERTED)
	{
		event.operation = pending->wait == FLEET_DECODE_DELETED ? "delete" : "insert";
		send_event(ctx, xact, &event);
	}
	fleet_decode_pending_remove(xact, pending);
}

/* Send all that waits, in its order. */
void
fleet_decode_let_go(LogicalDecodingContext *ctx, FleetDecodeXact *xact)
{
	while (!dlist_is_empty(&xact->pending))
		let_go(ctx, xact, dlist_head_element(FleetDecodePending, node, &xact->pending));
}

/*
 * What waits for this row, if it is what the change is the other part of.  Any other
 * is let go of: the row has gone on.  Both parts are of one subtransaction, or the
 * event would be dropped with the second while the first stands.
 */
static FleetDecodePending *
take_pending(LogicalDecodingContext *ctx, FleetDecodeXact *xact, const FleetDecodeEvent *event,
			 FleetDecodeWait wait)
{
	FleetDecodePending *pending = fleet_decode_pending_find(xact, &event->key);

	if (pending == NULL || (pending->wait == wait && pending->place.xid == event->place.xid))
		return pending;
	let_go(ctx, xact, pending);
	return NULL;
}

/* Past its size, all that waits is sent as it is. */
static void
check_size(LogicalDecodingContext *ctx, FleetDecodeXact *xact)
{
	if (!fleet_decode_pending_is_full(xact))
		return;
	xact->overflowed = true;
	fleet_decode_let_go(ctx, xact);
}

/* ---------- live rows ---------- */

/* The images of a row that is to wait; in a buffer of the stream. */
static StringInfo
images_of(FleetDecodeStream *stream, FleetDecodeTable *table, bool has_old, bool has_new)
{
	resetStringInfo(&stream->images);
	fleet_decode_put_images(&stream->images, &stream->options, table, has_old, has_new);
	return &stream->images;
}

static void
send_live(LogicalDecodingContext *ctx, FleetDecodeXact *xact, const FleetDecodeEvent *event,
		  FleetDecodeTable *table, bool has_old, bool has_new)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;
	StringInfo	buf;

	if (!fleet_decode_is_wanted(&stream->options, event))
		return;
	buf = fleet_decode_event_begin(ctx, xact, event);
	fleet_decode_put_images(buf, &stream->options, table, has_old, has_new);
	fleet_decode_event_end(ctx, xact);
}

static void
on_insert(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event,
		  FleetDecodeTable *table)
{
	FleetDecodePending *pending =
		take_pending(ctx, xact, event, FLEET_DECODE_REINSERTED);

	event->operation = "insert";
	if (pending == NULL && event->has_version && event->epoch > 1)
	{
		wait_for_more(xact, FLEET_DECODE_INSERTED, event,
					  images_of(ctx->output_plugin_private, table, false, true));
		check_size(ctx, xact);
		return;
	}
	if (pending != NULL)
		fleet_decode_pending_remove(xact, pending);
	send_live(ctx, xact, event, table, false, true);
}

static void
on_update(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event,
		  FleetDecodeTable *table, bool has_old)
{
	FleetDecodePending *pending = fleet_decode_pending_find(xact, &event->key);

	if (pending != NULL)
		let_go(ctx, xact, pending);
	event->operation = "update";
	send_live(ctx, xact, event, table, has_old, true);
}

static void
on_delete(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event,
		  FleetDecodeTable *table, bool has_old)
{
	FleetDecodePending *pending = take_pending(ctx, xact, event, FLEET_DECODE_BURIED);

	event->operation = "delete";
	if (pending == NULL)
	{
		wait_for_more(xact, FLEET_DECODE_DELETED, event,
					  images_of(ctx->output_plugin_private, table, has_old, false));
		check_size(ctx, xact);
		return;
	}
	event->has_version = pending->has_version;
	event->epoch = pending->epoch;
	event->hlc = pending->hlc;
	fleet_decode_pending_remove(xact, pending);
	send_live(ctx, xact, event, table, has_old, false);
}

/* An old row that is not whole has the key, and only where that may not be known else. */
static void
on_live_change(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeTable *table,
			   FleetDecodeEvent *event, const HeapTuple old, const HeapTuple new)
{
	bool		has_old = old != NULL && table->full_identity;
	const FleetDecodeRow *row = new != NULL ? &table->new : &table->old;

	if (old != NULL)
		heap_deform_tuple(old, table->desc, table->old.values, table->old.isnull);
	if (new != NULL)
		heap_deform_tuple(new, table->desc, table->new.values, table->new.isnull);
	if (old == NULL && new == NULL)
		return;					/* a table without replica identity: not even the key */
	set_key(&event->key, table->is_ride,
			get(table, old != NULL ? &table->old : &table->new, FLEET_DECODE_KEY));
	if (new != NULL || has_old)
		set_version(event, table, row);
	set_region(event, table, new != NULL || has_old ? row : NULL);
	if (new == NULL)
		on_delete(ctx, xact, event, table, has_old);
	else if (event->operation[0] == 'i')
		on_insert(ctx, xact, event, table);
	else
		on_update(ctx, xact, event, table, has_old);
}

/* ---------- departures ---------- */

static void
on_grave(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event)
{
	FleetDecodePending *pending = take_pending(ctx, xact, event, FLEET_DECODE_DELETED);

	if (pending == NULL)
	{
		wait_for_more(xact, FLEET_DECODE_BURIED, event, NULL);
		check_size(ctx, xact);
		return;
	}
	pending->has_version = event->has_version;
	pending->epoch = event->epoch;
	pending->hlc = event->hlc;
	let_go(ctx, xact, pending);
}

static void
on_departed(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event,
			FleetDecodeTable *table)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;
	FleetDecodePending *pending = take_pending(ctx, xact, event, FLEET_DECODE_DELETED);
	FleetDecodeTable *live;

	event->operation = "moved";
	event->from = event->region;
	event->gid = get_text(table, FLEET_DECODE_DTXID);
	if (pending != NULL)
	{
		event->images = pending->images;
		event->images_len = pending->images_len;
	}
	if (fleet_decode_is_wanted(&stream->options, event))
	{
		StringInfo	buf = fleet_decode_event_begin(ctx, xact, event);

		live = fleet_decode_live_table(event->key.is_ride);
		if (live != NULL && has(table, &table->new, FLEET_DECODE_IMAGE) &&
			!fleet_decode_is_missing(get(table, &table->new, FLEET_DECODE_IMAGE)))
			fleet_decode_put_departed(buf, live, get(table, &table->new, FLEET_DECODE_IMAGE));
		fleet_decode_event_end(ctx, xact);
	}
	if (pending != NULL)
		fleet_decode_pending_remove(xact, pending);
}

static void
on_departure(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeTable *table,
			 FleetDecodeEvent *event, const HeapTuple old, bool is_update)
{
	const FleetDecodeRow *row = old != NULL ? &table->old : &table->new;
	char	   *kind = get_text(table, FLEET_DECODE_KIND);

	event->to = get_text(table, FLEET_DECODE_TARGET);
	if (is_update && event->to != NULL && has(table, &table->new, FLEET_DECODE_SETTLED))
		return;
	if (old != NULL)
		heap_deform_tuple(old, table->desc, table->old.values, table->old.isnull);
	set_key(&event->key, strcmp(kind, "ride") == 0, get(table, row, FLEET_DECODE_KEY));
	set_version(event, table, &table->new);
	set_region(event, table, NULL);
	if (event->to == NULL)
		on_grave(ctx, xact, event);
	else
		on_departed(ctx, xact, event, table);
}

/* ---------- the log ---------- */

/*
 * A row has arrived.  Where its insert is not pending nothing has arrived (a branch
 * that was redone, and superseded), unless we have let go of it for lack of space.
 */
static void
on_arrived(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeEvent *event,
		   FleetDecodeTable *table)
{
	FleetDecodePending *pending = fleet_decode_pending_find(xact, &event->key);

	if (pending == NULL ? !xact->overflowed :
		pending->wait != FLEET_DECODE_INSERTED || pending->epoch != event->epoch ||
		pending->place.xid != event->place.xid)
		return;
	event->operation = "moved";
	event->from = get_text(table, FLEET_DECODE_SOURCE);
	event->to = get_text(table, FLEET_DECODE_TARGET);
	event->gid = get_text(table, FLEET_DECODE_DTXID);
	if (event->from == NULL)
		event->from = "";
	if (pending != NULL)
	{
		event->images = pending->images;
		event->images_len = pending->images_len;
	}
	send_event(ctx, xact, event);
	if (pending != NULL)
		fleet_decode_pending_remove(xact, pending);
}

static void
on_log(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeTable *table,
	   FleetDecodeEvent *event)
{
	char	   *status = get_text(table, FLEET_DECODE_STATUS);
	bool		is_ride = has(table, &table->new, FLEET_DECODE_KEY);

	if (!is_ride && !has(table, &table->new, FLEET_DECODE_VEHICLE))
		return;
	set_key(&event->key, is_ride,
			get(table, &table->new, is_ride ? FLEET_DECODE_KEY : FLEET_DECODE_VEHICLE));
	set_version(event, table, &table->new);
	set_region(event, table, NULL);
	if (strcmp(status, "arrived") == 0)
		on_arrived(ctx, xact, event, table);
	else if (strcmp(status, "reinserted") == 0 &&
			 take_pending(ctx, xact, event, FLEET_DECODE_REINSERTED) == NULL)
	{
		wait_for_more(xact, FLEET_DECODE_REINSERTED, event, NULL);
		check_size(ctx, xact);
	}
}

/* ---------- events of fences ---------- */

static void
on_fence_event(LogicalDecodingContext *ctx, FleetDecodeXact *xact, FleetDecodeTable *table,
			   FleetDecodeEvent *event)
{
	event->operation = "event";
	event->is_fence_event = true;
	set_key(&event->key, false, get(table, &table->new, FLEET_DECODE_KEY));
	set_version(event, table, &table->new);
	set_region(event, table, &table->new);
	send_live(ctx, xact, event, table, false, true);
}

/* ---------- */

/*
 * A change of one of our tables.  The places of changes are counted before any is
 * left out, so that an id does not depend on options.
 */
void
fleet_decode_change(LogicalDecodingContext *ctx, FleetDecodeXact *xact,
					FleetDecodeTable *table, ReorderBufferChange *change)
{
	FleetDecodeEvent event = {.operation = ""};
	HeapTuple	old = fleet_compat_old_row(change);
	HeapTuple	new = fleet_compat_new_row(change);

	xact->last.seq = xact->last.lsn == change->lsn ? xact->last.seq + 1 : 0;
	xact->last.lsn = change->lsn;
	event.place = xact->last;
	event.place.xid = change->txn->xid;
	if (table->role == FLEET_DECODE_LIVE)
	{
		event.operation = change->action == REORDER_BUFFER_CHANGE_INSERT ? "insert" : "";
		on_live_change(ctx, xact, table, &event, old, new);
	}
	else if (new != NULL)
	{
		heap_deform_tuple(new, table->desc, table->new.values, table->new.isnull);
		if (table->role == FLEET_DECODE_DEPARTURES)
			on_departure(ctx, xact, table, &event, old,
						 change->action == REORDER_BUFFER_CHANGE_UPDATE);
		else if (change->action != REORDER_BUFFER_CHANGE_INSERT)
			return;
		else if (table->role == FLEET_DECODE_LOG)
			on_log(ctx, xact, table, &event);
		else
			on_fence_event(ctx, xact, table, &event);
	}
}
