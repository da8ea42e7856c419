"""The command `submit`: send a run, with the files that belong to it, to a Ray cluster."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lrt_dist.errors import UserError
from lrt_dist.files import is_local, place
from lrt_dist.formatting import format_bytes
from lrt_dist.runfile import PathValue, path_values, read_values, resolve_run
from lrt_dist.runtime.jobs import Job, submit_job

MOST_BYTES = 100 << 20
"""That a job takes along: Ray keeps them in the memory of the head node."""
GLOBS = ("corpus.paths", "corpus.mixture.paths")
GO_ALONG = (*GLOBS, "concepts.data", "concepts.items", "concepts.prompts")
RUN_FILE = "RUN.yaml"


def submit(
    run_file: Path, address: str, out: str, overrides: Sequence[str], environment: Mapping[str, str]
) -> Job:
    """Send `lrt-dist run` to a cluster.

    Paths in the run that are relative to its file name files of this machine, which go along.
    Absolute ones are those of the cluster's head node, and of models those of every node.

    Args:
        address: of the cluster's job server.
        out: on a file system that all nodes share, or in an object store.
        environment: variables for the run.

    Raises:
        UserError: the run is not valid, names files that cannot go along, or nobody takes it.
    """
    if is_local(place(out)) and not Path(out).is_absolute():
        raise UserError(
            f"--out {out} is relative, but Ray runs the job in a folder of its own: give an "
            "absolute path that all nodes share, or a URL as in s3://bucket/prefix"
        )
    values = read_values(run_file, overrides)
    resolve_run(values, base=run_file.parent, origin=str(run_file))
    with tempfile.TemporaryDirectory(prefix="lrt-dist-job-") as name:
        folder = Path(name)
        _pack(values, run_file.parent.resolve(), folder)
        (folder / RUN_FILE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        command = ["lrt-dist", "run", RUN_FILE, "--out", out]
        return submit_job(address, command, folder, environment)


def _pack(values: dict[str, Any], base: Path, folder: Path) -> None:
    """Copy what relative paths name, and let `values` name the copies."""
    found: dict[PathValue, list[Path]] = {}
    for value in path_values(values):
        text = os.path.expanduser(value.text)
        named = Path(os.path.normpath(base / text))
        if value.name in GLOBS:
            pattern = os.path.join(glob.escape(str(base)), text)
            found_there = glob.glob(pattern, recursive=True)
            matches = [Path(os.path.normpath(match)) for match in found_there]
        else:
            matches = [named] if named.exists() else []
        if os.path.isabs(text) or not (matches or value.certain):
            continue
        if value.name not in GO_ALONG:
            raise UserError(
                f"{value.name}: {value.text} cannot go along with a job: give the absolute path "
                "that it has on every node of the cluster"
            )
        if not any(match.is_file() for match in matches):
            raise UserError(f"{value.name}: no file matches {named}")
        found[value] = [match for match in matches if match.is_file()]
    files = {match for matches in found.values() for match in matches}
    size = sum(file.stat().st_size for file in files)
    if size > MOST_BYTES:
        largest = max(files, key=lambda file: file.stat().st_size)
        raise UserError(
            f"the files of the run hold {format_bytes(size)} ({largest} most of all), and a job "
            f"takes along at most {format_bytes(MOST_BYTES)}: put them where the head node reads "
            "them, and give their absolute paths there"
        )
    root = Path(os.path.commonpath([base, *(file.parent for file in files)]))
    for file in files:
        copy = folder / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for value in found:
        value.set(os.path.relpath(base / os.path.expanduser(value.text), root))
