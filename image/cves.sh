#!/usr/bin/env bash
# Holds a bill of materials against Debian's security tracker: which known flaws are open in an image.
# usage: image/cves.sh SBOM.cdx.json TRACKER.json
#   TRACKER.json  https://security-tracker.debian.org/tracker/data/json, downloaded by you: the build downloads nothing
# Prints CVE, package, version, urgency and where it is fixed; exit 1 when one is open that Debian has fixed for this release.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# = 2 ] || { sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
for file in "$@"; do [ -r "$file" ] || { echo "cves: $file cannot be read" >&2; exit 66; }; done
rows=$(jq -rn --slurpfile bom "$1" --slurpfile tracker "$2" '
  [$bom[0].components[] | select(.purl | startswith("pkg:deb/")) |
    {source: (.properties[] | select(.name == "debian:source").value), version: (.properties[] | select(.name == "debian:source-version").value)}]
  | unique[] as $one | ($tracker[0][$one.source] // {}) | to_entries[] | select(.key | startswith("CVE-"))
  | .value.releases.trixie as $here | select($here != null and $here.status != "undetermined")
  | select($here.fixed_version != "0")
  | [.key, $one.source, $one.version, ($here.urgency // "unknown"), ($here.fixed_version // "-")] | @tsv')
open=0 fixable=0
while IFS=$'\t' read -r cve source version urgency fixed; do
  [ -n "$cve" ] || continue
  if [ "$fixed" != - ]; then
    dpkg --compare-versions "$version" lt "$fixed" 2>/dev/null || continue
    fixable=$((fixable + 1))
  fi
  open=$((open + 1))
  printf '%s\t%s\t%s\t%s\t%s\n' "$cve" "$source" "$version" "$urgency" "$([ "$fixed" = - ] && echo 'no fix yet' || echo "fixed in $fixed")"
done <<<"$rows"
echo "cves: $open open, $fixable of them fixed in the archive" >&2
[ "$fixable" = 0 ]
