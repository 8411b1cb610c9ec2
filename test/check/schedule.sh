#!/bin/bash
# fleet: every test file is run by its suite, and no expected file is orphaned.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.inc"

# names FOLDER ENDING: files there, without folder and ending.
names()
{
    [ -d "$1" ] || return 0
    find "$1" -maxdepth 1 -name "*$2" -printf '%f\n' | sed "s/${2//./\\.}\$//" | sort
}

# stray FOLDER PATTERN...: files in FOLDER that match no pattern of the suite.
stray()
{
    local folder=$1 pattern args=()
    shift
    for pattern in "$@"; do
        args+=(! -name "$pattern")
    done
    [ ! -d "$folder" ] || find "$folder" -maxdepth 1 -type f "${args[@]}"
}

# primary LIST: expected files, where name_1.out is another one of name.out.
primary()
{
    # shellcheck disable=SC2001
    sed 's/_[0-9]$//' <<<"$1"
}

SCHEDULED=$(sed -n 's/^test: *//p' test/schedule | tr -s ' ' '\n' | sort)
TESTS=$(names sql .sql)
EXPECTED=$(names expected .out)
some_of 'regression tests are found' "$TESTS"
uniq -d <<<"$SCHEDULED" | none_of 'no test is scheduled twice'
only_in "$TESTS" "$SCHEDULED" | none_of 'every sql file is in test/schedule'
only_in "$SCHEDULED" "$TESTS" | none_of 'every scheduled test has its sql file'
only_in "$TESTS" "$EXPECTED" | none_of 'every sql file has its expected file'
only_in "$(primary "$EXPECTED")" "$TESTS" | none_of 'no expected file is an orphan'
stray sql '*.sql' | none_of 'sql holds tests only'
stray expected '*.out' | none_of 'expected holds outputs only'

SPECS=$(names test/isolation/specs .spec)
OUTPUTS=$(names test/isolation/expected .out)
some_of 'isolation specs are found' "$SPECS"
only_in "$SPECS" "$OUTPUTS" | none_of 'every isolation spec has its expected file'
only_in "$(primary "$OUTPUTS")" "$SPECS" | none_of 'no expected isolation file is an orphan'
stray test/isolation/specs '*.spec' | none_of 'test/isolation/specs holds specs only'

some_of 'unit tests are found' "$(names test/unit _test.c)"
stray test/unit '*_test.c' '*.h' | none_of 'every C file in test/unit is a *_test.c'
some_of 'pgTAP tests are found' "$(names test/pgtap .sql)"
stray test/pgtap '*.sql' '*.geojson' | none_of 'every file in test/pgtap is run'
some_of 'TAP tests are found' "$(names test/tap .pl)"
stray test/tap '*.pl' '*.pm' | none_of 'every file in test/tap is run or a module'
some_of 'fuzz targets are found' "$(names test/fuzz _fuzz.c; names test/fuzz _fuzz.pl)"
stray test/fuzz '*_fuzz.c' '*_fuzz.pl' '*.h' seeds.c | none_of 'every file in test/fuzz is run or a header'
some_of 'tests with real traces are found' "$(names test/data .sh; names test/data _test.c)"
stray test/data '*.sh' '*_test.c' '*.h' | none_of 'every file in test/data is run or a header'
stray test/check '*.sh' common.inc parse.pl | none_of 'every file in test/check is run'

only_in "$(sed -n 's/^SUITES = //p' Makefile | tr ' ' '\n')" \
    "$(sed -n "s/^ALL_SUITES='\(.*\)'/\1/p" test/run.sh | tr ' ' '\n')" |
    none_of 'make test runs every suite of test/run.sh'
only_in "$(sed -n "s/^ALL_SUITES='\(.*\)'/\1/p" test/run.sh | tr ' ' '\n')" \
    "$(sed -n 's/^SUITES = //p' Makefile | tr ' ' '\n')" |
    none_of 'every suite of test/run.sh is in make test'
