#!/usr/bin/env bash
# Build the image and prove on a running container what docs/deployment.md promises: docker/smoke_test.sh [--keep]
#
# Takes the engine that responds to `docker info`. Where none does and this is root with Debian's docker.io, it
# starts a private one with a folder, a socket and cgroups of its own; where its base image cannot be pulled
# there, debootstrap makes one. Where no engine is to be had it prints "SKIP: reason" and exits 0.
#
# Read from the environment, all optional:
#   PYTHON                       interpreter with ctai_sam2 and its extra "service" (default: .venv, else python3)
#   CTAI_SAM2_TORCH_INDEX_URL    as in .env.example; empty takes PyPI's CUDA build, which runs on a CPU too
#   CTAI_SAM2_CA_BUNDLE          PEM file of a proxy's authority, used during the build alone
#   PIP_INDEX_URL                mirror of PyPI
#   CTAI_SAM2_REAL_DATA          real CT data: one real slice is compared besides the phantom's
#   SMOKE_DIR                    where a private engine may lay its folder (default: /tmp); some 30 GB for CUDA builds
# --keep leaves the engine and the containers running, and says how to reach them.
# shellcheck disable=SC2016
set -euo pipefail

project=$(cd "$(dirname "$0")/.." && pwd)
cd "$project"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
base_image=python:3.11-slim-bookworm
port=${SMOKE_PORT:-18765}
# Times are reported and fail nothing: a busy machine is slow. These are for what never comes.
hang_s=600
keep=no
[ "${1:-}" != --keep ] || keep=yes

engine_pid=""
cgroup=ctai-smoke-$$
is_up=no
private=no
passed=0
began=$(date +%s)

say() { printf '%5ss  %s\n' "$(($(date +%s) - began))" "$*"; }
skip() { echo "SKIP: $*"; exit 0; }
fail() {
    echo "FAIL: $*" >&2
    [ "$is_up" = no ] || docker logs --tail 20 "$(container)" >&2 2>/dev/null || true
    exit 1
}
check() { # check NAME EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"
    passed=$((passed + 1))
    say "ok    $1: $3"
}
client() { "$python" docker/smoke_client.py --url "http://127.0.0.1:$port" "$@"; }
container() { compose ps --all --quiet sam2; }
inspect() { docker inspect --format "$1" "$(container)"; }
inside() { docker exec "$(container)" "$@"; }

clean_up() {
    status=$?
    if [ "$keep" = yes ] && [ "$passed" != 0 ]; then
        [ "$private" = no ] || echo "Kept: export DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=${DOCKER_CONFIG:-}; engine $engine_pid"
        exit "$status"
    fi
    if [ "$is_up" = yes ]; then
        compose down --volumes --timeout 5 >/dev/null 2>&1 || true
        docker rm --force "$alone" >/dev/null 2>&1 || true
    fi
    if [ -n "$engine_pid" ]; then
        kill "$engine_pid" 2>/dev/null || true
        wait "$engine_pid" 2>/dev/null || true
        awk -v folder="$engine/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | xargs --no-run-if-empty umount
        rm -rf "$engine"
        find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}

start_private_engine() {
    [ "$(id -u)" = 0 ] || skip "no container engine responds, and only root can start one"
    for program in dockerd containerd iptables; do
        command -v "$program" >/dev/null || skip "no container engine responds, and $program is not installed"
    done
    engine=$(mktemp -d "${SMOKE_DIR:-/tmp}/ctai-engine.XXXXXX")
    # Within the memory group of this process, where there are groups by controller; next to it in the unified tree.
    local group
    group=$(awk -F: '$2 == "memory" { print $3 }' /proc/self/cgroup)
    [ -n "$group" ] || group=$(awk -F: '$1 == "0" { print $3 }' /proc/self/cgroup)
    export DOCKER_HOST=unix://$engine/docker.sock
    dockerd --host "$DOCKER_HOST" --data-root "$engine/data" --exec-root "$engine/exec" \
        --pidfile "$engine/docker.pid" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        --bridge=none --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "${group%/}/$cgroup" \
        >"$engine/dockerd.log" 2>&1 &
    engine_pid=$!
    private=yes
    for _ in $(seq 150); do
        ! docker info >/dev/null 2>&1 || return 0
        kill -0 "$engine_pid" 2>/dev/null || break
        sleep 0.2
    done
    local reason
    reason=$(grep -v 'level=info' "$engine/dockerd.log" | tail -1 | cut -c1-200)
    skip "a private engine did not start here: $reason"
}

make_base_image() {
    docker image inspect "$base_image" >/dev/null 2>&1 && return 0
    timeout 120 docker pull --quiet "$base_image" >/dev/null 2>&1 && return 0
    command -v debootstrap >/dev/null || skip "$base_image cannot be pulled, and debootstrap is not installed"
    local root=$work/base mirror
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | head -1)
    debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
        "${base_image##*-}" "$root" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 ||
        skip "$base_image can be neither pulled nor made: $(tail -1 "$work/debootstrap.log")"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    ln -s python3 "$root/usr/bin/python"
    tar -C "$root" -c . | docker import - "$base_image" >/dev/null
    rm -rf "$root"
    say "base  $base_image made by debootstrap"
}

command -v docker >/dev/null || skip "no container engine: docker is not installed"
work=$(mktemp -d /tmp/ctai-smoke.XXXXXX)
alone=ctai-smoke-alone-$$
trap clean_up EXIT
docker info >/dev/null 2>&1 || start_private_engine
"$python" -c 'import ctai_sam2, fastapi' || fail "$python lacks ctai_sam2 or its extra 'service'; name another by PYTHON"
docker compose version >/dev/null 2>&1 || fail "docker has no plugin 'compose' (version 2.24 or newer)"
docker buildx version >/dev/null 2>&1 || fail "docker has no plugin 'buildx'"
say "      engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short), private: $private"

SAM2_API_KEY=$("$python" -c 'import secrets; print(secrets.token_urlsafe(24))')
export SAM2_API_KEY CTAI_SAM2_TAG=smoke CTAI_SAM2_PUBLISH=127.0.0.1:$port COMPOSE_PROJECT_NAME=ctai-smoke-$$
files=(--env-file /dev/null -f docker-compose.yml)
[ -z "${CTAI_SAM2_CA_BUNDLE:-}" ] || files+=(-f docker/compose.ca.yml)
if [ "$private" = yes ] || [ "$(docker network ls --quiet --filter driver=bridge | wc -l)" = 0 ]; then
    # An engine without a bridge: the network of this machine, on loopback.
    cat >"$work/compose.host.yml" <<YAML
services:
  sam2:
    build: {network: host}
    network_mode: host
    ports: !reset []
    environment: {SAM2_HOST: 127.0.0.1, SAM2_PORT: $port}
YAML
    files+=(-f "$work/compose.host.yml")
fi
compose() { docker compose "${files[@]}" "$@"; }
is_up=yes

# --- the image ---
make_base_image
compose --progress plain build >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; fail "the image does not build"; }
image=ctai-sam2:smoke
say "image built, $(($(docker image inspect --format '{{.Size}}' $image) / 1000000)) MB"
check "user of the image" 10001:10001 "$(docker image inspect --format '{{.Config.User}}' $image)"
check "no key in the image" 0 "$(docker history --no-trunc $image | grep -c "$SAM2_API_KEY" || true)"
found=$(docker run --rm --network none $image serve 2>&1) && status=0 || status=$?
check "without a key it does not start" 2 "$status"
check "and says why" yes "$(grep -q SAM2_API_KEY <<<"$found" && echo yes)"

# --- from start to the first response ---
compose up --no-start >/dev/null 2>&1
started=$("$python" -c 'import time; print(time.time())')
compose start >/dev/null 2>&1
took_s=$(client wait --since "$started") || fail "it did not get ready"
say "ready $took_s s after the start"
compose up --detach --wait --wait-timeout $hang_s >/dev/null 2>&1 || fail "it did not become healthy"
check "health" healthy "$(inspect '{{.State.Health.Status}}')"

# --- the same masks as here ---
client compare --click-x 300 || fail "the masks differ from those of this machine"
passed=$((passed + 1))
check "without the key" 401 "$(client status-without-key)"
client original --patient SMOKE-PATIENT-1 >/dev/null || fail "the original system's request"
check "lines of the log with the patient" 0 "$(docker logs "$(container)" 2>&1 | grep -c SMOKE-PATIENT || true)"

# --- what holds it ---
check "memory limit" 4294967296 "$(inside sh -c 'cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes')"
check "process limit" 256 "$(inside sh -c 'cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max')"
check "processor limit" 2 "$(inside sh -c 'cat /sys/fs/cgroup/cpu.max 2>/dev/null ||
    echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us)' | awk '{ print $1 / $2 }')"
check "user" 10001 "$(inside id -u)"
check "capabilities" 0000000000000000 "$(inside awk '/^CapEff/ { print $2 }' /proc/1/status)"
check "no new privileges" 1 "$(inside awk '/^NoNewPrivs/ { print $2 }' /proc/1/status)"
check "program files are read-only" refused "$(inside sh -c 'touch /opt/venv/new 2>/dev/null && echo written || echo refused')"
check "the file system is read-only" ro "$(inside awk '$2 == "/" { split($4, o, ","); print o[1] }' /proc/mounts)"
for folder in /tmp /models /cache; do
    check "$folder takes files" yes "$(inside sh -c "touch $folder/smoke && echo yes")"
done

# --- killed, taken down, brought back ---
pid=$(inspect '{{.State.Pid}}')
if kill -9 "$pid" 2>/dev/null; then
    started=$("$python" -c 'import time; print(time.time())')
    took_s=$(client wait --since "$started") || fail "it did not come back after kill -9"
    check "restarts after kill -9" 1 "$(inspect '{{.RestartCount}}')"
    say "      ready again after $took_s s"
    client compare --click-x 301 || fail "the masks differ after a restart"
    passed=$((passed + 1))
else
    say "left out: kill -9, for which the engine's processes must be this machine's, and this root"
fi
compose down >/dev/null 2>&1
compose up --detach --wait --wait-timeout $hang_s >/dev/null 2>&1 || fail "it did not come up again"
check "volumes are kept over down and up" yes "$(inside sh -c 'test -e /models/smoke && test -e /cache/smoke && echo yes')"
check "predictions are kept over down and up" True "$(client cached)"
stopped=$(date +%s)
id=$(container)
compose stop >/dev/null 2>&1
check "ends in order on SIGTERM" 0 "$(docker inspect --format '{{.State.ExitCode}}' "$id")"
say "      stopped in $(($(date +%s) - stopped)) s"
compose down --volumes >/dev/null 2>&1

# --- without any network, with the weights inside ---
CTAI_SAM2_TARGET=baked CTAI_SAM2_TAG=smoke-baked compose --progress plain build >"$work/build.log" 2>&1 ||
    { tail -40 "$work/build.log" >&2; fail "the target 'baked' does not build"; }
docker run --detach --name "$alone" --network none --read-only --tmpfs /tmp --cap-drop ALL --env SAM2_API_KEY \
    --env SAM2_NUM_THREADS=2 ctai-sam2:smoke-baked >/dev/null
for _ in $(seq $((hang_s * 5))); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$alone")" != healthy ] || break
    sleep 0.2
done
check "health without a network, baked" healthy "$(docker inspect --format '{{.State.Health.Status}}' "$alone")"
check "interfaces other than loopback" 0 "$(docker exec "$alone" sh -c 'ls /sys/class/net' | grep -cv '^lo$' || true)"
client picture | docker exec --interactive "$alone" python -c "$(client script)" >"$work/response.json" ||
    fail "no response without a network"
client compare --response "$work/response.json" || fail "the masks differ without a network"
passed=$((passed + 1))

say "done"
echo "$passed passed, 0 failed"
