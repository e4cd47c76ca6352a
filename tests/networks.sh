#!/usr/bin/env bash
# systemd-networkd's own opinion of the networks that site files become (firmware/update/networks): it reads each of them
# in a network of its own, beside the image's, and must find nothing to complain about.
# usage: tests/networks.sh [NETWORKD]   (default: the tool root's where it is, else this machine's)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${MILLRACE_NETWORKS_INSIDE:-}" ]; then
  # It gives up root by itself, for which it must have it.
  [ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
  if ! unshare --mount --net --pid --fork true 2>/dev/null; then
    echo "networks: skipped: this machine allows no network namespaces"
    exit 0
  fi
  MILLRACE_NETWORKS_INSIDE=1 exec unshare --mount --net --pid --fork -- "$0" "$@"
fi
networkd=${1:-/usr/lib/systemd/systemd-networkd}
[ -x "$networkd" ] || { echo "networks: $networkd is missing (./setup.sh installs it)" >&2; exit 1; }
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network
fail=0
# said NETWORK: what networkd says of the files in /run/systemd/network
said() {
  SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console timeout --preserve-status 2 "$networkd" 2>&1 || true
}
complaints() { grep -E '/run/systemd/network/.*(:[0-9]+:|[Ii]gnoring|[Ii]nvalid|[Ff]ailed|[Uu]nknown)' || true; }

# That it complains at all is part of the test.
printf '[Match]\nName=eth0\n\n[Network]\nAddress=nonsense\n' >/run/systemd/network/10-site.network
told=$(said | complaints)
[ -n "$told" ] || { echo "networks: networkd does not say that nonsense is nonsense" >&2; exit 1; }
for golden in firmware/update/networks/*.txt; do
  rm -f /run/systemd/network/*
  cp systemd/network/*.network /run/systemd/network/
  awk '/^# [0-9a-z.-]+$/ { file = "/run/systemd/network/" $2; next } { print >file }' "$golden"
  for file in /run/systemd/network/10-*; do [ -s "$file" ] || { echo "networks: $golden has no files in it" >&2; exit 1; }; done
  told=$(said | complaints)
  if [ -n "$told" ]; then
    printf 'networks: %s\n%s\n' "$golden" "$told" >&2
    fail=1
  else
    echo "networks: $(basename "$golden" .txt): nothing to complain about"
  fi
done
exit "$fail"
