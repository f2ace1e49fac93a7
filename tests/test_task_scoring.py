"""The native scorer against a plain loop over logits, however tasks are packed, on any model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import apex_native
import tolerances
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import Model, load_model
from apex_native.errors import Cancelled
from apex_native.types import GgmlType
from tiny_models import ARCHITECTURES, write_tiny_model

DEMO = "demo"

MODELS = (*ARCHITECTURES, DEMO)
"""Dense, mixture of experts, recurrent, and hybrid with experts."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / f"{name}.gguf" for name in ARCHITECTURES}
    loaded = {
        name: load_model(write_tiny_model(path, name), n_threads=2) for name, path in paths.items()
    }
    loaded[DEMO] = load_model(apex_native.demo_model(), n_threads=2)
    yield loaded
    for model in loaded.values():
        model.close()


BF16 = {"type_k": GgmlType.BF16.id, "type_v": GgmlType.BF16.id}
"""With F16 values ggml adds up attention in F16: its rounding depends on where tokens lie."""

Task = list[tuple[list[int], int]]
"""Sequences with the place of their first scored token."""


def score(model: Model, tasks: Sequence[Task], **options: Any) -> list[np.ndarray]:
    """Log-probabilities of each sequence, one array a sequence, in order."""
    sequences = [sequence for task in tasks for sequence in task]
    offsets = np.cumsum([0, *(len(tokens) for tokens, _ in sequences)], dtype=np.int64)
    scorer = core.ChoiceScorer(model.native, n_threads=model.n_threads, **options)
    log_probs = scorer.score(
        np.concatenate([tokens for tokens, _ in sequences]).astype(np.int32),
        offsets,
        np.array([begin for _, begin in sequences], dtype=np.int64),
        np.cumsum([0, *(len(task) for task in tasks)], dtype=np.int64),
    )
    counts = [len(tokens) - begin for tokens, begin in sequences]
    return np.split(log_probs, np.cumsum(counts)[:-1])


def random_tasks(n_tasks: int, seed: int, *, longest: int = 24) -> list[Task]:
    """Tasks that branch again and again, with equal sequences and beginnings of others."""
    rng = np.random.default_rng(seed)
    tasks = []
    for _ in range(n_tasks):
        stem = rng.integers(0, 4096, rng.integers(1, longest)).tolist()
        task: Task = []
        for _ in range(rng.integers(1, 6)):
            base = task[rng.integers(len(task))][0] if task and rng.random() < 0.5 else stem
            kept = base[: rng.integers(1, len(base) + 1)]
            tokens = kept + rng.integers(0, 4096, rng.integers(1, 9)).tolist()
            task.append((tokens, int(rng.integers(1, len(tokens)))))
        if rng.random() < 0.3:
            task.append(task[0])
        tasks.append(task)
    return tasks


@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_a_plain_loop(models: dict[str, Model], name: str) -> None:
    # load_check decodes one sequence and adds up exp() of host logits, one by one in double.
    model = models[name]
    text = demo_text(150, seed=3)
    tokens = model.tokenize(text, add_special=True, parse_special=True).tolist()
    (log_probs,) = score(model, [[(tokens, 1)]])
    checked = core.load_check(model.path, text, n_threads=2)
    assert checked["n_tokens"] == len(tokens)
    assert -log_probs.mean() == pytest.approx(checked["mean_nll"], rel=tolerances.LOG_PROB_RTOL)


def assert_same(model: Model, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal up to float rounding; with attention, up to a value of its cache rounded otherwise."""
    recurrent = "mamba" in model.description
    atol = tolerances.PACKING_ATOL if recurrent else tolerances.PACKING_CACHE_ATOL
    np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)
    assert np.median(np.abs(ours - theirs)) < tolerances.PACKING_ATOL


@pytest.mark.parametrize("name", MODELS)
def test_packing_changes_nothing(models: dict[str, Model], name: str) -> None:
    # Batches stay below 64 tokens, where ggml's attention goes over to another loop.
    model = models[name]
    tasks = random_tasks(6, seed=7)
    alone = [score(model, [[sequence]], **BF16)[0] for task in tasks for sequence in task]
    packed = score(model, tasks, n_ubatch=48, **BF16)
    for ours, theirs in zip(packed, alone, strict=True):
        assert_same(model, ours, theirs)


@pytest.mark.parametrize("name", ["mamba", DEMO])
@pytest.mark.parametrize(("n_ubatch", "max_state_bytes", "n_ctx"), [(48, 1, 0), (7, 1 << 20, 60)])
def test_little_memory_is_enough(
    models: dict[str, Model], name: str, n_ubatch: int, max_state_bytes: int, n_ctx: int
) -> None:
    # With a byte for states there are as few sequences as the branching needs at all.
    tasks = random_tasks(6, seed=11)
    plenty = score(models[name], tasks, n_ubatch=48, **BF16)
    little = score(
        models[name],
        tasks,
        n_ubatch=n_ubatch,
        max_state_bytes=max_state_bytes,
        n_ctx=n_ctx,
        **BF16,
    )
    for ours, theirs in zip(little, plenty, strict=True):
        assert_same(models[name], ours, theirs)


def test_shared_tokens_are_computed_once_and_the_last_never(models: dict[str, Model]) -> None:
    prefix = list(range(100, 140))
    task: Task = [([*prefix, 1], 40), ([*prefix, 2], 40), ([*prefix, 3, 4, 5], 40)]
    scorer = core.ChoiceScorer(models["llama"].native, n_threads=1)
    lengths = np.cumsum([0, *(len(tokens) for tokens, _ in task)])
    scorer.score(
        np.concatenate([tokens for tokens, _ in task]).astype(np.int32),
        lengths.astype(np.int64),
        np.array([40, 40, 40], dtype=np.int64),
        np.array([0, 3], dtype=np.int64),
    )
    assert scorer.n_tokens == 40 + 2
    assert scorer.n_tokens_done == scorer.n_tokens


def test_equal_sequences_have_equal_scores(models: dict[str, Model]) -> None:
    # A tie must stay one: it is decided by order, not by rounding.
    sequence = (list(range(50, 70)), 10)
    first, _, second = score(models[DEMO], [[sequence, ([*range(50, 65), 9], 10), sequence]])
    assert first.tolist() == second.tolist()


def test_threads_change_nothing(models: dict[str, Model]) -> None:
    # Small batches, so that there are groups for several lanes.
    tasks = random_tasks(40, seed=13)
    results = []
    for n_threads in (1, 2, 3):
        model = Model(models[DEMO].native, n_threads)
        results.append(np.concatenate(score(model, tasks, n_ubatch=32)))
    assert results[0].tolist() == results[1].tolist() == results[2].tolist()


def flat(tasks: Sequence[Task]) -> list[np.ndarray]:
    sequences = [sequence for task in tasks for sequence in task]
    return [
        np.concatenate([tokens for tokens, _ in sequences]).astype(np.int32),
        np.cumsum([0, *(len(tokens) for tokens, _ in sequences)], dtype=np.int64),
        np.array([begin for _, begin in sequences], dtype=np.int64),
        np.cumsum([0, *(len(task) for task in tasks)], dtype=np.int64),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.array([1, 2, 5000], np.int32)}, "token 2: expected 0 to 4095, found 5000"),
        ({1: np.array([0, 5], np.int64)}, "sequence_begin: expected offsets from 0 to 3"),
        ({1: np.array([0, -1, 3], np.int64)}, "sequence_begin: expected increasing offsets"),
        ({1: np.array([], np.int64)}, "sequence_begin: expected offsets from 0 to 3"),
        ({2: np.array([0], np.int64)}, r"scored_begin\[0\]: expected 1 to 2, found 0"),
        ({2: np.array([3], np.int64)}, r"scored_begin\[0\]: expected 1 to 2, found 3"),
        ({2: np.array([1, 1], np.int64)}, "task_begin: expected offsets from 0 to 2"),
        ({3: np.array([0, 0, 1], np.int64)}, "task_begin: expected increasing offsets"),
    ],
)
def test_offsets_that_are_wrong_are_refused(
    models: dict[str, Model], changes: dict[int, np.ndarray], message: str
) -> None:
    arrays = flat([[([1, 2, 3], 1)]])
    for place, array in changes.items():
        arrays[place] = array
    scorer = core.ChoiceScorer(models["llama"].native, n_threads=1)
    with pytest.raises(ValueError, match=message):
        scorer.score(*arrays)


def test_no_tasks_are_no_scores(models: dict[str, Model]) -> None:
    scorer = core.ChoiceScorer(models["llama"].native, n_threads=1)
    empty = [np.array([], np.int32), np.array([0], np.int64), np.array([], np.int64)]
    assert scorer.score(*empty, np.array([0], np.int64)).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_ubatch": 0}, "n_ubatch: expected at least 1"), ({"type_k": 10}, "KV cache")],
)
def test_options_that_cannot_be_are_refused(
    models: dict[str, Model], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(models["llama"], [[([1, 2, 3], 1)]], **options)


def test_a_stop_is_heard(models: dict[str, Model]) -> None:
    stop = core.StopFlag()
    scorer = core.ChoiceScorer(models[DEMO].native, n_threads=1, stop=stop)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            scorer.score(*flat(random_tasks(400, seed=1, longest=80)))
        except Cancelled as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not scorer.n_tokens_done:
        thread.join(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert scorer.n_tokens_done < scorer.n_tokens
