#!/usr/bin/env bash
# Makes the medium that installs an image on a box's internal disk. Called by image/build.sh for `installer` and `factory`.
# usage: image/medium.sh installer|factory[,PROFILE…] [VERSION] [--built]
#   PROFILE   whose image is on it (default: x86)
#   --built   take the image that is there instead of building it
# The medium is the image's own loader, kernel, initial system and keys, with the installer added and the hash of the packed
# image named in what Secure Boot checks; so it starts wherever the image does, and installs nothing else.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${CARGO_TARGET_DIR:-$repo/target}/image
built=false names=()
for argument in "$@"; do case $argument in --built) built=true ;; *) names+=("$argument") ;; esac; done
form=${names[0]:?usage: image/medium.sh installer|factory[,PROFILE] [VERSION] [--built]}
profiles=x86
case $form in *,*) profiles=${form#*,} form=${form%%,*} ;; esac
case $form in installer | factory) ;; *) sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64 ;; esac
version=${names[1]:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)}
$built || "$repo/image/build.sh" "$profiles" "$version"
case $profiles in *,test*) folder=test-images ;; x86) folder=mkosi ;; *) folder=mkosi-${profiles//,/-} ;; esac
image=$(find "$out/$folder" -maxdepth 1 -name "millrace*_$version.raw" 2>/dev/null | head -n 1)
[ -s "$image" ] || { echo "image: there is no image of $profiles $version: image/build.sh $profiles $version" >&2; exit 66; }
case $profiles in arm64* | jetson*) boot=BOOTAA64.EFI stub=linuxaa64.efi.stub root=b921b045-1df0-41c3-af44-4c6f280d3fae ;;
*) boot=BOOTX64.EFI stub=linuxx64.efi.stub root=4f68bce3-e8cd-4db1-96e7-fbcaf984b709 ;; esac
say() { printf 'image: %s\n' "$*" >&2; }

say "$form medium for ${image##*/}"
work=$out/medium
made=$out/mkosi-$form-${profiles//,/-}
rm -rf "$work"
mkdir -p "$work"/{esp,medium,overlay/usr/share/millrace-install} "$made"
packed=${image##*/}.zst
# Packing takes longest: what an earlier run packed of the same image is taken.
[ "$out/packed/$folder/$packed" -nt "$image" ] || { mkdir -p "$out/packed/$folder"; zstd -q -9 -T0 -f "$image" -o "$out/packed/$folder/$packed"; }
cp "$out/packed/$folder/$packed" "$work/medium/$packed"
[ "$(stat -c %s "$work/medium/$packed")" -lt $((4 << 30)) ] || { echo "image: the packed image is larger than a FAT file may be" >&2; exit 70; }
# Two slots, the boot partition and room for state: what image/flash.sh asks of a device.
needed=$((${MILLRACE_FLASH_NEEDED_GIB:-14} << 10))
hash_of() { sha256sum <"$1" | cut -d' ' -f1; }
cat >"$work/overlay/usr/share/millrace-install/payload" <<PAYLOAD
form=$form version=$version profile=${profiles%%,*} file=$packed packed_sha256=$(hash_of "$work/medium/$packed")
size=$(stat -c %s "$image") sha256=$(hash_of "$image") needed_mib=$needed root_type=$root built=$(git -C "$repo" log -1 --format=%ct)
PAYLOAD
cp -r "$repo/image/installer/tree/." "$work/overlay/"
sed 's/$/\r/' "$repo/image/installer/README.txt" >"$work/medium/README.txt"
[ "$form" != factory ] || sed 's/$/\r/' "$repo/image/installer/limits.txt" >"$work/medium/limits.txt"

epoch=$(git -C "$repo" log -1 --format=%ct)
seed=$(printf 'millrace %s %s %s' "$form" "$profiles" "$version" | sha256sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/')
"$repo/image/in-tools.sh" env SOURCE_DATE_EPOCH="$epoch" MTOOLS_SKIP_CHECK=1 bash -euc '
  folder=$1 image=$2 made=$3 boot=$4 stub=$5 seed=$6 form=$7 version=$8
  work=/out/medium
  cd $work
  # The loader and the keys to enrol, as the image has them.
  esp=/out/$folder/${image%.raw}.esp.raw
  mcopy -s -i "$esp" ::/EFI ::/loader esp/
  rm -rf esp/EFI/Linux
  mkdir -p esp/EFI/Linux parts
  # This medium may take the keys of a machine in setup mode by itself; a disk in a box may not.
  printf "timeout 0\neditor no\nsecure-boot-enroll force\n" >esp/loader/loader.conf
  python3 - "/out/$folder/${image%.raw}.efi" parts <<SPLIT
import pefile, sys
for section in pefile.PE(sys.argv[1]).sections:
    name = section.Name.rstrip(b"\0").decode().lstrip(".")
    open(f"{sys.argv[2]}/{name}", "wb").write(section.get_data()[:section.Misc_VirtualSize])
SPLIT
  # What the initial system lacks, with the libraries of the same Debian.
  for program in /usr/bin/zstd /usr/sbin/sfdisk; do
    install -D "$program" "overlay$program"
    ldd "$program" | awk "\$3 ~ /^\// && \$1 !~ /^lib(c|m)\.so/ { print \$3 }" | while read -r library; do
      library=/usr${library#/usr}
      install -D "$(readlink -f "$library")" "overlay$library"
    done
  done
  find overlay -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd overlay && find . -mindepth 1 -print0 | LC_ALL=C sort -z | cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) | zstd -q -10 >parts/overlay
  console=$(tr -d "\0" <parts/cmdline | tr " " "\n" | grep ^console= | paste -sd" ")
  set --
  [ ! -s parts/ucode ] || set -- --microcode=parts/ucode
  ukify build --stub=/usr/lib/systemd/boot/efi/$stub --linux=parts/linux --initrd=parts/initrd --initrd=parts/overlay "$@" \
    --os-release=@parts/osrel --uname="$(tr -d "\0" <parts/uname)" \
    --cmdline="rd.systemd.unit=millrace-install.target systemd.gpt_auto=0 systemd.machine_id=firmware panic=30 oops=panic loglevel=4 systemd.show_status=error audit=0 console=tty0 $console" \
    --secureboot-private-key=/out/keys-in-use/secure-boot.key --secureboot-certificate=/out/keys-in-use/secure-boot.crt \
    --output="esp/EFI/Linux/millrace-${form}_$version.efi" >/dev/null
  [ -s "esp/EFI/BOOT/$boot" ]
  # Room for the packed image, site files and reports.
  mkdir repart
  cp /src/image/installer/repart/*.conf repart/
  size=$(($(du -sm medium | cut -f1) + 128))
  printf "SizeMinBytes=%sM\nSizeMaxBytes=%sM\n" $size $size >>repart/10-medium.conf
  find esp medium -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
  rm -f "/out/$made/millrace-${form}_$version.raw"
  systemd-repart --empty=create --size=auto --dry-run=no --offline=yes --seed="$seed" --definitions=repart --copy-source=$work \
    "/out/$made/millrace-${form}_$version.raw"
' medium "$folder" "${image##*/}" "${made##*/}" "$boot" "$stub" "$seed" "$form" "$version" >&2
rm -rf "$work"
say "made:"
ls -l "$made" >&2
