#!/usr/bin/env bash
# inspect on models with a tokenizer: it encodes texts and shows the text of tokens, on the screen, as JSON and on pages.
# usage: inspect_tokens.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"
tokenizers=$source_dir/tests/interop/golden/tokenizers

# trained TOKENIZER RUN [KEY=VALUE...]: a model on text.txt as this tokenizer encodes it.
trained() {
  local tokenizer=$1 run=$2
  shift 2
  expect 0 "$binary" data prepare text.txt --tokenizer "$tokenizer" --out "$run.tokens"
  train_on_ids "$run" "$run.tokens.bin" model.vocab_size=800 "$@"
}
train_on_ids() {
  local run=$1 ids=$2
  shift 2
  expect 0 launch "$ranks" train "$tiny" "run.dir=$run" "data.train.0.path=$ids" data.tokenizer=pretokenized \
    train.steps=4 train.eval_every=0 "$@"
}

printf 'Verse 1: the old king\n\303\274 \346\227\245 <b>' > words.txt
for tokenizer in qwen.json mixtral.json bpe.model; do
  run=run_${tokenizer%.*}
  trained "$tokenizers/$tokenizer" "$run" "data.tokenizer_file=$tokenizers/$tokenizer"
  expect 0 "$binary" inspect "$run" --text words.txt
  says "nats a token"
  # Byte-level BPE keeps the first word as it is, the others put a space before it.
  grep --quiet --extended-regexp '^ 0  (␣?V[a-z]*|␣) +e[0-3] ' "$output" || fail "the first token isn't shown as text"
  grep --quiet --extended-regexp '^ *[0-9]+  (␣the|he|␣th|e) +e[0-3] ' "$output" || fail "no token is a part of 'the'"
  grep --quiet --extended-regexp '^ *[0-9]+  (␣?日|\\xe6|\\x97\\xa5|\\xa5)' "$output" || fail "no token is a part of 日"
  # The tokens, one after the other, are the text.
  expect 0 "$binary" inspect "$run" --text words.txt --json
  joined=$(sed --quiet 's/^{"id":[0-9]*,"text":"\(.*\)","source".*/\1/p' "$output" | tr --delete '\n')
  [[ ${joined#␣} == 'Verse␣1:␣the␣old␣king\\n'*'<b>' ]] || fail "the tokens don't join to the text: $joined"
  # The same ids from a token file.
  expect 0 "$binary" data prepare words.txt --tokenizer "$tokenizers/$tokenizer" --out "$run.words"
  expect 0 "$binary" inspect "$run" --text words="$run.words.bin" --json
  [[ $(sed --quiet 's/^{"id":[0-9]*,"text":"\(.*\)","source".*/\1/p' "$output" | tr --delete '\n') == "$joined" ]] ||
    fail "a token file and its text differ"
  expect 0 "$binary" inspect "$run" --text words.txt --html "$run.html"
  grep --quiet '"has_text":true,"tokens":\[.*ü' "$run.html" || fail "the page doesn't hold the text"
  if grep --quiet '<b>' "$run.html"; then fail "the page has markup of the text"; fi
done
expect 0 "$binary" inspect run_qwen --text text.txt --max-tokens 50
says "text.txt: the first 50 "

# Records of training know the tokenizer too. What isn't there any more is said, and can be named.
cp "$tokenizers/qwen.json" moved.json
trained "$tokenizers/qwen.json" recorded data.tokenizer_file=moved.json log.routing=routing log.routing_every=4
expect 0 "$binary" inspect --routing routing
says "␣"
mv moved.json elsewhere.json
expect 0 "$binary" inspect --routing routing
says "tokens: ids; moved.json, which made them, isn't there"
says_not "␣"
expect 0 "$binary" inspect --routing routing --tokenizer elsewhere.json
says "␣"
expect 1 "$binary" inspect recorded --text words.txt
says "moved.json"
expect 0 "$binary" inspect recorded --text words.txt --tokenizer elsewhere.json
says "␣"

# A model of ids alone shows ids, until it is told what they mean.
trained "$tokenizers/qwen.json" of_ids
expect 0 "$binary" inspect of_ids --text of_ids.tokens.bin --max-tokens 40
says_not "␣"
expect 0 "$binary" inspect of_ids --text of_ids.tokens.bin --max-tokens 40 --tokenizer "$tokenizers/qwen.json"
says "␣"

# Another tokenizer's ids have no place in a small vocabulary, and bytes need no tokenizer.
expect 0 "$binary" data prepare text.txt --tokenizer bytes --out narrow
train_on_ids narrow_run narrow.bin model.vocab_size=256
expect 78 "$binary" inspect narrow_run --text words.txt --tokenizer "$tokenizers/qwen.json"
says "it is not this model's tokenizer"
train 0 bytes_run train.steps=4 train.eval_every=0
expect 78 "$binary" inspect bytes_run --text words.txt --tokenizer "$tokenizers/qwen.json"
says "data.tokenizer_file"
