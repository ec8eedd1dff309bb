#!/bin/sh
# Three instances at full load while Redis is killed, paused, flushed, cut off and slowed, and the source fails: for
# MINUTES (2 unless given, and each round takes 2), and then for 2 minutes without this crate. It prints a table, fails if
# a promise was broken, and draws the last round: as target/chaos.svg, or with `keep` as benches/plots/chaos.svg, from
# benches/data/chaos.json. Needs Linux. Other load on the machine makes it slower, and should not make it fail.
#
#   sh tests/chaos.sh [MINUTES] [keep]
set -eu
cd "$(dirname "$0")/.."
minutes=${1:-2}
case ${2:-} in
keep) figures="$PWD/benches/data/chaos.json" plot="$PWD/benches/plots/chaos.svg" ;;
'') figures="$PWD/target/chaos.json" plot="$PWD/target/chaos.svg" ;;
*)
    sed -n 's/^#   /usage: /p' "$0" >&2
    exit 2
    ;;
esac
mkdir -p target
verdict=0
LARDER_MINUTES=$minutes LARDER_JSON=$figures \
    cargo test --locked --release -p chaos --test chaos -- --ignored --nocapture || verdict=$?
(cd benches/report && cargo run --locked --quiet -- chaos "$figures" "$plot")
echo "$plot"
exit $verdict
