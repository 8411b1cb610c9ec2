/*-------------------------------------------------------------------------
 *
 * xact.c
 *	  The one transaction callback of the extension.
 *
 * Callbacks of several extensions run in reverse order of registration; ours
 * is registered when a backend first does something whose end a room wants to hear
 * of, so that sessions which never do pay nothing.
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

#define MAX_ROOMS 4

static const FleetXactHandlers *rooms[MAX_ROOMS];
static int	nroom = 0;

static void
call(const FleetXactHandlers *room, XactEvent event)
{
	void		(*handler) (void) = NULL;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			handler = room->pre_commit;
			break;
		case XACT_EVENT_PRE_PREPARE:
			handler = room->pre_prepare;
			break;
		case XACT_EVENT_PREPARE:
			handler = room->prepared;
			break;
		case XACT_EVENT_COMMIT:
			handler = room->committed;
			break;
		case XACT_EVENT_ABORT:
			handler = room->aborted;
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
	if (handler != NULL)
		handler();
}

static void
on_xact_event(XactEvent event, void *arg)
{
	for (int i = 0; i < nroom; i++)
		call(rooms[i], event);
}

static void
on_subxact_event(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	for (int i = 0; i < nroom; i++)
	{
		if (event == SUBXACT_EVENT_COMMIT_SUB && rooms[i]->sub_committed != NULL)
			rooms[i]->sub_committed(level);
		else if (event == SUBXACT_EVENT_ABORT_SUB && rooms[i]->sub_aborted != NULL)
			rooms[i]->sub_aborted(level);
	}
}

/* From now on let these hear of this backend's transactions.  Idempotent. */
void
fleet_base_xact_handle(const FleetXactHandlers *handlers)
{
	int			place = nroom;

	for (int i = 0; i < nroom; i++)
		if (rooms[i] == handlers)
			return;
	if (nroom == MAX_ROOMS)
		elog(ERROR, "too many rooms want to hear of transactions");
	if (nroom == 0)
	{
		RegisterXactCallback(on_xact_event, NULL);
		RegisterSubXactCallback(on_subxact_event, NULL);
	}
	for (; place > 0 && !handlers->waits && rooms[place - 1]->waits; place--)
		rooms[place] = rooms[place - 1];
	rooms[place] = handlers;
	nroom++;
}
