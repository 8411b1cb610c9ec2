/* cores: src/commit/gid.c */
/*-------------------------------------------------------------------------
 *
 * gid_test.c
 *	  Unit tests of the names of distributed transactions.
 *
 * What is read is what was written, and nothing else is read: a name that is
 * mistaken for another one could commit what was rolled back.  Random values
 * come from a generator with a fixed seed.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/unit/gid_test.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdlib.h>

#include "commit/gid.h"
#include "tap.h"

#define ROUNDS		200000
#define NMALFORMED	((int) (sizeof(malformed) / sizeof(malformed[0])))
#define N63			"n23456789012345678901234567890123456789012345678901234567890123"
#define I23			"i2345678901234567890123"

typedef struct Malformed
{
	const char *text;
	const char *what;
} Malformed;

static const Malformed malformed[] = {
	{"", "nothing"},
	{"fleet", "no colon"},
	{"fleet:", "only the prefix"},
	{"Fleet:n:i:1:0123456789abcdef", "prefix in capitals"},
	{"fleed:n:i:1:0123456789abcdef", "another prefix"},
	{" fleet:n:i:1:0123456789abcdef", "a space before"},
	{"fleet:n", "ends in the node"},
	{"fleet:n:", "ends after the node"},
	{"fleet::i:1:0123456789abcdef", "no node"},
	{"fleet:n::1:0123456789abcdef", "no incarnation"},
	{"fleet:n:i", "ends in the incarnation"},
	{"fleet:n:i::0123456789abcdef", "no number"},
	{"fleet:n:i:1", "ends in the number"},
	{"fleet:n:i:1:", "no nonce"},
	{"fleet:n:i:x:0123456789abcdef", "number is a letter"},
	{"fleet:n:i:0x1:0123456789abcdef", "number is hexadecimal"},
	{"fleet:n:i:-1:0123456789abcdef", "number is negative"},
	{"fleet:n:i:+1:0123456789abcdef", "number has a sign"},
	{"fleet:n:i: 1:0123456789abcdef", "number begins with a space"},
	{"fleet:n:i:01:0123456789abcdef", "number begins with zero"},
	{"fleet:n:i:00:0123456789abcdef", "number is two zeros"},
	{"fleet:n:i:18446744073709551616:0123456789abcdef", "number is 2^64"},
	{"fleet:n:i:99999999999999999999:0123456789abcdef", "number is far too large"},
	{"fleet:n:i:184467440737095516150:0123456789abcdef", "number has a digit too many"},
	{"fleet:n:i:1:0123456789abcde", "nonce of 15 digits"},
	{"fleet:n:i:1:0123456789abcdef0", "nonce of 17 digits"},
	{"fleet:n:i:1:0123456789ABCDEF", "nonce in capitals"},
	{"fleet:n:i:1:0123456789abcdeg", "nonce with another letter"},
	{"fleet:n:i:1:0x23456789abcdef", "nonce with 0x"},
	{"fleet:n:i:1:0123456789abcdef:", "no branch"},
	{"fleet:n:i:1:0123456789abcdef:x", "branch is a letter"},
	{"fleet:n:i:1:0123456789abcdef:-1", "branch is negative"},
	{"fleet:n:i:1:0123456789abcdef:01", "branch begins with zero"},
	{"fleet:n:i:1:0123456789abcdef:10000", "branch is too large"},
	{"fleet:n:i:1:0123456789abcdef:0:", "a colon behind"},
	{"fleet:n:i:1:0123456789abcdef:0:0", "a field too many"},
	{"fleet:n:i:1:0123456789abcdef:0 ", "a space behind"},
	{"fleet:n:i:1:0123456789abcdef ", "a space behind the name"},
	{"fleet:n:i:1:0123456789abcdef\n", "a new line behind"},
	{"fleet:" N63 "4:i:1:0123456789abcdef", "node of 64 letters"},
	{"fleet:n:" I23 "4:1:0123456789abcdef", "incarnation of 24 letters"},
};

/* xorshift: the same numbers everywhere */
static uint64_t
next_random(void)
{
	static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int
same(const FleetGid *a, const FleetGid *b)
{
	return strcmp(a->node, b->node) == 0 && strcmp(a->incarnation, b->incarnation) == 0 &&
		a->fxid == b->fxid && a->nonce == b->nonce && a->branch == b->branch;
}

static void
random_word(char *word, int max)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_.";
	int			len = 1 + (int) (next_random() % (unsigned) max);

	for (int i = 0; i < len; i++)
		word[i] = letters[next_random() % (sizeof(letters) - 1)];
	word[len] = '\0';
}

static void
random_gid(FleetGid *gid)
{
	memset(gid, 0, sizeof(*gid));
	random_word(gid->node, FLEET_GID_NODE_MAX - 1);
	random_word(gid->incarnation, FLEET_GID_INCARNATION_MAX - 1);
	gid->fxid = next_random() >> (next_random() % 64);
	gid->nonce = next_random() >> (next_random() % 64);
	gid->branch = (int) (next_random() % 10001) - 1;
}

static void
test_known(void)
{
	FleetGid	gid;
	char		buf[FLEET_GID_MAX];

	ok(fleet_commit_gid_parse("fleet:sf:1.89abcdef:742:00000000000000ff:3", &gid), "a branch is read");
	is_str(gid.node, "sf", "its node");
	is_str(gid.incarnation, "1.89abcdef", "its incarnation");
	is_int((long long) gid.fxid, 742, "its number");
	is_int((long long) gid.nonce, 255, "its nonce");
	is_int(gid.branch, 3, "its branch");
	ok(fleet_commit_gid_format(&gid, buf, sizeof(buf)), "it is written");
	is_str(buf, "fleet:sf:1.89abcdef:742:00000000000000ff:3", "as it was");
	gid.branch = -1;
	ok(fleet_commit_gid_format(&gid, buf, sizeof(buf)), "the transaction's name is written");
	is_str(buf, "fleet:sf:1.89abcdef:742:00000000000000ff", "without a branch");
	ok(fleet_commit_gid_parse(buf, &gid), "it is read");
	is_int(gid.branch, -1, "it has no branch");
	ok(fleet_commit_gid_parse("fleet:n:i:0:0000000000000000:0", &gid), "all zeros are read");
	ok(gid.fxid == 0 && gid.nonce == 0 && gid.branch == 0, "as zeros");
	ok(fleet_commit_gid_parse("fleet:n:i:18446744073709551615:ffffffffffffffff:9999", &gid),
	   "the largest numbers are read");
	ok(gid.fxid == UINT64_MAX && gid.nonce == UINT64_MAX && gid.branch == 9999, "as they are");
}

static void
test_malformed(void)
{
	FleetGid	gid;

	for (int i = 0; i < NMALFORMED; i++)
		ok(!fleet_commit_gid_parse(malformed[i].text, &gid), "refused: %s", malformed[i].what);
}

/* The longest names there can be fit, and each byte less of room is noticed. */
static void
test_lengths(void)
{
	static const char longest[] = "fleet:" N63 ":" I23
		":18446744073709551615:ffffffffffffffff:9999";
	char		buf[FLEET_GID_MAX];
	char		text[FLEET_GID_MAX + 100];
	FleetGid	gid;
	int			wrong = 0;

	ok(sizeof(longest) <= FLEET_GID_MAX, "the longest name has %d bytes", (int) sizeof(longest));
	ok(fleet_commit_gid_parse(longest, &gid), "the longest name is read");
	ok(fleet_commit_gid_format(&gid, buf, sizeof(buf)), "it is written");
	is_str(buf, longest, "as it was");
	for (int size = 1; size < (int) sizeof(longest); size++)
	{
		char	   *exact = malloc((size_t) size);	/* the sanitizer sees a byte too many */

		wrong += fleet_commit_gid_format(&gid, exact, size);
		free(exact);
	}
	is_int(wrong, 0, "no smaller buffer is said to be enough");
	ok(fleet_commit_gid_format(&gid, buf, (int) sizeof(longest)), "one of just the size is");
	memset(text, 'a', sizeof(text));
	memcpy(text, "fleet:", 6);
	text[sizeof(text) - 1] = '\0';
	ok(!fleet_commit_gid_parse(text, &gid), "what is longer than a gid can be is refused");
}

/* Cut anywhere, a branch's gid is either refused or the name of something else. */
static void
test_truncations(void)
{
	static const char whole[] = "fleet:node_w:1.89abcdef:742:00000000000000ff:312";
	FleetGid	gid;
	int			read = 0;

	for (size_t len = 0; len < sizeof(whole) - 1; len++)
	{
		char		cut[sizeof(whole)];

		memcpy(cut, whole, len);
		cut[len] = '\0';
		if (fleet_commit_gid_parse(cut, &gid))
		{
			char		back[FLEET_GID_MAX];

			read++;
			fleet_commit_gid_format(&gid, back, sizeof(back));
			is_str(back, cut, "a cut that is read is a name by itself");
		}
	}
	is_int(read, 3, "three cuts are names: the transaction's, branch 3, branch 31");
}

static void
test_round_trips(void)
{
	int			wrong = 0;

	for (int i = 0; i < ROUNDS; i++)
	{
		FleetGid	gid;
		FleetGid	back;
		char		buf[FLEET_GID_MAX];

		random_gid(&gid);
		if (!fleet_commit_gid_format(&gid, buf, sizeof(buf)) ||
			!fleet_commit_gid_parse(buf, &back) || !same(&gid, &back))
		{
			if (wrong++ == 0)
				printf("# %s\n", buf);
		}
	}
	is_int(wrong, 0, "random names are read as they were written");
}

/* Whatever is read is written back byte for byte: no name has two spellings. */
static void
test_fuzz(void)
{
	static const char bytes[] = "0123456789abcdefg:::..-+ \nAF\xff";
	int			wrong = 0;
	int			read = 0;

	for (int i = 0; i < ROUNDS; i++)
	{
		FleetGid	gid;
		FleetGid	seen;
		char		text[FLEET_GID_MAX + 8];
		char		back[FLEET_GID_MAX];
		int			edits = 1 + (int) (next_random() % 3);
		char	   *exact;

		random_gid(&gid);
		fleet_commit_gid_format(&gid, text, FLEET_GID_MAX);
		for (int e = 0; e < edits; e++)
		{
			size_t		len = strlen(text);
			size_t		at = next_random() % (len + 1);
			char		byte = bytes[next_random() % (sizeof(bytes) - 1)];

			if (next_random() % 3 == 0 && at < len)
				memmove(text + at, text + at + 1, len - at);
			else if (next_random() % 2 == 0 && len < sizeof(text) - 1)
			{
				memmove(text + at + 1, text + at, len - at + 1);
				text[at] = byte;
			}
			else if (at < len)
				text[at] = byte;
		}
		exact = strdup(text);
		if (fleet_commit_gid_parse(exact, &seen))
		{
			read++;
			if (!fleet_commit_gid_format(&seen, back, sizeof(back)) || strcmp(back, exact) != 0)
			{
				if (wrong++ == 0)
					printf("# %s\n# %s\n", exact, back);
			}
		}
		free(exact);
	}
	is_int(wrong, 0, "what is read has one spelling only");
	ok(read > ROUNDS / 100 && read < ROUNDS, "some edited names are names (%d of %d)", read, ROUNDS);
}

int
main(void)
{
	test_known();
	test_malformed();
	test_lengths();
	test_truncations();
	test_round_trips();
	test_fuzz();
	return done();
}
