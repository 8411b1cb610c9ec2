#!/bin/bash
# fleet: a file or function that grows too long wants a room of its own.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

MAX_FILE=800
MAX_FUNCTION=80

FILES=$(find src test -name '*.[ch]' -o -path 'test/*' \( -name '*.sh' -o -name '*.p[lm]' \) | sort)
FUNCTIONS=$(grep '\.c$' <<<"$FILES" | xargs perl test/check/parse.pl functions)
some_of 'functions are found' "$FUNCTIONS"
xargs wc -l <<<"$FILES" | awk -v max=$MAX_FILE '$2 != "total" && $1 > max { print $2 ": " $1 " lines" }' |
    none_of "no file is longer than $MAX_FILE lines"
awk -v max=$MAX_FUNCTION '$3 > max { print $1 ": " $2 " has " $3 " lines" }' <<<"$FUNCTIONS" |
    none_of "no function is longer than $MAX_FUNCTION lines"
