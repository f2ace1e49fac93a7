#!/usr/bin/env bash
# Everything that needs a GPU, in one call on a fresh machine without a network.
#
#   bench/cuda.sh LLAMA_CPP_DIR OUT_FOLDER [arguments of quantize_cuda.py]
#
# Builds our kernels (not ggml's CUDA backend) and llama-quantize for the GPU of this machine, compares
# every kernel's bytes and error sums with ggml's, times the kernels, runs compute-sanitizer over a
# smaller comparison, and times whole processes beside llama-quantize. Needs nvcc, compute-sanitizer,
# python3 with pybind11, numpy, gguf, typer and rich, cmake, ninja and a compiler; about 8 minutes on
# 16 cores. A build that is there already is used. OUT_FOLDER receives log.txt and the JSON lines.
set -euo pipefail
cd "$(dirname "$0")/.."
llama_cpp=$1
out=$2
shift 2
build=build/cuda-machine
mkdir -p build "$out"
if [ ! -x "$build/tests/cpp/cuda_quantizers" ]; then
  cmake -S . -B "$build" -G Ninja -DAPEX_CUDA=ON -DAPEX_CUDA_KERNELS_ONLY=ON -DAPEX_BUILD_TESTS=ON \
    -DAPEX_BUILD_REFERENCE_TOOLS=ON -DAPEX_LLAMA_CPP_DIR="$llama_cpp" \
    -DSKBUILD_PROJECT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" > "$build.log"
  cmake --build "$build" --target _core llama-quantize cuda_quantizers >> "$build.log"
fi
cp "$build"/csrc/_core*.so python/apex_native/
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
kernels="$build/tests/cpp/cuda_quantizers"
{
  echo "date: $(date -u +%F), commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo "cpu: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) threads"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  echo "$ cuda_quantizers --threads $(nproc) --jsonl cuda_quantizers.jsonl"
  "$kernels" --threads "$(nproc)" --jsonl "$out/cuda_quantizers.jsonl"
  echo "$ quantize_cuda.py --tools $build/reference $*"
  python3 bench/quantize_cuda.py --tools "$build/reference" "$@"
  for tool in memcheck racecheck initcheck; do
    echo "$ compute-sanitizer --tool $tool cuda_quantizers --sources BF16 --check-weights 1000 --weights 0"
    compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$kernels" --sources BF16 --check-weights 1000 --threads 1 --weights 0 > "$out/$tool.txt" 2>&1 &
  done
  wait
  tail -qn 1 "$out"/{memcheck,racecheck,initcheck}.txt
} 2>&1 | tee "$out/log.txt"
