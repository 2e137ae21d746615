#!/usr/bin/env bash
# What parallel.exchange_chunks saves on a network: launch/bench_exchange_chunks.sh [CONFIG [key=value...]]
# Two ranks of one thread, each in a network namespace of its own, exchange tokens by TCP over a pair of virtual cables whose
# rate `tc` limits, one rate after the other: RATES ("1gbit 2.5gbit 10gbit unlimited"). At each, whole training steps with
# exchange_chunks 1 and with each of CHUNKS ("2 4") take turns, STEPS (10) of each after WARM_UP (3). Prints medians: ms a step,
# the quotient step by step, and the shares of the time that ranks stood in the exchange and waited for each other.
# Needs root, iproute2 and two cores. A namespace has its own host name too, so that Open MPI takes it for another node.
set -euo pipefail
cd "$(dirname "$0")/.."

config=${1:-configs/bench_256.yaml}
overrides=("${@:2}")
read -ra rates <<< "${RATES:-1gbit 2.5gbit 10gbit unlimited}"
read -ra chunks <<< "${CHUNKS:-2 4}"

if [[ $(id -u) -ne 0 ]]; then
  echo "bench_exchange_chunks.sh: network namespaces need root" >&2
  exit 1
fi
for tool in ip tc unshare mpirun; do
  if ! command -v "$tool" > /dev/null; then
    echo "bench_exchange_chunks.sh: $tool is missing (Debian: apt-get install iproute2 util-linux openmpi-bin)" >&2
    exit 1
  fi
done

directory=$(mktemp -d -p "${TMPDIR:-/tmp}")
node() { echo "conclave-$$-$1"; }
clean_up() {
  ip netns delete "$(node 0)" 2> /dev/null || true
  ip netns delete "$(node 1)" 2> /dev/null || true
  rm -rf "$directory"
}
trap clean_up EXIT

# The cables: one end in each namespace.
for n in 0 1; do
  ip netns add "$(node $n)"
  ip -n "$(node $n)" link set lo up
done
ip link add cable0 netns "$(node 0)" type veth peer name cable1 netns "$(node 1)"
for n in 0 1; do
  ip -n "$(node $n)" address add "10.77.0.$((n + 1))/24" dev "cable$n"
  ip -n "$(node $n)" link set "cable$n" up
done

# Stands for ssh: mpirun starts its daemon on the other node by it, as AGENT HOST COMMAND...
cat > "$directory/agent" << END
#!/bin/sh
shift
exec ip netns exec $(node 1) unshare --uts sh -c "hostname node1; \$*"
END
chmod +x "$directory/agent"

# set_rate RATE: of both directions. The bucket holds some packets of the size that TCP hands over.
set_rate() {
  for n in 0 1; do
    ip netns exec "$(node $n)" tc qdisc delete dev "cable$n" root 2> /dev/null || true
    if [[ $1 != unlimited ]]; then
      ip netns exec "$(node $n)" tc qdisc add dev "cable$n" root tbf rate "$1" burst 256k latency 50ms
    fi
  done
}

against=()
for count in "${chunks[@]}"; do against+=(--against "parallel.exchange_chunks=$count"); done

# run: prints the benchmark's JSON.
run() {
  ip netns exec "$(node 0)" unshare --uts sh -c 'hostname node0; exec "$@"' sh \
    mpirun --allow-run-as-root --bind-to none -np 2 --host 10.77.0.1:1,10.77.0.2:1 -x OMP_NUM_THREADS=1 \
    --mca plm_rsh_agent "$directory/agent" --mca btl self,tcp --mca btl_tcp_if_include 10.77.0.0/24 \
    --mca oob_tcp_if_include 10.77.0.0/24 \
    build/conclave bench step "$config" "${overrides[@]}" "${against[@]}" --steps "${STEPS:-10}" --warm-up "${WARM_UP:-3}" --json
}

printf '%-10s %7s %9s %6s %9s %8s\n' rate chunks ms ratio exchange waiting
for rate in "${rates[@]}"; do
  set_rate "$rate"
  run > "$directory/$rate.json"
  # One key a line.
  awk -v rate="$rate" '
    { gsub(/[",]/, ""); key = $1; sub(":", "", key) }
    key == "variant" { chunks = match($0, /exchange_chunks=[0-9]+/) ? substr($0, RSTART + 16, RLENGTH - 16) : 1; ratio = 1 }
    key == "ms" { ms = $2 }
    key == "exchange_share" { exchange = $2 }
    key == "waiting_share" { waiting = $2 }
    key == "ratio" { ratio = $2 }
    $1 ~ /^}/ && ms != "" {
      printf "%-10s %7s %9.1f %6.3f %8.1f%% %7.1f%%\n", rate, chunks, ms, ratio, 100 * exchange, 100 * waiting
      ms = ""
    }' "$directory/$rate.json"
done
