#!/usr/bin/env bash
# Bad input ends the program at once: its exit code, each fault once with its place and its remedy, nothing else.
# usage: bad_input.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

# refused CODE FIRST_WORDS: what every refusal has in common.
refused() {
  local code=$1
  shift
  expect "$code" timeout 20 "$@"
  says_once "conclave: "  # one report for all ranks
  says_not "terminate called|Segmentation|\[0x|\.cc:[0-9]|mpirun|MPI_ABORT|^-----"
}
refused_train() {
  local code=$1
  shift
  refused "$code" "${program[@]}" train "$@"
}
program=("$binary")
if (( ranks > 1 )); then program=("$source_dir/launch/mpirun.sh" "$ranks" "$binary"); fi
text=data.train.0.path=$workspace/text.txt
run=(run.dir=run "$text")

refused_train 78 "$tiny" "${run[@]}" moe.top_k=3 moe.experts=2
says_once "command line: moe.top_k: 3 is more than moe.experts, 2"
says "valid: moe.top_k from 1 to 2, or moe.experts of at least 3"

# No GPU, or a build without CUDA: what to do instead is said.
CUDA_VISIBLE_DEVICES='' refused_train 78 "$tiny" "${run[@]}" run.device=cuda
says_once "run.device: cuda, but $ranks of $ranks ranks have no GPU"
says "run.device: cpu runs here"

# All faults at once, each at its place.
cat > faults.yaml <<YAML
base: $tiny
modle:
  layers: 2
moe:
  top_kk: 1
train:
  steps: many
optim:
  lr: -1
YAML
refused_train 78 faults.yaml "${run[@]}" schedule.kind=cosin
says_once "faults.yaml:2:1: modle"
says "model"
says_once "faults.yaml:5:3: moe.top_kk"
says "moe.top_k"
says_once "faults.yaml:7:10: train.steps"
says_once "faults.yaml:9:7: optim.lr"
says_once "command line: schedule.kind"
says "cosine"

printf 'model:\n  layers: [1, 2\ntrain: {steps: 1}\n' > syntax.yaml
refused_train 78 syntax.yaml "${run[@]}"
says_once "syntax.yaml:"

refused_train 78 missing.yaml "${run[@]}"
says "missing.yaml"

if (( ranks == 2 )); then
  refused_train 78 "$tiny" "${run[@]}" parallel.expert_parallel_size=3
  says_once "parallel.expert_parallel_size: 3 does not divide the number of ranks, 2; valid: 1, 2, or auto"
fi

refused_train 1 "$tiny" run.dir=run data.train.0.path=no_such_file.txt
says_once "no_such_file.txt"
says "data.train source 'tiny'"

write_text short.txt 100
refused_train 1 "$tiny" run.dir=run data.train.0.path=short.txt
says_once "short.txt"

touch empty.txt
refused_train 1 "$tiny" run.dir=run data.train.0.path=empty.txt
says_once "empty.txt"

# Below a regular file no directory can be made, not even by root.
touch a_file
refused_train 1 "$tiny" "$text" run.dir=a_file/run
says_once "run.dir a_file/run can't be written"
says "choose another"

# The run directory itself can be written, what it holds can't.
mkdir -p no_logs && touch no_logs/logs
refused_train 1 "$tiny" "$text" run.dir=no_logs
says_once "can't open the log no_logs/logs"
mkdir -p no_metrics/metrics.jsonl
refused_train 1 "$tiny" "$text" run.dir=no_metrics
says_once "can't open no_metrics/metrics.jsonl"

# Not words of the program.
expect 78 timeout 20 "${program[@]}" trian "$tiny"
says "Run with --help"
expect 78 timeout 20 "${program[@]}" train
says_once "config is required"

refused 1 "${program[@]}" eval no_such_run
says_once "no_such_run"

# A damaged checkpoint, and none to fall back to.
train 75 damaged train.stop_after=1
printf x | dd of=damaged/checkpoints/step_000001/rank_00000.safetensors bs=1 seek=20000 conv=notrunc status=none
refused 1 "${program[@]}" eval damaged
says "rank_00000.safetensors"
refused_train 1 "$tiny" "$text" run.dir=damaged
says "rank_00000.safetensors"
echo "passed on $ranks ranks"
