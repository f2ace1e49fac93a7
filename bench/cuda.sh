#!/usr/bin/env bash
# Everything that needs a GPU, on a fresh machine without a network.
#
#   bench/cuda.sh LLAMA_CPP_DIR OUT_FOLDER [STEP...]
#
# Builds the extension with ggml's CUDA backend and upstream's programs with the same, for the GPU of
# this machine (about 6 minutes on 16 cores; a build that is there already is used). Steps, by default
# all of them, in this order:
#
#   bytes     every quantizer's bytes and error sums beside ggml's, then its speed (cuda_quantizers);
#             scores and sums of squares beside the CPU's (cuda_scores)
#   quantize  whole processes beside llama-quantize (quantize_cuda.py)
#   scoring   scores and importance matrices: parity, then speed beside llama-perplexity and
#             llama-imatrix of the same build (cuda_scoring.py)
#   kernels   dequantizers, products and quantizers beside a copy (apex-native bench kernels)
#   tests     the tests that have a GPU's half
#   sanitize  compute-sanitizer: memcheck, initcheck and racecheck over both of them, memcheck over
#             a whole evaluation and collection
#
# and, where it is asked for: real_size, every verb at the size of Qwen3.5-35B-A3B beside llama-bench
# and llama-imatrix (real_size.py; takes 100 GB of memory as a disk); sweep, probes per hour with 1, 2 and
# 4 GPUs (sweep_workers.py; needs Ray and as many GPUs).
#
# Needs nvcc, compute-sanitizer, python3 with what pyproject.toml lists, pybind11 and pytest, cmake,
# ninja and a compiler. OUT_FOLDER receives log.txt and JSON lines. A step that fails does not stop the
# others; the exit code says whether one did. Environment: APEX_CUDA_BUILD, the build folder;
# APEX_QUANTIZE, arguments of quantize_cuda.py; APEX_REAL_SIZE, of real_size.py; APEX_SWEEP, of sweep_workers.py; APEX_SANITIZE, of
# cuda_quantizers;
# APEX_STEP_SECONDS, the most that one program may take; APEX_COMMIT, where there is no git.
set -uo pipefail
cd "$(dirname "$0")/.."
llama_cpp=$1
out=$2
shift 2
[ $# -gt 0 ] || set -- bytes quantize scoring kernels tests sanitize
build=${APEX_CUDA_BUILD:-build/cuda-machine}
limit=${APEX_STEP_SECONDS:-3600}
tools=$build/reference
quantizers=$build/tests/cpp/cuda_quantizers
scores=$build/tests/cpp/cuda_scores
mkdir -p "$out" "$build"

if ! ls "$build"/csrc/bind/_core*.so > /dev/null 2>&1; then
  echo "building in $build, see $out/build.log"
  cmake -S . -B "$build" -G Ninja -DAPEX_CUDA=ON -DAPEX_BUILD_TESTS=ON \
    -DAPEX_BUILD_REFERENCE_TOOLS=ON -DAPEX_LLAMA_CPP_DIR="$llama_cpp" \
    -DSKBUILD_PROJECT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" > "$out/build.log" &&
    cmake --build "$build" --target _core cuda_quantizers cuda_scores llama-quantize \
      llama-perplexity llama-imatrix llama-bench >> "$out/build.log" || { tail -30 "$out/build.log"; exit 1; }
fi
cp "$build"/csrc/bind/_core*.so python/apex_native/
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"

# shellcheck source=bench/run_step.sh
. bench/run_step.sh
sanitize() { # tool, then a program
  local found=$out/$1-$(basename "$2").txt
  timeout "$limit" compute-sanitizer --tool "$1" --error-exitcode 9 "${@:2}" > "$found" 2>&1
  local status=$?
  echo "$ compute-sanitizer --tool $*"
  echo "exit code $status: $(tail -n 1 "$found")"
  return $status
}

step_bytes() {
  run "$scores"
  run "$quantizers" --threads "$(nproc)" --jsonl "$out/cuda_quantizers.jsonl"
}
step_quantize() {
  # shellcheck disable=SC2086
  run python3 bench/quantize_cuda.py --tools "$tools" ${APEX_QUANTIZE:-}
}
step_scoring() {
  run python3 bench/cuda_scoring.py --tools "$tools" --json "$out/cuda_scoring.jsonl"
}
step_real_size() {
  # shellcheck disable=SC2086
  run python3 bench/real_size.py --tools "$tools" --json "$out/real_size.jsonl" ${APEX_REAL_SIZE:-}
}
step_sweep() {
  # shellcheck disable=SC2086
  run python3 bench/sweep_workers.py --gpu-layers -1 ${APEX_SWEEP:-}
}
step_kernels() {
  local plot=()
  python3 -c "import matplotlib" 2> /dev/null && plot=(--png "$out/cuda_kernels.png" --force)
  run python3 -m apex_native bench kernels --device cuda --repetitions 5 --sample-seconds 0.01 \
    --jsonl "$out/cuda_kernels.jsonl" "${plot[@]}" --quiet
}
step_tests() {
  # The others are for machines without a GPU.
  run python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py tests/test_cuda_model.py tests/test_upload.py \
    tests/test_real_widths.py tests/test_kv_cache.py -k "not (cpus_bits or algorithms or compile or cpu)"
}
step_sanitize() {
  local small=(python3 bench/cuda_scoring.py --tools "$tools" --only parity --n-vocab 8192
    --folder "$out/small")
  local rows=(--sources BF16 --check-weights 1000 --threads 1 --weights 0)
  local started=()
  for tool in memcheck initcheck racecheck; do
    # shellcheck disable=SC2086
    sanitize "$tool" "$quantizers" "${rows[@]}" ${APEX_SANITIZE:-} &
    started+=($!)
    sanitize "$tool" "$scores" --rows 3 --n-vocab 5000 &
    started+=($!)
  done
  for process in "${started[@]}"; do wait "$process" || failed=1; done
  sanitize memcheck "${small[@]}" || failed=1
  rm -rf "$out/small"
}

{
  run_steps "$@"
  exit $failed
} 2>&1 | tee -a "$out/log.txt"
