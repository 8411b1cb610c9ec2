#!/bin/bash
# fleet: the library exports names with our prefix only, since PostgreSQL 15
# loads libraries into one name space; and the normal build has no fault points.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

LIBRARY=build/normal/fleet.so
SYMBOLS=$(nm -D --defined-only "$LIBRARY" | awk '{ print $NF }' | sort -u)
some_of "$LIBRARY exports symbols" "$SYMBOLS"
matching -v '^(fleet_|pg_finfo_fleet_|Pg_magic_func$|_PG_init$|_PG_output_plugin_init$)' <<<"$SYMBOLS" |
    none_of 'exported symbols begin with fleet_'
matching '^(pg_finfo_)?fleet_(base_)?fault' <<<"$SYMBOLS" |
    none_of 'the normal build has no fault points'
