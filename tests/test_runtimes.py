"""Quantized files in a runtime that is not ours, asked through its OpenAI-compatible server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from own_log_probs import own_log_probs
from runtime_server import served
from tolerances import RUNTIME_ATOL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp is a test requirement on Linux"),
]

PROMPT = "def add(a, b):\n    return"
N_TOKENS = 6
N_TOP = 5


@pytest.fixture(scope="module", params=["i-balanced", "mini"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / f"{request.param}.gguf"
    matrix = apex.load_imatrix(apex.demo_imatrix())
    plan = apex.make_plan(apex.demo_model(), tier=request.param, imatrix=matrix)
    apex.quantize(apex.demo_model(), plan, path, imatrix=matrix)
    return path


@pytest.fixture(scope="module")
def server(quantized: Path) -> Iterator[str]:
    with served(quantized) as address:
        yield address


def test_the_servers_probabilities_are_ours(quantized: Path, server: str, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    ours = own_log_probs(quantized, tmp_path)
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=120) as client:
        for i in range(0, len(ours.rows), 6):
            prompt = ours.tokens[: ours.first + i + 1].tolist()
            answer = client.completions.create(
                model="any", prompt=prompt, max_tokens=1, temperature=0, logprobs=N_TOP
            )
            (found,) = answer.choices[0].logprobs.content
            theirs = {entry["id"]: entry["logprob"] for entry in found["top_logprobs"]}
            assert len(theirs) == N_TOP
            assert int(ours.rows[i].argmax()) in theirs
            for token, value in theirs.items():
                expected = float(np.exp(ours.rows[i, token]))
                assert np.exp(value) == pytest.approx(expected, abs=RUNTIME_ATOL)


def test_the_server_says_what_our_own_computation_says(quantized: Path, server: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=120) as client:
        answer = client.completions.create(
            model="any", prompt=PROMPT, max_tokens=N_TOKENS, temperature=0, logprobs=1
        )
        talk = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
    with apex.load_model(quantized, n_threads=2) as model:
        prompt = model.tokenize(PROMPT, add_special=True, parse_special=False)
        ours = model.generate(prompt, n_predict=N_TOKENS, temperature=0)
        assert answer.choices[0].text == model.detokenize(ours)
    assert answer.usage.prompt_tokens == len(prompt)
    assert talk.choices[0].message.role == "assistant"
    assert talk.usage.completion_tokens > 0
