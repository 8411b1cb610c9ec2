#!/bin/bash
# fleet: run test suites and count.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
#   test/run.sh SUITE...      unit regress isolation pgtap tap ubsan fuzz data check
#   TESTS='name ...'          only these files of the suites (names, no folder
#                             or ending; patterns work)
#   KEEP=1                    leave the scratch folder behind and say where
#   UBSAN=1                   with a library that ends its process on undefined
#                             behaviour
#
# The last line is "N passed, N failed", and the exit code says whether all
# went well.  A suite without tests is a failure: nobody would miss it else.
#
# Everything runs from a scratch folder of this run alone: a copy of the test
# files, a private install tree of the build with fault points, servers, and
# output.  So runs do not disturb each other, and the server's user need not
# be able to read the clone.
#
# All suites speak TAP, but for the two that are pg_regress.  One reader of TAP
# counts here instead of prove and pg_prove, so that all suites count the same
# thing: test points, not files.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ALL_SUITES='unit regress isolation pgtap tap ubsan fuzz data check'
FILE_TIMEOUT=900            # seconds for one file of TAP
REGRESS_TIMEOUT=1200        # seconds for one run of pg_regress
SHOW_LINES=60               # of a log, when something fails

# A finding looks like a crash, which no test overlooks.
export UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1

PASSED=0
FAILED=0
SCRATCH=
FINISHED=
BIN=

# ---- counting and reporting

# count PASSED FAILED NAME [NOTE]: add to the sums and print a line.
count()
{
    local word=ok
    [ "$2" -eq 0 ] || word=FAILED
    PASSED=$((PASSED + $1))
    FAILED=$((FAILED + $2))
    printf '%-7s %-40s %5d passed %3d failed  %s\n' "$word" "$3" "$1" "$2" "${4:-}"
}

# show FILE...: the end of logs, bounded.
show()
{
    local file
    for file in "$@"; do
        [ -s "$file" ] || continue
        echo "--- $(basename "$file") (last $SHOW_LINES lines)"
        tail -n "$SHOW_LINES" "$file" | cut -c 1-400
    done
}

# read_tap LOG EXIT_CODE: print "PASSED FAILED NOTE".  Points may be missing or
# too many, the plan may be missing, the program may die: each is one failure.
# Subtests are indented and do not count by themselves.
read_tap()
{
    awk -v rc="$2" '
        /^ok($| )/      { if (tolower($0) ~ /# *skip/) skipped++; points++; passed++ }
        /^not ok($| )/  { points++; if (tolower($0) ~ /# *todo/) passed++; else failed++ }
        /^1\.\.[0-9]+/  { plan = substr($1, 4) + 0; planned = 1
                          if (tolower($0) ~ /# *skip/) all = 1 }
        /^Bail out!/    { bail = 1 }
        END {
            note = skipped ? skipped " skipped" : all ? "skipped" : ""
            if (!planned) { failed++; note = "no plan" }
            else if (plan != points) { failed++; note = plan " planned, " points + 0 " run" }
            else if (bail) { failed++; note = "bailed out" }
            else if (plan == 0 && !all) { failed++; note = "no tests" }
            else if (rc != 0 && !failed) { failed++; note = "exit code " rc }
            if (rc == 124 || rc == 137) note = note ", timed out or killed"
            print passed + 0, failed + 0, note
        }' "$1"
}

# bounded SECONDS LOG CMD...: run it with a deadline, its output to LOG.  In the
# background, so that a signal to this script is not kept waiting.
bounded()
{
    local seconds=$1 log=$2 rc=0
    shift 2
    timeout -k 5 "$seconds" "$@" >"$log" 2>&1 </dev/null &
    wait $! || rc=$?
    return "$rc"
}

# run_tap NAME LOG CMD...: run it, count its points; false if one failed.
run_tap()
{
    local name=$1 log=$2 rc=0 passed failed note started=$SECONDS
    shift 2
    bounded "$FILE_TIMEOUT" "$log" "$@" || rc=$?
    read -r passed failed note < <(read_tap "$log" "$rc")
    count "$passed" "$failed" "$name" "$((SECONDS - started)) s${note:+, $note}"
    [ "$failed" -ne 0 ] || return 0
    if [ "$(wc -l <"$log")" -gt "$SHOW_LINES" ]; then
        echo "--- what failed in $name"
        grep -A 8 '^not ok' "$log" | head -n "$SHOW_LINES" | cut -c 1-400 || true
    fi
    show "$log"
    return 1
}

# files PATTERN...: those that exist and that TESTS asks for.
files()
{
    local file name wanted
    for file in "$@"; do
        [ -e "$file" ] || continue
        name=$(basename "$file")
        name=${name%.*}
        if [ -z "${TESTS:-}" ]; then
            echo "$file"
            continue
        fi
        for wanted in $TESTS; do
            # shellcheck disable=SC2053
            if [[ $name == $wanted ]]; then
                echo "$file"
                break
            fi
        done
    done
}

# no_tests SUITE
no_tests()
{
    count 0 1 "$1" "no tests${TESTS:+ called $TESTS}"
}

# ---- what suites need

# prepare: the scratch folder with a copy of all test files.
prepare()
{
    local entry
    SCRATCH=$(make_scratch test)
    PROJECT=$SCRATCH/project
    mkdir "$PROJECT"
    for entry in Makefile fleet.control fleet--1.0.sql src sql expected test docs; do
        [ ! -e "$FLEET_ROOT/$entry" ] || cp -a "$FLEET_ROOT/$entry" "$PROJECT/"
    done
    give_to_server "$PROJECT"
    export HOME=$SCRATCH
    # Real traces, where a machine has them, by an absolute path.
    TRACES=${TRACES:-../shared/data}
    case $TRACES in /*) ;; *) TRACES=$FLEET_ROOT/$TRACES ;; esac
    if as_server test -r "$TRACES/fixes.csv.gz"; then
        TRACES=$(realpath "$TRACES")
        export TRACES
    else
        unset TRACES
    fi
}

# need_tree: the private install tree, once.
need_tree()
{
    [ -z "${BIN:-}" ] || return 0
    export FLEET_TREE=$SCRATCH/tree
    make_tree "$FLEET_TREE" 1
    BIN=$(tree_bin "$FLEET_TREE")
    PGXS_DIR=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
}

# start_single NAME: one server for a suite of pg_regress; its tests make
# several databases, which are the nodes.  Sets DATA and SOCKETS.
start_single()
{
    need_tree
    DATA=$SCRATCH/$1/data
    SOCKETS=$SCRATCH/$1/s
    mkdir -p "$SCRATCH/$1" "$SOCKETS" "$SCRATCH/$1/out"
    give_to_server "$SCRATCH/$1"
    init_data "$FLEET_TREE" "$DATA"
    {
        node_settings
        echo "port = $SINGLE_PORT"
        echo "unix_socket_directories = '$SOCKETS'"
    } >>"$DATA/postgresql.conf"
    server_start "$FLEET_TREE" "$DATA" "$SCRATCH/$1/server.log"
}
SINGLE_PORT=6400            # only part of a socket's name

# run_regress SUITE EXPECTED_COUNT PROGRAM ARGS...: a pg_regress program against
# the single server.  Each line of a test is a point; 15 and 16 differ in form.
run_regress()
{
    local suite=$1 tests=$2 program=$3 log=$SCRATCH/$1/run.log rc=0 passed failed note=
    shift 3
    bounded "$REGRESS_TIMEOUT" "$log" as_user_in "$SCRATCH/$suite/out" "$program" \
        --bindir="$BIN" --host="$SOCKETS" --port="$SINGLE_PORT" --user=postgres \
        --dbname=contrib_regression --outputdir="$SCRATCH/$suite/out" "$@" || rc=$?
    grep -E '\.\.\. (ok|FAILED|failed)|^(not )?ok ' "$log" || true
    passed=$(grep -cE '\.\.\. ok|^ok ' "$log" || true)
    failed=$(grep -cE '\.\.\. (FAILED|failed)|^not ok ' "$log" || true)
    if [ $((passed + failed)) -lt "$tests" ]; then
        note="$((tests - passed - failed)) did not run"
        failed=$((tests - passed))
    elif [ "$rc" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1 note="exit code $rc"
    fi
    count "$passed" "$failed" "$suite" "$note"
    [ "$failed" -ne 0 ] || return 0
    if [ -s "$SCRATCH/$suite/out/regression.diffs" ]; then
        echo "--- regression.diffs (first $((SHOW_LINES * 3)) lines)"
        head -n $((SHOW_LINES * 3)) "$SCRATCH/$suite/out/regression.diffs" | cut -c 1-400
    else
        show "$log"
    fi
    show "$SCRATCH/$suite/server.log"
}

# ---- the suites

# cores_of FILE: the sources that a C program tests, which its first line names:
# /* cores: src/geo/quadkey.c ... */
cores_of()
{
    sed -n '1s|^/\* cores: *\(.*[^ ]\) *\*/$|\1|p' "$1"
}

# run_programs SUITE FILE...: compile and run C programs without a server.
run_programs()
{
    local suite=$1 file name cores log
    shift
    for file in "$@"; do
        name=$(basename "$file" .c)
        log=$SCRATCH/$suite/$name.log
        cores=$(cores_of "$file")
        if [ -z "$cores" ]; then
            count 0 1 "$suite/$name" 'line 1 is not /* cores: src/... */'
            continue
        fi
        # shellcheck disable=SC2086
        if ! (cd "$PROJECT" && ${CC:-gcc} "${PROGRAM_FLAGS[@]}" \
                -o "$SCRATCH/$suite/$name" "$file" $cores -lm -lpthread) >"$log" 2>&1; then
            count 0 1 "$suite/$name" "does not compile"
            show "$log"
            continue
        fi
        if [ -n "${COVERAGE:-}" ]; then     # the compiler's notes, before the folder goes
            mkdir -p "$GCOV_PREFIX$SCRATCH/$suite"
            cp "$SCRATCH/$suite"/*.gcno "$GCOV_PREFIX$SCRATCH/$suite/"
            give_to_server "$GCOV_PREFIX"
        fi
        give_to_server "$SCRATCH/$suite"
        run_tap "$suite/$name" "$log" as_user_in "$PROJECT" "$SCRATCH/$suite/$name" || true
    done
}
PROGRAM_FLAGS=(-std=gnu11 -g -O1 -Wall -Wextra -Werror -Wdeclaration-after-statement
    -Wno-unused-parameter -Wno-sign-compare "-fsanitize=address,undefined"
    -fno-sanitize-recover=all -fno-omit-frame-pointer -Isrc -Itest/unit)
[ -z "${COVERAGE:-}" ] || PROGRAM_FLAGS+=(-O0 --coverage)

# unit: pure cores, under the sanitizers.
suite_unit()
{
    local list
    mapfile -t list < <(files "$PROJECT"/test/unit/*_test.c)
    [ ${#list[@]} -gt 0 ] || { no_tests unit; return; }
    mkdir "$SCRATCH/unit"
    run_programs unit "${list[@]}"
}

# regress: sql/ and expected/, in the order of test/schedule.
suite_regress()
{
    local schedule=$PROJECT/test/schedule names
    names=$(sed -n 's/^test: *//p' "$schedule" 2>/dev/null | tr -s ' ' '\n' | grep . || true)
    [ -n "$names" ] || { no_tests regress; return; }
    start_single regress
    if [ -n "${TESTS:-}" ]; then
        # shellcheck disable=SC2086
        run_regress regress "$(wc -w <<<"$TESTS")" "$PGXS_DIR/test/regress/pg_regress" \
            --inputdir="$PROJECT" $TESTS
    else
        run_regress regress "$(wc -l <<<"$names")" "$PGXS_DIR/test/regress/pg_regress" \
            --inputdir="$PROJECT" --schedule="$schedule"
    fi
    server_stop "$FLEET_TREE" "$DATA" immediate
}

# isolation: test/isolation/specs; prepare.sql there, if any, runs before as
# superuser in database postgres (specs cannot create databases side by side).
suite_isolation()
{
    local list names dir=$PROJECT/test/isolation
    list=$(files "$dir"/specs/*.spec)
    [ -n "$list" ] || { no_tests isolation; return; }
    names=$(for f in $list; do basename "$f" .spec; done)
    start_single isolation
    if [ -f "$dir/prepare.sql" ] && ! as_server "$BIN/psql" -XAtq -v ON_ERROR_STOP=1 \
            -h "$SOCKETS" -p "$SINGLE_PORT" -U postgres -d postgres \
            -f "$dir/prepare.sql" >"$SCRATCH/isolation/prepare.log" 2>&1; then
        count 0 1 isolation "prepare.sql failed"
        show "$SCRATCH/isolation/prepare.log"
    else
        # shellcheck disable=SC2086
        run_regress isolation "$(wc -l <<<"$names")" \
            "$PGXS_DIR/test/isolation/pg_isolation_regress" --inputdir="$dir" $names
    fi
    server_stop "$FLEET_TREE" "$DATA" immediate
}

# two_squares: a map of two regions side by side, one degree each.
two_squares()
{
    cat <<'JSON'
{"type": "FeatureCollection", "features": [
 {"type": "Feature", "properties": {"name": "West"}, "geometry":
  {"type": "Polygon", "coordinates": [[[0,0],[1,0],[1,1],[0,1],[0,0]]]}},
 {"type": "Feature", "properties": {"name": "East"}, "geometry":
  {"type": "Polygon", "coordinates": [[[1,0],[2,0],[2,1],[1,1],[1,0]]]}}]}
JSON
}

# pgtap: on node west of a cluster of two regions, west and east.  pgTAP lives
# in schema tap, which is in the search_path.
suite_pgtap()
{
    local list file name node host port cluster=$SCRATCH/pgtap/c
    list=$(files "$PROJECT"/test/pgtap/*.sql)
    [ -n "$list" ] || { no_tests pgtap; return; }
    need_tree
    mkdir "$SCRATCH/pgtap"
    give_to_server "$SCRATCH/pgtap"
    two_squares >"$SCRATCH/pgtap/regions.geojson"
    if ! "$FLEET_ROOT/test/cluster.sh" start "$cluster" \
            --regions "$SCRATCH/pgtap/regions.geojson" >"$SCRATCH/pgtap/start.log" 2>&1; then
        count 0 1 pgtap "the cluster does not start"
        show "$SCRATCH/pgtap/start.log"
        return
    fi
    while read -r node host port _; do
        PGOPTIONS='-c client_min_messages=warning' "$BIN/psql" -XAtq -v ON_ERROR_STOP=1 \
            -h "$host" -p "$port" -U postgres -d fleet \
            -c 'CREATE SCHEMA tap; CREATE EXTENSION pgtap SCHEMA tap' </dev/null
    done <"$cluster/nodes"
    read -r node host port _ <"$cluster/nodes"
    for file in $list; do
        name=$(basename "$file" .sql)
        run_tap "pgtap/$name" "$SCRATCH/pgtap/$name.log" as_user_in "$PROJECT/test/pgtap" \
            env PGOPTIONS='-c search_path=public,tap' "$BIN/psql" -XAtq -P pager=off \
            -v ON_ERROR_ROLLBACK=1 -v ON_ERROR_STOP=1 \
            -h "$host" -p "$port" -U postgres -d fleet -f "$file" ||
            show "$cluster/log/$node.log"
    done
    "$FLEET_ROOT/test/cluster.sh" stop "$cluster"
}

# run_perl SUITE FILE...: Perl with PostgreSQL::Test::Cluster, on the private tree's
# binaries.  FLEET_TREE lets a test start clusters by test/cluster.sh, too.
run_perl()
{
    local suite=$1 file name dir
    shift
    need_tree
    mkdir -p "$SCRATCH/$suite" "$SCRATCH/t"
    node_settings | grep -v '^fsync' >"$SCRATCH/$suite/node.conf"
    give_to_server "$SCRATCH/$suite" "$SCRATCH/t"
    for file in "$@"; do
        name=$(basename "$file" .pl)
        dir=$SCRATCH/$suite/$name
        mkdir "$dir"
        give_to_server "$dir"
        run_tap "$suite/$name" "$SCRATCH/$suite/$name.log" as_user_in "$dir" env \
            PATH="$BIN:$PATH" TMPDIR="$SCRATCH/t" TESTDIR="$dir" FLEET_PROJECT="$PROJECT" \
            PERL5LIB="$PGXS_DIR/test/perl:$PROJECT/test/tap:$PROJECT/test/tap/lib" \
            PG_REGRESS="$PGXS_DIR/test/regress/pg_regress" \
            TEMP_CONFIG="$SCRATCH/$suite/node.conf" perl "$file" && continue
        show "$dir"/tmp_check/log/regress_log_* "$dir"/tmp_check/log/*.log
        keep_failed "$name" "$dir"/tmp_check/log/*.log
    done
}

# keep_failed NAME FILE...: leave the logs of what failed in build/failed, since
# the scratch folder goes.
keep_failed()
{
    local folder=$FLEET_ROOT/build/failed/$1
    shift
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$@" "$folder/" 2>/dev/null || true
    echo "--- kept: $folder"
}

# need_pooler: PGBOUNCER, a copy that the server's user can read; not set where
# there is none.
need_pooler()
{
    local path
    unset PGBOUNCER
    path=$("$FLEET_ROOT/test/setup.sh" --pooler) || return 0
    cp "$path" "$SCRATCH/pgbouncer"
    give_to_server "$SCRATCH/pgbouncer"
    export PGBOUNCER=$SCRATCH/pgbouncer
}

# tap: tests with several servers.  The random run among them (make chaos) takes
# SEED and CHAOS_SECONDS.
suite_tap()
{
    local list
    mapfile -t list < <(files "$PROJECT"/test/tap/*.pl)
    [ ${#list[@]} -gt 0 ] || { no_tests tap; return; }
    [[ "${list[*]}" != *pgbouncer* ]] || need_pooler
    export RUN_SECONDS=${CHAOS_SECONDS:-60}
    FILE_TIMEOUT=$((FILE_TIMEOUT + RUN_SECONDS))
    run_perl tap "${list[@]}"
}

# run_fuzzer FILE SECONDS: one libFuzzer target for some seconds: two points, that
# it did not fail and that it tried something.
run_fuzzer()
{
    local file=$1 name dir=$SCRATCH/fuzz log rc=0 cores runs found
    name=$(basename "$file" _fuzz.c)
    log=$dir/$name.log
    cores=$(cores_of "$file")
    # shellcheck disable=SC2086
    if ! (cd "$PROJECT" && clang "${FUZZER_FLAGS[@]}" -o "$dir/$name" "$file" $cores -lm) >"$log" 2>&1; then
        count 0 1 "fuzz/$name" 'does not compile'
        show "$log"
        return
    fi
    mkdir -p "$dir/seeds/$name" "$dir/found"
    give_to_server "$dir"
    bounded $(($2 + 60)) "$log" as_user_in "$dir" "$dir/$name" -seed="$FUZZ_SEED" \
        -max_total_time="$2" -timeout=5 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$dir/found/$name-" "$dir/seeds/$name" || rc=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$rc" -eq 0 ] && [ "${runs:-0}" -gt 1000 ]; then
        count 1 0 "fuzz/$name" "$2 s, $runs inputs"
        return
    fi
    count 0 1 "fuzz/$name" "SEED=$FUZZ_SEED, ${runs:-no} inputs, exit code $rc"
    show "$log"
    mapfile -t found < <(find "$dir/found" -name "$name-*")
    keep_failed "fuzz-$name" "$log" ${found[@]+"${found[@]}"}
}
FUZZER_FLAGS=(-std=gnu11 -g -O1 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
    "-fsanitize=fuzzer,address,undefined" -fno-sanitize-recover=all -Isrc -Itest/fuzz)

# fuzz: pure cores by libFuzzer, half of FUZZ_SECONDS; then SQL against servers.
# SEED makes it the same again.
suite_fuzz()
{
    local programs scripts total=${FUZZ_SECONDS:-60} file
    mapfile -t programs < <(files "$PROJECT"/test/fuzz/*_fuzz.c)
    mapfile -t scripts < <(files "$PROJECT"/test/fuzz/*_fuzz.pl)
    [ $((${#programs[@]} + ${#scripts[@]})) -gt 0 ] || { no_tests fuzz; return; }
    mkdir "$SCRATCH/fuzz"
    FUZZ_SEED=${SEED:-$((RANDOM * 32768 + RANDOM + 1))}
    if [ ${#programs[@]} -gt 0 ] && ! "$FLEET_ROOT/test/setup.sh" --fuzz; then
        count 0 0 fuzz 'cores skipped: no clang with libFuzzer'
    elif [ ${#programs[@]} -gt 0 ]; then
        (cd "$PROJECT" && ${CC:-gcc} "${PROGRAM_FLAGS[@]}" -o "$SCRATCH/fuzz/make_seeds" test/fuzz/seeds.c)
        mkdir "$SCRATCH/fuzz/seeds"
        "$SCRATCH/fuzz/make_seeds" "$SCRATCH/fuzz/seeds"
        for file in "${programs[@]}"; do
            run_fuzzer "$file" $((total / 2 / ${#programs[@]} + 1))
        done
    fi
    [ ${#scripts[@]} -gt 0 ] || return 0
    export RUN_SECONDS=$((total / 2)) SEED=$FUZZ_SEED
    FILE_TIMEOUT=$((FILE_TIMEOUT + RUN_SECONDS))
    run_perl fuzz "${scripts[@]}"
}

# ubsan: suites once more, with a library that undefined behaviour ends.  Each line
# of theirs that counts is one here.
suite_ubsan()
{
    local log=$SCRATCH/ubsan.log passed failed rc=0
    [ -z "${TESTS:-}" ] || { no_tests ubsan; return; }
    UBSAN=1 "$FLEET_ROOT/test/run.sh" regress isolation pgtap >"$log" 2>&1 || rc=$?
    UBSAN=1 TESTS='001_handoff 002_refusals' "$FLEET_ROOT/test/run.sh" tap >>"$log" 2>&1 || rc=$?
    passed=$(grep -cE '^ok ' "$log" || true)
    failed=$(grep -cE '^FAILED ' "$log" || true)
    [ "$rc" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    grep -E '^(ok|FAILED) ' "$log" | sed 's/^/  /'
    count "$passed" "$failed" ubsan
    [ "$failed" -eq 0 ] || show "$log"
}

# data: real traces, against pure cores and against a cluster.  These tests skip
# where a machine has no traces.
suite_data()
{
    local programs scripts file name
    mapfile -t programs < <(files "$PROJECT"/test/data/*_test.c)
    mapfile -t scripts < <(files "$FLEET_ROOT"/test/data/*.sh)
    [ $((${#programs[@]} + ${#scripts[@]})) -gt 0 ] || { no_tests data; return; }
    need_tree
    mkdir "$SCRATCH/data" "$SCRATCH/d"
    give_to_server "$SCRATCH/d"
    run_programs data ${programs[@]+"${programs[@]}"}
    for file in ${scripts[@]+"${scripts[@]}"}; do
        name=$(basename "$file" .sh)
        run_tap "data/$name" "$SCRATCH/data/$name.log" \
            env -C "$SCRATCH/data" TMPDIR="$SCRATCH/d" bash "$file" || true
    done
}

# check: properties of the source and of the built library.
suite_check()
{
    local list file name
    list=$(files "$FLEET_ROOT"/test/check/*.sh)
    [ -n "$list" ] || { no_tests check; return; }
    mkdir "$SCRATCH/check"
    with_build_lock run_make all
    for file in $list; do
        name=$(basename "$file" .sh)
        run_tap "check/$name" "$SCRATCH/check/$name.log" \
            env -C "$FLEET_ROOT" bash "$file" || true
    done
}

# ---- main

# as_user_in, as a program: timeout(1) cannot call a shell function.
write_user_script()
{
    {
        echo '#!/bin/bash'
        declare -p SERVER_USER
        declare -f as_server
        # shellcheck disable=SC2016
        echo 'dir=$1; shift; as_server env -C "$dir" "$@"'
    } >"$SCRATCH/as_user_in"
    chmod 755 "$SCRATCH/as_user_in"
    PATH=$PATH:$SCRATCH
}

# check_sanitizer: findings are written to the servers' logs, wherever these are.
check_sanitizer()
{
    local found
    found=$(grep -rhE --include='*.log' 'runtime error: ' "$SCRATCH" | sort -u || true)
    if [ -z "$found" ]; then
        count 1 0 sanitizer 'no finding in any log'
    else
        count 0 1 sanitizer
        head -n "$SHOW_LINES" <<<"$found"
    fi
}

# finish: end what still runs in the scratch folder, print the sum.
finish()
{
    local rc=$? pid file
    trap - EXIT INT TERM
    if [ -n "$SCRATCH" ]; then
        while read -r file; do
            server_kill "$(dirname "$file")"
        done < <(find "$SCRATCH" -name postmaster.pid 2>/dev/null)
        while read -r pid; do
            kill -KILL "$pid" 2>/dev/null || true
        done < <(scratch_users)
        if [ -n "${KEEP:-}" ]; then
            echo "kept: $SCRATCH"
        else
            rm -rf "$SCRATCH" 2>/dev/null || { sleep 1; rm -rf "$SCRATCH"; }
        fi
    fi
    [ -n "$FINISHED" ] || FAILED=$((FAILED + 1))
    [ "$rc" -ne 0 ] || [ "$FAILED" -eq 0 ] || rc=1
    echo "$PASSED passed, $FAILED failed"
    exit "$rc"
}

# scratch_users: pids of processes that work below the scratch folder.
scratch_users()
{
    { find /proc/[0-9]*/cwd -maxdepth 0 -printf '%h %l\n' 2>/dev/null || true; } |
        awk -v dir="$SCRATCH/" 'index($0, " " dir) { sub(/.*\//, "", $1); print $1 }'
}

main()
{
    local suite
    [ $# -gt 0 ] || die "usage: test/run.sh SUITE... (of $ALL_SUITES)"
    for suite in "$@"; do
        [[ " $ALL_SUITES " == *" $suite "* ]] || die "no suite $suite; there are: $ALL_SUITES"
    done
    trap finish EXIT
    trap 'exit 130' INT TERM
    require_setup
    prepare
    write_user_script
    for suite in "$@"; do
        echo "== $suite"
        "suite_$suite"
    done
    [ -z "${UBSAN:-}" ] || check_sanitizer
    FINISHED=yes
}

main "$@"
