/*-------------------------------------------------------------------------
 *
 * gid.c
 *	  Names of distributed transactions and of their prepared branches.
 *
 * A transaction is named fleet:<node>:<incarnation>:<fxid>:<nonce>, its
 * branch n has the gid <name of the transaction>:<n>.  The node is a name of
 * letters, digits and underscores, so no quoting is needed; the fxid is
 * decimal and only there to be read by people, the nonce is 16 hexadecimal
 * digits.  Two transactions never share a name: not even a copy of a server
 * that hands out the same transaction numbers draws the same nonce.
 *
 * Pure core: C types only.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * src/commit/gid.c
 *
 *-------------------------------------------------------------------------
 */
#include "commit/gid.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_BRANCH 9999

/* Copy up to the next colon.  False where it is empty or too long. */
static bool
take_word(const char **p, char *buf, size_t size)
{
	size_t		len = strcspn(*p, ":");

	if (len == 0 || len >= size)
		return false;
	memcpy(buf, *p, len);
	buf[len] = '\0';
	*p += len;
	return true;
}

static bool
take_colon(const char **p)
{
	if (**p != ':')
		return false;
	(*p)++;
	return true;
}

static bool
take_decimal(const char **p, uint64_t max, uint64_t *value)
{
	uint64_t	v = 0;
	const char *start = *p;

	for (; **p >= '0' && **p <= '9'; (*p)++)
	{
		unsigned	digit = (unsigned) (**p - '0');

		if (v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = v;
	return *p > start && (*start != '0' || *p == start + 1);
}

static bool
take_hex16(const char **p, uint64_t *value)
{
	uint64_t	v = 0;

	for (int i = 0; i < 16; i++, (*p)++)
	{
		char		c = **p;

		if (c >= '0' && c <= '9')
			v = v << 4 | (unsigned) (c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (unsigned) (c - 'a' + 10);
		else
			return false;
	}
	*value = v;
	return true;
}

/* Read a gid, or the name of a transaction (branch -1).  Strict. */
bool
fleet_commit_gid_parse(const char *text, FleetGid *gid)
{
	const char *p = text;
	uint64_t	branch;

	memset(gid, 0, sizeof(*gid));
	gid->branch = -1;
	if (strlen(text) >= FLEET_GID_MAX ||
		strncmp(p, FLEET_GID_PREFIX, strlen(FLEET_GID_PREFIX)) != 0)
		return false;
	p += strlen(FLEET_GID_PREFIX);
	if (!take_word(&p, gid->node, sizeof(gid->node)) || !take_colon(&p) ||
		!take_word(&p, gid->incarnation, sizeof(gid->incarnation)) || !take_colon(&p) ||
		!take_decimal(&p, UINT64_MAX, &gid->fxid) || !take_colon(&p) ||
		!take_hex16(&p, &gid->nonce))
		return false;
	if (*p == '\0')
		return true;
	if (!take_colon(&p) || !take_decimal(&p, MAX_BRANCH, &branch) || *p != '\0')
		return false;
	gid->branch = (int) branch;
	return true;
}

/* Write it.  False where it does not fit. */
bool
fleet_commit_gid_format(const FleetGid *gid, char *buf, int size)
{
	int			n;

	n = snprintf(buf, (size_t) size, FLEET_GID_PREFIX "%s:%s:%" PRIu64 ":%016" PRIx64,
				 gid->node, gid->incarnation, gid->fxid, gid->nonce);
	if (n < 0 || n >= size)
		return false;
	if (gid->branch < 0)
		return true;
	n += snprintf(buf + n, (size_t) (size - n), ":%d", gid->branch);
	return n < size;
}
