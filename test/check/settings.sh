#!/bin/bash
# fleet: every setting and every SQL function is in the reference, and what the
# reference names exists.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

# objects WORD...: names that the script creates in schema fleet.
objects()
{
    local words
    words=$(tr ' ' '|' <<<"$*")
    sed -nE "s/^CREATE (OR REPLACE |UNLOGGED )?($words) fleet\.([a-z0-9_]+).*/\3/ip" <<<"$STATEMENTS" | sort -u
}

STATEMENTS=$(statements)
SETTINGS=$(sources | xargs cat | tr -s '[:space:]' ' ' |
    matching -o '(DefineCustom(Bool|Int|Real|String|Enum)Variable|define)\( ?"fleet\.\w+"' |
    matching -o 'fleet\.\w+' | cut -d. -f2 | sort -u)
FUNCTIONS=$(objects FUNCTION PROCEDURE AGGREGATE)
OTHERS=$(objects TABLE VIEW TYPE SEQUENCE 'MATERIALIZED VIEW')
DOCUMENTED=$(matching -o '\bfleet\.[a-z0-9_]*[a-z0-9]\b' "$REFERENCE" | cut -d. -f2 | sort -u)
some_of 'settings are found in the source' "$SETTINGS"
some_of 'functions are found in the script' "$FUNCTIONS"
only_in "$SETTINGS" "$DOCUMENTED" | none_of "every setting is in $REFERENCE"
only_in "$FUNCTIONS" "$DOCUMENTED" | none_of "every function is in $REFERENCE"
# Names of files and of partitions (fleet.rides_<region>) are no objects.
only_in "$DOCUMENTED" "$SETTINGS
$FUNCTIONS
$OTHERS
control
so" | none_of "every name in $REFERENCE exists"
