/*-------------------------------------------------------------------------
 *
 * table.h
 *	  Single rows of fleet's own tables, found and written without SQL.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/table.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_TABLE_H
#define FLEET_BASE_TABLE_H

#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/plancache.h"
#include "utils/rel.h"

/* What a column is read and written as text with. */
typedef struct FleetColumn
{
	FmgrInfo	in;
	FmgrInfo	out;
	Oid			ioparam;
} FleetColumn;

/* Columns of the longest primary key that is searched by. */
#define FLEET_TABLE_MAX_KEYS 2

/* What is kept of a table from call to call. */
typedef struct FleetKept
{
	MemoryContext context;		/* it is in here itself */
	FleetColumn *columns;
	CachedExpression **exprs;	/* of the checks, the partition's last */
	ExprState **checks;
	int			ncheck;
	AttrNumber	key_columns[FLEET_TABLE_MAX_KEYS];	/* of the primary key */
	LocalTransactionId retired; /* in which transaction it was replaced */
	struct FleetKept *next;		/* among those that were replaced */
} FleetKept;

/* A table of ours; static. */
typedef struct FleetTable
{
	const char *name;			/* in schema fleet */
	Oid			relid;			/* InvalidOid: to be read anew */
	FleetKept  *kept;
	struct FleetTable *next;	/* among all that were ever opened */
} FleetTable;

/* A table that is open for work on single rows. */
typedef struct FleetOpenTable
{
	const FleetKept *kept;
	Relation	rel;
	TupleTableSlot *slot;		/* the row that was found, or is to be inserted */
	TupleTableSlot *changed;	/* what replaces it; NULL before the first */
	IndexScanDesc scan;			/* the last search, to be done again with another key; or NULL */
	LockTupleMode lockmode;		/* of rows that are locked; LockTupleExclusive at first */
	EState	   *estate;			/* NULL before the first write */
	ResultRelInfo *target;
	EPQState	epq;
	bool		indexed;		/* indexes are open for writing */
} FleetOpenTable;

extern void fleet_base_table_open(FleetTable *table, bool write, FleetOpenTable *open);
extern void fleet_base_table_close(FleetOpenTable *open);
extern bool fleet_base_table_find(FleetOpenTable *open, Snapshot snapshot,
								  int nkey, const Datum *keys);
extern bool fleet_base_table_find_newest(FleetOpenTable *open, int nkey, const Datum *keys);
extern List *fleet_base_table_find_all(FleetOpenTable *open, Snapshot snapshot,
									   const char *index, Datum key);
extern void fleet_base_table_take(FleetOpenTable *open, HeapTuple row);
extern bool fleet_base_table_lock(FleetOpenTable *open, Snapshot snapshot, bool newest);
extern bool fleet_base_table_try_lock(FleetOpenTable *open, Snapshot snapshot, bool *busy);
extern Datum fleet_base_table_get(const FleetOpenTable *open, const char *column,
								  bool *isnull);
extern char *fleet_base_table_get_text(const FleetOpenTable *open, const char *column);
extern char *fleet_base_table_text(const FleetOpenTable *open, int column, Datum value);
extern void fleet_base_table_clear(FleetOpenTable *open);
extern void fleet_base_table_set(FleetOpenTable *open, const char *column, Datum value);
extern void fleet_base_table_set_text(FleetOpenTable *open, const char *column,
									  const char *value);
extern HeapTuple fleet_base_table_form(FleetOpenTable *open);
extern void fleet_base_table_deform(FleetOpenTable *open, HeapTuple row);
extern void fleet_base_table_insert(FleetOpenTable *open);
extern void fleet_base_table_change(FleetOpenTable *open, int n, int *numbers,
									Datum *values, bool *isnull);
extern void fleet_base_table_update(FleetOpenTable *open, int n,
									const char *const *columns, Datum *values,
									bool *isnull);
extern void fleet_base_table_replace(FleetOpenTable *open, HeapTuple row);
extern void fleet_base_table_delete(FleetOpenTable *open);
extern int	fleet_base_table_column(TupleDesc desc, const char *name);
extern Datum fleet_base_table_next(const char *sequence);

#endif							/* FLEET_BASE_TABLE_H */
