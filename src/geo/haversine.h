/*-------------------------------------------------------------------------
 *
 * haversine.h
 *	  Metres between two places on the globe.
 *
 * Copyright (c) 2026, the fleet authors
 * src/geo/haversine.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_GEO_HAVERSINE_H
#define FLEET_GEO_HAVERSINE_H

#include <stdbool.h>

/* Mean radius of the earth (IUGG R1, (2a + b) / 3 of WGS 84), metres. */
#define FLEET_GEO_MEAN_RADIUS	6371008.8

/* Longitude within +-180 and latitude within +-90, neither NaN nor infinite. */
extern bool fleet_geo_point_valid(double lon, double lat);

/* Great-circle distance on the sphere of mean radius; degrees in, metres out. */
extern double fleet_geo_haversine(double lon1, double lat1, double lon2, double lat2);

/* Metres in one degree of longitude and of latitude at this latitude, WGS 84. */
extern void fleet_geo_degree_metres(double lat, double *per_lon, double *per_lat);

#endif							/* FLEET_GEO_HAVERSINE_H */
