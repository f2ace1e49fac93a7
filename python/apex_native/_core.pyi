# The native core: what csrc/bind defines. Private: use the package's functions.
#
# Types are ggml's numbers (`GgmlType.id`). Arrays must be C-contiguous and of the type given here:
# nothing is converted. Errors are those of `apex_native.errors`; ValueError where an argument is
# wrong. Long calls release the GIL and stop by a StopFlag.

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Floats: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]
_Bytes: TypeAlias = npt.NDArray[np.uint8]
_Tokens: TypeAlias = npt.NDArray[np.int32]
_Offsets: TypeAlias = npt.NDArray[np.int64]
_Estimate: TypeAlias = tuple[float, float]  # mean, standard error
_SoftmaxScore: TypeAlias = tuple[float, float, float, int, bool]  # nll, kld, p of top, top, finite
_KernelOperation: TypeAlias = str  # copy, read, to_float, ..., mat_mul, mat_mul_8, quantize

# --- the build, and its log ---------------------------------------------------------------------

def build_info() -> dict[str, Any]: ...
def drain_log() -> list[tuple[int, str]]: ...
def has_bf16_matmul() -> bool: ...
def has_f16_matmul() -> bool: ...
def has_panel_matmul(type: int) -> bool: ...
def kernel_isa() -> str: ...

# --- types ----------------------------------------------------------------------------------------

n_types: int

def type_traits(type: int) -> tuple[str, int, int, bool, bool] | None: ...
def quantized_types() -> dict[int, Literal["ignored", "optional", "required"]]: ...
def cache_types() -> list[int]: ...
def cuda_cache_path(type_k: int, type_v: int) -> Literal["direct", "converted", "host"]: ...
def write_cache_rows(rows: _Floats, type: int, device: str = ...) -> _Bytes: ...
def read_cache_rows(stored: _Bytes, type: int, n_per_row: int) -> _Floats: ...
def cache_attention(
    queries: _Floats, keys: _Floats, values: _Floats, type_k: int, type_v: int, device: str = ...
) -> _Floats: ...
def time_cache_attention(
    device: str,
    type_k: int,
    type_v: int,
    head_size: int,
    n_heads: int,
    n_kv_heads: int,
    n_cells: int,
    n_queries: int,
    n_layers: int,
    repetitions: int,
) -> list[float]: ...

# --- files and rows of weights --------------------------------------------------------------------

class GgufFile:
    def __init__(self, path: str | bytes, *, with_siblings: bool = True) -> None: ...
    @property
    def tensors(self) -> list[tuple[str, tuple[int, ...], int, int, int, int]]: ...
    @property
    def key_values(self) -> dict[str, tuple[Any, int]]: ...
    @property
    def alignment(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def has_data(self) -> bool: ...
    @property
    def missing_data(self) -> str: ...
    @property
    def shard_paths(self) -> list[str]: ...
    @property
    def data_begin(self) -> int: ...
    def encoded_pair(self, key: str) -> bytes: ...
    def tensor_bytes(self, index: int) -> _Bytes: ...
    def stored_tensor(self, index: int) -> StoredTensor: ...

class MappedFile:
    def __init__(self, path: str | bytes) -> None: ...

class RowBlocks:
    def __init__(
        self, n_rows: int, rows_per_block: int, row_bytes: int, make: Callable[[int], _Bytes]
    ) -> None: ...

class StoredTensor:
    def __init__(
        self,
        name: str,
        type: int,
        shape: Sequence[int],
        ranges: Sequence[tuple[MappedFile | RowBlocks, int, int, npt.NDArray[np.int32] | None]],
    ) -> None: ...
    def read_rows(self, first: int, n_rows: int) -> _Bytes: ...

def quantize_rows(
    weights: _Floats, type: int, imatrix: _Floats | None = None, own_kernel: bool = True
) -> _Bytes: ...
def dequantize_rows(stored: _Bytes, type: int, n_per_row: int) -> _Floats: ...
def weight_statistics(
    tensors: Sequence[StoredTensor], *, n_threads: int
) -> list[tuple[int, float, float, float, float, float]]: ...
def tensor_checksums(tensors: Sequence[StoredTensor], *, n_threads: int) -> list[int]: ...

class RowsConverter:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # TypeError: feedback() makes them
    def errors(self) -> dict[str, Any]: ...

class QuantizeTask:
    def __init__(
        self,
        source: StoredTensor,
        type: int,
        *,
        output_fd: int,
        output_offset: int,
        imatrix: _Floats | None = None,
        converter: RowsConverter | None = None,
    ) -> None: ...

class QuantizeJob:
    def __init__(
        self,
        tasks: Sequence[QuantizeTask],
        *,
        n_threads: int,
        max_memory: int,
        devices: Sequence[int] = (),
        verify_rate: float = 0.0,
        group_sizes: Sequence[int] = (),
    ) -> None: ...
    def wait(self, timeout_ms: int) -> list[tuple[int, float, float, int]]: ...
    def output_errors(self, task: int) -> dict[str, Any] | None: ...
    def close(self) -> None: ...
    @property
    def finished(self) -> bool: ...
    @property
    def source_bytes_done(self) -> int: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def device_rows(self) -> int: ...
    @property
    def verified_rows(self) -> int: ...

def cuda_devices() -> list[dict[str, Any]]: ...

# --- error feedback -------------------------------------------------------------------------------

class Trust:
    def __init__(self, *, shrink: float, layer_tokens: float) -> None: ...
    @property
    def shrink(self) -> float: ...
    @property
    def layer_tokens(self) -> float: ...

class FeedbackOptions:
    def __init__(
        self,
        *,
        damping: float = ...,
        trusts: Sequence[Trust] = ...,
        sampled_rows: int = ...,
        min_held_out: int = ...,
        scale_radius: int = ...,
        refine_radius: int = ...,
        max_passes: int = ...,
        max_grid_passes: int = ...,
        max_rounds: int = ...,
        max_round_columns: int = ...,
    ) -> None: ...
    @property
    def damping(self) -> float: ...
    @property
    def trusts(self) -> list[Trust]: ...
    @property
    def sampled_rows(self) -> int: ...
    @property
    def min_held_out(self) -> int: ...
    @property
    def scale_radius(self) -> int: ...
    @property
    def refine_radius(self) -> int: ...
    @property
    def max_passes(self) -> int: ...
    @property
    def max_grid_passes(self) -> int: ...
    @property
    def max_rounds(self) -> int: ...
    @property
    def max_round_columns(self) -> int: ...

def feedback(
    source: StoredTensor,
    type: int,
    *,
    imatrix: _Floats | None = None,
    total: _Floats,
    part: _Floats,
    counts: _Offsets,
    part_counts: _Offsets,
    options: FeedbackOptions = ...,
    devices: FeedbackDevices | None = None,
    n_threads: int = 1,
    beside: RowsConverter | None = None,
) -> RowsConverter: ...
def grouped_feedback(
    source: StoredTensor,
    type: int,
    *,
    groups: _Tokens,
    imatrix: _Floats | None = None,
    total: _Floats,
    part: _Floats,
    counts: _Offsets,
    part_counts: _Offsets,
    options: FeedbackOptions = ...,
    devices: FeedbackDevices | None = None,
) -> RowsConverter: ...
def can_reorder(tensor: StoredTensor) -> bool: ...

class FeedbackDevices:
    def __init__(self, devices: Sequence[int], *, n_places: int, n_per_row: int) -> None: ...

def device_has_feedback(type: int, n_per_row: int) -> bool: ...
def weight_moment(
    tensor: StoredTensor, scales: _Floats | None = None, *, n_threads: int
) -> _Doubles: ...
def has_feedback(type: int) -> bool: ...
def feedback_rows(
    weights: _Floats, type: int, moment: _Doubles, *, options: FeedbackOptions = ...
) -> tuple[_Bytes, _Floats, _Floats]: ...

# --- models ---------------------------------------------------------------------------------------

class StopFlag:
    def __init__(self) -> None: ...
    def set(self) -> None: ...
    @property
    def is_set(self) -> bool: ...

class ReadAhead:
    def __init__(self, path: str) -> None: ...
    def run(self, stop: StopFlag | None = None) -> None: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_absent_bytes(self) -> int: ...

class Model:
    def __init__(
        self,
        path: str,
        *,
        n_gpu_layers: int = 0,
        devices: Sequence[str] = (),
        main_gpu: int = 0,
        split_mode: str = "layer",
        tensor_split: Sequence[float] = (),
        use_mmap: bool = True,
        repack: bool = True,
        load_mtp: bool = False,
        no_alloc: bool = False,
        vocab_only: bool = False,
        flash_attn: str = "auto",
        expert_used_count: int = 0,
        n_cpu_moe: int = 0,
        headless: bool = False,
        streamed_layers: Sequence[int] = (),
        n_places: int = 4,
        n_stream_threads: int = 1,
        read_ahead_bytes: int = 0,
        stop: StopFlag | None = None,
    ) -> None: ...
    @property
    def headless(self) -> bool: ...
    def weight_bytes(self) -> list[tuple[str, int]]: ...
    def generate(
        self,
        prompt: _Tokens,
        *,
        n_predict: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        n_threads: int,
        stop: StopFlag | None = None,
    ) -> _Tokens: ...
    def memory_use(
        self,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        n_outputs_max: int,
        type_k: int = ...,
        type_v: int = ...,
        swa_full: bool = True,
        n_tokens: int = 0,
    ) -> list[tuple[str, int, int, int, int]]: ...
    def cache_tensors(
        self,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        type_k: int = ...,
        type_v: int = ...,
        swa_full: bool = True,
    ) -> list[tuple[int, str, int, int, int, int]]: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> _Tokens: ...
    def detokenize(self, tokens: _Tokens) -> bytes: ...
    def vocabulary_bytes(self) -> bytes: ...
    @property
    def path(self) -> str: ...
    @property
    def on_gpu(self) -> bool: ...
    @property
    def load_mtp(self) -> bool: ...
    @property
    def expert_used_count(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_gpu_layers(self) -> int: ...
    @property
    def n_ctx_train(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def is_recurrent(self) -> bool: ...
    @property
    def is_hybrid(self) -> bool: ...
    @property
    def has_encoder(self) -> bool: ...
    @property
    def description(self) -> str: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def end_tokens(self) -> list[int]: ...
    @property
    def bos_token(self) -> int: ...
    @property
    def eos_token(self) -> int: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def add_eos(self) -> bool: ...

def model_traits(path: str | bytes, stop: StopFlag | None = None) -> dict[str, bool]: ...
def traits_of(model: Model) -> dict[str, bool]: ...
def first_non_finite(
    model: Model, tokens: _Tokens, *, n_threads: int, stop: StopFlag | None = None
) -> str: ...
def load_check(path: str | bytes, text: str, *, n_threads: int) -> dict[str, Any]: ...
def upstream_quantize(
    source: str,
    target: str,
    *,
    ftype: int,
    n_threads: int = 1,
    pure: bool = False,
    allow_requantize: bool = False,
    tensor_types: Sequence[tuple[str, int]] = (),
    imatrix: Mapping[str, Sequence[float]] = ...,
) -> None: ...

# --- calibration ----------------------------------------------------------------------------------

class BorderStates:
    def __init__(self, layer: int) -> None: ...
    @property
    def layer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class ImatrixRun:
    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int,
        n_ubatch: int,
        n_threads: int,
        scope: str,
        moments: bool = False,
        weights: Sequence[str] = (),
        output_rows: bool = False,
        start: BorderStates | None = None,
        record: BorderStates | None = None,
        stop: StopFlag | None = None,
    ) -> None: ...
    def add_chunks(self, tokens: _Tokens, in_part: bool = False) -> None: ...
    def record_chunks(self, tokens: _Tokens, record: GroupRecord) -> None: ...
    def known_inputs(self) -> list[tuple[list[str], int, int]]: ...
    def moments(self) -> dict[str, tuple[_Doubles, _Doubles, _Offsets, _Offsets]]: ...
    def output_moments(
        self, n_groups: int
    ) -> tuple[_Tokens, _Doubles, _Doubles, _Doubles, _Doubles]: ...
    def moment_inputs(self) -> dict[str, str]: ...
    def moment_shapes(self) -> dict[str, tuple[int, int]]: ...
    def take_moment(
        self, input: str, total: _Floats, part: _Floats
    ) -> tuple[_Offsets, _Offsets]: ...
    def restore_moment(
        self,
        input: str,
        n_per_row: int,
        total: _Doubles,
        part: _Doubles,
        counts: _Offsets,
        part_counts: _Offsets,
    ) -> None: ...
    def restore_input(self, weight: str, input: str) -> None: ...
    def sum_on_host_only(self) -> None: ...
    def entries(self) -> list[tuple[str, _Doubles, npt.NDArray[np.int64], bool]]: ...
    def restore(
        self, weight: str, sums: _Doubles, counts: npt.NDArray[np.int64], of_mtp_block: bool
    ) -> None: ...
    @property
    def n_seq(self) -> int: ...
    @property
    def n_tokens_of_group(self) -> int: ...
    @property
    def mtp_reason(self) -> str: ...

class GroupRecord:
    def __init__(self) -> None: ...
    @property
    def n_bytes(self) -> int: ...

class RecordedSums:
    def __init__(self, *, n_threads: int) -> None: ...
    def add(self, record: GroupRecord) -> None: ...
    def entries(self) -> list[tuple[str, _Doubles, npt.NDArray[np.int64], bool]]: ...
    def restore(
        self, weight: str, sums: _Doubles, counts: npt.NDArray[np.int64], of_mtp_block: bool
    ) -> None: ...

# --- scores of text -------------------------------------------------------------------------------

class BaseFile:
    def __init__(self, path: str) -> None: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_chunks(self) -> int: ...
    @property
    def tokens(self) -> _Tokens: ...

class LaneOptions:
    def __init__(
        self,
        *,
        n_ctx: int = 512,
        n_sequences: int = 1,
        n_positions: int = 512,
        n_lanes: int = 1,
        n_threads: int = 1,
        with_routes: bool = False,
    ) -> None: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_sequences(self) -> int: ...
    @property
    def n_positions(self) -> int: ...
    @property
    def n_lanes(self) -> int: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def with_routes(self) -> bool: ...

class Candidate:
    def __init__(
        self,
        *,
        model: Model = ...,
        hidden: HiddenStates = ...,
        type_k: int = ...,
        type_v: int = ...,
        n_parts: int = 1,
        n_chunks: int | None = None,
    ) -> None: ...
    @property
    def model(self) -> Model: ...
    @property
    def hidden(self) -> HiddenStates: ...
    @property
    def type_k(self) -> int: ...
    @property
    def type_v(self) -> int: ...
    @property
    def n_parts(self) -> int: ...
    @property
    def n_chunks(self) -> int | None: ...

class BaseReference:
    def __init__(self, *, file: BaseFile, first_chunk: int = 0) -> None: ...
    @property
    def file(self) -> BaseFile: ...
    @property
    def first_chunk(self) -> int: ...

@final
class HiddenStates:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # TypeError: a HiddenPass makes them
    def logits(self, hidden: _Floats, *, n_threads: int) -> _Floats: ...

class RecordedReference:
    def __init__(self, *, model: Model, states: HiddenStates) -> None: ...
    @property
    def model(self) -> Model: ...
    @property
    def states(self) -> HiddenStates: ...

class HiddenPass:
    def __init__(
        self,
        model: Model,
        *,
        tokens: _Tokens,
        options: LaneOptions,
        folder: str = "",
        type_k: int = ...,
        type_v: int = ...,
        stop: StopFlag | None = None,
    ) -> None: ...
    def run(self, first_chunk: int = 0) -> None: ...
    @property
    def progress(self) -> float: ...
    @property
    def states(self) -> HiddenStates: ...

class Scorer:
    def __init__(
        self,
        *,
        reference: Model | BaseReference | RecordedReference | HiddenStates | None = None,
        candidates: Sequence[Candidate],
        tokens: _Tokens,
        options: LaneOptions,
        stop: StopFlag | None = None,
    ) -> None: ...
    def run(self) -> None: ...
    def score_on_host_only(self) -> None: ...
    def write_base(self, descriptor: int, tokens: _Tokens) -> None: ...
    def reference_scores(self) -> dict[str, npt.NDArray[Any]]: ...
    def candidate_scores(self, i: int) -> dict[str, npt.NDArray[Any]]: ...
    def router_agreement(self, i: int) -> dict[int, tuple[int, int, int]]: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_chunks(self) -> int: ...
    @property
    def n_chunks_done(self) -> int: ...
    @property
    def progress(self) -> float: ...

def score_rows(
    *, reference: _Floats, candidates: _Floats, target: int, is_coded: bool = False
) -> list[_SoftmaxScore]: ...
def score_row(logits: _Floats, target: int) -> _SoftmaxScore: ...
def compare_with_reference(
    *,
    reference_nll: _Doubles,
    reference_is_finite: _Bytes,
    nll: _Doubles,
    kld: _Doubles,
    is_same_top: _Bytes,
    is_finite: _Bytes,
    kld_fractions: Sequence[float],
    delta_p_fractions: Sequence[float],
) -> dict[str, Any]: ...
def estimate(values: _Doubles) -> _Estimate: ...

# --- tasks ----------------------------------------------------------------------------------------

class ChoiceScorer:
    def __init__(
        self,
        model: Model,
        *,
        n_threads: int,
        n_ubatch: int = 512,
        type_k: int = ...,
        type_v: int = ...,
        n_ctx: int = 0,
        max_state_bytes: int = ...,
        stop: StopFlag | None = None,
    ) -> None: ...
    def score(
        self,
        tokens: _Tokens,
        sequence_begin: _Offsets,
        scored_begin: _Offsets,
        task_begin: _Offsets,
        before: tuple[_Bytes, _Doubles] | None = None,
    ) -> _Doubles: ...
    def finished(self) -> tuple[_Bytes, _Doubles]: ...
    @property
    def n_tokens_done(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def n_steps(self) -> int: ...

def draw_uniform(n_items: int, n: int) -> list[int]: ...
def draw_scaled(n_items: int, n: int) -> list[int]: ...

# --- speed ----------------------------------------------------------------------------------------

class SpeedOptions:
    def __init__(
        self,
        *,
        n_prompt: int = 512,
        n_gen: int = 0,
        n_depth: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        type_k: int = ...,
        type_v: int = ...,
        n_threads: int = 1,
        repetitions: int = 5,
        warm_up: bool = True,
        beyond_context: bool = False,
    ) -> None: ...
    @property
    def n_prompt(self) -> int: ...
    @property
    def n_gen(self) -> int: ...
    @property
    def n_depth(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def n_ubatch(self) -> int: ...
    @property
    def type_k(self) -> int: ...
    @property
    def type_v(self) -> int: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def repetitions(self) -> int: ...
    @property
    def warm_up(self) -> bool: ...
    @property
    def beyond_context(self) -> bool: ...

class SpeedTest:
    def __init__(
        self,
        model: Model,
        options: SpeedOptions,
        *,
        flash_attn: str | None = None,
        stop: StopFlag | None = None,
    ) -> None: ...
    def run(self) -> list[int]: ...
    @property
    def tokens_done(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...

class KernelBench:
    def __init__(self, device: str) -> None: ...
    def supports(self, operation: _KernelOperation, type: int) -> bool: ...
    def run(
        self,
        *,
        operation: _KernelOperation,
        type: int,
        weights: _Floats,
        imatrix: _Floats,
        n_weights: int,
        n_threads: int,
        repetitions: int,
        sample_seconds: float,
        stop: StopFlag | None = None,
    ) -> dict[str, Any]: ...

def kernel_moved_bytes(operation: _KernelOperation, type: int) -> float: ...

# --- allocation -----------------------------------------------------------------------------------

@final
class TensorValue:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # TypeError: quantize_values()
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def encoded(self) -> _Bytes: ...
    @property
    def errors(self) -> _Doubles: ...

def quantize_values(
    file: GgufFile,
    requests: Sequence[tuple[int, int, _Floats | None, _Bytes | None, RowsConverter | None]],
    *,
    n_threads: int,
    row_step: int = 1,
    devices: Sequence[int] = [],
    stop: StopFlag | None = None,
) -> list[TensorValue]: ...

class ProbeScorer:
    def __init__(
        self, models: Sequence[Model], *, n_ctx: int, n_threads: int, stop: StopFlag | None = None
    ) -> None: ...
    def run(
        self, tokens: _Tokens, candidates: Sequence[tuple[Sequence[TensorValue], int]]
    ) -> None: ...
    @property
    def progress(self) -> float: ...
    @property
    def reference_nll(self) -> _Doubles: ...
    @property
    def scores(self) -> list[dict[str, npt.NDArray[Any]]]: ...
