#!/bin/bash
# fleet: every C function of the library has its SQL function and the other way
# round.  The library of the normal build is asked, so functions of test builds
# do not count.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

IN_C=$(nm -D --defined-only build/normal/fleet.so | sed -n 's/.* pg_finfo_//p')
# AS 'MODULE_PATHNAME', 'symbol'; without a symbol it is the SQL name.
IN_SQL=$(statements | sed -nE \
    "s/.* AS 'MODULE_PATHNAME' ?, ?'([a-z0-9_]+)'.*/\1/ip; t
     s/^CREATE (OR REPLACE )?FUNCTION ([a-z_]+\.)?([a-z0-9_]+).* AS 'MODULE_PATHNAME'.*/\3/ip")
some_of 'C functions are found in the library' "$IN_C"
some_of 'C functions are found in the script' "$IN_SQL"
only_in "$IN_C" "$IN_SQL" | none_of 'every C function is used in the script'
only_in "$IN_SQL" "$IN_C" | none_of 'every C function of the script exists'
