#!/usr/bin/env bash
# systemd's own opinion of our units: they parse, and their exposure stays under the bound each has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v systemd-analyze >/dev/null; then
  echo "units: systemd-analyze is not installed (./setup.sh installs it)" >&2
  exit 1
fi

fail=0
# Bounds are ten times the score. The node's is higher than the signer's for the reasons its unit lists:
# it jails its workers itself, which takes namespaces, mounts and cgroups.
bound() {
  case $1 in
    millrace-signer.service) echo 5 ;;
    millrace-fleet.service) echo 15 ;;
    millrace-node.service) echo 27 ;;
    *) echo "units: no bound for $1: choose one" >&2; return 1 ;;
  esac
}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
for unit in systemd/*.service systemd/*.slice; do
  name=$(basename "$unit")
  # The programs are installed by the image, and DelegateSubgroup= is newer than Debian 12's systemd.
  complaints=$(systemd-analyze verify --man=no "./$unit" 2>&1 | grep -F "$name" |
    grep -vE 'is not executable|DelegateSubgroup|Unit millrace-.*not found' || true)
  if [ -n "$complaints" ]; then
    echo "$complaints" >&2
    fail=1
  fi
  case $name in *.service) ;; *) continue ;; esac
  limit=$(bound "$name")
  if report=$(systemd-analyze security --offline=yes --threshold="$limit" --no-pager "./$unit" 2>/dev/null); then
    echo "units: ${report##*for }" | tr -s ' ' | head -n 1
  else
    echo "units: $name is more exposed than its bound of $limit: ${report##*for }" >&2
    fail=1
  fi
done
exit "$fail"
