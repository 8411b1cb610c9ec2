/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL 15, 16, 17 and 18; nowhere else is the
 *	  server's version asked for.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_COMPAT_H
#define FLEET_BASE_COMPAT_H

#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#else
#include "storage/backendid.h"
#endif

/* Goes before the declaration of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define FLEET_NORETURN pg_noreturn
#else
#define FLEET_NORETURN pg_attribute_noreturn()
#endif

/* Index of this backend, in 0 .. MaxBackends - 1, stable for its lifetime. */
static inline int
fleet_compat_backend_index(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyBackendId - 1;
#endif
}

#endif							/* FLEET_BASE_COMPAT_H */
