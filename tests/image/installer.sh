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
work=$out/installer-test
here=/out/installer-test
limit=${MILLRACE_IMAGE_TEST_LIMIT:-900} # seconds for whatever a machine is waited for, busy or not
pids=()
off() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait "${pids[@]}" 2>/dev/null || true; pids=(); }
trap off EXIT
tools() { "$repo/image/in-tools.sh" "$@"; }
fault() { echo "installer-test: $*" >&2; tail -n 25 "$work/serial.log" 2>/dev/null | tr -d '\r' >&2; exit 1; }
good() { echo "installer-test: $*"; }
rm -rf "$work"
mkdir -p "$work/tpm"

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

# The kernel's check of the timer takes a busy emulator for broken hardware: it is left out here, by the firmware's tables.
on() { # on STICK? DISK…: switch a machine on; its disks are inside, the stick is on USB
  local with_stick=$1 arguments=() name
  shift
  : >"$work/serial.log"
  "$repo/image/in-tools.sh" swtpm socket --tpm2 --terminate --tpmstate dir=$here/tpm --ctrl type=unixio,path=$here/tpm.sock &
  pids+=($!)
  until [ -S "$work/tpm.sock" ]; do sleep 0.1; done
  $with_stick && arguments+=(-device qemu-xhci -drive "if=none,id=stick,format=raw,file=$here/stick.raw"
    -device usb-storage,drive=stick,removable=on,serial=STICK,bootindex=0)
  for name in "$@"; do
    arguments+=(-drive "if=none,id=$name,format=raw,file=$here/$name.raw,discard=unmap" -device "virtio-blk-pci,drive=$name,serial=$name")
  done
  "$repo/image/in-tools.sh" qemu-system-x86_64 -machine q35,smm=on -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -no-user-config -nodefaults -display none -vga std \
    -monitor none -no-reboot -global driver=cfi.pflash01,property=secure,value=on \
    -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd \
    -drive if=pflash,format=raw,unit=1,file=$here/vars.fd \
    -chardev socket,id=tpm,path=$here/tpm.sock -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0 \
    -device i6300esb -device virtio-rng-pci -netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net \
    -smbios type=11,value=io.systemd.stub.kernel-cmdline-extra=no_timer_check \
    -smbios type=1,serial=BOX-0042,uuid=5a6f1c1e-2f0b-4a53-9d0e-6b1c3f7a9e02 \
    -serial "file:$here/serial.log" "${arguments[@]}" &
  pids+=($!)
  machine=$!
}
wait_for() { # wait_for TEXT: on the serial line
  local until=$((SECONDS + limit))
  until grep -aq "$1" "$work/serial.log"; do
    kill -0 "$machine" 2>/dev/null || { grep -aq "$1" "$work/serial.log" && return; fault "the machine went off before '$1'"; }
    [[ $1 == *NOT* ]] || ! grep -aq "^NOT INSTALLED\|^FAILED:" "$work/serial.log" || fault "it would not"
    [ $SECONDS -lt $until ] || fault "no '$1' within $limit s"
    sleep 1
  done
}
wait_off() {
  local until=$((SECONDS + limit))
  while kill -0 "$machine" 2>/dev/null; do [ $SECONDS -lt $until ] || fault "still on after $limit s"; sleep 1; done
  off
}
enrol() { # The first start of a machine in setup mode takes the keys and starts again (-no-reboot: ends).
  tools cp /usr/share/OVMF/OVMF_VARS_4M.fd $here/vars.fd
  disk nothing 64M
  on true nothing
  wait_off
  good "a machine in setup mode took the medium's keys"
}

medium "$([[ ${cases[*]} == *factory* ]] && echo factory || echo installer)"
enrol
for case in "${cases[@]}"; do
  case $case in
    several)
      medium installer; disk inner 15G; disk other 15G
      on true inner other
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
      on true inner small
      wait_for "NOT INSTALLED: vda is not empty"
      off
      [ "$before" = "$(sha256sum <"$work/inner.raw")" ] || fault "the other system's disk was written"
      grep -aq "Somebody else" "$work/serial.log" || fault "it does not say what is on the disk"
      good "a disk with another system: refused, named, not written" ;;
    foreign)
      # The packed image is not the one that the signed kernel image names.
      medium installer; disk inner 15G
      printf 'x' | tools dd of=$here/stick.raw bs=1 seek=$((${stick##*@@} + 300 * 1048576)) conv=notrunc status=none
      on true inner
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
      on_medium install.txt $'erase=yes\r\ncountdown=5\r\n'
      on true inner small
      wait_for "INSTALLED: Millrace $version"
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
        jq -e '.passed and .serial == "BOX-0042" and (.checks | length > 6)' "$work/report.json" >/dev/null || fault "the factory's report: $(cat "$work/report.json")"
        good "the hardware test passed: $(jq -r '[.checks[].name] | join(", ")' "$work/report.json")"
      fi
      cp "$work/inner.raw" "$work/installed.raw" --sparse=always
      on false inner
      wait_for "Started .*millrace-screen"
      good "the box starts from its own disk and shows its status page"
      off ;;
    again)
      # The medium was left in and the machine starts from it once more.
      disk inner 15G
      on true inner
      wait_for "NOT INSTALLED: this box was installed from this medium already"
      off; untouched inner
      good "the same medium again: refused" ;;
    *) echo "installer-test: there is no case $case" >&2; exit 64 ;;
  esac
done
