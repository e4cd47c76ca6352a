#!/usr/bin/env bash
# Each power has one owner. Fails when a crate takes one that is not its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail=0
graph=$(cargo metadata --locked --format-version 1 --no-deps)
# only POWER OWNER... : of our shipped crates, only these may depend on POWER directly
only() {
  local power=$1; shift
  local users
  users=$(jq -r --arg power "$power" '
    .packages[] | select(.name != "millrace-tests")
    | select(any(.dependencies[]; .name == $power and (.kind == null)))
    | .name' <<<"$graph" | sort)
  for user in $users; do
    if ! printf '%s\n' "$@" | grep -qx "$user"; then
      echo "architecture: $user depends on $power, which only $* may" >&2
      fail=1
    fi
  done
}
only ethers chain
only sled ledger
only gstreamer millrace-worker
only gstreamer-app millrace-worker
only rumqttc millrace-fleet millrace-controller
only rusqlite millrace-controller
only rcgen orchestrator transcoder millrace-controller millrace-fleet
only landlock sandbox
only seccompiler sandbox
only axum orchestrator millrace-controller millrace-node
only prometheus orchestrator millrace-node
only transcoder millrace-node
only nvml-wrapper millrace-hal
only srt-tokio gateway
only zstd millrace-update millrace-cli
only crypto_box millrace-update millrace-cli
only qrcodegen millrace-update millrace-cli

# never CRATE: nowhere in the whole tree
tree=$(cargo tree --locked --workspace --prefix none --edges normal,build --target all --format '{p}' | sort -u)
never() {
  if grep -q "^$1 v$2" <<<"$tree"; then
    echo "architecture: $1 $2 is in the tree ($3)" >&2
    fail=1
  fi
}
never aws-lc-sys "" "ring is the only crypto provider"
never openssl-sys "" "rustls only"
never native-tls "" "rustls only"
never h2 "0\.3" "old, with advisories"
never ring "0\.16" "old, with advisories"

# The signer sees no chain library and no media; the node no media; the worker no network.
apart() {
  local package=$1; shift
  local below
  below=$(cargo tree --locked -p "$package" --prefix none --edges normal --format '{p}' | awk '{print $1}' | sort -u)
  for other in "$@"; do
    if grep -qx "$other" <<<"$below"; then
      echo "architecture: $package links $other" >&2
      fail=1
    fi
  done
}
apart millrace-signer ethers gstreamer sled hyper rumqttc nvml-wrapper
apart millrace-node gstreamer rumqttc
apart millrace-update ethers gstreamer sled rumqttc nvml-wrapper
apart millrace-worker tokio ethers sled hyper rumqttc
apart gateway gstreamer sled ethers
apart livepeer tokio ethers gstreamer sled
apart ledger tokio ethers gstreamer
apart video-signature tokio gstreamer
apart orchestrator ethers gstreamer rumqttc
apart transcoder ethers gstreamer rumqttc

[ "$fail" = 0 ] && echo "architecture: every power has its one owner"
exit "$fail"
