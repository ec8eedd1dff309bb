#!/bin/sh
# Fails when a hit in L1 takes more instructions than so many for each 100 of a hit in moka itself. Needs
# valgrind. Time would depend on what else the machine does; this does not.
set -eu
cd "$(dirname "$0")/.."
run="valgrind --tool=callgrind --callgrind-out-file=/dev/null"

executed() {
    HIT=$1 TIMES=$2 cargo bench --locked --quiet -p benches --bench ratios --config "target.'cfg(all())'.runner='$run'" 2>&1 |
        sed -n 's/.*Collected : //p'
}

# The difference of two runs: without what they need to begin and end.
per_hit() { echo $((($(executed "$1" 60000) - $(executed "$1" 20000)) / 40000)); }

moka=$(per_hit "moka::sync")
echo "moka::sync: $moka"
verdict=0
# What it took when this was written is two to three less.
for case in "46 get_local" "46 get_local, size_advice" "50 get_local, integers" "48 get_local, tags" "45 get" "49 get_or_load"; do
    limit=${case%% *}
    hit=${case#* }
    ours=$(per_hit "$hit")
    echo "$hit: $ours"
    if [ "$ours" -gt $((moka * limit / 100)) ]; then
        echo "more than $limit % of moka's" >&2
        verdict=1
    fi
done
exit $verdict
