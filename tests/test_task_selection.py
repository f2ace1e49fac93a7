"""The items llama-perplexity draws: against the C++ library it was built with, and by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apex_native._native import core
from apex_native.errors import DataError
from apex_native.evaluation.tasks import Item, TaskFile, TaskKind, select_items
from task_files import hellaswag_items, winogrande_items

# The two loops of perplexity.cpp, with the standard library's own generator and distribution.
UPSTREAM = r"""
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>
int main(int argc, char ** argv) {
    size_t n_items = atoi(argv[2]), n = atoi(argv[3]);
    std::mt19937 rng(1);
    std::vector<int> left(n_items);
    for (size_t i = 0; i < n_items; ++i) left[i] = i;
    float scale = 1/(1.f + (float)rng.max());
    for (size_t i = 0; i < n; ++i) {
        if (argv[1][0] == 'u') {
            std::uniform_int_distribution<size_t> dist(0, left.size()-1);
            size_t idx = dist(rng);
            printf("%d\n", left[idx]);
            left.erase(left.begin() + idx);
        } else {
            int j = int(scale*rng()*left.size());
            printf("%d\n", left[j]);
            left[j] = left.back();
            left.pop_back();
        }
    }
}
"""

SIZES = [(1, 1), (2, 2), (7, 3), (400, 400), (1267, 400), (10_042, 400), (10_042, 10_042)]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to ask libstdc++")
    folder = tmp_path_factory.mktemp("draw")
    (folder / "draw.cpp").write_text(UPSTREAM)
    # Without contraction or excess precision, as x86-64 computes.
    command = [compiler, "-O1", "-o", str(folder / "draw"), str(folder / "draw.cpp")]
    subprocess.run(command, check=True)
    return folder / "draw"


@pytest.mark.parametrize(("n_items", "n"), SIZES)
@pytest.mark.parametrize("way", ["uniform", "scaled"])
def test_the_standard_librarys_items(upstream: Path, way: str, n_items: int, n: int) -> None:
    run = subprocess.run(
        [str(upstream), way[0], str(n_items), str(n)], capture_output=True, text=True, check=True
    )
    expected = [int(line) for line in run.stdout.split()]
    draw = core.draw_uniform if way == "uniform" else core.draw_scaled
    assert draw(n_items, n) == expected


def mt19937_from_one() -> np.random.MT19937:
    # numpy seeds RandomState(1) as the C++ standard seeds mt19937(1).
    generator = np.random.MT19937()
    generator.state = np.random.RandomState(1).get_state(legacy=False)
    return generator


@pytest.mark.parametrize(("n_items", "n"), SIZES)
def test_lemires_way_in_python(n_items: int, n: int) -> None:
    generator = mt19937_from_one()
    left = list(range(n_items))
    drawn = []
    for _ in range(n):
        product = int(generator.random_raw()) * len(left)
        while product % 2**32 < 2**32 % len(left):
            product = int(generator.random_raw()) * len(left)
        drawn.append(left.pop(product >> 32))
    assert core.draw_uniform(n_items, n) == drawn


@pytest.mark.parametrize(("n_items", "n"), SIZES)
def test_the_float_way_in_numpy(n_items: int, n: int) -> None:
    generator = mt19937_from_one()
    left = list(range(n_items))
    drawn = []
    for _ in range(n):
        value = np.float32(generator.random_raw()) * np.float32(2.0**-32) * np.float32(len(left))
        place = min(int(value), len(left) - 1)
        drawn.append(left[place])
        left[place] = left[-1]
        left.pop()
    assert core.draw_scaled(n_items, n) == drawn


@pytest.mark.parametrize("way", ["draw_uniform", "draw_scaled"])
def test_no_more_can_be_drawn_than_there_are(way: str) -> None:
    with pytest.raises(ValueError, match="cannot draw 3 of 2 items"):
        getattr(core, way)(2, 3)
    assert getattr(core, way)(5, 0) == []


def file_of(kind: TaskKind, items: list[Item]) -> TaskFile:
    return TaskFile(kind, kind.value, "path", "", tuple(items))


def test_hellaswag_is_shuffled_even_as_a_whole() -> None:
    file = file_of(TaskKind.HELLASWAG, list(hellaswag_items(50)))
    for n in (None, 0, 50, 400):
        selection = select_items(file, n)
        assert selection.description == "all 50"
        assert selection.items != file.items
        assert set(selection.items) == set(file.items)


def test_other_tasks_keep_their_order_as_a_whole() -> None:
    file = file_of(TaskKind.WINOGRANDE, list(winogrande_items(50)))
    assert select_items(file, None).items == file.items
    assert select_items(file, 50).items == file.items
    part = select_items(file, 20)
    assert part.description == "20 of 50, mt19937 seed 1"
    assert len(set(part.items)) == 20


def test_fewer_than_none_is_an_error() -> None:
    with pytest.raises(DataError, match="number of tasks: expected at least 0"):
        select_items(file_of(TaskKind.WINOGRANDE, list(winogrande_items(2))), -1)
