#!/usr/bin/env bash
# A Slurm of one node, started here, runs launch/slurm.sbatch: SIGUSR1 before the time limit, a saved stop, requeue,
# resume, done. Needs root, and Debian's packages slurm-wlm and munge (launch/setup.sh slurm-wlm munge).
# usage: processes_slurm.sh BINARY SOURCE_DIR RANKS PROGRAM
source "${BASH_SOURCE%/*}/processes_common.sh"

skip() {
  echo "skipped: $*"
  exit 0
}
for needed in slurmctld slurmd munged mungekey sbatch; do
  PATH=$PATH:/usr/sbin command -v "$needed" > /dev/null || skip "$needed is not installed; launch/setup.sh slurm-wlm munge"
done
export PATH=$PATH:/usr/sbin
[[ $(id -u) -eq 0 ]] || skip "a Slurm of one node is started as root"

slurm=$workspace/slurm
mkdir -p "$slurm"/{state,spool}
host=$(hostname --short)
port=$(( 20000 + $$ % 10000 ))
export SLURM_CONF=$slurm/slurm.conf

cat > "$SLURM_CONF" << END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$(( port + 1 ))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.socket
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=pmix
ReturnToService=2
KillWait=10
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(( 2 * $(nproc) )) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
END

# The processes that are started here, to be ended here: jobs first, or slurmd waits for them.
daemons=()
job=
end_slurm() {
  local attempt process
  if [[ -n $job ]]; then timeout 10 scancel --signal=KILL --full "$job" > /dev/null 2>&1 || true; fi
  if [[ -n $job ]]; then timeout 10 scancel "$job" > /dev/null 2>&1 || true; fi
  for (( attempt = 0; attempt < 100; ++attempt )); do
    compgen -G "$slurm/spool/*_*.*" > /dev/null || break
    sleep 0.1
  done
  for process in "${daemons[@]}"; do kill "$process" 2> /dev/null || true; done
  for (( attempt = 0; attempt < 50; ++attempt )); do
    kill -0 "${daemons[@]}" 2> /dev/null || break
    sleep 0.1
  done
  for process in "${daemons[@]}"; do kill -KILL "$process" 2> /dev/null || true; done
  wait "${daemons[@]}" 2> /dev/null || true
  rm -rf "$workspace"
}
trap end_slurm EXIT

chmod 755 "$workspace"
mungekey --create --keyfile="$slurm/munge.key"
munged --foreground --force --key-file="$slurm/munge.key" --socket="$slurm/munge.socket" --pid-file="$slurm/munged.pid" \
  --log-file="$slurm/munged.log" --seed-file="$slurm/munged.seed" --num-threads=1 > "$slurm/munged.out" 2>&1 &
daemons+=($!)
wait_or_skip() {
  local attempt
  for (( attempt = 0; attempt < 300; ++attempt )); do
    if "${@:2}" > /dev/null 2>&1; then return; fi
    sleep 0.1
  done
  for log in "$slurm"/*.log "$slurm"/*.out; do
    if [[ -s $log ]]; then sed "s|^|${log##*/}: |" "$log" | tail -n 20 >&2; fi
  done
  skip "$1 does not start on this machine"
}
wait_or_skip munged test -S "$slurm/munge.socket"
slurmctld -D -c > "$slurm/slurmctld.out" 2>&1 &
daemons+=($!)
wait_or_skip slurmctld sinfo
slurmd -D > "$slurm/slurmd.out" 2>&1 &
daemons+=($!)
node_is_idle() { [[ $(sinfo --noheader --format=%t) == idle ]]; }
wait_or_skip slurmd node_is_idle
wait_or_skip "srun with PMIx" timeout 20 srun --mpi=pmix --ntasks=2 --overcommit true

export CONCLAVE_BINARY=$binary
output=$workspace/job.log
submit() {
  sbatch --parsable --nodes=1 --ntasks-per-node="$ranks" --cpus-per-task=1 --output="$output" "$@"
}
wrote() { (( $(grep --count --fixed-strings -e "$2" "$output") >= $1 )); }
job_shows() { scontrol show job "$job" | grep --quiet --fixed-strings -e "$1"; }

# A minute is the shortest limit; the signal comes long before it.
job=$(submit --time=1 --signal=USR1@55 "$source_dir/launch/slurm.sbatch" train "$tiny" run.dir="$workspace/run" \
        data.train.0.path="$workspace/text.txt" train.steps=100000 checkpoint.every=0 train.eval_every=0 log.every=50)
wait_for wrote 1 "received User defined signal 1; the same command continues"
wait_for wrote 1 "slurm.sbatch: the state is saved; requeueing job $job"
stopped=$(sed --quiet 's/^stopped after step \([0-9]*\):.*/\1/p' "$output" | head -n 1)
# Slurm lets a requeued job wait for two minutes. It may be told not to, once both of its daemons are done with the
# first start: the time is set anew at its end, and a step that is still being cleared away can't start again.
wait_for grep --quiet "Requeuing JobId=$job" "$slurm/slurmctld.log"
wait_for grep --quiet --fixed-strings "[$job.0] done with job" "$slurm/slurmd.log"
wait_for grep --quiet --fixed-strings "[$job.batch] done with job" "$slurm/slurmd.log"
wait_for job_shows "JobState=PENDING Reason=BeginTime"
job_shows "Restarts=1" || fail "$(scontrol show job "$job")"
scontrol update JobId="$job" StartTime=now
wait_for wrote 1 "resumed from $workspace/run/checkpoints/step_$(printf %06d "$stopped"), step $stopped"
verdict "the time limit of a Slurm job" "SIGUSR1 before it; saved, exit 75, requeued, resumed at the same step"
timeout 10 scancel "$job"

output=$workspace/wrong.log
job=$(submit "$source_dir/launch/slurm.sbatch" train "$tiny" run.dir="$workspace/run" moe.top_k=99)
wait_for job_shows "JobState=FAILED"
job_shows "ExitCode=78:0" || fail "$(scontrol show job "$job")"
job_shows "Restarts=0" || fail "$(scontrol show job "$job")"
verdict "a configuration error in a Slurm job" "exit 78, not requeued"
