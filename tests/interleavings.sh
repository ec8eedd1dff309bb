#!/bin/sh
# Lets a few threads take their steps in every order: see src/l1/interleavings/mod.rs.
set -eu
cd "$(dirname "$0")/.."
RUSTC_WORKSPACE_WRAPPER="$PWD/tests/interleavings-rustc.sh"
export RUSTC_WORKSPACE_WRAPPER
cargo test --locked --all-features --lib -- interleavings
