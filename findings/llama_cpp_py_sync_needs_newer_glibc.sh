#!/usr/bin/env bash
# expected: a wheel tagged manylinux2014 loads on every Linux with glibc 2.17 or newer
# happens: llama-cpp-py-sync 0.11739 installs on Debian 12 (glibc 2.36) and its libllama.so asks for GLIBC_2.38
# matters: the newest llama.cpp that the package index offers cannot check our files on such machines
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install --quiet llama-cpp-py-sync==0.11739 numpy cffi
library=$(venv/bin/python -c 'import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("llama_cpp_py_sync").origin).with_name("libllama.so"))')
grep --text --only-matching 'GLIBC_2\.[0-9]*' "$library" | sort --version-sort --unique | tail -1 | tee newest
[ "$(cat newest)" = GLIBC_2.38 ]
venv/bin/pip download --quiet --no-deps --dest wheels llama-cpp-py-sync==0.11739
ls wheels | tee names
grep --quiet manylinux2014 names
