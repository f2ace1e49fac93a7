"""Recipes: what ships, what a file may say, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_native.corpus import Recipe, load_recipe, parse_recipe, recipe_names
from apex_native.corpus.source_specs import BuiltinSpec, FilesSpec, HubSpec, SelfSpec
from apex_native.errors import CorpusError
from corpus_tools import recipe_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"

BUILTIN = '[[source]]\nkind = "builtin"\ntopic = "tools"\n'


def test_what_ships() -> None:
    assert recipe_names() == ("chat", "code", "diverse", "diverse-self", "self")
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert sum(domain.share for domain in recipe.domains) == pytest.approx(1)


def test_diverse_has_the_published_shares() -> None:
    recipe = load_recipe("diverse")
    shares = {domain.name: domain.share for domain in recipe.domains}
    assert shares == {"chat": 0.30, "code": 0.25, "reasoning": 0.25, "tools": 0.20}
    assert recipe.tokens == 50_000
    assert not recipe.needs_generation
    assert load_recipe("self").needs_generation


def test_diverse_self_is_diverse_and_free_text() -> None:
    recipe, diverse = load_recipe("diverse-self"), load_recipe("diverse")
    *scaled, free = recipe.domains
    assert recipe.needs_generation
    for domain, whole in zip(scaled, diverse.domains, strict=True):
        assert (domain.name, domain.sources) == (whole.name, whole.sources)
        assert domain.share == pytest.approx(0.7 * whole.share)
    (source,) = free.sources
    assert isinstance(source, SelfSpec)
    assert (source.free, source.temperature, source.top_k, source.top_p) == (True, 1.0, 0, 1.0)


def test_sources_without_a_share_divide_the_rest() -> None:
    recipe = recipe_of(BUILTIN + "share = 0.5\n" + BUILTIN + BUILTIN)
    assert [source.share for source in recipe.domains[0].sources] == [0.5, 0.25, 0.25]


def test_every_kind_is_read() -> None:
    recipe = recipe_of(
        BUILTIN
        + '[[source]]\nkind = "files"\npaths = ["a", "b/*.md"]\nfield = "body"\n'
        + f'[[source]]\nkind = "hub"\nrepo = "o/n"\nrevision = "{COMMIT}"\nfiles = ["*.jsonl"]\n'
        'messages = "turns"\ntools = "functions"\n'
        + '[[source]]\nkind = "self"\nprompts = ["Hi"]\nn_predict = 9\ntemperature = 0\n'
    )
    builtin, files, hub, self_ = recipe.domains[0].sources
    assert isinstance(builtin, BuiltinSpec)
    assert isinstance(files, FilesSpec)
    assert files.paths == ("a", "b/*.md")
    assert files.fields.text == "body"
    assert isinstance(hub, HubSpec)
    assert (hub.fields.messages, hub.fields.tools) == ("turns", "functions")
    assert isinstance(self_, SelfSpec)
    assert (self_.n_predict, self_.temperature, self_.top_k) == (9, 0.0, 40)


def test_the_written_form_is_a_recipe_again() -> None:
    first = load_recipe("diverse").to_dict()
    assert first["domains"]["code"]["sources"][0]["kind"] == "builtin"
    assert first["schema_version"] == 1
    assert load_recipe("diverse").sha256 == load_recipe("diverse").sha256
    assert load_recipe("diverse").sha256 != load_recipe("diverse").with_options(seed=2).sha256


def test_a_file_knows_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema_version = 1\nname = "mine"\n[domains.a]\nshare = 1\n'
        '[[domains.a.sources]]\nkind = "builtin"\ntopic = "tools"\n'
    )
    assert load_recipe(path).folder == tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divers", "unknown recipe 'divers'; did you mean diverse"),
        ("xyz", "unknown recipe 'xyz'; known: chat, code, diverse, diverse-self, self, or a path"),
        ("no/such.toml", r"recipe no/such\.toml: No such file"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_recipe(name)


def test_a_recipe_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(CorpusError, match="not UTF-8 at byte 8"):
        load_recipe(tmp_path / "r.toml")


DOMAIN = "[domains.all]\nshare = 1\n[[domains.all.sources]]\n"
TOOLS = DOMAIN + 'kind = "builtin"\ntopic = "tools"\n'
HEAD = 'schema_version = 1\nname = "t"\n'

WRONG = [
    ("[", "must be TOML"),
    ("name = 't'", "schema_version is missing"),
    ("schema_version = 2\nname = 't'", "schema_version must be 1, found 2"),
    ("schema_version = true", "schema_version must be a whole number from 0 on, found True"),
    (HEAD, "domains is missing"),
    (HEAD + "domains = 3", "domains must be a table, found 3"),
    (HEAD + "[domains]", "domains must name at least one domain"),
    (HEAD + "domains.a = 3", r"domains\.a must be a table, found 3"),
    (HEAD + "tokens = 0\n" + TOOLS, "tokens must be a whole number from 1 on, found 0"),
    (HEAD + "tokens = 1.5\n" + TOOLS, "tokens must be a whole number from 1 on, found 1.5"),
    (HEAD + "seed = -1\n" + TOOLS, "seed must be a whole number from 0 on, found -1"),
    (HEAD + "sed = 1\n" + TOOLS, "sed is no known key; did you mean 'seed'"),
    (HEAD + "max_similarity = nan\n" + TOOLS, "max_similarity must be a number from 0.05 to 2"),
    (HEAD + "allow_short = 1\n" + TOOLS, "allow_short must be true or false, found 1"),
    (HEAD + 'chat_template = "x"\n' + TOOLS, "chat_template must be one of model, plain"),
    (HEAD + "description = 3\n" + TOOLS, "description must be a text, found 3"),
    (HEAD + "[domains.all]\nshare = 1", r"domains\.all\.sources is missing"),
    (HEAD + "[domains.all]\nshare = 1\nsources = []", r"domains\.all\.sources must not be empty"),
    (HEAD + "[domains.all]\nshare = 1\nsources = [3]", "sources must be a list of tables"),
    (HEAD + TOOLS.replace("share = 1", "share = 0.9"), "shares that add up to 1, found 0.9"),
    (HEAD + TOOLS.replace("share = 1", "share = 1.1"), r"domains\.all\.share must be a number"),
    (HEAD + TOOLS + "share = 0.7", r"domains\.all\.sources must have shares that add up to 1"),
    (HEAD + DOMAIN + 'kind = "web"', r"sources\[0\]\.kind must be one of builtin, files, hub"),
    (HEAD + DOMAIN + 'kind = "builtin"', r"sources\[0\]\.topic is missing"),
    (HEAD + DOMAIN + 'kind = "builtin"\ntopic = "tool"', r"topic is unknown: .*mean tools"),
    (HEAD + TOOLS + "paths = ['a']", r"sources\[0\]\.paths is no known key"),
    (HEAD + DOMAIN + 'kind = "files"\npaths = "a"', "paths must be a list of texts, found 'a'"),
    (HEAD + DOMAIN + 'kind = "files"\npaths = []', "paths must not be empty"),
    (HEAD + DOMAIN + 'kind = "files"\npaths = ["a"]\nformat = "csv"', "format must be one of auto"),
    (HEAD + DOMAIN + 'kind = "files"\npaths = ["a"]\nsuffixes = ["py"]', "begin with a dot"),
    (
        HEAD + DOMAIN + 'kind = "files"\npaths = ["a"]\nfield = "a"\nmessages = "b"',
        "messages stands beside 'field'",
    ),
    (HEAD + DOMAIN + 'kind = "hub"\nrepo = "o/n"\nfiles = ["*"]', "revision is missing"),
    (
        HEAD + DOMAIN + 'kind = "hub"\nrepo = "o/n"\nfiles = ["*"]\nrevision = "main"',
        "revision must be a commit of 40 hexadecimal digits, found 'main'",
    ),
    (
        HEAD + DOMAIN + f'kind = "hub"\nrepo = "o/n"\nfiles = ["*"]\nrevision = "{COMMIT[:12]}"',
        "revision must be a commit of 40",
    ),
    (HEAD + DOMAIN + 'kind = "self"', "topic or 'prompts' must be given"),
    (HEAD + DOMAIN + 'kind = "self"\nfree = false', "topic or 'prompts' must be given"),
    (HEAD + DOMAIN + 'kind = "self"\nfree = 1', "free must be true or false, found 1"),
    (HEAD + DOMAIN + 'kind = "self"\nfree = true\nprompts = ["a"]', "prompts stands beside 'free'"),
    (HEAD + DOMAIN + 'kind = "self"\nfree = true\nsystem = "a"', "system stands beside 'free'"),
    (HEAD + DOMAIN + 'kind = "self"\nprompts = ["a"]\nn_predict = 0', "n_predict must be"),
    (HEAD + DOMAIN + 'kind = "self"\nprompts = ["a"]\ntop_p = 2', "top_p must be a number from 0"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_recipe_is_told_where(text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        parse_recipe(text, origin="wrong.toml")
    assert str(caught.value).startswith("recipe wrong.toml: ")


def test_sources_may_not_leave_others_nothing() -> None:
    with pytest.raises(CorpusError, match=r"domains\.all\.sources leave nothing for those without"):
        recipe_of(BUILTIN + "share = 1.0\n" + BUILTIN)


def test_options_are_checked() -> None:
    recipe = load_recipe("diverse")
    changed: Recipe = recipe.with_options(tokens=7, seed=0, allow_short=True)
    assert (changed.tokens, changed.seed, changed.allow_short) == (7, 0, True)
    assert recipe.with_options() == recipe
    with pytest.raises(CorpusError, match="tokens must be 1 or more, found 0"):
        recipe.with_options(tokens=0)
    with pytest.raises(CorpusError, match="seed must be 0 or more, found -1"):
        recipe.with_options(seed=-1)
