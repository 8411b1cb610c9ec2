/*-------------------------------------------------------------------------
 *
 * place.h
 *	  Values of type geography that are points.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/geo/place.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_PLACE_H
#define FLEET_GEO_PLACE_H

#include "postgres.h"

extern Datum fleet_geo_place_make(double lon, double lat);
extern void fleet_geo_place_read(Datum place, double *lon, double *lat);

#endif							/* FLEET_GEO_PLACE_H */
