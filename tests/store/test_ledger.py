"""The ledger is the only truth about what is done, and it never lies twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.store.ledger import Ledger, UnitRecord


def record(unit: int = 3, **changes: object) -> UnitRecord:
    values: dict[str, object] = {
        "unit": unit,
        "rows": 4,
        "crc": {"layers/1": "00ff00ff"},
        "tokens": "t",
        "fingerprint": "f",
        "nonfinite": 0,
        "seconds": 1.5,
        "versions": {"torch": "2"},
        "token_budget": 64,
    }
    return UnitRecord.model_validate(values | changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "m.ledger"))


def test_what_is_committed_is_known_to_everyone(ledger: Ledger) -> None:
    assert ledger.committed() == {}
    ledger.commit(record(3))
    ledger.commit(record(1))
    assert Ledger(ledger.url).committed() == {1: record(1), 3: record(3)}


def test_committing_the_same_twice_is_harmless(ledger: Ledger) -> None:
    ledger.commit(record())
    ledger.commit(record(seconds=9.0, versions={"torch": "3"}))
    assert ledger.committed()[3].seconds == 1.5  # the first one stays


@pytest.mark.parametrize(
    "changes", [{"rows": 5}, {"crc": {"layers/1": "11111111"}}, {"tokens": "u"}]
)
def test_committing_something_else_names_both(ledger: Ledger, changes: dict[str, object]) -> None:
    ledger.commit(record())
    with pytest.raises(CorruptionError, match=r"unit 3 was committed twice") as caught:
        ledger.commit(record(**changes))
    for both in (record().content(), record(**changes).content()):
        assert str(both) in str(caught.value)


def test_another_identity_is_refused_with_the_differing_keys(ledger: Ledger) -> None:
    stamp = ledger.claim({"layers": [1, 2], "model": "a"})
    assert ledger.claim({"model": "a", "layers": [1, 2]}) == stamp
    with pytest.raises(UserError, match=r"layers: \[1, 2\] -> \[1, 3\]"):
        ledger.claim({"layers": [1, 3], "model": "a"})


def test_quarantine_ends_with_success(ledger: Ledger) -> None:
    ledger.quarantine(3, "not finite")
    assert ledger.quarantined() == {3: "not finite"}
    assert ledger.committed() == {}
    ledger.commit(record(3))
    assert ledger.quarantined() == {}


def test_what_is_committed_is_not_quarantined_whatever_a_kill_left(ledger: Ledger) -> None:
    ledger.commit(record(3))
    ledger.quarantine(3, "before")
    assert ledger.quarantined() == {}


def test_reading_makes_no_folders(tmp_path: Path) -> None:
    nothing = Ledger(str(tmp_path / "none.ledger"))
    assert nothing.identity() == {}
    assert nothing.committed() == {}
    assert nothing.quarantined() == {}
    assert not (tmp_path / "none.ledger").exists()


def test_a_dropped_unit_is_not_done(ledger: Ledger) -> None:
    ledger.commit(record())
    ledger.drop(3)
    ledger.drop(3)
    assert ledger.committed() == {}


def test_a_torn_record_is_not_believed(ledger: Ledger) -> None:
    ledger.commit(record())
    path = Path(ledger.url) / "unit-00000003.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(CorruptionError, match=r"unit-00000003\.json is not a ledger record"):
        ledger.committed()
