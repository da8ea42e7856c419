"""The fault matrix: real stages of a real model on Ray, each fault at units that are named.

Each run has two stages and one replica. Attempts are counted exactly, and the store ends with the
bytes of a run to which nothing happened. (Same shapes, machine and threads: equal bits.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_stage import Fault, attempts, faulty, struck
from tiny_run import store_digests, write_tiny_run

from lrt_dist import api
from lrt_dist.commands.extract import extract_side
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import FailurePolicy, Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger
from lrt_dist.workspace import placement

pytestmark = pytest.mark.slow

IN_FLIGHT = 10
"""Units of one batch that may be in a chain of two stages besides the one that is struck: five on
their way, one open ahead, four being written."""
Record = Callable[[str, object], None]


@dataclass
class Extraction:
    """What came of one."""

    notes: Path
    out: Path
    units: int
    committed: set[int]
    quarantined: dict[int, str]
    told: list[str]

    def attempts(self) -> dict[int, int]:
        return {unit: attempts(self.notes, unit) for unit in range(self.units)}

    def digest(self) -> dict[str, str]:
        return store_digests(self.out)


Extract = Callable[..., Extraction]


@pytest.fixture
def extract(
    ray_runtime: Runtime,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Extract:
    """Extracts the source model's states in a folder, with a fault or without."""
    run_file = write_tiny_run(
        tmp_path, tiny_source, tiny_target, cluster={"stages": 2, "replicas": 1}
    )

    def run_it(
        name: str,
        fault: Fault = Fault(),  # noqa: B008 (frozen)
        policy: FailurePolicy = FailurePolicy(),  # noqa: B008 (frozen)
        *settings: str,
    ) -> Extraction:
        notes = tmp_path / f"notes-{name}"
        notes.mkdir(exist_ok=True)
        told: list[str] = []
        config = load_run(run_file, ["concepts=[]", *settings])
        with monkeypatch.context() as patched, api.open_run(tmp_path / name, config) as run:
            patched.setattr(placement, "BuildModelStage", faulty(notes, fault))
            run.__dict__["runtime"] = RayRuntime(policy=policy, note=told.append)
            units = api.index(run).units
            extract_side(run, Side.SOURCE)
            ledger = Ledger(run.folder.ledger_url(Side.SOURCE))
            return Extraction(
                notes,
                tmp_path / name,
                units,
                set(ledger.committed()),
                ledger.quarantined(),
                told,
            )

    return run_it


def in_words(counts: dict[int, int], struck: tuple[int, ...]) -> str:
    """Attempts of the units that were struck, and of the others."""
    others = {unit: count for unit, count in counts.items() if unit not in struck}
    again = sum(count > 1 for count in others.values())
    text = ", ".join(str(count) for count in sorted({counts[unit] for unit in struck}))
    rest = f"{again} of {len(others)} others twice" if again else "1 for the others"
    return f"{text} for each unit that was struck; {rest}" if struck else rest


@pytest.mark.fault(
    "a stage's process is killed", "the replica is built anew; what it held is tried again"
)
def test_a_stage_is_killed(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("kill", (7,)))
    counts = run.attempts()
    assert len(run.committed) == run.units
    assert counts[7] == 2
    assert max(counts.values()) == 2
    assert 1 <= sum(count > 1 for count in counts.values()) <= 1 + IN_FLIGHT
    assert any("a replica died" in note for note in run.told)
    assert run.digest() == extract("whole").digest()
    record_property("attempts", in_words(counts, (7,)))


@pytest.mark.fault("a transient exception", "the unit is tried again")
def test_a_transient_exception(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("raise", (7,)))
    assert run.attempts() == {unit: 2 if unit == 7 else 1 for unit in range(run.units)}
    assert run.digest() == extract("whole").digest()
    record_property("attempts", in_words(run.attempts(), (7,)))


@pytest.mark.fault(
    "a permanent exception in one unit, or in three adjacent ones",
    "they are quarantined, exit 3; once it is mended the same command fills them in",
)
@pytest.mark.parametrize("units", [(7,), (7, 8, 9)])
def test_a_permanent_exception(
    extract: Extract, record_property: Record, units: tuple[int, ...]
) -> None:
    run = extract("run", Fault("raise", units, times=99))
    counts = run.attempts()
    assert set(run.quarantined) == set(units)
    assert run.committed == set(range(run.units)) - set(units)
    # Two failures in a row, and the process is taken to be sick: what it holds is opened anew.
    anew = sum("is built anew" in note for note in run.told)
    assert anew <= 2 * len(units)
    assert all(3 <= struck(run.notes, unit) <= counts[unit] <= 3 + anew for unit in units)
    others = {unit: count for unit, count in counts.items() if unit not in units}
    assert max(others.values()) <= 1 + anew
    again = sum(count > 1 for count in others.values())
    record_property("attempts", f"3 failures of each; {again} of {len(others)} others opened anew")
    # It still fails: quarantined units stop nothing, and are tried three times more.
    once_more = extract("run", Fault("raise", units, times=99))
    assert set(once_more.quarantined) == set(units)
    mended = extract("run")
    assert not mended.quarantined
    assert mended.digest() == extract("whole").digest()


@pytest.mark.fault(
    "states that are not finite", "the unit is quarantined at once, exit 3; mended as above"
)
def test_states_that_are_not_finite(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("not finite", (7,), times=99))
    assert run.attempts() == dict.fromkeys(range(run.units), 1)
    assert set(run.quarantined) == {7}
    assert "not finite" in run.quarantined[7]
    record_property("attempts", in_words(run.attempts(), (7,)))
    assert extract("run").digest() == extract("whole").digest()


@pytest.mark.fault(
    "a device out of memory",
    "smaller batches from then on, for all units; equal to a run with such batches",
)
def test_out_of_memory_is_learned(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("memory"))
    counts = run.attempts()
    assert len(run.committed) == run.units
    assert max(counts.values()) == 2
    struck = [unit for unit, count in counts.items() if count == 2]
    assert 1 <= len(struck) <= 1 + IN_FLIGHT
    assert struck == list(range(len(struck))), "only the first were met by it"
    halved = extract("whole", Fault(), FailurePolicy(), "extract.batch_tokens=128")
    assert run.digest() == halved.digest()
    record_property("attempts", f"2 for the first {len(struck)}, 1 for the others")


@pytest.mark.fault(
    "a stage hangs",
    "after `FailurePolicy.stall` (30 minutes; here seconds) the replica counts as dead",
)
def test_a_stage_that_hangs(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("hang", (7,)), FailurePolicy(stall=15.0))
    counts = run.attempts()
    assert len(run.committed) == run.units
    assert counts[7] == 2
    assert max(counts.values()) == 2
    assert run.digest() == extract("whole").digest()
    record_property("attempts", in_words(counts, (7,)))


@pytest.mark.fault(
    "a process lives and fails whatever it is given, as after a sticky device error",
    "after two failures in a row the replica is built anew",
)
def test_a_sticky_device_error(extract: Extract, record_property: Record) -> None:
    run = extract("run", Fault("sicken", (7,)))
    counts = run.attempts()
    assert len(run.committed) == run.units
    assert not run.quarantined
    assert max(counts.values()) <= 3
    assert sum(count > 1 for count in counts.values()) <= 2 + IN_FLIGHT
    assert any("is built anew" in note for note in run.told)
    assert run.digest() == extract("whole").digest()
    record_property("attempts", f"at most {max(counts.values())}; " + in_words(counts, ()))
