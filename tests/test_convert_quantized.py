"""Checkpoints that are quantized already: upstream's bytes, and what a plan makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="conversion needs the extra `convert`")
pytest.importorskip("transformers")

import apex_native as apex
from apex_native.conversion import ConversionOptions
from quantized_checkpoints import QUANTIZED
from upstream_convert import PRE_TOKENIZER, convert_all

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

UPSTREAM = ConversionOptions(folder_metadata=True, pre_tokenizer=PRE_TOKENIZER)


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
