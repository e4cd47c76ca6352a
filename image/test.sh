#!/usr/bin/env bash
# Builds the three versions that `just image-test` needs, then runs it: one to begin with, one to update to, one whose
# node does not start. For `--long` or `--only arm64` also that of arm64.
# usage: image/test.sh [--ci] [--built] [ARGUMENT of millrace-image-test]…
#   --ci      for a machine that may not be able to: says `skipped: …` and succeeds then; fails after 40 minutes (a free machine of two cores takes 15)
#   --built   take the images that the last run left
set -euo pipefail
if [ "${1:-}" = --ci ]; then
  shift
  why=
  [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || why="not root, and sudo asks for a password"
  [ -n "$why" ] || $([ "$(id -u)" = 0 ] || echo sudo) unshare --mount true 2>/dev/null || why="mount namespaces are not allowed here"
  [ -n "$why" ] || command -v mmdebstrap >/dev/null || why="mmdebstrap is missing (./setup.sh --image)"
  [ -n "$why" ] || command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || why="mosquitto is missing (./setup.sh)"
  [ -n "$why" ] || [ "$(df --output=avail -BG . | tail -n 1 | tr -dc 0-9)" -ge 12 ] || why="less than 12 GB of disk are free"
  [ -n "$why" ] || [ "$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 4 ] || why="less than 4 GB of memory are free"
  [ -z "$why" ] || { echo "image-test: skipped: $why"; exit 0; }
  status=0
  timeout --kill-after=30s 40m "$0" "$@" || status=$?
  [ "$status" != 124 ] || echo "image-test: not done within 40 minutes" >&2
  exit "$status"
fi
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
# What is made on the way goes when the test ends, however it ends.
export TMPDIR=$target/image/test/tmp
mkdir -p "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --preserve-env=CARGO_TARGET_DIR,TMPDIR)
"${as_root[@]}" "${MILLRACE_IMAGE_TEST:-$programs/millrace-image-test}" "$@" &
trap 'kill -TERM $! 2>/dev/null; wait $!' INT TERM HUP
wait $!
