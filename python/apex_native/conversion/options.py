"""How a checkpoint is read: the options of upstream's converter that change what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ConversionOptions", "OutType", "Part"]


class OutType(StrEnum):
    """The type of weights that may have another than F32; auto: the checkpoint's own 16 bits."""

    AUTO = "auto"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


class Part(StrEnum):
    """Which part of a checkpoint becomes a file."""

    MODEL = "model"
    MODEL_WITHOUT_MTP = "model-without-mtp"
    MTP = "mtp"
    MMPROJ = "mmproj"


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What upstream's script takes as options; the defaults are its own but for folder_metadata.

    name: `general.name`; folder_metadata: what the folder's name and its README say goes into the
    metadata too, as upstream does. pre_tokenizer: the name of a known one, for a tokenizer that
    upstream does not recognise. int4_as_q4_0: what was rounded to 4-bit integers in groups (Kimi,
    GPTQ) becomes Q4_0 with exactly those values, and not 16 bits. allow_pickle: read .bin files,
    which torch unpickles; trust_remote_code: let the checkpoint's own Python run.
    """

    out_type: OutType = OutType.AUTO
    part: Part = Part.MODEL
    name: str | None = None
    folder_metadata: bool = False
    fuse_gate_up: bool = False
    fuse_qkv: bool = False
    fp8_as_q8: bool = False
    int4_as_q4_0: bool = False
    pre_tokenizer: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
