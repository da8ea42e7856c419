"""The log of a run on a disk; in an object store: `tests/commands/test_object_store_out.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrt_dist.errors import IncompleteError
from lrt_dist.runtime.log import open_log, read_log
from lrt_dist.runtime.progress import Progress


def test_attempts_add_to_one_log_and_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "out/log.jsonl"
    log = open_log(path)
    log.write("first", unit=1)
    log.close()
    with path.open("a") as stream:
        stream.write('{"event": "tor')  # killed while it wrote
    log = open_log(path)
    log.write("second")
    log.write("third")
    log.close()
    assert [event["event"] for event in read_log(path)] == ["first", "second", "third"]
    assert len(path.read_text().splitlines()) == 4


def test_a_full_disk_ends_no_run_because_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the work itself is the one that is seen."""
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    progress = Progress(path)

    def work() -> None:
        with progress, progress.phase("extract", 3, "units"):
            raise IncompleteError("what really happened")

    with pytest.raises(IncompleteError, match="what really happened"):
        work()
    assert f"the log {path} could not be written: [Errno 28] No space left" in (
        capsys.readouterr().err
    )
