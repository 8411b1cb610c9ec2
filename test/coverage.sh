#!/bin/bash
# fleet: which lines of src/ the tests execute.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
#   test/coverage.sh [SUITE...]     unit regress isolation pgtap tap data
#
# Runs the suites with a build that counts lines, in build/coverage, and prints
# for each file of src/ how many of its lines were executed, and the total.  It
# fails where a test fails or the total is below COVERAGE_MIN (92) percent.
# build/coverage.txt lists the lines that were not executed.
#
# Needs gcov, which comes with gcc.  Every process writes its counts when it ends,
# to a folder of the servers' user (GCOV_PREFIX).  One that is killed writes
# none: so where the tests kill servers, the figure says less than the truth.
# A fault point that kills its own process has it write them first.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

COVERAGE_MIN=${COVERAGE_MIN:-92}
COUNTS=

clean_up()
{
    trap '' INT TERM
    [ -z "$COUNTS" ] || rm -rf "$COUNTS"
}

# gcov_all: run gcov on every file of counts; JSON to stdout, one document a line.
# The notes that the compiler wrote lie beside the objects; those of the unit
# tests beside their counts.
gcov_all()
{
    local counts notes
    find "$COUNTS" -name '*.gcda' | while read -r counts; do
        notes=${counts#"$COUNTS"}
        notes=${notes%.gcda}.gcno
        [ -e "${counts%.gcda}.gcno" ] || cp "$notes" "${counts%.gcda}.gcno"
        (cd "$FLEET_ROOT" && gcov --json-format --stdout "$counts" 2>/dev/null)
    done
}

main()
{
    local suites=("$@") rc=0
    [ $# -gt 0 ] || suites=(unit regress isolation pgtap tap data)
    require_setup
    command -v gcov >/dev/null || die "gcov is not there; it comes with gcc"
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    COUNTS=$(make_scratch coverage)
    export COVERAGE=1 GCOV_PREFIX=$COUNTS
    rm -rf "$FLEET_ROOT/build/coverage"
    "$FLEET_ROOT/test/run.sh" "${suites[@]}" || rc=$?
    gcov_all >"$COUNTS/all.json"
    perl "$FLEET_ROOT/test/coverage.pl" "$COVERAGE_MIN" "$FLEET_ROOT/build/coverage.txt" \
        <"$COUNTS/all.json" || rc=1
    [ "$rc" -eq 0 ]
}

main "$@"
