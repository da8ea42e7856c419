"""A run may continue on another kind of machine: allowed, recorded, shown, compared to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lrt_dist import api
from lrt_dist.errors import CorruptionError
from lrt_dist.runfile import load_run
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger, UnitRecord

WriteRun = Callable[..., Path]

OURS = UnitRecord(
    unit=3,
    rows=64,
    checksums={"layers/1": "aaaaaaaa", "norms/1": "bbbbbbbb"},
    mean_norms={1: 10.0},
    machines=("AMD EPYC, AVX2, 2 threads",),
    token_digest="0123456789abcdef",
    fingerprint="f",
    seconds=1.0,
    versions={"torch": "2.13.0"},
    token_budget=8192,
)
THEIR_CHECKSUMS = {"layers/1": "cccccccc", "norms/1": "dddddddd"}
THEIRS = OURS.model_copy(
    update={
        "checksums": THEIR_CHECKSUMS,
        "mean_norms": {1: 10.01},
        "machines": ("AMD EPYC, AVX512, 2 threads",),
    }
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(str(tmp_path / "m.ledger"))
    ledger.commit(OURS, dict)
    return ledger


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"machines": OURS.machines},
            "layers/1 has crc32 aaaaaaaa and cccccccc, both computed on AMD",
        ),
        (
            {"mean_norms": {1: 12.0}},
            "mean norm 10 on AMD EPYC, AVX2, .* and 12 on AMD EPYC, AVX512",
        ),
        ({"token_digest": "fedcba9876543210"}, "64 rows of tokens 0123456789abcdef, and 64"),
        ({"rows": 63}, "64 rows of tokens .*, and 63 rows"),
    ],
)
def test_a_unit_committed_twice_must_agree(
    ledger: Ledger, changes: dict[str, object], message: str
) -> None:
    """Bits on one kind of machine, rounding (1 % of mean norms) across two."""
    with pytest.raises(CorruptionError, match=f"unit 3 was committed twice.*{message}"):
        ledger.commit(THEIRS.model_copy(update=changes), dict)
    assert ledger.committed()[3] == OURS


def test_the_record_of_what_the_store_holds_stays(ledger: Ledger) -> None:
    ledger.commit(THEIRS, lambda: OURS.checksums)
    assert ledger.committed()[3] == OURS
    ledger.commit(THEIRS, lambda: THEIR_CHECKSUMS)
    assert ledger.committed()[3] == THEIRS


def test_other_threads_or_versions_are_another_machine() -> None:
    changed = {"checksums": THEIR_CHECKSUMS}
    assert OURS.conflict(OURS.model_copy(update=changed)) is not None
    for other in ({"machines": ("AMD EPYC, AVX2, 1 thread",)}, {"versions": {"torch": "3.0"}}):
        assert OURS.conflict(OURS.model_copy(update=changed | other)) is None


def test_a_resume_on_another_machine_is_recorded_and_shown(
    write_run: WriteRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lrt_dist: Callable[..., tuple[int, str]],
) -> None:
    config = load_run(write_run(), ["concepts=[]"])
    with api.open_run(tmp_path / "out", config) as run:
        units = api.index(run).units
        api.extract(run)
    ledger = Ledger(run.folder.ledger_url(Side.SOURCE))
    (kind,) = {record.machines for record in ledger.committed().values()}
    assert all("thread" in machine for machine in kind)
    ledger.drop(1)
    monkeypatch.setattr("lrt_dist.models.blocks.machine_kind", lambda device: "another GPU")
    with api.open_run(tmp_path / "out", config) as run:
        api.extract(run)
        assert len(api.fit(run)) == 4
    assert ledger.committed()[1].machines == ("another GPU",)
    assert "from unit 1 on computed by another GPU" in run.folder.log.read_text()
    code, text = lrt_dist("status", str(tmp_path / "out"))
    assert code == 0, text
    assert f"{units - 1} units computed on {kind[0]}" in text
    assert "1 units computed on another GPU" in text
    code, text = lrt_dist("verify", str(tmp_path / "out"))
    assert code == 0, text
