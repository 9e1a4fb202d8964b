#!/usr/bin/env bash
# Applies each known bug to a copy of the sources and demands that the simulator finds it.
#
#   raft/src/consensus/sim/known_bugs/check.sh [SEEDS] [NAME...]
#
# SEEDS (default 10000) is how many seeds each bug gets at most. Prints for each the first seed that found it
# and which law it broke, or what does not happen in all of them together. Nothing in the checkout is touched.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../../../.." && pwd)"
seeds="${1:-10000}"
shift || true
[ $# -gt 0 ] || set -- $(cd "$here" && ls ./*.patch | sed 's|^\./||; s|\.patch$||')

copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
git -C "$root" ls-files -z | (cd "$root" && xargs -0 tar cf -) | tar xf - -C "$copy"
export CARGO_TARGET_DIR="${KNOWN_BUGS_TARGET_DIR:-$copy/target}" RAFT_SIM_SEEDS="$seeds" RUST_BACKTRACE=0
# Built once for each bug, so quick building counts as much as quick running.
export CARGO_INCREMENTAL=1 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
cd "$copy"

missed=0
for bug in "$@"; do
  patch -s -p1 < "$here/$bug.patch"
  if ! cargo test -q --release -p raft --lib --no-run > "$copy/build" 2>&1; then
    printf '%-50s does not build\n' "$bug"
    sed -n '/^error/,$p' "$copy/build" | head -20
    missed=$((missed + 1))
  elif cargo test -q --release -p raft --lib -- --nocapture \
    consensus::sim::tests::seeds consensus::sim::tests::a_network > "$copy/out" 2>&1; then
    printf '%-50s MISSED in %s seeds\n' "$bug" "$seeds"
    missed=$((missed + 1))
  elif found="$(grep -m1 '^seed ' "$copy/out")"; then
    printf '%-50s %s\n' "$bug" "$found"
  elif found="$(grep -m1 -oE 'too little happens: .*|[0-9]+ clusters are .*' "$copy/out")"; then
    # No single seed breaks a law, but all together do not do what they should.
    printf '%-50s by the sums: %s\n' "$bug" "$found"
  else
    printf '%-50s failed, but not by a seed:\n' "$bug"
    tail -n 5 "$copy/out"
    missed=$((missed + 1))
  fi
  patch -s -R -p1 < "$here/$bug.patch"
done
[ "$missed" -eq 0 ] || { echo "$missed of $# not found"; exit 1; }
