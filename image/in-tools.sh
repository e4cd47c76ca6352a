#!/usr/bin/env bash
# Runs a command inside the tool root: a small Debian 13 with everything that makes and tests images, so that the
# machine's own versions never matter. Made on the first call, below .tools/.
# usage: image/in-tools.sh COMMAND [ARGUMENT…]   (the checkout is /src there, target/image is /out)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$repo/.tools/image-root
out=${CARGO_TARGET_DIR:-$repo/target}/image
packages=$(sed 's/#.*//' "$repo/image/tools.packages" | paste -sd, - | tr -d ' ' | sed 's/,,*/,/g; s/^,//; s/,$//')

if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=CARGO_TARGET_DIR,SSL_CERT_FILE "$0" "$@"
fi
command -v mmdebstrap >/dev/null || { echo "image: mmdebstrap is missing (./setup.sh --image installs it)" >&2; exit 69; }

wanted=$(printf '%s' "$packages" | sha256sum)
if [ "$(cat "$root/tools.stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "image: making the tool root (about a minute, 500 MB)" >&2
  rm -rf --one-file-system "$root"
  mkdir -p "$(dirname "$root")"
  mmdebstrap --quiet --variant=apt --include="$packages" trixie "$root" >&2
  mkdir -p "$root/src" "$root/out" "$root/old"
  printf '%s' "$wanted" >"$root/tools.stamp"
fi
mkdir -p "$out"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"

# A root of its own, by pivot_root: image builders need user namespaces, which a plain chroot refuses.
exec unshare --mount --propagation private -- bash -euc '
  root=$1 repo=$2 out=$3; shift 3
  mount --bind "$root" "$root"
  mount --rbind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount --bind "$repo" "$root/src"
  mount --bind "$out" "$root/out"
  cd "$root"
  pivot_root . old
  cd /src/image
  umount -l /old
  export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
  exec "$@"
' in-tools "$root" "$repo" "$out" "$@"
