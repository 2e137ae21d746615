#!/usr/bin/env bash
# What README.md tells the reader to type exists and works: the lines that begin with "$ " in its ```console blocks.
# Commands of the program run, on a tiny model in place of runs/... and a tiny text in place of data/...; of training
# the configuration is checked. The rest is not run, with the reason printed; the files that it names must be there.
# usage: readme_commands.sh BINARY SOURCE_DIR RANKS [README]
source "${BASH_SOURCE%/*}/common.sh"
readme=${4:-$source_dir/README.md}
[[ -e $readme ]] || fail "there is no $readme"

# A backslash at the end of a line joins the next one to it. Comments, and what follows a pipe, are left out.
readme_commands() {
  awk '/^```/ { inside = /^```console/; next }
       inside && (going_on || /^\$ /) {
         line = going_on ? line " " $0 : substr($0, 3)
         going_on = sub(/ *\\$/, "", line)
         if (going_on) next
         sub(/ +# .*/, "", line)
         sub(/ (\||>|&&|&)( .*)?$/, "", line)
         print line
       }' "$readme"
}

train 0 trained model.layers=4 log.routing=trained/routing log.routing_every=10
ln -s "$source_dir/configs" configs
mkdir runs data

# Puts something in place of the runs and texts that the words name.
provide() {
  local word
  for word in "$@"; do
    word=${word#*=}
    case $word in
      runs/*) ln -sfn "$workspace/trained" "runs/$(cut -d / -f 2 <<< "$word")" ;;
      data/*.txt) ln -sf "$workspace/text.txt" "$word" ;;
    esac
  done
}

# run COUNT ARGS...: the program on so many ranks.
run() {
  local count=$1
  shift
  provide "$@"
  set -- "${@/step_[0-9][0-9][0-9][0-9][0-9][0-9]/step_000020}"
  case "$1 ${2:-}" in
    train\ *) expect 0 "$binary" config show "${@:2}" ;;
    "config diff") expect 1 "$binary" "$@" ;;  # 1: they differ
    *) expect 0 launch "$count" "$@" ;;
  esac
}

ran=0
while IFS= read -r command; do
  words=()
  eval "words=($command)" || fail "can't take this command of $readme apart: $command"
  while (( ${#words[@]} > 0 )) && [[ ${words[0]} =~ ^[A-Z_]+= ]]; do words=("${words[@]:1}"); done
  (( ${#words[@]} > 0 )) || continue

  for word in "${words[@]}"; do
    if [[ $word =~ ^(\./)?(launch|configs|docs|tests|\.ci)/ && ! -e $source_dir/$word ]]; then
      fail "$readme: there is no $word: $command"
    fi
  done

  reason=
  case ${words[0]#./} in
    build/conclave) run 1 "${words[@]:1}" ;;
    launch/mpirun.sh)
      if [[ ${words[2]} == build/conclave ]]; then run "${words[1]}" "${words[@]:3}"; else reason="not the program"; fi
      ;;
    launch/* | .ci/run | cmake | ctest) reason="installs, builds or takes minutes" ;;
    mpirun | srun | sbatch | ssh) reason="needs a cluster" ;;
    git | cd | sudo | apt-get | tensorboard | tail | head | cat | less | touch | kill)
      reason="no command of this tree"
      ;;
    *) fail "$readme has a command that this test does not know: $command" ;;
  esac
  if [[ -n $reason ]]; then
    echo "not run, $reason: $command"
  else
    echo "passed: $command"
    ran=$((ran + 1))
  fi
done < <(readme_commands)

(( ran > 0 )) || fail "$readme has no command of the program in a \`\`\`console block"
echo "$ran commands ran"
