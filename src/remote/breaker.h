/*-------------------------------------------------------------------------
 *
 * breaker.h
 *	  Who is not asked for a while, within the room.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/breaker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLEET_REMOTE_BREAKER_H
#define FLEET_REMOTE_BREAKER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "remote/remote.h"

/* Room for the text of an error. */
#define FLEET_PEER_ERROR_LENGTH 256

/* Who gave up sooner than this has learnt nothing of the peer. */
#define FLEET_PEER_PATIENCE_MS 100

typedef enum FleetPeerState
{
	FLEET_PEER_CLOSED,			/* is asked */
	FLEET_PEER_OPEN,			/* is not asked before next_try */
	FLEET_PEER_HALF_OPEN		/* is asked by one, the probe */
} FleetPeerState;

typedef enum FleetAdmission
{
	FLEET_ADMITTED,
	FLEET_ADMITTED_AS_PROBE,	/* must say how it ended */
	FLEET_REFUSED
} FleetAdmission;

/* How it stands with a peer, as fleet.peers shows it. */
typedef struct FleetPeerLook
{
	FleetPeerState state;
	int			failures;
	TimestampTz opened_at;		/* 0 while closed, as the next one */
	TimestampTz next_try;
	TimestampTz last_failed;	/* 0 = never, as the next one */
	TimestampTz last_ok;
	char		last_error[FLEET_PEER_ERROR_LENGTH];
	uint64		connects;
	uint64		answered;
	uint64		failed;
	uint64		refused;
} FleetPeerLook;

extern void fleet_remote_breaker_init(void);
extern bool fleet_remote_breaker_is_calm(FleetConn *conn);
extern FleetAdmission fleet_remote_breaker_admit(FleetConn *conn, uint64 options, char **why);
extern void fleet_remote_breaker_connected(FleetConn *conn);
extern void fleet_remote_breaker_answered(FleetConn *conn);
extern void fleet_remote_breaker_failed(FleetConn *conn, const char *error);
extern void fleet_remote_breaker_probe_passed(FleetConn *conn);
extern void fleet_remote_breaker_probe_given_up(FleetConn *conn);
extern void fleet_remote_breaker_look(const char *region, bool known, uint64 options,
									  FleetPeerLook *look);

/* connection.c */
extern bool fleet_remote_peer_options(const char *region, uint64 *options);

#endif							/* FLEET_REMOTE_BREAKER_H */
