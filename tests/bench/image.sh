#!/usr/bin/env bash
# Sizes of the last built image and what the last `just image-test` measured, as target/bench/image.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-target}
folder=$target/image/mkosi
[ -n "$(find "$folder" -name 'millrace_*.efi' 2>/dev/null)" ] || folder=$target/image/test-images
kernel=$(find "$folder" -name 'millrace_*.efi' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
[ -n "$kernel" ] || { echo "bench: no image is built: just image x86" >&2; exit 66; }
base=${kernel%.efi}
size() { stat -c %s "$1"; }
root=$(find "$folder" -path "$base.root-*" ! -name '*verity*')
verity=$(find "$folder" -path "$base.root-*verity*")
# The hash tree's partition is mostly empty: what is sent is its content.
tree=$(zstd -q -1 -c "$verity" | wc -c)
# A patch from one version to the next. Those of the test have the same programs; MILLRACE_IMAGE_BEFORE names the directory
# of an earlier build with other programs, for the patch that an operator's boxes really fetch.
delta=null whole_delta=null between=null
before=${MILLRACE_IMAGE_BEFORE:-}
one() { find "$1" -name "millrace_$2$3" ! -name "${4:-*.zst}" 2>/dev/null | sort | tail -n 1; }
if [ -n "$before" ]; then
  older=$(one "$before" '*' '.root-*' '*verity*') newer=$root
else
  older=$(one "$target/image/test-images" 0.1.0 '.root-*' '*verity*') newer=$(one "$target/image/test-images" 0.1.1 '.root-*' '*verity*')
fi
if [ -n "$older" ] && [ -n "$newer" ]; then
  # Only the root is patched; kernel image and hash tree are fetched whole.
  delta=$(zstd -q -1 --long=30 -T2 --patch-from="$older" "$newer" -c | wc -c)
  whole_delta=$((delta + $(zstd -q -1 -c "$kernel" | wc -c) + tree))
  between="\"$(basename "$older") and $(basename "$newer")\""
fi
# What the steps of the test measured, of this or an earlier run, and how long the builds took.
figures=$target/image/test/figures.json
built=$target/image/built.json
mkdir -p "$target/bench"
jq -n --arg image "$(basename "$base")" --argjson root "$(size "$root")" --argjson kernel "$(size "$kernel")" \
  --argjson tree "$tree" --argjson delta "$delta" --argjson whole_delta "$whole_delta" --argjson between "$between" \
  --argjson image_bytes "$(size "$base.raw")" --argjson image_on_disk "$(du -B1 "$base.raw" | cut -f1)" \
  --slurpfile test <(cat "$figures" 2>/dev/null || echo null) --slurpfile built <(cat "$built" 2>/dev/null || echo null) '{
    image: $image, image_bytes: $image_bytes, image_bytes_on_disk: $image_on_disk,
    root_bytes: $root, kernel_image_bytes: $kernel, hash_tree_packed_bytes: $tree,
    update_full_bytes: ($root + $kernel + $tree),
    update_root_delta_bytes: $delta, update_delta_bytes: $whole_delta, delta_is_between: $between,
    build: $built[0],
    measured_in_emulation: $test[0]}' >"$target/bench/image.json"
jq . "$target/bench/image.json"
