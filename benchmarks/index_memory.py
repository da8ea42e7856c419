"""Whether the driver's memory grows with the corpus that it indexes.

`index_memory`: peak memory of the process `lrt-dist index` for a corpus of 100 million tokens, over
that for 1 million; its workers, on Ray, are not in it. Documents are sentences of Python's
documentation in random order, of about 3,000 characters; one in ten is a near duplicate of another.
`bytes_a_document` is the growth from the least corpus to the largest. Each size is a process of its
own, since a peak is never taken back. `python -m benchmarks.index_memory RUN.yaml OUT` is that
process.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import yaml

from benchmarks.harness import Result, peak_bytes, result, versions
from benchmarks.random_llama import save_llama
from lrt_dist.cli import main
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.demo.text import python_documentation
from lrt_dist.sites import Side

TARGET = 1.2
TOKENS, QUICK_TOKENS = (1_000_000, 10_000_000, 100_000_000), (10_000, 40_000)
CHARACTERS_OF_TOKEN = 4
"""About."""
CHARACTERS_OF_DOCUMENT = 3000
NEAR_DUPLICATES = 0.1


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Peak memory of the largest corpus over that of the least, and of what is between."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_llama(folder / "model", width=32, intermediate=64, layers=2, heads=2)
        counted = [_apart(folder, tokens) for tokens in (QUICK_TOKENS if quick else TOKENS)]
    least, most = counted[0], counted[-1]
    grown = most["peak_bytes"] - least["peak_bytes"]
    run = {
        "corpora": counted,
        "bytes_a_document": grown / (most["documents"] - least["documents"]),
        "ratio": most["peak_bytes"] / least["peak_bytes"],
        "setting": f"SmolLM2's tokenizer for both models; {versions('ray', 'pyarrow')}",
    }
    return [result(name, [run], TARGET, higher_is_better=False) for name in names]


def _apart(folder: Path, tokens: int) -> dict[str, int]:
    """Index a corpus of about so many tokens in a process of its own."""
    corpus, run_file, out = (folder / f"{tokens}{end}" for end in (".jsonl", ".yaml", ""))
    with corpus.open("w") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in _texts(tokens))
    model = {"model": str(folder / "model"), "layers": "all"}
    values = {
        "source": model,
        "target": model,
        "corpus": {"paths": [str(corpus)], "max_tokens": 256},
        "sites": {"per_segment": 96},
        "fit": {"folds": 2},
        "cluster": {"address": "local"},
    }
    run_file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "benchmarks.index_memory", str(run_file), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    index = RowIndex.open(out / "rows")
    return {
        "tokens": index.tokens(Side.SOURCE),
        "documents": index.documents,
        "segments": index.segments,
        "rows": index.rows,
        "peak_bytes": int(done.stdout.splitlines()[-1]),
    }


def _texts(tokens: int) -> Iterator[str]:
    random.seed(0)
    documentation = "\n".join(python_documentation(sys.maxsize).values())
    sentences = [text.strip() for text in re.split(r"(?<=\.)\s", documentation)]
    count = CHARACTERS_OF_DOCUMENT * len(sentences) // len(documentation)
    chosen: list[str] = []
    left = tokens * CHARACTERS_OF_TOKEN
    while left > 0:
        if chosen and random.random() < NEAR_DUPLICATES:
            chosen[random.randrange(len(chosen))] = random.choice(sentences)
        else:
            chosen = random.choices(sentences, k=random.randint(count // 2, count * 3 // 2))
        text = " ".join(chosen)
        left -= len(text)
        yield text


if __name__ == "__main__":
    run_file, out = sys.argv[1:]
    with mock.patch.object(sys, "argv", ["lrt-dist", "index", run_file, "--out", out]):
        try:
            main()
        except SystemExit as leaving:
            if leaving.code:
                raise
    print(peak_bytes())
