#!/bin/bash
# fleet: habits of the install script that PostgreSQL does not enforce.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

STATEMENTS=$(statements)
FUNCTIONS=$(matching -i '^CREATE (OR REPLACE )?FUNCTION ' <<<"$STATEMENTS")

# bodiless: statements without the text of strings and $$ bodies, so that a
# word in a body is not taken for a clause.
bodiless()
{
    perl -pe 's/\$(\w*)\$.*?\$\1\$/BODY/g; s/\x27(?:[^\x27]|\x27\x27)*\x27/STRING/g;
              s/\bBEGIN ATOMIC\b.*/BODY/i'
}

# created: "KIND name" of what needs a comment, as often as it is created.
# A shell type is completed later under the same name.
created()
{
    sed -nE 's/^CREATE (OR REPLACE )?(UNLOGGED )?(FUNCTION|PROCEDURE|AGGREGATE|VIEW|TABLE) fleet\.([a-z0-9_]+).*/\3 \4/ip' <<<"$STATEMENTS"
    sed -nE 's/^CREATE (TYPE) fleet\.([a-z0-9_]+).*/\1 \2/ip' <<<"$STATEMENTS" | sort -u
}

commented()
{
    sed -nE 's/^COMMENT ON (FUNCTION|PROCEDURE|AGGREGATE|VIEW|TABLE|TYPE) fleet\.([a-z0-9_]+).*/\1 \2/ip' <<<"$STATEMENTS"
}

# An overloaded name needs one comment each, so counts are compared.
counted()
{
    sort | uniq -c | awk '{ print $2, $3, $1 }'
}

if head -n 1 "$SCRIPT" | grep -qE '^\\echo Use "CREATE EXTENSION fleet.*\\quit$'; then
    point yes 'line 1 keeps psql from running the script'
else
    point no 'line 1 keeps psql from running the script'
fi
some_of 'functions are found' "$FUNCTIONS"
only_in "$(created | counted)" "$(commented | counted)" |
    none_of 'every function, type, view and table has a comment (kind, name, times created)'
bodiless <<<"$FUNCTIONS" | matching -vi '\b(IMMUTABLE|STABLE|VOLATILE)\b' | cut -c 1-120 |
    none_of 'every function says its volatility'
bodiless <<<"$FUNCTIONS" | matching -vi '\bPARALLEL (SAFE|RESTRICTED|UNSAFE)\b' | cut -c 1-120 |
    none_of 'every function says PARALLEL'
bodiless <<<"$STATEMENTS" | matching -i '^CREATE .*\bSECURITY DEFINER\b' |
    matching -vi '\bSET search_path ?(=|TO) ?[^ ]' | cut -c 1-120 |
    none_of 'SECURITY DEFINER comes with its own search_path'
bodiless <<<"$STATEMENTS" | matching -i '^CREATE (OR REPLACE|[A-Z ]+ IF NOT EXISTS)\b' | cut -c 1-120 |
    none_of 'nothing is taken over that exists already'
