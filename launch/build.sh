#!/usr/bin/env bash
# Builds build/conclave: launch/build.sh [--tests] [-DNAME=VALUE...]
# --tests also builds the tests. Options of CMake are passed on and remembered, for example -DCONCLAVE_ARCH=x86-64-v3.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(--target conclave)
definitions=()
for argument in "$@"; do
  case $argument in
    --tests) targets=() ;;
    -D?*) definitions+=("$argument") ;;
    *)
      echo "usage: launch/build.sh [--tests] [-DNAME=VALUE...]" >&2
      exit 2
      ;;
  esac
done

if ! command -v cmake > /dev/null || ! command -v ninja > /dev/null; then
  echo "build: cmake or ninja is missing; launch/setup.sh installs what the build needs" >&2
  exit 1
fi

cmake --preset release "${definitions[@]}"
cmake --build --preset release "${targets[@]}"
