#!/usr/bin/env bash
# What README.md tells the reader to type exists and works: the lines that begin with "$ " in its ```console blocks.
# Commands of the program run on a tiny model in place of the one they name; of other commands the files must exist.
# usage: readme_commands.sh BINARY SOURCE_DIR RANKS
source "${BASH_SOURCE%/*}/common.sh"
readme=$source_dir/README.md

# A line that ends with a backslash goes on in the next one; a comment after two blanks is none of the command's words.
readme_commands() {
  awk '/^```/ { inside = /^```console/; next }
       !inside { next }
       going_on || /^\$ / {
         line = going_on ? line " " $0 : substr($0, 3)
         going_on = sub(/ *\\$/, "", line)
         if (!going_on) { sub(/  +#.*/, "", line); print line }
       }' "$readme"
}

# A run for the commands that need one. A link named as the README's directories stands for each of them.
train 0 trained

# in_place ARGS...: the program, as the README starts it, in a copy of the paths that it names.
in_place() {
  local -a arguments=()
  local word
  for word in "$@"; do
    case $word in
      runs/*) mkdir -p "${word%/*}" && [[ -e $word ]] || ln -s "$workspace/trained" "$word" ;;
    esac
    arguments+=("$word")
  done
  expect 0 "${arguments[@]}"
}

ran=0 skipped=0
skip() {
  echo "not run, $1: $command"
  skipped=$((skipped + 1))
}

# run_program COUNT ARGS...: the arguments after build/conclave.
run_program() {
  local count=$1
  shift
  case $1 in
    train)
      # The configuration and the overrides must be right; the training itself is another test's.
      shift
      local -a overrides=()
      local word
      for word in "${@:2}"; do overrides+=("$word"); done
      expect 0 "$binary" config show "$source_dir/$1" "${overrides[@]}"
      local -a text=()
      train_tiny "$count"
      ;;
    *) in_place launch "$count" "$@" ;;
  esac
}

train_tiny() {
  ranks=$1
  train 0 "readme_$1"
}

while IFS= read -r command; do
  eval "words=($command)"  # as the shell that the reader types it into
  (( ${#words[@]} > 0 )) || continue
  case ${words[0]} in
    launch/mpirun.sh)
      if [[ ${words[2]} == build/conclave ]]; then
        run_program "${words[1]}" "${words[@]:3}"
      else
        skip "not the program"
        continue
      fi
      ;;
    build/conclave) run_program 1 "${words[@]:1}" ;;
    launch/*.sh)
      [[ -x $source_dir/${words[0]} ]] || fail "README.md names ${words[0]}, which is not there"
      skip "it installs, builds or takes minutes (the file is there)"
      continue
      ;;
    git | cd | sudo | ssh | sbatch | srun | mpirun | tensorboard | tail | cmake | ctest | touch | kill)
      skip "not of this tree"
      continue
      ;;
    *) fail "README.md has a command that this test does not know: $command" ;;
  esac
  echo "passed: $command"
  ran=$((ran + 1))
done < <(readme_commands)

echo "$ran commands ran, $skipped did not"
(( ran > 0 )) || fail "README.md has no command of the program in a \`\`\`console block"
