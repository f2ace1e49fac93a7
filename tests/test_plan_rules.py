from __future__ import annotations

import pytest

from apex_native.errors import PlanError
from apex_native.plan import DecidedBy, FindingKind, make_plan, parse_rule, parse_rule_file
from apex_native.types import GgmlType
from mix_models import MODELS

NAMES = (
    "token_embd.weight",
    "blk.3.attn_v.weight",
    "blk.12.attn_v.weight",
    "blk.3.ffn_down_exps.weight",
    "a{b}]",
    "café.weight",
    "A_B",
)


def matched(pattern: str) -> list[int]:
    rule = parse_rule(f"{pattern}=q4_k")
    return [i for i, name in enumerate(NAMES) if rule.matches(name)]


# Expected matches were printed by std::regex (libstdc++ 12, regex_search after tolower).
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("attn_v", [1, 2]),
        ("ATTN_V", [1, 2]),
        (r"blk\.(3|12)\.attn", [1, 2]),
        (r"^blk\.[0-9]{2}\.", [2]),
        (r"weight$", [0, 1, 2, 3, 5]),
        (r"[[:digit:]]{2}", [2]),
        (r"^[^[:digit:]]+$", [0, 4, 5, 6]),
        (r"\bffn", [3]),
        (r"a\{b\}", [4]),
        (r"b}", [4]),
        (r"b.]", [4]),
        (r"]", [4]),
        (r"caf..\.", [5]),  # é is two bytes
        (r"caf.\.", []),
        (r"[a-]_", []),
        (r"a_b", []),  # the name's case counts
        (r"^(?!blk|a)", [0, 5, 6]),
        (r"(?:ffn|attn)_(v|down)", [1, 2, 3]),
        (r"at??tn", [1, 2]),
        (r"[\d.]+attn", [1, 2]),
        (r"zzz|", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_expressions_match_as_in_ecmascript(pattern, expected) -> None:
    assert matched(pattern) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)a", "(?P<n>a)", "(?<!a)b", "(?#c)a", "(?>a)", r"(a)\1", r"\Aa", r"a\Z", r"\x41",
        r"\u0041", r"\cA", r"\0", "a*+", "a{2}{3}", "a{,3}", "a{b", "[]a]", "[^]", "^*", r"\b+",
        "(?!a)*", "*a", "a|*", "[[.a.]]", "[[:letters:]]", "[a--b]", r"[\b]", r"a\D", r"\W",
    ],
)  # fmt: skip
def test_expressions_the_two_languages_read_differently_are_refused(pattern) -> None:
    with pytest.raises(PlanError, match="not read the same way"):
        parse_rule(f"{pattern}=q4_k")


@pytest.mark.parametrize("pattern", ["(a", "a)", "[a", "[b-a]", "a{3,2}", "a\\"])
def test_expressions_that_are_no_expressions_are_refused(pattern) -> None:
    with pytest.raises(PlanError, match="tensor-type rule"):
        parse_rule(f"{pattern}=q4_k")


@pytest.mark.parametrize("text", ["", "attn_v", "=q4_k", "attn_v=", "attn_v=q4k", "a=Q4_K_M"])
def test_malformed_rules_are_refused(text) -> None:
    with pytest.raises(PlanError, match="tensor-type rule"):
        parse_rule(text)


@pytest.mark.parametrize("type", ["Q8_K", "Q8_1", "I32", "f64"])
def test_types_that_cannot_be_written_are_refused(type) -> None:
    with pytest.raises(PlanError, match="cannot be written"):
        parse_rule(f"a={type}")


def test_a_rule_splits_at_its_first_equals_sign() -> None:
    with pytest.raises(PlanError, match="unknown ggml type 'b=q4_k'"):
        parse_rule("a=b=q4_k")
    rule = parse_rule("ATTN=Q4_k")
    assert (rule.pattern, rule.type, rule.text) == ("attn", GgmlType.Q4_K, "ATTN=Q4_k")


def test_a_rule_file_holds_words() -> None:
    assert parse_rule_file(" a=q4_k\n\n\tb=q5_k c=q6_k\n") == ("a=q4_k", "b=q5_k", "c=q6_k")


def planned(rules: list[str], **arguments):
    table = MODELS["mixtral"]()
    arguments.setdefault("ftype", "Q4_K_M")
    return make_plan(table.classification, tensor_types=rules, **arguments)


def test_the_first_rule_that_matches_wins() -> None:
    plan = planned([r"blk\.3\.ffn_down=Q8_0", "ffn_down=Q5_K"])
    assert plan.types["blk.3.ffn_down_exps.weight"] is GgmlType.Q8_0
    assert plan.types["blk.4.ffn_down_exps.weight"] is GgmlType.Q5_K
    tensor = next(t for t in plan.tensors if t.name == "blk.4.ffn_down_exps.weight")
    assert tensor.decided_by is DecidedBy.RULE
    assert tensor.reason == "rule ffn_down=Q5_K"


def test_rules_override_a_tier_and_never_touch_what_is_kept() -> None:
    plan = planned(["blk=Q8_0"], ftype=None, tier="quality")
    assert plan.types["blk.3.ffn_down_exps.weight"] is GgmlType.Q8_0
    assert plan.types["blk.3.ffn_gate_inp.weight"] is GgmlType.F32


def test_rules_equal_to_the_default_type_apply_under_published_semantics() -> None:
    # Q4_K is the default of compact's base; the skipping is the published tiers', not the user's.
    plan = planned(["attn_v=Q4_K"], ftype=None, tier="compact", semantics="published")
    assert plan.types["blk.0.attn_v.weight"] is GgmlType.Q4_K


def test_rules_without_effect_are_found() -> None:
    rules = ["ffn_gate_up_exps=Q8_0", "attn_v=Q6_K", r"attn_v\.weight=Q8_0", "_norm=Q8_0"]
    findings = planned(rules).findings
    messages = [f.message for f in findings if f.kind is FindingKind.RULE_WITHOUT_EFFECT]
    assert messages[0] == "rule ffn_gate_up_exps=Q8_0 matches no tensor"
    assert messages[1].startswith(r"rule attn_v\.weight=Q8_0 matches 16 tensors and decides none")
    assert messages[2].startswith("rule _norm=Q8_0 matches 17 tensors and decides none")
    assert len(messages) == 3


def test_rules_apply_to_float_file_types_and_the_difference_is_said() -> None:
    plan = planned(["ffn_down=Q8_0"], ftype="BF16")
    assert plan.types["blk.0.ffn_down_exps.weight"] is GgmlType.Q8_0
    assert plan.types["blk.0.attn_v.weight"] is GgmlType.BF16
    assert [f.kind for f in plan.findings] == [FindingKind.NOT_AS_UPSTREAM]


def test_a_lone_string_is_not_a_sequence_of_rules() -> None:
    table = MODELS["mixtral"]()
    with pytest.raises(PlanError, match="must be a sequence"):
        make_plan(table.classification, ftype="Q8_0", tensor_types="attn_v=Q8_0")
