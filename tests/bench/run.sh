#!/usr/bin/env bash
# Builds and runs one benchmark. Results: a table here, target/bench/NAME.json for machines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=${1:-}
[ $# -gt 0 ] && shift
case $name in
  image) exec tests/bench/image.sh ;;
  transcode) tests/bench/install-vmaf.sh || echo "bench: no VMAF here; quality is compared by PSNR and SSIM" >&2 ;;
  tickets | node | signature) ;;
  *)
    echo "bench: unknown benchmark '$name'; there are: transcode tickets node signature" >&2
    exit 64
    ;;
esac
cargo build --locked --release --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/release/bench-$name" "$@"
