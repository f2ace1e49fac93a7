"""Rows of tables, as values: no terminal, no native code."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_native.classification import classify_tensors
from apex_native.errors import PlanError
from apex_native.plan import Edges, Finding, FindingKind, Severity, make_plan
from apex_native.reports import (
    compare_plans,
    default_output_name,
    format_layers,
    group_findings,
    grouped_errors,
    model_facts,
    role_layouts,
    role_statistics,
    stored_rows,
)
from apex_native.types import GgmlType, GgufFacts, MetadataValue, Role, TensorInfo

N_LAYER = 8


def tensor(name: str, *shape: int, type: GgmlType = GgmlType.BF16) -> TensorInfo:
    return TensorInfo(name, shape, type, type.tensor_bytes(shape))


def model_file(*, has_data: bool = True, **metadata: MetadataValue) -> GgufFacts:
    """8 layers with experts, a shared expert, attention and norms, as a converter writes them."""
    tensors = [tensor("token_embd.weight", 1000, 256), tensor("output.weight", 1000, 256)]
    for i in range(N_LAYER):
        tensors += [
            tensor(f"blk.{i}.ffn_{kind}_exps.weight", 4, 256, 256)
            for kind in ("gate", "up", "down")
        ]
        tensors.append(tensor(f"blk.{i}.ffn_up_shexp.weight", 256, 256))
        tensors.append(tensor(f"blk.{i}.attn_q.weight", 256, 256))
        tensors.append(tensor(f"blk.{i}.attn_norm.weight", 256, type=GgmlType.F32))
    known: dict[str, MetadataValue] = {
        "general.architecture": "qwen2moe",
        "general.name": "Test",
        "qwen2moe.block_count": N_LAYER,
        "qwen2moe.expert_count": 4,
        "qwen2moe.expert_used_count": 2,
        **metadata,
    }
    sizes = dict.fromkeys(known, 50)
    return GgufFacts(known, tuple(tensors), sizes, has_data=has_data)


def expand(text: str) -> list[int]:
    """The numbers that a formatted list names; independent of how it was made."""
    numbers = []
    for part in text.split(", "):
        match = re.fullmatch(r"(\d+)(?:–(\d+)(?: every (\d+)\w\w)?)?", part)
        assert match is not None, part
        first = int(match[1])
        numbers += range(first, int(match[2] or first) + 1, int(match[3] or 1))
    return numbers


@given(st.sets(st.integers(0, 130), min_size=1))
def test_formatted_layers_name_exactly_the_layers(layers: set[int]) -> None:
    assert expand(format_layers(layers)) == sorted(layers)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([7, 0], "0, 7"),
        ([5, 3, 4, 2, 2], "2–5"),
        ([0, 1, 3], "0, 1, 3"),
        (range(3, 40, 4), "3–39 every 4th"),
        ([0, 1, 2, 5, 8, 11, 14, 15], "0–2, 5–14 every 3rd, 15"),
        ([2, 13, 24, 35], "2–35 every 11th"),
        ([], ""),
    ],
)
def test_layers_are_written_as_people_do(layers: list[int], text: str) -> None:
    assert format_layers(layers) == text


def test_layout_names_layers_by_type() -> None:
    facts = model_file()
    rules = [
        *(f"blk.{i}.ffn_down_exps=q6_k" for i in (0, 7)),
        *(f"blk.{i}.ffn_down_exps=q5_k" for i in (1, 6)),
        "ffn_down_exps=iq4_xs",
    ]
    plan = make_plan(classify_tensors(facts), ftype="Q8_0", tensor_types=rules)
    types = {row.role: row.types for row in role_layouts(plan)}
    assert types[Role.EXPERT_DOWN] == "0, 7: Q6_K · 1, 6: Q5_K · 2–5: IQ4_XS"
    assert types[Role.EXPERT_UP] == "Q8_0"
    assert types[Role.NORM] == "F32 kept"


def test_a_list_of_layers_too_long_to_read_becomes_others() -> None:
    facts = model_file()
    tensors = [tensor(f"blk.{i}.ffn_down_exps.weight", 4, 256, 256) for i in range(40)]
    facts = replace(
        facts, tensors=tuple(tensors), metadata={**facts.metadata, "qwen2moe.block_count": 40}
    )
    odd = (0, 2, 3, 7, 12, 14, 20, 21, 26, 30, 31, 37)
    rules = [f"blk\\.({'|'.join(map(str, odd))})\\.ffn_down=q6_k"]
    plan = make_plan(classify_tensors(facts), ftype="Q4_0", tensor_types=rules)
    (row,) = role_layouts(plan)
    assert row.types in (
        f"others: Q6_K · {format_layers(set(range(40)) - set(odd))}: Q4_0",
        f"{format_layers(odd)}: Q6_K · others: Q4_0",
    )


def test_layout_adds_up_to_the_plan() -> None:
    facts = model_file()
    plan = make_plan(classify_tensors(facts), tier="quality")
    rows = role_layouts(plan)
    assert sum(row.nbytes for row in rows) == plan.tensor_bytes
    assert sum(row.n_tensors for row in rows) == len(plan.tensors)


def test_findings_of_one_kind_are_one_line_the_worst_first() -> None:
    fell_back = [
        Finding(FindingKind.SHAPE_FALLBACK, f"blk.{i}.x", "Q4_K does not fit") for i in range(3)
    ]
    follows = [Finding(FindingKind.FOLLOWS_BASE, "", text) for text in ("one", "two")]
    needed = Finding(FindingKind.IMATRIX_NEEDED, "", "an importance matrix is needed")
    groups = group_findings([*follows, *fell_back, needed])
    assert [group.severity for group in groups] == [
        Severity.BLOCKING,
        Severity.WARNING,
        Severity.INFO,
        Severity.INFO,
    ]
    assert [group.line() for group in groups] == [
        "an importance matrix is needed",
        "blk.0.x: Q4_K does not fit (and 2 more of this kind)",
        "one",
        "two",
    ]


@dataclass(frozen=True)
class Weights:
    """Statistics of given numbers, from their definitions."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.values))))

    @property
    def max_abs(self) -> float:
        return float(np.abs(self.values).max())

    @property
    def kurtosis(self) -> float:
        centred = np.array(self.values) - np.mean(self.values)
        return float(np.mean(centred**4) / np.mean(centred**2) ** 2)

    @property
    def outlier_share(self) -> float:
        return float(np.mean(np.abs(self.values) > 4 * self.rms))


def test_role_statistics_pool_what_can_be_pooled(rng: np.random.Generator) -> None:
    narrow = Weights(tuple(rng.standard_normal(3000)))
    wide = Weights(tuple(100 * rng.standard_normal(1000)))
    other = Weights((1.0, -1.0))
    rows = role_statistics([(Role.EXPERT_UP, narrow), (Role.NORM, other), (Role.EXPERT_UP, wide)])
    assert [row.role for row in rows] == [Role.EXPERT_UP, Role.NORM]
    pooled = Weights(narrow.values + wide.values)
    assert rows[0].n_tensors == 2
    assert rows[0].n_weights == pooled.n
    assert rows[0].rms == pytest.approx(pooled.rms)
    assert rows[0].max_abs == pooled.max_abs
    assert rows[0].kurtosis == pytest.approx(0.75 * narrow.kurtosis + 0.25 * wide.kurtosis)
    assert rows[0].kurtosis < 3.5 < pooled.kurtosis  # scales that differ are no outliers


@dataclass(frozen=True)
class Written:
    role: Role
    type: GgmlType
    squared_error: float
    squared_weights: float
    source_type: GgmlType = GgmlType.BF16


def test_grouped_errors_weigh_tensors_by_their_energy() -> None:
    errors = grouped_errors(
        [
            Written(Role.EXPERT_UP, GgmlType.Q4_K, 3.0, 100.0),
            Written(Role.EXPERT_DOWN, GgmlType.Q4_K, 1.0, 300.0),
            Written(Role.EXPERT_GATE, GgmlType.BF16, 0.0, 1e9),
            Written(Role.SSM, GgmlType.Q8_0, 2.0, 8.0),
            Written(Role.NORM, GgmlType.F32, 0.0, 5.0, GgmlType.F32),
        ]
    )
    assert errors == {
        "experts": pytest.approx(math.sqrt(4 / 400)),
        "shared": None,
        "attention+ssm": pytest.approx(0.5),
        "embedding/output": None,
    }


def test_stored_rows_split_a_role_by_type() -> None:
    facts = model_file()
    changed = tuple(
        tensor(t.name, *t.shape, type=GgmlType.F32) if t.name == "blk.3.attn_q.weight" else t
        for t in facts.tensors
    )
    rows = stored_rows(classify_tensors(replace(facts, tensors=changed)))
    attention = [(r.type, r.n_tensors, r.nbytes) for r in rows if r.role is Role.ATTENTION]
    assert attention == [
        (GgmlType.BF16, 7, 7 * 256 * 256 * 2),
        (GgmlType.F32, 1, 256 * 256 * 4),
    ]
    assert sum(row.nbytes for row in rows) == sum(t.nbytes for t in changed)


@pytest.mark.parametrize(
    ("metadata", "shared", "vocabulary"),
    [
        ({}, 1, 1000),
        ({"qwen2moe.expert_shared_count": 3, "qwen2moe.vocab_size": 42}, 3, 42),
    ],
)
def test_facts_prefer_what_the_file_states(
    metadata: dict[str, MetadataValue], shared: int, vocabulary: int
) -> None:
    facts = model_file(**metadata)
    found = model_facts(classify_tensors(facts), file_bytes=(70, 30))
    assert (found.n_shared_experts, found.n_vocab) == (shared, vocabulary)
    assert (found.n_layer, found.n_expert, found.n_expert_used) == (N_LAYER, 4, 2)
    assert found.total_bytes == 100


def test_a_header_is_as_large_as_its_model() -> None:
    facts = model_file(has_data=False)
    found = model_facts(classify_tensors(facts), file_bytes=(5000,))
    data = sum(t.nbytes for t in facts.tensors)  # every one a multiple of 32
    assert data < found.total_bytes < data + 10_000


@pytest.mark.parametrize(
    ("source", "options", "name"),
    [
        ("Qwen-bf16.gguf", {"tier": "quality"}, "Qwen-APEX-Q6_K_QUALITY.gguf"),
        ("Qwen-F16-00001-of-00003.gguf", {"tier": "i-compact"}, "Qwen-APEX-Q3_K_M_ICOMPACT.gguf"),
        ("Qwen.BF16.gguf", {"ftype": "q4_k_m"}, "Qwen-Q4_K_M.gguf"),
        ("bf16-fan.gguf", {"ftype": "q8_0"}, "bf16-fan-Q8_0.gguf"),
        ("m.gguf", {"tier": "quality", "edges": Edges(2, 2, 1)}, "m-APEX-Q6_K_CUSTOMQUALITY.gguf"),
        ("m.gguf", {"tier": "quality", "edges": Edges(1, 1, 1)}, "m-APEX-Q6_K_QUALITY.gguf"),
        ("m.gguf", {"ftype": "q8_0", "tensor_types": ["attn=q4_0"]}, "m-Q8_0_CUSTOM.gguf"),
    ],
)
def test_outputs_are_named_after_model_and_recipe(
    source: str, options: dict[str, object], name: str
) -> None:
    facts = model_file()
    plan = make_plan(classify_tensors(facts), **options)  # type: ignore[arg-type]
    assert default_output_name(source, plan) == name


def test_a_plan_like_another_file_has_no_name() -> None:
    facts = model_file()
    like = {t.name: t.type for t in facts.tensors}
    with pytest.raises(PlanError, match="name the output"):
        default_output_name("m.gguf", make_plan(classify_tensors(facts), like=like))


def test_comparison_counts_every_difference() -> None:
    facts = model_file()
    classes = classify_tensors(facts)
    plan = make_plan(classes, ftype="Q8_0")
    other = make_plan(classes, ftype="Q8_0", tensor_types=[r"ffn_(up|down)_exps=q4_0"])
    found = compare_plans(plan, other)
    assert found.n_tensors == 2 * N_LAYER
    assert {(c.role, str(c.type), str(c.other_type), c.n_tensors) for c in found.changes} == {
        (Role.EXPERT_UP, "Q8_0", "Q4_0", N_LAYER),
        (Role.EXPERT_DOWN, "Q8_0", "Q4_0", N_LAYER),
    }
    difference = sum(row.nbytes - row.other_nbytes for row in found.roles)
    assert difference == 2 * N_LAYER * 4 * 256 * 256 // 32 * (34 - 18)
