"""llama.cpp's base mixes as tables: for each kind of tensor and file type, who gets another type.

A table maps a file type to rows ``(condition, type)``; the first row whose condition holds
decides, and a tensor no row takes keeps the file type's default. Facts from
``llama_tensor_get_type_impl`` of the pinned llama.cpp; ``tests/parity/compare_mix.py`` compares
every file type with llama-quantize itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from apex_native.plan.ftypes import FileType as F
from apex_native.plan.hparams import MixModel
from apex_native.types import GgmlType as T

__all__ = [
    "ATTENTION_K",
    "ATTENTION_OUTPUT",
    "ATTENTION_OUTPUT_OF_FALCON",
    "ATTENTION_Q",
    "ATTN_V_LIKE",
    "FFN_DOWN",
    "FFN_GATE_AND_UP",
    "LOW_BIT",
    "TOKEN_EMBEDDING",
    "Place",
    "Table",
    "choose",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: ``i`` of ``n`` tensors of its kind (or layers), in which model."""

    i: int
    n: int
    model: MixModel
    has_imatrix: bool


Condition = Callable[[Place], bool]
Row = tuple[Condition, T]
Table = Mapping[F, tuple[Row, ...]]


def choose(table: Table, file_type: F, place: Place, default: T) -> T:
    """The type of the first row that takes this place; the default if none does."""
    for condition, chosen in table.get(file_type, ()):
        if condition(place):
            return chosen
    return default


def always(_: Place) -> bool:
    """Every tensor of the kind."""
    return True


def first_eighth(place: Place) -> bool:
    """The first n/8 of them, rounded down."""
    return place.i < place.n // 8


def first_sixteenth(place: Place) -> bool:
    """The first n/16 of them, rounded down."""
    return place.i < place.n // 16


def middle_three_quarters(place: Place) -> bool:
    """All but the first and last eighth."""
    return place.n // 8 <= place.i < 7 * place.n // 8


def more_bits(place: Place) -> bool:
    """llama.cpp's ``use_more_bits``: the first and last eighth, and every third between."""
    eighth = place.n // 8
    return place.i < eighth or place.i >= 7 * place.n // 8 or (place.i - eighth) % 3 == 2


def first_two(place: Place) -> bool:
    """The first two of them."""
    return place.i < 2


def first_four(place: Place) -> bool:
    """The first four of them."""
    return place.i < 4


def shared_kv(place: Place) -> bool:
    """At least 4 query heads for each KV head, which makes attn_v small."""
    return place.model.n_gqa >= 4


def without_imatrix(place: Place) -> bool:
    """No importance matrix is given."""
    return not place.has_imatrix


def with_imatrix(place: Place) -> bool:
    """An importance matrix is given."""
    return place.has_imatrix


def eight_experts(place: Place) -> bool:
    """A model of Mixtral's layout, whose attention is small beside its experts."""
    return place.model.n_expert == 8


def falcon(place: Place) -> bool:
    """The Falcon architecture, which has mixes of its own."""
    return place.model.architecture == "falcon"


def both(first: Condition, second: Condition) -> Condition:
    """Both conditions hold."""
    return lambda place: first(place) and second(place)


def either(first: Condition, second: Condition) -> Condition:
    """At least one condition holds."""
    return lambda place: first(place) or second(place)


def no(condition: Condition) -> Condition:
    """The condition does not hold."""
    return lambda place: not condition(place)


def _each(file_types: Iterable[F], *rows: Row) -> dict[F, tuple[Row, ...]]:
    return dict.fromkeys(file_types, rows)


IQ1 = (F.IQ1_S, F.IQ1_M)
IQ2_SMALL = (F.IQ2_XXS, F.IQ2_XS)
IQ2_LARGE = (F.IQ2_S, F.IQ2_M)

LOW_BIT = frozenset((*IQ1, *IQ2_SMALL, *IQ2_LARGE))
"""The family that has a branch of its own in ``llama_tensor_get_type_impl``."""


def many_query_heads_or_experts(place: Place) -> bool:
    """attn_v is small beside the rest of the model."""
    return shared_kv(place) or place.model.n_expert >= 4


TOKEN_EMBEDDING: Table = {
    **_each((*IQ1, *IQ2_SMALL), (always, T.Q2_K)),
    **_each((*IQ2_LARGE, F.IQ3_XXS), (always, T.IQ3_S)),
    **_each((F.TQ1_0, F.TQ2_0, F.Q2_0), (always, T.Q4_K)),
}
"""Untied token embeddings; tied ones follow the output tensor."""

ATTN_V_LIKE: Table = {
    **_each((*IQ1, *IQ2_SMALL), (many_query_heads_or_experts, T.Q4_K), (always, T.Q2_K)),
    **_each(IQ2_LARGE, (many_query_heads_or_experts, T.Q4_K), (always, T.IQ3_S)),
    F.Q2_K: ((shared_kv, T.Q4_K), (always, T.Q3_K)),
    F.IQ3_XXS: ((shared_kv, T.Q4_K), (without_imatrix, T.IQ3_S), (always, T.IQ3_XXS)),
    **_each((F.Q2_K_S, F.IQ3_XS, F.IQ3_S), (shared_kv, T.Q4_K)),
    **_each((F.IQ4_NL, F.IQ4_XS), (shared_kv, T.Q5_K)),
    F.IQ3_M: ((always, T.Q4_K),),
    F.Q3_K_M: ((first_two, T.Q5_K), (always, T.Q4_K)),
    F.Q3_K_L: ((always, T.Q5_K),),
    F.Q4_K_S: ((first_four, T.Q5_K),),
    **_each((F.Q4_K_M, F.Q5_K_M), (more_bits, T.Q6_K)),
}
"""attn_v, attn_qkv and attn_kv_b, counted together.

Upstream has a later branch for attn_qkv; it is never reached, since this one takes it.
"""

ATTENTION_K: Table = {
    **_each(LOW_BIT, (eight_experts, T.Q4_K)),
    **_each(frozenset(F) - LOW_BIT, (eight_experts, T.Q8_0)),
    F.IQ3_XS: ((eight_experts, T.Q8_0), (always, T.IQ3_XXS)),
    F.IQ3_XXS: ((eight_experts, T.Q8_0), (always, T.IQ2_S)),
}

ATTENTION_Q: Table = {
    F.IQ3_XS: ((always, T.IQ3_XXS),),
    F.IQ3_XXS: ((always, T.IQ2_S),),
}

FFN_DOWN: Table = {
    **_each((*IQ1, *IQ2_SMALL), (first_eighth, T.Q2_K)),
    **_each(IQ2_LARGE, (first_eighth, T.IQ3_S)),
    F.Q2_K: ((always, T.Q3_K),),
    F.Q2_K_S: ((first_eighth, T.Q4_K),),
    F.IQ3_XXS: ((with_imatrix, T.IQ3_XXS), (first_eighth, T.Q4_K), (always, T.Q3_K)),
    F.IQ3_M: ((either(first_eighth, both(eight_experts, more_bits)), T.Q4_K),),
    F.Q3_K_M: ((first_sixteenth, T.Q5_K), (either(no(falcon), more_bits), T.Q4_K)),
    F.Q3_K_L: ((falcon, T.Q4_K), (always, T.Q5_K)),
    F.Q4_K_M: (
        (both(falcon, first_sixteenth), T.Q6_K),
        (both(falcon, more_bits), T.Q5_K),
        (both(no(falcon), more_bits), T.Q6_K),
    ),
    F.Q4_K_S: ((both(no(falcon), first_eighth), T.Q5_K),),
    F.Q5_K_M: ((more_bits, T.Q6_K),),
    **_each((F.IQ4_NL, F.IQ4_XS), (both(without_imatrix, first_eighth), T.Q5_K)),
    F.Q4_0: ((both(with_imatrix, first_eighth), T.Q4_1),),
    F.Q5_0: ((both(with_imatrix, first_eighth), T.Q5_1),),
}

_Q5_K_WITH_EIGHT_EXPERTS: tuple[Row, ...] = ((eight_experts, T.Q5_K),)

ATTENTION_OUTPUT: Table = {
    **_each(IQ1, (eight_experts, T.Q5_K), (always, T.IQ2_XXS)),
    **_each(IQ2_SMALL, (eight_experts, T.Q5_K)),
    **_each(IQ2_LARGE, (eight_experts, T.Q5_K), (always, T.IQ3_S)),
    **_each((F.Q3_K_S, F.Q4_K_S, F.Q4_K_M), *_Q5_K_WITH_EIGHT_EXPERTS),
    **_each((F.IQ3_XS, F.IQ3_S, F.IQ4_NL, F.IQ4_XS), *_Q5_K_WITH_EIGHT_EXPERTS),
    F.Q2_K: ((eight_experts, T.Q5_K), (always, T.Q3_K)),
    F.IQ3_XXS: ((eight_experts, T.Q5_K), (always, T.IQ3_S)),
    **_each((F.Q3_K_M, F.IQ3_M), (eight_experts, T.Q5_K), (always, T.Q4_K)),
    F.Q3_K_L: ((no(eight_experts), T.Q5_K),),
}

ATTENTION_OUTPUT_OF_FALCON: Table = {
    **{file_type: rows for file_type, rows in ATTENTION_OUTPUT.items() if file_type in LOW_BIT},
    F.Q3_K_L: ((always, T.Q4_K),),
}

FFN_GATE_AND_UP: Table = {F.IQ3_XS: ((middle_three_quarters, T.IQ3_XXS),)}
