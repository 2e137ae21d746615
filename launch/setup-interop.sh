#!/usr/bin/env bash
# Makes the Python environment of the interop tests: launch/setup-interop.sh [DIRECTORY]
# PyTorch, transformers, safetensors, tokenizers, sentencepiece, tensorboard and jsonschema from PyPI, some
# gigabytes, into .cache/interop or DIRECTORY. Tests look for it there, or for the interpreter that
# CONCLAVE_INTEROP_PYTHON names. Nothing else needs it.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=${1:-.cache/interop}
if [[ ! -x $directory/bin/python ]]; then
  python3 -m venv "$directory" || {
    echo "setup-interop: python3 can't make an environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
"$directory/bin/python" -m pip install --quiet torch transformers safetensors tokenizers sentencepiece tensorboard jsonschema
"$directory/bin/python" -c 'import jsonschema, safetensors, sentencepiece, tensorboard, tokenizers, torch, transformers
print("setup-interop: torch", torch.__version__, "transformers", transformers.__version__)'
if [[ $directory != .cache/interop ]]; then
  echo "setup-interop: export CONCLAVE_INTEROP_PYTHON=$(realpath "$directory")/bin/python"
fi
