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
result=$target/image/test/result.json
delta=null
older=$(find "$target/image/test-images" -name 'millrace_0.1.0.root-*' ! -name '*verity*' 2>/dev/null | head -n 1)
newer=$(find "$target/image/test-images" -name 'millrace_0.1.1.root-*' ! -name '*verity*' 2>/dev/null | head -n 1)
if [ -n "$older" ] && [ -n "$newer" ]; then
  delta=$(zstd -q -1 --long=30 -T2 --patch-from="$older" "$newer" -c | wc -c)
fi
mkdir -p "$target/bench"
jq -n --arg image "$(basename "$base")" --argjson root "$(size "$root")" --argjson kernel "$(size "$kernel")" \
  --argjson tree "$tree" --argjson delta "$delta" --slurpfile test <(cat "$result" 2>/dev/null || echo null) '{
    image: $image,
    root_bytes: $root, kernel_image_bytes: $kernel, hash_tree_packed_bytes: $tree,
    update_full_bytes: ($root + $kernel + $tree),
    update_root_delta_bytes: $delta,
    measured_in_emulation: ($test[0].figures // null)}' >"$target/bench/image.json"
jq . "$target/bench/image.json"
