#!/bin/sh
# The format, clippy, and a check of the crate without features. Builds nothing that tests/all.sh could use.
set -eu
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "formatting"
cargo fmt --all --check

step "clippy"
cargo clippy --locked --workspace --all-features --lib --bins --tests -- -D warnings

step "without features"
cargo check --locked -p quickstart
