#!/usr/bin/env bash
# A place that can't be written ends the run before its first step, with one line that says why; also where only one
# rank can't write there.
# usage: unwritable.sh BINARY SOURCE_DIR RANKS FAULTS_LIBRARY
source "${BASH_SOURCE%/*}/common.sh"
faults_library=$helper

refused() {
  says_once "conclave: run.dir $1 can't be written: $2"
  says_not "^step  *1/"
}

touch a_file
train 1 a_file/run
refused a_file/run ""

mkdir taken
touch taken/checkpoints
train 1 taken
refused taken ""

LD_PRELOAD=$faults_library CONCLAVE_FILE_FAULTS_RANK=1 CONCLAVE_FILE_FAULTS="open:EROFS:/checkpoints/:1:1000" train 1 read_only
refused read_only "can't create read_only/checkpoints/.write-probe-1: Read-only file system"

LD_PRELOAD=$faults_library CONCLAVE_FILE_FAULTS_RANK=1 CONCLAVE_FILE_FAULTS="fsync:EIO:/checkpoints/:1:1000" train 1 broken
refused broken "can't flush to disk broken/checkpoints/.write-probe-1: Input/output error"
verdict "a directory that can't be written, by all ranks or by one" "exit 1 before step 1, named once"
