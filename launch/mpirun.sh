#!/usr/bin/env bash
# Runs a program on N ranks of this machine: launch/mpirun.sh N PROGRAM [ARGS...]
# Open MPI refuses to start as root (containers) and on more ranks than cores, and binds each rank to one core at
# N = 2; this adds the options that lift all three. Each rank gets its share of the cores as OpenMP threads.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/mpirun.sh RANKS PROGRAM [ARGS...]" >&2
  exit 2
fi
ranks=$1
shift

options=(--bind-to none --oversubscribe)
if [[ $(id -u) -eq 0 ]]; then options+=(--allow-run-as-root); fi

cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( cores > ranks ? cores / ranks : 1 ))}
# Waiting ranks must give up the core where ranks outnumber cores.
if (( ranks > cores )); then export OMPI_MCA_mpi_yield_when_idle=1; fi
# mpirun hides from its ranks whether a terminal reads their output.
if [[ -t 1 ]]; then
  CONCLAVE_COLUMNS=$(tput cols 2> /dev/null || echo 80)
  export CONCLAVE_COLUMNS
fi
exec mpirun "${options[@]}" -np "$ranks" "$@"
