/*-------------------------------------------------------------------------
 *
 * note.c
 *	  What a transaction changes in the table of vehicles, noted until it ends.
 *
 * fleet.live_note is a row trigger, after, on the partition of this node's region.  It fires for
 * every session, also one that is a replica's (ENABLE ALWAYS).
 *
 *	row changed			noted, under the present subtransaction
 *	savepoint ends		its notes become its parent's, or are forgotten
 *	COMMIT				the notes are applied, after other backends see the transaction's
 *						rows and before the client hears of it; nothing here can fail
 *	PREPARE				the notes are kept in shared memory (prepared.c), before there is
 *						anything prepared; where it fails after all they are taken out.  Where
 *						they cannot be kept, the index has to be built anew
 *	ABORT				forgotten
 *
 * A transaction with very many changes, or with a vehicle whose id is too long for the index,
 * is not noted row by row: when it commits, the table is read in anew.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/note.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/xact.h"
#include "live/live.h"
#include "live/record.h"

PG_FUNCTION_INFO_V1(fleet_live_note);

/* At most 50 MB of notes. */
#define NOTES_MAX 262144

static FleetLiveNote *notes = NULL; /* of this transaction, in its memory */
static int	nnote = 0;
static int	room = 0;
static Oid	unnoted = InvalidOid;	/* a table with changes that are not */
static bool is_saved = false;	/* for a transaction that is being prepared */

static void
forget(void)
{
	if (notes != NULL || OidIsValid(unnoted))
		fleet_live_end_noting();
	notes = NULL;
	nnote = room = 0;
	unnoted = InvalidOid;
	is_saved = false;
}

static void
committed(void)
{
	if (nnote > 0)
		fleet_live_apply(notes, nnote);
	if (OidIsValid(unnoted))
		fleet_live_give_up(unnoted);
	forget();
}

static void
aborted(void)
{
	if (is_saved)
		fleet_live_drop_prepared(GetTopTransactionIdIfAny());
	forget();
}

static void
pre_prepare(void)
{
	if (nnote == 0 || OidIsValid(unnoted))
		return;
	is_saved = true;
	if (!fleet_live_save_prepared(GetTopTransactionId(), notes, nnote))
		unnoted = notes[0].table;
}

/*
 * Nobody can commit it before this returns.  What is not saved is seen from here on by who
 * builds, since it is prepared; one that was built before lacks it.
 */
static void
prepared(void)
{
	if (OidIsValid(unnoted))
		fleet_live_give_up(unnoted);
	forget();
}

/* Subtransactions nest, so what belongs to one is at the end. */
static void
sub_committed(int level)
{
	for (int i = nnote - 1; i >= 0 && notes[i].level >= level; i--)
		notes[i].level = level - 1;
}

static void
sub_aborted(int level)
{
	while (nnote > 0 && notes[nnote - 1].level >= level)
		nnote--;
}

static const FleetXactHandlers handlers = {
	.pre_prepare = pre_prepare,
	.prepared = prepared,
	.committed = committed,
	.aborted = aborted,
	.sub_committed = sub_committed,
	.sub_aborted = sub_aborted
};

/* Before the first note of a transaction. */
static void
begin(void)
{
	fleet_base_xact_handle(&handlers);
	fleet_live_settle_prepared();
	fleet_live_begin_noting();
	room = 8;
	notes = MemoryContextAlloc(TopTransactionContext, sizeof(FleetLiveNote) * room);
}

/* Room for one more; NULL where there are too many. */
static FleetLiveNote *
add_note(void)
{
	if (notes == NULL)
		begin();
	if (nnote == room && room < NOTES_MAX)
	{
		room *= 2;
		notes = repalloc(notes, sizeof(FleetLiveNote) * room);
	}
	return nnote < room ? &notes[nnote++] : NULL;
}

/* Note a row as it is now, or that it is gone. */
static void
note_row(Relation rel, TupleTableSlot *slot, bool is_gone)
{
	FleetLiveColumns columns;
	FleetLiveRecord record;
	FleetLiveNote *note;
	text	   *id;
	bool		isnull;

	fleet_live_find_columns(RelationGetDescr(rel), &columns);
	id = DatumGetTextPP(slot_getattr(slot, columns.vehicle_id, &isnull));
	fleet_live_read_row(slot, &columns, &record);
	record.is_gone = is_gone;
	record.id_size = VARSIZE_ANY_EXHDR(id);
	note = add_note();
	if (note == NULL || record.id_size > FLEET_LIVE_ID_MAX)
	{
		if (note != NULL)
			nnote--;
		unnoted = RelationGetRelid(rel);
		return;
	}
	note->table = RelationGetRelid(rel);
	note->level = GetCurrentTransactionNestLevel();
	memcpy(&note->record, &record, offsetof(FleetLiveRecord, id));
	memcpy(note->record.id, VARDATA_ANY(id), record.id_size);
}

/* Has this transaction changed vehicles, which only the table knows? */
bool
fleet_live_has_noted(void)
{
	return notes != NULL;
}

Datum
fleet_live_note(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fleet.live_note is a row trigger of fleet's own tables")));
	if (!fleet_live_is_on())
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		note_row(trigger->tg_relation, trigger->tg_newslot, false);
	else
		note_row(trigger->tg_relation, trigger->tg_trigslot, TRIGGER_FIRED_BY_DELETE(trigger->tg_event));
	return PointerGetDatum(NULL);
}
