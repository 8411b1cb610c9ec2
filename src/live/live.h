/*-------------------------------------------------------------------------
 *
 * live.h
 *	  The live index: the latest position of each of this region's vehicles.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/live/live.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_LIVE_LIVE_H
#define FLEET_LIVE_LIVE_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* How far around which place, and which vehicles. */
typedef struct FleetLiveSearch
{
	double		lon;
	double		lat;
	double		radius;			/* metres */
	int			max;			/* so many of the nearest */
	Oid			status;			/* InvalidOid = all that are not offline */
	Oid			offline;		/* the status of that name */
	TimestampTz silent;			/* whose last fix is older is offline; DT_NOBEGIN for none */
} FleetLiveSearch;

typedef struct FleetLiveVehicle
{
	double		distance;		/* metres */
	char	   *id;				/* palloc'd */
	int			id_size;
	char	   *region;			/* palloc'd; NULL = this node's */
	int64		epoch;
	Oid			status;			/* with silence taken into account */
	double		lon;
	double		lat;
	bool		has_heading;
	double		heading;
	bool		has_fix;
	TimestampTz fix_at;
} FleetLiveVehicle;

/* Vehicles, the nearest first; of one distance by their ids' bytes. */
typedef struct FleetLiveFound
{
	int			n;
	FleetLiveVehicle *vehicles;
} FleetLiveFound;

extern int	fleet_live_ttl;		/* s */

/* index.c */
extern void fleet_live_init(void);

/* note.c */
extern bool fleet_live_has_noted(void);

/* search.c */
extern bool fleet_live_search_index(const FleetLiveSearch *search, Oid table, FleetLiveFound *found);

/* state.c */
extern void fleet_live_count_table_search(Oid table);

/* scan.c */
extern void fleet_live_search_table(const FleetLiveSearch *search, const char *own,
									FleetLiveFound *found);

/* row.c */
extern bool fleet_live_place(Datum place, double *lon, double *lat);

#endif							/* FLEET_LIVE_LIVE_H */
