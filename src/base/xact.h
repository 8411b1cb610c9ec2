/*-------------------------------------------------------------------------
 *
 * xact.h
 *	  The one transaction callback of the extension.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/xact.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_XACT_H
#define FLEET_BASE_XACT_H

#include "postgres.h"

/*
 * What a room wants to hear.  pre_commit and pre_prepare may raise an error,
 * which aborts; the others must not throw and must be bounded in time.  level is
 * the nesting level of the subtransaction that ends (2 is the first
 * savepoint).  Any may be NULL.
 */
typedef struct FleetXactHandlers
{
	bool		waits;			/* for other nodes: is called after those that do not */
	void		(*pre_commit) (void);
	void		(*pre_prepare) (void);
	void		(*prepared) (void);
	void		(*committed) (void);
	void		(*aborted) (void);
	void		(*sub_committed) (int level);
	void		(*sub_aborted) (int level);
} FleetXactHandlers;

extern void fleet_base_xact_handle(const FleetXactHandlers *handlers);

#endif							/* FLEET_BASE_XACT_H */
