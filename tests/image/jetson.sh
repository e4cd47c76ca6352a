#!/usr/bin/env bash
# image/vendor/l4t.sh takes the board's packages only when they are what was locked, and takes of them only what a root of
# ours has a place for. The packages here are made up: they hold nothing of NVIDIA's.
# usage: tests/image/jetson.sh [--build LINUX_IMAGE_DEB]
#   --build   then builds `jetson,notpm,test` 0.1.0 from packages around this kernel of Debian's for arm64 (a quarter of an hour; what
#             `just image arm64` needs), for `millrace-image-test --only jetson`: the way from packages to a running system
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
command -v dpkg-deb >/dev/null || { echo "jetson-test: skipped: no dpkg-deb here" >&2; exit 0; }
kernel_deb=
case ${1:-} in --build) kernel_deb=$(realpath "${2:?which package?}") ;; "") ;; *) sed -n '4,6s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64 ;; esac
target=${CARGO_TARGET_DIR:-$repo/target}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MILLRACE_VENDOR=$work/vendor CARGO_TARGET_DIR=$work/target
l4t=$MILLRACE_VENDOR/l4t kernel=6.8.12-made-up
fail() { echo "jetson-test: $*: $(cat "$work/said" 2>/dev/null)" >&2; exit 1; }

package() { # package NAME FILE… [ARCHITECTURE in $arch]
  local name=$1 file
  shift
  rm -rf "$work/package"
  mkdir -p "$work/package/DEBIAN"
  printf 'Package: %s\nVersion: 39.2.0\nArchitecture: %s\nMaintainer: nobody <nobody@example.org>\nDescription: made up for a test\n' \
    "$name" "${arch:-arm64}" >"$work/package/DEBIAN/control"
  for file; do
    mkdir -p "$work/package/$(dirname "$file")"
    echo "$file of $name" >"$work/package/$file"
  done
  dpkg-deb --build --root-owner-group "$work/package" "$l4t/${name}_39.2.0_arm64.deb" >/dev/null
}
packages() {
  rm -rf "$MILLRACE_VENDOR"
  mkdir -p "$l4t"
  package nvidia-l4t-core etc/nv_tegra_release usr/share/doc/nvidia-l4t-core/copyright usr/lib/aarch64-linux-gnu/nvidia/libnvos.so
  # As older releases have it: beside /usr, not in it.
  package nvidia-l4t-kernel boot/Image lib/modules/$kernel/kernel/fs/ext4/ext4.ko
  package nvidia-l4t-kernel-oot-modules lib/modules/$kernel/updates/nvgpu.ko
  package nvidia-l4t-firmware lib/firmware/nvidia/ga10b.bin
  package nvidia-l4t-tools usr/sbin/nvbootctrl usr/sbin/nvpmodel
  package nvidia-l4t-multimedia usr/lib/aarch64-linux-gnu/libv4l/plugins/nv/libv4l2_nvvideocodec.so
  package nvidia-l4t-gstreamer usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvvideo4linux2.so
  package nvidia-l4t-init etc/systemd/system/nv.service etc/shadow usr/lib/systemd/system/getty@ttyGS0.service etc/udev/rules.d/99-tegra-devices.rules
}
vendor() { "$repo/image/vendor/l4t.sh" "$@" >"$work/said" 2>&1; }
refused() { # refused WORDS STATUS ARGUMENT…: it says so, and nothing was laid out
  local words=$1 wanted=$2 status=0
  shift 2
  rm -rf "$work/tree"
  vendor "$@" || status=$?
  [ $status = "$wanted" ] || fail "exit $status instead of $wanted for: $words"
  grep -qF -- "$words" "$work/said" || fail "wanted '$words', got"
  [ ! -e "$work/tree" ] || fail "something was laid out although: $words"
  echo "jetson-test: refused: $(tail -n 1 "$work/said" | sed "s|$work|…|g" | cut -c1-120)"
}

# Absent, and said at once: before anything is compiled, fetched or signed.
status=0
"$repo/image/build.sh" jetson,notpm 9.9.9 >"$work/said" 2>&1 || status=$?
[ $status = 66 ] && grep -q "image/vendor/README.md" "$work/said" && grep -q "l4t.sh lock" "$work/said" || fail "absent packages: exit $status"
[ ! -e "$work/target/image/tree" ] && [ ! -e "$work/target/cross" ] || fail "work was done before it was refused"
refused "put the L4T packages" 66 lock

packages
refused "is not locked" 66 unpack "$work/tree"
vendor lock || fail "cannot be locked"
vendor check || fail "what was locked is refused"
vendor unpack "$work/tree" || fail "what was locked cannot be laid out"

# What is there, and what is not.
has() { [ -s "$work/tree/$1" ] || fail "$1 was not taken"; }
has_not() { [ ! -e "$work/tree/$1" ] || fail "$1 was taken"; }
for file in usr/lib/modules/$kernel/vmlinuz usr/lib/modules/$kernel/updates/nvgpu.ko usr/lib/firmware/nvidia/ga10b.bin usr/sbin/nvbootctrl \
  usr/lib/aarch64-linux-gnu/libv4l/plugins/nv/libv4l2_nvvideocodec.so usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvvideo4linux2.so \
  usr/lib/aarch64-linux-gnu/nvidia/libnvos.so etc/udev/rules.d/99-tegra-devices.rules etc/nv_tegra_release \
  usr/share/millrace/licences/nvidia-l4t-core/copyright; do has "$file"; done
for file in etc/systemd etc/shadow usr/lib/systemd usr/sbin/nvpmodel lib boot usr/share/doc; do has_not "$file"; done
[ "$(cat "$work/tree/usr/lib/modules/$kernel/vmlinuz")" = "boot/Image of nvidia-l4t-kernel" ] || fail "the kernel is another file"
echo "jetson-test: laid out: $(cat "$work/said")"

echo "more" >>"$l4t/nvidia-l4t-tools_39.2.0_arm64.deb"
refused "nvidia-l4t-tools_39.2.0_arm64.deb is not the file that was locked" 65 unpack "$work/tree"
packages && vendor lock && package nvidia-l4t-camera usr/sbin/nvargus
refused "nvidia-l4t-camera_39.2.0_arm64.deb is not in" 65 unpack "$work/tree"
packages && vendor lock && rm "$l4t"/nvidia-l4t-init_*
refused "nvidia-l4t-init_39.2.0_arm64.deb is in" 65 unpack "$work/tree"
packages && rm "$l4t"/nvidia-l4t-gstreamer_* && vendor lock
refused "nvidia-l4t-gstreamer is missing" 66 unpack "$work/tree"
packages && arch=amd64 package nvidia-l4t-3d-core usr/lib/x && vendor lock
refused "is for amd64, not for arm64" 66 unpack "$work/tree"
packages && package nvidia-l4t-kernel-other lib/modules/5.15.1-other/x.ko && vendor lock
refused "modules of not one kernel" 65 unpack "$work/tree"
packages && vendor lock && echo "$(printf '0%.0s' {1..64})  ../../etc/shadow.deb" >>"$MILLRACE_VENDOR/l4t.lock"
refused "not a line of a checksum and a name" 65 unpack "$work/tree"

# Nothing of theirs can get into our sources by a careless commit.
if git -C "$repo" rev-parse --git-dir >/dev/null 2>&1; then
  git -C "$repo" check-ignore -q image/vendor/l4t/nvidia-l4t-core_1_arm64.deb || fail "git does not ignore the packages"
  [ -z "$(git -C "$repo" ls-files 'image/vendor/*.deb')" ] || fail "a package is in the repository"
fi

# The board's own unit is as confined as ours are.
unit=$repo/image/mkosi.profiles/jetson/tree/usr/lib/systemd/system/millrace-bless-jetson.service
if command -v systemd-analyze >/dev/null; then
  report=$(systemd-analyze security --offline=yes --threshold=30 --no-pager "$unit" 2>/dev/null) || fail "the unit is too exposed: ${report##*for }"
  echo "jetson-test: ${report##*for }" | tr -s ' '
fi
echo "jetson-test: passed"

[ -n "$kernel_deb" ] || exit 0
packages
rm "$l4t"/nvidia-l4t-kernel_* "$l4t"/nvidia-l4t-kernel-oot-modules_* "$l4t"/nvidia-l4t-tools_*
rm -rf "$work/kernel" && mkdir "$work/kernel"
dpkg-deb --extract "$kernel_deb" "$work/kernel"
kernel=$(ls "$work/kernel/usr/lib/modules")
made() { # made NAME: the package of what lies in $work/made
  mkdir -p "$work/made/DEBIAN"
  printf 'Package: %s\nVersion: 39.2.0\nArchitecture: arm64\nMaintainer: nobody <nobody@example.org>\nDescription: made up for a test\n' \
    "$1" >"$work/made/DEBIAN/control"
  dpkg-deb --build --root-owner-group -Znone "$work/made" "$l4t/$1_39.2.0_arm64.deb" >/dev/null
  rm -rf "$work/made"
}
mkdir -p "$work/made/boot" "$work/made/lib/modules/"
cp "$work/kernel/boot/vmlinuz-$kernel" "$work/made/boot/Image"
cp -r "$work/kernel/usr/lib/modules/$kernel" "$work/made/lib/modules/"
made nvidia-l4t-kernel
mkdir -p "$work/made/lib/modules/$kernel/updates"
cp "$(find "$work/kernel" -name 'dummy.ko*' | head -n 1)" "$work/made/lib/modules/$kernel/updates/"
made nvidia-l4t-kernel-oot-modules
mkdir -p "$work/made/usr/sbin"
printf '#!/bin/sh\necho "made-up nvbootctrl: $*"\n' >"$work/made/usr/sbin/nvbootctrl"
chmod 0755 "$work/made/usr/sbin/nvbootctrl"
made nvidia-l4t-tools
vendor lock
CARGO_TARGET_DIR=$target "$repo/image/build.sh" jetson,notpm,test 0.1.0
