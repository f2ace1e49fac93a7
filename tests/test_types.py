"""GgmlType against ggml's own table: every number, name, block and size."""

from __future__ import annotations

import gguf
import pytest

from apex_native._native import core
from apex_native.types import CACHE_TYPES, GgmlType

KNOWN = [number for number in range(core.n_types) if core.type_traits(number) is not None]
UNKNOWN = sorted({*range(core.n_types), core.n_types, 1000, 2**31 - 1, -1} - {*KNOWN})


def test_every_type_of_ggml_is_in_the_table() -> None:
    assert sorted(type.id for type in GgmlType if not type.is_cache_only) == KNOWN


def test_types_of_caches_lie_beyond_ggmls() -> None:
    built = set(core.cache_types())
    for type in GgmlType:
        if not type.is_cache_only:
            continue
        assert type.id >= core.n_types
        found = (type.name.lower(), type.block_size, type.block_bytes, False, False)
        assert core.type_traits(type.id) == (found if type.id in built else None)


@pytest.mark.parametrize("number", KNOWN)
def test_type_matches_ggml(number: int) -> None:
    name, block, block_bytes, is_target, _ = core.type_traits(number)
    type = GgmlType.from_id(number)
    assert type.name == name.upper()
    assert (type.block_size, type.block_bytes) == (block, block_bytes)
    assert type.is_target == is_target


@pytest.mark.parametrize("number", UNKNOWN)
def test_removed_and_unknown_types(number: int) -> None:
    assert core.type_traits(number) is None
    with pytest.raises(ValueError, match=f"number {number} is unknown or was removed"):
        GgmlType.from_id(number)


def test_sizes_match_the_gguf_package() -> None:
    # It may lag behind by the newest types. Its Q8_1 is the one of 2023, with float sums; no file
    # holds that type.
    for type, sizes in gguf.GGML_QUANT_SIZES.items():
        ours = GgmlType.from_id(type.value)
        assert ours.name == type.name
        if ours is not GgmlType.Q8_1:
            assert (ours.block_size, ours.block_bytes) == sizes


def test_types_that_need_an_importance_matrix() -> None:
    # ggml_quantize_requires_imatrix of the pinned llama.cpp (ggml.c).
    needing = {GgmlType.from_id(n).name for n in KNOWN if core.type_traits(n)[4]}
    assert needing == {"IQ2_XXS", "IQ2_XS", "IQ1_S"}


def test_targets_are_all_weights_formats() -> None:
    not_targets = {type.name for type in GgmlType if not type.is_target}
    turbo = {"TURBO2", "TURBO3", "TURBO4"}
    assert not_targets == {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"} | turbo


def test_bpw_and_row_bytes() -> None:
    assert GgmlType.Q4_K.bpw == 4.5
    assert GgmlType.IQ2_XXS.bpw == 2.0625
    assert GgmlType.BF16.bpw == 16
    assert GgmlType.Q6_K.row_bytes(512) == 420
    assert GgmlType.Q6_K.tensor_bytes((8, 3, 512)) == 420 * 24
    assert GgmlType.F32.tensor_bytes((7,)) == 28


def test_row_that_is_no_whole_number_of_blocks() -> None:
    with pytest.raises(ValueError, match=r"row of 100 .* Q4_K's block of 256"):
        GgmlType.Q4_K.row_bytes(100)


@pytest.mark.parametrize("name", ["q4_k", "Q4_K", "iq2_xxs", "bf16"])
def test_parse_takes_any_case(name: str) -> None:
    assert GgmlType.parse(name).name == name.upper()


def test_parse_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown ggml type 'Q4K'; did you mean .*Q4_K"):
        GgmlType.parse("Q4K")
    with pytest.raises(ValueError, match=r"unknown ggml type 'banana'$"):
        GgmlType.parse("banana")


def test_types_with_kernels_of_ours() -> None:
    types = core.quantized_types()
    assert len(types) == 15
    for number, use in types.items():
        *_, needs_matrix = core.type_traits(number)
        assert (use == "required") == needs_matrix
        assert GgmlType.from_id(number).is_target


def test_cache_types_are_the_cores() -> None:
    ours = [type.id for type in CACHE_TYPES]
    stock = [type.id for type in CACHE_TYPES if not type.is_cache_only]
    assert core.cache_types() in (ours, stock)  # a build may be without them
