#!/usr/bin/env bash
# A run may continue on another number of ranks: the next steps agree up to rounding.
# usage: other_ranks.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"
many=$ranks

# close A B FROM TO: the losses of these steps differ by at most 1e-5.
close() {
  paste -d ' ' <(metric "$1" step loss) <(metric "$2" step loss) | awk -v from="$3" -v to="$4" '
    $1 >= from && $1 <= to { ++compared; error = $2 - $4; if (error < 0) error = -error
                             if ($1 != $3 || error > 1e-5) { print "step " $1 ": " $2 " and " $4; exit 1 } }
    END { if (compared != to - from + 1) { print compared + 0 " steps"; exit 1 } }' ||
    fail "the losses of $1 and $2 differ"
}

ranks=$many
train 75 start train.stop_after=10
cp -r start stayed
cp -r start moved
train 75 stayed train.stop_after=12
ranks=1
train 75 moved train.stop_after=12
says "resumed from moved/checkpoints/step_000010, step 10"
close stayed moved 1 12

# And back: from one rank to many.
cp -r moved alone
train 0 alone
ranks=$many
train 0 moved
says "resumed from moved/checkpoints/step_000012, step 12"
close alone moved 1 14
echo "passed"
