/*-------------------------------------------------------------------------
 *
 * filter.c
 *	  The statements of a read.
 *
 * A read is the same statement on each node: conditions, order and limit are
 * in it, values are parameters, so that each node plans it once.  Only
 * conditions that are given are in the text; a general "or the parameter is
 * null" would keep the planner from the indexes.
 *
 * Statements that run with an owner's rights have nothing but pg_catalog in the
 * search path: on other nodes by the options of the connection, here by
 * fleet_query_plain_settings().  A read of scope local has the caller's rights and
 * settings.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/filter.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/typcache.h"

#include "query/read.h"

/* Add a value; the number of its parameter. */
int
fleet_query_add_value(FleetRead *read, const char *value)
{
	if (read->nparam >= FLEET_READ_MAX_PARAMS - 1)
		elog(ERROR, "a read has too many values");
	read->params[read->nparam++] = value;
	return read->nparam;
}

/*
 * Add a condition over r; "$?" in it stands for the value, which is text.  Without
 * a value nothing is added.
 */
void
fleet_query_add(FleetRead *read, const char *condition, const char *value)
{
	const char *mark = strstr(condition, "$?");

	Assert(mark != NULL);
	if (value == NULL)
		return;
	appendStringInfo(&read->condition, " AND (%.*s$%d%s)", (int) (mark - condition), condition,
					 fleet_query_add_value(read, value), mark + 2);
}

/* ---------- order and limit ---------- */

/*
 * Have each answer be that long, or somewhat longer.  The limit is a number in the
 * statement, for the planner to see; powers of two make few different statements.
 */
void
fleet_query_set_limit(FleetRead *read, int64 rows)
{
	read->limit = 16;
	while (read->limit < rows)
		read->limit *= 2;
}

static void
raise_order(const char *order_by, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid order \"%s\"", order_by),
			 errdetail_internal("%s", detail),
			 errhint("Give a column of fleet.rides, or distance where near is given, and perhaps asc or desc: \"requested_at desc\".")));
}

/* "column [asc|desc]", or "distance [asc|desc]"; NULL leaves the rows in no order. */
void
fleet_query_set_order(FleetRead *read, const char *order_by)
{
	char	   *column;
	char	   *direction;
	char	   *rest = NULL;

	if (order_by == NULL)
		return;
	column = strtok_r(pstrdup(order_by), " \t\r\n", &rest);
	direction = strtok_r(NULL, " \t\r\n", &rest);
	if (column == NULL || strtok_r(NULL, " \t\r\n", &rest) != NULL)
		raise_order(order_by, "It is not one column with or without a direction.");
	read->descending = direction != NULL && pg_strcasecmp(direction, "desc") == 0;
	if (direction != NULL && !read->descending && pg_strcasecmp(direction, "asc") != 0)
		raise_order(order_by, "The direction is neither asc nor desc.");
	read->by_distance = pg_strcasecmp(column, "distance") == 0;
	if (read->by_distance && read->near == NULL)
		raise_order(order_by, "There is no place to measure the distance from.");
	if (read->by_distance)
		return;
	for (int i = 0; i < read->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(read->desc, i);

		if (!att->attisdropped && pg_strcasecmp(NameStr(att->attname), column) == 0)
			read->order_column = att->attnum;
	}
	if (read->order_column == 0)
		raise_order(order_by, "There is no such column.");
	if (!OidIsValid(lookup_type_cache(TupleDescAttr(read->desc, read->order_column - 1)->atttypid,
									  TYPECACHE_LT_OPR)->lt_opr))
		raise_order(order_by, "Its type has no order.");
}

/*
 * By bytes, whatever the collation: the same on all nodes.  COLLATE "C" says the
 * same, but makes another column of it, which is computed for each row.
 */
#define FLEET_BY_ID "r.ride_id USING OPERATOR(pg_catalog.~<~)"

/*
 * Ties go by the id.  But an index can be read by distance only if that is the
 * whole order, so then all ties are taken.
 */
static void
append_order(StringInfo sql, const FleetRead *read)
{
	const char *direction = read->descending ? "DESC" : "ASC";

	if (read->by_distance)
		appendStringInfo(sql, " ORDER BY fleet.distance_to(r.current_location, (SELECT $%d::text)) %s",
						 read->near_param, direction);
	else if (read->order_column != 0)
		appendStringInfo(sql, " ORDER BY r.%s %s, " FLEET_BY_ID,
						 quote_identifier(NameStr(TupleDescAttr(read->desc,
																read->order_column - 1)->attname)),
						 direction);
	if (read->max_rows >= 0 && read->by_distance)
		appendStringInfo(sql, " FETCH FIRST " INT64_FORMAT " ROWS WITH TIES", read->limit);
	else if (read->max_rows >= 0)
		appendStringInfo(sql, " LIMIT " INT64_FORMAT, read->limit);
}

/* ---------- columns ---------- */

/* The columns of a ride in the order of fleet.rides here. */
static void
append_columns(StringInfo sql, const FleetRead *read)
{
	for (int i = 0; i < read->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(read->desc, i);

		if (att->attisdropped)
			continue;
		if (sql->data[sql->len - 1] != '(' && sql->data[sql->len - 1] != ' ')
			appendStringInfoString(sql, ", ");
		appendStringInfo(sql, "r.%s", quote_identifier(NameStr(att->attname)));
	}
}

/* What is shown of a ride: itself, or its part in the sums. */
static void
append_record(StringInfo sql, const FleetRead *read)
{
	appendStringInfoString(sql, "ROW(");
	if (read->only_number)
		appendStringInfoString(sql, "NULL, NULL, 1, 0");
	else if (read->parts)
		appendStringInfoString(sql, "r.region, r.status, 1, r.fare");
	else
		append_columns(sql, read);
	appendStringInfoString(sql, ")::text");
}

/* ---------- statements ---------- */

/* Whether a ride matches, as text that is never null: what is unknown does not match. */
static void
append_matches(StringInfo sql, const FleetRead *read)
{
	appendStringInfo(sql, "((true%s) IS TRUE)::text", read->condition.data);
}

static void
append_departures(StringInfo sql, const char *condition)
{
	appendStringInfo(sql, " UNION ALL SELECT 'gone', d.key, d.epoch::text, d.target, d.image::text"
					 " FROM fleet.departures AS d WHERE d.kind = 'ride' AND %s", condition);
}

/* The clock of who answers, ahead of the reader's from now on. */
static void
append_clock(StringInfo sql)
{
	appendStringInfoString(sql, " UNION ALL SELECT 'clock', NULL,"
						   " fleet.hlc_receive($1::bigint::fleet.hlc)::bigint::text, NULL, NULL");
}

/*
 * Departures that may not have arrived.  The upper bound, which every stamp is below,
 * tells the planner that they are few; for what is only above something unknown it
 * expects a third of the table.
 */
#define UNSETTLED "d.target IS NOT NULL AND d.settled_hlc IS NULL"
#define SETTLED_LATER "d.target IS NOT NULL" \
	" AND d.settled_hlc OPERATOR(fleet.>) $1::bigint::fleet.hlc" \
	" AND d.settled_hlc OPERATOR(fleet.<=) ($1::bigint | 9223372036854775807)::fleet.hlc"

/*
 * Ids of the rides that have departed, and of those of whose departure from elsewhere
 * this node has a record.
 */
const char *
fleet_query_moving_sql(void)
{
	return "SELECT 'moving', d.key, NULL, NULL, NULL FROM fleet.departures AS d"
		" WHERE d.kind = 'ride' AND " UNSETTLED
		" UNION ALL SELECT 'moving', d.key, NULL, NULL, NULL FROM fleet.departures AS d"
		" WHERE d.kind = 'ride' AND " SETTLED_LATER
		" UNION ALL SELECT 'moving', a.value->>'key', NULL, NULL, NULL"
		" FROM fleet.decisions AS c, LATERAL jsonb_array_elements(c.payload) AS a"
		" WHERE c.kind = 'depart' AND a.value->>'kind' = 'ride'";
}

static void
append_sums(StringInfo sql, const FleetRead *read, const char *touched, const char *sign,
			const char *condition)
{
	appendStringInfo(sql, "SELECT 'sum', NULL, NULL, %s, ", touched);
	if (read->only_number)
		appendStringInfo(sql, "ROW(NULL, NULL, %scount(*), 0)::text", sign);
	else
		appendStringInfo(sql, "ROW(r.region, r.status, %scount(*), %ssum(r.fare))::text", sign, sign);
	appendStringInfo(sql, " FROM fleet.local_rides AS r WHERE true%s%s%s", read->condition.data,
					 condition, read->only_number ? "" : " GROUP BY r.region, r.status");
}

/*
 * The sums of all rides that match, and where wanted, which of these some transaction
 * has begun to change or delete.  Each row is looked at once.
 */
const char *
fleet_query_sums_sql(const FleetRead *read, bool touched)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_sums(&sql, read, touched ?
				"(array_agg(r.ride_id) FILTER (WHERE r.xmax <> '0'::xid))::text" : "NULL", "", "");
	append_clock(&sql);
	return sql.data;
}

/*
 * The first question: rides that match, and where regions are to be merged, what
 * has departed.  Where one node's answer is all, it makes the sums.  Untouched rows are those that no transaction has
 * begun to change or delete.
 */
const char *
fleet_query_first_sql(const FleetRead *read, bool untouched)
{
	bool		merged = read->scope == FLEET_SCOPE_LIVE && read->region == NULL;
	StringInfoData sql;

	if (read->parts && !merged)
		return fleet_query_sums_sql(read, false);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 'live', r.ride_id, r.epoch::text, 'true', ");
	append_record(&sql, read);
	appendStringInfo(&sql, " FROM (SELECT r.* FROM fleet.local_rides AS r WHERE true%s%s",
					 read->condition.data, untouched ? " AND r.xmax = '0'::xid" : "");
	append_order(&sql, read);
	appendStringInfoString(&sql, ") AS r");
	if (read->scope == FLEET_SCOPE_LIVE && read->by_id)
		append_departures(&sql, "d.key = $2");
	else if (merged)
	{
		append_departures(&sql, UNSETTLED);
		append_departures(&sql, SETTLED_LATER);
	}
	append_clock(&sql);
	return sql.data;
}

/*
 * Of the rides by these ids: each as it is, and whether it matches; or where it went.
 * Where sums were answered before, what of the first question would be about these
 * rides; and those that match are taken out of the sums.
 */
const char *
fleet_query_again_sql(const FleetRead *read, bool summed)
{
	const char *departed = psprintf("d.key = ANY ($%d::text[])", read->nparam + 1);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 'live', r.ride_id, r.epoch::text, ");
	append_matches(&sql, read);
	appendStringInfoString(&sql, ", ");
	append_record(&sql, read);
	appendStringInfo(&sql, " FROM fleet.local_rides AS r WHERE r.ride_id = ANY ($%d::text[])",
					 read->nparam + 1);
	if (!summed)
		append_departures(&sql, departed);
	else
	{
		append_departures(&sql, psprintf("%s AND %s", departed, UNSETTLED));
		append_departures(&sql, psprintf("%s AND %s", departed, SETTLED_LATER));
		appendStringInfoString(&sql, " UNION ALL ");
		append_sums(&sql, read, "NULL", "-",
					psprintf(" AND r.ride_id = ANY ($%d::text[])", read->nparam + 1));
	}
	append_clock(&sql);
	return sql.data;
}

/* Whether a departure's image matches, and the ride that it is. */
const char *
fleet_query_image_sql(const FleetRead *read)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_matches(&sql, read);
	appendStringInfoString(&sql, ", ");
	append_record(&sql, read);
	appendStringInfo(&sql, " FROM jsonb_populate_record(NULL::fleet.rides, $%d::jsonb) AS r",
					 read->nparam + 1);
	return sql.data;
}

/* This node's own rides through the table that the caller has rights on. */
const char *
fleet_query_local_sql(const FleetRead *read)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (read->only_number)
		appendStringInfoString(&sql, "NULL::text, NULL::fleet.ride_status, count(*), 0::numeric");
	else if (read->parts)
		appendStringInfoString(&sql, "r.region, r.status, count(*), sum(r.fare)");
	else
		append_columns(&sql, read);
	appendStringInfo(&sql, " FROM %sfleet.rides AS r WHERE r.region = %s%s",
					 read->by_distance ? "(SELECT r.* FROM " : "",
					 quote_literal_cstr(read->map->own->name), read->condition.data);
	if (read->parts && !read->only_number)
		appendStringInfoString(&sql, " GROUP BY r.region, r.status");
	else if (!read->parts)
		append_order(&sql, read);
	if (read->by_distance)
		appendStringInfo(&sql, ") AS r ORDER BY fleet.distance_to(r.current_location, $%d) %s, " FLEET_BY_ID,
						 read->near_param, read->descending ? "DESC" : "ASC");
	return sql.data;
}
