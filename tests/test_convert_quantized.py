"""Checkpoints that are quantized already: upstream's bytes, and what a plan makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="conversion needs the extra `convert`")
pytest.importorskip("transformers")

import apex_native as apex
from apex_native._native import core
from apex_native.conversion import ConversionOptions, OutType, open_checkpoint
from apex_native.conversion.int4 import as_q4_0
from cli_tools import invoke
from quantized_checkpoints import QUANTIZED
from upstream_convert import PRE_TOKENIZER, convert_all

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

UPSTREAM = ConversionOptions(folder_metadata=True, pre_tokenizer=PRE_TOKENIZER)


def dequantize_rows(blocks: npt.NDArray[np.uint8], type: str, n: int) -> npt.NDArray[np.float32]:
    return core.dequantize_rows(blocks, apex.GgmlType[type].id, n).reshape(-1, n)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantized")
    made = {}
    for name, make in QUANTIZED.items():
        made[name] = root / name
        made[name].mkdir()
        make(made[name])
    return made


@pytest.fixture(scope="module")
def upstream_files(folders: dict[str, Path]) -> dict[str, Path]:
    outputs = {name: folder.parent / f"{name}.gguf" for name, folder in folders.items()}
    convert_all([[folders[name], "--outfile", outputs[name]] for name in folders])
    return outputs


@pytest.mark.parametrize("form", QUANTIZED)
def test_the_file_is_upstreams(
    form: str, folders: dict[str, Path], upstream_files: dict[str, Path], tmp_path: Path
) -> None:
    written = tmp_path / "ours.gguf"
    apex.convert(folders[form], written, options=UPSTREAM)
    assert written.read_bytes() == upstream_files[form].read_bytes()


@pytest.mark.parametrize("form", ["gpt_oss_mxfp4", "modelopt_nvfp4", "compressed_nvfp4"])
def test_what_was_published_in_blocks_stays_as_it_is(
    form: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    type = apex.GgmlType.MXFP4 if "mxfp4" in form else apex.GgmlType.NVFP4
    with open_checkpoint(folders[form], UPSTREAM) as source:
        stored = {t.name for t in source.facts.tensors if t.type is type}
        assert any("exps" in name for name in stored)
        plan = apex.make_plan(source, tier="quality")
        assert {t.name for t in plan.tensors if t.type is type} == stored
        assert all("as stored" in t.reason for t in plan.tensors if t.name in stored)
        written = tmp_path / "out.gguf"
        apex.quantize(source, plan, written)
        with apex.open_gguf(written) as file:
            for name in stored:
                rows = source.stored_tensor(name).read_rows(0, 3)
                assert file.tensor_bytes(name)[: len(rows)].tolist() == rows.tolist()
        otherwise = apex.make_plan(source, tier="quality", tensor_types=["ffn_down_exps=Q8_0"])
        assert "REQUANTIZES" in {finding.kind.name for finding in otherwise.findings}
        with pytest.raises(apex.PlanError, match="already quantized"):
            apex.quantize(source, otherwise, tmp_path / "other.gguf")
        apex.quantize(source, otherwise, tmp_path / "other.gguf", allow_requantize=True)


def test_the_plan_says_as_stored(folders: dict[str, Path]) -> None:
    shown = invoke(
        "plan", folders["gpt_oss_mxfp4"], "--type", "Q4_K_M", "--pre-tokenizer", PRE_TOKENIZER
    )
    assert shown.exit_code == 0, shown.stderr
    assert "MXFP4 as stored" in shown.stdout


@pytest.mark.parametrize("form", ["int4", "int4_on_eights", "gptq"])
def test_int4_is_q4_0_without_loss(form: str, folders: dict[str, Path], tmp_path: Path) -> None:
    exact = tmp_path / "f32.gguf"
    apex.convert(folders[form], exact, options=replace(UPSTREAM, out_type=OutType.F32))
    options = replace(UPSTREAM, int4_as_q4_0=True)
    with open_checkpoint(folders[form], options) as source:
        packed = {t.name for t in source.facts.tensors if t.type is apex.GgmlType.Q4_0}
        assert packed == source.int4_names
        assert len(packed) == 14  # seven products in each of two layers
        plan = apex.make_plan(source, ftype="Q4_K_M")
        assert {t.name for t in plan.tensors if t.decided_by == "stored"} == packed
        apex.quantize(source, plan, tmp_path / "q4.gguf")
    apex.convert(folders[form], tmp_path / "converted.gguf", options=options)
    for written in ("q4.gguf", "converted.gguf"):
        with apex.open_gguf(tmp_path / written) as ours, apex.open_gguf(exact) as theirs:
            for name in packed:
                assert np.array_equal(ours.to_float32(name), theirs.to_float32(name)), name


def test_int4_is_recognised_and_said(folders: dict[str, Path]) -> None:
    arguments = ("--pre-tokenizer", PRE_TOKENIZER)
    for verb in (["inspect"], ["plan", "--type", "Q4_0"]):
        shown = invoke(*verb, folders["int4"], *arguments)
        assert "14 tensors of 4-bit integers: Q4_0 holds them exactly" in shown.stdout
        assert "--int4-as-q4-0" in shown.stdout
        assert "4-bit integers" not in invoke(*verb, folders["int4_with_zeros"], *arguments).stdout
    with pytest.raises(apex.CheckpointError, match="no INT4 checkpoint on a grid around zero"):
        open_checkpoint(folders["int4_with_zeros"], replace(UPSTREAM, int4_as_q4_0=True))


def test_blocks_off_the_grid_are_refused() -> None:
    weights = np.arange(-8, 8, dtype=np.float32).repeat(4).reshape(1, 64) * np.float32(0.25)
    blocks = as_q4_0(weights)
    assert np.array_equal(dequantize_rows(blocks.reshape(-1), "Q4_0", 64), weights)
    assert not as_q4_0(np.zeros((2, 32), np.float32))[:, :2].any()  # a scale of zero
    weights[0, 3] += 1e-3
    with pytest.raises(apex.CheckpointError, match="1 of 2 blocks of 32 weights"):
        as_q4_0(weights)
    tiny = np.full((1, 32), 7, np.float32) * np.float32(2**-30)  # no F16 scale is so small
    with pytest.raises(apex.CheckpointError, match="not hold them exactly"):
        as_q4_0(tiny)
