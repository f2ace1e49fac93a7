"""The report as a page: opened in a real browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.reports.html import Beside, html_text
from cli_tools import invoke
from results_data import evaluation

pytest.importorskip("plotly", reason="its script is in the page")

LIMIT = 5_000_000
FIGURES = ["size", "confidence", "position", "router", "verdicts", "tasks", "speed"]
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome")
     if (found := shutil.which(name)) is not None), None,
)  # fmt: skip


def manifest(n_layer: int) -> dict[str, object]:
    roles = ("expert_gate", "expert_down", "attention", "norm")
    tensors = [
        {"name": f"{role}.{layer}", "role": role, "layer": layer, "shape": [256, 256],
         "type": "Q6_K", "bytes": 256 * 210}
        for layer in range(n_layer) for role in roles
    ]  # fmt: skip
    return {"files": ["model.gguf"], "tensors": tensors}


def large() -> tuple[apex.Results, Beside]:
    """13 models, 40 layers of 256 experts."""
    counts = [[(layer * 37 + expert * 11) % 900 for expert in range(256)] for layer in range(40)]
    coverage = {"layers": [{"layer": i, "tokens": row} for i, row in enumerate(counts)]}
    return evaluation(13), Beside({"model.gguf": manifest(40)}, coverage)


def figures_in(text: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_everything_is_in_one_small_file_that_asks_for_no_other() -> None:
    results, beside = large()
    text = html_text(results, title="A <b> & B", beside=beside)
    assert len(text.encode()) < LIMIT
    assert "A &lt;b&gt; &amp; B" in text
    assert "{{" not in text
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert re.findall(r"(?:src|href)=[\"'](?!#)", outside) == []
    assert "http" not in outside
    assert list(figures_in(text)) == [*FIGURES, "coverage", "types0"]


def test_figures_hold_the_results_numbers() -> None:
    results, beside = large()
    figures = figures_in(html_text(results, title="t", beside=beside))
    markers = [t for t in figures["size"]["data"] if t["mode"] == "markers"]
    points = {(x, y) for trace in markers for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert points == {((c.bytes or 0) / 2**30, c.kld_mean) for c in results.candidates}
    axis = figures["size"]["layout"]["yaxis"]
    assert [float(text) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"])
    (matrix,) = figures["verdicts"]["data"]
    names = matrix["y"]
    assert len(names) == 13
    for i in range(13):
        for j in range(13):
            value, mirrored = matrix["z"][i][j], matrix["z"][j][i]
            assert value == (None if mirrored is None else -mirrored)
    (router,) = figures["router"]["data"]
    assert [len(row) for row in router["z"]] == [40] * 13
    (coverage,) = figures["coverage"]["data"]
    assert coverage["customdata"] == [row["tokens"] for row in beside.coverage["layers"]]  # type: ignore[index]
    (types,) = figures["types0"]["data"]
    assert {value for row in types["z"] for value in row} == {8 * 210 / 256}


def test_what_was_not_measured_is_not_shown() -> None:
    results = evaluation(2)
    bare = [
        replace(c, kld_by_confidence=(), router_agreement=(), tasks=(), speed=(), chunks=None)
        for c in results.candidates
    ]
    text = html_text(replace(results, candidates=tuple(bare), comparisons=()), title="t")
    assert list(figures_in(text)) == ["size"]


def shown_by_browser(page: Path, text: str, *, dark: bool = False) -> str:
    """The page's elements after its scripts ran; nothing is fetched."""
    assert BROWSER is not None
    page.write_text(text, "utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    options += ["--window-size=1200,900", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += [f"--user-data-dir={page.parent / 'profile'}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    shown = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-1000:]
    assert 'data-ready="yes"' in shown.stdout, shown.stderr[-1000:]
    return shown.stdout


needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_every_figure(tmp_path: Path, dark: bool) -> None:
    results, beside = large()
    text = html_text(results, title="t", beside=beside)
    shown = shown_by_browser(tmp_path / "report.html", text, dark=dark)
    assert f'data-theme="{"dark" if dark else "light"}"' in shown
    for name in [*FIGURES, "coverage", "types0"]:
        drawn = re.search(rf'id="{name}-plot"(.*?)</section>', shown, re.S)
        assert drawn is not None
        assert 'class="main-svg"' in drawn[1], name
    # Every model has its name at the axis of the verdicts: none was left out for lack of room.
    ticks = re.search(r'id="verdicts-plot"(.*?)</section>', shown, re.S)
    assert ticks is not None
    assert len(re.findall(r'class="ytick"', ticks[1])) == 13


ASKING = """<script>
const pause = ms => new Promise(done => setTimeout(done, ms));
const box = element => element.getBoundingClientRect();

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

async function press(plot, ...keys) {
  for (const key of keys) {
    plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    await pause(200);
  }
  return document.getElementById(plot.id.replace("-plot", "-point")).textContent;
}

async function ask() {
  while (root.dataset.ready !== "yes") await pause(50);
  const size = document.getElementById("size-plot");
  const cells = document.getElementById("coverage-plot");
  const labels = [...size.querySelectorAll(".textpoint text")].map(box);
  const points = [...size.querySelectorAll("path.point")];
  const found = {
    labels: labels.length,
    points: points.filter(point => box(point).width > 8).length,
    collisions: labels.flatMap((a, i) => labels.slice(i + 1).filter(b => overlap(a, b))).length,
    first: await press(size, "ArrowRight"),
    second: await press(size, "ArrowRight"),
    cell: await press(cells, "ArrowRight", "ArrowDown", "ArrowRight"),
    left: await press(cells, "Escape"),
    cellWidth: box(cells.querySelector(".heatmaplayer image")).width / 256,
  };
  const result = document.createElement("output");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}
ask();
</script>"""


@pytest.mark.slow
@needs_browser
def test_labels_do_not_collide_and_keys_go_from_point_to_point(tmp_path: Path) -> None:
    results, beside = large()
    text = html_text(results, title="t", beside=beside).replace("</body>", f"{ASKING}</body>")
    shown = shown_by_browser(tmp_path / "report.html", text)
    answer = re.search(r'<output id="found">(.*?)</output>', shown)
    assert answer is not None
    found = json.loads(html.unescape(answer[1]))
    assert (found["labels"], found["points"], found["collisions"]) == (13, 13, 0)
    assert found["first"].startswith("Qwen3.5-35B-A3B-APEX-")
    assert "APEX tier" in found["first"]
    assert found["second"].startswith("Qwen3.5-35B-A3B-APEX-")
    assert found["second"] != found["first"]
    tokens = beside.coverage["layers"][1]["tokens"][1]  # type: ignore[index]
    assert found["cell"] == f"layer 1, expert 1: {tokens} tokens"
    assert found["left"] == ""
    assert found["cellWidth"] > 3


def test_hover_says_what_a_file_is() -> None:
    results = evaluation(3)
    name = results.candidates[2].name
    made = {**manifest(4), "imatrix_sha256": "0" * 64}
    text = html_text(results, title="t", beside=Beside({name: made}))
    hovers = [h for t in figures_in(text)["size"]["data"] for h in t.get("hovertext", ())]
    (told,) = [hover for hover in hovers if "Q6_K 100%; with an importance matrix" in hover]
    assert told.startswith(f"<b>{name}</b><br>")
    assert f"KLD {results.candidates[2].kld_mean:.5f}" in told


def test_the_command_writes_it_beside_the_report(tmp_path: Path) -> None:
    results = tmp_path / "eval.json"
    evaluation(3).save(results)
    saved = tmp_path / "model.manifest.json"
    saved.write_text(json.dumps(manifest(4)))
    page = tmp_path / "out.html"
    command = ("report", results, "-o", tmp_path / "r", "--format", "md", "--html", page)
    done = invoke(*command, "--manifest", saved)
    assert done.exit_code == 0, done.stderr
    assert f"wrote    {page}" in done.stdout
    assert list(figures_in(page.read_text("utf-8"))) == [*FIGURES, "types0"]
    again = invoke(*command)
    assert again.exit_code == 1
    assert "exists" in again.stderr
    wrong = invoke("report", results, "-o", tmp_path / "x", "--manifest", saved)
    assert "add --html" in wrong.stderr
