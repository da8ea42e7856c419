"""The command `init`: a RUN.yaml to start from, and a concept to edit."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lrt_dist.config import CorpusConfig, ModelConfig
from lrt_dist.corpus.readers import TEXT_SUFFIXES, corpus_files
from lrt_dist.errors import UserError
from lrt_dist.models.sources import load_config
from lrt_dist.runfile import load_run

RUN_FILE = "RUN.yaml"
CONCEPT = "sentiment"

_TEMPLATE = """\
# What it would take: lrt-dist plan {run_file}
# Do it:              lrt-dist run {run_file} --out {out}
# Every key is in docs/configuration.md. Relative paths start at the folder of this file.

name: {name}

# Hub names, local folders or .gguf files of any causal language model of transformers.
source: {{model: {source}, layers: {source_layers}}}   # of {source_count}; or `all`
target: {{model: {target}, layers: {target_layers}}}   # of {target_count}; or `all`

# Text on which both models are run: .txt, .md, .rst, .jsonl or .parquet, globs too.
corpus:
  paths: {paths}
{separator}
# Small units for small texts: a fit sets units against others far away in the corpus.
extract: {{rows_per_unit: 1024}}

# What the vectors stand for. One item a line: {{"prompt": …, "positive": …, "negative": …}}
concepts:
  - {{name: {concept}, data: concepts/{concept}.jsonl}}   # an example: edit it, or add your own
"""
_SEPARATOR = r"""  separator: "\n\n"   # a blank line ends a document; a fit needs several documents
"""


def init(folder: Path, *, source: str, target: str, texts: Sequence[str]) -> Path:
    """Write `RUN.yaml` and `concepts/sentiment.jsonl` into a folder; returns the first one's path.

    Args:
        folder: is made if need be; what lies in it is kept.
        source: hub name, local folder or .gguf file.
        target: the same of the other model.
        texts: files or globs of the corpus.

    Raises:
        UserError: there is a RUN.yaml already, or a model or text that cannot be read.
    """
    path = folder / RUN_FILE
    if path.exists():
        raise UserError(f"{path} exists; edit it, or choose another folder")
    models = {"source": _anchored(source), "target": _anchored(target)}
    counts = {side: _count_layers(model) for side, model in models.items()}
    found = [str(Path(text).expanduser().absolute()) for text in texts]
    corpus = corpus_files(CorpusConfig(paths=tuple(found)))
    plain = any(file.suffix in TEXT_SUFFIXES for file in corpus)
    content = _TEMPLATE.format(
        run_file=shlex.quote(str(path)),
        out=shlex.quote(str(folder / "out")),
        name=json.dumps(f"{Path(models['source']).name} to {Path(models['target']).name}"),
        source=json.dumps(models["source"]),
        target=json.dumps(models["target"]),
        source_layers=_middle_layers(counts["source"]),
        target_layers=_middle_layers(counts["target"]),
        source_count=counts["source"],
        target_count=counts["target"],
        paths=json.dumps([_from_folder(text, folder) for text in texts]),
        separator=_SEPARATOR if plain else "",
        concept=CONCEPT,
    )
    concept = folder / "concepts" / f"{CONCEPT}.jsonl"
    concept.parent.mkdir(parents=True, exist_ok=True)
    if not concept.exists():
        example = files("lrt_dist") / "demo" / "concepts" / f"{CONCEPT}.pairs.jsonl"
        concept.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    path.write_text(content, encoding="utf-8")
    load_run(path)  # what is written must be a valid run
    return path


def _from_folder(text: str, folder: Path) -> str:
    """A relative path as seen from a folder, so that it goes along with a job; others stay."""
    path = os.path.expanduser(text)
    return path if os.path.isabs(path) else os.path.relpath(path, folder)


def _anchored(model: str) -> str:
    """A local path as an absolute one; hub names stay as they are."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model


def _count_layers(model: str) -> int:
    return int(load_config(ModelConfig(model=model)).get_text_config().num_hidden_layers)


def _middle_layers(count: int) -> list[int]:
    """A third, a half and two thirds of the way through: where concepts tend to be found."""
    return sorted({count // 3, count // 2, 2 * count // 3})
