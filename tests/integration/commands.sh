#!/usr/bin/env bash
# Every command, on a tiny model, as a user types it.
# usage: commands.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"

# Help and version.
expect 0 "$binary" --version
grep --quiet --extended-regexp '^conclave [0-9]+\.[0-9]+\.[0-9]+' "$output" || fail "--version names no version"
expect 0 "$binary" --help
commands=(train eval generate inspect report config checkpoint doctor)
for command in "${commands[@]}"; do says "$command"; done
says "Exit codes: 0 done"
for command in "${commands[@]}" "config show" "config explain" "config diff" "config schema" "checkpoint inspect"; do
  # shellcheck disable=SC2086  # two words
  expect 0 "$binary" $command --help
  says "Usage:"
done

# train: what it prints, and what it leaves. A pipe gets plain lines, with NO_COLOR and without.
NO_COLOR=1 train 0 run log.tensorboard=true log.every=2
says_not $'\x1b|\r'
train 0 plain_run
says_not $'\x1b|\r'
says "held-out loss"
says "done: 20 steps; the run is in plain_run"
# On a terminal there is a bar, in colours unless NO_COLOR asks for none.
on_terminal() {
  expect 0 env "$@" TERM=xterm script --quiet --return --command \
    "stty cols 100; '$binary' train '$tiny' run.dir=on_terminal_$1 data.train.0.path=text.txt" /dev/null
  says "100%  20/20"
}
if script --quiet --return --command true /dev/null > /dev/null 2>&1; then
  on_terminal COLOURS=yes
  says $'\x1b[32m'
  on_terminal NO_COLOR=1
  says_not $'\x1b\\[[0-9;]*m'
else
  echo "skipped: the bar on a terminal: this machine gives out no pseudo-terminals"
fi

for field in tokens loss balance_loss z_loss lr grad_norm step_ms tokens_per_second load_imbalance dropped_fraction \
             exchange_fraction; do
  values=$(metric run step "$field" | awk '$2 ~ /^-?[0-9.]+(e[-+][0-9]+)?$/' | wc -l)
  (( values == 10 )) || fail "$values numbers for $field in metrics.jsonl, expected one every second step"
done
for field in eval_loss bits_per_byte; do
  [[ $(metric run evaluation "$field" | cut -d ' ' -f 1 | paste -sd ' ') == "10 20" ]] ||
    fail "no $field at steps 10 and 20"
  grep --quiet "\"${field}_by_source\":{\"tiny\":" run/metrics.jsonl || fail "no $field by source"
done
# It learns: random bytes cost log(256) = 5.545 nats.
metric run step loss | awk 'NR == 1 { first = $2 } END { exit !(first > 5.3 && $2 < first - 0.5) }' ||
  fail "the loss does not fall: $(metric run step loss | paste -sd ' ')"
compgen -G "run/tensorboard/events.out.tfevents.*" > /dev/null || fail "there is no TensorBoard file"
[[ ! -e plain_run/tensorboard ]] || fail "log.tensorboard=false writes a TensorBoard file"
[[ -s run/logs/rank_0.log ]] || fail "there is no log"

# eval: the loss of the run's end.
expect 0 "$binary" eval run
says "run/checkpoints/step_000020, step 20"
bits=$(metric run evaluation bits_per_byte | tail -n 1 | awk '{ printf "%.3f", $2 }')
says "$bits"

# generate: the most probable text, and the same text from the same seed.
generate() {
  "$binary" generate run --prompt "Verse 1: the " --tokens 40 "$@" > "$workspace/generated"
  [[ $(head --bytes 13 generated) == "Verse 1: the " ]] || fail "the text does not begin with the prompt"
  (( $(stat --format %s generated) == 13 + 40 + 1 )) || fail "not 40 bytes were written"
  cat generated
}
generate --temperature 0 > greedy_1
generate --temperature 0 --seed 9 > greedy_2
cmp greedy_1 greedy_2 || fail "temperature 0 is not deterministic"
generate --seed 5 > seed_5
generate --seed 5 > seed_5_again
cmp seed_5 seed_5_again || fail "the same seed writes different text"
generate --seed 6 --top-p 0.9 --top-k 50 > seed_6
if cmp --silent seed_5 seed_6; then fail "different seeds write the same text"; fi
# Longer than the context.
expect 0 "$binary" generate run --prompt-ids 84,104,101 --tokens 50
(( $(head -n 1 "$output" | wc -w) >= 50 )) || fail "fewer than 50 token ids"

# inspect: a text, in tables, as JSON and as a page. A pipe gets no colours.
printf 'He said: "<b>3 & 4</b>"\n\303\274 \377\n' > odd.txt
expect 0 "$binary" inspect run --text odd.txt
says "run/checkpoints/step_000020, step 20"
says "token  layer 0"
says "\\xff"
grep --quiet --extended-regexp '^ 0  H      e[0-3] [.0-9]+ e[0-3] [.0-9]+  e[0-3] [.0-9]+ e[0-3] [.0-9]+$' "$output" ||
  fail "no line shows the experts of the first byte"
says_not $'\x1b'
expect 0 "$binary" inspect run --text odd=odd.txt --text verses=text.txt --max-tokens 300 --layers 1 --html pages/inspect.html
says "the first 300 of"
says "Specialisation"
says "wrote pages/inspect.html"
says_not "layer 0"
if grep --quiet -e '<b>' -e 'src=' pages/inspect.html; then fail "the page has markup of the text, or loads something"; fi
expect 0 "$binary" inspect run --text odd.txt --json
(( $(grep --count '^{"id":' "$output") == $(stat --format %s odd.txt) )) || fail "the JSON has not a line for each byte"
expect 0 "$binary" inspect run --text odd.txt --summary
says_not "^token"
expect 78 "$binary" inspect run
says "give a checkpoint and --text FILE"
expect 78 "$binary" inspect run --text odd.txt --layers 0,7
says "--layers names 7; the MoE layers are 0, 1"
expect 1 "$binary" inspect no_such_run --text odd.txt
says "no_such_run: no checkpoint there"
expect 1 "$binary" inspect run --text no_such_text.txt
says "no_such_text.txt"
: > empty.txt
expect 1 "$binary" inspect run --text empty.txt
says "empty.txt is empty"
train 0 dense moe.experts=0
expect 1 "$binary" inspect dense --text odd.txt
says "it has no MoE layer"

# Records of training steps. One that can't be written is reported, and training goes on.
train 0 recorded log.routing=recorded/routing log.routing_every=8
[[ $(cd recorded/routing && echo *) == "step_000008.safetensors step_000016.safetensors" ]] ||
  fail "records of other steps: $(ls recorded/routing)"
expect 0 "$binary" inspect --routing recorded/routing --html routing.html
says "Load over the recorded steps"
expect 0 "$binary" inspect --routing recorded/routing/step_000008.safetensors --max-tokens 5
says "step_000008.safetensors, training step 8"
says "global batch: 8 sequences of 32 tokens"
cut -c 1-15 text.txt > short_lines.txt
expect 0 "$binary" train "$tiny" run.dir=by_line data.train.0.path=short_lines.txt data.samples=lines \
  log.routing=by_line/routing log.routing_every=20
expect 0 "$binary" inspect --routing by_line/routing
says "  pad  "
expect 1 "$binary" inspect --routing run
says "log.routing"
train 0 unwritable log.routing=text.txt log.routing_every=8
says "step_000008.safetensors was not written"
says "done: 20 steps"

# report: written when a run ends, and by its command.
[[ -s run/report.html ]] || fail "the run wrote no report.html"
rm run/report.html
expect 0 "$binary" report run
says "wrote run/report.html"
grep --quiet 'eval_loss\|"evaluations"' run/report.html || fail "the report has no evaluations"
expect 0 "$binary" report run --html elsewhere.html
[[ -s elsewhere.html ]] || fail "report --html wrote nothing"
expect 1 "$binary" report no_such_run
says "no_such_run/metrics.jsonl: there is no record of a run"

# config
expect 0 "$binary" config show "$tiny" moe.top_k=1
says "top_k: 1"
"$binary" config show "$tiny" > shown.yaml
"$binary" config show shown.yaml > shown_again.yaml
cmp shown.yaml shown_again.yaml || fail "what config show prints is not what it reads"
for preset in "$source_dir"/configs/*.yaml; do expect 0 "$binary" config show "$preset"; done
expect 0 "$binary" config explain
says "moe"
expect 0 "$binary" config explain moe.capacity_factor
says "dropless"
expect 78 "$binary" config explain moe.topk
says "moe.top_k"
sed 's/top_k: 2/top_k: 1/' shown.yaml > changed.yaml
expect 1 "$binary" config diff shown.yaml changed.yaml
says_once "moe.top_k: 2 -> 1"
expect 0 "$binary" config diff shown.yaml shown_again.yaml
says "no differences"
expect 0 "$binary" config schema
says '"$schema"'

# checkpoint, doctor
expect 0 "$binary" checkpoint inspect run
for word in "run/checkpoints/step_000020" "embedding.weight" "layers.0.moe" "rank_00000.safetensors" "top_k: 2"; do
  says "$word"
done
expect 1 "$binary" checkpoint inspect no_such_run
says "no_such_run: no checkpoint there"
expect 0 "$binary" doctor
says "GFLOP/s"
says "cuda         "
says "nccl         "
echo "passed"
