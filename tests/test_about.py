"""What a file says of itself: written as gguf-py would, kept where nothing is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader
from gguf.utility import size_label as upstream_size_label

import apex_native as apex
from apex_native.errors import PlanError
from apex_native.plan.about import about_metadata, size_label
from apex_native.types import GgmlType, GgufFacts, TensorInfo
from cli_tools import invoke


def facts_with(n_dense: int, n_experts: int, n_expert: int) -> GgufFacts:
    def tensor(name: str, *shape: int) -> TensorInfo:
        return TensorInfo(name, shape, GgmlType.F16, GgmlType.F16.tensor_bytes(shape))

    metadata = {"general.architecture": "m"} | ({"m.expert_count": n_expert} if n_expert else {})
    tensors = [tensor("output.weight", n_dense)]
    if n_expert:
        tensors.append(tensor("blk.0.ffn_up_exps.weight", n_expert, n_experts, 1))
    return GgufFacts(metadata, tuple(tensors), {})


@pytest.mark.parametrize(
    ("n_dense", "n_experts", "n_expert"),
    [
        (7_000_000_000, 0, 0),
        (999, 0, 0),
        (1_000_000, 0, 0),
        (46_000, 0, 0),
        (6_200_000, 1_200_000, 8),
        (1_300_000_000_000, 45, 256),
        (65_000_000, 3_949, 128),
    ],
)
def test_sizes_are_those_that_gguf_py_computes(n_dense: int, n_experts: int, n_expert: int) -> None:
    expected = upstream_size_label(
        n_dense + n_experts * n_expert, n_dense, n_experts if n_expert else 0, n_expert
    )
    assert size_label(facts_with(n_dense, n_experts, n_expert)) == expected


def test_what_is_given_is_in_the_file_and_the_rest_is_the_sources(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    given = ("--base-model", "Some/Demo-8x7M-Chat", "--license", "mit", "--quantized-by", "me")
    done = invoke("quantize", apex.demo_model(), "--type", "Q8_0", *given, "-o", output)
    assert done.exit_code == 0, done.stderr
    fields = GGUFReader(output).fields
    found = {key: field.contents() for key, field in fields.items() if key.startswith("general.")}
    assert found["general.base_model.count"] == 1
    assert found["general.base_model.0.name"] == "Demo-8x7M-Chat"
    assert found["general.base_model.0.organization"] == "Some"
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/Some/Demo-8x7M-Chat"
    assert found["general.license"] == "mit"
    assert found["general.quantized_by"] == "me"
    assert found["general.basename"] == "Demo"
    source = GGUFReader(apex.demo_model()).fields
    for key in ("general.name", "general.size_label"):
        assert found[key] == source[key].contents()


def test_nothing_given_nothing_written() -> None:
    assert about_metadata(apex.About(), facts_with(10, 0, 0)) == ()


def test_a_base_model_is_a_repository() -> None:
    with pytest.raises(PlanError, match="OWNER/REPO"):
        apex.About(base_model="https://huggingface.co/a/b")
