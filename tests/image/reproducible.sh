#!/usr/bin/env bash
# Builds an image twice and says what differs: the root must not, but for files that hold the time of a signature.
# usage: tests/image/reproducible.sh [PROFILE]   (minutes; needs what `just image` needs)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
profile=${1:-x86}
target=${CARGO_TARGET_DIR:-$repo/target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)
folder=$target/image/mkosi
case $profile in *,test*) folder=$target/image/test-images ;; *,*) folder=$target/image/mkosi-${profile//,/-} ;; esac
work=$target/image/reproducible
rm -rf "$work"
for build in first second; do
  mkdir -p "$work/$build"
  "$repo/image/build.sh" "$profile" "$version"
  "$repo/image/in-tools.sh" sh -euc "fsck.erofs --extract=/out/reproducible/$build/root --overwrite \$(ls /out${folder#"$target/image"}/*_$version.root-* | grep -v verity)" >/dev/null
  (cd "$work/$build/root" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/$build/files"
  (cd "$work/$build/root" && find . -printf '%p %M %U %G %l\n' | sort) >"$work/$build/modes"
  sha256sum "$folder"/*_"$version".root-* "$folder/millrace_$version.efi" | sed 's|/.*/||' >"$work/$build/artifacts"
  rm -rf "$work/$build/root"
done
diff "$work/first/modes" "$work/second/modes" || { echo "reproducible: names, modes, owners or links differ" >&2; exit 1; }
differing=$(diff "$work/first/files" "$work/second/files" | sed -n 's/^> [0-9a-f]*  //p' || true)
for file in $differing; do
  case $file in
    # An Authenticode signature holds the time it was made.
    */systemd-boot/efi/*.efi.signed | */vmlinuz*) echo "reproducible: $file differs by its signature's time" ;;
    *) echo "reproducible: $file differs, for no known reason" >&2; exit 1 ;;
  esac
done
[ -n "$differing" ] || diff "$work/first/artifacts" "$work/second/artifacts" | sed 's/^/reproducible: /' || true
echo "reproducible: $(wc -l <"$work/first/files") files, $(wc -w <<<"$differing") of them differ"
