#!/usr/bin/env bash
# Second moments on a GPU, in about six minutes on an H100.
#
#   bench/second_moment_gpu.sh OUT_FOLDER [STEP...]
#
# Assumes the extension with CUDA at python/apex_native/_core*.so (bench/cuda.sh builds it there). Steps, by
# default all: tests, a GPU's bytes, errors and sums beside the CPU's; layer, one layer at the shape of
# Qwen3.5-35B-A3B, collected and quantized (second_moment_gpu.py; 9 GB in /dev/shm); queues, its experts
# with 8 hardware queues in the place of 32; tier, 8 layers from a million tokens by the command line; memcheck,
# a small tensor under compute-sanitizer. OUT_FOLDER
# receives second_moment_gpu.txt and JSON lines as they come. The exit code says whether a step failed.
# Environment: APEX_SECOND_MOMENT, more arguments of second_moment_gpu.py; APEX_STEP_SECONDS, the most that
# one step may take (240).
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
[ $# -gt 0 ] || set -- tests layer queues tier memcheck
limit=${APEX_STEP_SECONDS:-240}
mkdir -p "$out"
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"

# shellcheck source=bench/run_step.sh
. bench/run_step.sh
step_tests() {
  run python3 -m pytest -q -rf -p no:cacheprovider tests/test_feedback.py \
    tests/test_input_choices.py tests/test_output_groups.py -k "a_gpu_fits or rows_are_a_gpus"
  run python3 -m pytest -q -rf -p no:cacheprovider tests/test_cuda_model.py -k "second_moments or sums"
}
step_layer() {
  # shellcheck disable=SC2086
  run python3 bench/second_moment_gpu.py "$out" ${APEX_SECOND_MOMENT:-}
}
step_queues() {
  # shellcheck disable=SC2086
  CUDA_DEVICE_MAX_CONNECTIONS=8 run python3 bench/second_moment_gpu.py "$out/queues_8" --tokens 65536 \
    --only write collect whole --types Q3_K ${APEX_SECOND_MOMENT:-}
}
step_tier() {
  # shellcheck disable=SC2086
  run python3 bench/second_moment_gpu.py "$out/tier" --only tier ${APEX_SECOND_MOMENT:-}
}
step_memcheck() {
  command -v compute-sanitizer > /dev/null || { echo "no compute-sanitizer here"; return; }
  run compute-sanitizer --tool memcheck --error-exitcode 9 \
    python3 -m pytest -q -p no:cacheprovider tests/test_feedback.py -k "a_gpu_fits and Q3_K-512"
}

{
  run_steps "$@"
  rm -rf /dev/shm/moments
  exit "$failed"
} 2>&1 | tee "$out/second_moment_gpu.txt"
exit "${PIPESTATUS[0]}"
