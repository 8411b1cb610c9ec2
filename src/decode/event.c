/*-------------------------------------------------------------------------
 *
 * event.c
 *	  The messages of a change stream: one JSON object for each change.
 *
 * docs/change-stream.md is the format, with a table for each message.  Members
 * that all events have come first and always in the same order.
 *
 * The id names the change by where its record is in the WAL.  Whoever reads the
 * same change again (another time, by another slot, with other options, while the
 * transaction runs or after) sees the same id.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/event.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/jsonb.h"

#include "base/compat.h"
#include "decode/decode.h"
#include "decode/json.h"

/* ---------- the event ---------- */

static bool
is_listed(const List *regions, const char *region)
{
	ListCell   *cell;

	foreach(cell, regions)
		if (strcmp(lfirst(cell), region) == 0)
			return true;
	return false;
}

/* Do the options let it pass? */
bool
fleet_decode_is_wanted(const FleetDecodeOptions *options, const FleetDecodeEvent *event)
{
	bool		is_move = event->to != NULL;

	if (event->is_fence_event && !options->events)
		return false;
	if (!(event->key.is_ride ? options->rides : options->vehicles))
		return false;
	if (options->only_moves && !is_move)
		return false;
	if (options->regions == NIL)
		return true;
	if (is_move)
		return is_listed(options->regions, event->from) || is_listed(options->regions, event->to);
	return is_listed(options->regions, event->region);
}

static void
put_name(StringInfo buf, const char *text)
{
	fleet_decode_put_string(buf, text, strlen(text));
}

static void
put_version(StringInfo buf, const FleetDecodeEvent *event)
{
	FLEET_DECODE_PUT(buf, ",\"epoch\":");
	if (event->has_version)
		fleet_decode_put_int64(buf, event->epoch);
	else
		FLEET_DECODE_PUT(buf, "null");
	FLEET_DECODE_PUT(buf, ",\"hlc\":");
	if (event->has_version)
		fleet_decode_put_stamp(buf, event->hlc);
	else
		FLEET_DECODE_PUT(buf, "null");
}

static void
put_id(StringInfo buf, const FleetDecodeEvent *event)
{
	char		text[16];

	FLEET_DECODE_PUT(buf, "{\"id\":\"");
	fleet_decode_put(buf, event->region, strlen(event->region));
	FLEET_DECODE_PUT(buf, ":");
	fleet_decode_put_lsn(buf, event->place.lsn);
	fleet_decode_put(buf, text, snprintf(text, sizeof(text), ":%d\"", event->place.seq));
}

static void
put_transaction(StringInfo buf, const FleetDecodeOptions *options, const FleetDecodeXact *xact,
				const FleetDecodeEvent *event)
{
	FLEET_DECODE_PUT(buf, ",\"commit_time\":");
	if (xact->streamed)
	{
		FLEET_DECODE_PUT(buf, "null,\"xid\":");
		fleet_decode_put_int64(buf, xact->xid);
		if (event->place.xid != xact->xid)
		{
			FLEET_DECODE_PUT(buf, ",\"subxid\":");
			fleet_decode_put_int64(buf, event->place.xid);
		}
		return;
	}
	fleet_decode_put(buf, xact->commit_time, xact->commit_time_len);
	if (options->include_lsn)
	{
		FLEET_DECODE_PUT(buf, ",\"commit_lsn\":\"");
		fleet_decode_put_lsn(buf, xact->end_lsn);
		FLEET_DECODE_PUT(buf, "\"");
	}
}

static void
put_move(StringInfo buf, const FleetDecodeEvent *event)
{
	FLEET_DECODE_PUT(buf, ",\"from\":");
	put_name(buf, event->from);
	FLEET_DECODE_PUT(buf, ",\"to\":");
	put_name(buf, event->to);
	FLEET_DECODE_PUT(buf, ",\"gid\":");
	if (event->gid != NULL)
		put_name(buf, event->gid);
	else
		FLEET_DECODE_PUT(buf, "null");
}

/*
 * Begin a message, up to its images, which the caller may append if the event
 * does not bring them along.
 *
 * A client confirms the location that comes with a message once it has that
 * message.  What is sent when the transaction ends would come with the end of the
 * transaction, and to confirm that is to give up the messages after it; so the
 * location is that of the change in all cases.
 */
StringInfo
fleet_decode_event_begin(LogicalDecodingContext *ctx, FleetDecodeXact *xact,
						 const FleetDecodeEvent *event)
{
	FleetDecodeStream *stream = ctx->output_plugin_private;
	StringInfo	buf = ctx->out;

	ctx->write_location = event->place.lsn;
	OutputPluginPrepareWrite(ctx, true);
	put_id(buf, event);
	FLEET_DECODE_PUT(buf, ",\"operation\":\"");
	fleet_decode_put(buf, event->operation, strlen(event->operation));
	if (event->key.is_ride)
		FLEET_DECODE_PUT(buf, "\",\"kind\":\"ride\",\"key\":");
	else
		FLEET_DECODE_PUT(buf, "\",\"kind\":\"vehicle\",\"key\":");
	fleet_decode_put_string(buf, event->key.text, event->key.len);
	put_version(buf, event);
	put_transaction(buf, &stream->options, xact, event);
	if (event->to != NULL)
		put_move(buf, event);
	if (event->images != NULL)
		fleet_decode_put(buf, event->images, event->images_len);
	return buf;
}

void
fleet_decode_event_end(LogicalDecodingContext *ctx, FleetDecodeXact *xact)
{
	FLEET_DECODE_PUT(ctx->out, "}");
	fleet_decode_end(ctx->out);
	OutputPluginWrite(ctx, true);
	xact->wrote = true;
}

/* ---------- images ---------- */

/*
 * A varlena that is stored apart and was not written, because it did not change.  To
 * fetch it is no way out: by now the table it is in may have another, or none.
 */
bool
fleet_decode_is_missing(Datum value)
{
	return VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(value));
}

static bool
is_unknown(const FleetDecodeTable *table, const FleetDecodeRow *row, int i)
{
	return table->columns[i].varlena && !row->isnull[i] && fleet_decode_is_missing(row->values[i]);
}

static bool
is_same_varlena(Datum a, Datum b)
{
	struct varlena *left = PG_DETOAST_DATUM_PACKED(a);
	struct varlena *right = PG_DETOAST_DATUM_PACKED(b);

	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}

/* Is it the same in the old row, which is whole, and in the new one? */
static bool
is_same(const FleetDecodeTable *table, int i)
{
	const FleetDecodeColumn *column = &table->columns[i];
	const FleetDecodeRow *old = &table->old;
	const FleetDecodeRow *new = &table->new;

	if (old->isnull[i] || new->isnull[i])
		return old->isnull[i] && new->isnull[i];
	if (is_unknown(table, new, i))
		return true;
	if (column->varlena)
		return is_same_varlena(old->values[i], new->values[i]);
	return datumIsEqual(old->values[i], new->values[i], column->byval, column->len);
}

static void
put_member(StringInfo buf, FleetDecodeColumn *column, Datum value, bool isnull)
{
	if (buf->data[buf->len - 1] != '{')
		FLEET_DECODE_PUT(buf, ",");
	fleet_decode_put(buf, column->member, column->member_len);
	if (isnull)
		FLEET_DECODE_PUT(buf, "null");
	else
		fleet_decode_put_value(buf, column, value);
}

/*
 * The columns of a row, but those that the event says.  Of a whole image nulls are
 * left out; of one that has what was changed only, they are the change.
 */
static void
put_row(StringInfo buf, FleetDecodeTable *table, const FleetDecodeRow *row, bool changed_only)
{
	bool		is_new = row == &table->new;

	FLEET_DECODE_PUT(buf, "{");
	for (int i = 0; i < table->desc->natts; i++)
	{
		FleetDecodeColumn *column = &table->columns[i];

		if (TupleDescAttr(table->desc, i)->attisdropped || column->said ||
			(is_new && column->version))
			continue;
		if (changed_only ? is_same(table, i) : row->isnull[i])
			continue;
		if (!is_unknown(table, row, i))
			put_member(buf, column, row->values[i], row->isnull[i]);
		else if (is_new && table->full_identity && !table->old.isnull[i])
			put_member(buf, column, table->old.values[i], false);
	}
	FLEET_DECODE_PUT(buf, "}");
}

/* The names of columns whose values are not in the image. */
static void
put_unchanged(StringInfo buf, const FleetDecodeTable *table)
{
	bool		any = false;

	for (int i = 0; i < table->desc->natts; i++)
	{
		const FleetDecodeColumn *column = &table->columns[i];

		if (TupleDescAttr(table->desc, i)->attisdropped || column->said ||
			!is_unknown(table, &table->new, i))
			continue;
		if (any)
			FLEET_DECODE_PUT(buf, ",");
		else
			FLEET_DECODE_PUT(buf, ",\"unchanged\":[");
		put_name(buf, column->name);
		any = true;
	}
	if (any)
		FLEET_DECODE_PUT(buf, "]");
}

/*
 * The images of the rows that the table's old and new hold, as members of an
 * event.  has_old: the old row is there and whole.
 */
void
fleet_decode_put_images(StringInfo buf, const FleetDecodeOptions *options,
						FleetDecodeTable *table, bool has_old, bool has_new)
{
	bool		changed_only = options->changed_only && has_old && has_new;

	if (has_old && options->include_old)
	{
		FLEET_DECODE_PUT(buf, ",\"old\":");
		put_row(buf, table, &table->old, changed_only);
	}
	if (!has_new)
		return;
	if (changed_only)
		FLEET_DECODE_PUT(buf, ",\"changed_only\":true");
	FLEET_DECODE_PUT(buf, ",\"new\":");
	put_row(buf, table, &table->new, changed_only);
	if (!has_old)
		put_unchanged(buf, table);
}

/* The new image of a row that has left, from its departure's image (a jsonb). */
void
fleet_decode_put_departed(StringInfo buf, FleetDecodeTable *live, Datum image)
{
	Jsonb	   *jsonb = DatumGetJsonbP(image);

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return;
	FLEET_DECODE_PUT(buf, ",\"new\":{");
	for (int i = 0; i < live->desc->natts; i++)
	{
		FleetDecodeColumn *column = &live->columns[i];
		JsonbValue	value;

		if (TupleDescAttr(live->desc, i)->attisdropped || column->said || column->version ||
			getKeyJsonValueFromContainer(&jsonb->root, column->name, strlen(column->name),
										 &value) == NULL || value.type != jbvString)
			continue;
		if (buf->data[buf->len - 1] != '{')
			FLEET_DECODE_PUT(buf, ",");
		fleet_decode_put(buf, column->member, column->member_len);
		fleet_decode_put_image_text(buf, column, value.val.string.val, value.val.string.len);
	}
	FLEET_DECODE_PUT(buf, "}");
}
