#!/bin/sh
# Everything that must hold before a change lands. Needs Rust; installs redis-server when it is missing.
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

step "formatting"
cargo fmt --check

step "tests and doctests, with all features; the examples are built on the way"
cargo test --locked --all-features

step "interleavings of threads"
sh tests/interleavings.sh

step "ablation: without any rule of the protocol, a promise breaks"
sh tests/ablation.sh

if command -v valgrind >/dev/null; then
    step "instructions of a hit"
    sh tests/instructions.sh
fi

step "examples"
cargo run --locked --all-features --quiet --example quickstart

step "clippy, with all features, with none, and with each alone"
cargo clippy --locked --all-targets --all-features -- -D warnings
cargo clippy --locked --all-targets -- -D warnings
for feature in json postcard messagepack; do
    cargo clippy --locked --all-targets --features "$feature" -- -D warnings
    cargo test --locked --features "$feature" --lib --test codec
done

step "the report on benches"
(
    cd benches/report
    cargo fmt --check
    cargo test --locked --quiet
    cargo clippy --locked --all-targets -- -D warnings
)

step "the benches of other caches: what they are built from is this crate as it is"
(cd benches/peers && cargo update --workspace --locked)

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --all-features --no-deps

printf '\nAll is well.\n'
