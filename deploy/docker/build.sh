#!/bin/sh
# Builds the images finial-server and finial-agent of this machine's architecture: compiles here, then packs.
#
#   build.sh             compile and build the images
#   build.sh --packed    build the images from what lies in target/image already
#
# DOCKER=podman builds with Podman. BASE_IMAGE names any image with a shell, for the packing only; nothing of it ends up in the images.
set -eu
docker=${DOCKER:-docker}
cd "$(dirname "$0")/../.."
packed=target/image
target=$(uname -m)-unknown-linux-gnu

if [ "${1:-}" != --packed ]; then
    # It gives each binary its software bill of materials, where scanners of images look for it.
    PATH=$PWD/target/tools/bin:$PATH
    command -v cargo-auditable >/dev/null || cargo install --quiet --locked --root target/tools cargo-auditable@0.7.7
    # `--target` keeps the flags away from build scripts and macros, which cannot be linked statically. Packed relative relocations take
    # half a megabyte off. Where the sources lie must not be in the binaries: the same sources make the same binaries anywhere.
    home=${CARGO_HOME:-$HOME/.cargo}
    export RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs --remap-path-prefix=$PWD=/finial --remap-path-prefix=${CARGO_TARGET_DIR:-target}=/finial/target --remap-path-prefix=$home=/cargo"
    export CFLAGS="-ffile-prefix-map=$home=/cargo"
    mkdir -p "$packed"
    for name in server agent; do
        cargo auditable build --locked --profile ship --target "$target" -p "finial-$name"
        cp "${CARGO_TARGET_DIR:-target}/$target/ship/finial-$name" "$packed/"
    done
    cp /etc/ssl/certs/ca-certificates.crt "$packed/"
fi

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for name in server agent; do
    "$docker" build -f deploy/docker/Dockerfile --target "$name" -t "finial-$name" \
        --build-arg BASE_IMAGE="${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}" \
        --build-arg PREBUILT="$packed" --build-arg REVISION="$revision" .
done
for name in server agent; do
    "$docker" image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' "finial-$name"
done
