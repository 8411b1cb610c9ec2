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

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/jsonb.h"

extern Jsonb *fleet_wire_image(HeapTuple tuple, TupleDesc desc);

#endif							/* FLEET_WIRE_IMAGE_H */
