"""The command line as a person meets it: help, plans, exit codes, errors without tracebacks.

A whole run, and what needs no torch, is asked of real processes; the rest of `main` in this one.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

WriteRun = Callable[..., Path]
CommandLine = Callable[..., tuple[int, str]]
SCRIPT = str(Path(sysconfig.get_path("scripts"), "lrt-dist"))
NEXT = "=== next ==="
WITHOUT_RAY = f"""
import sys
sys.modules["ray"] = None  # importing it is an error
from lrt_dist.cli import main
run_file, out = sys.argv[1:]
for command in (["run", run_file, "--out", out],) * 2 + (["status", out],):
    sys.argv[1:] = command
    print("{NEXT}", file=sys.stderr)
    try:
        main()
    except SystemExit as leaving:
        if leaving.code:
            raise
"""


def process(*command: str) -> tuple[int, str]:
    """The exit code and the output of a real process, as the fixture `lrt_dist` returns them."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_help_teaches() -> None:
    code, text = process(SCRIPT, "--help")
    assert code == 0
    for word in ("demo", "run", "index", "extract", "fit", "evaluate", "report", "plan", "status",
                 "verify", "Exit codes"):  # fmt: skip
        assert word in text
    code, text = process(SCRIPT, "run", "--help")
    assert code == 0
    assert "--set" in text
    assert "--out" in text


@pytest.mark.parametrize(("command", "extra"), [("demo", "demo"), ("submit", "cluster")])
def test_help_names_the_extra_that_is_needed(
    command: str, extra: str, lrt_dist: Callable[..., tuple[int, str]]
) -> None:
    """Square brackets are markup to the terminal, unless they are escaped."""
    code, text = lrt_dist(command, "--help")
    assert code == 0
    assert f"pip install 'lrt-dist[{extra}]'" in text


def test_a_whole_run_and_a_second_one_without_ray(write_run: WriteRun, tmp_path: Path) -> None:
    """The serial runtime works where Ray cannot even be imported."""
    out = tmp_path / "out"
    code, text = process(sys.executable, "-c", WITHOUT_RAY, str(write_run()), str(out))
    assert code == 0, text
    assert "mood" in text
    assert text.count("report.html") == 2
    assert (out / "report.html").is_file()
    _, first, second, _ = text.split(NEXT)
    assert '"extract' in first
    assert '"extract' not in second
    assert "fits: done" in text


def test_the_script_does_what_main_does_here(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """So that what the other tests see of `main` in this process holds at a terminal."""
    out = str(tmp_path / "out")
    assert lrt_dist("index", str(write_run()), "--out", out)[0] == 0
    for code, arguments in (
        (0, ("--help",)),
        (2, ("status", str(tmp_path / "elsewhere"))),
        (2, ("run", str(write_run(fit={"fold": 3})), "--out", out)),
        (3, ("status", out)),
    ):
        seen = process(SCRIPT, *arguments)
        assert seen[0] == code, seen
        assert lrt_dist(*arguments) == seen


def test_plan_starts_nothing(write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine) -> None:
    code, text = lrt_dist("plan", str(write_run()), "--out", str(tmp_path / "out"))
    assert code == 0, text
    assert "about" in text
    assert "4 pairs of layers" in text
    # 3 dev items under 8 vectors and 2 strengths, 3 test items under 1 + 2 · 2 + 2 · 4 conditions
    assert "6 run forward and back, 87 passes under steering" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"fit": {"fold": 3}}, "unknown key 'fold'; did you mean 'folds'?"),
        ({"extract": {"rows_per_unit": 0}}, "extract.rows_per_unit"),
        ({"source": {"model": "./nowhere"}}, "no model at"),
        ({"corpus": {"paths": ["nothing-*.txt"]}}, "no file matches"),
        ({"cluster": {"address": "serial", "stages": 9}}, "cannot be cut into 9 stages"),
        ({"fit": {"pairs": [[0, 0]]}}, "0→0 is not among"),
        ({"concepts": [{"name": "x", "data": "none.jsonl"}]}, "no contrast data at 1 of"),
        ({"fit": {"method": "afine"}}, "no fit method is called 'afine'; did you mean 'affine'?"),
    ],
)
def test_wrong_input_is_exit_2(
    write_run: WriteRun,
    tmp_path: Path,
    lrt_dist: CommandLine,
    sections: dict[str, object],
    message: str,
) -> None:
    code, text = lrt_dist("run", str(write_run(**sections)), "--out", str(tmp_path / "out"))
    assert code == 2, text
    assert message in text
    assert not list((tmp_path / "out").glob("activations/**/unit-*.json")), "something was started"


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    assert process(SCRIPT, "run")[0] == 2
    assert process(SCRIPT, "walk")[0] == 2
    code, text = process(SCRIPT, "run", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "cannot read" in text


def test_a_layer_out_of_range_says_how_many_there_are(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_run(source={"model": str(tiny_source), "layers": [17]})
    code, text = lrt_dist("run", str(run_file), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "source.layers: 17 is out of range" in text
    assert "has 4 layers, 0 … 3" in text


def test_a_model_without_a_tokenizer(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path, lrt_dist: CommandLine
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_source / name).read_bytes())
    run_file = write_run(source={"model": str(bare), "layers": [1]})
    code, text = lrt_dist("run", str(run_file), "--out", str(tmp_path / "out"))
    assert code == 2, text
    assert "has no tokenizer that loads" in text


def test_a_corrected_run_is_taken_in_the_same_directory(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path, lrt_dist: CommandLine
) -> None:
    out = ("--out", str(tmp_path / "out"))
    wrong = write_run(source={"model": str(tiny_source), "layers": [17]})
    assert lrt_dist("index", str(wrong), *out)[0] == 2
    assert lrt_dist("index", str(write_run()), *out)[0] == 0


def test_another_runs_directory(write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine) -> None:
    run_file = write_run()
    for command in ("index", "extract"):
        assert lrt_dist(command, str(run_file), "--out", str(tmp_path / "out"))[0] == 0
    changed = ("index", str(run_file), "--out", str(tmp_path / "out"), "--set", "sites.seed=3")
    code, text = lrt_dist(*changed)
    assert code == 2
    assert "sites.seed: 0 -> 3" in text


def test_steps_in_the_wrong_order(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file, out = str(write_run()), str(tmp_path / "out")
    code, text = lrt_dist("fit", run_file, "--out", out)
    assert code == 2
    assert "run `lrt-dist index` first" in text
    assert lrt_dist("index", run_file, "--out", out)[0] == 0
    code, text = lrt_dist("fit", run_file, "--out", out)
    assert code == 3
    assert "are missing; run `lrt-dist extract`" in text
    code, text = lrt_dist("report", run_file, "--out", out)
    assert code == 3
    assert "run `lrt-dist fit` first" in text
    assert lrt_dist("extract", run_file, "--out", out)[0] == 0
    code, text = lrt_dist("evaluate", run_file, "--out", out)
    assert code == 3
    assert "run `lrt-dist fit` first" in text
    assert not list((tmp_path / "out").rglob("maps"))


def test_an_empty_run_file_says_how_to_start(tmp_path: Path, lrt_dist: CommandLine) -> None:
    run_file = tmp_path / "RUN.yaml"
    run_file.write_text("# nothing yet\n")
    code, text = lrt_dist("run", str(run_file), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "RUN.yaml is empty" in text
    assert "lrt-dist init" in text
    assert not (tmp_path / "out").exists()


def test_status_of_nothing(tmp_path: Path) -> None:
    code, text = process(SCRIPT, "status", str(tmp_path))
    assert code == 2
    assert "holds no run" in text
