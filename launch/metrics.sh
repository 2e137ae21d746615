# shellcheck shell=bash disable=SC2154
# Sourced by the scripts that compare runs: numbers out of a run's metrics.jsonl.

# mean_of FIELD RUN_DIR: over the records of the second half of the run's steps.
mean_of() {
  awk -v field="$1" '
    index($0, "\"type\":\"step\"") && match($0, "\"" field "\":[-+.0-9e]+") {
      value[++records] = substr($0, RSTART + length(field) + 3, RLENGTH - length(field) - 3)
    }
    END {
      for (i = int(records / 2) + 1; i <= records; ++i) { sum += value[i]; ++count }
      if (count > 0) printf "%.6g", sum / count; else print "nan"
    }' "$2/metrics.jsonl"
}

# last_of TYPE FIELD RUN_DIR: in the last record of TYPE (step or evaluation); nothing if the field isn't there.
last_of() {
  awk -v type="$1" -v field="$2" '
    index($0, "\"type\":\"" type "\"") && match($0, "\"" field "\":[-+.0-9e]+") {
      value = substr($0, RSTART + length(field) + 3, RLENGTH - length(field) - 3)
    }
    END { print value }' "$3/metrics.jsonl"
}

# train_into RUN_DIR CONFIG [KEY=VALUE...]: on $ranks ranks; what it prints goes to RUN_DIR.log. A run that is complete
# stays as it is.
train_into() {
  local dir=$1 config=$2 status=0
  shift 2
  mkdir -p "$(dirname "$dir")"
  launch/mpirun.sh "$ranks" build/conclave train "$config" "run.dir=$dir" "$@" > "$dir.log" 2>&1 || status=$?
  if (( status != 0 )); then
    tail -n 20 "$dir.log" >&2
    echo "training $config into $dir failed with exit code $status; all that it wrote is in $dir.log" >&2
    return "$status"
  fi
}
