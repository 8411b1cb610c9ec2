/*-------------------------------------------------------------------------
 *
 * doubt.h
 *	  Peers with which something has been in doubt for too long, within the
 *	  room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/doubt.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_DOUBT_H
#define FLEET_COMMIT_DOUBT_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern int	fleet_commit_max_in_doubt_age;	/* ms, 0 = off */

extern void fleet_commit_doubt_reserve(void);
extern void fleet_commit_doubt_refuse(const char *region);
extern void fleet_commit_doubt_begin(void);
extern void fleet_commit_doubt_note(const char *region, const char *gid, TimestampTz since);
extern void fleet_commit_doubt_publish(MemoryContext context);

#endif							/* FLEET_COMMIT_DOUBT_H */
