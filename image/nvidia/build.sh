#!/usr/bin/env bash
# Makes NVIDIA's open kernel modules for the pair of kernel and driver that image/locks/nvidia.lock names, in a root of its own with
# compiler and headers, which no image ever sees. Minutes; the result is kept below target/image/nvidia/KERNEL_DRIVER.
# usage: image/nvidia/build.sh [--again]   (prints the directory with the modules, unsigned: image/build.sh signs them)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${CARGO_TARGET_DIR:-$repo/target}/image/nvidia
locked() { sed -n "s/^$1=//p" "$repo/image/locks/nvidia.lock"; }
image=$(sed -n 's/^\(linux-image-[^=]*\)=.*/\1/p' "$repo/image/locks/nvidia.lock")
kernel=${image#linux-image-} kernel_package=$(locked "$image") driver=$(locked nvidia-open-kernel-dkms)
[ -n "$kernel" ] && [ -n "$kernel_package" ] && [ -n "$driver" ] || { echo "nvidia: image/locks/nvidia.lock must name linux-image-… and nvidia-open-kernel-dkms" >&2; exit 65; }
upstream=${driver%-*}
# A patch belongs to the driver; the key of what was made holds everything it was made from.
patches=("$repo/image/nvidia/patches/$upstream"-*.patch)
[ -e "${patches[0]}" ] || patches=()
made=$out/${kernel}_${driver}_$(cat "${patches[@]}" /dev/null | sha256sum | cut -c 1-8)
[ "${1:-}" != --again ] || rm -rf "$made"
if [ ! -s "$made/nvidia.ko" ]; then
  [ "$(id -u)" = 0 ] || exec sudo --preserve-env=CARGO_TARGET_DIR "$0" "$@"
  echo "nvidia: modules $driver for kernel $kernel (some minutes, 1 GB)" >&2
  root=$out/root
  if [ "$(cat "$root/kernel" 2>/dev/null)" != "$kernel" ]; then
    rm -rf --one-file-system "$root"
    mkdir -p "$out"
    mmdebstrap --quiet --variant=apt --components=main,contrib --include="gcc,make,kmod,patch,linux-headers-$kernel" trixie "$root" >&2
    echo "$kernel" >"$root/kernel"
  fi
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  rm -rf "$root/build"
  mkdir -p "$root/build/patches"
  [ ${#patches[@]} = 0 ] || cp "${patches[@]}" "$root/build/patches/"
  chroot "$root" env LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc '
    kernel=$1 kernel_package=$2 driver=$3
    found=$(dpkg-query -W -f "\${Version}" "linux-headers-$kernel")
    [ "$found" = "$kernel_package" ] || { echo "nvidia: the archive has headers $found, locked is $kernel_package" >&2; exit 65; }
    apt-get -qq update
    cd /build
    apt-get -qq -o APT::Sandbox::User=root download "nvidia-open-kernel-dkms=$driver" || { echo "nvidia: the archive has no nvidia-open-kernel-dkms $driver" >&2; exit 65; }
    dpkg-deb -x nvidia-open-kernel-dkms_*.deb source
    cd source/usr/src/*/
    for patch in /build/patches/*.patch; do [ -e "$patch" ] && patch --quiet -p1 <"$patch"; done
    # Video needs neither a screen nor the network cards'"'"' memory. A path in the module would differ from build to build.
    make -s -j"$(nproc)" modules KERNEL_UNAME="$kernel" NV_EXCLUDE_KERNEL_MODULES="nvidia-drm nvidia-modeset nvidia-peermem" \
      KBUILD_BUILD_TIMESTAMP="@0" KBUILD_BUILD_USER=millrace KBUILD_BUILD_HOST=millrace >/build/log 2>&1 || { tail -n 30 /build/log >&2; exit 70; }
    mkdir /build/made
    for module in nvidia nvidia-uvm; do strip --strip-debug -o /build/made/$module.ko $module.ko; done
    modinfo -F vermagic /build/made/nvidia.ko | grep -q "^$kernel "
  ' nvidia "$kernel" "$kernel_package" "$driver" >&2
  rm -rf "$made"
  mv "$root/build/made" "$made"
  rm -rf "$root/build"
fi
echo "$made"
