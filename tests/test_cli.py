"""The command line as a person meets it: help, plans, exit codes, errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WriteRun = Callable[..., Path]
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from lrt_dist.cli import main; main()"


def lrt_dist(*arguments: str, program: tuple[str, ...] = ("-m", "lrt_dist.cli")) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "Traceback" not in done.stderr, done.stderr
    # a terminal may break lines anywhere between words
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_help_teaches() -> None:
    code, text = lrt_dist("--help")
    assert code == 0
    for word in ("demo", "run", "index", "extract", "fit", "evaluate", "report", "plan", "status",
                 "verify", "Exit codes"):  # fmt: skip
        assert word in text
    code, text = lrt_dist("run", "--help")
    assert code == 0
    assert "--set" in text
    assert "--out" in text


def test_a_whole_run_and_a_second_one_without_ray(write_run: WriteRun, tmp_path: Path) -> None:
    """The serial runtime works where Ray cannot even be imported."""
    arguments = ("run", str(write_run()), "--out", str(tmp_path / "out"))
    code, text = lrt_dist(*arguments, program=("-c", WITHOUT_RAY))
    assert code == 0, text
    assert "mood" in text
    assert "report.html" in text
    report = tmp_path / "out" / "report.html"
    before = report.stat().st_mtime_ns
    code, text = lrt_dist(*arguments, program=("-c", WITHOUT_RAY))
    assert code == 0, text
    assert '"extract' not in text
    assert report.stat().st_mtime_ns >= before
    code, text = lrt_dist("status", str(tmp_path / "out"), program=("-c", WITHOUT_RAY))
    assert code == 0
    assert "fits: there" in text


def test_plan_starts_nothing(write_run: WriteRun, tmp_path: Path) -> None:
    code, text = lrt_dist("plan", str(write_run()), "--out", str(tmp_path / "out"))
    assert code == 0, text
    assert "about" in text
    assert "4 pairs of layers" in text
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
        ({"concepts": [{"name": "x", "data": "none.jsonl"}]}, "no contrast data at"),
    ],
)
def test_wrong_input_is_exit_2(
    write_run: WriteRun, tmp_path: Path, sections: dict[str, object], message: str
) -> None:
    code, text = lrt_dist("run", str(write_run(**sections)), "--out", str(tmp_path / "out"))
    assert code == 2, text
    assert message in text
    assert not list((tmp_path / "out").glob("activations/**/unit-*.json")), "something was started"


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    assert lrt_dist("run")[0] == 2
    assert lrt_dist("walk")[0] == 2
    code, text = lrt_dist("run", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "cannot read" in text


def test_a_layer_out_of_range_says_how_many_there_are(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    run_file = write_run(source={"model": str(tiny_source), "layers": [17]})
    code, text = lrt_dist("run", str(run_file), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "source.layers: 17 is out of range" in text
    assert "has 4 layers, 0 … 3" in text


def test_a_model_without_a_tokenizer(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
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
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    out = ("--out", str(tmp_path / "out"))
    wrong = write_run(source={"model": str(tiny_source), "layers": [17]})
    assert lrt_dist("index", str(wrong), *out)[0] == 2
    assert lrt_dist("index", str(write_run()), *out)[0] == 0


def test_another_runs_directory(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    for verb in ("index", "extract"):
        assert lrt_dist(verb, str(run_file), "--out", str(tmp_path / "out"))[0] == 0
    changed = ("index", str(run_file), "--out", str(tmp_path / "out"), "--set", "sites.seed=3")
    code, text = lrt_dist(*changed)
    assert code == 2
    assert "sites.seed: 0 -> 3" in text


def test_stages_in_the_wrong_order(write_run: WriteRun, tmp_path: Path) -> None:
    run_file, out = str(write_run()), str(tmp_path / "out")
    code, text = lrt_dist("fit", run_file, "--out", out)
    assert code == 2
    assert "run `lrt-dist index` first" in text
    assert lrt_dist("index", run_file, "--out", out)[0] == 0
    code, text = lrt_dist("fit", run_file, "--out", out)
    assert code == 3
    assert "are missing; run `lrt-dist extract`" in text
    code, text = lrt_dist("report", run_file, "--out", out)
    assert code == 2
    assert "run `lrt-dist fit` first" in text


def test_status_of_nothing(tmp_path: Path) -> None:
    code, text = lrt_dist("status", str(tmp_path))
    assert code == 2
    assert "holds no run" in text
