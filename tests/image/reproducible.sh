#!/usr/bin/env bash
# Builds an image twice from nothing, in two directories, and compares bit for bit: root, hash tree, and every part of the kernel image.
# usage: tests/image/reproducible.sh [PROFILE [DIRECTORY]]   (many minutes; needs what `just image` needs, 6 GB)
#   DIRECTORY   where an image lies that was built before, with SOURCE_DATE_EPOCH as now: it is compared with one built now
# What two builds share: the keys with the loader once signed, the programs, and the archive's packages. What differs and is meant to:
# signatures around the kernel image and the kernel in it, which hold the time they were made, and the times of the microcode's files;
# so kernel images are compared part by part, without these.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
profile=${1:-x86}
target=${CARGO_TARGET_DIR:-$repo/target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)
export MILLRACE_IMAGE_PROGRAMS=${MILLRACE_IMAGE_PROGRAMS:-$target/release}
export MILLRACE_IMAGE_KEYS=${MILLRACE_IMAGE_KEYS:-$target/image/keys}
[ -s "$MILLRACE_IMAGE_KEYS/secure-boot.key" ] || "$repo/image/keys.sh" "$MILLRACE_IMAGE_KEYS"
# A commit that comes in between is no difference of the builds.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
case $profile in *,test*) folder=test-images ;; x86) folder=mkosi ;; *) folder=mkosi-${profile//,/-} ;; esac
work=$target/reproducible
rm -rf --one-file-system "$work"
contents() { # contents PLACE FOLDER LIST: what is in PLACE/image/FOLDER, part by part
  CARGO_TARGET_DIR=$1 "$repo/image/in-tools.sh" sh -euc "fsck.erofs --extract=/out/root --overwrite \$(ls /out/$2/*_$version.root-* | grep -v verity) >/dev/null
    python3 - /out/$2/millrace*_$version.efi >/out/parts" <<'PARTS'
import hashlib, pefile, sys

def unsigned(data):
    """A kernel without the signature around it, which holds its time."""
    kernel = pefile.PE(data=data, fast_load=True)
    entry = kernel.OPTIONAL_HEADER.DATA_DIRECTORY[4]
    end = entry.VirtualAddress or len(data)
    data = bytearray(data[:end])
    checksum = kernel.OPTIONAL_HEADER.get_file_offset() + 64
    for at, length in [(checksum, 4), (entry.get_file_offset(), 8)]:
        data[at:at + length] = bytes(length)
    return bytes(data)

def timeless(data):
    """An archive of microcode without the numbers and times of its files, which mkosi leaves as they were made."""
    data, at = bytearray(data), 0
    while data[at:at + 6] == b"070701":
        size, name = (int(data[at + 6 + 8 * field:at + 14 + 8 * field], 16) for field in (6, 11))
        for field in (0, 5, 7, 8):
            data[at + 6 + 8 * field:at + 14 + 8 * field] = b"0" * 8
        at = -(-(-(-(at + 110 + name) // 4) * 4 + size) // 4) * 4
    return bytes(data)

for section in pefile.PE(sys.argv[1]).sections:
    name = section.Name.rstrip(b"\0").decode()
    # Signs the measurements of the others, their signatures and times included.
    if name == ".pcrsig":
        continue
    data = section.get_data()[:section.Misc_VirtualSize]
    data = {".linux": unsigned, ".ucode": timeless}.get(name, lambda data: data)(data)
    print(hashlib.sha256(data).hexdigest(), name)
PARTS
  (cd "$1/image/root" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$3.files"
  (cd "$1/image/root" && find . -printf '%p %M %U %G %T@ %l\n' | LC_ALL=C sort) >"$3.modes"
  (cd "$1/image/$2" && sha256sum ./*_"$version".root-*) >"$3.partitions"
  mv "$1/image/parts" "$3.parts"
  rm -rf --one-file-system "$1/image/root"
}
builds=(first somewhere/else/second)
if [ -n "${2:-}" ]; then
  mkdir -p "$work/first/image/given"
  cp --reflink=auto "$2"/*_"$version".root-* "$2"/millrace*_"$version".efi "$work/first/image/given/"
  contents "$work/first" given "$work/first"
  builds=(somewhere/else/second)
fi
for build in "${builds[@]}"; do
  place=$work/$build
  mkdir -p "$place/image"
  [ ! -d "$target/image/packages" ] || cp -al "$target/image/packages" "$place/image/packages"
  CARGO_TARGET_DIR=$place "$repo/image/build.sh" "$profile" "$version"
  contents "$place" "$folder" "$work/${build##*/}"
  rm -rf --one-file-system "$place"
done
cd "$work"
bad=0
for part in modes files partitions parts; do
  if cmp -s first.$part second.$part; then
    echo "reproducible: $part: $(wc -l <first.$part), all equal"
  else
    bad=1
    echo "reproducible: $part DIFFER:" >&2
    diff first.$part second.$part | head -n 20 >&2 || true
  fi
done
[ -s first.parts ] && [ -s first.partitions ] || { echo "reproducible: nothing was compared" >&2; exit 70; }
exit $bad
