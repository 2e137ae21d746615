# Sourced by each script here, with the words that all of them are started with: BINARY SOURCE_DIR RANKS HELPER
# Gives what the integration tests have, and a line in the table of faults.
helper=$(realpath "$4")
source "${BASH_SOURCE%/*}/../integration/common.sh"

# verdict FAULT TEXT
verdict() {
  echo "$1: $2"
  if [[ -n ${FAULT_VERDICTS:-} ]]; then printf '%s\t%s\n' "$1" "$2" >> "$FAULT_VERDICTS"; fi
}

# The ranks of this test that run, as lines "RANK PROCESS".
rank_processes() {
  local process rank
  for process in /proc/[0-9]*; do
    if [[ $(readlink "$process/cwd") == "$workspace" ]] &&
       rank=$(tr '\0' '\n' < "$process/environ" | sed --quiet 's/^OMPI_COMM_WORLD_RANK=//p') && [[ -n $rank ]]; then
      echo "$rank ${process#/proc/}"
    fi
  done 2> /dev/null
}

# whole RUN: verify finds no fault in any of its checkpoints.
whole() {
  expect 0 "$binary" checkpoint verify "$1"
}
