#!/usr/bin/env bash
# Writes an image to a device and reads it back.
# usage: image/flash.sh PROFILE DEVICE [--internal] [--yes]
#   PROFILE      as built by `just image PROFILE`, installer and factory among them, or the path of a .raw file
#   DEVICE       the whole device, such as /dev/sdX
#   --internal   also a device that cannot be pulled out
#   --yes        do not ask
# Refuses a device that is mounted, in use, holds the running system, is too small or a partition only.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${CARGO_TARGET_DIR:-$repo/target}/image
usage() { sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
refuse() { echo "flash: $*" >&2; exit 77; }
internal=false yes=false names=()
for argument in "$@"; do
  case $argument in
    --internal) internal=true ;;
    --yes) yes=true ;;
    -*) usage ;;
    *) names+=("$argument") ;;
  esac
done
[ ${#names[@]} = 2 ] || usage
profile=${names[0]} device=${names[1]}

if [ -f "$profile" ]; then image=$profile; else
  case $profile in *,test*) folder=$out/test-images ;; x86) folder=$out/mkosi ;;
    installer | factory) folder=$out/mkosi-$profile-x86 ;; *) folder=$out/mkosi-${profile//,/-} ;; esac
  image=$(find "$folder" -maxdepth 1 -name 'millrace*_*.raw' ! -name '*.esp.raw' ! -name '*.root-*' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
  [ -n "$image" ] || { echo "flash: no image of $profile: just image $profile" >&2; exit 66; }
fi
size=$(stat -L -c %s "$image")

# --- is it the right device? ------------------------------------------------------------------------------------------
[ -e "$device" ] || { echo "flash: $device is not there" >&2; exit 66; }
device=$(readlink -f "$device")
[ -b "$device" ] || refuse "$device is not a block device"
name=$(basename "$device")
sys=$(readlink -f "/sys/class/block/$name")
[ ! -e "$sys/partition" ] || refuse "$device is a partition: give the whole device"
root=$(readlink -f "$(findmnt -no SOURCE / | sed 's/\[.*//')" || true)
busy=$(lsblk -nro NAME,MOUNTPOINT "$device" | awk '$2 != "" { print "/dev/" $1 " on " $2 }')
while read -r part; do
  [ "/dev/$part" != "$root" ] || refuse "$device holds the running system"
  [ -z "$(ls -A "/sys/class/block/$part/holders" 2>/dev/null)" ] || refuse "/dev/$part is in use by $(ls "/sys/class/block/$part/holders")"
  ! grep -q "^/dev/$part " /proc/swaps || refuse "/dev/$part is swap in use"
done < <(lsblk -nro NAME "$device")
[ -z "$busy" ] || refuse "mounted: $busy"
[ "$(cat "$sys/ro")" = 0 ] || refuse "$device is read-only"
capacity=$(($(cat "$sys/size") * 512))
# Two slots, the boot partition and room for state: see image/README.md.
needed=$((${MILLRACE_FLASH_NEEDED_GIB:-14} << 30))
# A medium that installs is only itself.
case ${image##*/} in millrace-installer_* | millrace-factory_*) needed=$size ;; esac
[ "$capacity" -ge "$needed" ] || refuse "$device has $((capacity >> 20)) MiB, a box needs $((needed >> 20))"
[ "$capacity" -ge "$size" ] || refuse "$device is smaller than the image"
if [ "$(cat "$sys/removable")" = 0 ] && ! readlink -f "$sys" | grep -q /usb && ! $internal; then
  refuse "$device cannot be pulled out: is it this machine's own disk? If it is the right one, say --internal"
fi

printf 'flash: %s (%s MiB)\n    -> %s  %s  %s MiB\n' "$image" $((size >> 20)) "$device" \
  "$(lsblk -dno VENDOR,MODEL,SERIAL "$device" | tr -s ' ')" $((capacity >> 20))
if ! $yes; then
  read -r -p "Everything on it is lost. Type the device's name ($name) to go on: " answer
  [ "$answer" = "$name" ] || refuse "not confirmed"
fi

# --- write, then read back from the device itself -------------------------------------------------------------------
# What was on it before must not be found by a system that looks for our partitions' names.
wipefs --all --quiet "$device"
blkdiscard --force "$device" 2>/dev/null || true
dd if="$image" of="$device" bs=4M iflag=fullblock conv=fsync status=progress
blockdev --flushbufs "$device"
wanted=$(sha256sum <"$image")
found=$(head -c "$size" < <(dd if="$device" bs=4M iflag=direct status=none 2>/dev/null || dd if="$device" bs=4M status=none) | sha256sum)
[ "$wanted" = "$found" ] || { echo "flash: $device does not hold what was written: it is faulty" >&2; exit 74; }
# The second partition table belongs at the end of this device, not of the image.
command -v sfdisk >/dev/null && sfdisk --quiet --relocate gpt-bak-std "$device" 2>/dev/null || true
sync
echo "flash: written and read back; sha256 ${wanted%% *}"
