/* cores: src/commit/gid.c */
/*-------------------------------------------------------------------------
 *
 * gid_fuzz.c
 *	  Fuzz target: names of distributed transactions.
 *
 * A text that is taken for a name must be what that name is written as: two
 * texts that mean one transaction, or one text that means two, could commit
 * what was rolled back.
 *
 * Copyright (c) 2026, the fleet authors
 *
 * test/fuzz/gid_fuzz.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "commit/gid.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = malloc(size + 1);
	char		again[FLEET_GID_MAX];
	FleetGid	gid;
	FleetGid	second;

	/* Of its own size, so that reading past its end is noticed. */
	must(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	if (fleet_commit_gid_parse(text, &gid))
	{
		must(strlen(text) < FLEET_GID_MAX);
		must(gid.node[0] != '\0' && gid.incarnation[0] != '\0' && gid.branch >= -1);
		must(fleet_commit_gid_format(&gid, again, sizeof(again)));
		must(strcmp(again, text) == 0);
		/* With too little room it says so. */
		must(!fleet_commit_gid_format(&gid, again, (int) strlen(text)));
		/* The name of the transaction is the gid without its branch. */
		gid.branch = -1;
		must(fleet_commit_gid_format(&gid, again, sizeof(again)));
		must(strncmp(again, text, strlen(again)) == 0);
		must(fleet_commit_gid_parse(again, &second) && second.nonce == gid.nonce);
	}
	free(text);
	return 0;
}
