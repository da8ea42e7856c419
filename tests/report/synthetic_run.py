"""A run directory as the stages would leave it, with effects that are known beforehand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)


def line(**given: Any) -> dict[str, Any]:
    """One line of scores.parquet."""
    return {"draw": 0, "strength": 0.0, "source_layer": -1, "metric": "propensity"} | given


def item_lines(
    concept: str,
    pair: tuple[int, int],
    *,
    split: str,
    gain: float,
    shares: Mapping[tuple[str, int], float],
    strengths: Sequence[float] = STRENGTHS,
    items: int = 24,
    noise: float = 0.3,
) -> list[dict[str, Any]]:
    """Propensity = item's own + share x gain x strength (+ noise), for each (arm, draw)."""
    rng = random.Random(f"{concept} {pair} {split}")
    own = {"concept": concept, "split": split, "target_layer": pair[1]}
    lines = []
    for item in range(items):
        base, slope = rng.gauss(0, 2), gain * (1 + noise * rng.gauss(0, 1))
        lines.append(line(**own, item=item, arm="none", value=base))
        for (arm, draw), share in shares.items():
            source = pair[0] if arm in {"transferred", "shuffled"} else -1
            for strength in strengths:
                effect = share * slope * strength + noise * rng.gauss(0, 1)
                cell = {"arm": arm, "draw": draw, "strength": strength, "source_layer": source}
                lines.append(line(**own, item=item, value=base + effect, **cell))
    return lines


def price_lines(concept: str, pair: tuple[int, int]) -> list[dict[str, Any]]:
    own = {"concept": concept, "split": "neutral", "target_layer": pair[1]}
    prices = {"none": 0.0, "native": 0.21, "transferred": 0.18, "random": 0.05}
    return [
        line(**own, metric="cross_entropy", item=item, arm=arm, value=3 + item / 10 + price)
        | {
            "strength": strength,
            "source_layer": pair[0] if arm == "transferred" else -1,
        }
        for item in range(8)
        for arm, price in prices.items()
        for strength in ((0.0,) if arm == "none" else (-0.05, 0.05))
    ]


def fit_line(source: int, target: int, r2: float, **given: Any) -> dict[str, Any]:
    return {
        "source_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "source_layer": source,
        "target_model": "google/gemma-3-270m",
        "target_layer": target,
        "method": "affine",
        "n": 12288,
        "documents": 61,
        "d_source": 576,
        "d_target": 640,
        "rows_left_out": 37,
        "folds": 5,
        "ridge_relative": 0.0316,
        "ridge": 2.1,
        "rank": 576,
        "condition": 3.4e5,
        "r2": r2,
        "r2_median": r2 - 0.09,
        "r2_q10": r2 - 0.21,
        "r2_q90": r2 + 0.06,
        "r2_shuffled": -0.02,
        "r2_identity": None,
        "cka": 0.8 * r2,
        "cka_unbiased": 0.75 * r2,
        "effective_rank": 120.0,
        "map_rank": 192,
        "learning": [[1000.0, 0.6 * r2], [2000.0, 0.8 * r2], [4000.0, r2]],
        "left_out_share_source": 0.4,
        "left_out_share_target": 0.2,
        "seconds": 1.7,
    } | given


def vector_line(concept: str, pair: tuple[int, int], **given: Any) -> dict[str, Any]:
    return {
        "concept": concept,
        "source_layer": pair[0],
        "target_layer": pair[1],
        "cosine": 0.7,
        "cosine_shuffled": 0.01,
        "chosen": False,
        "strength": 0.05,
        "pairs": 96,
        "overlap": False,
    } | given


def write_run(out: Path, **tables: Sequence[Mapping[str, Any]]) -> Path:
    for name, lines in tables.items():
        pq.write_table(
            pa.Table.from_pylist([dict(line) for line in lines]), out / f"{name}.parquet"
        )
    return out


def realistic_run(out: Path, *, hostile: str = "formality") -> Path:
    """Four concepts over 3 x 18 layer pairs: two that transfer, one that fails, one undefined."""
    config = {
        "name": "smollm2-to-gemma3",
        "source": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "layers": [10, 15, 20]},
        "target": {"model": "google/gemma-3-270m", "layers": "all", "dtype": "float32"},
        "corpus": {"paths": ["/usr/lib/python3/documentation/a-rather-long-folder-name/*.txt"]},
        "sites": {"mode": "tokens", "per_segment": 32, "min_context": 8, "seed": 0},
        "fit": {"method": "affine", "folds": 5},
    }
    (out / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    pairs = [(source, target) for source in (10, 15, 20) for target in range(18)]
    fits = [fit_line(s, t, 0.75 - 0.02 * t - 0.01 * abs(s - 10 - t / 2)) for s, t in pairs]
    concepts = {
        "sentiment": (80.0, 0.86, (15, 9)),
        "certainty": (35.0, 0.55, (20, 8)),
        hostile: (30.0, 0.04, (15, 11)),
        "past against present": (0.2, 0.9, (10, 5)),
    }
    scores, vectors, samples = [], [], []
    for concept, (gain, share, chosen) in concepts.items():
        for pair in pairs:
            fade = max(-0.2, 1 - 0.12 * abs(pair[1] - chosen[1]) - 0.02 * abs(pair[0] - chosen[0]))
            scores += item_lines(
                concept,
                pair,
                split="dev",
                gain=gain,
                shares={("native", 0): 1.0, ("transferred", 0): share * fade},
                strengths=(-0.05, 0.05),
                items=8,
            )
            vectors.append(
                vector_line(concept, pair, cosine=0.78 * fade * share, chosen=pair == chosen)
            )
        rng = random.Random(concept)
        shares = {("native", 0): 1.0, ("transferred", 0): share, ("shuffled", 0): 0.03}
        shares |= {("random", draw): rng.gauss(0, 0.06) for draw in range(8)}
        scores += item_lines(concept, chosen, split="test", gain=gain, shares=shares)
        scores += price_lines(concept, chosen)
        samples += [
            {"concept": concept, "prompt": prompt, "arm": arm, "strength": strength, "text": text}
            for prompt in ("The film was", "When I opened the letter, I")
            for arm, strength, text in _said()
        ]
    return write_run(out, fits=fits, scores=scores, vectors=vectors, samples=samples)


def _said() -> list[tuple[str, float, str]]:
    return [
        ("none", 0.0, " released in 1996 and was directed by the same man as the first one."),
        ("native", -0.05, " a disaster from its first minute, and I left before the end of it."),
        ("transferred", -0.05, " terrible, and the worst of it was that nobody seemed to care."),
        ("native", 0.05, " a joy: warm, funny, beautifully made, and I will see it again."),
        ("transferred", 0.05, " wonderful, with a great cast and\na story that I loved."),
    ]
