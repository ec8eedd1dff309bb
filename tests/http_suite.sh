#!/bin/sh
# The public test suite of HTTP caches against the layer of larder-http, on a real Redis. Needs node, from 14.8.
#
#     git clone https://github.com/http-tests/cache-tests DIR && (cd DIR && npm install --omit=dev)
#     sh tests/http_suite.sh DIR
#
# Prints what fails, and the counts that crates/larder-http/src/cache_tests.md has. It takes about a minute.
set -eu
[ $# -eq 1 ] || { echo "usage: sh tests/http_suite.sh DIR" >&2; exit 2; }
LARDER_HTTP_SUITE=$(cd "$1" && pwd)
export LARDER_HTTP_SUITE
cd "$(dirname "$0")/.."
cargo test --locked -p http_suite --test http_suite -- --ignored --nocapture
