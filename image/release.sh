#!/usr/bin/env bash
# A release, ready to be signed: image, its parts packed, bill of materials, licences, known flaws, and the manifest that names them all.
# usage: image/release.sh [--built] PROFILE VERSION OUT [ARGUMENT of `millrace release manifest`]…
#   --built   take the image that is there instead of building it
#   OUT       the directory to write; it must not exist yet
# MILLRACE_CVE_TRACKER=FILE is Debian's tracker data as image/cves.sh wants it; without it the report says that none was made.
# Then, by each who signs: millrace release sign OUT --key FILE
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
built=false
[ "${1:-}" != --built ] || { built=true; shift; }
[ $# -ge 3 ] || { sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
profile=$1 version=$2 release=$3
shift 3
[ ! -e "$release" ] || { echo "release: $release exists already: a release is never written over" >&2; exit 73; }
case $profile in *,test* | *,dev* | installer* | factory*) echo "release: $profile is no image that boxes are updated to" >&2; exit 64 ;; esac
target=${CARGO_TARGET_DIR:-$repo/target}
out=$target/image
programs=${MILLRACE_IMAGE_PROGRAMS:-$target/release}
case $profile in x86) folder=mkosi ;; *) folder=mkosi-${profile//,/-} ;; esac
case $profile in arm64* | jetson*) architecture=arm64 ;; *) architecture=x86-64 ;; esac
[ -z "$(git -C "$repo" status --porcelain)" ] || echo "release: the checkout has changes that no commit holds: whoever rebuilds this gets another image" >&2

$built || "$repo/image/build.sh" "$profile" "$version"
"$repo/image/lock.sh" "$profile"
"$repo/image/sbom.sh" "$profile" "$version"
variant=${profile//,/-}
bom=$out/sbom/millrace_${version}_$variant
"$programs/millrace" release manifest --image "$out/$folder" --version "$version" --profile "$variant" --arch "$architecture" \
  --sbom "$bom.cdx.json" --out "$release" "$@"
install -m 0644 "$bom.cdx.json" "$release/sbom.cdx.json"
install -m 0644 "$bom.licences.tsv" "$release/licences.tsv"
if [ -n "${MILLRACE_CVE_TRACKER:-}" ]; then
  "$repo/image/cves.sh" "$bom.cdx.json" "$MILLRACE_CVE_TRACKER" >"$release/cves.tsv" || echo "release: some of them are mended in the archive: build from a newer snapshot" >&2
else
  echo "none was made: MILLRACE_CVE_TRACKER was not given" >"$release/cves.tsv"
fi
(cd "$release" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%f\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
echo "release: $release: look at release.json, then sign: millrace release sign $release --key FILE"
