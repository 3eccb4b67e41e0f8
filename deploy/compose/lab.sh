#!/bin/sh
# Brings the lab up and shows the proof.
#
#   lab.sh up               start (images are built if they are missing), wait for the first answer, then show the proof
#   lab.sh proof            show the proof again
#   lab.sh traffic MINUTES  watch agent_a's calls that long: none may fail, and identities must rotate
#   lab.sh restarts         restart workloads, agent and server in turn; each time all must heal without a hand
#   lab.sh healed           wait until agent_a is answered again
#   lab.sh down             stop, and keep what is stored; `lab.sh clean` forgets it too
#
# With the agent's access to Docker through a socket proxy, and on Podman:
#   COMPOSE_FILE=docker-compose.yaml:socket-proxy.yaml lab.sh up
#   DOCKER_HOST=unix:///run/podman/podman.sock COMPOSE_FILE=docker-compose.yaml:podman.yaml lab.sh up
set -eu
cd "$(dirname "$0")"
socket=--socket=/run/spire/agent/public/api.sock

step() {
    printf '\n== %s\n' "$1"
}

ask() {
    docker compose exec -T agent-a python mtls_client.py "$socket" --target=agent-b:8443 --message="$@"
}

# Judges the calls that agent_a made since a moment, or `--answered`: only tells whether there is one.
judge() {
    since=$1
    shift
    docker compose --ansi never logs --no-log-prefix --since "$since" agent-a | docker compose exec -T agent-b python traffic.py "$@"
}

answered() {
    tries=60
    until judge "$1" --answered 2>/dev/null; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            docker compose ps --all
            docker compose logs --tail=20 server agent agent-a agent-b
            echo "lab.sh: no answer within a minute; the logs above say why" >&2
            exit 1
        fi
        sleep 1
    done
}

proof() {
    step "agent_a asks agent_b, each known to the other by SPIFFE ID"
    ask proof --expect=spiffe://example.org/agent_b
    step "the same, with agent_b known by the DNS name of its entry"
    ask proof --expect=spiffe://example.org/agent_b --dns=agent-b
    step "agent_b must not be taken for somebody else"
    ask proof --expect=spiffe://example.org/somebody --refused
    step "a container without an entry is refused"
    docker compose run --rm -T stranger
    step "and the agent explains why"
    stranger=$(docker compose run --rm -d --entrypoint sleep stranger 600)
    docker compose exec -T agent finial-agent explain -container "$stranger"
    docker rm -f "$stranger" >/dev/null
    step "agent_a's identity rotates"
    docker compose exec -T agent-a python x509_watch.py "$socket" --rotations=1 --expect-id=spiffe://example.org/agent_a
}

healed() {
    # What was answered earlier in this very second does not count.
    since=$(($(date +%s) + 1))
    answered "$since"
    echo "healed in $(($(date +%s) - since)) s"
}

restarts() {
    for service in agent-a agent-b agent server; do
        step "restarting $service"
        docker compose restart "$service"
        healed
    done
}

case ${1:-up} in
    up)
        # The workloads of this very checkout; server and agent are built only if there are none.
        docker compose build --quiet pki
        since=$(date +%s)
        docker compose up -d
        step "waiting for the first answer"
        answered "$since"
        echo "first answer after $(($(date +%s) - since)) s"
        proof
        step "took $(($(date +%s) - since)) s"
        ;;
    proof) proof ;;
    traffic)
        since=$(date +%s)
        sleep "$((${2:-5} * 60))"
        judge "$since" --rotations="${2:-5}"
        ;;
    restarts) restarts ;;
    healed) healed ;;
    down) docker compose --profile proof down ;;
    clean) docker compose --profile proof down --volumes ;;
    *)
        echo "usage: $0 [up|proof|traffic MINUTES|restarts|healed|down|clean]" >&2
        exit 64
        ;;
esac
