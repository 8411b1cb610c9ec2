/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The options of a change stream; docs/change-stream.md describes them.
 *
 * Each option has a handler in one table.  What is not in it is refused: a
 * misspelled filter that was ignored would send everything.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/options.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "decode/decode.h"

#define FORMAT_VERSION	"1"

typedef void (*Handler) (FleetDecodeOptions *options, const DefElem *option);

FLEET_NORETURN static void
raise_bad_value(const DefElem *option, const char *value, const char *allowed)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option->defname, value),
			 errdetail("Allowed are: %s.", allowed),
			 errhint("docs/change-stream.md describes the options.")));
}

/* The value, which the option must have. */
static char *
text_of(const DefElem *option, const char *allowed)
{
	if (option->arg == NULL)
		raise_bad_value(option, "", allowed);
	return strVal(option->arg);
}

/* An option without a value is switched on. */
static bool
bool_of(const DefElem *option)
{
	bool		value = true;

	if (option->arg != NULL && !parse_bool(strVal(option->arg), &value))
		raise_bad_value(option, strVal(option->arg), "true, false");
	return value;
}

/* Without the schema, and without the prefix of the partition. */
static const char *
bare_table(const char *name)
{
	if (strncmp(name, "fleet.", 6) == 0)
		name += 6;
	return strncmp(name, "local_", 6) == 0 ? name + 6 : name;
}

static List *
names_of(const DefElem *option, const char *allowed)
{
	char	   *value = text_of(option, allowed);
	List	   *names = NIL;

	if (!SplitGUCList(pstrdup(value), ',', &names) || names == NIL)
		raise_bad_value(option, value, allowed);
	return names;
}

static void
take_tables(FleetDecodeOptions *options, const DefElem *option)
{
	static const char allowed[] = "rides, vehicles, or both with a comma between";
	ListCell   *cell;

	options->rides = options->vehicles = false;
	foreach(cell, names_of(option, allowed))
	{
		const char *table = bare_table(lfirst(cell));

		if (strcmp(table, "rides") == 0)
			options->rides = true;
		else if (strcmp(table, "vehicles") == 0)
			options->vehicles = true;
		else
			raise_bad_value(option, lfirst(cell), allowed);
	}
}

static void
take_regions(FleetDecodeOptions *options, const DefElem *option)
{
	static const char allowed[] = "names of regions with commas between";
	ListCell   *cell;

	options->regions = names_of(option, allowed);
	foreach(cell, options->regions)
	{
		const char *name = lfirst(cell);
		size_t		len = strlen(name);

		if (len == 0 || len != strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"))
			raise_bad_value(option, name, allowed);
	}
}

static void
take_include_old(FleetDecodeOptions *options, const DefElem *option)
{
	options->include_old = bool_of(option);
}

static void
take_changed_only(FleetDecodeOptions *options, const DefElem *option)
{
	options->changed_only = bool_of(option);
}

static void
take_only_moves(FleetDecodeOptions *options, const DefElem *option)
{
	options->only_moves = bool_of(option);
}

static void
take_events(FleetDecodeOptions *options, const DefElem *option)
{
	options->events = bool_of(option);
}

static void
take_include_lsn(FleetDecodeOptions *options, const DefElem *option)
{
	options->include_lsn = bool_of(option);
}

static void
take_streaming(FleetDecodeOptions *options, const DefElem *option)
{
	options->streaming = bool_of(option);
}

static void
take_format_version(FleetDecodeOptions *options, const DefElem *option)
{
	char	   *value = text_of(option, FORMAT_VERSION);

	if (strcmp(value, FORMAT_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("format version \"%s\" is not supported", value),
				 errdetail("This server writes format version %s.", FORMAT_VERSION),
				 errhint("Leave the option out, or set it to %s.", FORMAT_VERSION)));
}

static const struct
{
	const char *name;
	Handler		take;
}			handlers[] = {
	{"changed_only", take_changed_only},
	{"events", take_events},
	{"format_version", take_format_version},
	{"include_lsn", take_include_lsn},
	{"include_old", take_include_old},
	{"only_moves", take_only_moves},
	{"regions", take_regions},
	{"streaming", take_streaming},
	{"tables", take_tables},
};

static char *
all_names(void)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(handlers); i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "", handlers[i].name);
	return buf.data;
}

/* Read what was given, a list of DefElem; an error where it is not understood. */
void
fleet_decode_read_options(List *given, FleetDecodeOptions *options)
{
	ListCell   *cell;

	memset(options, 0, sizeof(*options));
	options->rides = options->vehicles = true;
	foreach(cell, given)
	{
		const DefElem *option = lfirst_node(DefElem, cell);
		int			i = 0;

		while (i < lengthof(handlers) && strcmp(handlers[i].name, option->defname) != 0)
			i++;
		if (i == lengthof(handlers))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown option \"%s\" of output plugin \"fleet\"", option->defname),
					 errdetail("Known options: %s.", all_names()),
					 errhint("docs/change-stream.md describes them.")));
		handlers[i].take(options, option);
	}
	if (options->streaming && options->include_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"streaming\" and \"include_lsn\" exclude each other"),
				 errdetail("Where a transaction ends is not known before it has.")));
}
