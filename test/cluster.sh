#!/bin/bash
# fleet: a local cluster, one PostgreSQL server per region.
# Copyright (c) 2026, the fleet authors
# shellcheck source-path=SCRIPTDIR
#
# See usage() for the commands.  All of a cluster lives in its folder DIR:
#
#   nodes       "node host port dbname user", one a line: the databases that
#               have an identity in fleet, regions first, then the replica
#   standbys    the same five words, then the node that it follows
#   members     "name role port primary" of every server, for this script
#   settings    shell variables of this script: socket folder, binaries
#   data/NAME   data directory;  log/NAME.log  server log;  tree/  binaries
#
# One data directory is made by initdb, gets the database and the extension,
# and is copied for each server: half the time of an initdb each.  The copies
# share the system identifier.  Nothing here takes two regions for each other
# by it: names of prepared transactions carry the node's name, and standbys
# follow a server by its port.  A standby is such a copy as well, which makes
# it a cold base backup of its primary, so pg_basebackup is not needed.
#
# Servers listen on Unix sockets only, in a folder that their user alone can
# enter; that is why the sockets need no password.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FIRST_PORT=6401         # only part of a socket's name: no port is opened
START_TIMEOUT=60        # seconds for servers to come up, and for standbys
SQL_TIMEOUT=120         # seconds for one step of the set-up
NAME_PATTERN='^[a-z][a-z0-9_]{0,39}$'

usage()
{
    cat <<'TEXT'
usage: test/cluster.sh start DIR --regions FILE.geojson [--only NAME,NAME,..]
                       [--replica NAME] [--standbys N] [--cron]
       test/cluster.sh psql DIR NODE [psql's arguments]
       test/cluster.sh status DIR
       test/cluster.sh kill DIR NODE       SIGKILL to the server and its children
       test/cluster.sh restart DIR NODE    start it (again), after a kill too
       test/cluster.sh stop DIR            stop all, remove DIR

start   one server and region per feature of the file (.geojson or .geojson.gz);
        a region is named by the feature's "name" in lower snake case.
  --only      only these regions, in this order
  --replica   one more node with this name that owns no region
  --standbys  this many synchronous standbys per region, called REGION_s1, ...
  --cron      with pg_cron, which runs fleet's jobs (fleet.schedule_jobs)
DIR/nodes then lists "node host port dbname user", one a line.

FAULTS=1 in the environment takes the build with fault points.
TEXT
}

# ---- the cluster's folder

open_cluster()
{
    DIR=$(realpath -m "$1")
    [ -f "$DIR/settings" ] || die "$1 is not a cluster of this script (no file $1/settings)"
    # shellcheck source=/dev/null
    . "$DIR/settings"
}

# member NAME: its line "name role port primary", or an error that lists all.
member()
{
    awk -v name="$1" '$1 == name { print; found = 1 } END { exit !found }' "$DIR/members" ||
        die "no server $1 in $DIR; there are: $(awk '{ printf "%s ", $1 }' "$DIR/members")"
}

# members ROLE..: names of the servers in one of these roles.
members()
{
    awk -v roles=" $* " 'index(roles, " " $2 " ") { print $1 }' "$DIR/members"
}

# port_of NAME
port_of()
{
    member "$1" | awk '{ print $3 }'
}

# sql NAME [ARGS...]: run the script on stdin, stop at errors, bounded in time.
sql()
{
    local port
    port=$(port_of "$1")
    shift
    PGOPTIONS="-c client_min_messages=warning" timeout --foreground "$SQL_TIMEOUT" "$BIN/psql" -XAtq -v ON_ERROR_STOP=1 \
        -h "$SOCKETS" -p "$port" -U postgres -d fleet "$@" -f -
}

# make_folder: DIR, empty, the server's user's, and a place for sockets.  Their
# path may have 107 bytes and stands in conninfo strings and in DIR/nodes
# without quotes; a DIR that is deep or has odd characters gets them in /tmp.
make_folder()
{
    local entries
    entries=$(ls -A "$DIR" 2>/dev/null || true)
    [ -z "$entries" ] ||
        die "$DIR exists and is not empty (if it is a cluster: $0 stop $DIR)"
    mkdir -p "$DIR"
    MADE=yes                    # from here on a failure removes it
    give_to_server "$DIR"
    chmod 700 "$DIR"
    as_server test -w "$DIR" || die "user $SERVER_USER, who runs the servers," \
        "cannot enter $DIR; take a folder in /tmp, for example"
    mkdir "$DIR/data" "$DIR/log"
    SOCKETS=$DIR/sock
    if [ ${#SOCKETS} -gt 85 ] || [[ $SOCKETS == *[!a-zA-Z0-9/._-]* ]]; then
        SOCKETS=$(mktemp -d /tmp/fleet-sock.XXXXXX)
    else
        mkdir "$SOCKETS"
    fi
    chmod 700 "$SOCKETS"
    give_to_server "$SOCKETS" "$DIR/data" "$DIR/log"
}

# make_binaries: a private install tree of the cluster's own, or the one that
# FLEET_TREE names (the test runner has made it already).
make_binaries()
{
    if [ -n "${FLEET_TREE:-}" ]; then
        [ -n "${PG_CONFIG:-}" ] || PG_CONFIG=$("$FLEET_ROOT/test/setup.sh" --pg-config)
        TREE=$FLEET_TREE
    else
        require_setup
        TREE=$DIR/tree
        make_tree "$TREE" "${FAULTS:-}"
    fi
    BIN=$(tree_bin "$TREE")
    printf '%s=%q\n' SOCKETS "$SOCKETS" TREE "$TREE" BIN "$BIN" \
        PG_CONFIG "$PG_CONFIG" >"$DIR/settings"
}

# ---- regions of the file

copy_regions()
{
    [ -f "$REGIONS" ] || die "no such file: $REGIONS"
    case $REGIONS in
        *.gz) zcat "$REGIONS" >"$DIR/regions.geojson" ;;
        *) cat "$REGIONS" >"$DIR/regions.geojson" ;;
    esac
    give_to_server "$DIR/regions.geojson"
}

# features_query: SELECT that reads the file as rows (name, geometry, ord).
# PostgreSQL reads the JSON: a bare machine has no other reader.
features_query()
{
    cat <<'SQL'
SELECT trim(BOTH '_' FROM regexp_replace(lower(f->'properties'->>'name'),
            '[^a-z0-9]+', '_', 'g')) AS name,
       f->'geometry' AS geometry, ord
  FROM jsonb_array_elements(pg_read_file(:'file')::jsonb->'features')
       WITH ORDINALITY AS feature(f, ord)
SQL
}

# list_regions: the names that are wanted, in order, after checking them.
list_regions()
{
    local all wanted name
    all=$(sql template -v file="$DIR/regions.geojson" <<SQL
SELECT coalesce(name, '') FROM ($(features_query)) AS feature ORDER BY ord;
SQL
    ) || die "$REGIONS is not a GeoJSON FeatureCollection"
    [ -n "$all" ] || die "$REGIONS has no features"
    wanted=${ONLY//,/$'\n'}
    wanted=${wanted:-$all}
    [ -z "$(sort <<<"$wanted" | uniq -d)" ] ||
        die "region names are not unique: $(sort <<<"$wanted" | uniq -d | tr '\n' ' ')"
    while read -r name; do
        [[ $name =~ $NAME_PATTERN ]] ||
            die "\"$name\" cannot name a region; it must match $NAME_PATTERN"
        grep -qx -- "$name" <<<"$all" ||
            die "no region $name in $REGIONS; there are: $(tr '\n' ' ' <<<"$all")"
    done <<<"$wanted"
    echo "$wanted"
}

# add_region FIRST NAME: call it on node FIRST for region NAME.
add_region()
{
    local conninfo
    conninfo="host=$SOCKETS port=$(port_of "$2") dbname=fleet user=fleet_node"
    sql "$1" -v file="$DIR/regions.geojson" -v name="$2" -v conninfo="$conninfo" >/dev/null <<SQL
SELECT fleet.add_region(:'name',
           ST_Multi(ST_SetSRID(ST_GeomFromGeoJSON(geometry), 4326)), :'conninfo')
  FROM ($(features_query)) AS feature WHERE name = :'name';
SQL
}

# ---- servers

# configure DATA PORT [SETTING...]: the settings of one server.
configure()
{
    local data=$1 port=$2
    shift 2
    {
        base_settings
        echo "port = $port"
        echo "unix_socket_directories = '$SOCKETS'"
        if [ "$CRON" = yes ]; then
            echo "shared_preload_libraries = 'fleet, pg_cron'"
            echo "cron.database_name = 'fleet'"
            echo "cron.use_background_workers = on"
        else
            echo "shared_preload_libraries = 'fleet'"
        fi
        [ $# -eq 0 ] || printf '%s\n' "$@"
    } >"$data/cluster.conf"
    grep -qx "include 'cluster.conf'" "$data/postgresql.conf" ||
        echo "include 'cluster.conf'" >>"$data/postgresql.conf"
    give_to_server "$data/cluster.conf"
}

# make_template: the data directory that all servers begin with.
make_template()
{
    local data=$DIR/data/template
    echo "template template $FIRST_PORT -" >"$DIR/members"
    init_data "$TREE" "$data"
    configure "$data" "$FIRST_PORT" 'fsync = off' 'fleet.allow_async = on'
    server_start "$TREE" "$data" "$DIR/log/template.log" || die "the template does not start"
    as_server timeout 60 "$BIN/createdb" -h "$SOCKETS" -p "$FIRST_PORT" -U postgres fleet
    sql template <<<'CREATE EXTENSION fleet CASCADE;' || die "CREATE EXTENSION fleet failed"
    [ "$CRON" = no ] || sql template <<<'CREATE EXTENSION pg_cron;' || die "CREATE EXTENSION pg_cron failed"
    NAMES=$(list_regions)
    server_stop "$TREE" "$data"
}

# plan_members: give every server its role and port.
plan_members()
{
    local name i port=$FIRST_PORT
    : >"$DIR/members"
    for name in $NAMES; do
        echo "$name region $((port++)) -"
    done >>"$DIR/members"
    if [ -n "$REPLICA" ]; then
        ! grep -qx -- "$REPLICA" <<<"$NAMES" || die "$REPLICA is a region, not a replica"
        echo "$REPLICA replica $((port++)) -" >>"$DIR/members"
    fi
    for name in $NAMES; do
        for ((i = 1; i <= STANDBYS; i++)); do
            echo "${name}_s$i standby $((port++)) $name"
        done
    done >>"$DIR/members"
    awk -v host="$SOCKETS" '$2 != "standby" { print $1, host, $3, "fleet", "postgres" }' \
        "$DIR/members" >"$DIR/nodes"
    awk -v host="$SOCKETS" '$2 == "standby" { print $1, host, $3, "fleet", "postgres", $4 }' \
        "$DIR/members" >"$DIR/standbys"
}

# make_servers: copy and configure them all, at once.
make_servers()
{
    local name role port primary pid pids=()
    while read -r name role port primary; do
        make_server "$name" "$role" "$port" "$primary" &
        pids+=($!)
    done <"$DIR/members"
    for pid in "${pids[@]}"; do
        wait "$pid" || die "cannot make the data directories"
    done
    rm -rf "$DIR/data/template"
}

# make_server NAME ROLE PORT PRIMARY: its data directory, ready to start.
make_server()
{
    local name=$1 role=$2 port=$3 primary=$4 data=$DIR/data/$1 names log
    if ! log=$(cp -a --reflink=auto "$DIR/data/template" "$data" 2>&1); then
        head -n 3 <<<"$log" >&2         # of what may be thousands
        return 1
    fi
    case $role in
        standby)
            configure "$data" "$port" "primary_slot_name = '$name'" \
                "wal_retrieve_retry_interval = 200ms" \
                "primary_conninfo = 'host=$SOCKETS port=$(port_of "$primary") user=postgres application_name=$name'"
            touch "$data/standby.signal"
            give_to_server "$data/standby.signal"
            ;;
        region)
            names=$(awk -v name="$name" '$4 == name { printf "%s%s", sep, $1; sep = ", " }' "$DIR/members")
            if [ -n "$names" ]; then
                configure "$data" "$port" "synchronous_standby_names = 'ANY 1 ($names)'"
            else
                configure "$data" "$port" 'fleet.allow_async = on'
            fi
            ;;
        replica)
            configure "$data" "$port" 'fleet.allow_async = on' \
                'max_logical_replication_workers = 16' 'wal_retrieve_retry_interval = 500ms'
            ;;
    esac
}

# start_all NAME...: at once; fail if one does not come up.
start_all()
{
    local name pids=() pid failed=
    for name in "$@"; do
        server_start "$TREE" "$DIR/data/$name" "$DIR/log/$name.log" &
        pids+=($!)
    done
    for pid in ${pids[@]+"${pids[@]}"}; do
        wait "$pid" || failed=yes
    done
    [ -z "$failed" ] || die "a server does not start"
}

# await_standbys: a commit on a primary waits for a standby, so the set-up goes
# on only when every standby streams.
await_standbys()
{
    local name primary waiting deadline=$((SECONDS + START_TIMEOUT))
    for name in $(members standby); do
        primary=$(member "$name" | awk '{ print $4 }')
        while :; do
            waiting=$(sql "$primary" -v name="$name" <<'SQL'
SELECT count(*) FROM pg_stat_replication
 WHERE application_name = :'name' AND state = 'streaming' AND sync_state = 'quorum';
SQL
            )
            [ "$waiting" = 0 ] || break
            [ "$SECONDS" -lt "$deadline" ] ||
                die "standby $name does not follow $primary: $(tail -n 3 "$DIR/log/$name.log")"
            sleep 0.1
        done
    done
}

# ---- commands

# abandon: remove what is left of a start that failed; logs were shown by then.
# Copies that still run may add files for a moment.
abandon()
{
    local data deadline=$((SECONDS + 10))
    [ -n "$MADE" ] || return 0
    trap '' INT TERM
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    for data in "$DIR"/data/*; do
        server_kill "$data"
    done
    until rm -rf "$DIR" ${SOCKETS:+"$SOCKETS"} 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; do
        sleep 0.1
    done
}

parse_start()
{
    REGIONS='' ONLY='' REPLICA='' STANDBYS=0 CRON=no
    while [ $# -gt 0 ]; do
        case $1 in
            --regions | --only | --replica | --standbys)
                [ $# -ge 2 ] || die "$1 needs a value"
                case $1 in
                    --regions) REGIONS=$(realpath -m "$2") ;;
                    --only) ONLY=$2 ;;
                    --replica) REPLICA=$2 ;;
                    --standbys) STANDBYS=$2 ;;
                esac
                shift 2
                ;;
            --cron) CRON=yes; shift ;;
            *) die "unknown option $1 (try $0 help)" ;;
        esac
    done
    [ -n "$REGIONS" ] || die "start needs --regions FILE.geojson"
    [[ $STANDBYS =~ ^[0-9]$ ]] || die "--standbys takes a number from 0 to 9"
    [[ -z $REPLICA || $REPLICA =~ $NAME_PATTERN ]] || die "--replica must match $NAME_PATTERN"
}

cmd_start()
{
    local first name primary
    DIR=$(realpath -m "$1")
    shift
    parse_start "$@"
    MADE='' SOCKETS=''
    trap abandon EXIT
    trap 'exit 130' INT TERM
    make_folder
    copy_regions
    make_binaries
    make_template
    plan_members
    make_servers
    # shellcheck disable=SC2046
    start_all $(members region replica)
    for name in $(members standby); do
        primary=$(member "$name" | awk '{ print $4 }')
        # Creating a slot commits nothing, so it does not wait for the standby.
        sql "$primary" -v name="$name" >/dev/null \
            <<<"SELECT pg_create_physical_replication_slot(:'name', true);"
    done
    # shellcheck disable=SC2046
    start_all $(members standby)
    await_standbys
    for name in $(members region replica); do
        sql "$name" -v name="$name" >/dev/null <<<"SELECT fleet.init_node(:'name');"
    done
    first=$(members region | head -n 1)
    for name in $(members region); do
        add_region "$first" "$name" || die "fleet.add_region('$name') failed"
    done
    if [ "$CRON" = yes ]; then
        for name in $(members region replica); do
            sql "$name" >/dev/null <<<'SELECT fleet.schedule_jobs();' || die "the jobs of $name cannot be scheduled"
        done
    fi
    trap - EXIT
}

cmd_psql()
{
    local port
    port=$(port_of "$1")
    shift
    exec "$BIN/psql" -X -h "$SOCKETS" -p "$port" -U postgres -d fleet "$@"
}

# server_state NAME ROLE PRIMARY: a word or two for the table.
server_state()
{
    [ -n "$(server_pid "$DIR/data/$1")" ] || { echo down; return; }
    if [ "$2" = standby ]; then
        timeout 5 "$BIN/psql" -XAtq -h "$SOCKETS" -p "$(port_of "$1")" -U postgres -d fleet \
            -c "SELECT coalesce((SELECT status FROM pg_stat_wal_receiver), 'disconnected')" \
            2>/dev/null </dev/null || echo "no answer"
    else
        "$BIN/pg_isready" -q -t 5 -h "$SOCKETS" -p "$(port_of "$1")" -U postgres -d fleet && echo up || echo "no answer"
    fi
}

# server_rides NAME ROLE: rides that live there; a replica shows all.
server_rides()
{
    local table=fleet.rides
    case $2 in
        standby) echo -; return ;;
        region) table=fleet.local_rides ;;
    esac
    timeout 5 "$BIN/psql" -XAtq -h "$SOCKETS" -p "$(port_of "$1")" -U postgres -d fleet \
        -c "SELECT count(*) FROM $table" 2>/dev/null </dev/null || echo -
}

cmd_status()
{
    local name role port primary state rides
    printf '%-24s %-8s %8s %6s %-12s %8s\n' node role pid port state rides
    while read -r name role port primary; do
        state=$(server_state "$name" "$role")
        rides=-
        [ "$state" != up ] || rides=$(server_rides "$name" "$role")
        printf '%-24s %-8s %8s %6s %-12s %8s\n' "$name" "$role" \
            "$(server_pid "$DIR/data/$name" | grep . || echo -)" "$port" "$state" "$rides"
    done <"$DIR/members"
}

cmd_kill()
{
    member "$1" >/dev/null
    [ -n "$(server_pid "$DIR/data/$1")" ] || die "$1 is not running"
    server_kill "$DIR/data/$1"
}

cmd_restart()
{
    member "$1" >/dev/null
    server_stop "$TREE" "$DIR/data/$1"
    server_start "$TREE" "$DIR/data/$1" "$DIR/log/$1.log" || die "$1 does not start"
}

# The data is removed, so nobody waits for checkpoints.
cmd_stop()
{
    local name
    for name in $(members region replica standby); do
        { server_stop "$TREE" "$DIR/data/$name" immediate; server_kill "$DIR/data/$name"; } &
    done
    wait
    for name in $(members region replica standby); do
        [ -z "$(data_users "$DIR/data/$name")" ] || die "$name does not stop; $DIR is kept"
    done
    rm -rf "$SOCKETS" "$DIR"
}

main()
{
    local command=${1:-help}
    case $command in
        help | -h | --help) usage; return ;;
        start | psql | status | kill | restart | stop) ;;
        *) usage >&2; exit 2 ;;
    esac
    [ $# -ge 2 ] || die "$command needs the cluster's folder (try $0 help)"
    case $command in
        start) shift; cmd_start "$@"; return ;;
        psql | kill | restart) [ $# -ge 3 ] || die "$command needs a node (try $0 help)" ;;
    esac
    open_cluster "$2"
    shift 2
    "cmd_$command" "$@"
}

main "$@"
