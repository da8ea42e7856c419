"""What a batch costs in a Ray actor, beside the same batch in a bare loop, in turns.

`extraction_step`: a hook on the bare backbone in this process, nothing run behind the layer, beside
a step of a chain that captures, rounds, takes norms and gathers the rows, from when it is sent to
when its end is known. So there is nothing in it of how texts are cut into batches, and both run
beside the same idle processes of Ray.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import transformers

from benchmarks.extraction import BATCH_TOKENS, LAYER, Text, hooked, run_config
from benchmarks.harness import Result, result, versions
from lrt_dist.commands.index import index
from lrt_dist.models.sources import open_source
from lrt_dist.plan.units import cut_batches
from lrt_dist.runtime.chain import Chain
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.extract import ExtractTask
from lrt_dist.workspace.placement import chain
from lrt_dist.workspace.run import open_run

TARGET = 0.97


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """The loop's seconds by ours."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = run_config(folder, characters=20_000 if quick else 120_000)
        loop = hooked(
            transformers.AutoModelForCausalLM.from_pretrained(open_source(config.source)),
            early=True,
        )
        with open_run(folder / "out", config) as run:
            rows = index(run)
            store = ActivationStore.create(
                str(folder / "store.zarr"),
                layers={LAYER: run.facts[Side.SOURCE].width},
                rows=rows.rows,
                rows_per_unit=rows.rows_per_unit,
                logical_dtype=config.extract.store_dtype,
                compress=config.extract.compress,
                fingerprint="benchmark",
            )
            spec = chain(run, Side.SOURCE, head=False, batch_tokens=BATCH_TOKENS, extracts=True)
            actors = Chain(spec)
            ray.get(actors.placed)
            ray.get(actors.build())
            rounds: list[tuple[float, float]] = []
            for _ in range(1 if quick else 3):
                ours = theirs = 0.0
                for unit in range(rows.units):
                    segments = list(rows.unit(unit))
                    lengths = rows.lengths(unit, Side.SOURCE)
                    task = ExtractTask(
                        unit,
                        Side.SOURCE,
                        run.folder.rows,
                        store.url,
                        (LAYER,),
                        lengths,
                        BATCH_TOKENS,
                        "benchmark",
                    )
                    last = actors.open(task)
                    ray.get(last)
                    for number, chosen in enumerate(cut_batches(lengths, BATCH_TOKENS)):
                        texts = [
                            Text(segments[i].ids.source, segments[i].positions.source)
                            for i in chosen
                        ]
                        for turn in (number % 2, 1 - number % 2):
                            began = time.perf_counter()
                            if turn:
                                [(_, last[0])], _end = actors.step(task, number, last, None)
                                ray.get(last)
                                ours += time.perf_counter() - began
                            else:
                                loop(texts)
                                theirs += time.perf_counter() - began
                    ray.get(actors.finish(task, last)[0])
                rounds.append((ours, theirs))
            actors.stop()
        ray.shutdown()
    setting = f"SmolLM2-135M to layer {LAYER}; " + versions("torch", "transformers", "ray")
    return [
        result(
            name,
            [
                {
                    "ours_seconds": ours,
                    "other_seconds": theirs,
                    "ratio": theirs / ours,
                    "setting": setting,
                }
                for ours, theirs in rounds
            ],
            TARGET,
            higher_is_better=True,
        )
        for name in wanted
    ]
