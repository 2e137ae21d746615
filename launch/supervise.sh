#!/usr/bin/env bash
# Keeps a run going: launch/supervise.sh [OPTION...] -- COMMAND [ARGS...]
#
#   launch/supervise.sh -- launch/mpirun.sh 2 build/conclave train configs/quickstart.yaml run.dir=runs/quickstart
#
#   --dir DIR      run.dir of the run; needed unless COMMAND has a word run.dir=DIR
#   --restarts N   starts after failures without progress, at most (3)
#   --pause S      seconds before the first of them; doubled each time, up to 15 minutes (5)
#
# A run that fails is started again, and goes on from its newest good checkpoint (checkpoint.resume: auto). It has made
# progress when that checkpoint is newer than any before; then counting and pauses begin anew. A run that saved its state
# and asks to be started again (exit 75) is, at once. A run that is done (0) or can't be run as it is configured (78) is
# not. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are passed on, and the run is not started again: with a saved stop the exit
# code is 75. Otherwise it is the command's last.
set -euo pipefail

say() { echo "supervise: $*" >&2; }
usage() {
  say "$1"
  sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

dir=
restarts=3
pause_s=5
while (( $# > 0 )); do
  case $1 in
    --dir | --restarts | --pause)
      (( $# > 1 )) || usage "$1 needs a value"
      if [[ $1 == --dir ]]; then
        dir=$2
      elif [[ ! $2 =~ ^[0-9]+$ ]]; then
        usage "$1 needs a whole number, found $2"
      elif [[ $1 == --restarts ]]; then
        restarts=$2
      else
        pause_s=$2
      fi
      shift 2
      ;;
    --) shift; break ;;
    *) usage "found $1 where an option or -- should stand" ;;
  esac
done
(( $# > 0 )) || usage "no command after --"
for word in "$@"; do
  if [[ -z $dir && $word == run.dir=* ]]; then dir=${word#run.dir=}; fi
done
[[ -n $dir ]] || usage "where the run keeps its checkpoints is unknown: name it with --dir"

first_pause_s=$pause_s
longest_pause_s=900

# The step of the newest checkpoint, -1 without one. Unfinished ones (.tmp) are none.
newest_step() {
  local checkpoint step newest=-1
  for checkpoint in "$dir"/checkpoints/step_*/manifest.pb; do
    step=${checkpoint%/manifest.pb}
    step=${step##*/step_}
    if [[ -e $checkpoint && $step =~ ^[0-9]+$ ]] && (( 10#$step > newest )); then newest=$((10#$step)); fi
  done
  echo "$newest"
}

signal=
process=
pass_on() {
  signal=$1
  say "received SIG$1"
  if [[ -n $process ]]; then kill "-$1" "$process" 2> /dev/null || true; fi
}
for name in TERM INT USR1 USR2; do
  # shellcheck disable=SC2064
  trap "pass_on $name" "$name"
done

# Waits for $process, however many signals arrive meanwhile.
await() {
  status=0
  wait "$process" || status=$?
  while kill -0 "$process" 2> /dev/null; do
    status=0
    wait "$process" || status=$?
  done
}

# In a process group of its own, where a terminal's Ctrl-C arrives by way of this script alone.
set -m
reached=$(newest_step)
failures=0
while true; do
  setpriv --pdeathsig TERM "$@" &
  process=$!
  # A signal that came just before.
  if [[ -n $signal ]]; then kill "-$signal" "$process" 2> /dev/null || true; fi
  await
  process=
  if (( status == 0 )); then exit 0; fi
  if [[ -n $signal ]]; then
    say "the run ended with exit code $status after SIG$signal; not started again"
    exit "$status"
  fi
  if (( status == 78 )); then
    say "exit code 78: the configuration can't be run, and another start would not mend it"
    exit 78
  fi

  step=$(newest_step)
  if (( step > reached )); then
    reached=$step
    failures=0
    pause_s=$first_pause_s
  elif (( failures == restarts )); then
    newer="a checkpoint"
    if (( reached >= 0 )); then newer="a checkpoint newer than step $reached"; fi
    say "exit code $status; $restarts restarts without $newer: giving up"
    exit "$status"
  else
    failures=$((failures + 1))
  fi

  from="from the beginning"
  if (( step >= 0 )); then from="from the newest good checkpoint, step $step"; fi
  if (( status == 75 )); then
    say "exit code 75: the state is saved; starting again at once $from"
    continue
  fi
  say "exit code $status; starting again in $pause_s s $from ($failures of $restarts restarts without progress)"
  sleep "$pause_s" &
  process=$!
  await
  process=
  if [[ -n $signal ]]; then exit 1; fi
  pause_s=$(( pause_s == 0 ? 1 : 2 * pause_s ))
  if (( pause_s > longest_pause_s )); then pause_s=$longest_pause_s; fi
done
