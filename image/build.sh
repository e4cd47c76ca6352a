#!/usr/bin/env bash
# Builds an image.
# usage: image/build.sh PROFILE [VERSION]
#   PROFILE   x86 | x86-nvidia | arm64 | jetson, with `,wifi`, `,notpm`, `,dev` or `,test` appended for those forms of it;
#             installer | factory, with `,PROFILE` appended for another than x86: the medium that installs it
#   VERSION   what it calls itself (default: the workspace's version)
# Programs come from target/release, or the directory $MILLRACE_IMAGE_PROGRAMS; those of arm64 are built by image/cross.sh, or
# come from $MILLRACE_IMAGE_PROGRAMS_ARM64.
# Keys come from $MILLRACE_IMAGE_KEYS; without it test keys are made below target/image, and the image says so.
#   --update-lock   take the packages as they are now into image/locks/PROFILE.lock, instead of telling which are others
# MILLRACE_IMAGE_SNAPSHOT=ADDRESS builds from the archive as it was at the date in image/locks/snapshot; ADDRESS is that of a
# snapshot service, below which lie debian/DATE and debian-security/DATE.
set -euo pipefail
update_lock=()
for argument in "$@"; do
  shift
  if [ "$argument" = --update-lock ]; then update_lock=(--update); else set -- "$@" "$argument"; fi
done
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
out=$target/image
profiles=${1:?usage: image/build.sh PROFILE [VERSION]}
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
board=${profiles%%,*}
case $board in installer | factory) exec "$repo/image/medium.sh" "$@" ;; esac
[ -d "$repo/image/mkosi.profiles/$board" ] || { echo "image: there is no profile $board; there are: $(ls "$repo/image/mkosi.profiles" | paste -sd' ')" >&2; exit 64; }
case $board in arm64 | jetson) architecture=arm64 ;; *) architecture=x86-64 ;; esac

# What a box without a TPM writes its /var in cannot be read by the other form: neither takes the other's updates.
case $profiles, in *,notpm,*) variant=$board-notpm ;; *) variant=$board ;; esac
# Its updates are its own: one without a radio would be the last.
case $profiles, in *,wifi,*) variant=$variant-wifi ;; esac

say() { printf 'image: %s\n' "$*" >&2; }

# What the board's maker supplies, and only whoever builds may have.
vendor=()
if [ "$board" = jetson ]; then
  "$repo/image/vendor/l4t.sh" unpack "$out/l4t"
  vendor=(--extra-tree /out/l4t)
fi

say "keys"
keys=${MILLRACE_IMAGE_KEYS:-$out/keys}
[ -n "${MILLRACE_IMAGE_KEYS:-}" ] || "$repo/image/keys.sh" "$keys"
case $profiles in *,test* | *,dev*)
  # What has a door must never pass Secure Boot on a box in the field.
  openssl x509 -in "$keys/secure-boot.crt" -noout -subject | grep -q "TEST KEY" ||
    { echo "image: $profiles has a door in it: it is signed with test keys only" >&2; exit 77; } ;;
esac
mkdir -p "$out/keys-in-use"
install -m 0600 "$keys"/{secure-boot,pcr}.{key,crt} "$out/keys-in-use/"

say "the tree of our own files"
tree=$out/tree
rm -rf "$tree"
mkdir -p "$tree/usr/bin" "$tree/usr/lib/systemd/system" "$tree/usr/lib/systemd/system-preset"
case $architecture in
  arm64) programs=${MILLRACE_IMAGE_PROGRAMS_ARM64:-$("$repo/image/cross.sh")} kind=b700 ;;
  *) programs=${MILLRACE_IMAGE_PROGRAMS:-$target/release} kind=3e00 ;;
esac
for program in millrace millrace-node millrace-worker millrace-signer millrace-fleet millrace-update; do
  [ -x "$programs/$program" ] || { echo "image: $programs/$program is not built: just build" >&2; exit 66; }
  [ "$(od -An -v -tx1 -j18 -N2 "$programs/$program" | tr -d ' ')" = $kind ] || { echo "image: $programs/$program is not a program for $architecture" >&2; exit 65; }
  install -m 0755 "$programs/$program" "$tree/usr/bin/$program"
  [ "$architecture" = arm64 ] || strip --strip-debug "$tree/usr/bin/$program" # cross.sh has done it
done
cp "$repo"/systemd/*.service "$repo"/systemd/*.slice "$tree/usr/lib/systemd/system/"
for unit in "$repo"/systemd/*.{timer,path,socket,target,mount}; do [ -e "$unit" ] && cp "$unit" "$tree/usr/lib/systemd/system/"; done
for drop_in in "$repo"/systemd/*.service.d; do cp -r "$drop_in" "$tree/usr/lib/systemd/system/"; done
for part in sysusers.d tmpfiles.d sysctl.d repart.d sysupdate.d; do cp -r "$repo/systemd/$part" "$tree/usr/lib/"; done
for part in system.conf.d journald.conf.d resolved.conf.d network; do cp -r "$repo/systemd/$part" "$tree/usr/lib/systemd/"; done
cp "$repo"/systemd/preset/*.preset "$tree/usr/lib/systemd/system-preset/"
mkdir -p "$tree/usr/lib/udev/rules.d" "$tree/usr/lib/millrace"
cp "$repo"/systemd/udev/*.rules "$tree/usr/lib/udev/rules.d/"
cp "$repo/systemd/firewall/millrace.nft" "$tree/usr/lib/millrace/firewall.nft"
cp -r "$repo/image/tree/." "$tree/"
mkdir -p "$tree/usr/share/millrace"
if [ -d "$keys/loader" ]; then cp -r "$keys/loader" "$tree/signed-loader"; fi
if [ "$board" = x86-nvidia ]; then
  say "the modules of NVIDIA's driver"
  modules=$("$repo/image/nvidia/build.sh")
  kernel=${modules##*/} kernel=${kernel%%_*}
  "$repo/image/nvidia/sign.sh" "$keys" "$modules" "$tree/usr/lib/modules/$kernel/updates"
fi
install -m 0644 "$keys/release-keys.json" "$keys/site-keys.json" "$tree/usr/share/millrace/"

"$repo/image/in-tools.sh" true
mkdir -p "$out/sandbox/etc/apt/sources.list.d"
sources=$repo/.tools/image-root/etc/apt/sources.list
if [ -n "${MILLRACE_IMAGE_SNAPSHOT:-}" ]; then
  date=$(<"$repo/image/locks/snapshot")
  say "the archive as it was at $date, from $MILLRACE_IMAGE_SNAPSHOT"
  sources=$out/sandbox/snapshot
  for suite in trixie trixie-updates; do echo "deb $MILLRACE_IMAGE_SNAPSHOT/debian/$date $suite"; done >"$sources"
  echo "deb $MILLRACE_IMAGE_SNAPSHOT/debian-security/$date trixie-security" >>"$sources"
else
  say "the archive as it is now, where the tool root has it from"
fi
# What was signed long ago has expired by its own word: with a snapshot that is what is wanted.
awk -v late="${MILLRACE_IMAGE_SNAPSHOT:+Check-Valid-Until: no\n}" '$1 == "deb" { printf "Types: deb\nURIs: %s\nSuites: %s\nComponents: main contrib non-free non-free-firmware\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n%s\n", $2, $3, late }' \
  "$sources" >"$out/sandbox/etc/apt/sources.list.d/mkosi.sources"

# The scripts of arm64 packages run by emulation. The kernel keeps the emulator open, so it works inside of roots, and
# knows it as long as this is mounted somewhere.
builder=(mkosi)
if [ "$architecture" = arm64 ] && [ "$(uname -m)" != aarch64 ]; then
  builder=(sh -euc '
    known=/proc/sys/fs/binfmt_misc
    [ -e $known/register ] || mount -t binfmt_misc none $known
    [ -e $known/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$known/register
    grep -q "^flags:.*F" $known/qemu-aarch64 || { echo "image: this machine runs arm64 programs by an emulator without flag F" >&2; exit 69; }
    exec mkosi "$@"' mkosi)
fi

say "building $profiles $version ($architecture)"
# Forms of an image that must never be taken for a product lie apart.
case $profiles in arm64*,test* | jetson*,test*) output=test-images-$board ;; *,test*) output=test-images ;; x86) output=mkosi ;; *) output=mkosi-${profiles//,/-} ;; esac
rm -f "$out/$output/millrace_$version".*
# mkosi keys its cache by distribution, release and architecture, not by profile: each board has its own.
cache=${profiles//,test/} cache=${cache//,broken/} cache=${cache//,notpm/} cache=cache-${cache//,/-}
mkdir -p "$out/$output" "$out/$cache" "$out/packages"
seed=$(printf 'millrace %s' "$version" | sha256sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/')
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct)}
arguments=()
IFS=, read -ra names <<<"$profiles"
for name in "${names[@]}"; do arguments+=(--profile "$name"); done
"$repo/image/in-tools.sh" "${builder[@]}" --directory /src/image "${arguments[@]}" \
  --architecture "$architecture" --image-version "$version" --seed "$seed" --source-date-epoch "$epoch" \
  --environment VARIANT_ID="$variant" --output-directory "/out/$output" --cache-directory "/out/$cache" --sandbox-tree /out/sandbox "${vendor[@]}" --extra-tree /out/tree \
  --secure-boot-key /out/keys-in-use/secure-boot.key --secure-boot-certificate /out/keys-in-use/secure-boot.crt \
  --sign-expected-pcr-key /out/keys-in-use/pcr.key --sign-expected-pcr-certificate /out/keys-in-use/pcr.crt \
  --force build 2>&1 | sed -u 's/.*\r//' >&2
# The loader, signed: the next build takes this signature. Public, and kept with the keys.
mkdir -p "$keys/loader"
case $architecture in arm64) loader=systemd-bootaa64.efi ;; *) loader=systemd-bootx64.efi ;; esac
unsigned=$(find "$out/$cache" -path "*~$architecture.cache/usr/lib/systemd/boot/efi/$loader" | head -n 1)
esp=$(cd "$out/$output" && ls -t *_"$version".esp.raw | head -n 1)
kept=$keys/loader/$(sha256sum <"${unsigned:-/dev/null}" | cut -d' ' -f1).efi
if [ -n "$unsigned" ] && [ ! -s "$kept" ]; then
  "$repo/image/in-tools.sh" mtype -i "/out/$output/$esp" "::/EFI/systemd/$loader" >"$kept.new"
  mv "$kept.new" "$kept"
fi
# Whoever tries an image gets the archive as it is, and is told what moved; image/release.sh packs only what is locked.
locked=0
"$repo/image/lock.sh" "$profiles" "${update_lock[@]}" || locked=$?
case $locked in
  0) ;;
  65) say "made of other packages than the locked ones: good to try, not to release" ;;
  *) exit "$locked" ;;
esac
printf '{"profiles": "%s", "version": "%s", "seconds": %s}\n' "$profiles" "$version" "$SECONDS" >"$out/built.json"
say "made in $SECONDS s:"
ls -l "$out/$output" >&2
