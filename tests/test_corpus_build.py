"""Texts built from recipes: shares, seeds, duplicates, order, manifests, what is not enough."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from apex_native.corpus import (
    SHARE_TOLERANCE,
    Corpus,
    CorpusProgress,
    build_corpus,
    load_corpus,
    load_recipe,
    manifest_path,
    recipe_names,
)
from apex_native.corpus.duplicates import NearDuplicates
from apex_native.errors import CorpusError, OutputError
from corpus_tools import CHATML, WordTokenizer, built_from_files, prose, recipe_of

TOOLS = '[[source]]\nkind = "builtin"\ntopic = "tools"\n'


def build(name: str = "diverse", *, template: str | None = CHATML, **options: int) -> Corpus:
    return build_corpus(name, WordTokenizer(template), **options)


# --- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in recipe_names() if not load_recipe(n).needs_generation])
@pytest.mark.parametrize("tokens", [10_000, 50_000])
def test_shares_are_met(name: str, tokens: int) -> None:
    corpus = build(name, tokens=tokens)
    tokenizer = WordTokenizer()
    counted = len(tokenizer.tokenize(corpus.text, add_special=False, parse_special=True))
    assert corpus.n_tokens == counted
    assert abs(counted / tokens - 1) < SHARE_TOLERANCE
    for domain in corpus.manifest["domains"]:
        assert abs(domain["share"] - domain["share_wanted"]) < SHARE_TOLERANCE
    assert corpus.warnings == ()


def test_the_manifest_adds_up() -> None:
    corpus = build(tokens=20_000)
    domains = corpus.manifest["domains"]
    assert sum(domain["share"] for domain in domains) == pytest.approx(1)
    for domain in domains:
        assert domain["tokens"] == sum(source["tokens"] for source in domain["sources"])
        assert sum(source["share"] for source in domain["sources"]) == pytest.approx(1)
    # One tokenizer counts documents and the whole; here no token spans two documents.
    assert sum(domain["tokens"] for domain in domains) == corpus.n_tokens
    assert sum(d["documents"] for d in domains) == corpus.manifest["text"]["documents"]


def test_every_beginning_is_diverse() -> None:
    corpus = build(tokens=50_000)
    tenth = corpus.text[: len(corpus.text) // 10]
    # What each domain leaves in a text: turns, code, worked steps, tool results.
    for mark in ("<|im_start|>user", "return", " = ", "<|im_start|>tool", "¿"):
        assert tenth.count(mark) > 0.03 * corpus.text.count(mark), mark


# --- seeds --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = build(tokens=9000, seed=5), build(tokens=9000, seed=5)
    assert first.text == second.text
    assert first.manifest == second.manifest
    assert json.dumps(first.manifest) == json.dumps(second.manifest)


def test_another_seed_gives_another_text() -> None:
    texts = {build(tokens=9000, seed=seed).text for seed in range(4)}
    assert len(texts) == 4


def test_the_text_of_seed_1_is_what_it_was() -> None:
    # Guards against text that depends on the machine, the Python version or the order of a set.
    # It changes with the built-in text; then take the new value over.
    text = build(tokens=6000, seed=1).text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "24d236035caaaa31"


# --- duplicates ---------------------------------------------------------------------------------


def test_near_duplicates_are_dropped(tmp_path: Path) -> None:
    original = prose(200, seed=1).split()
    rows = []
    for changed in (0, 5, 20, 60, 120):
        words = list(original)
        words[:changed] = prose(changed, seed=2 + changed).split()
        rows.append({"text": " ".join(words)})
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = 'paths = ["r.jsonl"]'
    # Similarities with the original: 1, 0.975, 0.9, 0.7 and 0.4; between the last two 0.4.
    for limit, documents in ((0.95, 4), (0.8, 3), (0.5, 2), (1.5, 5)):
        corpus = built_from_files(tmp_path, 9999, keys, allow_short=True, max_similarity=limit)
        n = corpus.manifest["text"]["documents"]
        assert n == pytest.approx(documents, abs=1)
        assert corpus.manifest["dropped_duplicates"] == 5 - n
    exact = built_from_files(tmp_path, 9999, keys, allow_short=True, max_similarity=1)
    assert exact.manifest["text"]["documents"] == 5


def similarity(left: str, right: str) -> float:
    """2·LCS/(n + m) by the textbook's table."""
    a, b = left.split(), right.split()
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b):
            diagonal, row[j + 1] = (
                row[j + 1],
                diagonal + 1 if x == y else max(row[j], row[j + 1]),
            )
    return 2 * row[-1] / (len(a) + len(b))


def test_similarity_is_that_of_the_longest_common_subsequence() -> None:
    base = prose(60, seed=1)
    for n in range(0, 60, 7):
        words = base.split()
        del words[n : n + 9]
        words[n:n] = prose(n, seed=n + 2).split()
        other = " ".join(words)
        exact = similarity(base, other)
        for limit, expected in ((exact - 1e-6, True), (exact + 1e-6, False)):
            known = NearDuplicates(limit)
            known.add(base)
            assert known.is_known(other) is expected


def test_a_document_of_two_domains_comes_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(300, seed=1))
    body = '[[source]]\nkind = "files"\npaths = ["a.txt"]\n'
    recipe = recipe_of(body + body, tmp_path, allow_short=True)
    corpus = build_corpus(recipe, WordTokenizer(), tokens=5000)
    assert corpus.manifest["dropped_duplicates"] == 1
    assert corpus.manifest["text"]["documents"] == 1


# --- not enough ---------------------------------------------------------------------------------


def test_too_little_text_is_an_error_with_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(100, seed=1))
    with pytest.raises(CorpusError, match=r"domain all: 20\d tokens, wanted 5,000") as caught:
        built_from_files(tmp_path, 5000, 'paths = ["a.txt"]')
    assert "gave 20" in str(caught.value)
    assert "there is no more" in str(caught.value)
    assert "allow_short" in str(caught.value)


def test_or_a_warning_with_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(100, seed=1))
    corpus = built_from_files(tmp_path, 5000, 'paths = ["a.txt"]', allow_short=True)
    assert any("wanted 5,000" in warning for warning in corpus.warnings)
    assert corpus.manifest["domains"][0]["sources"][0]["exhausted"] == "there is no more"


def test_a_budget_smaller_than_any_document() -> None:
    with pytest.raises(
        CorpusError, match=r"no text at all: .* the shortest of its documents has \d+, "
    ):
        build_corpus(recipe_of(TOOLS), WordTokenizer(), tokens=20)


def test_a_template_that_refuses_every_conversation() -> None:
    refuses = (
        "{% for m in messages %}{% if loop.index > 2 %}{{ raise_exception('too long') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(CorpusError, match=r"the chat template raised: too long"):
        build_corpus(recipe_of(TOOLS), WordTokenizer(refuses), tokens=2000)


def test_a_source_that_generates_needs_a_model() -> None:
    recipe = recipe_of('[[source]]\nkind = "self"\nprompts = ["Hi"]\n')
    with pytest.raises(CorpusError, match="a model that generates is needed, found WordTokenizer"):
        build_corpus(recipe, WordTokenizer())


# --- templates, progress, files -----------------------------------------------------------------


def test_without_a_template_the_plain_layout_is_used_and_said() -> None:
    corpus = build(template=None, tokens=6000)
    assert corpus.manifest["chat_template"] == {
        "used": "plain",
        "sha256": None,
        "notes": [],
    }
    assert "\n\nAssistant: " in corpus.text
    assert "<|im_start|>" not in corpus.text


def test_the_manifest_names_the_template_and_parses_special_tokens() -> None:
    manifest = build(tokens=6000).manifest
    assert manifest["chat_template"]["used"] == "model"
    assert manifest["chat_template"]["sha256"] == hashlib.sha256(CHATML.encode()).hexdigest()
    assert manifest["parse_special"] is True
    assert manifest["tokenizer"]["fingerprint"] == WordTokenizer().fingerprint
    assert manifest["recipe"] == load_recipe("diverse").with_options(tokens=6000).to_dict()


def test_progress_comes_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_native.corpus.build._PROGRESS_EVERY_S", 0.0)
    seen: list[CorpusProgress] = []
    corpus = build_corpus("diverse", WordTokenizer(), tokens=5000, progress=seen.append)
    done = [progress.tokens_done for progress in seen]
    assert done == sorted(done)
    assert done[-1] == corpus.n_tokens
    assert (seen[-1].share, seen[-1].state.rpartition(", ")[2]) == (
        1.0,
        f"{corpus.manifest['text']['documents']} documents",
    )
    assert {progress.source.split(":")[0] for progress in seen[:-1]} == {
        "chat",
        "code",
        "reasoning",
        "tools",
    }
    assert CorpusProgress(0, 10, "", 1.0).eta_s is None
    assert CorpusProgress(5, 20, "", 2.0).eta_s == 6.0


def test_saved_and_loaded(tmp_path: Path) -> None:
    corpus = build(tokens=5000)
    path = tmp_path / "c.txt"
    corpus.save(path)
    assert {p.name for p in tmp_path.iterdir()} == {"c.txt", "c.txt.manifest.json"}
    assert path.read_text("utf-8") == corpus.text
    assert load_corpus(path) == corpus
    assert hashlib.sha256(path.read_bytes()).hexdigest() == corpus.manifest["text"]["sha256"]


def test_a_changed_text_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    build(tokens=5000).save(path)
    path.write_text(path.read_text() + "x")
    with pytest.raises(CorpusError, match="was changed after it was built: sha256"):
        load_corpus(path)
    manifest_path(path).write_text("[]")
    with pytest.raises(CorpusError, match="is no manifest"):
        load_corpus(path)
    manifest_path(path).write_text('{"schema_version": 9, "text": {"sha256": ""}}')
    with pytest.raises(CorpusError, match="schema version 9, expected 1"):
        load_corpus(path)
    manifest_path(path).unlink()
    with pytest.raises(CorpusError, match="No such file"):
        load_corpus(path)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "c.txt.manifest.json").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        build(tokens=5000).save(tmp_path / "c.txt")
    assert not list(tmp_path.glob("*.tmp"))
