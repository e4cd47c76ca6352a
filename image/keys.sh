#!/usr/bin/env bash
# Makes the keys an image is signed with, for TESTS: whoever has this machine has them. Product keys come from the
# ceremony in image/KEYS.md and are given to `just image` as MILLRACE_IMAGE_KEYS.
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
make_key secure-boot "Millrace Secure Boot"
make_key pcr "Millrace PCR policy"
