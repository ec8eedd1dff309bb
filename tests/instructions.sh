#!/bin/sh
# Fails when a hit in L1, or a request of one caller, takes more instructions than so many for each 100 of a hit in moka
# itself. Needs valgrind. Time would depend on what else the machine does; this does not.
set -eu
cd "$(dirname "$0")/.."
run="valgrind --tool=callgrind --callgrind-out-file=/dev/null"

executed() {
    HIT=$1 TIMES=$2 cargo bench --locked --quiet -p benches --bench ratios --config "target.'cfg(all())'.runner='$run'" 2>&1 |
        sed -n 's/.*Collected : //p'
}

# The difference of two runs, of so many and of three times as many: without what they need to begin and end.
per_one() { echo $((($(executed "$1" $(($2 * 3))) - $(executed "$1" "$2")) / ($2 * 2))); }

moka=$(per_one "moka::sync" 20000)
echo "moka::sync: $moka"
verdict=0
# What a hit took when this was written is two to three less, and what a request took a twentieth.
while read -r limit times what; do
    ours=$(per_one "$what" "$times")
    echo "$what: $ours"
    if [ "$ours" -gt $((moka * limit / 100)) ]; then
        echo "more than $limit % of moka's" >&2
        verdict=1
    fi
done <<CASES
46 20000 get_local
46 20000 get_local, size_advice
50 20000 get_local, integers
48 20000 get_local, tags
45 20000 get
49 20000 get_or_load
2900 1000 L2 hit
7100 1000 insert
10200 1000 load
CASES
exit $verdict
