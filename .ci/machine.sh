# What the checks need of the machine; sourced by .ci/run. Sets CI_SCRATCH's services up and ends them.

said() { printf '== %s\n' "$*"; }
die() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
is_root() { [ "$(id -u)" = 0 ]; }

# An interpreter from 3.12 to 3.14, wherever it is. Without one uv downloads its own.
find_python() {
    local candidate found
    for candidate in "${UV_PYTHON:-}" python3.13 python3.14 python3.12 "$HOME"/.pyenv/versions/3.13*/bin/python3 \
        "$HOME"/.pyenv/versions/3.1[42]*/bin/python3 python3; do
        [ -n "$candidate" ] || continue
        # Asked and not believed: a pyenv shim exists for versions that are not installed.
        if found=$("$candidate" -c 'import sys; print(sys.executable) if (3, 12) <= sys.version_info[:2] < (3, 15) else sys.exit(1)' 2>/dev/null); then
            export UV_PYTHON=$found
            said "Python: $UV_PYTHON"
            return
        fi
    done
    unset UV_PYTHON
    said "Python: none from 3.12 to 3.14 here, uv will download one"
}

find_uv() {
    local home=${XDG_CACHE_HOME:-$HOME/.cache}/openhands-gateway-ci
    if ! command -v uv >/dev/null; then
        export PATH=$home/bin:$PATH
    fi
    if ! command -v uv >/dev/null; then
        said "uv is installed into $home"
        local python=${UV_PYTHON:-python3}
        "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
        "$python" -m venv "$home" && "$home/bin/pip" install --quiet --disable-pip-version-check uv ||
            die "uv cannot be installed; see https://docs.astral.sh/uv/"
    fi
    said "$(uv --version)"
}

apt_install() {
    is_root && command -v apt-get >/dev/null || die "missing, and only root can install it here: $*"
    said "apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    timeout 900 apt-get update -qq && timeout 900 apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        die "apt-get install $*"
}

postgres_bin() {
    local directory
    for directory in "$(dirname "$(command -v initdb 2>/dev/null || echo /nowhere/x)")" /usr/lib/postgresql/*/bin \
        /opt/homebrew/opt/postgresql*/bin; do
        if [ -x "$directory/initdb" ] && [ -x "$directory/pg_ctl" ]; then echo "$directory"; fi
    done | tail -1
}

chromium() {
    command -v chromium || command -v chromium-browser || command -v google-chrome || true
}

install_missing() {
    local missing=()
    command -v git >/dev/null || missing+=(git)
    command -v tmux >/dev/null || missing+=(tmux)
    [ -n "$(postgres_bin)" ] || missing+=(postgresql)
    command -v redis-server >/dev/null || missing+=(redis-server)
    [ -n "$(chromium)" ] || missing+=(chromium)
    node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18)' 2>/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    export GATEWAY_TEST_CHROMIUM
    GATEWAY_TEST_CHROMIUM=$(chromium)
}

free_port() {
    "${UV_PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# PostgreSQL refuses to run as root, so root runs it as the user that its package made.
as_postgres() {
    if is_root; then
        runuser -u "$(id -un postgres 2>/dev/null || echo nobody)" -- "$@"
    else
        "$@"
    fi
}

start_postgres() {
    local bin directory=$CI_SCRATCH/postgres port
    bin=$(postgres_bin)
    port=$(free_port)
    chmod 711 "$CI_SCRATCH"
    mkdir -p "$directory"
    is_root && chown "$(id -un postgres 2>/dev/null || echo nobody)" "$directory"
    (
        cd "$directory"
        as_postgres "$bin/initdb" -D "$directory/data" -U gateway --auth=trust --encoding=UTF8 --no-sync >"$CI_SCRATCH/initdb.log"
        # No fsync: what a crash of the machine would lose is this run's test data.
        as_postgres "$bin/pg_ctl" -D "$directory/data" -w -t 60 -l "$directory/log" -o \
            "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$directory -c fsync=off -c max_connections=200" start >/dev/null
    ) || die "PostgreSQL does not start; $directory/log"
    export CI_POSTGRES_DIRECTORY=$directory/data CI_POSTGRES_URL=postgres://gateway@127.0.0.1:$port/postgres
    said "PostgreSQL on port $port"
}

start_redis() {
    local port
    port=$(free_port)
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$CI_SCRATCH" >"$CI_SCRATCH/redis.log" 2>&1 &
    CI_REDIS_PID=$!
    export GATEWAY_TEST_REDIS_URL=redis://127.0.0.1:$port/0
    said "Redis on port $port"
}

# Debian's own start script changes the user and forgets the environment; what it starts does not.
rabbitmq() {
    local candidate
    for candidate in /usr/lib/rabbitmq/bin/rabbitmq-server "$(command -v rabbitmq-server || true)"; do
        if [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
}

start_rabbitmq() {
    local directory=$CI_SCRATCH/rabbitmq port
    [ -n "$(rabbitmq)" ] || apt_install rabbitmq-server
    port=$(free_port)
    mkdir -p "$directory"
    (
        cd "$directory"
        export HOME=$directory RABBITMQ_NODENAME=ci-$port@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
            RABBITMQ_NODE_PORT=$port RABBITMQ_MNESIA_BASE=$directory/mnesia RABBITMQ_LOG_BASE=$directory/log \
            RABBITMQ_ENABLED_PLUGINS_FILE=$directory/plugins RABBITMQ_CONFIG_FILE=$directory/none
        RABBITMQ_DIST_PORT=$(free_port) exec "$(rabbitmq)" >"$CI_SCRATCH/rabbitmq.log" 2>&1
    ) &
    CI_RABBITMQ_PID=$!
    local deadline=$((SECONDS + 180))
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        [ $SECONDS -lt $deadline ] && kill -0 "$CI_RABBITMQ_PID" 2>/dev/null || die "RabbitMQ does not start; $CI_SCRATCH/rabbitmq.log"
        sleep 0.5
    done
    export GATEWAY_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:$port//
    said "RabbitMQ on port $port"
}

end_services() {
    local status=$?
    if [ -n "${CI_RABBITMQ_PID:-}" ]; then
        kill "$CI_RABBITMQ_PID" 2>/dev/null || true
        wait "$CI_RABBITMQ_PID" 2>/dev/null || true # it still writes into the directory that goes
    fi
    if [ -n "${CI_REDIS_PID:-}" ]; then kill "$CI_REDIS_PID" 2>/dev/null || true; fi
    if [ -n "${CI_POSTGRES_DIRECTORY:-}" ]; then
        (cd / && as_postgres "$(postgres_bin)/pg_ctl" -D "$CI_POSTGRES_DIRECTORY" -m immediate stop >/dev/null 2>&1) || true
    fi
    if [ "$status" = 0 ]; then rm -rf "$CI_SCRATCH"; else said "logs are kept in $CI_SCRATCH" >&2; fi
    return "$status"
}
