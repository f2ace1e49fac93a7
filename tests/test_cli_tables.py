"""Tables in a terminal: nothing wider than it, nothing cut, the columns that matter last to go.

`python tests/test_cli_tables.py` writes the golden text anew; review the difference like code.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from apex_native.cli.app import app
from apex_native.cli.output import Output
from apex_native.cli.result_tables import _with_interval, show_results
from apex_native.cli.table_layout import wrap
from apex_native.cli.table_render import LineKind, plain_lines, terminal_lines
from apex_native.cli.tables import Column, Table
from apex_native.cli.task_tables import show_tasks
from apex_native.evaluation.tasks.statistics import compare_scores
from apex_native.reports.models import all_models
from results_data import evaluation

GOLDEN = Path(__file__).parent / "golden"

WIDTHS = (80, 40)

MOST_LINES = 400
"""Of 14 models in five tasks at 40 columns; all pairs would be 1,100."""


class Terminal(Output):
    """A terminal of a width, on stdout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def table(self, table: Table) -> None:
        for line in terminal_lines(table, self._width):
            print(line.text)


def evaluation_text(width: int) -> str:
    """What `eval` shows of 14 models with five tasks."""
    results = evaluation(13)
    out = Terminal(width)
    shown = io.StringIO()
    with redirect_stdout(shown):
        show_results(out, results)
        scores = compare_scores({model.name: model.tasks for model in all_models(results)})
        show_tasks(out, scores, results)
    return shown.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_an_evaluation_of_14_models_is_legible(width: int) -> None:
    text = evaluation_text(width)
    assert text == (GOLDEN / f"terminal_evaluation_{width}.txt").read_text("utf-8")
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < MOST_LINES
    for name in ("UD-Q8_K_XL", "IQ1_S", "Q3_K_M", "26.0 (chance)"):
        assert name in text
    assert "0.812300 ± 0.009026" in " ".join(text.split())


cells = st.text(st.sampled_from("abc-_. 0123"), max_size=30).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(
        st.lists(
            st.builds(
                Column,
                st.sampled_from(["model", "Size (GiB)", "95 % interval"]),
                right=st.booleans(),
                wraps=st.booleans(),
                drop=st.integers(0, 3),
            ),
            min_size=1,
            max_size=6,
        )
    )
    n = len(columns)
    rows = draw(st.lists(st.tuples(*[cells] * n), min_size=1, max_size=5))
    footer = draw(st.one_of(st.just(()), st.tuples(*[cells] * n)))
    return Table(tuple(columns), rows, footer, title="A title", notes=("a note in words",))


@given(tables(), st.integers(20, 120))
def test_no_line_is_wider_than_the_terminal(table: Table, width: int) -> None:
    assert all(len(line.text) <= width for line in terminal_lines(table, width))


@given(tables(), st.integers(20, 120))
def test_what_is_shown_is_shown_whole(table: Table, width: int) -> None:
    """Every character of every cell of a column that is never left out."""
    shown = "".join(
        line.text
        for line in terminal_lines(table, width)
        if line.kind in (LineKind.ROW, LineKind.FOOTER, LineKind.HEADING)
    )
    for i, column in enumerate(table.columns):
        if not column.drop:
            wanted = "".join(row[i] for row in table.rows).replace(" ", "")
            assert all(shown.count(char) >= wanted.count(char) for char in set(wanted))


def test_columns_go_by_their_priority_and_are_named() -> None:
    columns = (Column("model"), Column("a", drop=1), Column("b", drop=3), Column("c", drop=2))
    rows = [("x" * 10, "1" * 10, "2" * 10, "same"), ("y" * 10, "3" * 10, "4" * 10, "same")]
    texts = {
        width: [line.text for line in terminal_lines(Table(columns, rows), width)]
        for width in (40, 30, 22, 20)
    }
    assert [lines[0].split() for lines in texts.values()] == [
        ["model", "a", "b", "c"],
        ["model", "a", "c"],
        ["model", "a"],
        ["model"],
    ]
    assert texts[30][-1] == "Not shown at this width: b."[:30]
    assert " ".join(texts[22][-3:]) == "In every row: c same. Not shown at this width: b."


def test_a_column_without_anything_in_it_is_not_missed() -> None:
    columns = (Column("a"), Column("b", drop=1), Column("c", drop=1))
    table = Table(columns, [("x" * 9, "", "y" * 9), ("z", "", "w")])
    lines = [line.text for line in terminal_lines(table, 12)]
    assert " ".join(lines).endswith("Not shown at this width: c.")
    assert not any("In every row" in line for line in lines)


def test_rows_become_blocks_where_no_column_may_go() -> None:
    columns = (Column("model"), Column("size"), Column("KLD mean"))
    table = Table(columns, [("a" * 18, "1" * 15, "0.25")])
    assert [line.text for line in terminal_lines(table, 20)] == [
        "a" * 18,
        "  size:",
        f"  {'1' * 15}",
        "  KLD mean: 0.25",
    ]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("APEX-I-Balanced", 12, ["APEX-I-", "Balanced"]),
        ("APEX-I-Balanced", 15, ["APEX-I-Balanced"]),
        ("not distinguishable", 15, ["not", "distinguishable"]),
        ("0.002500 ± 0.000028", 12, ["0.002500 ±", "0.000028"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("", 4, [""]),
    ],
)
def test_names_break_after_separators_and_text_between_words(
    text: str, width: int, lines: list[str]
) -> None:
    assert wrap(text, width) == lines


def test_a_pipe_gets_every_column() -> None:
    columns = (Column("model", wraps=True), Column("x", right=True, drop=1))
    lines = plain_lines(Table(columns, [("m" * 90, "1")]))
    assert [line.text for line in lines] == [f"model{' ' * 85}  x", f"{'m' * 90}  1"]


def main() -> None:
    for width in WIDTHS:
        path = GOLDEN / f"terminal_evaluation_{width}.txt"
        path.write_text(evaluation_text(width), "utf-8")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-0.0471, -0.06092, -0.032), ("-0.0471", "-0.0609 to -0.0320")),
        ((-0.00614, -0.054, 0.0372), ("-0.0061", "-0.0540 to +0.0372")),
        ((12.3456, 1.5, 101.0), ("+12", "+2 to +101")),
        ((2e-8, -1e-9, 3e-8), ("+2.00e-08", "-1.00e-09 to +3.00e-08")),
        ((0.25, None, None), ("+0.250", "—")),
        ((0.0, 0.0, 0.0), ("+0.00", "+0.00 to +0.00")),
    ],
)
def test_a_difference_and_its_interval_have_the_same_decimals(
    values: tuple[float, float | None, float | None], expected: tuple[str, str]
) -> None:
    assert _with_interval(*values) == expected


def test_paragraphs_of_help_are_broken_by_the_terminal_alone() -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(verbs) > 15
    for name, verb in verbs.items():
        assert verb.help, name
        assert not re.search(r"[^\n]\n[^\n]", verb.help), name


if __name__ == "__main__":
    main()
