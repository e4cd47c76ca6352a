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
    millrace-fleet.service | millrace-enrol.service) echo 15 ;;
    millrace-node.service) echo 27 ;;
    # Reads the running slot, which takes a device; talks to release servers.
    millrace-update-stage.service) echo 20 ;;
    # Root, for block devices and the partition table; no network.
    millrace-update-install.service) echo 30 ;;
    millrace-health.service | millrace-trial-failed.service | millrace-trial-deadline.service) echo 20 ;;
    millrace-provision.service | millrace-site.service | millrace-keys.service) echo 25 ;;
    millrace-update-outcome.service | millrace-screen.service) echo 20 ;;
    # Overwrites keys of every account and the header of /var; no network.
    millrace-decommission.service) echo 25 ;;
    # Writes a key slot of /var, which takes the device and the kernel's ciphers; no network.
    millrace-recovery.service) echo 30 ;;
    # Writes below /sys, where lights are.
    millrace-light.service) echo 20 ;;
    # Speaks to the radio itself: raw packets, and the right to configure networks.
    millrace-wifi.service) echo 22 ;;
    millrace-firewall.service | millrace-service-port.service) echo 20 ;;
    *) echo "units: no bound for $1: choose one" >&2; return 1 ;;
  esac
}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
for unit in systemd/*.service systemd/*.slice systemd/*.timer systemd/*.path systemd/*.mount; do
  name=$(basename "$unit")
  # The programs are installed by the image; DelegateSubgroup= and ImportCredential= are newer than Debian 12's systemd.
  complaints=$(systemd-analyze verify --man=no "./$unit" 2>&1 | grep -F "$name" |
    grep -vE 'is not executable|DelegateSubgroup|ImportCredential|Unit millrace-.*not found' || true)
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
