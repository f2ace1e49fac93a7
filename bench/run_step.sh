# shellcheck shell=bash
# For scripts that source it: `run PROGRAM [ARGUMENT...]` names the program in the log, gives it $limit seconds and
# sets failed=1 where it fails, so that what comes after still runs. `run_steps STEP...` says what computes, calls
# step_STEP for each and says how long it took.

failed=0
run() {
  echo "$ $*"
  timeout "$limit" "$@" || { echo "exit code $?"; failed=1; }
}

run_steps() {
  echo "date: $(date -u +%F), commit: ${APEX_COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}"
  echo "cpu: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) threads"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  local step began
  for step in "$@"; do
    echo "== $step"
    began=$SECONDS
    "step_$step"
    echo "== $step took $((SECONDS - began)) s"
  done
}
