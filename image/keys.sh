#!/usr/bin/env bash
# Makes the keys an image is signed with, for TESTS: whoever has this machine has them. Product keys come from the
# ceremony in firmware/docs/keys-ceremony.md and are given to `just image` as MILLRACE_IMAGE_KEYS.
# usage: image/keys.sh DIRECTORY   (files that exist are kept)
set -euo pipefail
dir=${1:?usage: image/keys.sh DIRECTORY}
mkdir -p "$dir"
chmod 700 "$dir"
umask 077
make_key() { # make_key NAME SUBJECT
  [ -s "$dir/$1.key" ] && [ -s "$dir/$1.crt" ] && return
  openssl req -new -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -subj "/CN=$2 (TEST KEY, DO NOT SHIP)/" \
    -keyout "$dir/$1.key" -out "$dir/$1.crt" 2>/dev/null
  echo "image: made test key $dir/$1.key" >&2
}
# make_signers ROLE COUNT THRESHOLD: Ed25519 keys and the file of them that the image carries
make_signers() {
  local name public list=()
  [ -s "$dir/$1-keys.json" ] && return
  for number in $(seq "$2"); do
    name=$dir/$1-$number.key
    openssl genpkey -algorithm ed25519 -out "$name" 2>/dev/null
    public=$(openssl pkey -in "$name" -pubout -outform DER | tail -c 32 | base64 -w0)
    list+=("\"$public\"")
  done
  printf '{"v": 1, "test": true, "threshold": %s, "keys": [%s]}\n' "$3" "$(IFS=,; echo "${list[*]}")" >"$dir/$1-keys.json"
  echo "image: made $2 test keys for signing: $1" >&2
}
make_signers release 3 2
make_signers site 1 1
make_key secure-boot "Millrace Secure Boot"
make_key pcr "Millrace PCR policy"
# The modules of other drivers are signed by a key of their own, certified by that of Secure Boot: it may live on the build machine.
if [ ! -s "$dir/modules.crt" ]; then
  openssl req -new -newkey rsa:2048 -nodes -sha256 -subj "/CN=Millrace kernel modules (TEST KEY, DO NOT SHIP)/" \
    -keyout "$dir/modules.key" -out "$dir/modules.csr" 2>/dev/null
  openssl x509 -req -in "$dir/modules.csr" -CA "$dir/secure-boot.crt" -CAkey "$dir/secure-boot.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 -sha256 \
    -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=codeSigning\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid') \
    -out "$dir/modules.crt" 2>/dev/null
  rm -f "$dir/modules.csr"
  echo "image: made test key $dir/modules.key" >&2
fi
