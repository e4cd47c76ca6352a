#!/usr/bin/env bash
# The programs for arm64 are built, ask of the system only what the image has, and run: here by emulation, program by program;
# in a whole machine by `millrace-image-test --only arm64`.
# usage: tests/image/cross.sh   (as long as a release build when nothing is built yet; needs what `just image` needs)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)
folder=$("$repo/image/cross.sh")
in_root() { "$repo/image/cross.sh" run "$@"; }
fail() { echo "cross-test: $*" >&2; exit 1; }

# Debian 13 has 2.41. What an older root would have to have is said.
newest=$(in_root sh -euc 'for program in /build/programs/*; do aarch64-linux-gnu-objdump -T "$program"; done' |
  grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
[ "$(printf '%s\nGLIBC_2.41\n' "$newest" | sort -V | tail -n 1)" = GLIBC_2.41 ] || fail "a program wants $newest"
echo "cross-test: $(ls "$folder" | wc -l) programs, the newest symbol they want is of $newest"

for program in "$folder"/*; do
  name=$(basename "$program")
  [ "$(od -An -v -tx1 -j18 -N2 "$program" | tr -d ' ')" = b700 ] || fail "$name is not for arm64"
  libraries=$(in_root aarch64-linux-gnu-objdump -p "/build/programs/$name" | awk '$1 == "NEEDED" { print $2 }' | paste -sd' ')
  # A worker has no arguments: it is started by the node alone, and says so.
  case $name in
    millrace-worker) said=$(in_root qemu-aarch64-static "/build/programs/$name" --help 2>&1 || true) ;;
    *) said=$(in_root qemu-aarch64-static "/build/programs/$name" --version 2>&1) || fail "$name does not run: $said"
       grep -qF "$version" <<<"$said" || fail "$name says: $said" ;;
  esac
  [ -n "$said" ] && ! grep -q "Exec format\|cannot open shared\|Illegal instruction" <<<"$said" || fail "$name says: ${said:-nothing}"
  echo "cross-test: $name: $(head -n 1 <<<"$said" | cut -c1-80) ($libraries)"
done
echo "cross-test: passed"
