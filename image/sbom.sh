#!/usr/bin/env bash
# Writes what an image consists of: a bill of materials (CycloneDX 1.5) and a list of licences, beside the image.
# usage: image/sbom.sh PROFILE [VERSION]
# Debian packages come from the package database of the built root (before it is left out of the image), Rust crates from
# Cargo.lock as the shipped programs link them.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${CARGO_TARGET_DIR:-$repo/target}/image
profile=${1:?usage: image/sbom.sh PROFILE [VERSION]}
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
board=${profile%%,*}
variant=${profile//,/-}
case $board in arm64 | jetson) architecture=arm64 ;; *) architecture=x86-64 ;; esac
cache=${profile//,test/} cache=${cache//,broken/} cache=cache-${cache//,/-}/debian~trixie~$architecture.cache
[ -d "$out/$cache" ] || { echo "sbom: no built root of $architecture: just image $board" >&2; exit 66; }
mkdir -p "$out/sbom"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the initial system has is in the kernel image.
for part in "$cache" "${cache%.cache}~initrd.cache"; do
  "$repo/image/in-tools.sh" dpkg-query --admindir="/out/$part/var/lib/dpkg" --show \
    --showformat='${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n'
done | LC_ALL=C sort -u >"$work/packages"
if [ "$board" = x86-nvidia ]; then
  driver=$(sed -n 's/^nvidia-open-kernel-dkms=//p' "$repo/image/locks/nvidia.lock")
  printf 'nvidia-open-kernel-dkms\t%s\tamd64\tnvidia-graphics-drivers\t%s\n' "$driver" "$driver" >>"$work/packages"
fi
jq -Rn '[inputs | split("\t") | {
    type: "library", name: .[0], version: .[1],
    purl: "pkg:deb/debian/\(.[0])@\(.[1] | @uri)?arch=\(.[2])&distro=trixie",
    properties: [{name: "debian:source", value: .[3]}, {name: "debian:source-version", value: .[4]}]
  }]' <"$work/packages" >"$work/debian.json"

(cd "$repo" && for crate in millrace-cli millrace-node millrace-worker millrace-signer millrace-fleet millrace-update; do
  cargo tree --locked --offline -p "$crate" --edges normal --target all --prefix none --format '{p}|{l}' 2>/dev/null
done) | sed 's/ (\*)$//; s/ (proc-macro)//' | grep -v "($repo" | sort -u |
  jq -Rn '[inputs | split("|") | (.[0] | split(" ")) as $name | {
    type: "library", name: $name[0], version: ($name[1] // "" | ltrimstr("v")),
    purl: "pkg:cargo/\($name[0])@\($name[1] // "" | ltrimstr("v"))",
    licenses: (if (.[1] // "") == "" then [] else [{expression: (.[1] | gsub("/"; " OR "))}] end)
  }] | unique_by(.purl)' >"$work/crates.json"
[ "$(jq length "$work/crates.json")" -gt 50 ] || { echo "sbom: cargo tree names no crates: cargo fetch --locked" >&2; exit 69; }

bom=$out/sbom/millrace_${version}_$variant.cdx.json
jq -n --arg version "$version" --arg board "$variant" --arg time "$(date -u -d "@$(git -C "$repo" log -1 --format=%ct)" +%FT%TZ)" \
  --slurpfile debian "$work/debian.json" --slurpfile crates "$work/crates.json" '{
    bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
    metadata: {timestamp: $time, component: {type: "operating-system", name: "millrace", version: $version,
      properties: [{name: "profile", value: $board}]}},
    components: ($debian[0] + $crates[0])}' >"$bom"

# Debian's licence texts are files of the packages; what they are is in their machine-readable part.
licences=$out/sbom/millrace_${version}_$variant.licences.tsv
{
  jq -r '.[] | ["crate", .name, .version, (.licenses[0].expression // "none stated")] | @tsv' "$work/crates.json"
  "$repo/image/in-tools.sh" bash -euc '
    cd /var/cache; mkdir -p /tmp/l
    while IFS=$(printf "\t") read -r name version arch source _; do
      file=$(ls /out/packages/cache/apt/archives/"$name"_*.deb /out/packages/archives/"$name"_*.deb 2>/dev/null | head -n 1)
      text="see /usr/share/doc/$name/copyright of the package"
      if [ -n "$file" ]; then
        found=$(dpkg-deb --fsys-tarfile "$file" | tar -xO "./usr/share/doc/$name/copyright" 2>/dev/null | sed -n "s/^License: *//p" | sort -u | paste -sd";" || true)
        [ -n "$found" ] && text=$found
      fi
      printf "debian\t%s\t%s\t%s\n" "$name" "$version" "$text"
    done' <"$work/packages"
} >"$licences"
echo "sbom: $(jq '.components | length' "$bom") components: $bom"
echo "sbom: $(wc -l <"$licences") licences, $(grep -c 'see /usr/share' "$licences" || true) of them only in the package: $licences"
