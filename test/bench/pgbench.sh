# fleet: what the benchmarks that run pgbench share; sourced, never run.
# Copyright (c) 2026, the fleet authors
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
#
# Who sources this sets PORT, TIME, CLIENTS, REPETITIONS and CASES, and may set OPTIONS, the
# clients' settings (-c ...).

. "$(dirname "${BASH_SOURCE[0]}")/regions.sh"

# port_of NODE
port_of()
{
    awk -v node="$1" '$1 == node { print $3 }' "$CLUSTER/nodes"
}

# bench NAME ARGUMENT...: run $WORK/NAME.sql
bench()
{
    local name=$1
    shift
    PGOPTIONS="${OPTIONS:-}" as_server "$(tree_bin "$CLUSTER/tree")/pgbench" -h "$CLUSTER/sock" -p "$PORT" -U postgres -n \
        -f "$WORK/$name.sql" "$@" fleet
}

# run_once NAME: "per_s p50 p95 p99", in ms; the script may count in :i
run_once()
{
    rm -rf "$WORK/log"
    mkdir "$WORK/log"
    give_to_server "$WORK/log"
    bench "$1" -M prepared -D i=0 -T "$TIME" -c "$CLIENTS" -j 2 -l --log-prefix="$WORK/log/l" >"$WORK/out" 2>&1 ||
        { cat "$WORK/out" >&2; die "pgbench failed on $1"; }
    ! grep -q 'failed transactions: [1-9]' "$WORK/out" || { cat "$WORK/out" >&2; die "transactions of $1 failed"; }
    cat "$WORK"/log/l* | cut -d' ' -f3 | sort -n | awk -v per_s="$(awk '/^tps/ { print $3 }' "$WORK/out")" '
        { v[NR] = $1 }
        function at(share) { return v[int((NR - 1) * share) + 1] / 1000 }
        END { printf "%.0f %.3f %.3f %.3f\n", per_s, at(0.5), at(0.95), at(0.99) }'
}

# column N: the median of a column
column()
{
    cut -d' ' -f"$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

is_wanted()
{
    [[ -z $CASES || " $CASES " = *" $1 "* ]]
}

# run_in_turns OURS FLOOR: two scripts in turns; their results in RESULT_OURS and RESULT_FLOOR, a line each time
run_in_turns()
{
    local i
    RESULT_OURS=''
    RESULT_FLOOR=''
    for ((i = 0; i < REPETITIONS; i++)); do
        RESULT_OURS+=$(run_once "$1")$'\n'
        RESULT_FLOOR+=$(run_once "$2")$'\n'
    done
    RESULT_OURS=${RESULT_OURS%$'\n'}
    RESULT_FLOOR=${RESULT_FLOOR%$'\n'}
}

# ratio A B
ratio()
{
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}
