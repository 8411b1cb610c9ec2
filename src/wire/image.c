/*-------------------------------------------------------------------------
 *
 * image.c
 *	  Row images: a row of rides or vehicles as a JSON object.
 *
 * Each column is a member of the column's name; its value is the text that
 * the type's output function gives, or null.  So jsonb_populate_record() reads
 * it back exactly, whatever the type (to_jsonb() would turn a geography into
 * GeoJSON and round it), and nodes with another order of columns understand
 * each other.  The text is made with settings of our own, because the reader
 * does not know those of the session that wrote it.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/wire/image.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "wire/image.h"

PG_FUNCTION_INFO_V1(fleet_wire_row_image);

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *text)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	(void) pushJsonbValue(state, token, &value);
}

static void
set_locally(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

/*
 * Times, intervals and floating-point numbers as any session reads them, for
 * the caller to take back with AtEOXact_GUC().
 */
static int
begin_exact_text(void)
{
	int			nest = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		set_locally("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_locally("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		set_locally("extra_float_digits", "1");
	return nest;
}

/* columns may be NULL, which is slower. */
static char *
column_text(TupleDesc desc, const FleetColumn *columns, int i, Datum value)
{
	Oid			output;
	bool		varlena;

	if (columns != NULL)
		return OutputFunctionCall(unconstify(FmgrInfo *, &columns[i].out), value);
	getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

/* The image of a row, palloc'd. */
Jsonb *
fleet_wire_image(TupleDesc desc, const FleetColumn *columns,
				 const Datum *values, const bool *isnull)
{
	JsonbParseState *state = NULL;
	int			nest = begin_exact_text();
	JsonbValue *image;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		JsonbValue	null = {.type = jbvNull};

		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		push_string(&state, WJB_KEY, NameStr(TupleDescAttr(desc, i)->attname));
		if (isnull[i])
			(void) pushJsonbValue(&state, WJB_VALUE, &null);
		else
			push_string(&state, WJB_VALUE, column_text(desc, columns, i, values[i]));
	}
	image = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	AtEOXact_GUC(true, nest);
	return JsonbValueToJsonb(image);
}

/* ---------- reading ---------- */

FLEET_NORETURN static void
raise_malformed(const char *key, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a row that travels is malformed"),
			 errdetail("Its field \"%s\" is not %s.", key, wanted)));
}

/* A string of a JSON object, palloc'd; NULL where it is null or absent. */
char *
fleet_wire_get_text(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &value) == NULL ||
		value.type == jbvNull)
		return NULL;
	if (value.type != jbvString)
		raise_malformed(key, "a string");
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/* A whole number of a JSON object, which must have it. */
int64
fleet_wire_get_int64(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &value) == NULL ||
		value.type != jbvNumeric)
		raise_malformed(key, "a number");
	return DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(value.val.numeric)));
}

/* An object within a JSON object, which must have it. */
JsonbContainer *
fleet_wire_get_object(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &value) == NULL ||
		value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
		raise_malformed(key, "an object");
	return value.val.binary.data;
}

/* Put the row that an image describes together in the slot of its table. */
void
fleet_wire_read_image(FleetOpenTable *open, JsonbContainer *image)
{
	TupleDesc	desc = RelationGetDescr(open->rel);

	fleet_base_table_clear(open);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		const FleetColumn *column = &open->kept->columns[i];
		char	   *text;

		if (attr->attisdropped)
			continue;
		text = fleet_wire_get_text(image, NameStr(attr->attname));
		if (text == NULL)
			continue;
		open->slot->tts_values[i] =
			InputFunctionCall(unconstify(FmgrInfo *, &column->in), text,
							  column->ioparam, attr->atttypmod);
		open->slot->tts_isnull[i] = false;
	}
}

/* fleet.row_image(record) -> jsonb */
Datum
fleet_wire_row_image(PG_FUNCTION_ARGS)
{
	HeapTupleHeader record = PG_GETARG_HEAPTUPLEHEADER(0);
	TupleDesc	desc;
	HeapTupleData tuple;
	Datum	   *values;
	bool	   *isnull;
	Jsonb	   *image;

	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record),
								  HeapTupleHeaderGetTypMod(record));
	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = record;
	values = palloc(sizeof(Datum) * desc->natts);
	isnull = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(&tuple, desc, values, isnull);
	image = fleet_wire_image(desc, NULL, values, isnull);
	ReleaseTupleDesc(desc);
	PG_RETURN_JSONB_P(image);
}
