#!/usr/bin/env bash
# optim.zero: 1 keeps a part of the optimizer's state on each rank and changes no bit of a run: not of its steps, and
# not where a checkpoint of one kind is continued as the other.
# usage: sharded_state.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

# same_run A B: the losses and gradient norms of all 20 steps and the held-out losses are equal, bit for bit.
same_run() {
  local field
  for field in loss grad_norm; do
    [[ $(metric "$1" step "$field" | wc -l) -eq 20 ]] || fail "$1 has not one record for each of 20 steps"
    diff <(metric "$1" step "$field") <(metric "$2" step "$field") || fail "$field differs between $1 and $2"
  done
  diff <(metric "$1" evaluation eval_loss | tail -n 1) <(metric "$2" evaluation eval_loss | tail -n 1) ||
    fail "the held-out losses of $1 and $2 differ"
}

# Every rank a copy of the experts, so that their state is shared out too.
copies=(parallel.expert_parallel_size=1)
train 0 whole "${copies[@]}"
train 0 parts "${copies[@]}" optim.zero=1
says "(its part of the state)"
same_run whole parts

train 75 first_parts "${copies[@]}" optim.zero=1 train.stop_after=10
train 0 first_parts "${copies[@]}" optim.zero=0
says "resumed from first_parts/checkpoints/step_000010, step 10"
same_run whole first_parts

train 75 first_whole "${copies[@]}" train.stop_after=10
train 0 first_whole "${copies[@]}" optim.zero=1
same_run whole first_whole
echo "passed on $ranks ranks"
