/*-------------------------------------------------------------------------
 *
 * pending.c
 *	  Changes of a transaction that wait for the one that says what they are.
 *
 * There is one for a row (kind and id) at the most.  They are kept in a memory
 * context that is reset when the transaction ends, and in the order in which they
 * came, so that what nothing was found for can be sent in that order.
 *
 * A handoff of many thousand rides fits.  Past MAX_SIZE the caller lets go of all,
 * as the plain events that they are.  The limit is no setting: what is joined
 * must not depend on how the server is tuned.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/decode/pending.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/fault.h"
#include "decode/decode.h"

#define MAX_SIZE		(64 * 1024 * 1024)

typedef struct Entry
{
	FleetDecodeKey key;			/* the hash key */
	FleetDecodePending *pending;
} Entry;

static uint32
hash_key(const void *key, Size size)
{
	const FleetDecodeKey *k = key;

	return hash_bytes((const unsigned char *) k->text, k->len) ^ (uint32) k->is_ride;
}

static int
match_keys(const void *a, const void *b, Size size)
{
	const FleetDecodeKey *ka = a;
	const FleetDecodeKey *kb = b;

	return ka->is_ride != kb->is_ride || ka->len != kb->len ||
		memcmp(ka->text, kb->text, ka->len) != 0;
}

/* Nothing is pending any more. */
void
fleet_decode_pending_reset(FleetDecodeXact *xact)
{
	xact->index = NULL;
	dlist_init(&xact->pending);
	xact->size = 0;
	MemoryContextReset(xact->context);
}

static void
make_index(FleetDecodeXact *xact)
{
	HASHCTL		control = {.keysize = sizeof(FleetDecodeKey),.entrysize = sizeof(Entry),
		.hash = hash_key,.match = match_keys,.hcxt = xact->context};

	xact->index = hash_create("fleet pending changes", 64, &control,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* What waits for this row; NULL where nothing does. */
FleetDecodePending *
fleet_decode_pending_find(FleetDecodeXact *xact, const FleetDecodeKey *key)
{
	Entry	   *entry;

	if (xact->index == NULL)
		return NULL;
	entry = hash_search(xact->index, key, HASH_FIND, NULL);
	return entry == NULL ? NULL : entry->pending;
}

/* A new one, of a row that has none; the caller fills in the rest. */
FleetDecodePending *
fleet_decode_pending_add(FleetDecodeXact *xact, FleetDecodeWait wait, const FleetDecodeKey *key,
						 const char *images, int images_len)
{
	Size		size = sizeof(FleetDecodePending) + key->len + images_len;
	FleetDecodePending *pending = MemoryContextAllocZero(xact->context, size);
	char	   *text = (char *) (pending + 1);
	Entry	   *entry;
	bool		found;

	if (xact->index == NULL)
		make_index(xact);
	memcpy(text, key->text, key->len);
	pending->wait = wait;
	pending->key = *key;
	pending->key.text = text;
	pending->images = text + key->len;
	pending->images_len = images_len;
	if (images_len > 0)
		memcpy(pending->images, images, images_len);
	entry = hash_search(xact->index, &pending->key, HASH_ENTER, &found);
	Assert(!found);
	entry->pending = pending;
	dlist_push_tail(&xact->pending, &pending->node);
	xact->size += size + sizeof(Entry);
	return pending;
}

void
fleet_decode_pending_remove(FleetDecodeXact *xact, FleetDecodePending *pending)
{
	(void) hash_search(xact->index, &pending->key, HASH_REMOVE, NULL);
	dlist_delete(&pending->node);
	xact->size -= sizeof(FleetDecodePending) + pending->key.len + pending->images_len + sizeof(Entry);
	pfree(pending);
}

/* A subtransaction of a transaction that is streamed has been rolled back. */
void
fleet_decode_pending_forget(FleetDecodeXact *xact, TransactionId subxid)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &xact->pending)
	{
		FleetDecodePending *pending = dlist_container(FleetDecodePending, node, iter.cur);

		if (pending->place.xid == subxid)
			fleet_decode_pending_remove(xact, pending);
	}
}

/* Is it time to let go of all that is pending? */
bool
fleet_decode_pending_is_full(const FleetDecodeXact *xact)
{
	return xact->size > (FLEET_FAULT_ON("decode-overflow") ? 1024 : MAX_SIZE);
}
