/*-------------------------------------------------------------------------
 *
 * table.c
 *	  What the change stream knows of tables, kept from change to change.
 *
 * All of it is read from the system catalogs, which decoding shows as they were
 * when the change was made.  That is also where the own region's name comes
 * from: the bound of the partition local_rides says which region its rows are
 * of.  So the stream reads no table of fleet's, and none of them has to be
 * declared as one that decoding reads.
 *
 * An invalidation of one of our tables drops all that is kept of any, since they
 * share the own region.  The callbacks are for as long as the process lives and
 * cannot be taken back; between two streams they have nothing to do.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/table.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "decode/decode.h"

/* Of any table of this database that changes; most are none of ours. */
typedef struct Kept
{
	Oid			relid;			/* the hash key */
	bool		valid;
	FleetDecodeTable *table;	/* NULL: not one of ours */
} Kept;

static const char *const live_fields[FLEET_DECODE_NFIELD] = {
	[FLEET_DECODE_EPOCH] = "epoch",
	[FLEET_DECODE_HLC] = "hlc",
	[FLEET_DECODE_REGION] = "region",
};
static const char *const event_fields[FLEET_DECODE_NFIELD] = {
	[FLEET_DECODE_KEY] = "vehicle_id",
	[FLEET_DECODE_EPOCH] = "epoch",
	[FLEET_DECODE_HLC] = "hlc",
	[FLEET_DECODE_REGION] = "region",
};
static const char *const departure_fields[FLEET_DECODE_NFIELD] = {
	[FLEET_DECODE_KEY] = "key",
	[FLEET_DECODE_EPOCH] = "epoch",
	[FLEET_DECODE_HLC] = "hlc",
	[FLEET_DECODE_KIND] = "kind",
	[FLEET_DECODE_TARGET] = "target",
	[FLEET_DECODE_IMAGE] = "image",
	[FLEET_DECODE_DTXID] = "dtxid",
	[FLEET_DECODE_SETTLED] = "settled_hlc",
};
static const char *const log_fields[FLEET_DECODE_NFIELD] = {
	[FLEET_DECODE_KEY] = "ride_id",
	[FLEET_DECODE_EPOCH] = "epoch",
	[FLEET_DECODE_HLC] = "hlc",
	[FLEET_DECODE_TARGET] = "target",
	[FLEET_DECODE_DTXID] = "dtxid",
	[FLEET_DECODE_VEHICLE] = "vehicle_id",
	[FLEET_DECODE_SOURCE] = "source",
	[FLEET_DECODE_STATUS] = "status",
};

static HTAB *kept_tables = NULL;	/* of the stream that runs */
static MemoryContext tables_context = NULL;
static Kept *last_kept = NULL;	/* changes come in runs */

/* ---------- invalidation ---------- */

static void
drop_all(void)
{
	HASH_SEQ_STATUS scan;
	Kept	   *kept;

	hash_seq_init(&scan, kept_tables);
	while ((kept = hash_seq_search(&scan)) != NULL)
		kept->valid = false;
}

static void
on_relation_inval(Datum arg, Oid relid)
{
	Kept	   *kept;

	if (kept_tables == NULL)
		return;
	if (relid == InvalidOid)
	{
		drop_all();
		return;
	}
	kept = hash_search(kept_tables, &relid, HASH_FIND, NULL);
	if (kept == NULL)
		return;
	kept->valid = false;
	if (kept->table != NULL)
		drop_all();
}

static void
on_type_inval(Datum arg, int cacheid, uint32 hashvalue)
{
	if (kept_tables != NULL)
		drop_all();
}

/* A stream that failed may be cleaned up when the next one has begun. */
static void
forget_stream(void *arg)
{
	if (kept_tables != arg)
		return;
	kept_tables = NULL;
	tables_context = NULL;
	last_kept = NULL;
}

/* Begin to keep tables, in the context of a stream and for as long as it lives. */
void
fleet_decode_tables_init(MemoryContext context)
{
	static bool registered = false;
	MemoryContextCallback *callback = MemoryContextAllocZero(context, sizeof(MemoryContextCallback));
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(Kept),.hcxt = context};

	if (!registered)
	{
		CacheRegisterRelcacheCallback(on_relation_inval, (Datum) 0);
		CacheRegisterSyscacheCallback(ENUMOID, on_type_inval, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, on_type_inval, (Datum) 0);
		registered = true;
	}
	kept_tables = hash_create("fleet decoded tables", 64, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	tables_context = context;
	last_kept = NULL;
	callback->func = forget_stream;
	callback->arg = kept_tables;
	MemoryContextRegisterResetCallback(context, callback);
}

/* ---------- reading ---------- */

/* The only value of a list partition; nothing where it is not one. */
static void
read_bound(Oid relid, char *region)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		isnull;
	Datum		bound;

	if (!HeapTupleIsValid(tuple))
		return;
	bound = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		PartitionBoundSpec *spec = stringToNode(TextDatumGetCString(bound));

		if (spec->strategy == PARTITION_STRATEGY_LIST && list_length(spec->listdatums) == 1)
		{
			Const	   *value = linitial_node(Const, spec->listdatums);

			if (!value->constisnull)
				text_to_cstring_buffer(DatumGetTextPP(value->constvalue), region, NAMEDATALEN);
		}
	}
	ReleaseSysCache(tuple);
}

static int
position_of(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i;
	return -1;
}

static void
read_fields(FleetDecodeTable *table, const char *const *names)
{
	for (int i = 0; i < FLEET_DECODE_NFIELD; i++)
		table->fields[i] = names[i] == NULL ? -1 : position_of(table->desc, names[i]);
}

static void
read_columns(FleetDecodeTable *table, Oid namespace)
{
	TupleDesc	desc = table->desc;

	table->columns = palloc0(sizeof(FleetDecodeColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			fleet_decode_column_init(&table->columns[i], TupleDescAttr(desc, i), namespace,
									 CurrentMemoryContext);
}

/* Of a table whose rows are in messages. */
static void
read_shown(FleetDecodeTable *table, const char *const *names, Oid namespace)
{
	read_fields(table, names);
	read_columns(table, namespace);
	if (table->role == FLEET_DECODE_LIVE)
		table->fields[FLEET_DECODE_KEY] =
			position_of(table->desc, table->is_ride ? "ride_id" : "vehicle_id");
	for (int i = 0; i < table->desc->natts; i++)
	{
		table->columns[i].said = i == table->fields[FLEET_DECODE_KEY] ||
			i == table->fields[FLEET_DECODE_REGION];
		table->columns[i].version = i == table->fields[FLEET_DECODE_EPOCH] ||
			i == table->fields[FLEET_DECODE_HLC];
	}
}

static void
read_row_space(FleetDecodeRow *row, int natts)
{
	row->values = palloc0(sizeof(Datum) * natts);
	row->isnull = palloc0(sizeof(bool) * natts);
}

/* A table lacks a column only while a newer version's script has changed it. */
static void
check_fields(const FleetDecodeTable *table, const char *const *names, const char *name)
{
	for (int i = 0; i < FLEET_DECODE_NFIELD; i++)
		if (names[i] != NULL && table->fields[i] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"fleet.%s\" has no column \"%s\"", name, names[i]),
					 errhint("Library and extension are of different versions: ALTER EXTENSION fleet UPDATE.")));
}

static FleetDecodeTable *
read_table(Relation rel, FleetDecodeRole role, bool is_ride)
{
	const char *const *names = role == FLEET_DECODE_LIVE ? live_fields :
		role == FLEET_DECODE_LOG ? log_fields :
		role == FLEET_DECODE_FENCE_EVENTS ? event_fields : departure_fields;
	MemoryContext context = AllocSetContextCreate(tables_context, "fleet decoded table",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	FleetDecodeTable *table = palloc0(sizeof(FleetDecodeTable));
	Oid			namespace = RelationGetNamespace(rel);
	Oid			partition = role == FLEET_DECODE_LIVE ? RelationGetRelid(rel) :
		get_relname_relid("local_rides", namespace);

	table->context = context;
	table->role = role;
	table->is_ride = is_ride;
	table->full_identity = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	table->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	if (OidIsValid(partition))
		read_bound(partition, table->region);
	if (role == FLEET_DECODE_LIVE || role == FLEET_DECODE_FENCE_EVENTS)
		read_shown(table, names, namespace);
	else
		read_fields(table, names);
	check_fields(table, names, RelationGetRelationName(rel));
	read_row_space(&table->new, table->desc->natts);
	read_row_space(&table->old, table->desc->natts);
	MemoryContextSwitchTo(old);
	return table;
}

/* ---------- looking up ---------- */

static FleetDecodeRole
role_of(Relation rel, bool *is_ride)
{
	const char *name = RelationGetRelationName(rel);
	char	   *schema;
	FleetDecodeRole role = FLEET_DECODE_NO_ROLE;

	*is_ride = strcmp(name, "local_rides") == 0;
	if (*is_ride || strcmp(name, "local_vehicles") == 0)
		role = FLEET_DECODE_LIVE;
	else if (strcmp(name, "departures") == 0)
		role = FLEET_DECODE_DEPARTURES;
	else if (strcmp(name, "handoff_log") == 0)
		role = FLEET_DECODE_LOG;
	else if (strcmp(name, "fence_events") == 0)
		role = FLEET_DECODE_FENCE_EVENTS;
	if (role == FLEET_DECODE_NO_ROLE)
		return role;
	schema = get_namespace_name(RelationGetNamespace(rel));
	return schema != NULL && strcmp(schema, "fleet") == 0 ? role : FLEET_DECODE_NO_ROLE;
}

/* What is known of a table; NULL where it is not one that the stream is about. */
FleetDecodeTable *
fleet_decode_table(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	FleetDecodeRole role;
	bool		is_ride;
	bool		found;
	Kept	   *kept;

	if (last_kept != NULL && last_kept->relid == relid && last_kept->valid)
		return last_kept->table;
	kept = hash_search(kept_tables, &relid, HASH_ENTER, &found);
	last_kept = kept;
	if (!found)
		kept->table = NULL;
	else if (kept->valid)
		return kept->table;
	kept->valid = false;
	if (kept->table != NULL)
		MemoryContextDelete(kept->table->context);
	kept->table = NULL;
	role = role_of(rel, &is_ride);
	if (role != FLEET_DECODE_NO_ROLE)
		kept->table = read_table(rel, role, is_ride);

	/* The other tables may be older than the partition that names the region. */
	kept->valid = role == FLEET_DECODE_NO_ROLE || role == FLEET_DECODE_LIVE ||
		kept->table->region[0] != '\0';
	return kept->table;
}

/* The table of live rows; NULL where there is none. */
FleetDecodeTable *
fleet_decode_live_table(bool is_ride)
{
	Oid			namespace = get_namespace_oid("fleet", true);
	Oid			relid = get_relname_relid(is_ride ? "local_rides" : "local_vehicles", namespace);
	FleetDecodeTable *table = NULL;
	Relation	rel = OidIsValid(relid) ? RelationIdGetRelation(relid) : NULL;

	if (rel != NULL)
	{
		table = fleet_decode_table(rel);
		RelationClose(rel);
	}
	return table;
}
