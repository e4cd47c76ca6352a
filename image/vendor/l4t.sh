#!/usr/bin/env bash
# The packages of a Jetson's board support that an operator put into image/vendor/l4t/ (image/vendor/README.md).
# usage: image/vendor/l4t.sh lock        write image/vendor/l4t.lock: their checksums as they are now
#        image/vendor/l4t.sh check       each is in the lock, each in the lock is here, none differs
#        image/vendor/l4t.sh unpack DIR  check, then lay out in DIR what a root of ours takes of them
# $MILLRACE_VENDOR is another directory with `l4t` and `l4t.lock` in it.
set -euo pipefail
vendor=${MILLRACE_VENDOR:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
packages=$vendor/l4t lock=$vendor/l4t.lock
# Without these no board starts, or none encodes.
needed=(core kernel kernel-oot-modules firmware tools multimedia gstreamer)
# All that is taken; the rest (desktop, updaters, units, login) has no place in a root of ours.
taken=(
  usr/lib/modules usr/lib/firmware usr/lib/udev/rules.d usr/lib/aarch64-linux-gnu usr/share/glvnd usr/share/egl
  usr/sbin/nvbootctrl etc/firmware etc/ld.so.conf.d etc/nv_tegra_release etc/nv_boot_control.conf etc/udev/rules.d etc/egl
)
stop() { echo "image: $1" >&2; exit "${2:-65}"; }

files() { find "$packages" -maxdepth 1 -name '*.deb' -printf '%f\n' 2>/dev/null | LC_ALL=C sort; }
field() { dpkg-deb --field "$packages/$1" "$2"; }

present() {
  [ -n "$(files)" ] || stop "a Jetson's kernel and video libraries are NVIDIA's and not ours to give: put the L4T packages (.deb) of one release into $packages, then: image/vendor/l4t.sh lock   (image/vendor/README.md; \`just image arm64\` needs none of it)" 66
}

write_lock() {
  present
  (cd "$packages" && files | xargs -d '\n' sha256sum) >"$lock.new"
  mv "$lock.new" "$lock"
  echo "image: $lock holds $(wc -l <"$lock") packages: read it, keep it with your sources" >&2
}

check() {
  local file line sum bad=0 names=
  present
  [ -s "$lock" ] || stop "$packages is not locked: image/vendor/l4t.sh lock, once you trust what lies there" 66
  while read -r line; do
    [[ $line =~ ^([0-9a-f]{64})\ [\ *]([A-Za-z0-9][A-Za-z0-9.+~_:%-]*\.deb)$ ]] || stop "$lock: not a line of a checksum and a name: $line"
  done <"$lock"
  while read -r file; do
    sum=$(awk -v file="$file" '{ sub(/^\*/, "", $2) } $2 == file { print $1; exit }' "$lock")
    if [ -z "$sum" ]; then
      echo "image: $file is not in $lock" >&2; bad=1
    elif [ "$(sha256sum <"$packages/$file" | cut -d' ' -f1)" != "$sum" ]; then
      echo "image: $file is not the file that was locked: its checksum differs" >&2; bad=1
    fi
  done < <(files)
  while read -r file; do
    [ -f "$packages/$file" ] || { echo "image: $file is in $lock, but not in $packages" >&2; bad=1; }
  done < <(awk '{ sub(/^\*/, "", $2); print $2 }' "$lock")
  [ $bad = 0 ] || stop "the packages of the board are not what was locked: nothing is built"
  # Only now is anything read from inside of them.
  while read -r file; do
    [ "$(field "$file" Architecture)" = arm64 ] || { echo "image: $file is for $(field "$file" Architecture), not for arm64" >&2; bad=1; }
    names+=$(field "$file" Package)$'\n'
  done < <(files)
  for file in "${needed[@]}"; do
    grep -qx "nvidia-l4t-$file" <<<"$names" || { echo "image: nvidia-l4t-$file is missing" >&2; bad=1; }
  done
  [ $bad = 0 ] || stop "the board cannot work without these" 66
}

unpack() {
  local into=$1 whole part kernel version
  check
  whole=$(mktemp -d)
  trap "rm -rf '$whole'" EXIT
  files | while read -r part; do dpkg-deb --extract "$packages/$part" "$whole"; done
  # Packages made for a root where these were directories of their own.
  for part in bin sbin lib; do
    [ -d "$whole/$part" ] && [ ! -L "$whole/$part" ] || continue
    mkdir -p "$whole/usr/$part"
    cp -a "$whole/$part/." "$whole/usr/$part/"
    rm -rf "${whole:?}/$part"
  done
  version=$(ls "$whole/usr/lib/modules" 2>/dev/null | paste -sd' ')
  [ "$(wc -w <<<"$version")" = 1 ] || stop "the packages hold modules of not one kernel, but: ${version:-none}"
  kernel=$(find "$whole/boot" -maxdepth 1 \( -name Image -o -name "vmlinuz-$version" \) 2>/dev/null | head -n 1)
  [ -n "$kernel" ] || stop "the packages hold no kernel (boot/Image)"
  rm -rf "$into"
  for part in "${taken[@]}"; do
    [ -e "$whole/$part" ] || continue
    mkdir -p "$into/$(dirname "$part")"
    cp -a "$whole/$part" "$into/$part"
  done
  cp "$kernel" "$into/usr/lib/modules/$version/vmlinuz"
  # What their licence asks to be handed on.
  mkdir -p "$into/usr/share/millrace/licences"
  [ ! -d "$whole/usr/share/doc" ] || cp -a "$whole/usr/share/doc/." "$into/usr/share/millrace/licences/"
  echo "image: of $(files | wc -l) packages of the board: kernel $version, $(find "$into" -type f | wc -l) files taken of $(find "$whole" -type f | wc -l)" >&2
}

case ${1:-} in
  lock) write_lock ;;
  check) check ;;
  unpack) unpack "${2:?usage: image/vendor/l4t.sh unpack DIR}" ;;
  *) sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
