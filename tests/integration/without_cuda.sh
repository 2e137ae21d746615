#!/usr/bin/env bash
# A program without CUDA trains and runs models on the CPU, and says what a GPU would take.
# usage: without_cuda.sh BINARY SOURCE_DIR RANKS, with the binary of a build without CUDA
source "${BASH_SOURCE%/*}/common.sh"

train 0 run
says "CPU"
says_not "GPU|CUDA"  # of what there is none, nothing is said
train 78 refused run.device=cuda
says_once "run.device: cuda, but $ranks of $ranks ranks have no GPU"
says "this program was built without CUDA: install the CUDA Toolkit and build with -DCONCLAVE_CUDA=ON"
for command in eval generate "inspect --text text.txt"; do
  read -r -a words <<< "$command"
  expect 78 "$binary" "${words[0]}" run run.device=cuda "${words[@]:1}"
  says_once "run.device: cuda, but 1 of 1 ranks have no GPU"
  expect 0 "$binary" "${words[0]}" run "${words[@]:1}"
done
expect 78 "$binary" bench gemm run.device=cuda
says_once "run.device: cuda, but 1 of 1 ranks have no GPU"
expect 0 "$binary" doctor
says "built without CUDA"
echo "passed"
