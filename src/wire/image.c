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
#include "utils/typcache.h"

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
	if (extra_float_digits < 3)
		set_locally("extra_float_digits", "3");
	return nest;
}

/* The image of a row, palloc'd. */
Jsonb *
fleet_wire_image(HeapTuple tuple, TupleDesc desc)
{
	JsonbParseState *state = NULL;
	int			nest = begin_exact_text();
	JsonbValue *image;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;
		Oid			output;
		bool		varlena;

		if (attr->attisdropped)
			continue;
		push_string(&state, WJB_KEY, NameStr(attr->attname));
		value = heap_getattr(tuple, i + 1, desc, &isnull);
		if (isnull)
		{
			JsonbValue	null = {.type = jbvNull};

			(void) pushJsonbValue(&state, WJB_VALUE, &null);
			continue;
		}
		getTypeOutputInfo(attr->atttypid, &output, &varlena);
		push_string(&state, WJB_VALUE, OidOutputFunctionCall(output, value));
	}
	image = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	AtEOXact_GUC(true, nest);
	return JsonbValueToJsonb(image);
}

/* fleet.row_image(record) -> jsonb */
Datum
fleet_wire_row_image(PG_FUNCTION_ARGS)
{
	HeapTupleHeader record = PG_GETARG_HEAPTUPLEHEADER(0);
	TupleDesc	desc;
	HeapTupleData tuple;
	Jsonb	   *image;

	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record),
								  HeapTupleHeaderGetTypMod(record));
	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = record;
	image = fleet_wire_image(&tuple, desc);
	ReleaseTupleDesc(desc);
	PG_RETURN_JSONB_P(image);
}
