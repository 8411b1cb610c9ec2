/*-------------------------------------------------------------------------
 *
 * query.h
 *	  Reading rides over many regions.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/query/query.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_QUERY_QUERY_H
#define FLEET_QUERY_QUERY_H

#include "postgres.h"

extern void fleet_query_init(void);

#endif							/* FLEET_QUERY_QUERY_H */
