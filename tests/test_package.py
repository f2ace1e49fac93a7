"""What gets installed: our package only, one exported symbol, no clash with another ggml."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import apex_native

ROOT = Path(__file__).resolve().parent.parent
FETCH = ROOT / "third_party" / "llama.cpp" / "fetch.py"


def installed_files() -> list[str]:
    files = importlib.metadata.files("apex-native")
    assert files, "install the package first: pip install '.[test]'"
    return [str(path) for path in files]


def test_the_wheel_holds_our_package_only() -> None:
    allowed = ("apex_native/", "apex_native-", "../../../bin/apex-native")
    strangers = [path for path in installed_files() if not path.startswith(allowed)]
    assert strangers == []
    suffixes = {Path(path).suffix for path in installed_files()}
    assert suffixes.isdisjoint({".a", ".h", ".hpp", ".cmake", ".cpp", ".c", ".pc"})
    extensions = [path for path in installed_files() if Path(path).suffix == ".so"]
    assert len(extensions) == 1


def extension_path() -> Path:
    from apex_native._native import core

    path = core.__file__
    assert path is not None
    return Path(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the symbol table with binutils' nm")
def test_the_extension_exports_one_symbol() -> None:
    nm = shutil.which("nm")
    assert nm is not None, "binutils come with every compiler"
    done = subprocess.run(
        [nm, "-D", "--defined-only", str(extension_path())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    assert names == ["PyInit__core"]


BESIDE_ANOTHER_GGML = """
import sys
{imports}
model = str(apex_native.demo_model())
text = "def add(a, b):\\n    return a + b\\n"
alone = apex_native.check_load(model, text).mean_nll
params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx, params.n_predict, params.cpuparams.n_threads, params.warmup = 256, 8, 2, False
server = xllamacpp.Server(params)
answer = server.handle_completions({{"prompt": "def add", "max_tokens": 8, "temperature": 0}})
assert answer["choices"][0]["text"], answer
assert apex_native.check_load(model, text).mean_nll == alone
with apex_native.open_gguf(model) as source:
    plan = apex_native.make_plan(source, ftype="Q4_K_M")
    apex_native.quantize(source, plan, sys.argv[1])
assert server.handle_completions({{"prompt": "def add", "max_tokens": 8, "temperature": 0}}) != {{}}
print("both work")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp is a test requirement on Linux only")
@pytest.mark.parametrize(
    "imports",
    ["import apex_native, xllamacpp", "import xllamacpp, apex_native"],
    ids=["ours-first", "theirs-first"],
)
def test_beside_a_wheel_with_its_own_ggml(tmp_path: Path, imports: str) -> None:
    """xllamacpp carries another llama.cpp: both serve one process, in either order."""
    script = BESIDE_ANOTHER_GGML.format(imports=imports)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out.gguf")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert "both work" in done.stdout, done.stderr[-2000:]


def offline(tmp_path: Path) -> dict[str, str]:
    """An environment in which pip finds nothing and the cache is empty."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "APEX_"))}
    return {**environment, "PIP_NO_INDEX": "1", "APEX_CACHE_DIR": str(tmp_path / "cache")}


def test_no_network_and_no_cache_is_one_clear_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FETCH)],
        env=offline(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "connect to a network" in done.stderr
    assert "APEX_LLAMA_CPP_DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_configuring_without_network_stops_with_that_sentence(tmp_path: Path) -> None:
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent)]))
    assert cmake is not None, "cmake is in the test extra"
    done = subprocess.run(
        [cmake, "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DAPEX_BUILD_EXTENSION=OFF",
         f"-DPython_EXECUTABLE={sys.executable}"],
        env=offline(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    unwrapped = " ".join(done.stderr.split())
    assert "connect to a network whose package index pip can reach" in unwrapped
    assert "point APEX_LLAMA_CPP_DIR at a llama.cpp checkout" in unwrapped


def test_version_is_the_packages() -> None:
    from apex_native._native import core

    assert importlib.metadata.version("apex-native") == apex_native.__version__
    assert core.build_info()["version"] == apex_native.__version__
