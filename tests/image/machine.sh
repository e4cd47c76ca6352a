# An emulated machine for the scripts beside this one, which source it: UEFI with Secure Boot, a software TPM, a serial line that is
# kept. Set before: `name` (of the test), `work` (an empty directory below target/image), `here` (the same as the tool root knows it).
# Never KVM, and no decision by time: `limit` is how long a machine may take that has much else to do.
# shellcheck shell=bash
limit=${MILLRACE_IMAGE_TEST_LIMIT:-1200}
pids=() machine=
tools() { "$repo/image/in-tools.sh" "$@"; }
off() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait "${pids[@]}" 2>/dev/null || true; pids=(); }
trap off EXIT
fault() { echo "$name: $*" >&2; tail -n 25 "$work/serial.log" 2>/dev/null | tr -d '\r' >&2; exit 1; }
good() { echo "$name: $*"; }
new_machine() { tools cp /usr/share/OVMF/OVMF_VARS_4M.fd "$here/vars.fd"; rm -rf "$work/tpm"; mkdir -p "$work/tpm"; }

# on ARGUMENT…: switch it on; arguments are qemu's. The serial line is also a socket, serial.sock, for those who type.
# The kernel's check of the timer takes a busy emulator for broken hardware: it is left out here, by the firmware's tables.
on() {
  : >"$work/serial.log"
  rm -f "$work/tpm.sock" "$work/serial.sock"
  # Not by a function: it must be these that are ended, not a shell above them.
  "$repo/image/in-tools.sh" swtpm socket --tpm2 --terminate --tpmstate "dir=$here/tpm" --ctrl "type=unixio,path=$here/tpm.sock" &
  pids+=($!)
  until [ -S "$work/tpm.sock" ]; do sleep 0.1; done
  "$repo/image/in-tools.sh" qemu-system-x86_64 -machine q35,smm=on -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -no-user-config -nodefaults \
    -display none -vga std -monitor none -global driver=cfi.pflash01,property=secure,value=on \
    -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd \
    -drive "if=pflash,format=raw,unit=1,file=$here/vars.fd" \
    -chardev "socket,id=tpm,path=$here/tpm.sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0 \
    -device i6300esb -device virtio-rng-pci -netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net \
    -smbios type=11,value=io.systemd.stub.kernel-cmdline-extra=no_timer_check \
    -smbios type=1,serial=BOX-0042,uuid=5a6f1c1e-2f0b-4a53-9d0e-6b1c3f7a9e02 \
    -chardev "socket,id=serial,path=$here/serial.sock,server=on,wait=off,logfile=$here/serial.log" -serial chardev:serial "$@" &
  machine=$!
  pids+=("$machine")
}
said() { grep -aq "$1" "$work/serial.log"; }
wait_for() { # wait_for TEXT [OTHER]: on the serial line; OTHER is how it says that TEXT will not come
  local until=$((SECONDS + limit))
  until said "$1"; do
    kill -0 "$machine" 2>/dev/null || { said "$1" && return; fault "the machine went off before '$1'"; }
    [ -z "${2:-}" ] || ! said "$2" || fault "it would not"
    [ $SECONDS -lt $until ] || fault "no '$1' within $limit s"
    sleep 1
  done
}
wait_off() {
  local until=$((SECONDS + limit))
  while kill -0 "$machine" 2>/dev/null; do [ $SECONDS -lt $until ] || fault "still on after $limit s"; sleep 1; done
  off
}
