/*-------------------------------------------------------------------------
 *
 * resolver.h
 *	  The resolver's parts, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/resolver.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_RESOLVER_H
#define FLEET_COMMIT_RESOLVER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "commit/commit.h"
#include "remote/remote.h"

extern int	fleet_commit_resolve_interval;	/* ms */

/* How long the resolver waits for one answer of a peer. */
#define FLEET_RESOLVER_ANSWER_MS 1000

/* One gid that somebody has to be asked or told about. */
typedef struct FleetDoubt
{
	char	   *gid;			/* with branch number */
	char	   *dtxid;
	char	   *region;			/* of the peer */
	TimestampTz since;			/* push: when the transaction began */
	bool		older;			/* pull: prepared before this node's incarnation */
	bool		waits;			/* push: it failed a moment ago, leave it for now */
	bool		confirmed;		/* push: the participant has committed */
	uint64		hlc;			/* push: stamp of the confirmation */
} FleetDoubt;

extern void fleet_commit_push(MemoryContext context);
extern void fleet_commit_pull(MemoryContext context);
extern void fleet_commit_settle_orphans(MemoryContext context);

extern FleetConn *fleet_commit_peer(const char *region, char **error);
extern void fleet_commit_failed(const char *gid, const char *error, bool back_off);
extern List *fleet_commit_next_peer(List *doubts, List **rest);
extern Datum fleet_commit_text_array(List *strings);

#endif							/* FLEET_COMMIT_RESOLVER_H */
