"""Several files from one reading of the source: every byte as from one after the other."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.errors import Cancelled, OutputError, PlanError, QuantizeError
from apex_native.gguf import GgufFile
from apex_native.quantization import Progress, QuantizeTarget
from cli_tools import invoke
from job_tools import finish, gaussian, model

RECIPES = (
    {"tier": "i-quality"},
    {"tier": "i-balanced"},
    {"tier": "balanced"},
    {"tier": "mini"},
    {"ftype": "Q4_K_M"},
    {"ftype": "COPY"},
)


@pytest.fixture(scope="module")
def source() -> GgufFile:
    return apex.open_gguf(apex.demo_model())


def targets(source: GgufFile, folder: Path) -> list[QuantizeTarget]:
    matrix = apex.load_imatrix(apex.demo_imatrix())
    made = []
    for recipe in RECIPES:
        name = next(iter(recipe.values()))
        used = None if name in ("balanced", "COPY") else matrix
        prior = "none" if name == "i-balanced" else "auto"
        plan = apex.make_plan(source, **recipe, imatrix=used, prior=prior)
        made.append(QuantizeTarget(plan, folder / f"{name}.gguf", used))
    return made


@pytest.fixture(scope="module")
def alone(source: GgufFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for target in targets(source, folder):
        manifest = apex.quantize(source, target.plan, target.output, imatrix=target.imatrix)
        manifest.save(Path(target.output).with_suffix(".json"))
    return folder


@pytest.mark.parametrize("n_threads", [1, 2])
def test_bytes_and_errors_are_those_of_each_alone(
    source: GgufFile, alone: Path, tmp_path: Path, n_threads: int
) -> None:
    seen: list[Progress] = []
    wanted = targets(source, tmp_path)
    written = apex.quantize_many(source, wanted, n_threads=n_threads, progress=seen.append)
    assert [manifest.files for manifest in written] == [(Path(t.output),) for t in wanted]
    for target, manifest in zip(wanted, written, strict=True):
        path = Path(target.output)
        assert path.read_bytes() == (alone / path.name).read_bytes()
        before = json.loads((alone / path.name).with_suffix(".json").read_text())
        found = json.loads(manifest.to_json())
        assert found["tensors"] == before["tensors"]
        assert found["rules_sha256"] == before["rules_sha256"]
    # The source is counted once, however many files it becomes.
    assert seen[-1].bytes_done == seen[-1].n_bytes == sum(t.nbytes for t in source.tensors)
    assert seen[-1].tensors_done == len(RECIPES) * len(source.tensors)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gguf"] * len(RECIPES)


@pytest.mark.usefixtures("frequent_looks")
def test_what_was_stopped_goes_on(source: GgufFile, alone: Path, tmp_path: Path) -> None:
    wanted = targets(source, tmp_path)
    stop = threading.Event()

    def stop_midway(progress: Progress) -> None:
        if progress.tensors_done > 40:
            stop.set()

    with pytest.raises(Cancelled):
        apex.quantize_many(source, wanted, n_threads=1, progress=stop_midway, cancel=stop)
    assert not list(tmp_path.glob("*.gguf"))
    with pytest.raises(OutputError, match="left from an interrupted run"):
        apex.quantize_many(source, wanted)
    written = apex.quantize_many(source, wanted, resume=True)
    assert any(manifest.resumed_tensors for manifest in written)
    for target in wanted:
        path = Path(target.output)
        assert path.read_bytes() == (alone / path.name).read_bytes()


def test_a_crash_between_two_names_leaves_the_whole_ones(
    source: GgufFile, alone: Path, tmp_path: Path
) -> None:
    wanted = targets(source, tmp_path)[-2:]

    class PowerCutError(Exception):
        pass

    def cut(_: apex.QuantizeManifest) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        apex.quantize_many(source, wanted, finished=cut)
    whole = [t for t in wanted if Path(t.output).exists()]
    assert len(whole) == 1
    with pytest.raises(OutputError, match="exists"):
        apex.quantize_many(source, wanted)
    written = apex.quantize_many(source, wanted, resume=True)
    assert [m.files[0] for m in written] == [Path(t.output) for t in wanted if t not in whole]
    for target in wanted:
        path = Path(target.output)
        assert path.read_bytes() == (alone / path.name).read_bytes()
    # What has the name of another recipe's file is not taken for it.
    Path(wanted[0].output).write_bytes(Path(wanted[1].output).read_bytes())
    with pytest.raises(OutputError, match="exists"):
        apex.quantize_many(source, wanted, resume=True)


def test_one_that_cannot_begin_leaves_nothing_of_the_others(
    source: GgufFile, tmp_path: Path
) -> None:
    wanted = targets(source, tmp_path)[2:5]
    Path(wanted[2].output).write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        apex.quantize_many(source, wanted)
    assert [path.name for path in tmp_path.iterdir()] == [Path(wanted[2].output).name]
    with pytest.raises(OutputError, match="two outputs would be"):
        apex.quantize_many(source, [wanted[0], wanted[0]])
    bad = apex.make_plan(source, tier="mini")
    with pytest.raises(PlanError, match="imatrix"):
        apex.quantize_many(source, [wanted[0], QuantizeTarget(bad, tmp_path / "mini.gguf")])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_source_stops_them_all(tmp_path: Path) -> None:
    weights = gaussian(64, 256)
    weights[40, 3] = float("nan")
    file = model(tmp_path, weights)
    stored = file.native.stored_tensor(0)
    with (tmp_path / "out").open("wb") as output:
        tasks = [
            core.QuantizeTask(stored, type.id, output_fd=output.fileno(), output_offset=0)
            for type in (apex.GgmlType.Q8_0, apex.GgmlType.F32, apex.GgmlType.Q4_K)
        ]
        job = core.QuantizeJob(tasks, n_threads=2, max_memory=2**30, group_sizes=[3])
        with pytest.raises(QuantizeError, match="row 40"):
            finish(job)
        job.close()


@pytest.mark.parametrize("sizes", [[1], [3], [0, 2], [1, 1, 1]])
def test_groups_are_of_all_tasks(tmp_path: Path, sizes: list[int]) -> None:
    file = model(tmp_path, gaussian(4, 256))
    with (tmp_path / "out").open("wb") as output:
        tasks = [
            core.QuantizeTask(
                file.native.stored_tensor(0), 8, output_fd=output.fileno(), output_offset=0
            )
            for _ in range(2)
        ]
        with pytest.raises(ValueError, match="group_sizes"):
            core.QuantizeJob(tasks, n_threads=1, max_memory=2**30, group_sizes=sizes)


def test_the_command_line_writes_all_tiers(tmp_path: Path) -> None:
    options = ("--tier", "all", "--imatrix", apex.demo_imatrix(), "-o", tmp_path, "--json")
    dry = invoke("quantize", apex.demo_model(), *options, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    predicted = {Path(f["path"]).name: f["bytes"] for f in json.loads(dry.stdout)["files"]}
    assert len(predicted) == len(apex.tier_names())
    done = invoke("quantize", apex.demo_model(), *options)
    assert done.exit_code == 0, done.stderr
    assert {p.name: p.stat().st_size for p in tmp_path.glob("*.gguf")} == predicted
    outputs = json.loads(done.stdout)["outputs"]
    assert {o["tier"] for o in outputs} == set(apex.tier_names())
    for output in outputs:
        # A tier does without the matrix where its i- twin is made too.
        uses = output["tier"] in ("mini", "nano", "micro") or output["tier"].startswith("i-")
        assert (output["imatrix_sha256"] is not None) == uses
        saved = tmp_path / (output["files"][0] + ".manifest.json")
        assert json.loads(saved.read_text()) == output
    again = invoke("quantize", apex.demo_model(), *options, "--resume")
    assert json.loads(again.stdout)["outputs"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tier", "quality,quality"), "twice"),
        (("--tier", "quality,Q4"), "unknown tier"),
        (("--tier", "quality,mini", "-o", "one.gguf"), "is no folder"),
        (("--type", "Q8_0,Q4_K_M", "--manifest", "m.json"), "names one file"),
    ],
)
def test_what_several_files_cannot_have(options: tuple[str, ...], message: str) -> None:
    done = invoke("quantize", apex.demo_model(), *options)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())
