/*-------------------------------------------------------------------------
 *
 * handoff_way.c
 *	  The ways to hand a ride off: fleet's, and by hand.
 *
 * By hand is what a careful programmer writes in C without fleet: connections
 * that are kept, statements that are prepared, and everything that need not
 * wait for an answer in one round trip.  From the source:
 *
 *	1. source	BEGIN; DELETE the ride, INSERT its departure with its image and
 *				a log row, all in one statement that returns the row
 *	2. target	BEGIN; INSERT the ride; INSERT a log row; PREPARE TRANSACTION
 *	3. source	COMMIT
 *	4. target	COMMIT PREPARED
 *
 * The row goes on in binary, as it came.  "bare" leaves out departure and log;
 * "decision" adds the decision record, with what is to be redone, to step 1.
 *
 * From elsewhere the source is prepared as well.  A third node has nothing to
 * commit but the decision, so there a record of it is always written.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/bench/handoff_way.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handoff.h"

#define BATCH			100
#define RIDE_COLUMNS	20		/* of fleet.rides; the image may follow */
#define RIDE_REGION		3
#define RIDE_EPOCH		18
#define RIDE_HLC		19

/* A ride that is being handed off by hand. */
typedef struct Move
{
	char		id[32];
	char		gid[64];
	PGresult   *row;
} Move;

/* Parameters: ride, target, source, name of the transaction. */
#define GONE "WITH gone AS (DELETE FROM bench.rides WHERE ride_id = $1 RETURNING *)"
#define KEPT \
	", kept AS (INSERT INTO bench.departures (kind, key, epoch, target, hlc, image, dtxid)" \
	" SELECT 'ride', ride_id, epoch + 1, $2, hlc, to_jsonb(gone), $4 FROM gone)" \
	", logged AS (INSERT INTO bench.handoff_log" \
	" (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)" \
	" SELECT ride_id, vehicle_id, $3, $2, epoch + 1, hlc, $4, 'departed' FROM gone)"
#define DECIDED \
	", decided AS (INSERT INTO bench.decisions (dtxid, branch, region, kind, payload)" \
	" SELECT $4, 0, $2, 'arrive', to_jsonb(gone) FROM gone)"

#define LEAVE_BARE "DELETE FROM bench.rides WHERE ride_id = $1 RETURNING *"
#define LEAVE GONE KEPT " SELECT * FROM gone"
#define LEAVE_DECIDE GONE KEPT DECIDED " SELECT * FROM gone"
#define LEAVE_TELL GONE KEPT " SELECT *, to_jsonb(gone) FROM gone"

#define ENTER \
	"INSERT INTO bench.rides VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10," \
	" $11, $12, $13, $14, $15, $16, $17, $18, $19::bigint + 1, $20)"
#define LOG \
	"INSERT INTO bench.handoff_log" \
	" (ride_id, vehicle_id, source, target, epoch, hlc, dtxid, status)" \
	" VALUES ($1, $2, $3, $4, $5::bigint + 1, $6, $7, 'arrived')"
#define DECIDE \
	"INSERT INTO bench.decisions (dtxid, branch, region, kind, payload)" \
	" VALUES ($1, 0, $2, 'arrive', $3)"

/* ---------- statements ---------- */

static void
check(PGconn *conn, const PGresult *result, const char *what)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		bench_fail("%s: %s", what, PQerrorMessage(conn));
}

static void
prepare(PGconn *conn, const char *name, const char *sql)
{
	PGresult   *result = PQprepare(conn, name, sql, 0, NULL);

	check(conn, result, sql);
	PQclear(result);
}

static void
queue(PGconn *conn, const char *statement, int n, const char *const *values,
	  const int *lengths, const int *formats)
{
	if (!PQsendQueryPrepared(conn, statement, n, values, lengths, formats, 1))
		bench_fail("%s: %s", statement, PQerrorMessage(conn));
}

static void
queue_sql(PGconn *conn, const char *sql)
{
	if (!PQsendQueryParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0))
		bench_fail("%s: %s", sql, PQerrorMessage(conn));
}

/* End what was queued and send it. */
static void
send_all(PGconn *conn)
{
	if (!PQpipelineSync(conn) || PQflush(conn) != 0)
		bench_fail("cannot send: %s", PQerrorMessage(conn));
}

/* Read all answers; rows, if there are any, are handed out. */
static PGresult *
receive_all(PGconn *conn, const char *what)
{
	PGresult   *rows = NULL;

	for (;;)
	{
		PGresult   *result = PQgetResult(conn);

		if (result == NULL && PQstatus(conn) == CONNECTION_BAD)
			bench_fail("%s: %s", what, PQerrorMessage(conn));
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
		{
			PQclear(result);
			return rows;
		}
		if (result == NULL)
			continue;
		check(conn, result, what);
		if (PQntuples(result) > 0 && rows == NULL)
			rows = result;
		else
			PQclear(result);
	}
}

/* ---------- by hand ---------- */

static void
prepare_by_hand(BenchClient *client)
{
	for (int i = 0; i < client->way->nplaces; i++)
	{
		PGconn	   *conn = client->conn[client->way->places[i]];

		prepare(conn, "begin", "BEGIN");
		prepare(conn, "commit", "COMMIT");
		prepare(conn, "leave", client->way->leave);
		prepare(conn, "enter", ENTER);
		prepare(conn, "log", LOG);
		prepare(conn, "decide", DECIDE);
		if (!PQenterPipelineMode(conn))
			bench_fail("cannot use pipeline mode: %s", PQerrorMessage(conn));
	}
}

static void
begin_move(BenchClient *client, Move *move, long ride)
{
	snprintf(move->id, sizeof(move->id), "R%09ld", ride);
	snprintf(move->gid, sizeof(move->gid), "bench:%s:%d:%ld", client->way->name,
			 client->number, ride);
	move->row = NULL;
}

/* BEGIN and the statement of this way, at the source. */
static void
queue_leave(BenchClient *client, const Move *move)
{
	const BenchNode *nodes = client->bench->nodes;
	const char *values[4] = {move->id, nodes[BENCH_TARGET].region,
		nodes[BENCH_SOURCE].region, move->gid};

	queue(client->conn[BENCH_SOURCE], "begin", 0, NULL, NULL, NULL);
	queue(client->conn[BENCH_SOURCE], "leave", client->way->log ? 4 : 1, values, NULL, NULL);
}

static void
receive_leave(BenchClient *client, Move *move)
{
	move->row = receive_all(client->conn[BENCH_SOURCE], client->way->leave);
	if (move->row == NULL || PQnfields(move->row) < RIDE_COLUMNS)
		bench_fail("%s: ride %s is not here", client->way->name, move->id);
}

/* BEGIN and the INSERTs, at the target. */
static void
queue_enter(BenchClient *client, const Move *move)
{
	const BenchNode *nodes = client->bench->nodes;
	PGconn	   *conn = client->conn[BENCH_TARGET];
	const char *values[RIDE_COLUMNS];
	int			lengths[RIDE_COLUMNS];
	int			formats[RIDE_COLUMNS];

	for (int i = 0; i < RIDE_COLUMNS; i++)
	{
		values[i] = PQgetisnull(move->row, 0, i) ? NULL : PQgetvalue(move->row, 0, i);
		lengths[i] = PQgetlength(move->row, 0, i);
		formats[i] = 1;
	}
	values[RIDE_REGION] = nodes[BENCH_TARGET].region;
	formats[RIDE_REGION] = 0;
	queue(conn, "begin", 0, NULL, NULL, NULL);
	queue(conn, "enter", RIDE_COLUMNS, values, lengths, formats);
	if (client->way->log)
	{
		const char *log[7] = {values[0], values[1], nodes[BENCH_SOURCE].region,
			nodes[BENCH_TARGET].region, values[RIDE_EPOCH], values[RIDE_HLC], move->gid};
		int			log_lengths[7] = {lengths[0], lengths[1], 0, 0,
		lengths[RIDE_EPOCH], lengths[RIDE_HLC], 0};
		int			log_formats[7] = {1, 1, 0, 0, 1, 1, 0};

		queue(conn, "log", 7, log, log_lengths, log_formats);
	}
}

static void
queue_named(PGconn *conn, const char *command, const Move *move)
{
	char		sql[128];

	snprintf(sql, sizeof(sql), "%s '%s'", command, move->gid);
	queue_sql(conn, sql);
}

/* One round trip to a place with what is queued there. */
static void
round_trip(BenchClient *client, BenchPlace place, const char *what)
{
	send_all(client->conn[place]);
	PQclear(receive_all(client->conn[place], what));
}

static double
note_step(BenchClient *client, int step, double since)
{
	double		now = bench_now();

	client->step[step] += now - since;
	return now;
}

static void
hand_off_by_hand(BenchClient *client, long ride)
{
	PGconn	   *source = client->conn[BENCH_SOURCE];
	PGconn	   *target = client->conn[BENCH_TARGET];
	double		at = bench_now();
	Move		move;

	begin_move(client, &move, ride);
	queue_leave(client, &move);
	send_all(source);
	receive_leave(client, &move);
	at = note_step(client, 0, at);

	queue_enter(client, &move);
	queue_named(target, "PREPARE TRANSACTION", &move);
	round_trip(client, BENCH_TARGET, "PREPARE TRANSACTION");
	PQclear(move.row);
	at = note_step(client, 1, at);

	queue(source, "commit", 0, NULL, NULL, NULL);
	round_trip(client, BENCH_SOURCE, "COMMIT");
	at = note_step(client, 2, at);

	queue_named(target, "COMMIT PREPARED", &move);
	round_trip(client, BENCH_TARGET, "COMMIT PREPARED");
	(void) note_step(client, 3, at);
}

/* The target decides: its own commit ends what the source has prepared. */
static void
hand_off_from_target(BenchClient *client, long ride)
{
	PGconn	   *source = client->conn[BENCH_SOURCE];
	Move		move;

	begin_move(client, &move, ride);
	queue_leave(client, &move);
	queue_named(source, "PREPARE TRANSACTION", &move);
	send_all(source);
	receive_leave(client, &move);

	queue_enter(client, &move);
	queue(client->conn[BENCH_TARGET], "commit", 0, NULL, NULL, NULL);
	round_trip(client, BENCH_TARGET, "COMMIT");
	PQclear(move.row);

	queue_named(source, "COMMIT PREPARED", &move);
	round_trip(client, BENCH_SOURCE, "COMMIT PREPARED");
}

static void
hand_off_from_third(BenchClient *client, long ride)
{
	PGconn	   *source = client->conn[BENCH_SOURCE];
	PGconn	   *target = client->conn[BENCH_TARGET];
	const char *decision[3];
	int			lengths[3] = {0};
	int			formats[3] = {0, 0, 1};
	Move		move;

	begin_move(client, &move, ride);
	queue_leave(client, &move);
	queue_named(source, "PREPARE TRANSACTION", &move);
	send_all(source);
	receive_leave(client, &move);

	queue_enter(client, &move);
	queue_named(target, "PREPARE TRANSACTION", &move);
	round_trip(client, BENCH_TARGET, "PREPARE TRANSACTION");

	decision[0] = move.gid;
	decision[1] = client->bench->nodes[BENCH_TARGET].region;
	decision[2] = PQgetvalue(move.row, 0, RIDE_COLUMNS);
	lengths[2] = PQgetlength(move.row, 0, RIDE_COLUMNS);
	queue(client->conn[BENCH_THIRD], "decide", 3, decision, lengths, formats);
	round_trip(client, BENCH_THIRD, DECIDE);
	PQclear(move.row);

	queue_named(target, "COMMIT PREPARED", &move);
	queue_named(source, "COMMIT PREPARED", &move);
	send_all(target);
	send_all(source);
	PQclear(receive_all(target, "COMMIT PREPARED"));
	PQclear(receive_all(source, "COMMIT PREPARED"));
}

/* ---------- by hand in SQL ---------- */

static void
prepare_dblink(BenchClient *client)
{
	const BenchNode *target = &client->bench->nodes[BENCH_TARGET];
	const char *values[1] = {target->conninfo};
	PGconn	   *conn = client->conn[BENCH_SOURCE];
	PGresult   *result;

	result = PQexecParams(conn, "SELECT dblink_connect('peer', $1)", 1, NULL, values,
						  NULL, NULL, 0);
	check(conn, result, "dblink_connect");
	PQclear(result);
	prepare(conn, "handoff", "CALL bench.handoff($1, $2, $3, $4)");
}

static void
hand_off_dblink(BenchClient *client, long ride)
{
	const BenchNode *nodes = client->bench->nodes;
	const char *values[4];
	PGresult   *result;
	Move		move;

	begin_move(client, &move, ride);
	values[0] = move.id;
	values[1] = nodes[BENCH_TARGET].region;
	values[2] = nodes[BENCH_SOURCE].region;
	values[3] = move.gid;
	result = PQexecPrepared(client->conn[BENCH_SOURCE], "handoff", 4, values, NULL, NULL, 0);
	check(client->conn[BENCH_SOURCE], result, "CALL bench.handoff");
	PQclear(result);
}

/* ---------- fleet ---------- */

static void
prepare_fleet(BenchClient *client)
{
	prepare(client->conn[client->way->places[0]], "handoff",
			client->way->rides == 1 ?
			"SELECT fleet.handoff($1::text, $2)" :
			"SELECT fleet.handoff($1::text[], $2)");
}

/* One call; what it returns is the new epoch, or how many rides have moved. */
static void
call_fleet(BenchClient *client, const char *rides, const char *expected)
{
	PGconn	   *conn = client->conn[client->way->places[0]];
	const char *values[2] = {rides, client->bench->nodes[BENCH_TARGET].region};
	PGresult   *result = PQexecPrepared(conn, "handoff", 2, values, NULL, NULL, 0);

	check(conn, result, client->way->name);
	if (PQntuples(result) != 1 || strcmp(PQgetvalue(result, 0, 0), expected) != 0)
		bench_fail("%s: fleet.handoff returned %s, not %s", client->way->name,
				   PQntuples(result) == 1 ? PQgetvalue(result, 0, 0) : "nothing", expected);
	PQclear(result);
}

static void
hand_off_fleet(BenchClient *client, long ride)
{
	char		id[32];

	snprintf(id, sizeof(id), "R%09ld", ride);
	call_fleet(client, id, "2");
}

static void
hand_off_batch(BenchClient *client, long ride)
{
	char		ids[BATCH * 16];
	char		expected[16];
	size_t		n = 0;

	for (int i = 0; i < BATCH; i++)
		n += snprintf(ids + n, sizeof(ids) - n, "%cR%09ld", i == 0 ? '{' : ',', ride + i);
	snprintf(ids + n, sizeof(ids) - n, "}");
	snprintf(expected, sizeof(expected), "%d", BATCH);
	call_fleet(client, ids, expected);
}

/* ---------- all of them ---------- */

static const BenchPlace source_first[] = {BENCH_SOURCE, BENCH_TARGET};
static const BenchPlace target_first[] = {BENCH_TARGET, BENCH_SOURCE};
static const BenchPlace third_first[] = {BENCH_THIRD, BENCH_SOURCE, BENCH_TARGET};

const BenchWay bench_way_floor =
{"floor", true, 1, source_first, 2, LEAVE, true, prepare_by_hand, hand_off_by_hand};
const BenchWay bench_way_floor_bare =
{"floor-bare", true, 1, source_first, 2, LEAVE_BARE, false, prepare_by_hand, hand_off_by_hand};
const BenchWay bench_way_floor_decision =
{"floor-decision", true, 1, source_first, 2, LEAVE_DECIDE, true, prepare_by_hand, hand_off_by_hand};
const BenchWay bench_way_floor_target =
{"floor-target", true, 1, target_first, 2, LEAVE, true, prepare_by_hand, hand_off_from_target};
const BenchWay bench_way_floor_third =
{"floor-third", true, 1, third_first, 3, LEAVE_TELL, true, prepare_by_hand, hand_off_from_third};
const BenchWay bench_way_dblink =
{"dblink", true, 1, source_first, 1, NULL, true, prepare_dblink, hand_off_dblink};
const BenchWay bench_way_from_source =
{"single", false, 1, source_first, 1, NULL, true, prepare_fleet, hand_off_fleet};
const BenchWay bench_way_from_target =
{"from-target", false, 1, target_first, 1, NULL, true, prepare_fleet, hand_off_fleet};
const BenchWay bench_way_from_third =
{"from-third", false, 1, third_first, 1, NULL, true, prepare_fleet, hand_off_fleet};
const BenchWay bench_way_batch =
{"batch-100", false, BATCH, source_first, 1, NULL, true, prepare_fleet, hand_off_batch};
