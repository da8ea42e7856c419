"""A small, complete run over two tiny models."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from tiny_models import documentation


def write_tiny_run(folder: Path, source: Path, target: Path, /, **sections: Any) -> Path:
    """Write corpus, concept and RUN.yaml; keyword arguments replace whole sections."""
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        lines = [json.dumps({"text": text}) for text in documentation()]
        corpus.write_text("\n".join(lines) + "\n")
    concept = folder / "mood.jsonl"
    if not concept.exists():
        items = [
            {
                "prompt": f"Number {n} of the visitors said that the whole evening was",
                "positive": [" good", " fine"],
                "negative": [" bad", " poor"],
            }
            for n in range(12)
        ]
        concept.write_text("\n".join(map(json.dumps, items)) + "\n")
    values: dict[str, Any] = {
        "name": "tiny",
        "source": {"model": str(source), "layers": [1, 2]},
        "target": {"model": str(target), "layers": [0, 1]},
        "corpus": {"paths": [str(corpus)], "max_tokens": 48},
        "sites": {"per_segment": 16, "min_context": 2},
        "extract": {"rows_per_unit": 64, "batch_tokens": 256},
        "fit": {"folds": 3},
        "concepts": [{"name": "mood", "data": str(concept)}],
        "evaluate": {
            "strengths": [-0.5, 0.5],
            "control_draws": 40,
            "exact_draws": 2,
            "neutral_segments": 2,
            "generate": {"tokens": 2},
        },
        "cluster": {"address": "serial"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | sections))
    return path


def command_line(*arguments: str) -> int:
    """The exit code of `lrt-dist ARGUMENTS`, run in this process, which has imported torch already.

    An error that a terminal would show as a traceback is raised. A cluster that the command started
    would end with its process.
    """
    from lrt_dist.cli import main  # looks at stdout when imported: not before it is captured

    with (
        _without_a_cluster_of_its_own(),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["lrt-dist", *arguments]),
        # else the usage would say `python -m pytest.lrt-dist`
        mock.patch.object(sys.modules["__main__"], "__package__", None),
    ):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
            assert isinstance(code, int), code
            return code
    return 0


@contextmanager
def _without_a_cluster_of_its_own() -> Iterator[None]:
    """A Ray cluster that was started meanwhile ends."""
    there = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    try:
        yield
    finally:
        if not there and "ray" in sys.modules:
            sys.modules["ray"].shutdown()


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`lrt-dist ARGUMENTS` in a new process, with all that it prints in one pipe."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "lrt_dist.cli", *arguments],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def store_digests(out: Path) -> dict[str, str]:
    """Hash of every file of a run's activation stores."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (out / "activations").glob("*.zarr/**/*")
        if p.is_file()
    }


def fork(*arguments: str) -> BaseProcess:
    """Like `start`, in a tenth of the time: a fork of a process that has imported all it needs."""
    return forked(command_line, *arguments)


def kill_when(process: BaseProcess, seen: Callable[[], bool], patience: float = 100.0) -> None:
    """Kill a process that is at work, as soon as something is seen.

    Args:
        patience: seconds in which it must be.
    """
    wait_for(process, seen, patience)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def wait_for(process: BaseProcess, seen: Callable[[], bool], patience: float = 100.0) -> None:
    """Wait until a process that is at work has made something that is seen.

    Args:
        patience: seconds in which it must be.
    """
    deadline = time.monotonic() + patience
    while not seen():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def forked(function: Callable[..., int | None], *arguments: str) -> BaseProcess:
    """A process that calls a function, and ends with what it returns.

    It is forked from one that has imported all that `lrt-dist` needs, and has done nothing else; so
    it is what a new process is after its imports.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        [
            "lrt_dist.api",
            "transformers.models.llama.modeling_llama",
            "transformers.models.gemma3.modeling_gemma3",
        ]
    )
    process = forks.Process(target=_with_environment, args=(dict(os.environ), function, *arguments))
    process.start()
    return process


def _with_environment(
    environment: dict[str, str], function: Callable[..., int | None], *arguments: str
) -> None:
    """A fork's own environment is that of its server."""
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(function(*arguments))


def on_small_disk(folder: Path, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's script where a folder is a file system of its own, in a mount namespace of its
    own.

    Args:
        folder: an empty one.
        size: as `mount` understands it, e.g. `400k`.
    """
    unshared = ["unshare", "-rm"]
    trial = [*unshared, "mount", "-t", "tmpfs", "none", str(folder)]
    if not shutil.which("unshare") or subprocess.run(trial, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    mounted = f"mount -t tmpfs -o size={size} none {folder}\n{script}"
    return subprocess.run(
        [*unshared, "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
