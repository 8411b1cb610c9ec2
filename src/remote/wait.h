/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  Waiting for a socket, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/wait.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REMOTE_WAIT_H
#define FLEET_REMOTE_WAIT_H

#include "postgres.h"

#include "libpq-fe.h"
#include "storage/latch.h"

extern bool fleet_remote_wait(PGconn *pg, int events, int64 deadline);

#endif							/* FLEET_REMOTE_WAIT_H */
