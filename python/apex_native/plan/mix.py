"""Type selection of llama.cpp's base mixes (``llama_tensor_get_type_impl``), tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apex_native.errors import PlanError
from apex_native.plan import mix_tables
from apex_native.plan.ftypes import FileType
from apex_native.plan.hparams import MixModel
from apex_native.plan.mix_tables import LOW_BIT, Place, choose
from apex_native.plan.names import TensorCategory, category_of, layer_number
from apex_native.types import GgmlType

__all__ = ["Mix"]

_FFN = frozenset({TensorCategory.FFN_DOWN, TensorCategory.FFN_GATE, TensorCategory.FFN_UP})

_Q5_K_OUTPUT = LOW_BIT | {FileType.IQ3_XXS}
"""File types whose output tensor is Q5_K instead of Q6_K."""

_GLM5_NEXT_FLOOR = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
"""Tensors of glm5-next that llama.cpp does not quantize below Q8_0."""


class Mix:
    """The base mix of one quantized file type over one model.

    Stateful as upstream: ``select`` must be called once for each tensor that reaches the mix, in
    ``weights_map`` order, because some rows count the tensors of their kind seen so far. A
    tensor decided elsewhere (a rule, a tier) must not be passed: it advances no counter.
    """

    def __init__(
        self,
        file_type: FileType,
        model: MixModel,
        tensor_names: Iterable[str],
        *,
        has_imatrix: bool = False,
        output_tensor_type: GgmlType | None = None,
    ) -> None:
        """tensor_names: all tensors of the file, since upstream counts before it decides."""
        self._file_type = file_type
        self._model = model
        self._has_imatrix = has_imatrix
        self._output_tensor_type = output_tensor_type
        totals = Counter(category_of(name) for name in tensor_names)
        self._n_attn_v = sum(n for category, n in totals.items() if category.is_attn_v)
        self._tied_embeddings = totals[TensorCategory.OUTPUT] == 0
        self._seen: Counter[TensorCategory] = Counter()

    def select(self, name: str, shape: tuple[int, ...]) -> GgmlType:
        """The mix's type for a tensor, before the shape fallback; shape is row-major.

        Raises PlanError for an FFN tensor of an expert model whose name states no layer, as
        llama-quantize refuses it.
        """
        category = category_of(name)
        architecture = self._model.architecture
        if architecture == "glm5-next" and any(part in name for part in _GLM5_NEXT_FLOOR):
            return GgmlType.Q8_0
        tied = self._tied_embeddings and category is TensorCategory.TOKEN_EMBD
        if category is TensorCategory.OUTPUT or tied:
            return self._select_output(shape)
        if self._file_type is FileType.MXFP4_MOE:
            return self._select_mxfp4(category, shape)
        return self._select_by_category(category, name)

    def _select_output(self, shape: tuple[int, ...]) -> GgmlType:
        if self._output_tensor_type is not None:
            return self._output_tensor_type
        default = self._file_type.default_type
        if self._file_type is FileType.MXFP4_MOE or self._model.architecture == "falcon":
            return GgmlType.Q8_0
        if shape[-1] % default.block_size:
            return GgmlType.Q8_0
        if self._file_type in _Q5_K_OUTPUT:
            return GgmlType.Q5_K
        return default if default is GgmlType.Q8_0 else GgmlType.Q6_K

    def _select_mxfp4(self, category: TensorCategory, shape: tuple[int, ...]) -> GgmlType:
        """MXFP4 for expert tensors, Q8_0 for the rest.

        Experts are recognised by their third dimension; bailingmoe3 has other 3-D weights.
        """
        is_expert = len(shape) > 2 and shape[-3] > 1
        if self._model.architecture == "bailingmoe3":
            is_expert = is_expert and category in _FFN
        return GgmlType.MXFP4 if is_expert else GgmlType.Q8_0

    def _select_by_category(self, category: TensorCategory, name: str) -> GgmlType:
        match category:
            case TensorCategory.TOKEN_EMBD:
                return self._choose(mix_tables.TOKEN_EMBEDDING)
            case _ if category.is_attn_v:
                return self._select_attn_v()
            case TensorCategory.ATTENTION_K:
                return self._choose(mix_tables.ATTENTION_K)
            case TensorCategory.ATTENTION_Q:
                return self._choose(mix_tables.ATTENTION_Q)
            case TensorCategory.ATTENTION_OUTPUT if self._model.architecture == "falcon":
                return self._choose(mix_tables.ATTENTION_OUTPUT_OF_FALCON)
            case TensorCategory.ATTENTION_OUTPUT:
                return self._choose(mix_tables.ATTENTION_OUTPUT)
            case TensorCategory.FFN_DOWN:
                return self._choose(mix_tables.FFN_DOWN, *self._ffn_place(category, name))
            case TensorCategory.FFN_GATE | TensorCategory.FFN_UP:
                return self._choose(mix_tables.FFN_GATE_AND_UP, *self._ffn_place(category, name))
            case _:
                return self._file_type.default_type

    def _select_attn_v(self) -> GgmlType:
        i = self._seen[TensorCategory.ATTENTION_V]
        self._seen[TensorCategory.ATTENTION_V] += 1
        chosen = self._choose(mix_tables.ATTN_V_LIKE, i, self._n_attn_v)
        if self._file_type in LOW_BIT:
            return chosen
        if self._model.n_expert == 8:
            return GgmlType.Q8_0
        if self._model.is_70b and chosen in (GgmlType.Q3_K, GgmlType.Q4_K):
            return GgmlType.Q5_K
        return chosen

    def _ffn_place(self, category: TensorCategory, name: str) -> tuple[int, int]:
        """Which layer of how many an FFN tensor counts as.

        The layer is that of the name for expert models, whose FFN tensors were once scattered
        over a file, and the running count otherwise (and always for the low-bit types).
        """
        seen = self._seen[category]
        self._seen[category] += 1
        n_layer_all = self._model.n_layer_all
        if self._model.n_expert <= 1 or self._file_type in LOW_BIT:
            return seen, n_layer_all
        layer = layer_number(name)
        if layer is None or not 0 <= layer < n_layer_all:
            found = "no layer" if layer is None else f"layer {layer}"
            raise PlanError(
                f"{name}: the {self._file_type} mix needs a layer in [0, {n_layer_all}) in the "
                f"name of every FFN tensor of an expert model, found {found}; give this tensor "
                "a type with a tensor-type rule"
            )
        return layer, n_layer_all

    def _choose(self, table: mix_tables.Table, i: int = 0, n: int = 0) -> GgmlType:
        place = Place(i, n, self._model, self._has_imatrix)
        return choose(table, self._file_type, place, self._file_type.default_type)
