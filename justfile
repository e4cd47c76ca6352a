# The only entry: CI runs these recipes and nothing else.
set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := env("CARGO_HOME", env("HOME", "/root") / ".cargo") / "bin:" + env("PATH")

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# What can be done here
default:
    @just --list --unsorted

# Build everything that ships, and the test and bench programs
build:
    cargo build --locked --release --workspace --bins

# Run the main job on this machine with real parts, and show that each happened (`--keep` leaves it up)
demo *args: build
    "{{ target }}/release/millrace-demo" {{ args }}

# Every test that needs no special hardware
test *args: build
    cargo test --locked --release --workspace --no-fail-fast {{ args }}

# What a commit must pass: formatting, lints, docs, the dependency rules, the units, what is refused of a vendor
check: fmt-check clippy doc architecture units-verify vendor-check

# Formatting
fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

# Lints; a warning is an error
clippy:
    cargo clippy --locked --release --workspace --all-targets -- -D warnings

# Documentation builds without a warning
doc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --release --workspace --no-deps --lib --document-private-items --quiet

# Who may depend on what: the architecture is a check, not a wish
architecture:
    tests/architecture.sh

# Licences, sources, banned crates (needs cargo-deny: `cargo install --locked cargo-deny`)
deny:
    cargo deny --config .deny.toml check bans licenses sources

# systemd's own opinion of our units
units-verify:
    tests/units.sh
    tests/networks.sh

# A Jetson's packages are taken only as they were locked (made-up packages)
vendor-check:
    tests/image/jetson.sh

# Golden vectors only
vectors: build
    cargo test --locked --release -p millrace-tests --test golden

# Crash and fault simulations only
sim: build
    cargo test --locked --release -p millrace-tests --test sim

# End to end only
e2e: build
    cargo test --locked --release -p millrace-tests --test e2e

# A benchmark: `transcode`, `tickets`, `node` or `signature`; writes target/bench/NAME.json
bench name *args: build
    tests/bench/run.sh {{ name }} {{ args }}

# Feed every parser what libFuzzer invents: all targets, or one, for so many runs each (a million unless told)
fuzz target="all" runs="1000000":
    tests/fuzz/run.sh {{ target }} {{ runs }}

# Against a stock go-livepeer of yours: MILLRACE_GO_LIVEPEER=/path/to/livepeer (not part of CI; docs/interop.md)
interop *args: build
    "{{ target }}/release/millrace-interop" {{ args }}

# What CI runs
ci: check test demo

# Build an appliance image: `x86` (needs root, and ./setup.sh --image)
image profile="x86" *args: build
    image/build.sh {{ profile }} {{ args }}

# Boot the image in emulation: serve, update, roll back, refuse what was tampered with (20 minutes; `--built` keeps the images)
image-test *args: build
    image/test.sh {{ args }}

# The same, then power cuts at random moments, the media that install, the other forms, two builds compared (hours)
image-test-long *args: build
    image/test.sh {{ args }} --long
    image/build.sh installer,x86,test 0.1.0 --built
    image/build.sh factory,x86,test 0.1.0 --built
    tests/image/installer.sh x86,test 0.1.0 several occupied foreign factory install again
    image/build.sh x86-nvidia,test && tests/image/forms.sh nvidia
    image/build.sh x86,dev && tests/image/forms.sh dev
    tests/image/reproducible.sh

# A release of an image, ready to be signed: `just image-release x86 1.2.0 release/`
image-release profile version out *args: build
    image/release.sh {{ profile }} {{ version }} {{ out }} {{ args }}

# Write an image to a device and read it back; refuses the wrong one
flash profile device *args:
    image/flash.sh {{ profile }} {{ device }} {{ args }}
