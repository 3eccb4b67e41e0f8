#!/bin/sh
# Brings the lab up and shows the proof.
#
#   lab.sh up      build, start, wait until everything is healthy, then show the proof
#   lab.sh proof   show the proof again
#   lab.sh down    stop, and keep what is stored; `lab.sh clean` forgets it too
set -eu
cd "$(dirname "$0")"
socket=--socket=/run/spire/agent/public/api.sock

step() {
    printf '\n== %s\n' "$1"
}

proof() {
    step "agent_a asks agent_b, each known to the other by SPIFFE ID"
    docker compose exec -T agent-a python mtls_client.py "$socket" --target=agent-b:8443 \
        --expect=spiffe://example.org/agent_b --message=proof
    step "the same, with agent_b known by the DNS name of its entry"
    docker compose exec -T agent-a python mtls_client.py "$socket" --target=agent-b:8443 \
        --expect=spiffe://example.org/agent_b --dns=agent-b --message=proof
    step "agent_b must not be taken for somebody else"
    docker compose exec -T agent-a python mtls_client.py "$socket" --target=agent-b:8443 \
        --expect=spiffe://example.org/somebody --message=proof --refused
    step "a container without an entry is refused"
    docker compose run --rm -T stranger
    step "agent_a's identity rotates under traffic"
    docker compose exec -T agent-a python x509_watch.py "$socket" --rotations=1 --expect-id=spiffe://example.org/agent_a
}

case ${1:-up} in
    up)
        docker compose up -d --build
        step "waiting for the first answer"
        tries=60
        until docker compose logs --no-log-prefix agent-a 2>/dev/null | grep -q "successfully received and validated"; do
            tries=$((tries - 1))
            if [ "$tries" -eq 0 ]; then
                docker compose ps --all
                docker compose logs --tail=20 server agent agent-a agent-b
                echo "lab.sh: no answer within two minutes; the logs above say why" >&2
                exit 1
            fi
            sleep 2
        done
        proof
        ;;
    proof) proof ;;
    down) docker compose --profile proof down ;;
    clean) docker compose --profile proof down --volumes ;;
    *)
        echo "usage: $0 [up|proof|down|clean]" >&2
        exit 64
        ;;
esac
