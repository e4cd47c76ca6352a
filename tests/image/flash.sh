#!/usr/bin/env bash
# image/flash.sh writes and verifies the right device, and touches no wrong one. Needs root and loop devices.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "flash-test: needs root" >&2; exit 77; }
work=$(mktemp -d)
loops=()
cleanup() {
  umount "$work/mnt" 2>/dev/null || true
  for loop in "${loops[@]}"; do losetup -d "$loop" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
device() { # device SIZE: a loop device over a new file
  truncate -s "$1" "$work/$1.img"
  loop=$(losetup -f --show "$work/$1.img") || { echo "flash-test: skipped: no loop devices here" >&2; exit 0; }
  loops+=("$loop")
}
head -c 8M /dev/urandom >"$work/image.raw"
flash() { MILLRACE_FLASH_NEEDED_GIB=1 "$repo/image/flash.sh" "$work/image.raw" "$@" >"$work/said" 2>&1 </dev/null; }
refused() { # refused WORDS ARGUMENT…
  local words=$1; shift
  if flash "$@"; then echo "flash-test: written, although: $words" >&2; exit 1; fi
  grep -q "$words" "$work/said" || { echo "flash-test: wanted '$words', got: $(cat "$work/said")" >&2; exit 1; }
  echo "flash-test: refused: $(tail -n 1 "$work/said")"
}
device 2G; good=$loop
device 512M; small=$loop
refused "not a block device" "$work/image.raw" --yes
refused "is not there" "$work/nothing" --yes
refused "cannot be pulled out" "$good" --yes
refused "a box needs" "$small" --internal --yes
refused "" "$good" --internal # nobody answers the question
[ -z "$(head -c 8M "$good" | tr -d '\0' | head -c 1)" ] || { echo "flash-test: an unconfirmed device was written" >&2; exit 1; }
mkfs.ext4 -q "$good" && mkdir "$work/mnt" && mount "$good" "$work/mnt"
refused "mounted" "$good" --internal --yes
umount "$work/mnt"
flash "$good" --internal --yes || { cat "$work/said" >&2; exit 1; }
cmp <(head -c 8M "$good") "$work/image.raw"
[ -z "$(blkid -p -o value -s TYPE "$good" || true)" ] || { echo "flash-test: what was there before is still found" >&2; exit 1; }
echo "flash-test: written, read back, equal"
