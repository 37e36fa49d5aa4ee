#!/bin/sh
# Runs every fuzz target for a short while and fails if one crashes.
#
#   fuzz/smoke.sh [SECONDS_PER_TARGET, default 20] [TARGET...]
#
# It installs nothing: where something is missing it says what, and exits 2.
set -eu

cd "$(dirname "$0")"
seconds=${1:-20}
[ $# -eq 0 ] || shift

case $seconds in
'' | *[!0-9]* | 0)
    echo "smoke.sh: '$seconds' is not a number of seconds; usage: smoke.sh [SECONDS] [TARGET...]" >&2
    exit 2
    ;;
esac
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "smoke.sh: cargo-fuzz is missing; install it with 'cargo install cargo-fuzz' and have it in PATH" >&2
    exit 2
fi
if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    echo "smoke.sh: no C++ compiler (libFuzzer is built from source); install g++ or clang, or set CXX" >&2
    exit 2
fi

if [ $# -eq 0 ]; then
    for file in fuzz_targets/*.rs; do
        name=${file##*/}
        set -- "$@" "${name%.rs}"
    done
fi

# Our code has no unsafe code for a sanitizer to watch, and without one a stable compiler builds the targets.
echo "building $# targets"
cargo fuzz build --sanitizer none

failed=
for target in "$@"; do
    mkdir -p "corpus/$target"
    # Golden manifests are good seeds for the target that reads manifests.
    seeds=
    [ "$target" != manifests ] || seeds=../tests/golden
    dictionary=
    [ ! -f "dictionaries/$target.dict" ] || dictionary="-dict=dictionaries/$target.dict"
    echo "== $target, $seconds s"
    log=$(mktemp)
    if cargo fuzz run --sanitizer none "$target" "corpus/$target" $seeds -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 $dictionary \
        >"$log" 2>&1; then
        grep -E 'number_of_executed_units|DONE' "$log" | tail -n 2
    else
        tail -n 60 "$log"
        failed="$failed $target"
    fi
    rm -f "$log"
done

if [ -n "$failed" ]; then
    echo "smoke.sh: crashed:$failed (inputs are in fuzz/artifacts/)" >&2
    exit 1
fi
