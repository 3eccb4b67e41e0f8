#!/bin/sh
# Builds the images finial-server and finial-agent of this machine's architecture: compiles here, then packs.
#
#   build.sh             compile and build the images
#   build.sh --packed    build the images from what lies in target/image already
#
# BASE_IMAGE names any image with a shell, for the packing only; nothing of it ends up in the images. With cargo-auditable
# (`cargo install cargo-auditable`) the binaries carry their software bill of materials.
set -eu
cd "$(dirname "$0")/../.."
packed=target/image
target=$(uname -m)-unknown-linux-gnu

if [ "${1:-}" != --packed ]; then
    cargo=cargo
    if command -v cargo-auditable >/dev/null; then cargo="cargo auditable"; fi
    # `--target` keeps the flags away from build scripts and macros, which cannot be linked statically. Packed relative relocations take
    # half a megabyte off.
    export RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
    mkdir -p "$packed"
    for name in server agent; do
        $cargo build --locked --profile ship --target "$target" -p "finial-$name"
        cp "${CARGO_TARGET_DIR:-target}/$target/ship/finial-$name" "$packed/"
    done
    cp /etc/ssl/certs/ca-certificates.crt "$packed/"
fi

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for name in server agent; do
    docker build -f deploy/docker/Dockerfile --target "$name" -t "finial-$name" \
        --build-arg BASE_IMAGE="${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}" \
        --build-arg PREBUILT="$packed" --build-arg REVISION="$revision" .
done
for name in server agent; do
    docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' "finial-$name"
done
