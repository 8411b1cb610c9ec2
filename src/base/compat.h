/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL 15, 16, 17 and 18; nowhere else is the
 *	  server's version asked for.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_COMPAT_H
#define FLEET_BASE_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/executor.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "replication/output_plugin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#else
#include "storage/backendid.h"
#endif

/* Goes before the declaration of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define FLEET_NORETURN pg_noreturn
#else
#define FLEET_NORETURN pg_attribute_noreturn()
#endif

/* Index of this backend, in 0 .. MaxBackends - 1, stable for its lifetime. */
static inline int
fleet_compat_backend_index(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyBackendId - 1;
#endif
}

/* The present transaction's number within this backend. */
static inline LocalTransactionId
fleet_compat_lxid(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProc->vxid.lxid;
#else
	return MyProc->lxid;
#endif
}

/* May the current user execute a function? */
static inline bool
fleet_compat_may_execute(Oid function)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* The table's primary key, or InvalidOid. */
static inline Oid
fleet_compat_primary_key(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

static inline IndexScanDesc
fleet_compat_index_beginscan(Relation table, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(table, index, snapshot, nkeys, 0);
#endif
}

/*
 * From 18 on there are constraints that the executor skips, and virtual columns
 * in them that it expands.
 */
static inline bool
fleet_compat_may_lend_checks(const TupleConstr *constr)
{
#if PG_VERSION_NUM >= 180000
	if (constr == NULL || constr->has_generated_virtual)
		return false;
	for (int i = 0; i < constr->num_check; i++)
		if (!constr->check[i].ccenforced)
			return false;
#endif
	return true;
}

/* Have the executor use these compiled CHECK constraints. */
static inline void
fleet_compat_lend_checks(ResultRelInfo *target, ExprState **checks)
{
#if PG_VERSION_NUM >= 180000
	target->ri_CheckConstraintExprs = checks;
#else
	target->ri_ConstraintExprs = checks;
#endif
}

/* Insert a row, which the table has by now, into the indexes. */
static inline void
fleet_compat_insert_index_tuples(ResultRelInfo *target, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false);
#else
	(void) ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL);
#endif
}

/* For deletes that meet no concurrent update to be evaluated again. */
static inline void
fleet_compat_epq_init(EPQState *epq, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epq, estate, NULL, NIL, -1);
#endif
}

/* A wait event set for as long as the backend lives. */
static inline WaitEventSet *
fleet_compat_create_wait_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* The rows of a change that is decoded; NULL where there is none. */
static inline HeapTuple
fleet_compat_new_row(const ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.newtuple;
#else
	return change->data.tp.newtuple != NULL ? &change->data.tp.newtuple->tuple : NULL;
#endif
}

static inline HeapTuple
fleet_compat_old_row(const ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.oldtuple;
#else
	return change->data.tp.oldtuple != NULL ? &change->data.tp.oldtuple->tuple : NULL;
#endif
}

/* Intervals can be infinite from 17 on. */
static inline bool
fleet_compat_interval_is_finite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return !INTERVAL_NOT_FINITE(interval);
#else
	return true;
#endif
}

#endif							/* FLEET_BASE_COMPAT_H */
