"""The numbers of llama-perplexity, from the same source, on the same text."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

import apex_native as apex
import tolerances
from apex_native.demo_text import demo_text
from apex_native.errors import DataError
from upstream_programs import run_upstream

CTX, N_CHUNKS = 512, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text, and the demo model in a tier that differs visibly."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "text.txt").write_text(demo_text(40_000, seed=21))
    with apex.open_gguf(apex.demo_model()) as source:
        apex.quantize(source, apex.make_plan(source, tier="compact"), folder / "compact.gguf")
    return folder


@pytest.fixture(scope="module")
def upstream(reference_tools: Path, folder: Path) -> tuple[str, str]:
    """What llama-perplexity prints for the reference (writing its base file) and the candidate."""
    base = folder / "base.kld"
    common = ["-f", folder / "text.txt", "-c", CTX, "--chunks", N_CHUNKS, "-t", 2]
    return (
        run(reference_tools, "-m", apex.demo_model(), *common, "--kl-divergence-base", base),
        run(reference_tools, "-m", folder / "compact.gguf", *common, "--kl-divergence-base", base,
            "--kl-divergence"),
    )  # fmt: skip


def run(tools: Path, *arguments: object) -> str:
    done = run_upstream(tools / "llama-perplexity", *arguments)
    return done.stdout + done.stderr


def printed(text: str, label: str) -> float:
    match = re.search(rf"{re.escape(label)}\s*[:=]\s*(-?[\d.]+)", text)
    assert match, (label, text[-2000:])
    return float(match.group(1))


def ours(folder: Path, reference: object, **settings: object) -> apex.evaluate:  # type: ignore[valid-type]
    return apex.evaluate(
        reference, [folder / "compact.gguf"], n_threads=2, noise_chunks=0, **settings
    )


def test_perplexity_and_divergence_are_llama_perplexitys(
    upstream: tuple[str, str], folder: Path
) -> None:
    found = ours(folder, apex.demo_model(), text=folder / "text.txt", ctx=CTX, chunks=N_CHUNKS)
    reference, candidate = found.results.reference, found.results.candidates[0]
    assert reference.ppl == pytest.approx(
        printed(upstream[0], "Final estimate: PPL"), rel=tolerances.UPSTREAM_PPL_RTOL
    )
    close = {"rel": tolerances.UPSTREAM_KLD_RTOL, "abs": tolerances.UPSTREAM_KLD_ATOL}
    assert candidate.ppl == pytest.approx(
        printed(upstream[1], "Mean PPL(Q)"), rel=tolerances.UPSTREAM_PPL_RTOL
    )
    assert candidate.kld_mean == pytest.approx(printed(upstream[1], "Mean    KLD"), **close)
    assert candidate.same_top == pytest.approx(
        printed(upstream[1], "Same top p") / 100, abs=tolerances.UPSTREAM_SAME_TOP_ATOL
    )


def test_its_base_file_can_be_the_reference(upstream: tuple[str, str], folder: Path) -> None:
    found = ours(folder, folder / "base.kld")
    candidate = found.results.candidates[0]
    assert candidate.kld_mean == pytest.approx(
        printed(upstream[1], "Mean    KLD"),
        rel=tolerances.UPSTREAM_KLD_RTOL,
        abs=tolerances.UPSTREAM_KLD_ATOL,
    )


def test_it_reads_our_base_file(
    reference_tools: Path, upstream: tuple[str, str], folder: Path
) -> None:
    base = folder / "ours.kld"
    ours(
        folder, apex.demo_model(), text=folder / "text.txt", ctx=CTX, chunks=N_CHUNKS,
        save_base=base,
    )  # fmt: skip
    assert base.stat().st_size == (folder / "base.kld").stat().st_size
    header = 20 + 4 * CTX * N_CHUNKS
    assert base.read_bytes()[:header] == (folder / "base.kld").read_bytes()[:header]
    text = run(
        reference_tools, "-m", folder / "compact.gguf", "-c", CTX, "-t", 2,
        "--kl-divergence-base", base, "--kl-divergence",
    )  # fmt: skip
    assert printed(text, "Mean    KLD") == pytest.approx(
        printed(upstream[1], "Mean    KLD"),
        rel=tolerances.UPSTREAM_KLD_RTOL,
        abs=tolerances.UPSTREAM_KLD_ATOL,
    )


@pytest.mark.parametrize("choice", ["on", "off"])
def test_flash_attention_is_llama_perplexitys(
    reference_tools: Path, folder: Path, choice: str
) -> None:
    text = folder / "text.txt"
    common = ["-m", apex.demo_model(), "-f", text, "-c", CTX, "--chunks", N_CHUNKS, "-t", 2]
    theirs = printed(run(reference_tools, *common, "-fa", choice), "Final estimate: PPL")
    found = apex.evaluate(
        *(None, [apex.demo_model()], text),
        ctx=CTX, chunks=N_CHUNKS, placement=apex.Placement(n_threads=2, flash_attn=choice),
    )  # fmt: skip
    ppl = found.results.candidates[0].ppl
    assert ppl == pytest.approx(theirs, rel=tolerances.UPSTREAM_PPL_RTOL)


def hostile_base(kind: str, good: bytes) -> bytes:
    if kind == "magic":
        return b"_logitz_" + good[8:]
    if kind == "truncated":
        return good[:-7]
    if kind == "header only":
        return good[:20]
    if kind == "empty":
        return b""
    field = {"n_ctx": 8, "n_vocab": 12, "n_chunks": 16}[kind]
    return good[:field] + struct.pack("<i", 2**31 - 1) + good[field + 4 :]


@pytest.mark.parametrize(
    "kind", ["magic", "truncated", "header only", "empty", "n_ctx", "n_vocab", "n_chunks"]
)
def test_a_damaged_base_file_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    good = tmp_path / "good.kld"
    text = tmp_path / "text.txt"
    text.write_text(demo_text(6000, seed=3))
    apex.evaluate(
        apex.demo_model(), [], text, ctx=64, chunks=1, n_threads=2, save_base=good, noise_chunks=0
    )
    bad = tmp_path / "bad.kld"
    bad.write_bytes(hostile_base(kind, good.read_bytes()))
    with pytest.raises((DataError, apex.GgufError)):
        ours(folder, bad)
