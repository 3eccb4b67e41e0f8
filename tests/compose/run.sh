#!/bin/bash
# What scripts around SPIRE's images do: bring up, bootstrap, wait for words in logs, register, fetch, evict. Works on a copy of its
# folder, for it writes into conf/. Which images: SERVER_IMAGE and AGENT_IMAGE.
set -eu -o pipefail
folder=$(mktemp -d)
cp -R "$(dirname "$0")"/. "$folder"
cd "$folder"
chmod -R a+rX .
trap 'docker compose down --volumes >/dev/null 2>&1; rm -rf "$folder"' EXIT

server() {
    docker compose exec -T spire-server /opt/spire/bin/spire-server "$@"
}

fail() {
    echo "run.sh: $*" >&2
    docker compose logs --tail=40 >&2
    exit 1
}

# Waits until a service's log has a line with all of these words.
wait_for_line() {
    local service=$1
    shift
    for _ in $(seq 60); do
        lines=$(docker compose logs "$service" 2>/dev/null)
        for word in "$@"; do
            lines=$(grep -F -- "$word" <<<"$lines") || lines=
        done
        [ -n "$lines" ] && return
        sleep 0.5
    done
    fail "$service has not logged: $*"
}

docker compose up -d spire-server
wait_for_line spire-server "Starting Server APIs" network=tcp
wait_for_line spire-server "Starting Server APIs" network=unix
for _ in $(seq 30); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$(docker compose ps -q spire-server)")
    [ "$health" = healthy ] && break
    sleep 0.5
done
[ "$health" = healthy ] || fail "the server is $health"

server bundle show >conf/agent/bootstrap.crt
openssl x509 -in conf/agent/bootstrap.crt -noout -text | grep "URI:spiffe://example.org"
token=$(server token generate -spiffeID spiffe://example.org/node | awk '{print $2}' | tr -d '\r')
sed -i "s#TOKEN#$token#g" conf/agent/agent.conf
docker compose up -d spire-agent
wait_for_line spire-agent "Node attestation was successful"

server entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org/workload -selector unix:uid:1001 \
    -x509SVIDTTL 0 -jwtSVIDTTL 0
server entry create -node -parentID spiffe://example.org/spire/server -spiffeID spiffe://example.org/alias -selector "spiffe_id:spiffe://example.org/spire/agent/join_token/$token"
server entry show -parentID spiffe://example.org/spire/server
wait_for_line spire-agent spiffe://example.org/workload
docker compose exec -T -u 1001 spire-agent /opt/spire/bin/spire-agent api fetch x509 -socketPath /opt/spire/sockets/workload_api.sock |
    grep "SPIFFE ID:.*spiffe://example.org/workload"
if docker compose exec -T -u 1002 spire-agent /opt/spire/bin/spire-agent api fetch x509 -socketPath /opt/spire/sockets/workload_api.sock 2>refusal; then
    fail "user 1002 has an identity"
fi
grep "rpc error: code = PermissionDenied desc = no identity issued" refusal
docker compose exec -T spire-agent /opt/spire/bin/spire-agent healthcheck -socketPath /opt/spire/sockets/workload_api.sock

agent=$(server agent list -output json | tr -d ' \n' | grep -o '"path":"/spire/agent/[^"]*"' | cut -d '"' -f 4)
server agent ban -spiffeID "spiffe://example.org$agent"
wait_for_line spire-agent "Agent is banned: removing SVID and shutting down"
wait_for_line spire-agent "failed to fetch authorized entries:"
server agent evict -spiffeID "spiffe://example.org$agent"
wait_for_line spire-server "Agent deleted"
docker compose up -d spire-agent
wait_for_line spire-agent "failed to attest: join token does not exist or has already been used"

docker compose up -d spire-server-root
wait_for_line spire-server-root "Starting Server APIs" network=unix
echo "all as expected"
