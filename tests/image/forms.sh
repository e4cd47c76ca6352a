#!/usr/bin/env bash
# Forms of the image that `just image-test` does not start: `nvidia` (a machine without a card: are its modules trusted, does it stay
# honest?) and `dev` (does it say what it is, is there its shell?). Minutes; run by `just image-test-long`.
# usage: tests/image/forms.sh nvidia|dev [VERSION]   (built before: image/build.sh x86-nvidia,test or x86,dev)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "forms-test: needs root" >&2; exit 77; }
form=${1:?usage: tests/image/forms.sh nvidia|dev [VERSION]}
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
out=${CARGO_TARGET_DIR:-$repo/target}/image
name=forms-test work=$out/forms-test-$form here=/out/forms-test-$form
rm -rf "$work"
mkdir -p "$work"
. "$repo/tests/image/machine.sh"
case $form in
  nvidia) image=test-images/millrace_$version.raw ;;
  dev) image=mkosi-x86-dev/millrace-dev_$version.raw ;;
  *) echo "forms-test: there is no form $form" >&2; exit 64 ;;
esac
[ -s "$out/$image" ] || { echo "forms-test: $out/$image is not there" >&2; exit 66; }
tools qemu-img create -q -f qcow2 -b "/out/$image" -F raw $here/disk.qcow2 14G
new_machine
disk=(-drive "if=none,id=disk,file=$here/disk.qcow2,format=qcow2,discard=unmap" -device virtio-blk-pci,drive=disk)

if [ "$form" = dev ]; then
  mkdir "$work/product"
  openssl req -new -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Millrace Secure Boot" -keyout "$work/product/secure-boot.key" \
    -out "$work/product/secure-boot.crt" 2>/dev/null
  status=0
  MILLRACE_IMAGE_KEYS=$work/product "$repo/image/build.sh" x86,dev "$version" 2>"$work/refused" || status=$?
  [ $status = 77 ] && grep -q "signed with test keys only" "$work/refused" || fault "a product's key signs what has a door: $(cat "$work/refused")"
  good "a product's key does not sign it"
  on "${disk[@]}"
  wait_for "DEVELOPMENT IMAGE"
  good "the serial line says what this is before anything can be typed"
  # Typed as a person would; the answer is in capitals, so that it is no echo of the question.
  typed() { printf '%s\n' "$1" | tools socat -t 2 - "UNIX-CONNECT:$here/serial.sock" >/dev/null; }
  until said "IT IS 0 MILLRACE-DEV X86"; do
    kill -0 "$machine" 2>/dev/null || fault "it went off"
    [ $SECONDS -lt "$limit" ] || fault "nobody answers on the serial line"
    typed '. /etc/os-release; echo "it is $(id -u) $IMAGE_ID $VARIANT_ID" | tr a-z A-Z'
    sleep 5
  done
  good "a root shell, image id millrace-dev"
  off
  exit
fi

on "${disk[@]}" -device virtio-serial-pci -device virtserialport,chardev=hands,name=millrace.test \
  -chardev "socket,id=hands,server=on,wait=off,path=$here/hands.sock"
wait_for "Started .*millrace-screen"
# The test's hands: a line with a number and a script, answered by number, status and output (image/mkosi.profiles/test).
cat >"$work/ask.py" <<'ASK'
import base64, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
line.settimeout(float(sys.argv[2]))
line.sendall(b"7 " + base64.b64encode(sys.stdin.buffer.read()) + b"\n")
for answer in line.makefile("r"):
    part = answer.split()
    if part[:1] == ["7"]:
        sys.stdout.write(base64.b64decode(part[2] if len(part) > 2 else "").decode())
        sys.exit(int(part[1]))
ASK
ask() { tools python3 $here/ask.py $here/hands.sock "$limit"; }
modules=$(ask <<'SCRIPT'
cd /usr/lib/modules/*/updates && ls && for one in nvidia nvidia-uvm; do modinfo -F signer $one; modinfo -F version $one; done
SCRIPT
) || fault "no modules: $modules"
# modinfo names who certified the key that signed.
grep -q "Millrace Secure Boot" <<<"$modules" || fault "the modules are not signed: $modules"
good "modules, signed: $(paste -sd' ' <<<"$modules")"
lockdown=$(ask <<<'cat /sys/kernel/security/lockdown')
grep -q '\[integrity\]\|\[confidentiality\]' <<<"$lockdown" || fault "the kernel takes unsigned modules: $lockdown"
# A module whose signature is believed asks for its card; one whose signature is not is never asked.
loading=$(ask <<<'modprobe nvidia 2>&1' || true)
grep -q "No such device" <<<"$loading" || fault "loading nvidia: $loading"
good "the kernel ($lockdown) believes the signature: $loading"
loading=$(ask <<'SCRIPT' || true
cp /usr/lib/modules/*/updates/nvidia-uvm.ko /run/changed.ko && printf x | dd of=/run/changed.ko bs=1 seek=4096 conv=notrunc 2>/dev/null
insmod /run/changed.ko 2>&1
SCRIPT
)
grep -qi "rejected\|required key\|bad message\|operation not permitted" <<<"$loading" || fault "a changed module: $loading"
good "a changed module is refused: $loading"
failed=$(ask <<<'systemctl --failed --plain --no-legend; systemctl is-active millrace-nvidia.service' || true)
[ "$failed" = inactive ] || fault "units: $failed"
good "no card: millrace-nvidia.service stays out of it, no unit failed"
seen=$(ask <<<'ldconfig -p 2>/dev/null | grep -c "libcuda.so.1\|libnvidia-encode.so.1"; ls -L /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/x86_64-linux-gnu/libnvidia-encode.so.1 /usr/lib/firmware/nvidia/*/gsp_tu10x.bin; millrace hw 2>&1' || true)
grep -q "nvidia  *refused.*no NVIDIA card" <<<"$seen" || fault "millrace hw: $seen"
grep -q "gsp_tu10x.bin" <<<"$seen" && ! grep -q "cannot access" <<<"$seen" || fault "libraries or firmware are missing: $seen"
good "libraries and firmware are there; millrace hw: $(grep -m 1 "nvidia  *refused" <<<"$seen")"
