"""The demo model with another vocabulary: same shape, random embeddings, as many tokens as wanted.

What a vocabulary of a quarter of a million costs an evaluation does not depend on what the model
says, so random weights do. The demo's tokens come first, so that text has the same tokens; the
rest are names that no text spells.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

__all__ = ["write_vocabulary_model"]

_HEADS = ("token_embd.weight", "output.weight")
_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_NORMAL = 1
"""llama_token_type of ordinary tokens (llama.h)."""


def write_vocabulary_model(source: Path, path: Path, n_vocab: int, *, seed: int = 3) -> Path:
    """Write the model of ``source`` with n_vocab tokens, its embedding and head random BF16."""
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(path, architecture)
    n_known = len(reader.fields[_TOKENS].data)
    extra = [f"<unspelled {i}>" for i in range(n_vocab - n_known)]
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = field.contents()
        if key == _TOKENS:
            value = [*value, *extra]
        elif key == _TYPES:
            value = [*value, *([_NORMAL] * len(extra))]
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, value, field.types[0], sub_type)
    rng = np.random.default_rng(seed)
    for tensor in reader.tensors:
        if tensor.name in _HEADS:
            _add_random(writer, rng, tensor.name, (n_vocab, int(tensor.shape[0])))
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_random(
    writer: GGUFWriter, rng: np.random.Generator, name: str, shape: tuple[int, int]
) -> None:
    # A head that spreads logits by a few units, as trained ones do.
    values = rng.standard_normal(shape, np.float32) * np.float32(0.1)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor(
        name,
        bits.view(np.uint8).reshape(shape[0], 2 * shape[1]),
        raw_dtype=GGMLQuantizationType.BF16,
    )
