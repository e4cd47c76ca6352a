#!/usr/bin/env bash
# Builds the three versions that `just image-test` needs, then runs it: one to begin with, one to update to, one whose
# node does not start. For `--long` or `--only arm64` also that of arm64.
# usage: image/test.sh [--built] [ARGUMENT of millrace-image-test]…
#   --built   take the images that the last run left
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
programs=${MILLRACE_IMAGE_PROGRAMS:-$target/release}
if [ "${1:-}" = --built ]; then
  shift
else
  if [ "$*" != "--only arm64" ]; then
    rm -rf "$target/image/test-images"
    "$repo/image/build.sh" x86,test 0.1.0
    "$repo/image/build.sh" x86,test 0.1.1
    "$repo/image/build.sh" x86,test,broken 0.1.2
  fi
  case " $* " in *" --long "* | *" --only arm64 "*) "$repo/image/build.sh" arm64,notpm,test 0.1.0 ;; esac
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --preserve-env=CARGO_TARGET_DIR)
exec "${as_root[@]}" "${MILLRACE_IMAGE_TEST:-$programs/millrace-image-test}" "$@"
