"""The ledger is the only truth about what is done, and it never lies twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_objects import Objects
from tiny_store import OTHER, SAME, record, unread

from lrt_dist.errors import CorruptionError, IncompleteError, UserError
from lrt_dist.store.committing import WAITING, Committer
from lrt_dist.store.ledger import Ledger, UnitRecord


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(f"{url}/m.ledger")


def test_what_is_committed_is_known_to_everyone(ledger: Ledger) -> None:
    assert ledger.committed() == {}
    ledger.commit(record(3), unread)
    ledger.commit(record(1), unread)
    assert Ledger(ledger.url).committed() == {1: record(1), 3: record(3)}
    assert Ledger(ledger.url).committed_units() == {1, 3}


def test_committing_the_same_twice_is_harmless(ledger: Ledger) -> None:
    ledger.commit(record(), unread)
    ledger.commit(record(seconds=9.0), unread)
    ledger.commit(record(seconds=9.0, versions={"torch": "3"}), unread)
    assert ledger.committed()[3].seconds == 1.5  # the first one stays


def test_the_same_machine_makes_the_same_bits(ledger: Ledger) -> None:
    """Same shapes, machine, threads and versions: equal bits, or something is broken."""
    ledger.commit(record(), unread)
    with pytest.raises(
        CorruptionError, match=r"twice.*layers/1 has crc32 .* both computed on a CPU, 2 threads"
    ) as e:
        ledger.commit(record(checksums=OTHER), unread)
    assert "unit-00000003.json is the first record; `lrt-dist verify --repair`" in str(e.value)
    assert ledger.committed() == {3: record()}


ELSEWHERE = [
    {"machines": ("another CPU, 2 threads",)},
    {"machines": ("a CPU, 1 thread",)},
    {"versions": {"torch": "3"}},
    {"token_budget": 32},
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_unlike_machines_are_held_to_rounding(ledger: Ledger, elsewhere: dict[str, Any]) -> None:
    """To rounding: 1e-2 of the mean norm, bfloat16's."""
    ledger.commit(record(), unread)
    near = record(checksums=OTHER, mean_norms={1: 201.0}, **elsewhere)
    ledger.commit(near, lambda: SAME)
    assert ledger.committed() == {3: record()}  # the store still holds what the first one wrote
    ledger.commit(near, lambda: OTHER)
    assert ledger.committed() == {3: near}
    far = record(checksums=SAME | {"layers/1": "2222"}, mean_norms={1: 190.0})
    with pytest.raises(CorruptionError, match=r"layer 1 has mean norm 201 on .* and 190 on "):
        ledger.commit(far, unread)


@pytest.mark.parametrize("elsewhere", [{}, *ELSEWHERE])
@pytest.mark.parametrize("changes", [{"rows": 5}, {"token_digest": "u"}])
def test_other_rows_or_tokens_are_never_the_same_unit(
    ledger: Ledger, changes: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    ledger.commit(record(), unread)
    rows, digest = changes.get("rows", 4), changes.get("token_digest", "t")
    expected = f"unit 3 was committed twice.*4 rows of tokens t, and {rows} rows of tokens {digest}"
    with pytest.raises(CorruptionError, match=expected):
        ledger.commit(record(**changes, **elsewhere), unread)


def test_another_identity_is_refused_with_the_differing_keys(ledger: Ledger) -> None:
    fingerprint = ledger.claim({"layers": [1, 2], "model": "a"})
    assert ledger.claim({"model": "a", "layers": [1, 2]}) == fingerprint
    with pytest.raises(UserError, match=r"layers: \[1, 2\] -> \[1, 3\]"):
        ledger.claim({"layers": [1, 3], "model": "a"})


def test_quarantine_ends_with_success(ledger: Ledger) -> None:
    ledger.quarantine(3, "not finite")
    assert ledger.quarantined() == {3: "not finite"}
    assert ledger.committed() == {}
    ledger.commit(record(3), unread)
    assert ledger.quarantined() == {}


def test_a_unit_that_is_committed_while_reasons_are_read_is_left_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.quarantine(3, "not finite")
    listed = ledger._names("quarantined")
    ledger.commit(record(3), dict)
    monkeypatch.setattr(ledger, "_names", lambda prefix: listed if prefix else [])
    assert ledger.quarantined() == {}


def test_what_is_committed_is_not_quarantined_whatever_a_kill_left(ledger: Ledger) -> None:
    ledger.commit(record(3), unread)
    ledger.quarantine(3, "before")
    assert ledger.quarantined() == {}


def test_reading_makes_no_folders(tmp_path: Path) -> None:
    nothing = Ledger(str(tmp_path / "none.ledger"))
    assert nothing.identity() == {}
    assert nothing.committed() == {}
    assert nothing.committed_units() == set()
    assert nothing.quarantined() == {}
    assert not (tmp_path / "none.ledger").exists()


def test_a_dropped_unit_is_not_done(ledger: Ledger) -> None:
    ledger.commit(record(), unread)
    ledger.drop(3)
    ledger.drop(3)
    assert ledger.committed() == {}


def test_a_torn_record_is_not_believed(ledger: Ledger, objects: Objects) -> None:
    ledger.commit(record(), unread)
    name = "m.ledger/unit-00000003.json"
    objects.write(name, objects.read(name)[:40])
    with pytest.raises(CorruptionError, match=r"unit-00000003\.json is not a ledger record"):
        ledger.committed()


@pytest.fixture
def compacting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records are put together from four on; the names of those that are read one by one."""
    monkeypatch.setattr("lrt_dist.store.ledger.COMPACT", 4)
    read: list[str] = []
    get = Ledger._get

    def counted(ledger: Ledger, name: str) -> UnitRecord:
        read.append(name)
        return get(ledger, name)

    monkeypatch.setattr(Ledger, "_get", counted)
    return read


def test_records_that_were_put_together_are_not_read_one_by_one(
    ledger: Ledger, compacting: list[str]
) -> None:
    expected = {unit: record(unit) for unit in range(9)}
    for unit in reversed(range(9)):
        ledger.commit(record(unit), unread)
    assert list(Ledger(ledger.url).committed().items()) == list(expected.items())
    assert compacting == ["unit-00000000.json"]
    assert ledger.committed_units() == set(expected)


def test_a_record_that_was_put_together_and_replaced_is_read_anew(
    ledger: Ledger, objects: Objects, compacting: list[str]
) -> None:
    for unit in range(4):
        ledger.commit(record(unit), unread)
    ledger.drop(1)
    assert ledger.committed().keys() == {0, 2, 3}
    other = record(1, checksums=OTHER)
    ledger.commit(other, unread)
    assert ledger.committed()[1] == other
    name = "m.ledger/unit-00000002.json"
    objects.write(name, objects.read(name)[:40])
    with pytest.raises(CorruptionError, match=r"unit-00000002\.json is not a ledger record"):
        ledger.committed()


def test_a_damaged_object_of_many_records_only_costs_time(
    ledger: Ledger, objects: Objects, compacting: list[str]
) -> None:
    for unit in range(4):
        ledger.commit(record(unit), unread)
    assert ledger.committed().keys() == set(range(4))
    assert compacting == []
    (name,) = Ledger(ledger.url)._names("compacted")
    objects.write(f"m.ledger/{name}", b"PAR1 and nothing more")
    assert Ledger(ledger.url).committed().keys() == set(range(4))
    assert len(compacting) == 4


def test_a_lease_that_is_lost_ends_commits_that_wait(ledger: Ledger) -> None:
    def check() -> None:
        raise IncompleteError("another driver has taken over")

    committer = Committer(ledger, check)
    with pytest.raises(IncompleteError, match="taken over"), committer:
        committer.commit(record(), unread, failed_before=False)
    assert not ledger.committed_units()


def test_what_is_committed_in_the_background_is_committed(ledger: Ledger) -> None:
    with Committer(ledger) as committer:
        for unit in range(200):
            committer.commit(record(unit), unread, failed_before=False)
        assert len(ledger.committed_units()) >= 200 - WAITING
    assert ledger.committed_units() == set(range(200))


def test_what_went_wrong_in_the_background_is_told(ledger: Ledger) -> None:
    ledger.commit(record(), unread)
    committer = Committer(ledger)
    with pytest.raises(CorruptionError, match="committed twice"), committer:
        committer.commit(record(checksums=OTHER), unread, failed_before=False)


def test_an_interruption_waits_for_the_commits_that_were_asked_for(ledger: Ledger) -> None:
    def interrupted(committer: Committer) -> None:
        for unit in range(20):
            committer.commit(record(unit), unread, failed_before=False)
        raise KeyboardInterrupt

    committer = Committer(ledger)
    with pytest.raises(KeyboardInterrupt), committer:
        interrupted(committer)
    assert ledger.committed_units() == set(range(20))
