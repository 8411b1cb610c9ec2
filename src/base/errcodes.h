/*-------------------------------------------------------------------------
 *
 * errcodes.h
 *	  SQLSTATEs of fleet: class RF, documented in docs/reference.md.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/base/errcodes.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_BASE_ERRCODES_H
#define FLEET_BASE_ERRCODES_H

#include "utils/elog.h"

#define FLEET_ERRCODE(a, b, c)				MAKE_SQLSTATE('R', 'F', a, b, c)

#define FLEET_ERRCODE_RIDE_NOT_FOUND		FLEET_ERRCODE('0', '0', '1')
#define FLEET_ERRCODE_LOCKED				FLEET_ERRCODE('0', '0', '2')
#define FLEET_ERRCODE_ALREADY_THERE			FLEET_ERRCODE('0', '0', '3')
#define FLEET_ERRCODE_UNKNOWN_REGION		FLEET_ERRCODE('0', '0', '4')
#define FLEET_ERRCODE_OVER_CAPACITY			FLEET_ERRCODE('0', '0', '5')
#define FLEET_ERRCODE_STALE_EPOCH			FLEET_ERRCODE('0', '0', '6')
#define FLEET_ERRCODE_STALE_MAP				FLEET_ERRCODE('0', '0', '7')
#define FLEET_ERRCODE_RIDE_CLOSED			FLEET_ERRCODE('0', '0', '8')
#define FLEET_ERRCODE_LOCAL_PREPARE			FLEET_ERRCODE('0', '0', '9')
#define FLEET_ERRCODE_VEHICLE_NOT_FOUND		FLEET_ERRCODE('0', '1', '0')
#define FLEET_ERRCODE_NO_IDENTITY			FLEET_ERRCODE('0', '1', '1')
#define FLEET_ERRCODE_ILLEGAL_STATUS		FLEET_ERRCODE('0', '1', '2')
#define FLEET_ERRCODE_PEER_TIMEOUT			FLEET_ERRCODE('0', '1', '6')
#define FLEET_ERRCODE_CLOCK_SKEW			FLEET_ERRCODE('0', '1', '7')
#define FLEET_ERRCODE_INVALID_FIX			FLEET_ERRCODE('0', '1', '8')
#define FLEET_ERRCODE_ELSEWHERE				FLEET_ERRCODE('0', '2', '0')
#define FLEET_ERRCODE_IN_DOUBT				FLEET_ERRCODE('0', '2', '2')
#define FLEET_ERRCODE_NOT_WRITABLE			FLEET_ERRCODE('0', '2', '3')
#define FLEET_ERRCODE_PEER_IN_DOUBT			FLEET_ERRCODE('0', '2', '5')
#define FLEET_ERRCODE_NOT_ASKED				FLEET_ERRCODE('0', '2', '6')
#define FLEET_ERRCODE_REDIRECT				FLEET_ERRCODE('0', '2', '7')
#define FLEET_ERRCODE_RATE_LIMITED			FLEET_ERRCODE('0', '2', '9')
#define FLEET_ERRCODE_UNKNOWN_FENCE			FLEET_ERRCODE('0', '3', '3')

/* Raised from PL/pgSQL in the install script, listed here so that no code is used twice:
 * RF013 invalid geofence, RF014 geofences overlap, RF015 region not empty, RF019 no region
 * there, RF021 no synchronous standby, RF024 open branches,
 * RF030 vehicle without a position, RF034 too much to heal, RF035 no pg_cron (a notice), RF032 not this node's region. */

#endif							/* FLEET_BASE_ERRCODES_H */
