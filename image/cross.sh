#!/usr/bin/env bash
# Builds the image's programs for arm64 on this machine, whatever it is: in the cross root, a small Debian 13 below
# .tools/ with the compilers and the libraries of arm64, so that what is linked is what the image has.
# usage: image/cross.sh                           prints the directory they are in: target/cross/programs
#        image/cross.sh run COMMAND [ARGUMENT…]   in the cross root (the checkout is /src there, the build's directory /build)
# Crates are fetched by this machine's cargo, compiled by the root's: Debian's Rust, from trixie-backports.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$repo/.tools/cross-root
build=${CARGO_TARGET_DIR:-$repo/target}/cross
triple=aarch64-unknown-linux-gnu
programs=(millrace millrace-node millrace-worker millrace-signer millrace-fleet millrace-update)

if [ "${1:-}" != run ]; then
  [ $# = 0 ] || { sed -n '4,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
  mkdir -p "$build"
  # Here and not inside: this cargo knows the machine's way to the registry.
  (cd "$repo" && cargo fetch --locked --target $triple) >&2
  "$0" run cargo build --release --locked --offline --target $triple "${programs[@]/#/--bin=}" >&2
  "$0" run sh -euc 'mkdir -p /build/programs
    for program; do aarch64-linux-gnu-strip --strip-debug -o "/build/programs/$program" "/build/'$triple'/release/$program"; done' sh "${programs[@]}"
  echo "$build/programs"
  exit
fi

if [ "$(id -u)" != 0 ]; then
  export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
  exec sudo --preserve-env=CARGO_TARGET_DIR,CARGO_HOME,SSL_CERT_FILE "$0" "$@"
fi
shift
command -v mmdebstrap >/dev/null || { echo "image: mmdebstrap is missing (./setup.sh --image installs it)" >&2; exit 69; }
wanted=$(sha256sum <"$repo/image/cross.packages")
if [ "$(cat "$root/cross.stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "image: making the cross root (a minute or two, 2 GB)" >&2
  rm -rf --one-file-system "$root"
  mkdir -p "$(dirname "$root")"
  list() { sed 's/#.*//' "$repo/image/cross.packages" | sed -n "$1" | paste -sd' '; }
  mmdebstrap --quiet --variant=apt --architectures=amd64,arm64 --include="$(list '/^-t/d; /./p')" \
    --customize-hook='sed -n "s/ trixie main/ trixie-backports main/p" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/backports.list"' \
    --customize-hook='chroot "$1" apt-get update -qq' \
    --customize-hook="chroot \"\$1\" apt-get install -qq -y --no-install-recommends -t trixie-backports $(list 's/^-t trixie-backports //p')" \
    trixie "$root" >&2
  mkdir -p "$root/src" "$root/build" "$root/cargo/registry"
  printf '%s' "$wanted" >"$root/cross.stamp"
fi
registry=${CARGO_HOME:-$HOME/.cargo}/registry
mkdir -p "$build" "$registry"

# What is built belongs to who asked for it, also by way of sudo.
as_caller=()
[ -z "${SUDO_UID:-}" ] || as_caller=(setpriv --reuid "$SUDO_UID" --regid "$SUDO_GID" --clear-groups)
exec unshare --mount --propagation private -- bash -euc '
  root=$1 repo=$2 build=$3 registry=$4; shift 4
  mount --rbind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount --bind "$repo" "$root/src"
  mount --bind "$build" "$root/build"
  mount --bind "$registry" "$root/cargo/registry"
  exec chroot "$root" env -i "$@"
' cross "$root" "$repo" "$build" "$registry" \
  PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp CARGO_HOME=/cargo CARGO_TARGET_DIR=/build \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
  PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig \
  "${as_caller[@]}" sh -euc 'cd /src && exec "$@"' sh "$@"
