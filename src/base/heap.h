/*-------------------------------------------------------------------------
 *
 * heap.h
 *	  Rows that an index has found, read to be written anew.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/heap.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_HEAP_H
#define FLEET_BASE_HEAP_H

#include "postgres.h"

#include "access/relscan.h"
#include "executor/tuptable.h"

extern bool fleet_base_heap_next(IndexScanDesc scan, TupleTableSlot *slot);

#endif							/* FLEET_BASE_HEAP_H */
