"""Whether memory grows with a corpus: peak of a process that extracts 1,000 units, over 10 units.

Driver and stage are one process, the model is tiny, and a unit has 1,024 rows of 256 dimensions at
four layers. Each size is a process of its own, since a peak is never taken back.
`python -m benchmarks.host_memory UNITS` is that process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers

from benchmarks.harness import Result, result, versions
from lrt_dist.commands.extract import extract_side
from lrt_dist.commands.index import index
from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.demo.run import smollm2
from lrt_dist.models.sources import open_source
from lrt_dist.sites import Side
from lrt_dist.workspace.run import open_run

TARGET = 1.1
ROWS, WIDTH, LAYERS = 1024, 256, 4
SENTENCE = "the river runs past the old mill and on towards the sea where nobody waits for it . "


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Peak memory of many units over few, and of what is between."""
    units = (2, 8) if quick else (10, 100, 1000)
    peaks = [_apart(count) for count in units]
    run = {
        "units": units,
        "peak_bytes": peaks,
        "ratio": peaks[-1] / peaks[0],
        "setting": versions("torch", "zarr"),
    }
    return [result(name, [run], TARGET, higher_is_better=False) for name in names]


def _apart(units: int) -> float:
    command = [sys.executable, "-m", "benchmarks.host_memory", str(units)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _extract(folder: Path, units: int) -> None:
    source = open_source(ModelConfig(model=str(smollm2())))
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokens = len(tokenizer(SENTENCE * 8)["input_ids"])
    documents = units * ROWS // (tokens - 16) + 2
    lines = [json.dumps({"text": f"{n} {SENTENCE * 8}"}) for n in range(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    model = {"model": str(folder / "model"), "layers": "all"}
    run_config = RunConfig.model_validate(
        {
            "source": model,
            "target": model,
            "corpus": {"paths": [str(folder / "corpus.jsonl")], "near_duplicates": None},
            "sites": {"per_segment": 512},
            "extract": {"rows_per_unit": ROWS, "batch_tokens": 2048},
            "fit": {"folds": 2},
            "cluster": {"address": "serial"},
        }
    )
    with open_run(folder / "out", run_config) as run:
        made = index(run)
        assert abs(made.units - units) <= 0.2 * units + 1, f"{made.units} units"
        extract_side(run, Side.SOURCE)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        _extract(Path(temporary), int(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
