# shellcheck shell=bash
# For scripts that source it: `run PROGRAM [ARGUMENT...]` names the program in the log, gives it $limit seconds and
# sets failed=1 where it fails, so that what comes after still runs.

failed=0
run() {
  echo "$ $*"
  timeout "$limit" "$@" || { echo "exit code $?"; failed=1; }
}
