"""The demo model with a vocabulary of the size of Qwen3.5's: rows made up, the trunk as trained.

What a vocabulary costs (logits, their copies, their sums) is then what it costs in a real model,
while the file stays small. Tokens of a text are the demo model's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

N_VOCAB = 248_320
SEED = 20261125

_UNUSED_TOKEN = 5
"""LLAMA_TOKEN_TYPE_UNUSED (llama.h)."""


def write_wide_model(source: Path, target: Path, n_vocab: int = N_VOCAB) -> None:
    """Copy a BF16 model, its vocabulary and the tensors over it extended to n_vocab rows."""
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(target, architecture)
    n_before = len(reader.fields["tokenizer.ggml.tokens"].data)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = field.contents()
        if field.name == "tokenizer.ggml.tokens":
            value = [*value, *(f"<|extra_{i}|>" for i in range(n_before, n_vocab))]
        elif field.name == "tokenizer.ggml.token_type":
            value = [*value, *[_UNUSED_TOKEN] * (n_vocab - n_before)]
        elif field.name == "tokenizer.ggml.scores":
            value = [*value, *[0.0] * (n_vocab - n_before)]
        elif field.name.endswith(".vocab_size"):
            value = n_vocab
        is_array = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(
            field.name, value, field.types[0], sub_type=field.types[-1] if is_array else None
        )
    rng = np.random.default_rng(SEED)
    for tensor in reader.tensors:
        data = tensor.data
        if int(tensor.shape[-1]) == n_before:
            data = np.concatenate([data, _rows(rng, data, n_vocab - n_before)])
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rows(rng: np.random.Generator, like: np.ndarray, n: int) -> np.ndarray:
    """Gaussian BF16 rows as bytes, with the deviation of those that are there."""
    bits = like.view(np.uint16).astype(np.uint32) << 16
    scale = np.float32(np.std(bits.view(np.float32)))
    weights = rng.standard_normal((n, bits.shape[1]), np.float32) * scale
    return (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
