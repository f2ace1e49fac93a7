"""Tensor tables for the planning tests: real models' shapes and small ones of many architectures.

Every table is built here by hand: no weights, no reader, no classifier. ``write_gguf`` writes one
as a file whose data is a hole, which is all llama-quantize --dry-run needs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from apex_native.types import (
    Classification,
    ClassifiedTensor,
    GgmlType,
    GgufFacts,
    MetadataValue,
    Role,
    TensorInfo,
)

U32, I32, F32, BOOL, STRING = "I", "i", "f", "?", "s"
_TAGS = {U32: 4, I32: 5, F32: 6, BOOL: 7, STRING: 8}
_ARRAY = 9

HIDDEN = 256  # the smallest width that every block format divides


def encode_kv(key: str, code: str, value: MetadataValue) -> bytes:
    """A key-value pair as GGUF stores it (written out here as an oracle for gguf_layout)."""

    def text(s: str) -> bytes:
        return struct.pack("<Q", len(s.encode())) + s.encode()

    def scalar(v: object) -> bytes:
        return text(str(v)) if code == STRING else struct.pack("<" + code, v)

    if isinstance(value, tuple):
        head = struct.pack("<IIQ", _ARRAY, _TAGS[code], len(value))
        return text(key) + head + b"".join(scalar(v) for v in value)
    return text(key) + struct.pack("<I", _TAGS[code]) + scalar(value)


@dataclass
class Table:
    """A model's metadata and tensors; ``n_mtp`` of its layers are for prediction only."""

    architecture: str
    n_layer: int
    n_mtp: int = 0
    weight_type: GgmlType = GgmlType.F16
    typed_metadata: dict[str, tuple[str, MetadataValue]] = field(default_factory=dict)
    tensors: list[ClassifiedTensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.set("general.architecture", STRING, self.architecture)
        if self.n_layer + self.n_mtp:
            self.hparam("block_count", self.n_layer + self.n_mtp)
        if self.n_mtp:
            self.hparam("nextn_predict_layers", self.n_mtp)

    def set(self, key: str, code: str, value: MetadataValue) -> None:
        self.typed_metadata[key] = (code, value)

    def hparam(self, key: str, value: MetadataValue) -> None:
        first = value[0] if isinstance(value, tuple) else value
        code = {bool: BOOL, float: F32, str: STRING}.get(type(first), U32)
        self.set(f"{self.architecture}.{key}", code, value)

    def hparams(self, **values: MetadataValue) -> None:
        """Hyperparameters whose names need no dots, and ``a__b`` for ``a.b``."""
        for key, value in values.items():
            self.hparam(key.replace("__", "."), value)

    def add(self, name: str, ne: tuple[int, ...], role: Role, type: GgmlType | None = None) -> None:
        """Append a tensor of ggml shape ne; 1-D tensors are F32 unless a type is given."""
        stored = type or (GgmlType.F32 if len(ne) == 1 else self.weight_type)
        shape = tuple(reversed(ne))
        info = TensorInfo(name, shape, stored, stored.tensor_bytes(shape))
        layer = int(name.split(".")[1]) if name.startswith("blk.") else None
        is_mtp = role is Role.MTP or (layer is not None and layer >= self.n_layer)
        self.tensors.append(ClassifiedTensor(info, role, layer, is_mtp, "by hand"))

    @property
    def metadata(self) -> dict[str, MetadataValue]:
        return {key: value for key, (_, value) in self.typed_metadata.items()}

    @property
    def facts(self) -> GgufFacts:
        sizes = {k: len(encode_kv(k, c, v)) for k, (c, v) in self.typed_metadata.items()}
        return GgufFacts(self.metadata, tuple(t.info for t in self.tensors), sizes)

    @property
    def classification(self) -> Classification:
        n_expert = self.metadata.get(f"{self.architecture}.expert_count", 0)
        return Classification(
            facts=self.facts,
            n_layer=self.n_layer,
            n_layer_all=self.n_layer + self.n_mtp,
            tensors=tuple(self.tensors),
            n_expert=n_expert if isinstance(n_expert, int) else 0,
        )


def write_gguf(table: Table, path: Path, data: bytes = b"") -> int:
    """Write a table as a GGUF file, a hole where data ends; returns the length of the header."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(table.tensors), len(table.typed_metadata)))
    for key, (code, value) in table.typed_metadata.items():
        out += encode_kv(key, code, value)
    offset = 0
    for tensor in table.tensors:
        info = tensor.info
        name = info.name.encode()
        ne = tuple(reversed(info.shape))
        out += struct.pack("<Q", len(name)) + name
        out += struct.pack(f"<I{len(ne)}QiQ", len(ne), *ne, info.type.id, offset)
        offset += (info.nbytes + 31) // 32 * 32
    out += bytes(-len(out) % 32)
    with path.open("wb") as file:
        file.write(out + data)
        file.truncate(len(out) + offset)
    return len(out)


def add_frame(table: Table, n_embd: int, n_vocab: int, *, tied: bool = False) -> None:
    """Embedding, output norm and (unless tied) output."""
    table.add("token_embd.weight", (n_embd, n_vocab), Role.EMBEDDING)
    if not tied:
        table.add("output.weight", (n_embd, n_vocab), Role.OUTPUT)
    table.add("output_norm.weight", (n_embd,), Role.NORM)


def add_attention(table: Table, layer: int, n_embd: int, q: int, kv: int) -> None:
    """Separate q, k, v and output projections."""
    table.add(f"blk.{layer}.attn_norm.weight", (n_embd,), Role.NORM)
    for part, width in (("q", q), ("k", kv), ("v", kv)):
        table.add(f"blk.{layer}.attn_{part}.weight", (n_embd, width), Role.ATTENTION)
    table.add(f"blk.{layer}.attn_output.weight", (q, n_embd), Role.ATTENTION)


def add_dense_ffn(table: Table, layer: int, n_embd: int, n_ff: int, *, gated: bool = True) -> None:
    """A dense FFN, with or without a gate."""
    for part in ("gate", "up") if gated else ("up",):
        table.add(f"blk.{layer}.ffn_{part}.weight", (n_embd, n_ff), Role.DENSE_FFN)
    table.add(f"blk.{layer}.ffn_down.weight", (n_ff, n_embd), Role.DENSE_FFN)


def add_experts(
    table: Table, layer: int, n_embd: int, n_ff: int, n_expert: int, *, shared: bool = False
) -> None:
    """Router and routed experts, and a shared expert if asked."""
    prefix = f"blk.{layer}.ffn_"
    table.add(f"{prefix}gate_inp.weight", (n_embd, n_expert), Role.ROUTER, GgmlType.F32)
    table.add(f"{prefix}gate_exps.weight", (n_embd, n_ff, n_expert), Role.EXPERT_GATE)
    table.add(f"{prefix}up_exps.weight", (n_embd, n_ff, n_expert), Role.EXPERT_UP)
    table.add(f"{prefix}down_exps.weight", (n_ff, n_embd, n_expert), Role.EXPERT_DOWN)
    if shared:
        for part in ("gate", "up"):
            table.add(f"{prefix}{part}_shexp.weight", (n_embd, n_ff), Role.SHARED_EXPERT)
        table.add(f"{prefix}down_shexp.weight", (n_ff, n_embd), Role.SHARED_EXPERT)


def qwen35_35b() -> Table:
    """Qwen3.5-35B-A3B as converted to F16: metadata and the 733 tensors, in file order."""
    table = Table("qwen35moe", 40)
    table.typed_metadata.clear()
    table.set("general.architecture", STRING, "qwen35moe")
    table.set("general.name", STRING, "Qwen3.5-35B-A3B")
    table.hparams(
        block_count=40,
        context_length=262144,
        embedding_length=2048,
        attention__head_count=16,
        attention__head_count_kv=2,
        attention__key_length=256,
        attention__value_length=256,
        attention__layer_norm_rms_epsilon=1e-6,
        expert_count=256,
        expert_used_count=8,
        expert_feed_forward_length=512,
        expert_shared_feed_forward_length=512,
        vocab_size=248320,
        full_attention_interval=4,
        ssm__conv_kernel=4,
        ssm__inner_size=4096,
        ssm__state_size=128,
        ssm__group_count=16,
        ssm__time_step_rank=32,
        rope__dimension_count=64,
        rope__freq_base=1e7,
    )
    table.set("general.file_type", U32, 1)
    add_frame(table, 2048, 248320)
    for layer in range(40):
        _add_qwen35_layer(table, layer)
    return table


def _add_qwen35_layer(table: Table, layer: int) -> None:
    blk, ssm, f32 = f"blk.{layer}.", Role.SSM, GgmlType.F32
    table.add(f"{blk}attn_norm.weight", (2048,), Role.NORM)
    table.add(f"{blk}post_attention_norm.weight", (2048,), Role.NORM)
    table.add(f"{blk}ffn_gate_inp.weight", (2048, 256), Role.ROUTER, f32)
    table.add(f"{blk}ffn_gate_inp_shexp.weight", (2048,), Role.ROUTER)
    for part, role in (("gate", Role.EXPERT_GATE), ("up", Role.EXPERT_UP)):
        table.add(f"{blk}ffn_{part}_exps.weight", (2048, 512, 256), role)
    table.add(f"{blk}ffn_down_exps.weight", (512, 2048, 256), Role.EXPERT_DOWN)
    for part in ("gate", "up"):
        table.add(f"{blk}ffn_{part}_shexp.weight", (2048, 512), Role.SHARED_EXPERT)
    table.add(f"{blk}ffn_down_shexp.weight", (512, 2048), Role.SHARED_EXPERT)
    if layer % 4 == 3:
        table.add(f"{blk}attn_q.weight", (2048, 8192), Role.ATTENTION)
        table.add(f"{blk}attn_k.weight", (2048, 512), Role.ATTENTION)
        table.add(f"{blk}attn_v.weight", (2048, 512), Role.ATTENTION)
        table.add(f"{blk}attn_output.weight", (4096, 2048), Role.ATTENTION)
        table.add(f"{blk}attn_q_norm.weight", (256,), Role.NORM)
        table.add(f"{blk}attn_k_norm.weight", (256,), Role.NORM)
        return
    table.add(f"{blk}attn_qkv.weight", (2048, 8192), Role.ATTENTION)
    table.add(f"{blk}attn_gate.weight", (2048, 4096), Role.ATTENTION)
    table.add(f"{blk}ssm_out.weight", (4096, 2048), ssm)
    table.add(f"{blk}ssm_alpha.weight", (2048, 32), ssm)
    table.add(f"{blk}ssm_beta.weight", (2048, 32), ssm)
    table.add(f"{blk}ssm_conv1d.weight", (4, 8192), ssm, f32)
    table.add(f"{blk}ssm_a", (32,), ssm)
    table.add(f"{blk}ssm_dt.bias", (32,), ssm)
    table.add(f"{blk}ssm_norm.weight", (128,), Role.NORM)
