#!/bin/bash
# fleet: follow a change stream into a file, first half: receive.
# Copyright (c) 2026, the fleet authors
#
#   follow.sh CONNINFO SLOT SPOOL [OPTION=VALUE...]
#
# Appends the events of a slot to the file SPOOL, one a line, until it is stopped.
# pg_recvlogical flushes the file before it confirms anything to the server, so
# whatever kills it or the server, no event is lost.  After that, the server sends
# the last transactions again: once.pl, the second half, drops what came twice.

set -eu
conninfo=$1 slot=$2 spool=$3
shift 3
options=()
for option in "$@"; do
    options+=(-o "$option")
done

# What a kill has cut short was not confirmed, and comes again on a line of its own.
if [ -s "$spool" ] && [ -n "$(tail -c 1 "$spool")" ]; then
    echo >>"$spool"
fi
exec pg_recvlogical --dbname="$conninfo" --slot="$slot" --file="$spool" --start \
    --fsync-interval=1 --status-interval=1 ${options[@]+"${options[@]}"}
