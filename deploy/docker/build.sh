#!/bin/sh
# Builds the images finial-server and finial-agent of this machine's architecture: compiles here, then packs.
#
#   build.sh             compile, write software bills of materials, build the images
#   build.sh --packed    build the images from what lies in target/image already
#
# BASE_IMAGE names any image with a shell, for the packing only; nothing of it ends up in the images. cargo-auditable puts the list of
# crates into the binaries, cargo-cyclonedx writes it to /opt/spire/sbom.cdx.json; either is used if installed.
set -eu
cd "$(dirname "$0")/../.."
out=target/image
target=$(uname -m)-unknown-linux-gnu

if [ "${1:-}" != --packed ]; then
    cargo=cargo
    if command -v cargo-auditable >/dev/null; then cargo="cargo auditable"; fi
    # `--target` keeps the flags away from build scripts and macros, which cannot be linked statically. Relative relocations in the
    # packed form take half a megabyte off.
    export RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
    mkdir -p "$out"
    for name in server agent; do
        $cargo build --locked --profile ship --target "$target" -p "finial-$name"
        cp "${CARGO_TARGET_DIR:-target}/$target/ship/finial-$name" "$out/"
        if command -v cargo-cyclonedx >/dev/null; then
            cargo cyclonedx --quiet --format json --target "$target" --override-filename sbom \
                --manifest-path "crates/finial-$name/Cargo.toml"
            mv "crates/finial-$name/sbom.json" "$out/sbom-$name.json"
            # It writes one beside every crate of the workspace.
            find crates tests -name sbom.json -exec rm {} +
        fi
    done
    cp /etc/ssl/certs/ca-certificates.crt "$out/"
fi

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for name in server agent; do
    docker build -f deploy/docker/Dockerfile --target "$name" -t "finial-$name" \
        --build-arg BASE_IMAGE="${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}" \
        --build-arg PREBUILT="$out" --build-arg REVISION="$revision" .
done
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' finial-server
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' finial-agent
