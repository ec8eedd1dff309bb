#!/bin/sh
# Measures everything, and makes benches/README.md and its plots out of it. The machine should do nothing else.
set -eu
cd "$(dirname "$0")/.."
data="$PWD/benches/data"
mkdir -p "$data"
# What earlier versions have left there would be reported, too.
rm -rf "${CARGO_TARGET_DIR:-target}/criterion"
cargo bench --locked -p benches --bench ratios -- --json "$data/ratios.json"
cargo bench --locked -p benches --bench cache
cargo bench --locked -p benches --bench fleet -- --json "$data/fleet.json"
(cd benches/peers && cargo run --locked --release -- --out "$data/peers.json")
(cd benches/report && cargo run --locked -- collect)
