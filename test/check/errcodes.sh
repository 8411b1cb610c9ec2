#!/bin/bash
# fleet: every error has an SQLSTATE, and every SQLSTATE of ours is used and
# documented.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

HEADER=src/base/errcodes.h
ERRORS=$(parse reports | matching '\bereport(_domain)? ?\( ?(ERROR|FATAL|PANIC)\b')
some_of 'calls of ereport(ERROR) are found' "$ERRORS"
matching -v 'errcode\w* ?\(' <<<"$ERRORS" | cut -c 1-160 |
    none_of 'every ereport(ERROR) has an errcode'

# #define FLEET_ERRCODE_NAME FLEET_ERRCODE('0', '0', '1')
MACROS=$(sed -nE "s/^#define (FLEET_ERRCODE_\w+)\s+FLEET_ERRCODE\('(.)', '(.)', '(.)'\).*/\1 RF\2\3\4/p" "$HEADER")
some_of "SQLSTATEs are found in $HEADER" "$MACROS"
USED=$(parse strip | grep -v "^$HEADER:" | matching -o '\bFLEET_ERRCODE_\w+')
only_in "$(cut -d' ' -f1 <<<"$MACROS")" "$USED" | none_of "every name in $HEADER is used"

IN_C=$(cut -d' ' -f2 <<<"$MACROS")
IN_SQL=$(statements | matching -o '\bRF[0-9]{3}\b' | sort -u)
DOCUMENTED=$(matching -o '\bRF[0-9]{3}\b' "$REFERENCE" | sort -u)
sort <<<"$IN_C" | uniq -d | none_of 'no SQLSTATE has two names'
only_in "$IN_C
$IN_SQL" "$DOCUMENTED" | none_of "every SQLSTATE is in $REFERENCE"
only_in "$DOCUMENTED" "$IN_C
$IN_SQL" | none_of "every SQLSTATE in $REFERENCE can occur"
