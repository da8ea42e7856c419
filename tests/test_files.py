"""A file is the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrt_dist.files import atomic_write, sweep


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "units.arrow"
    with atomic_write(path) as partial:
        partial.write_text("whole")
        left = partial.with_name(partial.name.replace(".partial", "9.partial"))
        left.write_text("half")
    sweep(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["units.arrow"]
    sweep(tmp_path / "not there")
