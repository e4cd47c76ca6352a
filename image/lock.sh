#!/usr/bin/env bash
# Holds the packages that a build has installed against image/locks/PROFILE.lock, or writes that file anew.
# usage: image/lock.sh PROFILE [--update]   (called by image/build.sh; the root must have been built)
# Exit 65 when they are others, saying which.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${CARGO_TARGET_DIR:-$repo/target}/image
profiles=${1:?usage: image/lock.sh PROFILE [--update]}
# Forms that add no package share the lock of the image they are a form of, as they share its cache.
name=$(sed 's/,test//; s/,broken//; s/,notpm//; s/,/-/g' <<<"$profiles")
lock=$repo/image/locks/$name.lock
case $name in arm64* | jetson*) architecture=arm64 ;; *) architecture=x86-64 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for part in "" "~initrd"; do
  cache=$(find "$out/cache-$name" -maxdepth 1 -name "*~$architecture$part.cache" | head -n 1)
  [ -n "$cache" ] || { echo "lock: no built root in $out/cache-$name: image/build.sh $profiles" >&2; exit 66; }
  "$repo/image/in-tools.sh" dpkg-query --admindir="/out/${cache#"$out/"}/var/lib/dpkg" --show --showformat="${part:-root} \${Package}:\${Architecture}=\${Version}\n" | sed "s|^~||" >"$work/part"
  cat "$work/part"
done | LC_ALL=C sort >"$work/now"
if [ "${2:-}" = --update ]; then
  { echo "# What is installed in $name: image/build.sh holds each build against it, and writes it anew with --update-lock."; cat "$work/now"; } >"$lock"
  echo "lock: $(wc -l <"$work/now") packages written to image/locks/$name.lock" >&2
  exit 0
fi
[ -e "$lock" ] || { echo "lock: image/locks/$name.lock is not there: nothing is held to a version; --update-lock writes it" >&2; exit 0; }
grep -v '^#' "$lock" >"$work/wanted"
if cmp -s "$work/wanted" "$work/now"; then echo "lock: $(wc -l <"$work/now") packages, all as locked" >&2; exit 0; fi
# One line per package: where, name, version then, version now.
LC_ALL=C join -t= -a 1 -a 2 -e none -o 0,1.2,2.2 "$work/wanted" "$work/now" | awk -F= '$2 != $3 {
  split($1, at, " ")
  if ($2 == "none") what = "new, " $3; else if ($3 == "none") what = "gone, was " $2; else what = $2 " -> " $3
  printf "lock:   %s in %s: %s\n", at[2], at[1], what }' >&2
cat >&2 <<EXPLAIN
lock: these packages are not those of image/locks/$name.lock. Either build from the archive as it was then
      (MILLRACE_IMAGE_SNAPSHOT, see firmware/docs/image.md), or look at them and take them: image/build.sh $profiles --update-lock
EXPLAIN
exit 65
