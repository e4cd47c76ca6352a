#!/usr/bin/env bash
# The root as it is shipped, unpacked and made the root of a process here: a worker proves its engines with nothing but what was left in,
# and a clip is transcoded. So whoever takes a file out of the image sees at once what it was for. Seconds to a minute.
# usage: tests/image/proof.sh [PROFILE] [VERSION]   (an x86 image, built before)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "proof: needs root" >&2; exit 77; }
profile=${1:-x86}
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
out=${CARGO_TARGET_DIR:-$repo/target}/image
case $profile in *,test*) folder=test-images ;; x86) folder=mkosi ;; *) folder=mkosi-${profile//,/-} ;; esac
trap 'rm -rf --one-file-system "$out/proof"' EXIT
rm -rf --one-file-system "$out/proof"
mkdir -p "$out/proof"
"$repo/image/in-tools.sh" sh -euc "fsck.erofs --extract=/out/proof/root --overwrite \$(ls /out/$folder/millrace*_$version.root-* | grep -v verity)" >/dev/null
ffmpeg -v error -f lavfi -i testsrc2=size=640x360:rate=30 -t 2 -c:v libx264 -preset ultrafast "$out/proof/clip.ts"
# Its root, not a plain chroot: there a worker could not make the namespaces of its jail.
unshare --mount --propagation private bash -euc '
  root=$1
  mount --bind "$root" "$root"
  cd "$root"
  for folder in dev proc sys; do mount --rbind "/$folder" "$folder"; done
  for folder in tmp run var; do mount -t tmpfs tmpfs "$folder"; done
  cp ../clip.ts run/clip.ts
  mkdir run/out run/old
  pivot_root . run/old
  cd /
  umount -l /run/old
  export PATH=/usr/sbin:/usr/bin HOME=/run LC_ALL=C
  millrace hw --json --worker /usr/bin/millrace-worker >/run/hw.json
  millrace transcode /run/clip.ts --profiles 240p,360p -o /run/out --worker /usr/bin/millrace-worker >&2
  echo "== renditions"
  find /run/out -type f -size +1k
  echo "== proof"
  cat /run/hw.json
' proof "$out/proof/root" >"$out/proof/said"
renditions=$(sed -n '/^== renditions/,/^== proof/p' "$out/proof/said" | grep -c '^/run/out')
[ "$renditions" -ge 2 ] || { echo "proof: $renditions renditions" >&2; exit 1; }
proved=$(sed '1,/^== proof/d' "$out/proof/said" | jq -r '.engines[] | select(.engine == "software") | .proof.proved // [] | join(" ")')
# What the software engine proves on a machine with all plugins; a codec less is a file too many taken out.
for one in decode-h264 encode-h264 scale mpegts mux-mp4 decode-h265 decode-vp8 decode-vp9 decode-av1 encode-h265 encode-vp8 encode-vp9 signature-mpeg7; do
  grep -qw -- "$one" <<<"$proved" || { echo "proof: $one is not proved; proved: $proved" >&2; exit 1; }
done
echo "proof: $renditions renditions; proved: $proved"
