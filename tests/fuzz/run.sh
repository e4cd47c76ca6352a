#!/usr/bin/env bash
# Runs the fuzz targets: all of them in turn, or one, for so many runs each.
#   tests/fuzz/run.sh [TARGET] [RUNS]
# What is found new is kept in target/fuzz-corpus/TARGET, what breaks in target/fuzz-artifacts/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
want=${1:-all}
runs=${2:-1000000}
# A target that has got slow does not hold up the others for longer than this.
seconds=${MILLRACE_FUZZ_SECONDS:-900}

command -v c++ >/dev/null || { echo "fuzz: libFuzzer is built from source and needs a C++ compiler: apt-get install g++" >&2; exit 69; }
mapfile -t targets < <(sed -n 's/^    ("\([a-z0-9]*\)", [a-z0-9_]*),$/\1/p' tests/fuzz/src/targets.rs)
if [[ $want != all ]]; then
  printf '%s\n' "${targets[@]}" | grep -qx "$want" || { echo "fuzz: no target '$want'; there are: all ${targets[*]}" >&2; exit 64; }
  targets=("$want")
fi

# Coverage counters for all our code, none for build scripts (hence --target). The code under test has no unsafe code of
# its own, so no sanitizer is needed, and with it no nightly toolchain.
triple=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
flags=(-Cpasses=sancov-module -Ccodegen-units=1)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --locked --manifest-path tests/fuzz/Cargo.toml --target "$triple"
program=$CARGO_TARGET_DIR/$triple/release/fuzz

mkdir -p target/fuzz-artifacts
status=0
for target in "${targets[@]}"; do
  found=target/fuzz-corpus/$target
  mkdir -p "$found" "tests/fuzz/corpus/$target"
  log=target/fuzz-artifacts/$target.log
  started=$(date +%s.%N)
  if MILLRACE_FUZZ=$target "$program" "$found" "tests/fuzz/corpus/$target" \
    -runs="$runs" -max_total_time="$seconds" -max_len=16384 -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="target/fuzz-artifacts/$target-" >"$log" 2>&1; then
    result=clean
  else
    result="BROKEN, see $log"
    status=1
  fi
  awk -v target="$target" -v result="$result" -v began="$started" -v ended="$(date +%s.%N)" '
    /stat::number_of_executed_units/ { runs = $2 }
    / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
    END { printf "%-14s %9d runs  %7d/s  cov %5d  %s\n", target, runs, runs / (ended - began), cov, result }' "$log"
done
exit "$status"
