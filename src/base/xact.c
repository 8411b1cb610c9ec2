/*-------------------------------------------------------------------------
 *
 * xact.c
 *	  The one transaction callback of the extension.
 *
 * Callbacks of several extensions run in reverse order of registration; ours
 * is registered when a backend first takes part in a distributed transaction,
 * so that sessions which never do pay nothing.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/xact.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "base/xact.h"

static const FleetXactHandlers *xact_handlers = NULL;

static void
on_xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			xact_handlers->pre_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			xact_handlers->pre_prepare();
			break;
		case XACT_EVENT_COMMIT:
			xact_handlers->committed();
			break;
		case XACT_EVENT_ABORT:
			xact_handlers->aborted();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
}

static void
on_subxact_event(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			xact_handlers->sub_committed(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			xact_handlers->sub_aborted(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_START_SUB:
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			break;
	}
}

/* From now on let these hear of this backend's transactions.  Idempotent. */
void
fleet_base_xact_handle(const FleetXactHandlers *handlers)
{
	if (xact_handlers != NULL)
	{
		Assert(xact_handlers == handlers);
		return;
	}
	xact_handlers = handlers;
	RegisterXactCallback(on_xact_event, NULL);
	RegisterSubXactCallback(on_subxact_event, NULL);
}
