#!/usr/bin/env bash
# Fuzzes the readers of checkpoint files, guided by coverage and under the sanitizers: launch/fuzz.sh [SECONDS [NAME...]]
# For SECONDS (600) each, NAME one of manifest, safetensors (both). Needs Clang 16 or later with its runtime (Debian: clang-16,
# libclang-rt-16-dev). Compiles only what it needs, into build-fuzz/. Stops at the first input that breaks a reader, and
# says how to run it again; inputs that reach new code collect in build-fuzz/corpus/. Few and small ones of these belong
# into tests/fuzz/corpus/, where every build runs them.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
names=("${@:2}")
if (( ${#names[@]} == 0 )); then names=(manifest safetensors); fi
build=build-fuzz
compiler=${CLANG:-clang++-16}  # 14 knows no std::source_location
flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
       -I. "-I$build/generated" -Wno-everything)
sources=(
  comm/base/error.cc layers/tensor/shape.cc layers/tensor/tensor_view.cc
  trainer/durable_file.cc trainer/data/mapped_file.cc
  trainer/checkpoint/{find_checkpoints,manifest,safetensors_read,safetensors_write}.cc
)

if ! command -v "$compiler" > /dev/null; then
  echo "skipped: $compiler is not installed (Debian: apt-get install clang-16 libclang-rt-16-dev)"
  exit 0
fi
mkdir -p "$build/generated" "$build/objects"
protoc --cpp_out="$build/generated" trainer/checkpoint/manifest.proto

objects=()
compile() {
  local object
  object=$build/objects/$(tr / _ <<< "$1").o
  # shellcheck disable=SC2086
  "$compiler" "${flags[@]}" -c "$1" -o "$object"
  objects+=("$object")
}
for source in "${sources[@]}" "$build/generated/trainer/checkpoint/manifest.pb.cc"; do compile "$source"; done

for name in "${names[@]}"; do
  "$compiler" "${flags[@]}" -fsanitize=fuzzer "tests/fuzz/${name}_fuzz.cc" "${objects[@]}" -o "$build/${name}_fuzz" \
    -lprotobuf -lfmt -lxxhash
done
for name in "${names[@]}"; do
  mkdir -p "$build/corpus/$name"
  echo "fuzzing $name for $seconds s"
  "$build/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=4096 \
    -print_final_stats=1 -artifact_prefix="$build/${name}_" "$build/corpus/$name" "tests/fuzz/corpus/$name"
done
