"""Our files hold the bytes llama_model_quantize writes: the oracle is upstream's own function.

It is linked into the core for this purpose. `make parity` does the same with upstream's programs,
on the whole demo model, for more combinations.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.plan import FileType
from file_compare import differing_tensors
from quantize_models import imatrix_arrays, write_imatrix, write_model

TARGETS = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0",
    "MXFP4", "NVFP4", "Q1_0", "Q2_0", "F16", "F32",
]  # fmt: skip
NEED_IMATRIX = {"IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"}
ISAS = ["portable", "avx2", "avx512"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity")
    for source in ("BF16", "F16", "F32"):
        write_model(path / f"{source}.gguf", source=source)
    write_imatrix(path / "imatrix.gguf")
    return path


def upstream_weights() -> dict[str, list[float]]:
    """What llama-quantize makes of the file: sums / counts in float, 1 for unseen experts."""
    result = {}
    for name, (sums, counts) in imatrix_arrays().items():
        values = np.ones_like(sums)
        np.divide(sums, counts, out=values, where=counts > 0)
        result[name] = values.ravel().tolist()
    return result


def write_both(
    folder: Path, source: str, ftype: str, rules: list[tuple[str, str]], *, with_imatrix: bool
) -> tuple[Path, Path]:
    """The same request to both; rules are (regex, type)."""
    model, ours, theirs = (folder / f"{n}.gguf" for n in (source, "ours", "theirs"))
    core.upstream_quantize(
        str(model), str(theirs), ftype=FileType.parse(ftype).number, n_threads=2,
        allow_requantize=True,
        tensor_types=[(regex, apex.GgmlType.parse(type).id) for regex, type in rules],
        imatrix=upstream_weights() if with_imatrix else {},
    )  # fmt: skip
    imatrix = apex.load_imatrix(folder / "imatrix.gguf") if with_imatrix else None
    with apex.open_gguf(model) as opened:
        plan = apex.make_plan(
            opened, ftype=ftype, tensor_types=[f"{r}={t}" for r, t in rules], imatrix=imatrix,
            prior="none",
        )  # fmt: skip
        apex.quantize(
            opened, plan, ours, imatrix=imatrix, n_threads=3, force=True, allow_requantize=True
        )
    return ours, theirs


@pytest.mark.parametrize("with_imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_type(folder: Path, target: str, with_imatrix: bool) -> None:
    rules = [("blk.*_exps|blk.*attn_", target)]
    if target in NEED_IMATRIX and not with_imatrix:
        with pytest.raises(apex.QuantizeError, match="imatrix"):
            core.upstream_quantize(
                str(folder / "BF16.gguf"), str(folder / "theirs.gguf"), ftype=7,
                tensor_types=[(rules[0][0], apex.GgmlType.parse(target).id)],
            )  # fmt: skip
        with apex.open_gguf(folder / "BF16.gguf") as model:
            plan = apex.make_plan(model, ftype="Q8_0", tensor_types=[f"{rules[0][0]}={target}"])
            with pytest.raises(apex.PlanError, match="importance matrix"):
                apex.quantize(model, plan, folder / "refused.gguf")
        return
    assert (
        differing_tensors(*write_both(folder, "BF16", "Q8_0", rules, with_imatrix=with_imatrix))
        == []
    )


@pytest.mark.parametrize("source", ["F16", "F32"])
@pytest.mark.parametrize("ftype", ["Q4_K_M", "Q3_K_S", "IQ4_XS", "Q8_0"])
def test_every_source_type(folder: Path, source: str, ftype: str) -> None:
    assert differing_tensors(*write_both(folder, source, ftype, [], with_imatrix=True)) == []


def test_quantized_source(folder: Path) -> None:
    core.upstream_quantize(str(folder / "BF16.gguf"), str(folder / "Q6_K.gguf"), ftype=18)
    assert differing_tensors(*write_both(folder, "Q6_K", "Q4_K_M", [], with_imatrix=False)) == []


CHILD = """
import sys
from pathlib import Path
import test_quantize_parity as parity
folder, targets = Path(sys.argv[1]), sys.argv[2].split(",")
from file_compare import differing_tensors
for target in targets:
    for with_imatrix in (False, True):
        if target in parity.NEED_IMATRIX and not with_imatrix:
            continue
        rules = [("blk.*_exps|blk.*attn_", target)]
        files = parity.write_both(folder, "BF16", "Q8_0", rules, with_imatrix=with_imatrix)
        assert differing_tensors(*files) == [], (target, with_imatrix)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(folder: Path, tmp_path: Path, isa: str) -> None:
    """APEX_ISA limits which kernels run, so that an AVX-512 machine tests all of them."""
    for name in ("BF16.gguf", "imatrix.gguf"):
        (tmp_path / name).symlink_to(folder / name)
    environment = {**os.environ, "APEX_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    targets = ",".join(t for t in TARGETS if t.startswith(("Q8_0", "IQ")) or t.endswith("_K"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), targets],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["quality", "balanced", "compact", "mini", "nano", "micro"])
def test_tiers_of_the_demo_model(tmp_path: Path, tier: str) -> None:
    """Every tensor of every tier, against upstream with one rule per tensor."""
    imatrix = apex.load_imatrix(apex.demo_imatrix())
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    with apex.open_gguf(apex.demo_model()) as model:
        plan = apex.make_plan(model, tier=tier, imatrix=imatrix, prior="none")
        apex.quantize(model, plan, ours, imatrix=imatrix)
    core.upstream_quantize(
        str(apex.demo_model()), str(theirs), ftype=7, n_threads=2,
        tensor_types=[
            (f"^{name}$".replace(".", "[.]"), type.id)
            for name, type in plan.types.items()
        ],
        imatrix={name: entry.values.ravel().tolist() for name, entry in imatrix.entries.items()},
    )  # fmt: skip
    assert differing_tensors(ours, theirs) == []
    assert ours.stat().st_size == plan.total_bytes
