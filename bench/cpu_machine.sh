#!/usr/bin/env bash
# Build on a fresh many-core machine without a network and compare with llama-quantize there.
#
#   bench/cpu_machine.sh LLAMA_CPP_DIR OUT [arguments of quantize_vs_llama.py]
#
# Needs python3 with pybind11, numpy, gguf, typer and rich, cmake, ninja and a compiler. The build is
# reused if it is there already; OUT receives what the benchmark printed.
set -euo pipefail
cd "$(dirname "$0")/.."
llama_cpp=$1
out=$2
shift 2
build=build/machine
mkdir -p build
if [ ! -x "$build/reference/llama-quantize" ]; then
  cmake -S . -B "$build" -G Ninja -DAPEX_LLAMA_CPP_DIR="$llama_cpp" -DAPEX_BUILD_REFERENCE_TOOLS=ON \
    -DSKBUILD_PROJECT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" > "$build.log"
  cmake --build "$build" --target _core llama-quantize >> "$build.log"
fi
cp "$build"/csrc/bind/_core*.so python/apex_native/
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
{
  echo "date: $(date -u +%F), commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo "cpu: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) threads"
  echo "command: bench/quantize_vs_llama.py --tools $build/reference $*"
  python3 bench/quantize_vs_llama.py --tools "$build/reference" "$@"
} | tee "$out"
