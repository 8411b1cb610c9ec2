/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Drift: what the nodes have that cannot be, told from what is only late.
 *
 * A check looks at some rows on all nodes and says which of them are wrong.  Nodes
 * are never looked at in one moment, rows change and move meanwhile, and a replica
 * is behind, so one look proves little.  The judgement is made by the statements
 * of the chapter "drift" of the install script; here is why it is right, and the
 * question to many nodes at once on which it is based.
 *
 * A check goes in rounds i = 1, 2, ...; all rows are looked at in the first, and
 * then those alone that are in question:
 *
 *	1. (On a replica, from the second round on.)  Wait until the heartbeat of each
 *	   region that was applied here has passed the stamp now(i-1) that the region
 *	   gave in step 3 of the round before.
 *	2. (On a replica.)  Look at its own rows: R(i).
 *	3. Look at the rows on all regions at once: L(i).  Each answers from one
 *	   snapshot with its live rows, departures and graves, and takes a stamp
 *	   now(i) from its clock afterwards.  Then, in a statement of its own, it says which
 *	   of the live rows are busy: locked against FOR KEY SHARE, as a row is that
 *	   somebody is deleting, prepared transactions too.
 *	4. Judge.  What looks wrong in two rounds that follow each other, in the
 *	   same way, is a finding.  What looked wrong once only is asked again, until
 *	   fleet.drift_timeout has passed; then it is undecided, and does not count.
 *
 * What a region says of a row, its word, is a live row, a departure or a grave; the words on
 * one row are ordered by epoch, those on one epoch so: live, grave, departure.
 * The word of one region on one row never goes back, and the greatest word of all regions
 * never does.  Neither is true of a region that lost something: that is drift.
 *
 * Why a finding is wrong indeed, and not late:
 *
 *	missing		The row is live in L(i-1) and in L(i), at the same epoch, and not in R(i).
 *				It was committed before now(i-1) was taken, so it is ahead of
 *				the heartbeat of step 1 in that region's log, and was applied here
 *				before R(i).  Nothing can have removed it again: a grave of that
 *				epoch or a later one would be the greater word in L(i).
 *	stale		So is a version of L(i-1) that is greater than that in R(i): the
 *				replica had to apply it, and versions do not go back.
 *	differing	The version is that of the region's row, and the contents are not.
 *				A version is given to one content only.  Such a row whose places are
 *				further apart than the threshold is "distant".
 *	ahead		The version is the same in R(i-1) and R(i), and greater than
 *				that in L(i-1) and L(i), where the row is not busy.  What a replica applies is in the
 *				log of a region, and visible there a moment later at the most; the
 *				heartbeats of step 1 were written after that moment.
 *	extra		The same for a row of which no region has a word of that epoch or
 *				a later one, or only a grave.  All regions have to answer, or a word may be at
 *				the one that does not.
 *	doubled		The row is live on two regions, or on one while the greatest word is
 *				a grave elsewhere.  In a handoff that is so for a moment: the target's
 *				branch is committed first, and the source's is prepared by then, so
 *				the source's row is locked from before L(i-1) showed the
 *				target's until it is gone.  In L(i) it is there, and not busy.
 *	lost		The greatest word in L(i-1) and L(i) is the same departure, settled, and its
 *				target has no word of that epoch or a later one.  It was settled after
 *				the target had committed the arrival, so the target should have
 *				said so in L(i).  The departure of a handoff that is not settled waits.
 *	astray		A vehicle was last seen outside of its region, further than the
 *				crossing rule allows and longer ago: two looks say the same.
 *
 * A replica judges only rows of regions whose stream it follows at that time; a
 * region that is copied anew is put right by that.  A region that does not answer is
 * named in the report, and its rows are not judged.
 *
 * (Clocks are not kept over a restart.  A region whose server starts anew behind its
 * heartbeats can have step 1 end too soon.  Then a row that is late would have to be
 * late for two rounds to be taken for a finding; healing reads it again and does no harm.)
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/check.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/shmem.h"
#include "drift/drift.h"
#include "remote/remote.h"

PG_FUNCTION_INFO_V1(fleet_drift_ask_all);

static int	drift_timeout = 5000;	/* ms */
static double drift_threshold = 5.0;	/* per cent */
static int	heal_limit = 1000;	/* rows */

/* One of those that are asked. */
typedef struct Asked
{
	char	   *peer;
	FleetConn  *conn;			/* NULL where it cannot be reached */
	char	   *error;
} Asked;

void
fleet_drift_init(void)
{
	DefineCustomIntVariable("fleet.drift_timeout",
							"How long a drift check asks again for rows that may be late or on their way.",
							"Raise it where replicas lag for longer, or reports tell of many rows that are undecided.",
							&drift_timeout, 5000, 100, 600000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomRealVariable("fleet.drift_threshold",
							 "How many per cent of the checked rows may be wrong before fleet.drift_job heals.",
							 "Lower it where single wrong rows are to be put right at once; 100 leaves that to lost and doubled ones.",
							 &drift_threshold, 5.0, 0.0, 100.0,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fleet.heal_limit",
							"How many rows one call of fleet.heal may change without an operator's word.",
							"Raise it where a known accident has damaged more; 0 = nothing is healed unless it is forced.",
							&heal_limit, 1000, 0, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	fleet_drift_retention_init();
}

/* Send it the query.  The peer gives up at the deadline, too. */
static void
send_query(Asked *asked, const char *sql, int timeout)
{
	asked->conn = fleet_remote_try_connect(asked->peer, &asked->error);
	if (asked->conn == NULL)
		return;
	if (asked->conn->in_transaction)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("drift is not looked for within a transaction that has changed rows of other nodes"),
				 errhint("Commit first.")));
	(void) fleet_remote_queue(asked->conn,
							  psprintf("SELECT pg_catalog.set_config('statement_timeout', '%d', true)", timeout));
	(void) fleet_remote_send(asked->conn, sql, 0, NULL);
}

/* Its answer, first column of the first row, or NULL and an error. */
static char *
receive_answer(Asked *asked, int64 deadline)
{
	FleetReply	reply = {FLEET_REPLY_BROKEN, NULL};
	char	   *answer = NULL;

	if (asked->conn == NULL)
		return NULL;
	if (fleet_remote_receive(asked->conn, deadline, &reply) != FLEET_REPLY_OK)
		asked->error = fleet_remote_error_text(asked->conn, &reply);
	else if (PQntuples(reply.result) > 0 && !PQgetisnull(reply.result, 0, 0))
		answer = pstrdup(PQgetvalue(reply.result, 0, 0));
	fleet_remote_clear(&reply);
	return answer;
}

static Asked *
read_peers(ArrayType *peers, int *n)
{
	Datum	   *names;
	Asked	   *asked;

	if (ARR_NDIM(peers) > 1 || array_contains_nulls(peers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the nodes to be asked must be a list of names")));
	deconstruct_array(peers, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, n);
	asked = palloc0(sizeof(Asked) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		asked[i].peer = TextDatumGetCString(names[i]);
	return asked;
}

/*
 * fleet.ask_all(peers, query, timeout) -> (peer, answer, error): one query to many
 * nodes at once.  A node that does not answer says why in error.  All are sent the query
 * before the first answer is awaited; this node, too, is asked by a connection, so its
 * locks and its snapshot are like those of the others.
 */
Datum
fleet_drift_ask_all(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			timeout = PG_GETARG_INT32(2);
	int64		deadline;
	int			n;
	Asked	   *asked;

	fleet_base_require_loaded();
	if (timeout < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time to wait for an answer must be positive")));
	asked = read_peers(PG_GETARG_ARRAYTYPE_P(0), &n);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
		send_query(&asked[i], sql, timeout);
	deadline = fleet_remote_deadline(timeout);
	for (int i = 0; i < n; i++)
	{
		char	   *answer = receive_answer(&asked[i], deadline);
		Datum		values[3] = {CStringGetTextDatum(asked[i].peer)};
		bool		nulls[3] = {false, answer == NULL, asked[i].error == NULL};

		if (answer != NULL)
			values[1] = CStringGetTextDatum(answer);
		if (asked[i].error != NULL)
			values[2] = CStringGetTextDatum(asked[i].error);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
