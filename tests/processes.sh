#!/bin/sh
# Every fault there is, on real processes and a real Redis, while clients are watched.
set -eu
cd "$(dirname "$0")/.."
# Cargo builds no examples for a single test.
cargo build --locked --all-features --example instance
cargo test --locked --all-features --test processes -- --include-ignored
