"""What a model takes of a machine's memory, by formulas of our own and by llama.cpp's sums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.errors import ModelError
from apex_native.gpu_layers import has_gpu
from apex_native.memory import (
    CUDA_CONTEXT_BYTES,
    ContextMemory,
    ContextSettings,
    Room,
    context_memory,
    fit_file,
    gpu_room,
    place_weights,
)
from apex_native.memory.fit import server_command
from apex_native.types import GgmlType
from cli_tools import invoke
from memory_models import MODELS, UBATCH, Expected
from model_kinds import KINDS
from plan_tables import write_gguf
from tolerances import CACHE_GPU_RTOL, FIT_GPU_RTOL, FIT_RTOL

CTX = 3000
CELLS = 3072
"""A context is a multiple of 256 tokens."""

PAIRS = [
    (GgmlType.F16, GgmlType.F16),
    (GgmlType.Q8_0, GgmlType.Q4_0),
    (GgmlType.Q8_0, GgmlType.TURBO3),
]


def expected_layers(model: Expected, type_k: GgmlType, type_v: GgmlType) -> list[int]:
    def row(n: int, type: GgmlType) -> int:
        return n // type.block_size * type.block_bytes

    return [
        (window or CELLS) * (row(k, type_k) + row(v, type_v)) + 4 * state
        for k, v, window, state in zip(model.k, model.v, model.window, model.state, strict=True)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_caches_are_what_the_architecture_needs_to_the_byte(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    path = tmp_path / "header.gguf"
    n_header = write_gguf(model.table, path)
    with path.open("r+b") as file:
        file.truncate(n_header)
    for type_k, type_v in PAIRS:
        if name == "deepseek2" and type_k is not type_v:
            with apex.open_gguf(path) as source, pytest.raises(ModelError, match=r"header\.gguf"):
                context_memory(source, ContextSettings(CTX, type_k, type_v))
            type_v = type_k  # latent attention has one cache
        with apex.open_gguf(path) as source:
            found = context_memory(source, ContextSettings(CTX, type_k, type_v))
        expected = expected_layers(model, type_k, type_v)
        assert [found.by_layer().get(layer, 0) for layer in range(len(expected))] == expected
        # llama.cpp's own total has nothing beside them; CUDA pads rows of blocks.
        assert sum(expected) <= found.cache
        assert found.cache == pytest.approx(sum(expected), rel=CACHE_GPU_RTOL if has_gpu() else 0)
        assert found.state == 4 * sum(model.state)
        growing = [i for i, window in enumerate(model.window) if window is None]
        per_token = sum((expected[i] - 4 * model.state[i]) / CELLS for i in growing)
        assert found.bytes_per_token == per_token


def allocated(path: Path, settings: ContextSettings, n_cpu_moe: int = 0) -> int:
    """Bytes of weights, caches and buffers that llama.cpp takes where the layers are, in use."""
    layers = -1 if has_gpu() else 0
    model = core.Model(str(path), n_gpu_layers=layers, use_mmap=False, n_cpu_moe=n_cpu_moe)
    uses = model.memory_use(
        n_ctx=settings.ctx, n_batch=UBATCH, n_seq_max=1, n_outputs_max=1, swa_full=False,
        type_k=settings.type_k.id, type_v=settings.type_v.id, n_tokens=UBATCH + 1,
    )  # fmt: skip
    return sum(uses[0][1:4])


@pytest.mark.parametrize("name", MODELS)
def test_what_fits_is_what_llama_cpp_allocates(name: str, tmp_path: Path) -> None:
    """On a GPU where there is one: weights lie in memory, a batch and a token were computed."""
    path = tmp_path / "model.gguf"
    write_gguf(MODELS[name]().table, path)
    settings = ContextSettings(CTX, GgmlType.Q8_0, GgmlType.Q8_0)
    with apex.open_gguf(path) as source:
        context = context_memory(source, settings)
        need = fit_file(source.tensors, context, Room(1 << 40, on_gpu=has_gpu())).need
    found = allocated(path, settings)
    assert need.total - need.cuda_context == pytest.approx(
        found, rel=FIT_GPU_RTOL if has_gpu() else FIT_RTOL
    )


@pytest.mark.skipif(not has_gpu(), reason="this build or machine has no GPU")
def test_with_experts_on_the_host_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(MODELS["qwen3moe"]().table, path)
    settings = ContextSettings(CTX)
    with apex.open_gguf(path) as source:
        context = context_memory(source, settings)
        whole = fit_file(source.tensors, context, Room(1 << 40)).need
        a_layer = place_weights(source.tensors).experts[0][1]
        short = fit_file(source.tensors, context, Room(whole.total - 2 * a_layer))
    assert short.n_cpu_moe is not None
    assert short.n_cpu_moe > 0
    room = short.need.total - short.need.cuda_context
    assert 0.95 * room <= allocated(path, settings, short.n_cpu_moe) <= room


def context_of(nbytes: int) -> ContextMemory:
    return ContextMemory(ContextSettings(), (), cache=nbytes, buffers=0, host_buffers=0)


def test_experts_move_to_the_host_until_the_rest_fits(tmp_path: Path) -> None:
    table = MODELS["qwen3moe"]().table
    tensors = [tensor.info for tensor in table.tensors]
    placed = place_weights(tensors)
    a_layer = placed.experts[0][1]
    assert [layer for layer, _ in placed.experts] == list(range(table.n_layer))
    everything = placed.gpu + CUDA_CONTEXT_BYTES
    assert fit_file(tensors, context_of(0), Room(everything)).n_cpu_moe == 0
    # What is moved is copied back for a long prompt, one tensor at a time.
    assert placed.staging == max(t.nbytes for t in tensors if "exps" in t.name) < a_layer
    for n in (1, 2, table.n_layer):
        size = everything - n * a_layer + placed.staging
        short = fit_file(tensors, context_of(0), Room(size))
        assert (short.fits, short.n_cpu_moe) == (False, n)
        assert short.need.total == size
    assert fit_file(tensors, context_of(0), Room(everything // 2)).n_cpu_moe is None
    with_cache = fit_file(tensors, context_of(1000), Room(everything + 999))
    assert (with_cache.fits, with_cache.n_cpu_moe) == (False, 1)


def test_the_command_line_says_what_was_computed() -> None:
    table = MODELS["qwen3moe"]().table
    tensors = [tensor.info for tensor in table.tensors]
    placed = place_weights(tensors)
    room = Room(placed.gpu + CUDA_CONTEXT_BYTES - placed.experts[0][1])
    fit = fit_file(tensors, context_of(0), room)
    settings = ContextSettings(8192, GgmlType.Q8_0, GgmlType.Q4_0)
    assert server_command("m.gguf", settings, fit, mmproj="p.gguf") == (
        "llama-server -m m.gguf -c 8192 -np 1 -ctk q8_0 -ctv q4_0 -ngl 99 --n-cpu-moe 2 "
        "--mmproj p.gguf"
    )
    settings = ContextSettings(8192, GgmlType.Q8_0, GgmlType.TURBO3)
    assert server_command("m.gguf", settings, fit).endswith(
        "-ctk q8_0 -ctv turbo3 -ngl 99 --n-cpu-moe 2 # a fork's: stock llama-server has no turbo3"
    )


def test_tied_embeddings_are_in_both_places() -> None:
    tensors = [tensor.info for tensor in MODELS["gemma3"]().table.tensors]
    embedding = next(t.nbytes for t in tensors if t.name == "token_embd.weight")
    placed = place_weights(tensors)
    assert placed.host == embedding
    assert placed.gpu == sum(t.nbytes for t in tensors)


@pytest.mark.parametrize(
    ("name", "gib"),
    [("RTX 4060 Ti 16GB", 16), ("NVIDIA GeForce RTX 3090", 24), ("RX 7900 XTX 24 GB", 24)],
)
def test_cards_by_name(name: str, gib: int) -> None:
    assert gpu_room(name).nbytes == gib << 30


def test_an_unknown_card_is_asked_for_its_memory() -> None:
    with pytest.raises(ValueError, match="write it behind the name"):
        gpu_room("Voodoo 2")


def test_the_table_has_every_recipe_and_picks_one() -> None:
    done = invoke("plan", apex.demo_model(), "--fit", "24MiB", "--on", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["recipe"]: row for row in document["choices"]}
    assert {*apex.tier_names(), "Q8_0", "Q4_K_M", "IQ1_S"} <= rows.keys()
    for name in ("quality", "Q4_K_M"):
        kind = "tier" if name == "quality" else "ftype"
        plan = apex.make_plan(apex.demo_model(), **{kind: name})
        assert rows[name]["total_bytes"] == plan.total_bytes
        assert rows[name]["bpw"] == plan.bpw
    sizes = [row["total_bytes"] for row in document["choices"]]
    assert sizes == sorted(sizes, reverse=True)
    fitting = [row for row in document["choices"] if row["fits"]]
    assert 0 < len(fitting) < len(rows)
    assert document["picked"] == max(fitting, key=lambda row: row["total_bytes"])["recipe"]
    for row in document["choices"]:
        assert row["fits"] == (row["memory"]["total"] <= 24 << 20)
        assert (row["command"] is not None) == row["fits"]
    layers = {row["layer"]: row["bytes"] for row in document["context"]["layers"]}
    assert sum(layers.values()) == document["context"]["cache"]


def test_several_cards_are_asked_about_at_once(tmp_path: Path) -> None:
    cards = ("RTX 3060", "T4", "Old Card 1GB")
    options = [part for card in cards for part in ("--gpu", card)]
    only = ("--compare", "compact,Q8_0", "--ctx", "524288")
    done = invoke("plan", apex.demo_model(), *only, *options, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [room["name"] for room in document["rooms"]] == list(cards)
    for number, card in enumerate(cards):
        alone = json.loads(invoke("plan", apex.demo_model(), *only, "--gpu", card, "--json").stdout)
        assert alone["rooms"] == document["rooms"][number : number + 1]
        for row, single in zip(document["choices"], alone["choices"], strict=True):
            assert row["rooms"][number] == single["rooms"][0]
    assert not all(row["rooms"][2]["fits"] for row in document["choices"])
    assert all(row["rooms"][0]["fits"] for row in document["choices"])
    shown = invoke("plan", apex.demo_model(), *only, *options).stdout
    assert [card in shown for card in ("card     RTX 3060", "card     T4")] == [True, True]
    path = KINDS["mmproj"](tmp_path)
    with apex.open_gguf(path) as projector:
        size = sum(tensor.nbytes for tensor in projector.tensors)
    beside = json.loads(
        invoke("plan", apex.demo_model(), *only, "--gpu", "T4", "--mmproj", path, "--json").stdout
    )
    assert beside["choices"][0]["memory"]["mmproj"] == size
    assert beside["choices"][0]["command"].endswith(f"--mmproj {path}")


def test_results_and_saved_recipes_are_in_the_table(tmp_path: Path) -> None:
    saved = tmp_path / "mine.json"
    apex.make_plan(apex.demo_model(), ftype="Q6_K").save(saved)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    small = tmp_path / "demo-APEX-Q3_K_M_COMPACT.gguf"
    apex.quantize(apex.demo_model(), apex.make_plan(apex.demo_model(), tier="compact"), small)
    found = apex.evaluate(apex.demo_model(), [small], text, ctx=128, chunks=4)
    found.results.save(tmp_path / "eval.json")
    asked = ("--compare", "compact,Q8_0", "--recipe", saved, "--results", tmp_path / "eval.json")
    done = invoke("plan", apex.demo_model(), *asked, "--gpu", "RTX 3060", "--json")
    assert done.exit_code == 0, done.stderr
    rows = {row["recipe"]: row for row in json.loads(done.stdout)["choices"]}
    assert rows.keys() == {"compact", "Q8_0", "mine.json"}
    assert rows["compact"]["kld_mean"] == found.results.candidates[0].kld_mean
    # What is measured is picked before what is only larger.
    assert json.loads(done.stdout)["picked"] == "compact"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fit", "1G", "--gpu", "RTX 3090"), "leave out --fit"),
        (("--gpu", "Voodoo 2"), "write it behind the name"),
        (("--mmproj", "x.gguf"), "belongs to --fit or --gpu"),
        (("--pure",), "choose one with --tier"),
        (("-o", "plan.json"), "no plan"),
        (("--compare", "Q8"), "unknown file type"),
    ],
)
def test_what_does_not_go_together_is_refused(options: tuple[str, ...], message: str) -> None:
    done = invoke("plan", apex.demo_model(), *options)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())


def test_where_nothing_fits_it_is_said_what_the_smallest_needs() -> None:
    done = invoke("plan", apex.demo_model(), "--fit", "5MB")
    assert done.exit_code == 0, done.stderr
    assert "nothing fits into 5,000,000 bytes (4.768 MiB); " in done.stdout
    assert "is the smallest and needs " in done.stdout
    assert "CUDA context 750.000" in done.stdout


def test_a_search_leaves_room_for_what_the_plan_counts() -> None:
    done = invoke("search", apex.demo_model(), "--fit", "700MiB", "--no-file")
    with apex.open_gguf(apex.demo_model()) as source:
        context = context_memory(source, ContextSettings(4096))
    beside = context.cache + context.buffers + CUDA_CONTEXT_BYTES
    assert done.exit_code == 2
    assert f"CUDA alone take {beside:,} bytes" in " ".join(done.stderr.split())


def test_one_plan_says_what_it_takes() -> None:
    done = invoke("plan", apex.demo_model(), "--tier", "compact", "--fit", "1GiB", "--ctx", "8192")
    assert done.exit_code == 0, done.stderr
    assert "for 8,192 tokens in F16/F16" in done.stdout
    assert "fits     yes into 1,073,741,824 bytes" in done.stdout
    assert "run      llama-server -m " in done.stdout
    assert "-APEX-Q3_K_M_COMPACT.gguf -c 8192 -np 1 -ngl 99" in done.stdout
