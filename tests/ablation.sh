#!/bin/sh
# Turns off one rule of the protocol after the other, and shows which promise breaks. With `table`, over more
# worlds, as the table in the documentation.
set -eu
cd "$(dirname "$0")/.."
RUSTC_WORKSPACE_WRAPPER="$PWD/tests/ablation-rustc.sh"
export RUSTC_WORKSPACE_WRAPPER
case "${1-}" in
table) cargo test --locked --all-features --test simulation -- --ignored --nocapture the_table ;;
*) cargo test --locked --all-features --test simulation -- --nocapture no_rule_is_idle ;;
esac
