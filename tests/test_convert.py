"""Checkpoints as GGUF: the bytes of upstream's own script, family by family, and nothing less."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="conversion needs the extra `convert`")
pytest.importorskip("transformers")

import apex_native as apex  # noqa: E402
import checkpoint_models  # noqa: E402  (needs torch)
from apex_native.conversion import ConversionOptions, OutType, Part, open_checkpoint  # noqa: E402
from upstream_convert import PRE_TOKENIZER, convert_all  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

UPSTREAM = ConversionOptions(folder_metadata=True, pre_tokenizer=PRE_TOKENIZER)
PARTS = {
    "qwen3_5_moe --no-mtp": ("qwen3_5_moe", ["--no-mtp"], {"part": Part.MODEL_WITHOUT_MTP}),
    "qwen3_5_moe --mtp": ("qwen3_5_moe", ["--mtp"], {"part": Part.MTP}),
    "qwen3_5_moe --mmproj": (
        "qwen3_5_moe", ["--mmproj", "--outtype", "f16"],
        {"part": Part.MMPROJ, "out_type": OutType.F16},
    ),
    "qwen3_moe f32": ("qwen3_moe", ["--outtype", "f32"], {"out_type": OutType.F32}),
    "qwen3_moe f16": ("qwen3_moe", ["--outtype", "f16"], {"out_type": OutType.F16}),
    "qwen3_moe q8_0": ("qwen3_moe", ["--outtype", "q8_0"], {"out_type": OutType.Q8_0}),
    "qwen3_5_moe fused": ("qwen3_5_moe", ["--fuse-gate-up-exps"], {"fuse_gate_up": True}),
    "mixtral fused": ("mixtral", ["--fuse-qkv"], {"fuse_qkv": True}),
    "deepseek_v3_fp8 as q8": ("deepseek_v3_fp8", ["--fp8-as-q8"], {"fp8_as_q8": True}),
    "qwen3_moe named": ("qwen3_moe", ["--model-name", "A Name"], {"name": "A Name"}),
}  # fmt: skip
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    **{name: (name, [], {}) for name in checkpoint_models.FAMILIES},
    **PARTS,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family's checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for name, make in checkpoint_models.FAMILIES.items():
        made[name] = root / name
        made[name].mkdir()
        make(made[name])
    return made


@pytest.fixture(scope="module")
def upstream_files(folders: dict[str, Path]) -> dict[str, Path]:
    """What upstream's script writes for every case; it is started once for all."""
    root = folders["llama"].parent
    outputs = {case: root / f"{i}.gguf" for i, case in enumerate(CASES)}
    convert_all(
        [
            [folders[family], "--outfile", outputs[case], *arguments]
            for case, (family, arguments, _) in CASES.items()
        ]
    )
    # Upstream puts the kind of a part before the name.
    prefix = {"--mmproj": "mmproj-", "--mtp": "mtp-"}
    for case, (_, arguments, _) in CASES.items():
        for argument in arguments:
            if argument in prefix and not outputs[case].exists():
                outputs[case] = outputs[case].with_name(prefix[argument] + outputs[case].name)
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_upstreams(
    case: str, folders: dict[str, Path], upstream_files: dict[str, Path], tmp_path: Path
) -> None:
    family, _, changes = CASES[case]
    options = {field: getattr(UPSTREAM, field) for field in UPSTREAM.__dataclass_fields__}
    written = tmp_path / "ours.gguf"
    apex.convert(folders[family], written, options=ConversionOptions(**{**options, **changes}))
    assert written.read_bytes() == upstream_files[case].read_bytes()


def _without(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _with_architecture(name: str, folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config.update(architectures=[name], model_type="nothing")

    checkpoint_models.edit_config(folder, edit)


def _with_mtp_layers_that_are_not_there(folder: Path) -> None:
    checkpoint_models.edit_tensors(
        folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("mtp.")]
    )
    checkpoint_models.edit_config(folder, lambda c: c["text_config"].pop("mtp_num_hidden_layers"))


def _without_an_expert(folder: Path) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors.pop(next(name for name in tensors if ".experts.3." in name))

    checkpoint_models.edit_tensors(folder, edit)


@pytest.mark.parametrize(
    ("family", "damage", "said"),
    [
        ("llama", lambda f: _without("tokenizer.json", f), "tokenizer"),
        ("ernie4_5_moe", lambda f: _without("tokenizer.model", f), "tokenizer.model; download"),
        ("llama", lambda f: _without("tokenizer.json", f), "one of; download .*tokenizer files"),
        ("llama", lambda f: _with_architecture("WombatForCausalLM", f), "Wombat.* not supported"),
        ("qwen3_5_moe", _with_mtp_layers_that_are_not_there, "--no-mtp|model-without-mtp"),
        ("qwen3_moe", _without_an_expert, "experts"),
    ],
)
def test_what_upstream_cannot_convert_is_one_sentence(
    family: str, damage: Any, said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / family
    shutil.copytree(folders[family], folder)
    damage(folder)
    with pytest.raises(apex.CheckpointError, match=said) as caught:
        open_checkpoint(folder, UPSTREAM).close()
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_model_of_text_alone_has_no_projector(folders: dict[str, Path]) -> None:
    options = replace(UPSTREAM, part=Part.MMPROJ)
    with pytest.raises(apex.CheckpointError, match="LlamaForCausalLM has none; leave"):
        open_checkpoint(folders["llama"], options).close()


def test_the_users_modules_stay_theirs(folders: dict[str, Path]) -> None:
    with open_checkpoint(folders["llama"], UPSTREAM):
        assert "conversion" not in sys.modules
        assert "_upstream" not in getattr(sys.modules.get("gguf"), "__file__", "")


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_5_moe", "deepseek_v3_fp8", "gpt_oss"])
def test_quantizing_a_folder_is_converting_and_quantizing(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    whole = tmp_path / "16.gguf"
    apex.convert(folders[family], whole, options=UPSTREAM)
    with open_checkpoint(folders[family], UPSTREAM) as source, apex.open_gguf(whole) as file:
        for ftype in ("Q4_K_M", "Q8_0"):
            plan = apex.make_plan(source, ftype=ftype)
            assert plan == apex.make_plan(file, ftype=ftype)
            direct = apex.quantize(source, plan, tmp_path / f"direct-{ftype}.gguf", n_threads=2)
            apex.quantize(file, plan, tmp_path / f"{ftype}.gguf", n_threads=1)
            written = direct.files[0].read_bytes()
            assert written == (tmp_path / f"{ftype}.gguf").read_bytes()
            assert len(written) == plan.total_bytes


KILLED = """
import os, signal, sys, time
import apex_native as apex
from apex_native.conversion import ConversionOptions
from apex_native.quantization import recorder

recorder.SYNC_EVERY_S = 0

def stop(progress):
    if progress.tensors_done:
        time.sleep(1)  # what is done goes to the disk
        os.kill(os.getpid(), signal.SIGKILL)

options = ConversionOptions(folder_metadata=True, pre_tokenizer="qwen2")
apex.convert(sys.argv[1], sys.argv[2], options=options, n_threads=1, progress=stop)
"""


def test_a_killed_conversion_goes_on(
    folders: dict[str, Path], upstream_files: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "model.gguf"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folders["deepseek_v3_fp8"], output],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    manifest = apex.convert(folders["deepseek_v3_fp8"], output, options=UPSTREAM, resume=True)
    assert manifest.resumed_tensors > 0
    assert output.read_bytes() == upstream_files["deepseek_v3_fp8"].read_bytes()


def test_the_folder_is_not_in_the_metadata(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "secret-project-7B"
    shutil.copytree(folders["llama"], folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [private]\n---\n")
    options = ConversionOptions(pre_tokenizer=PRE_TOKENIZER)
    with open_checkpoint(folder, options) as source:
        assert not any(word in source.header for word in (b"ecret", b"mit", b"private"))
        assert "general.name" not in source.facts.metadata
    named = ConversionOptions(pre_tokenizer=PRE_TOKENIZER, name="Given")
    with open_checkpoint(folder, named) as source:
        assert source.facts.metadata["general.name"] == "Given"


def test_a_pre_tokenizer_that_nobody_knows_is_refused(folders: dict[str, Path]) -> None:
    """llama.cpp would not load the file."""
    with pytest.raises(apex.CheckpointError, match=r"'qwen_2' is no .*; did you mean qwen2"):
        open_checkpoint(folders["llama"], ConversionOptions(pre_tokenizer="qwen_2"))


def test_the_plan_needs_no_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "partial"
    shutil.copytree(folders["qwen3_moe"], folder)
    with open_checkpoint(folder, UPSTREAM) as source:
        expected = apex.make_plan(source, ftype="Q4_0").total_bytes
    weights = folder / "model.safetensors"
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    os.truncate(weights, header + 100)
    with open_checkpoint(folder, UPSTREAM) as source:
        plan = apex.make_plan(source, ftype="Q4_0")
        assert plan.total_bytes == expected
        with pytest.raises(apex.PlanError, match=r"model\.safetensors has .* bytes; .*download"):
            apex.quantize(source, plan, tmp_path / "out.gguf")
