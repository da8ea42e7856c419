"""What `lrt-dist plan` says of the recipes for large models, on ten described nodes.

`python -m benchmarks.recipes FOLDER` makes folders with the configurations of Llama-3 8B, 70B and
405B, which have SmolLM2's tokenizer and no weights, and corpora of Python's documentation, again
and again; and runs the command for each recipe, with these in place of the recipe's own.

Of the grid of 100 pairs and 100 million rows: `target_passes`, bytes that the fit reads over those
of both stores; `target_written`, bytes of moments that it writes ÷ 5 TB.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers

from benchmarks.harness import Result, result
from benchmarks.random_llama import smollm2_tokenizer
from lrt_dist import api
from lrt_dist.clusterfile import load_cluster
from lrt_dist.demo.text import python_documentation
from lrt_dist.runfile import load_run
from lrt_dist.runtime.progress import Progress
from lrt_dist.workspace.folder import RunFolder

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster" / "ten-nodes.yaml"
TARGETS = {"target_passes": 1.2, "target_written": 1.0}
WRITTEN = 5e12
SHAPES = {
    "8B": (4096, 14_336, 32, 32),
    "70B": (8192, 28_672, 80, 64),
    "405B": (16_384, 53_248, 126, 128),
}
"""Widths of the residual stream and of the MLP, blocks, and heads (arXiv 2407.21783, table 3; the
8B and 70B of Llama 3 have the same)."""


@dataclass(frozen=True)
class Recipe:
    """A file of `jobs/`, and what stands for its models and its corpus.

    Attributes:
        file: its name.
        source, target: of `SHAPES`.
        characters: of its corpus.
    """

    file: str
    source: str
    target: str
    characters: int

    def settings(self, folder: Path) -> list[str]:
        """In place of its own."""
        return [
            f"source.model={folder / self.source}",
            f"target.model={folder / self.target}",
            f"corpus.paths=[{folder / self.corpus}]",
            "corpus.max_documents=null",
            "extract.store=zarr",
        ]

    @property
    def corpus(self) -> str:
        """Name of the file that stands for it."""
        return f"{self.characters // 10**6}-million-characters.jsonl"


GRID = Recipe("llama-3-8b-to-70b-grid.yaml", "8B", "70B", 400_000_000)
RECIPES = (
    Recipe("llama-3-8b-to-70b.yaml", "8B", "70B", 62_000_000),
    GRID,
    Recipe("llama-3-70b-to-405b.yaml", "70B", "405B", 137_000_000),
)


def make(folder: Path, recipes: Sequence[Recipe]) -> None:
    """Models without weights, and corpora."""
    tokenizer = smollm2_tokenizer()
    for name in {size for recipe in recipes for size in (recipe.source, recipe.target)}:
        width, intermediate, layers, heads = SHAPES[name]
        transformers.LlamaConfig(
            vocab_size=128_256,
            hidden_size=width,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            dtype="bfloat16",
        ).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    texts = list(python_documentation(10**9).values())
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    for recipe in recipes:
        times = -(-recipe.characters // sum(map(len, texts)))
        with (folder / recipe.corpus).open("w", encoding="utf-8") as file:
            for _ in range(times):
                file.writelines(lines)


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Of the grid, as planned."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, [GRID])
        config = load_run(ROOT / "jobs" / GRID.file, GRID.settings(folder))
        run = api.Run(RunFolder(folder / "out", config), Progress(), load_cluster(CLUSTER))
        planned = api.plan(run)
    way = planned.way
    ratios = {"target_passes": way.passes, "target_written": way.written_bytes / WRITTEN}
    facts = {
        "rows": planned.rows,
        "stored_bytes": sum(way.stored_bytes),
        "read_bytes": way.read_bytes,
        "written_bytes": way.written_bytes,
        "kept_bytes": way.moments_bytes,
        "hours_with_extraction": way.hours,
        "hours_of_solving": planned.solving.hours,
        "setting": f"{GRID.file} on {CLUSTER.name}",
    }
    return [
        result(name, [facts | {"ratio": ratios[name]}], TARGETS[name], higher_is_better=False)
        for name in wanted
    ]


def main(folder: Path) -> None:
    """Make all of it, and print what the command says of each recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, RECIPES)
    for recipe in RECIPES:
        command = ["lrt-dist", "plan", f"jobs/{recipe.file}", "--cluster", "cluster/ten-nodes.yaml"]
        for setting in recipe.settings(folder):
            command += ["--set", setting]
        command += ["--out", str(folder / "out")]
        print(f"$ {shlex.join(command)}", flush=True)
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
