/*-------------------------------------------------------------------------
 *
 * plugin.c
 *	  The output plugin: PostgreSQL's callbacks of logical decoding.
 *
 * A slot with plugin "fleet" gives one JSON message for each change of a ride or
 * vehicle.  join.c makes events of changes, event.c messages of events.
 *
 * A transaction is decoded when it commits, so nothing of one that aborts is
 * ever seen.  A client that asks for "streaming" gets a large transaction while it
 * runs, in parts: each message names the (sub)transaction, and a message of its
 * own tells how that ended.  What is to be joined may be in two parts, so it is
 * kept with the transaction from part to part, and goes when the subtransaction
 * that it is of is rolled back.
 *
 * Changes that came here by replication have been sent by where they were made,
 * and are left out.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/plugin.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "replication/origin.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "decode/decode.h"
#include "decode/join.h"
#include "decode/json.h"

/* A sign of life to the client after so many changes that are none of its. */
#define SKIPPED_BEFORE_PROGRESS	100

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

/* ---------- transactions ---------- */

static void
init_xact(FleetDecodeXact *xact, MemoryContext parent)
{
	memset(xact, 0, sizeof(*xact));
	xact->context = AllocSetContextCreate(parent, "fleet pending changes", ALLOCSET_DEFAULT_SIZES);
	dlist_init(&xact->pending);
}

static void
begin_xact(FleetDecodeXact *xact)
{
	MemoryContext context = xact->context;

	memset(xact, 0, sizeof(*xact));
	xact->context = context;
	fleet_decode_pending_reset(xact);
}

/* What waits is sent now; the location of the transaction's end is kept. */
static void
finish_xact(LogicalDecodingContext *ctx, FleetDecodeXact *xact)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;
	MemoryContext old = MemoryContextSwitchTo(stream->scratch);
	XLogRecPtr	location = ctx->write_location;

	fleet_decode_let_go(ctx, xact);
	ctx->write_location = location;
	MemoryContextSwitchTo(old);
	MemoryContextReset(stream->scratch);
}

static void
set_commit_time(FleetDecodeXact *xact, const ReorderBufferTXN *txn)
{
	StringInfoData buf = {.data = xact->commit_time,.maxlen = sizeof(xact->commit_time)};

	fleet_decode_put_time(&buf, txn->xact_time.commit_time, true);
	xact->commit_time_len = buf.len;
}

static void
on_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;

	begin_xact(&stream->xact);
	set_commit_time(&stream->xact, txn);
	stream->xact.end_lsn = txn->end_lsn;
	txn->output_plugin_private = &stream->xact;
}

static void
on_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr commit_lsn)
{
	FleetDecodeXact *xact = txn->output_plugin_private;

	finish_xact(ctx, xact);
	fleet_decode_pending_reset(xact);
	txn->output_plugin_private = NULL;
	OutputPluginUpdateProgress(ctx, !xact->wrote);
}

/* ---------- changes ---------- */

static void
count_skipped(LogicalDecodingContext *ctx, bool wrote)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;

	if (wrote)
		stream->skipped = 0;
	else if (++stream->skipped >= SKIPPED_BEFORE_PROGRESS)
	{
		OutputPluginUpdateProgress(ctx, false);
		stream->skipped = 0;
	}
}

static void
on_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation rel,
		  ReorderBufferChange *change)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;
	FleetDecodeXact *xact = txn->output_plugin_private;
	MemoryContext old = MemoryContextSwitchTo(stream->scratch);
	FleetDecodeTable *table = fleet_decode_table(rel);
	bool		wrote = xact->wrote;

	xact->wrote = false;
	if (table != NULL)
		fleet_decode_change(ctx, xact, table, change);
	MemoryContextSwitchTo(old);
	MemoryContextReset(stream->scratch);
	count_skipped(ctx, xact->wrote);
	xact->wrote |= wrote;
}

static bool
is_from_elsewhere(LogicalDecodingContext *ctx, RepOriginId origin)
{
	return origin != InvalidRepOriginId;
}

/* ---------- streaming of transactions that run ---------- */

static void
on_stream_start(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	FleetDecodeXact *xact = txn->output_plugin_private;

	if (xact != NULL)
		return;
	xact = MemoryContextAlloc(ctx->context, sizeof(FleetDecodeXact));
	init_xact(xact, ctx->context);
	xact->streamed = true;
	xact->xid = txn->xid;
	txn->output_plugin_private = xact;
}

static void
on_stream_stop(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	/* The next part goes on where this one stopped. */
}

static void
free_streamed(ReorderBufferTXN *txn)
{
	FleetDecodeXact *xact = txn->output_plugin_private;

	txn->output_plugin_private = NULL;
	MemoryContextDelete(xact->context);
	pfree(xact);
}

/* A message that says how a transaction ended that was sent in parts. */
static void
send_end(LogicalDecodingContext *ctx, const ReorderBufferTXN *txn, bool committed)
{
	StringInfo	buf = ctx->out;

	OutputPluginPrepareWrite(ctx, true);
	if (committed)
		FLEET_DECODE_PUT(buf, "{\"operation\":\"stream_commit\",\"xid\":");
	else
		FLEET_DECODE_PUT(buf, "{\"operation\":\"stream_abort\",\"xid\":");
	fleet_decode_put_int64(buf, txn->toptxn != NULL ? txn->toptxn->xid : txn->xid);
	if (txn->toptxn != NULL)
	{
		FLEET_DECODE_PUT(buf, ",\"subxid\":");
		fleet_decode_put_int64(buf, txn->xid);
	}
	if (committed)
	{
		FLEET_DECODE_PUT(buf, ",\"commit_time\":");
		fleet_decode_put_time(buf, txn->xact_time.commit_time, true);
	}
	FLEET_DECODE_PUT(buf, "}");
	fleet_decode_end(buf);
	OutputPluginWrite(ctx, true);
}

/* Of a transaction, or of a subtransaction whose parent goes on. */
static void
on_stream_abort(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr abort_lsn)
{
	ReorderBufferTXN *top = txn->toptxn != NULL ? txn->toptxn : txn;
	FleetDecodeXact *xact = top->output_plugin_private;

	send_end(ctx, txn, false);
	if (xact == NULL)
		return;
	if (top == txn)
		free_streamed(txn);
	else
		fleet_decode_pending_forget(xact, txn->xid);
}

static void
on_stream_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr commit_lsn)
{
	if (txn->output_plugin_private != NULL)
	{
		finish_xact(ctx, txn->output_plugin_private);
		free_streamed(txn);
	}
	send_end(ctx, txn, true);
	OutputPluginUpdateProgress(ctx, false);
}

/* ---------- begin and end of a stream ---------- */

static void
on_startup(LogicalDecodingContext *ctx, OutputPluginOptions *options, bool is_init)
{
	FleetDecodeStream *stream = palloc0(sizeof(FleetDecodeStream));

	options->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
	options->receive_rewrites = false;
	ctx->output_plugin_private = stream;
	fleet_decode_read_options(ctx->output_plugin_options, &stream->options);
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a change stream needs a database whose encoding is UTF8"),
				 errdetail("JSON is UTF-8; the encoding of this database is %s.",
						   GetDatabaseEncodingName())));
	ctx->streaming &= stream->options.streaming;
	stream->scratch = AllocSetContextCreate(ctx->context, "fleet decoded change",
											ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&stream->images);
	init_xact(&stream->xact, ctx->context);
	fleet_decode_tables_init(ctx->context);
}

static void
on_shutdown(LogicalDecodingContext *ctx)
{
	/* All is in the context, which goes. */
}

/* PostgreSQL looks this up in the library that a slot's plugin is named after. */
void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = on_startup;
	cb->begin_cb = on_begin;
	cb->change_cb = on_change;
	cb->commit_cb = on_commit;
	cb->filter_by_origin_cb = is_from_elsewhere;
	cb->shutdown_cb = on_shutdown;
	cb->stream_start_cb = on_stream_start;
	cb->stream_stop_cb = on_stream_stop;
	cb->stream_abort_cb = on_stream_abort;
	cb->stream_commit_cb = on_stream_commit;
	cb->stream_change_cb = on_change;
}
