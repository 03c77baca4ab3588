# What the parts of the benchmark share: servers, processes, CPU and memory of processes, tables. Sourced by bench.sh.

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
measured() { [[ $parts == *" $1 "* ]]; }

# Processes of ours that still run when the script ends.
started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    "$penstock" dev down --dir "$root/dev" --remove-data >/dev/null 2>&1 || true
}

# Starts whichever of Kafka and ClickHouse does not run, on the ports they had.
servers_up() {
    local up
    up=$("$penstock" dev up "$@" --json --dir "$root/dev")
    server() { printf '%s' "$up" | sed "s/.*\"$1\":{[^}]*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/"; }
    kafka=$(server kafka address)
    clickhouse=$(server clickhouse address)
    clickhouse_pid=$(server clickhouse pid)
}

start_servers() {
    say "starting Kafka and ClickHouse"
    servers_up --free-ports
    "$penstock" certs ca --dir "$root/certs" >/dev/null
    "$penstock" certs server --dir "$root/certs" localhost 127.0.0.1 >/dev/null
    gateway_port=$(shuf -i 20000-29999 -n 1)
    mosquitto_port=$((gateway_port + 1))
    admin_port=$((gateway_port + 2))
    writer_admin_port=$((gateway_port + 3))
    cat >"$root/penstock.toml" <<TOML
[gateway]
listen = "127.0.0.1:$gateway_port"
[kafka]
brokers = "$kafka"
[clickhouse]
url = "$clickhouse"
[telemetry]
admin_listen = "127.0.0.1:$admin_port"
TOML
}
stop_servers() { "$penstock" dev down --dir "$root/dev" --remove-data >/dev/null 2>&1 || true; }

wait_ready() { # what, admin port
    for _ in $(seq 300); do
        curl -fs "http://127.0.0.1:$2/readyz" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "the $1 did not become ready; see $root/$1.log" >&2
    exit 1
}

start_gateway() { # further options of penstock run
    "$penstock" run gateway --config "$root/penstock.toml" "$@" >>"$root/gateway.log" 2>&1 &
    gateway=$!
    started+=("$gateway")
    wait_ready gateway "$admin_port"
}

start_writer() { # further options of penstock run
    "$penstock" run writer --config "$root/penstock.toml" --set "telemetry.admin_listen=127.0.0.1:$writer_admin_port" "$@" \
        >>"$root/writer.log" 2>&1 &
    writer=$!
    started+=("$writer")
}

stop() { # pids
    kill "$@" 2>/dev/null || true
    wait "$@" 2>/dev/null || true
}

sql() { curl -fsS "$clickhouse/" --data-binary "$1"; }

# Waits until the table of readings holds so many rows.
wait_rows() { # database, rows, seconds
    for _ in $(seq $((5 * $3))); do
        [ "$(sql "SELECT count() FROM $1.readings")" -ge "$2" ] && return
        sleep 0.2
    done
    echo "$1.readings does not hold $2 rows after $3 s; see $root/writer.log" >&2
    exit 1
}

# Waits until no merge has run for a second, two minutes at most.
wait_merges() {
    local quiet=0
    for _ in $(seq 480); do
        if [ "$(sql "SELECT count() FROM system.merges")" = 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
        [ "$quiet" -lt 4 ] || return 0
        sleep 0.25
    done
}

ticks=$(getconf CLK_TCK)
cpu_s() { awk -v ticks="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) / ticks }' "/proc/$1/stat"; }
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
rss_kib_max() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
calculate() { awk "BEGIN { printf \"${2:-%.2f}\", $1 }"; }

row() { # cells
    printf '|'
    printf ' %s |' "$@"
    printf '\n'
} >>"$root/table"
heading() { # title, column headings
    {
        printf '\n**%s**\n\n' "$1"
        shift
        printf '|'
        printf ' %s |' "$@"
        printf '\n|'
        printf -- '---|%.0s' "$@"
        printf '\n'
    } >>"$root/table"
}
# The mark as a cell: what is asked for, and whether the figure reaches it.
mark() { # figure, <= or >=, mark, unit
    local verdict='**missed**'
    case $1 in
    '' | *[!0-9.]*) verdict='**not measured**' ;;
    *) [ "$(calculate "($1 $2 $3)" %d)" = 0 ] || verdict=reached ;;
    esac
    printf '%s %s: %s' "$2" "$3${4:+ $4}" "$verdict"
}
