#!/usr/bin/env bash
# Signs kernel modules with the module key, for a kernel that trusts who certified it.
# usage: image/nvidia/sign.sh KEYS FROM TO   (directories; runs where the keys are)
# A signature of the kernel's form: CMS without attributes over the whole file, then its length and a line of text. The module key's
# certificate travels inside, since the kernel knows only that of Secure Boot, which issued it.
set -euo pipefail
[ $# = 3 ] || { sed -n '3s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
keys=$1 from=$2 to=$3
for part in key crt; do [ -s "$keys/modules.$part" ] || { echo "nvidia: $keys/modules.$part is missing: see firmware/docs/keys-ceremony.md" >&2; exit 66; }; done
openssl verify -partial_chain -trusted "$keys/secure-boot.crt" "$keys/modules.crt" >/dev/null || { echo "nvidia: the module key is not certified by the Secure Boot key" >&2; exit 65; }
mkdir -p "$to"
for module in "$from"/*.ko; do
  signature=$(mktemp)
  openssl cms -sign -binary -noattr -md sha256 -signer "$keys/modules.crt" -inkey "$keys/modules.key" -outform DER -in "$module" -out "$signature"
  length=$(stat -c %s "$signature")
  {
    cat "$module" "$signature"
    # struct module_signature: no algorithm, hash, signer or key of its own, type 2 (PKCS#7), length in network order.
    printf '\x00\x00\x02\x00\x00\x00\x00\x00'
    printf "\\x$(printf %02x $((length >> 24 & 255)))\\x$(printf %02x $((length >> 16 & 255)))\\x$(printf %02x $((length >> 8 & 255)))\\x$(printf %02x $((length & 255)))"
    printf '~Module signature appended~\n'
  } >"$to/${module##*/}"
  rm -f "$signature"
done
