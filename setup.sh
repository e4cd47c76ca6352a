#!/usr/bin/env bash
# Installs what Millrace needs to build, test and run its demo, and only what is missing.
# Works on Debian 12/13 and Ubuntu 24.04, as root or with sudo. Safe to run again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$here/rust-toolchain.toml")
oldest_rust=1.92

usage() {
  cat <<EOF
usage: ./setup.sh [--check] [--image]

Installs, where missing: a C compiler, GStreamer with its plugins, ffmpeg, mosquitto, Node.js, pip, just,
Rust $toolchain, and (below .tools/, from the npm lock file) a local EVM node and the Solidity compiler.

  --check   only say what is missing; exit 1 when something is
  --image   also what builds and boots the appliance image (the rest of that is put into a root of its own)
EOF
}

check_only=false
image=false
for argument in "$@"; do
  case $argument in
    --check) check_only=true ;;
    --image) image=true ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
done

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else
    die "this needs root for: $*  (run as root, or install sudo)"
  fi
}

have apt-get || die "no apt-get: this script knows Debian 12/13 and Ubuntu 24.04. On another system install the packages it names by hand."

# --- packages: a name per line, wanted when its test fails -----------------------------------------------------------
installed() { [ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" = "install ok installed" ]; }
missing=()
want() { # want PACKAGE [COMMAND that makes it unnecessary]
  if [ $# -gt 1 ] && have "$2"; then return; fi
  installed "$1" || missing+=("$1")
}
want ca-certificates
want curl curl
want git git
want gcc cc
want libc6-dev
want make make
want pkg-config pkg-config
want libgstreamer1.0-dev
want libgstreamer-plugins-base1.0-dev
want gstreamer1.0-plugins-base
want gstreamer1.0-plugins-good
want gstreamer1.0-plugins-bad
want gstreamer1.0-plugins-ugly
want gstreamer1.0-libav
want gstreamer1.0-tools gst-inspect-1.0
want ffmpeg ffmpeg
want mosquitto
want openssl openssl
want iproute2 ip
want jq jq
want procps ps
want python3-pip pip3
want systemd systemd-analyze
want nodejs node
want npm npm
if $image; then
  want mmdebstrap mmdebstrap
  want debian-archive-keyring
  want binutils strip
  want util-linux unshare
fi

if [ ${#missing[@]} -gt 0 ]; then
  say "packages to install: ${missing[*]}"
  if ! $check_only; then
    had_mosquitto=true
    installed mosquitto || had_mosquitto=false
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    if ! $had_mosquitto && [ -d /run/systemd/system ]; then
      say "switching off the broker service that came with mosquitto: the demo and the tests start their own"
      as_root systemctl disable --now mosquitto.service >/dev/null 2>&1 || true
    fi
  fi
else
  say "packages: all there"
fi

# --- just ------------------------------------------------------------------------------------------------------------
if have just; then
  say "just: $(just --version)"
elif $check_only; then
  missing+=(just)
else
  if apt-cache show just >/dev/null 2>&1; then
    say "installing just from the distribution"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends just
  else
    say "installing just into /usr/local/bin (Python package rust-just)"
    have pipx || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends pipx python3-venv
    as_root env PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install rust-just
  fi
  have just || die "just was installed but is not found: is /usr/local/bin in PATH?"
fi

# --- Rust ------------------------------------------------------------------------------------------------------------
[ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
rust_is_new_enough() {
  have cargo && have rustc || return 1
  local version
  version=$(cd "$here" && rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
  [ -n "$version" ] && [ "$(printf '%s\n%s\n' "$oldest_rust" "$version" | sort -V | head -n 1)" = "$oldest_rust" ]
}
if have rustup && ! (cd "$here" && rustc --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1); then
  if $check_only; then missing+=("rust-$toolchain"); else
    say "installing Rust $toolchain with rustup"
    rustup toolchain install "$toolchain" --profile minimal --component rustfmt --component clippy
  fi
elif rust_is_new_enough; then
  say "rust: $(cd "$here" && rustc --version)"
elif $check_only; then
  missing+=("rust-$toolchain")
else
  say "installing Rust $toolchain with rustup (into ~/.cargo and ~/.rustup; your shell profile is left alone)"
  installer=$(mktemp)
  if curl --proto '=https' --tlsv1.2 -fsSL --retry 3 https://static.rust-lang.org/rustup/rustup-init.sh -o "$installer" &&
    sh "$installer" -y --no-modify-path --profile minimal --default-toolchain "$toolchain" --component rustfmt --component clippy; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  else
    say "rustup cannot be had; trying the distribution's own Rust"
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -t "$codename-backports" rustc cargo rustfmt rust-clippy ||
      die "no Rust of at least $oldest_rust can be had here: install one from https://rustup.rs, then run this again"
  fi
  rm -f "$installer"
  rust_is_new_enough || die "Rust was installed but is older than $oldest_rust"
fi

# --- the local EVM node and our contracts ----------------------------------------------------------------------------
if $check_only; then
  [ -d "$here/.tools/contracts" ] || missing+=(".tools (EVM node, contracts)")
  if [ ${#missing[@]} -gt 0 ]; then
    say "missing: ${missing[*]}"
    exit 1
  fi
  say "nothing is missing"
  exit 0
fi
"$here/tests/contracts/install.sh"

say "done. Next: just demo   (or: just --list)"
