/*-------------------------------------------------------------------------
 *
 * gid.h
 *	  Names of distributed transactions and of their prepared branches.
 *	  Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/gid.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_GID_H
#define FLEET_COMMIT_GID_H

#include <stdbool.h>
#include <stdint.h>

#define FLEET_GID_PREFIX		"fleet:"
#define FLEET_GID_MAX			200 /* PostgreSQL's GIDSIZE, with the NUL */
#define FLEET_GID_NODE_MAX		64
#define FLEET_GID_INCARNATION_MAX 24

typedef struct FleetGid
{
	char		node[FLEET_GID_NODE_MAX];
	char		incarnation[FLEET_GID_INCARNATION_MAX];
	uint64_t	fxid;
	uint64_t	nonce;
	int			branch;			/* -1 in the name of the transaction itself */
} FleetGid;

extern bool fleet_commit_gid_parse(const char *text, FleetGid *gid);
extern bool fleet_commit_gid_format(const FleetGid *gid, char *buf, int size);

#endif							/* FLEET_COMMIT_GID_H */
