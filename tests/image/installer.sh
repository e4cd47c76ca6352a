#!/usr/bin/env bash
# The installer's medium in an emulated machine with Secure Boot: it writes the one disk that is meant and no other, the box
# then starts from that disk, and a medium that was changed writes nothing. Minutes; run by `just image-test-long`.
# usage: tests/image/installer.sh [PROFILE] [VERSION] [CASE…]   (the medium must be built: image/build.sh installer,x86,test)
#   CASE   several occupied install again foreign factory; all but factory unless named
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "installer-test: needs root" >&2; exit 77; }
profile=${1:-x86,test}
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
shift $(($# < 2 ? $# : 2))
cases=("$@")
[ $# -gt 0 ] || cases=(several occupied install again foreign)
out=${CARGO_TARGET_DIR:-$repo/target}/image
name=installer-test
work=$out/installer-test
here=/out/installer-test
rm -rf "$work"
mkdir -p "$work"
. "$repo/tests/image/machine.sh"

medium() { # medium FORM: a fresh one
  local image=$out/mkosi-$1-${profile//,/-}/millrace-${1}_$version.raw
  [ -s "$image" ] || { echo "installer-test: $image is not there: image/build.sh $1,$profile $version" >&2; exit 66; }
  cp --sparse=always "$image" "$work/stick.raw"
  # Where its second partition begins, for mtools.
  stick=$here/stick.raw@@$(tools sfdisk --json $here/stick.raw | jq '.partitiontable.partitions[1].start * 512')
}
on_medium() { printf '%s' "$2" >"$work/file" && tools mcopy -o -i "$stick" "$here/file" "::/$1"; }
from_medium() { tools sh -c "mtype -i '$stick' '::/$1' 2>/dev/null" || true; }
disk() { rm -f "$work/$1.raw" && truncate -s "$2" "$work/$1.raw"; }
untouched() { [ "$(stat -c %b "$work/$1.raw")" = 0 ] || fault "$1 was written"; }

start() { # start STICK? DISK…: a machine with these disks inside, the stick on USB; it ends instead of starting again
  local with_stick=$1 arguments=(-no-reboot) disk
  shift
  $with_stick && arguments+=(-device qemu-xhci -drive "if=none,id=stick,format=raw,file=$here/stick.raw"
    -device usb-storage,drive=stick,removable=on,serial=STICK,bootindex=0)
  for disk in "$@"; do
    arguments+=(-drive "if=none,id=$disk,format=raw,file=$here/$disk.raw,discard=unmap" -device "virtio-blk-pci,drive=$disk,serial=$disk")
  done
  on "${arguments[@]}"
}
enrol() { # The first start of a machine in setup mode takes the keys and starts again (-no-reboot: ends).
  new_machine
  disk nothing 64M
  start true nothing
  wait_off
  good "a machine in setup mode took the medium's keys"
}

medium "$([[ ${cases[*]} == *factory* ]] && echo factory || echo installer)"
enrol
for case in "${cases[@]}"; do
  case $case in
    several)
      medium installer; disk inner 15G; disk other 15G
      start true inner other
      wait_for "NOT INSTALLED: several disks will do"
      grep -aq "disk=SERIAL" "$work/serial.log" || fault "it does not say what to do"
      off; untouched inner; untouched other
      from_medium boxes/BOX-0042.refused.txt | grep -q "several disks" || fault "the medium does not tell either"
      good "two empty disks: refused, nothing written, told on screen and medium" ;;
    occupied)
      medium installer; disk inner 15G; disk small 2G
      echo 'label: gpt
        size=100M, name="EFI system partition", type=U
        name="Somebody else"' | tools sfdisk --quiet $here/inner.raw
      before=$(sha256sum <"$work/inner.raw")
      start true inner small
      wait_for "NOT INSTALLED: vda is not empty"
      off
      [ "$before" = "$(sha256sum <"$work/inner.raw")" ] || fault "the other system's disk was written"
      grep -aq "Somebody else" "$work/serial.log" || fault "it does not say what is on the disk"
      good "a disk with another system: refused, named, not written" ;;
    foreign)
      # The packed image is not the one that the signed kernel image names.
      medium installer; disk inner 15G
      printf 'x' | tools dd of=$here/stick.raw bs=1 seek=$((${stick##*@@} + 300 * 1048576)) conv=notrunc status=none
      start true inner
      wait_for "NOT INSTALLED: .* is not the one that belongs to this installer"
      off; untouched inner
      good "a changed packed image: refused before anything was erased" ;;
    install | factory)
      form=installer; [ $case = install ] || form=factory
      medium $form; disk inner 15G; disk small 2G
      on_medium provision.json '{"a site file": "its signature is checked by the box"}'
      # Remains of another system at the end of the disk, which must not be found again; so it must be told to erase.
      echo 'label: gpt
        name="Somebody else"' | tools sfdisk --quiet $here/inner.raw
      # An emulated disk is as slow as the machine below it is busy.
      [ $case = install ] || on_medium limits.txt "$(tools mtype -i "$stick" ::/limits.txt | tr -d '\r' | sed 's/^write_mib_s=.*/write_mib_s=1/')"
      on_medium install.txt $'erase=yes\r\ncountdown=5\r\n'
      start true inner small
      wait_for "INSTALLED: Millrace $version" "NOT INSTALLED:\|FAILED: "
      wait_off
      untouched small
      tools sfdisk --json $here/inner.raw | jq -e '[.partitiontable.partitions[].name] | length == 3 and (map(contains("Somebody")) | any | not)' >/dev/null ||
        fault "the disk's table is not the image's"
      from_medium boxes/BOX-0042.txt | grep -q "^INSTALLED" || fault "no report on the medium"
      [ -z "$(from_medium provision.json)" ] || fault "the site file is still on the medium"
      esp=$here/inner.raw@@$(tools sfdisk --json $here/inner.raw | jq '.partitiontable.partitions[0].start * 512')
      tools mtype -i "$esp" ::/MILLRACE/provision.json | grep -q "a site file" || fault "the site file is not on the new disk"
      good "installed, read back, site file moved, reported, off"
      if [ $case = factory ]; then
        from_medium boxes/BOX-0042.json >"$work/report.json"
        jq -e '.passed and .serial == "BOX-0042" and ([.checks[].name] | length == 9 and contains(["encoder", "tpm"]))' "$work/report.json" >/dev/null || fault "the factory's report: $(cat "$work/report.json")"
        good "the hardware test passed: $(jq -r '[.checks[].name] | join(", ")' "$work/report.json")"
      fi
      cp "$work/inner.raw" "$work/installed.raw" --sparse=always
      start false inner
      wait_for "Started .*millrace-screen"
      good "the box starts from its own disk and shows its status page"
      off ;;
    again)
      # The medium was left in and the machine starts from it once more.
      disk inner 15G
      start true inner
      wait_for "NOT INSTALLED: this box was installed from this medium already"
      off; untouched inner
      good "the same medium again: refused" ;;
    *) echo "installer-test: there is no case $case" >&2; exit 64 ;;
  esac
done
