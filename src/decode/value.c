/*-------------------------------------------------------------------------
 *
 * value.c
 *	  The values of columns as JSON.
 *
 * The types that rides and vehicles are made of are written straight from their
 * binary form: at hundreds of thousands of rows a second, output functions would
 * be most of the work.  Any other type, of columns that were added, is the string
 * that its output function gives.
 *
 * A place is [longitude, latitude].  It is read from PostGIS' serialized form,
 * and only if that is, to the byte, a point without further dimensions in one of
 * the two forms that are known; else it is what the output function says.
 *
 * A departure keeps its row as text (wire/image.c), so each encoding also has a
 * way from the text to the same JSON.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/value.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "clock/clock.h"
#include "decode/decode.h"
#include "decode/json.h"

/*
 * PostGIS' serialized form: an SRID of three bytes, one of flags, type, number of
 * points, coordinates.  Of a plain point no other flags are set than these two:
 * that it is on the sphere, and that the form is the second one.
 */
#define POINT_FLAGS			(0x08 | 0x40)
#define POINT_HEADER		4
#define POINT_TYPE			1

/*
 * Well-known binary with an SRID, in hexadecimal: order, type, SRID, x, y; in the
 * order of the server that wrote it.
 */
#define EWKB_POINT			"0101000020"
#define EWKB_POINT_BIG		"0020000001"
#define EWKB_POINT_LEN		(2 * 25)

/* ---------- which encoding ---------- */

static FleetDecodeEncoding
encoding_of_named(Oid type, Oid fleet_namespace)
{
	FleetDecodeEncoding encoding = FLEET_DECODE_OTHER;
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;

	if (!HeapTupleIsValid(tuple))
		return encoding;
	form = (Form_pg_type) GETSTRUCT(tuple);
	if (form->typtype == TYPTYPE_ENUM)
		encoding = FLEET_DECODE_ENUM;
	else if (form->typnamespace == fleet_namespace && strcmp(NameStr(form->typname), "hlc") == 0)
		encoding = FLEET_DECODE_STAMP;
	else if (form->typlen == -1 && strcmp(NameStr(form->typname), "geography") == 0)
		encoding = FLEET_DECODE_POINT;
	ReleaseSysCache(tuple);
	return encoding;
}

static FleetDecodeEncoding
encoding_of(Oid type, Oid fleet_namespace)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return FLEET_DECODE_TEXT;
		case BOOLOID:
			return FLEET_DECODE_BOOL;
		case INT2OID:
			return FLEET_DECODE_INT2;
		case INT4OID:
			return FLEET_DECODE_INT4;
		case INT8OID:
			return FLEET_DECODE_INT8;
		case FLOAT4OID:
			return FLEET_DECODE_FLOAT4;
		case FLOAT8OID:
			return FLEET_DECODE_FLOAT8;
		case NUMERICOID:
			return FLEET_DECODE_NUMERIC;
		case TIMESTAMPOID:
			return FLEET_DECODE_TIMESTAMP;
		case TIMESTAMPTZOID:
			return FLEET_DECODE_TIMESTAMPTZ;
		case DATEOID:
			return FLEET_DECODE_DATE;
		case INTERVALOID:
			return FLEET_DECODE_INTERVAL;
		case JSONOID:
		case JSONBOID:
			return FLEET_DECODE_JSON;
		default:
			return encoding_of_named(type, fleet_namespace);
	}
}

/* Learn all of a column; what it needs is allocated in the context. */
void
fleet_decode_column_init(FleetDecodeColumn *column, Form_pg_attribute attr,
						 Oid fleet_namespace, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	StringInfoData member;
	Oid			output;
	bool		varlena;

	initStringInfo(&member);
	fleet_decode_put_string(&member, NameStr(attr->attname), strlen(NameStr(attr->attname)));
	FLEET_DECODE_PUT(&member, ":");
	column->name = pstrdup(NameStr(attr->attname));
	column->member = member.data;
	column->member_len = member.len;
	column->varlena = attr->attlen == -1;
	column->byval = attr->attbyval;
	column->len = attr->attlen;
	column->encoding = encoding_of(getBaseType(attr->atttypid), fleet_namespace);
	getTypeOutputInfo(attr->atttypid, &output, &varlena);
	fmgr_info_cxt(output, &column->out, context);
	MemoryContextSwitchTo(old);
}

/* ---------- values ---------- */

static void
put_label(StringInfo buf, FleetDecodeColumn *column, Oid value)
{
	HeapTuple	tuple;
	int			i = 0;

	while (i < column->nlabel && column->label_oids[i] != value)
		i++;
	if (i == column->nlabel)
	{
		if (i == FLEET_DECODE_KEPT_LABELS)
			i = 0;
		tuple = SearchSysCache1(ENUMOID, ObjectIdGetDatum(value));
		if (!HeapTupleIsValid(tuple))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
					 errmsg("column \"%s\" has a value that its enum does not have", column->name)));
		column->label_oids[i] = value;
		column->labels[i] = ((Form_pg_enum) GETSTRUCT(tuple))->enumlabel;
		ReleaseSysCache(tuple);
		column->nlabel = Max(column->nlabel, i + 1);
	}
	fleet_decode_put_string(buf, NameStr(column->labels[i]), strlen(NameStr(column->labels[i])));
}

static void
put_point(StringInfo buf, double x, double y)
{
	FLEET_DECODE_PUT(buf, "[");
	fleet_decode_put_float8(buf, x);
	FLEET_DECODE_PUT(buf, ",");
	fleet_decode_put_float8(buf, y);
	FLEET_DECODE_PUT(buf, "]");
}

/* False, with nothing written, where it is not a plain point. */
static bool
try_put_point(StringInfo buf, const char *data, int len)
{
	uint32		type;
	uint32		npoints;
	double		place[2];

	if (len < POINT_HEADER + 8)
		return false;
	memcpy(&type, data + POINT_HEADER, 4);
	memcpy(&npoints, data + POINT_HEADER + 4, 4);
	if (((unsigned char) data[3] & ~POINT_FLAGS) != 0 || type != POINT_TYPE ||
		npoints > 1 || len != POINT_HEADER + 8 + 16 * npoints)
		return false;
	if (npoints == 0)
	{
		FLEET_DECODE_PUT(buf, "[]");
		return true;
	}
	memcpy(place, data + POINT_HEADER + 8, 16);
	if (!isfinite(place[0]) || !isfinite(place[1]))
		return false;
	put_point(buf, place[0], place[1]);
	return true;
}

static void
put_interval(StringInfo buf, const Interval *interval)
{
	struct pg_itm itm;
	char		text[MAXDATELEN + 1];

	if (!fleet_compat_interval_is_finite(interval))
	{
		strlcpy(text, interval->month < 0 ? "-infinity" : "infinity", sizeof(text));
		fleet_decode_put_string(buf, text, strlen(text));
		return;
	}
	interval2itm(*interval, &itm);
	EncodeInterval(&itm, INTSTYLE_ISO_8601, text);
	fleet_decode_put_string(buf, text, strlen(text));
}

static void
put_output(StringInfo buf, FleetDecodeColumn *column, Datum value)
{
	char	   *text = OutputFunctionCall(&column->out,
										  column->varlena ? PointerGetDatum(PG_DETOAST_DATUM(value)) : value);

	if (column->encoding == FLEET_DECODE_NUMERIC)
		fleet_decode_put_decimal(buf, text, strlen(text));
	else if (column->encoding == FLEET_DECODE_JSON)
		fleet_decode_put_one_line(buf, text, strlen(text));
	else
		fleet_decode_put_string(buf, text, strlen(text));
}

/* Write a value that is not null. */
void
fleet_decode_put_value(StringInfo buf, FleetDecodeColumn *column, Datum value)
{
	struct varlena *packed;

	switch (column->encoding)
	{
		case FLEET_DECODE_TEXT:
			packed = PG_DETOAST_DATUM_PACKED(value);
			fleet_decode_put_string(buf, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
			break;
		case FLEET_DECODE_POINT:
			packed = PG_DETOAST_DATUM_PACKED(value);
			if (!try_put_point(buf, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed)))
				put_output(buf, column, value);
			break;
		case FLEET_DECODE_BOOL:
			fleet_decode_put(buf, DatumGetBool(value) ? "true" : "false", DatumGetBool(value) ? 4 : 5);
			break;
		case FLEET_DECODE_INT2:
			fleet_decode_put_int64(buf, DatumGetInt16(value));
			break;
		case FLEET_DECODE_INT4:
			fleet_decode_put_int64(buf, DatumGetInt32(value));
			break;
		case FLEET_DECODE_INT8:
			fleet_decode_put_int64(buf, DatumGetInt64(value));
			break;
		case FLEET_DECODE_FLOAT4:
			fleet_decode_put_float4(buf, DatumGetFloat4(value));
			break;
		case FLEET_DECODE_FLOAT8:
			fleet_decode_put_float8(buf, DatumGetFloat8(value));
			break;
		case FLEET_DECODE_TIMESTAMP:
		case FLEET_DECODE_TIMESTAMPTZ:
			fleet_decode_put_time(buf, DatumGetTimestamp(value),
								  column->encoding == FLEET_DECODE_TIMESTAMPTZ);
			break;
		case FLEET_DECODE_DATE:
			fleet_decode_put_date(buf, DatumGetDateADT(value));
			break;
		case FLEET_DECODE_INTERVAL:
			put_interval(buf, DatumGetIntervalP(value));
			break;
		case FLEET_DECODE_ENUM:
			put_label(buf, column, DatumGetObjectId(value));
			break;
		case FLEET_DECODE_STAMP:
			fleet_decode_put_stamp(buf, DatumGetFleetClockStamp(value));
			break;
		case FLEET_DECODE_NUMERIC:
		case FLEET_DECODE_JSON:
		case FLEET_DECODE_OTHER:
			put_output(buf, column, value);
			break;
	}
}

/* ---------- the same from text ---------- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Eight bytes in hexadecimal; big: the most significant first. */
static bool
read_hex_double(const char *text, bool big, double *value)
{
	uint64		bits = 0;

	for (int i = 0; i < 8; i++)
	{
		const char *byte = text + 2 * (big ? i : 7 - i);
		int			high = hex_digit(byte[0]);
		int			low = hex_digit(byte[1]);

		if (high < 0 || low < 0)
			return false;
		bits = bits << 8 | high << 4 | low;
	}
	memcpy(value, &bits, sizeof(bits));
	return isfinite(*value);
}

static void
put_text_point(StringInfo buf, const char *text, int len)
{
	bool		big = len == EWKB_POINT_LEN && memcmp(text, EWKB_POINT_BIG, strlen(EWKB_POINT_BIG)) == 0;
	const char *empty = big ? "7FF80000000000007FF8000000000000" : "000000000000F87F000000000000F87F";
	double		x;
	double		y;

	if (len != EWKB_POINT_LEN || (!big && strncmp(text, EWKB_POINT, strlen(EWKB_POINT)) != 0))
		fleet_decode_put_string(buf, text, len);
	else if (read_hex_double(text + 18, big, &x) && read_hex_double(text + 34, big, &y))
		put_point(buf, x, y);
	else if (pg_strncasecmp(text + 18, empty, 32) == 0)
		FLEET_DECODE_PUT(buf, "[]");
	else
		fleet_decode_put_string(buf, text, len);
}

static void
put_text_stamp(StringInfo buf, const char *text, int len)
{
	uint64_t	stamp;

	if (fleet_clock_hlc_parse(text, len, &stamp) == FLEET_CLOCK_HLC_OK)
		fleet_decode_put_stamp(buf, stamp);
	else
		fleet_decode_put_string(buf, text, len);
}

/* Write what a text of an image stands for, as fleet_decode_put_value() would. */
void
fleet_decode_put_image_text(StringInfo buf, FleetDecodeColumn *column,
							const char *text, int len)
{
	Datum		cstring = CStringGetDatum(pnstrdup(text, len));
	Datum		typmod = Int32GetDatum(-1);
	Datum		no_type = ObjectIdGetDatum(InvalidOid);

	switch (column->encoding)
	{
		case FLEET_DECODE_BOOL:
			fleet_decode_put(buf, text[0] == 't' ? "true" : "false", text[0] == 't' ? 4 : 5);
			break;
		case FLEET_DECODE_INT2:
		case FLEET_DECODE_INT4:
		case FLEET_DECODE_INT8:
			fleet_decode_put_int64(buf, DatumGetInt64(DirectFunctionCall1(int8in, cstring)));
			break;
		case FLEET_DECODE_FLOAT4:
			fleet_decode_put_float4(buf, DatumGetFloat4(DirectFunctionCall1(float4in, cstring)));
			break;
		case FLEET_DECODE_FLOAT8:
			fleet_decode_put_float8(buf, DatumGetFloat8(DirectFunctionCall1(float8in, cstring)));
			break;
		case FLEET_DECODE_NUMERIC:
			fleet_decode_put_decimal(buf, text, len);
			break;
		case FLEET_DECODE_TIMESTAMP:
			fleet_decode_put_time(buf, DatumGetTimestamp(DirectFunctionCall3(timestamp_in, cstring, no_type, typmod)), false);
			break;
		case FLEET_DECODE_TIMESTAMPTZ:
			fleet_decode_put_time(buf, DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, cstring, no_type, typmod)), true);
			break;
		case FLEET_DECODE_DATE:
			fleet_decode_put_date(buf, DatumGetDateADT(DirectFunctionCall1(date_in, cstring)));
			break;
		case FLEET_DECODE_INTERVAL:
			put_interval(buf, DatumGetIntervalP(DirectFunctionCall3(interval_in, cstring, no_type, typmod)));
			break;
		case FLEET_DECODE_JSON:
			fleet_decode_put_one_line(buf, text, len);
			break;
		case FLEET_DECODE_STAMP:
			put_text_stamp(buf, text, len);
			break;
		case FLEET_DECODE_POINT:
			put_text_point(buf, text, len);
			break;
		case FLEET_DECODE_TEXT:
		case FLEET_DECODE_ENUM:
		case FLEET_DECODE_OTHER:
			fleet_decode_put_string(buf, text, len);
			break;
	}
}
