#!/bin/sh
# Compiles this workspace with the lints of Clippy, as errors. After `cargo clippy`, what the workspace depends on would have
# to be compiled a second time for the tests.
exec clippy-driver "$@" -D warnings
