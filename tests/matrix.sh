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

for feature in "" json postcard messagepack compression encryption tls tls-ring cluster inspect uuid write-behind metrics macros; do
    step "features: ${feature:-none}"
    cargo clippy --locked --all-targets --features "$feature" -- -D warnings
    cargo test --locked --features "$feature" --lib --test codec --test key --test tls_provider
done

step "bincode without messagepack"
cargo clippy --locked --lib --no-default-features --features bincode -- -D warnings
cargo test --locked --no-default-features --features bincode --lib --test codec --test named_codec

# All but bincode, which is on by default.
features=json,postcard,messagepack,compression,encryption,tls-ring,cluster,inspect,uuid,write-behind,metrics,macros,unstable-store
for feature in "" json postcard messagepack compression encryption write-behind "$features"; do
    step "without bincode, features: ${feature:-none}"
    cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
    cargo test --locked --no-default-features --features "$feature" --test named_codec
done
if cargo tree --locked --edges normal --no-default-features --features "$features" | grep bincode; then
    echo "bincode is built without its feature" >&2
    exit 1
fi

msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
step "Rust $msrv"
if ! command -v rustup >/dev/null; then
    skip "Rust $msrv: there is no rustup"
elif ! rustup toolchain install "$msrv" --profile minimal --no-self-update; then
    skip "Rust $msrv: rustup cannot install it"
else
    cargo "+$msrv" check --locked --lib
    cargo "+$msrv" check --locked --lib \
        --features json,postcard,messagepack,compression,encryption,tls-ring,cluster,inspect,uuid,write-behind,metrics,macros
    cargo "+$msrv" check --locked -p larder-store-tests --lib --features write-behind
    cargo "+$msrv" check --locked -p larder-admin -p larder-http --lib
    # Without sqlx 0.9, which needs a later one.
    cargo "+$msrv" check --locked -p larder-outbox --lib --features metrics,rusqlite,sqlx-0_8
fi

# Of the crate as it is published, without the dependencies of its tests, which ask for later versions.
step "the lowest versions of dependencies"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
lowest=$(mktemp -d)
cargo package --locked --allow-dirty --no-verify --quiet -p larder -p larder-macros -p larder-admin -p larder-http -p larder-outbox
for package in larder larder-macros larder-admin larder-http larder-outbox; do
    mkdir "$lowest/$package"
    tar -xzf "target/package/$package-$version.crate" -C "$lowest/$package" --strip-components 1
done
(
    CARGO_TARGET_DIR="$PWD/target/lowest"
    export CARGO_TARGET_DIR
    for package in larder larder-admin larder-http larder-outbox; do
        cd "$lowest/$package"
        awk '/^\[/ { of_tests = /dev-dependencies/ || /^\[\[test/ } !of_tests' Cargo.toml >without_tests.toml
        mv without_tests.toml Cargo.toml
        printf '[patch.crates-io]\nlarder-macros = { path = "../larder-macros" }\n' >>Cargo.toml
        [ "$package" = larder ] || echo 'larder = { path = "../larder" }' >>Cargo.toml
        rm Cargo.lock
        # The variable allows the option, which is unstable, on stable Rust. All else is stable.
        RUSTC_BOOTSTRAP=1 cargo -Z direct-minimal-versions generate-lockfile --quiet
        cargo check --locked --lib
        cargo check --locked --lib --all-features
    done
)
rm -r "$lowest"

width=i686-unknown-linux-gnu
step "32 bits: $width"
if ! [ -d "$(rustc --print target-libdir --target "$width")" ]; then
    skip "32 bits: Rust has no $width (rustup target add $width)"
elif ! echo 'int main(void) { return 0; }' | cc -m32 -x c -o /dev/null - 2>/dev/null; then
    # What is compiled from C is left out.
    cargo check --locked --lib --target "$width"
    skip "the tests in 32 bits: cc makes no programs of 32 bits (on Debian: apt-get install gcc-multilib)"
else
    cargo clippy --locked --lib --all-features --target "$width" -- -D warnings
    cargo test --locked --lib --test codec --test key --all-features --target "$width"
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
RUSTDOCFLAGS="-D warnings" cargo doc --locked --all-features --no-deps -p larder -p larder-macros -p larder-admin -p larder-http -p larder-outbox -p larder-store-tests

step "the benches, and the tests that have a script of their own"
cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
cargo bench --locked -p benches --bench cache -- --test
cargo bench --locked -p benches --bench ratios -- --quick
cargo bench --locked -p benches --bench policies -- --quick
cargo bench --locked -p benches --bench policies -- --advice --quick loop
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

# To run them: sh tests/proof.sh databases.
step "the tests of the outbox by sqlx 0.8"
(
    cd tests/sqlx_0_8
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
