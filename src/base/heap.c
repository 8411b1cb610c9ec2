/*-------------------------------------------------------------------------
 *
 * heap.c
 *	  Rows that an index has found, read to be written anew.
 *
 * A page is pruned when somebody reads it and it has less space left than its
 * table's fillfactor reserves.  Where nearly every read is followed by an update that is
 * nearly every time: each update leaves one dead row, and the next reader looks at all
 * rows of the page, and logs it, to be rid of that one.  The space that the
 * fillfactor reserves is there to be used before.  So here a page is pruned when it
 * has no room left for two more versions of the row that was read, which takes a
 * few updates.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/heap.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

#include "base/heap.h"

/* Look for the version of a row that the scan's snapshot shows; it is in the slot, no buffer is pinned. */
static bool
read_row(IndexScanDesc scan, ItemPointer tid, TupleTableSlot *slot)
{
	Relation	rel = scan->heapRelation;
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	ItemPointerData found = *tid;
	HeapTupleData tuple;
	bool		all_dead;
	bool		is_full;
	bool		is_shown;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	is_shown = heap_hot_search_buffer(&found, rel, buffer, scan->xs_snapshot, &tuple, &all_dead, true);
	is_full = is_shown &&
		PageGetHeapFreeSpace(BufferGetPage(buffer)) < 2 * MAXALIGN(tuple.t_len);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (is_shown)
	{
		ExecStoreBufferHeapTuple(&tuple, slot, buffer);
		ExecMaterializeSlot(slot);
		pgstat_count_heap_fetch(scan->indexRelation);
	}
	else if (!scan->xactStartedInRecovery)
		scan->kill_prior_tuple = all_dead;
	if (is_full)
		heap_page_prune_opt(rel, buffer);
	ReleaseBuffer(buffer);
	return is_shown;
}

/*
 * The next row of a scan of a btree, in the slot, with no buffer pinned by it; false
 * where there is none.
 */
bool
fleet_base_heap_next(IndexScanDesc scan, TupleTableSlot *slot)
{
	ItemPointer tid;

	if (scan->heapRelation->rd_tableam != GetHeapamTableAmRoutine())
	{
		if (!index_getnext_slot(scan, ForwardScanDirection, slot))
			return false;
		ExecMaterializeSlot(slot);
		return true;
	}
	while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
		if (read_row(scan, tid, slot))
			return true;
	ExecClearTuple(slot);
	return false;
}
