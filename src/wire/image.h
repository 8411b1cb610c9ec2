/*-------------------------------------------------------------------------
 *
 * image.h
 *	  Row images: a row of rides or vehicles as a JSON object.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/wire/image.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_WIRE_IMAGE_H
#define FLEET_WIRE_IMAGE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "utils/jsonb.h"

#include "base/table.h"

extern Jsonb *fleet_wire_image(TupleDesc desc, const FleetColumn *columns,
							   const Datum *values, const bool *isnull);
extern void fleet_wire_read_image(FleetOpenTable *open, JsonbContainer *image);
extern char *fleet_wire_get_text(JsonbContainer *object, const char *key);
extern int64 fleet_wire_get_int64(JsonbContainer *object, const char *key);
extern JsonbContainer *fleet_wire_get_object(JsonbContainer *object, const char *key);

#endif							/* FLEET_WIRE_IMAGE_H */
