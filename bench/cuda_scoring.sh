#!/usr/bin/env bash
# Scoring, calibration and the kernel benchmark on a GPU, in one call on a fresh machine without a
# network.
#
#   bench/cuda_scoring.sh LLAMA_CPP_DIR OUT_FOLDER
#
# Builds the extension with ggml's CUDA backend and llama-perplexity and llama-imatrix with the same,
# for the GPU of this machine (about 6 minutes on 16 cores; a build that is there already is used),
# then runs bench/cuda_scoring.py and `apex-native bench kernels --device cuda`. Needs nvcc, python3
# with pybind11, numpy, gguf, typer and rich (matplotlib for the plot), cmake, ninja and a compiler.
# OUT_FOLDER receives log.txt, scoring.txt, cuda_kernels.jsonl and cuda_kernels.png. Each step has a
# limit and does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/.."
llama_cpp=$1
out=$2
build=${APEX_CUDA_BUILD:-build/cuda-scoring}
mkdir -p "$out" "$build"
if ! ls "$build"/csrc/_core*.so > /dev/null 2>&1; then
  cmake -S . -B "$build" -G Ninja -DAPEX_CUDA=ON -DAPEX_BUILD_REFERENCE_TOOLS=ON \
    -DAPEX_LLAMA_CPP_DIR="$llama_cpp" \
    -DSKBUILD_PROJECT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" > "$out/build.log" &&
    cmake --build "$build" --target _core llama-perplexity llama-imatrix >> "$out/build.log" ||
    exit 1
fi
cp "$build"/csrc/_core*.so python/apex_native/
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
step() { # limit in seconds, command
  echo "$ ${*:2}"
  timeout "$1" "${@:2}"
  local status=$?
  [ $status -eq 0 ] || echo "exit code $status"
}
plot=()
python3 -c "import matplotlib" 2> /dev/null && plot=(--png "$out/cuda_kernels.png" --force)
{
  echo "date: $(date -u +%F), commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo "cpu: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) threads"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  for part in parity kld imatrix; do
    step 150 python3 bench/cuda_scoring.py --tools "$build/reference" --only "$part" |
      tee -a "$out/scoring.txt"
  done
  step 150 python3 -m apex_native bench kernels --device cuda --repetitions 5 \
    --sample-seconds 0.01 --jsonl "$out/cuda_kernels.jsonl" "${plot[@]}" --quiet
} 2>&1 | tee "$out/log.txt"
