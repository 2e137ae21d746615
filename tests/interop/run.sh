#!/usr/bin/env bash
# Runs a check with the Python environment of launch/setup-interop.sh: run.sh SCRIPT BINARY SOURCE_DIR
set -euo pipefail
python=${CONCLAVE_INTEROP_PYTHON:-$3/.cache/interop/bin/python}
if [[ ! -x $python ]]; then
  echo "skipped: no Python environment at $python; launch/setup-interop.sh makes one"
  exit 77
fi
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
cd "$workspace"
export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
# Only errors: loading a model is no news.
export TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
"$python" "$1" "$(realpath "$2")" "$(realpath "$3")"
