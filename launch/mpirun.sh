#!/usr/bin/env bash
# Runs a program on N ranks of this machine: launch/mpirun.sh N PROGRAM [ARGS...]
# Open MPI refuses to start as root (containers) and on more ranks than cores, and binds each rank to one core at
# N = 2; this adds the options that lift all three. Each rank gets its share of the cores as OpenMP threads. With GPUs,
# N is their number: every rank sees all of them and takes its own (launch/mpirun.sh 8 build/conclave train ...).
#
# SIGTERM and SIGINT (Ctrl-C) ask the ranks to save and stop; a second one ends them at once. SIGUSR1 and SIGUSR2
# are passed on. The exit code is the program's.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/mpirun.sh RANKS PROGRAM [ARGS...]" >&2
  exit 2
fi
ranks=$1
shift

options=(--bind-to none --oversubscribe)
if [[ $(id -u) -eq 0 ]]; then options+=(--allow-run-as-root); fi
# Once a rank has failed, mpirun ends the others: at once, not after the second that it would leave them.
options+=(--mca odls_base_sigkill_timeout 0)

cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( cores > ranks ? cores / ranks : 1 ))}
options+=(-x OMP_NUM_THREADS)  # to other machines, where the environment names some
# Waiting ranks must give up the core where ranks outnumber cores.
if (( ranks > cores )); then export OMPI_MCA_mpi_yield_when_idle=1; fi
# mpirun hides from its ranks whether a terminal reads their output.
if [[ -t 1 ]]; then
  CONCLAVE_COLUMNS=$(tput cols 2> /dev/null || echo 80)
  export CONCLAVE_COLUMNS
fi

# A rank that ends the job has said why; what mpirun adds about exit codes and aborts, in paragraphs between two rules,
# is left out. What it says about a rank that was killed stays.
rule='^-{74}$'
chatter='Per user-direction|exited with non-zero status|MPI_ABORT was invoked'
notes='^mpirun: Forwarding signal|^\[[^]]*\] .*(sent help message|orte_base_help_aggregate|show_help\.c)'
exec {errors}> >(trap "" TERM INT; exec sed -Eu "/$rule/{:more;N;/\n${rule#^}/!bmore;/$chatter/d};/$notes/d" >&2)
filter=$!

# In a process group of its own, where a terminal's Ctrl-C doesn't reach it; and ended if this script is killed.
set -m
setpriv --pdeathsig TERM mpirun "${options[@]}" -np "$ranks" "$@" < /dev/null 2>&"$errors" {errors}>&- &
job=$!
exec {errors}>&-

# mpirun itself would give the ranks one second between SIGTERM and SIGKILL, too little to save. It lets them live on
# when it passes SIGUSR1 to them.
pass_on() {
  kill "-$1" "$job" 2> /dev/null || true
  signalled=yes
}
stop() {
  echo "mpirun.sh: asking the ranks to save and stop; the same again ends them at once" >&2
  trap "pass_on TERM" TERM INT
  pass_on USR1
}
trap stop TERM INT
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2

# A signal ends a wait, not the job.
signalled=yes
while [[ $signalled == yes ]]; do
  signalled=no
  status=0
  wait "$job" || status=$?
done
wait "$filter" || true
exit "$status"
