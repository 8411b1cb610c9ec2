/*-------------------------------------------------------------------------
 *
 * graves.c
 *	  When a replica may forget that a row was deleted.
 *
 * A grave is kept so that a change of the row that comes late does not revive it.
 * It can go when none can come any more.  Let a row be deleted with stamp H, and be
 * buried here.  Which of its changes may still be on the way?
 *
 *	streams	Along the life of a row stamps only grow, over handoffs too: whoever
 *			changes it has received its stamp first.  Each region that ever had
 *			it wrote a last change there (its departure, or the grave), with a stamp of
 *			that region's own clock and no later than H; all that the region wrote of the
 *			row before is ahead of that in its log.  Once the region's heartbeat has passed
 *			H, that last change was applied here, and with it all of them.  So once
 *			the watermark, the least heartbeat of all regions, has passed H, no
 *			stream has one left.
 *	clocks	That is true while a region's clock does not go back.  A server that starts
 *			anew can be behind stamps that it gave or received before by up to
 *			fleet.max_clock_skew.  So a change may be stamped so much less than a
 *			heartbeat that is ahead of it in the log, and a grave so much less than a change of
 *			the row elsewhere: what counts is the watermark less twice that.
 *	silence	A region that is down, frozen or behind keeps its heartbeat where it is,
 *			and one that is copied has none that counts: the watermark waits for
 *			them, or there is none, and nothing is collected.
 *	copies	A region's live rows are the truth.  They are read and merged in the
 *			worker that collects, one after the other, while the region's stream
 *			rests, so the grave of one that is deleted meanwhile comes after it.
 *			But departures are kept on their region for ever, and each copy
 *			brings them again, with their images, of rows that were deleted elsewhere
 *			long ago.  A departure that is made again after a failover is as old.
 *			So a departure no newer than what was ever collected, of a row that
 *			is not here, is dropped (fleet_replica_was_collected): when that
 *			was collected, all departures up to there had been applied, so the row
 *			was here, and has been deleted since.  What the target has of
 *			it comes as a live row, in its own name.
 *	letters	A change that could not be written waits in fleet.dead_letters, and is
 *			merged when somebody asks for it.  It keeps the grave of its row.
 *
 * What was collected is written down in the transaction that collects.  Whoever
 * merges looks for the grave first, and waits for who is deleting it, so it finds the
 * one or the other.  And if the deletion of a grave survives a crash, so do the
 * heartbeats that it was based on, for they are ahead of it in our own log.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/replica/graves.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "base/plan.h"
#include "clock/clock.h"
#include "replica/merge.h"

PG_FUNCTION_INFO_V1(fleet_replica_collect_graves);

static FleetPlan watermark_plan = {
	"SELECT fleet.global_watermark()"
};
static FleetPlan old_plan = {
	"SELECT d.kind, d.key FROM fleet.departures AS d"
	" WHERE d.target IS NULL AND d.hlc OPERATOR(fleet.<=) $1::fleet.hlc"
	" AND NOT EXISTS (SELECT FROM fleet.dead_letters AS l WHERE l.origin = 'replica'"
	" AND l.resolved_at IS NULL AND CASE l.origin WHEN 'replica' THEN l.change->>'key' END = d.key)"
	" ORDER BY d.hlc LIMIT $2 FOR UPDATE OF d SKIP LOCKED",
	2, {INT8OID, INT4OID}
};
static FleetPlan note_plan = {
	"INSERT INTO fleet.graves_collected AS c (upto, graves) VALUES ($1::fleet.hlc, $2)"
	" ON CONFLICT (is_one) DO UPDATE SET upto = fleet.hlc_larger(c.upto, excluded.upto),"
	" graves = c.graves + excluded.graves, at = excluded.at",
	2, {INT8OID, INT4OID}
};
static FleetPlan collected_plan = {
	"SELECT upto FROM fleet.graves_collected"
};

/* The stamp up to which graves are of no use; 0 = not known. */
static uint64
find_horizon(void)
{
	bool		isnull;
	uint64		watermark;
	uint64		margin = (2 * (uint64) fleet_clock_max_skew) << FLEET_CLOCK_HLC_COUNTER_BITS;

	(void) fleet_base_plan_execute(&watermark_plan, NULL, NULL, NULL);
	watermark = (uint64) fleet_base_plan_int64(0, 1, &isnull);
	return isnull || watermark < margin ? 0 : watermark - margin;
}

/* Open up to max_rows graves that nobody needs; returns how many. */
static int
collect(uint64 horizon, int max_rows)
{
	Datum		values[2] = {Int64GetDatum((int64) horizon), Int32GetDatum(max_rows)};
	int			n = fleet_base_plan_execute(&old_plan, NULL, values, NULL);
	SPITupleTable *rows = SPI_tuptable;

	for (int i = 0; i < n; i++)
	{
		Datum		keys[2];

		for (int column = 0; column < 2; column++)
			keys[column] = CStringGetTextDatum(SPI_getvalue(rows->vals[i], rows->tupdesc, column + 1));
		fleet_replica_open_grave(keys);
	}
	if (n > 0)
	{
		values[1] = Int32GetDatum(n);
		fleet_base_plan_execute(&note_plan, NULL, values, NULL);
	}
	return n;
}

/* fleet.collect_graves(max_rows) -> how many */
Datum
fleet_replica_collect_graves(PG_FUNCTION_ARGS)
{
	int			max_rows = PG_GETARG_INT32(0);
	int			n = 0;
	uint64		horizon;

	SPI_connect();
	horizon = find_horizon();
	if (horizon != 0 && max_rows > 0)
		n = collect(horizon, max_rows);
	SPI_finish();
	PG_RETURN_INT32(n);
}

/* Have graves with that stamp been collected, maybe?  To be asked after the grave was looked for. */
bool
fleet_replica_was_collected(uint64 hlc)
{
	bool		collected;

	SPI_connect();
	collected = fleet_base_plan_execute_as_of_now(&collected_plan, NULL) > 0 &&
		hlc <= (uint64) fleet_base_plan_int64(0, 1, NULL);
	SPI_finish();
	return collected;
}
