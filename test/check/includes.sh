#!/bin/bash
# fleet: rooms include only rooms below them, and some things have one owner.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

# Rooms on one line are on the same floor and do not include each other.
FLOORS='base
clock crdt geo
monitor region
live
remote
commit wire
handoff
track query decode replica drift dispatch'

floor_of()
{
    awk -v room="$1" '{ for (i = 1; i <= NF; i++) if ($i == room) print NR }' <<<"$FLOORS"
}

wrong_includes()
{
    local file line name from to
    while IFS=: read -r file line name; do
        from=$(cut -d/ -f2 <<<"$file")
        to=${name%%/*}
        if [ "$to" = "$name" ]; then
            # no folder: fine for PostgreSQL's own, wrong for one of ours
            [ ! -e "$(dirname "$file")/$name" ] || echo "$file:$line: \"$name\" lacks its room"
            continue
        fi
        # another folder is PostgreSQL's; fleet.c may include every room
        if [ -d "src/$to" ] && [ "$from" != fleet.c ] && [ "$from" != "$to" ] &&
            [ "$(floor_of "$to")" -ge "$(floor_of "$from")" ]; then
            echo "$file:$line: room $from includes \"$name\""
        fi
    done <<<"$INCLUDES"
}

# outside OWNER PATTERN: uses of PATTERN elsewhere than in files OWNER.
outside()
{
    matching "$2" <<<"$CODE" | matching -v "^$1:" | cut -c 1-120
}

CODE=$(parse strip)
INCLUDES=$(sed -nE 's/^([^:]*:[0-9]+):[[:space:]]*#[[:space:]]*include[[:space:]]*"([^"]*)".*/\1:\2/p' <<<"$CODE")
some_of 'includes are found' "$INCLUDES"
for room in src/*/; do
    room=$(basename "$room")
    [ -n "$(floor_of "$room")" ] || echo "src/$room"
done | none_of 'every room has a floor'
wrong_includes | none_of 'a room includes only rooms below it, as "room/file.h"'
perl test/check/parse.pl functions src/fleet.c | awk '$2 != "_PG_init"' |
    none_of 'src/fleet.c holds _PG_init and nothing else'
outside 'src/remote/[^:]*' '\b(PQconnect|PQsetdb|PQreset|libpqsrv_connect|walrcv_connect)' |
    none_of 'only remote/ opens connections'
outside 'src/base/shmem\.c' \
    '\b(shmem_(request|startup)_hook|RequestAddinShmemSpace|RequestNamedLWLockTranche|ShmemInit(Struct|Hash))\b' |
    none_of 'only base/shmem.c touches the shared-memory hooks'
outside 'src/base/(xact|fault)\.c' '\bRegister(Sub)?XactCallback\b' |
    none_of 'only base/xact.c registers transaction callbacks (and the test build, its fault points)'
outside 'src/base/compat\.h' '\bPG_VERSION_NUM\b' |
    none_of 'only base/compat.h says PG_VERSION_NUM'
