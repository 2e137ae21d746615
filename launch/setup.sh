#!/usr/bin/env bash
# Installs the Debian packages that building and testing need: launch/setup.sh [PACKAGE...]
# Further packages may be named. Does nothing, and asks for no rights, if all are there; otherwise needs root or sudo.
# Optional, never installed here: ccache (faster second builds), libbenchmark-dev (tests/bench), CUDA and NCCL (found by CMake if present).
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config
  libopenmpi-dev openmpi-bin
  libprotobuf-dev protobuf-compiler
  libdnnl-dev ocl-icd-opencl-dev  # oneDNN's CMake package asks for OpenCL, which it only recommends
  libyaml-cpp-dev libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libxxhash-dev
  libsentencepiece-dev libicu-dev  # tokenizers
  libgtest-dev libgmock-dev
  "$@"
)

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
  echo "setup: this is no Debian system; install the equivalents of: ${packages[*]}" >&2
  exit 1
fi

is_installed() {
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2> /dev/null) == installed* ]]
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if (( ${#missing[@]} == 0 )); then
  echo "setup: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "setup: needs root or sudo to run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get --quiet --yes --option DPkg::Lock::Timeout=300 "$@" > "$log" 2>&1 && return
  cat "$log" >&2
  echo "setup: apt-get $* failed" >&2
  exit 1
}

echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
apt update
apt install --no-install-recommends "${missing[@]}"
