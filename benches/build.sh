#!/bin/sh
# What a service with many types of values takes to build, beside one whose caches are made by hand from moka,
# deadpool-redis and bincode: seconds, and megabytes of the program. Dependencies are built before and do not count.
# `sh benches/build.sh` compares one type with ten, `sh benches/build.sh 5` with five. On a machine that does nothing else.
set -eu
cd "$(dirname "$0")/.."
here=$PWD
most=${1:-10}
services=$here/target/build-cost/services
export CARGO_TARGET_DIR="$here/target/build-cost"

# Writes a service with so many types of values.
service() {
    name=$1_$2
    mkdir -p "$services/$name/src"
    sed -e "s/name = \"compile_cost\"/name = \"$name\"/" -e '/^edition.workspace/c edition = "2024"' \
        -e '/^rust-version.workspace/d' -e '/^autobins/d' -e "s|path = \"../..\"|path = \"$here\"|" \
        -e 's/"macros", "rt"/"macros", "rt-multi-thread"/' -e '/^\[dev-dependencies\]/,$d' \
        tests/compile_cost/Cargo.toml >"$services/$name/Cargo.toml"
    printf '\n[workspace]\n' >>"$services/$name/Cargo.toml"
    cp "Cargo.lock" "$services/$name/Cargo.lock"
    cp "tests/compile_cost/bins/$1.rs" "$services/$name/src/$1.rs"
    {
        printf '#[macro_use]\nmod %s;\n' "$1"
        for n in $(seq "$2"); do printf 'cache_of!(type_%s, u%s);\n' "$n" $((8 << n % 4)); done
        printf '#[tokio::main]\nasync fn main() -> Result<(), Box<dyn std::error::Error>> {\n'
        for n in $(seq "$2"); do printf '    Box::pin(type_%s::run()).await?;\n' "$n"; done
        printf '    Ok(())\n}\n'
    } >"$services/$name/src/main.rs"
}

# Seconds of a build of one service.
build() {
    began=$(date +%s.%N)
    (cd "$services/$1" && cargo build --quiet --offline $2)
    echo "$(date +%s.%N) $began" | awk '{ printf "%.2f", $1 - $2 }'
}

printf '%-10s %6s %16s %16s %12s\n' caches types 'after an edit, s' 'optimized, s' 'program, MB'
for kind in larder by_hand; do
    for types in 1 "$most"; do
        name=${kind}_$types
        service "$kind" "$types"
        build "$name" "" >/dev/null
        build "$name" --release >/dev/null
        sed -i.former 's/price: 3/price: 4/' "$services/$name/src/$kind.rs"
        edited=$(build "$name" "")
        (cd "$services/$name" && cargo clean --quiet --offline --release --package "$name")
        optimized=$(build "$name" --release)
        bytes=$(wc -c <"$CARGO_TARGET_DIR/release/$name")
        megabytes=$(echo "$bytes" | awk '{ printf "%.1f", $1 / 1e6 }')
        printf '%-10s %6s %16s %16s %12s\n' "$kind" "$types" "$edited" "$optimized" "$megabytes"
    done
done
