/*-------------------------------------------------------------------------
 *
 * row.c
 *	  What the live index takes of a row of vehicles.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/row.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/table.h"
#include "geo/haversine.h"
#include "geo/place.h"
#include "live/live.h"
#include "live/record.h"

/* Longitude and latitude of a geography; false for a point that is empty, or no place. */
bool
fleet_live_place(Datum place, double *lon, double *lat)
{
	return fleet_geo_place_read(place, lon, lat) && fleet_geo_point_valid(*lon, *lat);
}

/* What a row of fleet.vehicles says, but for its id, which the caller has to give. */
void
fleet_live_read_row(TupleTableSlot *slot, const FleetLiveColumns *columns, FleetLiveRecord *record)
{
	bool		isnull;
	Datum		value;

	memset(record, 0, offsetof(FleetLiveRecord, id));
	value = slot_getattr(slot, columns->location, &isnull);
	record->has_place = !isnull && fleet_live_place(value, &record->lon, &record->lat);
	record->status = DatumGetObjectId(slot_getattr(slot, columns->status, &isnull));
	value = slot_getattr(slot, columns->heading, &isnull);
	record->has_heading = !isnull;
	record->heading = isnull ? 0 : DatumGetFloat8(value);
	value = slot_getattr(slot, columns->fix_at, &isnull);
	record->has_fix = !isnull;
	record->fix_at = isnull ? 0 : DatumGetTimestampTz(value);
	record->epoch = DatumGetInt64(slot_getattr(slot, columns->epoch, &isnull));
	record->hlc = DatumGetInt64(slot_getattr(slot, columns->hlc, &isnull));
}

void
fleet_live_find_columns(TupleDesc desc, FleetLiveColumns *columns)
{
	columns->vehicle_id = fleet_base_table_column(desc, "vehicle_id") + 1;
	columns->status = fleet_base_table_column(desc, "status") + 1;
	columns->location = fleet_base_table_column(desc, "location") + 1;
	columns->fix_at = fleet_base_table_column(desc, "fix_at") + 1;
	columns->heading = fleet_base_table_column(desc, "heading") + 1;
	columns->epoch = fleet_base_table_column(desc, "epoch") + 1;
	columns->hlc = fleet_base_table_column(desc, "hlc") + 1;
}
