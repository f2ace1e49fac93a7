"""What a model is calibrated on, when a recipe has to be made for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apex_native as apex
from apex_native.demo import demo_model
from apex_native.imatrix import calibration_text, open_text

RECIPE = """\
schema_version = 1
name = "{name}"
tokens = 300

[domains.reasoning]
share = 1.0
[[domains.reasoning.sources]]
kind = "builtin"
topic = "reasoning"
"""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the recipes that texts were made of."""
    names: list[str] = []
    real = calibration_text.build_corpus

    def build(recipe: Any, model: apex.Model, **options: Any) -> Any:
        names.append(recipe.name)
        return real(recipe, model, **options)

    monkeypatch.setattr(calibration_text, "build_corpus", build)
    calibration_text._built.clear()
    yield names
    calibration_text._built.clear()


def test_a_recipes_text_is_made_once(tmp_path: Path, built: list[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(name=name))
    with apex.load_model(demo_model(), n_threads=1) as model:
        texts = [open_text(tmp_path / f"{name}.toml")(model).text for name in ("one", "one", "two")]
        assert built == ["one", "two"]
        assert texts[0] == texts[1] == texts[2]
        (tmp_path / "one.toml").write_text(RECIPE.format(name="one").replace("300", "200"))
        assert len(open_text(tmp_path / "one.toml")(model).text) < len(texts[0])
    assert built == ["one", "two", "one"]


def test_a_text_that_is_being_made_is_progress(tmp_path: Path, built: list[str]) -> None:
    (tmp_path / "one.toml").write_text(RECIPE.format(name="one"))
    seen: list[apex.imatrix.ImatrixProgress] = []
    apex.calibrate(demo_model(), tmp_path / "one.toml", ctx=64, max_chunks=2, progress=seen.append)
    made = [state for state in seen if state.text is not None]
    assert made == seen[: len(made)]
    assert len(seen) > len(made) > 0
    assert 0 < made[-1].share <= 1
    assert made[-1].state.endswith("tokens, 2 documents")
    assert built == ["one"]
