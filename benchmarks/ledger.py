"""What a ledger of 25,000 units of ten layers costs the driver, on a local disk.

`ledger_commit`: milliseconds of a commit ÷ 2. `ledger_resume`: seconds in which a run that is taken
up again knows what is done, and reads every record once, ÷ 30.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory

from benchmarks.harness import Result, result
from lrt_dist.store.ledger import Ledger, UnitRecord

UNITS, LAYERS = 25_000, 10
COMMIT_MS, RESUME_S = 2.0, 30.0


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """A new ledger each round."""
    units = UNITS // 50 if quick else UNITS
    rounds: list[Mapping[str, float]] = []
    for _ in range(1 if quick else 3):
        with TemporaryDirectory() as folder:
            ledger = Ledger(f"{folder}/model.ledger")
            began = time.perf_counter()
            for unit in range(units):
                ledger.commit(_record(unit), dict)
            committed = time.perf_counter()
            assert len(ledger.committed_units()) == units
            assert len(ledger.committed()) == units
            known = time.perf_counter()
        rounds.append(
            {
                "ledger_commit": 1e3 * (committed - began) / units / COMMIT_MS,
                "ledger_resume": (known - committed) / RESUME_S,
            }
        )
    setting = f"{units:,} units of {LAYERS} layers"
    return [
        result(
            name,
            [{"ratio": one[name], "setting": setting} for one in rounds],
            1.0,
            higher_is_better=False,
        )
        for name in wanted
    ]


def _record(unit: int) -> UnitRecord:
    arrays = [f"{kind}/{layer}" for layer in range(LAYERS) for kind in ("layers", "norms")]
    return UnitRecord(
        unit=unit,
        rows=4096,
        checksums=dict.fromkeys(arrays, "0123abcd"),
        mean_norms=dict.fromkeys(range(LAYERS), 100.0),
        machines=("a GPU",),
        token_digest="0123456789abcdef",
        fingerprint="0123456789abcdef",
        seconds=1.0,
        versions={"torch": "2", "transformers": "5"},
        token_budget=16384,
    )
