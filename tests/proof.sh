#!/bin/sh
# The long tests, optimized: before a change of src lands. `sh tests/proof.sh` runs all parts of it; arguments choose
# some:
#
#   worlds         simulated worlds: LARDER_SEEDS, 0..500 unless it is set
#   ablation       each rule of the protocol turned off: a promise has to break
#   interleavings  a few threads' steps in every order: LOOM_MAX_PREEMPTIONS, 2 unless it is set
#   processes      every fault on real processes and a real Redis
#   tests          the tests of tests/all.sh that are longer than it allows, and PROPTEST_CASES, 5000 unless it is set
#   table          what the documentation says of ablation; not part of all
set -eu
cd "$(dirname "$0")/.."

run() { cargo test --locked --all-features --profile proof "$@"; }

# Compiles this crate, and not what it depends on, with a --cfg of its own.
run_with_cfg() (
    RUSTC_WORKSPACE_WRAPPER="$PWD/tests/rustc-$1.sh"
    export RUSTC_WORKSPACE_WRAPPER
    shift
    run "$@"
)

part() {
    case $1 in
    worlds) LARDER_SEEDS=${LARDER_SEEDS:-0..500} run --test simulation -- --nocapture ;;
    ablation) run_with_cfg ablation --test simulation -- --nocapture no_rule_is_idle ;;
    interleavings) run_with_cfg interleavings --lib -- interleavings ;;
    processes)
        # Cargo builds no examples for a single test.
        cargo build --locked --all-features --profile proof --example instance
        run --test processes -- --include-ignored
        ;;
    tests)
        PROPTEST_CASES=${PROPTEST_CASES:-5000} run --test codec --test key
        run --test cache -- --ignored
        ;;
    table) run_with_cfg ablation --test simulation -- --ignored --nocapture the_table ;;
    *)
        echo "no such part: $1" >&2
        sed -n 's/^#   /  /p' "$0" >&2
        return 2
        ;;
    esac
}

if [ $# = 0 ]; then set -- worlds ablation interleavings processes tests; fi
began=$(date +%s)
for name in "$@"; do
    printf '\n== %s\n' "$name"
    part "$name"
done
printf '\nProven in %s s: %s.\n' $(($(date +%s) - began)) "$*"
