"""Scores by content: what was added is found, by whoever asks for the same thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrt_dist.errors import CorruptionError
from lrt_dist.store.cells import CellStore, address, addresses_of

ROWS = [b"native", b"random\0", b""]
COLUMNS = [b"item 1", b"item 2\0\0"]
VALUES = np.array([[1.5, -2.0], [0.0, 7.25], [3.0, 4.0]])


def test_what_was_added_is_found_in_any_order_and_after_a_restart(tmp_path: Path) -> None:
    addresses = addresses_of(ROWS, COLUMNS)
    store = CellStore(tmp_path)
    assert np.isnan(store.find(addresses)).all()
    store.add(addresses[2:], VALUES[2:])
    store.add(addresses[:1], VALUES[:1])
    for known in (store, CellStore(tmp_path)):
        found = known.find(addresses)
        assert np.array_equal(found[[0, 2]], VALUES[[0, 2]])
        assert np.isnan(found[1]).all()
        assert np.array_equal(known.find(addresses[::-1, ::-1])[0], VALUES[2, ::-1])


def test_the_same_cells_are_the_same_file(tmp_path: Path) -> None:
    addresses = addresses_of(ROWS, COLUMNS)
    for folder in ("one", "other"):
        CellStore(tmp_path / folder).add(addresses, VALUES)
    (one,), (other,) = (sorted((tmp_path / f).iterdir()) for f in ("one", "other"))
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_no_items_are_no_cells(tmp_path: Path) -> None:
    assert CellStore(tmp_path).find(addresses_of(ROWS, [])).shape == (3, 0)


def test_parts_of_an_address_do_not_run_together() -> None:
    assert len({address(b"ab", b"c"), address(b"a", b"bc"), address(b"abc"), address()}) == 4


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(CorruptionError, match=r"torn\.parquet cannot be read.*evaluate"):
        CellStore(tmp_path)
