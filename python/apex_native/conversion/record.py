"""What upstream's converter makes of a folder: header bytes, and tensors nobody computed yet."""

from __future__ import annotations

import difflib
import inspect
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.conversion.failures import explained
from apex_native.conversion.options import ConversionOptions, Part
from apex_native.conversion.upstream import Upstream, working
from apex_native.errors import CheckpointError
from apex_native.types import GgmlType

__all__ = ["Recorded", "RecordedTensor", "record"]

SPILL_BYTES = 1 << 20
"""What upstream computes at once and is larger goes to a temporary file: it repacks 4-bit formats
tensor by tensor while it records."""


_ENCODERS = ("vision", "audio")
_PRE_TOKENIZER = re.compile(r'res = "([\w.-]+)"')


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """A tensor of the table; data is an array, a lazy one, or a `SpilledArray`."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    nbytes: int
    data: Any


@dataclass(frozen=True, slots=True)
class SpilledArray:
    """Bytes of a computed tensor in an open temporary file that has no name any more."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """The file that upstream would write, without its data.

    header holds everything before the data section. spill is kept: it owns the temporary files.
    int4_names: tensors whose values Q4_0 holds exactly. has_projector: images or sound can be made
    a file of their own from the same folder.
    """

    header: bytes
    tensors: tuple[RecordedTensor, ...]
    spill: Any
    int4_names: frozenset[str]
    has_projector: bool


class _Spill:
    """One temporary file for all arrays that are not lazy."""

    def __init__(self) -> None:
        self._file: Any = None

    def add(self, array: Any) -> SpilledArray:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(prefix="apex-repacked-")  # noqa: SIM115
        offset = self._file.seek(0, 2)
        array.tofile(self._file)
        self._file.flush()
        return SpilledArray(Path(self._file.name), offset)


def record(
    folder: Path,
    options: ConversionOptions,
    before_read: Callable[[Path, int, int], None] | None = None,
) -> Recorded:
    """Run upstream's converter over a folder as far as its header.

    before_read is told path, offset and size of whatever it reads of the weights. Raises
    CheckpointError, in one sentence, for whatever it does not accept.
    """
    from apex_native.conversion.int4 import has_int4_grid  # numpy: planning works without

    with (
        working(
            trust_remote_code=options.trust_remote_code,
            folder_metadata=options.folder_metadata,
            before_read=before_read,
        ) as upstream,
        explained(folder),
    ):
        spill = _Spill()
        model = _make_model(upstream, folder, options, _writer_class(upstream, spill))
        writer = getattr(model, "impl", model).gguf_writer
        config = getattr(model, "impl", model).hparams.get("quantization_config")
        writer.has_int4_grid = has_int4_grid(config)
        if options.int4_as_q4_0 and not writer.has_int4_grid:
            raise CheckpointError(
                f"{folder}: no INT4 checkpoint on a grid around zero in groups of whole blocks of "
                "32; leave `int4_as_q4_0=True` out"
            )
        writer.keeps_int4 = options.int4_as_q4_0
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
        tensors = tuple(
            RecordedTensor(
                name,
                tuple(int(n) for n in info.shape),
                GgmlType.from_id(int(info.dtype)),
                info.nbytes,
                info.tensor,
            )
            for name, info in writer.tensors[0].items()
        )
        return Recorded(
            _header(writer),
            tensors,
            spill,
            frozenset(writer.int4_names),
            _has_projector(upstream, folder),
        )


def _writer_class(upstream: Upstream, spill: _Spill) -> type[Any]:
    """Upstream's writer, which keeps what it is given; arrays that are not lazy are spilled."""
    from apex_native.conversion.int4 import is_packed, packed_as_q4_0

    base: type[Any] = upstream.gguf.GGUFWriter
    lazy = (upstream.gguf.LazyNumpyTensor, upstream.gguf.LazyChunkedTensor)

    class RecordingWriter(base):  # type: ignore[misc]  # an untyped package
        has_int4_grid = False
        keeps_int4 = False

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.int4_names: list[str] = []

        def add_tensor(self, name: str, tensor: Any, *args: Any, **kwargs: Any) -> None:
            if self.has_int4_grid and is_packed(tensor):
                self.int4_names.append(name)
                if self.keeps_int4:
                    tensor = packed_as_q4_0(tensor)
                    kwargs["raw_dtype"] = upstream.gguf.GGMLQuantizationType.Q4_0
            super().add_tensor(name, tensor, *args, **kwargs)
            if not isinstance(tensor, lazy) and tensor.nbytes > SPILL_BYTES:
                self.tensors[-1][name].tensor = spill.add(tensor)

    return RecordingWriter


def _make_model(
    upstream: Upstream, folder: Path, options: ConversionOptions, writer: type[Any]
) -> Any:
    base = upstream.base
    is_mmproj = options.part is Part.MMPROJ
    kind = base.ModelType.MMPROJ if is_mmproj else base.ModelType.TEXT
    hparams = base.ModelBase.load_hparams(folder, False)
    architecture = base.get_model_architecture(hparams, kind)
    if is_mmproj and architecture not in upstream.conversion.MMPROJ_MODEL_MAP:
        raise CheckpointError(
            f"{folder}: a projector is made of a part for images or sound, and {architecture} has "
            "none; leave `part='mmproj'` out"
        )
    found = upstream.conversion.get_model_class(architecture, mmproj=is_mmproj)
    file_types = upstream.gguf.LlamaFileType
    out_type = {
        "auto": file_types.GUESSED,
        "f32": file_types.ALL_F32,
        "f16": file_types.MOSTLY_F16,
        "bf16": file_types.MOSTLY_BF16,
        "q8_0": file_types.MOSTLY_Q8_0,
    }[options.out_type.value]
    made = _configured(found, architecture, options)
    plain_writer = upstream.gguf.GGUFWriter
    upstream.gguf.GGUFWriter = writer
    try:
        return made(
            folder,
            out_type,
            folder / "model.gguf",  # never opened: no file of this name is written
            model_name=options.name,
            fuse_gate_up_exps=options.fuse_gate_up,
            fuse_qkv=options.fuse_qkv,
            fp8_as_q8=options.fp8_as_q8,
        )
    finally:
        upstream.gguf.GGUFWriter = plain_writer


def _has_projector(upstream: Upstream, folder: Path) -> bool:
    base = upstream.base
    hparams = base.ModelBase.load_hparams(folder, False)
    has_encoder = any(isinstance(hparams.get(f"{kind}_config"), dict) for kind in _ENCODERS)
    architecture = base.get_model_architecture(hparams, base.ModelType.MMPROJ)
    return has_encoder and architecture in upstream.conversion.MMPROJ_MODEL_MAP


def _configured(found: type[Any], architecture: str, options: ConversionOptions) -> type[Any]:
    """A subclass with the settings that upstream's script writes into the class itself."""
    settings: dict[str, Any] = {"model_arch": found.model_arch}
    if options.part in (Part.MTP, Part.MODEL_WITHOUT_MTP):
        if not found.supports_mtp_export:
            raise NotImplementedError(
                f"the MTP layers of {architecture} cannot be taken apart from the model"
            )
        settings["mtp_only" if options.part is Part.MTP else "no_mtp"] = True
    if options.pre_tokenizer is not None and hasattr(found, "get_vocab_base_pre"):
        settings["get_vocab_base_pre"] = _named_pre_tokenizer(found, options.pre_tokenizer)
    return type(found.__name__, (found,), settings)


def _named_pre_tokenizer(found: type[Any], name: str) -> Callable[[Any, Any], str]:
    """What answers with the name; CheckpointError for one that no llama.cpp would know."""
    # The names stand in upstream's code only, where the hash of a tokenizer decides on one.
    known = {"default", *_PRE_TOKENIZER.findall(inspect.getsource(found.get_vocab_base_pre))}
    if name not in known:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        raise CheckpointError(f"'{name}' is no pre-tokenizer of llama.cpp's; {hint}")
    return lambda _model, _tokenizer: name


def _header(writer: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="apex-header-") as folder:
        path = Path(folder) / "header.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.write_padding(writer.fout[0], writer.fout[0].tell())
        writer.close()
        return path.read_bytes()
