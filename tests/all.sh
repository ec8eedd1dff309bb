#!/bin/sh
# The checks and tests of every change. Needs Rust; installs redis-server when it is missing. Longer ones are in
# tests/proof.sh and tests/matrix.sh.
set -eu
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v redis-server >/dev/null; then
    step "installing redis-server"
    if command -v apt-get >/dev/null; then
        as_root apt-get update -q
        # Only the program is wanted: the tests start servers of their own.
        as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends redis-server
    elif command -v brew >/dev/null; then
        brew install redis
    else
        echo "install redis-server 7.0 or later, then run this again" >&2
        exit 1
    fi
fi

began=$(date +%s)

step "formatting"
cargo fmt --all --check

step "build, with the lints of Clippy"
RUSTC_WORKSPACE_WRAPPER="$PWD/tests/rustc-clippy.sh"
export RUSTC_WORKSPACE_WRAPPER
cargo build --locked --workspace --all-features --lib --bins --tests

step "without features"
cargo check --locked -p quickstart
built=$(date +%s)

# Of its own, to see what is left in it.
TMPDIR=$(mktemp -d)
export TMPDIR

# Of what tests/proof.sh tests with 5000.
export PROPTEST_CASES="${PROPTEST_CASES:-64}"

# Most tests wait for a server most of the time.
RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((3 * $(getconf _NPROCESSORS_ONLN)))}"
export RUST_TEST_THREADS

step "tests and doctests"
cargo test --locked --workspace --all-features

step "nothing is left in the temporary directory"
left=$(find "$TMPDIR" -mindepth 1)
[ -z "$left" ] || { printf 'left behind:\n%s\n' "$left" >&2; exit 1; }
rmdir "$TMPDIR"

ended=$(date +%s)
printf '\nAll is well: built in %s s, tested in %s s.\n' $((built - began)) $((ended - built))
