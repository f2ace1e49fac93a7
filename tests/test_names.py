"""Default names of files, by the very patterns of the tools that read them."""

from __future__ import annotations

import re

import pytest

from apex_native.plan import every_tier_name, make_plan, tier_names
from apex_native.reports import NameStyle, default_output_name, name_tag
from apex_native.reports.kinds import FileKind, file_kind, recipe_in_name
from mix_models import MODELS
from plan_tables import Table

# huggingface.js, packages/tasks/src/gguf.ts: names of llama_ftype that the Hub knows, in its order.
HUB_QUANTS = (
    *("F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"),
    *("IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M"),
    *("IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"),
    *("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0"),
    *("Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL", "Q8_K_XL"),
)
HUB_LABEL = re.compile(f"(UD-)?({'|'.join(HUB_QUANTS)})(_([A-Z]+))?")

# The same file: names that say a share of every type; the largest share is the label.
GGML_QUANTS = (
    *("IQ2_XXS", "IQ3_XXS", "IQ2_XS", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0"),
    *("IQ1_S", "IQ3_S", "IQ2_S", "IQ1_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K"),
    *("Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "BF16", "Q1_0", "F32", "F16"),
)
HUB_SHARE = re.compile(rf"(?:(?<=^)|(?<=-))(\d{{1,3}})({'|'.join(GGML_QUANTS)})(?=$|[-.])")

# llama.cpp, common/download.cpp.
SPLIT = re.compile(r"^(.+)-([0-9]{5})-of-([0-9]{5})$", re.IGNORECASE)
TAG = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
SIDECARS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


def hub_label(name: str) -> str | None:
    stem = name.upper().removesuffix(".GGUF")
    shares = HUB_SHARE.findall(stem)
    if len(shares) > 1:
        return max(shares, key=lambda share: int(share[0]))[1]
    found = [match.group(0) for match in HUB_LABEL.finditer(name.upper())]
    return found[-1] if found else None


def llama_tag(name: str) -> str | None:
    stem = name.removesuffix(".gguf")
    split = SPLIT.match(stem)
    found = TAG.search(split.group(1) if split else stem)
    return found.group(1).upper() if found else None


def llama_choice(names: list[str], tag: str) -> str | None:
    for name in names:
        split = SPLIT.match(name.removesuffix(".gguf"))
        is_first = split is None or int(split.group(2)) == 1
        is_model = not any(word in name for word in SIDECARS)
        if is_model and is_first and re.search(tag + "[.-]", name, re.IGNORECASE):
            return name
    return None


def names_of(table: Table, style: NameStyle = NameStyle.HUB) -> dict[str, str]:
    recipes = [{"tier": name} for name in every_tier_name()]
    recipes += [{"ftype": name} for name in ("Q8_0", "Q6_K", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")]
    return {
        next(iter(recipe.values())): default_output_name(
            "Some-35B-A3B-BF16.gguf", make_plan(table.classification, **recipe), style
        )
        for recipe in recipes
    }


@pytest.mark.parametrize("model", ["llama_gqa", "mixtral"])
def test_every_default_name_has_a_label_and_a_tag_of_its_own(model: str) -> None:
    names = names_of(MODELS[model]())
    assert len(set(names.values())) == len(names)
    for recipe, name in names.items():
        tag = llama_tag(name)
        assert tag is not None
        assert tag == name_tag(name) == hub_label(name), name
        if recipe in every_tier_name():
            assert (file_kind(name), recipe_in_name(name)) == (FileKind.TIER, recipe)
        # Wherever it stands in the repository, and beside the matrix it was made with.
        every = [*names.values(), f"{name.removesuffix('.gguf')}.imatrix.gguf"]
        for order in (every, every[::-1]):
            assert llama_choice(order, tag) == name
        shard = name.removesuffix(".gguf") + "-00001-of-00002.gguf"
        assert (llama_tag(shard), name_tag(shard), hub_label(shard)) == (tag, tag, tag)
        second = shard.replace("00001-of", "00002-of")
        assert llama_choice([second, shard], tag) == shard


def test_names_of_variants_and_of_own_tiers_keep_their_numbers() -> None:
    names = names_of(MODELS["llama_gqa"]())
    assert hub_label(names["mini-q3"]).endswith("_MINIQTHREE")  # type: ignore[union-attr]
    assert hub_label(names["mini-iq2"]).endswith("_MINIIQTWO")  # type: ignore[union-attr]
    for recipe in every_tier_name():
        published = make_plan(MODELS["llama_gqa"]().classification, tier=recipe)
        name = default_output_name("m.gguf", published, NameStyle.PUBLISHED)
        assert recipe_in_name(name) == recipe


def test_published_names_clash_which_is_why_they_are_not_the_default() -> None:
    names = names_of(MODELS["llama_gqa"](), NameStyle.PUBLISHED)
    assert names["i-compact"] == "Some-35B-A3B-APEX-I-Compact.gguf"
    assert llama_tag(names["i-compact"]) == llama_tag(names["compact"]) == "COMPACT"
    assert hub_label(names["compact"]) is None


def test_what_the_patterns_are_known_for() -> None:
    assert hub_label("m-Q4_K.gguf") is None  # no bare Q3_K, Q4_K, Q5_K in the Hub's list
    assert hub_label("m-Q4_K_XYZ.gguf") is None
    assert hub_label("m-Q3_K_M_I_MINI.gguf") == "Q3_K_M_I"
    assert hub_label("m-62Q6_K-30Q5_K-08Q8_0.gguf") == "Q6_K"
    names = ["m-APEX-Q6_K_QUALITY.gguf", "m-APEX-Q6_K_IQUALITY.gguf"]
    assert llama_choice(names, "Quality") == names[0]
    assert llama_choice(names[::-1], "Quality") == names[1]  # either of two: give the whole tag
    assert llama_choice(["mtp-m-Q8_0.gguf"], "Q8_0") is None
    assert llama_choice(["MTP-m-Q8_0.gguf"], "Q8_0") == "MTP-m-Q8_0.gguf"


def test_an_unknown_style_is_refused() -> None:
    plan = make_plan(MODELS["llama_gqa"]().classification, tier="quality")
    with pytest.raises(ValueError, match="other"):
        default_output_name("m.gguf", plan, "other")


def test_the_number_in_the_file_is_of_the_type_with_most_bytes() -> None:
    table = MODELS["llama_gqa"]()
    for tier in tier_names():
        plan = make_plan(table.classification, tier=tier)
        n_bytes: dict[str, int] = {}
        for tensor in plan.tensors:
            n_bytes[tensor.type.name] = n_bytes.get(tensor.type.name, 0) + tensor.nbytes
        most = max(n_bytes, key=lambda name: n_bytes[name])
        stated = {entry.key: entry.value for entry in plan.metadata}["general.file_type"]
        assert stated == plan.file_type
        assert most in default_output_name("m.gguf", plan)
