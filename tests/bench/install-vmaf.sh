#!/usr/bin/env bash
# Puts an ffmpeg that has libvmaf at .tools/ffmpeg-vmaf, for the quality figures of `just bench transcode`.
# Without it the bench falls back to PSNR and SSIM with the system's ffmpeg.
set -euo pipefail
cd "$(dirname "$0")/../.."
to=.tools/ffmpeg-vmaf
if [[ -x $to ]]; then
  echo "$to is there"
  exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
  echo "no static ffmpeg with libvmaf for $(uname -m): the bench will use PSNR and SSIM" >&2
  exit 0
fi
mkdir -p .tools
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" imageio-ffmpeg==0.8.1
python3 -m zipfile -e "$work"/imageio_ffmpeg-*.whl "$work/wheel"
install -m 0755 "$work"/wheel/imageio_ffmpeg/binaries/ffmpeg-linux-* "$to"
"$to" -hide_banner -filters | grep ' libvmaf ' >/dev/null || { rm -f "$to"; echo "this ffmpeg has no libvmaf" >&2; exit 1; }
echo "$to installed"
