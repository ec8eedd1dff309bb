#!/bin/sh
# What a change seldom breaks: other features, another compiler, licences, documentation, the tools of the benches, fuzzing,
# instructions. Before a release, and when one of these has changed. What a machine cannot run is named and skipped.
set -eu
cd "$(dirname "$0")/.."

skipped=""
step() { printf '\n== %s\n' "$*"; }
skip() {
    echo "skipped: $*"
    skipped="$skipped
  $*"
}

for feature in "" json postcard messagepack compression encryption tls cluster uuid outbox-rusqlite outbox-sqlx write-behind metrics http; do
    step "features: ${feature:-none}"
    cargo clippy --locked --all-targets --features "$feature" -- -D warnings
    cargo test --locked --features "$feature" --lib --test codec --test key
done

msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
step "Rust $msrv"
if ! command -v rustup >/dev/null; then
    skip "Rust $msrv: there is no rustup"
elif ! rustup toolchain install "$msrv" --profile minimal --no-self-update; then
    skip "Rust $msrv: rustup cannot install it"
else
    cargo "+$msrv" check --locked --lib
    # All but outbox-sqlx, as sqlx needs a later one.
    cargo "+$msrv" check --locked --lib \
        --features json,postcard,messagepack,compression,encryption,tls,cluster,uuid,outbox-rusqlite,write-behind,metrics,http
    cargo "+$msrv" check --locked -p larder-store-tests --lib --features write-behind
fi

step "licences and advisories"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked --all-features check bans licenses sources
    if cargo deny --all-features fetch db; then
        cargo deny --locked --all-features check advisories
    else
        skip "advisories: their database cannot be fetched"
    fi
else
    skip "licences and advisories: there is no cargo-deny (cargo install --locked cargo-deny)"
fi

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --all-features --no-deps -p larder -p larder-store-tests

step "the benches, and the tests that have a script of their own"
cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
cargo bench --locked -p benches --bench cache -- --test
cargo bench --locked -p benches --bench ratios -- --quick
cargo bench --locked -p benches --bench fleet -- --quick

step "the report on benches"
(
    cd benches/report
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test --locked --quiet
)

step "the benches of other caches"
(
    cd benches/peers
    # What they are built from is this crate as it is.
    cargo update --workspace --locked
    cargo fmt --check
    cargo check --locked
)

# To run them: sh tests/proof.sh page.
step "the tests of the shop's page"
(
    cd tests/page
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
)

# To run them: fuzz/README.md.
step "the fuzz targets"
(
    cd fuzz
    cargo fmt --check
    RUSTFLAGS="--cfg fuzzing" cargo check --locked
)

step "instructions of a hit"
if command -v valgrind >/dev/null; then
    sh tests/instructions.sh
else
    skip "instructions of a hit: there is no valgrind"
fi

printf '\nAll is well%s\n' "${skipped:+, but for what was skipped:$skipped}"
