"""hf:// addresses with the real client, from a server on this machine that also misbehaves."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

import apex_native as apex
from apex_native.hub import HubRepository, Shards, Workspace, parse_address
from apex_native.hub.client import explained
from cli_tools import run
from hub_server import Hub, hub_server, point_client_at

REPO = "someone/model"
ADDRESS = f"hf://{REPO}"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client in this process talks to, with a cache of its own."""
    with hub_server() as server:
        point_client_at(server, tmp_path / "home", monkeypatch)
        yield server


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return apex.demo_model()


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://a/b", ("a/b", None, "")),
        ("hf:/a/b", ("a/b", None, "")),  # as a Path writes it
        ("hf://models/a/b-1.5_x", ("a/b-1.5_x", None, "")),
        ("hf://a/b@v1.0/sub/x.gguf", ("a/b", "v1.0", "sub/x.gguf")),
        ("hf://a/b@refs/pr/7/x.gguf", ("a/b", "refs/pr/7", "x.gguf")),
        ("hf://a/b@feature%2Fone", ("a/b", "feature/one", "")),
    ],
)
def test_an_address_has_its_parts(text: str, parts: tuple[str, str | None, str]) -> None:
    found = parse_address(text)
    assert (found.repo, found.revision, found.path) == parts
    assert parse_address(Path(text)) == found


@pytest.mark.parametrize("text", ["hf://", "hf://a", "hf://a/b/../../c", "hf://a b/c"])
def test_no_address_is_one_sentence(text: str) -> None:
    with pytest.raises(apex.HubError, match=r"expected hf://|leads out"):
        parse_address(text)


# --- GGUF files ---------------------------------------------------------------------------------


def test_a_gguf_file_is_planned_from_its_header(hub: Hub, gguf_file: Path) -> None:
    content = gguf_file.read_bytes()
    hub.publish(REPO, {"model.gguf": content, "mmproj.gguf": b"GGUF", "README.md": b"#"})
    plan = apex.make_plan(ADDRESS, tier="quality")
    assert plan.total_bytes == apex.make_plan(gguf_file, tier="quality").total_bytes
    assert {request.path for request in hub.requests} == {"model.gguf"}
    assert max(request.end for request in hub.requests) < len(content) // 2


def test_a_gguf_file_is_downloaded_to_be_read(hub: Hub, gguf_file: Path, tmp_path: Path) -> None:
    commit = hub.publish(REPO, {"sub/model.gguf": gguf_file.read_bytes(), "other.gguf": b"GGUF"})
    address = f"{ADDRESS}@{commit}/sub/model.gguf"
    plan = apex.make_plan(address, ftype="Q4_0")
    apex.quantize(address, plan, tmp_path / "hub.gguf", n_threads=2)
    apex.quantize(gguf_file, plan, tmp_path / "here.gguf", n_threads=2)
    assert (tmp_path / "hub.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()
    with apex.load_model(address, n_threads=2) as model:
        assert model.tokenize("hello", add_special=False, parse_special=False).size


def test_a_repository_of_several_files_asks_which(hub: Hub) -> None:
    hub.publish(REPO, {f"model-{name}.gguf": b"GGUF" for name in ("Q4_0", "Q8_0")})
    with pytest.raises(apex.HubError, match=r"holds 2 models .*as hf://someone/model/model-Q4_0"):
        apex.make_plan(ADDRESS, tier="quality")
    hub.publish(REPO, {"README.md": b"#"})
    with pytest.raises(apex.HubError, match="neither a checkpoint"):
        apex.open_gguf(ADDRESS)


def test_a_damaged_header_is_said_of_the_address(hub: Hub, tmp_path: Path) -> None:
    hub.publish(REPO, {"model.gguf": b"nothing of the kind" * 10})
    with pytest.raises(apex.GgufError, match=r"hf://someone/model@.{8}/model.gguf") as caught:
        apex.make_plan(ADDRESS, ftype="Q8_0")
    assert str(tmp_path) not in str(caught.value)


def test_a_partly_downloaded_file_can_be_planned(gguf_file: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.gguf"
    part.write_bytes(gguf_file.read_bytes()[: gguf_file.stat().st_size // 2])
    assert apex.make_plan(part, tier="mini") == apex.make_plan(gguf_file, tier="mini")
    done = run("inspect", part)
    assert done.returncode == 0
    assert "can be planned, not quantized" in done.stdout
    refused = run("quantize", part, "--type", "Q4_0", "-o", tmp_path / "out.gguf")
    assert refused.returncode == 1
    assert "truncated" in refused.stderr


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"), [(401, "is gated; accept its terms"), (403, "is gated; accept its terms")]
)
def test_a_gated_model_says_how_to_get_in(hub: Hub, status: int, said: str) -> None:
    hub.publish(REPO, {"model.gguf": b"GGUF"})
    hub.faults.status = status
    with pytest.raises(apex.HubError, match=said) as caught:
        apex.make_plan(ADDRESS, ftype="Q8_0")
    assert "\n" not in str(caught.value)


def test_the_http_librarys_own_errors_are_sentences_too() -> None:
    from huggingface_hub.utils import get_session

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with (
            pytest.raises(apex.CorpusError, match=r"the data set: .+; check the network"),
            explained("the data set", apex.CorpusError),
        ):
            get_session().get(url)


def test_unknown_names_are_one_sentence(hub: Hub) -> None:
    hub.publish(REPO, {"model.gguf": b"GGUF"})
    with pytest.raises(apex.HubError, match="hf://no/body: there is no such repository"):
        apex.make_plan("hf://no/body", ftype="Q8_0")
    with pytest.raises(apex.HubError, match="no such revision"):
        apex.make_plan(f"{ADDRESS}@v2", ftype="Q8_0")
    with pytest.raises(apex.HubError, match="no such file"):
        apex.make_plan(f"{ADDRESS}/other.gguf", ftype="Q8_0")


def test_the_command_line_says_it_in_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.publish(REPO, {"model.gguf": b"GGUF"})
    done = run("inspect", "hf://no/body", **environment(hub, tmp_path / "home"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no such repository" in done.stderr
    misused = run("plan", tmp_path / "x.gguf", "--type", "Q8_0", "--cache-limit", "1G")
    assert misused.returncode == 2
    assert "is for an hf:// address" in misused.stderr


def test_a_dropped_connection_goes_on(hub: Hub, tmp_path: Path) -> None:
    content = os.urandom(12 << 20)  # the client keeps what came in steps of 10 MiB
    hub.publish(REPO, {WEIGHTS: content})
    hub.faults.drop_after[WEIGHTS] = 11 << 20
    repository = HubRepository.open(parse_address(ADDRESS))
    assert repository.download(WEIGHTS).read_bytes() == content
    starts = [request.begin for request in hub.requests if request.method == "GET"]
    assert starts[0] == 0
    assert len(starts) == 2
    assert starts[1] > 0


def test_a_wrong_hash_is_fetched_again_and_then_refused(hub: Hub) -> None:
    content = os.urandom(10_000)
    hub.publish(REPO, {WEIGHTS: content, "config.json": b"{}"})
    repository = HubRepository.open(parse_address(ADDRESS))
    hub.faults.corrupt = {WEIGHTS: 1, "config.json": 2}
    assert repository.download(WEIGHTS).read_bytes() == content
    with pytest.raises(apex.HubError, match="does not have the hash that the hub names"):
        repository.download("config.json")
    assert repository.download("config.json").read_bytes() == b"{}"


def test_a_moved_branch_changes_nothing_of_an_open_repository(hub: Hub) -> None:
    first = hub.publish(REPO, {WEIGHTS: b"one"})
    repository = HubRepository.open(parse_address(f"{ADDRESS}@main"))
    hub.publish(REPO, {WEIGHTS: b"two"})
    assert repository.read(WEIGHTS, 0, 3) == b"one"
    assert repository.download(WEIGHTS).read_bytes() == b"one"
    del hub.published[REPO][first]  # rewritten history
    with pytest.raises(apex.HubError, match="no such revision, or not any more"):
        repository.read(WEIGHTS, 0, 3)


# --- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def shards(hub: Hub) -> Iterator[tuple[Shards, list[Path], list[bytes]]]:
    """Three files of 1000 bytes, and room for two."""
    contents = [bytes([number]) * 1000 for number in range(3)]
    hub.publish(REPO, {f"{i}.safetensors": content for i, content in enumerate(contents)})
    repository = HubRepository.open(parse_address(ADDRESS))
    with Workspace() as workspace:
        folder = workspace.folder("model")
        places = [folder / str(i) for i in range(3)]
        headers = {path: (f"{path.name}.safetensors", contents[int(path.name)][:10])
                   for path in places}  # fmt: skip
        yield Shards(repository, headers, 2000, workspace.folder("downloads")), places, contents
    assert not workspace.path.exists()


def test_files_come_when_held_and_go_for_others(
    shards: tuple[Shards, list[Path], list[bytes]],
) -> None:
    cache, places, contents = shards
    assert [path.stat().st_size for path in places] == [1000] * 3
    assert places[1].read_bytes() == contents[1][:10] + bytes(990)
    with cache.holding(places[:2]):
        assert [path.read_bytes() for path in places[:2]] == contents[:2]
    with cache.holding([places[1]]), cache.holding([places[2]]):
        assert [path.read_bytes() for path in places[1:]] == contents[1:]
        assert places[0].read_bytes() == contents[0][:10] + bytes(990)
    assert cache.n_downloads == 3
    said = r"may hold 2,000 bytes, and 3,000 are needed at once"
    with pytest.raises(apex.HubError, match=said), cache.holding(places):
        pass


def test_who_needs_room_waits_for_who_holds_it(
    shards: tuple[Shards, list[Path], list[bytes]],
) -> None:
    cache, places, contents = shards
    seen: list[bytes] = []

    def wants_the_third() -> None:
        with cache.holding([places[2]]):
            seen.append(places[2].read_bytes())

    with cache.holding(places[:2]):
        waiting = threading.Thread(target=wants_the_third)
        waiting.start()
        waiting.join(0.2)
        assert not seen
        assert [path.read_bytes() for path in places[:2]] == contents[:2]
    waiting.join(60)
    assert seen == [contents[2]]


def test_folders_of_processes_that_were_killed_are_removed(hub: Hub, tmp_path: Path) -> None:
    with Workspace() as alive:
        left = alive.path.parent / "killed"
        left.mkdir()
        (left / "lock").touch()
        with Workspace():
            assert not left.exists()
            assert alive.path.exists()


def test_a_download_can_be_stopped(hub: Hub) -> None:
    hub.publish(REPO, {WEIGHTS: bytes(12 << 20)})
    hub.faults.slow_s = 0.01
    repository = HubRepository.open(parse_address(ADDRESS))
    threading.Timer(0.2, repository.stop).start()  # the whole file takes 2 s
    with pytest.raises(apex.Cancelled):
        repository.download(WEIGHTS)
