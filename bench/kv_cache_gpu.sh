#!/usr/bin/env bash
# The cache types on a GPU, in about four minutes on an H100.
#
#   bench/kv_cache_gpu.sh OUT_FOLDER [STEP...]
#
# Assumes the extension with ggml's CUDA backend at python/apex_native/_core*.so (bench/cuda.sh builds it
# there). Steps, by default all: tests, rows and attention of every type beside the CPU's and beside
# arithmetic in double (tests/test_kv_cache.py); speed, prompt and generation at the shape of
# Qwen3.5-35B-A3B with 32 experts (kv_cache.py speed; 12 GB in /dev/shm and on the GPU); attention, of
# that shape by itself, half a minute, which a busy host does not slow; quality, the
# demo model's KLD by pairs on the GPU. OUT_FOLDER receives kv_cache.txt and kv_cache.jsonl. The exit code
# says whether a step failed. Environment: APEX_KV_SPEED, APEX_KV_QUALITY, more arguments of kv_cache.py;
# APEX_STEP_SECONDS, the most that one step may take (300).
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
[ $# -gt 0 ] || set -- tests attention speed quality
limit=${APEX_STEP_SECONDS:-300}
mkdir -p "$out"
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"

# shellcheck source=bench/run_step.sh
. bench/run_step.sh
step_tests() {
  run python3 -m pytest -q -rf -p no:cacheprovider tests/test_kv_cache.py -k "cuda or gpu"
}
step_speed() {
  # shellcheck disable=SC2086
  run python3 bench/kv_cache.py speed --json "$out/kv_cache.jsonl" ${APEX_KV_SPEED:-}
  rm -f /dev/shm/kv-cache-35b.gguf
}
step_attention() {
  run python3 bench/kv_cache.py attention --json "$out/kv_cache.jsonl"
}
step_quality() {
  local folder
  folder=$(mktemp -d)
  python3 -c "from apex_native.demo_text import demo_text; print(demo_text(400_000, seed=9))" > "$folder/text.txt"
  model=$(python3 -c "import apex_native; print(apex_native.demo_model())")
  # shellcheck disable=SC2086
  run python3 bench/kv_cache.py quality "$model" "$folder/text.txt" --gpu-layers -1 --contexts 512 \
    --tiers "" --json "$out/kv_cache.jsonl" ${APEX_KV_QUALITY:-}
  rm -r "$folder"
}

{
  run_steps "$@"
  exit $failed
} 2>&1 | tee -a "$out/kv_cache.txt"
