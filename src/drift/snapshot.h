/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *	  Snapshots of a region, and how long things are kept.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/snapshot.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_DRIFT_SNAPSHOT_H
#define FLEET_DRIFT_SNAPSHOT_H

extern void fleet_drift_snapshot_init(void);

#endif							/* FLEET_DRIFT_SNAPSHOT_H */
