"""Running a plan: any number of threads, stops and crashes, full disks, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native.quantization import Progress
from apex_native.quantization.output_run import OutputRun
from file_compare import differing_tensors, read_tensors
from quantize_models import tensor_shapes, weights, write_imatrix, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model-bf16.gguf")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quantize(model: Path, output: Path, *, ftype: str = "Q4_K_M", **options: object) -> object:
    with apex.open_gguf(model) as source:
        plan = apex.make_plan(source, ftype=ftype)
        return apex.quantize(source, plan, output, **options)  # type: ignore[arg-type]


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if ".partial" in p.name or ".journal" in p.name)


def test_size_is_the_predicted_one_and_types_the_planned(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    with apex.open_gguf(model) as source:
        plan = apex.make_plan(source, tier="quality")
        manifest = apex.quantize(source, plan, output)
    assert output.stat().st_size == plan.total_bytes == manifest.total_bytes
    with apex.open_gguf(output) as written:
        assert {t.name: t.type for t in written.tensors} == plan.types
        assert written.metadata["apex.tier"] == "quality"
        assert written.metadata["apex.rules_sha256"] == plan.rules_sha256
        assert written.metadata["apex.version"] == apex.__version__
        assert written.metadata["qwen3moe.expert_count"] == 5
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("n_threads", [1, 2, 7])
@pytest.mark.parametrize("max_memory", [8 << 20, 2 << 30])
def test_threads_and_memory_do_not_change_a_byte(
    model: Path, tmp_path: Path, n_threads: int, max_memory: int
) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    a = quantize(model, first, n_threads=1)
    b = quantize(model, second, n_threads=n_threads, max_memory=max_memory)
    assert sha256(first) == sha256(second)
    assert [t.squared_error for t in a.tensors] == [t.squared_error for t in b.tensors]


def test_too_little_memory_is_refused_with_the_number(model: Path, tmp_path: Path) -> None:
    with pytest.raises(apex.QuantizeError, match="max_memory is 1000 bytes, one worker needs"):
        quantize(model, tmp_path / "out.gguf", max_memory=1000)
    assert leftovers(tmp_path) == []


def test_manifest_error_equals_numpy(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    manifest = quantize(model, output)
    with apex.open_gguf(model) as before, apex.open_gguf(output) as after:
        for record in manifest.tensors:
            x = before.to_float32(record.name).astype(np.float64)
            y = after.to_float32(record.name).astype(np.float64)
            expected = np.sqrt(((x - y) ** 2).sum() / (x**2).sum())
            if record.type is record.source_type:
                assert expected == 0
                assert record.relative_rmse == 0
            else:
                # double sums in another order: 1e-12 is 10^4 units in the last place
                assert record.relative_rmse == pytest.approx(expected, rel=1e-12)
    text = json.loads(manifest.to_json())
    assert text["total_bytes"] == output.stat().st_size
    assert {"name", "role", "layer", "type", "bytes"} <= text["tensors"][0].keys()


def test_progress_counts_up_to_all_of_it(model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    quantize(model, tmp_path / "out.gguf", progress=seen.append)
    last = seen[-1]
    assert last.tensors_done == last.n_tensors == len(tensor_shapes())
    assert last.bytes_done == last.n_bytes
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert sum(len(p.finished) for p in seen) == last.n_tensors


def test_output_is_not_overwritten_unless_forced(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_text("precious")
    with pytest.raises(apex.OutputError, match="exists"):
        quantize(model, output)
    assert output.read_text() == "precious"
    quantize(model, output, force=True)
    assert output.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("link", [False, True])
def test_input_is_never_the_output(tmp_path: Path, link: bool) -> None:
    model = write_model(tmp_path / "model.gguf")
    before = sha256(model)
    output = model
    if link:
        output = tmp_path / "alias.gguf"
        output.hardlink_to(model)
    with pytest.raises(apex.OutputError, match="input itself"):
        quantize(model, output, force=True)
    assert sha256(model) == before


def test_missing_folder_and_full_disk_are_found_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(apex.OutputError, match="no such folder"):
        quantize(model, tmp_path / "nowhere" / "out.gguf")
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert usage.f_bavail > 0
    with pytest.raises(apex.OutputError, match="1,000 bytes free, the output needs"):
        quantize(model, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_weight_is_named(tmp_path: Path, value: float) -> None:
    name = "blk.1.ffn_down_exps.weight"
    bad = weights(tensor_shapes()[name], 3)
    bad[2, 17, 40] = value
    model = write_model(tmp_path / "bad.gguf", source="F32", changes={name: bad})
    expected = "tensor 'blk.1.ffn_down_exps.weight', expert 2, row 17, column 40"
    with pytest.raises(apex.QuantizeError, match=expected):
        quantize(model, tmp_path / "out.gguf", n_threads=4)
    assert leftovers(tmp_path) == []


def test_bad_weight_in_a_copied_tensor_is_named(tmp_path: Path) -> None:
    bad = weights((512,), 3)
    bad[100] = np.nan
    model = write_model(tmp_path / "bad.gguf", changes={"blk.0.attn_norm.weight": bad})
    with pytest.raises(apex.QuantizeError, match=r"attn_norm\.weight', row 0, column 100"):
        quantize(model, tmp_path / "out.gguf")


def test_overflow_is_named(tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    huge = weights((64, 512), 3)
    huge[5] = 1e30
    model = write_model(tmp_path / "huge.gguf", source="F32", changes={name: huge})
    with pytest.raises(apex.QuantizeError, match=r"attn_q\.weight', rows .* too large"):
        quantize(model, tmp_path / "out.gguf", ftype="Q8_0")


def test_missing_matrix_is_refused_before_writing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(apex.PlanError, match="importance matrix"):
        quantize(model, tmp_path / "out.gguf", ftype="IQ2_XXS")
    assert list(tmp_path.iterdir()) == []


def test_matrix_that_lacks_a_tensor_is_refused_before_writing(model: Path, tmp_path: Path) -> None:
    lacking = ("blk.1.ffn_up_exps.weight",)
    imatrix = apex.load_imatrix(write_imatrix(tmp_path / "imatrix.gguf", drop=lacking))
    with apex.open_gguf(model) as source:
        plan = apex.make_plan(source, ftype="IQ2_XXS", imatrix=imatrix)
        with pytest.raises(apex.PlanError, match=r"blk.1.ffn_up_exps.weight"):
            apex.quantize(source, plan, tmp_path / "out.gguf", imatrix=imatrix)


def test_plan_for_another_file_is_refused(model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", n_layer=1)
    with apex.open_gguf(other) as small:
        plan = apex.make_plan(small, ftype="Q8_0")
    with pytest.raises(apex.PlanError, match="another file"):
        apex.quantize(model, plan, tmp_path / "out.gguf")


def test_requantizing_has_to_be_allowed(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q8.gguf", ftype="Q8_0")
    with pytest.raises(apex.PlanError, match="allow_requantize=True"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf")
    quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", allow_requantize=True)


@pytest.mark.usefixtures("frequent_looks")
def test_cancel_then_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", n_layer=12)
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    quantize(model, whole, ftype="IQ4_XS")
    stop = threading.Event()

    def stop_midway(progress: Progress) -> None:
        if 5 <= progress.tensors_done < progress.n_tensors:
            stop.set()

    with pytest.raises(apex.Cancelled) as caught:
        quantize(model, output, ftype="IQ4_XS", n_threads=1, progress=stop_midway, cancel=stop)
    assert "`resume=True`" in caught.value.__notes__[0]
    assert not output.exists()
    assert leftovers(tmp_path) == ["out.gguf.journal", "out.gguf.partial"]
    with pytest.raises(apex.GgufError):
        apex.open_gguf(tmp_path / "out.gguf.partial")  # never mistaken for a finished file
    with pytest.raises(apex.OutputError, match="interrupted run"):
        quantize(model, output, ftype="IQ4_XS")
    with pytest.raises(apex.OutputError, match="cannot resume: types was"):
        quantize(model, output, ftype="Q8_0", resume=True)
    manifest = quantize(model, output, ftype="IQ4_XS", resume=True)
    assert 5 <= manifest.resumed_tensors < len(manifest.tensors)
    assert sha256(output) == sha256(whole)
    with apex.open_gguf(whole) as file:
        assert {t.name: t.checksum for t in manifest.tensors} == file.checksums()
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("frequent_looks")
def test_a_second_run_at_the_same_output_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", n_layer=12)
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    quantize(model, whole, ftype="IQ4_XS")
    refused = []

    def try_again(progress: Progress) -> None:
        if not refused and progress.tensors_done:
            for how in ({}, {"force": True}, {"resume": True}):
                with pytest.raises(apex.OutputError, match="partial is being written by another"):
                    quantize(model, output, ftype="IQ4_XS", **how)
                refused.append(how)

    quantize(model, output, ftype="IQ4_XS", n_threads=1, progress=try_again)
    assert len(refused) == 3
    assert sha256(output) == sha256(whole)
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("frequent_looks")
def test_cancel_is_heard(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", n_layer=24)
    stop = threading.Event()

    def stop_now(progress: Progress) -> None:
        stop.set()

    with pytest.raises(apex.Cancelled):
        quantize(
            model, tmp_path / "o.gguf", ftype="IQ4_XS", n_threads=1, progress=stop_now, cancel=stop
        )
    assert not (tmp_path / "o.gguf").exists()


KILLED = """
import os, signal, sys
import apex_native as apex
from apex_native.quantization import journal, recorder
recorder.SYNC_EVERY_S = 0.0
record = journal.Journal.record

def record_and_die(self, finished):
    record(self, finished)
    os.kill(os.getpid(), signal.SIGKILL)

journal.Journal.record = record_and_die
with apex.open_gguf(sys.argv[1]) as source:
    plan = apex.make_plan(source, ftype="IQ4_XS")
    apex.quantize(source, plan, sys.argv[2], n_threads=1)
"""


@pytest.mark.slow
def test_kill_9_then_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", n_layer=60)
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    quantize(model, whole, ftype="IQ4_XS")
    environment = {**os.environ, "APEX_ISA": "portable", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(model), str(output)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert not output.exists()
    manifest = quantize(model, output, ftype="IQ4_XS", resume=True)
    assert manifest.resumed_tensors > 0
    assert sha256(output) == sha256(whole)


def test_damaged_journal_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.gguf.journal").write_text("not json\n")
    (tmp_path / "out.gguf.partial").write_bytes(b"")
    with pytest.raises(apex.OutputError, match="not a journal"):
        quantize(model, tmp_path / "out.gguf", resume=True)


def test_error_in_the_callback_keeps_the_work(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", n_layer=6)

    def fails(progress: Progress) -> None:
        if progress.tensors_done >= 3:
            raise ZeroDivisionError("a bug of the caller")

    with pytest.raises(ZeroDivisionError):
        quantize(model, tmp_path / "out.gguf", n_threads=1, progress=fails)
    assert leftovers(tmp_path) == ["out.gguf.journal", "out.gguf.partial"]


def test_split_output_is_one_model(model: Path, tmp_path: Path) -> None:
    single = tmp_path / "single.gguf"
    quantize(model, single)
    manifest = quantize(model, tmp_path / "split.gguf", split_max_size=600_000)
    assert len(manifest.files) > 2
    assert manifest.files[0].name == f"split-00001-of-{len(manifest.files):05d}.gguf"
    with apex.open_gguf(manifest.files[1]) as split, apex.open_gguf(single) as whole:
        assert [t.name for t in split.tensors] == [t.name for t in whole.tensors]
        for tensor in whole.tensors:
            assert (split.tensor_bytes(tensor.name) == whole.tensor_bytes(tensor.name)).all()
    requantized = tmp_path / "joined.gguf"
    quantize(manifest.files[0], requantized, ftype="COPY")
    assert differing_tensors(requantized, single) == []
    with apex.open_gguf(requantized) as joined:
        assert not any(key.startswith("split.") for key in joined.metadata)


def test_source_with_another_alignment(model: Path, tmp_path: Path) -> None:
    import gguf_builder as build
    from gguf_builder import ValueType

    data = weights((4, 256), 1)
    tensor = build.Tensor("blk.0.attn_q.weight", (4, 256), build.F32, data.tobytes())
    pairs = [
        build.pair("general.architecture", ValueType.STRING, "llama"),
        build.pair("llama.block_count", ValueType.U32, 1),
    ]
    path = tmp_path / "aligned.gguf"
    build.write_gguf(path, pairs=pairs, tensors=[tensor], alignment=64)
    quantize(path, tmp_path / "out.gguf", ftype="Q8_0")
    with apex.open_gguf(tmp_path / "out.gguf") as written:
        assert "general.alignment" not in written.metadata
        assert read_tensors(tmp_path / "out.gguf").keys() == {"blk.0.attn_q.weight"}


def test_a_file_has_its_manifest_before_it_has_its_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, manifest = tmp_path / "out.gguf", tmp_path / "out.json"

    class PowerCutError(BaseException):
        pass

    def cut(_: OutputRun) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(OutputRun, "publish", cut)
        with pytest.raises(PowerCutError):
            quantize(model, output, ftype="Q8_0", manifest=manifest)
    assert manifest.exists()
    assert not output.exists()
    found = quantize(model, output, ftype="Q8_0", manifest=manifest, resume=True)
    assert json.loads(manifest.read_text()) == json.loads(found.to_json())
    assert output.stat().st_size == found.total_bytes
