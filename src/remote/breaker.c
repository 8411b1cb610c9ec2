/*-------------------------------------------------------------------------
 *
 * breaker.c
 *	  A circuit breaker for each peer, shared by all backends of the server.
 *
 * A peer that is down, or behind a network that swallows everything, costs each
 * caller its whole timeout.  So after some failures in a row nobody waits for
 * it any more: calls fail at once, and now and then one caller tries.
 *
 *	closed		 the peer is asked.  fleet.breaker_failures failures in a row
 *				 open it.
 *	open		 calls are refused.  The first one past next_try becomes the
 *				 probe.
 *	half-open	 the probe connects anew and has the peer answer SELECT 1, before
 *				 its caller's own request goes out; all others are refused.
 *
 * What is a failure: no connection, whatever the reason; a connection that was
 * lost, or an answer that did not come in time.  An error that the peer reports
 * is an answer.  A cancel says nothing about the peer, nor does a wait that its
 * caller allowed only an instant (FLEET_PEER_PATIENCE_MS), else anybody could
 * shut off a peer for everybody by a setting.  A connection is counted once, when it
 * breaks, however many replies were due on it.
 *
 * What leads from a state to another, and the race that each rule closes:
 *
 *	1. closed -> open: a failure that makes them enough.  Failures that come in
 *	   when it is open already (their callers were let through before) change
 *	   neither next_try nor the back-off: many callers that time out together
 *	   are one opening.
 *	2. open -> half-open: under the peer's spinlock the first caller past next_try
 *	   takes a token, of which no two are alike, and a lease.  Nobody else is let
 *	   through while the lease lasts.
 *	3. half-open -> open: the probe failed, and it is still its token that is
 *	   out.  The back-off doubles, with a jitter, so that servers that lost
 *	   a peer together do not come back together.
 *	4. half-open -> open, due at once: the probe was cancelled or its backend
 *	   ended.  Where not even that could be said (the process is stopped), its
 *	   lease runs out and the next caller takes over with a token of its own.
 *	   When the first one comes back its failure is one like any other's.
 *	5. any -> closed: the peer has answered somebody, be it the probe, a branch
 *	   that was open all the time, or the resolver.  Nothing speaks louder than
 *	   an answer, so no token is asked for.
 *	6. any -> closed: the options of its server are others than those with which
 *	   it failed.  Options are compared by a hash: in whichever backend,
 *	   however it learns of them.  A region that was removed and added again has
 *	   another server, so nothing of the old one stays.
 *
 * After a probe the peer is on probation: it is closed with one failure less
 * than needed, and with its back-off.  It may answer SELECT 1 and nothing else; then
 * the next failure opens it for longer.  The first answer to a real
 * request ends that.
 *
 * A transaction is never refused what it has begun: only a call that would use
 * a connection for something new asks here.  What is sent on a branch,
 * COMMIT PREPARED above all, does not.  A backend where fleet.breaker_failures
 * is 0 is never refused, nor does it open anything; but what it finds out counts.
 * The resolver is one, for it has a back-off of its own.
 *
 * In the transaction callbacks nothing may throw.  What is called there
 * (_answered, _failed) takes only a spinlock and allocates nothing but what
 * a message to the log needs.  While all is well an answer costs two writes of
 * counters and no lock.
 *
 * Entries are kept for the greatest number of peers that a server may have, over
 * all its databases.  If there are more, the one that was not used for longest
 * makes room; a backend notices by the entry's generation that it is not its peer's
 * any more.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/remote/breaker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/shmem.h"
#include "remote/breaker.h"

/* Peers, over all databases of the server. */
#define PEER_MAX 256

/* The back-off: first, last, and the part of it that chance may take away. */
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define BACKOFF_JITTER 0.25

/* A probe has twice fleet.connect_timeout; this is as long as others wait for it. */
#define LEASE_MAX_MS 5000
#define LEASE_SLACK_MS 1000

/* What there is to know of a peer before a lock is taken. */
typedef enum Alert
{
	ALERT_NONE,					/* closed, and the last thing heard was an answer */
	ALERT_FAILED,				/* closed, and something has failed */
	ALERT_OPEN					/* open or half-open */
} Alert;

struct FleetPeer
{
	slock_t		mutex;			/* for all but the atomics, database and region */
	pg_atomic_uint32 generation;	/* changes with the peer; written under mutex */
	pg_atomic_uint32 alert;		/* written under mutex */
	pg_atomic_uint64 connects;
	pg_atomic_uint64 answered;
	pg_atomic_uint64 refused;
	pg_atomic_uint64 last_ok;	/* a TimestampTz */
	Oid			database;		/* InvalidOid = free; protected by the table's lock */
	char		region[NAMEDATALEN];	/* the same */
	FleetPeerState state;
	uint64		options;		/* with which it failed */
	int			failures;		/* in a row */
	int			backoff_ms;		/* of the last opening; 0 = none yet */
	int64		next_try;		/* of fleet_remote_deadline's clock */
	int64		lease_end;		/* the same, of the probe */
	uint64		probe;			/* token of the last one */
	int64		last_use;		/* the same clock */
	uint64		failed;
	TimestampTz opened_at;
	TimestampTz shown_next_try; /* next_try or lease_end on the wall */
	TimestampTz last_failed;
	char		last_error[FLEET_PEER_ERROR_LENGTH];
};

typedef struct PeerTable
{
	LWLock		lock;			/* which entry is whose */
	FleetPeer	peers[PEER_MAX];
} PeerTable;

static int	breaker_failures = 5;

static PeerTable *table = NULL;

static void
init_table(void *area)
{
	PeerTable  *t = area;

	memset(t, 0, sizeof(PeerTable));
	fleet_base_shmem_init_lock(&t->lock, "FleetPeers");
	for (int i = 0; i < PEER_MAX; i++)
	{
		FleetPeer  *peer = &t->peers[i];

		SpinLockInit(&peer->mutex);
		pg_atomic_init_u32(&peer->generation, 0);
		pg_atomic_init_u32(&peer->alert, ALERT_NONE);
		pg_atomic_init_u64(&peer->connects, 0);
		pg_atomic_init_u64(&peer->answered, 0);
		pg_atomic_init_u64(&peer->refused, 0);
		pg_atomic_init_u64(&peer->last_ok, 0);
	}
}

void
fleet_remote_breaker_init(void)
{
	DefineCustomIntVariable("fleet.breaker_failures",
							"Failures in a row after which another node is not asked for a while.",
							"Lower it where callers must not wait for a node that is down, raise it where the network loses single connections; 0 turns it off.",
							&breaker_failures, 5, 0, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	fleet_base_shmem_reserve("fleet peers", sizeof(PeerTable), init_table, (void **) &table);
}

/* ---------- entries ---------- */

static FleetPeer *
find_peer(const char *region)
{
	for (int i = 0; i < PEER_MAX; i++)
		if (table->peers[i].database == MyDatabaseId &&
			strcmp(table->peers[i].region, region) == 0)
			return &table->peers[i];
	return NULL;
}

/* A free entry, or the one that was not used for longest.  The lock is held. */
static FleetPeer *
find_room(void)
{
	FleetPeer  *oldest = &table->peers[0];

	for (int i = 0; i < PEER_MAX; i++)
	{
		FleetPeer  *peer = &table->peers[i];

		if (peer->database == InvalidOid)
			return peer;
		if (peer->last_use < oldest->last_use)
			oldest = peer;
	}
	return oldest;
}

/* All is well with it.  The mutex is held. */
static void
set_closed(FleetPeer *peer)
{
	peer->state = FLEET_PEER_CLOSED;
	peer->failures = 0;
	peer->backoff_ms = 0;
	peer->opened_at = 0;
	pg_atomic_write_u32(&peer->alert, ALERT_NONE);
}

/* Give an entry to a peer.  The lock is held. */
static void
take_entry(FleetPeer *peer, const char *region)
{
	SpinLockAcquire(&peer->mutex);
	pg_atomic_write_u32(&peer->generation, pg_atomic_read_u32(&peer->generation) + 1);
	set_closed(peer);
	peer->failed = 0;
	peer->last_failed = 0;
	peer->last_error[0] = '\0';
	pg_atomic_write_u64(&peer->connects, 0);
	pg_atomic_write_u64(&peer->answered, 0);
	pg_atomic_write_u64(&peer->refused, 0);
	pg_atomic_write_u64(&peer->last_ok, 0);
	peer->last_use = fleet_remote_deadline(0);
	SpinLockRelease(&peer->mutex);
	peer->database = MyDatabaseId;
	strlcpy(peer->region, region, NAMEDATALEN);
}

/* The connection's entry, where it still is its peer's; else NULL. */
static FleetPeer *
peer_of(const FleetConn *conn)
{
	if (conn->peer == NULL ||
		pg_atomic_read_u32(&conn->peer->generation) != conn->peer_generation)
		return NULL;
	return conn->peer;
}

/* The same with its mutex held.  Nothing that may throw until it is released. */
static FleetPeer *
lock_peer(const FleetConn *conn)
{
	FleetPeer  *peer = peer_of(conn);

	if (peer == NULL)
		return NULL;
	SpinLockAcquire(&peer->mutex);
	if (peer_of(conn) != NULL)
		return peer;
	SpinLockRelease(&peer->mutex);
	return NULL;
}

/* Have the connection know its entry, which is made if need be. */
static void
attach(FleetConn *conn)
{
	FleetPeer  *peer;

	if (table == NULL)
		return;
	LWLockAcquire(&table->lock, LW_SHARED);
	peer = find_peer(conn->region);
	if (peer == NULL)
	{
		LWLockRelease(&table->lock);
		LWLockAcquire(&table->lock, LW_EXCLUSIVE);
		peer = find_peer(conn->region);
		if (peer == NULL)
			take_entry(peer = find_room(), conn->region);
	}
	conn->peer = peer;
	conn->peer_generation = pg_atomic_read_u32(&peer->generation);
	LWLockRelease(&table->lock);
}

/* ---------- may it be asked? ---------- */

/* Is it known without further ado that the peer may be asked? */
bool
fleet_remote_breaker_is_calm(FleetConn *conn)
{
	if (peer_of(conn) == NULL)
		attach(conn);
	return breaker_failures == 0 || conn->peer == NULL ||
		pg_atomic_read_u32(&conn->peer->alert) != ALERT_OPEN;
}

/* Why a call is refused, palloc'd. */
static char *
refusal(const FleetPeer *peer, int64 now)
{
	if (peer->state == FLEET_PEER_HALF_OPEN)
		return psprintf("%d attempts in a row have failed, the last one with \"%s\"; another one is being made",
						peer->failures, peer->last_error);
	return psprintf("%d attempts in a row have failed, the last one with \"%s\"; the next one is let through in " INT64_FORMAT " ms",
					peer->failures, peer->last_error, peer->next_try - now);
}

/*
 * May the peer be asked, by who would reach it with these options?  If not, *why
 * is palloc'd.  The probe must call _probe_passed, _failed or _probe_given_up.
 */
FleetAdmission
fleet_remote_breaker_admit(FleetConn *conn, uint64 options, char **why)
{
	int64		now = fleet_remote_deadline(0);
	TimestampTz wall = GetCurrentTimestamp();
	int			lease = Min(2 * fleet_remote_connect_timeout, LEASE_MAX_MS) + LEASE_SLACK_MS;
	FleetAdmission admission = FLEET_ADMITTED;
	FleetPeer  *peer;
	FleetPeer	copy;

	if (fleet_remote_breaker_is_calm(conn))
		return FLEET_ADMITTED;
	peer = lock_peer(conn);
	if (peer == NULL)
		return FLEET_ADMITTED;
	peer->last_use = now;
	if (peer->state != FLEET_PEER_CLOSED && peer->options != options)
		set_closed(peer);
	if (peer->state != FLEET_PEER_CLOSED)
	{
		bool		due = now >= (peer->state == FLEET_PEER_OPEN ? peer->next_try : peer->lease_end);

		admission = due ? FLEET_ADMITTED_AS_PROBE : FLEET_REFUSED;
		if (due)
		{
			peer->state = FLEET_PEER_HALF_OPEN;
			peer->lease_end = now + lease;
			peer->shown_next_try = wall + lease * INT64CONST(1000);
			conn->probe = ++peer->probe;
		}
	}
	memcpy(&copy, peer, sizeof(FleetPeer));
	SpinLockRelease(&peer->mutex);
	if (admission == FLEET_REFUSED)
	{
		pg_atomic_fetch_add_u64(&peer->refused, 1);
		*why = refusal(&copy, now);
	}
	return admission;
}

/* ---------- what came of it ---------- */

void
fleet_remote_breaker_connected(FleetConn *conn)
{
	int64		now = fleet_remote_deadline(0);
	FleetPeer  *peer = lock_peer(conn);

	if (peer == NULL)
		return;
	peer->last_use = now;
	SpinLockRelease(&peer->mutex);
	pg_atomic_fetch_add_u64(&peer->connects, 1);
}

static void
log_closed(const FleetConn *conn)
{
	ereport(LOG,
			(errmsg("fleet: region \"%s\" answers, it is asked again", conn->region)));
}

/* The peer has answered a request, if only with an error.  Must not throw. */
void
fleet_remote_breaker_answered(FleetConn *conn)
{
	FleetPeer  *peer = peer_of(conn);
	bool		was_open;

	if (peer == NULL || conn->probe != 0)
		return;
	pg_atomic_fetch_add_u64(&peer->answered, 1);
	pg_atomic_write_u64(&peer->last_ok, (uint64) GetCurrentTimestamp());
	if (pg_atomic_read_u32(&peer->alert) == ALERT_NONE || lock_peer(conn) == NULL)
		return;
	was_open = peer->state != FLEET_PEER_CLOSED && peer->options == conn->options;
	if (was_open || peer->state == FLEET_PEER_CLOSED)
		set_closed(peer);
	SpinLockRelease(&peer->mutex);
	if (was_open)
		log_closed(conn);
}

/* Copy a message as one line of valid text. */
static void
copy_message(char *to, const char *message)
{
	int			len = strlen(message);

	while (len > 0 && isspace((unsigned char) message[len - 1]))
		len--;
	if (len >= FLEET_PEER_ERROR_LENGTH)
		len = pg_mbcliplen(message, len, FLEET_PEER_ERROR_LENGTH - 1);
	memcpy(to, message, len);
	to[len] = '\0';
	/* libpq's own messages may be in another encoding. */
	if (!pg_verify_mbstr(GetDatabaseEncoding(), to, len, true))
		for (char *p = to; *p != '\0'; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	for (char *p = to; *p != '\0'; p++)
		if ((unsigned char) *p < ' ')
			*p = ' ';
}

/* Open it, for longer than the last time.  The mutex is held. */
static void
set_open(FleetPeer *peer, TimestampTz wall, double jitter)
{
	int			wait_ms;

	peer->backoff_ms = peer->backoff_ms == 0 ? BACKOFF_MIN_MS :
		Min(2 * peer->backoff_ms, BACKOFF_MAX_MS);
	wait_ms = (int) (peer->backoff_ms * jitter);
	peer->next_try = fleet_remote_deadline(wait_ms);
	peer->shown_next_try = wall + wait_ms * INT64CONST(1000);
	peer->state = FLEET_PEER_OPEN;
}

/* Count a failure.  True where it opens the peer that was closed.  The mutex is held. */
static bool
count_failure(FleetPeer *peer, const FleetConn *conn, TimestampTz wall, double jitter)
{
	/* Others than those with which it failed before: that was another peer. */
	if (peer->options != conn->options)
		set_closed(peer);
	peer->options = conn->options;
	peer->failures += peer->failures < PG_INT32_MAX ? 1 : 0;
	peer->failed++;
	if (peer->state == FLEET_PEER_HALF_OPEN && conn->probe == peer->probe)
		set_open(peer, wall, jitter);
	else if (peer->state == FLEET_PEER_CLOSED && breaker_failures > 0 &&
			 peer->failures >= breaker_failures)
	{
		set_open(peer, wall, jitter);
		return true;
	}
	return false;
}

/*
 * The peer could not be reached, has not answered or was lost.  Each connection
 * counts once; one whose options have changed meanwhile is none of the peer's
 * any more.  Must not throw.
 */
void
fleet_remote_breaker_failed(FleetConn *conn, const char *error)
{
	double		jitter = 1.0 - BACKOFF_JITTER * pg_prng_double(&pg_global_prng_state);
	TimestampTz now = GetCurrentTimestamp();
	char		message[FLEET_PEER_ERROR_LENGTH];
	FleetPeer  *peer;
	bool		opened;
	int			failures;

	if (conn->stale)
		fleet_remote_breaker_probe_given_up(conn);
	if (conn->stale || conn->counted)
		return;
	conn->counted = true;
	copy_message(message, error);
	peer = lock_peer(conn);
	if (peer == NULL)
		return;
	opened = count_failure(peer, conn, now, jitter);
	failures = peer->failures;
	peer->last_failed = now;
	if (opened)
		peer->opened_at = now;
	memcpy(peer->last_error, message, FLEET_PEER_ERROR_LENGTH);
	pg_atomic_write_u32(&peer->alert,
						peer->state == FLEET_PEER_CLOSED ? ALERT_FAILED : ALERT_OPEN);
	SpinLockRelease(&peer->mutex);
	conn->probe = 0;
	if (opened)
		ereport(LOG,
				(errmsg("fleet: region \"%s\" is not asked for a while, %d attempts in a row have failed",
						conn->region, failures),
				 errdetail_internal("%s", message)));
}

/* ---------- the probe ---------- */

/* The peer has answered the probe: it is closed, on probation. */
void
fleet_remote_breaker_probe_passed(FleetConn *conn)
{
	FleetPeer  *peer = lock_peer(conn);
	bool		was_open;

	conn->probe = 0;
	if (peer == NULL)
		return;
	was_open = peer->state != FLEET_PEER_CLOSED && peer->options == conn->options;
	if (was_open)
	{
		peer->state = FLEET_PEER_CLOSED;
		peer->opened_at = 0;
		peer->failures = Min(peer->failures, Max(breaker_failures - 1, 0));
		pg_atomic_write_u32(&peer->alert, ALERT_FAILED);
	}
	SpinLockRelease(&peer->mutex);
	if (was_open)
		log_closed(conn);
}

/* The probe has learnt nothing: the next caller is one. */
void
fleet_remote_breaker_probe_given_up(FleetConn *conn)
{
	uint64		probe = conn->probe;
	TimestampTz now = GetCurrentTimestamp();
	FleetPeer  *peer;

	conn->probe = 0;
	if (probe == 0 || (peer = lock_peer(conn)) == NULL)
		return;
	if (peer->state == FLEET_PEER_HALF_OPEN && peer->probe == probe)
	{
		peer->state = FLEET_PEER_OPEN;
		peer->next_try = fleet_remote_deadline(0);
		peer->shown_next_try = now;
	}
	SpinLockRelease(&peer->mutex);
}

/* ---------- to be looked at ---------- */

/*
 * How it stands with the node of a region that is reached with these options, if
 * they are known.
 */
void
fleet_remote_breaker_look(const char *region, bool known, uint64 options, FleetPeerLook *look)
{
	FleetPeer  *peer;
	FleetPeer	copy;

	memset(look, 0, sizeof(FleetPeerLook));
	LWLockAcquire(&table->lock, LW_SHARED);
	peer = find_peer(region);
	if (peer != NULL)
	{
		SpinLockAcquire(&peer->mutex);
		if (peer->state != FLEET_PEER_CLOSED && known && peer->options != options)
			set_closed(peer);
		memcpy(&copy, peer, sizeof(FleetPeer));
		SpinLockRelease(&peer->mutex);
	}
	LWLockRelease(&table->lock);
	if (peer == NULL)
		return;
	look->state = copy.state;
	look->failures = copy.failures;
	look->opened_at = copy.opened_at;
	if (copy.state != FLEET_PEER_CLOSED)
		look->next_try = copy.shown_next_try;
	look->last_failed = copy.last_failed;
	look->last_ok = (TimestampTz) pg_atomic_read_u64(&copy.last_ok);
	memcpy(look->last_error, copy.last_error, FLEET_PEER_ERROR_LENGTH);
	look->connects = pg_atomic_read_u64(&copy.connects);
	look->answered = pg_atomic_read_u64(&copy.answered);
	look->refused = pg_atomic_read_u64(&copy.refused);
	look->failed = copy.failed;
}
