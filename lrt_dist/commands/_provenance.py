"""Where results come from: versions, machines, models, seeds, hashes, command."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lrt_dist.config import ConceptConfig
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger
from lrt_dist.version import __version__
from lrt_dist.workspace.placement import compute_dtype
from lrt_dist.workspace.run import Run

_LIBRARIES = ("torch", "transformers", "tokenizers", "ray", "zarr", "numpy", "pyarrow")


def provenance(run: Run, index: RowIndex, fits: str, evaluation: str | None) -> dict[str, str]:
    """Of a run whose maps are made, by name.

    Args:
        index: the rows of the run.
        fits: fingerprint of its maps.
        evaluation: fingerprint of its evaluation; None without concepts.
    """
    config = run.config
    rows = {
        "Written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Command": _command(),
        "lrt_dist": __version__,
        "Libraries here": ", ".join(_versions()),
        "Python": platform.python_version(),
        "Platform": platform.platform(),
    }
    for side in Side:
        rows |= _model(run, side)
    rows["Seeds"] = f"sites {config.sites.seed}, evaluation {config.evaluate.seed}" + "".join(
        f", split of {concept.name} {concept.split.seed}" for concept in config.concepts
    )
    rows["Row index"] = f"fingerprint {index.fingerprint}, segments and sites {index.digest}"
    rows["Maps"] = f"fingerprint {fits}"
    if evaluation is not None:
        rows["Evaluation"] = f"fingerprint {evaluation}"
    for concept in config.concepts:
        rows[f"Data of {concept.name}"] = _hashes(concept)
    return rows


def _command() -> str:
    """As it was typed; the full path of a script says nothing on another machine."""
    name, *arguments = sys.argv
    if Path(name).name not in ("lrt-dist", "cli.py"):
        return "from Python"
    return shlex.join(["lrt-dist", *arguments])


def _versions() -> list[str]:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return found


def _model(run: Run, side: Side) -> dict[str, str]:
    """What a model is, and on what it ran in extraction."""
    model, facts = run.folder.model(side), run.facts[side]
    revision = f", revision {model.revision}" if model.revision else ""
    records = Ledger(run.folder.ledger_url(side)).committed().values()
    machines = sorted({machine for record in records for machine in record.machines})
    libraries = sorted(
        {f"{name} {number}" for record in records for name, number in record.versions.items()}
    )
    return {
        f"{side.capitalize()} weights": f"digest {facts.digest}{revision}",
        f"{side.capitalize()} states": f"computed in {compute_dtype(run, side)}, kept in "
        f"{run.config.extract.store_dtype}, on {'; '.join(machines)} ({', '.join(libraries)})",
    }


def _hashes(concept: ConceptConfig) -> str:
    """Names and hashes of a concept's files, and names of its datasets."""
    found: dict[str, str] = {}
    for data in (concept.data, *([concept.items] if concept.items else [])):
        if data.dataset:
            found[data.dataset] = f"dataset {data.dataset}"
        for path in map(Path, data.files):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = f"{path.name} sha256 {digest}"
    return ", ".join(found.values())
