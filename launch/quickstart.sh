#!/usr/bin/env bash
# From nothing to a trained Mixture-of-Experts language model: installs what is missing, builds, prepares four texts
# that come with Debian, trains on two ranks, and shows what the model learned and which expert took which text.
#   launch/quickstart.sh [key=value ...]     e.g. launch/quickstart.sh train.steps=200
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/quickstart.yaml
run_dir=runs/quickstart
ranks=2

launch/setup.sh bzip2 xz-utils  # the compressors for the comparison at the end
launch/build.sh
launch/prepare_quickstart_data.sh

echo
echo "== Training on $ranks ranks (metrics in $run_dir/metrics.jsonl) =="
status=0
launch/mpirun.sh "$ranks" build/conclave train "$config" "$@" || status=$?
if [[ $status -eq 75 ]]; then
  echo "Stopped with the state saved; run launch/quickstart.sh again to go on."
  exit 75
elif [[ $status -ne 0 ]]; then
  exit "$status"
fi

echo
echo "== Held-out text: the model beside general compressors, bits per byte of the same bytes =="
launch/compare_compressors.sh "$run_dir"

echo
echo "== What it writes =="
build/conclave generate "$run_dir" --prompt "Ge1:1 In the beginning " --tokens 300 --temperature 0.8 --seed 1

cat <<TEXT

== Next ==
  launch/mpirun.sh $ranks build/conclave train $config                          resumes: nothing left to do
  launch/mpirun.sh $ranks build/conclave train $config train.steps=4000 \\
      checkpoint.allow_changes=true                                     trains on from here
  build/conclave generate $run_dir --prompt "#include <" --tokens 400
  build/conclave checkpoint inspect $run_dir
  build/conclave config explain moe                                     what every key means
TEXT
