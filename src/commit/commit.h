/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  Distributed commit: the caller's transaction and its branches on other
 *	  nodes.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/commit.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_COMMIT_COMMIT_H
#define FLEET_COMMIT_COMMIT_H

#include "postgres.h"

/*
 * A prepared branch of this age is asked about.  Short, since a branch may be
 * younger than a whole interval in one round and would have to wait for the next but
 * one; too early is no harm, the coordinator then says "running".
 */
#define FLEET_ASK_AGE_MS 200

typedef struct FleetBranch FleetBranch;

extern int	fleet_commit_prepare_timeout;	/* ms */
extern int	fleet_commit_commit_timeout;	/* ms */
extern int	fleet_commit_lock_timeout;	/* ms */

/*
 * A step of the background worker that another room adds: it runs transactions
 * of its own (fleet_commit_begin_step), and says whether more is to be done at once.
 */
typedef bool (*FleetWorkerStep) (MemoryContext context);

extern void fleet_commit_init(void);
extern void fleet_commit_add_step(FleetWorkerStep step);
extern void fleet_commit_begin_step(void);
extern void fleet_commit_end_step(void);
extern const char *fleet_commit_begin(void);
extern bool fleet_commit_is_begun(void);
extern void fleet_commit_want_worker(void);
extern void fleet_commit_call_handoffs(void);
extern FleetBranch *fleet_commit_join(const char *region);
extern char *fleet_commit_ask(FleetBranch *branch, const char *sql, int nparams,
							  const char *const *params);
extern void fleet_commit_tell(FleetBranch *branch, const char *sql, int nparams,
							  const char *const *params);
extern void fleet_commit_record(FleetBranch *branch, const char *kind,
								const char *payload);
extern void fleet_commit_note_call(FleetBranch *branch, const char *payload);

#endif							/* FLEET_COMMIT_COMMIT_H */
