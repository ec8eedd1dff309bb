#!/bin/sh
# Compiles this workspace with the lints of Clippy, as errors. After `cargo clippy`, what the workspace depends on would have
# to be compiled a second time for the tests.
# The messages for crates/larder-macros/tests/ui are those of rustc: in Clippy's, all names are paths.
if [ "${CARGO_PKG_NAME-}" = larder-macros-tests ]; then exec "$@"; fi
exec clippy-driver "$@" -D warnings
