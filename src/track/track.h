/*-------------------------------------------------------------------------
 *
 * track.h
 *	  Position reports.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/track/track.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_TRACK_TRACK_H
#define FLEET_TRACK_TRACK_H

extern void fleet_track_init(void);

#endif							/* FLEET_TRACK_TRACK_H */
