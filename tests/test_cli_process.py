"""The command as users run it: a process, its streams, its signals."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.markup import render

from apex_native.cli.app import app
from apex_native.demo import demo_model
from apex_native.plan import load_tier
from apex_native.plan.tier import parse_tier
from cli_tools import (
    command,
    default_interrupt,
    environment,
    n_finished,
    run,
    start,
    write_experts,
    write_imatrix,
)
from stopped_runs import TENSOR_DONE, TENSORS_NOTED, run_stopped

N_LAYERS = 16
"""48 tensors of 1 M weights, 100 MB: seconds of work in a slow type on one thread."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """A quantization with many ticks between its first tensor and its last."""
    folder = tmp_path_factory.mktemp("slow")
    model = write_experts(folder / "model-bf16.gguf", n_layers=N_LAYERS, rows=768)
    imatrix = write_imatrix(folder / "imatrix.gguf", n_layers=N_LAYERS)
    return (
        *("quantize", model, "--type", "IQ2_XS", "--pure", "--imatrix", imatrix),
        *("--threads", "1"),
    )


INTERRUPTED_IMPORT = """
import os, signal, sys

interrupted = sys.argv.pop()

class CtrlC:
    def find_spec(self, name, *_):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from apex_native.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["apex_native.cli.app", "apex_native.cli.sweep"])
def test_ctrl_c_while_python_imports_is_quiet(name: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=default_interrupt,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_options_are_put_together_is_quiet() -> None:
    script = """
import os, signal, typer.main
typer.main.get_command = lambda _: os.kill(os.getpid(), signal.SIGINT)
from apex_native.cli.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=default_interrupt,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_sigterm_that_no_verb_hears_any_more_has_its_own_code() -> None:
    script = """
import os, signal
import apex_native.cli.app as verbs
from apex_native.cli.__main__ import main
from apex_native.cli.termination import heard_as_interrupt

def app(**_):
    with heard_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)

verbs.app = app
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_little_is_imported_before_ctrl_c_is_heard() -> None:
    script = "import sys, apex_native.cli.__main__; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    ours = {name for name in shown.decode().split() if name.partition(".")[0] == "apex_native"}
    own = ("", ".errors", ".cli", ".cli.__main__", ".cli.streams", ".cli.termination")
    assert ours == {f"apex_native{name}" for name in own}


def test_streams_are_kept_apart(tmp_path: Path) -> None:
    result = run("quantize", demo_model(), "--type", "Q8_0", "-o", tmp_path / "q.gguf", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["total_bytes"] == (tmp_path / "q.gguf").stat().st_size
    quiet = run("quantize", demo_model(), "--type", "Q8_0", "-o", tmp_path / "p.gguf", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{tmp_path / 'p.gguf'}\n", "")


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_hinder_no_work_and_spoil_no_file(tmp_path: Path, closed: str) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert run("quantize", demo_model(), "--type", "Q8_0", "-o", whole).returncode == 0
    line = shlex.join(command("quantize", demo_model(), "--type", "Q8_0", "-o", output))
    done = subprocess.run(f"{line} {closed}", shell=True, check=False, env=environment())
    assert done.returncode == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("plan", demo_model()), stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, env=environment(),
        )  # fmt: skip
    assert done.returncode == 1
    sentence = "cannot write to standard output: No space left on device; send it somewhere else"
    assert done.stderr == f"error: {sentence}\n"


def test_warnings_are_not_data() -> None:
    result = run("demo", "--json")
    assert result.returncode == 0
    assert len(json.loads(result.stdout)["rows"]) == 8
    assert "making demo-APEX-Q3_K_M_MINI.gguf" in result.stderr


def test_a_pipe_gets_no_colour_and_no_boxes() -> None:
    for args in (("plan", demo_model(), "--tier", "quality"), ("plan", "--help")):
        text = run(*args).stdout
        assert "\x1b" not in text
        assert not set(text) & set("│─╭╰┃━")


def test_a_stream_that_is_not_unicode_is_no_error() -> None:
    args = ("plan", demo_model(), "--tier", "quality")
    result = run(*args, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 0
    assert "0, 7: Q6_K ? 1, 6: Q5_K ? 2?5: IQ4_XS" in result.stdout


def in_terminal(*args: str | Path, **env: str) -> str:
    """What the command shows in a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*args), stdout=theirs, stderr=theirs, env=environment(TERM="xterm", **env)
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_a_tier_can_be_copied_from_a_terminal() -> None:
    shown = in_terminal("tiers", "compact").replace("\r\n", "\n")
    assert max(len(line) for line in shown.splitlines()) > 80
    assert parse_tier(shown, source="terminal") == load_tier("compact")


def test_a_terminal_gets_colour_unless_it_is_unwanted() -> None:
    args = ("plan", demo_model(), "--tier", "quality")
    assert "\x1b[1m" in in_terminal(*args)
    plain = in_terminal(*args, NO_COLOR="1")
    assert not any(f"\x1b[3{i}" in plain for i in range(8))
    assert "╭" in in_terminal("plan", "--help")
    assert "╭" not in in_terminal("plan", "--help", NO_COLOR="1")


def test_no_help_is_taken_for_markup() -> None:
    """Where help is coloured, brackets would be tags: they vanish, or end in an error."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = [text for verb in verbs.values() for text in (verb.help, verb.epilog, verb.short_help)]
    texts += [getattr(param, "help", None) for verb in verbs.values() for param in verb.params]
    assert len(texts) > 200
    shown = [text.replace("\b", "") for text in texts if text]
    assert [text for text in shown if render(text).plain != text] == []


def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    shown = in_terminal("quantize", demo_model(), "--type", "Q6_K", "-o", tmp_path / "q.gguf")
    assert "writing q.gguf" in shown
    assert "149/149 tensors" in shown
    assert "MB/s" in shown


def test_a_reader_that_leaves_is_no_error() -> None:
    with start("plan", demo_model(), "--tier", "quality", "--explain") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "error" not in errors


def test_help_loads_no_native_code() -> None:
    code = (
        "import sys\nfrom apex_native.cli.__main__ import main\n"
        "sys.argv = ['apex-native', 'quantize', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "loaded = {'apex_native._core', 'rich.table', 'apex_native.demo_run'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert result.returncode == 0, result.stderr


def test_version_names_both_sources() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("apex-native 0.")
    assert "(llama.cpp " in result.stdout


def test_the_default_name_is_in_the_current_folder(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "Tiny-bf16.gguf", n_layers=2, rows=32)
    work = tmp_path / "work"
    work.mkdir()
    result = subprocess.run(
        command("quantize", model, "--type", "Q8_0"),
        cwd=work,
        capture_output=True,
        check=False,
        env=environment(),
    )
    assert result.returncode == 0
    assert {path.name for path in work.iterdir()} == {
        "Tiny-Q8_0.gguf",
        "Tiny-Q8_0.gguf.manifest.json",
    }


@pytest.mark.parametrize(
    ("how", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_stops_and_resume_goes_on(
    job: tuple[str | Path, ...], tmp_path: Path, how: signal.Signals, code: int, word: str
) -> None:
    output = tmp_path / "q.gguf"
    stopped = run_stopped(TENSOR_DONE, *job, "-o", output, how=how, when="args[1]")
    assert stopped.returncode == code
    assert stopped.stdout == ""
    assert "Traceback" not in stopped.stderr
    assert not output.exists()
    done = n_finished(output)
    assert done > 0
    assert f"error: {word}: {done} of {3 * N_LAYERS} tensors are done; go on" in stopped.stderr

    again = run(*job, "-o", output)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    resumed = run(*job, "-o", output, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["resumed_tensors"] == done
    assert {path.name for path in tmp_path.iterdir()} == {"q.gguf", "q.gguf.manifest.json"}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(
    job: tuple[str | Path, ...], tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "killed.gguf"
    killed = run_stopped(TENSORS_NOTED, *job, "-o", output, how=signal.SIGKILL, sync_every_s=0.0)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    done = n_finished(output)
    assert done > 0

    changed = run(*job, "-o", output, "--resume", "--tensor-type", "ffn_up=q8_0")
    assert changed.returncode == 1
    assert "cannot resume" in changed.stderr
    resumed = run(*job, "-o", output, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    uninterrupted = run(*job, "-o", whole, "--json")
    assert uninterrupted.returncode == 0
    assert output.read_bytes() == whole.read_bytes()
    first, second = json.loads(resumed.stdout), json.loads(uninterrupted.stdout)
    assert first["tensors"] == second["tensors"]
    assert (first["resumed_tensors"], second["resumed_tensors"]) == (done, 0)
