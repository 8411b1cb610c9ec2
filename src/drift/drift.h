/*-------------------------------------------------------------------------
 *
 * drift.h
 *	  Drift between the nodes: found, and healed.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/drift/drift.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_DRIFT_DRIFT_H
#define FLEET_DRIFT_DRIFT_H

/* check.c */
extern void fleet_drift_init(void);

/* retention.c */
extern void fleet_drift_retention_init(void);

#endif							/* FLEET_DRIFT_DRIFT_H */
