"""Which programs read a file: what was tried, and what their sources say."""

from __future__ import annotations

from collections.abc import Iterable

from apex_native.types import GgufFacts

__all__ = ["reader_notes"]

_NOT_IN_OLLAMA = {"TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "NVFP4"}
_FUSED = "ffn_gate_up_exps"


def reader_notes(files: Iterable[GgufFacts]) -> list[tuple[str, str]]:
    """(program, what to know) rows for files of one model.

    Tried (tests/test_runtimes.py, tests/test_readers.py): llama.cpp at the pinned commit, xllamacpp
    2026.10, gguf 0.19, transformers 5.24 on qwen35moe (fused experts come out random with only a
    load report). Ollama by its source (fs/ggml, August 2026): it has no types of its own list, and
    merges split files.
    """
    facts = list(files)
    types = {tensor.type.name for file in facts for tensor in file.tensors}
    split = any(len({tensor.shard for tensor in file.tensors}) > 1 for file in facts)
    fused = any(_FUSED in tensor.name for file in facts for tensor in file.tensors)
    rows = [("llama.cpp, LocalAI, xllamacpp", "every file here")]
    refused = sorted(types & _NOT_IN_OLLAMA)
    ollama = f"no: it refuses {', '.join(refused)}" if refused else "every file here"
    rows.append(
        ("Ollama", ollama + ("; split files are merged when they are created" if split else ""))
    )
    if fused:
        rows.append(("transformers", "no: fused experts would be loaded as random values"))
    else:
        rows.append(
            ("transformers", "as 16-bit weights, with accelerate, where it knows the architecture")
        )
    return rows
