# Sourced by each script here, with the words that all of them are started with: BINARY SOURCE_DIR [RANKS]
# Gives a workspace that is removed at the end, a small text in it, and checks that show what came instead.
set -euo pipefail

binary=$(realpath "$1")
source_dir=$(realpath "$2")
ranks=${3:-1}
tiny=$source_dir/configs/tiny.yaml
workspace=$(mktemp -d)
output=$workspace/output  # what the last command wrote to stdout and stderr
trap 'rm -rf "$workspace"' EXIT
cd "$workspace"
export OMP_NUM_THREADS=1
# Ranks that wait give up the core: other tests run beside these.
export OMPI_MCA_mpi_yield_when_idle=1
unset CONCLAVE_COLUMNS

# Sentences from a small vocabulary: deterministic, and not all alike.
write_text() {
  awk -v bytes="$2" 'BEGIN {
    split("the a one old new ship river stone light king bird sees takes leaves keeps far near often", word)
    state = 7
    for (written = 0; written < bytes; written += length(line)) {
      line = "Verse " ++verse ":"
      for (i = 0; i < 9; ++i) {
        state = (state * 1103 + 12345) % 65536
        line = line " " word[1 + int(state / 16) % 18]
      }
      line = line ".\n"
      printf "%s", line
    }
  }' > "$1"
}
write_text text.txt 20000

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  if [[ -s $output ]]; then
    echo "the last command wrote:" >&2
    sed 's/^/  | /' "$output" >&2
  fi
  exit 1
}

# launch RANKS ARGS...: the program; the time limit is far above any run here, and a hang must not outlast the test.
launch() {
  local count=$1
  shift
  if (( count == 1 )); then
    timeout --kill-after=5 60 "$binary" "$@"
  else
    timeout --kill-after=5 60 "$source_dir/launch/mpirun.sh" "$count" "$binary" "$@"
  fi
}

# expect CODE COMMAND...
expect() {
  local wanted=$1 got=0
  shift
  "$@" > "$output" 2>&1 < /dev/null || got=$?
  (( got == wanted )) || fail "exit code $got, expected $wanted, of: $*"
}

# train CODE RUN [KEY=VALUE...]: on $ranks ranks, the tiny preset on the text, in the directory RUN.
train() {
  local code=$1 run=$2
  shift 2
  expect "$code" launch "$ranks" train "$tiny" "run.dir=$run" "data.train.0.path=$workspace/text.txt" "$@"
}

says() {
  grep --quiet --fixed-strings -e "$1" "$output" || fail "nothing says: $1"
}

says_once() {
  local lines
  lines=$(grep --count --fixed-strings -e "$1" "$output" || true)
  (( lines == 1 )) || fail "$lines lines say: $1"
}

says_not() {
  if grep --quiet --extended-regexp -e "$1" "$output"; then fail "something says: $1"; fi
}

# The values of FIELD in the records of TYPE (step or evaluation) of a run, a line each after its step.
metric() {
  sed --quiet "s/^{\"type\":\"$2\",\"step\":\([0-9]*\),.*\"$3\":\([^,}]*\).*/\1 \2/p" "$1/metrics.jsonl"
}

# same_state A B STEP: parameters, optimizer moments and the losses on the way are equal, bit for bit.
same_state() {
  local name file compared=0
  name=$(printf 'checkpoints/step_%06d' "$3")
  for file in "$1/$name"/*.safetensors; do
    cmp "$file" "$2/$name/${file##*/}" || fail "$file of $1 and $2 differ"
    compared=$((compared + 1))
  done
  (( compared == ranks )) || fail "$compared files of tensors in $1/$name, expected $ranks"
  local field
  for field in tokens loss grad_norm balance_loss z_loss; do
    [[ $(metric "$1" step "$field" | wc -l) -eq $3 ]] || fail "$1 has not one record for each of $3 steps"
    diff <(metric "$1" step "$field") <(metric "$2" step "$field") || fail "$field differs between $1 and $2"
  done
  diff <(metric "$1" evaluation eval_loss | tail -n 1) <(metric "$2" evaluation eval_loss | tail -n 1) ||
    fail "the held-out losses of $1 and $2 differ"
}

# wait_for CONDITION...: until the command succeeds; a minute is more than anything here takes.
wait_for() {
  local attempt
  for (( attempt = 0; attempt < 600; ++attempt )); do
    if "$@" > /dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "waited in vain for: $*"
}
