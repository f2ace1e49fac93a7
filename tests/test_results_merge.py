"""Several results files as one: what is joined, and what must not be mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from apex_native.errors import ResultsError
from apex_native.results import (
    Candidate,
    Comparison,
    McNemar,
    Reference,
    Results,
    Verdict,
    merge_results,
    same_model,
)
from results_data import BUILD, FLOOR, SETTINGS, TEXT, evaluation, speed_tests, task_score

ALL = evaluation(3)


def part(*indices: int, **changes: Any) -> Results:
    """Those candidates of the evaluation, with their comparisons, as a file of its own."""
    candidates = tuple(ALL.candidates[i] for i in indices)
    names = {candidate.name for candidate in candidates}
    inside = tuple(c for c in ALL.comparisons if {c.first, c.second} <= names)
    return replace(ALL, candidates=candidates, comparisons=inside, **changes)


def test_a_candidate_that_was_added_later() -> None:
    merged = merge_results([part(0, 1), part(2, created="2026-12-01T00:00:00Z")])
    assert merged.candidates == ALL.candidates
    assert merged.created == "2026-12-01T00:00:00Z"
    assert merged.comparisons == part(0, 1).comparisons
    assert replace(merged, created=ALL.created, comparisons=ALL.comparisons) == ALL


def test_merging_changes_nothing_where_nothing_is_new() -> None:
    assert merge_results([ALL]) == ALL
    assert merge_results([ALL, part(1), ALL]) == ALL


def test_texts_scored_by_two_builds_are_not_mixed_and_tasks_are() -> None:
    native = replace(BUILD, llama_cpp_commit=f"{BUILD.llama_cpp_commit}-native")
    with pytest.raises(ResultsError, match=r"llama_cpp_commit is .* and .*-native in another"):
        merge_results([part(0, 1), part(2, build=native)])
    tasks = Results(native, "2026", (replace(ALL.candidates[2], kld_mean=None, ppl=None),))
    assert merge_results([part(0, 1), tasks]).build == BUILD


def test_tasks_and_speed_of_other_files_join_the_model() -> None:
    quality = ALL.candidates[1]
    text = replace(part(1), candidates=(replace(quality, tasks=(), speed=()),))
    tasks = Candidate("other name", bytes=1, sha256=quality.sha256, tasks=quality.tasks)
    speed = Candidate("q", sha256=quality.sha256, speed=quality.speed)
    files = [text, Results(BUILD, "2026", (replace(tasks, bytes=quality.bytes),))]
    merged = merge_results([*files, Results(BUILD, "2026", (speed,))])
    assert merged.candidates == (quality,)
    assert merge_results(files[::-1]).candidates[0].name == "other name"
    assert merge_results(files[::-1]).settings == SETTINGS


def test_comparisons_follow_a_model_that_had_another_name() -> None:
    first, second = ALL.candidates[:2]
    renamed = replace(first, name="mine")
    comparison = Comparison("mine", second.name, "kld_mean", -0.1, -0.2, -0.05, Verdict.BETTER)
    other = replace(ALL, candidates=(renamed, second), comparisons=(comparison,))
    merged = merge_results([part(0), other])
    assert merged.comparisons == (replace(comparison, first=first.name),)


def test_verdicts_of_tasks_follow_names_too() -> None:
    first, second = ALL.candidates[:2]
    reference = ALL.reference
    assert reference is not None
    score = task_score("arc", 57.0)
    tests = tuple(
        McNemar(name, 1, 2, 0.5, Verdict.NOT_DISTINGUISHABLE) for name in ("mine", "sixteen bits")
    )
    tasks = (replace(score, comparisons=tests),)
    listed = (
        Candidate("mine", sha256=first.sha256),
        Candidate("sixteen bits", sha256=reference.sha256),
        replace(second, tasks=tasks),
    )
    other = replace(part(), candidates=listed)
    merged = merge_results([part(0), other])
    (found,) = merged.candidates[1].tasks
    assert [test.other for test in found.comparisons] == [first.name, reference.name]
    assert Results.from_json(merged.to_json()) == merged


def test_speed_measured_again_with_equal_settings_is_the_last_files() -> None:
    fast, slow = speed_tests(60.0), speed_tests(30.0)
    more_threads = tuple(replace(test, n_threads=16) for test in fast)
    files = [
        Results(BUILD, "2026", (Candidate("a", bytes=1, speed=speed),))
        for speed in (fast, more_threads, slow)
    ]
    assert merge_results(files).candidates[0].speed == (*slow, *more_threads)


def test_mcnemar_tests_against_different_models_are_joined() -> None:
    score = task_score("arc", 57.0)
    against = [McNemar(name, 1, 2, 0.5, Verdict.NOT_DISTINGUISHABLE) for name in ("b", "c")]
    files = [
        Results(
            BUILD, "2026", (Candidate("a", bytes=1, tasks=(replace(score, comparisons=(t,)),)),)
        )
        for t in against
    ]
    (merged,) = merge_results(files).candidates[0].tasks
    assert set(merged.comparisons) == set(against)


def changed_candidate(**changes: Any) -> Results:
    return replace(part(0), candidates=(replace(ALL.candidates[0], **changes),))


def text_changed(**changes: Any) -> Results:
    return part(1, data=replace(TEXT, **changes))


def settings_changed(**changes: Any) -> Results:
    return part(1, settings=replace(SETTINGS, **changes))


MIXED: list[tuple[Callable[[], Results], str]] = [
    (lambda: text_changed(sha256="00"), r"data\.sha256 is .* in one file and 00 in another"),
    (lambda: text_changed(ctx=512), r"data\.ctx is 2048 in one file and 512 in another"),
    (lambda: text_changed(n_chunks=10), r"data\.n_chunks is 145 in one file and 10"),
    (lambda: text_changed(parse_special=True), r"data\.parse_special"),
    (lambda: text_changed(add_bos=True), r"data\.add_bos"),
    (lambda: settings_changed(n_ubatch=64), r"settings\.n_ubatch is 512 in one file and 64"),
    (lambda: settings_changed(device="CUDA"), r"settings\.device"),
    (lambda: settings_changed(type_k="q8_0"), r"settings\.type_k is f16 in one file and q8_0"),
    (lambda: settings_changed(scored="all"), r"settings\.scored"),
    (lambda: part(1, tokenizer="other"), "tokenizer is .* in one file and other in another"),
    (
        lambda: part(1, reference=replace(ALL.reference, sha256="00", name="another")),
        r"reference is .*F16.* in one file and another \(sha256 00\) in another",
    ),
    (lambda: part(1, reference=replace(ALL.reference, ppl=7.0)), "has two values of ppl: 6.537"),
    (lambda: changed_candidate(ppl=7.0), "has two values of ppl: 6.533 in one file and 7.0"),
    (lambda: changed_candidate(sha256="00"), "two different models have the name"),
    (
        lambda: changed_candidate(tasks=(task_score("hellaswag", 50.0),)),
        r"two values of hellaswag \(score\)",
    ),
]


@pytest.mark.parametrize(("other", "message"), MIXED)
def test_what_must_not_be_mixed_names_the_key(other: Callable[[], Results], message: str) -> None:
    with pytest.raises(ResultsError, match=message) as caught:
        merge_results([part(0), other()])
    assert "; " in str(caught.value)  # and what to do
    assert "\n" not in str(caught.value)


def test_of_two_noise_floors_the_higher_is_kept() -> None:
    higher = replace(FLOOR, kld_mean=1e-5, description="on another machine")
    for files in ([part(0), part(1, noise_floor=higher)], [part(0, noise_floor=higher), part(1)]):
        assert merge_results(files).noise_floor == higher
    assert merge_results([part(0, noise_floor=None), part(1)]).noise_floor == FLOOR


def test_what_changes_no_result_may_differ() -> None:
    other = part(
        1, settings=replace(SETTINGS, n_threads=2), data=replace(TEXT, name="elsewhere/wiki.raw")
    )
    assert len(merge_results([part(0), other]).candidates) == 2


def test_tasks_may_have_run_with_another_context() -> None:
    tasks = Results(
        BUILD,
        "2026",
        (Candidate("t", tasks=(task_score("arc", 50.0),)),),
        settings=replace(SETTINGS, ctx=4096, n_ubatch=64),
    )
    assert merge_results([part(0), tasks]).settings == SETTINGS
    assert merge_results([tasks, part(0)]).settings == SETTINGS
    kv = replace(tasks, settings=replace(SETTINGS, type_v="q4_0"))
    with pytest.raises(ResultsError, match=r"settings\.type_v"):
        merge_results([part(0), kv])


def test_a_kv_cache_of_its_own_makes_another_candidate() -> None:
    cached = replace(ALL.candidates[0], name="Q8_0, KV q8_0", type_k="q8_0", type_v="q8_0", ppl=6.6)
    merged = merge_results([part(0), replace(part(0), candidates=(cached,))])
    assert [c.type_k for c in merged.candidates] == [None, "q8_0"]


def test_the_reference_of_one_file_may_be_a_candidate_of_another() -> None:
    """`bench` and tasks know no reference: all their models are candidates."""
    reference = ALL.reference
    assert reference is not None
    bare = replace(part(0), reference=replace(reference, tasks=(), speed=()))
    listed = Candidate(
        "listed under another name",
        sha256=reference.sha256,
        tasks=reference.tasks,
        speed=reference.speed,
    )
    others = Results(BUILD, "2026", (listed,))
    for files in ([bare, others], [others, bare]):
        merged = merge_results(files)
        assert merged.reference == reference
        assert merged.candidates == part(0).candidates


def test_the_reference_measured_against_itself_stays_a_candidate() -> None:
    reference = ALL.reference
    assert reference is not None
    itself = Candidate("F16 again", sha256=reference.sha256, kld_mean=0.0)
    merged = merge_results([part(0), replace(part(), candidates=(itself,))])
    assert merged.candidates == (*part(0).candidates, itself)
    with pytest.raises(ResultsError, match="is the reference in one file and another model"):
        merge_results([part(0), Results(BUILD, "2026", (Candidate(reference.name, bytes=1),))])


def test_nothing_to_merge() -> None:
    with pytest.raises(ResultsError, match="name at least one file"):
        merge_results([])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (Candidate("a", sha256="1"), Candidate("b", sha256="1"), True),
        (Candidate("a", sha256="1"), Candidate("a", sha256="2"), False),
        (Candidate("a", fingerprint="1"), Reference("b", fingerprint="1"), True),
        (Candidate("a", sha256="1", fingerprint="2"), Candidate("b", fingerprint="2"), True),
        (Candidate("a", bytes=1), Candidate("a", bytes=1, sha256="1"), True),
        (Candidate("a", bytes=1), Candidate("a", bytes=2), False),
    ],
)
def test_models_are_known_by_their_hash(first: Any, second: Any, same: bool) -> None:
    assert same_model(first, second) is same
    assert same_model(second, first) is same
