#!/usr/bin/env bash
# Bits per byte of a run's last evaluation beside gzip -9, bzip2 -9 and xz -9 of the same held-out bytes.
#   launch/compare_compressors.sh RUN_DIR
# The compressors see the held-out bytes alone, as the model sees them: neither gets the training text with them, but
# the model has learned from it.
set -euo pipefail

table=${1:?usage: launch/compare_compressors.sh RUN_DIR}/evaluation.tsv
if [[ ! -f $table ]]; then
  echo "$table does not exist: it is written when a run with text sources ends" >&2
  exit 1
fi
if head -n 1 "$table" | grep -q masked; then
  echo "$table counts masked bytes only, which no compressor codes: train with train.objective: next_token" >&2
  exit 1
fi
for tool in gzip bzip2 xz; do
  command -v "$tool" > /dev/null || { echo "$tool is not installed: apt-get install gzip bzip2 xz-utils" >&2; exit 1; }
done

bits_per_byte() { awk -v compressed="$1" -v bytes="$2" 'BEGIN { printf "%.3f", 8 * compressed / bytes }'; }

printf '%-12s %12s %8s %9s %8s %8s\n' source bytes model 'gzip -9' 'bzip2 -9' 'xz -9'
tail -n +2 "$table" | while IFS=$'\t' read -r source path bytes loss model; do
  # The held-out part is the end of the file.
  printf '%-12s %12d %8.3f %9s %8s %8s\n' "$source" "$bytes" "$model" \
    "$(bits_per_byte "$(tail -c "$bytes" "$path" | gzip -9 | wc -c)" "$bytes")" \
    "$(bits_per_byte "$(tail -c "$bytes" "$path" | bzip2 -9 | wc -c)" "$bytes")" \
    "$(bits_per_byte "$(tail -c "$bytes" "$path" | xz -9 | wc -c)" "$bytes")"
done
