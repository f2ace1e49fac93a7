"""Checkpoints of the hub: planned from headers, converted and quantized shard by shard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="conversion needs the extra `convert`")
pytest.importorskip("transformers")
pytest.importorskip("huggingface_hub")

import apex_native as apex
import checkpoint_models
from apex_native.conversion import ConversionOptions, open_source
from cli_tools import run
from hub_server import Hub, hub_server, point_client_at

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

REPO = "someone/Model-7B"
ADDRESS = f"hf://{REPO}"
OPTIONS = ConversionOptions(pre_tokenizer="qwen2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-MoE whose layers and experts lie in several shards; norms and gates are computed."""
    path = tmp_path_factory.mktemp("hub") / "checkpoint"
    path.mkdir()
    settings = {**checkpoint_models.TEXT, **checkpoint_models.MOE, "hidden_size": 256}
    checkpoint_models.save_model(
        path, "Qwen3MoeConfig", "Qwen3MoeForCausalLM", settings, max_shard_size="250KB"
    )
    assert len(list(path.glob("*.safetensors"))) > 4
    return path


@pytest.fixture(scope="module")
def converted(folder: Path) -> bytes:
    path = folder.parent / "here.gguf"
    apex.convert(folder, path, options=OPTIONS)
    return path.read_bytes()


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        point_client_at(server, tmp_path / "home", monkeypatch)
        server.publish(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
        yield server


def shard_bytes(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


def on_disk(home: Path) -> int:
    """Bytes of shards; what only promises them takes no blocks."""
    found = [path.lstat() for path in home.rglob("*.safetensors") if not path.is_symlink()]
    return sum(512 * status.st_blocks for status in found)


def test_a_plan_reads_headers_only(hub: Hub, folder: Path) -> None:
    with open_source(ADDRESS, OPTIONS, needs_data=False) as source:
        plan = apex.make_plan(source, ftype="Q4_K_M")
    with open_source(folder, OPTIONS) as here:
        assert plan == apex.make_plan(here, ftype="Q4_K_M")
    shards = [r for r in hub.requests if r.path.endswith(".safetensors") and r.method == "GET"]
    headers = {
        path.name: 8 + int.from_bytes(path.read_bytes()[:8], "little")
        for path in folder.glob("*.safetensors")
    }
    assert {request.path for request in shards} == set(headers)
    # One request a shard: up to the size that headers mostly have.
    assert all((request.begin, request.end) == (0, 1 << 19) or request.end
               <= (folder / request.path).stat().st_size for request in shards)  # fmt: skip
    assert len(shards) == len(headers)


@pytest.mark.parametrize("limited", [False, True])
def test_converted_from_the_hub_it_is_the_same_file(
    limited: bool, hub: Hub, folder: Path, converted: bytes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    limit = 3 * shard_bytes(folder) if limited else None
    most = 0

    def look(_: object) -> None:
        nonlocal most
        most = max(most, on_disk(home))

    with apex.open_checkpoint(ADDRESS, OPTIONS, cache_limit=limit) as source:
        assert "someone" not in str(source.header)
        apex.convert(source, tmp_path / "hub.gguf", n_threads=2, progress=look)
        fingerprint = source.fingerprint()
    assert (tmp_path / "hub.gguf").read_bytes() == converted
    if limited:
        # Blocks are counted in pages, and a header stays of what went.
        assert most <= limit + 8192 * len(list(folder.glob("*.safetensors")))
        assert on_disk(home) == 0
    else:
        with apex.open_checkpoint(ADDRESS, OPTIONS) as source:
            assert source.fingerprint() == fingerprint
        n_requests = len(hub.requests)
        apex.convert(ADDRESS, tmp_path / "again.gguf", options=OPTIONS)
        bodies = [r for r in hub.requests[n_requests:] if r.method == "GET"]
        assert all(r.end - r.begin <= 1 << 19 for r in bodies)  # it was all in the cache


def test_quantized_from_the_hub_it_is_the_same_file(
    hub: Hub, folder: Path, converted: bytes, tmp_path: Path
) -> None:
    here = tmp_path / "16.gguf"
    here.write_bytes(converted)
    plan = apex.make_plan(here, ftype="Q4_K_M")
    apex.quantize(here, plan, tmp_path / "here.gguf")
    done = run(
        "quantize", ADDRESS, "--type", "Q4_K_M", "--pre-tokenizer", "qwen2", "--cache-limit",
        str(4 * shard_bytes(folder)), "-q", "-o", tmp_path,
        HF_ENDPOINT=hub.url,
        HF_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "Model-7B-Q4_K_M.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()
    assert not any((tmp_path / "home" / "apex-native").iterdir())


def test_a_cache_too_small_for_a_shard_is_said(hub: Hub, tmp_path: Path) -> None:
    del hub
    with (
        apex.open_checkpoint(ADDRESS, OPTIONS, cache_limit=1000) as source,
        pytest.raises(apex.HubError, match=r"may hold 1,000 bytes, and .* raise `cache_limit`"),
    ):
        apex.convert(source, tmp_path / "out.gguf")


def test_it_goes_on_after_a_wrong_hash(hub: Hub, converted: bytes, tmp_path: Path) -> None:
    name = next(n for n in hub.published[REPO][hub.branches[REPO]["main"]] if "00002-of" in n)
    hub.faults.corrupt[name] = 3  # its header's range, which covers all of so small a file, too
    output = tmp_path / "out.gguf"
    with pytest.raises(apex.HubError, match=f"{name}: what comes does not have the hash"):
        apex.convert(ADDRESS, output, options=OPTIONS)
    assert not output.exists()
    apex.convert(ADDRESS, output, options=OPTIONS, resume=True)
    assert output.read_bytes() == converted


def test_another_revision_is_not_gone_on_with(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """A branch that moved between a run and its resumption."""
    output = tmp_path / "out.gguf"
    stop = threading.Event()
    with pytest.raises(apex.Cancelled):
        apex.convert(
            ADDRESS,
            output,
            options=OPTIONS,
            n_threads=1,
            cancel=stop,
            progress=lambda _: stop.set(),
        )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    last = max(name for name in files if name.endswith(".safetensors"))
    files[last] = files[last][:-1] + bytes([files[last][-1] ^ 1])
    hub.publish(REPO, files)
    with pytest.raises(apex.OutputError, match="source"):
        apex.convert(ADDRESS, output, options=OPTIONS, resume=True)


def test_a_run_that_waits_for_a_shard_can_be_cancelled(hub: Hub, tmp_path: Path) -> None:
    stop = threading.Event()
    with apex.open_checkpoint(ADDRESS, OPTIONS) as source:
        hub.faults.slow_s = 0.5
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(apex.Cancelled):
            apex.convert(source, tmp_path / "out.gguf", cancel=stop)


def test_what_is_wrong_with_a_checkpoint_names_its_address(hub: Hub, tmp_path: Path) -> None:
    files = dict(hub.published[REPO][hub.branches[REPO]["main"]])
    del files[max(name for name in files if name.endswith(".safetensors"))]
    hub.publish(REPO, files)
    with pytest.raises(apex.CheckpointError, match=f"{ADDRESS}: .*is missing") as caught:
        apex.open_checkpoint(ADDRESS, OPTIONS)
    assert str(tmp_path) not in str(caught.value)
